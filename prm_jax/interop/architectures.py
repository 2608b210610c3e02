"""config.json <-> ModelSpec: the public families that one decoder covers.

Both forms in circulation are read: that of transformers 4 (`rope_theta`,
`rope_scaling`, `torch_dtype`) and that of transformers 5 (`rope_parameters`, `dtype`,
`layer_types`). Which keys are read, passed over or refused: `config_keys`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from prm_jax.errors import UserError
from prm_jax.interop import config_keys, rope_config
from prm_jax.specs import ModelSpec

_EVEN = ('llama', 'gemma2', 'gemma3_text')
_POSITIONS = 32768  # tokens, where nothing says how long a text may be
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
  try:
    return ModelSpec(**{**_values(config, where), **free})
  except UserError as e:
    sentence = str(e)
    raise UserError(
      sentence if sentence.startswith(where) else f'{where}: {sentence}'
    ) from e


def _values(config: dict[str, Any], where: str) -> dict[str, Any]:
  """The fields of ModelSpec that a config.json fixes."""
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
  return {
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


def hf_config(
  spec: ModelSpec, *, family: str = '', max_positions: int = 0
) -> dict[str, Any]:
  """The config.json of a decoder, without its class and head.

  Written in the form of transformers 4, which later versions read as well.

  Args:
    spec: the model.
    family: model_type; '' takes the first family that describes the model exactly.
    max_positions: longest sequence in tokens; 0 means that of the rope scaling, or
      the default of the family.

  Raises:
    UserError: no family (or not the one asked for) describes this model; what keeps
      it from the nearest is named.
  """
  if family and family not in config_keys.FAMILIES:
    raise UserError(f'family={family!r}: use one of {", ".join(config_keys.FAMILIES)}.')
  differences: dict[str, list[str]] = {}
  for name in (family,) if family else config_keys.FAMILIES:
    config = _describe(spec, name, max_positions)
    differences[name] = _differences(spec, config)
    if not differences[name]:
      return config
  if family:
    raise UserError(
      f'a {family} model cannot express {", ".join(differences[family])}; leave the '
      'family to be chosen, or export in another layout.'
    )
  nearest = min(differences, key=lambda name: len(differences[name]))
  raise UserError(
    f'no public family has this model; nearest is {nearest}, which cannot express '
    f'{", ".join(differences[nearest])}.'
  )


def _differences(spec: ModelSpec, config: dict[str, Any]) -> list[str]:
  """What a config.json, read back, says otherwise, as 'model.window=4'."""
  if config['model_type'] in _EVEN and spec.d_model % spec.n_heads:
    return [f'model.d_model={spec.d_model} (its class wants a multiple of n_heads)']
  values = _values(config, 'config.json')
  ours, theirs = _facts(spec), _facts(dataclasses.replace(spec, **values))
  return [
    f'model.{name}={getattr(spec, name)!r}'
    for name in values
    if name in ours and ours[name] != theirs[name]
  ]


def _facts(spec: ModelSpec) -> dict[str, Any]:
  """The fields with what they mean: defaults spelled out, layer by layer."""
  flags = tuple(spec.is_windowed(i) for i in range(spec.n_layers))
  facts = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec)}
  facts['windowed_layers'] = flags
  facts['window'] = spec.window if any(flags) else 0
  facts['rope_scaling'] = rope_config.of_layer(spec, False)[1]
  facts['rope_theta_local'] = rope_config.of_layer(spec, True) if any(flags) else ()
  facts['query_scale'] = np.float32(spec.query_scale or spec.head_dim**-0.5)
  facts['embed_scale'] = np.float32(spec.embed_scale or 1.0)
  return facts


def _describe(spec: ModelSpec, family: str, max_positions: int) -> dict[str, Any]:
  """The nearest config.json of a family; it need not describe the model exactly."""
  gemma = family.startswith('gemma')
  names = {ours: public for public, ours in ACTIVATIONS.items()}
  flags = [spec.is_windowed(i) for i in range(spec.n_layers)]
  config: dict[str, Any] = {
    'model_type': family,
    'vocab_size': spec.vocab_size,
    'hidden_size': spec.d_model,
    'intermediate_size': spec.d_ff,
    'num_hidden_layers': spec.n_layers,
    'num_attention_heads': spec.n_heads,
    'num_key_value_heads': spec.n_kv_heads,
    'head_dim': spec.head_dim,
    'rms_norm_eps': spec.norm_eps,
    'tie_word_embeddings': spec.tied_embeddings,
    'hidden_activation' if gemma else 'hidden_act': names[spec.activation],
    **rope_config.write(spec, family),
  }
  scaled = spec.rope_scaling[1] if spec.rope_scaling else 1
  longest = max_positions or int(_POSITIONS * scaled)
  if spec.rope_scaling and spec.rope_scaling[0] == 'yarn':
    # transformers 4 takes the factor from the two lengths, whatever stands there.
    longest = round(spec.rope_scaling[2] * spec.rope_scaling[1])
  config['max_position_embeddings'] = longest
  if family != 'llama':
    config['sliding_window'] = spec.window if any(flags) else None
  if family not in ('llama', 'mistral') and any(flags):
    kinds = ('full_attention', 'sliding_attention')
    config['layer_types'] = [kinds[flag] for flag in flags]
  if family.startswith('qwen'):
    config['use_sliding_window'] = any(flags)
    config['max_window_layers'] = flags.index(True) if any(flags) else spec.n_layers
  elif gemma:
    scale = (spec.query_scale or spec.head_dim**-0.5) ** -2
    whole = round(scale)
    config['query_pre_attn_scalar'] = (
      whole if math.isclose(whole, scale, rel_tol=1e-12) else scale
    )
    capped = spec.attn_softcap if family == 'gemma2' else 0.0
    config['attn_logit_softcapping'] = capped or None
    config['final_logit_softcapping'] = spec.final_softcap or None
    # Our flags, whatever the default pattern of the family.
    config['layer_types'] = [
      'sliding_attention' if flag else 'full_attention' for flag in flags
    ]
    config['attention_bias'] = False
    config['attention_dropout'] = 0.0
  return config
