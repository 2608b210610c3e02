"""Weights of a checkpoint onto devices, tensor by tensor.

Each tensor is read, cast and turned into the layout of the declarations on the host,
goes to its shards, and is freed before the next is read. At most two tensors are on
the host at once beside what is placed, stacked layers included: those are filled
layer by layer on their devices.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from prm_jax import tensors
from prm_jax.errors import UserError
from prm_jax.interop import names
from prm_jax.interop.checkpoints import Checkpoint
from prm_jax.interop.names import Source
from prm_jax.models import weights
from prm_jax.models.weights import Weight
from prm_jax.specs import HeadSpec, ModelSpec

FLOATS = ('float32', 'bfloat16', 'float16', 'float64')
_ROWS = 4096  # rows of an embedding table that are compared at once


def load_decoder(
  ckpt: Checkpoint, spec: ModelSpec, shardings: Any = None
) -> dict[str, Any]:
  """The decoder's weights; heads and other parts of the checkpoint are left.

  Args:
    ckpt: from `checkpoints.open_checkpoint`.
    spec: the model, for example of `architectures.model_spec`; its dtypes and layout
      (scanned or unrolled) are free.
    shardings: tree of shardings like the weights; None means the default device.

  Returns:
    The tree of `weights.decoder(spec)`, in `spec.param_dtype`.

  Raises:
    UserError: tensors are missing, unknown, of another shape or no numbers; named.
  """
  declared = {'decoder': weights.decoder(spec)}
  places = None if shardings is None else {'decoder': shardings}
  return load_part(ckpt, spec, declared, places)['decoder']


def load_part(
  ckpt: Checkpoint, spec: ModelSpec, wanted: dict[str, Any], shardings: Any = None
) -> dict[str, Any]:
  """Some weights of decoder and vocabulary head, each in a dtype of its own.

  Args:
    wanted: tree of `Weight`, a part of `weights.declare(spec, HeadSpec('lm'))`.
    shardings: tree of shardings like it.

  Raises:
    UserError: as `load_decoder`; tensors that are not wanted are checked too.
  """
  declared = {'decoder': weights.decoder(spec)}
  heads = names.head_names(HeadSpec('lm'), ckpt.names)
  if wanted.get('head'):
    declared = weights.declare(spec, HeadSpec('lm'))
  _check(ckpt, _wanted(ckpt, spec, declared, heads))
  return _load(ckpt, spec, wanted, heads, shardings)


def load(
  ckpt: Checkpoint, spec: ModelSpec, head: HeadSpec, shardings: Any = None
) -> dict[str, Any]:
  """The whole model: decoder and head.

  The head is read from score.* (linear, scalar), score.0 and score.2 (mlp),
  v_head.summary (scalar) or lm_head (lm, label_tokens; none if embeddings are tied).

  Returns:
    The tree of `weights.declare(spec, head)`.

  Raises:
    UserError: as `load_decoder`; or embeddings that config.json calls tied while
      lm_head differs from them.
  """
  declared = weights.declare(spec, head)
  vocabulary = head.kind in ('lm', 'label_tokens')
  of_head = names.head_names(head, ckpt.names)
  if vocabulary and spec.tied_embeddings:
    check_tied(ckpt)
  _check(ckpt, _wanted(ckpt, spec, declared, of_head))
  return _load(ckpt, spec, declared, of_head, shardings)


def unneeded(ckpt: Checkpoint, spec: ModelSpec, head: HeadSpec | None) -> list[str]:
  """Names of tensors that a load leaves: other heads, buffers, vision towers.

  Args:
    head: of the load; None for the decoder alone.
  """
  declared = {'decoder': weights.decoder(spec)}
  of_head: dict[str, str] = {}
  if head is not None:
    declared = weights.declare(spec, head)
    of_head = names.head_names(head, ckpt.names)
  wanted = _wanted(ckpt, spec, declared, of_head)
  used = {name for source in wanted.values() for name in source.names}
  return sorted(set(ckpt.names) - used)


def check_vocabulary(spec: ModelSpec, n_tokens: int, where: str) -> None:
  """Refuses a model with fewer embeddings than its tokenizer has ids.

  Args:
    n_tokens: one more than the largest id of the tokenizer.

  Raises:
    UserError: an id would have no embedding.
  """
  if n_tokens > spec.vocab_size:
    raise UserError(
      f'{where}: the model has {spec.vocab_size} embeddings, its tokenizer ids up to '
      f'{n_tokens - 1}; use the tokenizer that belongs to it, or resize the embeddings.'
    )


def _wanted(
  ckpt: Checkpoint, spec: ModelSpec, declared: dict[str, Any], heads: dict[str, str]
) -> dict[str, Source]:
  prefix = names.prefix_of(ckpt.names, str(ckpt.folder))
  return names.sources(spec, declared, prefix, heads)


def _load(
  ckpt: Checkpoint,
  spec: ModelSpec,
  declared: dict[str, Any],
  heads: dict[str, str],
  shardings: Any,
) -> dict[str, Any]:
  wanted = _wanted(ckpt, spec, declared, heads)
  places = {} if shardings is None else tensors.flatten(shardings)
  flat = {}
  for path, weight in weights.flatten(declared):
    fill = _stack if wanted[path].stacked else _single
    flat[path] = fill(ckpt, wanted[path], weight, places.get(path))
  return tensors.unflatten(flat)


def _check(ckpt: Checkpoint, wanted: dict[str, Source]) -> None:
  """Everything that headers can tell, before any weight is read."""
  held = set(ckpt.names)
  need = {name: source for source in wanted.values() for name in source.names}
  missing = [name for name in need if name not in held]
  if missing:
    raise UserError(
      f'{ckpt.folder}: {_several(missing)} missing in its safetensors files; it is not '
      'the model that config.json describes, or not complete.'
    )
  unknown = sorted(n for n in held - set(need) if not names.unneeded(n))
  if unknown:
    raise UserError(
      f'{ckpt.where(unknown[0])}: {_several(unknown)} not known for the model that '
      'config.json describes, so it would be computed without.'
    )
  for name, source in need.items():
    if ckpt.shape(name) != source.shape:
      raise UserError(
        f'{ckpt.where(name)}: tensor {name} has shape {ckpt.shape(name)}; config.json '
        f'asks for {source.shape}.'
      )
    if str(ckpt.dtype(name)) not in FLOATS:
      raise UserError(
        f'{ckpt.where(name)}: tensor {name} is stored as {ckpt.dtype(name)}; weights '
        f'are read as {", ".join(FLOATS)} (quantized checkpoints are not supported).'
      )


def _several(missing: list[str]) -> str:
  if len(missing) == 1:
    return f'tensor {missing[0]} is'
  more = f' and {len(missing) - 3} more' if len(missing) > 3 else ''
  return f'tensors {", ".join(missing[:3])}{more} are'


def _read(
  ckpt: Checkpoint, name: str, transposed: bool, shape: tuple[int, ...], dtype: Any
) -> np.ndarray:
  """One tensor in the layout and dtype of its weight."""
  raw = ckpt.read(name)
  if not transposed and raw.dtype == dtype:
    return raw.reshape(shape)
  view = raw.T if transposed else raw
  out = tensors.empty(shape, dtype)
  out.reshape(view.shape)[...] = view  # casts and turns in one pass
  return out


def _single(ckpt: Checkpoint, source: Source, weight: Weight, place: Any) -> jax.Array:
  (name,) = source.names
  dtype = jnp.dtype(weight.dtype)
  array = _read(ckpt, name, source.transposed, weight.shape, dtype)
  return tensors.place(array, place)


def _stack(ckpt: Checkpoint, source: Source, weight: Weight, place: Any) -> jax.Array:
  """Stacked layers, written one after the other into memory on the devices."""
  shape, dtype = weight.shape[1:], jnp.dtype(weight.dtype)
  one = place
  if isinstance(place, NamedSharding):
    rest = PartitionSpec(*place.spec[1:])
    one = NamedSharding(place.mesh, rest, memory_kind=place.memory_kind)
  zeros = functools.partial(jnp.zeros, weight.shape, dtype)
  stack = jax.jit(zeros, out_shardings=place)()
  put = jax.jit(_put, donate_argnums=0, out_shardings=place)
  for i, name in enumerate(source.names):
    layer = _read(ckpt, name, source.transposed, shape, dtype)
    stack = put(stack, tensors.place(layer, one), jnp.int32(i))
    # Without waiting, layers would queue up on the host.
    stack.block_until_ready()
  return stack


def _put(stack: jax.Array, layer: jax.Array, i: jax.Array) -> jax.Array:
  return jax.lax.dynamic_update_index_in_dim(stack, layer, i, 0)


def check_tied(ckpt: Checkpoint) -> None:
  """An lm_head beside embeddings that config.json calls tied must be the same table.

  Raises:
    UserError: it is another one.
  """
  name = names.head_names(HeadSpec('lm'), ckpt.names)['head/lm_head_VD']
  if name not in ckpt.names:
    return
  table = names.prefix_of(ckpt.names, str(ckpt.folder)) + names.EMBEDDING
  same = ckpt.shape(name) == ckpt.shape(table)
  for start in range(0, math.prod(ckpt.shape(name)[:1]) if same else 0, _ROWS):
    rows = (ckpt.read(n, start, start + _ROWS) for n in (name, table))
    same = same and all(map(np.array_equal, *((r.view(np.uint8),) for r in rows)))
  if not same:
    raise UserError(
      f'{ckpt.where(name)}: config.json says that embeddings are tied, but {name} '
      f'differs from {table}; set tie_word_embeddings to false if both are meant.'
    )
