"""Value-guided decoding at tokens of low confidence (AdaptiveStep, arXiv 2502.13943).

The policy writes freely until it would draw a token whose probability is below the
threshold. There some alternatives for that token are drawn, the scorer rates the
solution with each of them, and the best goes on.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from prm_jax.search import rules
from prm_jax.search.options import (
  Options,
  at_least,
  between,
  check_kind,
  outcome,
  scores_of,
)
from prm_jax.search.protocol import ROOT, Algorithm, Ask, Beam, Expand, Problem, Steps


@dataclasses.dataclass(frozen=True)
class ConfidenceOptions(Options):
  """Options of value-guided decoding.

  Attributes:
    threshold: a token less likely than this is chosen by the scorer. The paper takes
      the one that makes 2 % of a policy's tokens such (`splitting.find_threshold`).
    width: alternatives drawn for it.
    choices: of a solution at most; then it is finished freely.
    steps: of a solution at most; then it is finished freely.
  """

  threshold: float = 0.5
  width: int = 4
  choices: int = 200
  steps: int = 40

  def __post_init__(self) -> None:
    super().__post_init__()
    between('threshold', self.threshold, 0, 1)
    at_least('width', self.width, 1)
    at_least('choices', self.choices, 0)
    at_least('steps', self.steps, 1)


def adaptive_step(options: ConfidenceOptions) -> Algorithm:
  """One solution, whose unsure tokens are the scorer's choice."""

  def algorithm(problem: Problem) -> Steps:
    check_kind(options, problem)
    at, choices, steps = Beam(ROOT, -1), 0, 0
    while not at.ended:
      free = choices >= options.choices or steps >= options.steps
      if free:
        ask = Expand(at.id, whole=True)
      else:
        ask = Expand(at.id, cut_below=options.threshold)
      ((at,),) = yield Ask((ask,))
      steps += at.reason == 'step'
      if at.reason == 'cut':
        (beams,) = yield Ask((Expand(at.id, options.width, max_tokens=1),))
        scores = scores_of(beams, options.reduction)
        keys = problem.keys(len(beams), 'token', choices)
        at = beams[rules.top_k(scores, np.ones(len(beams), bool), 1, keys)[0]]
        choices += 1
        steps += at.reason == 'step'
    return outcome(problem, [at], np.zeros(1), choices=choices)

  return algorithm
