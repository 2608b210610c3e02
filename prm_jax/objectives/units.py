"""What every objective shares: guarded inputs, and what one unit of weight is.

An objective returns `(loss_sum, weight)` and never divides by the batch: the
train step adds both over micro-batches and devices and divides once, so that
accumulation, any mesh and `psum` give the same number. Here a trajectory comes as
two numbers, the weighted sum of its terms ℓ and the sum of their weights w:

  unit='step'        loss_sum = Σ_b Σ_t w ℓ            weight = Σ_b Σ_t w
  unit='trajectory'  loss_sum = Σ_b (Σ_t w ℓ / Σ_t w)  weight = #{b : Σ_t w > 0}
  unit='problem'     as 'trajectory', each row times problem_weight [B]

`problem_weight` of a row is 1 / (number of usable rows of its problem in the
data). It comes from there, because a batch cannot know it; over an epoch each problem
of sources of weight 1 then weighs 1, of others their weight.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from prm_jax import masking
from prm_jax.errors import UserError

UNITS = ('step', 'trajectory', 'problem')

LossAndWeight = tuple[jax.Array, jax.Array]


def prepare(
  values: jax.Array,
  labels: jax.Array,
  mask: jax.Array,
  weights: jax.Array | None,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Float32 arrays in which nothing masked can be seen.

  Args:
    values: [B, P] or [B, P, Q], any float dtype.
    labels: [B, P], any real dtype; anything where masked.
    mask: [B, P], True or nonzero where the step is labelled.
    weights: [B, P] or None for ones; anything where masked.

  Returns:
    values, labels, bool mask, weights; the masked entries of values, labels and
    weights are 0. A NaN label makes its value NaN, so that it surfaces also in
    objectives that only compare labels with a threshold.

  Raises:
    ValueError: shapes differ.
  """
  values, labels = masking.as_float(values), masking.as_float(labels)
  mask = jnp.asarray(mask).astype(bool)
  weights = jnp.ones_like(labels) if weights is None else masking.as_float(weights)
  shapes = {labels.shape, mask.shape, weights.shape, values.shape[:2]}
  if len(shapes) != 1 or labels.ndim != 2:
    raise ValueError(
      f'labels, mask and weights must be [B, P] and values [B, P, ...]; the shapes are '
      f'{labels.shape}, {mask.shape}, {weights.shape} and {values.shape}.'
    )
  labels = masking.guard(labels, mask)
  wide = mask.reshape(mask.shape + (1,) * (values.ndim - 2))
  broken = jnp.isnan(labels).reshape(wide.shape)
  values = jnp.where(broken, jnp.nan, masking.guard(values, wide))
  return values, labels, mask, masking.guard(weights, mask)


def total(
  losses: jax.Array,
  weights: jax.Array,
  unit: str,
  problem_weight: jax.Array | None = None,
) -> LossAndWeight:
  """Adds up step losses [B, P] with weights [B, P]: see the module's docstring.

  Args:
    losses: [B, P], finite wherever the weight is 0 because of a mask.
    weights: [B, P], non-negative.
    unit: one of `UNITS`.
    problem_weight: [B], needed by 'problem'.
  """
  row_loss, row_weight = jnp.sum(weights * losses, axis=1), jnp.sum(weights, axis=1)
  return total_rows(row_loss, row_weight, unit, problem_weight)


def total_rows(
  row_loss: jax.Array,
  row_weight: jax.Array,
  unit: str,
  problem_weight: jax.Array | None = None,
) -> LossAndWeight:
  """As `total`, from each trajectory's Σ_t w ℓ [B] and Σ_t w [B].

  Raises:
    UserError: the unit is unknown.
    ValueError: the unit is 'problem' and `problem_weight` is missing.
  """
  if unit not in UNITS:
    raise UserError(
      f'objective.unit={unit!r} is unknown; choose one of {", ".join(UNITS)}.'
    )
  if unit == 'step':
    return jnp.sum(row_loss), jnp.sum(row_weight)
  share = (row_weight != 0).astype(row_weight.dtype)
  if unit == 'problem':
    if problem_weight is None:
      raise ValueError("unit 'problem' needs problem_weight [B], which is missing.")
    share *= masking.guard(masking.as_float(problem_weight), row_weight != 0)
  mean = masking.safe_divide(row_loss, row_weight)
  return jnp.sum(share * mean), jnp.sum(share)
