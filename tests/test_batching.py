"""Concurrent requests through one scorer: the same numbers, bounds, cancelling."""

import threading

import numpy as np
import pytest
from serving_cases import Gated, make_scorer, solutions

from prm_jax.inference import batching
from prm_jax.inference.batching import Batcher, Closed, Full
from prm_jax.inference.scorer import Scorer, Shape


@pytest.fixture(scope='module')
def scorer():
  return make_scorer()


def rows_of(scorer, n):
  return scorer.encode(solutions(n))


def test_many_threads_get_what_the_scorer_gives(scorer):
  rows = rows_of(scorer, 96)
  wanted = [v.tolist() for v in scorer.values(rows)]
  batcher = Batcher(scorer)
  found = [None] * 24

  def client(i):
    out = batcher.submit(rows[4 * i : 4 * i + 2]).result(60)
    found[i] = out + batcher.submit(rows[4 * i + 2 : 4 * i + 4]).result(60)

  threads = [threading.Thread(target=client, args=(i,)) for i in range(24)]
  for t in threads:
    t.start()
  for t in threads:
    t.join()
  assert [v.tolist() for held in found for v in held] == wanted
  counts = batcher.counts
  assert (counts.requests, counts.rows, batcher.load) == (48, 96, 0)
  assert counts.rounds < 48  # they shared batches
  assert batcher.close(60)
  with pytest.raises(Closed):
    batcher.submit(rows[:1])


def test_the_queue_is_bounded_and_cancelled_rows_leave_it():
  scorer = make_scorer(Gated)
  rows = rows_of(scorer, 6)
  batcher = Batcher(scorer, capacity=5)
  first = batcher.submit(rows[:2])
  assert scorer.entered.wait(60)
  dropped, kept = batcher.submit(rows[2:4]), batcher.submit(rows[4:5])
  assert batcher.load == 5
  with pytest.raises(Full):
    batcher.submit(rows[5:])
  assert dropped.cancel()
  scorer.gate.set()
  wanted = Scorer.values(scorer, rows)
  for future, part in ((first, wanted[:2]), (kept, wanted[4:5])):
    for a, b in zip(future.result(60), part, strict=True):
      np.testing.assert_array_equal(a, b)
  assert batcher.close(60)
  counts = batcher.counts
  assert (counts.requests, counts.cancelled, counts.refused) == (2, 1, 1)
  assert counts.rows == 3


def test_closing_answers_what_is_there():
  scorer = make_scorer(Gated)
  rows = rows_of(scorer, 4)
  batcher = Batcher(scorer)
  running = batcher.submit(rows[:1])
  assert scorer.entered.wait(60)
  waiting = batcher.submit(rows[1:])
  assert not batcher.close(0.05)  # too soon: what waits is cancelled
  assert waiting.cancelled() and not running.done()
  scorer.gate.set()
  assert batcher.close(60)
  assert len(running.result(0)) == 1


def test_a_breakdown_ends_one_round_and_not_the_thread():
  class Broken(Scorer):
    def stream(self, rows):
      if any(row.n_steps == rows_with for row in rows):
        raise RuntimeError('out of memory')
      yield from super().stream(rows)

  scorer = make_scorer(Broken)
  rows = rows_of(scorer, 12)
  rows_with = rows[0].n_steps
  batcher = Batcher(scorer)
  with pytest.raises(RuntimeError, match='out of memory'):
    batcher.submit(rows[:1]).result(60)
  good = [row for row in rows if row.n_steps != rows_with][:2]
  assert len(batcher.submit(good).result(60)) == 2
  assert (batcher.counts.failed, batcher.counts.requests) == (1, 1)
  assert batcher.close(60)


def test_rounds_fill_batches():
  def waiting(shape, passed=0):
    return batching._Row(None, shape, None, 0, passed)

  two, three = Shape(2, 16, 8), Shape(3, 32, 8)
  a, b, c, d = waiting(two), waiting(three), waiting(two), waiting(two)
  assert batching._round([a, b, c, d]) == [a, c]  # d and b wait for company
  assert batching._round([b, d]) == [b, d]  # no batch is full: none waits
  late = waiting(three, batching.PATIENCE)
  assert batching._round([a, late, c]) == [a, c, late]
