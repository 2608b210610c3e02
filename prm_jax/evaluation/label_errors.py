"""How far an algorithm's labels are from what they estimate.

Errors are against the label's own estimand; hard decisions and calibration against
the reference value V and against the truth about the steps, each named in brackets:
`audit/NAME/hard_accuracy[reference]`, `audit/NAME/brier[on_track]`. Prefixes whose
reference is ambiguous count in no hard comparison with it.

A reference from n rollouts has noise of its own, with variance v = p (1 - p) / (n - 1)
and standard error s. For labels made from other rollouts:

  mean squared error without it     = mean (label - p)^2 - mean v, without bias
  mean absolute error without it   >= mean |label - p| - mean s sqrt(2 / pi), and
                                   <= mean |label - p|
"""

from __future__ import annotations

import dataclasses

import numpy as np

from prm_jax.estimates import entropic
from prm_jax.evaluation import calibration
from prm_jax.evaluation.intervals import Resamples, ratio
from prm_jax.evaluation.label_readings import Reading
from prm_jax.evaluation.label_reference import Reference, entropic_slope
from prm_jax.evaluation.report.data import Reliability
from prm_jax.evaluation.result import Collector
from prm_jax.evaluation.splits import UNKNOWN, Scores, Split, Steps

REFERENCE = 'reference'
AMBIGUOUS = 'reference_ambiguous'
_WITHOUT = 'no_labelled_prefixes'


def path(name: str, metric: str, against: str = '') -> str:
  """'audit/NAME/METRIC[AGAINST]'."""
  return f'audit/{name}/{metric}' + (f'[{against}]' if against else '')


@dataclasses.dataclass(frozen=True, eq=False)
class _Target:
  """What labels are held against: [M] values, noise and its standard error."""

  name: str
  values: np.ndarray
  noise: np.ndarray
  standard_error: np.ndarray
  known: np.ndarray


def errors(
  out: Collector,
  reference: Reference,
  truth: Split | None,
  reading: Reading,
  sample: Resamples,
) -> None:
  """'mean_error', 'mean_absolute_error', 'mean_squared_error', and their forms
  without the reference's noise ('..._net'), against the label's own estimand."""
  target = _target(reference, truth, reading)
  if target is None:
    out.count('audit', {f'{reading.name}/without_estimand': 1})
    return
  use = reading.has & target.known
  gap = np.where(use, reading.values - target.values, 0.0)
  expected = np.where(use, target.standard_error * np.sqrt(2 / np.pi), 0.0)
  noise = np.where(use, target.noise, 0.0)
  sums = reference.steps.sum_steps(
    gap, np.abs(gap), np.abs(gap) - expected, gap**2, gap**2 - noise, use
  )
  names = (
    'mean_error',
    'mean_absolute_error',
    'mean_absolute_error_net',
    'mean_squared_error',
    'mean_squared_error_net',
  )
  for k, metric in enumerate(names):
    found = ratio(sums[:, k], sums[:, -1], sample, reason=_WITHOUT)
    out.put(path(reading.name, metric, target.name), found, target.name)


def _target(
  reference: Reference, truth: Split | None, reading: Reading
) -> _Target | None:
  p, zeros = reference.values, np.zeros(len(reference.values))
  if reading.estimand == 'value':
    return _Target(
      REFERENCE, p, reference.noise, reference.standard_error, reference.known
    )
  if reading.estimand == 'entropic':
    slope = entropic_slope(p, reading.eta)
    return _Target(
      f'entropic_{REFERENCE}',
      entropic(p, reading.eta),
      slope**2 * reference.noise,
      slope * reference.standard_error,
      reference.known,
    )
  if reading.estimand == 'alive':
    alive = (~reference.dead).astype(np.float64)
    return _Target(f'alive_{REFERENCE}', alive, zeros, zeros, reference.sure)
  if reading.estimand == 'truth' and truth is not None:
    return _Target(truth.truth, truth.labels, zeros, zeros, truth.labelled)
  return None


