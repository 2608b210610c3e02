"""Epoch plan and batches: every row once, and a batch is known from its step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prm_jax.data import epoch_plan, token_cache
from prm_jax.data.batches import Batches
from prm_jax.errors import UserError
from prm_jax.formats import tokenizers
from prm_jax.records import LabelSet, Trajectory, Verdict
from prm_jax.specs import StepFormat

LENGTHS = st.lists(st.integers(1, 100), min_size=1, max_size=80).map(np.array)


@settings(deadline=None, max_examples=100)
@given(LENGTHS, st.integers(1, 9), st.integers(0, 5), st.integers(0, 3))
def test_every_row_once_an_epoch(lengths, batch_size, seed, epoch):
  buckets = epoch_plan.default_buckets(lengths)
  plan = epoch_plan.plan(seed, epoch, lengths, batch_size=batch_size, buckets=buckets)
  rows = plan.rows.ravel()
  assert sorted(rows[rows >= 0]) == list(range(len(lengths)))
  assert len(plan) == epoch_plan.n_batches([len(lengths)], [1.0], batch_size)
  assert (plan.rows < 0).sum() < batch_size
  mixed = 0
  for i in range(len(plan)):
    batch = plan[i]
    held = lengths[batch.rows[batch.rows >= 0]]
    assert batch.length in buckets
    # The smallest bucket that holds the batch.
    assert held.max() <= batch.length
    assert not any(held.max() <= b < batch.length for b in buckets)
    mixed += len(np.unique(np.searchsorted(buckets, held))) > 1
  assert mixed < len(buckets)
  again = epoch_plan.plan(seed, epoch, lengths, batch_size=batch_size, buckets=buckets)
  assert again.rows.tolist() == plan.rows.tolist()


def test_a_share_of_a_source_is_drawn_anew_each_epoch():
  draw = lambda epoch: epoch_plan.plan(
    3, epoch, np.full(64, 5), batch_size=4, buckets=(8,), source_weights=(0.5,)
  ).rows.ravel()
  taken = [set(draw(epoch).tolist()) for epoch in range(20)]
  assert all(len(rows) == 32 for rows in taken)
  assert set.union(*taken) == set(range(64))


def test_epochs_and_seeds_differ():
  lengths = np.arange(1, 65)
  make = lambda seed, epoch: epoch_plan.plan(
    seed, epoch, lengths, batch_size=4, buckets=(64,)
  ).rows.tolist()
  assert make(0, 0) != make(0, 1) != make(1, 0) != make(0, 0)


@settings(deadline=None, max_examples=60)
@given(
  st.lists(st.integers(1, 20), min_size=1, max_size=3),
  st.lists(st.floats(0.05, 3.2), min_size=3, max_size=3),
)
def test_weights_of_sources(sizes, weights):
  weights = weights[: len(sizes)]
  index = np.repeat(np.arange(len(sizes)), sizes)
  want = [epoch_plan.n_drawn(n, w) for n, w in zip(sizes, weights)]
  assert want == [int(w * n + 0.5) for n, w in zip(sizes, weights)]
  if not sum(want):
    with pytest.raises(UserError, match='leave no row'):
      epoch_plan.n_batches(sizes, weights, 4)
    return
  for epoch in (0, 1):
    plan = epoch_plan.plan(
      3, epoch, np.full(len(index), 5), batch_size=4, buckets=(8,),
      source_index=index, source_weights=weights,
    )  # fmt: skip
    rows = plan.rows[plan.rows >= 0]
    assert np.bincount(index[rows], minlength=len(sizes)).tolist() == want
    assert len(plan) == epoch_plan.n_batches(sizes, weights, 4)
    times = np.bincount(rows, minlength=len(index))
    for source, (n, k) in enumerate(zip(sizes, want)):
      mine = times[index == source]
      assert set(mine) <= {k // n, -(-k // n)}


@settings(deadline=None, max_examples=60)
@given(LENGTHS)
def test_default_buckets(lengths):
  buckets = epoch_plan.default_buckets(lengths)
  assert list(buckets) == sorted(set(buckets))
  assert lengths.max() <= buckets[-1] < lengths.max() + 8
  assert len(buckets) <= 8
  n_steps = 1 + lengths // 10
  steps = epoch_plan.steps_per_bucket(buckets, lengths, n_steps)
  assert all(p % 4 == 0 for p in steps)
  assert list(steps) == sorted(steps)


def test_refusals():
  lengths = np.array([10, 20])
  with pytest.raises(UserError, match='at least 20'):
    epoch_plan.check_buckets((16,), lengths)
  with pytest.raises(UserError, match='batch_size=0'):
    epoch_plan.n_batches([2], [1.0], 0)
  with pytest.raises(UserError, match='does not divide among 3 processes'):
    epoch_plan.process_rows(np.zeros(8), 0, 3)


def make_cache(n=37):
  rng = np.random.default_rng(0)
  rows = []
  for i in range(n):
    p = int(rng.integers(1, 7))
    values = [None if rng.random() < 0.2 else float(rng.random()) for _ in range(p)]
    values[0] = 0.7
    steps = tuple('s' * int(rng.integers(1, 9)) for _ in range(p))
    weights = tuple(float(k % 3) + 0.5 for k in range(p))
    labels = {'human': LabelSet('correctness', tuple(values), weights=weights)}
    verdicts = {'exact': Verdict([True, False, None][i % 3])}
    rows.append(
      Trajectory(
        f'row{i}', f'p{i % 5}', f'Q{i}', steps, labels=labels, verdicts=verdicts
      )
    )
  return token_cache.build(
    rows, StepFormat(), tokenizers.load('bytes'), 'human', 'exact'
  )


@pytest.fixture(scope='module')
def cache():
  return make_cache()


DTYPES = {
  'tokens': np.int32, 'step_positions': np.int32, 'labels': np.float32, 'mask': bool,
  'weights': np.float32, 'steps_mask': bool, 'outcome': np.float32,
  'outcome_mask': bool, 'row_mask': bool, 'problem_index': np.int32,
  'problem_weight': np.float32, 'source_index': np.int32,
}  # fmt: skip


def test_batches_hold_what_the_cache_holds(cache):
  batches = Batches(cache, seed=1, batch_size=8)
  seen = []
  for step in range(batches.n_batches):
    batch = batches[step]
    rows = batches.rows(step).rows
    length = batches.rows(step).length
    assert {k: v.dtype.type for k, v in batch.items()} == {
      k: np.dtype(v).type for k, v in DTYPES.items()
    }
    assert batch['tokens'].shape == (8, length)
    assert batch['labels'].shape == (8, batches.max_steps[length])
    assert (length, batch['labels'].shape[1]) in batches.shapes
    for b, r in enumerate(rows):
      if r < 0:
        for name, value in batch.items():
          assert (value[b] == (cache.pad_id if name == 'tokens' else 0)).all()
        continue
      seen.append(int(r))
      t, p = int(cache.lengths[r]), int(cache.n_steps[r])
      here = slice(cache.step_offsets[r], cache.step_offsets[r + 1])
      assert batch['tokens'][b, :t].tolist() == (
        cache.tokens[cache.offsets[r] : cache.offsets[r + 1]].tolist()
      )
      assert (batch['tokens'][b, t:] == cache.pad_id).all()
      for name in ('step_positions', 'labels', 'mask', 'weights'):
        assert batch[name][b, :p].tolist() == getattr(cache, name)[here].tolist()
        assert not batch[name][b, p:].any()
      assert batch['steps_mask'][b].tolist() == [
        i < p for i in range(len(batch['mask'][b]))
      ]
      assert batch['labels'][b, 0] == np.float32(0.7)
      for name in (
        'outcome', 'outcome_mask', 'problem_index', 'problem_weight', 'source_index'
      ):  # fmt: skip
        assert batch[name][b] == getattr(cache, name)[r]
  assert sorted(seen) == list(range(cache.n_rows))


def test_a_batch_is_a_function_of_its_step(cache):
  batches = Batches(cache, seed=1, batch_size=8)
  assert batches.position(batches.n_batches) == (1, 0)
  steps = [7, 0, 23, 7]
  fresh = [Batches(make_cache(), seed=1, batch_size=8)[s] for s in steps]
  for step, other in zip(steps, fresh):
    for name, value in batches[step].items():
      np.testing.assert_array_equal(value, other[name])
  assert 'epoch 1' in batches.describe(batches.n_batches)
  assert 'row' in batches.describe(3)


@pytest.mark.parametrize('count', [2, 4])
def test_processes_feed_parts_of_one_batch(cache, count):
  whole = Batches(cache, seed=2, batch_size=8)
  parts = [
    Batches(cache, seed=2, batch_size=8, process_index=i, process_count=count)
    for i in range(count)
  ]
  for step in range(whole.n_batches + 2):
    for name, value in whole[step].items():
      np.testing.assert_array_equal(
        value, np.concatenate([p[step][name] for p in parts]), err_msg=name
      )


def test_grain_reads_the_same_and_resumes_anywhere(cache):
  batches = Batches(cache, seed=3, batch_size=8)
  dataset = batches.dataset()
  for step in (0, 4, 11):
    np.testing.assert_array_equal(dataset[step]['tokens'], batches[step]['tokens'])
  for start in (0, 3, 9):
    found = batches.iterate(start, threads=2, ahead=4)
    for step in range(start, start + 4):
      for name, value in next(found).items():
        np.testing.assert_array_equal(value, batches[step][name])


def test_batches_refuse(cache):
  with pytest.raises(UserError, match='batch_size=0'):
    Batches(cache, seed=0, batch_size=0)
  with pytest.raises(UserError, match='multiple of 3'):
    Batches(cache, seed=0, batch_size=8, process_count=3)
  with pytest.raises(UserError, match='buckets'):
    Batches(cache, seed=0, batch_size=8, buckets=(4,))
  with pytest.raises(UserError, match='seed=-1'):
    Batches(cache, seed=-1, batch_size=8)
