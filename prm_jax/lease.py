"""Who holds a workdir on an object store, where there are no file locks.

The holder keeps `lease.json` (its name and when the lease ends) and renews it from a
thread. What this guarantees, on stores whose reads see the last write (S3, GCS):

- A job that runs is not disturbed: whoever comes later sees its lease change and is
  refused.
- A job that was killed blocks the workdir for `SECONDS` at most: whoever comes watches
  the lease for so long, by its own clock, and takes it if nothing changes.
- Two that come at the same moment both write, wait `SETTLE` seconds and read back: the
  later writer has it, the other one is refused.

It is no lock: a write that is under way for longer than `SETTLE`, or a holder that
stands still for longer than `SECONDS` and wakes up, makes two holders for a while. The
one that was overtaken notices at its next renewal and ends at once, with exit code 75.
Objects that matter (states, exports) are written once and count only with their last
object, so such a moment costs work, not soundness.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from etils import epath

from prm_jax import jsonl
from prm_jax.errors import Preempted, UserError

FILE = 'lease.json'
SECONDS = 60.0
SETTLE = 2.0


@contextlib.contextmanager
def hold(
  folder: epath.Path, seconds: float = SECONDS, settle: float = SETTLE
) -> Iterator[None]:
  """Holds the lease of `folder` while the block runs.

  Args:
    folder: on an object store.
    seconds: how long a lease lasts that nobody renews.
    settle: how long to wait for somebody who came at the same moment.

  Raises:
    UserError: another job holds it.
  """
  file, owner = folder / FILE, uuid.uuid4().hex
  before = _read(file)
  if before is not None and time.time() < before.get('expires', 0) + seconds:
    who = f'{before.get("host")}, process {before.get("pid")}'
    print(
      f'prm_jax: {folder}: held by {who}; waiting up to {seconds:.0f} s to see whether '
      'that job still runs.', file=sys.stderr, flush=True,
    )  # fmt: skip
    _watch(file, before, seconds)
  _write(file, owner, seconds)
  time.sleep(settle)
  if not _mine(file, owner):
    raise _busy(folder)
  done = threading.Event()
  renewal = threading.Thread(
    target=_renew, args=(file, owner, seconds, done), daemon=True
  )
  renewal.start()
  try:
    yield
  finally:
    done.set()
    renewal.join()
    if _mine(file, owner):
      file.unlink(missing_ok=True)


def _watch(file: epath.Path, before: dict[str, Any], seconds: float) -> None:
  """Returns when the lease was given up, or stood unchanged for `seconds`."""
  until = time.monotonic() + seconds
  while time.monotonic() < until:
    time.sleep(min(1.0, seconds / 10))
    now = _read(file)
    if now is None:
      return
    if now != before:
      raise _busy(file.parent)


def _renew(file: epath.Path, owner: str, seconds: float, done: threading.Event) -> None:
  while not done.wait(seconds / 3):
    try:
      held = _read(file)
      if held is not None and held.get('owner') != owner:
        text = (
          f'prm_jax: {file.parent}: another job took this workdir while this one stood '
          'still; this one ends.\n'
        )
        os.write(2, text.encode())
        os._exit(Preempted.exit_code)
      _write(file, owner, seconds)
    except (OSError, UserError):
      continue  # the store may answer the next time; the lease lasts a while


def _busy(folder: epath.Path) -> UserError:
  return UserError(
    f'{folder}: another job is running in this workdir; wait for it or give another '
    '--workdir.'
  )


def _mine(file: epath.Path, owner: str) -> bool:
  held = _read(file)
  return held is not None and held.get('owner') == owner


def _read(file: epath.Path) -> dict[str, Any] | None:
  try:
    return jsonl.parse_object(file.read_bytes(), str(file))
  except FileNotFoundError:
    return None


def _write(file: epath.Path, owner: str, seconds: float) -> None:
  about = {
    'owner': owner,
    'expires': time.time() + seconds,
    'host': socket.gethostname(),
    'pid': os.getpid(),
  }
  jsonl.write_bytes(file, json.dumps(about).encode())
