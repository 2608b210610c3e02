"""The ProcessBench metric, exactly (Zheng et al. 2024, arXiv 2412.06559).

A scorer names the first wrong step of a solution, or -1; a row matches if that
equals the label. Accuracy on rows with an error and accuracy on rows without one
are joined by their harmonic mean, called F1 (it is not the F1 of precision and
recall). The average over splits is the plain mean of their F1s.

The prediction is the first step whose score is *not above* a threshold. Where the
threshold comes from changes the number, so it is part of the metric's name:
`fixed:0.5`; `argmax`, correct against wrong: 0.5 for probabilities, 0 for logits
and log-ratios; `tuned:SPLIT`, the best F1 on a split that shares no problem with
the one reported.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from prm_jax.errors import UserError
from prm_jax.evaluation.intervals import Estimate, Resamples, divide, estimate, ratio
from prm_jax.evaluation.splits import UNKNOWN, Scores, Split, check_disjoint
from prm_jax.step_values import predict_first_error

UNDECIDED = -3
"""Prediction for a solution that is not scored: never a match."""


@dataclasses.dataclass(frozen=True)
class Threshold:
  """A score above `value` counts as correct.

  Attributes:
    policy: how it was chosen, as in the metric's name.
    value: None if it could not be chosen; `reason` then says why.
    reason: '' or a word for the counters.
  """

  policy: str
  value: float | None
  reason: str = ''


def choose_threshold(
  policy: str,
  reported: Split,
  kind: str,
  tune: tuple[Split, Scores] | None = None,
) -> Threshold:
  """The threshold of a policy for one reported split.

  Args:
    policy: 'fixed:NUMBER', 'argmax' or 'tuned:SPLIT'.
    reported: the split the metric is reported on.
    kind: of the scores.
    tune: truth and scores of the split to tune on.

  Raises:
    UserError: the policy is unknown, its split is not there, or shares a problem
      with the reported one.
  """
  name, _, rest = policy.partition(':')
  if name == 'argmax' and not rest:
    return Threshold(policy, 0.5 if kind == 'probability' else 0.0)
  if name == 'fixed':
    try:
      value = float(rest)
    except ValueError:
      value = math.nan
    if math.isfinite(value):
      return Threshold(policy, value)
  elif name == 'tuned' and rest:
    if tune is None or tune[0].name != rest:
      raise UserError(
        f'threshold policy {policy!r}: there is no split {rest!r} to tune on; add it '
        'to the splits or choose another policy.'
      )
    check_disjoint(tune[0], reported)
    return tune_threshold(*tune, policy=policy)
  raise UserError(
    f'threshold policy {policy!r} is unknown; it is fixed:NUMBER, argmax or '
    'tuned:SPLIT.'
  )


def tune_threshold(split: Split, scores: Scores, policy: str = '') -> Threshold:
  """The threshold with the best F1 on a split, over all that differ in effect.

  Candidates are the midpoints between neighbouring distinct scores and one beyond
  either end. A row without error matches below its lowest score; a row with its
  error at e matches in [score of e, lowest score before e): so F1 at every
  candidate comes from sorted bounds, without a search. Among equally good ones
  the middle one is taken.
  """
  used = (split.first_error != UNKNOWN) & scores.scored & (split.counts > 0)
  erroneous = used & (split.first_error >= 0)
  correct = used & (split.first_error == -1)
  if not erroneous.any() or not correct.any():
    return Threshold(policy, None, 'tuning_split_lacks_a_class')
  values = split.padded(scores.values, np.inf)
  stop = np.where(erroneous, split.first_error, values.shape[1])
  inside = np.arange(values.shape[1]) < stop[:, None]
  lowest_before = np.where(inside, values, np.inf).min(axis=1)
  at_error = values[erroneous, split.first_error[erroneous]]
  until = lowest_before[erroneous]
  distinct = np.unique(scores.values[scores.scored[split.row]])
  candidates = np.concatenate(
    [[distinct[0] - 1.0], (distinct[1:] + distinct[:-1]) / 2, [distinct[-1] + 1.0]]
  )
  at_error, until = at_error[until > at_error], until[until > at_error]
  hits = _at_most(at_error, candidates) - _at_most(until, candidates)
  accepted = correct.sum() - _at_most(lowest_before[correct], candidates)
  f1 = harmonic_mean(hits / erroneous.sum(), accepted / correct.sum())
  best = np.flatnonzero(f1 == f1.max())
  return Threshold(policy, float(candidates[best[len(best) // 2]]))


def _at_most(values: np.ndarray, bounds: np.ndarray) -> np.ndarray:
  return np.searchsorted(np.sort(values), bounds, side='right')


def harmonic_mean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """2ab / (a + b), 0 where both are 0, NaN where either is NaN."""
  return np.where(a + b == 0, 0.0, divide(2 * a * b, a + b))


def predict(split: Split, scores: Scores, threshold: float) -> np.ndarray:
  """[R] int: first step not above `threshold`, -1 none, `UNDECIDED` if not scored."""
  found = predict_first_error(split.padded(scores.values), split.mask, threshold)
  return np.where(scores.scored, found, UNDECIDED)


def process_bench(
  split: Split, predictions: np.ndarray, sample: Resamples
) -> dict[str, Estimate]:
  """F1 and its two accuracies.

  Args:
    split: R solutions; those whose first error is unknown are left out.
    predictions: [R] from `predict`.
    sample: resamples of the split's problems.

  Returns:
    'f1', 'accuracy_error', 'accuracy_correct' (n: rows each is over). A split
    without erroneous or without correct rows has no F1, for the reasons
    'no_erroneous_rows' and 'no_correct_rows'.
  """
  match = predictions == split.first_error
  erroneous, correct = split.first_error >= 0, split.first_error == -1
  sums = split.sum_rows(match & erroneous, erroneous, match & correct, correct)
  total = sample.weights @ sums
  on_error = divide(total[:, 0], total[:, 1])
  on_correct = divide(total[:, 2], total[:, 3])
  n_error, n_correct = int(erroneous.sum()), int(correct.sum())
  reason = 'no_correct_rows' if n_error else 'no_erroneous_rows'
  return {
    'f1': estimate(
      harmonic_mean(on_error, on_correct), sample, n_error + n_correct, reason
    ),
    'accuracy_error': ratio(sums[:, 0], sums[:, 1], sample, reason='no_erroneous_rows'),
    'accuracy_correct': ratio(sums[:, 2], sums[:, 3], sample, reason='no_correct_rows'),
  }
