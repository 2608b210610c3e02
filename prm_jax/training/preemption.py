"""A wish to stop (SIGTERM, Ctrl-C) noticed between two steps, not inside one."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class StopSignal:
  """Context manager: while it is open, SIGTERM and SIGINT only set `requested`.

  The loop looks at `requested` after each step, saves and raises `Preempted`. A
  second signal of the same kind gets the handler that was there before, so an
  impatient Ctrl-C still ends the program. Outside the main thread, where Python
  installs no handlers, nothing is caught.
  """

  SIGNALS = (signal.SIGTERM, signal.SIGINT)

  def __init__(self) -> None:
    self.requested = False
    self.name = ''
    self._before: dict[int, object] = {}

  def __enter__(self) -> StopSignal:
    if threading.current_thread() is threading.main_thread():
      for number in self.SIGNALS:
        self._before[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *exc: object) -> None:
    for number in list(self._before):
      self._restore(number)

  def _handle(self, number: int, frame: FrameType | None) -> None:
    self.requested = True
    self.name = signal.Signals(number).name
    self._restore(number)

  def _restore(self, number: int) -> None:
    if number in self._before:
      signal.signal(number, self._before.pop(number))  # type: ignore[arg-type]
