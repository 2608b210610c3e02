"""Rotary embeddings of a config.json, in both of its forms, <-> ModelSpec."""

from __future__ import annotations

import math
from typing import Any

from prm_jax.errors import UserError
from prm_jax.specs import ModelSpec

THETA = 10000.0
GEMMA3_THETA = 1000000.0
_KEYS = {
  'default': set(),
  'linear': {'factor'},
  'llama3': {
    'factor', 'low_freq_factor', 'high_freq_factor', 'original_max_position_embeddings',
  },
  'yarn': {
    'factor', 'original_max_position_embeddings', 'beta_fast', 'beta_slow',
    'attention_factor', 'mscale', 'mscale_all_dim', 'truncate',
  },
}  # fmt: skip


def read(c: dict[str, Any], family: str, where: str) -> dict[str, Any]:
  """rope_theta, rope_theta_local and rope_scaling of ModelSpec.

  Args:
    c: the keys of config.json, with defaults filled in.
    family: its model_type.
    where: for messages.

  Raises:
    UserError: a scaling that is not supported, or one that lacks a number.
  """
  scaling = c['rope_scaling'] or {}
  flat = c['rope_parameters'] or {}
  for name, held in (('rope_scaling', scaling), ('rope_parameters', flat)):
    if not isinstance(held, dict):
      raise UserError(f'{where}: {name} must be an object.')
  if family == 'gemma3_text':
    return _read_gemma3(c, scaling, flat, where)
  if 'full_attention' in flat or 'sliding_attention' in flat:
    raise UserError(
      f'{where}: rope_parameters differ between layers, which is not supported for '
      f'{family}.'
    )
  if any(flat.get(key, value) != value for key, value in scaling.items()):
    raise UserError(f'{where}: rope_scaling and rope_parameters contradict each other.')
  held = {**flat, **scaling}
  theta = held.get('rope_theta') or c['rope_theta'] or THETA
  return {
    'rope_theta': _positive(theta, 'rope_theta', where),
    'rope_theta_local': 0.0,
    'rope_scaling': _scaling(held, c, where),
  }


def _read_gemma3(
  c: dict[str, Any], scaling: dict[str, Any], held: dict[str, Any], where: str
) -> dict[str, Any]:
  """Windowed layers have a base of their own and no scaling."""
  unknown = set(held) - {'full_attention', 'sliding_attention'}
  if unknown:
    raise UserError(
      f'{where}: rope_parameters of gemma3_text are by layer type; found '
      f'{", ".join(sorted(unknown))}.'
    )
  full = {**(held.get('full_attention') or {}), **scaling}
  near = held.get('sliding_attention') or {}
  if _scaling(near, c, where):
    raise UserError(
      f'{where}: rope_parameters scale the sliding_attention layers, which is not '
      'supported.'
    )
  theta = full.get('rope_theta') or c['rope_theta'] or GEMMA3_THETA
  local = near.get('rope_theta') or c['rope_local_base_freq'] or THETA
  return {
    'rope_theta': _positive(theta, 'rope_theta', where),
    'rope_theta_local': _positive(local, 'rope_local_base_freq', where),
    'rope_scaling': _scaling(full, c, where),
  }


def _scaling(held: dict[str, Any], c: dict[str, Any], where: str) -> tuple:
  """`ModelSpec.rope_scaling` of a rope_scaling or rope_parameters object."""
  kind = held.get('rope_type', held.get('type', 'default'))
  if kind not in _KEYS:
    raise UserError(
      f'{where}: rope scaling {kind!r} is not supported; supported are '
      f'{", ".join(k for k in _KEYS)}.'
    )
  for key, value in held.items():
    if key in ('rope_type', 'type', 'rope_theta') or key in _KEYS[kind]:
      continue
    if value is None or (key == 'partial_rotary_factor' and value == 1):
      continue
    raise UserError(
      f'{where}: rope scaling {kind!r} with {key}={value!r} is not known.'
    )
  if kind == 'default':
    return ()

  def number(key: str, default: Any = None) -> float:
    value = held.get(key)
    value = default if value is None else value
    if value is None:
      raise UserError(f'{where}: rope scaling {kind!r} lacks {key}.')
    return _positive(value, key, where)

  if kind == 'linear':
    return ('linear', number('factor'))
  # A length beside the rope keys comes first, as in transformers.
  longest = c['max_position_embeddings']
  outside = c['original_max_position_embeddings']
  key = 'original_max_position_embeddings'
  original = _positive(outside, key, where) if outside else number(key, longest)
  if kind == 'llama3':
    low, high = number('low_freq_factor'), number('high_freq_factor')
    return ('llama3', number('factor'), low, high, original)
  if held.get('truncate') is False:
    raise UserError(
      f"{where}: rope scaling 'yarn' with truncate=false is not supported."
    )
  factor = number('factor', longest / original if longest else None)
  attention = held.get('attention_factor')
  if attention is None:
    attention = _yarn_attention(factor, held.get('mscale'), held.get('mscale_all_dim'))
  fast, slow = held.get('beta_fast') or 32, held.get('beta_slow') or 1
  return (
    'yarn', factor, original, _positive(fast, 'beta_fast', where),
    _positive(slow, 'beta_slow', where),
    _positive(attention, 'attention_factor', where),
  )  # fmt: skip


def _yarn_attention(factor: float, scale: Any, scale_all: Any) -> float:
  """What cosines and sines are multiplied by (Peng et al. 2023, section 3.4)."""

  def one(m: float) -> float:
    return 0.1 * m * math.log(factor) + 1.0 if factor > 1 else 1.0

  return one(scale) / one(scale_all) if scale and scale_all else one(1.0)


def _positive(value: Any, key: str, where: str) -> float:
  if type(value) not in (int, float) or not (0 < value < math.inf):
    raise UserError(f'{where}: {key}={value!r}; it must be a positive number.')
  return float(value)


def write(spec: ModelSpec, family: str) -> dict[str, Any]:
  """The rope keys of config.json in the form that all versions read."""
  out: dict[str, Any] = {'rope_theta': spec.rope_theta}
  if family == 'gemma3_text':
    out['rope_local_base_freq'] = spec.rope_theta_local or spec.rope_theta
  if not spec.rope_scaling:
    return out
  kind, *numbers = spec.rope_scaling
  names = {
    'linear': ('factor',),
    'llama3': (
      'factor', 'low_freq_factor', 'high_freq_factor',
      'original_max_position_embeddings',
    ),
    'yarn': (
      'factor', 'original_max_position_embeddings', 'beta_fast', 'beta_slow',
      'attention_factor',
    ),
  }[kind]  # fmt: skip
  values: dict[str, Any] = dict(zip(names, numbers, strict=True))
  if not values.get('attention_factor', 1):  # 0 is our word for the usual one
    del values['attention_factor']
  if 'original_max_position_embeddings' in values:
    values['original_max_position_embeddings'] = int(
      values['original_max_position_embeddings']
    )
  out['rope_scaling'] = {'rope_type': kind, **values}
  return out


def of_layer(spec: ModelSpec, windowed: bool) -> tuple[float, tuple]:
  """(base, scaling) of a kind of layer, with what is meant by 0 written out."""
  if windowed and spec.rope_theta_local:
    return spec.rope_theta_local, ()
  scaling = spec.rope_scaling
  if scaling and scaling[0] == 'yarn' and not scaling[5]:
    scaling = (*scaling[:5], _yarn_attention(scaling[1], None, None))
  return spec.rope_theta, scaling
