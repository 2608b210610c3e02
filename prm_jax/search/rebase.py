"""REBASE: reward-balanced tree search (arXiv 2408.00724)."""

from __future__ import annotations

import dataclasses

import numpy as np

from prm_jax.search import rules
from prm_jax.search.options import (
  Options,
  at_least,
  check_kind,
  outcome,
  scores_of,
)
from prm_jax.search.protocol import ROOT, Algorithm, Ask, Expand, Problem, Steps


@dataclasses.dataclass(frozen=True)
class RebaseOptions(Options):
  """The published values.

  Attributes:
    n: B, children of a round together, less one for each solution that has ended.
    temperature: T of the softmax over scores, which it takes to lie in [0, 1]; other
      scales need another.
    iterations: depth at most; the last step runs to the end of the solution.
  """

  n: int = 16
  temperature: float = 0.2
  iterations: int = 25

  def __post_init__(self) -> None:
    super().__post_init__()
    at_least('n', self.n, 1)
    at_least('temperature', self.temperature, 1e-6)
    at_least('iterations', self.iterations, 1)


def rebase(options: RebaseOptions) -> Algorithm:
  """Every beam gets children in proportion to its softmax weight."""

  def algorithm(problem: Problem) -> Steps:
    check_kind(options, problem)
    widths, done = {ROOT: options.n}, []
    for i in range(options.iterations):
      last = i == options.iterations - 1
      asked = tuple(Expand(b, n, whole=last) for b, n in widths.items())
      beams = [b for some in (yield Ask(asked)) for b in some]
      done += [b for b in beams if b.ended]
      alive = [b for b in beams if not b.ended]
      left = options.n - len(done)
      if not alive or left <= 0:
        break
      counts = rules.rebase_widths(
        scores_of(alive, options.reduction),
        np.ones(len(alive), bool),
        left,
        problem.keys(len(alive), 'rebase', i),
        options.temperature,
      )
      widths = {b.id: int(n) for b, n in zip(alive, counts) if n}
    return outcome(problem, done, scores_of(done, options.reduction))

  return algorithm
