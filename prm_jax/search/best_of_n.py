"""Whole solutions side by side: best-of-N, with a fixed or an adaptive N."""

from __future__ import annotations

import dataclasses

import numpy as np

from prm_jax.search import effort, rules
from prm_jax.search.options import (
  Options,
  at_least,
  at_most,
  between,
  check_kind,
  outcome,
  scores_of,
)
from prm_jax.search.protocol import ROOT, Algorithm, Ask, Expand, Problem, Steps


@dataclasses.dataclass(frozen=True)
class BestOfNOptions(Options):
  """Options of best-of-N.

  Attributes:
    n: solutions.
  """

  n: int = 16

  def __post_init__(self) -> None:
    super().__post_init__()
    at_least('n', self.n, 1)


def best_of_n(options: BestOfNOptions) -> Algorithm:
  """N solutions in one call, the best-scored chosen; votes are rules over the same
  candidates."""

  def algorithm(problem: Problem) -> Steps:
    check_kind(options, problem)
    (beams,) = yield Ask((Expand(ROOT, options.n, whole=True),))
    return outcome(problem, beams, scores_of(beams, options.reduction))

  return algorithm


@dataclasses.dataclass(frozen=True)
class AdaptiveOptions(Options):
  """Instance-adaptive N (IAS-of-N, arXiv 2506.09338).

  The paper's scorer also rates the bare question; ours rate steps, so the chance p of
  a sample is read from the first steps of a few samples, which are then finished.

  Attributes:
    first: first steps that p is read from; solutions at least.
    most: solutions at most (the paper: 64).
    confidence: C, that one of the N is right.
    quantile: of the first scores, taken as p; 0 is the lowest, 0.5 the median. The
      scores must be calibrated for N to mean what it says.
  """

  first: int = 4
  most: int = 64
  confidence: float = effort.CONFIDENCE
  quantile: float = 0.5

  def __post_init__(self) -> None:
    super().__post_init__()
    at_least('first', self.first, 1)
    at_least('most', self.most, self.first)
    between('confidence', self.confidence, 0, 1)
    at_least('quantile', self.quantile, 0)
    at_most('quantile', self.quantile, 1)


def adaptive_n(options: AdaptiveOptions) -> Algorithm:
  """As many solutions as the scores of the first steps call for."""

  def algorithm(problem: Problem) -> Steps:
    check_kind(options, problem, probability=True)
    (starts,) = yield Ask((Expand(ROOT, options.first),), keep=(ROOT,))
    scores = np.nan_to_num(scores_of(starts, 'last'), nan=0.0, neginf=0.0)
    p = float(np.quantile(scores, options.quantile))
    n = min(max(effort.samples_needed(p, options.confidence), options.first),
            options.most)  # fmt: skip
    asks = [Expand(b.id, whole=True) for b in starts if not b.ended]
    if n > len(starts):
      asks.append(Expand(ROOT, n - len(starts), whole=True))
    done = [b for b in starts if b.ended]
    if asks:
      done += [b for some in (yield Ask(tuple(asks))) for b in some]
    return outcome(problem, done, scores_of(done, options.reduction), p=p, n=n)

  return algorithm


@dataclasses.dataclass(frozen=True)
class GreedyOptions(Options):
  """Options of reward-guided greedy search.

  Attributes:
    width: steps sampled of which the best is taken.
    iterations: steps at most; then the solution is finished freely.
  """

  width: int = 4
  iterations: int = 40

  def __post_init__(self) -> None:
    super().__post_init__()
    at_least('width', self.width, 1)
    at_least('iterations', self.iterations, 1)


def greedy(options: GreedyOptions) -> Algorithm:
  """Samples `width` next steps and takes the best-scored, step by step."""

  def algorithm(problem: Problem) -> Steps:
    check_kind(options, problem)
    at, ended = ROOT, False
    for i in range(options.iterations):
      last = i == options.iterations - 1
      (beams,) = yield Ask((Expand(at, options.width, whole=last),))
      scores = scores_of(beams, options.reduction)
      keys = problem.keys(len(beams), 'greedy', i)
      best = beams[rules.top_k(scores, np.ones(len(beams), bool), 1, keys)[0]]
      at, ended = best.id, best.ended
      if ended:
        break
    return outcome(problem, [best], np.zeros(1))

  return algorithm
