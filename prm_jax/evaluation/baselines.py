"""What a result has to beat: scorers that read no content.

`baseline_position_length` knows where a step stands and how long text is, nothing
else, and is fitted on training steps only. `all_correct` calls every step correct.
"""

from __future__ import annotations

import numpy as np

from prm_jax.evaluation import logistic
from prm_jax.evaluation.splits import Scores, Split, Steps

POSITION_LENGTH = 'baseline_position_length'
ALL_CORRECT = 'all_correct'


def features(steps: Steps) -> np.ndarray:
  """[M, 3] float64: 0-based position, characters of the step, and of all before it."""
  ends = np.cumsum(steps.chars)
  at_start = np.concatenate([[0], ends])[steps.offsets[:-1]]
  prefix = ends - steps.chars - at_start[steps.row]
  return np.stack([steps.position, steps.chars, prefix], axis=1).astype(np.float64)


def fit_position_length(train: Split) -> logistic.Logistic:
  """Logistic regression of the label on the three features.

  It is fitted on every labelled training step, as a scorer is. Fitted up to first
  errors only, it would miss that late steps are more often off the track: in the
  embedded world its F1 was then 0.00 instead of 0.15.

  Raises:
    UserError: the labelled steps are all correct or all wrong.
  """
  use = train.labelled
  correct = (train.labels[use] >= 0.5).astype(np.float64)
  return logistic.fit(features(train)[use], correct)


def score(model: logistic.Logistic, steps: Steps) -> Scores:
  """Scores of the fitted baseline, to be judged like those of any scorer."""
  return Scores(
    POSITION_LENGTH,
    'probability',
    model.probabilities(features(steps)),
    np.ones(steps.n_rows, dtype=bool),
  )


def all_correct(steps: Steps) -> Scores:
  """Probability 1 for every step: predicts -1 everywhere at any threshold below 1."""
  ones = np.ones(len(steps.chars))
  return Scores(ALL_CORRECT, 'probability', ones, np.ones(steps.n_rows, dtype=bool))
