"""From question and steps to tokens and the positions where steps are read.

The contract that keeps training and inference ids identical: everything that
turns text into ids for a scorer goes through here. Question and steps are encoded
one by one and put end to end, so the ids of a prefix are a prefix of the ids; the
marker is appended as an id, never as text, so it cannot merge with its neighbours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from prm_jax.errors import UserError
from prm_jax.formats.tokenizers import Tokenizer
from prm_jax.specs import HeadSpec, StepFormat

REASONS = ('no_steps', 'empty_step', 'marker_in_text', 'too_long', 'ambiguous')
POSITIONS = ('marker', 'before')
TRUNCATIONS = ('error', 'drop_example', 'drop_steps')


class Unusable(Exception):
  """A valid row that this step format cannot use; `reason` is one of `REASONS`.

  no_steps: nothing to read. empty_step: a step of white space only.
  marker_in_text: the marker stands inside question or step. too_long: more tokens
  than `max_length`. ambiguous: two steps would be read at one token, or a step
  before the first.
  """

  def __init__(self, reason: str, detail: str = ''):
    super().__init__(f'{reason}: {detail}' if detail else reason)
    self.reason = reason
    self.detail = detail


@dataclasses.dataclass(frozen=True)
class Encoded:
  """One row. `n_steps` <= the steps given, by truncation 'drop_steps'.

  Attributes:
    tokens: [T] int32.
    step_positions: [P] int32, strictly increasing indices into `tokens`.
    n_steps: P, steps kept.
    question_length: tokens before the first step.
  """

  tokens: np.ndarray
  step_positions: np.ndarray
  n_steps: int
  question_length: int


@dataclasses.dataclass(frozen=True)
class EncodedRows:
  """R rows end to end. An unusable row takes no room: both its extents are empty.

  Attributes:
    tokens: [sum of T] int32.
    offsets: [R + 1] int64, row r is `tokens[offsets[r]:offsets[r + 1]]`.
    step_positions: [sum of P] int32, relative to the row's start.
    step_offsets: [R + 1] int64.
    question_length: [R] int32, tokens before the first step.
    full_length: [R] int64, tokens before any truncation.
    reasons: R strings, '' for a usable row, else one of `REASONS`.
  """

  tokens: np.ndarray
  offsets: np.ndarray
  step_positions: np.ndarray
  step_offsets: np.ndarray
  question_length: np.ndarray
  full_length: np.ndarray
  reasons: list[str]

  def row(self, r: int) -> Encoded:
    """Row r; raises `Unusable` if it is."""
    if self.reasons[r]:
      raise Unusable(self.reasons[r], f'{self.full_length[r]} tokens in all')
    positions = self.step_positions[self.step_offsets[r] : self.step_offsets[r + 1]]
    return Encoded(
      self.tokens[self.offsets[r] : self.offsets[r + 1]],
      positions,
      len(positions),
      int(self.question_length[r]),
    )


def question_text(fmt: StepFormat, question: str) -> str:
  """`question_template` filled in; braces in the question stay as they are."""
  return fmt.question_template.replace('{question}', question)


def step_text(fmt: StepFormat, step: str, number: int) -> str:
  """The template of step `number`, counted from 1, filled in."""
  template = (number == 1 and fmt.first_step_template) or fmt.step_template
  return template.replace('{number}', str(number)).replace('{step}', step)


def encode_question(fmt: StepFormat, tokenizer: Tokenizer, question: str) -> np.ndarray:
  """[T] int32: what stands before the first step, with bos where asked for."""
  ids = tokenizer.encode(question_text(fmt, question))
  return np.array(_bos(fmt, tokenizer) + ids, np.int32)


def encode_step(
  fmt: StepFormat, tokenizer: Tokenizer, step: str, number: int
) -> np.ndarray:
  """[T] int32: what step `number` (from 1) appends to a row, marker included."""
  ids = tokenizer.encode(step_text(fmt, step, number))
  marker = marker_id(fmt, tokenizer)
  return np.array(ids if marker is None else [*ids, marker], np.int32)


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
  """Many rows at once, without a Python loop over tokens.

  Args:
    fmt, tokenizer, allow_empty: as in `encode`.
    questions, steps: R each.
    names: R names of rows for messages.

  Raises:
    UserError: a row is too long and `fmt.truncation` is 'error'.
  """
  marker = marker_id(fmt, tokenizer)
  # Pieces: a row's question, then its steps; rows end to end.
  n_steps = np.fromiter(map(len, steps), np.int64, len(steps))
  n_pieces = n_steps + 1
  first_piece = np.concatenate([[0], np.cumsum(n_pieces)]).astype(np.int64)
  texts: list[str] = []
  for question, row in zip(questions, steps):
    texts.append(question_text(fmt, question))
    texts.extend(step_text(fmt, s, i) for i, s in enumerate(row, 1))
  ids, n_ids = tokenizer.encode_ragged(texts)
  row_of = np.repeat(np.arange(len(steps)), n_pieces)
  is_step = np.ones(len(texts), bool)
  is_step[first_piece[:-1]] = False
  bos = _bos(fmt, tokenizer)
  before = np.where(is_step, 0, len(bos))
  after = np.where(is_step, int(marker is not None), 0)
  size = before + n_ids + after

  ends = np.cumsum(size)
  row_start = np.concatenate([[0], ends])[first_piece[:-1]]
  end = ends - row_start[row_of]  # of each piece, within its row
  full_length = end[first_piece[1:] - 1]
  position = end - 1 - int(fmt.position == 'before')

  reasons = [''] * len(steps)
  found = _id_in_text(fmt, tokenizer, marker, ids, n_ids, is_step, first_piece)
  marked = set(row_of[found].tolist())
  clash = set(row_of[is_step & ((size == 0) | (position < 0))].tolist())
  fits = end <= fmt.max_length
  long = set(np.flatnonzero(full_length > fmt.max_length).tolist())
  # With 'drop_steps' a row is lost only if not even its first step fits.
  lost = long
  if fmt.truncation == 'drop_steps':
    lost = {r for r in long if n_steps[r] and not fits[first_piece[r] + 1]}
  for r, (question, row) in enumerate(zip(questions, steps)):
    if not row:
      reasons[r] = 'no_steps'
    elif not allow_empty and not all(map(str.strip, row)):
      reasons[r] = 'empty_step'
    elif r in marked or (
      fmt.marker and (fmt.marker in question or any(fmt.marker in s for s in row))
    ):
      reasons[r] = 'marker_in_text'
    elif r in clash:
      reasons[r] = 'ambiguous'
    elif r in lost:
      reasons[r] = 'too_long'
      if fmt.truncation == 'error':
        name = f'row {r}' if names is None else names[r]
        raise UserError(
          f'{name}: {full_length[r]} tokens are more than step_format.max_length='
          f'{fmt.max_length}; raise it, or set step_format.truncation to '
          "'drop_example' or 'drop_steps'."
        )

  usable = np.array([not reason for reason in reasons], bool)
  keep = fits & usable[row_of]
  tokens = np.empty(int(size.sum()), np.int32)
  starts = ends - size
  text = np.ones(len(tokens), bool)
  for k, token in enumerate(bos):
    slots = starts[~is_step] + k
    tokens[slots], text[slots] = token, False
  if marker is not None:
    slots = ends[is_step] - 1
    tokens[slots], text[slots] = marker, False
  tokens[text] = ids
  length = np.bincount(row_of, np.where(keep, size, 0), len(steps)).astype(np.int64)
  kept_steps = keep & is_step
  n_kept = np.bincount(row_of[kept_steps], minlength=len(steps))
  return EncodedRows(
    tokens=tokens[np.repeat(keep, size)],
    offsets=np.concatenate([[0], np.cumsum(length)]).astype(np.int64),
    step_positions=position[kept_steps].astype(np.int32),
    step_offsets=np.concatenate([[0], np.cumsum(n_kept)]).astype(np.int64),
    question_length=size[first_piece[:-1]].astype(np.int32),
    full_length=full_length.astype(np.int64),
    reasons=reasons,
  )


def _id_in_text(
  fmt: StepFormat,
  tokenizer: Tokenizer,
  marker: int | None,
  ids: np.ndarray,
  n_ids: np.ndarray,
  is_step: np.ndarray,
  first_piece: np.ndarray,
) -> np.ndarray:
  """Which pieces hold the marker's id more often than their bare template does."""
  if marker is None:
    return np.zeros(len(n_ids), bool)
  piece_of = np.repeat(np.arange(len(n_ids)), n_ids)
  count = np.bincount(piece_of[ids == marker], minlength=len(n_ids))
  if not count.any():
    return count > 0
  bare = np.where(
    is_step,
    tokenizer.encode(step_text(fmt, '', 2)).count(marker),
    tokenizer.encode(question_text(fmt, '')).count(marker),
  )
  opening = first_piece[:-1][np.diff(first_piece) > 1] + 1
  bare[opening] = tokenizer.encode(step_text(fmt, '', 1)).count(marker)
  return count > bare


