"""Heads: what is read from the hidden states, by `HeadSpec.kind`."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from prm_jax.models import layers
from prm_jax.models.weights import Params
from prm_jax.specs import HeadSpec, ModelSpec


def read(
  spec: ModelSpec,
  head: HeadSpec,
  params: Params,
  hidden: jax.Array,
  key: jax.Array | None = None,
) -> jax.Array:
  """Outputs of a head.

  Args:
    spec, head: the model.
    params: the whole model's weights; vocabulary heads of tied models read the
      embedding table.
    hidden: [B, P, D] after the final norm.
    key: random key of the dropout; None while not training.

  Returns:
    float32 [B, P] for a scalar head, [B, P, Q] for the others.
  """
  x = layers.dropout(hidden, head.dropout, key)
  if head.kind in ('lm', 'label_tokens'):
    table = _vocabulary_table(spec, params)
    if head.kind == 'label_tokens':
      table = table[jnp.asarray(head.label_tokens)]
    logits = jnp.einsum(
      '...D,VD->...V', x, table.astype(x.dtype), preferred_element_type=jnp.float32
    )
    return layers.softcap(logits, spec.final_softcap)
  w = params['head']
  x = x.astype(jnp.float32)
  if head.kind == 'mlp':
    x = jax.nn.relu(layers.dense(x, w['win_DD'], w['bin_D']))
  out = layers.dense(x, w['wout_DQ'], w.get('bout_Q'))
  return out[..., 0] if head.kind == 'scalar' else out


def _vocabulary_table(spec: ModelSpec, params: Params) -> jax.Array:
  if spec.tied_embeddings:
    return params['decoder']['embed_VD']
  return params['head']['lm_head_VD']
