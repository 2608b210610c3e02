"""Keys and values of rows that grow step by step: what a text shares, what is own.

A row continues the beginning of a text that was read once, and keeps the keys of what
came after it in a block of rows. Blocks are never written to: a call that lets rows
grow gathers them into a new block first, in any order and any number of times, so that
taking, repeating and joining rows moves references only, and what was is still there.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from prm_jax.inference.buckets import bucket, one_of
from prm_jax.models import decoding
from prm_jax.models.attention import OWN_BLOCK
from prm_jax.models.decoding import Caches
from prm_jax.models.weights import Params
from prm_jax.specs import ModelSpec

MEMBERS = 8  # rows of a group, where they continue one text
# Sizes of blocks. Each shape is compiled anew, for about a second on CPU, so there are
# few: rows in between compute beside idle ones. Room is cheap, as what no row has
# reached is not read.
ROWS = (8, 16, 64)
ROOMS = (2 * OWN_BLOCK, 8 * OWN_BLOCK)
NEW = (8, 32)  # tokens that are read at once
MIN_TOKENS = 16
MIN_KEYS = 64
PREFILL_TOKENS = 1024  # of one call


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
  """A text that was read.

  Attributes:
    length: tokens of it.
    keys: [L, 2, K, S, H], keys and values of each layer, S >= length.
  """

  length: int
  keys: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
  """Own keys of some rows.

  Attributes:
    layers: for each layer keys and values [R, K, S, H].
  """

  layers: Caches

  @property
  def rows(self) -> int:
    """R."""
    return self.layers[0][0].shape[0]


class Own(NamedTuple):
  """A row's own keys: row `row` of a block; without a block there are none."""

  block: Block | None = None
  row: int = 0


NOTHING = Own()


class Row(Protocol):
  """A beam, as far as its keys go: the text it continues, if any, and its own."""

  @property
  def text(self) -> Text | None: ...

  @property
  def own(self) -> Own: ...


R = TypeVar('R', bound=Row, covariant=True)


@dataclasses.dataclass(frozen=True)
class Beams(Generic[R]):
  """A state: rows.

  Attributes:
    rows: the beams.
    tokens_read: of each row, tokens that the call which returned this state read for
      it; a question that several share counts with the first of them.
  """

  rows: tuple[R, ...]
  tokens_read: tuple[int, ...]

  def __len__(self) -> int:
    return len(self.rows)

  @property
  def cache_bytes(self) -> int:
    """Bytes of the keys that these rows hold on to, each array counted once."""
    blocks = {id(r.own.block): r.own.block for r in self.rows if r.own.block}
    texts = {id(r.text): r.text for r in self.rows if r.text}
    arrays = [t.keys for t in texts.values()]
    arrays += [x for b in blocks.values() for layer in b.layers for x in layer]
    return sum(x.nbytes for x in arrays)


class Grid(NamedTuple):
  """Rows side by side in U groups of C members, each group on one text.

  Attributes:
    groups, members: U and C; U * C is a power of two.
    texts: [U]; groups without rows have the first one.
    places: int32 [rows], place of each row among the U * C.
  """

  groups: int
  members: int
  texts: list[Text]
  places: np.ndarray

  @property
  def size(self) -> int:
    """U * C."""
    return self.groups * self.members

  def spread(self, values: Sequence[int] | np.ndarray) -> np.ndarray:
    """int32 [U, C]: a value for each row, 0 where there is none."""
    out = np.zeros(self.size, np.int32)
    out[self.places] = values
    return out.reshape(self.groups, self.members)


