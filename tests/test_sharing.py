"""Questions computed once for several of their solutions: the same rows and numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_packing import SPECS, HeadSpec, losses_of

from prm_jax.data import assembly, sharing, token_cache
from prm_jax.data.batches import Batches
from prm_jax.errors import UserError
from prm_jax.formats import tokenizers
from prm_jax.models import scorer
from prm_jax.objectives import registry
from prm_jax.records import LabelSet, Trajectory, Verdict
from prm_jax.specs import StepFormat
from prm_jax.training import step


def make_cache(n=40, questions=6):
  rng = np.random.default_rng(2)
  rows = []
  for i in range(n):
    p, q = int(rng.integers(1, 6)), int(rng.integers(questions))
    labels = LabelSet('correctness', tuple(rng.random(p).round(2).tolist()))
    steps = tuple('s' * int(rng.integers(1, 9)) for _ in range(p))
    verdicts = {'exact': Verdict(bool(i % 2))}
    rows.append(
      Trajectory(f'r{i}', f'p{q}', 'Q' * (3 + 2 * q), steps,
                 labels={'human': labels}, verdicts=verdicts)
    )  # fmt: skip
  return token_cache.build(
    rows, StepFormat(), tokenizers.load('bytes'), 'human', 'exact'
  )


@pytest.fixture(scope='module')
def cache():
  return make_cache()


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 7), st.integers(1, 5), st.integers(0, 3), st.integers(1, 2))
def test_every_solution_once_beside_its_question(members, batch_size, epoch, weight):
  cache = make_cache()
  shared = sharing.find(cache)
  assert len(np.unique(shared.question)) == 6
  batches = Batches(
    cache, seed=1, batch_size=batch_size, share_question=members,
    source_weights=(weight,),
  )  # fmt: skip
  seen = []
  first = epoch * batches.n_batches
  for number in range(first, first + batches.n_batches):
    batch = batches.rows(number)
    assert batch.rows.shape == (batch_size, members) and (batch.rows >= 0).any()
    for row in batch.rows:
      there = row[row >= 0]
      assert len(np.unique(shared.question[there])) <= 1
      assert ((cache.lengths - shared.cut)[there] <= batch.length).all()
      assert (row[: len(there)] >= 0).all()
      seen += there.tolist()
  assert np.bincount(seen).tolist() == [weight] * cache.n_rows
  assert 0 < batches.usage.fill <= len(seen)


def test_arrays(cache):
  batches = Batches(cache, seed=0, batch_size=2, share_question=4)
  for number in range(batches.n_batches):
    batch, rows = batches[number], batches.rows(number).rows
    for b, c in np.argwhere(rows >= 0):
      r, n = rows[b, c], batch['question_length'][b]
      text = cache.tokens[cache.offsets[r] : cache.offsets[r + 1]]
      own = batch['tokens'][b, c, : len(text) - n]
      np.testing.assert_array_equal(
        np.append(batch['question_tokens'][b, :n], own), text
      )
      p = int(cache.n_steps[r])
      here = slice(cache.step_offsets[r], cache.step_offsets[r + 1])
      np.testing.assert_array_equal(
        batch['step_positions'][b, c, :p] + n, cache.step_positions[here]
      )
      np.testing.assert_array_equal(batch['labels'][b, c, :p], cache.labels[here])
  halves = [
    Batches(cache, seed=0, batch_size=2, share_question=4,
            process_index=i, process_count=2)[1]
    for i in range(2)
  ]  # fmt: skip
  for name, x in batches[1].items():
    np.testing.assert_array_equal(x, np.concatenate([h[name] for h in halves]))


@functools.cache
def both(spec_name):
  """Shared and alone: the batch, outputs, and what pulls their gradient back."""
  spec, head = SPECS[spec_name], HeadSpec(kind='linear', n_outputs=3, init_scale=0.3)
  cache, key = make_cache(), jax.random.key(0)
  batches = Batches(cache, seed=0, batch_size=3, share_question=4)
  rows, shared = batches.rows(0).rows, batches[0]
  p = shared['mask'].shape[2]
  alone = assembly.steps(cache, rows.ravel(), int(cache.lengths.max()), p)
  params = scorer.init(spec, head, key)
  apply = step.apply_scoring_model(spec, head)
  found = []
  for batch in (shared, alone):
    run = jax.jit(lambda p, batch=batch: jax.vjp(lambda p: apply(p, batch, key), p))
    found.append((batch, *run(params)))
  return found


PULL = jax.jit(lambda back, gradient: back(gradient)[0])
NAMES = [n for n, o in registry.OBJECTIVES.items() if not o.trains_policy]


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_shared_equals_alone(name):
  """Probabilities, losses, gradients, with windows, caps, scans and scaled angles."""
  (shared, of_shared, _), (_, of_alone, _) = both('gemma')
  there = shared['steps_mask'].reshape(of_alone.shape[:2])
  np.testing.assert_allclose(
    jax.nn.sigmoid(of_shared[there]), jax.nn.sigmoid(of_alone[there]), atol=1e-5
  )
  losses, gradients = [], []
  n = registry.OBJECTIVES[name].outputs[0]
  for batch, outputs, back in both('gemma'):
    loss, pull = jax.vjp(
      lambda x, batch=batch: registry.evaluate(name, x[..., :n], batch), outputs
    )
    losses.append([float(x) for x in loss])
    gradients.append(PULL(back, pull((jnp.ones(()), jnp.zeros(())))[0]))
  assert losses[0][1] > 0
  np.testing.assert_allclose(*losses, rtol=2e-5)
  apart = optax.tree.norm(jax.tree.map(jnp.subtract, *gradients))
  assert float(apart) < 1e-4 * float(optax.tree.norm(gradients[1]))


@pytest.mark.slow
def test_devices_and_microbatches(cache):
  batches = Batches(cache, seed=0, batch_size=4, share_question=4)
  want = losses_of('one', batches, 2)
  found = losses_of('accumulated', batches, 2, accumulation=2)
  np.testing.assert_allclose(found, want, rtol=2e-5)


def test_refusals(cache):
  make = functools.partial(Batches, cache, seed=0, batch_size=4)
  for options in (
    {'share_question': 1},
    {'share_question': 4, 'packing': True},
    {'share_question': 4, 'of': 'tokens'},
  ):
    with pytest.raises(UserError, match='at least 2, for objectives that read steps'):
      make(**options)
  with pytest.raises(UserError, match='whole weights'):
    make(share_question=4, source_weights=(0.5,))
