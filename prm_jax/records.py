"""`Trajectory`: the one record that flows through all jobs.

One solution of one problem, with everything jobs have added to it so far: step
labels, verdicts on its answer, scores. One JSON object a line on disk. A job adds
fields, or keys to the dict fields, and never rewrites one that was there.

Reading validates: what is *malformed* raises `UserError` naming file, line, field
and value. What is valid but unusable for some purpose (too long, unlabelled) is
not judged here; `prm_jax.data` handles it by policy and counts it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prm_jax import jsonl
from prm_jax.errors import UserError

LABEL_KINDS = ('correctness', 'value', 'entropic', 'denoised', 'outcome', 'progress')
SCORE_KINDS = ('logit', 'probability', 'log_ratio')

Values = tuple[float | None, ...]


@dataclasses.dataclass(frozen=True)
class LabelSet:
  """One number a step, 1 the good end, null where the step is unlabelled.

  Attributes:
    kind: what the numbers estimate, one of `LABEL_KINDS`.
    values: [P] in [0, 1] or None. A neutral rating kept as a class of its own is 0.5.
    how: completer, sampling, tau, checker, prior: whatever made them.
    weights: [P] >= 0, how much a step's own loss term counts; 0 is context only;
      () means all ones.
    n_correct, n_rollouts, stop_reason: [P] evidence of rollout labels, or ().
  """

  kind: str
  values: Values
  how: dict[str, Any] = dataclasses.field(default_factory=dict)
  weights: tuple[float, ...] = ()
  n_correct: tuple[int | None, ...] = ()
  n_rollouts: tuple[int | None, ...] = ()
  stop_reason: tuple[str | None, ...] = ()


@dataclasses.dataclass(frozen=True)
class Verdict:
  """A checker's word on the final answer: True right, False wrong, None not judged."""

  value: bool | None
  method: str = ''
  reason: str = ''


@dataclasses.dataclass(frozen=True)
class ScoreSet:
  """A scorer's values of the steps; `kind` is one of `SCORE_KINDS`."""

  kind: str
  values: Values


@dataclasses.dataclass(frozen=True)
class Trajectory:
  """One solution. P is the number of its steps.

  Attributes:
    id: unique name of the solution (`make_id`).
    problem_id: what solutions of the same problem share; intervals and splits
      go by it (`make_problem_id`).
    question: the problem's text.
    steps: P strings, in order.
    source: data set or generator run it came from.
    gold_answer: reference answer, or None.
    separator: how steps are joined into a text for models.
    response: the exact generated text, or None; answers are read from it.
    step_spans: [P, 2] character offsets of the steps in `response`, or ().
    generator: name of the model or solver that wrote it.
    sampling: its sampling parameters.
    sample_index: its number among the samples of the problem.
    parent: {'id', 'n_steps'}: the prefix it continues, or None.
    tokens: one dict a step (ids, log-probabilities, entropies), or ().
    answer: extracted final answer, or None.
    verdicts: checker -> Verdict.
    ratings: [P] raw ratings of the source (-1, 0, 1), or ().
    meta: whatever else a format carries, verbatim.
    labels: name -> LabelSet.
    first_error: label name -> 0-based index of the first wrong step, -1 none,
      None unknown.
    scores: scorer -> ScoreSet.
  """

  id: str
  problem_id: str
  question: str
  steps: tuple[str, ...]
  source: str = ''
  gold_answer: str | None = None
  separator: str = '\n'
  response: str | None = None
  step_spans: tuple[tuple[int, int], ...] = ()
  generator: str = ''
  sampling: dict[str, Any] = dataclasses.field(default_factory=dict)
  sample_index: int = 0
  parent: dict[str, Any] | None = None
  tokens: tuple[dict[str, Any], ...] = ()
  answer: str | None = None
  verdicts: dict[str, Verdict] = dataclasses.field(default_factory=dict)
  ratings: tuple[int | None, ...] = ()
  meta: dict[str, Any] = dataclasses.field(default_factory=dict)
  labels: dict[str, LabelSet] = dataclasses.field(default_factory=dict)
  first_error: dict[str, int | None] = dataclasses.field(default_factory=dict)
  scores: dict[str, ScoreSet] = dataclasses.field(default_factory=dict)

  @property
  def n_steps(self) -> int:
    """P."""
    return len(self.steps)