def lay(texts: Sequence[Text]) -> Grid:
  """A grid for rows that continue these texts, [rows] >= 1.

  Groups of `MEMBERS`, which read their text's keys together, where that needs no more
  places than groups of one.
  """
  of_text: dict[int, list[int]] = {}
  for i, text in enumerate(texts):
    of_text.setdefault(id(text), []).append(i)
  size = one_of(len(texts), ROWS)
  full = sum(-(-len(rows) // MEMBERS) for rows in of_text.values()) * MEMBERS
  members = MEMBERS if one_of(full, ROWS) <= size else 1
  places = np.zeros(len(texts), np.int32)
  held: list[Text] = []
  for rows in of_text.values():
    for start in range(0, len(rows), members):
      part = rows[start : start + members]
      places[part] = len(held) * members + np.arange(len(part))
      held.append(texts[part[0]])
  groups = size // members
  return Grid(groups, members, held + held[:1] * (groups - len(held)), places)


class RowCaches:
  """Reads texts and arranges the keys of rows, in few compiled shapes.

  Args:
    spec: the model.
  """

  def __init__(self, spec: ModelSpec):
    self._spec = spec
    self._stacked: tuple[list[Text], Caches] | None = None

  def read(self, params: Params, texts: Sequence[np.ndarray]) -> list[Text]:
    """Reads whole texts, int32 arrays, each once."""
    out: list[Any] = [None] * len(texts)
    by_shape: dict[int, list[int]] = {}
    for i, text in enumerate(texts):
      by_shape.setdefault(bucket(len(text), MIN_TOKENS), []).append(i)
    for t, members in sorted(by_shape.items()):
      most = max(1, PREFILL_TOKENS // t)
      for start in range(0, len(members), most):
        part = members[start : start + most]
        tokens = np.zeros((bucket(len(part), 1, 1), t), np.int32)
        for row, i in enumerate(part):
          tokens[row, : len(texts[i])] = texts[i]
        read = _prefill(self._spec, params, tokens, bucket(t, MIN_KEYS, 1))
        for i, keys in zip(part, read, strict=False):
          out[i] = Text(len(texts[i]), keys)
    return out

  def shared(self, texts: Sequence[Text], donate: bool = False) -> Caches:
    """Keys and values [U, K, S, H] of these texts for each layer.

    Those of the last call are kept for the next, unless the caller will `donate` them
    to a computation; then it may hand back what becomes of them (`keep`).
    """
    held, self._stacked = self._stacked, None
    if held is None or [id(t) for t in held[0]] != [id(t) for t in texts]:
      most = max(t.keys.shape[3] for t in texts)
      held = (list(texts), _stack(tuple(_padded(t.keys, most) for t in texts)))
    if not donate:
      self._stacked = held
    return held[1]

  def keep(self, texts: Sequence[Text], stacked: Caches) -> None:
    """Keeps keys that `shared` gave for the next call."""
    self._stacked = (list(texts), stacked)

  def gather(self, rows: Sequence[Own], grid: Grid, room: int) -> Caches:
    """Own keys side by side: for each layer keys and values [U * C, K, S, H].

    Args:
      rows: own keys, one a row of the grid.
      grid: places without a row hold something finite.
      room: S is the next size of blocks that holds so many.
    """
    room = one_of(room, ROOMS)
    blocks: dict[int, tuple[Block, list[int]]] = {}
    for i, own in enumerate(rows):
      if own.block is not None:
        blocks.setdefault(id(own.block), (own.block, []))[1].append(i)
    if not blocks:
      empty = _empty(self._spec, grid.size, room)
      keys = grid.texts[0].keys
      # Where other keys will be: an array that may still move is compiled for apart.
      return jax.device_put(empty, keys.sharding) if keys.committed else empty
    parts = sorted(blocks.values(), key=lambda part: -len(part[1]))
    block, members = parts[0]
    index = np.zeros(grid.size, np.int32)
    index[grid.places[members]] = [rows[i].row for i in members]
    out = _gathered(block.layers, index, room)
    for block, members in parts[1:]:
      n = ROWS[0] if len(members) <= ROWS[0] else grid.size
      index, at = np.zeros(n, np.int32), np.full(n, grid.size, np.int32)
      index[: len(members)] = [rows[i].row for i in members]
      at[: len(members)] = grid.places[members]
      out = _put(out, block.layers, index, at)
    return out

  def grown(self, layers: Caches, room: int) -> Caches:
    """The same own keys, with room for so many."""
    room = one_of(room, ROOMS)
    return layers if layers[0][0].shape[2] == room else _grown(layers, room)

  def compact(self, rows: Sequence[Own]) -> list[Own]:
    """The same own keys; blocks of which at most half the rows are used are copied
    to smaller ones, so that the others can be let go."""
    out = list(rows)
    blocks: dict[int, tuple[Block, dict[int, list[int]]]] = {}
    for i, own in enumerate(rows):
      if own.block is not None:
        held = blocks.setdefault(id(own.block), (own.block, {}))
        held[1].setdefault(own.row, []).append(i)
    for block, users in blocks.values():
      size = one_of(len(users), ROWS)
      if 2 * size > block.rows:
        continue
      index = np.zeros(size, np.int32)
      index[: len(users)] = list(users)
      room = block.layers[0][0].shape[2]
      smaller = Block(_gathered(block.layers, index, room))
      for row, members in enumerate(users.values()):
        for i in members:
          out[i] = Own(smaller, row)
    return out


_prefill = jax.jit(decoding.prefill_apart, static_argnums=(0, 3))


def _padded(keys: jax.Array, places: int) -> jax.Array:
  if keys.shape[3] == places:
    return keys
  return _pad(keys, places)


@functools.partial(jax.jit, static_argnums=1)
def _pad(keys: jax.Array, places: int) -> jax.Array:
  return jnp.pad(keys, [(0, 0)] * 3 + [(0, places - keys.shape[3]), (0, 0)])


@jax.jit
def _stack(texts: tuple[jax.Array, ...]) -> Caches:
  keys = jnp.stack(texts, axis=2)  # [L, 2, U, K, S, H]
  return [(layer[0], layer[1]) for layer in keys]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _empty(spec: ModelSpec, rows: int, room: int) -> Caches:
  return decoding.by_row(decoding.own_caches(spec, rows, 1, room, None))


def _with_room(x: jax.Array, room: int) -> jax.Array:
  """x [..., S, H] cut or padded to S = room."""
  x = x[..., :room, :]
  return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, room - x.shape[-2]), (0, 0)])


@functools.partial(jax.jit, static_argnums=2)
def _gathered(layers: Caches, index: jax.Array, room: int) -> Caches:
  return jax.tree.map(lambda x: _with_room(x[index], room), layers)


@functools.partial(jax.jit, static_argnums=1)
def _grown(layers: Caches, room: int) -> Caches:
  return jax.tree.map(lambda x: _with_room(x, room), layers)


@functools.partial(jax.jit, donate_argnums=0)
def _put(to: Caches, layers: Caches, index: jax.Array, at: jax.Array) -> Caches:
  """Rows `index` of `layers` written to the places `at` of `to`; those outside it are
  dropped."""

  def one(to: jax.Array, x: jax.Array) -> jax.Array:
    rows = _with_room(x[index], to.shape[2])
    return to.at[at].set(rows, mode='drop')

  return jax.tree.map(one, to, layers)