def _bos(fmt: StepFormat, tokenizer: Tokenizer) -> list[int]:
  if not fmt.add_bos:
    return []
  if tokenizer.bos_id is None:
    raise UserError(
      'step_format.add_bos is set, but the tokenizer has no beginning-of-sequence '
      'token; unset it.'
    )
  return [tokenizer.bos_id]


def marker_id(fmt: StepFormat, tokenizer: Tokenizer) -> int | None:
  """Id of the marker, None where the format has none.

  Raises:
    UserError: the marker is not exactly one token of this tokenizer.
  """
  if not fmt.marker:
    return None
  found = tokenizer.token_id(fmt.marker)
  if found is None:
    pieces = tokenizer.encode(fmt.marker)
    raise UserError(
      f'step_format.marker={fmt.marker!r} is {len(pieces)} tokens {pieces[:8]} of this '
      'tokenizer and must be exactly one; choose one of its special tokens or add the '
      'marker to its vocabulary.'
    )
  return found


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
        f'step_format.{key}={value!r} must contain {slot} exactly once, so that the '
        'text has a place in it.'
      )
  for key, value, known in (
    ('position', fmt.position, POSITIONS),
    ('truncation', fmt.truncation, TRUNCATIONS),
  ):
    if value not in known:
      raise UserError(f'step_format.{key}={value!r} must be one of {", ".join(known)}.')
  marker = marker_id(fmt, tokenizer)
  for key, value in (
    ('step_template', fmt.step_template),
    ('first_step_template', fmt.first_step_template),
  ):
    if fmt.marker and fmt.marker in value:
      raise UserError(
        f'step_format.{key}={value!r} holds the marker {fmt.marker!r}, which is '
        'appended after each step anyway; leave it out there.'
      )
  shortest = len(_bos(fmt, tokenizer)) + len(tokenizer.encode(question_text(fmt, '')))
  shortest += len(tokenizer.encode(step_text(fmt, '', 1)))
  shortest += int(marker is not None)
  if fmt.max_length < max(shortest, 1):
    raise UserError(
      f'step_format.max_length={fmt.max_length} is below the {shortest} tokens of an '
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
  marker = marker_id(fmt, tokenizer)
  if marker is None:
    return
  row_of = np.repeat(np.arange(len(n_steps)), length)
  within = np.arange(len(rows.tokens)) - rows.offsets[row_of]
  hit = (rows.tokens == marker) & (within >= rows.question_length[row_of])
  count = np.bincount(row_of[hit], minlength=len(n_steps))
  _refuse(np.flatnonzero(count != n_steps), 'has more or fewer markers than steps')
  where = rows.offsets[owner] + at + int(fmt.position == 'before')
  _refuse(owner[rows.tokens[where] != marker], 'is not read at its markers')


def _refuse(bad: np.ndarray, what: str) -> None:
  if len(bad):
    raise UserError(
      f'encoded row {bad[0]} {what} ({len(np.unique(bad))} such rows); look at it with '
      'the inspect job and change the step format.'
    )
