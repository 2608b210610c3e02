"""Low-rank updates: exact merge, no gradient of the base, sharded like the base."""

import functools
import math
import zlib

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest

from prm_jax.errors import UserError
from prm_jax.models import layers, lora, scorer, weights
from prm_jax.models.lora import LoraSpec
from prm_jax.objectives import registry
from prm_jax.parallel import mapper, mesh, sharding
from prm_jax.specs import HeadSpec, ModelSpec
from prm_jax.training import optimizer, parts, state, step

SPEC = ModelSpec(
  32, n_layers=2, d_model=16, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=32
)
HEAD = HeadSpec()
UPDATE = LoraSpec(rank=4, alpha=8.0, targets=('w*',), dropout=0.2)
ALL = tuple(lora.INPUTS)


def split(scan=False, update=UPDATE, **changes):
  spec = ModelSpec(**{**vars(SPEC), 'scan_layers': scan, **changes})
  return spec, parts.split(weights.declare(spec, HEAD), update=update)


def arrays(held, b_std=0.3):
  """(trained, frozen) with updates that are not zero."""
  trained, frozen = fresh(held.trained), fresh(held.frozen)

  def shaken(path, x):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if '/lora_b' not in name or not b_std:
      return x
    draw = np.random.default_rng(x.size).standard_normal
    return b_std * draw(x.shape).astype(np.float32)

  return jax.tree_util.tree_map_with_path(shaken, trained), frozen


def fresh(declared):
  """Numbers that depend on a weight's name alone, without compiling anything."""

  def one(w):
    draw = np.random.default_rng(zlib.crc32(f'{w.key_name} {w.layer}'.encode()))
    return (w.constant + w.std * draw.standard_normal(w.shape)).astype(np.float32)

  return jax.tree.map(one, declared)


def batch(rows=8, tokens=12, steps=3):
  rng = np.random.default_rng(0)
  return {
    'tokens': rng.integers(0, 32, (rows, tokens), np.int32),
    'step_positions': np.sort(rng.integers(1, tokens, (rows, steps), np.int32)),
    'labels': rng.integers(0, 2, (rows, steps)).astype(np.float32),
    'mask': np.ones((rows, steps), bool),
  }


@functools.partial(jax.jit, static_argnums=0)
def scores(spec, params):
  b = batch()
  return scorer.apply(spec, HEAD, params, b['tokens'], b['step_positions'])


@pytest.mark.parametrize(
  'scan',
  [pytest.param(False, marks=pytest.mark.slow), True],
  ids=['unrolled', 'scanned'],
)
def test_merged_is_adapted(scan):
  spec, held = split(scan)
  trained, frozen = arrays(held)
  adapted = scores(spec, held.whole(trained, frozen))
  merged = held.merged(*jax.device_put((trained, frozen)))
  weights.check(merged, weights.declare(spec, HEAD), 'merged')
  np.testing.assert_allclose(scores(spec, merged), adapted, atol=1e-5)
  plain = fresh(weights.declare(spec, HEAD))
  assert np.abs(adapted - scores(spec, plain)).max() > 1e-2


def test_the_start_is_the_base():
  spec, held = split()
  whole = held.whole(*arrays(held, b_std=0))
  plain = fresh(weights.declare(spec, HEAD))
  np.testing.assert_array_equal(scores(spec, whole), scores(spec, plain))


def test_update_by_hand():
  """x W + alpha / rank * x A B, of the output matrix with its two input axes."""
  draw = functools.partial(np.random.default_rng(0).standard_normal)
  base, a, b = draw((4, 8, 16)), draw((4, 8, 2)), draw((2, 16))
  x = draw((3, 32))
  factors = {'lora_a_NHR': a, 'lora_b_RD': b}
  w = lora.adapt(LoraSpec(2, alpha=3.0), 'layer_0/wo_NHD', base, factors)
  expected = x @ base.reshape(32, 16) + 1.5 * (x @ a.reshape(32, 2)) @ b
  np.testing.assert_allclose(
    layers.dense(jnp.asarray(x), w, inputs=2), expected, rtol=2e-5, atol=1e-5
  )


