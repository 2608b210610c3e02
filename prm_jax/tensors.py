"""Named arrays in a safetensors file, one tensor at a time, and the hash of a model.

The format is a JSON header and raw bytes; written out here because the numpy side
of the safetensors package does not read bfloat16, and because a memory map counts
every page that was touched as resident. Reading holds one tensor beside those that
were kept, writing one tensor, hashing one tensor.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import ml_dtypes
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from prm_jax import jsonl
from prm_jax.errors import UserError

DTYPES = {
  'F64': np.float64, 'F32': np.float32, 'F16': np.float16, 'BF16': ml_dtypes.bfloat16,
  'I64': np.int64, 'I32': np.int32, 'I16': np.int16, 'I8': np.int8,
  'U8': np.uint8, 'BOOL': np.bool_,
}  # fmt: skip
CODES = {np.dtype(t): code for code, t in DTYPES.items()}
ALIGNMENT = 64  # bytes; from such a place the CPU backend takes an array uncopied
_LARGEST_HEADER = 100_000_000  # bytes, the limit of the format
_LARGEST_READ = 1 << 30  # bytes; the system call moves less than 2 GiB


class TensorFile:
  """A safetensors file: its header in memory, its tensors on disk until asked for.

  Args:
    path: the file.

  Raises:
    UserError: the file cannot be read, or its header is unsound: cut off, no JSON,
      a type that is not known, ranges that overlap, leave the file or do not fit
      shape and type.
  """

  def __init__(self, path: str | os.PathLike[str]):
    self.path = epath.Path(path)
    self._start, self._parts = _header(self.path)

  @property
  def names(self) -> tuple[str, ...]:
    """Names of the tensors, in the order of the header."""
    return tuple(self._parts)

  def shape(self, name: str) -> tuple[int, ...]:
    """Shape of a tensor."""
    return self._parts[name][1]

  def dtype(self, name: str) -> np.dtype:
    """Stored dtype of a tensor."""
    return self._parts[name][0]

  def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
    """A tensor, or its rows `start` to `stop`, in memory of its own.

    Raises:
      UserError: the bytes cannot be read.
    """
    dtype, shape, offset = self._parts[name]
    if shape and (start or stop is not None):
      rows = range(shape[0])[start:stop]
      offset += start * math.prod(shape[1:]) * dtype.itemsize
      shape = (len(rows), *shape[1:])
    out = empty(shape, dtype)
    try:
      _fill(self.path, self._start + offset, _bytes(out))
    except OSError as e:
      raise UserError(f'{self.path}: tensor {name} cannot be read ({e}).') from e
    return out


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
  """New memory, aligned so that a CPU device may take it over without a copy."""
  n = math.prod(shape) * np.dtype(dtype).itemsize
  raw = np.empty(n + ALIGNMENT, np.uint8)
  shift = -raw.ctypes.data % ALIGNMENT
  return raw[shift : shift + n].view(dtype).reshape(shape)


def place(array: np.ndarray, sharding: Any = None) -> jax.Array:
  """Puts an array that nobody will change any more onto its devices.

  Args:
    array: the whole array, on every process.
    sharding: a jax sharding; None means the default device.
  """
  if sharding is None:
    return jax.device_put(array)
  return jax.make_array_from_callback(array.shape, sharding, lambda i: array[i])


def flatten(params: Any) -> dict[str, Any]:
  """{'decoder/layer_0/wq_DNH': leaf}, sorted by name; leaves stay where they are."""
  flat = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    flat[jax.tree_util.keystr(path, simple=True, separator='/')] = leaf
  return dict(sorted(flat.items()))


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Nested dict of the same leaves; the inverse of `flatten`."""
  tree: dict[str, Any] = {}
  for path, leaf in flat.items():
    *parents, name = path.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = leaf
  return tree


def fetch(leaf: Any) -> np.ndarray:
  """A whole array on the host, contiguous; of an array that several processes share,
  a collective that all of them must call."""
  if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
    if leaf.is_fully_replicated:
      leaf = leaf.addressable_data(0)
    else:
      leaf = multihost_utils.process_allgather(leaf, tiled=True)
  array = np.asarray(leaf)
  return np.ascontiguousarray(array).reshape(array.shape)


class Hash:
  """SHA-256 over names, dtypes, shapes and bytes, added in the order of the names."""

  def __init__(self):
    self._digest = hashlib.sha256()

  def add(self, name: str, array: np.ndarray) -> None:
    """One tensor, contiguous."""
    self._digest.update(f'{name}\0{array.dtype}\0{list(array.shape)}\0'.encode())
    self._digest.update(_bytes(array))

  def hexdigest(self) -> str:
    """The hash of everything added."""
    return self._digest.hexdigest()


def model_hash(params: Any) -> str:
  """Equal for equal parameters; see `Hash`. Fetches one leaf at a time."""
  digest = Hash()
  for name, leaf in flatten(params).items():
    digest.add(name, fetch(leaf))
  return digest.hexdigest()


def write(path: str | os.PathLike[str], params: Any) -> None:
  """Writes a tree of arrays as safetensors, whole or not at all.

  Of several processes all must call it; the first one writes.

  Raises:
    UserError: the place cannot be written.
  """
  flat = flatten(params)
  about = {n: (tuple(leaf.shape), np.dtype(leaf.dtype)) for n, leaf in flat.items()}
  write_stream(path, about, lambda name: fetch(flat[name]))


