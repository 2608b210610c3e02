"""Frozen weights: no gradient, no moments, no copies; and moments in fewer bytes."""

import functools
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import ROOT

from prm_jax.errors import UserError
from prm_jax.jobs import configuration
from prm_jax.models import scorer, weights
from prm_jax.models.lora import LoraSpec
from prm_jax.objectives import registry
from prm_jax.parallel import mapper, mesh, plan, sharding
from prm_jax.specs import HeadSpec, ModelSpec
from prm_jax.training import optimizer, parts, state, step

SPEC = ModelSpec(
  32, n_layers=3, d_model=16, n_heads=2, n_kv_heads=1, head_dim=8, d_ff=32
)
HEAD = HeadSpec()
FINETUNE = ROOT / 'configs' / 'finetune.py'


def frozen_of(freeze, head=HEAD, **changes):
  spec = ModelSpec(**{**vars(SPEC), **changes})
  held = parts.split(weights.declare(spec, head), freeze=freeze)
  return dict(weights.flatten(held.frozen)), dict(weights.flatten(held.trained))


def test_what_an_item_names():
  frozen, trained = frozen_of('decoder')
  assert all(p.startswith('decoder/') for p in frozen)
  assert all(p.startswith('head/') for p in trained)
  assert list(frozen_of('embeddings')[0]) == ['decoder/embed_VD']
  frozen, _ = frozen_of('layers:0-1, embeddings')
  assert {p.split('/')[1] for p in frozen} == {'layer_0', 'layer_1', 'embed_VD'}
  assert {p.split('/')[1] for p in frozen_of('layers:2')[0]} == {'layer_2'}
  assert {p.split('/')[1] for p in frozen_of('layers')[0]} == {
    'layer_0', 'layer_1', 'layer_2',
  }  # fmt: skip
  assert all('norm' in p for p in frozen_of('*norm*')[0])
  untied = {'head': HeadSpec(kind='lm'), 'tied_embeddings': False}
  assert list(frozen_of('lm_head', **untied)[0]) == ['head/lm_head_VD']


def test_scanned_layers_are_frozen_as_one():
  frozen, _ = frozen_of('layers:0-1', scan_layers=True)
  assert {p.split('/')[1] for p in frozen} == {'layers'}
  assert {p.split('/')[1] for p in frozen_of('layers', scan_layers=True)[0]} == {
    'layers', 'layer_2',
  }  # fmt: skip
  with pytest.raises(UserError, match='layers 0 to 1 are stacked as one'):
    frozen_of('layers:0', scan_layers=True)


def test_what_the_config_says_of_some_layers_works():
  text = runpy.run_path(str(FINETUNE))['__doc__'].replace('\\\n', ' ')
  line = next(x for x in text.splitlines() if 'layers:0-11' in x)
  words = line.partition('#')[0].split()
  told = configuration.parse(['', f'--config={FINETUNE}', *words])
  model = told.config.model
  changes = {'n_layers': 24, 'scan_layers': model.scan_layers}
  frozen, _ = frozen_of(model.freeze, **changes)
  names = {p.split('/')[1] for p in frozen}
  assert names == {'embed_VD', *(f'layer_{i}' for i in range(12))}


@pytest.mark.parametrize(
  'how, message',
  [
    ({'freeze': 'decoder, haed'}, "'haed' matches no weight"),
    ({'freeze': 'layers:2-7'}, 'layers 0 to 2'),
    ({'freeze': 'layers:2-1'}, 'layers 0 to 2'),
    ({'freeze': 'lm_head'}, "'lm_head' matches no weight"),
    ({'freeze': '*'}, 'leaves nothing to train'),
    ({'freeze': 'decoder', 'frozen_dtype': 'int8'}, 'model.frozen_dtype'),
    ({'freeze': 'layers:0', 'update': LoraSpec(2)}, 'is trained itself'),
  ],
)
def test_refusals(how, message):
  with pytest.raises(UserError, match=message.replace('*', r'\*')):
    parts.split(weights.declare(SPEC, HEAD), **how)


def batch(rows=8, tokens=12, steps=3):
  rng = np.random.default_rng(0)
  return {
    'tokens': rng.integers(0, 32, (rows, tokens), np.int32),
    'step_positions': np.sort(rng.integers(1, tokens, (rows, steps), np.int32)),
    'labels': rng.integers(0, 2, (rows, steps)).astype(np.float32),
    'mask': np.ones((rows, steps), bool),
  }