@pytest.mark.slow
def test_dropout_is_a_stream_of_each_weight_and_layer():
  spec, held = split(scan=True, n_layers=3)
  trained, frozen = arrays(held)
  whole = held.whole(trained, frozen, jax.random.key(0))
  stacked = whole['decoder']['layers']
  keys = [*stacked['wq_DNH'].key, *stacked['wk_DKH'].key]
  assert len({tuple(jax.random.key_data(k).tolist()) for k in keys}) == 4
  first, again, other = (
    scores(spec, held.whole(trained, frozen, jax.random.key(k))) for k in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert np.abs(first - other).max() > 1e-3
  rows = jnp.ones((2000, 16))
  drawn = whole['decoder']['layer_2']['wq_DNH']
  plain = drawn.replace(key=None).update(rows)
  np.testing.assert_allclose(drawn.update(rows).mean(0), plain[0], atol=0.1)


def products(jaxpr, found):
  """Shapes of all matrix products, also inside loops and rematerialized parts."""
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == 'dot_general':
      found.append(math.prod(eqn.outvars[0].aval.shape))
    for inner in jax.extend.core.jaxprs_in_params(eqn.params):
      products(inner, found)
  return found


@pytest.mark.parametrize('remat', ['none', 'full'])
@pytest.mark.parametrize('scan', [False, True], ids=['unrolled', 'scanned'])
def test_no_gradient_of_the_base(scan, remat):
  """The transposed product x^T g of a frozen matrix, [D, F] here, is not computed."""
  spec, held = split(scan, remat=remat, d_ff=37)
  trained, frozen = arrays(held)

  def loss(trained, frozen):
    return scores(spec, held.whole(trained, frozen)).sum()

  size = spec.d_model * 37
  some = jax.make_jaxpr(jax.grad(loss))(trained, frozen)
  both = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(trained, frozen)
  assert products(some.jaxpr, []).count(size) == 0
  assert products(both.jaxpr, []).count(size) > 0


def step_of(way, accumulation=1):
  """State after three steps: trained parameters on the host, and metrics."""
  update = LoraSpec(rank=4, targets=ALL)
  spec, held = split(update=update)
  tx, _ = optimizer.make(optimizer.OptimizerConfig(peak_lr=3e-3, warmup_steps=0))
  where = mesh.make_mesh(*way, devices=jax.devices()[: math.prod(way)])
  place = lambda tree: sharding.param_shardings(where, tree)
  init = functools.partial(weights.initialize, held.trained)
  shardings = state.shardings(init, tx, place(held.trained), where)
  train_step = step.make_train_step(
    step.apply_scoring_model(spec, HEAD, constrain=sharding.constrainer(where)),
    functools.partial(registry.evaluate, 'bce'),
    tx,
    accumulation=accumulation,
    combine=held.whole,
  )
  trained, frozen = arrays(held)
  now = state.start(jax.device_put(trained, shardings.params), tx, shardings)
  now = now.replace(frozen=jax.device_put(frozen, place(held.frozen)))
  whole = shardings.replace(frozen=place(held.frozen))
  mapped = mapper.jit_mapper(train_step, where, whole)
  for _ in range(3):
    now, metrics = mapped(now, batch())
  return now, frozen, metrics


@pytest.mark.slow
def test_numbers_of_one_device_and_of_accumulation():
  one, frozen, _ = step_of((1, 1, 1))
  many, _, _ = step_of((2, 2, 2), accumulation=2)
  for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(many.params)):
    np.testing.assert_allclose(a, b, atol=1e-5)
  for a, b in zip(jax.tree.leaves(many.frozen), jax.tree.leaves(frozen)):
    np.testing.assert_array_equal(a, b)
  factors = many.params['decoder']['layer_0']
  assert factors['wq_DNH']['lora_a_DR'].sharding.spec == jax.P('fsdp', None)
  assert factors['wq_DNH']['lora_b_RNH'].sharding.spec == jax.P(None, 'tensor', None)
  assert factors['wo_NHD']['lora_a_NHR'].sharding.spec == jax.P('tensor', None, None)
  moments = next(s for s in many.opt_state if hasattr(s, 'mu'))
  assert jax.tree.structure(moments.mu) == jax.tree.structure(many.params)
  moved = [np.abs(np.asarray(x)).max() for x in jax.tree.leaves(moments.mu)]
  assert min(moved) > 0


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'targets': ('wx',)}, "'wx' matches no matrix of a layer; there are wq_DNH"),
    ({'targets': ('embed',)}, 'matches no matrix'),
    ({'targets': ()}, 'is empty'),
    ({'rank': -1}, 'lora.rank'),
    ({'alpha': 0.0}, 'lora.alpha'),
    ({'dropout': 1.0}, 'lora.dropout'),
  ],
)
def test_refusals(changes, message):
  with pytest.raises(UserError, match=message):
    split(update=LoraSpec(**{'rank': 2, **changes}))


def test_names_with_and_without_letters():
  declared = dict(weights.flatten(weights.declare(SPEC, HEAD)))
  short = lora.targets(LoraSpec(1, targets=('wq', 'wdown')), declared)
  assert short == lora.targets(LoraSpec(1, targets=('wq_DNH', 'wdown_FD')), declared)
  assert len(short) == 2 * SPEC.n_layers
