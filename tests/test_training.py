"""The train step: exact accumulation, steps that must change nothing, schedules."""

import functools
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prm_jax.errors import NonFiniteLoss, UserError
from prm_jax.models import scorer
from prm_jax.objectives import registry
from prm_jax.specs import HeadSpec, ModelSpec
from prm_jax.training import optimizer, state, step
from prm_jax.training.preemption import StopSignal

SPEC = ModelSpec(
  32, n_layers=2, d_model=16, n_heads=2, n_kv_heads=2, head_dim=8, d_ff=32
)
HEAD = HeadSpec()
CONFIG = optimizer.OptimizerConfig(
  peak_lr=1e-2, schedule='constant', warmup_steps=0, horizon=50
)


def make_batch(seed=0, rows=16, tokens=24, steps=6):
  """Rows of unequal weight: row r carries about r mod 5 labels, some carry none."""
  rng = np.random.default_rng(seed)
  labelled = rng.integers(0, 5, rows)[:, None] > np.arange(steps)
  return {
    'tokens': rng.integers(0, 32, (rows, tokens), np.int32),
    'step_positions': np.sort(rng.integers(1, tokens, (rows, steps), np.int32)),
    'labels': rng.integers(0, 2, (rows, steps)).astype(np.float32) * labelled,
    'mask': labelled,
    'weights': rng.uniform(0.5, 2, (rows, steps)).astype(np.float32),
    'row_mask': np.ones(rows, bool),
    'source_index': rng.integers(0, 2, rows, np.int32),
  }


def build(objective='q_ranking', config=CONFIG, head=HEAD, **options):
  tx, _ = optimizer.make(config)
  train_step = step.make_train_step(
    step.apply_scoring_model(SPEC, head),
    functools.partial(registry.evaluate, objective),
    tx,
    **options,
  )
  init_params = functools.partial(scorer.init, SPEC, head)
  return jax.jit(train_step), state.init(init_params, tx, jax.random.key(0))


def same(a, b):
  return all(
    np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b))
  )


def test_accumulation_is_exact_for_unequal_weights():
  """Plain SGD, so that parameters show the gradient itself."""
  batch = make_batch()
  results = []
  for accumulation in (1, 4):
    tx = optax.sgd(1.0)
    train_step = step.make_train_step(
      step.apply_scoring_model(SPEC, HEAD),
      functools.partial(registry.evaluate, 'bce'),
      tx,
      accumulation=accumulation,
    )
    init_params = functools.partial(scorer.init, SPEC, HEAD)
    first = state.init(init_params, tx, jax.random.key(0))
    results.append(jax.jit(train_step)(first, batch))
  (one, metrics), (four, accumulated) = results
  for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(four.params)):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  for name in ('loss', 'weight', 'supervised_steps', 'grad_norm'):
    np.testing.assert_allclose(metrics[name], accumulated[name], rtol=1e-5)
  assert metrics['weight'] == pytest.approx((batch['weights'] * batch['mask']).sum())
  assert metrics['supervised_steps'] == batch['mask'].sum()


def test_rows_that_do_not_divide_are_refused():
  train_step, first = build(accumulation=5)
  with pytest.raises(UserError, match=r'16 rows .* 5 microbatches'):
    train_step(first, make_batch())


def test_weight_zero_changes_only_the_step_count():
  train_step, first = build()
  later, _ = train_step(first, make_batch())
  empty = make_batch(1)
  empty['mask'] = np.zeros_like(empty['mask'])
  after, metrics = train_step(later, empty)
  assert int(after.step) == int(later.step) + 1
  assert same(after.params, later.params) and same(after.opt_state, later.opt_state)
  assert bool(metrics['skipped']) and bool(metrics['finite'])
  assert float(metrics['loss']) == 0
  step.check_finite(1, metrics)


def test_a_step_that_is_not_finite_changes_nothing_and_is_named():
  train_step, first = build()
  bad = make_batch(2)
  bad['labels'][3, 0] = np.nan
  bad['mask'][3, 0] = True
  after, metrics = train_step(first, bad)
  assert not bool(metrics['finite']) and not bool(metrics['skipped'])
  assert same(after.params, first.params) and same(after.opt_state, first.opt_state)
  with pytest.raises(NonFiniteLoss, match=r'step 7: .*\(rows 4, 9 of world\)'):
    step.check_finite(7, metrics, 'rows 4, 9 of world')


def test_losses_of_sources_add_up_to_the_whole():
  train_step, first = build('bce', n_sources=2)
  _, metrics = train_step(first, make_batch())
  assert metrics['source_weight'].shape == (2,)
  weight = metrics['source_weight'].sum()
  np.testing.assert_allclose(weight, metrics['weight'], rtol=1e-6)
  total = metrics['source_loss_sum'].sum() / metrics['weight']
  np.testing.assert_allclose(total, metrics['loss'], rtol=1e-6)


@pytest.mark.slow
def test_dropout_comes_from_seed_and_step():
  head = HeadSpec(dropout=0.5)
  batch = make_batch()
  train_step, first = build('bce', head=head, seed=1)
  other_seed, _ = build('bce', head=head, seed=2)
  loss = lambda fn, state: float(fn(state, batch)[1]['loss'])
  assert loss(train_step, first) == loss(train_step, first)
  assert loss(train_step, first) != loss(other_seed, first)
  assert loss(train_step, first) != loss(train_step, first.replace(step=first.step + 1))


