"""The model that training starts from: a Hugging Face checkpoint, or one trained here.

Each weight goes from disk to its place on the mesh by itself, in the dtype that its
declaration asks for. Nothing holds the whole model on the host, and the decoder is
never allocated twice.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from prm_jax import exports, jsonl, specs, tensors
from prm_jax.errors import UserError
from prm_jax.formats import tokenizers
from prm_jax.formats.tokenizers import Tokenizer
from prm_jax.interop import architectures, checkpoints, loading
from prm_jax.models import weights
from prm_jax.models.weights import Params, Weight
from prm_jax.specs import HeadSpec, ModelSpec

# Embedding tables that get rows get them up to a multiple of this, so that they divide
# over any usual mesh.
ROWS = 128
# One of them is there where a checkpoint has a tokenizer.
TOKENIZERS = (tokenizers.FILE, 'vocab.json', 'tokenizer.model')


class Start(Protocol):
  """A model on disk.

  Attributes:
    folder: where it is.
    model: its decoder as it is there, with the caller's free fields.
    has_lm_head: whether it holds a vocabulary head of its own.
    digest: SHA-256 over its tensors; reads them all when it is first asked for.
  """

  folder: str
  model: ModelSpec
  has_lm_head: bool

  @property
  def digest(self) -> str: ...

  def tokenizer(self) -> Tokenizer | None:
    """Its tokenizer, None if there is none beside it."""

  def check_tied(self) -> None:
    """Refuses (UserError) tied embeddings beside another vocabulary head."""

  def load(self, wanted: dict[str, Any], places: dict[str, Any]) -> Params:
    """Some of its weights.

    Args:
      wanted: tree of `Weight`, part of decoder and lm_head; scanned or unrolled.
      places: tree of shardings like it.
    """


def find(folder: str, free: dict[str, Any]) -> Start:
  """The model of a folder.

  Args:
    folder: of a checkpoint (config.json), or of an exported scorer or policy.
    free: fields of ModelSpec that move no weight (`exports.FREE`).

  Raises:
    UserError: no model is there, or it is not supported.
  """
  if (epath.Path(folder) / exports.SPEC).exists():
    return _Export(folder, free)
  if checkpoints.is_checkpoint(folder):
    return _Checkpoint(folder, free)
  raise UserError(
    f'model.init_from={folder}: neither {checkpoints.CONFIG} (a checkpoint) nor '
    f'{exports.SPEC} (a model trained here) is there; give the folder of a model.'
  )


class _Checkpoint:
  """A Hugging Face checkpoint."""

  def __init__(self, folder: str, free: dict[str, Any]):
    self.folder = folder
    self._held = checkpoints.open_checkpoint(folder)
    self.model = architectures.model_spec(self._held.config, folder, **free)
    self.has_lm_head = any(n.endswith('lm_head.weight') for n in self._held.names)

  def tokenizer(self) -> Tokenizer | None:
    files = (epath.Path(self.folder) / name for name in TOKENIZERS)
    if not any(f.exists() for f in files):
      return None
    return tokenizers.load(self.folder, self.model.vocab_size)

  def check_tied(self) -> None:
    loading.check_tied(self._held)

  def load(self, wanted: dict[str, Any], places: dict[str, Any]) -> Params:
    return loading.load_part(self._held, self.model, wanted, places)

  @functools.cached_property
  def digest(self) -> str:
    digest = tensors.Hash()
    for name in sorted(self._held.names):
      digest.add(name, self._held.read(name))
    return digest.hexdigest()


class _Export:
  """A scorer or a policy that was trained here."""

  def __init__(self, folder: str, free: dict[str, Any]):
    self.folder = folder
    path = epath.Path(folder)
    about = jsonl.parse_object(
      jsonl.read_bytes(path / exports.SPEC), str(path / exports.SPEC)
    )
    classes: dict[str, Any] = {kind: cls for cls, kind in exports.KINDS.items()}
    cls = classes.get(about.get('kind', 'scorer'))
    if cls is None or not {'spec', 'model_hash'} <= set(about):
      raise UserError(
        f'{path / exports.SPEC}: not what an export leaves; export the model again.'
      )
    spec = specs.from_dict(cls, about['spec'], f'{path / exports.SPEC}: spec')
    self._model_hash = about['model_hash']
    self._tokenizer = spec.tokenizer
    self.model = dataclasses.replace(spec.model, **free)
    self._file = tensors.TensorFile(path / exports.WEIGHTS)
    self.has_lm_head = 'head/lm_head_VD' in self._file.names

  def tokenizer(self) -> Tokenizer | None:
    own = self._tokenizer == 'bytes'
    return tokenizers.load(
      'bytes' if own else os.path.join(self.folder, self._tokenizer)
    )

  def check_tied(self) -> None:
    pass  # a model of ours with tied embeddings holds no other head

  def load(self, wanted: dict[str, Any], places: dict[str, Any]) -> Params:
    where = tensors.flatten(places)
    flat = {}
    for path, weight in weights.flatten(wanted):
      array = self._read(path, weight)
      if array.shape != weight.shape:
        raise UserError(
          f'{self._file.path}: weight {path} has shape {array.shape}; its spec asks '
          f'for {weight.shape}: export the model again.'
        )
      array = np.ascontiguousarray(array).astype(weight.dtype, copy=False)
      flat[path] = tensors.place(array, where[path])
    return tensors.unflatten(flat)

  def _read(self, path: str, weight: Weight) -> np.ndarray:
    """A weight, whether its layers are stacked here or there or neither."""
    if path in self._file.names:
      return self._file.read(path)
    name = path.rsplit('/', 1)[-1]
    stacked = f'decoder/layers/{name}'
    if stacked in self._file.names:
      return self._file.read(stacked, weight.layer, weight.layer + 1)[0]
    if not weight.axes.startswith('L'):
      raise UserError(
        f'{self._file.path}: weight {path} is missing; export the model again.'
      )
    numbers = range(weight.layer, weight.layer + weight.shape[0])
    return np.stack([self._file.read(f'decoder/layer_{i}/{name}') for i in numbers])

  @functools.cached_property
  def digest(self) -> str:
    digest = tensors.Hash()
    for name in sorted(self._file.names):
      digest.add(name, self._file.read(name))
    if digest.hexdigest() != self._model_hash:
      raise UserError(
        f'{self._file.path}: not the weights that {exports.SPEC} describes (another '
        'hash); export or copy the model again.'
      )
    return self._model_hash


def vocabulary(start: Start, base: Tokenizer, n_tokens: int) -> int:
  """V of a model that starts from another.

  Args:
    start: the other one.
    base: its tokenizer, before tokens were added.
    n_tokens: one more than the largest id that is in use now.

  Returns:
    The rows that `start` has, where they suffice; else enough of them, in a multiple of
    `ROWS`.

  Raises:
    UserError: ids of ordinary text have no row there.
  """
  rows = start.model.vocab_size
  if base.n_text_ids > rows:
    raise UserError(
      f'{start.folder}: its tokenizer has ids of text up to {base.n_text_ids - 1}, its '
      f'embedding table {rows} rows; give the tokenizer that belongs to the model.'
    )
  return rows if n_tokens <= rows else -(-n_tokens // ROWS) * ROWS


def check_head(start: Start, head: HeadSpec) -> None:
  """Refuses a head that reads the vocabulary and would not start from the model's.

  Raises:
    UserError: the model has no such head, or two that differ.
  """
  if head.kind not in ('lm', 'label_tokens'):
    return
  if start.model.tied_embeddings:
    start.check_tied()
  elif not start.has_lm_head:
    raise UserError(
      f'{start.folder}: has no lm_head, and its embeddings are not tied; what reads '
      'the vocabulary (a policy, a head of label tokens) starts from a language model.'
    )


def provides(start: Start, path: str) -> bool:
  """Whether a model that starts from `start` takes the weight at `path` from it."""
  if path == 'head/lm_head_VD':
    return start.has_lm_head
  return path.startswith('decoder/') and '/lora_' not in path


def load(
  start: Start,
  wanted: dict[str, Any],
  places: dict[str, Any],
  n_used: int,
  n_tokens: int,
) -> Params:
  """Weights of `start` for a model whose vocabulary may be larger.

  New rows of the embedding table (and of lm_head) start at the mean of those in use,
  so that a new token is about as likely as an average one: Hewitt, "Initializing New
  Word Embeddings for Pretrained Language Models" (2021).

  Args:
    wanted: tree of `Weight`, all of them provided by `start`.
    places: tree of `NamedSharding` like it.
    n_used: rows of the table that the tokenizer of `start` has ids for.
    n_tokens: rows that are used now.
  """
  rows = start.model.vocab_size
  used = min(n_used, rows)
  grows = {
    path: weight
    for path, weight in weights.flatten(wanted)
    if weight.axes == 'VD' and (n_tokens > used or weight.shape[0] > rows)
  }
  asked, where = dict(weights.flatten(wanted)), tensors.flatten(places)
  for path, weight in grows.items():
    asked[path] = dataclasses.replace(weight, shape=(rows, weight.shape[1]))
    if weight.shape[0] != rows:  # the old number of rows may not divide
      spec = PartitionSpec(None, *where[path].spec[1:])
      where[path] = NamedSharding(where[path].mesh, spec)
  found = start.load(tensors.unflatten(asked), tensors.unflatten(where))
  flat, final = dict(weights.flatten(found)), tensors.flatten(places)
  for path, weight in grows.items():
    grow = jax.jit(
      functools.partial(_grow, rows=weight.shape[0], used=used, n_tokens=n_tokens),
      out_shardings=final[path],
    )
    flat[path] = grow(flat.pop(path))
  return tensors.unflatten(flat)


def _grow(table: jax.Array, *, rows: int, used: int, n_tokens: int) -> jax.Array:
  """`table` [V, D] with `rows` rows; those of new tokens, and all that it did not have,
  are the mean of the first `used`."""
  mean = table[:used].astype(jnp.float32).mean(0).astype(table.dtype)
  more = jnp.broadcast_to(mean, (rows - table.shape[0], table.shape[1]))
  index = jnp.arange(rows)[:, None]
  whole = jnp.concatenate([table, more])
  return jnp.where((index >= used) & (index < n_tokens), mean, whole)
