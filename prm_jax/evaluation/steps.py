"""How well single steps are judged, beside what guessing would get.

All of it is over labelled steps up to and including the first wrong one, because
what follows a first error has no agreed truth.
"""

from __future__ import annotations

import numpy as np

from prm_jax.evaluation.intervals import Estimate, Resamples, bootstrap, divide, ratio
from prm_jax.evaluation.ranking import rank_metrics
from prm_jax.evaluation.splits import UNKNOWN, Scores, Split


def judged_steps(split: Split, scores: Scores) -> np.ndarray:
  """[M] bool: steps that step metrics are over, in solutions that are scored."""
  return split.up_to_first_error & scores.scored[split.row]


def ranking(split: Split, scores: Scores, sample: Resamples) -> dict[str, Estimate]:
  """'auroc' and 'average_precision' (positive class: wrong), without a threshold."""
  use = judged_steps(split, scores)
  auroc, average = rank_metrics(
    scores.values[use], split.wrong[use], split.problem[split.row][use], sample
  )
  return {'auroc': auroc, 'average_precision': average}


def base_rate(split: Split, scores: Scores, sample: Resamples) -> Estimate:
  """Share of steps that are correct: the accuracy of calling every step correct.

  One minus it is the chance level of average precision.
  """
  use = judged_steps(split, scores)
  sums = split.sum_steps(use & ~split.wrong, use)
  return ratio(sums[:, 0], sums[:, 1], sample, reason='no_labelled_steps')


def at_threshold(
  split: Split,
  scores: Scores,
  threshold: float,
  predictions: np.ndarray,
  sample: Resamples,
) -> dict[str, Estimate]:
  """Measures of a thresholded scorer.

  Args:
    split, scores, sample: see elsewhere.
    threshold: a score above it counts as correct.
    predictions: [R] first wrong step of each solution at that threshold.

  Returns:
    'accuracy': share of steps on the right side; read it beside `base_rate`.
    'f1_wrong': F1 of precision and recall of the class *wrong*.
    'first_error_accuracy': share of all solutions whose first wrong step, or its
      absence, is named exactly.
  """
  use = judged_steps(split, scores)
  called_wrong = use & ~(scores.values > threshold)
  hit = called_wrong & split.wrong
  right = use & (called_wrong == split.wrong)
  sums = split.sum_steps(right, use, hit, called_wrong, use & split.wrong)
  known = split.first_error != UNKNOWN
  rows = split.sum_rows(known & (predictions == split.first_error), known)
  n = int(use.sum())
  return {
    'accuracy': ratio(sums[:, 0], sums[:, 1], sample, reason='no_labelled_steps'),
    'f1_wrong': bootstrap(
      sums[:, 2:],
      lambda t: divide(2 * t[:, 0], t[:, 1] + t[:, 2]),
      sample,
      n,
      'nothing_wrong_or_called_wrong',
    ),
    'first_error_accuracy': ratio(
      rows[:, 0], rows[:, 1], sample, reason='no_known_first_error'
    ),
  }
