"""PATS: process-level adaptive thinking mode switching (arXiv 2505.19250)."""

from __future__ import annotations

import dataclasses

import numpy as np

from prm_jax.search import effort, rules
from prm_jax.search.options import (
  Options,
  at_least,
  check_kind,
  outcome,
  scores_of,
)
from prm_jax.search.protocol import ROOT, Algorithm, Ask, Expand, Problem, Steps


@dataclasses.dataclass(frozen=True)
class PatsOptions(Options):
  """The published thresholds and widths.

  Attributes:
    widths: candidates of a step in the modes simple, medium and complex.
    high: from this score on, the next step is one mode simpler.
    low: below it, the next step is complex.
    bad: below it, the step is rejected once and written again in mode complex.
    iterations: steps at most; the last runs to the end of the solution.
  """

  widths: tuple[int, int, int] = effort.WIDTHS
  high: float = 0.85
  low: float = 0.75
  bad: float = 0.4
  iterations: int = 40

  def __post_init__(self) -> None:
    super().__post_init__()
    object.__setattr__(self, 'widths', tuple(self.widths))
    at_least('widths', min(self.widths), 1)
    at_least('high', self.high, self.low)
    at_least('low', self.low, self.bad)
    at_least('iterations', self.iterations, 1)


def pats(options: PatsOptions) -> Algorithm:
  """One beam, whose width follows the scores; it starts complex."""

  def algorithm(problem: Problem) -> Steps:
    check_kind(options, problem, probability=True)
    at, mode, rejected = ROOT, effort.COMPLEX, False
    step, modes, n_rejected = 0, [], 0
    while True:
      last = step == options.iterations - 1
      (beams,) = yield Ask((Expand(at, options.widths[mode], whole=last),))
      modes.append(mode)
      scores = scores_of(beams, options.reduction)
      keys = problem.keys(len(beams), 'pats', step, rejected)
      place = rules.top_k(scores, np.ones(len(beams), bool), 1, keys)[0]
      best, score = beams[place], np.nan_to_num(scores[place], nan=0.0, neginf=0.0)
      mode, rejected = effort.next_mode(
        float(score), mode, rejected, options.high, options.low, options.bad
      )
      if rejected:
        n_rejected += 1
        continue
      if best.ended:
        break
      at, step = best.id, step + 1
    return outcome(problem, [best], np.zeros(1), modes=modes, rejected=n_rejected)

  return algorithm
