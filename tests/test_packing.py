"""Packed rows: every solution once an epoch, and the numbers of rows of their own."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from often import often
from test_data_batches import make_cache

from prm_jax.data import assembly, epoch_plan, packing, token_cache
from prm_jax.data.batches import Batches
from prm_jax.errors import UserError
from prm_jax.formats import tokenizers
from prm_jax.models import decoder, lm, scorer, weights
from prm_jax.objectives import registry
from prm_jax.parallel import mapper, mesh, sharding
from prm_jax.records import Trajectory
from prm_jax.specs import HeadSpec, ModelSpec, TextFormat
from prm_jax.training import optimizer, state, step

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=60).map(np.array)


@st.composite
def corpora(draw):
  """Lengths, steps, sources and weights of a corpus, and lengths of rows."""
  lengths = draw(LENGTHS)
  n_steps = np.array([draw(st.integers(1, int(n))) for n in lengths])
  sources = np.array([draw(st.integers(0, 2)) for _ in lengths])
  weights = [draw(st.sampled_from((0.0, 0.3, 1.0, 1.7, 2.0))) for _ in range(3)]
  more = draw(st.lists(st.integers(1, 80), max_size=2))
  pack_lengths = (*more, int(lengths.max()) + draw(st.integers(0, 50))) if more else ()
  return lengths, n_steps, sources, weights, pack_lengths


@settings(deadline=None, max_examples=150)
@given(corpora(), st.integers(1, 5), st.integers(0, 3))
def test_every_solution_as_often_as_its_source_weighs(corpus, batch_size, seed):
  lengths, n_steps, sources, weights, pack_lengths = corpus
  given_ = {'source_index': sources, 'source_weights': weights}
  want = [
    epoch_plan.n_drawn(int((sources == s).sum()), w) for s, w in enumerate(weights)
  ]
  make = lambda: packing.pack(lengths, n_steps, pack_lengths=pack_lengths, **given_)
  if not sum(want):
    with pytest.raises(UserError, match='leave no row'):
      make()
    return
  packed = make()
  for epoch in (0, 1):
    plan = packing.plan(
      packed, seed, epoch, lengths, n_steps, batch_size=batch_size, **given_
    )
    again = packing.plan(
      make(), seed, epoch, lengths, n_steps, batch_size=batch_size, **given_
    )
    np.testing.assert_array_equal(plan.rows, again.rows)
    np.testing.assert_array_equal(plan.lengths, again.lengths)
    assert len(plan) == packed.n_batches(batch_size)
    rows = plan.rows[plan.rows >= 0]
    times = np.bincount(rows, minlength=len(lengths))
    for s, drawn in enumerate(want):
      mine = times[sources == s]
      assert mine.sum() == drawn
      if len(mine):
        assert set(mine) <= {drawn // len(mine), -(-drawn // len(mine))}
    reads = dict(zip(packed.lengths, packed.n_reads))
    for i in range(len(plan)):
      batch = plan[i]
      there = batch.rows >= 0
      assert there.any()
      held = np.where(there, batch.rows, 0)
      assert np.where(there, lengths[held], 0).sum(axis=1).max() <= batch.length
      assert np.where(there, n_steps[held], 0).sum(axis=1).max() <= reads[batch.length]
      assert (np.sort(there, axis=1)[:, ::-1] == there).all()  # filled from the left


def test_a_fraction_is_drawn_evenly():
  """Of 5 solutions 2 an epoch, of other lengths each: all are equally likely."""
  lengths, n_steps = np.array([9, 3, 7, 5, 1]), np.array([1, 3, 1, 2, 1])
  packed = packing.pack(lengths, n_steps, source_weights=(0.4,))
  times = np.zeros(5, int)
  for epoch in range(500):
    rows = packing.plan(
      packed, 0, epoch, lengths, n_steps, batch_size=1, source_weights=(0.4,)
    ).rows
    times += np.bincount(rows[rows >= 0], minlength=5)
  assert times.sum() == 1000 and abs(times - 200).max() < 45


def test_a_row_holds_so_many_solutions_and_no_more():
  pieces, kinds = packing.best_fit(np.ones(10, int), [100], 3)
  assert pieces.shape == (4, 3) and kinds.tolist() == [0] * 4
  assert sorted(pieces[pieces >= 0].tolist()) == list(range(10))


def test_little_room_is_left_and_rows_are_refused():
  rng = np.random.default_rng(0)
  lengths = np.minimum(rng.lognormal(5, 0.5, 5000).astype(int) + 20, 600)
  packed = packing.pack(lengths, lengths // 20)
  assert lengths.sum() > 0.96 * sum(
    t * len(r) for t, r in zip(packed.lengths, packed.rows)
  )
  assert packed.lengths == (600,)
  with pytest.raises(UserError, match=r'data.pack_lengths=\(512,\).*at least 600'):
    packing.pack(lengths, lengths // 20, pack_lengths=(512,))
  with pytest.raises(UserError, match='whole numbers'):
    packing.pack(lengths, lengths // 20, pack_lengths=(0, 600))
  with pytest.raises(UserError, match='whole numbers of tokens'):
    packing.pack(lengths, lengths // 20, pack_lengths=('a', 600))
  with pytest.raises(UserError, match='batch_size=0'):
    packed.n_batches(0)


@pytest.fixture(scope='module')
def cache():
  return make_cache()


OPTIONS = {'packing': True, 'pack_lengths': (30, 64)}


def test_batches_hold_what_the_cache_holds(cache):
  batches = Batches(cache, seed=1, batch_size=4, **OPTIONS)
  assert {t for t, _ in batches.shapes} == {30, 64}
  seen = []
  for number in range(batches.n_batches):
    batch, rows = batches[number], batches.rows(number).rows
    length = batches.rows(number).length
    t, s = batch['tokens'].shape[1], batch['step_positions'].shape[1]
    assert (t, s) in batches.shapes and t == length
    for b, c in np.ndindex(rows.shape):
      mine = batch['segments'][b] == c + 1
      r = rows[b, c]
      if r < 0:
        assert not mine.any()
        for name, x in batch.items():
          if name not in ('tokens', 'segments', 'step_positions'):
            assert not x[b, c].any(), name
        continue
      seen.append(int(r))
      text = cache.tokens[cache.offsets[r] : cache.offsets[r + 1]]
      assert batch['tokens'][b, mine].tolist() == text.tolist()
      here = slice(cache.step_offsets[r], cache.step_offsets[r + 1])
      p = here.stop - here.start
      at = batch['step_positions'][b, batch['step_index'][b, c, :p]]
      assert (at - np.flatnonzero(mine)[0]).tolist() == (
        cache.step_positions[here].tolist()
      )
      for name in ('labels', 'mask', 'weights'):
        assert batch[name][b, c, :p].tolist() == getattr(cache, name)[here].tolist()
        assert not batch[name][b, c, p:].any()
      assert batch['steps_mask'][b, c].sum() == p
      for name in ('outcome', 'outcome_mask', 'problem_index', 'problem_weight'):
        assert batch[name][b, c] == getattr(cache, name)[r]
    assert (batch['tokens'][batch['segments'] == 0] == cache.pad_id).all()
  assert sorted(seen) == list(range(cache.n_rows))
  with pytest.raises(UserError, match='no effect without packing'):
    Batches(cache, seed=1, batch_size=4, pack_lengths=(64,))
  used = batches.usage
  assert used.tokens == cache.lengths.sum() and used.solutions == cache.n_rows
  assert 'padding' in str(used) and 'row' in batches.describe(2)


def test_processes_feed_parts_of_one_batch(cache):
  whole = Batches(cache, seed=2, batch_size=4, **OPTIONS)
  parts = [
    Batches(cache, seed=2, batch_size=4, process_index=i, process_count=2, **OPTIONS)
    for i in range(2)
  ]
  for number in (0, 3, whole.n_batches + 1):
    for name, x in whole[number].items():
      both = np.concatenate([p[number][name] for p in parts])
      np.testing.assert_array_equal(x, both, err_msg=name)


SPEC = ModelSpec(
  260, n_layers=3, d_model=16, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=24,
  tied_embeddings=True, param_dtype='float32', compute_dtype='float32', query_block=48,
)  # fmt: skip
SPECS = {
  'plain': SPEC,
  'gemma': dataclasses.replace(
    SPEC,
    window=6,
    windowed_layers=(True, False, True),
    scan_layers=True,
    qk_norm=True,
    attn_softcap=5.0,
    final_softcap=9.0,
    post_norms=True,
    rope_theta_local=500.0,
    rope_scaling=('yarn', 4.0, 16.0, 32.0, 1.0, 0.0),
  ),
}


def policy_cache():
  rng = np.random.default_rng(1)
  text = lambda n: ''.join(map(chr, rng.integers(97, 123, n)))
  rows = [
    Trajectory(f'r{i}', f'p{i % 3}', text(rng.integers(1, 5)),
               tuple(text(rng.integers(1, 9)) for _ in range(rng.integers(1, 5))))
    for i in range(24)
  ]  # fmt: skip
  return token_cache.build(rows, TextFormat(), tokenizers.load('bytes'), '', require=())


def pair(cache, of):
  """The same solutions packed, and one a row."""
  batches = Batches(
    cache, seed=0, batch_size=4, of=of, packing=True, pack_lengths=(96,)
  )
  rows = batches.rows(1).rows
  assert (rows >= 0).sum() > len(rows) and (rows < 0).any()
  alone = {'steps': assembly.steps, 'tokens': assembly.tokens}[of]
  packed = batches[1]
  most = packed['step_index'].shape[2] if of == 'steps' else 0
  return packed, alone(cache, rows.ravel(), int(cache.lengths.max()), most)


@functools.cache
def learned(spec_name, head_name):
  """Packed and alone: the batch, outputs, and what pulls their gradient back."""
  spec = SPECS[spec_name]
  of = 'tokens' if head_name == 'lm' else 'steps'
  cache = policy_cache() if head_name == 'lm' else make_cache()
  key = jax.random.key(0)
  if head_name == 'lm':
    params = lm.init(spec, key)
    apply = step.apply_policy(spec)
  else:
    head = HeadSpec(kind='linear', n_outputs=3, init_scale=0.3)
    params = scorer.init(spec, head, key)
    apply = step.apply_scoring_model(spec, head)

  found = []
  for batch in pair(cache, of):
    run = jax.jit(lambda p, batch=batch: jax.vjp(lambda p: apply(p, batch, key), p))
    outputs, back = run(params)
    found.append((batch, outputs, functools.partial(_PULL, back)))
  return found


_PULL = jax.jit(lambda back, gradient: back(gradient)[0])


@pytest.mark.slow
@pytest.mark.parametrize(
  'spec_name', ['gemma', pytest.param('plain', marks=pytest.mark.slow)]
)
def test_probabilities(spec_name):
  (packed, of_packed, _), (alone, of_alone, _) = learned(spec_name, 'steps')
  read = np.take_along_axis(
    np.asarray(of_packed)[:, None, :, 0], packed['step_index'], axis=2
  )
  there = alone['steps_mask']
  np.testing.assert_array_equal(packed['steps_mask'].reshape(there.shape), there)
  packed_p = jax.nn.sigmoid(read.reshape(there.shape)[there])
  alone_p = jax.nn.sigmoid(np.asarray(of_alone)[there][:, 0])
  assert np.std(alone_p) > 0.01
  np.testing.assert_allclose(packed_p, alone_p, atol=1e-5, rtol=0)


UNITS = {'td': ('trajectory', 'problem'), 'next_token': ('trajectory', 'problem')}
CASES = [
  ('gemma', name, unit)
  for name, o in registry.OBJECTIVES.items()
  for unit in (o.unit, *UNITS.get(name, ()))
]
CASES += [('plain', 'td', 'step'), ('plain', 'q_ranking', 'trajectory')]


@pytest.mark.parametrize(
  'spec_name,name,unit', often(CASES, ('plain', 'q_ranking', 'trajectory'))
)
def test_packed_equals_unpacked(spec_name, name, unit):
  """Loss, weight and gradient of every objective on the same solutions."""
  objective = registry.OBJECTIVES[name]
  head = 'lm' if objective.trains_policy else 'steps'
  losses, gradients = [], []
  for batch, outputs, pull in learned(spec_name, head):

    def loss(outputs, batch=batch):
      if not objective.trains_policy:
        outputs = outputs[..., : objective.outputs[0]]
      return registry.evaluate(name, outputs, batch, unit=unit)

    (total, weight), back = jax.vjp(loss, outputs)
    assert float(weight) > 0
    losses.append((float(total), float(weight)))
    gradients.append(pull(back((jnp.ones(()), jnp.zeros(())))[0]))
  np.testing.assert_allclose(*losses, rtol=2e-5)
  norm = float(optax.tree.norm(gradients[1]))
  apart = float(optax.tree.norm(jax.tree.map(jnp.subtract, *gradients)))
  assert norm > 0 and apart < 1e-4 * norm


def test_a_unit_that_is_unknown_is_refused():
  packed_rows = {'segments': jnp.zeros((1, 4), jnp.int32)}
  with pytest.raises(UserError, match="unit='step' is unknown to next_token"):
    registry.evaluate('next_token', jnp.zeros((1, 4, 5)), packed_rows, unit='step')


def test_rows_of_one_text_need_no_segments():
  """Without segments nothing of them is computed; alone in its row a text is itself."""
  args = jnp.zeros((2, 12), jnp.int32), jnp.zeros((2, 3), jnp.int32)
  params = scorer.init(SPEC, HeadSpec(), jax.random.key(0))
  trace = lambda **kw: str(
    jax.make_jaxpr(lambda p: decoder.forward(SPEC, p['decoder'], *args, **kw))(params)
  )
  assert 'cummax' not in trace() and 'cummax' in trace(segments=args[0])
  assert len(trace()) < len(trace(segments=args[0]))


WAYS = {'fsdp_tensor': (2, 2, 2), 'accumulated': (2, 1, 1), 'pmap': None}


def losses_of(way, batches, n=3, **options):
  """Losses and gradient norms of the first steps, spread over devices in one way."""
  head = HeadSpec()
  init = functools.partial(scorer.init, SPEC, head)
  tx = optimizer.make(optimizer.OptimizerConfig(warmup_steps=1, horizon=9))[0]
  make = functools.partial(
    step.make_train_step, step.apply_scoring_model(SPEC, head),
    functools.partial(registry.evaluate, 'q_ranking'), tx, **options,
  )  # fmt: skip
  key = jax.random.key(0)
  if way == 'pmap':
    mapped: Any = mapper.pmap_mapper(make(axis_name=mapper.PMAP_AXIS))
    now = mapped.place_state(state.init(init, tx, key))
  else:
    sizes = WAYS.get(way, (1, 1, 1))
    where = mesh.make_mesh(*sizes, devices=jax.devices()[: math.prod(sizes)])
    places = sharding.param_shardings(where, weights.declare(SPEC, head))
    shardings = state.shardings(init, tx, places, where)
    mapped = mapper.jit_mapper(make(), where, shardings)
    now = state.init_sharded(init, tx, shardings, key)
  found = []
  for number in range(n):
    now, metrics = mapped(now, batches[number])
    found.append([float(metrics[k]) for k in ('loss', 'weight', 'grad_norm')])
  return found


@pytest.fixture(scope='module')
def one_device(cache):
  batches = Batches(cache, seed=0, batch_size=8, packing=True, pack_lengths=(96,))
  return batches, losses_of('one', batches)


@pytest.mark.slow
@pytest.mark.parametrize(
  'way',
  [
    'accumulated',
    *(pytest.param(w, marks=pytest.mark.slow) for w in ('fsdp_tensor', 'pmap')),
  ],
)
def test_any_devices_and_microbatches_give_one_number(way, one_device):
  batches, want = one_device
  found = losses_of(way, batches, accumulation=2 if way == 'accumulated' else 1)
  np.testing.assert_allclose(found, want, rtol=2e-5)
