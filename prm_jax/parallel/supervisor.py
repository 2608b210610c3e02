"""The parent of one process among several: it outlives what XLA aborts.

When a peer dies or falls silent, XLA ends the processes that are left from C++, with
an abort and no Python exception. So the command starts the job as a child of its own,
waits for it, and turns the way it ended into one sentence and an exit code. Signals go
to the child. The child ends when its parent is gone, so that nothing is left behind.
"""

from __future__ import annotations

import collections
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO, NoReturn

from prm_jax.errors import PeerLost
from prm_jax.parallel.processes import Processes

ORPHAN_FD = 'PRM_JAX_PARENT'
"""Environment variable of a child: the pipe that closes when its parent ends."""
TAIL_LINES = 200
# What jax, gloo and NCCL say when another process is missing, died or fell silent.
# "Terminating process" alone is not one: it also precedes errors of this process.
LOST = re.compile(
  r'another task died|stopped sending heartbeats|unhealthy'
  r'|Gloo .*(failed|Connection|Timed out)|Connection (closed|reset) by peer'
  r'|(UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|INTERNAL):.*'
  r'(coordination|Coordination|[Bb]arrier|heartbeat|RegisterTask|GetKeyValue)'
  r'|Barrier timed out|ncclRemoteError|ncclSystemError|NCCL .*(abort|timed? ?out)'
)
_SILENT = re.compile(r'heartbeats\):\s*((?:\d+\s+)+)')


def is_child() -> bool:
  """Whether this process was started by `run`."""
  return ORPHAN_FD in os.environ


def run(words: Sequence[str], among: Processes) -> int:
  """Runs `python -m prm_jax.main WORDS` as a child until it ends.

  Args:
    words: the command line without the program.
    among: which process this is.

  Returns:
    The child's exit code; that of `PeerLost` if it ended because of another process;
    1 if a signal ended it.
  """
  read, write = os.pipe()
  child = subprocess.Popen(
    [sys.executable, '-m', 'prm_jax.main', *words],
    stderr=subprocess.PIPE,
    env={**os.environ, ORPHAN_FD: str(read)},
    pass_fds=(read,),
    start_new_session=True,  # Ctrl-C reaches it once, through this process
  )
  os.close(read)

  def forward(number: int, frame: object) -> None:
    if child.poll() is None:
      child.send_signal(number)

  before = {n: signal.signal(n, forward) for n in (signal.SIGTERM, signal.SIGINT)}
  tail: collections.deque[bytes] = collections.deque(maxlen=TAIL_LINES)
  try:
    assert child.stderr is not None
    _copy(child.stderr, tail)
    code = child.wait()
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
    os.close(write)
  text = b''.join(tail).decode(errors='replace')
  code, sentence = verdict(code, text, among)
  if sentence:
    print(f'prm_jax: {sentence}', file=sys.stderr, flush=True)
  return code


def verdict(code: int, tail: str, among: Processes) -> tuple[int, str]:
  """(exit code, sentence or '') for the way a child ended.

  Args:
    code: its return code, negative for a signal.
    tail: the last lines of its standard error.
    among: which process this is.
  """
  if code in (1, -signal.SIGABRT) and LOST.search(tail):
    at_start = 'RegisterTask' in tail
    sentence = among.missing() if at_start else among.lost(_silent(tail))
    return PeerLost.exit_code, sentence
  if code < 0:
    what = signal.Signals(-code).name
    why = ' (memory that ran out is the usual cause)' if what == 'SIGKILL' else ''
    return 1, (
      f'{among.name}: ended by {what}{why}; run the same command on all processes to '
      'go on from the last saved state.'
    )
  return code, ''


def _silent(tail: str) -> list[int]:
  """Numbers of the processes that jax names."""
  found = _SILENT.search(tail)
  return [int(n) for n in found[1].split()] if found else []


def _copy(source: IO[bytes], tail: collections.deque[bytes]) -> None:
  """Hands the child's standard error on, as it comes, and remembers its end."""
  for line in source:
    tail.append(line)
    sys.stderr.write(line.decode(errors='replace'))
    sys.stderr.flush()


def leave(code: int) -> NoReturn:
  """Ends this process. A child ends at once: by now it took its leave of the others,
  or they would only wait in vain for one that ends with an error."""
  if not is_child():
    sys.exit(code)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def end_with_parent() -> None:
  """Watches the parent from a thread of a child; when it is gone, so is the child."""
  if not is_child():
    return
  pipe = int(os.environ[ORPHAN_FD])

  def watch() -> None:
    os.read(pipe, 1)  # returns when the other end is closed, nothing is ever written
    os._exit(PeerLost.exit_code)

  threading.Thread(target=watch, daemon=True).start()
