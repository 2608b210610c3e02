"""A small model of each public family with random weights, and heads to export."""

import numpy as np

from prm_jax import tensors
from prm_jax.formats import tokenizers
from prm_jax.models import weights
from prm_jax.specs import (
  HeadSpec,
  ModelSpec,
  PolicySpec,
  ScorerSpec,
  StepFormat,
  TextFormat,
)

BYTES = tokenizers.load('bytes')
SIZES = {
  'n_layers': 3, 'd_model': 16, 'n_heads': 4, 'n_kv_heads': 2, 'head_dim': 8,
  'd_ff': 24,
}  # fmt: skip
GEMMA = {
  'activation': 'gelu_tanh', 'norm_offset': 1.0, 'post_norms': True, 'embed_scale': 4.0,
  'query_scale': 12**-0.5, 'window': 5, 'windowed_layers': (True, False, True),
}  # fmt: skip
FAMILIES = {
  'qwen2': {
    'attention_bias': True, 'rope_scaling': ('yarn', 4.0, 16.0, 32.0, 1.0, 0.0),
  },
  'qwen3': {'qk_norm': True, 'window': 4, 'windowed_layers': (False, True, True)},
  'llama': {'rope_scaling': ('llama3', 8.0, 1.0, 4.0, 16.0), 'tied_embeddings': False},
  'mistral': {'window': 6, 'tied_embeddings': False, 'rope_theta': 1e6},
  'gemma2': {**GEMMA, 'attn_softcap': 5.0, 'final_softcap': 8.0},
  'gemma3_text': {
    **GEMMA, 'qk_norm': True, 'rope_theta': 1e6, 'rope_theta_local': 1e4,
    'rope_scaling': ('linear', 8.0),
  },
}  # fmt: skip
HEADS = {
  'scalar': HeadSpec('scalar'),
  'no_bias': HeadSpec('scalar', bias=False),
  'linear2': HeadSpec('linear', 2),
  'linear3': HeadSpec('linear', 3),
  'mlp': HeadSpec('mlp'),
  'label_tokens': HeadSpec('label_tokens', label_tokens=(45, 43)),
}


def model(family: str, **changes) -> ModelSpec:
  return ModelSpec(BYTES.vocab_size, **{**SIZES, **FAMILIES[family], **changes})


def scorer(family: str, head: str, **changes) -> ScorerSpec:
  return ScorerSpec(model(family, **changes), HEADS[head], StepFormat(max_length=64))


def policy(family: str, **changes) -> PolicySpec:
  return PolicySpec(model(family, **changes), TextFormat(max_length=64))


def random(spec, head: HeadSpec) -> dict:
  """Parameters of order one, so that every one of them matters."""
  rng = np.random.default_rng(0)
  flat = {}
  for path, weight in weights.flatten(weights.declare(spec, head)):
    scale = 0.3 if 'norm' not in path and weight.std == 0 else weight.std or 0.3
    scale = 0.5 if 'wout' in path else scale
    noise = rng.normal(size=weight.shape) * scale + weight.constant
    flat[path] = noise.astype(weight.dtype)
  return tensors.unflatten(flat)
