"""Causal grouped-query attention as einsums in the layout [B, N, T, H].

Queries and keys carry explicit positions, and what a query sees is decided by
positions alone (and by segments where rows are packed). Texts that begin alike and
then part read keys that they share, computed once, and keys of their own: whole texts
with `causal` and `attend`, whose keys may stand `before` the text, and texts that grow
by a few tokens at a time with `forked`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, cast

import jax
import jax.numpy as jnp

from prm_jax.errors import UserError
from prm_jax.models import layers, rope
from prm_jax.models.weights import Params
from prm_jax.specs import ModelSpec

_HIDDEN = -1e30  # finite, so that a row that sees nothing stays free of NaN
_NOWHERE = 2**30  # position of a key that no query sees

KeysValues = tuple[jax.Array, jax.Array]
OWN_BLOCK = 32  # own keys that `forked` reads at a time
SHARED_BLOCK = 64  # shared keys that it reads at a time


class Before(NamedTuple):
  """Keys that stand before a text and were computed elsewhere.

  Attributes:
    k, v: [B, K, S, H].
    positions: int32 [B, S]; see `before`.
  """

  k: jax.Array
  v: jax.Array
  positions: jax.Array


def before(shared: KeysValues, length: jax.Array) -> Before:
  """The first `length` (int32 [B]) of the keys and values `shared` [B, K, S, H]."""
  places = jnp.arange(shared[0].shape[2], dtype=jnp.int32)[None]
  return Before(*shared, jnp.where(places < length[:, None], places, _NOWHERE))


def queries(spec: ModelSpec, w: Params, x: jax.Array, turn: rope.Rotation) -> jax.Array:
  """Normalised input x [B, T, D] -> rotated queries [B, N, T, H]."""
  q = layers.dense(x, w['wq_DNH'], w.get('bq_NH')).transpose(0, 2, 1, 3)
  if spec.qk_norm:
    q = layers.rms_norm(spec, q, w['q_norm_H'])
  return rope.rotate(q, turn)


def keys_values(
  spec: ModelSpec, w: Params, x: jax.Array, turn: rope.Rotation
) -> KeysValues:
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
    k_positions: int32 [S] or [B, S].
    window: 0 for no limit; a traced scalar must be positive.

  Returns:
    bool [T, S] or [B, T, S].
  """
  if q_positions.ndim != k_positions.ndim:
    q_positions, k_positions = map(jnp.atleast_2d, (q_positions, k_positions))
  return _near(q_positions[..., None] - k_positions[..., None, :], window)


def _near(distance: jax.Array, window: int | jax.Array) -> jax.Array:
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


def _scores(spec: ModelSpec, q: jax.Array, k: jax.Array) -> jax.Array:
  """Scaled, capped float32 scores [..., T, S] of q [..., T, H] and k [..., S, H]."""
  raw = jnp.einsum('...TH,...SH->...TS', q, k, preferred_element_type=jnp.float32)
  return layers.softcap(
    raw * (spec.query_scale or q.shape[-1] ** -0.5), spec.attn_softcap
  )


