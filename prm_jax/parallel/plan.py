"""The memory plan: what lies on each device, before anything is allocated.

Held against `compiled.memory_analysis()` of a train step on eight simulated devices
(four layers of D128, 64 x 256 tokens; meshes 8x1x1, 1x8x1, 2x2x2; 1 and 4
microbatches), the compiler needs 0.91 to 1.08 times the estimate without
rematerialization, and with it where layers are scanned. CPU's compiler undoes
rematerialization of layers that are not scanned (it then needs what `none` needs, up to
2.3 times the estimate), and computes bfloat16 in float32 (4.4 times); neither was
measured on GPU or TPU. Where solutions share a question (one device, 4 x 128 tokens to
8 x 256 a row) the compiler needs 1.10 to 1.15 times the estimate.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from prm_jax.models import weights
from prm_jax.models.weights import Weight
from prm_jax.parallel import mesh as meshes
from prm_jax.parallel import sharding
from prm_jax.specs import HeadSpec, ModelSpec

BASIS = {
  'none': (
    'every layer keeps its matmul inputs and outputs and float32 attention weights'
  ),
  'dots': 'every layer keeps its projections; one layer at a time is recomputed',
  'full': 'every layer keeps its input; one layer at a time is recomputed',
}


@dataclasses.dataclass(frozen=True)
class Estimate:
  """Bytes on one device.

  Attributes:
    parameters: the stored weights, frozen ones included.
    optimizer: moments.
    gradients: float32 gradient (twice while accumulating).
    activations: kept for the backward pass, plus the largest temporary.
  """

  parameters: int
  optimizer: int
  gradients: int
  activations: int

  @property
  def total(self) -> int:
    """Sum of the four."""
    return sum(dataclasses.astuple(self))


def estimate(
  spec: ModelSpec,
  head: HeadSpec,
  mesh: Mesh,
  *,
  batch_size: int,
  length: int,
  n_steps: int,
  members: int = 1,
  question: int = 0,
  accumulation: int = 1,
  moment_bytes: int = 8,
  trained: dict[str, Any] | None = None,
  frozen: dict[str, Any] | None = None,
  rules: sharding.Rules = sharding.RULES,
) -> Estimate:
  """Bytes that a train step needs on each device.

  Args:
    spec, head: the model.
    mesh: from `mesh.make_mesh`.
    batch_size: rows of a global batch.
    length: T of the longest bucket.
    n_steps: P of that bucket.
    members: C, solutions of a row that share a question; `length` is then that of
      each without the question.
    question: tokens of that question, 0 where it is not shared.
    accumulation: microbatches a batch is split into.
    moment_bytes: optimizer bytes a parameter (AdamW in float32: 8).
    trained: tree of the weights that are trained, None for all of the model's.
    frozen: tree of the others, which have neither gradient nor moments.
    rules: letter -> mesh axes.
  """
  stored = elements = 0
  trained = weights.declare(spec, head) if trained is None else trained
  for tree in (trained, frozen or {}):
    for _, weight in weights.flatten(tree):
      mine = math.ceil(weight.size / _parts(weight, mesh, rules))
      elements += mine if tree is trained else 0
      stored += mine * jnp.dtype(weight.dtype).itemsize
  rows = math.ceil(batch_size / meshes.batch_shards(mesh) / accumulation)
  activations = _activations(
    spec, head, mesh, rows * members, length, n_steps, question
  )
  if question:
    activations += _activations(spec, head, mesh, rows, question, 0, 0)
  return Estimate(
    parameters=stored,
    optimizer=elements * moment_bytes,
    gradients=elements * 4 * (2 if accumulation > 1 else 1),
    activations=activations,
  )


def _parts(weight: Weight, mesh: Mesh, rules: sharding.Rules) -> int:
  spec = sharding.partition(weight.axes, weight.shape, mesh, rules)[0]
  names: list[str] = []
  for entry in spec:
    names += [entry] if isinstance(entry, str) else list(entry or ())
  return math.prod(mesh.shape[n] for n in names)


def _activations(spec, head, mesh, rows, t, p, earlier) -> int:
  item = jnp.dtype(spec.compute_dtype).itemsize
  tensor = mesh.shape['tensor']
  n, k, f = (math.ceil(x / tensor) for x in (spec.n_heads, spec.n_kv_heads, spec.d_ff))
  d, h, block = spec.d_model, spec.head_dim, spec.query_block or t
  # Keys that each query reads, on average: up to the end of its own block.
  seen = earlier + (t + min(block, t)) / 2
  projections = (n + 2 * k) * h + 2 * f + 2 * d
  inner = 3 * d + (2 * n + k) * h + 2 * f  # norms, rotated, mixed, gated
  attention = n * seen * (4 + item)
  whole = (d + projections + inner) * item + attention
  kept = {'none': whole, 'dots': (d + projections) * item, 'full': d * item}
  layers = spec.n_layers - 1
  per_token = layers * kept[spec.remat]
  if spec.remat != 'none':
    per_token += whole
  steps = t if head.kind == 'lm' else p
  last = steps * ((d + projections + inner) * item + n * (earlier + t) * (4 + item))
  outputs = {'lm': spec.vocab_size, 'label_tokens': 2}.get(head.kind, head.n_outputs)
  logits = 2 * 4 * steps * outputs
  return int(rows * (t * (per_token + (2 * d + 2 * k * h) * item) + last + logits))


def memory_plan(
  spec: ModelSpec,
  head: HeadSpec,
  mesh: Mesh,
  *,
  batch_size: int,
  length: int,
  n_steps: int,
  members: int = 1,
  question: int = 0,
  accumulation: int = 1,
  moment_bytes: int = 8,
  trained: dict[str, Any] | None = None,
  frozen: dict[str, Any] | None = None,
  rules: sharding.Rules = sharding.RULES,
) -> str:
  """Printable plan: each weight with its sharding, then bytes on each device.

  Arguments are those of `estimate`. Layers of equal weights share a row.
  """
  declared = weights.declare(spec, head) if trained is None else trained
  held = {'': declared, ' (frozen)': frozen or {}}
  rows: list[tuple[str, ...]] = [
    ('weight', 'count', 'shape', 'split over', 'bytes/device')
  ]
  for name, group in _grouped(held).items():
    weight = group[0]
    place = sharding.partition(weight.axes, weight.shape, mesh, rules)[0]
    split = ' '.join(
      f'{letter}:{"+".join([entry] if isinstance(entry, str) else entry)}'
      for letter, entry in zip(weight.axes, place, strict=True)
      if entry
    )
    mine = len(group) * weight.n_bytes // _parts(weight, mesh, rules)
    shape = 'x'.join(map(str, weight.shape))
    rows.append((name, str(len(group)), shape, split or '-', f'{mine:,}'))
  numbers = estimate(
    spec, head, mesh, batch_size=batch_size, length=length, n_steps=n_steps,
    members=members, question=question,
    accumulation=accumulation, moment_bytes=moment_bytes,
    trained=trained, frozen=frozen, rules=rules,
  )  # fmt: skip
  shape = ' x '.join(f'{name} {size}' for name, size in mesh.shape.items())
  each = f'{members} solutions of ' if members > 1 else ''
  after = f' after {question} of a question' if question else ''
  dtypes = f'parameters {spec.param_dtype}, compute {spec.compute_dtype}'
  lines = [
    f'mesh {shape} ({mesh.size} devices), '
    f'{sum(map(weights.count, held.values())):,} parameters, {dtypes}',
    weights.format_rows(rows),
    *dict.fromkeys(
      _any_layer(note)
      for tree in held.values()
      for note in sharding.fallbacks(mesh, tree, rules)
    ),
    'bytes on each device:',
    weights.format_rows(
      [
        ('  parameters', f'{numbers.parameters:,}'),
        ('  optimizer', f'{numbers.optimizer:,}'),
        ('  gradients', f'{numbers.gradients:,}'),
        ('  activations (estimate)', f'{numbers.activations:,}'),
        ('  total', f'{numbers.total:,}'),
      ]
    ),
    f'basis of the estimate: {batch_size} rows of {each}{length} tokens{after} and '
    f'{n_steps} steps in {accumulation} microbatches, remat {spec.remat}: '
    f'{BASIS[spec.remat]}; the compiler may need more or less.',
  ]
  return '\n'.join(lines)


def _grouped(held: dict[str, dict[str, Any]]) -> dict[str, list[Weight]]:
  """Weights that differ only in the number of their layer, together.

  Args:
    held: what follows their names -> tree of them.
  """
  groups: dict[str, list[Weight]] = {}
  for kind, tree in held.items():
    for path, weight in weights.flatten(tree):
      groups.setdefault(_any_layer(path) + kind, []).append(weight)
  return groups


def _any_layer(text: str) -> str:
  return re.sub(r'/layer_\d+/', '/layer_*/', text)
