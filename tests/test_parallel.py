"""Eight simulated devices give the numbers of one; impossible meshes are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from prm_jax.errors import UserError
from prm_jax.models import scorer, weights
from prm_jax.parallel import mapper, mesh, plan, sharding
from prm_jax.specs import HeadSpec, ModelSpec

SPEC = ModelSpec(
  vocab_size=32, n_layers=2, d_model=16, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=32
)
HEAD = HeadSpec('linear', 2, init_scale=0.3)
DECLARED = weights.declare(SPEC, HEAD)
KEY = jax.random.key(0)


def batch():
  rng = np.random.default_rng(0)
  return {
    'tokens': rng.integers(0, 32, (16, 12)).astype(np.int32),
    'step_positions': rng.integers(0, 12, (16, 3)).astype(np.int32),
    'labels': rng.integers(0, 2, (16, 3)).astype(np.int32),
    'mask': rng.random((16, 3)) < np.linspace(0.1, 0.9, 16)[:, None],
  }


def make_step(constrain=None, axis_name=None):
  """A step by plain gradient descent; sums travel, and only the step divides."""
  more = {} if constrain is None else {'constrain': constrain}

  def loss_fn(params, b):
    out = scorer.apply(SPEC, HEAD, params, b['tokens'], b['step_positions'], **more)
    picked = jnp.take_along_axis(
      jax.nn.log_softmax(out), b['labels'][..., None], axis=-1
    )
    return -jnp.sum(jnp.where(b['mask'], picked[..., 0], 0)), jnp.sum(b['mask'])

  def step(params, b):
    (loss, weight), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, b)
    if axis_name:
      loss, weight, grads = jax.lax.psum((loss, weight, grads), axis_name)
    grads = jax.tree.map(lambda g: g / weight, grads)
    params = jax.tree.map(lambda p, g: p - 0.5 * g, params, grads)
    return params, {'loss': loss / weight, 'weight': weight}

  return step


@pytest.fixture(scope='module')
def one_device():
  """Losses of three steps and the last parameters, on one device."""
  return run(jax.jit(make_step()), scorer.init(SPEC, HEAD, KEY))


def run(mapped, state):
  losses = []
  for _ in range(3):
    state, metrics = mapped(state, batch())
    losses.append(float(metrics['loss']))
  return losses, jax.device_get(state)


def assert_same(a, b):
  np.testing.assert_allclose(a[0], b[0], rtol=1e-5)
  for x, y in zip(jax.tree.leaves(a[1]), jax.tree.leaves(b[1]), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
  assert a[0][-1] < a[0][0]


@pytest.mark.parametrize(
  'sizes',
  [
    (2, 2, 2),
    *(
      pytest.param(s, marks=pytest.mark.slow) for s in ((8, 1, 1), (1, 8, 1), (1, 4, 2))
    ),
  ],
)
def test_mesh_is_one_device(one_device, sizes):
  m = mesh.make_mesh(*sizes)
  shardings = sharding.param_shardings(m, DECLARED)
  init = lambda key: scorer.init(SPEC, HEAD, key)
  params = sharding.init_sharded(init, shardings, KEY)
  for got, expected in zip(
    jax.tree.leaves(params), jax.tree.leaves(scorer.init(SPEC, HEAD, KEY)), strict=True
  ):
    np.testing.assert_allclose(got, expected, rtol=1e-6)
  wq = params['decoder']['layer_0']['wq_DNH']
  local = wq.addressable_shards[0].data.shape
  assert local == (16 // sizes[1], 4 // sizes[2], 8)
  step = make_step(sharding.constrainer(m))
  mapped = mapper.jit_mapper(step, m, shardings)
  result = run(mapped, mapped.place_state(params))
  assert_same(one_device, result)


@pytest.mark.slow  # a run with pmap is a default test: test_jobs_train.py
def test_pmap_is_one_device(one_device):
  step = make_step(axis_name=mapper.PMAP_AXIS)
  mapped = mapper.pmap_mapper(step)
  state = mapped.place_state(scorer.init(SPEC, HEAD, KEY))
  losses, state = run(mapped, state)
  assert_same(one_device, (losses, mapped.fetch_state(state)))


def test_scanned_layers_have_the_same_shardings():
  m = mesh.make_mesh(1, 4, 2)
  spec = ModelSpec(vocab_size=32, n_layers=3, scan_layers=True)
  tree = sharding.param_shardings(m, weights.declare(spec, HEAD))['decoder']
  stacked = tree['layers']['wo_NHD'].spec
  assert stacked == PartitionSpec(None, 'tensor', None, 'fsdp')
  assert tree['layer_2']['wo_NHD'].spec == PartitionSpec('tensor', None, 'fsdp')


def test_a_mesh_axis_is_used_once_and_fallbacks_are_reported():
  m = mesh.make_mesh(1, 4, 2)
  both = sharding.partition('DD', (16, 16), m)
  assert both == (PartitionSpec('fsdp', None), '')
  # A batch over fsdp leaves nothing for D.
  activations = sharding.partition('BTD', (16, 12, 16), m)[0]
  assert activations == PartitionSpec('fsdp', None, None)
  assert sharding.partition('VD', (31, 16), m)[1] == 'V'
  odd = weights.declare(ModelSpec(vocab_size=31, n_kv_heads=1), HEAD)
  notes = sharding.fallbacks(m, odd)
  assert any('embed_VD: axis V of size 31' in n for n in notes)
  assert any('wk_DKH: axis K of size 1' in n for n in notes)
  assert sharding.fallbacks(m, DECLARED) == []


def test_plan_adds_up():
  m = mesh.make_mesh(1, 4, 2)
  sizes = {'batch_size': 16, 'length': 12, 'n_steps': 3}
  numbers = plan.estimate(SPEC, HEAD, m, **sizes)
  params = sharding.init_sharded(
    lambda key: scorer.init(SPEC, HEAD, key),
    sharding.param_shardings(m, DECLARED),
    KEY,
  )
  here = jax.devices()[0]
  held = sum(
    s.data.nbytes
    for x in jax.tree.leaves(params)
    for s in x.addressable_shards
    if s.device == here
  )
  assert numbers.parameters == held
  assert numbers.optimizer == 2 * held
  text = plan.memory_plan(SPEC, HEAD, m, **sizes)
  assert f'{numbers.total:,}' in text and 'layer_*/wq_DNH' in text
  assert f'{weights.count(DECLARED):,} parameters' in text
  saved = plan.estimate(ModelSpec(**{**vars(SPEC), 'n_layers': 8}), HEAD, m, **sizes)
  remat = ModelSpec(**{**vars(SPEC), 'n_layers': 8, 'remat': 'full'})
  assert plan.estimate(remat, HEAD, m, **sizes).activations < saved.activations / 2


def test_plan_counts_all_solutions_of_a_question():
  m = mesh.make_mesh(0)
  sizes = {'n_steps': 3, 'length': 12}
  shared = {**sizes, 'batch_size': 16, 'members': 4, 'question': 16}
  numbers = plan.estimate(SPEC, HEAD, m, **shared)
  alone = plan.estimate(SPEC, HEAD, m, batch_size=64, **sizes)
  whole = plan.estimate(SPEC, HEAD, m, batch_size=64, n_steps=3, length=28)
  assert alone.activations < numbers.activations < whole.activations
  text = plan.memory_plan(SPEC, HEAD, m, **shared)
  assert '16 rows of 4 solutions of 12 tokens after 16 of a question' in text


@pytest.mark.parametrize(
  'sizes, word', [((3, 1, 1), '8 devices'), ((0, 3, 1), 'product'), ((1, 0, 1), 'fsdp')]
)
def test_impossible_meshes_are_refused(sizes, word):
  with pytest.raises(UserError, match=word):
    mesh.make_mesh(*sizes)


def test_what_a_mesh_cannot_divide_is_refused():
  m = mesh.make_mesh(1, 1, 8)
  with pytest.raises(UserError, match=r'n_heads = 4'):
    mesh.check_fits(m, SPEC, 16)
  m = mesh.make_mesh(0)
  assert m.shape['data'] == 8
  mesh.check_fits(m, SPEC, 16, accumulation=2)
  for size, accumulation in ((12, 1), (24, 2), (0, 1)):
    with pytest.raises(UserError, match='batch_size'):
      mesh.check_fits(m, SPEC, size, accumulation)
  with pytest.raises(UserError, match='pmap'):
    mapper.pmap_mapper(make_step()).place_batch({'tokens': np.zeros((12, 3))})
