"""One step function, every way of spreading it: the numbers of one device."""

import functools

import jax
import numpy as np
import pytest

from prm_jax.models import scorer, weights
from prm_jax.objectives import registry
from prm_jax.parallel import mapper, mesh, sharding
from prm_jax.specs import HeadSpec, ModelSpec
from prm_jax.training import optimizer, state, step

SPEC = ModelSpec(
  32, n_layers=2, d_model=16, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=32
)
HEAD = HeadSpec()
DECLARED = weights.declare(SPEC, HEAD)
STEPS = 50
WAYS = {'data': (8, 1, 1), 'fsdp': (1, 8, 1), 'fsdp_tensor': (2, 2, 2)}


def batch_of(index):
  """Very unequal weight: rows carry 0 to 6 labels, the last few always none."""
  rng = np.random.default_rng((3, index))
  rows, tokens, steps = 16, 24, 6
  labelled = np.arange(steps) < rng.integers(0, 7, rows)[:, None]
  labelled[rng.integers(8, 16) :] = False
  return {
    'tokens': rng.integers(0, 32, (rows, tokens), np.int32),
    'step_positions': np.sort(rng.integers(1, tokens, (rows, steps), np.int32)),
    'labels': rng.integers(0, 2, (rows, steps)).astype(np.float32) * labelled,
    'mask': labelled,
    'weights': rng.uniform(0.5, 2, (rows, steps)).astype(np.float32),
  }


def build(way, tx, **options):
  """(mapper, state) of one way."""
  init_params = functools.partial(scorer.init, SPEC, HEAD)
  key = jax.random.key(0)
  make = functools.partial(
    step.make_train_step,
    step.apply_scoring_model(SPEC, HEAD),
    functools.partial(registry.evaluate, 'q_ranking'),
    tx,
    **options,
  )
  if way == 'pmap':
    mapped = mapper.pmap_mapper(make(axis_name=mapper.PMAP_AXIS))
    return mapped, mapped.place_state(state.init(init_params, tx, key))
  if way == 'one':
    where = mesh.make_mesh(1, 1, 1, devices=jax.devices()[:1])
  else:
    where = mesh.make_mesh(*WAYS[way])
  params = sharding.param_shardings(where, DECLARED)
  shardings = state.shardings(init_params, tx, params, where)
  mapped = mapper.jit_mapper(make(), where, shardings)
  return mapped, state.init_sharded(init_params, tx, shardings, key)


def run(way, **options):
  """Losses of all steps, and the first gradient as Adam's first moment holds it."""
  config = optimizer.OptimizerConfig(
    peak_lr=3e-3, warmup_steps=5, horizon=STEPS, clip_norm=0.0
  )
  mapped, now = build(way, optimizer.make(config)[0], **options)
  losses, gradient = [], None
  for index in range(STEPS):
    now, metrics = mapped(now, batch_of(index))
    losses.append(float(jax.block_until_ready(metrics['loss'])))
    if gradient is None:
      moments = mapped.fetch_state(now).opt_state
      adam = jax.device_get(next(s for s in moments if hasattr(s, 'mu')))
      gradient = jax.tree.map(lambda mu: mu / (1 - config.b1), adam.mu)
  return np.array(losses), gradient


@pytest.fixture(scope='module')
def one_device():
  return run('one')


@pytest.mark.slow  # one mesh by default: test_parallel.py
@pytest.mark.parametrize('way', (*WAYS, 'pmap'))
def test_numbers_of_one_device(way, one_device):
  losses, gradient = run(way)
  np.testing.assert_allclose(losses, one_device[0], rtol=1e-5)
  for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(one_device[1])):
    np.testing.assert_allclose(a, b, atol=2e-7, rtol=1e-4)


@pytest.mark.slow
def test_accumulation_over_a_mesh(one_device):
  losses, _ = run('data', accumulation=2)
  np.testing.assert_allclose(losses, one_device[0], rtol=1e-5)


def test_states_are_born_where_they_live():
  tx, _ = optimizer.make(optimizer.OptimizerConfig())
  _, now = build('fsdp_tensor', tx)
  adam = next(s for s in now.opt_state if hasattr(s, 'mu'))
  for tree in (now.params, adam.mu, adam.nu):
    wq = tree['decoder']['layer_0']['wq_DNH']
    assert wq.sharding.spec == jax.P('fsdp', 'tensor', None)
    assert wq.addressable_shards[0].data.shape == (8, 2, 8)
  _, alone = build('one', tx)
  for a, b in zip(jax.tree.leaves(now.params), jax.tree.leaves(alone.params)):
    np.testing.assert_array_equal(a, b)
