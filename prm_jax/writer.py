"""Metrics as JSON lines and TensorBoard events, and the progress of a job."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from prm_jax import jsonl
from prm_jax.errors import UserError

QUIET_SECONDS = 30.0


class MetricWriter:
  """Appends one JSON object a logged step to `metrics.jsonl`.

  Wall-clock figures go under keys that start with `time/`; without those, the file
  of a resumed run equals that of an uninterrupted one. A value that is not finite
  is written as null.
  """

  def __init__(self, workdir: epath.Path, tensorboard: bool = False):
    self._path = workdir / 'metrics.jsonl'
    self._file: Any = None
    self._board: Any = None
    self._remote = jsonl.is_remote(self._path)
    self._rows: list[dict[str, Any]] = []
    self._sent = time.monotonic()
    if tensorboard:
      from tensorboardX import SummaryWriter

      self._board = SummaryWriter(str(workdir / 'tensorboard'))

  def cut(self, step: int) -> list[dict[str, Any]]:
    """Keeps the lines up to and including `step`; returns them.

    A last line that a kill left incomplete goes too.
    """
    kept = []
    for line in self._path.read_bytes().splitlines() if self._path.exists() else []:
      try:
        row = json.loads(line)
      except ValueError:
        break
      if not isinstance(row, dict) or 'step' not in row:
        break
      if row['step'] <= step:
        kept.append(row)
    jsonl.write_json_lines(self._path, kept)
    self._rows = list(kept)
    return kept

  def write(self, step: int, values: Mapping[str, float]) -> dict[str, Any]:
    """Appends {'step': step, **values}; returns the row.

    Raises:
      UserError: the file cannot be written (disk full).
    """
    row: dict[str, Any] = {'step': step}
    for name, value in values.items():
      number = float(value)
      row[name] = number if math.isfinite(number) else None
      if self._board is not None and math.isfinite(number):
        self._board.add_scalar(name, number, step)
    line = (jsonl.dump_line(row) + '\n').encode()
    if self._remote:
      self._rows.append(row)
      if time.monotonic() - self._sent >= QUIET_SECONDS:
        self.flush()
      return row
    try:
      if self._file is None:
        self._file = open(self._path, 'ab', buffering=0)  # noqa: SIM115
      if self._file.write(line) != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as e:
      raise UserError(
        f'{self._path}: cannot be written ({e.strerror or e}); free some space and run '
        'the same command again.'
      ) from e
    return row

  def flush(self) -> None:
    """Makes what was written last: on an object store nothing can be appended, so the
    whole file is written again, every 30 s and whenever this is called."""
    if self._remote:
      jsonl.write_json_lines(self._path, self._rows)
      self._sent = time.monotonic()

  def close(self) -> None:
    """Closes both outputs."""
    self.flush()
    for output in (self._file, self._board):
      if output is not None:
        output.close()
    self._file = self._board = None


class Progress:
  """A bar with ETA in a terminal or notebook, else a log line every 30 s.

  A context manager, so that what is said after an error stands below the bar.
  """

  def __init__(self, total: int, what: str, done: int = 0):
    self._total, self._what, self._done, self._first = total, what, done, done
    self._start = self._last = time.monotonic()
    self._bar: Any = None
    if not _muted and (sys.stderr.isatty() or 'ipykernel' in sys.modules):
      from tqdm.auto import tqdm

      self._bar = tqdm(total=total, initial=done, desc=what, leave=True)

  def to(self, done: int, note: str = '') -> None:
    """Moves to `done` of `total`; `note` is shown beside."""
    if self._bar is not None:
      self._bar.update(done - self._done)
      self._bar.set_postfix_str(note)
      self._done = done
      return
    self._done = done
    now = time.monotonic()
    if now - self._last >= QUIET_SECONDS or done >= self._total > self._first:
      self._last = now
      rate = (done - self._first) / max(now - self._start, 1e-9)
      eta = f', {(self._total - done) / rate:.0f} s left' if rate > 0 else ''
      say(f'{self._what} {done}/{self._total}{eta}' + (f'  {note}' if note else ''))

  def __enter__(self) -> Progress:
    return self

  def __exit__(self, *error: object) -> None:
    if self._bar is not None:
      self._bar.close()


_muted = False


@contextlib.contextmanager
def muted() -> Iterator[None]:
  """Nothing is said meanwhile: of several processes one speaks."""
  global _muted
  before, _muted = _muted, True
  try:
    yield
  finally:
    _muted = before


def say(text: str) -> None:
  """One line on standard error, where logs go."""
  if not _muted:
    print(f'prm_jax: {text}', file=sys.stderr, flush=True)
