"""PRM800K in three layouts: OpenAI's own, step by step, and whole trajectories.

In the first two, annotators rated several alternatives for the next step and went on
from one of them. All ratings of a problem form a tree; each of its leaves becomes a
trajectory: the path that was followed to its end, and every alternative as its own
truncated trajectory behind the prefix it was rated after. A rated (problem, prefix,
step) carries loss weight once, in the first trajectory that holds it (the followed
path comes first), and is context elsewhere (weight 0, label kept): Lightman et al.
2023 (arXiv 2305.20050) for the data, `label_policy.weigh_once` for the rule.

Several annotators may have rated the same step after the same prefix. The label is
then the most frequent rating, a tie going to the lowest; all of them are kept in
`meta['rating_votes']` where they disagree.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from typing import Any

from prm_jax.formats import label_policy
from prm_jax.formats.importers.rows import Row
from prm_jax.records import LabelSet, Trajectory

ANSWER_HEADING = '# Answer'


@dataclasses.dataclass
class _Node:
  """A step after a prefix: its ratings, and the steps that were tried after it."""

  step: str = ''
  ratings: list[int] = dataclasses.field(default_factory=list)
  followed: bool = False
  human: bool = False
  answer: str | None = None
  meta: dict[str, Any] = dataclasses.field(default_factory=dict)
  children: dict[str, _Node] = dataclasses.field(default_factory=dict)

  def child(self, step: str) -> _Node:
    return self.children.setdefault(step, _Node(step))

  def vote(self) -> int | None:
    counts = Counter(self.ratings)
    return min(counts, key=lambda r: (-counts[r], r)) if counts else None


@dataclasses.dataclass
class _Problem:
  """All ratings of one problem, with the first row that mentioned it."""

  row: Row
  root: _Node = dataclasses.field(default_factory=_Node)
  gold_answer: str | None = None


def native(rows: Iterable[Row]) -> list[Trajectory]:
  """OpenAI's layout: `question`, `label.steps[].completions[].rating`."""
  problems: dict[str, _Problem] = {}
  counters: Counter[str] = Counter()
  for row in rows:
    counters = row.counters
    question = row.mapping('question', row.get('question'))
    text = row.text('question.problem', question.get('problem'))
    problem = problems.setdefault(text, _Problem(row))
    gold = question.get('ground_truth_answer')
    gold = row.optional_text('question.ground_truth_answer', gold)
    problem.gold_answer = problem.gold_answer or gold
    label = row.mapping('label', row.get('label'))
    quality_control = row.values.get('is_quality_control_question') is True
    counters['quality_control_rows'] += quality_control
    node = problem.root
    positions = row.items('label.steps', label.get('steps'))
    for i, step in enumerate(positions):
      followed = _native_step(row, f'label.steps[{i}]', node, step)
      if followed is None:
        # Nothing says which step the later ones continue.
        counters['positions_without_prefix'] += len(positions) - i - 1
        break
      node = followed
    if 'finish_reason' in label:
      node.meta['finish_reason'] = label['finish_reason']
  return _trajectories(problems, counters)


def _native_step(row: Row, field: str, node: _Node, step: Any) -> _Node | None:
  """Adds one position's alternatives; returns the one that was followed, if any."""
  held = row.mapping(field, step)
  texts = []
  completions = row.items(f'{field}.completions', held.get('completions') or [])
  for j, completion in enumerate(completions):
    inner = f'{field}.completions[{j}]'
    one = row.mapping(inner, completion)
    child = node.child(row.text(f'{inner}.text', one.get('text')))
    rating = row.rating(f'{inner}.rating', one.get('rating'))
    _rate(child, rating, row.counters)
    child.answer = child.answer or _answer(child.step)
    texts.append(child)
  chosen, human = held.get('chosen_completion'), held.get('human_completion')
  if chosen is not None:
    index = row.integer(f'{field}.chosen_completion', chosen, 0, len(texts) - 1)
    texts[index].followed = True
    return texts[index]
  if human is None:
    return None
  inner = f'{field}.human_completion'
  # Both an object with text and the bare text occur.
  text = human if isinstance(human, str) else row.mapping(inner, human).get('text')
  child = node.child(row.text(f'{inner}.text', text))
  rating = None if isinstance(human, str) else human.get('rating')
  _rate(child, row.rating(f'{inner}.rating', rating), row.counters)
  child.human = child.followed = True
  child.answer = child.answer or _answer(child.step)
  return child


