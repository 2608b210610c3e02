"""Training formats with one label a step: TRL, Math-Shepherd, OpenRLHF, RLHFlow.

All but TRL run the question and the first step together. The stated rule that
separates them (`split_question`): at the only 'Step 1:' if there is one, else at
the only blank line. A row that does not fit it exactly once is ambiguous and is
dropped and counted (`ImportOptions.ambiguous`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from math import inf
from typing import Any

from prm_jax.errors import UserError
from prm_jax.formats import label_policy
from prm_jax.formats.importers.rows import Row
from prm_jax.records import LabelSet, Trajectory

MARKER = 'ки'
FIRST_STEP = re.compile(r'(?:##\s*)?\bstep 1:', re.IGNORECASE)

# Public math_shepherd and rlhflow labels: does any of several completions succeed?
MONTE_CARLO = {'by': 'monte_carlo', 'hard': True}


def split_question(text: str) -> tuple[str, str] | None:
  """Separates 'question first-step' by the rule of this module; None if ambiguous.

  >>> split_question('What is 2+2? Step 1: 2+2=4.')
  ('What is 2+2?', 'Step 1: 2+2=4.')
  """
  starts = [m.start() for m in FIRST_STEP.finditer(text)]
  if not starts:
    starts = [m.start() for m in re.finditer(r'\n\n', text.strip())]
    text = text.strip()
  if len(starts) != 1:
    return None
  question, step = text[: starts[0]].strip(), text[starts[0] :].strip()
  return (question, step) if question and step else None


def trl(rows: Iterable[Row]) -> list[Trajectory]:
  """TRL stepwise: `prompt`, `completions` (steps), `labels` (bool or float in [0, 1]).

  A column `weights`, which our exporter adds where a loss weight is not 1, is read.
  """
  out = []
  for row in rows:
    steps = row.strings('completions')
    labels = row.items('labels', row.get('labels'))
    row.same_length('labels', len(labels), len(steps), 'labels')
    values = tuple(_trl_label(row, f'labels[{i}]', v) for i, v in enumerate(labels))
    trajectory = row.trajectory(
      row.string('prompt'),
      steps,
      meta=row.rest('prompt', 'completions', 'labels', 'weights'),
    )
    weights = row.items('weights', row.values.get('weights') or [], len(steps))
    weights = [row.number(f'weights[{i}]', w, 0, inf) for i, w in enumerate(weights)]
    plain = all(w == 1 for w in weights)
    out.append(
      _labelled(row, trajectory, values, 'correctness', {}, () if plain else weights)
    )
  return out


def _trl_label(row: Row, field: str, value: Any) -> float | None:
  if value is None or isinstance(value, bool):
    return None if value is None else float(value)
  if not isinstance(value, (int, float)) or not 0 <= value <= 1:
    want = 'true, false or a number from 0 to 1 (null where a step has no label)'
    raise row.fail(field, value, want)
  return float(value)


def math_shepherd(rows: Iterable[Row]) -> list[Trajectory]:
  """Math-Shepherd: `input` with ' ки' after each step, `label` with + or - instead."""
  out = []
  for row in rows:
    text = row.string('input')
    values = _signs(row, text, row.string('label'))
    fields = {'meta': row.rest('input', 'label')}
    out += _from_text(row, text, MARKER, values, 'value', MONTE_CARLO, fields)
  return out


def _signs(row: Row, text: str, label: str) -> tuple[float, ...]:
  """Reads `label` along `text`; the two may differ in nothing but the markers."""
  parts = text.split(MARKER)
  signs = []
  rest = label
  for part in parts[:-1]:
    sign = rest[len(part) : len(part) + 1]
    if not rest.startswith(part) or sign not in ('+', '-'):
      break
    signs.append(1.0 if sign == '+' else 0.0)
    rest = rest[len(part) + 1 :]
  if len(signs) == len(parts) - 1 and rest == parts[-1]:
    return tuple(signs)
  n_signs = len(re.findall(r'[+-](?=\s*(?:\n|$))', label))
  if n_signs != len(parts) - 1:
    raise UserError(
      f"{row.where}: field 'label' has {n_signs} labels (+ or - at the end of a line) "
      f"for {len(parts) - 1} markers {MARKER!r} in field 'input'; there must be one a "
      'step.'
    )
  raise UserError(
    f"{row.where}: field 'label' differs from field 'input' at step {len(signs) + 1}; "
    f'it must be the same text with + or - in place of each {MARKER!r}.'
  )


def openrlhf(rows: Iterable[Row]) -> list[Trajectory]:
  """OpenRLHF: `input` with a placeholder after each step, `value` a list of labels.

  A label is '+', '-', or a number in [0, 1], as text or as a number.
  """
  out = []
  for row in rows:
    text, marker = row.string('input'), row.options.placeholder
    held = row.items('value', row.get('value'))
    if len(held) != text.count(marker):
      raise UserError(
        f"{row.where}: field 'value' has {len(held)} labels for {text.count(marker)} "
        f"markers {marker!r} in field 'input'; there must be one a step."
      )
    values = tuple(_openrlhf_label(row, f'value[{i}]', v) for i, v in enumerate(held))
    fields = {'meta': row.rest('input', 'value')}
    out += _from_text(row, text, marker, values, 'correctness', {}, fields)
  return out


def _openrlhf_label(row: Row, field: str, value: Any) -> float:
  if value in ('+', '-'):
    return 1.0 if value == '+' else 0.0
  number = value
  if isinstance(value, str):
    try:
      number = float(value)
    except ValueError:
      number = None
  good = isinstance(number, (int, float)) and not isinstance(number, bool)
  if not good or not 0 <= number <= 1:
    raise row.fail(field, value, "'+', '-' or a number from 0 to 1")
  return float(number)


def _from_text(
  row: Row,
  text: str,
  marker: str,
  values: tuple[float, ...],
  kind: str,
  how: dict[str, Any],
  fields: dict[str, Any],
) -> list[Trajectory]:
  """A record from 'question step1 marker step2 marker ...', or [] if ambiguous."""
  *segments, tail = text.split(marker)
  if tail.strip():
    reason = f'text follows the last {marker!r}'
    return _ambiguous(row, 'text_after_last_marker', reason)
  head = split_question(segments[0]) if segments else None
  if head is None:
    return _ambiguous(
      row,
      'ambiguous_first_step',
      "question and first step are not separated by exactly one 'Step 1:' or one blank "
      'line',
    )
  steps = (head[1], *(s.strip() for s in segments[1:]))
  return [_labelled(row, row.trajectory(head[0], steps, **fields), values, kind, how)]


def rlhflow(rows: Iterable[Row]) -> list[Trajectory]:
  """RLHFlow chat: user turns are steps (the first with the question), answers +, -."""
  out = []
  for row in rows:
    turns = row.items('conversations', row.get('conversations'))
    if not turns or len(turns) % 2:
      raise UserError(
        f"{row.where}: field 'conversations' has {len(turns)} turns; there must be a "
        'user turn (a step) and an assistant turn (+ or -) for every step.'
      )
    texts, values = [], []
    for i, turn in enumerate(turns):
      field = f'conversations[{i}]'
      held = row.mapping(field, turn)
      role = ('user', 'assistant')[i % 2]
      if held.get('role') != role:
        raise row.fail(f'{field}.role', held.get('role'), f'{role!r}')
      content = row.text(f'{field}.content', held.get('content'))
      if role == 'user':
        texts.append(content)
      elif content.strip() in ('+', '-'):
        values.append(1.0 if content.strip() == '+' else 0.0)
      else:
        raise row.fail(f'{field}.content', content, "'+' or '-'")
    head = split_question(texts[0])
    if head is None:
      out += _ambiguous(
        row,
        'ambiguous_first_step',
        "the first turn does not hold exactly one 'Step 1:' or one blank line between "
        'question and first step',
      )
      continue
    steps = (head[1], *(s.strip() for s in texts[1:]))
    trajectory = row.trajectory(head[0], steps, meta=row.rest('conversations'))
    out.append(_labelled(row, trajectory, tuple(values), 'value', MONTE_CARLO))
  return out


def _ambiguous(row: Row, counter: str, reason: str) -> list[Trajectory]:
  if row.options.ambiguous == 'error':
    raise UserError(
      f"{row.where}: {reason}; repair the row, or set ambiguous='drop' to leave such "
      'rows out.'
    )
  row.counters[counter] += 1
  return []


def _labelled(
  row: Row,
  trajectory: Trajectory,
  values: tuple[float | None, ...],
  kind: str,
  how: dict[str, Any],
  weights: Sequence[float] = (),
) -> Trajectory:
  labels = LabelSet(row.options.label_kind or kind, values, dict(how), tuple(weights))
  return label_policy.label(trajectory, 'source', labels, row.options)