def test_training_learns():
  train_step, now = build('bce')
  batch, losses = make_batch(), []
  for _ in range(20):
    now, metrics = train_step(now, batch)
    losses.append(float(metrics['loss']))
  assert losses[-1] < 0.5 * losses[0]
  assert float(metrics['learning_rate']) == pytest.approx(1e-2)


def rates(**changes):
  values = {'peak_lr': 1.0, 'warmup_steps': 4, 'horizon': 20, 'end_factor': 0.1}
  config = optimizer.OptimizerConfig(**{**values, **changes})
  return np.array([optimizer.make_schedule(config)(i) for i in range(30)])


def test_schedules():
  for name in optimizer.SCHEDULES:
    found = rates(schedule=name)
    np.testing.assert_allclose(found[:4], [0.25, 0.5, 0.75, 1.0], rtol=1e-6)
    assert (np.diff(found[4:]) <= 1e-6).all()
    end = 1.0 if name == 'constant' else 0.1
    np.testing.assert_allclose(found[20:], end, rtol=1e-5)
  assert rates(schedule='cosine')[12] == pytest.approx(0.55)
  assert rates(schedule='linear')[12] == pytest.approx(0.55)
  np.testing.assert_allclose(rates(schedule='wsd')[4:17], 1.0)
  assert rates(schedule='wsd')[18] == pytest.approx(0.55)
  assert rates(schedule='constant', warmup_steps=0)[0] == 1.0


@pytest.mark.parametrize(
  'changes, field',
  [
    ({'schedule': 'step'}, 'schedule'),
    ({'warmup_steps': 30}, 'warmup_steps'),
    ({'peak_lr': 0.0}, 'peak_lr'),
    ({'peak_lr': float('nan')}, 'peak_lr'),
    ({'moments_dtype': 'float16'}, 'moments_dtype'),
    ({'b2': 1.0}, 'b2'),
    ({'clip_norm': -1.0}, 'clip_norm'),
  ],
)
def test_impossible_optimizers_are_refused(changes, field):
  values = {'horizon': 20, 'warmup_steps': 0, **changes}
  with pytest.raises(UserError, match=f'optimizer.{field} is'):
    optimizer.make(optimizer.OptimizerConfig(**values))


def test_vectors_and_named_weights_do_not_decay():
  decayed = functools.partial(optimizer.is_decayed, no_decay=('embed',))
  assert decayed('decoder/layers/wq_DNH') and decayed('head/wout_DQ')
  for path in (
    'decoder/layers/attn_norm_D',  # [L, D]: two axes and still a vector
    'decoder/layer_0/bq_NH',
    'head/bout_Q',
    'decoder/embed_VD',
  ):
    assert not decayed(path)
  config = optimizer.OptimizerConfig(
    peak_lr=1.0, schedule='constant', warmup_steps=0, horizon=9, weight_decay=0.5
  )
  tx, _ = optimizer.make(config)
  params = {'w_DF': jnp.full((2, 2), 2.0), 'norm_D': jnp.full(2, 2.0)}
  zeros = jax.tree.map(jnp.zeros_like, params)
  updates, _ = tx.update(zeros, tx.init(params), params)
  np.testing.assert_allclose(updates['w_DF'], -1.0)
  np.testing.assert_allclose(updates['norm_D'], 0.0)


def test_moments_have_the_dtypes_asked_for():
  config = optimizer.OptimizerConfig(moments_dtype='bfloat16')
  tx, _ = optimizer.make(config)
  params = {'w_DF': jnp.ones((2, 2), jnp.bfloat16)}
  moments = tx.init(params)
  _, moments = tx.update(params, moments, params)
  adam = next(s for s in moments if hasattr(s, 'mu'))
  assert adam.mu['w_DF'].dtype == jnp.bfloat16
  assert adam.nu['w_DF'].dtype == jnp.float32


def test_clipping_bounds_the_gradient_that_adam_sees():
  config = optimizer.OptimizerConfig(clip_norm=1.0, weight_decay=0.0)
  tx, _ = optimizer.make(config)
  params = {'w_DF': jnp.zeros((2, 2))}
  _, moments = tx.update({'w_DF': jnp.full((2, 2), 10.0)}, tx.init(params), params)
  adam = next(s for s in moments if hasattr(s, 'mu'))
  np.testing.assert_allclose(adam.mu['w_DF'], (1 - config.b1) * 0.5, rtol=1e-6)


def test_a_signal_is_noticed_between_steps_and_handlers_come_back():
  before = signal.getsignal(signal.SIGTERM)
  with StopSignal() as stop:
    assert not stop.requested
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.requested and stop.name == 'SIGTERM'
    assert signal.getsignal(signal.SIGTERM) == before
  assert signal.getsignal(signal.SIGTERM) == before


def test_microbatches_have_dropout_keys_of_their_own():
  def loss(params, frozen, batch, key):
    drawn = jax.random.uniform(key) * batch['x'].sum()
    return params * drawn, {'drawn': drawn}

  key, batch = jax.random.key(3), {'x': jnp.ones((2, 1))}
  grads, sums = step._accumulate(
    jax.grad(loss, has_aux=True), (jnp.ones(()), None), batch, key, 2
  )
  each = [float(jax.random.uniform(jax.random.fold_in(key, i))) for i in range(2)]
  assert each[0] != each[1]
  np.testing.assert_allclose([grads, sums['drawn']], [sum(each)] * 2, rtol=1e-6)
