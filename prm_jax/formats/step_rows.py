"""Rows of the step format: their text, what becomes of them, why one is unusable."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from prm_jax.errors import UserError
from prm_jax.formats.tokenizers import Tokenizer
from prm_jax.specs import StepFormat

REASONS = (
  'no_steps',
  'empty_step',
  'marker_in_text',
  'marker_mismatch',
  'ambiguous',
  'too_long',
)


class Unusable(Exception):
  """A valid row that this step format cannot use; `reason` is one of `REASONS`.

  no_steps: nothing to read. empty_step: a step of white space only.
  marker_in_text: the marker stands inside question or step. marker_mismatch: encoded
  as a whole, the row does not hold the marker's token at the end of each step.
  ambiguous: two steps would be read at one token, or a step before the first.
  too_long: more tokens than `max_length`.
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
    question_length: tokens before the first step; see `EncodedRows`.
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
    question_length: [R] int32, tokens before the first step. Where question and
      first step are encoded together, a token may hold parts of both: then it is the
      number of leading tokens that are those of the question encoded alone. Rows of
      one question share at least the least of theirs.
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
  if fmt.strip:
    # Where only blanks follow, the message goes on with the first step.
    goes_on = not fmt.question_template.partition('{question}')[2].strip()
    question = question.lstrip() if goes_on else question.strip()
  return fmt.question_template.replace('{question}', question)


def step_text(fmt: StepFormat, step: str, number: int) -> str:
  """The template of step `number`, counted from 1, filled in."""
  template = (number == 1 and fmt.first_step_template) or fmt.step_template
  held = step.strip() if fmt.strip else step
  return template.replace('{number}', str(number)).replace('{step}', held)


def common_length(a: np.ndarray, b: np.ndarray) -> int:
  """How many leading ids of a and b are the same."""
  n = min(len(a), len(b))
  same = a[:n] == b[:n]
  return n if same.all() else int(same.argmin())


def bos_ids(fmt: StepFormat, tokenizer: Tokenizer) -> list[int]:
  """What a row begins with.

  Raises:
    UserError: `add_bos` is set and the tokenizer has no such token.
  """
  if not fmt.add_bos:
    return []
  if tokenizer.bos_id is None:
    raise UserError(
      'format.add_bos is set, but the tokenizer has no beginning-of-sequence '
      'token; unset it.'
    )
  return [tokenizer.bos_id]


def marker_ids(fmt: StepFormat, tokenizer: Tokenizer) -> tuple[int, ...]:
  """Ids of the marker, () where the format has none; a step is read by the last one.

  With encoding 'whole' it is the last id of the marker encoded alone; whether the
  marker becomes that token in its place as well is checked row by row.

  Raises:
    UserError: the marker is not exactly one token of this tokenizer, where it must be.
  """
  if not fmt.marker:
    return ()
  if fmt.encoding == 'whole':
    return tuple(tokenizer.encode(fmt.marker)[-1:])
  found = tokenizer.token_id(fmt.marker)
  if found is not None:
    return (found,)
  pieces = tokenizer.encode(fmt.marker)
  if fmt.marker_in_text == 'allow' and pieces:
    return tuple(pieces)
  raise UserError(
    f'format.marker={fmt.marker!r} is {len(pieces)} tokens {pieces[:8]} of this '
    'tokenizer and must be exactly one; choose one of its special tokens, add the '
    'marker to its vocabulary, or, for a separator of several ordinary tokens, set '
    "format.marker_in_text to 'allow'."
  )


def marker_id(fmt: StepFormat, tokenizer: Tokenizer) -> int | None:
  """The last id of the marker, None where the format has none; see `marker_ids`."""
  return next(iter(marker_ids(fmt, tokenizer)[-1:]), None)


def reason_in_text(
  fmt: StepFormat, question: str, steps: Sequence[str], allow_empty: bool
) -> str:
  """Why a row cannot be used, as far as its text says; '' if it can."""
  if not steps:
    return 'no_steps'
  if not allow_empty and not all(map(str.strip, steps)):
    return 'empty_step'
  refused = fmt.marker if fmt.marker_in_text == 'refuse' else ''
  if refused and (refused in question or any(refused in s for s in steps)):
    return 'marker_in_text'
  return ''


def refuse_length(fmt: StepFormat, name: str, length: int) -> None:
  """Raises if a row of `length` tokens is too long and this is to be an error."""
  if fmt.truncation == 'error':
    raise UserError(
      f'{name}: {length} tokens are more than format.max_length='
      f'{fmt.max_length}; raise it, or set format.truncation to '
      "'drop_example' or 'drop_steps'."
    )
