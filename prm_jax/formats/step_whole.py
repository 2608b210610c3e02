"""Encoding 'whole' of the step format: one text a row, marker included.

For models whose own code encodes everything at once with a marker that is no special
token, so that it may merge with its neighbours. A step is read where its marker ends
in the text, found by the tokenizer's offsets and never by a search for the marker's
id, so a marker inside the question is not mistaken for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from prm_jax.formats.step_rows import (
  EncodedRows,
  Unusable,
  bos_ids,
  common_length,
  marker_id,
  question_text,
  reason_in_text,
  refuse_length,
  step_text,
)
from prm_jax.formats.tokenizers import Tokenizer
from prm_jax.specs import StepFormat


class _Text(NamedTuple):
  """A row as text: its question, and where each marker begins and ends.

  Without a marker both are the end of the step.
  """

  text: str
  question: str
  starts: list[int]
  ends: list[int]


class _Row(NamedTuple):
  """ids [T], step positions [P], tokens in common with the question alone."""

  ids: np.ndarray
  positions: np.ndarray
  question_length: int


def encode_rows(
  fmt: StepFormat,
  tokenizer: Tokenizer,
  questions: Sequence[str],
  steps: Sequence[Sequence[str]],
  *,
  allow_empty: bool,
  names: Sequence[str],
) -> EncodedRows:
  """Many rows; a row that is cut ('drop_steps') is encoded again without its end.

  Raises:
    UserError: a row is too long and `fmt.truncation` is 'error'.
  """
  laid = [_lay_out(fmt, q, row) for q, row in zip(questions, steps)]
  encoded = tokenizer.encode_spans([row.text for row in laid])
  n_bos = len(bos_ids(fmt, tokenizer))
  bare = tokenizer.encode(question_text(fmt, '')).count(marker_id(fmt, tokenizer) or -1)
  kept: list[_Row] = []
  reasons: list[str] = []
  for r, (question, row) in enumerate(zip(questions, steps)):
    length = n_bos + len(encoded[r][0])
    reason = reason_in_text(fmt, question, row, allow_empty)
    held = _Row(np.zeros(0, np.int32), np.zeros(0, np.int32), 0)
    try:
      if reason:
        raise Unusable(reason)
      held = _read(fmt, tokenizer, laid[r], *encoded[r], bare)
      if length > fmt.max_length:
        refuse_length(fmt, names[r], length)
        held = _cut(fmt, tokenizer, question, row, held, bare)
    except Unusable as e:
      reason = e.reason
      held = _Row(held.ids[:0], held.positions[:0], held.question_length)
    kept.append(held)
    reasons.append(reason)
  return EncodedRows(
    tokens=_flat([row.ids for row in kept]),
    offsets=_offsets([len(row.ids) for row in kept]),
    step_positions=_flat([row.positions for row in kept]),
    step_offsets=_offsets([len(row.positions) for row in kept]),
    question_length=np.array([row.question_length for row in kept], np.int32),
    full_length=np.array([n_bos + len(ids) for ids, _ in encoded], np.int64),
    reasons=reasons,
  )


def marker_tokens(
  fmt: StepFormat, tokenizer: Tokenizer, question: str, steps: Sequence[str]
) -> list[list[int]]:
  """Of each step, the ids of the tokens that hold characters of its marker.

  For a person who wants to see why a row has 'marker_mismatch'.
  """
  row = _lay_out(fmt, question, steps)
  [(ids, spans)] = tokenizer.encode_spans([row.text])
  return [
    ids[(spans[:, 0] < end) & (spans[:, 1] > start)].tolist()
    for start, end in zip(row.starts, row.ends)
  ]


def _lay_out(fmt: StepFormat, question: str, steps: Sequence[str]) -> _Text:
  parts = [question_text(fmt, question)]
  at = len(parts[0])
  starts, ends = [], []
  for i, step in enumerate(steps, 1):
    text = step_text(fmt, step, i)
    parts += [text, fmt.marker]
    starts.append(at + len(text))
    at += len(text) + len(fmt.marker)
    ends.append(at)
  return _Text(''.join(parts), parts[0], starts, ends)


def _read(
  fmt: StepFormat,
  tokenizer: Tokenizer,
  row: _Text,
  ids: np.ndarray,
  spans: np.ndarray,
  bare: int,
) -> _Row:
  """Finds the token that ends each step.

  Args:
    row, ids, spans: a text, its ids [T] and the characters [T, 2] that each covers.
    bare: how often the marker's id stands in the question's template.
  """
  bos = bos_ids(fmt, tokenizer)
  marker = marker_id(fmt, tokenizer)
  begins, stops = spans[:, 0], spans[:, 1]
  last = np.array(row.ends, np.int64) - 1  # the character at which a step is read
  at = np.searchsorted(begins, last, side='right') - 1
  if (at < 0).any() or (stops[at] <= last).any():
    raise Unusable('marker_mismatch' if fmt.marker else 'ambiguous')
  if marker is not None:
    if (ids[at] != marker).any() or (stops[at] != last + 1).any():
      raise Unusable('marker_mismatch')
    count = int((ids == marker).sum())
    if fmt.marker_in_text == 'refuse' and count != len(row.ends) + bare:
      raise Unusable('marker_in_text')
  position = at + len(bos)
  if fmt.position == 'before':
    first = at
    if marker is not None:
      first = np.searchsorted(stops, np.array(row.starts), side='right')
    position = np.minimum(first, at) - 1 + len(bos)
  alone = np.array(tokenizer.encode(row.question), np.int32)
  # A step of no characters of its own would be read in what stands before it.
  blank = not fmt.marker and min(np.diff([len(row.question), *row.ends])) == 0
  if blank or (position < 0).any() or (np.diff(position) <= 0).any():
    raise Unusable('ambiguous')
  tokens = np.concatenate([np.array(bos, np.int32), ids.astype(np.int32)])
  common = len(bos) + common_length(ids, alone)
  return _Row(tokens, position.astype(np.int32), common)


def _cut(
  fmt: StepFormat,
  tokenizer: Tokenizer,
  question: str,
  steps: Sequence[str],
  row: _Row,
  bare: int,
) -> _Row:
  """The most steps of a row that fit."""
  # A prefix encoded alone may have a token more or less than within the row.
  n = int((row.positions < fmt.max_length + 1).sum())
  most = min(n, len(steps) - 1) if fmt.truncation == 'drop_steps' else 0
  for n in range(most, 0, -1):
    laid = _lay_out(fmt, question, steps[:n])
    [(ids, spans)] = tokenizer.encode_spans([laid.text])
    if len(ids) + len(bos_ids(fmt, tokenizer)) <= fmt.max_length:
      return _read(fmt, tokenizer, laid, ids, spans, bare)
  raise Unusable('too_long')


def _flat(arrays: Sequence[np.ndarray]) -> np.ndarray:
  return np.concatenate([np.zeros(0, np.int32), *arrays])


def _offsets(counts: Sequence[int]) -> np.ndarray:
  return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
