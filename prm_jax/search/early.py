"""Beam search that rejects steps early (arXiv 2508.01969).

Only the first tokens of every step are written and scored; the best N / M of these
partial steps are completed, the others never.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from prm_jax.search import rules
from prm_jax.search.options import (
  Options,
  at_least,
  check_kind,
  divides,
  outcome,
  scores_of,
)
from prm_jax.search.protocol import ROOT, Algorithm, Ask, Beam, Expand, Problem, Steps


@dataclasses.dataclass(frozen=True)
class EarlyOptions(Options):
  """The published values.

  Attributes:
    n: N, partial steps of a round.
    width: M; N / M of them are completed, and get M children each.
    tau: tokens of a partial step.
    iterations: steps at most; the last runs to the end of the solution.
  """

  n: int = 16
  width: int = 4
  tau: int = 64
  iterations: int = 20

  def __post_init__(self) -> None:
    super().__post_init__()
    divides('width', self.width, 'n', self.n)
    at_least('tau', self.tau, 1)
    at_least('iterations', self.iterations, 1)


def early_rejection(options: EarlyOptions) -> Algorithm:
  """Survivors of the partial scores are completed; a step that is whole within tau
  tokens competes with its own score and costs no second call."""

  def algorithm(problem: Problem) -> Steps:
    check_kind(options, problem)
    active: list[int] = [ROOT]
    done: list[Beam] = []
    for i in range(options.iterations - 1):
      copies = rules.duplicated(len(active), options.n)
      asked = tuple(
        Expand(b, n, max_tokens=options.tau) for b, n in zip(active, copies) if n
      )
      beams = [b for some in (yield Ask(asked)) for b in some]
      scores = scores_of(beams, options.reduction)
      keys = problem.keys(len(beams), 'early', i)
      mask = np.ones(len(beams), bool)
      kept = rules.top_k(scores, mask, options.n // options.width, keys)
      survivors = [beams[k] for k in kept]
      whole = [b for b in survivors if not b.partial]
      if open_steps := [b for b in survivors if b.partial]:
        keep = tuple(b.id for b in whole if not b.ended)
        answers = yield Ask(tuple(Expand(b.id) for b in open_steps), keep)
        whole += [b for some in answers for b in some]
      done += [b for b in whole if b.ended]
      active = [b.id for b in whole if not b.ended]
      if not active or len(done) >= options.n:
        return outcome(problem, done, scores_of(done, options.reduction))
    copies = rules.duplicated(len(active), options.n // options.width)
    asked = tuple(Expand(b, n, whole=True) for b, n in zip(active, copies) if n)
    done += [b for some in (yield Ask(asked)) for b in some]
    return outcome(problem, done, scores_of(done, options.reduction))

  return algorithm
