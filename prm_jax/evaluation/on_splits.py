"""All metrics of one split of solutions with step truth."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from prm_jax.calibration_maps import CalibrationMap
from prm_jax.errors import UserError
from prm_jax.evaluation import (
  along,
  baselines,
  calibration,
  calibration_fits,
  process_bench,
  steps,
)
from prm_jax.evaluation.intervals import Resamples, difference, undefined
from prm_jax.evaluation.report.data import Reliability
from prm_jax.evaluation.result import Collector, Options, metric_path
from prm_jax.evaluation.splits import UNKNOWN, Scores, Split


@dataclasses.dataclass(frozen=True, eq=False)
class Tuning:
  """What was fitted for one scorer on the tuning split.

  Attributes:
    split, scores: the tuning split and its scores.
    platt: map from raw scores to P(correct); None for probabilities, and where none
      can be fitted.
    value_platt: the same for the value V, None also without value labels.
  """

  split: Split
  scores: Scores
  platt: CalibrationMap | None
  value_platt: CalibrationMap | None


def fit_tuning(split: Split, scores: Scores, value_split: Split | None) -> Tuning:
  """Fits the calibration maps that raw scores need; thresholds are tuned later."""
  platt = value_platt = None
  if scores.kind != 'probability':
    platt = _platt(split, scores)
    value_platt = _platt(value_split, scores) if value_split is not None else None
  return Tuning(split, scores, platt, value_platt)


def _platt(split: Split, scores: Scores) -> CalibrationMap | None:
  try:
    return calibration_fits.fit('platt', split, scores)
  except UserError:  # labels of one class, or scores that fall where labels rise
    return None


def policies_for(kind: str, tune: str, options: Options) -> tuple[str, ...]:
  """The threshold policies reported for scores of a kind."""
  untuned = 'fixed:0.5' if kind == 'probability' else 'argmax'
  return options.policies or ((f'tuned:{tune}',) if tune else ()) + (untuned,)


def measure(
  out: Collector,
  split: Split,
  value_split: Split | None,
  scorers: dict[str, Scores],
  tuning: dict[str, Tuning],
  options: Options,
) -> None:
  """Measures every scorer on a split and records it.

  Args:
    out: where metrics, counters, curves and samples go.
    split: with its truth.
    value_split: the same solutions with V as truth, or None.
    scorers: '' -> the one evaluated, name -> another scorer or a baseline.
    tuning: the same keys, empty without a tuning split.
    options: see there.
  """
  sample = options.resamples(split.problem_ids)
  out.count(split.name, {'rows': split.n_rows, 'problems': split.n_problems})
  out.count(split.name, split.counters)
  for who, scores in scorers.items():
    fitted = tuning.get(who)
    name = f'unscored[{who}]' if who else 'unscored'
    out.count(split.name, {name: int((~scores.scored).sum())})
    _thresholded(out, split, who, scores, fitted, options, sample)
    for name, found in steps.ranking(split, scores, sample).items():
      out.put(metric_path(split.name, 'steps', name, '', who), found, split.truth)
    _as_probabilities(out, split, who, scores, fitted, sample)
    if value_split is not None:
      _value(out, value_split, who, scores, fitted, sample)
    path = metric_path(split.name, 'trajectory', 'smoothness', '', who)
    out.put(path, along.smoothness(split, scores, sample), 'none')
  _all_correct(out, split, scorers[''], sample)
  _against_others(out, split, scorers, sample)


def _thresholded(
  out: Collector,
  split: Split,
  who: str,
  scores: Scores,
  fitted: Tuning | None,
  options: Options,
  sample: Resamples,
) -> None:
  tune = (fitted.split, fitted.scores) if fitted else None
  for i, policy in enumerate(
    policies_for(scores.kind, tune[0].name if tune else '', options)
  ):
    if policy == f'tuned:{split.name}':
      continue  # a split is never reported at its own optimum
    threshold = process_bench.choose_threshold(policy, split, scores.kind, tune)
    if threshold.value is None:
      path = metric_path(split.name, 'process_bench', 'f1', policy, who)
      out.put(path, undefined(threshold.reason), split.truth)
      continue
    predictions = process_bench.predict(split, scores, threshold.value)
    groups = {
      'process_bench': process_bench.process_bench(split, predictions, sample),
      'steps': steps.at_threshold(split, scores, threshold.value, predictions, sample),
    }
    for family, found in groups.items():
      for name, value in found.items():
        path = metric_path(split.name, family, name, policy, who)
        out.put(path, value, split.truth)
    if i == 0 and not who:
      out.samples += sample_rows(split, scores, predictions, threshold)


def sample_rows(
  split: Split,
  scores: Scores,
  predictions: np.ndarray,
  threshold: process_bench.Threshold,
) -> list[dict[str, Any]]:
  """One dict a solution for the per-sample file: gold, prediction, scores."""
  rows = []
  for r, name in enumerate(split.ids):
    gold, predicted = int(split.first_error[r]), int(predictions[r])
    scored = bool(scores.scored[r])
    span = slice(split.offsets[r], split.offsets[r + 1])
    rows.append(
      {
        'kind': 'solution',
        'split': split.name,
        'id': name,
        'problem_id': split.problem_ids[split.problem[r]],
        'truth': split.truth,
        'gold_first_error': None if gold == UNKNOWN else gold,
        'predicted_first_error': predicted if scored else None,
        'match': None if gold == UNKNOWN else gold == predicted,
        'policy': threshold.policy,
        'threshold': threshold.value,
        'scores': scores.values[span].tolist() if scored else None,
      }
    )
  return rows


def _as_probabilities(
  out: Collector,
  split: Split,
  who: str,
  scores: Scores,
  fitted: Tuning | None,
  sample: Resamples,
) -> None:
  usable = fitted if fitted and fitted.split.name != split.name else None
  mapped, suffix = calibration_fits.as_probabilities(
    split, scores, usable.platt if usable else None
  )
  if mapped is None:
    path = metric_path(split.name, 'calibration', 'brier', '', who)
    out.put(path, undefined('raw_scores_without_calibration'), split.truth)
    return
  at = suffix.removeprefix('@')
  for name, found in calibration.calibration(split, mapped, sample).items():
    path = metric_path(split.name, 'calibration', name, at, who)
    out.put(path, found, split.truth)
  for name, found in along.td_error(split, mapped, sample).items():
    out.put(metric_path(split.name, 'trajectory', name, at, who), found, split.verdict)
  if not who:
    bins = calibration.reliability(split, mapped, sample)
    note = f'Scores after a Platt map, {at}.' if at else ''
    out.reliability.append(Reliability(f'{split.name}: {split.truth}', bins, note))


def _value(
  out: Collector,
  split: Split,
  who: str,
  scores: Scores,
  fitted: Tuning | None,
  sample: Resamples,
) -> None:
  usable = fitted if fitted and fitted.split.name != split.name else None
  mapped, suffix = calibration_fits.as_probabilities(
    split, scores, usable.value_platt if usable else None
  )
  if mapped is None:
    path = metric_path(split.name, 'value', 'mae', '', who)
    out.put(path, undefined('raw_scores_without_calibration'), split.truth)
    return
  for name, found in along.value_distance(split, mapped, sample).items():
    path = metric_path(split.name, 'value', name, suffix.removeprefix('@'), who)
    out.put(path, found, split.truth)


def _all_correct(
  out: Collector, split: Split, scores: Scores, sample: Resamples
) -> None:
  out.put(
    metric_path(split.name, 'steps', 'base_rate'),
    steps.base_rate(split, scores, sample),
    split.truth,
  )
  nothing = np.full(split.n_rows, -1)
  for name, found in process_bench.process_bench(split, nothing, sample).items():
    who = baselines.ALL_CORRECT
    out.put(metric_path(split.name, 'process_bench', name, '', who), found, split.truth)


def _against_others(
  out: Collector, split: Split, scorers: dict[str, Scores], sample: Resamples
) -> None:
  """Paired differences to each other scorer: AUROC, and F1 at policies both have.

  An AUROC is over the steps that its scorer has scored, so where these are not the same
  the difference is over those that both have.
  """
  for who in filter(None, scorers):
    both = scorers[''].scored & scorers[who].scored
    for path in list(out.estimates):
      family, _, name = path.removeprefix(f'{split.name}/').partition('/')
      base, _, at = name.partition('@')
      compared = (family, base) in (('process_bench', 'f1'), ('steps', 'auroc'))
      if not path.startswith(f'{split.name}/') or not compared or '[' in name:
        continue
      other = out.get(path + f'[{who}]')
      if other is not None:
        mine = out.estimates[path]
        if base == 'auroc' and not both.all():
          held = [dataclasses.replace(scorers[w], scored=both) for w in ('', who)]
          mine, other = (steps.ranking(split, h, sample)[base] for h in held)
        against = metric_path(split.name, family, f'{base}-{who}', at)
        out.put(against, difference(mine, other), split.truth)