def make_problem_id(question: str) -> str:
  """Hash of the question after NFKC and with runs of white space made one blank."""
  normal = ' '.join(unicodedata.normalize('NFKC', question).split())
  return hashlib.sha256(normal.encode('utf-8')).hexdigest()[:16]


def make_id(source: str, key: object, index: object = 0) -> str:
  """Hash of (source, the source's own key, index): stable across machines."""
  text = '\x1f'.join((source, str(key), str(index)))
  return hashlib.sha256(text.encode('utf-8')).hexdigest()[:16]


def first_error_of(
  values: Iterable[float | None], threshold: float = 0.5
) -> int | None:
  """0-based index of the first label below `threshold`.

  Returns -1 if every step is labelled and none is below; None if an unlabelled
  step stands before any wrong one, so that the first error is unknown.
  """
  for t, value in enumerate(values):
    if value is None:
      return None
    if value < threshold:
      return t
  return -1


def add(trajectory: Trajectory, field: str, name: str, value: Any) -> Trajectory:
  """A copy with `value` under `name` in the dict field `field`.

  Raises:
    UserError: `name` is there already with another value (fields are never
      rewritten).
  """
  held = getattr(trajectory, field)
  if name in held and held[name] != value:
    raise UserError(
      f'trajectory {trajectory.id}: {field}[{name!r}] is there already and is never '
      'rewritten; give the new one another name.'
    )
  changed: dict[str, Any] = {field: {**held, name: value}}
  return dataclasses.replace(trajectory, **changed)


def to_dict(trajectory: Trajectory) -> dict[str, Any]:
  """JSON form: fields at their default are left out, tuples become lists."""
  out: dict[str, Any] = {}
  for f in dataclasses.fields(trajectory):
    value = getattr(trajectory, f.name)
    if f.default is not dataclasses.MISSING and value == f.default:
      continue
    if f.default_factory is not dataclasses.MISSING and not value:
      continue
    if f.name in ('verdicts', 'labels', 'scores'):
      value = {k: _part_to_dict(v) for k, v in value.items()}
    elif isinstance(value, tuple):
      value = [list(v) if isinstance(v, tuple) else v for v in value]
    out[f.name] = value
  return out


def _part_to_dict(part: Any) -> dict[str, Any]:
  out = {}
  for f in dataclasses.fields(part):
    value = getattr(part, f.name)
    optional = f.default is not dataclasses.MISSING and value == f.default
    if optional or (f.default_factory is not dataclasses.MISSING and not value):
      continue
    out[f.name] = list(value) if isinstance(value, tuple) else value
  return out


