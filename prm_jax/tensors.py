"""Named arrays in a safetensors file, and the hash of a model.

The format is a JSON header and raw bytes; written out here because the numpy side
of the safetensors package does not read bfloat16.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

import jax
import ml_dtypes
import numpy as np
from etils import epath

from prm_jax import jsonl
from prm_jax.errors import UserError

DTYPES = {
  'F64': np.float64, 'F32': np.float32, 'F16': np.float16, 'BF16': ml_dtypes.bfloat16,
  'I64': np.int64, 'I32': np.int32, 'I16': np.int16, 'I8': np.int8,
  'U8': np.uint8, 'BOOL': np.bool_,
}  # fmt: skip
CODES = {np.dtype(t): code for code, t in DTYPES.items()}


def flatten(params: Any) -> dict[str, np.ndarray]:
  """{'decoder/layer_0/wq_DNH': array on the host}, sorted by name."""
  flat = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    flat[name] = np.ascontiguousarray(jax.device_get(leaf)).reshape(leaf.shape)
  return dict(sorted(flat.items()))


def unflatten(flat: dict[str, Any]) -> dict[str, Any]:
  """Nested dict of the same arrays; the inverse of `flatten`."""
  tree: dict[str, Any] = {}
  for path, leaf in flat.items():
    *parents, name = path.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = leaf
  return tree


def model_hash(params: Any) -> str:
  """SHA-256 over names, dtypes, shapes and bytes: equal for equal parameters."""
  digest = hashlib.sha256()
  for name, array in flatten(params).items():
    digest.update(f'{name}\0{array.dtype}\0{list(array.shape)}\0'.encode())
    digest.update(array.tobytes())
  return digest.hexdigest()


def write(path: str | os.PathLike[str], params: Any) -> None:
  """Writes a tree of arrays as safetensors, whole or not at all.

  Layout: length of the header (uint64, little endian), header (JSON, padded with
  blanks to a multiple of 8), data. Wider types come first, so all are aligned.

  Raises:
    UserError: the place cannot be written.
  """
  arrays = sorted(flatten(params).items(), key=lambda kv: (-kv[1].itemsize, kv[0]))
  header, offset = {}, 0
  for name, array in arrays:
    end = offset + array.nbytes
    header[name] = {
      'dtype': CODES[array.dtype],
      'shape': list(array.shape),
      'data_offsets': [offset, end],
    }
    offset = end
  text = json.dumps(header, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)
  parts = [len(text).to_bytes(8, 'little'), text, *(a.tobytes() for _, a in arrays)]
  jsonl.write_bytes(path, b''.join(parts))


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
  """The tree of a safetensors file: numpy arrays, dtypes as they were.

  Raises:
    UserError: the file is missing, cut off, or holds something else.
  """
  file = epath.Path(path)
  raw = jsonl.read_bytes(file)
  try:
    start = 8 + int.from_bytes(raw[:8], 'little')
    header = json.loads(raw[8:start])
    header.pop('__metadata__', None)
    flat = {}
    for name, part in header.items():
      low, high = part['data_offsets']
      data = np.frombuffer(raw[start + low : start + high], DTYPES[part['dtype']])
      flat[name] = data.reshape(part['shape'])
  except (KeyError, ValueError, TypeError, AttributeError) as e:
    raise UserError(
      f'{file}: not a sound safetensors file ({e}); export or copy it again.'
    ) from e
  return unflatten(flat)
