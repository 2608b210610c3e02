"""Pure functions that a decoder layer is made of.

Weights arrive as the plain dict of one layer (`weights.layer`). Matrices are
applied as one two-dimensional product `[B*T, D] @ [D, ...]`, which XLA's CPU
backend runs about 1.5 times faster than an einsum over more axes. Norms and
softmax are float32 whatever the compute dtype.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from prm_jax.models.weights import Params
from prm_jax.specs import ModelSpec

Constrain = Callable[[jax.Array, str], jax.Array]


def unconstrained(x: jax.Array, axes: str) -> jax.Array:
  """Default of every `constrain` argument: leaves the layout of `x` to XLA."""
  del axes
  return x


@flax.struct.dataclass
class Adapted:
  """A matrix with a low-rank update, `base + scale * a b` (`models.lora`); stands in
  a parameter tree where the matrix stood.

  Attributes:
    base: [D, ...]; D may be several axes.
    a: [D, R].
    b: [R, ...].
    key: random key of the dropout on the update's input, or None for no dropout.
    scale: of the update.
    rate: of the dropout.
  """

  # First: Linen compares a parameter's first leaf with the declared shape.
  base: jax.Array
  a: jax.Array
  b: jax.Array
  key: jax.Array | None = None
  scale: float = flax.struct.field(pytree_node=False, default=1.0)
  rate: float = flax.struct.field(pytree_node=False, default=0.0)

  @property
  def shape(self) -> tuple[int, ...]:
    """Shape of the matrix."""
    return self.base.shape

  def update(self, rows: jax.Array) -> jax.Array:
    """`scale * dropout(rows) a b` for rows [M, D]; the matrix a b is never formed."""
    rank = self.b.shape[0]
    down = self.a.reshape(-1, rank).astype(rows.dtype)
    up = self.b.reshape(rank, -1).astype(rows.dtype)
    return (dropout(rows, self.rate, self.key) @ down) @ up * self.scale


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
  """Zeroes a share `rate` of `x` and scales the rest; `key` None leaves x alone."""
  if key is None or rate == 0:
    return x
  kept = jax.random.bernoulli(key, 1 - rate, x.shape)
  return jnp.where(kept, x / (1 - rate), 0)


def dense(
  x: jax.Array,
  w: jax.Array | Adapted,
  bias: jax.Array | None = None,
  inputs: int = 1,
) -> jax.Array:
  """`x` [..., D] times `w` [D, ...] -> [..., ...] in x's dtype.

  Args:
    x: D is its last axis.
    w: its first `inputs` axes together are D.
    bias: [...], added to the product, or None.
    inputs: number of axes of `w` that are summed over.
  """
  base = w.base if isinstance(w, Adapted) else w
  rows = x.reshape(-1, x.shape[-1])
  out = rows @ base.reshape(x.shape[-1], -1).astype(x.dtype)
  if isinstance(w, Adapted):
    out = out + w.update(rows)
  if bias is not None:
    out = out + bias.reshape(1, -1).astype(x.dtype)
  return out.reshape(*x.shape[:-1], *base.shape[inputs:])


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
