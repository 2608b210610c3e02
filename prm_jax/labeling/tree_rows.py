"""Training rows of a search tree.

After OmegaPRM (2406.06592: a row is an edge) and MM-PRM (a row is a path, down to
the first node that no rollout survives, or to a leaf). Rows are records with labels
of kind 'value'.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable

from prm_jax.formats import label_policy
from prm_jax.labeling.solutions import Options, at_least, one_of
from prm_jax.labeling.trees import Prefix, Tree, first_death, prefixes
from prm_jax.records import LabelSet, Trajectory, make_id

ROWS = ('paths', 'edges', 'pairs', 'none')


@dataclasses.dataclass(frozen=True)
class RowOptions(Options):
  """Which training rows a tree gives.

  Attributes:
    rows: 'paths' (one row a path, a value at every node on it), 'edges' (one row a
      node, with that node's value alone), 'pairs' (the best child of a node against
      each worse one, two rows each with one `meta.pair`), 'none'.
    row_label: 'soft' (the value) or 'hard' (1 if above 0). In pairs the better row is
      1 and the worse 0, whatever this says.
    row_steps: 'steps' keeps the steps as they are, unlabelled inside an edge;
      'merged' makes one step of an edge.
    row_rollouts: right rollouts end paths of value 1 (MM-PRM, OpenR).
    row_min_words: rows with fewer words are left out (MM-PRM: 11).
    row_balance: at most as many paths that end well as ones that end badly; which
      ones stay depends on `seed` and the problem alone.
    seed: of that choice, and of an algorithm's own ones.
  """

  rows: str = 'paths'
  row_label: str = 'soft'
  row_steps: str = 'steps'
  row_rollouts: bool = True
  row_min_words: int = 0
  row_balance: bool = True
  seed: int = 0

  def __post_init__(self) -> None:
    super().__post_init__()
    one_of('rows', self.rows, ROWS)
    one_of('row_label', self.row_label, ('soft', 'hard'))
    one_of('row_steps', self.row_steps, ('steps', 'merged'))
    at_least('row_min_words', self.row_min_words, 0)


def draw(*names: object) -> float:
  """A number in [0, 1) that is a function of the names: the same everywhere."""
  text = '\x1f'.join(map(str, names))
  return int.from_bytes(hashlib.sha256(text.encode('utf-8')).digest()[:7]) / 2**56


def rows(tree: Tree, options: RowOptions) -> tuple[list[Trajectory], dict[str, int]]:
  """Training records of a tree, and counts of what was left out.

  A (prefix, step) that several rows share carries its weight in the first of them.

  Returns:
    Records with label set `tree.algorithm` of kind 'value'; counters repeated_rows,
    short_rows, balanced_away.
  """
  counters: Counter[str] = Counter(repeated_rows=0, short_rows=0, balanced_away=0)
  if options.rows == 'none':
    return [], dict(counters)
  ends = _ends(tree, options)
  if options.rows == 'pairs':
    made = _pairs(tree, ends, options, counters)
  else:
    made = _single(tree, ends, options, counters)
  weighed, _ = label_policy.weigh_once(made, tree.algorithm)
  return weighed, dict(counters)


@dataclasses.dataclass(frozen=True)
class _End:
  """A prefix at which a row may end; `origin` is the node it hangs on."""

  steps: Prefix
  value: float
  origin: int
  leaf: bool


def _ends(tree: Tree, options: RowOptions) -> list[_End]:
  """Nodes (and right rollouts) with a value, below nodes that are alive."""
  whole = prefixes(tree.nodes)
  alive = [n.value is None or n.value > 0 for n in tree.nodes]
  continued = {n.parent for n in tree.nodes}
  for i, node in enumerate(tree.nodes):
    alive[i] = alive[i] and (node.parent < 0 or alive[node.parent])
  out = []
  for i, node in enumerate(tree.nodes):
    if node.parent >= 0 and alive[node.parent] and node.value is not None:
      right = options.row_rollouts and any(r.correct for r in node.rollouts)
      leaf = node.value <= 0 or not (right or i in continued)
      out.append(_End(whole[i], node.value, node.parent, leaf))
    if options.row_rollouts and alive[i]:
      known = set(whole)
      for rollout in node.rollouts:
        steps = (*whole[i], *rollout.steps)
        if rollout.correct and rollout.steps and steps not in known:
          known.add(steps)
          out.append(_End(steps, 1.0, i, True))
  return out


def _single(
  tree: Tree, ends: list[_End], options: RowOptions, counters: Counter[str]
) -> list[Trajectory]:
  """Rows by edges, or by paths after `row_min_words` and `row_balance`."""
  edges = options.rows == 'edges'
  chosen: list[_End] = []
  seen: set[Prefix] = set()
  for end in ends:
    if not (edges or end.leaf):
      continue
    if end.steps in seen:
      counters['repeated_rows'] += 1
    elif sum(len(s.split()) for s in end.steps) < options.row_min_words:
      counters['short_rows'] += 1
    else:
      seen.add(end.steps)
      chosen.append(end)
  if options.row_balance and not edges:
    chosen = _balanced(tree, chosen, options, counters)
  label = _hard if options.row_label == 'hard' else _soft
  along = _labels_of(tree)
  return [_row(tree, along(end), end, options, label, edges) for end in chosen]


def _balanced(
  tree: Tree, ends: list[_End], options: RowOptions, counters: Counter[str]
) -> list[_End]:
  bad = sum(end.value <= 0 for end in ends)
  good = [end for end in ends if end.value > 0]
  order = sorted(
    good, key=lambda end: draw(options.seed, tree.problem_id, '\x1e'.join(end.steps))
  )
  kept = {end.steps for end in order[:bad]}
  counters['balanced_away'] += max(len(good) - bad, 0)
  return [end for end in ends if end.value <= 0 or end.steps in kept]


def _pairs(
  tree: Tree, ends: list[_End], options: RowOptions, counters: Counter[str]
) -> list[Trajectory]:
  """The best child of each node against each worse one, as pairs of rows."""
  by_origin: dict[int, dict[Prefix, _End]] = {}
  for end in ends:
    group = by_origin.setdefault(end.origin, {})
    counters['repeated_rows'] += end.steps in group
    group.setdefault(end.steps, end)
  out = []
  along = _labels_of(tree)
  for group in by_origin.values():
    best = max(group.values(), key=lambda end: end.value)
    for end in group.values():
      if end.value < best.value:
        ends_at = ['\x1e'.join(one.steps) for one in (best, end)]
        pair = make_id(tree.algorithm, tree.problem_id, '\x1f'.join(ends_at))
        for side, one in ((1.0, best), (0.0, end)):
          label = lambda value, side=side: side
          row = _row(tree, along(one), one, options, label, True)
          meta = {**row.meta, 'pair': pair, 'value': one.value}
          row_id = make_id(tree.algorithm, pair, int(side))
          out.append(dataclasses.replace(row, id=row_id, meta=meta))
  return out


def _labels_of(tree: Tree) -> Callable[[_End], list[float | None]]:
  known = dict(zip(prefixes(tree.nodes), (n.value for n in tree.nodes)))

  def along(end: _End) -> list[float | None]:
    values = [known.get(end.steps[: t + 1]) for t in range(len(end.steps))]
    return [*values[:-1], end.value]

  return along


def _soft(value: float) -> float:
  return value


def _hard(value: float) -> float:
  return float(value > 0)


def _row(
  tree: Tree,
  values: list[float | None],
  end: _End,
  options: RowOptions,
  label: Callable[[float], float],
  last_only: bool,
) -> Trajectory:
  """A record that ends at `end`."""
  steps = list(end.steps)
  if options.row_steps == 'merged':
    steps, values = _merged(steps, values, tree.separator)
  if last_only:
    values = [*[None] * (len(values) - 1), values[-1]]
  made = tuple(None if v is None else label(v) for v in values)
  name = tree.algorithm
  how = {'by': name, 'rows': options.rows, 'label': options.row_label}
  kind = (tree.problem_id, options.rows, options.row_steps)
  return Trajectory(
    id=make_id(name, '\x1f'.join(kind), '\x1e'.join(end.steps)),
    problem_id=tree.problem_id,
    question=tree.question,
    gold_answer=tree.gold_answer,
    source=tree.source,
    separator=tree.separator,
    steps=tuple(steps),
    labels={name: LabelSet('value', made, how)},
    first_error={name: None if last_only else first_death(made)},
    meta={'tree': {'rows': options.rows}},
  )


def _merged(
  steps: list[str], values: list[float | None], separator: str
) -> tuple[list[str], list[float | None]]:
  """One step an edge: the steps up to each value become one."""
  out: list[str] = []
  held: list[str] = []
  for step, value in zip(steps, values):
    held.append(step)
    if value is not None:
      out.append(separator.join(held))
      held = []
  return out, [v for v in values if v is not None]