def steps(rows: Iterable[Row]) -> list[Trajectory]:
  """Step by step: `instruction`, `responses` (the prefix), `next_response`, `rating`.

  `is_preferred_response` marks the alternative that was followed; `answer` is the
  final answer a step ends in; `error_reason` is kept as a remark on the alternative.
  """
  problems: dict[str, _Problem] = {}
  counters: Counter[str] = Counter()
  for row in rows:
    counters = row.counters
    problem = problems.setdefault(row.string('instruction'), _Problem(row))
    node = problem.root
    for step in row.strings('responses'):
      node = node.child(step)
    child = node.child(row.string('next_response'))
    _rate(child, row.rating('rating', row.get('rating')), counters)
    child.followed |= row.values.get('is_preferred_response') is True
    child.human |= row.values.get('is_human_response') is True
    child.answer = child.answer or row.maybe_string('answer')
    if row.values.get('error_reason') is not None:
      child.meta['error_reason'] = row.string('error_reason')
  return _trajectories(problems, counters)


def _rate(node: _Node, rating: int | None, counters: Counter[str]) -> None:
  if rating is None:
    counters['null_ratings'] += 1
    return
  counters['ratings'] += 1
  counters['repeated_ratings'] += bool(node.ratings)
  agreed = len(set(node.ratings)) < 2
  node.ratings.append(rating)
  counters['conflicting_ratings'] += agreed and len(set(node.ratings)) > 1


def _trajectories(
  problems: dict[str, _Problem], counters: Counter[str]
) -> list[Trajectory]:
  """One trajectory a leaf, followed paths first, each rating weighed once."""
  found = []
  for question, problem in problems.items():
    for path in _leaves(problem.root):
      found.append(_trajectory(question, problem, path))
  weighed, counts = label_policy.weigh_once(found, 'human')
  counters.update(counts)
  counters['rated_steps'] = _rated_nodes(problems)
  out = []
  for t in weighed:
    held = t.labels['human']
    weights = held.weights or (1.0,) * t.n_steps
    if any(v is not None and w for v, w in zip(held.values, weights)):
      out.append(t)
    else:
      counters['dropped_without_own_rating'] += 1
  return out


def _leaves(root: _Node) -> Iterable[list[_Node]]:
  """Paths from the root to the leaves, depth first, followed children first."""
  pending = [[c] for c in _ordered(root)]
  while pending:
    path = pending.pop()
    children = _ordered(path[-1])
    if children:
      pending += [[*path, c] for c in children]
    else:
      yield path


def _ordered(node: _Node) -> list[_Node]:
  """Children so that the end of the list comes first: followed ones, then by row."""
  children = list(node.children.values())
  return sorted(reversed(children), key=lambda c: c.followed)


def _rated_nodes(problems: dict[str, _Problem]) -> int:
  pending = [p.root for p in problems.values()]
  rated = 0
  while pending:
    node = pending.pop()
    rated += bool(node.ratings)
    pending += node.children.values()
  return rated


def _trajectory(question: str, problem: _Problem, path: list[_Node]) -> Trajectory:
  row = problem.row
  ratings = tuple(node.vote() for node in path)
  meta = dict(path[-1].meta)
  votes = {str(i): n.ratings for i, n in enumerate(path) if len(set(n.ratings)) > 1}
  human = [i for i, n in enumerate(path) if n.human]
  if votes:
    meta['rating_votes'] = votes
  if human:
    meta['human_steps'] = human
  if not all(n.followed for n in path):
    meta['alternative'] = True
  texts = tuple(n.step for n in path)
  trajectory = row.trajectory(
    question,
    texts,
    key=question,
    index='\x1e'.join(texts),
    gold_answer=problem.gold_answer,
    answer=path[-1].answer,
    ratings=ratings,
    meta=meta,
  )
  return _labelled(row, trajectory)


def trajectories(rows: Iterable[Row]) -> list[Trajectory]:
  """Whole trajectories: `problem`, `steps`, `ratings` (one a step)."""
  out = []
  counters: Counter[str] = Counter()
  for row in rows:
    counters = row.counters
    texts = row.strings('steps')
    held = row.items('ratings', row.get('ratings'))
    row.same_length('ratings', len(held), len(texts), 'ratings')
    ratings = tuple(row.rating(f'ratings[{i}]', r) for i, r in enumerate(held))
    counters['ratings'] += sum(r is not None for r in ratings)
    trajectory = row.trajectory(
      row.string('problem'),
      texts,
      answer=_answer(texts[-1]) if texts else None,
      ratings=ratings,
      meta=row.rest('problem', 'steps', 'ratings'),
    )
    out.append(_labelled(row, trajectory))
  weighed, counts = label_policy.weigh_once(out, 'human')
  counters.update(counts)
  return weighed


def _labelled(row: Row, trajectory: Trajectory) -> Trajectory:
  neutral = row.options.neutral
  values = label_policy.rating_values(trajectory.ratings, neutral)
  labels = LabelSet('correctness', values, {'by': 'human', 'neutral': neutral})
  return label_policy.label(trajectory, 'human', labels, row.options)


def _answer(step: str) -> str | None:
  """What follows the heading '# Answer' in a solution's last step."""
  _, heading, answer = step.rpartition(ANSWER_HEADING)
  return answer.strip() or None if heading else None