def attend(
  spec: ModelSpec,
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  q_positions: jax.Array,
  k_positions: jax.Array,
  window: int | jax.Array = 0,
  q_segments: jax.Array | None = None,
  k_segments: jax.Array | None = None,
) -> jax.Array:
  """Attention of queries to keys.

  Args:
    spec: gives scale and soft cap of the scores.
    q: [B, N, T, H]; query head n reads key head n // G.
    k, v: [B, K, S, H].
    q_positions: int32 [T], or [B, T] where they differ between rows.
    k_positions: int32 [S], or [B, S].
    window: see `visible`.
    q_segments, k_segments: int32 [B, T] and [B, S]; a query sees only keys of its own
      segment. None where rows are not packed.

  Returns:
    [B, N, T, H] in q's dtype. Scores and softmax are float32.
  """
  b, n, t, h = q.shape
  n_kv, s = k.shape[1], k.shape[2]
  grouped = q.reshape(b, n_kv, n // n_kv * t, h)
  scores = _scores(spec, grouped, k).reshape(b, n_kv, n // n_kv, t, s)
  seen = visible(q_positions, k_positions, window)
  seen = seen[None, None, None] if seen.ndim == 2 else seen[:, None, None]
  if q_segments is not None and k_segments is not None:
    alike = q_segments[:, :, None] == k_segments[:, None]
    seen = seen & alike[:, None, None]
  weights = softmax(scores, seen).astype(v.dtype)
  mixed = jnp.einsum('BKTS,BKSH->BKTH', weights.reshape(b, n_kv, n // n_kv * t, s), v)
  return mixed.reshape(b, n, t, h)


def causal(
  spec: ModelSpec,
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  positions: jax.Array,
  window: int | jax.Array = 0,
  segments: jax.Array | None = None,
  earlier: Before | None = None,
) -> jax.Array:
  """Self-attention of a whole sequence, in query blocks where it is long.

  A block reads only the keys up to its own end (and from its window's start, if
  the window is known at trace time): about half the work of one T x T product,
  and scores of one block at a time.

  With `spec.attention` 'xla' or 'cudnn' one fused call instead, without blocks.

  Args:
    spec: `query_block` is the number of queries of a block.
    q: [B, N, T, H].
    k, v: [B, K, T, H].
    positions: int32 [T], increasing; or [B, T] where they start anew with each
      segment of a packed row.
    window: see `visible`.
    segments: int32 [B, T], increasing along a row: tokens see those of their own
      segment only. None where rows are not packed.
    earlier: keys that every block reads before the sequence's own; `positions` are
      then [B, T], and there are no segments.

  Returns:
    [B, N, T, H] in q's dtype.
  """
  if spec.attention != 'einsum':
    return _fused(spec, q, k, v, positions, window, segments, earlier)
  t, size = q.shape[2], spec.query_block or q.shape[2]
  blocks = []
  for start in range(0, t, size):
    stop = min(start + size, t)
    first = 0
    if isinstance(window, int) and window:
      first = max(0, start - window + 1)
    part = (k[:, :, first:stop], v[:, :, first:stop], positions[..., first:stop])
    keys, values, places = part if earlier is None else join(earlier, *part)
    blocks.append(
      attend(
        spec, q[:, :, start:stop], keys, values, positions[..., start:stop], places,
        window,
        None if segments is None else segments[:, start:stop],
        None if segments is None else segments[:, first:stop],
      )
    )  # fmt: skip
  return jnp.concatenate(blocks, axis=2) if len(blocks) > 1 else blocks[0]


def _fused(spec, q, k, v, positions, window, segments, earlier) -> jax.Array:
  """`causal` by `jax.nn.dot_product_attention`; what it can say by name, it is told
  by name, because a mask costs T x S numbers in the cuDNN kernel."""
  if spec.attention == 'cudnn' and jax.default_backend() != 'gpu':
    raise UserError(
      "model.attention='cudnn' needs a GPU, and this process computes on "
      f"{jax.default_backend()}; set it to 'einsum'."
    )
  rules: dict = {}
  if segments is None and earlier is None and isinstance(window, int):
    rules = {
      'is_causal': True,
      'local_window_size': (window - 1, 0) if window else None,
    }
  else:
    places = positions
    if earlier is not None:
      k, v, places = join(earlier, k, v, positions)
    seen = visible(positions, places, window)
    seen = seen if seen.ndim == 3 else seen[None]
    if segments is not None:
      seen = seen & (segments[:, :, None] == segments[:, None])
    rules = {'mask': seen[:, None]}
  read = jax.nn.dot_product_attention(
    *(x.transpose(0, 2, 1, 3) for x in (q, k, v)),
    scale=spec.query_scale or q.shape[-1] ** -0.5,
    implementation=cast(Literal['xla', 'cudnn'], spec.attention),
    **rules,
  )
  return read.transpose(0, 2, 1, 3)


def join(earlier: Before, k: jax.Array, v: jax.Array, positions: jax.Array) -> Before:
  """Earlier keys and own ones [B, K, T, H] at `positions` [B, T], end to end."""
  return Before(
    jnp.concatenate([earlier.k, k], axis=2),
    jnp.concatenate([earlier.v, v], axis=2),
    jnp.concatenate([earlier.positions, positions], axis=1),
  )


class _Partial(NamedTuple):
  """A softmax over some of the keys, to be joined with that over others.

  Attributes:
    top: largest score, float32 [..., T].
    total: sum of exp(score - top), float32 [..., T].
    mixed: values weighted by exp(score - top), float32 [..., T, H].
  """

  top: jax.Array
  total: jax.Array
  mixed: jax.Array


def _partial(scores: jax.Array, seen: jax.Array, v: jax.Array) -> _Partial:
  """Scores and seen [..., T, S], values [..., S, H]."""
  scores = jnp.where(seen, scores, _HIDDEN)
  top = jnp.max(scores, axis=-1)
  powers = jnp.where(seen, jnp.exp(scores - top[..., None]), 0.0)
  mixed = jnp.einsum(
    '...TS,...SH->...TH', powers.astype(v.dtype), v, preferred_element_type=jnp.float32
  )
  return _Partial(top, jnp.sum(powers, axis=-1), mixed)


def _join(a: _Partial, b: _Partial) -> _Partial:
  """Keys that nobody sees leave the other part as it is, bit by bit."""
  top = jnp.maximum(a.top, b.top)
  of_a, of_b = jnp.exp(a.top - top), jnp.exp(b.top - top)
  return _Partial(
    top,
    a.total * of_a + b.total * of_b,
    a.mixed * of_a[..., None] + b.mixed * of_b[..., None],
  )


def forked(
  spec: ModelSpec,
  q: jax.Array,
  q_positions: jax.Array,
  shared: KeysValues,
  shared_length: jax.Array,
  own: KeysValues,
  window: int | jax.Array = 0,
) -> jax.Array:
  """Attention of texts that share a beginning: one softmax over shared and own keys.

  Member c of group u continues the first `shared_length[u, c]` tokens of the group's
  text; its own key i stands at position shared_length[u, c] + i. The shared keys are
  read once for all members. Of the shared and of the own keys only the blocks that
  some member has reached are read; the blocks beyond change no bit, so that a member's
  result does not depend on how far the others are, nor on the room that there is.

  Args:
    spec: gives scale and soft cap of the scores.
    q: [U, C, N, T, H], T >= 1 queries each.
    q_positions: int32 [U, C, T]; keys after a query are hidden from it.
    shared: keys and values, each [U, K, S, H], of positions 0 to S - 1. Where S is no
      multiple of `SHARED_BLOCK` they are one block.
    shared_length: int32 [U, C].
    own: keys and values, each [U, C, K, S, H], the queries' own included. S is a
      multiple of `OWN_BLOCK` or smaller.
    window: see `visible`.

  Returns:
    [U, C, N, T, H] in q's dtype. Scores and softmax are float32.
  """
  u, c, n, t, h = q.shape
  n_kv, s = shared[0].shape[1:3]
  g = n // n_kv
  grouped = q.reshape(u, c, n_kv, g * t, h)
  # Shared keys: the members of a group side by side, as queries of one text.
  beside = grouped.transpose(0, 2, 1, 3, 4).reshape(u, n_kv, c * g * t, h)
  width = s if s % SHARED_BLOCK else SHARED_BLOCK

  def read_shared(i):
    k, v = (jax.lax.dynamic_slice_in_dim(x, i * width, width, 2) for x in shared)
    places = i * width + jnp.arange(width, dtype=jnp.int32)[None, None, None]
    seen = _near(q_positions[..., None] - places, window)
    seen &= places < shared_length[:, :, None, None]
    seen = jnp.broadcast_to(seen[:, None, :, None], (u, n_kv, c, g, t, width))
    seen = seen.reshape(u, n_kv, c * g * t, width)
    return _partial(_scores(spec, beside, k), seen, v)

  part = read_shared(0)
  if width < s:
    reached = -(-jnp.max(shared_length) // width)
    more = lambda i, part: _join(part, read_shared(i))
    part = jax.lax.fori_loop(1, reached, more, part)
  apart = lambda x: jnp.moveaxis(x.reshape(u, n_kv, c, g * t, *x.shape[3:]), 2, 1)
  part = jax.tree.map(apart, part)

  size = min(own[0].shape[3], OWN_BLOCK)
  steps = jnp.arange(size, dtype=jnp.int32)[None, None, None]

  def block(i, part):
    k, v = (jax.lax.dynamic_slice_in_dim(x, i * size, size, 3) for x in own)
    first = shared_length + i * size
    seen = _near((q_positions - first[..., None])[..., None] - steps, window)
    seen = jnp.broadcast_to(seen[:, :, None, None], (u, c, n_kv, g, t, size))
    seen = seen.reshape(u, c, n_kv, g * t, size)
    return _join(part, _partial(_scores(spec, grouped, k), seen, v))

  reached = jnp.max(q_positions - shared_length[..., None]) // size + 1
  part = jax.lax.fori_loop(0, reached, block, part)
  mixed = part.mixed / part.total[..., None]
  return mixed.astype(q.dtype).reshape(u, c, n, t, h)
