"""The decoder: what it may see, and that every way to run it is the same model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prm_jax.errors import UserError
from prm_jax.models import attention, decoder, layers, lm, rope, scorer, weights
from prm_jax.specs import HeadSpec, ModelSpec

B, T, P = 2, 12, 3
SPEC = ModelSpec(
  vocab_size=31, n_layers=3, d_model=16, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=24
)
HEAD = HeadSpec(init_scale=0.3)
TOKENS = np.random.default_rng(0).integers(0, 31, (B, T)).astype(np.int32)
STEPS = np.array([[3, 7, 11], [0, 5, 9]], np.int32)


@pytest.fixture(scope='module')
def params():
  return scorer.init(SPEC, HEAD, jax.random.key(0))


def change(**changes) -> ModelSpec:
  return dataclasses.replace(SPEC, **changes)


def scores(spec, params, tokens=TOKENS, steps=STEPS, head=HEAD, **kw):
  # One compiled program instead of hundreds of single operations.
  f = jax.jit(lambda p, key=None: scorer.apply(spec, head, p, tokens, steps, key=key))
  return f(params, **kw)


def value_and_grad(spec, params):
  def f(p):
    return jnp.sum(jnp.sin(scores(spec, p)))

  return jax.jit(jax.value_and_grad(f))(params)


def assert_trees_close(a, b, rtol=1e-4, atol=1e-5):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


@pytest.mark.parametrize('last_only', [False, True])
def test_causality_by_gradient(params, last_only):
  """The state of position 6 has a gradient at tokens 0..6 and none after."""
  p = params['decoder']
  embedded = p['embed_VD'][TOKENS[0]]

  def f(rows):
    # Each position is its own vocabulary entry, so its gradient is its own row.
    at = jnp.full((1, 1), 6, jnp.int32) if last_only else None
    ids = jnp.arange(T, dtype=jnp.int32)[None]
    out = decoder.forward(change(vocab_size=T), {**p, 'embed_VD': rows}, ids, at)
    return jnp.sum(out[0, 0 if last_only else 6] ** 3)

  norms = np.linalg.norm(jax.jit(jax.grad(f))(embedded), axis=-1)
  assert (norms[:7] > 0).all()
  assert (norms[7:] == 0).all()


def test_right_padding_changes_nothing(params):
  padded = np.concatenate([TOKENS, np.full((B, 4), 30, np.int32)], axis=1)
  expected = scores(SPEC, params)
  np.testing.assert_allclose(scores(SPEC, params, padded), expected, atol=2e-6)


def test_steps_only_in_last_layer_is_the_full_forward_gathered(params):
  forward = jax.jit(lambda p, at: decoder.forward(SPEC, p, TOKENS, at))
  full = forward(params['decoder'], None)
  at_steps = forward(params['decoder'], STEPS)
  expected = np.take_along_axis(np.asarray(full), STEPS[:, :, None], axis=1)
  np.testing.assert_allclose(at_steps, expected, atol=2e-6)


@pytest.mark.slow
def test_scan_is_unrolled(params):
  scanned = change(scan_layers=True)
  stacked = weights.stack_layers(params)
  assert_trees_close(weights.unstack_layers(stacked), params, 0, 0)
  # Init depends on names and keys alone, so it is the same too.
  made = scorer.init(scanned, HEAD, jax.random.key(0))
  assert_trees_close(made, stacked, 1e-6, 1e-7)
  (a, da), (b, db) = value_and_grad(SPEC, params), value_and_grad(scanned, stacked)
  np.testing.assert_allclose(a, b, rtol=1e-5)
  assert_trees_close(weights.stack_layers(da), db)
  # One scan, and every layer but the last inside it.
  jaxpr = str(jax.make_jaxpr(lambda p: scores(scanned, p))(stacked))
  assert jaxpr.count('scan[') == 1 and 'length=2' in jaxpr


def test_scan_with_mixed_windows_is_unrolled(params):
  mixed = {'window': 4, 'windowed_layers': (True, False, True), 'rope_theta_local': 9.0}
  a = scores(change(**mixed), params)
  b = scores(change(**mixed, scan_layers=True), weights.stack_layers(params))
  np.testing.assert_allclose(a, b, atol=2e-6)
  assert np.abs(a - scores(SPEC, params)).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize('remat', ['full', 'dots'])
@pytest.mark.parametrize('scan', [False, True])
def test_remat_is_no_remat(params, remat, scan):
  plain, saved = change(scan_layers=scan), change(scan_layers=scan, remat=remat)
  p = weights.stack_layers(params) if scan else params
  assert_trees_close(value_and_grad(plain, p), value_and_grad(saved, p))
  jaxpr = str(jax.make_jaxpr(lambda q: scores(saved, q))(p))
  assert 'remat' in jaxpr or 'checkpoint' in jaxpr


@pytest.mark.slow
@pytest.mark.parametrize('window', [0, 3])
def test_query_blocks_are_one_block(params, window):
  one, many = change(window=window), change(window=window, query_block=5)
  (a, da), (b, db) = value_and_grad(one, params), value_and_grad(many, params)
  np.testing.assert_allclose(a, b, rtol=1e-5)
  assert_trees_close(da, db)
  # The first of three blocks sees 5 keys only (the last layer has one block).
  assert f'{B},2,10,5]' in str(jax.make_jaxpr(lambda p: scores(many, p))(params))


def oracle_attention(q, k, v, q_positions, window, cap, scale):
  """Grouped attention over repeated heads, one number at a time, in float64."""
  k, v = (np.repeat(x, q.shape[1] // k.shape[1], axis=1) for x in (k, v))
  out = np.zeros(q.shape)
  for b, n, t in np.ndindex(*q.shape[:3]):
    position = q_positions[b, t]
    first = max(0, position - window + 1) if window else 0
    keys = range(first, position + 1)
    s = np.array([q[b, n, t] @ k[b, n, j] for j in keys]) * scale
    s = cap * np.tanh(s / cap) if cap else s
    e = np.exp(s - s.max())
    out[b, n, t] = sum(w * v[b, n, j] for w, j in zip(e / e.sum(), keys))
  return out


@pytest.mark.parametrize('window, cap, scale', [(0, 0.0, 0.0), (3, 1.5, 0.7)])
def test_attention_against_oracle(window, cap, scale):
  rng = np.random.default_rng(1)
  q = rng.normal(size=(B, 4, P, 8)).astype(np.float32) * 2
  k, v = (rng.normal(size=(B, 2, T, 8)).astype(np.float32) for _ in range(2))
  spec = change(attn_softcap=cap, query_scale=scale)
  actual = attention.attend(spec, q, k, v, jnp.asarray(STEPS), jnp.arange(T), window)
  expected = oracle_attention(q, k, v, STEPS, window, cap, scale or 8**-0.5)
  np.testing.assert_allclose(actual, expected, atol=3e-6)


def test_softmax_gradient_is_that_of_jax():
  x, g = np.random.default_rng(4).normal(size=(2, 3, 7)).astype(np.float32)
  seen = np.tri(3, 7, 2, dtype=bool)
  ours, pull = jax.vjp(lambda x: attention.softmax(x, seen), x)
  theirs, pull_theirs = jax.vjp(lambda x: jax.nn.softmax(x, where=seen), x)
  np.testing.assert_allclose(ours, theirs, atol=1e-6)
  np.testing.assert_allclose(pull(g)[0], pull_theirs(g)[0], atol=1e-6)
  nothing, pull = jax.vjp(lambda x: attention.softmax(x, seen & False), x)
  assert np.isfinite(nothing).all() and np.isfinite(pull(g)[0]).all()


def test_bfloat16_compute_is_close(params):
  exact = scores(SPEC, params)
  close = scores(change(compute_dtype='bfloat16'), params)
  assert close.dtype == jnp.float32
  np.testing.assert_allclose(close, exact, atol=0.05)
  assert np.abs(close - exact).max() > 0


def test_rope_is_relative_and_scaled():
  q, k = np.random.default_rng(2).normal(size=(2, 1, 1, 1, 8)).astype(np.float32)

  def product(i, j):
    a, b = (
      rope.rotate(x, rope.rotation(SPEC, jnp.array([p]), False))
      for x, p in ((q, i), (k, j))
    )
    return float(jnp.sum(a * b))

  assert product(3, 1) == pytest.approx(product(13, 11), abs=1e-5)
  assert product(3, 1) != pytest.approx(product(3, 2), abs=1e-3)
  plain = rope.frequencies(16, 1e4, ())
  np.testing.assert_allclose(rope.frequencies(16, 1e4, ('linear', 4.0)), plain / 4)
  llama = rope.frequencies(16, 1e4, ('llama3', 8.0, 1.0, 4.0, 64))
  assert llama[0] == plain[0] and llama[-1] == plain[-1] / 8
  assert ((llama <= plain) & (llama >= plain / 8)).all()


def test_yarn_against_hand_computed_ramp():
  """H = 16, base 1e4, original 512: pairs turn 81 to .026 times in 512 positions.

  beta_fast = 32 turns lies at index 8 log(512 / 64 pi) / log(1e4) = 0.81, beta_slow
  = 1 at 3.82, so the ramp runs from 0 to 4.
  """
  scaling = ('yarn', 4.0, 512, 32.0, 1.0, 0.0)
  plain = rope.frequencies(16, 1e4, ())
  share = np.array([0, 0.25, 0.5, 0.75, 1, 1, 1, 1])
  np.testing.assert_allclose(
    rope.frequencies(16, 1e4, scaling), plain * (1 - share) + plain / 4 * share
  )
  turn = rope.rotation(change(rope_scaling=scaling), jnp.array([0]), False)
  np.testing.assert_allclose(turn.cos, 0.1 * np.log(4.0) + 1, rtol=1e-6)
  given = change(rope_scaling=(*scaling[:-1], 1.25))
  np.testing.assert_allclose(rope.rotation(given, jnp.array([0]), False).cos, 1.25)


@pytest.mark.parametrize(
  'head, shape',
  [
    (HeadSpec('scalar'), (B, P)),
    (HeadSpec('linear', 2), (B, P, 2)),
    (HeadSpec('linear', 3, bias=False), (B, P, 3)),
    (HeadSpec('mlp', 2), (B, P, 2)),
    (HeadSpec('label_tokens', label_tokens=(4, 9)), (B, P, 2)),
    (HeadSpec('lm'), (B, P, 31)),
  ],
)
@pytest.mark.parametrize('tied', [True, False])
def test_heads(head, shape, tied):
  spec = change(n_layers=1, tied_embeddings=tied)
  p = scorer.init(spec, head, jax.random.key(1))
  out = scores(spec, p, head=head)
  assert out.shape == shape and out.dtype == jnp.float32
  assert np.isfinite(out).all()
  assert np.abs(out).max() > 0


def test_label_tokens_are_entries_of_the_lm_logits():
  spec = change(n_layers=1, final_softcap=2.0)
  p = lm.init(spec, jax.random.key(1))
  logits = jax.jit(lambda p: lm.apply(spec, p, TOKENS))(p)
  assert logits.shape == (B, T, 31) and np.abs(logits).max() <= 2.0
  two = HeadSpec('label_tokens', label_tokens=(9, 4))
  expected = np.take_along_axis(np.asarray(logits), STEPS[:, :, None], 1)[..., [9, 4]]
  np.testing.assert_allclose(scores(spec, p, head=two), expected, atol=2e-6)


def test_dropout_only_with_a_key(params):
  head = dataclasses.replace(HEAD, dropout=0.5)
  plain, key = scores(SPEC, params, head=head), jax.random.key(3)
  np.testing.assert_array_equal(plain, scores(SPEC, params))
  first = scores(SPEC, params, head=head, key=key)
  np.testing.assert_array_equal(first, scores(SPEC, params, head=head, key=key))
  assert np.abs(first - plain).max() > 1e-3
  x = layers.dropout(jnp.ones((100, 100)), 0.3, key)
  assert float(x.mean()) == pytest.approx(1.0, abs=0.03)


def test_declaration_counts_and_module_init():
  spec = change(attention_bias=True, qk_norm=True, post_norms=True)
  head = HeadSpec('mlp', 2)
  d, n, k, h, f, v, layers = 16, 4, 2, 8, 24, 31, 3
  a_layer = 2 * d * n * h + 2 * d * k * h + 3 * d * f  # matrices
  a_layer += n * h + 2 * k * h + 2 * h + 4 * d  # biases, q/k norms, norms
  declared = weights.declare(spec, head)
  expected = v * d + layers * a_layer + d + d * d + d + 2 * d + 2
  assert weights.count(declared) == expected
  assert f'{expected:,}' in weights.table(declared)
  module = scorer.ScoringModel(spec, head)
  init = lambda key: module.init(key, TOKENS, STEPS)['params']
  own = jax.eval_shape(init, jax.random.key(0))
  made = scorer.init(spec, head, jax.random.key(0))
  for tree in (own, weights.abstract(declared)):
    assert jax.tree.structure(tree) == jax.tree.structure(made)
    assert jax.tree.map(jnp.shape, tree) == jax.tree.map(jnp.shape, made)
  weights.check(made, declared, 'here')


def test_unknown_token_surfaces_as_nan(params):
  tokens = TOKENS.copy()
  tokens[0, 2] = 31
  out = scores(SPEC, params, tokens)
  assert np.isnan(out[0]).all() and np.isfinite(out[1]).all()


def test_wrong_weights_are_named(params):
  declared = weights.declare(SPEC, HEAD)
  head = params['head']
  for changed, word in (
    ({}, 'missing'),
    ({**head, 'extra': head['bout_Q']}, 'head/extra'),
    ({**head, 'bout_Q': jnp.zeros(3)}, r'\(3,\)'),
  ):
    with pytest.raises(UserError, match=word):
      weights.check({**params, 'head': changed}, declared, 'checkpoint X')


@pytest.mark.parametrize(
  'changes, word',
  [
    ({'n_kv_heads': 3}, 'multiple'),
    ({'head_dim': 7}, 'even'),
    ({'activation': 'relu'}, 'silu'),
    ({'windowed_layers': (True,)}, 'entries'),
    ({'rope_scaling': ('ntk', 2.0)}, 'llama3'),
    ({'rope_scaling': ('llama3', 2.0)}, '4 numbers'),
    ({'rope_scaling': ('linear', 0.0)}, 'positive numbers'),
    ({'rope_scaling': ('yarn', 4.0, 0, 32, 1, 0.0)}, 'positive numbers'),
    ({'rope_scaling': ('llama3', 8.0, 4.0, 4.0, 64)}, 'high_freq_factor'),
    (
      {'rope_scaling': ('yarn', 4.0, 16, 32, 1, 0.0), 'rope_theta': 1.0},
      'rope_theta is 1',
    ),
    ({'rope_theta': 0.0}, 'rope_theta is 0'),
    ({'rope_theta_local': -1.0}, 'rope_theta_local is -1'),
    ({'remat': 'all'}, 'dots'),
    ({'param_dtype': 'int8'}, 'bfloat16'),
    ({'d_model': 0}, 'at least 1'),
  ],
)
def test_impossible_models_are_refused(changes, word):
  with pytest.raises(UserError, match=word):
    change(**changes)
