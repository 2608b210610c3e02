"""How far probabilities are from the truth: Brier score, ECE, reliability curve.

These have a meaning for probabilities only; `calibration_fits.as_probabilities` makes
them of raw logits and log-ratios.
"""

from __future__ import annotations

import numpy as np

from prm_jax.evaluation.intervals import (
  Estimate,
  Resamples,
  bootstrap,
  divide,
  interval,
  ratio,
)
from prm_jax.evaluation.splits import Scores, Split
from prm_jax.evaluation.steps import judged_steps

N_BINS = 10


def truth_steps(split: Split, scores: Scores) -> np.ndarray:
  """[M] bool: steps whose label a probability is held against.

  For labels of correctness those up to the first wrong one; for the other kinds
  (a value is defined everywhere) all that are labelled.
  """
  if split.truth_kind == 'correctness':
    return judged_steps(split, scores)
  return split.labelled & scores.scored[split.row]


def calibration(split: Split, scores: Scores, sample: Resamples) -> dict[str, Estimate]:
  """'brier' and 'ece' of probabilities.

  Brier = mean (s - y)^2. ECE = sum_b (n_b / n) |mean s - mean y| over 10 bins of
  equal width (Guo et al. 2017); a step with s = 1 is in the last bin. Noise moves
  every resample's ECE upward, so its interval can lie above its value.
  """
  use = truth_steps(split, scores)
  gap = np.where(use, scores.values - split.labels, 0.0)
  sums = split.sum_steps(gap**2, use)
  bins = _bins(scores.values)
  per_bin = split.sum_steps(*(np.where(bins == b, gap, 0.0) for b in range(N_BINS)))
  return {
    'brier': ratio(sums[:, 0], sums[:, 1], sample, reason='no_labelled_steps'),
    'ece': bootstrap(
      np.concatenate([per_bin, sums[:, 1:]], axis=1),
      lambda t: divide(np.abs(t[:, :-1]).sum(axis=1), t[:, -1]),
      sample,
      int(use.sum()),
      'no_labelled_steps',
    ),
  }


def _bins(values: np.ndarray) -> np.ndarray:
  return np.clip((values * N_BINS).astype(np.int64), 0, N_BINS - 1)


def reliability(
  split: Split, scores: Scores, sample: Resamples
) -> list[tuple[float, ...]]:
  """The reliability curve over 10 bins of equal width.

  Returns:
    One (count, mean score, mean truth, low, high) a bin, the last two the 95 %
    interval of the mean truth; without them where there is no interval; (0, middle
    of the bin, 0) for an empty bin.
  """
  use = truth_steps(split, scores)
  bins = _bins(scores.values)
  rows: list[tuple[float, ...]] = []
  for b in range(N_BINS):
    inside = use & (bins == b)
    count = int(inside.sum())
    if not count:
      rows.append((0, (b + 0.5) / N_BINS, 0.0))
      continue
    sums = split.sum_steps(np.where(inside, split.labels, 0.0), inside)
    total = sample.weights @ sums
    truth = divide(total[:, 0], total[:, 1])
    row = (count, float(scores.values[inside].mean()), float(truth[0]))
    drawn = truth[1 : 1 + sample.n]
    low, high = interval(drawn) if sample.n_problems > 1 else (None, None)
    rows.append(row if low is None or high is None else (*row, low, high))
  return rows
