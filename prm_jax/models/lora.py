"""LoRA: low-rank updates of frozen matrices.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021), section 4.1:
`x W` becomes `x W + (alpha / rank) * dropout(x) A B`, where A [D, R] starts normal and
B [R, ...] at zero, so that training starts from the function of W. A and B are weights
like any other: declared with axis letters, so that they are sharded as W is, R whole.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import math
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from prm_jax.errors import UserError
from prm_jax.models.layers import Adapted
from prm_jax.models.weights import Weight

# Matrices that a layer applies with `dense`, and how many of their axes it sums over.
INPUTS = {
  'wq_DNH': 1, 'wk_DKH': 1, 'wv_DKH': 1, 'wo_NHD': 2,
  'wgate_DF': 1, 'wup_DF': 1, 'wdown_FD': 1,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LoraSpec:
  """Which matrices get an update, and which.

  Attributes:
    rank: R; 0 for no LoRA.
    alpha: the update is multiplied by alpha / rank.
    dropout: rate on the update's input while training.
    targets: names of matrices, with or without their letters ('wq', 'wq_DNH'), or
      patterns ('w*'); all layers have them.

  Raises:
    UserError: a value is impossible.
  """

  rank: int = 0
  alpha: float = 16.0
  dropout: float = 0.0
  targets: tuple[str, ...] = ('wq', 'wv')

  def __post_init__(self):
    if self.rank < 0:
      raise UserError(f'lora.rank is {self.rank}; give 0 (no LoRA) or more.')
    if not 0 <= self.dropout < 1:
      raise UserError(f'lora.dropout is {self.dropout}; give a rate in [0, 1).')
    if not self.alpha > 0:
      raise UserError(f'lora.alpha is {self.alpha}; give a positive number.')
    if self.rank and not self.targets:
      raise UserError(
        f'lora.targets is empty; name matrices, of {", ".join(INPUTS)}, or set '
        'lora.rank=0.'
      )

  @property
  def scale(self) -> float:
    """alpha / rank."""
    return self.alpha / self.rank


OFF = LoraSpec()


def targets(spec: LoraSpec, declared: Mapping[str, Weight]) -> list[str]:
  """Paths of the weights that get an update.

  Args:
    declared: {path: weight} of the model.

  Raises:
    UserError: a target matches no matrix of a layer; says which there are.
  """
  names = {path: path.rsplit('/', 1)[-1] for path in declared}
  can = {path: name for path, name in names.items() if name in INPUTS}
  found = set()
  for target in spec.targets:
    hits = {
      path
      for path, name in can.items()
      if fnmatch.fnmatchcase(name, target)
      or fnmatch.fnmatchcase(name.rsplit('_', 1)[0], target)
    }
    if not hits:
      raise UserError(
        f'lora.targets={target!r} matches no matrix of a layer; there are '
        f'{", ".join(dict.fromkeys(can.values()))}.'
      )
    found |= hits
  return [path for path in declared if path in found]


def adapters(weight: Weight, rank: int, dtype: str) -> dict[str, Weight]:
  """The two factors of a weight's update, named by their letters.

  A has the variance 1 / (3 D) with which the usual implementation starts, so that
  published learning rates carry over; B is zero.
  """
  name = weight.key_name.rsplit('/', 1)[-1]
  lead = int(weight.axes.startswith('L'))
  cut = lead + INPUTS[name]
  a_shape = (*weight.shape[:cut], rank)
  b_shape = (*weight.shape[:lead], rank, *weight.shape[cut:])
  a_axes = weight.axes[:cut] + 'R'
  b_axes = weight.axes[:lead] + 'R' + weight.axes[cut:]
  fan_in = math.prod(weight.shape[lead:cut])
  make = lambda which, shape, axes, std: Weight(
    shape, axes, std, 0.0, dtype, f'{weight.key_name}/{which}', weight.layer
  )
  return {
    f'lora_a_{a_axes[lead:]}': make('lora_a', a_shape, a_axes, (3 * fan_in) ** -0.5),
    f'lora_b_{b_axes[lead:]}': make('lora_b', b_shape, b_axes, 0.0),
  }


def adapt(
  spec: LoraSpec,
  path: str,
  base: jax.Array,
  factors: Mapping[str, Any],
  key: jax.Array | None = None,
) -> Adapted:
  """The node that takes the place of `base` in a parameter tree.

  Args:
    path: of the weight; its dropout is a stream of its own.
    base: the frozen matrix, or stacked matrices of scanned layers.
    factors: the arrays that `adapters` declared.
    key: random key of this pass, None while not training.
  """
  a, b = (factors[name] for name in sorted(factors))
  if key is None or not spec.dropout:
    return Adapted(base, a, b, None, spec.scale)
  key = jax.random.fold_in(key, zlib.crc32(path.encode()))
  if n_stacked(base, a, b):
    key = jax.random.split(key, base.shape[0])
  return Adapted(base, a, b, key, spec.scale, spec.dropout)


def n_stacked(base: jax.Array, a: jax.Array, b: jax.Array) -> int:
  """Leading axes that matrix and factors share: 1 in scanned layers, else 0."""
  return a.ndim + b.ndim - base.ndim - 2


def merge(w: Adapted, dtype: Any) -> jax.Array:
  """`base + scale * a b` as one array of `dtype`, computed in float32."""
  n = w.base.shape[0] if n_stacked(w.base, w.a, w.b) else 1
  rank = w.a.shape[-1]
  a = w.a.astype(jnp.float32).reshape(n, -1, rank)
  b = w.b.astype(jnp.float32).reshape(n, rank, -1)
  update = jnp.matmul(a, b, precision='highest').reshape(w.base.shape)
  return (w.base.astype(jnp.float32) + w.scale * update).astype(dtype)
