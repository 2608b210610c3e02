"""Batches: `batches[step]` is the batch of that step, on any number of processes."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from prm_jax.data import epoch_plan
from prm_jax.data.token_cache import TokenCache
from prm_jax.errors import UserError

Arrays = dict[str, np.ndarray]


class Batches:
  """Endless batches over a token cache, epoch after epoch.

  `batches[step]` is a dict of numpy arrays (T is the batch's bucket, P fixed for each
  bucket, B the rows of this process):

    tokens [B, T] int32           padded on the right
    step_positions [B, P] int32   0 for absent steps
    labels [B, P] float32         0 where unlabelled
    mask [B, P] bool              the step is labelled
    weights [B, P] float32        loss weight of the step, 0 where absent
    steps_mask [B, P] bool        the step exists
    outcome [B] float32           verdict on the answer, 0 where not judged
    outcome_mask [B] bool         judged
    row_mask [B] bool             False for filler rows
    problem_index [B] int32       0 for filler rows, as source_index
    problem_weight [B] float32    1 / rows of the problem in the data, 0 for fillers
    source_index [B] int32

  For a policy, `of='tokens'`, there is nothing of the steps and of the outcome, and

    token_mask [B, T] bool        the token belongs to the response, end token included

  Args:
    cache: the rows.
    of: what is learned, 'steps' or 'tokens'.
    seed: of the shuffles.
    batch_size: of the global batch, all processes together.
    buckets: lengths to pad to; none means `epoch_plan.default_buckets`.
    source_weights: one a source of the cache; none means all 1.
    process_index, process_count: this process feeds the block `process_index` of
      `process_count` of every batch.

  Raises:
    UserError: the seed is negative, the batch size is not positive or does not
      divide, the buckets do not hold every row, or the weights leave none.
  """

  def __init__(
    self,
    cache: TokenCache,
    *,
    seed: int,
    batch_size: int,
    of: str = 'steps',
    buckets: Sequence[int] = (),
    source_weights: Sequence[float] = (),
    process_index: int = 0,
    process_count: int = 1,
  ):
    if seed < 0:
      raise UserError(f'seed={seed} must be 0 or above.')
    self.cache = cache
    self._assemble = {'steps': assemble, 'tokens': assemble_tokens}[of]
    self.seed = seed
    self.batch_size = batch_size
    self.process = (process_index, process_count)
    self.source_weights = tuple(source_weights) or (1.0,) * len(cache.sources)
    n_rows = np.bincount(cache.source_index, minlength=len(cache.sources))
    self.n_batches = epoch_plan.n_batches(
      n_rows.tolist(), self.source_weights, batch_size
    )
    epoch_plan.process_rows(np.zeros(batch_size), *self.process)
    self.buckets = epoch_plan.check_buckets(
      buckets or epoch_plan.default_buckets(cache.lengths), cache.lengths
    )
    steps = epoch_plan.steps_per_bucket(self.buckets, cache.lengths, cache.n_steps)
    self.max_steps = dict(zip(self.buckets, steps))
    # Prefetching threads stand at most one epoch apart.
    self._plan = functools.lru_cache(maxsize=2)(self._make_plan)

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, step: int) -> Arrays:
    batch = self.rows(step)
    rows = epoch_plan.process_rows(batch.rows, *self.process)
    n_steps = self.max_steps[batch.length]
    return self._assemble(self.cache, rows, batch.length, n_steps)

  @property
  def shapes(self) -> tuple[tuple[int, int], ...]:
    """(T, P) of every bucket: the shapes that will be compiled."""
    return tuple(self.max_steps.items())

  def position(self, step: int) -> tuple[int, int]:
    """(epoch, index of the batch within it)."""
    return divmod(step, self.n_batches)

  def rows(self, step: int) -> epoch_plan.Batch:
    """Rows of the global batch of a step, and its bucket."""
    epoch, index = self.position(step)
    return self._plan(epoch)[index]

  def describe(self, step: int) -> str:
    """Names a batch for a person: its place and the ids of its rows."""
    epoch, index = self.position(step)
    rows = [r for r in self.rows(step).rows.tolist() if r != epoch_plan.FILLER]
    names = ', '.join(self.cache.row_id(r) for r in rows)
    return f'batch {index} of epoch {epoch}: {names}'

  def dataset(self) -> Any:
    """The same as a `grain.MapDataset`: `ds[step]` equals `batches[step]`."""
    import grain

    return grain.MapDataset.source(self)

  def iterate(
    self, start: int = 0, *, threads: int = 1, ahead: int = 8
  ) -> Iterator[Arrays]:
    """Batches from step `start` on, assembled `ahead` of use by `threads` threads."""
    import grain

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    iterator = iter(self.dataset().to_iter_dataset(options))
    iterator.set_state({'next_index': start})
    return iterator

  def _make_plan(self, epoch: int) -> epoch_plan.EpochPlan:
    return epoch_plan.plan(
      self.seed,
      epoch,
      self.cache.lengths,
      batch_size=self.batch_size,
      buckets=self.buckets,
      source_index=self.cache.source_index,
      source_weights=self.source_weights,
    )


def assemble(cache: TokenCache, rows: np.ndarray, length: int, n_steps: int) -> Arrays:
  """Padded arrays of the rows `rows` [B] (-1 for fillers): T = length, P = n_steps."""
  there, held, shared = _of_rows(cache, rows)
  token_at, is_token = _window(cache.offsets, held, there, length)
  step_at, is_step = _window(cache.step_offsets, held, there, n_steps)
  mask = is_step & cache.mask[step_at]
  outcome_mask = there & cache.outcome_mask[held]
  return {
    'tokens': np.where(is_token, cache.tokens[token_at], np.int32(cache.pad_id)),
    'step_positions': np.where(is_step, cache.step_positions[step_at], np.int32(0)),
    'labels': np.where(mask, cache.labels[step_at], np.float32(0)),
    'mask': mask,
    'weights': np.where(is_step, cache.weights[step_at], np.float32(0)),
    'steps_mask': is_step,
    'outcome': np.where(outcome_mask, cache.outcome[held], np.float32(0)),
    'outcome_mask': outcome_mask,
    **shared,
  }


def assemble_tokens(
  cache: TokenCache, rows: np.ndarray, length: int, n_steps: int = 0
) -> Arrays:
  """As `assemble`, what a policy learns from; the number of steps plays no part."""
  there, held, shared = _of_rows(cache, rows)
  token_at, is_token = _window(cache.offsets, held, there, length)
  after_question = np.arange(length) >= cache.question_length[held][:, None]
  return {
    'tokens': np.where(is_token, cache.tokens[token_at], np.int32(cache.pad_id)),
    'token_mask': is_token & after_question,
    **shared,
  }


def _of_rows(
  cache: TokenCache, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, Arrays]:
  """Which rows are no fillers, the rows with 0 for fillers, and what every row has."""
  there = rows != epoch_plan.FILLER
  held = np.where(there, rows, 0)
  shared = {
    'row_mask': there,
    'problem_index': np.where(there, cache.problem_index[held], np.int32(0)),
    'problem_weight': np.where(there, cache.problem_weight[held], np.float32(0)),
    'source_index': np.where(there, cache.source_index[held], np.int32(0)),
  }
  return there, held, shared


def _window(
  offsets: np.ndarray, rows: np.ndarray, there: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
  """Indices [B, width] into a ragged array, and which of them lie in their row."""
  start = offsets[rows]
  size = np.where(there, offsets[rows + 1] - start, 0)
  column = np.arange(width)
  inside = column[None, :] < size[:, None]
  return np.where(inside, start[:, None] + column[None, :], 0), inside
