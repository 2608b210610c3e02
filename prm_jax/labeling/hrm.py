"""HRM (arXiv 2503.13551): a full tree of samples, and hierarchical node compression.

Every node above the last level has `children` children, its label is the fraction of
right leaves below it. Compression makes rows whose step is two merged steps, so that
a reward model also sees a mistake together with its repair: a node of height 2 or
more with at least `children` siblings (itself counted) joins, with probability `p`,
its parent's step to its own and hangs on its grandparent; at most one child of a
node moves, and none of a node that moved itself. Labels are counted anew.

Choices: the tree is sampled by whole continuations, whose first step is the child and
whose rest is the child's own first continuation, so a level costs only the others;
children with the same step are kept apart, as every sample counts once; an edge to a
leaf may hold several steps, and only edges of one step move; a leaf whose answer could
not be judged counts as wrong, or for nothing (`unjudged`); the given solutions are the
first children of the root (`use_given`); which nodes move is a function of (seed,
problem, place in the tree) alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from prm_jax.formats import label_policy
from prm_jax.labeling import trees
from prm_jax.labeling.protocol import (
  Algorithm,
  Ask,
  Continuation,
  GroupResult,
  Labelled,
  Steps,
)
from prm_jax.labeling.solutions import Options, Refused, at_least, outcome
from prm_jax.labeling.tree_rows import draw
from prm_jax.labeling.trees import Node, Prefix, Tree
from prm_jax.records import LabelSet, Trajectory, make_id

NAME = 'hrm'


@dataclasses.dataclass(frozen=True)
class HrmOptions(Options):
  """Size of the tree and of the compression.

  Attributes:
    children: of a node; a full tree has children ** depth leaves.
    depth: levels that are branched; below, continuations run to their end.
    p: chance that a node moves.
    min_children, min_height: what a parent must have and a node be to move.
    use_given: given judged solutions are the root's first children.
    plain_rows, merged_rows: rows of the tree as sampled, and rows of the compressed
      tree that hold a merged step.
    seed: of the compression.

  Raises:
    UserError: a value that means nothing.
  """

  children: int = 4
  depth: int = 3
  p: float = 0.5
  min_children: int = 4
  min_height: int = 2
  use_given: bool = True
  plain_rows: bool = True
  merged_rows: bool = True
  seed: int = 0

  def __post_init__(self) -> None:
    super().__post_init__()
    for name, least in (
      ('children', 1), ('depth', 1), ('p', 0), ('min_children', 1), ('min_height', 2),
    ):  # fmt: skip
      at_least(name, getattr(self, name), least)


@dataclasses.dataclass
class Branch:
  """A node of the sampled tree.

  Attributes:
    steps: the steps from its parent: one, or at a leaf all that follow.
    correct: verdict at a leaf; None inside, or where it was not judged.
    path_id, path: a solution through this node, whose prefix up to it is asked about.
    moved: whether compression moved it; its step is then two steps in one.
    children: in the order of sampling.
  """

  steps: Prefix
  correct: bool | None
  path_id: str
  path: Prefix
  moved: bool = False
  children: list[Branch] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Leaf:
  """The way to a leaf.

  Attributes:
    steps: all of them; a merged one is one.
    ends: how many steps there are at the end of each edge on the way.
    correct: its verdict.
    merged: 0-based index of the first merged step, None if there is none.
  """

  steps: Prefix
  ends: tuple[int, ...]
  correct: bool | None
  merged: int | None


Counts = dict[Prefix, tuple[int, int]]


def leaves(root: Branch) -> list[Leaf]:
  """All leaves, in the order of sampling."""
  out: list[Leaf] = []

  def walk(node: Branch, above: Leaf) -> None:
    steps = (*above.steps, *node.steps)
    merged = len(above.steps) if node.moved and above.merged is None else above.merged
    here = Leaf(steps, (*above.ends, len(steps)), node.correct, merged)
    if not node.children:
      out.append(here)
    for child in node.children:
      walk(child, here)

  for child in root.children:
    walk(child, Leaf((), (), None, None))
  return out


def counted(found: Sequence[Leaf], unjudged: str) -> list[Leaf]:
  """The leaves that count, by the option `unjudged`."""
  return [leaf for leaf in found if leaf.correct is not None or unjudged == 'wrong']


def count(found: Sequence[Leaf]) -> Counts:
  """Prefix at the end of an edge -> (right, all) leaves below; () is the root."""
  out: Counts = {}
  for leaf in found:
    for end in dict.fromkeys((0, *leaf.ends)):
      right, n = out.get(leaf.steps[:end], (0, 0))
      out[leaf.steps[:end]] = right + bool(leaf.correct), n + 1
  return out


def compress(
  root: Branch, options: HrmOptions, problem_id: str, separator: str
) -> Branch:
  """A compressed copy of a tree."""

  def copy(node: Branch) -> Branch:
    return dataclasses.replace(node, children=[copy(c) for c in node.children])

  root = copy(root)
  level = [(root, child, f'{i}') for i, child in enumerate(root.children)]
  while level:
    below = []
    for above, node, place in level:
      named = [(child, f'{place}.{i}') for i, child in enumerate(node.children)]
      below += [(node, child, name) for child, name in named]
      high = place.count('.') + 2 >= options.min_height
      if node.moved or not high or len(node.children) < options.min_children:
        continue
      for child, name in named:
        one = len(child.steps) == 1
        if one and draw(options.seed, problem_id, name) < options.p:
          child.steps = (separator.join((*node.steps, *child.steps)),)
          child.moved = True
          node.children.remove(child)
          above.children.append(child)
          break
    level = below
  return root


def hrm(options: HrmOptions | None = None) -> Algorithm:
  """The algorithm with these options; labels are called 'hrm'."""
  chosen = options or HrmOptions()
  return lambda group: _run(group, chosen)


def _run(group: Sequence[Trajectory], options: HrmOptions) -> Steps:
  first = group[0]
  root = Branch((), None, first.id, first.steps)
  given = [
    Continuation(t.id, t.steps, outcome(t, options.verdict), 0)
    for t in group
    if options.use_given and t.steps and outcome(t, options.verdict) is not None
  ]
  level = [(root, 0, given[: options.children])]
  reasons: list[str] = []
  for height in range(1, options.depth + 1):
    asks = [
      Ask(node.path_id, node.path, n, options.children - len(held))
      for node, n, held in level
      if len(held) < options.children
    ]
    try:
      answers = (yield asks) if asks else []
    except Refused as refused:
      answers = refused.answers
      reasons += filter(None, refused.reasons)
    more = iter(answers)
    below = []
    for node, n, held in level:
      extra = next(more) if len(held) < options.children else []
      for found in (*held, *extra):
        below += _grow(node, n, found, height == options.depth)
    level = below
  return _result(root, group, options, reasons)


def _grow(
  node: Branch, n: int, found: Continuation, last: bool
) -> list[tuple[Branch, int, list[Continuation]]]:
  """Adds a continuation of n steps' prefix; the child to branch next, if there is."""
  path = (*node.path[:n], *found.steps)
  if last or len(found.steps) < 2:
    node.children.append(Branch(found.steps, found.correct, found.id, path))
    return []
  child = Branch(found.steps[:1], None, found.id, path)
  node.children.append(child)
  return [(child, n + 1, [dataclasses.replace(found, steps=found.steps[1:])])]


