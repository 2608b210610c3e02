"""Pools of candidates for best-of-N: A problems x up to n solutions each."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from prm_jax.errors import UserError
from prm_jax.evaluation.splits import Steps, read_steps
from prm_jax.formats import answers as answer_forms
from prm_jax.records import Trajectory


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
  """Candidates as a matrix of problems x places, in the order they were sampled.

  Matrices are [A, n] with n the size of the largest pool; places beyond a
  problem's own size hold a fill value.

  Attributes:
    steps: geometry of the R candidates.
    verdict: name of the checker whose word counts.
    index: [A, n] int, the candidate (row of `steps`) in each place, -1 beyond.
    sizes: [A] int, candidates of each problem.
    correct: [A, n] float64, 1 where the verdict is true; unjudged counts as wrong.
    answers: [A, n] int, number of the answer among the problem's answers in order
      of first appearance; -1 where there is none.
    characters: [R] length of each solution's text.
    counters: candidates, unjudged, answerless, problems with no right candidate.
  """

  steps: Steps
  verdict: str
  index: np.ndarray
  sizes: np.ndarray
  correct: np.ndarray
  answers: np.ndarray
  characters: np.ndarray
  counters: dict[str, int]

  @property
  def smallest(self) -> int:
    """Candidates of the problem that has fewest: the largest N that is defined."""
    return int(self.sizes.min())

  @functools.cached_property
  def mask(self) -> np.ndarray:
    """[A, n] bool, which places hold a candidate."""
    return self.index >= 0

  def place(self, values: np.ndarray, fill: float = np.inf) -> np.ndarray:
    """[R] values of candidates as [A, n]."""
    return np.where(self.mask, values[self.index], fill)

  def prefix(self, k: int) -> Pool:
    """The pool of the first k candidates of each problem."""
    return dataclasses.replace(
      self,
      index=self.index[:, :k],
      sizes=np.minimum(self.sizes, k),
      correct=self.correct[:, :k],
      answers=self.answers[:, :k],
    )


def read_pool(
  name: str,
  trajectories: Sequence[Trajectory],
  verdict: str,
  answer_key: Callable[[str], str] | None = None,
) -> Pool:
  """Groups candidates by problem, ordered by `sample_index`, then as read.

  Args:
    name: of the pool.
    trajectories: R candidates.
    verdict: key of `verdicts`.
    answer_key: what two answers must share to be votes for the same answer; the
      default is `vote_key`.

  Raises:
    UserError: no candidate carries that verdict, nothing is there, or an id is
      repeated.
  """
  steps = read_steps(name, trajectories)
  known = [t.verdicts.get(verdict) for t in trajectories]
  if all(v is None for v in known):
    found = sorted({k for t in trajectories for k in t.verdicts})
    raise UserError(
      f'pool {name!r}: no candidate carries the verdict {verdict!r} (found: '
      f'{", ".join(found) or "none"}); check the answers first, or name one of those.'
    )
  sample_index = np.array([t.sample_index for t in trajectories])
  order = np.lexsort((np.arange(steps.n_rows), sample_index, steps.problem))
  sizes = np.bincount(steps.problem, minlength=steps.n_problems)
  column = np.arange(steps.n_rows) - np.repeat(np.cumsum(sizes) - sizes, sizes)
  index = np.full((steps.n_problems, int(sizes.max())), -1)
  index[steps.problem[order], column] = order
  right = np.array([bool(v is not None and v.value) for v in known])
  answers = _answer_numbers(trajectories, index, answer_key or vote_key)
  correct = np.where(index >= 0, right[index], False).astype(np.float64)
  counters = {
    'problems': steps.n_problems,
    'candidates': steps.n_rows,
    'unjudged': sum(v is None or v.value is None for v in known),
    'answerless': int(((answers < 0) & (index >= 0)).sum()),
    'problems_without_right_candidate': int((correct.sum(axis=1) == 0).sum()),
  }
  return Pool(
    steps=steps,
    verdict=verdict,
    index=index,
    sizes=sizes,
    correct=correct,
    answers=answers,
    characters=np.array([_length(t) for t in trajectories]),
    counters=counters,
  )


def vote_key(answer: str) -> str:
  """The number an answer is, or else its normalised notation; '' does not vote."""
  number = answer_forms.rational(answer)
  return answer_forms.normalise(answer) if number is None else str(number)


def _length(t: Trajectory) -> int:
  return len(t.separator.join(t.steps) if t.response is None else t.response)


def _answer_numbers(
  trajectories: Sequence[Trajectory],
  index: np.ndarray,
  answer_key: Callable[[str], str],
) -> np.ndarray:
  numbers = np.full(index.shape, -1)
  answer_key = functools.cache(answer_key)
  for a, row in enumerate(index):
    seen: dict[str, int] = {}
    for c, r in enumerate(row):
      answer = trajectories[r].answer if r >= 0 else None
      key = '' if answer is None else answer_key(answer)
      if key:
        numbers[a, c] = seen.setdefault(key, len(seen))
  return numbers


def ladder(pool: Pool, sizes: Sequence[int] | None = None) -> list[int]:
  """The N to report: 1, 2, 4, ... and the size of the smallest pool, or `sizes`.

  Raises:
    UserError: an N is below 1 or larger than the smallest pool.
  """
  if sizes is None:
    powers = [1 << i for i in range(pool.smallest.bit_length())]
    return sorted({*powers, pool.smallest})
  for n in sizes:
    if not 1 <= n <= pool.smallest:
      a = int(pool.sizes.argmin())
      raise UserError(
        f'pool {pool.steps.name!r}: best of {n} is not defined, problem '
        f'{pool.steps.problem_ids[a]} has {pool.smallest} candidates; choose N from 1 '
        f'to {pool.smallest}.'
      )
  return sorted(set(sizes))
