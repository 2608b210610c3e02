"""Beam search, diverse verifier tree search, and both with look-ahead.

After search-and-learn (Hugging Face), whose defaults these are, and Snell et al.
(arXiv 2408.03314). Its beam search rolls look-ahead steps out and never reads their
score; here the score after the look-ahead decides.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence

import numpy as np

from prm_jax.search import rules
from prm_jax.search.options import (
  Options,
  at_least,
  check_kind,
  divides,
  one_of,
  outcome,
  scores_of,
)
from prm_jax.search.protocol import (
  ROOT,
  Algorithm,
  Ask,
  Beam,
  Expand,
  Problem,
  Steps,
)


@dataclasses.dataclass(frozen=True)
class BeamOptions(Options):
  """Options of beam search and DVTS.

  Attributes:
    n: N, beams (for DVTS: candidates of a round).
    width: M; the N / M best beams are kept (for DVTS: a tree samples M steps).
    iterations: steps at most; the last one runs to the end of the solution.
    lookahead: further steps at temperature 0 after which a beam is scored.
  """

  n: int = 16
  width: int = 4
  iterations: int = 40
  lookahead: int = 0

  def __post_init__(self) -> None:
    super().__post_init__()
    divides('width', self.width, 'n', self.n)
    at_least('iterations', self.iterations, 1)
    at_least('lookahead', self.lookahead, 0)


def ahead(
  beams: Sequence[Beam], k: int
) -> Generator[Ask, list[list[Beam]], list[Beam]]:
  """Where each beam is after k more steps at temperature 0, or at its end."""
  seen = list(beams)
  living = tuple(b.id for b in beams if not b.ended)
  for _ in range(k):
    going = [i for i, b in enumerate(seen) if not b.ended]
    if not going:
      break
    asked = tuple(Expand(seen[i].id, temperature=0.0) for i in going)
    expanded = {e.beam for e in asked}
    others = tuple(b for b in living if b not in expanded)
    answers = yield Ask(asked, keep=others)
    for i, (beam,) in zip(going, answers):
      seen[i] = beam
  return seen


def _judged(
  beams: Sequence[Beam], options: BeamOptions
) -> Generator[Ask, list[list[Beam]], np.ndarray]:
  """[N] scores that decide, after the look-ahead if there is one."""
  seen = yield from ahead(beams, options.lookahead)
  return scores_of(seen, options.reduction)


def beam(options: BeamOptions) -> Algorithm:
  """N beams: each samples one step, the N / M best live on, repeated to N again.

  Beams that end leave the pool and are the candidates, all of them; the search ends
  with N of them. The published code breaks ties by order; here they are drawn.
  """

  def algorithm(problem: Problem) -> Steps:
    check_kind(options, problem)
    active, done = [ROOT], []
    for i in range(options.iterations):
      copies = rules.duplicated(len(active), options.n)
      last = i == options.iterations - 1
      answers = yield Ask(
        tuple(Expand(b, n, whole=last) for b, n in zip(active, copies) if n)
      )
      beams = [b for some in answers for b in some]
      done += [b for b in beams if b.ended]
      beams = [b for b in beams if not b.ended]
      if not beams or len(done) >= options.n:
        break
      scores = yield from _judged(beams, options)
      keys = problem.keys(len(beams), 'beam', i)
      mask = np.ones(len(beams), bool)
      kept = rules.top_k(scores, mask, options.n // options.width, keys)
      active = [beams[k].id for k in kept]
    return outcome(problem, done, scores_of(done, options.reduction))

  return algorithm


def dvts(options: BeamOptions) -> Algorithm:
  """N / M trees that never compete: each keeps the best of its M next steps.

  A tree ends when the step it keeps does; the candidates are the ended beams of each
  tree's last M (siblings that were still open have no answer and are left out).
  """

  def algorithm(problem: Problem) -> Steps:
    check_kind(options, problem)
    m, done = options.width, []
    trees: dict[int, int] = {}
    for i in range(options.iterations):
      last = i == options.iterations - 1
      if i == 0:
        (beams,) = yield Ask((Expand(ROOT, options.n, whole=last),))
        groups = np.arange(len(beams)) // m
      else:
        asked = tuple(Expand(b, m, whole=last) for b in trees.values())
        answers = yield Ask(asked)
        beams = [b for some in answers for b in some]
        groups = np.repeat(list(trees), [len(some) for some in answers])
      scores = yield from _judged(beams, options)
      keys = problem.keys(len(beams), 'dvts', i)
      mask = np.ones(len(beams), bool)
      best = rules.best_of_groups(scores, mask, groups, keys)
      trees = {}
      for tree, place in sorted(best.items()):
        if not beams[place].ended:
          trees[tree] = beams[place].id
          continue
        done += [b for b, g in zip(beams, groups) if g == tree and b.ended]
      if not trees:
        break
    return outcome(problem, done, scores_of(done, options.reduction))

  return algorithm


@dataclasses.dataclass(frozen=True)
class LookaheadOptions(BeamOptions):
  """Look-ahead search; Snell et al. use k = 1 and 3.

  Attributes:
    base: 'beam' or 'dvts'.
  """

  lookahead: int = 1
  base: str = 'beam'

  def __post_init__(self) -> None:
    super().__post_init__()
    at_least('lookahead', self.lookahead, 1)
    one_of('base', self.base, ('beam', 'dvts'))


def lookahead(options: LookaheadOptions) -> Algorithm:
  """Beam search or DVTS whose choices look ahead."""
  return beam(options) if options.base == 'beam' else dvts(options)
