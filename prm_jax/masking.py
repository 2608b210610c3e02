"""Masked reductions whose values and gradients never see what is masked.

The input is guarded, not the output: whatever stands at a masked place, a NaN
included, is replaced *before* the arithmetic, so that its gradient is exactly 0.
Nothing valid is replaced, so a real NaN surfaces. Where nothing is valid a sum
and a mean are 0 and a log-sum-exp is -inf. Reductions run in float32 or wider.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Axis = int | tuple[int, ...] | None


def as_float(x: jax.typing.ArrayLike) -> jax.Array:
  """`x` in float32, or in float64 where it came so; never in a half type.

  >>> as_float(jnp.ones(2, jnp.bfloat16)).dtype.name
  'float32'
  """
  x = jnp.asarray(x)
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def guard(x: jax.Array, mask: jax.Array, fill: float = 0.0) -> jax.Array:
  """`x` where `mask`, else `fill`: the input guard for functions that may overflow.

  Args:
    x: any shape, float.
    mask: bool, broadcastable with `x`; True is valid.
    fill: a value at which what follows, and its derivative, are finite.
  """
  return jnp.where(mask, x, fill)


def masked_sum(x: jax.Array, mask: jax.Array, axis: Axis = None) -> jax.Array:
  """Sum of the valid entries, 0 if there are none.

  Args:
    x: any shape.
    mask: bool, broadcastable with `x`; True is valid.
    axis: as in `jnp.sum`.

  >>> float(masked_sum(jnp.array([1.0, jnp.nan]), jnp.array([True, False])))
  1.0
  """
  return jnp.sum(guard(as_float(x), mask), axis=axis)


def safe_divide(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
  """`numerator / denominator`, and 0 where the denominator is 0.

  >>> safe_divide(jnp.array([3.0, 5.0]), jnp.array([2.0, 0.0])).tolist()
  [1.5, 0.0]
  """
  # Where the denominator is NaN the comparison is False and the NaN goes through.
  empty = denominator == 0
  return jnp.where(empty, 0.0, numerator / jnp.where(empty, 1.0, denominator))


def masked_mean(
  x: jax.Array,
  mask: jax.Array,
  weights: jax.Array | None = None,
  axis: Axis = None,
) -> jax.Array:
  """Weighted mean of the valid entries, 0 if their weights sum to 0.

  Args:
    x: any shape.
    mask: bool, broadcastable with `x`; True is valid.
    weights: broadcastable with `x`; ones if None.
    axis: as in `jnp.mean`.

  >>> float(masked_mean(jnp.array([1.0, 3.0, 9.0]), jnp.array([True, True, False])))
  2.0
  """
  x = as_float(x)
  w = jnp.ones_like(x) if weights is None else jnp.broadcast_to(weights, x.shape)
  w = guard(as_float(w), mask)
  return safe_divide(masked_sum(w * guard(x, mask), mask, axis), jnp.sum(w, axis=axis))


def masked_logsumexp(x: jax.Array, where: jax.Array, axis: int = -1) -> jax.Array:
  """log Σ exp(x) over the valid entries; -inf, with gradient 0, if there are none.

  Args:
    x: any shape; valid entries of any magnitude.
    where: bool, broadcastable with `x`; True is valid.
    axis: the axis summed over.

  >>> x = jnp.array([[90.0, 90.0], [7.0, 8.0]])
  >>> valid = jnp.array([[True, True], [False, False]])
  >>> [round(v, 3) for v in masked_logsumexp(x, valid).tolist()]
  [90.693, -inf]
  """
  x = as_float(x)
  shape = jnp.broadcast_shapes(x.shape, where.shape)
  x, where = jnp.broadcast_to(x, shape), jnp.broadcast_to(where, shape)
  top = jnp.max(x, axis=axis, keepdims=True, initial=-jnp.inf, where=where)
  top = jax.lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0.0))
  # exp(0) at masked places keeps the derivative finite; the sum leaves them out.
  total = masked_sum(jnp.exp(guard(x - top, where)), where, axis)
  some = jnp.any(where, axis=axis)
  return jnp.where(some, jnp.log(guard(total, some, 1.0)) + top.squeeze(axis), -jnp.inf)
