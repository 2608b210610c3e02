"""Q-value ranking (PQM): correct steps rise, and wrong ones lie below them all.

Li and Li, "Process Reward Model with Q-Value Rankings", arXiv 2410.11287 (ICLR
2025). One solution has labelled steps t = 1..S with logits r_t; P are the correct
ones and N the wrong ones, wherever they stand. The anchor, a score of 0, lies
between them; ζ is the margin by which wrong steps must stay below.

  ℓ_0 = log(1 + Σ_{n∈N} e^{r_n+ζ})                       if N is not empty
  ℓ_t = log(1 + e^{−r_t} + Σ_{q∈P, q<t} e^{r_q−r_t} + Σ_{n∈N} e^{r_n+ζ−r_t}),  t∈P

Every sum runs as a log-sum-exp of differences, so logits may have any magnitude.
The authors' code adds 1e-5 inside the logarithm, which changes a loss by at most
1e-5 of itself and is left out here.

**Weights.** A step of weight 0 is context: it stays in every sum, and its own term
ℓ_t does not count. ℓ_0 has no step of its own and counts with the largest weight
among the wrong steps, so that adding context never changes how much other terms
count. With equal weights all of this is the published loss.

  >>> values = jnp.array([[0.5, 1.0, -0.3]])
  >>> labels, mask = jnp.array([[1.0, 1.0, 0.0]]), jnp.ones((1, 3), bool)
  >>> loss_sum, weight = q_ranking(values, labels, mask, margin=4.0)
  >>> round(float(loss_sum / weight), 4)
  3.2708
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from prm_jax import masking
from prm_jax.objectives import units


def _split(
  labels: jax.Array, mask: jax.Array, threshold: float
) -> tuple[jax.Array, jax.Array]:
  """The correct and the wrong among the labelled steps, [B, P] bool each."""
  correct = mask & (labels >= threshold)
  return correct, mask & ~correct


def _earlier(n_steps: int) -> jax.Array:
  """[1, t, q] bool: q stands before t."""
  return jnp.tri(n_steps, k=-1, dtype=bool)[None]


def _softplus_of_sum(differences: jax.Array, where: jax.Array) -> jax.Array:
  """log(1 + Σ_where exp(differences)) over the last axis; 0 if there are none."""
  return jax.nn.softplus(masking.masked_logsumexp(differences, where))


def _anchor_losses(values: jax.Array, wrong: jax.Array, margin: float) -> jax.Array:
  """ℓ_0 of each row: [B, P] -> [B]."""
  return _softplus_of_sum(values + margin, wrong)


def _correct_losses(
  values: jax.Array,
  correct: jax.Array,
  wrong: jax.Array,
  margin: float,
  double_count: bool,
) -> jax.Array:
  """ℓ_t of each step, whether or not it is correct: [B, P] -> [B, P]."""
  where = correct[:, None, :] & _earlier(values.shape[1]) | wrong[:, None, :]
  if double_count:
    where |= jnp.diag(jnp.arange(values.shape[1]) > 0)[None]
  rivals = jnp.where(wrong, values + margin, values)
  anchor = jnp.zeros_like(values[:, :1])
  rivals = jnp.concatenate([anchor, rivals], axis=1)  # [B, 1 + P]
  where = jnp.concatenate([jnp.ones_like(where[..., :1]), where], axis=-1)
  return _softplus_of_sum(rivals[:, None, :] - values[..., None], where)


def _later_wrong_losses(values: jax.Array, wrong: jax.Array) -> jax.Array:
  """log(1 + Σ_{j∈N, j>k} e^{r_j−r_k}) of each step k: [B, P] -> [B, P]."""
  later = wrong[:, None, :] & _earlier(values.shape[1]).swapaxes(1, 2)
  return _softplus_of_sum(values[:, None, :] - values[..., None], later)


def _largest(weights: jax.Array, where: jax.Array) -> jax.Array:
  return jnp.max(weights, axis=1, initial=0.0, where=where)


def _practical(
  values: jax.Array,
  correct: jax.Array,
  wrong: jax.Array,
  weights: jax.Array,
  margin: float,
  double_count: bool,
) -> tuple[jax.Array, jax.Array]:
  """Σ w ℓ over ℓ_0 and the ℓ_t of each row [B], and Σ w [B]."""
  anchor_weight = _largest(weights, wrong)
  own_weight = masking.guard(weights, correct)
  anchor = _anchor_losses(values, wrong, margin)
  own = _correct_losses(values, correct, wrong, margin, double_count)
  loss = anchor_weight * anchor + masking.masked_sum(own_weight * own, correct, 1)
  return loss, anchor_weight + jnp.sum(own_weight, axis=1)


def q_ranking(
  values: jax.Array,
  labels: jax.Array,
  mask: jax.Array,
  weights: jax.Array | None = None,
  *,
  margin: float = 4.0,
  threshold: float = 0.5,
  double_count: bool = False,
  unit: str = 'trajectory',
  problem_weight: jax.Array | None = None,
) -> units.LossAndWeight:
  """PQM as it is trained in practice.

  L = (1[N≠∅] ℓ_0 + Σ_{t∈P} ℓ_t) / (|P| + 1[N≠∅]), terms in the module's docstring.

  arXiv 2410.11287, Eq. 10; the loss `rank` of its code. The published mean over a
  batch is one of trajectories, unit 'trajectory'; in unit 'step' every term counts
  alike, ℓ_0 included. Wrong steps are not ranked among themselves. Values are
  unbounded and 0 is only the ranking's anchor: no probability is meant.

  Args:
    values: [B, P] logits.
    labels: [B, P] in [0, 1].
    mask: [B, P] bool, True where labelled; other steps take no part.
    weights: [B, P] non-negative; 0 is context (module's docstring).
    margin: ζ ≥ 0.
    threshold: a step is correct if its label is at least this.
    double_count: the form released before February 2025, for reproduction: the
      step's own e^{r_t} stands twice in its sum, except at the row's first step.
    unit: see `prm_jax.objectives.units`.
    problem_weight: [B], for unit 'problem'.

  One wrong step alone is BCE shifted by the margin, softplus(r + ζ):

  >>> one = jnp.ones((1, 1))
  >>> round(float(q_ranking(-3 * one, 0 * one, one, margin=4.0)[0]), 4)
  1.3133
  """
  r, y, mask, w = units.prepare(values, labels, mask, weights)
  correct, wrong = _split(y, mask, threshold)
  loss, weight = _practical(r, correct, wrong, w, margin, double_count)
  return units.total_rows(loss, weight, unit, problem_weight)


def q_ranking_first_error(
  values: jax.Array,
  labels: jax.Array,
  mask: jax.Array,
  weights: jax.Array | None = None,
  *,
  margin: float = 0.0,
  threshold: float = 0.5,
  unit: str = 'trajectory',
  problem_weight: jax.Array | None = None,
) -> units.LossAndWeight:
  """The ablation in which only the first wrong step stands in the sums.

  As `q_ranking` with N = {first wrong step}. arXiv 2410.11287, Eq. 12; the loss
  `ablate-rank` of its code, which has no margin and takes the number of correct
  labels for the index of the first wrong step. That is right only where no correct
  step follows a wrong one; here the index is the true one. ℓ_0 counts with the
  weight of that step.

  Args:
    values: [B, P] logits.
    labels: [B, P] in [0, 1].
    mask: [B, P] bool, True where labelled; other steps take no part.
    weights: [B, P] non-negative; 0 is context.
    margin: ζ; 0 is published.
    threshold: a step is correct if its label is at least this.
    unit: see `prm_jax.objectives.units`.
    problem_weight: [B], for unit 'problem'.

  >>> values, ones = jnp.array([[0.5, 1.0, -0.3]]), jnp.ones((1, 3))
  >>> round(float(q_ranking_first_error(values, 0 * ones, ones)[0]), 4)
  0.9741
  """
  r, y, mask, w = units.prepare(values, labels, mask, weights)
  correct, wrong = _split(y, mask, threshold)
  first = wrong & (jnp.cumsum(wrong, axis=1) == 1)
  loss, weight = _practical(r, correct, first, w, margin, False)
  return units.total_rows(loss, weight, unit, problem_weight)


def q_ranking_theoretical(
  values: jax.Array,
  labels: jax.Array,
  mask: jax.Array,
  weights: jax.Array | None = None,
  *,
  margin: float = 4.0,
  threshold: float = 0.5,
  double_count: bool = False,
  unit: str = 'trajectory',
  problem_weight: jax.Array | None = None,
) -> units.LossAndWeight:
  """PQM with the ranking among wrong steps, later ones lower, that the theory asks.

  L = (1[N≠∅] ℓ_0 + Σ_{t∈P} ℓ_t) / (S + 1)
      + Σ_{k∈N} log(1 + Σ_{j∈N, j>k} e^{r_j−r_k}) / S

  arXiv 2410.11287, Eq. 9, with the divisors of its code's `theory-rank`: S counts
  all labelled steps, and the slot of the anchor counts also where N is empty. Under
  weights S becomes the sum of the weights w of labelled steps, the anchor's slot
  the largest of them, and each term gets the weight of its step. In unit 'step' a
  trajectory's L counts Σ w.

  Args:
    values: [B, P] logits.
    labels: [B, P] in [0, 1].
    mask: [B, P] bool, True where labelled; other steps take no part.
    weights: [B, P] non-negative; 0 is context.
    margin: ζ ≥ 0; not used among wrong steps.
    threshold: a step is correct if its label is at least this.
    double_count: as in `q_ranking`; the released `theory-rank` still has it.
    unit: see `prm_jax.objectives.units`.
    problem_weight: [B], for unit 'problem'.

  >>> values, ones = jnp.array([[0.5, 1.0, -0.3]]), jnp.ones((1, 3))
  >>> labels = jnp.array([[1.0, 1.0, 0.0]])
  >>> round(float(q_ranking_theoretical(values, labels, ones)[0]), 4)
  2.4531
  """
  r, y, mask, w = units.prepare(values, labels, mask, weights)
  correct, wrong = _split(y, mask, threshold)
  first_kind, _ = _practical(r, correct, wrong, w, margin, double_count)
  among_wrong = masking.masked_sum(w * _later_wrong_losses(r, wrong), wrong, 1)
  steps = jnp.sum(w, axis=1)
  mean = masking.safe_divide(first_kind, steps + _largest(w, mask))
  # L · S, for a unit either divides by S again or lets the row count S times.
  loss = steps * mean + among_wrong
  return units.total_rows(loss, steps, unit, problem_weight)
