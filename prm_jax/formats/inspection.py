"""What a scorer sees of a row: token | step | label, for a person to check."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prm_jax.formats.step_format import Encoded, Unusable, encode
from prm_jax.formats.tokenizers import Tokenizer
from prm_jax.records import Trajectory
from prm_jax.specs import StepFormat


def render(
  trajectories: Iterable[Trajectory],
  fmt: StepFormat,
  tokenizer: Tokenizer,
  label: str,
  *,
  allow_empty: bool = False,
  limit: int = 0,
) -> str:
  """Table of the tokens of each trajectory.

  A line a token: its index, id and text, the step it belongs to ('-' for the
  question), and, where a step is read, an arrow with its label under the label set
  `label` ('unlabelled' where null, with its loss weight where that is not 1).

  Args:
    trajectories: the chosen rows.
    fmt, tokenizer: as in training.
    label: name of the label set; '' shows none.
    allow_empty: encode empty steps too.
    limit: most tokens shown of one question or step; 0 shows all.
  """
  return '\n'.join(
    _one(t, fmt, tokenizer, label, allow_empty, limit) for t in trajectories
  )


def _one(
  trajectory: Trajectory,
  fmt: StepFormat,
  tokenizer: Tokenizer,
  label: str,
  allow_empty: bool,
  limit: int,
) -> str:
  head = (
    f'{trajectory.id} (problem {trajectory.problem_id}, {trajectory.source or "-"})'
  )
  try:
    row = encode(
      fmt, tokenizer, trajectory.question, trajectory.steps, allow_empty=allow_empty
    )
  except Unusable as e:
    return f'{head}: not usable, {e}\n'
  steps = f'{row.n_steps} of {trajectory.n_steps} steps'
  reads = {int(p): i for i, p in enumerate(row.step_positions)}
  table = [('index', 'id', 'token', 'step', 'label')]
  for start, end, step in _spans(fmt, row):
    skipped = False
    for i in range(start, end):
      if limit and i - start >= limit and i < end - 1 and i not in reads:
        skipped = True
        continue
      if skipped:
        table.append(('...', '', '', step, ''))
        skipped = False
      token = int(row.tokens[i])
      read = '' if i not in reads else _label(trajectory, label, reads[i])
      table.append((str(i), str(token), repr(tokenizer.decode([token])), step, read))
  return f'{head}: {len(row.tokens)} tokens, {steps}\n{_columns(table)}\n'


def _spans(fmt: StepFormat, row: Encoded) -> list[tuple[int, int, str]]:
  """(start, end, name) of the question and of each step."""
  last = 2 if fmt.position == 'before' else 1
  ends = [row.question_length, *(int(p) + last for p in row.step_positions)]
  names = ['-', *(str(i) for i in range(row.n_steps))]
  return list(zip([0, *ends[:-1]], ends, names))


def _label(trajectory: Trajectory, label: str, step: int) -> str:
  held = trajectory.labels.get(label)
  value = None if held is None else held.values[step]
  shown = 'unlabelled' if value is None else f'{value:g}'
  weight = 1.0 if held is None or not held.weights else held.weights[step]
  arrow = f'<- step {step}'
  if not label:
    return arrow
  return f'{arrow}: {shown}' + ('' if weight == 1 else f' (weight {weight:g})')


def _columns(table: Sequence[tuple[str, ...]]) -> str:
  widths = [max(map(len, column)) for column in zip(*table)]
  return '\n'.join(
    ' | '.join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
    for line in table
  )
