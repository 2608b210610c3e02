"""Rotary position embeddings and their scaled variants.

RoFormer (Su et al. 2021): the pair (x_i, x_{i + H/2}) of a head is turned by the
angle `position * frequency_i`. Scalings stretch the frequencies of a model that
was trained on shorter texts.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from prm_jax.specs import ModelSpec


class Rotation(NamedTuple):
  """Cosines and sines of the angles of a set of positions.

  Attributes:
    cos: float32 [T, H/2], or [B, T, H/2] where positions differ between rows.
    sin: the same shape.
  """

  cos: jax.Array
  sin: jax.Array

  def take(self, index: jax.Array) -> Rotation:
    """The rotation [B, P, H/2] at `index` [B, P] of a rotation [T, H/2] or
    [B, T, H/2]."""
    if self.cos.ndim == 2:
      return Rotation(self.cos[index], self.sin[index])
    at = lambda x: jnp.take_along_axis(x, index[..., None], axis=1)
    return Rotation(at(self.cos), at(self.sin))


def frequencies(head_dim: int, theta: float, scaling: tuple) -> np.ndarray:
  """Angle per position, float64 [H/2].

  Args:
    head_dim: H.
    theta: base of the geometric series `theta ** (-2 i / H)`.
    scaling: as in `ModelSpec.rope_scaling`.
  """
  plain = theta ** -(np.arange(0, head_dim, 2) / head_dim)
  if not scaling:
    return plain
  kind, factor = scaling[0], float(scaling[1])
  if kind == 'linear':
    return plain / factor
  if kind == 'llama3':
    # Long waves are stretched, short ones kept, those between interpolated.
    low, high, original = map(float, scaling[2:])
    turns = original * plain / (2 * math.pi)
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return keep * plain + (1 - keep) * plain / factor
  # YaRN (Peng et al. 2023): the same idea with a ramp over the index of the pair.
  original, beta_fast, beta_slow = map(float, scaling[2:5])

  def pair_index(turns: float) -> float:
    wavelengths = math.log(original / (turns * 2 * math.pi))
    return head_dim * wavelengths / (2 * math.log(theta))

  low = max(math.floor(pair_index(beta_fast)), 0)
  high = min(math.ceil(pair_index(beta_slow)), head_dim - 1)
  ramp = (np.arange(head_dim // 2) - low) / max(high - low, 1e-3)
  stretched = np.clip(ramp, 0.0, 1.0)
  return stretched * plain / factor + (1 - stretched) * plain


def _attention_factor(scaling: tuple) -> float:
  if not scaling or scaling[0] != 'yarn':
    return 1.0
  return float(scaling[5]) or 0.1 * math.log(float(scaling[1])) + 1.0


def rotation(spec: ModelSpec, positions: jax.Array, windowed: bool) -> Rotation:
  """The rotation of `positions` (int32 [T] or [B, T]) in one kind of layer.

  Args:
    spec: the model.
    positions: token positions counted from the first real token.
    windowed: whether the layer has a sliding window; such a layer may rotate
      with a base of its own, and without scaling (Gemma 3).
  """
  local = windowed and spec.rope_theta_local > 0
  theta = spec.rope_theta_local if local else spec.rope_theta
  scaling = () if local else spec.rope_scaling
  per_position = frequencies(spec.head_dim, theta, scaling).astype(np.float32)
  angles = jnp.multiply(
    positions[..., None].astype(jnp.float32),
    jnp.expand_dims(per_position, tuple(range(positions.ndim))),
  )
  factor = _attention_factor(scaling)
  return Rotation(factor * jnp.cos(angles), factor * jnp.sin(angles))


def rotate(x: jax.Array, turn: Rotation) -> jax.Array:
  """Turns the heads `x` [B, N, T, H]; float32 inside, result in x's dtype."""
  cos, sin = (
    table[None, None] if table.ndim == 2 else table[:, None] for table in turn
  )
  cos = jnp.concatenate([cos, cos], axis=-1)
  sin = jnp.concatenate([-sin, sin], axis=-1)
  wide = x.astype(jnp.float32)
  # Rolling by half a head instead of joining two computed halves: a quarter less
  # forward time on CPU for a small model, for the same numbers.
  swapped = jnp.roll(wide, x.shape[-1] // 2, axis=-1)
  return (wide * cos + swapped * sin).astype(x.dtype)
