"""From question and steps to tokens and the positions where steps are read.

The contract that keeps training and inference ids identical: everything that
turns text into ids for a scorer goes through here. `StepFormat.encoding` says what is
encoded together: step_pieces.py ('pieces', 'joined') and step_whole.py ('whole').
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from prm_jax.errors import UserError
from prm_jax.formats import step_pieces, step_whole
from prm_jax.formats.step_rows import (
  REASONS,
  Encoded,
  EncodedRows,
  Unusable,
  bos_ids,
  marker_id,
  marker_ids,
  question_text,
  reason_in_text,
  refuse_length,
  step_text,
)
from prm_jax.formats.tokenizers import Tokenizer
from prm_jax.specs import HeadSpec, StepFormat

POSITIONS = ('marker', 'before')
TRUNCATIONS = ('error', 'drop_example', 'drop_steps')
ENCODINGS = ('pieces', 'joined', 'whole')
IN_TEXT = ('refuse', 'allow', 'split')

__all__ = [
  'ENCODINGS',
  'IN_TEXT',
  'POSITIONS',
  'REASONS',
  'TRUNCATIONS',
  'Encoded',
  'EncodedRows',
  'Unusable',
  'check',
  'check_dataset',
  'encode',
  'encode_question',
  'encode_rows',
  'encode_step',
  'label_token_ids',
  'marker_id',
  'marker_ids',
  'question_text',
  'refuse_length',
  'step_reason',
  'step_text',
]


def encode_question(fmt: StepFormat, tokenizer: Tokenizer, question: str) -> np.ndarray:
  """[T] int32: the question encoded alone, with bos where asked for.

  With encoding 'pieces' every row of the question begins with it; otherwise only as
  far as `Encoded.question_length` says.
  """
  ids = tokenizer.encode(question_text(fmt, question))
  return np.array(bos_ids(fmt, tokenizer) + ids, np.int32)


def encode_step(
  fmt: StepFormat, tokenizer: Tokenizer, step: str, number: int
) -> np.ndarray:
  """[T] int32: what step `number` (from 1) appends to a row, marker included.

  Raises:
    ValueError: the step does not stand alone: every step of encoding 'whole', the
      first one of 'joined'. Encode the row instead.
  """
  if not fmt.extends or (fmt.encoding == 'joined' and number == 1):
    raise ValueError(f'step {number} has no ids of its own in {fmt.encoding!r}')
  marker = marker_ids(fmt, tokenizer)
  text = step_text(fmt, step, number)
  parts = text.split(fmt.marker) if fmt.marker_in_text == 'split' else [text]
  ids = [i for part in parts for i in (*tokenizer.encode(part), *marker)]
  return np.array(ids, np.int32)


def step_reason(fmt: StepFormat, tokenizer: Tokenizer, step: str, number: int) -> str:
  """Why step `number` makes its row unusable, whatever the length; '' if it does not.

  What `encode_rows` says of the row, for a step that stands alone (`encode_step`).
  """
  reason = reason_in_text(fmt, '', [step], allow_empty=False)
  marker = marker_id(fmt, tokenizer)
  if reason or marker is None or fmt.marker_in_text != 'refuse':
    return reason
  count = lambda s: tokenizer.encode(step_text(fmt, s, number)).count(marker)
  return 'marker_in_text' if count(step) > count('') else ''


def encode(
  fmt: StepFormat,
  tokenizer: Tokenizer,
  question: str,
  steps: Sequence[str],
  *,
  allow_empty: bool = False,
) -> Encoded:
  """One question and its steps.

  Args:
    fmt: checked by `check` beforehand.
    tokenizer: the one the format is used with.
    question, steps: text.
    allow_empty: score empty steps (probes); training refuses them.

  Raises:
    Unusable: the row is valid but cannot be used; see there.
    UserError: the row is too long and `fmt.truncation` is 'error'.
  """
  rows = encode_rows(fmt, tokenizer, [question], [steps], allow_empty=allow_empty)
  return rows.row(0)


def encode_rows(
  fmt: StepFormat,
  tokenizer: Tokenizer,
  questions: Sequence[str],
  steps: Sequence[Sequence[str]],
  *,
  allow_empty: bool = False,
  names: Sequence[str] | None = None,
) -> EncodedRows:
  """Many rows at once.

  Args:
    fmt, tokenizer, allow_empty: as in `encode`.
    questions, steps: R each.
    names: R names of rows for messages.

  Raises:
    UserError: a row is too long and `fmt.truncation` is 'error'.
  """
  called = [f'row {r}' for r in range(len(steps))] if names is None else names
  encoding = step_whole if fmt.encoding == 'whole' else step_pieces
  return encoding.encode_rows(
    fmt, tokenizer, questions, steps, allow_empty=allow_empty, names=called
  )


def label_token_ids(tokenizer: Tokenizer, names: Sequence[str]) -> tuple[int, ...]:
  """Ids of label tokens, worst to best, for a head that reads the vocabulary.

  Raises:
    UserError: a name is not a single token, or two are the same one.
  """
  ids = []
  for name in names:
    found = tokenizer.token_id(name)
    if found is None:
      raise UserError(
        f'label token {name!r} is {len(tokenizer.encode(name))} tokens of this '
        'tokenizer and must be exactly one; mind a leading blank.'
      )
    ids.append(found)
  if len(set(ids)) != len(ids):
    raise UserError(f'label tokens {list(names)} are not distinct: ids {ids}.')
  return tuple(ids)


def check(
  fmt: StepFormat,
  tokenizer: Tokenizer,
  *,
  head: HeadSpec | None = None,
  vocab_size: int | None = None,
) -> None:
  """Refuses a format that cannot work, before anything is encoded.

  Args:
    fmt, tokenizer: to be used together.
    head: also check its label tokens.
    vocab_size: V of the model; also check that it holds every id.

  Raises:
    UserError: names the key that is wrong and what it must be.
  """
  for key, value, slot in (
    ('question_template', fmt.question_template, '{question}'),
    ('step_template', fmt.step_template, '{step}'),
    ('first_step_template', fmt.first_step_template or '{step}', '{step}'),
  ):
    if value.count(slot) != 1:
      raise UserError(
        f'format.{key}={value!r} must contain {slot} exactly once, so that the '
        'text has a place in it.'
      )
  for key, value, known in (
    ('position', fmt.position, POSITIONS),
    ('truncation', fmt.truncation, TRUNCATIONS),
    ('encoding', fmt.encoding, ENCODINGS),
    ('marker_in_text', fmt.marker_in_text, IN_TEXT),
  ):
    if value not in known:
      raise UserError(f'format.{key}={value!r} must be one of {", ".join(known)}.')
  _check_marker(fmt, tokenizer)
  empty = question_text(fmt, '') + step_text(fmt, '', 1)
  shortest = len(bos_ids(fmt, tokenizer)) + len(marker_ids(fmt, tokenizer))
  shortest += len(tokenizer.encode(empty))
  if fmt.max_length < max(shortest, 1):
    raise UserError(
      f'format.max_length={fmt.max_length} is below the {shortest} tokens of an '
      'empty question and step; raise it.'
    )
  if vocab_size is not None and tokenizer.vocab_size > vocab_size:
    raise UserError(
      f'the tokenizer has {tokenizer.vocab_size} ids and the model only vocab_size='
      f'{vocab_size}; raise it or take the tokenizer that the model was made with.'
    )
  if head is not None and head.kind == 'label_tokens':
    ids = head.label_tokens
    bad = len(ids) < 2 or len(set(ids)) != len(ids)
    if bad or not all(0 <= i < tokenizer.vocab_size for i in ids):
      raise UserError(
        f'head.label_tokens={list(ids)} must be at least two distinct ids below '
        f'{tokenizer.vocab_size}, worst to best.'
      )


def _check_marker(fmt: StepFormat, tokenizer: Tokenizer) -> None:
  for key, value in (
    ('step_template', fmt.step_template),
    ('first_step_template', fmt.first_step_template),
  ):
    # An ordinary token may stand in a template; it is read by its place.
    if fmt.marker_in_text != 'allow' and fmt.marker and fmt.marker in value:
      raise UserError(
        f'format.{key}={value!r} holds the marker {fmt.marker!r}, which is '
        'appended after each step anyway; leave it out there.'
      )
  if fmt.marker_in_text == 'split' and (not fmt.marker or not fmt.extends):
    raise UserError(
      f"format.marker_in_text='split' with marker={fmt.marker!r} and encoding="
      f"{fmt.encoding!r}: it needs a marker to cut at and encoding 'pieces' or "
      "'joined'."
    )
  marker = marker_id(fmt, tokenizer)
  if fmt.extends or marker is None:
    return
  # Where text runs on, the marker may become other tokens than alone.
  sample = dataclasses.replace(
    fmt, marker_in_text='allow', max_length=1 << 30, truncation='error'
  )
  try:
    encode(sample, tokenizer, 'x', ['x', 'x'])
  except Unusable as e:
    text = question_text(fmt, 'x') + step_text(fmt, 'x', 1) + fmt.marker
    seen = tokenizer.encode(text)
    raise UserError(
      f'format.marker={fmt.marker!r} is token {marker} alone but not after a '
      f'step ({text!r} gives {seen[-8:]}, last token '
      f'{tokenizer.decode(seen[-1:])!r}); write it as it stands there, for example '
      'with the blank before it, or add it as a special token.'
    ) from e


def check_dataset(
  fmt: StepFormat, tokenizer: Tokenizer, rows: EncodedRows, labelled: np.ndarray
) -> None:
  """Refuses data on which training would be silently wrong.

  Args:
    fmt, tokenizer: what `rows` was encoded with.
    rows: usable rows only.
    labelled: [sum of P] bool, which steps carry a label.

  Raises:
    UserError: no step is labelled, a row's markers are not its steps, or two steps
      are read at one token.
  """
  if not labelled.any():
    raise UserError(
      'no step of the data carries a label, so there is nothing to learn; check the '
      'label name and the label policy.'
    )
  if len(labelled) != len(rows.step_positions):
    raise UserError(
      f'{len(labelled)} labels stand against {len(rows.step_positions)} steps; there '
      'must be one a step.'
    )
  n_steps = np.diff(rows.step_offsets)
  length = np.diff(rows.offsets)
  owner = np.repeat(np.arange(len(n_steps)), n_steps)
  at = rows.step_positions.astype(np.int64)
  outside = (at < 0) | (at >= length[owner])
  twice = np.zeros(len(at), bool)
  twice[1:] = (owner[1:] == owner[:-1]) & (at[1:] <= at[:-1])
  _refuse(owner[outside | twice], 'reads two steps at one token, or a step outside it')
  marker = marker_ids(fmt, tokenizer)
  if not marker:
    return
  if fmt.marker_in_text == 'refuse':
    row_of = np.repeat(np.arange(len(n_steps)), length)
    within = np.arange(len(rows.tokens)) - rows.offsets[row_of]
    hit = (rows.tokens == marker[-1]) & (within >= rows.question_length[row_of])
    count = np.bincount(row_of[hit], minlength=len(n_steps))
    _refuse(np.flatnonzero(count != n_steps), 'has more or fewer markers than steps')
  before = fmt.position == 'before'
  if before and not fmt.extends:
    return  # which token a marker begins with is known only within its text
  at, token = (at + 1, marker[0]) if before else (at, marker[-1])
  beyond = at >= length[owner]
  read = rows.tokens[np.where(beyond, 0, rows.offsets[owner] + at)]
  _refuse(owner[beyond | (read != token)], 'is not read at its markers')


def _refuse(bad: np.ndarray, what: str) -> None:
  if len(bad):
    raise UserError(
      f'encoded row {bad[0]} {what} ({len(np.unique(bad))} such rows); look at it with '
      'the inspect job and change the step format.'
    )
