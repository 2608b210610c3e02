"""Pure functions that a decoder layer is made of.

Weights arrive as the plain dict of one layer (`weights.layer`). Matrices are
applied as one two-dimensional product `[B*T, D] @ [D, ...]`, which XLA's CPU
backend runs about 1.5 times faster than an einsum over more axes. Norms and
softmax are float32 whatever the compute dtype.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from prm_jax.models.weights import Params
from prm_jax.specs import ModelSpec

Constrain = Callable[[jax.Array, str], jax.Array]


def unconstrained(x: jax.Array, axes: str) -> jax.Array:
  """Default of every `constrain` argument: leaves the layout of `x` to XLA."""
  del axes
  return x


def dense(x: jax.Array, w: jax.Array, bias: jax.Array | None = None) -> jax.Array:
  """`x` [..., D] times `w` [D, ...] -> [..., ...] in x's dtype."""
  rows = x.reshape(-1, x.shape[-1]) @ w.reshape(w.shape[0], -1).astype(x.dtype)
  if bias is not None:
    rows = rows + bias.reshape(1, -1).astype(x.dtype)
  return rows.reshape(*x.shape[:-1], *w.shape[1:])


def rms_norm(spec: ModelSpec, x: jax.Array, w: jax.Array) -> jax.Array:
  """RMSNorm (Zhang and Sennrich 2019) over the last axis; result in x's dtype."""
  wide = x.astype(jnp.float32)
  mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
  gain = spec.norm_offset + w.astype(jnp.float32)
  gain = jnp.expand_dims(gain, tuple(range(x.ndim - 1)))
  return (wide * jax.lax.rsqrt(mean_square + spec.norm_eps) * gain).astype(x.dtype)


def softcap(x: jax.Array, cap: float) -> jax.Array:
  """`cap * tanh(x / cap)` (Gemma 2), or `x` where cap is 0."""
  return cap * jnp.tanh(x / cap) if cap else x


def gated_mlp(spec: ModelSpec, w: Params, x: jax.Array, constrain: Constrain):
  """`(activation(x wgate) * (x wup)) wdown` (Shazeer 2020); x [B, T, D]."""
  gate, up = dense(x, w['wgate_DF']), dense(x, w['wup_DF'])
  if spec.activation == 'silu':
    gate = jax.nn.silu(gate)
  else:
    gate = jax.nn.gelu(gate, approximate=True)
  return dense(constrain(gate * up, 'BTF'), w['wdown_FD'])


def take_positions(x: jax.Array, positions: jax.Array) -> jax.Array:
  """Rows `positions` [B, P] of `x` [B, T, D] -> [B, P, D]."""
  return jnp.take_along_axis(x, positions[:, :, None], axis=1)
