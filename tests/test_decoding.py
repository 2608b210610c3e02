"""Caches give the logits of the full forward pass, whatever the architecture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from often import often

from prm_jax.models import attention, decoder, decoding, lm, weights
from prm_jax.specs import ModelSpec

VARIANTS = {
  'plain': {},
  'grouped': {'n_kv_heads': 2, 'qk_norm': True},
  'one_kv_head': {'n_kv_heads': 1, 'attention_bias': True, 'tied_embeddings': False},
  'windows': {'window': 5, 'windowed_layers': (True, False)},
  'local_base': {'window': 7, 'rope_theta_local': 100.0, 'post_norms': True},
  'caps': {'attn_softcap': 10.0, 'final_softcap': 5.0, 'query_scale': 0.4},
  'scaled': {'rope_scaling': ('llama3', 4.0, 1.0, 4.0, 16), 'activation': 'gelu_tanh'},
  'gemma': {'norm_offset': 1.0, 'embed_scale': 4.0, 'post_norms': True, 'window': 9},
  'blocks': {'query_block': 4},
  'scanned': {
    'n_layers': 3,
    'scan_layers': True,
    'window': 5,
    'windowed_layers': (True, False, True),
  },
}


def spec_of(**changes):
  sizes = {'n_layers': 2, 'd_model': 16, 'n_heads': 4, 'n_kv_heads': 4, 'head_dim': 8}
  return ModelSpec(40, **{**sizes, 'd_ff': 24, **changes})


def random(spec):
  rng = np.random.default_rng(0)
  noise = lambda w: w + 0.1 * rng.normal(size=w.shape).astype(np.float32)
  return jax.tree.map(noise, lm.init(spec, jax.random.key(0)))


def largest_error(spec, params, n_new, shared_length, n_shared=16, vocabulary=40):
  """Largest difference of decoding n_new tokens from the full forward pass."""
  u, c = shared_length.shape
  total = n_shared + n_new
  # Members of a group begin alike and then part, each with a text of its own.
  common = jax.random.randint(jax.random.key(2), (u, 1, total), 0, vocabulary)
  apart = jax.random.randint(jax.random.key(3), (u, c, total), 0, vocabulary)
  places = jnp.arange(total)[None, None]
  texts = jnp.where(places < shared_length[..., None], common, apart)
  apply = jax.jit(lm.apply, static_argnums=0)
  full = apply(spec, params, texts.reshape(u * c, total)).reshape(u, c, total, -1)
  prefill = jax.jit(decoding.prefill, static_argnums=0)
  shared = prefill(spec, params, common[:, 0, :n_shared])
  own = decoding.own_caches(spec, u, c, -(-n_new // 32) * 32, None)
  step = jax.jit(decoding.decode_step, static_argnums=0)
  worst = 0.0
  for i in range(n_new):
    at = shared_length + i
    tokens = jnp.take_along_axis(texts, at[..., None], 2)[..., 0]
    logits, own = step(spec, params, tokens, at, shared, shared_length, own)
    want = jnp.take_along_axis(full, at[..., None, None], 2)[:, :, 0]
    worst = max(worst, float(jnp.abs(logits - want).max()))
  return worst


# Those that differ most from each other by default, all of them with the slow tests.
@pytest.mark.parametrize('name', often(VARIANTS, 'grouped', 'scanned'))
def test_equals_the_full_forward(name):
  spec = spec_of(**VARIANTS[name])
  shared_length = jnp.array([[3, 9, 0], [15, 1, 7]], jnp.int32)
  assert largest_error(spec, random(spec), 40, shared_length) < 1e-4


def test_several_tokens_at_once():
  spec = spec_of(n_kv_heads=2, window=6)
  params = random(spec)
  texts = jax.random.randint(jax.random.key(2), (2, 30), 0, 40)
  shared = jax.jit(decoding.prefill, static_argnums=0)(spec, params, texts[:, :16])
  shared_length = jnp.array([[12], [5]], jnp.int32)
  own = decoding.own_caches(spec, 2, 1, 32, None)
  tokens = jnp.stack([texts[:1, 12:20], texts[1:, 5:13]])
  extend = jax.jit(decoding.extend, static_argnums=0)
  whole, _ = extend(spec, params, tokens, shared_length, shared, shared_length, own)
  first, own = extend(
    spec, params, tokens[..., :4], shared_length, shared, shared_length, own
  )
  rest, _ = extend(
    spec, params, tokens[..., 4:], shared_length + 4, shared, shared_length, own
  )
  parts = jnp.concatenate([first, rest], axis=2)
  np.testing.assert_allclose(whole, parts, atol=1e-5)
  full = jax.jit(decoder.forward, static_argnums=0)(spec, params['decoder'], texts)
  want = jnp.stack([full[:1, 12:20], full[1:, 5:13]])
  np.testing.assert_allclose(whole, want, atol=1e-4)


def test_blocks_that_a_member_has_not_reached_change_no_bit():
  spec = spec_of(n_kv_heads=2)
  key = jax.random.key(0)
  q, k, v = (
    jax.random.normal(key, (1, 2, n, s, 8)) for n, s in ((4, 1), (2, 96), (2, 96))
  )
  shared = tuple(jax.random.normal(key, (1, 2, 16, 8)) for _ in range(2))
  length = jnp.array([[7, 0]], jnp.int32)
  read = lambda far: attention.forked(
    spec, q, length[..., None] + jnp.array([[[5], [far]]]), shared, length, (k, v)
  )
  near, far = read(3), read(90)
  assert (near[0, 0] == far[0, 0]).all()
  assert not jnp.allclose(near[0, 1], far[0, 1])


def test_room_for_shared_keys_that_no_member_reads_changes_no_bit():
  spec = spec_of(n_kv_heads=2)
  key = jax.random.key(0)
  normal = lambda *shape: jax.random.normal(key, shape)
  q, own = normal(1, 2, 4, 1, 8), (normal(1, 2, 2, 32, 8),) * 2
  texts = normal(1, 2, 192, 8)

  @jax.jit
  def read(keys, length):
    at = length[..., None] + jnp.array([[[5], [9]]])
    return attention.forked(spec, q, at, (keys, keys), length, own)

  near, far = jnp.array([[61, 0]], jnp.int32), jnp.array([[61, 190]], jnp.int32)
  alone = read(texts[:, :, :64], near)
  assert (read(texts, near) == alone).all()
  assert (read(texts, far)[0, 0] == alone[0, 0]).all()
  whole = read(texts[:, :, :191], far)  # no multiple of a block: read at once
  np.testing.assert_allclose(read(texts, far), whole, atol=1e-6)


def test_stacked_weights_are_the_same_layers():
  spec = spec_of(n_layers=3, scan_layers=True)
  params = lm.init(spec, jax.random.key(0))
  flat = weights.unstack_layers(params)
  for i, w in enumerate(decoding.layer_weights(spec, params)):
    for name, value in w.items():
      assert (value == flat['decoder'][f'layer_{i}'][name]).all()
