"""Rotary embeddings of a config.json, in both of its forms, <-> ModelSpec."""

from __future__ import annotations

import math
from typing import Any

from prm_jax.errors import UserError
from prm_jax.interop.config_keys import short
from prm_jax.interop.config_values import Values
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


def read(c: Values, family: str) -> dict[str, Any]:
  """rope_theta, rope_theta_local and rope_scaling of ModelSpec.

  Args:
    c: config.json, with defaults filled in.
    family: its model_type.

  Raises:
    UserError: a scaling that is not supported, or one that lacks a number.
  """
  scaling, flat = c.inside('rope_scaling'), c.inside('rope_parameters')
  if family == 'gemma3_text':
    return _read_gemma3(c, scaling, flat)
  if 'full_attention' in flat.held or 'sliding_attention' in flat.held:
    raise UserError(
      f'{c.where}: rope_parameters differ between layers, which is not supported for '
      f'{family}.'
    )
  if any(flat.held.get(key, value) != value for key, value in scaling.held.items()):
    raise UserError(
      f'{c.where}: rope_scaling and rope_parameters contradict each other.'
    )
  held = _joined(flat, scaling)
  return {
    'rope_theta': held.positive('rope_theta', c.positive('rope_theta', THETA)),
    'rope_theta_local': 0.0,
    'rope_scaling': _scaling(held, c),
  }


def _read_gemma3(c: Values, scaling: Values, held: Values) -> dict[str, Any]:
  """Windowed layers have a base of their own and no scaling."""
  unknown = set(held.held) - {'full_attention', 'sliding_attention'}
  if unknown:
    raise UserError(
      f'{c.where}: rope_parameters of gemma3_text are by layer type; found '
      f'{", ".join(sorted(unknown))}.'
    )
  full = _joined(held.inside('full_attention'), scaling)
  near = held.inside('sliding_attention')
  if _scaling(near, c):
    raise UserError(
      f'{c.where}: rope_parameters scale the sliding_attention layers, which is not '
      'supported.'
    )
  theta = c.positive('rope_theta', GEMMA3_THETA)
  local = c.positive('rope_local_base_freq', THETA)
  return {
    'rope_theta': full.positive('rope_theta', theta),
    'rope_theta_local': near.positive('rope_theta', local),
    'rope_scaling': _scaling(full, c),
  }


def _joined(flat: Values, scaling: Values) -> Values:
  """The keys of both forms; a message names the older one where it is used."""
  path = scaling.path if scaling.held else flat.path
  return Values({**flat.held, **scaling.held}, flat.where, path)


def _scaling(held: Values, c: Values) -> tuple:
  """`ModelSpec.rope_scaling` of a rope_scaling or rope_parameters object."""
  named = next((key for key in ('rope_type', 'type') if key in held.held), '')
  kind = held.word(named) if named else 'default'
  if kind not in _KEYS:
    raise UserError(
      f'{c.where}: rope scaling {kind!r} is not supported; supported are '
      f'{", ".join(k for k in _KEYS)}.'
    )
  for key, value in held.held.items():
    if key in ('rope_type', 'type', 'rope_theta') or key in _KEYS[kind]:
      continue
    if value is None or (key == 'partial_rotary_factor' and value == 1):
      continue
    raise UserError(
      f'{c.where}: rope scaling {kind!r} with {key}={short(value)} is not known.'
    )
  if kind == 'default':
    return ()

  def number(key: str, default: float | None = None) -> float:
    if default is None and held.held.get(key) is None:
      raise UserError(f'{c.where}: rope scaling {kind!r} lacks {key}.')
    return held.positive(key, default)

  if kind == 'linear':
    return ('linear', number('factor'))
  longest = c.size('max_position_embeddings', 0) or None
  # A length beside the rope keys comes first, as in transformers.
  key = 'original_max_position_embeddings'
  outside = c.held.get(key) is not None
  original = c.positive(key) if outside else number(key, longest)
  if kind == 'llama3':
    low, high = number('low_freq_factor'), number('high_freq_factor')
    if low >= high:
      raise held.fail('high_freq_factor', high, f'more than low_freq_factor={low:g}')
    return ('llama3', number('factor'), low, high, original)
  if not held.flag('truncate', True):
    raise UserError(
      f"{c.where}: rope scaling 'yarn' with truncate=false is not supported."
    )
  factor = number('factor', longest / original if longest else None)
  scale, scale_all = held.amount('mscale'), held.amount('mscale_all_dim')
  return (
    'yarn', factor, original, number('beta_fast', 32), number('beta_slow', 1),
    number('attention_factor', _yarn_attention(factor, scale, scale_all)),
  )  # fmt: skip


def _yarn_attention(factor: float, scale: float = 0, scale_all: float = 0) -> float:
  """What cosines and sines are multiplied by (Peng et al. 2023, section 3.4)."""

  def one(m: float) -> float:
    return 0.1 * m * math.log(factor) + 1.0 if factor > 1 else 1.0

  return one(scale) / one(scale_all) if scale and scale_all else one(1.0)


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
    scaling = (*scaling[:5], _yarn_attention(scaling[1]))
  return spec.rope_theta, scaling
