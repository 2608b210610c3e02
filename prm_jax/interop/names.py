"""Weight path <-> public tensor names, driven by the weight declarations."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from prm_jax.errors import UserError
from prm_jax.models import weights
from prm_jax.models.weights import Weight
from prm_jax.specs import HeadSpec, ModelSpec

EMBEDDING = 'embed_tokens.weight'
VOCABULARY_HEAD = 'lm_head.weight'
# Where the decoder's tensors stand: inside a model with a head, a bare decoder, the
# text part of a model with vision (two generations), a wrapper with a value head.
PREFIXES = (
  'model.', '', 'model.language_model.', 'language_model.model.',
  'pretrained_model.model.',
)  # fmt: skip
# Tensors of other parts of a model, which a decoder or a head can do without.
_UNNEEDED = (
  'lm_head.', 'score.', 'v_head.', 'vision_tower.', 'multi_modal_projector.',
  'model.vision_tower.', 'model.multi_modal_projector.', 'language_model.lm_head.',
  'pretrained_model.lm_head.',
)  # fmt: skip
_BUFFERS = ('rotary_emb.inv_freq', 'attn.masked_bias')


@dataclasses.dataclass(frozen=True)
class Source:
  """Where a weight comes from.

  Attributes:
    names: the tensor's name; of stacked layers one a layer.
    shape: of such a tensor.
    transposed: whether the tensor is [outputs, inputs], as matrices of torch are,
      and the weight begins with its inputs.
    stacked: whether the weight is stacked layers.
  """

  names: tuple[str, ...]
  shape: tuple[int, ...]
  transposed: bool
  stacked: bool


def sources(
  spec: ModelSpec, declared: dict[str, Any], prefix: str, heads: dict[str, str]
) -> dict[str, Source]:
  """Weight path -> source, for a tree of declarations.

  Args:
    spec: the model.
    declared: `weights.declare(...)`, or a part of it.
    prefix: one of PREFIXES.
    heads: path of a head's weight -> tensor name (`head_names`).
  """
  return {
    path: _source(spec, path, weight, prefix, heads)
    for path, weight in weights.flatten(declared)
  }


def _source(
  spec: ModelSpec, path: str, weight: Weight, prefix: str, heads: dict[str, str]
) -> Source:
  place, *inner = path.split('/')
  stacked = weight.axes.startswith('L')
  axes, shape = weight.axes[stacked:], weight.shape[stacked:]
  names: tuple[str, ...]
  if place == 'head':
    names = (heads[path],)
  elif inner[0] == 'embed_VD':
    names = (prefix + EMBEDDING,)
  elif inner[0] == 'final_norm_D':
    names = (prefix + 'norm.weight',)
  else:
    own = _in_layer(spec, inner[1])
    first = weight.layer
    count = weight.shape[0] if stacked else 1
    names = tuple(f'{prefix}layers.{first + i}.{own}' for i in range(count))
  if len(axes) == 1 or inner[-1].startswith('b'):  # norms and biases
    return Source(names, (math.prod(shape),), False, stacked)
  if axes == 'VD':
    return Source(names, shape, False, stacked)
  # Attention's inputs are D; those of its output matrix are N and H together.
  cut = len(axes) - 1 if axes == 'NHD' else 1
  public = (math.prod(shape[cut:]), math.prod(shape[:cut]))
  return Source(names, public, True, stacked)


def _in_layer(spec: ModelSpec, name: str) -> str:
  stem = name.rsplit('_', 1)[0]
  before_mlp = 'pre_feedforward' if spec.post_norms else 'post_attention'
  named = {
    'attn_norm': 'input_layernorm.weight',
    'attn_post_norm': 'post_attention_layernorm.weight',
    'mlp_norm': f'{before_mlp}_layernorm.weight',
    'mlp_post_norm': 'post_feedforward_layernorm.weight',
    'q_norm': 'self_attn.q_norm.weight',
    'k_norm': 'self_attn.k_norm.weight',
    'wgate': 'mlp.gate_proj.weight',
    'wup': 'mlp.up_proj.weight',
    'wdown': 'mlp.down_proj.weight',
  }
  kinds = {'w': 'weight', 'b': 'bias'}
  return named.get(stem) or f'self_attn.{stem[1]}_proj.{kinds[stem[0]]}'


def head_names(head: HeadSpec, found: Iterable[str] = ()) -> dict[str, str]:
  """Path of a head's weight -> tensor name.

  Args:
    head: the head.
    found: names of a checkpoint's tensors; a scalar head may stand under
      v_head.summary, a vocabulary head beside a wrapped model.
  """
  held = set(found)
  if head.kind in ('lm', 'label_tokens'):
    wrapped = (
      f'{p}{VOCABULARY_HEAD}' for p in ('language_model.', 'pretrained_model.')
    )
    name = next((n for n in wrapped if n in held), VOCABULARY_HEAD)
    return {'head/lm_head_VD': name}
  first, last = 'score.0', 'score'
  if head.kind == 'mlp':
    last = 'score.2'
  elif head.kind == 'scalar' and 'v_head.summary.weight' in held:
    last = 'v_head.summary'
  return {
    'head/win_DD': f'{first}.weight',
    'head/bin_D': f'{first}.bias',
    'head/wout_DQ': f'{last}.weight',
    'head/bout_Q': f'{last}.bias',
  }


def prefix_of(found: Iterable[str], where: str) -> str:
  """The prefix of the decoder's tensors.

  Raises:
    UserError: no token embedding is there under any known name.
  """
  held = set(found)
  for prefix in PREFIXES:
    if prefix + EMBEDDING in held:
      return prefix
  raise UserError(
    f'{where}: no tensor {PREFIXES[0]}{EMBEDDING} there (nor one of another known '
    'layout), so it holds no decoder of a supported family.'
  )


def unneeded(name: str) -> bool:
  """Whether a tensor is known to be of no use: a buffer that is computed, or a head or
  a tower that was not asked for."""
  return name.startswith(_UNNEEDED) or name.endswith(_BUFFERS)
