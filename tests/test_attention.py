"""Attention in all its arrangements is one attention: blocks, segments, kernels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prm_jax.errors import UserError
from prm_jax.models import attention, decoder, lm
from prm_jax.specs import ModelSpec


def spec_of(**changes):
  sizes = {'n_layers': 2, 'd_model': 16, 'n_heads': 4, 'n_kv_heads': 2, 'head_dim': 8}
  return ModelSpec(40, **{**sizes, 'd_ff': 24, **changes})


def heads(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize('window', [0, 3])
@pytest.mark.parametrize('block', [0, 4])
def test_a_packed_row_is_its_rows_side_by_side(window, block):
  lengths = (5, 1, 7)
  spec = spec_of(query_block=block)
  q, k, v = heads(0, 1, 4, 13, 8), heads(1, 1, 2, 13, 8), heads(2, 1, 2, 13, 8)
  positions = jnp.concatenate([jnp.arange(n) for n in lengths])[None]
  segments = jnp.repeat(jnp.arange(3), jnp.array(lengths))[None]
  parts = [slice(0, 5), slice(5, 6), slice(6, 13)]
  at = jnp.array([[12, 4, 5]])

  @jax.jit
  def run(q, k, v):
    packed = attention.causal(spec, q, k, v, positions, window, segments)
    alone = [
      attention.causal(
        spec, q[:, :, p], k[:, :, p], v[:, :, p], positions[0, p], window
      )
      for p in parts
    ]
    read = attention.attend(
      spec, q[:, :, at[0]], k, v, positions[:, at[0]], positions, window,
      segments[:, at[0]], segments,
    )  # fmt: skip
    return packed, jnp.concatenate(alone, axis=2), read

  packed, alone, read = run(q, k, v)
  np.testing.assert_allclose(packed, alone, atol=1e-6)
  np.testing.assert_allclose(read, packed[:, :, at[0]], atol=1e-6)


@pytest.mark.parametrize(
  'changes',
  [{}, {'window': 3}, {'query_scale': 0.3, 'n_kv_heads': 4}, {'n_kv_heads': 1}],
  ids=str,
)
def test_the_fused_call_gives_the_same_numbers(changes):
  spec = spec_of(query_block=4, **changes)
  fused = dataclasses.replace(spec, attention='xla')
  q, (k, v) = (
    heads(0, 2, 4, 13, 8),
    (heads(i, 2, spec.n_kv_heads, 13, 8) for i in (1, 2)),
  )
  segments = jnp.repeat(jnp.arange(3), jnp.array([5, 1, 7]))[None] * jnp.ones(
    (2, 1), int
  )
  places = jnp.concatenate([jnp.arange(n) for n in (5, 1, 7)])[None] + 0 * segments
  earlier = attention.before((k[:, :, ::-1], v[:, :, ::-1]), jnp.array([4, 13]))
  after = jnp.arange(13)[None] + jnp.array([[4], [13]])
  cases = (
    (jnp.arange(13), spec.window),
    (jnp.arange(13), jnp.int32(spec.window or 99)),
    (places, spec.window, segments),
    (after, spec.window, None, earlier),
  )
  run = lambda s: [attention.causal(s, q, k, v, *case) for case in cases]
  for found, want in zip(*jax.jit(lambda: (run(fused), run(spec)))()):
    np.testing.assert_allclose(found, want, atol=1e-5)


@pytest.mark.slow
def test_a_model_with_the_fused_call():
  spec = spec_of(window=4, windowed_layers=(True, False), scan_layers=True, n_layers=2)
  fused = dataclasses.replace(spec, attention='xla')
  params = lm.init(spec, jax.random.key(0))['decoder']
  tokens = jax.random.randint(jax.random.key(1), (2, 12), 0, 40)
  steps = jnp.array([[3, 11], [7, 0]])
  run = jax.jit(decoder.forward, static_argnums=0)
  np.testing.assert_allclose(
    run(spec, params, tokens, steps), run(fused, params, tokens, steps), atol=1e-5
  )


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'attention': 'flash'}, "'flash'; use one of einsum, xla, cudnn"),
    ({'attention': 'xla', 'attn_softcap': 50.0}, 'has no soft cap'),
    ({'attention': 'cudnn'}, 'not in float32'),
    ({'attention': 'cudnn', 'compute_dtype': 'bfloat16', 'head_dim': 12}, 'with 12'),
  ],
)
def test_what_a_kernel_cannot_do_is_refused(changes, message):
  with pytest.raises(UserError, match=message):
    spec_of(**changes)


def test_cudnn_off_its_device_is_refused():
  spec = spec_of(attention='cudnn', compute_dtype='bfloat16')
  q = heads(0, 1, 4, 3, 8)
  if jax.default_backend() != 'gpu':
    with pytest.raises(UserError, match='needs a GPU'):
      attention.causal(spec, q, q[:, :2], q[:, :2], jnp.arange(3))