def decisions(
  out: Collector,
  reference: Reference,
  truth: Split | None,
  reading: Reading,
  sample: Resamples,
) -> None:
  """'hard_accuracy', 'false_dead' and 'false_alive' of single prefixes.

  false_dead is the share of living prefixes that are called dead, false_alive that
  of dead ones called alive.
  """
  sides = [(REFERENCE, reference.sure, reference.dead)]
  if truth is not None:
    sides.append((truth.truth, truth.labelled, truth.wrong))
  for against, known, dead in sides:
    use = reading.has & known
    sums = reference.steps.sum_steps(
      use & (reading.dead == dead),
      use,
      use & reading.dead & ~dead,
      use & ~dead,
      use & ~reading.dead & dead,
      use & dead,
    )
    for k, (metric, reason) in enumerate(
      (
        ('hard_accuracy', _WITHOUT),
        ('false_dead', 'no_living_prefixes'),
        ('false_alive', 'no_dead_prefixes'),
      )
    ):
      found = ratio(sums[:, 2 * k], sums[:, 2 * k + 1], sample, reason=reason)
      out.put(path(reading.name, metric, against), found, against)
  apart = int((reading.has & reference.ambiguous).sum())
  out.count('audit', {f'{reading.name}/prefixes_ambiguous': apart})


def first_errors(
  out: Collector,
  reference: Reference,
  truth: Split | None,
  reading: Reading,
  sample: Resamples,
) -> None:
  """'first_error_accuracy' and 'false_claims' against each truth, and 'undecided'.

  Share of solutions whose first dead (wrong) step, or its absence, is named exactly;
  one that the algorithm left undecided or unlabelled counts as a miss. Of those that
  it did decide, false_claims is the share of misses. Solutions where an ambiguous
  prefix could move the reference's first dead step are apart, in
  `[reference_ambiguous]`, judged by the point estimate.
  """
  steps = reference.steps
  sure, best = reference.first_dead(), reference.first_dead(sure=False)
  sides = [
    (REFERENCE, sure),
    (AMBIGUOUS, np.where(sure == UNKNOWN, best, UNKNOWN)),
  ]
  if truth is not None:
    sides.append((truth.truth, truth.first_error))
  for against, gold in sides:
    known = gold != UNKNOWN
    claimed = known & (reading.first_error != UNKNOWN)
    hit = reading.first_error == gold
    sums = steps.sum_rows(known & hit, known, claimed & ~hit, claimed)
    found = ratio(sums[:, 0], sums[:, 1], sample, reason='no_known_first_error')
    out.put(path(reading.name, 'first_error_accuracy', against), found, against)
    found = ratio(sums[:, 2], sums[:, 3], sample, reason='nothing_decided')
    out.put(path(reading.name, 'false_claims', against), found, against)
  undecided = steps.sum_rows(reading.first_error == UNKNOWN, np.ones(steps.n_rows))
  found = ratio(undecided[:, 0], undecided[:, 1], sample)
  out.put(path(reading.name, 'undecided'), found, '')


def soft(
  out: Collector,
  reference: Reference,
  truth: Split | None,
  reading: Reading,
  sample: Resamples,
) -> None:
  """'brier', 'ece' and a reliability curve of soft labels against each truth.

  Against V over all labelled prefixes, against the truth about steps up to the
  first wrong one, as everywhere.
  """
  if not reading.soft:
    out.count('audit', {f'{reading.name}/hard_labels_without_calibration': 1})
    return
  scores = Scores(
    reading.name, 'probability', reading.values, np.ones(len(reading.labelled), bool)
  )
  sides = [_as_split(reference)]
  if truth is not None:
    sides.append(truth)
  for side in sides:
    shown = dataclasses.replace(side, labelled=side.labelled & reading.has)
    for metric, found in calibration.calibration(shown, scores, sample).items():
      out.put(path(reading.name, metric, side.truth), found, side.truth)
    bins = calibration.reliability(shown, scores, sample)
    title = f'{reading.name}, labels against {side.truth}'
    out.reliability.append(Reliability(title, bins))


def _as_split(reference: Reference) -> Split:
  held = reference.steps
  n = held.n_rows
  return Split(
    **{f.name: getattr(held, f.name) for f in dataclasses.fields(Steps)},
    truth=REFERENCE,
    truth_kind='value',
    labels=reference.values,
    labelled=reference.known,
    first_error=np.full(n, UNKNOWN),
    verdict='',
    outcome=np.zeros(n),
    judged=np.zeros(n, bool),
    counters={},
  )
