"""Decoding with caches: read a text once, then continue its prefixes token by token.

The keys of a whole text are computed by one `prefill`. Its continuations are members of
a group: each reads its own length of the group's keys and keeps keys of its own
(`attention.forked`). A continuation starts by feeding the last token of its prefix, so
the prefill leaves keys and values only, no logits.

Caches are lists with one (keys, values) a layer and stay so in loops: a cache that
passes through the outputs of a scan is copied every step.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from prm_jax.models import attention, decoder, heads, layers, lm
from prm_jax.models.attention import KeysValues
from prm_jax.models.weights import Params
from prm_jax.specs import ModelSpec

Caches = list[KeysValues]


def layer_weights(spec: ModelSpec, params: Params) -> list[Params]:
  """The weights of each layer, whether they are stacked (`scan_layers`) or not."""
  tree = params['decoder']
  out = []
  for i in range(spec.n_layers):
    if f'layer_{i}' in tree:
      out.append(tree[f'layer_{i}'])
    else:
      out.append(jax.tree.map(lambda w, i=i: w[i], tree['layers']))
  return out


def prefill_apart(
  spec: ModelSpec, params: Params, tokens: jax.Array, places: int
) -> tuple[jax.Array, ...]:
  """`prefill` of W texts, each an array of its own with room for `places` keys.

  Returns:
    W arrays [L, 2, K, places, H] in the compute dtype.
  """
  read = prefill(spec, params, tokens)
  keys = jnp.stack([jnp.stack(layer, axis=1) for layer in read], axis=1)
  room = places - tokens.shape[1]
  keys = jnp.pad(keys, [(0, 0)] * 4 + [(0, room), (0, 0)])
  return tuple(keys[i] for i in range(len(tokens)))


def prefill(spec: ModelSpec, params: Params, tokens: jax.Array) -> Caches:
  """Keys and values of whole texts, to be shared by their continuations.

  Args:
    spec, params: a model; its head is not read.
    tokens: int32 [W, T], padded on the right with any id.

  Returns:
    For each layer keys and values [W, K, T, H] in the compute dtype.
  """
  positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)
  x = decoder.embed(spec, params['decoder']['embed_VD'], tokens)
  caches = []
  for i, w in enumerate(layer_weights(spec, params)):
    view = decoder.view_of(spec, positions, spec.is_windowed(i))
    h = layers.rms_norm(spec, x, w['attn_norm_D'])
    k, v = attention.keys_values(spec, w, h, view.turn)
    caches.append((k, v))
    if i + 1 < spec.n_layers:  # nobody reads what comes after the last layer's keys
      q = attention.queries(spec, w, h, view.turn)
      mixed = attention.causal(spec, q, k, v, positions, view.window)
      x = decoder.after_attention(spec, w, x, mixed)
  return caches


def read_on(
  spec: ModelSpec,
  params: Params,
  tokens: jax.Array,
  step_positions: jax.Array,
  shared: Sequence[KeysValues],
  shared_length: jax.Array,
) -> jax.Array:
  """The states of whole texts at some of their tokens, their beginnings read before.

  What `decoder.forward` gives for the joined texts, without computing the beginnings
  again; like there the last layer has queries at the step positions only.

  Args:
    spec, params: a model; its head is not read.
    tokens: int32 [B, T], what follows the beginning, padded with any id.
    step_positions: int32 [B, P], indices into `tokens`.
    shared: for each layer keys and values [B, K, S, H] of the beginnings, as from
      `prefill`.
    shared_length: int32 [B], how many of the S keys a row continues.

  Returns:
    Hidden states after the final norm [B, P, D].
  """
  steps = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
  positions = shared_length[:, None] + steps
  at = shared_length[:, None] + step_positions
  x = decoder.embed(spec, params['decoder']['embed_VD'], tokens)
  for i, w in enumerate(layer_weights(spec, params)):
    view = decoder.view_of(spec, positions, spec.is_windowed(i))
    earlier = attention.before(shared[i], shared_length)
    h = layers.rms_norm(spec, x, w['attn_norm_D'])
    k, v = attention.keys_values(spec, w, h, view.turn)
    if i + 1 < spec.n_layers:
      q = attention.queries(spec, w, h, view.turn)
      mixed = attention.causal(spec, q, k, v, positions, view.window, earlier=earlier)
    else:
      x, h = (layers.take_positions(a, step_positions) for a in (x, h))
      turn = decoder.view_of(spec, at, spec.is_windowed(i)).turn
      q = attention.queries(spec, w, h, turn)
      keys, values, places = attention.join(earlier, k, v, positions)
      mixed = attention.attend(spec, q, keys, values, at, places, view.window)
    x = decoder.after_attention(spec, w, x, mixed)
  return layers.rms_norm(spec, x, params['decoder']['final_norm_D'])


def own_caches(
  spec: ModelSpec, groups: int, members: int, length: int, device: jax.Device | None
) -> Caches:
  """Empty caches [U, C, K, S, H] for `length` own tokens each."""
  shape = (groups, members, spec.n_kv_heads, length, spec.head_dim)
  zeros = lambda: jnp.zeros(shape, spec.compute_dtype, device=device)
  return [(zeros(), zeros()) for _ in range(spec.n_layers)]


def side_by_side(caches: Caches, groups: int, members: int) -> Caches:
  """Caches of rows, [U * C, ...], as those of groups, [U, C, ...]."""
  return jax.tree.map(lambda x: x.reshape(groups, members, *x.shape[1:]), caches)


def by_row(caches: Caches) -> Caches:
  """Caches of groups, [U, C, ...], as those of rows, [U * C, ...]."""
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), caches)


def extend(
  spec: ModelSpec,
  params: Params,
  tokens: jax.Array,
  positions: jax.Array,
  shared: Sequence[KeysValues],
  shared_length: jax.Array,
  own: Sequence[KeysValues],
  step_positions: jax.Array | None = None,
) -> tuple[jax.Array, Caches]:
  """Reads T more tokens of every member of every group.

  A member that has fewer is padded with any id: what is read next is written over the
  padding's keys, and no query before sees them. The caches must have room for all T.

  Args:
    spec, params: a model; its head is not read.
    tokens: int32 [U, C, T].
    positions: int32 [U, C], of the first of them, at least `shared_length`.
    shared: for each layer keys and values [U, K, S, H] of the groups' texts.
    shared_length: int32 [U, C], how many of them a member continues.
    own: for each layer keys and values [U, C, K, S, H]; token i of a member's own
      stands at position shared_length + i.
    step_positions: int32 [U, C, P], indices into T where the states are wanted; None
      for all.

  Returns:
    Hidden states after the final norm [U, C, P, D] or [U, C, T, D], and the own caches
    with these tokens added.
  """
  u, c, t = tokens.shape
  b = u * c
  steps = jnp.arange(t, dtype=jnp.int32)[None, None]
  at = positions[..., None] + steps
  start = (positions - shared_length).reshape(b)
  write = jax.vmap(lambda x, new, at: jax.lax.dynamic_update_slice(x, new, (0, at, 0)))

  def written(cache, new):
    flat = cache.reshape(b, *cache.shape[2:])
    return write(flat, new.astype(cache.dtype), start).reshape(cache.shape)

  x = decoder.embed(spec, params['decoder']['embed_VD'], tokens.reshape(b, t))
  caches = []
  for i, w in enumerate(layer_weights(spec, params)):
    turn = decoder.view_of(spec, at.reshape(b, t), spec.is_windowed(i)).turn
    h = layers.rms_norm(spec, x, w['attn_norm_D'])
    k, v = attention.keys_values(spec, w, h, turn)
    caches.append((written(own[i][0], k), written(own[i][1], v)))
    if i + 1 == spec.n_layers and step_positions is not None:
      steps = step_positions.reshape(b, -1)
      x, h = (layers.take_positions(a, steps) for a in (x, h))
      turn = turn.take(steps)
      at = jnp.take_along_axis(at, step_positions, axis=2)
    q = attention.queries(spec, w, h, turn)
    mixed = attention.forked(
      spec, q.reshape(u, c, *q.shape[1:]), at, shared[i], shared_length,
      caches[i], spec.window if spec.is_windowed(i) else 0,
    )  # fmt: skip
    x = decoder.after_attention(spec, w, x, mixed.reshape(q.shape))
  hidden = layers.rms_norm(spec, x, params['decoder']['final_norm_D'])
  return hidden.reshape(u, c, *hidden.shape[1:]), caches


def decode_step(
  spec: ModelSpec,
  params: Params,
  tokens: jax.Array,
  positions: jax.Array,
  shared: Sequence[KeysValues],
  shared_length: jax.Array,
  own: Sequence[KeysValues],
) -> tuple[jax.Array, Caches]:
  """One more token of every member: int32 [U, C] -> float32 logits [U, C, V].

  The other arguments and the caches that come back are those of `extend`.
  """
  hidden, own = extend(
    spec, params, tokens[..., None], positions, shared, shared_length, own
  )
  u, c, _, d = hidden.shape
  logits = heads.read(spec, lm.HEAD, params, hidden.reshape(u * c, 1, d))
  return logits.reshape(u, c, -1), own
