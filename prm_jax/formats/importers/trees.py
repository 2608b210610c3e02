"""Trees of solution prefixes: OpenR's and MM-PRM's OmegaPRM, and ER-PRM's file.

Every way from the root to a leaf becomes a trajectory with a label where the source
has a value. A step that several of them share carries its weight once. OpenR's flat
wrapped file is `math_aps` (`prefix_values`).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, NamedTuple

from prm_jax.formats import label_policy
from prm_jax.formats.importers import prefix_values, step_texts
from prm_jax.formats.importers.rows import Row
from prm_jax.records import LabelSet, Trajectory

MONTE_CARLO = {'by': 'monte_carlo'}
MM_MARKER = '<prm>'


class _Way(NamedTuple):
  """From the root to a leaf: steps, and a value or None for each."""

  steps: tuple[str, ...]
  values: tuple[float | None, ...]


def openr_tree(rows: Iterable[Row]) -> list[Trajectory]:
  """OpenR v2, nested: `question`, `final_answer`, `reasoning_steps` (the root).

  A node is `text`, `mc_value`, `children`; its text is one step, the root's is the
  question. Where `reasoning_steps` is a flat list, the row is read as `math_aps`.
  """
  out: list[Trajectory] = []
  counters: Counter[str] = Counter()
  for row in rows:
    counters = row.counters
    held, field = row.get('reasoning_steps'), 'reasoning_steps'
    if isinstance(held, list):
      out += prefix_values.math_aps([row])
      continue
    root = row.mapping(field, held)
    value = _number(row, f'{field}.mc_value', root.get('mc_value'))
    meta = row.rest('question', 'final_answer', field)
    answer = row.maybe_string('final_answer')
    for way in _ways(row, root, field, _openr_node):
      question = row.string('question')
      out.append(_trajectory(row, question, way, answer, meta, value))
  return _weighed(out, counters)


def openr_node(rows: Iterable[Row]) -> list[Trajectory]:
  """OpenR v2, nested and bare: a row is the root, `text`, `mc_value`, `children`."""
  out: list[Trajectory] = []
  counters: Counter[str] = Counter()
  for row in rows:
    counters = row.counters
    question = row.string('text').strip()
    value = _number(row, 'mc_value', row.get('mc_value'))
    meta = row.rest('text', 'mc_value', 'children')
    for way in _ways(row, row.values, '', _openr_node):
      out.append(_trajectory(row, question, way, None, meta, value))
  return _weighed(out, counters)


def openr_prefixes(rows: Iterable[Row]) -> list[Trajectory]:
  """OpenR v2, flat and bare: rows of `solution_prefix`, `mc_value`.

  The first row's prefix is the question itself, and so is every later one's that does
  not go on from it.
  """
  out: list[Trajectory] = []
  question, first = '', None
  held: list[dict[str, Any]] = []
  for row in rows:
    prefix = row.string('solution_prefix')
    value = _number(row, 'mc_value', row.get('mc_value'))
    if first is None or not prefix.startswith(question):
      out += _flat(first, question, held)
      question, held, first = prefix, [], row
    held.append({'solution_prefix': prefix, 'mc_value': value})
  return out + _flat(first, question, held)


def openr_partial(rows: Iterable[Row]) -> list[Trajectory]:
  """OpenR v1: rows of `question`, `partial_answer`, `mc_score`, cut anywhere.

  Rows of one question stand together. A text that no other one continues is a
  solution, in pieces that end where a shorter text ends.
  """
  out: list[Trajectory] = []
  for question, group in groupby(rows, key=lambda row: row.string('question')):
    first: Row | None = None
    held: list[dict[str, Any]] = []
    for row in group:
      first = first or row
      text = question + '\n\n' + row.string('partial_answer')
      value = _number(row, 'mc_score', row.get('mc_score'))
      held.append({'solution_prefix': text, 'mc_value': value})
    made = _flat(first, question, held)
    separator = first.options.separator or ' ' if first else ' '
    out += [dataclasses.replace(t, separator=separator) for t in made]
  return out


def mm_prm_tree(rows: Iterable[Row]) -> list[Trajectory]:
  """MM-PRM trees: `partial_solution` (list of steps), `mc_value`, `children`.

  The root has `question`, `answer`, `image_path` instead of steps. A value belongs to
  the last step of its node, the steps before it are unlabelled. Right rollouts are
  children already; wrong ones are left out and counted.
  """
  out: list[Trajectory] = []
  counters: Counter[str] = Counter()
  for row in rows:
    counters = row.counters
    _number(row, 'mc_value', row.get('mc_value'))
    own = ('question', 'answer', 'mc_value', 'visit_count', 'children')
    meta = row.rest(*own, 'correct_rollouts', 'incorrect_rollouts')
    for way in _ways(row, row.values, '', _mm_node):
      answer = row.maybe_string('answer')
      value = row.values['mc_value']
      made = _trajectory(row, row.string('question'), way, answer, meta, value)
      out.append(made)
  return _weighed(out, counters)


def mm_prm_rows(rows: Iterable[Row]) -> list[Trajectory]:
  """MM-PRM rows: `process` (each segment ends with '<prm>'), `labels` (one each)."""
  out: list[Trajectory] = []
  counters: Counter[str] = Counter()
  for row in rows:
    counters = row.counters
    *segments, tail = row.string('process').split(MM_MARKER)
    if tail.strip():
      raise row.fail('process', tail, f'a text that ends with {MM_MARKER!r}')
    labels = row.items('labels', row.get('labels'))
    row.same_length('labels', len(labels), len(segments), 'labels')
    values = tuple(_number(row, f'labels[{i}]', v) for i, v in enumerate(labels))
    way = _Way(tuple(s.strip() for s in segments), values)
    meta = row.rest('question', 'answer', 'process', 'labels')
    answer = row.maybe_string('answer')
    out.append(_trajectory(row, row.string('question'), way, answer, meta))
  return _weighed(out, counters)


def er_prm(rows: Iterable[Row]) -> list[Trajectory]:
  """ER-PRM: `text` with 'ки' after each step, `value` a list of numbers in [0, 1].

  The released converter joins steps with the marker, so the last step may have none;
  then there is one value more than markers.
  """
  out: list[Trajectory] = []
  for row in rows:
    text, marker = row.string('text'), step_texts.MARKER
    held = row.items('value', row.get('value'))
    if text.split(marker)[-1].strip():
      row.counters['last_step_without_marker'] += 1
      text += f' {marker}'
    row.same_length('value', len(held), text.count(marker), 'values')
    values = tuple(_number(row, f'value[{i}]', v) for i, v in enumerate(held))
    known = tuple(v for v in values if v is not None)
    if len(known) != len(values):
      raise row.fail('value', None, 'a number for every step')
    how = {'by': 'entropic'}
    fields = {'meta': row.rest('text', 'value')}
    out += step_texts._from_text(row, text, marker, known, 'entropic', how, fields)
  return out


def _number(row: Row, field: str, value: Any) -> float | None:
  """A value from 0 to 1, or null."""
  return None if value is None else row.number(field, value, 0, 1)


def _openr_node(row: Row, field: str, held: dict[str, Any]) -> _Way:
  value = _number(row, f'{field}.mc_value', held.get('mc_value'))
  return _Way((row.text(f'{field}.text', held.get('text')).strip(),), (value,))


def _mm_node(row: Row, field: str, held: dict[str, Any]) -> _Way:
  value = _number(row, f'{field}.mc_value', held.get('mc_value'))
  steps = row.texts(f'{field}.partial_solution', held.get('partial_solution'))
  name = 'incorrect_rollouts'
  wrong = [] if held.get(name) is None else row.items(f'{field}.{name}', held[name])
  row.counters['wrong_rollouts_left_out'] += len(wrong)
  values = (None,) * (len(steps) - 1) + (value,) if steps else ()
  return _Way(tuple(s.strip() for s in steps), values)


def _ways(row: Row, root: dict[str, Any], field: str, read: Any) -> Iterator[_Way]:
  """All ways from the root to a leaf, in the order of the file."""
  stack = [(root, field, _Way((), ()))]
  while stack:
    held, place, above = stack.pop()
    children = row.items(f'{place}.children'.lstrip('.'), held.get('children', []))
    if not children and above.steps:
      yield above
    below = []
    for i, child in enumerate(children):
      where = f'{place}.children[{i}]'.lstrip('.')
      node = row.mapping(where, child)
      own = read(row, where, node)
      way = _Way(above.steps + own.steps, above.values + own.values)
      below.append((node, where, way))
    stack += below[::-1]


def _trajectory(
  row: Row,
  question: str,
  way: _Way,
  answer: str | None,
  meta: dict[str, Any],
  question_value: float | None = None,
) -> Trajectory:
  made = row.trajectory(
    question,
    way.steps,
    index='\x1e'.join(way.steps),
    separator='\n\n',
    gold_answer=answer,
    meta=meta if question_value is None else {**meta, 'question_value': question_value},
  )
  labels = LabelSet(row.options.label_kind or 'value', way.values, dict(MONTE_CARLO))
  return label_policy.label(made, 'source', labels, row.options)


def _flat(
  row: Row | None, question: str, held: list[dict[str, Any]]
) -> list[Trajectory]:
  """Prefixes of one question, read as a `math_aps` row."""
  if row is None:
    return []
  values = {'question': question, 'reasoning_steps': held}
  whole = Row(values, row.where, row.key, row.format, row.options, row.counters)
  return prefix_values.math_aps([whole])


def _weighed(out: list[Trajectory], counters: Counter[str]) -> list[Trajectory]:
  weighed, counts = label_policy.weigh_once(out, 'source')
  counters.update(counts)
  return weighed
