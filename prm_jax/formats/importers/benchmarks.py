"""Evaluation sets with a first-error or step annotation by people.

Step indices are counted from 0 in ProcessBench and BIG-Bench Mistake and from 1 in
PRMBench, MR-GSM8K and MR-Ben; here they all become 0-based. What an annotation does
not say stays unlabelled: the steps after a first error, for one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from prm_jax.formats import label_policy, splitting
from prm_jax.formats.importers.rows import Row
from prm_jax.records import LabelSet, Trajectory, Verdict, make_problem_id

HUMAN = {'by': 'human'}
NUMBERED = splitting.Splitter('numbering', pattern=r'^#\d+\.')


def _located(row: Row, trajectory: Trajectory, first_error: int | None) -> Trajectory:
  """Adds labels and first error that a first-error annotation states."""
  values = label_policy.first_error_values(trajectory.n_steps, first_error)
  labels = LabelSet('correctness', values, dict(HUMAN))
  return label_policy.label(trajectory, 'human', labels, row.options, first_error)


def _index(row: Row, field: str, value: Any, n_steps: int, first: int) -> int | None:
  index = row.step_index(field, value, n_steps, first)
  row.counters['index_out_of_range'] += index is None
  return index


def _verdict(value: bool | None) -> dict[str, Verdict]:
  return {} if value is None else {'source': Verdict(value, 'source')}


def processbench(rows: Iterable[Row]) -> list[Trajectory]:
  """ProcessBench: `label` is the 0-based first wrong step, -1 none."""
  out = []
  for row in rows:
    steps = row.strings('steps')
    label = row.get('label')
    first = -1 if label == -1 else _index(row, 'label', label, len(steps), 0)
    correct = row.values.get('final_answer_correct')
    trajectory = row.trajectory(
      row.string('problem'),
      steps,
      key=row.string('id'),
      separator='\n\n',
      generator=row.maybe_string('generator') or '',
      verdicts=_verdict(None if correct is None else row.truth('final_answer_correct')),
      meta=row.rest('problem', 'steps', 'label', 'generator', 'final_answer_correct'),
    )
    out.append(_located(row, trajectory, first))
  return out


def bigbench_mistake(rows: Iterable[Row]) -> list[Trajectory]:
  """BIG-Bench Mistake: `mistake_index` is the 0-based first mistake, null none."""
  out = []
  for row in rows:
    steps = row.strings('steps')
    at = row.get('mistake_index')
    first = -1 if at is None else _index(row, 'mistake_index', at, len(steps), 0)
    gold, answer = row.maybe_string('target'), row.maybe_string('answer')
    same = None if gold is None or answer is None else gold == answer
    trajectory = row.trajectory(
      row.string('input'),
      steps,
      gold_answer=gold,
      answer=answer,
      verdicts={} if same is None else {'source': Verdict(same, 'equal text')},
      meta=row.rest('input', 'steps', 'target', 'answer', 'mistake_index'),
    )
    out.append(_located(row, trajectory, first))
  return out


def mr_gsm8k(rows: Iterable[Row]) -> list[Trajectory]:
  """MR-GSM8K: `model_output_solution_first_error_step` is 1-based, N/A if correct."""
  at = 'model_output_solution_first_error_step'
  whole, final = (f'model_output_{n}_correctness' for n in ('solution', 'answer'))
  out = []
  for row in rows:
    steps = row.strings('model_output_steps')
    right = _choice(row, whole, 'correct', 'wrong')
    first = -1 if right else _index(row, at, _number(row.get(at)), len(steps), 1)
    trajectory = row.trajectory(
      row.string('question'),
      steps,
      key=row.values.get('uuid'),
      gold_answer=row.maybe_string('ground_truth_answer'),
      verdicts=_verdict(_choice(row, final, 'correct', 'wrong')),
      meta=row.rest('question', 'model_output_steps', 'ground_truth_answer'),
    )
    out.append(_located(row, trajectory, first))
  return out


def _choice(row: Row, field: str, yes: str, no: str) -> bool:
  value = row.get(field)
  if value not in (yes, no):
    raise row.fail(field, value, f'{yes!r} or {no!r}')
  return value == yes


def _number(value: Any) -> Any:
  """The whole number a string holds (MR-Ben stores indices as text), or the value."""
  if isinstance(value, str) and re.fullmatch(r'\s*-?\d{1,9}\s*', value):
    return int(value)
  return value


def mr_ben(rows: Iterable[Row]) -> list[Trajectory]:
  """MR-Ben: `Model_Solution_First_Error_Step` is a 1-based index as text, or N/A.

  Coding rows hold the program as one text, whose lines are the steps, and name the
  wrong line by its text; where that fits no line or several, the first error is
  unknown and counted.
  """
  at = 'Model_Solution_First_Error_Step'
  out = []
  for row in rows:
    held = row.get('Model_Solution_Steps')
    code = isinstance(held, str)
    steps = (
      tuple(row.string('Model_Solution_Steps').split('\n'))
      if code
      else (row.strings('Model_Solution_Steps'))
    )
    first: int | None = -1
    if not _choice(row, 'Model_Solution_Correctness', 'correct', 'incorrect'):
      if code:
        first = _code_line(steps, row.string(at))
        row.counters['error_line_not_unique'] += first is None
      else:
        first = _index(row, at, _number(row.get(at)), len(steps), 1)
    question = row.string('Question')
    choices = row.maybe_string('Options')
    trajectory = row.trajectory(
      f'{question}\n{choices}' if choices else question,
      steps,
      key=(row.values.get('Question_UUID'), row.values.get('Sampled_Model')),
      gold_answer=row.maybe_string('Ground_Truth_Answer') or None,
      generator=row.maybe_string('Sampled_Model') or '',
      meta=row.rest('Model_Solution_Steps', 'Ground_Truth_Answer', 'Sampled_Model'),
    )
    out.append(_located(row, trajectory, first))
  return out


def _code_line(lines: tuple[str, ...], wanted: str) -> int | None:
  """Index of the only line that is `wanted`, or of the only place that holds it."""
  same = [i for i, line in enumerate(lines) if line.strip() == wanted.strip()]
  if len(same) == 1:
    return same[0]
  text, target = '\n'.join(lines), wanted.strip()
  if not target or text.count(target) != 1:
    return None
  return text[: text.index(target)].count('\n')


def prmbench(rows: Iterable[Row]) -> list[Trajectory]:
  """PRMBench: `error_steps` lists the wrong steps of `modified_process`, 1-based.

  Every step is labelled. A row whose list names a step beyond the solution is not
  trusted: it keeps no labels and is counted as index_out_of_range. Rows made from one
  problem share its id, that of `question` (`original_question` was rewritten row by
  row). A step's own number ('2. ...') is taken off, as the published wrappers do, and
  counted.
  """
  out = []
  for row in rows:
    steps = _unnumbered(row, row.strings('modified_process'))
    wrong = set()
    for i, at in enumerate(row.items('error_steps', row.get('error_steps'))):
      wrong.add(row.step_index(f'error_steps[{i}]', at, len(steps), 1))
    known = None not in wrong
    row.counters['index_out_of_range'] += not known
    values = tuple(float(i not in wrong) if known else None for i in range(len(steps)))
    question = row.values.get('modified_question')
    trajectory = row.trajectory(
      row.string('question' if question is None else 'modified_question'),
      steps,
      key=(row.values.get('classification'), row.values.get('idx')),
      gold_answer=row.maybe_string('ground_truth'),
      meta=row.rest('modified_process', 'modified_question', 'ground_truth'),
      **_problem(row),
    )
    labels = LabelSet('correctness', values, {'by': 'language model edit'})
    out.append(label_policy.label(trajectory, 'human', labels, row.options))
  return out


def prmbench_originals(rows: Iterable[Row]) -> list[Trajectory]:
  """The unmodified solutions of PRMBench, one an `idx`: of its redundency rows.

  They are all correct, and what `similarity` compares a modified solution with. Rows
  of other classes hold the same solutions and are counted.
  """
  out = []
  for row in rows:
    if row.values.get('classification') != 'redundency':
      row.counters['rows_of_other_classes'] += 1
      continue
    steps = _unnumbered(row, row.strings('original_process'))
    trajectory = row.trajectory(
      row.string('original_question'),
      steps,
      key=('correct', row.values.get('idx')),
      meta={'classification': 'correct', 'idx': row.values.get('idx')},
      **_problem(row),
    )
    out.append(_located(row, trajectory, -1))
  return out


def _unnumbered(row: Row, steps: tuple[str, ...]) -> tuple[str, ...]:
  """Steps without their own number in front; '2.5 kg' in a second step stays."""
  out = []
  for number, step in enumerate(steps, start=1):
    kept = re.sub(rf'\A\s*{number}\.\s+', '', step)
    row.counters['step_numbers_taken_off'] += kept != step
    out.append(kept)
  return tuple(out)


def _problem(row: Row) -> dict[str, str]:
  original = row.maybe_string('question')
  return {'problem_id': make_problem_id(original)} if original else {}


def verify_cot(rows: Iterable[Row]) -> list[Trajectory]:
  """verify_cot: `flag` 1 says that every step of a chain is valid, 0 that some is not.

  A step starts at every line '#k.'; text before the first is part of the first.
  A flawed chain says nothing about single steps, so these stay unlabelled.
  """
  out = []
  for row in rows:
    text = row.string('answer')
    flag = row.get('flag')
    if flag not in (0, 1) or isinstance(flag, bool):
      raise row.fail('flag', flag, '0 or 1')
    split = splitting.split(text, NUMBERED)
    choices = row.values.get('choices')
    question = row.string('question')
    if choices is not None:
      lines = row.texts('choices', choices)
      question += '\n' + '\n'.join(f'({chr(65 + i)}) {c}' for i, c in enumerate(lines))
    trajectory = row.trajectory(
      question,
      split.steps,
      response=text,
      step_spans=split.spans,
      answer=row.maybe_string('final_answer'),
      separator='\n\n',
      verdicts=_verdict(row.truth('correct')),
      meta=row.rest('answer', 'final_answer', 'correct'),
    )
    out.append(_located(row, trajectory, -1 if flag else None))
  return out
