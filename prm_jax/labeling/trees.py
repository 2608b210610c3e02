"""Search trees of labelled prefixes, and their JSON.

A node is a prefix of steps with what is known of it; its parent is the longest
other prefix in the tree that it continues, so an edge may hold several steps and
only the end of an edge has a value. Two searches that reach the same prefix reach
the same node.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from prm_jax.errors import UserError
from prm_jax.labeling.protocol import Continuation
from prm_jax.records import Check

Prefix = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Rollout:
  """A sampled continuation kept at the node it started from.

  Attributes:
    id: its record's id.
    steps: the new steps.
    correct: verdict on its answer, None not judged.
    n_tokens: tokens generated.
  """

  id: str
  steps: Prefix
  correct: bool | None
  n_tokens: int

  @classmethod
  def of(cls, found: Continuation) -> Rollout:
    """What a tree keeps of a continuation."""
    return cls(found.id, found.steps, found.correct, found.n_tokens)


@dataclasses.dataclass(frozen=True)
class Node:
  """A prefix.

  Attributes:
    parent: index of the node it continues; -1 for the root, which is node 0.
    steps: the steps that it adds to its parent's.
    value: in [0, 1], None if unknown.
    how: what the value rests on: 'rollouts', 'own_answer' (a whole solution, labelled
      by its own answer, without rollouts), 'leaves' (share of right leaves below) or
      'returns' (of simulations).
    n_correct, n_rollouts: the counts behind it.
    visits: how often a search selected it.
    rollouts: continuations that start at it.
  """

  parent: int
  steps: Prefix
  value: float | None
  how: str = 'rollouts'
  n_correct: int = 0
  n_rollouts: int = 0
  visits: int = 0
  rollouts: tuple[Rollout, ...] = ()


@dataclasses.dataclass(frozen=True)
class Tree:
  """The tree of one problem.

  Attributes:
    algorithm: name of the label set its rows carry.
    problem_id, question, gold_answer, separator, source: of the problem's records.
    nodes: parents stand before their children; node 0 is the empty prefix.
    options: of the algorithm.
    facts: counts of the search (searches, rows left out, ...).
  """

  algorithm: str
  problem_id: str
  question: str
  nodes: tuple[Node, ...]
  gold_answer: str | None = None
  separator: str = '\n'
  source: str = ''
  options: dict[str, Any] = dataclasses.field(default_factory=dict)
  facts: dict[str, Any] = dataclasses.field(default_factory=dict)


def link(states: Mapping[Prefix, Node]) -> tuple[Node, ...]:
  """Nodes by whole prefix to nodes by parent and edge.

  Args:
    states: prefix -> node, whose own `parent` and `steps` are not read; the empty
      prefix is among them.

  Returns:
    The nodes in sorted order of their prefixes, so parents stand before children.
  """
  out: list[Node] = []
  above: list[tuple[int, Prefix]] = []
  for prefix in sorted(states):
    while above and prefix[: len(above[-1][1])] != above[-1][1]:
      above.pop()
    parent, start = (above[-1][0], len(above[-1][1])) if above else (-1, 0)
    above.append((len(out), prefix))
    out.append(dataclasses.replace(states[prefix], parent=parent, steps=prefix[start:]))
  return tuple(out)


def prefixes(nodes: Sequence[Node]) -> list[Prefix]:
  """The whole prefix of every node."""
  out: list[Prefix] = []
  for node in nodes:
    out.append((*out[node.parent], *node.steps) if node.parent >= 0 else ())
  return out


def values_along(
  nodes: Sequence[Node], steps: Prefix, right: bool | None = None
) -> tuple[float | None, ...]:
  """[P] values of the nodes that lie on a solution; the last step's is its answer.

  Args:
    steps: P steps.
    right: verdict on the solution's own answer, None if it has none.
  """
  known = dict(zip(prefixes(nodes), nodes))
  found = [known.get(steps[: t + 1]) for t in range(len(steps))]
  values = [None if node is None else node.value for node in found]
  if right is not None and values:
    values[-1] = float(right)
  return tuple(values)


def counts_along(
  nodes: Sequence[Node], steps: Prefix
) -> tuple[tuple[int | None, ...], tuple[int | None, ...]]:
  """[P] right and all rollouts of the nodes on a solution, None where none are."""
  known = {p: n for p, n in zip(prefixes(nodes), nodes) if n.n_rollouts}
  found = [known.get(steps[: t + 1]) for t in range(len(steps))]
  right = tuple(None if n is None else n.n_correct for n in found)
  return right, tuple(None if n is None else n.n_rollouts for n in found)


def first_death(values: Sequence[float | None]) -> int | None:
  """0-based index of the step that killed a solution, if the values pin it down.

  -1 if the last value is above 0 and none is 0; None where an unlabelled step stands
  right before the first value of 0, or at the end.
  """
  for t, value in enumerate(values):
    if value is not None and value <= 0:
      return t if t == 0 or values[t - 1] is not None else None
  return -1 if values and values[-1] is not None else None


def to_dict(tree: Tree) -> dict[str, Any]:
  """JSON form; `from_dict` reads it back unchanged."""
  out = dataclasses.asdict(tree)
  out['nodes'] = [_node_dict(node) for node in tree.nodes]
  return out


def _node_dict(node: Node) -> dict[str, Any]:
  out = dataclasses.asdict(node)
  out['steps'] = list(node.steps)
  out['rollouts'] = [
    {**dataclasses.asdict(r), 'steps': list(r.steps)} for r in node.rollouts
  ]
  return out


def from_dict(values: dict[str, Any], where: str = 'tree') -> Tree:
  """Validates parsed JSON and builds the tree.

  Raises:
    UserError: a field is missing or of another type, or a parent does not stand
      before its child; one sentence with `where`.
  """
  c = Check(where)
  held = dict(values)
  for field in dataclasses.fields(Tree):
    needed = field.default is dataclasses.MISSING
    if needed and field.default_factory is dataclasses.MISSING:
      _there(where, held, field.name)
  nodes = c.items('nodes', held['nodes'])
  read = tuple(_node(c, where, i, node) for i, node in enumerate(nodes))
  if not read:
    raise c.fail('nodes', nodes, 'a list that starts with the root')
  return Tree(
    algorithm=c.text('algorithm', held['algorithm']),
    problem_id=c.text('problem_id', held['problem_id']),
    question=c.text('question', held['question']),
    nodes=read,
    gold_answer=c.optional_text('gold_answer', held.get('gold_answer')),
    separator=c.text('separator', held.get('separator', '\n')),
    source=c.text('source', held.get('source', '')),
    options=c.mapping('options', held.get('options', {})),
    facts=c.mapping('facts', held.get('facts', {})),
  )


def _there(where: str, held: Mapping[str, Any], field: str) -> None:
  if field not in held:
    raise UserError(f'{where}: field {field!r} of a tree is missing; check the file.')


def _node(c: Check, where: str, i: int, value: Any) -> Node:
  field = f'nodes[{i}]'
  held = c.mapping(field, value)
  for name in ('parent', 'steps', 'value'):
    _there(f'{where}, {field}', held, name)
  node_value = held['value']
  return Node(
    parent=c.integer(f'{field}.parent', held['parent'], 0 if i else -1, i - 1),
    steps=c.texts(f'{field}.steps', held['steps']),
    value=None if node_value is None else c.number(f'{field}.value', node_value, 0, 1),
    how=c.text(f'{field}.how', held.get('how', 'rollouts')),
    n_correct=c.integer(f'{field}.n_correct', held.get('n_correct', 0), 0),
    n_rollouts=c.integer(f'{field}.n_rollouts', held.get('n_rollouts', 0), 0),
    visits=c.integer(f'{field}.visits', held.get('visits', 0), 0),
    rollouts=tuple(
      _rollout(c, f'{field}.rollouts[{j}]', r)
      for j, r in enumerate(c.items(f'{field}.rollouts', held.get('rollouts', ())))
    ),
  )


def _rollout(c: Check, field: str, value: Any) -> Rollout:
  held = c.mapping(field, value)
  correct = held.get('correct')
  if not isinstance(correct, bool | None):
    raise c.fail(f'{field}.correct', correct, 'true, false or null')
  return Rollout(
    c.text(f'{field}.id', held.get('id', '')),
    c.texts(f'{field}.steps', held.get('steps')),
    correct,
    c.integer(f'{field}.n_tokens', held.get('n_tokens', 0), 0),
  )
