"""Rows of several solutions, brought back to one a solution for objectives.

A packed batch has B rows of T tokens with up to C solutions each (`data.batches`). The
model reads S steps of a row; an objective wants them by solution.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from prm_jax import masking

OF_ROWS = (
  'tokens', 'token_mask', 'segments', 'step_positions', 'step_index',
  'question_tokens', 'question_length',
)  # fmt: skip


def solutions(
  outputs: jax.Array, batch: Mapping[str, jax.Array]
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Outputs and arrays with one row for each of the B x C places of solutions.

  Args:
    outputs: [B, S] or [B, S, Q].
    batch: 'mask' [B, C, P]; 'step_index' int [B, C, P], which of a row's S outputs
      belongs to a step; what belongs to solutions is [B, C, ...]. Other entries are
      left out.

  Returns:
    [B C, P] or [B C, P, Q], and the arrays [B C, ...].

  Where the outputs are in that form already (questions with their solutions, no
  'step_index'), only the arrays change.

  >>> batch = {'step_index': jnp.array([[[0, 1], [2, 0]]]), 'outcome': jnp.ones((1, 2))}
  >>> batch['mask'] = jnp.ones((1, 2, 2), bool)
  >>> outputs, arrays = solutions(jnp.array([[5.0, 6.0, 7.0]]), batch)
  >>> outputs.tolist(), arrays['outcome'].shape
  ([[5.0, 6.0], [7.0, 5.0]], (2,))
  """
  b, c, p = batch['mask'].shape
  arrays = {
    name: x.reshape(b * c, *x.shape[2:])
    for name, x in batch.items()
    if name not in OF_ROWS
  }
  if 'step_index' not in batch:
    return outputs, arrays
  index = batch['step_index']
  at = index.reshape(b, c * p, *(1,) * (outputs.ndim - 2))
  read = jnp.take_along_axis(outputs, at, axis=1)
  return read.reshape(b * c, p, *outputs.shape[2:]), arrays


def token_shares(
  batch: Mapping[str, jax.Array], unit: str
) -> tuple[jax.Array, jax.Array]:
  """The mask of learned tokens, and weights that make solutions count as `unit` says.

  Args:
    batch: 'token_mask' [B, T], 'segments' int [B, T], 'row_mask' [B, C], and for unit
      'problem' also 'problem_weight' [B, C].
    unit: 'token', 'trajectory' or 'problem'.

  Returns:
    bool and float32 [B, T]: 1 for each token, or 1 / (learned tokens of its solution),
    times the solution's problem weight.
  """
  exists = jnp.asarray(batch['row_mask']).astype(bool)
  of = jnp.maximum(batch['segments'] - 1, 0)
  to_tokens = lambda x: jnp.take_along_axis(x, of, axis=1)
  mask = jnp.asarray(batch['token_mask']).astype(bool) & (batch['segments'] > 0)
  mask &= to_tokens(exists)
  ones = mask.astype(jnp.float32)
  if unit == 'token':
    return mask, ones
  add = lambda x, i: jax.ops.segment_sum(x, i, exists.shape[1])
  share = masking.safe_divide(jnp.ones(exists.shape), jax.vmap(add)(ones, of))
  if unit == 'problem':
    share *= masking.as_float(batch['problem_weight'])
  return mask, masking.guard(to_tokens(share), mask)
