"""The decoder: embedding, L layers, final norm, as a function of its weights.

`forward` is the whole model without a head. With `step_positions` the last layer
computes queries, attention output and feed-forward only there (keys and values at
all tokens), which about halves a small model's step time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from prm_jax.models import attention, layers, rope, weights
from prm_jax.models.weights import Params
from prm_jax.specs import ModelSpec


class View(NamedTuple):
  """What a layer sees of the sequence.

  Attributes:
    window: 0, a window length, or a traced scalar in scanned mixed layers.
    turn: rotation of the T positions.
    segments: int32 [B, T], which text of a packed row a token belongs to; None
      where a row is one text.
  """

  window: int | jax.Array
  turn: rope.Rotation
  segments: jax.Array | None = None


def view_of(
  spec: ModelSpec,
  positions: jax.Array,
  windowed: bool,
  segments: jax.Array | None = None,
) -> View:
  """The view of one kind of layer on `positions`, int32 [T] or [B, T]."""
  window = spec.window if windowed else 0
  return View(window, rope.rotation(spec, positions, windowed), segments)


def packed_positions(segments: jax.Array) -> jax.Array:
  """Positions that start anew with each segment: int32 [B, T] -> int32 [B, T].

  >>> packed_positions(jnp.array([[1, 1, 1, 2, 2, 0]])).tolist()
  [[0, 1, 2, 0, 1, 0]]
  """
  index = jnp.arange(segments.shape[1], dtype=jnp.int32)[None]
  begins = jnp.diff(segments, axis=1, prepend=-1) != 0
  return index - jax.lax.cummax(jnp.where(begins, index, 0), axis=1)


def layer(
  spec: ModelSpec,
  w: Params,
  x: jax.Array,
  positions: jax.Array,
  view: View,
  constrain: layers.Constrain,
  step_positions: jax.Array | None = None,
) -> jax.Array:
  """One layer.

  Args:
    spec: the model.
    w: the layer's weights.
    x: [B, T, D] in the compute dtype.
    positions: int32 [T]; or [B, T] in packed rows.
    view: window, rotation and segments of this layer.
    constrain: `f(x, letters)` that pins the layout of activations over a mesh.
    step_positions: int32 [B, P], or None for all positions.

  Returns:
    [B, T, D], or [B, P, D] where step positions are given.
  """
  h = layers.rms_norm(spec, x, w['attn_norm_D'])
  k, v = attention.keys_values(spec, w, h, view.turn)
  k, v = constrain(k, 'BKTH'), constrain(v, 'BKTH')
  if step_positions is None:
    q = constrain(attention.queries(spec, w, h, view.turn), 'BNTH')
    mixed = attention.causal(spec, q, k, v, positions, view.window, view.segments)
  else:
    x = layers.take_positions(x, step_positions)
    h = layers.take_positions(h, step_positions)
    q = attention.queries(spec, w, h, view.turn.take(step_positions))
    q = constrain(q, 'BNPH')
    mixed = attention.attend(
      spec, q, k, v, _take(positions, step_positions), positions, view.window,
      None if view.segments is None else _take(view.segments, step_positions),
      view.segments,
    )  # fmt: skip
  return after_attention(spec, w, x, mixed, constrain)


def _take(x: jax.Array, index: jax.Array) -> jax.Array:
  """x [T] or [B, T] at `index` [B, P] -> [B, P]."""
  return x[index] if x.ndim == 1 else jnp.take_along_axis(x, index, axis=1)


def after_attention(
  spec: ModelSpec,
  w: Params,
  x: jax.Array,
  mixed: jax.Array,
  constrain: layers.Constrain = layers.unconstrained,
) -> jax.Array:
  """The rest of a layer: what attention read, added to the stream, and feed-forward.

  Args:
    x: [B, T, D], the layer's input.
    mixed: [B, N, T, H], what the queries at x's positions read.

  Returns:
    [B, T, D].
  """
  n, width = spec.n_heads, spec.head_dim
  mixed = mixed.transpose(0, 2, 1, 3).reshape(*x.shape[:2], n * width)
  out = layers.dense(mixed, w['wo_NHD'], inputs=2)
  if spec.post_norms:
    out = layers.rms_norm(spec, out, w['attn_post_norm_D'])
  x = constrain(x + out, 'BTD')
  out = layers.gated_mlp(spec, w, layers.rms_norm(spec, x, w['mlp_norm_D']), constrain)
  if spec.post_norms:
    out = layers.rms_norm(spec, out, w['mlp_post_norm_D'])
  return constrain(x + out, 'BTD')


def _remat(spec: ModelSpec, f: Callable, static: tuple[int, ...] = ()) -> Callable:
  if spec.remat == 'none':
    return f
  policy = None
  if spec.remat == 'dots':
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
  # Inside a scan the compiler cannot undo rematerialization by sharing
  # subexpressions, so its (costly) barrier is not needed there.
  return jax.checkpoint(
    f, policy=policy, prevent_cse=not spec.scan_layers, static_argnums=static
  )


def _scan(spec, stacked, x, positions, segments, constrain):
  n = spec.n_layers - 1
  flags = [spec.is_windowed(i) for i in range(n)]
  if len(set(flags)) == 1:
    view = view_of(spec, positions, flags[0], segments)

    def one(x, w):
      return layer(spec, w, x, positions, view, constrain), None

    return jax.lax.scan(_remat(spec, one), x, stacked)[0]
  # Mixed layers share one body, so window and rotation become data.
  far = x.shape[1]
  near_turn, far_turn = (rope.rotation(spec, positions, f) for f in (True, False))

  def mixed(x, inputs):
    w, flag = inputs
    turn = jax.tree.map(lambda a, b: jnp.where(flag, a, b), near_turn, far_turn)
    view = View(jnp.where(flag, spec.window, far), turn, segments)
    return layer(spec, w, x, positions, view, constrain), None

  return jax.lax.scan(_remat(spec, mixed), x, (stacked, jnp.array(flags)))[0]


def embed(spec: ModelSpec, table: jax.Array, tokens: jax.Array) -> jax.Array:
  """Token ids [B, T] -> [B, T, D] in the compute dtype; NaN for an unknown id.

  Floating tokens [B, T, D] stand for rows of the table, or mixtures of them.
  """
  if jnp.issubdtype(tokens.dtype, jnp.floating):
    x = tokens.astype(spec.compute_dtype)
  else:
    x = jnp.take(table, tokens, axis=0, mode='fill').astype(spec.compute_dtype)
  return x * jnp.asarray(spec.embed_scale, x.dtype) if spec.embed_scale else x


def forward(
  spec: ModelSpec,
  params: Params,
  tokens: jax.Array,
  step_positions: jax.Array | None = None,
  *,
  segments: jax.Array | None = None,
  constrain: layers.Constrain = layers.unconstrained,
) -> jax.Array:
  """Hidden states after the final norm.

  Args:
    spec: the model.
    params: weights of the decoder (`weights.decoder`).
    tokens: int32 [B, T], or what `embed` takes in their place. Attention is causal, so
      padding after the text needs no mask: it changes nothing before it.
    step_positions: int32 [B, P] where the states are wanted; None for all.
    segments: int32 [B, T] in rows that hold several texts one after the other: a
      token sees those of its own segment only, and positions start anew with it.
    constrain: `f(x, letters)` that pins the layout of activations over a mesh.

  Returns:
    [B, P, D] or [B, T, D] in the compute dtype.
  """
  positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)
  if segments is not None:
    positions = packed_positions(segments)
  x = constrain(embed(spec, constrain(params['embed_VD'], 'V.'), tokens), 'BTD')
  last = spec.n_layers - 1
  if spec.scan_layers and last > 0:
    x = _scan(spec, params['layers'], x, positions, segments, constrain)
  for i in range(0 if not spec.scan_layers else last, spec.n_layers):
    view = view_of(spec, positions, spec.is_windowed(i), segments)
    at = step_positions if i == last else None

    def one(w, x, view=view, at=at):
      return layer(spec, w, x, positions, view, constrain, at)

    x = _remat(spec, one)(params[f'layer_{i}'], x)
  return layers.rms_norm(spec, x, params['final_norm_D'])


def forward_shared(
  spec: ModelSpec,
  params: Params,
  questions: jax.Array,
  question_length: jax.Array,
  tokens: jax.Array,
  step_positions: jax.Array,
  *,
  constrain: layers.Constrain = layers.unconstrained,
) -> jax.Array:
  """What `forward` gives for solutions after their questions, each question computed
  once: its solutions attend to the question's keys and to their own.

  Args:
    spec, params, constrain: as for `forward`.
    questions: int32 [B, S], padded with any id.
    question_length: int32 [B].
    tokens: int32 [B, C, T], what follows the question in each of its solutions.
    step_positions: int32 [B, C, P], indices into T.

  Returns:
    [B C, P, D] in the compute dtype.
  """
  b, c, t = tokens.shape
  flat = lambda x: x.reshape(b * c, *x.shape[2:])
  begins = jnp.repeat(question_length, c)
  asked = jnp.arange(questions.shape[1], dtype=jnp.int32)
  positions = begins[:, None] + jnp.arange(t, dtype=jnp.int32)[None]
  steps = flat(step_positions)
  embedded = lambda x: constrain(embed(spec, params['embed_VD'], x), 'BTD')

  def one(w, question, x, i):
    last = i + 1 == spec.n_layers
    view = view_of(spec, asked, spec.is_windowed(i))
    h = layers.rms_norm(spec, question, w['attn_norm_D'])
    shared = attention.keys_values(spec, w, h, view.turn)
    if not last:  # nobody reads what comes after the last layer's keys
      question = layer(spec, w, question, asked, view, constrain)
    k, v = (jnp.repeat(a, c, axis=0) for a in shared)
    earlier = attention.before((k, v), begins)
    view = view_of(spec, positions, spec.is_windowed(i))
    h = layers.rms_norm(spec, x, w['attn_norm_D'])
    k, v = (constrain(a, 'BKTH') for a in attention.keys_values(spec, w, h, view.turn))
    if not last:
      q = constrain(attention.queries(spec, w, h, view.turn), 'BNTH')
      mixed = attention.causal(spec, q, k, v, positions, view.window, earlier=earlier)
    else:
      x, h = (layers.take_positions(a, steps) for a in (x, h))
      q = attention.queries(spec, w, h, view.turn.take(steps))
      keys, values, places = attention.join(earlier, k, v, positions)
      mixed = attention.attend(
        spec, q, keys, values, _take(positions, steps), places, view.window
      )
    return question, after_attention(spec, w, x, mixed, constrain)

  question, x = embedded(questions), embedded(flat(tokens))
  for i in range(spec.n_layers):
    w = params.get(f'layer_{i}')
    if w is None:
      w = jax.tree.map(lambda a, i=i: a[i], params['layers'])
    question, x = _remat(spec, one, static=(3,))(w, question, x, i)
  return layers.rms_norm(spec, x, params['final_norm_D'])


class Decoder(nn.Module):
  """`forward` as a Linen module: `apply({'params': p}, tokens, step_positions)`.

  Attributes:
    spec: the model.
    constrain: see `forward`.
  """

  spec: ModelSpec
  constrain: layers.Constrain = layers.unconstrained

  @nn.compact
  def __call__(
    self,
    tokens: jax.Array,
    step_positions: jax.Array | None = None,
    segments: jax.Array | None = None,
  ) -> jax.Array:
    params = weights.materialize(self, weights.decoder(self.spec))
    return forward(
      self.spec, params, tokens, step_positions,
      segments=segments, constrain=self.constrain,
    )  # fmt: skip
