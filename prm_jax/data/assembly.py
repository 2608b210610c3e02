"""Arrays of one batch from the rows of the token cache: see `batches.Batches`."""

from __future__ import annotations

import numpy as np

from prm_jax.data.epoch_plan import FILLER
from prm_jax.data.token_cache import TokenCache

Arrays = dict[str, np.ndarray]


def steps(cache: TokenCache, rows: np.ndarray, length: int, n_steps: int) -> Arrays:
  """Padded arrays of the rows `rows` [B] (-1 for fillers): T = length, P = n_steps."""
  there, held, shared = _of_rows(cache, rows)
  step_at, is_step = _window(cache.step_offsets, held, there, n_steps)
  return {
    'tokens': _tokens(cache, *_window(cache.offsets, held, there, length)),
    'step_positions': np.where(is_step, cache.step_positions[step_at], np.int32(0)),
    **_of_steps(cache, there, held, step_at, is_step),
    **shared,
  }


def tokens(
  cache: TokenCache, rows: np.ndarray, length: int, n_steps: int = 0
) -> Arrays:
  """As `steps`, what a policy learns from; the number of steps plays no part."""
  there, held, shared = _of_rows(cache, rows)
  token_at, is_token = _window(cache.offsets, held, there, length)
  after_question = np.arange(length) >= cache.question_length[held][:, None]
  return {
    'tokens': _tokens(cache, token_at, is_token),
    'token_mask': is_token & after_question,
    **shared,
  }


def packed_steps(
  cache: TokenCache, rows: np.ndarray, length: int, n_reads: int, n_steps: int
) -> Arrays:
  """Arrays of packed rows, of the solutions `rows` [B, C]: T = length, S = n_reads,
  P = n_steps."""
  there, held, shared = _of_rows(cache, rows)
  in_rows, _, _ = _packed(cache, there, held, length)
  counts = _sizes(cache.step_offsets, held, there)
  read_slot, read, is_read = _lay(counts, n_reads)
  # Where a solution begins in its row, and where its reads begin.
  start, first = _starts(_sizes(cache.offsets, held, there)), _starts(counts)
  of_read = lambda x: np.take_along_axis(x, read_slot, axis=1)
  at = np.where(is_read, of_read(cache.step_offsets[held]) + read, 0)
  positions = of_read(start) + cache.step_positions[at]
  step_at, is_step = _window(cache.step_offsets, held, there, n_steps)
  index = first[..., None] + np.arange(n_steps)
  return {
    **in_rows,
    'step_positions': np.where(is_read, positions, 0).astype(np.int32),
    'step_index': np.where(is_step, index, 0).astype(np.int32),
    **_of_steps(cache, there, held, step_at, is_step),
    **shared,
  }


def packed_tokens(
  cache: TokenCache,
  rows: np.ndarray,
  length: int,
  n_reads: int = 0,
  n_steps: int = 0,
) -> Arrays:
  """As `packed_steps`, what a policy learns from."""
  there, held, shared = _of_rows(cache, rows)
  in_rows, slot, within = _packed(cache, there, held, length)
  question = np.take_along_axis(cache.question_length[held], slot, axis=1)
  learned = (within >= np.maximum(question, 1)) & (in_rows['segments'] > 0)
  return {**in_rows, 'token_mask': learned, **shared}


def shared_steps(
  cache: TokenCache,
  rows: np.ndarray,
  length: int,
  n_steps: int,
  *,
  cut: np.ndarray,
  question_length: int,
) -> Arrays:
  """Arrays of questions with their solutions `rows` [B, C]: T = length of what follows
  the questions, which are the first `cut` [R] tokens of the cache's rows."""
  there, held, shared = _of_rows(cache, rows)
  asked = np.where(there[:, 0], cut[held[:, 0]], 0)
  column = np.arange(question_length)
  in_question = column < asked[:, None]
  question_at = np.where(in_question, cache.offsets[held[:, 0]][:, None] + column, 0)
  place = np.arange(length)
  is_token = place < (_sizes(cache.offsets, held, there) - cut[held])[..., None]
  token_at = np.where(is_token, (cache.offsets[held] + cut[held])[..., None] + place, 0)
  step_at, is_step = _window(cache.step_offsets, held, there, n_steps)
  positions = cache.step_positions[step_at] - cut[held][..., None]
  return {
    'question_tokens': _tokens(cache, question_at, in_question),
    'question_length': asked.astype(np.int32),
    'tokens': _tokens(cache, token_at, is_token),
    'step_positions': np.where(is_step, positions, 0).astype(np.int32),
    **_of_steps(cache, there, held, step_at, is_step),
    **shared,
  }


