"""What a scorer sees of a row: token | step | label, for a person to check."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prm_jax.formats import step_whole
from prm_jax.formats.step_format import (
  Encoded,
  Unusable,
  encode,
  encode_question,
  marker_id,
  marker_ids,
)
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
  question, '-/0' for tokens that question and first step share), and, where a step is
  read, an arrow with its label under the label set `label` ('unlabelled' where null,
  with its loss weight where that is not 1). A row that has only other label sets says
  which. Of a row whose marker becomes other tokens
  than it is alone, these tokens are shown.

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
    seen = ''
    if e.reason == 'marker_mismatch':
      seen = _marker_in_place(trajectory, fmt, tokenizer)
    return f'{head}: not usable, {e}\n{seen}'
  steps = f'{row.n_steps} of {trajectory.n_steps} steps'
  reads = {int(p): i for i, p in enumerate(row.step_positions)}
  table = [('index', 'id', 'token', 'step', 'label')]
  for start, end, step in _spans(trajectory, fmt, tokenizer, row):
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
  how = '' if fmt.extends else '; ids of a prefix may differ, so prefixes are re-scored'
  if tokenizer.adds_bos and row.tokens[0] != tokenizer.bos_id:
    how += f"; without the {tokenizer.names['bos_token']} of this tokenizer's own code"
  if label and trajectory.labels and label not in trajectory.labels:
    how += (
      f'; no label set {label!r}, it has {", ".join(map(repr, trajectory.labels))} '
      '(--config.data.label)'
    )
  return f'{head}: {len(row.tokens)} tokens, {steps}{how}\n{_columns(table)}\n'


def _spans(
  trajectory: Trajectory, fmt: StepFormat, tokenizer: Tokenizer, row: Encoded
) -> list[tuple[int, int, str]]:
  """(start, end, name) of the question, of each step, and of what they share."""
  after = 1
  if fmt.position == 'before':
    whole = tokenizer.encode(fmt.marker)
    after += max(len(marker_ids(fmt, tokenizer) if fmt.extends else whole), 1)
  ends = [min(int(p) + after, len(row.tokens)) for p in row.step_positions]
  alone = len(encode_question(fmt, tokenizer, trajectory.question))
  shared = row.question_length
  if fmt.encoding != 'pieces' and row.n_steps:
    shared = min(max(alone, shared), ends[0])
  ends = [row.question_length, shared, *ends]
  names = ['-', '-/0', *(str(i) for i in range(row.n_steps))]
  return list(zip([0, *ends[:-1]], ends, names))


def _marker_in_place(
  trajectory: Trajectory, fmt: StepFormat, tokenizer: Tokenizer
) -> str:
  """The tokens that the marker became after each step."""
  marker = marker_id(fmt, tokenizer)
  lines = [f'  the marker {fmt.marker!r} alone is token {marker}; in its place it is']
  found = step_whole.marker_tokens(
    fmt, tokenizer, trajectory.question, trajectory.steps
  )
  for i, ids in enumerate(found):
    lines.append(f'  after step {i}: {ids} {tokenizer.decode(ids)!r}')
  return '\n'.join(lines) + '\n'


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
