"""A Hugging Face checkpoint folder: its config.json and its tensors, by name."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from etils import epath

from prm_jax import jsonl
from prm_jax.errors import UserError
from prm_jax.interop.config_values import Values
from prm_jax.tensors import TensorFile

CONFIG = 'config.json'
WEIGHTS = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
ABOUT = 'prm_jax.json'  # beside them in our own exports: the spec, see `saving`
# Formats that run code when they are read, and what they are called here.
_PICKLES = ('*.bin', '*.pt', '*.pth', '*.ckpt', '*.bin.index.json')


class Checkpoint:
  """Names, shapes and rows of the tensors of a folder; make it with
  `open_checkpoint`.

  Attributes:
    folder: where it is.
    config: config.json.
  """

  def __init__(
    self, folder: epath.Path, config: dict[str, Any], where: dict[str, TensorFile]
  ):
    self.folder, self.config = folder, config
    self._where = where

  @property
  def values(self) -> Values:
    """config.json, by key and type."""
    return Values(self.config, str(self.folder / CONFIG))

  @property
  def names(self) -> tuple[str, ...]:
    """Names of all tensors."""
    return tuple(self._where)

  def where(self, name: str) -> epath.Path:
    """The file that holds a tensor."""
    return self._where[name].path

  def shape(self, name: str) -> tuple[int, ...]:
    """Shape of a tensor, from the header alone."""
    return self._where[name].shape(name)

  def dtype(self, name: str) -> np.dtype:
    """Stored dtype of a tensor, from the header alone."""
    return self._where[name].dtype(name)

  def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
    """A tensor, or its rows `start` to `stop`, as stored.

    Raises:
      UserError: the bytes cannot be read.
    """
    return self._where[name].read(name, start, stop)


def is_checkpoint(directory: str | os.PathLike[str]) -> bool:
  """Whether the folder holds the config.json of a model."""
  return (_folder(directory) / CONFIG).exists()


def open_checkpoint(directory: str | os.PathLike[str]) -> Checkpoint:
  """Reads config.json and the headers of the weights, one file or shards.

  Raises:
    UserError: no config.json, no safetensors (pickle files are never read), an index
      that names a missing file or tensor, or a file that is damaged.
  """
  folder = _folder(directory)
  if not folder.is_dir():
    raise UserError(f'{folder}: no such folder; give that of a checkpoint.')
  config = read_config(folder)
  single, index = folder / WEIGHTS, folder / INDEX
  if index.exists():
    return Checkpoint(folder, config, _shards(folder, index))
  if not single.exists():
    raise _no_weights(folder)
  file = TensorFile(single)
  return Checkpoint(folder, config, dict.fromkeys(file.names, file))


def read_config(directory: str | os.PathLike[str]) -> dict[str, Any]:
  """The config.json of a folder.

  Raises:
    UserError: it is not there or no JSON object.
  """
  file = _folder(directory) / CONFIG
  if not file.exists():
    raise UserError(
      f'{file.parent}: no {CONFIG} there, so it is no checkpoint folder; give one that '
      f'holds {CONFIG} and safetensors files.'
    )
  return jsonl.parse_object(jsonl.read_bytes(file), str(file))


def read_about(directory: str | os.PathLike[str]) -> dict[str, Any] | None:
  """The prm_jax.json of an export: kind, spec, hash of the parameters; None if the
  folder has none.

  Raises:
    UserError: it is damaged.
  """
  file = _folder(directory) / ABOUT
  if not file.exists():
    return None
  about = jsonl.parse_object(jsonl.read_bytes(file), str(file))
  for key in ('kind', 'spec', 'model_hash', 'tokenizer_fingerprint'):
    if key not in about:
      raise UserError(f'{file}: {key!r} is missing; export the model again.')
  return about


def _folder(directory: str | os.PathLike[str]) -> epath.Path:
  path = os.fspath(directory)
  return epath.Path(path if '://' in path else os.path.abspath(path))


def _no_weights(folder: epath.Path) -> UserError:
  pickles = sorted(p.name for pattern in _PICKLES for p in folder.glob(pattern))
  if pickles:
    return UserError(
      f'{folder}: holds {pickles[0]} but no {WEIGHTS}; a pickle file can run code, so '
      'none is ever read: convert it to safetensors.'
    )
  others = sorted(p.name for p in folder.glob('*.safetensors'))
  found = f' (it holds {others[0]})' if others else ''
  return UserError(
    f'{folder}: neither {WEIGHTS} nor {INDEX} there{found}; the weights are missing, '
    'copy or download them.'
  )


def _shards(folder: epath.Path, index: epath.Path) -> dict[str, TensorFile]:
  """name -> file, of an index."""
  where = jsonl.parse_object(jsonl.read_bytes(index), str(index)).get('weight_map')
  sound = isinstance(where, dict) and all(isinstance(f, str) for f in where.values())
  if not isinstance(where, dict) or not sound:
    raise UserError(
      f'{index}: no sound weight_map (tensor to file); copy or download it again.'
    )
  files: dict[str, TensorFile] = {}
  for name in sorted(set(where.values())):
    if '/' in name or '\\' in name or not name.endswith('.safetensors'):
      raise UserError(
        f'{index}: names the file {name!r}; shards are safetensors files beside it.'
      )
    if not (folder / name).exists():
      raise UserError(
        f'{index}: names {name}, which is not there; copy or download the shard.'
      )
    files[name] = TensorFile(folder / name)
  held = {name: frozenset(file.names) for name, file in files.items()}
  for tensor, name in where.items():
    if tensor not in held[name]:
      raise UserError(
        f'{index}: says that {name} holds {tensor}, which it does not; copy or '
        'download index and shards again.'
      )
  return {tensor: files[name] for tensor, name in where.items()}
