"""Quantiles of a success rate instead of its mean: the pinball loss.

A scorer so trained says how sure it is: between its lowest and highest quantile lies
the success rate of most steps that look like this one.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from prm_jax.errors import UserError
from prm_jax.objectives import units

LEVELS = (0.1, 0.5, 0.9)


def check_levels(levels: Sequence[float], n_outputs: int) -> tuple[float, ...]:
  """The levels of a head with Q = `n_outputs`.

  Raises:
    UserError: they do not rise inside (0, 1), or are not Q.
  """
  tau = tuple(levels)
  numbers = all(isinstance(x, (int, float)) for x in tau)
  rising = numbers and all(a < b for a, b in zip((0.0, *tau), (*tau, 1.0)))
  if not rising or len(tau) != n_outputs:
    raise UserError(
      f'objective.levels={tau}: give one level in (0, 1) for each output of the head, '
      f'which has {n_outputs}, in rising order.'
    )
  return tau


def pinball(
  values: jax.Array,
  labels: jax.Array,
  mask: jax.Array,
  weights: jax.Array | None = None,
  *,
  levels: Sequence[float] = LEVELS,
  unit: str = 'step',
  problem_weight: jax.Array | None = None,
) -> units.LossAndWeight:
  """Quantile regression of success rates with one output a quantile.

  ℓ_t = (1/Q) Σ_j ρ_j(y_t − σ(r_tj)),  ρ_j(u) = max(τ_j u, (τ_j − 1) u)

  Koenker & Bassett 1978 ("Regression quantiles"); for process reward models
  arXiv 2506.09338. The minimum over all functions is the τ_j-quantile of y given the
  text. Outputs are learned apart and may cross; `step_values.quantile` sorts them.

  Args:
    values: [B, P, Q], one output for each level, lowest level first.
    labels: [B, P] in [0, 1], success rates. Rates of k rollouts carry the rollouts'
      own noise, and so do their quantiles.
    mask: [B, P] bool, True where labelled.
    weights: [B, P] non-negative; 0 leaves a step out.
    levels: τ, Q rising numbers inside (0, 1).
    unit: see `prm_jax.objectives.units`.
    problem_weight: [B], for unit 'problem'.

  Raises:
    UserError: the levels do not rise inside (0, 1), or are not Q.

  >>> one = jnp.ones((1, 1))
  >>> loss_sum, _ = pinball(jnp.zeros((1, 1, 3)), one, one)
  >>> round(float(loss_sum), 4)  # 0.5 below the label, (.1 + .5 + .9) / 3 * 0.5
  0.25
  """
  tau = check_levels(levels, jnp.shape(values)[-1] if jnp.ndim(values) == 3 else 1)
  r, y, _, w = units.prepare(values, labels, mask, weights)
  under = y[..., None] - jax.nn.sigmoid(r)
  t = jnp.asarray(tau, r.dtype)[None, None]
  losses = jnp.maximum(t * under, (t - 1) * under).mean(axis=-1)
  return units.total(losses, w, unit, problem_weight)
