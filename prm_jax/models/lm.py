"""The language model: next-token logits at every position, for policies."""

from __future__ import annotations

from typing import cast

import flax.linen as nn
import jax

from prm_jax.models import decoder, heads, layers, weights
from prm_jax.models.weights import Params
from prm_jax.specs import HeadSpec, ModelSpec

HEAD = HeadSpec(kind='lm')


class PolicyModel(nn.Module):
  """Tokens -> logits of the next token.

  Attributes:
    spec: the decoder.
    constrain: `f(x, letters)` that pins the layout of activations over a mesh.
  """

  spec: ModelSpec
  constrain: layers.Constrain = layers.unconstrained

  @nn.compact
  def __call__(self, tokens: jax.Array, segments: jax.Array | None = None) -> jax.Array:
    """int32 [B, T] -> float32 [B, T, V]; row t predicts token t + 1. For `segments`
    see `decoder.forward`."""
    params = weights.materialize(self, weights.declare(self.spec, HEAD))
    hidden = decoder.forward(
      self.spec, params['decoder'], tokens, segments=segments, constrain=self.constrain
    )
    return heads.read(self.spec, HEAD, params, hidden)


def init(spec: ModelSpec, key: jax.Array) -> Params:
  """New parameters, the same whether layers are scanned or unrolled."""
  return weights.initialize(weights.declare(spec, HEAD), key)


def apply(
  spec: ModelSpec,
  params: Params,
  tokens: jax.Array,
  *,
  segments: jax.Array | None = None,
  constrain: layers.Constrain = layers.unconstrained,
) -> jax.Array:
  """`PolicyModel` as a function: int32 [B, T] -> float32 logits [B, T, V]."""
  logits = PolicyModel(spec, constrain).apply({'params': params}, tokens, segments)
  return cast(jax.Array, logits)
