"""Arrays on an object store: each process writes what its devices hold.

orbax writes to local and shared file systems and to gs:// by a driver of its own, but
not to s3://. This writes wherever `epath` does:

    FOLDER/part-00000.bin     pieces of arrays, one after the other, by process 0
    FOLDER/part-00000.json    for each piece: array, start and stop of each axis, place

Reading takes any mesh and any number of processes: each device's block is put together
from the pieces that overlap it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from prm_jax import jsonl

Box = list[list[int]]  # [start, stop] of each axis


def write(folder: epath.Path, arrays: Mapping[str, jax.Array]) -> None:
  """Writes this process's part of global arrays; each piece is written once.

  Args:
    folder: for the parts of all processes.
    arrays: name -> array; all processes give the same names.

  Raises:
    UserError: the place cannot be written.
  """
  pieces: list[dict[str, Any]] = []
  blocks: list[Any] = []
  place = 0
  for name, array in arrays.items():
    for shard in array.addressable_shards:
      if shard.replica_id:
        continue
      box = _box(shard.index, array.shape)
      size = math.prod(stop - start for start, stop in box) * array.dtype.itemsize
      pieces.append({'array': name, 'box': box, 'place': place, 'size': size})
      blocks.append(shard.data)
      place += size
  stem = f'part-{jax.process_index():05d}'
  raw = (np.ascontiguousarray(b).reshape(-1).view(np.uint8).data for b in blocks)
  jsonl.write_parts(folder / f'{stem}.bin', raw)
  jsonl.write_bytes(folder / f'{stem}.json', json.dumps(pieces).encode())


def read(
  folder: epath.Path, wanted: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
  """Reads arrays of `write` onto the shardings of `wanted`.

  Args:
    folder: with the parts of all processes that wrote.
    wanted: name -> shape, dtype and sharding; names, shapes and dtypes as written.

  Raises:
    OSError: a part is missing.
  """
  pieces: dict[str, list[tuple[epath.Path, dict[str, Any]]]] = {}
  for index in sorted(f for f in folder.iterdir() if f.suffix == '.json'):
    for piece in json.loads(index.read_bytes()):
      where = index.with_suffix('.bin')
      pieces.setdefault(piece['array'], []).append((where, piece))

  def one(name: str, like: jax.ShapeDtypeStruct) -> jax.Array:
    held = pieces.get(name, [])
    return jax.make_array_from_callback(
      like.shape,
      like.sharding,
      lambda index: _block(held, _box(index or (), like.shape), jnp.dtype(like.dtype)),
    )

  return {name: one(name, like) for name, like in wanted.items()}


def _box(index: tuple[slice, ...], shape: tuple[int, ...]) -> Box:
  return [list(s.indices(n)[:2]) for s, n in zip(index, shape, strict=True)]


def _block(
  pieces: list[tuple[epath.Path, dict[str, Any]]], box: Box, dtype: np.dtype
) -> np.ndarray:
  out = np.empty([stop - start for start, stop in box], dtype)
  for file, piece in pieces:
    both = [
      (max(a, c), min(b, d)) for (a, b), (c, d) in zip(box, piece['box'], strict=True)
    ]
    if any(start >= stop for start, stop in both):
      continue
    with file.open('rb') as source:
      source.seek(piece['place'])
      raw = source.read(piece['size'])
    found = np.frombuffer(raw, dtype).reshape([d - c for c, d in piece['box']])
    here = tuple(slice(s - a, e - a) for (s, e), (a, _) in zip(both, box))
    there = tuple(slice(s - c, e - c) for (s, e), (c, _) in zip(both, piece['box']))
    out[here] = found[there]
  return out
