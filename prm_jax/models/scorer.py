"""The scoring model: a decoder read by a head at the step positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import flax.linen as nn
import jax

from prm_jax.models import decoder, heads, layers, weights
from prm_jax.models.weights import Params
from prm_jax.specs import HeadSpec, ModelSpec


class ScoringModel(nn.Module):
  """Tokens and step positions -> one output (or Q outputs) a step.

  Attributes:
    spec: the decoder.
    head: what is read at each step position.
    constrain: `f(x, letters)` that pins the layout of activations over a mesh.
  """

  spec: ModelSpec
  head: HeadSpec
  constrain: layers.Constrain = layers.unconstrained

  @nn.compact
  def __call__(
    self,
    tokens: jax.Array,
    step_positions: jax.Array,
    train: bool = False,
    segments: jax.Array | None = None,
  ) -> jax.Array:
    """Scores steps.

    Args:
      tokens: int32 [B, T], padded after the text with any id.
      step_positions: int32 [B, P], index of the token at which a step is read; 0
        for steps that a row does not have (mask their outputs).
      train: apply dropout, with the random stream 'dropout'.
      segments: int32 [B, T], see `decoder.forward`.

    Returns:
      float32 [B, P] for a scalar head, [B, P, Q] for the others.
    """
    params = weights.materialize(self, weights.declare(self.spec, self.head))
    use_dropout = train and self.head.dropout > 0
    key = self.make_rng('dropout') if use_dropout else None
    hidden = decoder.forward(
      self.spec, params['decoder'], tokens, step_positions,
      segments=segments, constrain=self.constrain,
    )  # fmt: skip
    return heads.read(self.spec, self.head, params, hidden, key)


def init(spec: ModelSpec, head: HeadSpec, key: jax.Array) -> Params:
  """New parameters, the same whether layers are scanned or unrolled."""
  return weights.initialize(weights.declare(spec, head), key)


def apply(
  spec: ModelSpec,
  head: HeadSpec,
  params: Params,
  tokens: jax.Array,
  step_positions: jax.Array,
  *,
  key: jax.Array | None = None,
  segments: jax.Array | None = None,
  constrain: layers.Constrain = layers.unconstrained,
) -> jax.Array:
  """`ScoringModel` as a function; a `key` means training (dropout).

  Returns:
    float32 [B, P] for a scalar head, [B, P, Q] for the others.
  """
  rngs = None if key is None else {'dropout': key}
  outputs = ScoringModel(spec, head, constrain).apply(
    {'params': params}, tokens, step_positions, key is not None, segments, rngs=rngs
  )
  return cast(jax.Array, outputs)


def apply_shared(
  spec: ModelSpec,
  head: HeadSpec,
  params: Params,
  batch: Mapping[str, jax.Array],
  *,
  key: jax.Array | None = None,
  constrain: layers.Constrain = layers.unconstrained,
) -> jax.Array:
  """Scores steps of solutions whose questions are computed once.

  Args:
    batch: 'question_tokens', 'question_length', 'tokens' and 'step_positions' as
      `decoder.forward_shared` takes them.

  Returns:
    float32 [B C, P] for a scalar head, [B C, P, Q] for the others.
  """
  hidden = decoder.forward_shared(
    spec, params['decoder'], batch['question_tokens'], batch['question_length'],
    batch['tokens'], batch['step_positions'], constrain=constrain,
  )  # fmt: skip
  return heads.read(spec, head, params, hidden, key)
