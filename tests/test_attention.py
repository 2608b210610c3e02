"""Attention in all its arrangements is one attention: blocks, segments, kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prm_jax.models import attention
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
  packed = attention.causal(spec, q, k, v, positions, window, segments)
  start = 0
  for n in lengths:
    part = slice(start, start + n)
    alone = attention.causal(
      spec, q[:, :, part], k[:, :, part], v[:, :, part], jnp.arange(n), window
    )
    np.testing.assert_allclose(packed[:, :, part], alone, atol=1e-6)
    start += n
  at = jnp.array([[12, 4, 5]])
  read = attention.attend(
    spec, q[:, :, at[0]], k, v, positions[:, at[0]], positions, window,
    segments[:, at[0]], segments,
  )  # fmt: skip
  np.testing.assert_allclose(read, packed[:, :, at[0]], atol=1e-6)
