"""The text format: how a question and a solution are written for a policy.

    question_template filled in | step | separator | step | separator | step | end

Question and steps, each step with its separator, are encoded one by one, so the ids
of a prefix are a prefix of the ids, whatever the tokenizer would merge across a
boundary. A policy is trained and asked in the same ids.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prm_jax.errors import UserError
from prm_jax.formats import step_format
from prm_jax.formats.step_format import EncodedRows
from prm_jax.formats.tokenizers import Tokenizer
from prm_jax.specs import StepFormat, TextFormat


def end_id(fmt: TextFormat, tokenizer: Tokenizer) -> int | None:
  """Id of the token that ends a response, None where the format has none.

  Raises:
    UserError: it is not exactly one token of this tokenizer.
  """
  if not fmt.end:
    return None
  found = tokenizer.token_id(fmt.end)
  if found is None:
    raise UserError(
      f'text.end={fmt.end!r} is {len(tokenizer.encode(fmt.end))} tokens of this '
      'tokenizer and must be exactly one; choose one of its special tokens or add it '
      'to the vocabulary.'
    )
  return found


def check(fmt: TextFormat, tokenizer: Tokenizer) -> None:
  """Refuses a format that cannot work with this tokenizer.

  Raises:
    UserError: names the key that is wrong and what it must be.
  """
  if fmt.question_template.count('{question}') != 1:
    raise UserError(
      f'text.question_template={fmt.question_template!r} must contain {{question}} '
      'exactly once, so that the question has a place in it.'
    )
  if not fmt.separator:
    raise UserError(
      "text.separator='' leaves nothing to tell steps apart by; give a text such as "
      "'\\n'."
    )
  if fmt.end and fmt.end in fmt.question_template + fmt.separator:
    raise UserError(
      f'text.end={fmt.end!r} stands in question_template or separator, where it would '
      'end a response before its time; leave it out there.'
    )
  end_id(fmt, tokenizer)
  if fmt.add_bos and tokenizer.bos_id is None:
    raise UserError(
      'text.add_bos is set, but the tokenizer has no beginning-of-sequence token; '
      'unset it.'
    )
  shortest = len(_question_ids(fmt, tokenizer, '')) + 1
  if fmt.max_length <= shortest:
    raise UserError(
      f'text.max_length={fmt.max_length} holds no more than the {shortest} tokens of '
      'an empty question and an end; raise it.'
    )


def question_text(fmt: TextFormat, question: str) -> str:
  """`question_template` filled in; braces in the question stay as they are."""
  return fmt.question_template.replace('{question}', question)


def prompt_text(fmt: TextFormat, question: str, steps: Sequence[str]) -> str:
  """What a policy is to continue: the question, and each step with its separator."""
  return question_text(fmt, question) + ''.join(s + fmt.separator for s in steps)


def encode_prefixes(
  fmt: TextFormat,
  tokenizer: Tokenizer,
  question: str,
  steps: Sequence[str],
  begun: str = '',
) -> tuple[np.ndarray, np.ndarray]:
  """Ids of all prompts that one solution gives.

  A step that is only `begun` belongs to the last prompt, without a separator.

  Returns:
    tokens int32 [T], of the question and of every step with its separator; ends
    int32 [P + 1]: tokens[:ends[k]] is the prompt of the first k steps.
  """
  pieces = [_question_ids(fmt, tokenizer, question)]
  pieces += [tokenizer.encode(s + fmt.separator) for s in steps]
  pieces[-1] = pieces[-1] + tokenizer.encode(begun)
  ends = np.cumsum([len(p) for p in pieces]).astype(np.int32)
  return np.array([i for p in pieces for i in p], np.int32), ends


def encode_solution(
  fmt: TextFormat, tokenizer: Tokenizer, question: str, steps: Sequence[str]
) -> tuple[np.ndarray, int]:
  """Ids of a whole solution, as a policy is trained on it.

  Returns:
    tokens int32 [T], the last step without separator, then the end token; and the
    number of tokens of the question.
  """
  tokens, ends = encode_prefixes(fmt, tokenizer, question, steps[:-1])
  tail = tokenizer.encode(steps[-1]) if steps else []
  end = end_id(fmt, tokenizer)
  tail = tail if end is None else [*tail, end]
  return np.concatenate([tokens, np.array(tail, np.int32)]), int(ends[0])


def encode_rows(
  fmt: TextFormat,
  tokenizer: Tokenizer,
  questions: Sequence[str],
  steps: Sequence[Sequence[str]],
) -> EncodedRows:
  """`encode_solution` of many rows at once, without a Python loop over tokens.

  Rows are unusable for the reasons of the step format; the end token is the marker
  that must not stand inside a text. `step_positions` are the last tokens of the
  steps: of the separator, and for the last step the end token.

  Raises:
    UserError: the format cannot work with the tokenizer.
  """
  end = end_id(fmt, tokenizer)
  room = int(end is not None)
  whole = StepFormat(
    question_template=fmt.question_template,
    step_template='{step}',
    marker='',
    add_bos=fmt.add_bos,
    max_length=fmt.max_length - room,
    truncation='drop_example',
  )
  marked = [
    bool(fmt.end) and (fmt.end in question or any(fmt.end in s for s in row))
    for question, row in zip(questions, steps)
  ]
  # Checked before the separators are added, which are no step's content.
  empty = [not all(map(str.strip, row)) for row in steps]
  joined = [
    [] if found or blank else [*(s + fmt.separator for s in row[:-1]), *row[-1:]]
    for row, found, blank in zip(steps, marked, empty)
  ]
  rows = step_format.encode_rows(whole, tokenizer, questions, joined)
  reasons = [
    'marker_in_text' if found else 'empty_step' if blank else reason
    for found, blank, reason in zip(marked, empty, rows.reasons)
  ]
  if end is None:
    return EncodedRows(**{**vars(rows), 'reasons': reasons})
  usable = np.array([not reason for reason in reasons], bool)
  positions = rows.step_positions.copy()
  positions[rows.step_offsets[1:][usable] - 1] += 1
  return EncodedRows(
    tokens=np.insert(rows.tokens, rows.offsets[1:][usable], np.int32(end)),
    offsets=rows.offsets + np.concatenate([[0], np.cumsum(usable)]),
    step_positions=positions,
    step_offsets=rows.step_offsets,
    question_length=rows.question_length,
    full_length=rows.full_length + 1,
    reasons=reasons,
  )


def _question_ids(fmt: TextFormat, tokenizer: Tokenizer, question: str) -> list[int]:
  bos = [tokenizer.bos_id] if fmt.add_bos and tokenizer.bos_id is not None else []
  return bos + tokenizer.encode(question_text(fmt, question))
