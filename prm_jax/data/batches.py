"""Batches: `batches[step]` is the batch of that step, on any number of processes."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from prm_jax.data import assembly, epoch_plan, sharing
from prm_jax.data import packing as packings
from prm_jax.data.epoch_plan import EpochPlan
from prm_jax.data.packing import Packing
from prm_jax.data.token_cache import TokenCache
from prm_jax.errors import UserError

Arrays = assembly.Arrays


@dataclasses.dataclass(frozen=True)
class Usage:
  """What the batches of an epoch hold.

  Attributes:
    solutions, tokens: in them, without filler.
    places: tokens that are computed, padding included.
    batches: of an epoch.
  """

  solutions: int
  tokens: int
  places: int
  batches: int

  @property
  def fill(self) -> float:
    """Share of the computed tokens that are no padding."""
    return self.tokens / self.places

  def __str__(self) -> str:
    return (
      f'{self.batches:,} batches an epoch, {self.solutions / self.batches:.1f} '
      f'solutions a batch, {1 - self.fill:.1%} padding'
    )


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

  With `packing` a row of T tokens holds up to C solutions, one after the other, and B
  is the number of such rows. What belongs to a solution has C after B (labels
  [B, C, P], outcome [B, C], row_mask [B, C] and so on), and what belongs to a row is

    tokens, token_mask [B, T]     the first token of a solution is never learned
    segments [B, T] int32         1 + index in C of the token's solution, 0 for padding
    step_positions [B, S] int32   where the row's steps are read, one after the other
    step_index [B, C, P] int32    which of the S reads is this step, 0 for absent steps

  `objectives.registry.evaluate` brings outputs and arrays back to [B x C, P].

  With `share_question`=C a row is a question with up to C of its solutions (again
  what belongs to a solution has C after B), and T is the length of what follows it:

    question_tokens [B, Tq] int32, question_length [B] int32
    tokens [B, C, T], step_positions [B, C, P]   without the question, counted after it

  Args:
    cache: the rows.
    of: what is learned, 'steps' or 'tokens'.
    seed: of the shuffles.
    batch_size: of the global batch, all processes together.
    buckets: lengths to pad to; none means `epoch_plan.default_buckets`.
    source_weights: one a source of the cache; none means all 1.
    packing: put several solutions into a row; `buckets` play no part then.
    pack_lengths: T of packed rows; none takes the longest solution's.
    share_question: C, solutions of a question that share its keys; 0 shares none.
    process_index, process_count: this process feeds the block `process_index` of
      `process_count` of every batch.

  Raises:
    UserError: the seed is negative, the batch size is not positive or does not
      divide, the buckets (or pack lengths) do not hold every row, or the weights leave
      none.
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
    packing: bool = False,
    pack_lengths: Sequence[int] = (),
    share_question: int = 0,
    process_index: int = 0,
    process_count: int = 1,
  ):
    if seed < 0:
      raise UserError(f'seed={seed} must be 0 or above.')
    if len(pack_lengths) and not packing:
      raise UserError(
        f'data.pack_lengths={tuple(pack_lengths)} has no effect without packing; set '
        'data.packing=True.'
      )
    self.cache = cache
    self.seed = seed
    self._assemble: Callable[..., Arrays]
    self.batch_size = batch_size
    self.process = (process_index, process_count)
    weights = tuple(source_weights) or (1.0,) * len(cache.sources)
    self._sources: dict[str, Any] = {
      'source_index': cache.source_index,
      'source_weights': weights,
    }
    self._packing: Packing | None = None
    self._plan_shared: Callable[..., EpochPlan] | None = None
    if share_question:
      if packing or of != 'steps' or share_question < 2:
        raise UserError(
          f'data.share_question={share_question}: give at least 2, for objectives that '
          'read steps, without data.packing.'
        )
      self._share(share_question, weights)
    elif packing:
      self._packing = packings.pack(
        cache.lengths, cache.n_steps, pack_lengths=pack_lengths, **self._sources
      )
      self.n_batches = self._packing.n_batches(batch_size)
      self.max_steps = dict(zip(self._packing.lengths, self._packing.n_reads))
      make = {'steps': assembly.packed_steps, 'tokens': assembly.packed_tokens}[of]
      most = epoch_plan.steps_per_bucket(
        self._packing.lengths[-1:], cache.lengths, cache.n_steps
      )[0]
      self._assemble = functools.partial(make, n_steps=most)
    else:
      n_rows = np.bincount(cache.source_index, minlength=len(cache.sources))
      self.n_batches = epoch_plan.n_batches(n_rows.tolist(), weights, batch_size)
      self.buckets = epoch_plan.check_buckets(
        buckets or epoch_plan.default_buckets(cache.lengths), cache.lengths
      )
      steps = epoch_plan.steps_per_bucket(self.buckets, cache.lengths, cache.n_steps)
      self.max_steps = dict(zip(self.buckets, steps))
      self._assemble = {'steps': assembly.steps, 'tokens': assembly.tokens}[of]
    epoch_plan.process_rows(np.zeros(batch_size), *self.process)
    # Prefetching threads stand at most one epoch apart.
    self._plan = functools.lru_cache(maxsize=2)(self._make_plan)

  def _share(self, members: int, weights: Sequence[float]) -> None:
    self._members = members
    shared = sharing.find(self.cache)
    times = np.array(sharing.copies(weights))[self.cache.source_index]
    count = sharing.n_rows(shared.question, times, members)
    self.n_batches = -(-count // self.batch_size)
    self.max_steps = dict(zip(shared.buckets, shared.max_steps))
    self._question = dict(zip(shared.buckets, shared.question_lengths))
    self._plan_shared = functools.partial(
      sharing.plan, shared, lengths=self.cache.lengths, times=times,
      members=members, batch_size=self.batch_size,
    )  # fmt: skip

    def assemble(cache: TokenCache, rows: np.ndarray, length: int, n: int) -> Arrays:
      asked = self._question[length]
      return assembly.shared_steps(
        cache, rows, length, n, cut=shared.cut, question_length=asked
      )

    self._assemble = assemble

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, step: int) -> Arrays:
    batch = self.rows(step)
    rows = epoch_plan.process_rows(batch.rows, *self.process)
    return self._assemble(self.cache, rows, batch.length, self.max_steps[batch.length])

  @property
  def shapes(self) -> tuple[tuple[int, int], ...]:
    """(T, P) of every bucket, (T, S) packed: the shapes that will be compiled."""
    return tuple(self.max_steps.items())

  @property
  def shared_question(self) -> tuple[int, int]:
    """(C, tokens of the question before the longest bucket); (1, 0) where rows share
    none."""
    if self._plan_shared is None:
      return 1, 0
    return self._members, self._question[max(self._question)]

  def position(self, step: int) -> tuple[int, int]:
    """(epoch, index of the batch within it)."""
    return divmod(step, self.n_batches)

  def rows(self, step: int) -> epoch_plan.Batch:
    """Rows of the global batch of a step, and its bucket."""
    epoch, index = self.position(step)
    return self._plan(epoch)[index]

  @functools.cached_property
  def usage(self) -> Usage:
    """What an epoch's batches hold; the first epoch's, where they differ."""
    plan = self._plan(0)
    there = plan.rows[plan.rows != epoch_plan.FILLER]
    return Usage(
      solutions=len(there),
      tokens=int(self.cache.lengths[there].sum()),
      places=sum(
        self._question.get(n, 0) * self.batch_size + n * plan.rows[0].size
        if self._plan_shared
        else n * self.batch_size
        for n in plan.lengths.tolist()
      ),
      batches=self.n_batches,
    )

  def describe(self, step: int) -> str:
    """Names a batch for a person: its place and the ids of its rows."""
    epoch, index = self.position(step)
    rows = [r for r in self.rows(step).rows.ravel().tolist() if r != epoch_plan.FILLER]
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

  def _make_plan(self, epoch: int) -> EpochPlan:
    lengths = self.cache.lengths
    if self._plan_shared is not None:
      return self._plan_shared(self.seed, epoch)
    if self._packing is not None:
      return packings.plan(
        self._packing, self.seed, epoch, lengths, self.cache.n_steps,
        batch_size=self.batch_size, **self._sources,
      )  # fmt: skip
    return epoch_plan.plan(
      self.seed, epoch, lengths,
      batch_size=self.batch_size, buckets=self.buckets, **self._sources,
    )  # fmt: skip
