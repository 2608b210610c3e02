"""Encodings 'pieces' and 'joined' of the step format: texts one by one, end to end.

The marker is appended as ids, never as text, so it cannot merge with its neighbours,
and a step's ids do not depend on what follows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prm_jax.formats.step_rows import (
  EncodedRows,
  bos_ids,
  common_length,
  marker_ids,
  question_text,
  reason_in_text,
  refuse_length,
  step_text,
)
from prm_jax.formats.tokenizers import Tokenizer
from prm_jax.specs import StepFormat


def encode_rows(
  fmt: StepFormat,
  tokenizer: Tokenizer,
  questions: Sequence[str],
  steps: Sequence[Sequence[str]],
  *,
  allow_empty: bool,
  names: Sequence[str],
) -> EncodedRows:
  """Many rows at once, without a Python loop over tokens.

  A row is a list of pieces: its question (with 'joined', together with the first
  step), then each step or, with 'split', each part of it. Every piece of a step ends
  with the marker, and the step is read at its last piece.

  Raises:
    UserError: a row is too long and `fmt.truncation` is 'error'.
  """
  marker = marker_ids(fmt, tokenizer)
  joined = fmt.encoding == 'joined'
  R = len(steps)
  n_steps = np.fromiter(map(len, steps), np.int64, R)
  step_offsets = _offsets(n_steps)
  texts, n_parts = _pieces(fmt, questions, steps)
  # Whether a row's first piece is its question alone.
  alone = np.where(n_steps > 0, int(not joined), 1)
  part_offsets = _offsets(n_parts)
  n_pieces = alone + np.diff(part_offsets[step_offsets])
  first_piece = _offsets(n_pieces)
  row_of = np.repeat(np.arange(R), n_pieces)
  is_step = np.ones(len(texts), bool)
  is_step[first_piece[:-1][alone > 0]] = False
  last_piece = np.flatnonzero(is_step)[part_offsets[1:] - 1]  # of each step

  ids, n_ids = tokenizer.encode_ragged(texts)
  bos = bos_ids(fmt, tokenizer)
  size = n_ids + np.where(is_step, len(marker), 0)
  size[first_piece[:-1]] += len(bos)
  ends = np.cumsum(size)
  row_start = _offsets(size)[first_piece[:-1]]
  end = ends - row_start[row_of]  # of each piece, within its row
  full_length = end[first_piece[1:] - 1]
  step_end = end[last_piece]
  step_row = row_of[last_piece]
  before = fmt.position == 'before'
  position = step_end - 1 - (max(len(marker), 1) if before else 0)

  marked: set[int] = set()
  if fmt.marker_in_text == 'refuse' and marker:
    found = _id_in_text(fmt, tokenizer, marker[0], ids, n_ids, is_step, first_piece)
    marked = set(row_of[found].tolist())
  taken = np.bincount(step_row[position < 0], minlength=R) > 0
  taken |= np.bincount(row_of[is_step & (size == 0)], minlength=R) > 0
  if joined and not marker:  # an empty first step would be read in the question
    taken |= [bool(row) and not step_text(fmt, row[0], 1) for row in steps]
  clash = set(np.flatnonzero(taken).tolist())
  step_fits = step_end <= fmt.max_length
  lost = set(np.flatnonzero(full_length > fmt.max_length).tolist())
  if fmt.truncation == 'drop_steps':  # lost only if not even the first step fits
    lost = {r for r in lost if n_steps[r] and not step_fits[step_offsets[r]]}
  reasons = [''] * R
  for r, (question, row) in enumerate(zip(questions, steps)):
    reason = reason_in_text(fmt, question, row, allow_empty)
    if not reason:
      if r in marked:
        reason = 'marker_in_text'
      elif r in clash:
        reason = 'ambiguous'
      elif r in lost:
        refuse_length(fmt, names[r], int(full_length[r]))
        reason = 'too_long'
    reasons[r] = reason

  usable = np.array([not reason for reason in reasons], bool)
  kept_step = step_fits & usable[step_row]
  keep = usable[row_of]
  keep[is_step] = np.repeat(kept_step, n_parts)
  tokens = np.empty(int(size.sum()), np.int32)
  text = np.ones(len(tokens), bool)
  for k, token in enumerate(bos):
    slots = row_start + k
    tokens[slots], text[slots] = token, False
  for k, token in enumerate(reversed(marker), 1):
    slots = ends[is_step] - k
    tokens[slots], text[slots] = token, False
  tokens[text] = ids
  length = np.bincount(row_of, np.where(keep, size, 0), R).astype(np.int64)
  question_length = size[first_piece[:-1]]
  if joined:
    question_length = _common_beginning(fmt, tokenizer, questions, tokens, row_start)
  return EncodedRows(
    tokens=tokens[np.repeat(keep, size)],
    offsets=_offsets(length),
    step_positions=position[kept_step].astype(np.int32),
    step_offsets=_offsets(np.bincount(step_row[kept_step], minlength=R)),
    question_length=question_length.astype(np.int32),
    full_length=full_length.astype(np.int64),
    reasons=reasons,
  )


def _offsets(counts: np.ndarray) -> np.ndarray:
  return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _pieces(
  fmt: StepFormat, questions: Sequence[str], steps: Sequence[Sequence[str]]
) -> tuple[list[str], np.ndarray]:
  """All pieces in order, and of how many each step consists."""
  joined, split = fmt.encoding == 'joined', fmt.marker_in_text == 'split'
  texts: list[str] = []
  n_parts: list[int] = []
  for question, row in zip(questions, steps):
    head = question_text(fmt, question)
    body = [step_text(fmt, s, i) for i, s in enumerate(row, 1)]
    if split:
      parts = [text.split(fmt.marker) for text in body]
      n_parts.extend(map(len, parts))
      body = [part for held in parts for part in held]
    if joined and body:
      body[0] = head + body[0]
    else:
      texts.append(head)
    texts.extend(body)
  if split:
    return texts, np.array(n_parts, np.int64)
  return texts, np.ones(sum(map(len, steps)), np.int64)


def _id_in_text(
  fmt: StepFormat,
  tokenizer: Tokenizer,
  marker: int,
  ids: np.ndarray,
  n_ids: np.ndarray,
  is_step: np.ndarray,
  first_piece: np.ndarray,
) -> np.ndarray:
  """Which pieces hold the marker's id more often than their bare template does."""
  piece_of = np.repeat(np.arange(len(n_ids)), n_ids)
  count = np.bincount(piece_of[ids == marker], minlength=len(n_ids))
  if not count.any():
    return count > 0

  def bare(text: str) -> int:
    return tokenizer.encode(text).count(marker)

  head, first = question_text(fmt, ''), step_text(fmt, '', 1)
  expected = np.full(len(n_ids), bare(step_text(fmt, '', 2)))
  opening = first_piece[:-1]
  expected[opening[is_step[opening]]] = bare(head + first)
  apart = opening[~is_step[opening]]
  expected[apart] = bare(head)
  expected[apart[np.diff(first_piece)[~is_step[opening]] > 1] + 1] = bare(first)
  return count > expected


def _common_beginning(
  fmt: StepFormat,
  tokenizer: Tokenizer,
  questions: Sequence[str],
  tokens: np.ndarray,
  row_start: np.ndarray,
) -> np.ndarray:
  """Leading tokens of each row that are those of its question encoded alone."""
  n_bos = len(bos_ids(fmt, tokenizer))
  ids, n_ids = tokenizer.encode_ragged([question_text(fmt, q) for q in questions])
  out = np.full(len(questions), n_bos, np.int64)
  for r, (start, n) in enumerate(zip(_offsets(n_ids), n_ids)):
    out[r] += common_length(tokens[row_start[r] + n_bos :], ids[start : start + n])
  return out
