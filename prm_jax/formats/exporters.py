"""Exporters: records to public training formats.

A format holds less than a record: its own fields, and no more, are written. What a
row has and the format cannot say (a soft label where labels are + and -, an unlabelled
step, a marker inside a step, ...) refuses the whole export, so that nothing is lost
unseen; a file that was written reads back (`importers.read`) with the same questions,
steps and labels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from prm_jax import jsonl, records
from prm_jax.errors import UserError
from prm_jax.formats.importers.step_texts import MARKER, split_question
from prm_jax.records import Trajectory

PUT_OUT = 'ask for another format, or put these rows out as records (no export)'


class Style(NamedTuple):
  """What all rows of one file share, so that a column has one type.

  Attributes:
    soft: a label of the set is neither 0 nor 1.
    weighted: a loss weight of the set is not 1.
  """

  soft: bool
  weighted: bool


class Labelled(NamedTuple):
  """A trajectory with the labels to export: values and weights [P]."""

  trajectory: Trajectory
  values: tuple[float, ...]
  weights: tuple[float, ...]


def _fail(trajectory: Trajectory, what: str, remedy: str = PUT_OUT) -> UserError:
  return UserError(f'trajectory {trajectory.id}: {what}; {remedy}.')


def _labelled(trajectory: Trajectory, label: str) -> Labelled:
  """Labels under the name `label`; every step must have one."""
  held = trajectory.labels.get(label)
  if held is None:
    known = ', '.join(map(repr, trajectory.labels)) or 'none'
    raise _fail(
      trajectory,
      f'no label set {label!r} to export (it has {known})',
      'name one of its own with --config.data.label',
    )
  values = []
  for i, value in enumerate(held.values):
    if value is None:
      raise _fail(
        trajectory, f'step {i} has no label under {label!r}, and the format needs one'
      )
    values.append(float(value))
  weights = tuple(map(float, held.weights)) or (1.0,) * len(values)
  return Labelled(trajectory, tuple(values), weights)


def _signs(row: Labelled, format: str) -> list[str]:
  """'+' or '-' a step; refuses soft labels and weights, which signs cannot say."""
  for i, (value, weight) in enumerate(zip(row.values, row.weights)):
    if value not in (0.0, 1.0):
      raise _fail(
        row.trajectory,
        f'the label of step {i} is {value:g}, and {format} holds only + and -',
        'export as trl or openrlhf, which hold numbers',
      )
    _no_weight(row, i, weight, format)
  return ['+' if value else '-' for value in row.values]


def _no_weight(row: Labelled, step: int, weight: float, format: str) -> None:
  if weight != 1:
    raise _fail(
      row.trajectory,
      f'step {step} has loss weight {weight:g}, and {format} holds no weights',
      'export as trl, which gets a column of weights',
    )


def _opening(trajectory: Trajectory, format: str) -> str:
  """Question and first step in one text that `split_question` takes apart again."""
  if not trajectory.steps:
    raise _fail(trajectory, f'there is no step, and {format} has at least one')
  question, step = trajectory.question.strip(), trajectory.steps[0].strip()
  for between in (' ', '\n\n'):
    if split_question(question + between + step) == (question, step):
      return question + between + step
  raise _fail(
    trajectory,
    f"{format} runs question and first step together, and here neither a single 'Step "
    "1:' nor a single blank line would tell them apart",
    'export as trl, which keeps them apart',
  )


def _no_marker(trajectory: Trajectory, format: str) -> None:
  steps = ((f'step {i}', step) for i, step in enumerate(trajectory.steps))
  for name, text in (('the question', trajectory.question), *steps):
    if MARKER in text:
      raise _fail(
        trajectory,
        f'{name} contains {MARKER!r}, the marker that {format} puts after each step',
        'export as trl, which has no marker',
      )


def trl(row: Labelled, style: Style) -> dict[str, Any]:
  """TRL stepwise: `prompt`, `completions`, `labels` (bool; numbers if one is soft).

  If a weight is not 1 there is a column `weights` too, which TRL itself ignores.
  """
  labels = row.values if style.soft else [value == 1 for value in row.values]
  out = {
    'prompt': row.trajectory.question,
    'completions': list(row.trajectory.steps),
    'labels': list(labels),
  }
  return out | ({'weights': list(row.weights)} if style.weighted else {})


def math_shepherd(row: Labelled, style: Style) -> dict[str, Any]:
  """Math-Shepherd: `input`, `label`, and `task` if known.

  White space around a step is not held by the format.
  """
  t = row.trajectory
  signs = _signs(row, 'math_shepherd')
  _no_marker(t, 'math_shepherd')
  steps = [_opening(t, 'math_shepherd'), *(s.strip() for s in t.steps[1:])]
  out = {
    'input': '\n'.join(f'{s} {MARKER}' for s in steps),
    'label': '\n'.join(f'{s} {sign}' for s, sign in zip(steps, signs)),
  }
  task = t.meta.get('task')
  return out | ({'task': task} if isinstance(task, str) else {})


def openrlhf(row: Labelled, style: Style) -> dict[str, Any]:
  """OpenRLHF: `input` with a marker after each step, `value` '+', '-' or numbers.

  White space around a step is not held by the format.
  """
  t = row.trajectory
  for i, weight in enumerate(row.weights):
    _no_weight(row, i, weight, 'openrlhf')
  _no_marker(t, 'openrlhf')
  steps = [_opening(t, 'openrlhf'), *(s.strip() for s in t.steps[1:])]
  return {
    'input': '\n'.join(f'{s} {MARKER}' for s in steps),
    'value': list(row.values) if style.soft else _signs(row, 'openrlhf'),
  }


def rlhflow(row: Labelled, style: Style) -> dict[str, Any]:
  """RLHFlow chat: a user turn a step, answered + or -.

  White space around a step is not held by the format.
  """
  t = row.trajectory
  signs = _signs(row, 'rlhflow')
  turns = []
  steps = [_opening(t, 'rlhflow'), *(s.strip() for s in t.steps[1:])]
  for step, sign in zip(steps, signs):
    turns.append({'role': 'user', 'content': step})
    turns.append({'role': 'assistant', 'content': sign})
  return {'conversations': turns}


def prm800k_trajectories(trajectory: Trajectory) -> dict[str, Any]:
  """PRM800K ratings of whole trajectories: `problem`, `steps`, `ratings`.

  Ratings are raw, so the policy for neutral ones is chosen when they are read; which
  step carries the loss weight follows from the order of the rows.
  """
  if len(trajectory.ratings) != trajectory.n_steps:
    raise _fail(
      trajectory,
      'it has no ratings (-1, 0, 1), which prm800k_trajectories holds',
      'export as trl, which holds labels',
    )
  return {
    'problem': trajectory.question,
    'steps': list(trajectory.steps),
    'ratings': list(trajectory.ratings),
  }


Exporter = Callable[[Sequence[Trajectory], str], list[dict[str, Any]]]


def _by_label(one: Callable[[Labelled, Style], dict[str, Any]]) -> Exporter:
  def export(trajectories: Sequence[Trajectory], label: str) -> list[dict[str, Any]]:
    rows = [_labelled(t, label) for t in trajectories]
    style = Style(
      soft=any(value not in (0.0, 1.0) for row in rows for value in row.values),
      weighted=any(weight != 1 for row in rows for weight in row.weights),
    )
    return [one(row, style) for row in rows]

  return export


EXPORTERS: dict[str, Exporter] = {
  'records': lambda trajectories, label: [records.to_dict(t) for t in trajectories],
  'trl': _by_label(trl),
  'math_shepherd': _by_label(math_shepherd),
  'openrlhf': _by_label(openrlhf),
  'rlhflow': _by_label(rlhflow),
  'prm800k_trajectories': lambda trajectories, label: [
    prm800k_trajectories(t) for t in trajectories
  ],
}


def write(
  path: str | os.PathLike[str],
  trajectories: Iterable[Trajectory],
  format: str,
  *,
  label: str,
) -> int:
  """Writes trajectories as rows of a training format, all of them or no file.

  Args:
    path: .jsonl, or .jsonl.gz to have it zipped.
    trajectories: in the order of the rows.
    format: a name in `EXPORTERS`.
    label: the label set to export; 'records' writes every one, and
      'prm800k_trajectories' the raw ratings.

  Returns:
    The number of rows.

  Raises:
    UserError: unknown format, a file name that says another kind of file, nothing
      to write, or a row that the format cannot hold.
  """
  if format not in EXPORTERS:
    raise UserError(
      f'export format {format!r} is unknown; choose from {", ".join(EXPORTERS)}.'
    )
  jsonl.check_name(path)
  held = list(trajectories)
  if not held:
    raise UserError(f'{path}: there are no rows to export; check the input.')
  return jsonl.write_json_lines(path, EXPORTERS[format](held, label))
