"""Consensus of two label sets on the first error (Qwen "Lessons", arXiv 2501.07301).

A solution is kept only if both sets name the same first error, or both none. Its
labels are then hard: 1 before the error, 0 at it, none after. (There: Monte-Carlo
labels and a judge; about 40 % of the solutions are kept.)
"""

from __future__ import annotations

import dataclasses

from prm_jax.errors import UserError
from prm_jax.labeling.protocol import Algorithm, Labelled
from prm_jax.labeling.solutions import One, Options, alone, between
from prm_jax.records import LabelSet, Trajectory, first_error_of


@dataclasses.dataclass(frozen=True)
class ConsensusOptions(Options):
  """Which label sets must agree.

  Attributes:
    first, second: names of two label sets in the records.
    first_threshold, second_threshold: a label below it says wrong, where a record
      does not carry the set's first error itself.

  Raises:
    UserError: names that are missing or the same.
  """

  first: str = ''
  second: str = ''
  first_threshold: float = 0.5
  second_threshold: float = 0.5

  def __post_init__(self) -> None:
    super().__post_init__()
    if not self.first or not self.second or self.first == self.second:
      raise UserError(
        f'label options first={self.first!r} and second={self.second!r} must name two '
        'different label sets of the solutions.'
      )
    between('first_threshold', self.first_threshold, 0, 1)
    between('second_threshold', self.second_threshold, 0, 1)


def first_error(solution: Trajectory, name: str, threshold: float) -> int | None:
  """First error by a label set that the solution carries, None if unknown."""
  if name in solution.first_error:
    return solution.first_error[name]
  return first_error_of(solution.labels[name].values, threshold)


def consensus(options: ConsensusOptions) -> Algorithm:
  """Hard labels where both sets agree.

  Others are skipped: 'undecided' if one of them does not know the first error,
  'disagree' otherwise, 'missing' if a solution carries neither labels nor a first
  error of one.
  """
  name = options.label or 'consensus'
  how = {
    'algorithm': 'consensus',
    'sets': [options.first, options.second],
    'thresholds': [options.first_threshold, options.second_threshold],
  }

  def solve(solution: Trajectory) -> One:
    for one in (options.first, options.second):
      if one not in solution.first_error and one not in solution.labels:
        return Labelled(skipped='missing')
    a = first_error(solution, options.first, options.first_threshold)
    b = first_error(solution, options.second, options.second_threshold)
    if a is None or b is None:
      return Labelled(skipped='undecided')
    if a != b:
      return Labelled(skipped='disagree')
    end = solution.n_steps if a < 0 else a
    values = tuple(
      1.0 if t < end else 0.0 if t == end else None for t in range(solution.n_steps)
    )
    labels = LabelSet('correctness', values, how)
    return Labelled({name: labels}, {name: a})
    yield  # a generator that asks nothing

  return alone(solve)