def _result(
  root: Branch, group: Sequence[Trajectory], options: HrmOptions, reasons: list[str]
) -> GroupResult:
  first, name = group[0], options.label or NAME
  every = leaves(root)
  plain = counted(every, options.unjudged)
  if not plain:
    reason = 'unparsed' if every else reasons[0]
    return GroupResult([Labelled(skipped=reason) for _ in group])
  counts = count(plain)
  compressed = compress(root, options, first.problem_id, first.separator)
  packed = counted(leaves(compressed), options.unjudged)
  merged = [leaf for leaf in packed if leaf.merged is not None]
  made = []
  if options.plain_rows:
    given = {t.steps for t in group}
    others = [leaf for leaf in plain if leaf.steps not in given]
    made += _rows(others, counts, first, options)
  if options.merged_rows:
    made += _rows(merged, count(packed), first, options)
  extra, _ = label_policy.weigh_once(made, name)
  labelled = [_label(t, counts, options) for t in group]
  facts = {
    'leaves': len(every),
    'unjudged_leaves': sum(leaf.correct is None for leaf in every),
    'merged_leaves': len(merged),
    'refused': len(reasons),
    'rows': len(extra),
  }
  states = {
    prefix: Node(-1, (), right / n, 'leaves', right, n)
    for prefix, (right, n) in counts.items()
  }
  tree = Tree(
    algorithm=name,
    problem_id=first.problem_id,
    question=first.question,
    gold_answer=first.gold_answer,
    separator=first.separator,
    source=first.source,
    nodes=trees.link(states),
    options=dataclasses.asdict(options),
    facts=facts,
  )
  return GroupResult(labelled, trees.to_dict(tree), extra)


def _along(steps: Prefix, counts: Counts) -> list[tuple[int, int] | None]:
  return [counts.get(steps[: t + 1]) for t in range(len(steps))]


def _set(found: Sequence[tuple[int, int] | None], options: HrmOptions) -> LabelSet:
  return LabelSet(
    'value',
    tuple(None if f is None else f[0] / f[1] for f in found),
    {'by': NAME, 'children': options.children, 'depth': options.depth},
    n_correct=tuple(None if f is None else f[0] for f in found),
    n_rollouts=tuple(None if f is None else f[1] for f in found),
  )


def _rows(
  found: Sequence[Leaf], counts: Counts, first: Trajectory, options: HrmOptions
) -> list[Trajectory]:
  """One row a different way to a leaf."""
  name = options.label or NAME
  out = {}
  for leaf in found:
    if leaf.steps:
      held = _set(_along(leaf.steps, counts), options)
      meta = {} if leaf.merged is None else {'merged_step': leaf.merged}
      key = (first.problem_id, str(leaf.merged), '\x1e'.join(leaf.steps))
      out[leaf.steps] = Trajectory(
        id=make_id(name, '\x1f'.join(key)),
        problem_id=first.problem_id,
        question=first.question,
        gold_answer=first.gold_answer,
        source=first.source,
        separator=first.separator,
        steps=leaf.steps,
        labels={name: held},
        first_error={name: trees.first_death(held.values)},
        meta={'tree': meta},
      )
  return list(out.values())


def _label(solution: Trajectory, counts: Counts, options: HrmOptions) -> Labelled:
  """Labels of a given solution where it lies on the tree; its last is its answer."""
  found = _along(solution.steps, counts)
  held = _set(found, options)
  judged = outcome(solution, options.verdict)
  values = [*held.values]
  if judged is not None and values:
    values[-1] = float(judged)
  if all(v is None for v in values):
    return Labelled(skipped='not_on_tree' if solution.steps else 'no_steps')
  name = options.label or NAME
  held = dataclasses.replace(held, values=tuple(values))
  return Labelled({name: held}, {name: -1 if judged else trees.first_death(values)})
