"""GroundedPRM (arXiv 2510.14942): steps verified by a tool, fused with tree returns.

A tree of steps grows by UCT. A simulation from a node gets a verdict v = +1, -1 (0 if
the tool cannot tell) for each of its N steps between the node and the last one, and
F = +1 or -1 for its answer:

  V = sum over i < N of (1/N) v_i (N - i)/N  +  (1/N) F          (N = 0: V = F)

The node gains V, its ancestor at distance d gains 0.9^d V. Training rows are
simulated paths; the fidelity filter keeps one only if, on every step that the tool
judged, the sign of the node's value agrees with the verdict.

Choices: a node is selected by UCT, as described (the released code takes a random
child); a round continues the selected leaf `children` times, each first step is a
child and the rest of the same continuation its simulation, so nothing sampled is
thrown away, and a simulation visits the node it starts from too; equal first steps are
one child; an answer that could not be judged counts as wrong, or its simulation for
nothing (`unjudged`); the given solutions are simulations from the root (`use_given`);
steps that no tree node holds carry their verdict alone, and a step that the tool did
not judge is not labelled.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence

from prm_jax.labeling import trees, verifiers
from prm_jax.labeling.protocol import (
  Algorithm,
  Ask,
  Continuation,
  GroupResult,
  Labelled,
  Steps,
)
from prm_jax.labeling.solutions import Options, Refused, at_least, one_of, outcome
from prm_jax.labeling.trees import Node, Prefix, Rollout, Tree
from prm_jax.labeling.verifiers import Verifier
from prm_jax.records import LabelSet, Trajectory, make_id

NAME = 'grounded_prm'


@dataclasses.dataclass(frozen=True)
class GroundedOptions(Options):
  """Defaults of the released configuration.

  Attributes:
    verifier: 'calculator', or 'world' (the embedded world's lines).
    max_value: of the embedded world, for verifier 'world'.
    rounds: selections at most; 0 labels the given solutions by verdicts alone.
    children: continuations of a selected node.
    depth: a node with this many steps is not continued.
    exploration: c of UCT, value / visits + c sqrt(ln(visits of parent) / visits).
    decay: 0.9 of the back-propagation.
    n_paths: right paths, and wrong ones, after which the search stops; so many of
      each become rows.
    fidelity: what a step does whose node's value and verdict disagree: its 'path' is
      dropped, the 'step' is not labelled, or 'none' (the verdict stands).
    use_given: the given judged solutions are simulations from the root.

  Raises:
    UserError: a value that means nothing.
  """

  verifier: str = 'calculator'
  max_value: int = 9
  rounds: int = 8
  children: int = 3
  depth: int = 7
  exploration: float = 1.414
  decay: float = 0.9
  n_paths: int = 3
  fidelity: str = 'path'
  use_given: bool = True

  def __post_init__(self) -> None:
    super().__post_init__()
    one_of('verifier', self.verifier, verifiers.NAMES)
    one_of('fidelity', self.fidelity, ('path', 'step', 'none'))
    for name, least in (
      ('max_value', 1), ('rounds', 0), ('children', 1), ('depth', 1),
      ('exploration', 0), ('decay', 0), ('n_paths', 1),
    ):  # fmt: skip
      at_least(name, getattr(self, name), least)


def simulation_value(verdicts: Sequence[int], answer: int) -> float:
  """V of a simulation.

  Args:
    verdicts: v of its N steps before the last, +1, -1 or 0.
    answer: F, +1 or -1.
  """
  n = len(verdicts)
  if not n:
    return float(answer)
  return sum(v * (n - i) / n for i, v in enumerate(verdicts)) / n + answer / n


def sign(verdict: bool | None) -> int:
  """+1, -1, or 0 for None."""
  return 0 if verdict is None else 2 * int(verdict) - 1


def grounded_prm(options: GroundedOptions | None = None) -> Algorithm:
  """The algorithm with these options; labels are called 'grounded_prm'."""
  chosen = options or GroundedOptions()
  verify = verifiers.make(chosen.verifier, chosen.max_value)
  return lambda group: _run(group, chosen, verify)


@dataclasses.dataclass
class _Node:
  """A prefix in the tree; `path_id`, `path` are what it is cut from."""

  path_id: str
  path: Prefix
  n_steps: int
  ended: bool = False
  expanded: bool = False
  value: float = 0.0
  visits: int = 0
  children: list[Prefix] = dataclasses.field(default_factory=list)
  rollouts: list[Rollout] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class _Path:
  """A simulated whole solution; `given` is the id of a given one, else ''."""

  steps: Prefix
  right: bool
  given: str = ''


class _Search:
  """The tree of one problem while it grows."""

  def __init__(self, first: Trajectory, options: GroundedOptions, verify: Verifier):
    self.question = first.question
    self.options = options
    self.nodes: dict[Prefix, _Node] = {(): _Node(first.id, first.steps, 0)}
    self.paths: list[_Path] = []
    self.facts: Counter[str] = Counter(rounds=0, refused=0, unjudged_answers=0)
    self._verify = verify
    self._verdicts: dict[Prefix, bool | None] = {}

  def verdict(self, steps: Prefix) -> bool | None:
    """The tool's word on the last of these steps; asked once."""
    if steps not in self._verdicts:
      self._verdicts[steps] = self._verify(self.question, steps[:-1], steps[-1])
    return self._verdicts[steps]

  def select(self) -> Prefix | None:
    """By UCT down to a prefix that can be continued; None if there is none."""
    open_ = self._open()
    at: Prefix = ()
    while at in open_ and self.nodes[at].expanded:
      visits = self.nodes[at].visits
      choices = [c for c in self.nodes[at].children if c in open_]
      at = max(choices, key=lambda child: self._uct(child, visits))
    return at if at in open_ else None

  def _uct(self, prefix: Prefix, parent_visits: int) -> float:
    node = self.nodes[prefix]
    explore = math.sqrt(math.log(max(parent_visits, 1)) / node.visits)
    return node.value / node.visits + self.options.exploration * explore

  def _open(self) -> set[Prefix]:
    """Prefixes that can be continued, or that lead to one that can."""
    open_: set[Prefix] = set()
    for prefix in sorted(self.nodes, key=len, reverse=True):
      node = self.nodes[prefix]
      leaf = not (node.ended or node.expanded) and len(prefix) < self.options.depth
      if leaf or (node.expanded and any(c in open_ for c in node.children)):
        open_.add(prefix)
    return open_

  def add(self, prefix: Prefix, found: Continuation, given: str = '') -> None:
    """A simulation from `prefix`: its first step a child, the rest goes up as V."""
    if not found.steps:
      return
    self.nodes[prefix].rollouts.append(Rollout.of(found))
    self.facts['unjudged_answers'] += found.correct is None
    if found.correct is None and self.options.unjudged == 'drop':
      return
    whole = (*prefix, *found.steps)
    child = whole[: len(prefix) + 1]
    if child not in self.nodes:
      self.nodes[child] = _Node(found.id, whole, len(child))
      self.nodes[prefix].children.append(child)
    self.nodes[child].ended |= len(found.steps) == 1
    right = bool(found.correct)
    between = range(len(child) + 1, len(whole))
    v = [sign(self.verdict(whole[:end])) for end in between]
    value = simulation_value(v, sign(right))
    for distance in range(len(child) + 1):
      node = self.nodes[child[: len(child) - distance]]
      node.value += self.options.decay**distance * value
      node.visits += 1
    self.paths.append(_Path(whole, right, given))

  def enough(self) -> bool:
    """As many right and wrong paths as were wanted."""
    right = {p.steps for p in self.paths if p.right}
    wrong = {p.steps for p in self.paths if not p.right}
    return min(len(right), len(wrong)) >= self.options.n_paths

  def fused(self, steps: Prefix) -> tuple[list[float | None], list[bool]]:
    """[P] labels of a path, and where a node's value contradicts the verdict."""
    values: list[float | None] = []
    disagree = []
    for end in range(1, len(steps) + 1):
      verdict = self.verdict(steps[:end])
      node = self.nodes.get(steps[:end])
      against = (
        verdict is not None and node is not None and node.value * sign(verdict) <= 0
      )
      disagree.append(against)
      keep = verdict is not None and (self.options.fidelity == 'none' or not against)
      values.append(float(bool(verdict)) if keep else None)
    return values, disagree


def _run(
  group: Sequence[Trajectory], options: GroundedOptions, verify: Verifier
) -> Steps:
  search = _Search(group[0], options, verify)
  if options.use_given:
    for t in group:
      judged = outcome(t, options.verdict)
      if judged is not None and t.steps:
        search.add((), Continuation(t.id, t.steps, judged, 0), given=t.id)
  while search.facts['rounds'] < options.rounds:
    if search.facts['rounds'] and search.enough():
      break
    prefix = search.select()
    if prefix is None:
      break
    search.facts['rounds'] += 1
    node = search.nodes[prefix]
    node.expanded = True
    try:
      (found,) = yield [Ask(node.path_id, node.path, node.n_steps, options.children)]
    except Refused:
      search.facts['refused'] += 1
      continue
    for one in found:
      search.add(prefix, one)

  rows = _rows(search, group[0], options)
  labelled = [_label(search, t, options) for t in group]
  return GroupResult(labelled, _tree(search, group[0], options), rows)


def _set(values: Sequence[float | None], options: GroundedOptions) -> LabelSet:
  how = {'by': NAME, 'verifier': options.verifier, 'fidelity': options.fidelity}
  return LabelSet('correctness', tuple(values), how)


def _first_wrong(values: Sequence[float | None]) -> int | None:
  """0-based first step verified as wrong if all before it are right; -1 none."""
  for t, value in enumerate(values):
    if value is None:
      return None
    if value == 0:
      return t
  return -1


def _label(search: _Search, solution: Trajectory, options: GroundedOptions) -> Labelled:
  if not solution.steps:
    return Labelled(skipped='no_steps')
  name = options.label or NAME
  values, disagree = search.fused(solution.steps)
  meta = {name: {'disagreements': sum(disagree)}}
  if options.fidelity == 'path' and any(disagree):
    return Labelled(skipped='unfaithful', meta=meta)
  if all(v is None for v in values):
    return Labelled(skipped='not_verified', meta=meta)
  return Labelled(
    {name: _set(values, options)}, {name: _first_wrong(values)}, meta=meta
  )


def _rows(
  search: _Search, first: Trajectory, options: GroundedOptions
) -> list[Trajectory]:
  """The first right and wrong sampled paths that pass the filter.

  A wrong path is cut where, after its first wrong step, a step is right again.
  """
  name = options.label or NAME
  facts = search.facts
  facts.update(unfaithful_paths=0, unverified_paths=0, paths_beyond_n=0, rows=0)
  count: Counter[bool] = Counter()
  seen = {p.steps for p in search.paths if p.given}
  out = []
  for path in search.paths:
    if path.steps in seen:
      continue
    seen.add(path.steps)
    values, disagree = search.fused(path.steps)
    n = len(values) if path.right else _recovery(values)
    if options.fidelity == 'path' and any(disagree):
      facts['unfaithful_paths'] += 1
    elif all(v is None for v in values[:n]):
      facts['unverified_paths'] += 1
    elif count[path.right] >= options.n_paths:
      facts['paths_beyond_n'] += 1
    else:
      count[path.right] += 1
      facts['rows'] += 1
      out.append(
        Trajectory(
          id=make_id(name, first.problem_id, '\x1e'.join(path.steps)),
          problem_id=first.problem_id,
          question=first.question,
          gold_answer=first.gold_answer,
          source=first.source,
          separator=first.separator,
          steps=path.steps[:n],
          labels={name: _set(values[:n], options)},
          first_error={name: _first_wrong(values[:n])},
          meta={'tree': {'answer_right': path.right, 'cut': len(path.steps) - n}},
        )
      )
  return out


def _recovery(values: Sequence[float | None]) -> int:
  """Place of the first right step after the first wrong one; P if there is none."""
  if 0.0 not in values:
    return len(values)
  start = values.index(0.0)
  return next((t for t in range(start, len(values)) if values[t] == 1), len(values))


def _tree(search: _Search, first: Trajectory, options: GroundedOptions) -> dict:
  """The tree in JSON; a node's value there is (mean return + 1) / 2, cut to [0, 1]."""
  states = {}
  for prefix, node in search.nodes.items():
    mean = node.value / node.visits if node.visits else 0.0
    states[prefix] = Node(
      parent=-1,
      steps=(),
      value=min(max((mean + 1) / 2, 0.0), 1.0) if node.visits else None,
      how='returns',
      visits=node.visits,
      rollouts=tuple(node.rollouts),
    )
  tree = Tree(
    algorithm=options.label or NAME,
    problem_id=first.problem_id,
    question=first.question,
    gold_answer=first.gold_answer,
    separator=first.separator,
    source=first.source,
    nodes=trees.link(states),
    options=dataclasses.asdict(options),
    facts=dict(search.facts),
  )
  return trees.to_dict(tree)
