"""Scores along a solution: smoothness, TD error, and distance to the value V."""

from __future__ import annotations

import numpy as np

from prm_jax.evaluation.intervals import Estimate, Resamples, bootstrap, divide, ratio
from prm_jax.evaluation.splits import Scores, Split


def smoothness(split: Split, scores: Scores, sample: Resamples) -> Estimate:
  """Mean |v_(t+1) - v_t| over neighbouring steps, on the scale of the scores."""
  follows, change = _changes(split, scores)
  sums = split.sum_steps(np.where(follows, change, 0.0), follows)
  return ratio(sums[:, 0], sums[:, 1], sample, reason='no_neighbouring_steps')


def _changes(split: Split, scores: Scores) -> tuple[np.ndarray, np.ndarray]:
  """[M] whether a step of the same solution follows, and |difference| to the next."""
  follows = split.position + 1 < split.counts[split.row]
  follows &= scores.scored[split.row]
  following = np.append(scores.values[1:], 0.0)[: len(scores.values)]
  return follows, np.abs(following - scores.values)


def td_error(split: Split, scores: Scores, sample: Resamples) -> dict[str, Estimate]:
  """Mean and standard deviation of the one-step TD error of probabilities.

  |v_t - v_(t+1)| for every step but the last and |v_P - outcome| for the last, the
  outcome being the verdict on the answer as 0 or 1: zero reward, discount 1.
  Solutions without a verdict are left out.
  """
  follows, change = _changes(split, scores)
  usable = (split.judged & scores.scored)[split.row]
  last = ~follows
  to_outcome = np.abs(split.outcome[split.row] - scores.values)
  error = np.where(usable, np.where(last, to_outcome, change), 0.0)
  sums = split.sum_steps(error, error**2, usable)
  n = int(usable.sum())
  return {
    'td_error_mean': ratio(sums[:, 0], sums[:, 2], sample, reason='no_verdicts'),
    'td_error_std': bootstrap(
      sums,
      lambda t: np.sqrt(
        np.maximum(divide(t[:, 1], t[:, 2]) - divide(t[:, 0], t[:, 2]) ** 2, 0.0)
      ),
      sample,
      n,
      'no_verdicts',
    ),
  }


def value_distance(
  split: Split, scores: Scores, sample: Resamples
) -> dict[str, Estimate]:
  """How far probabilities are from the value V of each prefix.

  Args:
    split: read with the value labels as its truth.
    scores: probabilities.
    sample: resamples of the split's problems.

  Returns:
    'mae' mean |s - V|, 'rmse' root mean square, 'correlation' (Pearson) over all
    steps whose value is known.
  """
  use = split.labelled & scores.scored[split.row]
  s, v = np.where(use, scores.values, 0.0), np.where(use, split.labels, 0.0)
  gap = s - v
  sums = split.sum_steps(use, np.abs(gap), gap**2, s, v, s * s, v * v, s * v)
  n = int(use.sum())

  def correlation(t: np.ndarray) -> np.ndarray:
    mean = divide(t[:, 3:], t[:, :1])
    covariance = mean[:, 4] - mean[:, 0] * mean[:, 1]
    variances = (mean[:, 2] - mean[:, 0] ** 2) * (mean[:, 3] - mean[:, 1] ** 2)
    spread = np.where(variances > 1e-18, np.sqrt(np.maximum(variances, 0.0)), 0.0)
    return divide(covariance, spread)

  return {
    'mae': ratio(sums[:, 1], sums[:, 0], sample, reason='no_value_labels'),
    'rmse': bootstrap(
      sums, lambda t: np.sqrt(divide(t[:, 2], t[:, 0])), sample, n, 'no_value_labels'
    ),
    'correlation': bootstrap(sums, correlation, sample, n, 'no_spread'),
  }
