"""Objectives that judge each step by itself: BCE, squared error, three classes.

All take `values` (the logit of "correct", or the logits of classes), `labels`,
`mask` (True where a step is labelled) and `weights` (how much a step's own term
counts; ones if None), return `(loss_sum, weight)` and differ in the term only:

  >>> values = jnp.array([[2.0, -1.0, 7.0]])
  >>> labels = jnp.array([[1.0, 0.0, 0.0]])
  >>> mask = jnp.array([[True, True, False]])
  >>> loss_sum, weight = bce(values, labels, mask)
  >>> round(float(loss_sum / weight), 4)
  0.2201
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from prm_jax.objectives import units


def cross_entropy(values: jax.Array, targets: jax.Array) -> jax.Array:
  """−y log σ(r) − (1 − y) log σ(−r), term by term, for logits of any magnitude.

  Args:
    values: logits r, any shape, float32.
    targets: y, same shape. Its gradient in r is σ(r) − y also for y outside
      [0, 1], where the loss is unbounded below.
  """
  return targets * jax.nn.softplus(-values) + (1 - targets) * jax.nn.softplus(values)


def bce(
  values: jax.Array,
  labels: jax.Array,
  mask: jax.Array,
  weights: jax.Array | None = None,
  *,
  threshold: float | None = None,
  unit: str = 'step',
  problem_weight: jax.Array | None = None,
) -> units.LossAndWeight:
  """Binary cross-entropy on step labels, hard or soft.

  ℓ_t = −y_t log σ(r_t) − (1 − y_t) log(1 − σ(r_t))

  The objective of most PRMs: Math-Shepherd (Wang et al., arXiv 2312.08935) with
  hard labels, SCAN (arXiv 2509.16548) with soft ones. On two class logits it is
  their cross-entropy.

  Args:
    values: [B, P] logits of "correct".
    labels: [B, P] in [0, 1].
    mask: [B, P] bool, True where labelled.
    weights: [B, P] non-negative; 0 leaves a step out.
    threshold: None takes labels as they are; a number makes them hard: correct
      if the label is at least that.
    unit: see `prm_jax.objectives.units`.
    problem_weight: [B], for unit 'problem'.

  >>> one = jnp.ones((1, 1))
  >>> round(float(bce(0 * one, 0.25 * one, one)[0]), 4)
  0.6931
  >>> round(float(bce(2 * one, 0.75 * one, one, threshold=0.5)[0]), 4)
  0.1269
  """
  r, y, _, w = units.prepare(values, labels, mask, weights)
  if threshold is not None:
    y = (y >= threshold).astype(y.dtype)
  return units.total(cross_entropy(r, y), w, unit, problem_weight)


def mse(
  values: jax.Array,
  labels: jax.Array,
  mask: jax.Array,
  weights: jax.Array | None = None,
  *,
  unit: str = 'step',
  problem_weight: jax.Array | None = None,
) -> units.LossAndWeight:
  """Squared error of the probability, for soft labels.

  ℓ_t = (σ(r_t) − y_t)²

  The `mse` baseline of PQM (Li and Li, arXiv 2410.11287). Its gradient vanishes
  where the model is surely wrong, unlike that of `bce`.

  Args:
    values: [B, P] logits of "correct".
    labels: [B, P] in [0, 1].
    mask: [B, P] bool, True where labelled.
    weights: [B, P] non-negative; 0 leaves a step out.
    unit: see `prm_jax.objectives.units`.
    problem_weight: [B], for unit 'problem'.

  >>> one = jnp.ones((1, 1))
  >>> float(mse(0 * one, one, one)[0])
  0.25
  """
  r, y, _, w = units.prepare(values, labels, mask, weights)
  return units.total(jnp.square(jax.nn.sigmoid(r) - y), w, unit, problem_weight)


def three_class(
  values: jax.Array,
  labels: jax.Array,
  mask: jax.Array,
  weights: jax.Array | None = None,
  *,
  unit: str = 'step',
  problem_weight: jax.Array | None = None,
) -> units.LossAndWeight:
  """Cross-entropy over the classes negative, neutral, positive.

  ℓ_t = −Σ_c p_c(y_t) log softmax(r_t)_c,  p(0) = (1, 0, 0), p(½) = (0, 1, 0),
  p(1) = (0, 0, 1)

  Lightman et al. 2023 (arXiv 2305.20050, appendix F), read there as P(neutral) +
  P(positive): `step_values.softmax3`. A label between two classes is spread over
  them linearly.

  Args:
    values: [B, P, 3] class logits, worst class first.
    labels: [B, P] in [0, 1]: 0 negative, 0.5 neutral, 1 positive.
    mask: [B, P] bool, True where labelled.
    weights: [B, P] non-negative; 0 leaves a step out.
    unit: see `prm_jax.objectives.units`.
    problem_weight: [B], for unit 'problem'.

  Raises:
    ValueError: `values` has not three outputs a step.

  >>> one = jnp.ones((1, 1))
  >>> round(float(three_class(jnp.zeros((1, 1, 3)), 0.5 * one, one)[0]), 4)
  1.0986
  """
  if jnp.ndim(values) != 3 or jnp.shape(values)[-1] != 3:
    raise ValueError(f'values must be [B, P, 3], not {jnp.shape(values)}.')
  r, y, _, w = units.prepare(values, labels, mask, weights)
  classes = jnp.array([[[0.0, 0.5, 1.0]]], y.dtype)
  share = jnp.maximum(0.0, 1.0 - 2.0 * jnp.abs(y[..., None] - classes))
  losses = -jnp.sum(share * jax.nn.log_softmax(r, axis=-1), axis=-1)
  return units.total(losses, w, unit, problem_weight)
