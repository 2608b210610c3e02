"""The epoch plan: which rows make up every batch, as a pure function.

The plan of an epoch depends on (seed, epoch, lengths) and on sizes in the config,
on nothing else: not on time, process, or what ran before. So batch `step` of a
run is known from `step` alone, and a resumed run needs no more than that number.

How an epoch is made. (1) The rows: all rows of a source of weight 1; with weight w,
floor(w n + 1/2) of them (see `n_drawn`). (2) They are shuffled. (3) They are sorted
by length bucket, longest first, keeping the shuffled order within a bucket, and cut
into batches. A batch takes the bucket of its longest row, so that at most one batch
a bucket border holds rows of a shorter bucket, and only the last, shortest one is
filled up with rows that count nothing. (4) The batches are shuffled. The number of
batches is the same in every epoch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from prm_jax.errors import UserError

FILLER = -1


@dataclasses.dataclass(frozen=True)
class Batch:
  """One global batch: `rows` [B] int64, -1 for filler rows; `length` is its bucket.

  Packed, `rows` is [B, C]: the solutions of each token row (`packing`)."""

  rows: np.ndarray
  length: int


@dataclasses.dataclass(frozen=True)
class EpochPlan:
  """Batches of one epoch, in order.

  Attributes:
    rows: [n_batches, B] int64, -1 for filler rows; [n_batches, B, C] packed.
    lengths: [n_batches] int64, bucket of each.
  """

  rows: np.ndarray
  lengths: np.ndarray

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, index: int) -> Batch:
    return Batch(self.rows[index], int(self.lengths[index]))


def default_buckets(lengths: np.ndarray, multiple: int = 8) -> tuple[int, ...]:
  """Few bucket lengths for rows of these lengths, a factor 1.5 apart.

  From the longest row (rounded up to `multiple`) downwards; a bucket that would hold
  fewer than 1 in 20 rows is left out, its rows go to the next longer one. Every
  bucket is a shape to compile.
  """
  longest = _round_up(int(lengths.max()), multiple)
  edges = [longest]
  while edges[-1] > max(int(lengths.min()), 2 * multiple):
    edges.append(_round_up(int(edges[-1] / 1.5), multiple))
    if edges[-1] == edges[-2]:
      edges.pop()
      break
  kept: list[int] = []
  held = 0
  for edge in sorted(edges):
    within = int((lengths <= edge).sum())
    if edge == longest or (within - held) * 20 >= len(lengths):
      kept.append(edge)
      held = within
  return tuple(kept)


def check_buckets(buckets: Sequence[int], lengths: np.ndarray) -> tuple[int, ...]:
  """Sorted buckets, or an error if they cannot hold every row.

  Raises:
    UserError: no bucket, one below 1, or none for the longest row.
  """
  out = tuple(sorted({int(b) for b in buckets}))
  longest = int(lengths.max())
  if not out or out[0] < 1 or out[-1] < longest:
    raise UserError(
      f'buckets={list(buckets)}: lengths of at least 1 are needed, the longest at '
      f'least {longest} (the longest row); add one or lower format.max_length.'
    )
  return out


def steps_per_bucket(
  buckets: Sequence[int], lengths: np.ndarray, n_steps: np.ndarray, multiple: int = 4
) -> tuple[int, ...]:
  """P of each bucket: most steps of any row that a batch of it can hold, rounded up.

  A batch may hold rows of shorter buckets, so P never falls with the length.
  """
  most = [int(n_steps[lengths <= b].max(initial=1)) for b in buckets]
  return tuple(_round_up(p, multiple) for p in most)


def n_drawn(n_rows: int, weight: float) -> int:
  """Rows that a source of `n_rows` and this weight gives to an epoch."""
  return int(np.floor(weight * n_rows + 0.5))


def n_batches(
  n_rows_of_source: Sequence[int], weights: Sequence[float], batch_size: int
) -> int:
  """Batches of every epoch.

  Raises:
    UserError: the batch size is below 1, or the weights leave no row.
  """
  if batch_size < 1:
    raise UserError(f'batch_size={batch_size} must be at least 1.')
  total = sum(n_drawn(n, w) for n, w in zip(n_rows_of_source, weights))
  if total == 0:
    raise UserError('the weights of the sources leave no row in an epoch; raise one.')
  return -(-total // batch_size)


def generator(seed: int, epoch: int) -> np.random.Generator:
  """The random numbers of an epoch."""
  return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch])))


def plan(
  seed: int,
  epoch: int,
  lengths: np.ndarray,
  *,
  batch_size: int,
  buckets: Sequence[int],
  source_index: np.ndarray | None = None,
  source_weights: Sequence[float] = (1.0,),
) -> EpochPlan:
  """The plan of one epoch.

  Args:
    seed, epoch: whole numbers >= 0.
    lengths: [R] tokens of each row.
    batch_size: B of the global batch, all processes together.
    buckets: lengths, sorted; the last holds the longest row.
    source_index: [R] into `source_weights`; all 0 if absent.
    source_weights: one a source.
  """
  rng = generator(seed, epoch)
  if source_index is None:
    source_index = np.zeros(len(lengths), np.int32)
  drawn = []
  for source, weight in enumerate(source_weights):
    rows = np.flatnonzero(source_index == source)
    copies, rest = divmod(n_drawn(len(rows), weight), max(len(rows), 1))
    drawn += [rows] * copies
    if rest:
      drawn.append(rng.permutation(rows)[:rest])
  rows = rng.permutation(np.concatenate(drawn))
  bucket = np.searchsorted(np.asarray(buckets), lengths[rows])
  rows = rows[np.argsort(-bucket, kind='stable')]
  count = -(-len(rows) // batch_size)
  table = np.full(count * batch_size, FILLER, np.int64)
  table[: len(rows)] = rows
  batches = table.reshape(count, batch_size)
  longest = np.asarray(buckets)[np.searchsorted(buckets, lengths[batches[:, 0]])]
  order = rng.permutation(count)
  return EpochPlan(batches[order], longest[order].astype(np.int64))


def process_rows(rows: np.ndarray, index: int, count: int) -> np.ndarray:
  """The block of a global batch that process `index` of `count` feeds.

  Raises:
    UserError: the batch does not divide.
  """
  if len(rows) % count:
    raise UserError(
      f'batch_size={len(rows)} does not divide among {count} processes; make it a '
      f'multiple of {count}.'
    )
  share = len(rows) // count
  return rows[index * share : (index + 1) * share]


def _round_up(n: int, multiple: int) -> int:
  return -(-n // multiple) * multiple
