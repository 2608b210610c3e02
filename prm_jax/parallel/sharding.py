"""Shardings from axis letters: one rule a letter, no path patterns.

A rule maps a letter to a mesh axis, or to several that split it together. Within
one array a mesh axis is used once, by the first letter that asks for it; a letter
whose size does not divide stays whole on every device, and is reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from prm_jax.models import weights
from prm_jax.models.weights import Weight

Rules = Mapping[str, str | tuple[str, ...]]

RULES: Rules = {
  'B': ('data', 'fsdp'),
  'D': 'fsdp',
  'N': 'tensor',
  'K': 'tensor',
  'F': 'tensor',
  'V': 'tensor',
}


def partition(
  axes: str, shape: tuple[int, ...], mesh: Mesh, rules: Rules = RULES
) -> tuple[PartitionSpec, str]:
  """Where one array lies.

  Args:
    axes: one letter an axis.
    shape: sizes of these axes.
    mesh: from `mesh.make_mesh`.
    rules: letter -> mesh axis or axes.

  Returns:
    (spec, letters that a rule would split but whose size does not divide).
  """
  used: set[str] = set()
  entries: list[str | tuple[str, ...] | None] = []
  whole = ''
  for letter, size in zip(axes, shape, strict=True):
    rule = rules.get(letter, ())
    names = (rule,) if isinstance(rule, str) else tuple(rule)
    names = tuple(n for n in names if n not in used and mesh.shape[n] > 1)
    if names and size % math.prod(mesh.shape[n] for n in names):
      whole += letter
      names = ()
    used.update(names)
    entries.append(names[0] if len(names) == 1 else names or None)
  return PartitionSpec(*entries), whole


def param_shardings(
  mesh: Mesh, declared: dict[str, Any], rules: Rules = RULES
) -> dict[str, Any]:
  """Tree of `NamedSharding` like the parameters.

  Args:
    mesh: from `mesh.make_mesh`.
    declared: tree of `Weight` (`models.weights.declare`).
    rules: letter -> mesh axis or axes.
  """

  def one(weight: Weight) -> NamedSharding:
    return NamedSharding(mesh, partition(weight.axes, weight.shape, mesh, rules)[0])

  return jax.tree.map(one, declared)


def fallbacks(mesh: Mesh, declared: dict[str, Any], rules: Rules = RULES) -> list[str]:
  """One sentence for each weight that is less split than the rules ask for."""
  notes = []
  for path, weight in weights.flatten(declared):
    for letter in partition(weight.axes, weight.shape, mesh, rules)[1]:
      size = weight.shape[weight.axes.index(letter)]
      notes.append(
        f'{path}: axis {letter} of size {size} does not divide by '
        f'{rules[letter]} and is whole on every device.'
      )
  return notes


def batch_sharding(mesh: Mesh, rules: Rules = RULES) -> NamedSharding:
  """Rows over the axes of letter B; whatever follows is whole."""
  rule = rules.get('B', ())
  return NamedSharding(mesh, PartitionSpec(rule or None))


def replicated(mesh: Mesh) -> NamedSharding:
  """A copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


def constrainer(
  mesh: Mesh, rules: Rules = RULES
) -> Callable[[jax.Array, str], jax.Array]:
  """`constrain(x, letters)` for `models`: pins activations to the rules' layout.

  Without it the compiler may choose to move activations instead of weights.
  """

  def constrain(x: jax.Array, axes: str) -> jax.Array:
    spec = partition(axes, x.shape, mesh, rules)[0]
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

  return constrain


def init_sharded(init: Callable[..., Any], shardings: Any, *args: Any) -> Any:
  """`init(*args)` with every array created where it will live.

  No device ever holds a whole array that `shardings` splits, and the numbers do
  not depend on the mesh.
  """
  return jax.jit(init, out_shardings=shardings)(*args)