def test_frozen_weights_pass_through_the_step_uncopied():
  """In bfloat16; the buffer that went in is the one that comes out."""
  held = parts.split(
    weights.declare(SPEC, HEAD), freeze='decoder', frozen_dtype='bfloat16'
  )
  tx, _ = optimizer.make(optimizer.OptimizerConfig())
  where = mesh.make_mesh(1, 1, 1, devices=jax.devices()[:1])
  place = lambda tree: sharding.param_shardings(where, tree)
  init = functools.partial(weights.initialize, held.trained)
  shardings = state.shardings(init, tx, place(held.trained), where)
  train_step = step.make_train_step(
    step.apply_scoring_model(SPEC, HEAD),
    functools.partial(registry.evaluate, 'bce'),
    tx,
    combine=held.whole,
  )
  make = functools.partial(weights.initialize, held.frozen)
  # Not fetched from the same arrays: a view on the host would keep them from moving.
  frozen, before = (
    sharding.init_sharded(make, place(held.frozen), jax.random.key(0)) for _ in range(2)
  )
  now = state.init_sharded(init, tx, shardings, jax.random.key(0))
  start = jax.device_get(now.params)
  now = now.replace(frozen=frozen)
  pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(frozen)]
  mapped = mapper.jit_mapper(
    train_step, where, shardings.replace(frozen=place(held.frozen))
  )
  now, metrics = mapped(now, batch())
  after = jax.tree.leaves(now.frozen)
  assert [x.unsafe_buffer_pointer() for x in after] == pointers
  for a, b in zip(after, jax.tree.leaves(before)):
    assert a.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
  assert float(metrics['grad_norm']) > 0
  for a, b in zip(jax.tree.leaves(now.params), jax.tree.leaves(start)):
    assert np.abs(np.asarray(a) - b).max() > 0
  moments = next(s for s in now.opt_state if hasattr(s, 'mu'))
  assert jax.tree.structure(moments.mu) == jax.tree.structure(start)


def test_the_plan_knows_that_frozen_weights_cost_no_moments():
  where = mesh.make_mesh(1, 1, 1, devices=jax.devices()[:1])
  sizes = {'batch_size': 8, 'length': 12, 'n_steps': 3}
  held = parts.split(
    weights.declare(SPEC, HEAD), update=LoraSpec(2), frozen_dtype='bfloat16'
  )
  trees = {'trained': held.trained, 'frozen': held.frozen}
  found = plan.estimate(SPEC, HEAD, where, **sizes, **trees)
  n_trained, n_frozen = weights.count(held.trained), weights.count(held.frozen)
  assert found.optimizer == 8 * n_trained and found.gradients == 4 * n_trained
  assert found.parameters == 4 * n_trained + 2 * n_frozen
  text = plan.memory_plan(SPEC, HEAD, where, **sizes, **trees)
  assert 'decoder/embed_VD (frozen)' in text
  assert 'decoder/layer_*/wq_DNH/lora_a_DR' in text
  assert f'{n_trained + n_frozen:,} parameters' in text
  assert f'{n_frozen:,} are frozen' in parts.table(held)


def trained_in(spec, config, steps=30):
  """(first loss, last loss, start, end, state) on one batch."""
  tx, _ = optimizer.make(config)
  train_step = jax.jit(
    step.make_train_step(
      step.apply_scoring_model(spec, HEAD),
      functools.partial(registry.evaluate, 'bce'),
      tx,
    )
  )
  init = functools.partial(scorer.init, spec, HEAD)
  now = jax.jit(lambda key: state.init(init, tx, key))(jax.random.key(0))
  start, losses = jax.device_get(now.params), []
  for _ in range(steps):
    now, metrics = train_step(now, batch())
    losses.append(float(metrics['loss']))
  return losses, start, now


SLOW_RATE = optimizer.OptimizerConfig(
  peak_lr=1e-4, schedule='constant', warmup_steps=0, weight_decay=0.0
)


@pytest.mark.slow
def test_bfloat16_compute_trains_float32_masters():
  """One update is below what bfloat16 could hold, and none is lost."""
  spec = ModelSpec(**{**vars(SPEC), 'n_layers': 1, 'compute_dtype': 'bfloat16'})
  losses, start, end = trained_in(spec, SLOW_RATE, steps=40)
  assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 1e-3
  table = start['decoder']['layer_0']['wgate_DF']
  moved = np.abs(np.asarray(end.params['decoder']['layer_0']['wgate_DF']) - table)
  assert end.params['decoder']['layer_0']['wgate_DF'].dtype == jnp.float32
  ulp = np.abs(table) * 2.0**-8  # of bfloat16, about
  assert np.mean(ulp / 2 > 1e-4) > 0.5  # most single updates would round away
  assert np.median(moved) > 5e-4


@pytest.mark.slow
def test_second_moments_in_bfloat16():
  """With b2 = 0.95 they still follow; near 1 they would stand still."""
  spec = ModelSpec(**{**vars(SPEC), 'n_layers': 1})
  changes = {'peak_lr': 1e-3, 'moments_dtype': 'bfloat16'}
  wide = optimizer.OptimizerConfig(**{**vars(SLOW_RATE), **changes})
  narrow = optimizer.OptimizerConfig(
    **{**vars(wide), 'second_moment_dtype': 'bfloat16'}
  )
  a, _, _ = trained_in(spec, wide)
  b, _, end = trained_in(spec, narrow)
  moments = next(s for s in end.opt_state if hasattr(s, 'nu'))
  assert {x.dtype for x in jax.tree.leaves(moments.nu)} == {jnp.dtype('bfloat16')}
  assert (wide.moment_bytes, narrow.moment_bytes) == (6, 4)
  np.testing.assert_allclose(b[-1], a[-1], rtol=0.02)
  assert b[-1] < b[0] - 0.01
  with pytest.raises(UserError, match='float32 where b2 is above'):
    optimizer.make(optimizer.OptimizerConfig(**{**vars(narrow), 'b2': 0.999}))
