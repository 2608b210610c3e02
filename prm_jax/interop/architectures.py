"""config.json <-> ModelSpec: the public families that one decoder covers.

Both forms in circulation are read: that of transformers 4 (`rope_theta`,
`rope_scaling`, `torch_dtype`) and that of transformers 5 (`rope_parameters`, `dtype`,
`layer_types`). Which keys are read, passed over or refused: `config_keys`.
"""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

import numpy as np

from prm_jax.errors import UserError
from prm_jax.interop import checkpoints, config_keys, rope_config
from prm_jax.interop.config_values import Values
from prm_jax.specs import ModelSpec

_EVEN = ('llama', 'gemma2', 'gemma3_text')
_LAYERS = 10_000  # at most; they are listed one by one
_POSITIONS = 32768  # tokens, where nothing says how long a text may be
ACTIVATIONS = {'silu': 'silu', 'gelu_pytorch_tanh': 'gelu_tanh'}


def text_config(c: Values) -> Values:
  """The part of config.json that describes the text decoder.

  Gemma 3 with vision keeps it under `text_config`.

  Raises:
    UserError: the model is of no supported family.
  """
  kind = c.word('model_type')
  inner = c.inside('text_config') if kind == 'gemma3' else c
  if kind == 'gemma3' and inner.held:
    held: dict[str, Any] = {'model_type': 'gemma3_text'}
    held['architectures'] = c.words('architectures')
    if 'tie_word_embeddings' in c.held:
      held['tie_word_embeddings'] = c.flag('tie_word_embeddings')
    inner = Values({**held, **inner.held}, inner.where, inner.path)
    kind = inner.word('model_type')
    if kind != 'gemma3_text':
      raise inner.fail('model_type', kind, "'gemma3_text'")
  if kind not in config_keys.FAMILIES:
    raise UserError(
      f'{c.where}: model_type {kind!r} is not supported; supported are '
      f'{", ".join(config_keys.FAMILIES)} and the text part of gemma3.'
    )
  return inner


def model_spec(config: dict[str, Any], where: str, **free: Any) -> ModelSpec:
  """The decoder that a config.json describes.

  Args:
    config: config.json, parsed.
    where: the checkpoint's folder, for messages.
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
  given = text_config(Values(config, os.path.join(where, checkpoints.CONFIG)))
  family = given.held['model_type']
  config_keys.check(given, family)
  defaults = config_keys.FAMILIES[family]
  for key, default in defaults.items():
    if default is ... and key not in given.held:
      raise UserError(f'{given.where}: {given.path}{key} is missing.')
  c = Values({**defaults, **given.held}, given.where, given.path)
  gemma = family.startswith('gemma')
  heads = c.size('num_attention_heads')
  width = c.size('hidden_size')
  window, windowed = _windows(c, family)
  return {
    'vocab_size': c.size('vocab_size'),
    'n_layers': c.size('num_hidden_layers', most=_LAYERS),
    'd_model': width,
    'n_heads': heads,
    'n_kv_heads': c.size('num_key_value_heads', heads),
    'head_dim': c.size('head_dim', width // heads),
    'd_ff': c.size('intermediate_size'),
    'activation': _activation(c, gemma),
    'norm_eps': c.positive('rms_norm_eps'),
    'norm_offset': 1.0 if gemma else 0.0,
    'post_norms': gemma,
    'embed_scale': math.sqrt(width) if gemma else 0.0,
    'tied_embeddings': c.flag('tie_word_embeddings'),
    'attention_bias': family == 'qwen2',
    'qk_norm': family in ('qwen3', 'gemma3_text'),
    'query_scale': c.positive('query_pre_attn_scalar') ** -0.5 if gemma else 0.0,
    'attn_softcap': c.amount('attn_logit_softcapping'),
    'final_softcap': c.amount('final_logit_softcapping'),
    'window': window,
    'windowed_layers': windowed,
    **rope_config.read(c, family),
  }


def _activation(c: Values, gemma: bool) -> str:
  # Gemma's class reads hidden_activation; its hidden_act is a leftover.
  key = 'hidden_activation' if gemma else 'hidden_act'
  name = c.word(key) or ('gelu_pytorch_tanh' if gemma else None)
  if name not in ACTIVATIONS:
    raise UserError(
      f'{c.where}: {key}={name!r} is not supported; supported are '
      f'{", ".join(ACTIVATIONS)}.'
    )
  return ACTIVATIONS[name]


def _windows(c: Values, family: str) -> tuple[int, tuple[bool, ...]]:
  """(window, windowed_layers) of ModelSpec; layer_types decides where it is there."""
  n = c.size('num_hidden_layers', most=_LAYERS)
  windowed = c.held.get('sliding_window') is not None
  if family.startswith('qwen') and not c.flag('use_sliding_window'):
    windowed = False
  types = c.words('layer_types')
  if types is not None:
    known = {'full_attention': False, 'sliding_attention': True}
    if len(types) != n or not set(types) <= set(known):
      raise UserError(
        f'{c.where}: layer_types must name full_attention or sliding_attention for '
        f'each of the {n} layers; found {config_keys.short(list(types))}.'
      )
    flags = tuple(known[t] for t in types)
  elif family.startswith('qwen'):
    after = c.count('max_window_layers') if windowed else n
    flags = tuple(i >= after for i in range(n))
  elif family == 'gemma2':
    flags = tuple(i % 2 == 0 for i in range(n))
  elif family == 'gemma3_text':
    every = c.size('sliding_window_pattern')
    flags = tuple((i + 1) % every != 0 for i in range(n))
  else:
    flags = (windowed,) * n
  if not any(flags):
    return 0, ()
  if not windowed:
    raise UserError(
      f'{c.where}: layer_types names sliding_attention, but no sliding_window is in '
      'use.'
    )
  return c.size('sliding_window'), () if all(flags) else flags


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
  values = _values(config, '')
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
    # Its class wants one, also where no layer has a window.
    config['sliding_window'] = (
      spec.window or config_keys.FAMILIES[family]['sliding_window']
    )
    config['attention_bias'] = False
    config['attention_dropout'] = 0.0
  return config
