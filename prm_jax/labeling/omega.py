"""OmegaPRM (arXiv 2406.06592): a tree of prefixes, grown by first errors.

MC(s) is the share of right ones among the rollouts of state s. Candidates are the
wrong rollouts r of states with 0 < MC(s) < 1; the one with the highest Q + U is
searched next:

  Q(s, r) = alpha^(1 - MC(s)) * beta^(tokens of r / L)
  U(s)    = c_puct * sqrt(sum of N over all states) / (1 + N(s))

N(s) counts how often s was selected. A search halves the selected rollout: k
rollouts at the middle step; some right, the first error lies to the right, none, to
the left; it ends at one step. Every middle becomes a state and its rollouts join
the candidates. Nothing is propagated to other states.

Choices where the paper leaves one, or where its text spans become steps here:
- a piece is a step, so a search ends at one step (the paper: at 1/16 of an average
  solution);
- the rollouts of the question filter are the root's rollouts;
- a state is a prefix: one that is reached again keeps its rollouts and is not asked
  for new ones, and a rollout is searched once, whatever state it stands in;
- the last step of a rollout is labelled by the rollout's own answer;
- a rollout that could not be judged is not searched (`unjudged` says what it counts
  for in MC);
- a prefix that the completer refuses (too long) ends its search, and is counted;
- the given wrong solutions stand among the root's candidates (`search_given`), but
  count for nothing in MC.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator, Sequence

from prm_jax.labeling import trees
from prm_jax.labeling.protocol import (
  Algorithm,
  Ask,
  Continuation,
  GroupResult,
  Labelled,
  Steps,
)
from prm_jax.labeling.solutions import Refused, Tally, at_least, outcome
from prm_jax.labeling.tree_rows import RowOptions, rows
from prm_jax.labeling.trees import Node, Prefix, Rollout, Tree
from prm_jax.records import LabelSet, Trajectory

NAME = 'omega_prm'


@dataclasses.dataclass(frozen=True)
class OmegaOptions(RowOptions):
  """Constants of the paper.

  Attributes:
    k: rollouts of a state.
    n_filter: rollouts of the root; a problem where all or none of them are right is
      skipped. 0 takes k of them and filters all the same.
    search_limit: searches of a problem at most.
    alpha, beta, length, c_puct: of the selection; `length` is L, in tokens.
    search_given: the given wrong solutions are candidates too.
    hard: labels of the given solutions are 1 where MC > 0, else 0; MC itself if not.
  """

  k: int = 8
  n_filter: int = 32
  search_limit: int = 100
  alpha: float = 0.5
  beta: float = 0.9
  length: float = 500.0
  c_puct: float = 0.125
  search_given: bool = True
  hard: bool = False

  def __post_init__(self) -> None:
    super().__post_init__()
    at_least('k', self.k, 1)
    at_least('length', self.length, 1)
    for name in ('n_filter', 'search_limit', 'alpha', 'beta', 'c_puct'):
      at_least(name, getattr(self, name), 0)


@dataclasses.dataclass
class _State:
  """A prefix while the search runs."""

  prefix: Prefix
  rollouts: list[Rollout] = dataclasses.field(default_factory=list)
  tally: Tally = dataclasses.field(default_factory=Tally)
  own_answer: bool | None = None
  visits: int = 0

  @property
  def value(self) -> float | None:
    """MC(s), or the own answer of a whole solution; None without evidence."""
    if self.tally.n:
      return self.tally.correct / self.tally.n
    return None if self.own_answer is None else float(self.own_answer)

  def node(self) -> Node:
    """What the finished tree keeps of it; `trees.link` fills parent and steps."""
    return Node(
      parent=-1,
      steps=(),
      value=self.value,
      how='rollouts' if self.own_answer is None or self.tally.n else 'own_answer',
      n_correct=self.tally.correct,
      n_rollouts=self.tally.n,
      visits=self.visits,
      rollouts=tuple(self.rollouts),
    )


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A wrong rollout of a state.

  Attributes:
    prefix: of the state.
    id: of the whole solution.
    path: its steps, the prefix included.
    n_tokens: tokens of the rollout, without the prefix.
  """

  prefix: Prefix
  id: str
  path: Prefix
  n_tokens: float


def priority(
  value: float, n_tokens: float, visits: int, total: int, options: OmegaOptions
) -> float:
  """Q + U of a candidate.

  Args:
    value: MC of its state.
    n_tokens: tokens of the rollout.
    visits: N of its state.
    total: sum of N over all states.
  """
  q = options.alpha ** (1 - value) * options.beta ** (n_tokens / options.length)
  return q + options.c_puct * math.sqrt(total) / (1 + visits)


