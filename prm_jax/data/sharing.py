"""Candidates of one question side by side, so that the question is computed once.

A row of a batch is one question with up to C of its solutions. An epoch cuts the
solutions of each question into such rows, solutions of about equal length together;
the number of rows is the same in every epoch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from prm_jax.data import epoch_plan
from prm_jax.data.epoch_plan import FILLER, EpochPlan
from prm_jax.data.token_cache import TokenCache
from prm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Shared:
  """Where the solutions of a cache part from their questions.

  Attributes:
    cut: [R] int64, tokens of the question; no step is read before.
    question: [R] int64; rows of one number begin with the same `cut` tokens.
    buckets: lengths of what follows the questions, sorted.
    question_lengths: for each bucket, tokens of the longest question in it.
    max_steps: for each bucket, P.
  """

  cut: np.ndarray
  question: np.ndarray
  buckets: tuple[int, ...]
  question_lengths: tuple[int, ...]
  max_steps: tuple[int, ...]


def find(cache: TokenCache, multiple: int = 8) -> Shared:
  """Compares the questions of a cache token by token."""
  first_read = cache.step_positions[cache.step_offsets[:-1]]
  cut = np.minimum(cache.question_length, first_read).astype(np.int64)
  known: dict[bytes, int] = {}
  question = np.empty(cache.n_rows, np.int64)
  for row, (start, size) in enumerate(zip(cache.offsets.tolist(), cut.tolist())):
    text = cache.tokens[start : start + size].tobytes()
    question[row] = known.setdefault(text, len(known))
  own = cache.lengths - cut
  buckets = epoch_plan.default_buckets(own)
  longest = [int(cut[own <= b].max(initial=1)) for b in buckets]
  return Shared(
    cut, question, buckets, tuple(-(-n // multiple) * multiple for n in longest),
    epoch_plan.steps_per_bucket(buckets, own, cache.n_steps),
  )  # fmt: skip


def copies(weights: Sequence[float]) -> list[int]:
  """How often an epoch takes each solution of a source.

  Raises:
    UserError: a weight is not whole, or all are 0.
  """
  if any(w != int(w) for w in weights) or not any(weights):
    raise UserError(
      f'data.share_question needs sources of whole weights, not {tuple(weights)}.'
    )
  return [int(w) for w in weights]


def n_rows(question: np.ndarray, times: np.ndarray, members: int) -> int:
  """Rows of an epoch that takes solution r `times[r]` times."""
  return int(np.sum(-(-np.bincount(question, times).astype(int) // members)))


def plan(
  shared: Shared,
  seed: int,
  epoch: int,
  lengths: np.ndarray,
  times: np.ndarray,
  *,
  members: int,
  batch_size: int,
) -> EpochPlan:
  """The plan of one epoch: `rows` is [n_batches, B, C], `lengths` are buckets of what
  follows the questions.

  Args:
    shared: from `find`.
    seed, epoch: whole numbers >= 0.
    lengths: [R] tokens of each solution, question included.
    times: [R] int, how often the epoch takes each.
    members: C.
    batch_size: B, rows of the global batch, all processes together.
  """
  rng = epoch_plan.generator(seed, epoch)
  drawn = np.repeat(np.arange(len(times)), times)
  own = np.searchsorted(shared.buckets, (lengths - shared.cut)[drawn])
  order = np.lexsort((rng.random(len(drawn)), own, shared.question[drawn]))
  drawn, own, question = drawn[order], own[order], shared.question[drawn[order]]
  start = np.flatnonzero(np.diff(question, prepend=-1))
  sizes = np.diff(np.append(start, len(drawn)))
  rank = np.arange(len(drawn)) - np.repeat(start, sizes)
  unit = np.cumsum(rank % members == 0) - 1
  table = np.full((unit[-1] + 1, members), FILLER, np.int64)
  table[unit, rank % members] = drawn
  longest = np.zeros(len(table), np.int64)
  np.maximum.at(longest, unit, own)

  order = rng.permutation(len(table))
  order = order[np.argsort(-longest[order], kind='stable')]
  count = -(-len(table) // batch_size)
  padded = np.full((count * batch_size, members), FILLER, np.int64)
  padded[: len(table)] = table[order]
  buckets = np.asarray(shared.buckets)[longest[order][::batch_size]]
  mixed = rng.permutation(count)
  return EpochPlan(padded.reshape(count, batch_size, members)[mixed], buckets[mixed])
