"""Causal grouped-query attention as einsums in the layout [B, N, T, H].

`attend` is the one place where scores become a mix of values: queries and keys
carry explicit positions, and what a query sees is decided by positions alone.
Queries at arbitrary positions (the step positions of the last layer) and queries
in blocks therefore use the same function.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from prm_jax.models import layers, rope
from prm_jax.models.weights import Params
from prm_jax.specs import ModelSpec

_HIDDEN = -1e30  # finite, so that a row that sees nothing stays free of NaN


def queries(
  spec: ModelSpec, w: Params, x: jax.Array, turn: rope.Rotation
) -> jax.Array:
  """Normalised input x [B, T, D] -> rotated queries [B, N, T, H]."""
  q = layers.dense(x, w['wq_DNH'], w.get('bq_NH')).transpose(0, 2, 1, 3)
  if spec.qk_norm:
    q = layers.rms_norm(spec, q, w['q_norm_H'])
  return rope.rotate(q, turn)


def keys_values(
  spec: ModelSpec, w: Params, x: jax.Array, turn: rope.Rotation
) -> tuple[jax.Array, jax.Array]:
  """Normalised input x [B, S, D] -> rotated keys and values, each [B, K, S, H]."""
  k = layers.dense(x, w['wk_DKH'], w.get('bk_KH')).transpose(0, 2, 1, 3)
  v = layers.dense(x, w['wv_DKH'], w.get('bv_KH')).transpose(0, 2, 1, 3)
  if spec.qk_norm:
    k = layers.rms_norm(spec, k, w['k_norm_H'])
  return rope.rotate(k, turn), v


def visible(
  q_positions: jax.Array, k_positions: jax.Array, window: int | jax.Array
) -> jax.Array:
  """Which keys a query sees: those not after it, and of these the last `window`.

  Args:
    q_positions: int32 [T] or [B, T].
    k_positions: int32 [S].
    window: 0 for no limit; a traced scalar must be positive.

  Returns:
    bool [T, S] or [B, T, S].
  """
  ahead = jnp.expand_dims(k_positions, tuple(range(q_positions.ndim)))
  distance = q_positions[..., None] - ahead
  seen = distance >= 0
  if isinstance(window, int) and window == 0:
    return seen
  return seen & (distance < window)


@jax.custom_vjp
def softmax(scores: jax.Array, seen: jax.Array) -> jax.Array:
  """Softmax of `scores` over the last axis where `seen`, 0 elsewhere.

  The gradient uses the result alone; differentiating through exp, max and sum costs
  about 15 % more CPU time for the gradient of a small model. A row that sees nothing
  gives equal weights.
  """
  scores = jnp.where(seen, scores, _HIDDEN)
  powers = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
  return powers / jnp.sum(powers, axis=-1, keepdims=True)


def _softmax_forward(scores, seen):
  weights = softmax(scores, seen)
  return weights, weights


def _softmax_backward(weights, gradient):
  product = weights * gradient
  return product - weights * jnp.sum(product, axis=-1, keepdims=True), None


softmax.defvjp(_softmax_forward, _softmax_backward)


def attend(
  spec: ModelSpec,
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  q_positions: jax.Array,
  k_positions: jax.Array,
  window: int | jax.Array = 0,
) -> jax.Array:
  """Attention of queries to keys.

  Args:
    spec: gives scale and soft cap of the scores.
    q: [B, N, T, H]; query head n reads key head n // G.
    k, v: [B, K, S, H].
    q_positions: int32 [T], or [B, T] where they differ between rows.
    k_positions: int32 [S].
    window: see `visible`.

  Returns:
    [B, N, T, H] in q's dtype. Scores and softmax are float32.
  """
  b, n, t, h = q.shape
  n_kv, s = k.shape[1], k.shape[2]
  grouped = q.reshape(b, n_kv, n // n_kv * t, h)
  scores = jnp.einsum(
    'BKTH,BKSH->BKTS', grouped, k, preferred_element_type=jnp.float32
  ).reshape(b, n_kv, n // n_kv, t, s)
  scores = layers.softcap(scores * (spec.query_scale or h**-0.5), spec.attn_softcap)
  seen = visible(q_positions, k_positions, window)
  seen = seen[None, None, None] if seen.ndim == 2 else seen[:, None, None]
  weights = softmax(scores, seen).astype(v.dtype)
  mixed = jnp.einsum(
    'BKTS,BKSH->BKTH', weights.reshape(b, n_kv, n // n_kv * t, s), v
  )
  return mixed.reshape(b, n, t, h)


def causal(
  spec: ModelSpec,
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  positions: jax.Array,
  window: int | jax.Array = 0,
) -> jax.Array:
  """Self-attention of a whole sequence, in query blocks where it is long.

  A block reads only the keys up to its own end (and from its window's start, if
  the window is known at trace time): about half the work of one T x T product,
  and scores of one block at a time.

  Args:
    spec: `query_block` is the number of queries of a block.
    q: [B, N, T, H].
    k, v: [B, K, T, H].
    positions: int32 [T], increasing.
    window: see `visible`.

  Returns:
    [B, N, T, H] in q's dtype.
  """
  t, size = q.shape[2], spec.query_block
  if not size or t <= size:
    return attend(spec, q, k, v, positions, positions, window)
  blocks = []
  for start in range(0, t, size):
    stop = min(start + size, t)
    first = 0
    if isinstance(window, int) and window:
      first = max(0, start - window + 1)
    blocks.append(
      attend(
        spec, q[:, :, start:stop], k[:, :, first:stop], v[:, :, first:stop],
        positions[start:stop], positions[first:stop], window,
      )
    )  # fmt: skip
  return jnp.concatenate(blocks, axis=2)
