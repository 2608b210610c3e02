"""Monte-Carlo tree search over steps with PUCT or UCT.

After OpenR's vanilla search: a simulation goes down to a leaf, from there to the end
of a solution along the children that the scorer likes best, and the score of where
it ended is averaged into every beam of its way.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator

import numpy as np

from prm_jax.search import exploration, rules
from prm_jax.search.options import (
  Options,
  at_least,
  check_kind,
  one_of,
  outcome,
  score_of,
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

RULES = ('puct', 'uct')
VALUES = ('rollout', 'node')
PRIORS = ('policy', 'uniform')


@dataclasses.dataclass(frozen=True)
class MctsOptions(Options):
  """Constants of OpenR.

  Attributes:
    simulations: each gives one solution at most.
    width: children of a beam.
    depth: steps at most; the last runs to the end of the solution.
    rule: of descent: 'puct' (with OpenR's constants) or 'uct'.
    c: weight of UCT's exploration.
    prior: of PUCT: 'policy' (the children's probabilities, normalised) or 'uniform'.
    value: 'rollout' backs up the score at the end of the simulation's solution;
      'node' stops at the leaf and backs up its own score.
  """

  simulations: int = 8
  width: int = 4
  depth: int = 50
  rule: str = 'puct'
  c: float = 1.0
  prior: str = 'policy'
  value: str = 'rollout'

  def __post_init__(self) -> None:
    super().__post_init__()
    at_least('simulations', self.simulations, 1)
    at_least('width', self.width, 1)
    at_least('depth', self.depth, 1)
    at_least('c', self.c, 0)
    one_of('rule', self.rule, RULES)
    one_of('prior', self.prior, PRIORS)
    one_of('value', self.value, VALUES)


@dataclasses.dataclass
class _Node:
  """Statistics of a beam: visits, sum of values, prior, children once expanded."""

  beam: Beam
  prior: float = 1.0
  visits: int = 0
  total: float = 0.0
  children: list[int] = dataclasses.field(default_factory=list)


class _Tree:
  """The tree of one problem."""

  def __init__(self, options: MctsOptions, problem: Problem):
    self.options, self.problem = options, problem
    self.nodes = {ROOT: _Node(Beam(ROOT, -1))}

  def select(self, simulation: int) -> list[int]:
    """From the root to a beam without children."""
    path = [ROOT]
    while children := self.nodes[path[-1]].children:
      held = [self.nodes[c] for c in children]
      visits = np.array([n.visits for n in held])
      values = np.array([n.total / max(n.visits, 1) for n in held])
      above = self.nodes[path[-1]].visits
      if self.options.rule == 'puct':
        priors = np.array([n.prior for n in held])
        urgency = exploration.puct(values, visits, priors, above)
      else:
        urgency = exploration.uct(values, visits, above, self.options.c)
      keys = self.problem.keys(len(held), 'select', simulation, path[-1])
      best = rules.top_k(urgency, np.ones(len(held), bool), 1, keys)
      path.append(children[best[0]])
    return path

  def expand(self, at: int) -> Generator[Ask, list[list[Beam]], None]:
    """Gives a beam its children."""
    node = self.nodes[at]
    frontier = tuple(
      i
      for i, n in self.nodes.items()
      if i != at and not n.children and not n.beam.ended
    )
    last = node.beam.depth >= self.options.depth - 1
    ask = Ask((Expand(at, self.options.width, whole=last),), frontier)
    (beams,) = yield ask
    logprobs = [math.fsum(b.logprobs) if b.logprobs else 0.0 for b in beams]
    known = self.options.prior == 'policy' and all(b.logprobs for b in beams)
    priors = rules.softmax(np.array(logprobs if known else [0.0] * len(beams)))
    for b, prior in zip(beams, priors):
      self.nodes[b.id] = _Node(b, float(prior))
      node.children.append(b.id)

  def best_child(self, at: int) -> int:
    """The child with the highest score of its own."""
    children = self.nodes[at].children
    scores = scores_of([self.nodes[c].beam for c in children], self.options.reduction)
    keys = self.problem.keys(len(children), 'roll', at)
    return children[rules.top_k(scores, np.ones(len(scores), bool), 1, keys)[0]]

  def value(self, at: int) -> float:
    """Score of a beam; 0 where there is none."""
    score = score_of(self.nodes[at].beam, self.options.reduction)
    return score if math.isfinite(score) else 0.0


def mcts(options: MctsOptions) -> Algorithm:
  """Simulations in turn; the candidates are all solutions that they found."""

  def algorithm(problem: Problem) -> Steps:
    check_kind(options, problem, probability=True)
    tree = _Tree(options, problem)
    for simulation in range(options.simulations):
      path = tree.select(simulation)
      while not tree.nodes[path[-1]].beam.ended:
        at = path[-1]
        yield from tree.expand(at)
        # The question has no score of its own.
        if options.value == 'rollout' or at == ROOT:
          path.append(tree.best_child(at))
        if options.value == 'node':
          break
      value = tree.value(path[-1])
      for at in path:
        tree.nodes[at].visits += 1
        tree.nodes[at].total += value
    done = [n.beam for n in tree.nodes.values() if n.beam.ended]
    if not done:
      done = yield from _finish(tree)
    visits = [tree.nodes[b.id].visits if b.id in tree.nodes else 0 for b in done]
    scores = scores_of(done, options.reduction)
    return outcome(problem, done, scores, weights=visits)

  return algorithm


def _finish(tree: _Tree) -> Generator[Ask, list[list[Beam]], list[Beam]]:
  """The most visited way, finished: for trees that never came to an end."""
  at = ROOT
  while children := tree.nodes[at].children:
    visits = np.array([tree.nodes[c].visits for c in children], float)
    keys = tree.problem.keys(len(children), 'finish', at)
    at = children[rules.top_k(visits, visits >= 0, 1, keys)[0]]
  (beams,) = yield Ask((Expand(at, whole=True),))
  return beams
