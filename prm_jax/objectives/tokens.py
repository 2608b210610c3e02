"""Next-token prediction: how a policy learns from solutions.

>>> logits = jnp.zeros((1, 3, 4))
>>> tokens, answer = jnp.array([[0, 1, 2]]), jnp.array([[False, True, True]])
>>> loss_sum, weight = next_token(logits, tokens, answer)
>>> round(float(loss_sum), 4), float(weight)
(2.7726, 2.0)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from prm_jax import masking
from prm_jax.errors import UserError
from prm_jax.objectives import units

UNITS = ('token', 'trajectory', 'problem')


def next_token(
  logits: jax.Array,
  tokens: jax.Array,
  token_mask: jax.Array,
  weights: jax.Array | None = None,
  *,
  unit: str = 'token',
  problem_weight: jax.Array | None = None,
) -> units.LossAndWeight:
  """Cross-entropy of each token of the response, given everything before it.

  ℓ_t = log Σ_v exp z_{t−1,v} − z_{t−1,x_t}     for the tokens x_t that the mask holds

  The first token of a row has nothing before it and never counts. With the mask at
  the response's tokens alone, the question is read and not learned, and the end token
  is learned like any other.

  Args:
    logits: [B, T, V]; row t predicts token t + 1. Anything, a NaN included, where
      the token that it predicts is masked.
    tokens: int [B, T].
    token_mask: [B, T] bool, True at tokens that are learned.
    weights: [B, T] non-negative weights of tokens; ones if None.
    unit: 'token', or 'trajectory' and 'problem' as in `prm_jax.objectives.units`.
    problem_weight: [B], for unit 'problem'.

  Returns:
    (loss_sum, weight), float32 scalars.

  Raises:
    UserError: the unit is unknown.
    ValueError: shapes do not fit.
  """
  check_unit(unit)
  losses, mask = token_losses(logits, tokens, token_mask)
  w = jnp.ones_like(losses) if weights is None else masking.as_float(weights)[:, 1:]
  w = masking.guard(w, mask)
  return units.total(losses, w, 'step' if unit == 'token' else unit, problem_weight)


def check_unit(unit: str) -> None:
  """Refuses a unit that `next_token` does not know.

  Raises:
    UserError: it does not.
  """
  if unit not in UNITS:
    raise UserError(
      f'objective.unit={unit!r} is unknown to next_token; choose one of '
      f'{", ".join(UNITS)}.'
    )


def token_losses(
  logits: jax.Array, tokens: jax.Array, token_mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """ℓ [B, T − 1] float32 of tokens 1 .. T − 1, 0 where masked, and their bool mask.

  Raises:
    ValueError: shapes do not fit.
  """
  if logits.ndim != 3 or not logits.shape[:2] == tokens.shape == token_mask.shape:
    raise ValueError(
      'logits must be [B, T, V], tokens and token_mask [B, T]; the shapes are '
      f'{logits.shape}, {tokens.shape} and {token_mask.shape}.'
    )
  mask = jnp.asarray(token_mask).astype(bool)[:, 1:]
  z = masking.guard(masking.as_float(logits[:, :-1]), mask[..., None])
  target = jnp.where(mask, tokens[:, 1:], 0)
  chosen = jnp.take_along_axis(z, target[..., None], axis=-1)[..., 0]
  losses = jax.nn.logsumexp(z, axis=-1) - chosen
  return masking.guard(losses, mask), mask
