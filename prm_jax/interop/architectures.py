"""config.json <-> ModelSpec: the public families that one decoder covers.

Both forms in circulation are read: that of transformers 4 (`rope_theta`,
`rope_scaling`, `torch_dtype`) and that of transformers 5 (`rope_parameters`, `dtype`,
`layer_types`). A key that is missing has the default of transformers' class. Every key
is either read here, known not to change the computation (`config_keys.HARMLESS`), or refused by
name; an unknown key passes only where its value says that the thing is off (null,
false, empty) or its name begins with '_'. So a variant of a family is never computed
silently wrong.
"""

from __future__ import annotations

import math
from typing import Any

from prm_jax.errors import UserError
from prm_jax.interop import config_keys, rope_config
from prm_jax.specs import ModelSpec

ACTIVATIONS = {'silu': 'silu', 'gelu_pytorch_tanh': 'gelu_tanh'}


def text_config(config: dict[str, Any], where: str) -> dict[str, Any]:
  """The part of config.json that describes the text decoder.

  Gemma 3 with vision keeps it under `text_config`.

  Raises:
    UserError: the model is of no supported family.
  """
  kind = config.get('model_type')
  if kind == 'gemma3' and isinstance(config.get('text_config'), dict):
    inner = {'model_type': 'gemma3_text', **config['text_config']}
    if 'tie_word_embeddings' in config:
      inner.setdefault('tie_word_embeddings', config['tie_word_embeddings'])
    return {'architectures': config.get('architectures'), **inner}
  if kind not in config_keys.FAMILIES:
    raise UserError(
      f'{where}: model_type {kind!r} is not supported; supported are '
      f'{", ".join(config_keys.FAMILIES)} and the text part of gemma3.'
    )
  return config


def model_spec(config: dict[str, Any], where: str, **free: Any) -> ModelSpec:
  """The decoder that a config.json describes.

  Args:
    config: config.json, parsed.
    where: for messages, for example the checkpoint's folder.
    **free: fields of ModelSpec that a checkpoint does not fix (scan_layers, remat,
      param_dtype, compute_dtype, query_block, ...).

  Raises:
    UserError: a family, class, key or value that is not supported; named.
  """
  config = text_config(config, where)
  family = config['model_type']
  config_keys.check(config, family, where)
  c = {
    key: config.get(key, default)
    for key, default in config_keys.FAMILIES[family].items()
  }
  for key, value in c.items():
    if value is ...:
      raise UserError(f'{where}: {key} is missing in config.json.')
  gemma = family.startswith('gemma')
  heads = _whole(c, 'num_attention_heads', where)
  width = _whole(c, 'hidden_size', where)
  window, windowed = _windows(c, family, where)
  values = {
    'vocab_size': _whole(c, 'vocab_size', where),
    'n_layers': _whole(c, 'num_hidden_layers', where),
    'd_model': width,
    'n_heads': heads,
    'n_kv_heads': _whole(c, 'num_key_value_heads', where, heads),
    'head_dim': _whole(c, 'head_dim', where, width // heads),
    'd_ff': _whole(c, 'intermediate_size', where),
    'activation': _activation(c, gemma, where),
    'norm_eps': _number(c, 'rms_norm_eps', where),
    'norm_offset': 1.0 if gemma else 0.0,
    'post_norms': gemma,
    'embed_scale': math.sqrt(width) if gemma else 0.0,
    'tied_embeddings': bool(c['tie_word_embeddings']),
    'attention_bias': family == 'qwen2',
    'qk_norm': family in ('qwen3', 'gemma3_text'),
    'query_scale': _number(c, 'query_pre_attn_scalar', where) ** -0.5 if gemma else 0.0,
    'attn_softcap': float(c.get('attn_logit_softcapping') or 0.0),
    'final_softcap': float(c.get('final_logit_softcapping') or 0.0),
    'window': window,
    'windowed_layers': windowed,
    **rope_config.read(c, family, where),
  }
  try:
    return ModelSpec(**{**values, **free})
  except UserError as e:
    raise UserError(f'{where}: {e}') from e


def _whole(c: dict[str, Any], key: str, where: str, default: int = 0) -> int:
  value = c[key]
  if value is None and default:
    return default
  if type(value) is not int or value < 1:
    raise UserError(
      f'{where}: {key}={config_keys.short(value)}; it must be a positive number.'
    )
  return value


def _number(c: dict[str, Any], key: str, where: str) -> float:
  value = c[key]
  if type(value) not in (int, float) or not value > 0:
    raise UserError(
      f'{where}: {key}={config_keys.short(value)}; it must be a positive number.'
    )
  return float(value)


def _activation(c: dict[str, Any], gemma: bool, where: str) -> str:
  # Gemma's class reads hidden_activation; its hidden_act is a leftover.
  key = 'hidden_activation' if gemma else 'hidden_act'
  name = c[key] or ('gelu_pytorch_tanh' if gemma else None)
  if name not in ACTIVATIONS:
    raise UserError(
      f'{where}: {key}={name!r} is not supported; supported are '
      f'{", ".join(ACTIVATIONS)}.'
    )
  return ACTIVATIONS[name]


def _windows(
  c: dict[str, Any], family: str, where: str
) -> tuple[int, tuple[bool, ...]]:
  """(window, windowed_layers) of ModelSpec; layer_types decides where it is there."""
  n = _whole(c, 'num_hidden_layers', where)
  window = c.get('sliding_window')
  if family.startswith('qwen') and not c['use_sliding_window']:
    window = None
  types = c['layer_types']
  if types is not None:
    known = {'full_attention': False, 'sliding_attention': True}
    if not isinstance(types, list) or len(types) != n or not set(types) <= set(known):
      raise UserError(
        f'{where}: layer_types must name full_attention or sliding_attention for each '
        f'of the {n} layers; found {config_keys.short(types)}.'
      )
    flags = tuple(known[t] for t in types)
  elif family.startswith('qwen'):
    after = c['max_window_layers']
    flags = tuple(window is not None and i >= after for i in range(n))
  elif family == 'gemma2':
    flags = tuple(i % 2 == 0 for i in range(n))
  elif family == 'gemma3_text':
    every = _whole(c, 'sliding_window_pattern', where)
    flags = tuple((i + 1) % every != 0 for i in range(n))
  else:
    flags = (window is not None,) * n
  if not any(flags):
    return 0, ()
  if window is None:
    raise UserError(
      f'{where}: layer_types names sliding_attention, but no sliding_window is in use.'
    )
  size = _whole({'sliding_window': window}, 'sliding_window', where)
  return size, () if all(flags) else flags
