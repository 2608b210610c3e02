"""Outcome reward models: one term a trajectory, read at its last step.

  ℓ = −o log σ(r_S) − (1 − o) log(1 − σ(r_S)),  S the last existing step

What differs is where the outcome o comes from.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from prm_jax import masking
from prm_jax.objectives import pointwise, units


def last_step(exists: jax.Array) -> jax.Array:
  """True at the last True of each row: [B, P] bool -> [B, P] bool.

  >>> last_step(jnp.array([[True, True, False], [False, False, False]])).tolist()
  [[False, True, False], [False, False, False]]
  """
  later = jnp.cumsum(exists[:, ::-1], axis=1)[:, ::-1] - exists
  return exists & (later == 0)


def _at_last(
  values: jax.Array,
  exists: jax.Array,
  outcome: jax.Array,
  row_weight: jax.Array,
  unit: str,
  problem_weight: jax.Array | None,
) -> units.LossAndWeight:
  last = last_step(exists)
  row_weight = masking.guard(row_weight, last.any(axis=1))
  read = masking.masked_sum(values, last, axis=1)
  losses = pointwise.cross_entropy(read, outcome)
  return units.total_rows(row_weight * losses, row_weight, unit, problem_weight)


def orm(
  values: jax.Array,
  labels: jax.Array,
  mask: jax.Array,
  weights: jax.Array | None = None,
  *,
  outcome: jax.Array,
  outcome_mask: jax.Array | None = None,
  steps_mask: jax.Array | None = None,
  unit: str = 'trajectory',
  problem_weight: jax.Array | None = None,
) -> units.LossAndWeight:
  """Outcome reward model: BCE of the last step on the verdict on the final answer.

  The outcome belongs to the solution, so step labels and step weights play no part
  and every judged row counts 1, also in unit 'step'.

  Args:
    values: [B, P] logits of "correct".
    labels: [B, P], not used.
    mask: [B, P] bool, True where labelled; finds the last step if `steps_mask` is
      None.
    weights: not used.
    outcome: [B] in [0, 1], 1 for a right final answer.
    outcome_mask: [B] bool, True where judged; all rows if None.
    steps_mask: [B, P] bool, True where a step exists.
    unit: see `prm_jax.objectives.units`.
    problem_weight: [B], for unit 'problem'.

  >>> values = jnp.array([[3.0, 0.0], [0.0, 9.0]])
  >>> exists = jnp.array([[True, True], [True, False]])
  >>> labels = jnp.zeros((2, 2))
  >>> loss_sum, weight = orm(values, labels, exists, outcome=jnp.array([1.0, 0.0]))
  >>> round(float(loss_sum), 4), float(weight)
  (1.3863, 2.0)
  """
  del labels, weights
  exists = jnp.asarray(mask if steps_mask is None else steps_mask).astype(bool)
  outcome = masking.as_float(outcome)
  judged = jnp.ones_like(outcome) if outcome_mask is None else outcome_mask
  judged = jnp.asarray(judged).astype(bool)
  known = masking.guard(outcome, judged)
  row_weight = judged.astype(known.dtype)
  return _at_last(values, exists, known, row_weight, unit, problem_weight)


def orm_no_error(
  values: jax.Array,
  labels: jax.Array,
  mask: jax.Array,
  weights: jax.Array | None = None,
  *,
  steps_mask: jax.Array | None = None,
  threshold: float = 0.5,
  unit: str = 'trajectory',
  problem_weight: jax.Array | None = None,
) -> units.LossAndWeight:
  """Outcome reward model whose outcome is "no step is labelled wrong".

  The `orm` baseline in the code of PQM (WindyLee0822/Process_Q_Model); it knows
  nothing of the final answer. A row counts with the largest weight among its
  labelled steps.

  Args:
    values: [B, P] logits of "correct".
    labels: [B, P] in [0, 1].
    mask: [B, P] bool, True where labelled.
    weights: [B, P] non-negative.
    steps_mask: [B, P] bool, True where a step exists; `mask` if None.
    threshold: a step is wrong if its label is below this.
    unit: see `prm_jax.objectives.units`.
    problem_weight: [B], for unit 'problem'.

  >>> values, labels = jnp.zeros((1, 2)), jnp.array([[0.0, 1.0]])
  >>> loss_sum, weight = orm_no_error(values - 2.0, labels, labels >= 0)
  >>> round(float(loss_sum / weight), 4)
  0.1269
  """
  _, y, mask, w = units.prepare(jnp.zeros_like(values), labels, mask, weights)
  exists = mask if steps_mask is None else jnp.asarray(steps_mask).astype(bool)
  # min keeps a NaN label, which a comparison would turn into a wrong step.
  worst = jnp.min(y, axis=1, initial=jnp.inf, where=mask)
  outcome = jnp.where(jnp.isnan(worst), worst, worst >= threshold)
  row_weight = jnp.max(w, axis=1, initial=0.0)
  return _at_last(values, exists, outcome, row_weight, unit, problem_weight)
