"""Packing: which solutions lie together in a token row, as a pure function.

Rows of T tokens hold several solutions each, one after the other. There may be several
lengths T: a solution goes into a row of the shortest T that holds it, or fills up a
longer one; the rows of a batch are equally long. What is packed are *places*: a place
holds one solution of up to so many tokens and steps. The places and how they lie in
rows depend on (lengths, steps, weights of the sources) alone, so every epoch has the
same number of rows and batches, and the batch of a step is known from the step. An
epoch only draws which solution takes which place, and shuffles the rows.

A source of weight 1 gives one place a solution; solutions of equal tokens and steps
change places. With a weight w that is not whole, floor(w n + 1/2) places stand for the
n solutions sorted by length: an epoch takes every (n / places)-th of them from a random
start on, so that each is as likely as any other, and a place is as large as the largest
solution that it may get.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Sequence

import numpy as np

from prm_jax.data import epoch_plan
from prm_jax.data.epoch_plan import FILLER, EpochPlan
from prm_jax.errors import UserError

SLACK = 2  # solutions that a row may hold, over those that the average row holds


@dataclasses.dataclass(frozen=True)
class Packing:
  """Where the places lie.

  Attributes:
    lengths: T of the kinds of rows, sorted.
    n_reads: S of each kind, most steps of a row.
    rows: for each kind [M, C] int64, places of each row, -1 where there is none; a
      row is filled from the left. C is the same for all.
  """

  lengths: tuple[int, ...]
  n_reads: tuple[int, ...]
  rows: tuple[np.ndarray, ...]

  def n_batches(self, batch_size: int) -> int:
    """Batches of every epoch.

    Raises:
      UserError: the batch size is below 1.
    """
    if batch_size < 1:
      raise UserError(f'batch_size={batch_size} must be at least 1.')
    return sum(-(-len(rows) // batch_size) for rows in self.rows)


def pack(
  lengths: np.ndarray,
  n_steps: np.ndarray,
  *,
  pack_lengths: Sequence[int] = (),
  source_index: np.ndarray | None = None,
  source_weights: Sequence[float] = (1.0,),
) -> Packing:
  """Packs the places of an epoch into rows.

  Args:
    lengths: [R] tokens of each solution.
    n_steps: [R] steps of each.
    pack_lengths: T of the rows; none takes the longest solution, rounded up to a
      multiple of 8.
    source_index: [R] into `source_weights`; all 0 if absent.
    source_weights: one a source.

  Raises:
    UserError: a length is not positive, a solution is longer than all of them, or
      the weights leave none.
  """
  longest = int(lengths.max())
  whole = all(isinstance(n, int) and n > 0 for n in pack_lengths)
  sizes = sorted(set(pack_lengths)) if whole else []
  sizes = sizes if pack_lengths else [-(-longest // 8) * 8]
  if not sizes or sizes[-1] < longest:
    raise UserError(
      f'data.pack_lengths={tuple(pack_lengths)}: whole numbers of tokens are needed, '
      f'the longest at least {longest} (the longest row); add one, or lower the '
      'max_length of the format.'
    )
  tokens, steps = [], []
  for of_source, drawn in _of_sources(len(lengths), source_index, source_weights):
    order = of_source[np.lexsort((n_steps[of_source], lengths[of_source]))]
    copies, first, last = _strata(len(order), drawn)
    tokens += [lengths[order]] * copies + [lengths[order][last]]
    steps += [n_steps[order]] * copies + [_most(n_steps[order], first, last)]
  places = np.concatenate(tokens)
  if not len(places):
    raise UserError('the weights of the sources leave no row in an epoch; raise one.')
  most = int(np.ceil(SLACK * sizes[-1] * len(places) / places.sum()))
  bins, kinds = best_fit(places, sizes, most)
  of_places = np.append(np.concatenate(steps), 0)  # the last one serves the fillers
  there = [k for k in range(len(sizes)) if (kinds == k).any()]
  rows = [bins[kinds == k] for k in there]
  reads = [int(of_places[r].sum(axis=1).max(initial=1)) for r in rows]
  return Packing(
    tuple(sizes[k] for k in there), tuple(-(-n // 4) * 4 for n in reads), tuple(rows)
  )


def best_fit(
  lengths: np.ndarray, sizes: Sequence[int], most: int
) -> tuple[np.ndarray, np.ndarray]:
  """Best-fit decreasing: each piece, longest first, goes where least room is left.

  Args:
    lengths: [N] of the pieces.
    sizes: of the bins, sorted, the last one not below any piece. A piece that fits
      nowhere opens the smallest bin that holds it.
    most: pieces that a bin may hold.

  Returns:
    Indices of the pieces [M, C] int64, -1 behind the last one of a bin, C <= `most`;
    and the kind of each bin [M], an index into `sizes`.
  """
  bins: list[list[int]] = []
  kinds: list[int] = []
  with_room: dict[int, list[int]] = {}
  rooms: list[int] = []  # keys of with_room, sorted
  for piece in np.argsort(-lengths, kind='stable').tolist():
    size = int(lengths[piece])
    at = bisect.bisect_left(rooms, size)
    if at == len(rooms):
      kind = bisect.bisect_left(sizes, size)
      here, room = len(bins), sizes[kind]
      bins.append([])
      kinds.append(kind)
    else:
      room = rooms[at]
      here = with_room[room].pop()
      if not with_room[room]:
        del with_room[room], rooms[at]
    bins[here].append(piece)
    room -= size
    if room and len(bins[here]) < most:
      if room not in with_room:
        with_room[room] = []
        bisect.insort(rooms, room)
      with_room[room].append(here)
  out = np.full((len(bins), max(map(len, bins))), FILLER, np.int64)
  for i, held in enumerate(bins):
    out[i, : len(held)] = held
  return out, np.array(kinds)


def plan(
  packing: Packing,
  seed: int,
  epoch: int,
  lengths: np.ndarray,
  n_steps: np.ndarray,
  *,
  batch_size: int,
  source_index: np.ndarray | None = None,
  source_weights: Sequence[float] = (1.0,),
) -> EpochPlan:
  """The plan of one epoch: `rows` is [n_batches, B, C].

  Args:
    packing: from `pack` with the same rows and weights.
    seed, epoch: whole numbers >= 0.
    batch_size: B, token rows of the global batch, all processes together.

  The others are those of `pack`. Rows that fill up batches are spread over them.
  """
  rng = epoch_plan.generator(seed, epoch)
  taken = []
  for of_source, drawn in _of_sources(len(lengths), source_index, source_weights):
    n = len(of_source)
    copies, rest = divmod(drawn, max(n, 1))
    keys = n_steps[of_source], lengths[of_source]
    for _ in range(copies):
      taken.append(of_source[np.lexsort((rng.random(n), *keys))])
    if rest:
      order = of_source[np.lexsort((rng.random(n), *keys))]
      taken.append(order[(rng.integers(n) + np.arange(rest) * n) // rest])
  of_places = np.append(np.concatenate(taken), FILLER)
  batches, sizes = [], []
  for length, rows in zip(packing.lengths, packing.rows):
    count = -(-len(rows) // batch_size)
    padded = np.full((count * batch_size, rows.shape[1]), FILLER, np.int64)
    padded[: len(rows)] = of_places[rows]
    batches.append(rng.permutation(padded).reshape(count, batch_size, -1))
    sizes.append(np.full(count, length, np.int64))
  table = np.concatenate(batches)
  order = rng.permutation(len(table))
  return EpochPlan(table[order], np.concatenate(sizes)[order])


def _of_sources(n_rows: int, source_index: np.ndarray | None, weights: Sequence[float]):
  """(rows, number of draws an epoch) of each source."""
  if source_index is None:
    source_index = np.zeros(n_rows, np.int32)
  for source, weight in enumerate(weights):
    rows = np.flatnonzero(source_index == source)
    yield rows, epoch_plan.n_drawn(len(rows), weight)


def _strata(n: int, drawn: int) -> tuple[int, np.ndarray, np.ndarray]:
  """Whole copies of n sorted rows, and of the rest of the draws the first and the last
  row, int64 [rest], that each may take (see `plan`)."""
  copies, rest = divmod(drawn, max(n, 1))
  start = np.arange(rest) * n
  return copies, start // max(rest, 1), (start + n - 1) // max(rest, 1)


def _most(x: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
  """The largest x of each range first .. last, both included."""
  if not len(first):
    return x[:0]
  ends = np.stack([first, last + 1], axis=1).ravel()
  return np.maximum.reduceat(np.append(x, 0), ends)[::2]
