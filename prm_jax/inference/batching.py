"""Concurrent requests through one scorer: a bounded queue and one thread that works.

A row's score depends on the row alone (`Scorer` promises it, bit by bit), so rows of
any requests may share a batch, and what comes back is what `Scorer.score` gives. What
is left to choose is the order: batches have a fixed size, filler included, so a round
takes the rows that fill batches, and the others wait for company, four times at most.
"""

from __future__ import annotations

import collections
import dataclasses
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future

import numpy as np

from prm_jax.formats.step_format import Encoded
from prm_jax.inference.scorer import Scorer, Shape

ROUND = 256  # rows of a round at most: for no more of them a newcomer waits
PATIENCE = 4  # rounds that a row without company is left out of
LINGER = 0.002  # seconds without an arrival that end the wait for company


class Full(Exception):
  """The queue has no room for these rows now."""


class Closed(Exception):
  """No rows are taken any more."""


@dataclasses.dataclass
class Counts:
  """What a batcher has done so far.

  Attributes:
    requests, rows: answered.
    rounds: of which each is one call of the scorer.
    cancelled: requests that nobody waited for any more.
    failed: requests during which the scorer broke down.
    refused: requests for which the queue had no room.
  """

  requests: int = 0
  rows: int = 0
  rounds: int = 0
  cancelled: int = 0
  failed: int = 0
  refused: int = 0


@dataclasses.dataclass
class _Request:
  """Values of the rows as they come in, and how many are missing."""

  future: Future[list[np.ndarray]]
  values: list[np.ndarray]
  missing: int


@dataclasses.dataclass
class _Row:
  """Row number `place` of a request; `passed` counts the rounds that left it out."""

  encoded: Encoded
  shape: Shape
  request: _Request
  place: int
  passed: int = 0


class Batcher:
  """Scores rows of many callers; `submit` may be called from any thread.

  Args:
    scorer: from now on used by this batcher's thread, and by others for `encode` only.
    capacity: rows that may wait or be under way at once.

  Attributes:
    counts: see `Counts`.
  """

  def __init__(self, scorer: Scorer, capacity: int = 1024):
    self.capacity = capacity
    self.counts = Counts()
    self._scorer = scorer
    self._waiting: list[_Row] = []
    self._running = 0
    self._closed = False
    self._change = threading.Condition()
    self._thread = threading.Thread(target=self._work, name='batcher', daemon=True)
    self._thread.start()

  @property
  def load(self) -> int:
    """Rows that wait or are under way."""
    return len(self._waiting) + self._running

  def submit(self, rows: Sequence[Encoded]) -> Future[list[np.ndarray]]:
    """Asks for the step values of some rows.

    Args:
      rows: from `Scorer.encode`, at least one.

    Returns:
      A future of their step values, float32 [n_steps] each, in order. Cancelling it
      takes those rows out of the queue that are not under way yet.

    Raises:
      Full: with these rows more than `capacity` would be there.
      Closed: `close` was called.
    """
    future: Future[list[np.ndarray]] = Future()
    request = _Request(future, [np.zeros(0, np.float32)] * len(rows), len(rows))
    asked = [
      _Row(row, self._scorer.shape_of(row), request, place)
      for place, row in enumerate(rows)
    ]
    with self._change:
      if self._closed:
        raise Closed
      if self.load + len(asked) > self.capacity:
        self.counts.refused += 1
        raise Full
      self._waiting += asked
      self._change.notify()
    return future

  def close(self, timeout: float | None = None) -> bool:
    """Takes no more rows and waits for those that are there.

    Returns:
      Whether all of them were done within `timeout` seconds; the others are
      cancelled.
    """
    with self._change:
      self._closed = True
      self._change.notify()
    self._thread.join(timeout)
    if not self._thread.is_alive():
      return True
    with self._change:
      for row in self._waiting:
        row.request.future.cancel()
    return False

  def _work(self) -> None:
    last = 0
    while True:
      with self._change:
        self._wait(last)
        if self._closed and not self._waiting:
          return
        part = self._take()
      if part:
        self._score(part)
      last, self._running = len(part), 0

  def _wait(self, last: int) -> None:
    """Returns when there is something to do.

    Who was answered a moment ago mostly asks again at once: while fewer rows wait
    than the last round had, and more keep coming, they are waited for.
    """
    while not self._waiting and not self._closed:
      self._change.wait()
    before = 0
    while before < len(self._waiting) < last and not self._closed:
      before = len(self._waiting)
      self._change.wait(LINGER)

  def _take(self) -> list[_Row]:
    """The rows of the next round; those that nobody waits for any more are dropped."""
    done = {id(row.request) for row in self._waiting if row.request.future.done()}
    cancelled = [r for r in self._waiting if r.request.future.cancelled()]
    self.counts.cancelled += len({id(row.request) for row in cancelled})
    self._waiting = [row for row in self._waiting if id(row.request) not in done]
    part = _round(self._waiting[:ROUND])
    taken = {id(row) for row in part}
    self._waiting = [row for row in self._waiting if id(row) not in taken]
    for row in self._waiting:
      row.passed += 1
    self._running = len(part)
    return part

  def _score(self, part: list[_Row]) -> None:
    self.counts.rounds += 1
    try:
      for i, values in self._scorer.stream([row.encoded for row in part]):
        self._put(part[i], values)
    # Whatever it is, those who asked are told, and the thread lives on for the others.
    except Exception as e:
      for request in {id(row.request): row.request for row in part}.values():
        future = request.future
        if not future.done() and future.set_running_or_notify_cancel():
          self.counts.failed += 1
          future.set_exception(e)

  def _put(self, row: _Row, values: np.ndarray) -> None:
    request = row.request
    request.values[row.place] = values
    request.missing -= 1
    self._running -= 1
    if request.missing:
      return
    if request.future.set_running_or_notify_cancel():
      self.counts.requests += 1
      self.counts.rows += len(request.values)
      request.future.set_result(request.values)
    else:
      self.counts.cancelled += 1


def _round(rows: Iterable[_Row]) -> list[_Row]:
  """Rows that fill batches and rows that have waited long; else all of them."""
  groups: dict[Shape, list[_Row]] = collections.defaultdict(list)
  for row in rows:
    groups[row.shape].append(row)
  chosen = []
  for shape, held in groups.items():
    n_full = len(held) // shape.B * shape.B
    late = [row for row in held[n_full:] if row.passed >= PATIENCE]
    chosen += held[:n_full] + late
  return chosen or [row for held in groups.values() for row in held]
