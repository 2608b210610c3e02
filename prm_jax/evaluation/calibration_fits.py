"""Fitting calibration maps on a split that nothing is reported on."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
from scipy import optimize

from prm_jax import calibration_maps
from prm_jax.calibration_maps import CalibrationMap
from prm_jax.errors import UserError
from prm_jax.evaluation import calibration, logistic
from prm_jax.evaluation.splits import Scores, Split

_LOG_TEMPERATURES = (-6.0, 6.0)


def fit(
  kind: str, split: Split, scores: Scores, use: np.ndarray | None = None
) -> CalibrationMap:
  """Fits a map from scores to the labels of a split, soft or hard.

  Platt's and the temperature minimise cross-entropy; the isotonic one is the
  least-squares fit by pooling adjacent violators, read as a line through the centres
  of the pools (Oron & Flournoy 2017), which leaves ties at both ends only.

  Args:
    kind: one of `calibration_maps.KINDS`.
    split: with its truth.
    scores: of its solutions.
    use: [M] bool, the steps fitted on; those of `calibration.truth_steps` if None.

  Raises:
    UserError: the kind is unknown, no step or only one class is there, or higher
      scores do not go with better labels.
  """
  use = calibration.truth_steps(split, scores) if use is None else use
  x, y = scores.values[use], split.labels[use]
  if not len(x) or y.max() == 0 or y.min() == 1:
    raise UserError(
      f'split {split.name!r}: a calibration needs labels of both classes in '
      f'{split.truth!r}, and there are {len(x)} with one; take a larger split.'
    )
  z = calibration_maps.log_odds(x) if scores.kind == 'probability' else x
  if kind == 'isotonic':
    parameters = _isotonic(x, y)
  elif kind == 'temperature':
    parameters = {'temperature': (_temperature(z, y),)}
  else:
    parameters = _platt(split.name, z, y)
  return CalibrationMap(
    kind=kind,
    source=scores.kind,
    parameters=parameters,
    truth=split.truth,
    fitted_on=split.name,
    data_hash=data_hash(split),
    problem_ids=split.problem_ids,
  )


def apply(fitted: CalibrationMap, scores: Scores) -> Scores:
  """The same scorer with probabilities for values.

  Raises:
    UserError: the map reads scores of another kind.
  """
  if fitted.source != scores.kind:
    raise UserError(
      f'a calibration of scores of kind {fitted.source!r} cannot read those of '
      f'{scores.name!r}, which are of kind {scores.kind!r}; fit it again.'
    )
  values = fitted.apply(scores.values)
  return dataclasses.replace(scores, kind='probability', values=values)


def as_probabilities(
  split: Split, scores: Scores, fitted: CalibrationMap | None
) -> tuple[Scores | None, str]:
  """Probabilities and the suffix that names how they came about.

  Args:
    split: the split reported on.
    scores: its scores.
    fitted: map for scores that are no probabilities, or None.

  Returns:
    (scores, '') for probabilities, (mapped scores, '@KIND:SPLIT') for others, as in
    `brier@platt:validation`, or (None, '') if there is no map.

  Raises:
    UserError: the map was fitted on problems of the split itself.
  """
  if scores.kind == 'probability':
    return scores, ''
  if fitted is None:
    return None, ''
  check_unseen(fitted, split)
  return apply(fitted, scores), f'@{fitted.kind}:{fitted.fitted_on}'


def margin(split: Split, low: Scores, high: Scores, level: float) -> float:
  """What must be added at both ends so that a share `level` of the truths is inside.

  Conformalised quantile regression (Romano, Patterson & Candès 2019): the
  ceil((n + 1) level)-th smallest of max(low - y, y - high) over the split's n steps,
  negative where the quantiles cover too much. The guarantee is for exchangeable steps;
  steps of one solution are not, so that it holds on average over problems only.

  Args:
    split: with its truth, best the exact value.
    low, high: scores of the lowest and highest quantile.
    level: in (0, 1), 0.8 for quantiles .1 and .9.

  Raises:
    UserError: there are too few steps.
  """
  use = calibration.truth_steps(split, low)
  y = split.labels[use]
  missed = np.sort(np.maximum(low.values[use] - y, y - high.values[use]))
  place = int(np.ceil((len(missed) + 1) * level))
  if place > len(missed):
    raise UserError(
      f'split {split.name!r}: {len(missed)} steps are too few for quantiles that cover '
      f'{level:g}; take a larger split.'
    )
  return float(missed[place - 1])


def widened(low: Scores, high: Scores, by: float) -> tuple[Scores, Scores]:
  """Both quantiles with a margin, inside [0, 1] and in order."""
  middle = (low.values + high.values) / 2
  bottom = np.clip(np.minimum(low.values - by, middle), 0, 1)
  top = np.clip(np.maximum(high.values + by, middle), 0, 1)
  return dataclasses.replace(low, values=bottom), dataclasses.replace(high, values=top)


def data_hash(split: Split) -> str:
  """Of the ids and labels of a split's rows, in their order."""
  digest = hashlib.sha256('\x1f'.join(split.ids).encode('utf-8'))
  digest.update(split.truth.encode('utf-8'))
  digest.update(np.where(split.labelled, split.labels, -1.0).tobytes())
  return digest.hexdigest()[:16]


def check_unseen(fitted: CalibrationMap, split: Split) -> None:
  """Refuses to report a map on problems that it was fitted on.

  Raises:
    UserError: says how many are shared.
  """
  shared = set(fitted.problem_ids) & set(split.problem_ids)
  if shared:
    raise UserError(
      f'split {split.name!r} shares {len(shared)} problems with {fitted.fitted_on!r}, '
      'on which the calibration was fitted; report it on other problems.'
    )


def _platt(name: str, z: np.ndarray, y: np.ndarray) -> dict[str, tuple[float, ...]]:
  found = logistic.fit(z[:, None], y)
  slope = float(found.coefficients[0] / found.scale[0])
  if slope <= 0:
    raise UserError(
      f'split {name!r}: higher scores do not go with better labels (slope '
      f'{slope:.3g}); '
      'a calibration cannot help this scorer.'
    )
  return {
    'slope': (slope,),
    'intercept': (float(found.intercept - slope * found.mean[0]),),
  }


def _temperature(z: np.ndarray, y: np.ndarray) -> float:
  def loss(log_temperature: float) -> float:
    scaled = z * np.exp(-log_temperature)
    return float(np.mean(np.logaddexp(0.0, scaled) - y * scaled))

  found = optimize.minimize_scalar(loss, bounds=_LOG_TEMPERATURES, method='bounded')
  return float(np.exp(found.x))


def _isotonic(x: np.ndarray, y: np.ndarray) -> dict[str, tuple[float, ...]]:
  scores, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
  means = np.bincount(inverse, weights=y) / counts
  found = optimize.isotonic_regression(means, weights=counts)
  starts = found.blocks[:-1]
  sizes = np.add.reduceat(counts, starts)
  centres = np.add.reduceat(counts * scores, starts) / sizes
  heights = np.add.reduceat(counts * means, starts) / sizes
  return {'scores': tuple(centres.tolist()), 'values': tuple(heights.tolist())}