def write_stream(
  path: str | os.PathLike[str],
  about: Mapping[str, tuple[tuple[int, ...], np.dtype]],
  get: Any,
  metadata: Mapping[str, str] | None = None,
) -> None:
  """Writes tensors as `get(name)` gives them, whole or not at all.

  Layout: length of the header (uint64, little endian), header (JSON, padded with
  blanks to a multiple of 8), data. Wider types come first, so all are aligned.

  Args:
    path: the file.
    about: name -> (shape, dtype).
    get: name -> array of that shape and dtype; called once a name, in the order of
      the file, in every process.
    metadata: texts for the header.

  Raises:
    UserError: the place cannot be written.
  """
  order = sorted(about, key=lambda name: (-about[name][1].itemsize, name))
  header: dict[str, Any] = {'__metadata__': dict(metadata)} if metadata else {}
  offset = 0
  for name in order:
    shape, dtype = about[name]
    end = offset + math.prod(shape) * dtype.itemsize
    header[name] = {
      'dtype': CODES[dtype],
      'shape': list(shape),
      'data_offsets': [offset, end],
    }
    offset = end
  text = json.dumps(header, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)

  def parts() -> Iterator[Any]:
    yield len(text).to_bytes(8, 'little')
    yield text
    for name in order:
      array = np.ascontiguousarray(get(name))
      if (array.nbytes, array.dtype) != (
        math.prod(about[name][0]) * about[name][1].itemsize, about[name][1],
      ):  # fmt: skip
        raise ValueError(f'{name}: {array.dtype} {array.shape} for {about[name]}')
      yield _bytes(array)

  if jax.process_index() == 0:
    jsonl.write_parts(path, parts())
  else:
    for _ in parts():
      pass


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
  """The tree of a safetensors file: numpy arrays, dtypes as they were.

  Raises:
    UserError: the file is missing, cut off, or holds something else.
  """
  file = TensorFile(path)
  return unflatten({name: file.read(name) for name in file.names})


def _bytes(array: np.ndarray) -> Any:
  """The memory of a contiguous array, uncopied."""
  return array.reshape(-1).view(np.uint8).data


def _fill(path: epath.Path, offset: int, out: memoryview) -> None:
  """Fills `out` from `offset` on: positioned reads on a local file."""
  if '://' in str(path):
    with path.open('rb') as file:
      file.seek(offset)
      data = file.read(len(out))
    if len(data) < len(out):
      raise OSError('the file ends too early')
    out[:] = data
    return
  handle = os.open(path, os.O_RDONLY)
  try:
    done = 0
    while done < len(out):
      part = out[done : done + _LARGEST_READ]
      n = os.preadv(handle, [part], offset + done)
      if n == 0:
        raise OSError('the file ends too early')
      done += n
  finally:
    os.close(handle)


def _header(path: epath.Path) -> tuple[int, dict[str, tuple]]:
  """(where the data starts, name -> (dtype, shape, offset into the data))."""
  try:
    size = path.stat().length
    length = bytearray(min(8, size))
    _fill(path, 0, memoryview(length))
    start = 8 + int.from_bytes(length, 'little')
    if size < 8 or start > size or start > _LARGEST_HEADER:
      raise ValueError(f'its header would end at byte {start} of {size}')
    text = bytearray(start - 8)
    _fill(path, 8, memoryview(text))
    header = json.loads(bytes(text).decode())
    if not isinstance(header, dict):
      raise ValueError('its header is no JSON object')
    header.pop('__metadata__', None)
    parts = {name: _part(name, part) for name, part in header.items()}
    _check_ranges(parts, size - start)
  except OSError as e:
    raise UserError(f'{path}: cannot be read ({e.strerror or e}).') from e
  except (ValueError, RecursionError) as e:
    raise UserError(
      f'{path}: not a sound safetensors file ({e}); export, copy or download it again.'
    ) from e
  return start, {name: (d, shape, low) for name, (d, shape, low, _) in parts.items()}


def _part(name: str, part: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
  """(dtype, shape, first byte, byte after the last) of a header's entry."""
  try:
    code, shape, (low, high) = part['dtype'], part['shape'], part['data_offsets']
    sound = all(type(n) is int and n >= 0 for n in (*shape, low, high))
  except (KeyError, TypeError, ValueError) as e:
    raise ValueError(f'tensor {name}: its entry in the header is damaged') from e
  if not sound:
    raise ValueError(f'tensor {name}: its entry in the header is damaged')
  if code not in DTYPES:
    raise ValueError(
      f'tensor {name} has type {code}; types that are read are {", ".join(DTYPES)}'
    )
  dtype = np.dtype(DTYPES[code])
  if high - low != math.prod(shape) * dtype.itemsize:
    raise ValueError(
      f'tensor {name} of shape {tuple(shape)} and type {code} has {high - low} bytes'
    )
  return dtype, tuple(shape), low, high


def _check_ranges(parts: Mapping[str, tuple], size: int) -> None:
  """Tensors lie one after the other in the `size` bytes of data."""
  end, before = 0, ''
  ranges: Iterable[tuple[int, int, str]] = sorted(
    (low, high, name) for name, (_, _, low, high) in parts.items()
  )
  for low, high, name in ranges:
    if low < end:
      raise ValueError(f'tensors {before} and {name} overlap')
    if high > size:
      raise ValueError(
        f'tensor {name} ends at byte {high} of the data, of which there are {size}: '
        'the file is cut off'
      )
    end, before = high, name
