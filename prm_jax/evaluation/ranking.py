"""AUROC and average precision of steps, on the data and on every resample.

Both are functions of one walk through the steps in ascending order of score. A
resample only changes how often a step counts, so the walk carries a vector with
one entry a resample and costs a few vector operations a step.
"""

from __future__ import annotations

import numpy as np

from prm_jax.evaluation.intervals import Estimate, Resamples, divide, estimate


def rank_metrics(
  values: np.ndarray, wrong: np.ndarray, problem: np.ndarray, sample: Resamples
) -> tuple[Estimate, Estimate]:
  """How well scores rank wrong steps below correct ones.

  AUROC is the chance that a correct step scores above a wrong one, ties one half
  (Mann-Whitney). Average precision has *wrong* as its positive class: the mean,
  over wrong steps, of the share of wrong steps among all that score at most as
  high; steps of equal score enter together, so no order within a tie matters. Its
  chance level is the share of wrong steps.

  Args:
    values: [M] scores, higher is better.
    wrong: [M] bool.
    problem: [M] int, the problem of each step.
    sample: resamples of the problems.

  Returns:
    (AUROC, average precision); both undefined without a step of either class, for
    the reasons 'no_wrong_steps' and 'no_correct_steps'.
  """
  m, r = len(values), sample.weights.shape[0]
  order = np.argsort(values, kind='stable')
  ends = np.append(np.flatnonzero(np.diff(values[order])) + 1, m)
  by_problem = np.ascontiguousarray(sample.weights.T)  # rows are contiguous
  problem, wrong = problem[order], wrong[order]
  n_wrong, n_correct = np.zeros(r), np.zeros(r)
  area, precision = np.zeros(r), np.zeros(r)
  start = 0
  for end in ends:
    new_wrong = _total(by_problem, problem[start:end][wrong[start:end]])
    new_correct = _total(by_problem, problem[start:end][~wrong[start:end]])
    start = end
    if new_correct is not None:
      area += new_correct * n_wrong
      n_correct += new_correct
    if new_wrong is not None:
      if new_correct is not None:
        area += 0.5 * new_correct * new_wrong
      n_wrong += new_wrong
      seen = n_wrong + n_correct
      precision += new_wrong * n_wrong / np.maximum(seen, 1.0)
  reason = 'no_wrong_steps' if not wrong.any() else 'no_correct_steps'
  pairs = n_wrong * n_correct
  average = np.where(pairs > 0, divide(precision, n_wrong), np.nan)
  return (
    estimate(divide(area, pairs), sample, m, reason),
    estimate(average, sample, m, reason),
  )


def _total(by_problem: np.ndarray, rows: np.ndarray) -> np.ndarray | None:
  """Sum of the chosen rows, None if there is none."""
  if len(rows) == 0:
    return None
  if len(rows) == 1:
    return by_problem[rows[0]]
  if len(rows) < len(by_problem) // 8:
    return by_problem[rows].sum(axis=0)
  # Many ties, as with constant scores: one product instead of many sums.
  counts = np.bincount(rows, minlength=len(by_problem)).astype(np.float64)
  return counts @ by_problem