class _Search:
  """The tree of one problem while it grows."""

  def __init__(self, options: OmegaOptions):
    self.options = options
    self.states: dict[Prefix, _State] = {}
    self.pool: list[Candidate] = []
    self.seen: set[Prefix] = set()
    self.facts = dict.fromkeys(
      ('searches', 'repeated_rollouts', 'known_states', 'refused', 'undecided'), 0
    )

  def add(self, prefix: Prefix, found: Sequence[Continuation]) -> _State:
    """A new state with its rollouts, which become candidates if it is undecided."""
    tally = Tally().add(found, self.options.unjudged)
    state = _State(prefix, [Rollout.of(one) for one in found], tally)
    self.states[prefix] = state
    if 0 < (state.value or 0) < 1:
      for one in state.rollouts:
        if one.correct is False:
          path = (*prefix, *one.steps)
          self.offer(Candidate(prefix, one.id, path, one.n_tokens))
    return state

  def offer(self, candidate: Candidate) -> None:
    """Puts a candidate into the pool, unless the same steps were there before."""
    if candidate.path in self.seen:
      self.facts['repeated_rollouts'] += 1
    elif len(candidate.path) > len(candidate.prefix):
      self.seen.add(candidate.path)
      self.pool.append(candidate)

  def select(self) -> Candidate:
    """Takes the best candidate out of the pool and counts the visit of its state."""
    total = sum(state.visits for state in self.states.values())

    def score(candidate: Candidate) -> float:
      state = self.states[candidate.prefix]
      value = state.value or 0.0
      return priority(value, candidate.n_tokens, state.visits, total, self.options)

    best = max(self.pool, key=score)  # the earliest of equal ones
    self.pool.remove(best)
    self.states[best.prefix].visits += 1
    self.facts['searches'] += 1
    return best

  def locate(
    self, chosen: Candidate
  ) -> Generator[list[Ask], list[list[Continuation]], None]:
    """Binary search for the first error of a wrong rollout; its middles are states."""
    alive, dead = len(chosen.prefix), len(chosen.path)
    if chosen.path not in self.states:
      self.states[chosen.path] = _State(chosen.path, own_answer=False)
    while dead - alive > 1:
      middle = (alive + dead) // 2
      prefix = chosen.path[:middle]
      state = self.states.get(prefix)
      if state is None or not state.rollouts:
        try:
          (found,) = yield [Ask(chosen.id, chosen.path, middle, self.options.k)]
        except Refused:
          self.facts['refused'] += 1
          return
        state = self.add(prefix, found)
      else:
        self.facts['known_states'] += 1
      if state.value is None:
        self.facts['undecided'] += 1
        return
      if state.value > 0:
        alive = middle
      else:
        dead = middle


def omega_prm(options: OmegaOptions | None = None) -> Algorithm:
  """The algorithm with these options; labels are called 'omega_prm'."""
  chosen = options or OmegaOptions()
  return lambda group: _run(group, chosen)


def _run(group: Sequence[Trajectory], options: OmegaOptions) -> Steps:
  first = group[0]
  (found,) = yield [Ask.of(first, 0, options.n_filter or options.k)]
  reason = filter_reason(found, options.unjudged)
  if reason:
    return GroupResult([Labelled(skipped=reason) for _ in group])

  search = _Search(options)
  search.add((), found)
  if options.search_given:
    for solution in group:
      if outcome(solution, options.verdict) is False:
        n_tokens = solution_tokens(solution, found)
        search.offer(Candidate((), solution.id, solution.steps, n_tokens))
  while search.pool and search.facts['searches'] < options.search_limit:
    yield from search.locate(search.select())

  tree = Tree(
    algorithm=options.label or NAME,
    problem_id=first.problem_id,
    question=first.question,
    gold_answer=first.gold_answer,
    separator=first.separator,
    source=first.source,
    nodes=trees.link({p: s.node() for p, s in search.states.items()}),
    options=dataclasses.asdict(options),
    facts={**search.facts, 'left_in_pool': len(search.pool)},
  )
  return finish(tree, group, options)


def filter_reason(found: Sequence[Continuation], unjudged: str = 'wrong') -> str:
  """Why a problem with these root rollouts is skipped; '' if it is not."""
  tally = Tally().add(found, unjudged)
  if 0 < tally.correct < tally.n:
    return ''
  if tally.correct:
    return 'all_right'
  return 'all_wrong' if any(one.correct is False for one in found) else 'unparsed'


def solution_tokens(solution: Trajectory, found: Sequence[Continuation]) -> float:
  """Tokens of a given solution: stored ones, else by the rollouts' mean a step."""
  if solution.tokens:
    return sum(len(held.get('ids', ())) for held in solution.tokens)
  n_steps = sum(len(one.steps) for one in found)
  mean = sum(one.n_tokens for one in found) / max(n_steps, 1)
  return mean * solution.n_steps


def finish(
  tree: Tree, group: Sequence[Trajectory], options: OmegaOptions
) -> GroupResult:
  """Labels of the given solutions where they lie on the tree, and the tree's rows."""
  labelled = [_label(tree, solution, options) for solution in group]
  extra, counts = rows(tree, options)
  tree = dataclasses.replace(tree, facts={**tree.facts, **counts, 'rows': len(extra)})
  return GroupResult(labelled, trees.to_dict(tree), extra)


def _label(tree: Tree, solution: Trajectory, options: OmegaOptions) -> Labelled:
  judged = outcome(solution, options.verdict)
  values = trees.values_along(tree.nodes, solution.steps, judged)
  if all(v is None for v in values):
    return Labelled(skipped='not_on_tree' if solution.steps else 'no_steps')
  n_correct, n_rollouts = trees.counts_along(tree.nodes, solution.steps)
  label = tuple(v if v is None or not options.hard else float(v > 0) for v in values)
  how = {
    'by': NAME, 'k': options.k, 'hard': options.hard, 'last_step': 'own answer'
  }  # fmt: skip
  held = LabelSet('value', label, how, n_correct=n_correct, n_rollouts=n_rollouts)
  first_error = -1 if judged else _located(tree, solution.steps, values)
  return Labelled({tree.algorithm: held}, {tree.algorithm: first_error})


def _located(tree: Tree, steps: Prefix, values: Sequence[float | None]) -> int | None:
  """The step between a living prefix and the next, a dead one; None if unknown."""
  known = [tree.nodes[0].value, *values]
  for t in range(len(steps)):
    before, after = known[t], known[t + 1]
    if before is not None and after is not None and before > 0 >= after:
      return t
  return None