class Check:
  """Checks of one record; every failure names place, field, value and remedy.

  Attributes:
    where: 'file:line', the start of every sentence.
  """

  def __init__(self, where: str):
    self.where = where

  def fail(self, field: str, value: Any, want: str) -> UserError:
    shown = repr(value)
    shown = shown if len(shown) <= 80 else shown[:77] + '...'
    return UserError(f'{self.where}: field {field!r} is {shown}; it must be {want}.')

  def text(self, field: str, value: Any) -> str:
    if not isinstance(value, str):
      raise self.fail(field, value, 'a string')
    try:
      value.encode('utf-8')
    except UnicodeEncodeError as e:
      raise self.fail(field, value, 'valid Unicode (no lone surrogates)') from e
    return value

  def optional_text(self, field: str, value: Any) -> str | None:
    return None if value is None else self.text(field, value)

  def texts(self, field: str, value: Any) -> tuple[str, ...]:
    items = self.items(field, value)
    return tuple(self.text(f'{field}[{i}]', v) for i, v in enumerate(items))

  def mapping(self, field: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
      raise self.fail(field, value, 'an object {...}')
    return value

  def items(self, field: str, value: Any, n: int | None = None) -> list[Any]:
    if not isinstance(value, (list, tuple)):
      raise self.fail(field, value, 'a list')
    if n is not None and len(value) not in (0, n):
      raise UserError(
        f'{self.where}: field {field!r} has {len(value)} entries for {n} steps; '
        'there must be one a step.'
      )
    return list(value)

  def boolean(self, field: str, value: Any) -> bool:
    if not isinstance(value, bool):
      raise self.fail(field, value, 'true or false')
    return value

  def number(self, field: str, value: Any, low: float, high: float) -> float:
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not good or not low <= value <= high or not abs(value) <= sys.float_info.max:
      span = f' from {low:g} to {high:g}' if math.isfinite(high) else ''
      span = f' of at least {low:g}' if not span and math.isfinite(low) else span
      raise self.fail(field, value, f'a finite number{span}')
    return float(value)

  def integer(self, field: str, value: Any, low: int, high: int | None = None) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
      raise self.fail(field, value, 'a whole number')
    if value < low or (high is not None and value > high):
      upper = '' if high is None else f' and at most {high}'
      raise self.fail(field, value, f'a whole number of at least {low}{upper}')
    return value

  def each(
    self, field: str, value: Any, n: int, one: Callable[[str, Any], Any]
  ) -> tuple:
    return tuple(
      None if v is None else one(f'{field}[{i}]', v)
      for i, v in enumerate(self.items(field, value, n))
    )


def from_dict(row: dict[str, Any], where: str = 'record') -> Trajectory:
  """Validates a JSON object and builds the record.

  Args:
    row: parsed JSON.
    where: 'file:line', for messages.

  Raises:
    UserError: wrong type, NaN, label out of [0, 1], counts that differ from the
      number of steps, an unknown field; one sentence.
  """
  c = Check(where)
  known = {f.name for f in dataclasses.fields(Trajectory)}
  for name in row:
    if name not in known:
      raise UserError(
        f'{where}: unknown field {name!r}; put what a format carries beyond the '
        'record under "meta", or name the format (path:format).'
      )
  for name in ('question', 'steps'):
    if name not in row:
      raise UserError(
        f'{where}: field {name!r} is missing; a record has at least question and '
        'steps (other formats are read as path:format).'
      )
  question = c.text('question', row['question'])
  steps = c.texts('steps', row['steps'])
  n = len(steps)
  source = c.text('source', row.get('source', ''))
  return Trajectory(
    id=_given(c, row, 'id') or make_id(source, question, '\x1e'.join(steps)),
    problem_id=_given(c, row, 'problem_id') or make_problem_id(question),
    question=question,
    steps=steps,
    source=source,
    gold_answer=c.optional_text('gold_answer', row.get('gold_answer')),
    separator=c.text('separator', row.get('separator', '\n')),
    response=c.optional_text('response', row.get('response')),
    step_spans=_spans(c, row.get('step_spans', []), n, row.get('response')),
    generator=c.text('generator', row.get('generator', '')),
    sampling=c.mapping('sampling', row.get('sampling', {})),
    sample_index=c.integer('sample_index', row.get('sample_index', 0), 0),
    parent=_parent(c, row.get('parent')),
    tokens=tuple(
      c.mapping(f'tokens[{i}]', v)
      for i, v in enumerate(c.items('tokens', row.get('tokens', []), n))
    ),
    answer=c.optional_text('answer', row.get('answer')),
    verdicts={
      k: _verdict(c, f'verdicts.{k}', v)
      for k, v in c.mapping('verdicts', row.get('verdicts', {})).items()
    },
    ratings=c.each(
      'ratings', row.get('ratings', []), n, lambda f, v: c.integer(f, v, -1, 1)
    ),
    meta=c.mapping('meta', row.get('meta', {})),
    labels={
      k: _label_set(c, f'labels.{k}', v, n)
      for k, v in c.mapping('labels', row.get('labels', {})).items()
    },
    first_error={
      k: None if v is None else c.integer(f'first_error.{k}', v, -1, max(n - 1, -1))
      for k, v in c.mapping('first_error', row.get('first_error', {})).items()
    },
    scores={
      k: _score_set(c, f'scores.{k}', v, n)
      for k, v in c.mapping('scores', row.get('scores', {})).items()
    },
  )


def _given(c: Check, row: dict[str, Any], field: str) -> str | None:
  value = c.optional_text(field, row.get(field))
  if value == '':
    raise c.fail(field, value, 'a name, or left out')
  return value


def _spans(c: Check, value: Any, n: int, response: Any) -> tuple[tuple[int, int], ...]:
  spans = []
  for i, span in enumerate(c.items('step_spans', value, n)):
    field = f'step_spans[{i}]'
    if not isinstance(span, (list, tuple)) or len(span) != 2:
      raise c.fail(field, span, 'a pair [start, end]')
    start = c.integer(field, span[0], 0)
    end = c.integer(field, span[1], start, len(response or ''))
    spans.append((start, end))
  return tuple(spans)


def _parent(c: Check, value: Any) -> dict[str, Any] | None:
  if value is None:
    return None
  parent = c.mapping('parent', value)
  if set(parent) != {'id', 'n_steps'}:
    raise c.fail('parent', value, "{'id': ..., 'n_steps': ...}")
  return {
    'id': c.text('parent.id', parent['id']),
    'n_steps': c.integer('parent.n_steps', parent['n_steps'], 0),
  }


def _fields(c: Check, field: str, value: Any, known: tuple[str, ...]) -> dict[str, Any]:
  held = c.mapping(field, value)
  for name in held:
    if name not in known:
      raise c.fail(field, name, f'an object with only {", ".join(known)}')
  return held


def _verdict(c: Check, field: str, value: Any) -> Verdict:
  held = _fields(c, field, value, ('value', 'method', 'reason'))
  if not isinstance(held.get('value'), bool | None):
    raise c.fail(f'{field}.value', held.get('value'), 'true, false or null')
  return Verdict(
    held.get('value'),
    c.text(f'{field}.method', held.get('method', '')),
    c.text(f'{field}.reason', held.get('reason', '')),
  )


def _label_set(c: Check, field: str, value: Any, n: int) -> LabelSet:
  names = tuple(f.name for f in dataclasses.fields(LabelSet))
  held = _fields(c, field, value, names)
  if held.get('kind') not in LABEL_KINDS:
    raise c.fail(f'{field}.kind', held.get('kind'), f'one of {", ".join(LABEL_KINDS)}')
  values = c.items(f'{field}.values', held.get('values'))
  if len(values) != n:
    raise UserError(
      f'{c.where}: field {field + ".values"!r} has {len(values)} labels for {n} '
      'steps; there must be one a step (null where unlabelled).'
    )
  weights = held.get('weights', ())
  rollouts = c.each(f'{field}.n_rollouts', held.get('n_rollouts', ()), n, _count(c))
  correct = c.each(f'{field}.n_correct', held.get('n_correct', ()), n, _count(c))
  for i, (right, tried) in enumerate(zip(correct, rollouts)):
    if right is not None and tried is not None and right > tried:
      raise c.fail(f'{field}.n_correct[{i}]', right, f'at most n_rollouts, {tried}')
  return LabelSet(
    kind=held['kind'],
    values=c.each(f'{field}.values', values, n, lambda f, v: c.number(f, v, 0, 1)),
    how=c.mapping(f'{field}.how', held.get('how', {})),
    weights=tuple(
      c.number(f'{field}.weights[{i}]', w, 0, math.inf)
      for i, w in enumerate(c.items(f'{field}.weights', weights, n))
    ),
    n_correct=correct,
    n_rollouts=rollouts,
    stop_reason=c.each(f'{field}.stop_reason', held.get('stop_reason', ()), n, c.text),
  )


def _count(c: Check) -> Callable[[str, Any], int]:
  return lambda field, value: c.integer(field, value, 0)


def _score_set(c: Check, field: str, value: Any, n: int) -> ScoreSet:
  held = _fields(c, field, value, ('kind', 'values'))
  if held.get('kind') not in SCORE_KINDS:
    raise c.fail(f'{field}.kind', held.get('kind'), f'one of {", ".join(SCORE_KINDS)}')
  values = c.items(f'{field}.values', held.get('values'))
  if len(values) != n:
    raise UserError(
      f'{c.where}: field {field + ".values"!r} has {len(values)} scores for {n} steps; '
      'there must be one a step.'
    )
  low, high = (0.0, 1.0) if held['kind'] == 'probability' else (-math.inf, math.inf)
  return ScoreSet(
    held['kind'],
    c.each(f'{field}.values', values, n, lambda f, v: c.number(f, v, low, high)),
  )


def read(path: str) -> Iterator[Trajectory]:
  """Records of a file, a directory of shards, or a glob, in order.

  Raises:
    UserError: at the first malformed line, naming it.
  """
  for file in jsonl.expand(path, ('.jsonl', '.jsonl.gz')):
    for number, row in jsonl.iter_json_lines(file):
      yield from_dict(row, f'{file}:{number}')


def write(path: str | os.PathLike[str], trajectories: Iterable[Trajectory]) -> int:
  """Writes records to one file, atomically; returns their number.

  Raises:
    UserError: the name does not end in .jsonl or .jsonl.gz, so that it would be read
      as another kind of file; or the place cannot be written.
  """
  jsonl.check_name(path)
  return jsonl.write_json_lines(path, (to_dict(t) for t in trajectories))
