"""What all search algorithms share: options, scores of beams, the last choice."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from prm_jax.errors import UserError
from prm_jax.search import rules
from prm_jax.search.protocol import Beam, Candidate, Outcome, Problem
from prm_jax.step_values import EMPTY_SCORE, REDUCTIONS, check_reduction


@dataclasses.dataclass(frozen=True)
class Options:
  """What all algorithms may be told.

  Attributes:
    reduction: how a beam's step scores become one ('last' in search-and-learn, OpenR
      and REBASE; see `step_values.REDUCTIONS`).

  Raises:
    UserError: a value that means nothing.
  """

  reduction: str = 'last'

  def __post_init__(self) -> None:
    one_of('reduction', self.reduction, tuple(REDUCTIONS))


def one_of(name: str, value: str, known: Sequence[str]) -> None:
  """Raises UserError unless `value` is one of `known`."""
  if value not in known:
    raise UserError(f'search option {name}={value!r}; use one of {", ".join(known)}.')


def at_least(name: str, value: float, least: float) -> None:
  """Raises UserError unless `value` is `least` or more."""
  if not value >= least:
    raise UserError(f'search option {name}={value!r} must be {least:g} or more.')


def at_most(name: str, value: float, most: float) -> None:
  """Raises UserError unless `value` is `most` or less."""
  if not value <= most:
    raise UserError(f'search option {name}={value!r} must be {most:g} or less.')


def between(name: str, value: float, low: float, high: float) -> None:
  """Raises UserError unless `value` lies strictly between `low` and `high`."""
  if not low < value < high:
    raise UserError(
      f'search option {name}={value!r} must lie between {low:g} and {high:g}.'
    )


def divides(small: str, m: int, large: str, n: int) -> None:
  """Raises UserError unless m >= 1 divides n >= 1."""
  at_least(small, m, 1)
  if n < 1 or n % m:
    raise UserError(
      f'search option {large}={n} is no multiple of {small}={m}; change one.'
    )


def check_kind(options: Options, problem: Problem, probability: bool = False) -> None:
  """Refuses scores that the algorithm cannot read.

  Raises:
    UserError: the reduction, or the algorithm itself, needs probabilities.
  """
  check_reduction(options.reduction, problem.kind)
  if probability and problem.kind != 'probability':
    raise UserError(
      f'this search compares scores with probabilities and the scorer gives '
      f'{problem.kind}; calibrate it, or choose another algorithm.'
    )


def score_of(beam: Beam, reduction: str) -> float:
  """One score of a beam; NaN if a step was not scored, -inf without steps."""
  if not beam.scores:
    return EMPTY_SCORE
  values = np.asarray(beam.scores, np.float64)
  return float(REDUCTIONS[reduction](values, None))


def scores_of(beams: Sequence[Beam], reduction: str) -> np.ndarray:
  """float64 [N], one score a beam."""
  return np.array([score_of(b, reduction) for b in beams], np.float64)


def outcome(
  problem: Problem,
  beams: Sequence[Beam],
  scores: np.ndarray,
  *,
  weights: Sequence[float] | None = None,
  copies: Sequence[int] | None = None,
  **meta: object,
) -> Outcome:
  """Candidates, of which the best-scored is chosen.

  One that the policy ended itself goes before those that were cut off, which have no
  answer; equals are drawn among.

  Args:
    problem: names the draw.
    beams: distinct beams.
    scores: [N] for the choice.
    weights, copies: of the candidates.
    meta: of the outcome.
  """
  candidates = [
    Candidate(
      b.id,
      1 if copies is None else copies[i],
      None if weights is None else float(weights[i]),
    )
    for i, b in enumerate(beams)
  ]
  finished = np.array([b.reason in ('end', 'empty') and b.depth > 0 for b in beams])
  mask = finished if finished.any() else np.ones(len(beams), bool)
  best = rules.top_k(scores, mask, 1, problem.keys(len(beams), 'choose'))
  return Outcome(candidates, best[0] if best else None, dict(meta))
