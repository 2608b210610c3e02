"""The device mesh: axes 'data', 'fsdp' and 'tensor', always all three."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from prm_jax.errors import UserError
from prm_jax.specs import ModelSpec

AXES = ('data', 'fsdp', 'tensor')


def make_mesh(
  data: int = 0,
  fsdp: int = 1,
  tensor: int = 1,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """A mesh over all devices of all processes.

  Args:
    data: size of the axis that splits the batch only; 0 takes what remains.
    fsdp: size of the axis that splits the batch and the weights' D.
    tensor: size of the axis that splits heads, feed-forward and vocabulary.
    devices: the devices to use; None for all.

  Raises:
    UserError: the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else list(devices)
  sizes = {'data': data, 'fsdp': fsdp, 'tensor': tensor}
  for name, size in sizes.items():
    if size < (0 if name == 'data' else 1):
      raise UserError(f'parallel.{name} is {size}; give a positive number.')
  others = fsdp * tensor
  data = data or max(len(devices) // others, 1)
  if data * others != len(devices):
    raise UserError(
      f'parallel.data x fsdp x tensor is {data} x {fsdp} x {tensor} = '
      f'{data * others}, but there are {len(devices)} devices; choose sizes whose '
      'product is that number, or data = 0 for the rest.'
    )
  shape = (data, fsdp, tensor)
  auto = (AxisType.Auto,) * len(AXES)
  if devices == jax.devices():
    return jax.make_mesh(shape, AXES, axis_types=auto)
  return Mesh(np.asarray(devices).reshape(shape), AXES, axis_types=auto)


def batch_shards(mesh: Mesh) -> int:
  """Number of parts that a batch is split into."""
  return mesh.shape['data'] * mesh.shape['fsdp']


@functools.lru_cache(maxsize=8)
def batch_process(mesh: Mesh) -> tuple[int, int]:
  """(index, count): this process feeds part `index` of `count` parts of every batch.

  Processes whose devices hold the same rows (where 'tensor' reaches over processes)
  have the same index.

  Raises:
    UserError: processes share some rows but not all.
  """
  held: dict[int, set[int]] = {}
  grid = mesh.devices.reshape(batch_shards(mesh), -1)
  for shard, row in enumerate(grid):
    for device in row:
      held.setdefault(device.process_index, set()).add(shard)
  parts = sorted({tuple(sorted(shards)) for shards in held.values()})
  if len(set().union(*parts)) != sum(map(len, parts)) or len({*map(len, parts)}) > 1:
    raise UserError(
      f'parallel.data x fsdp x tensor = {" x ".join(map(str, mesh.shape.values()))}: '
      f'{len(held)} processes would share rows of a batch only in part; choose tensor '
      'so that it divides the devices of a process or is a multiple of them.'
    )
  return parts.index(tuple(sorted(held[jax.process_index()]))), len(parts)


def check_fits(
  mesh: Mesh, spec: ModelSpec, batch_size: int, accumulation: int = 1
) -> None:
  """Refuses a model or a batch that the mesh cannot divide evenly.

  Args:
    mesh: from `make_mesh`.
    spec: the model.
    batch_size: rows of a global batch.
    accumulation: microbatches a batch is split into.

  Raises:
    UserError: the query heads do not divide by 'tensor', or the rows of a
      microbatch by 'data' x 'fsdp'.
  """
  tensor, shards = mesh.shape['tensor'], batch_shards(mesh)
  if spec.n_heads % tensor:
    raise UserError(
      f'parallel.tensor = {tensor} does not divide model.n_heads = {spec.n_heads}; '
      f'choose a divisor, for example {math.gcd(tensor, spec.n_heads)}.'
    )
  if batch_size < 1 or batch_size % (shards * accumulation):
    raise UserError(
      f'batch_size = {batch_size} does not divide into {shards} device groups '
      f'(parallel.data x fsdp) x {accumulation} microbatches; use a multiple of '
      f'{shards * accumulation}.'
    )