def _packed(
  cache: TokenCache, there: np.ndarray, held: np.ndarray, length: int
) -> tuple[Arrays, np.ndarray, np.ndarray]:
  """Tokens and segments [B, T], each token's solution and its place within it."""
  slot, within, inside = _lay(_sizes(cache.offsets, held, there), length)
  at = np.take_along_axis(cache.offsets[held], slot, axis=1) + within
  arrays = {
    'tokens': _tokens(cache, np.where(inside, at, 0), inside),
    'segments': np.where(inside, slot + 1, 0).astype(np.int32),
  }
  return arrays, slot, within


def _sizes(offsets: np.ndarray, held: np.ndarray, there: np.ndarray) -> np.ndarray:
  return np.where(there, offsets[held + 1] - offsets[held], 0)


def _starts(sizes: np.ndarray) -> np.ndarray:
  """Where pieces of these sizes [B, C] begin that lie one after the other."""
  return np.cumsum(sizes, axis=1) - sizes


def _lay(sizes: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Pieces of sizes [B, C] one after the other in rows of `width`: of each place the
  piece, the place within the piece, and whether there is one; [B, width] each."""
  ends = np.cumsum(sizes, axis=1)
  if sizes.size and ends[:, -1].max() > width:
    raise ValueError(f'pieces of {ends[:, -1].max()} do not fit into {width}')
  place = np.arange(width)
  slot = np.sum(place[None, :, None] >= ends[:, None, :], axis=2)
  inside = slot < sizes.shape[1]
  slot = np.where(inside, slot, 0)
  within = place - np.take_along_axis(ends - sizes, slot, axis=1)
  return slot, np.where(inside, within, 0), inside


def _tokens(cache: TokenCache, at: np.ndarray, inside: np.ndarray) -> np.ndarray:
  return np.where(inside, cache.tokens[at], np.int32(cache.pad_id))


def _of_steps(
  cache: TokenCache,
  there: np.ndarray,
  held: np.ndarray,
  step_at: np.ndarray,
  is_step: np.ndarray,
) -> Arrays:
  """What is known of steps [..., P] and outcomes [...]."""
  mask = is_step & cache.mask[step_at]
  outcome_mask = there & cache.outcome_mask[held]
  return {
    'labels': np.where(mask, cache.labels[step_at], np.float32(0)),
    'mask': mask,
    'weights': np.where(is_step, cache.weights[step_at], np.float32(0)),
    'steps_mask': is_step,
    'outcome': np.where(outcome_mask, cache.outcome[held], np.float32(0)),
    'outcome_mask': outcome_mask,
  }


def _of_rows(
  cache: TokenCache, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, Arrays]:
  """Which rows are no fillers, the rows with 0 for fillers, and what every row has."""
  there = rows != FILLER
  held = np.where(there, rows, 0)
  shared = {
    'row_mask': there,
    'problem_index': np.where(there, cache.problem_index[held], np.int32(0)),
    'problem_weight': np.where(there, cache.problem_weight[held], np.float32(0)),
    'source_index': np.where(there, cache.source_index[held], np.int32(0)),
  }
  return there, held, shared


def _window(
  offsets: np.ndarray, rows: np.ndarray, there: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
  """Indices [..., width] into a ragged array, and which of them lie in their row."""
  column = np.arange(width)
  inside = column < _sizes(offsets, rows, there)[..., None]
  return np.where(inside, offsets[rows][..., None] + column, 0), inside
