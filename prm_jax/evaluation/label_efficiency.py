"""What labels cost, and whether one algorithm gets more for it than another.

All algorithms are on the same solutions, so their differences are paired by problem.
Algorithms of one *family* differ in one setting: `sequential.4` and `sequential.8`
are settings 4 and 8 of `sequential`. Two questions are put to an algorithm A and a
family F with at least two settings:

  how much more accurate is A than F at the cost of A?
  what does A cost relative to F at the accuracy of A?

F between its settings is read off its curve, accuracy linear in the logarithm of
cost, with a setting replaced by a cheaper one that is more accurate. It is never
read beyond its ends; where A lies there, the answer is undefined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from prm_jax.evaluation.intervals import (
  Estimate,
  Resamples,
  difference,
  divide,
  estimate,
  ratio,
  undefined,
)
from prm_jax.evaluation.label_errors import path
from prm_jax.evaluation.label_readings import Reading
from prm_jax.evaluation.result import Collector
from prm_jax.evaluation.splits import Steps

COSTS = ('tokens', 'rollouts')
ACCURACY = 'first_error_accuracy'


def family(name: str) -> str:
  """Name without its setting.

  >>> family('sequential.8'), family('adaptive')
  ('sequential', 'adaptive')
  """
  return name.rpartition('.')[0] or name


def costs(out: Collector, steps: Steps, reading: Reading, sample: Resamples) -> None:
  """'tokens' and 'rollouts' spent a solution; null if any solution lacks its cost."""
  for what in COSTS:
    spent = getattr(reading, what)
    if np.isnan(spent).any():
      found = undefined('cost_not_recorded', int((~np.isnan(spent)).sum()))
    else:
      sums = steps.sum_rows(spent, np.ones(steps.n_rows))
      found = ratio(sums[:, 0], sums[:, 1], sample)
    out.put(path(reading.name, what), found, '')


def compare(
  out: Collector,
  readings: Sequence[Reading],
  chosen: Sequence[str],
  truths: Sequence[str],
  sample: Resamples,
) -> None:
  """Paired comparisons of the chosen families with all others.

  `audit/first_error_accuracy/A-B[TRUTH]` is the difference, `audit/cost_ratio/
  A_over_B[tokens]` the ratio; `audit/at_equal_tokens/A-F[TRUTH]` and
  `audit/tokens_at_equal_accuracy/A_over_F[TRUTH]` read family F off its curve.
  """
  names = [r.name for r in readings]
  families: dict[str, list[str]] = {}
  for name in names:
    families.setdefault(family(name), []).append(name)
  for a in (name for name in names if family(name) in chosen):
    others = [b for b in names if family(b) != family(a)]
    # Of two chosen families only the first is compared with the second.
    ahead = chosen[: chosen.index(family(a))]
    others = [b for b in others if family(b) not in ahead]
    for b in others:
      for truth in truths:
        first, second = (_get(out, n, ACCURACY, truth) for n in (a, b))
        out.put(f'audit/{ACCURACY}/{a}-{b}[{truth}]', difference(first, second), truth)
      for cost in COSTS:
        found = quotient(_get(out, a, cost), _get(out, b, cost), sample)
        out.put(f'audit/cost_ratio/{a}_over_{b}[{cost}]', found, '')
    for f in dict.fromkeys(map(family, others)):
      if len(families[f]) > 1:
        _against_curve(out, a, f, families[f], truths, sample)


def _get(out: Collector, name: str, metric: str, truth: str = '') -> Estimate:
  found = out.get(path(name, metric, truth))
  return undefined('not_measured') if found is None else found


def quotient(a: Estimate, b: Estimate, sample: Resamples) -> Estimate:
  """Paired bootstrap of a / b."""
  if a.value is None or b.value is None:
    return undefined('ratio_of_undefined')
  return estimate(divide(_values(a), _values(b)), sample, min(a.n, b.n), 'zero_cost')


def _values(found: Estimate) -> np.ndarray:
  """[1 + n_resamples], the data first."""
  return np.concatenate([[found.value], found.replicates])


def _against_curve(
  out: Collector,
  a: str,
  f: str,
  settings: Sequence[str],
  truths: Sequence[str],
  sample: Resamples,
) -> None:
  for cost in COSTS:
    spent = [_get(out, n, cost) for n in (a, *settings)]
    for truth in truths:
      right = [_get(out, n, ACCURACY, truth) for n in (a, *settings)]
      n = right[0].n
      if any(e.value is None for e in (*spent, *right)):
        more = less = undefined('curve_of_undefined', n)
      else:
        x, y = (
          np.array([_values(e) for e in spent]),
          np.array([_values(e) for e in right]),
        )
        more = estimate(
          y[0] - accuracy_at(x[1:], y[1:], x[0]), sample, n, 'beyond_the_curve'
        )
        less = estimate(
          divide(x[0], cost_at(x[1:], y[1:], y[0])), sample, n, 'beyond_the_curve'
        )
      out.put(f'audit/at_equal_{cost}/{a}-{f}[{truth}]', more, truth)
      out.put(f'audit/{cost}_at_equal_accuracy/{a}_over_{f}[{truth}]', less, truth)


def _curve(cost: np.ndarray, accuracy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """log cost and accuracy [F, R] in the order of cost; accuracy never falls."""
  order = np.argsort(cost, axis=0, kind='stable')
  ordered = np.take_along_axis(cost, order, axis=0)
  best = np.maximum.accumulate(np.take_along_axis(accuracy, order, axis=0), axis=0)
  return np.log(np.maximum(ordered, np.finfo(np.float64).tiny)), best


def accuracy_at(cost: np.ndarray, accuracy: np.ndarray, at: np.ndarray) -> np.ndarray:
  """Accuracy of a family at a cost.

  Args:
    cost, accuracy: [F, R] of F settings in R resamples.
    at: [R] cost.

  Returns:
    [R], NaN beyond the cheapest and the dearest setting.

  >>> cost, accuracy = np.array([[1.0], [4.0]]), np.array([[0.2], [0.6]])
  >>> accuracy_at(cost, accuracy, np.array([2.0])).round(3).tolist()
  [0.4]
  """
  x, y = _curve(cost, accuracy)
  wanted = np.log(np.maximum(at, np.finfo(np.float64).tiny))
  out = np.full(len(at), np.nan)
  for r in range(len(at)):
    if x[0, r] <= wanted[r] <= x[-1, r]:
      out[r] = np.interp(wanted[r], x[:, r], y[:, r])
  return out


def cost_at(cost: np.ndarray, accuracy: np.ndarray, at: np.ndarray) -> np.ndarray:
  """Least cost at which a family reaches an accuracy; arguments as `accuracy_at`.

  Returns:
    [R], NaN where no setting reaches it or every one surpasses it.

  >>> cost, accuracy = np.array([[1.0], [4.0]]), np.array([[0.2], [0.6]])
  >>> cost_at(cost, accuracy, np.array([0.4])).round(3).tolist()
  [2.0]
  >>> cost_at(cost, accuracy, np.array([0.7])).tolist()
  [nan]
  """
  x, y = _curve(cost, accuracy)
  out = np.full(len(at), np.nan)
  for r in range(len(at)):
    if not y[0, r] <= at[r] <= y[-1, r]:
      continue
    k = int(np.argmax(y[:, r] >= at[r]))
    if k == 0:
      out[r] = np.exp(x[0, r])
      continue
    share = (at[r] - y[k - 1, r]) / (y[k, r] - y[k - 1, r])
    out[r] = np.exp(x[k - 1, r] + share * (x[k, r] - x[k - 1, r]))
  return out


def curves(
  out: Collector, names: Sequence[str], cost: str, truth: str
) -> Mapping[str, list[tuple[float | None, ...]]]:
  """Family -> points (cost, accuracy, low, high), for a chart."""
  series: dict[str, list[tuple[float | None, ...]]] = {}
  for name in names:
    spent, right = _get(out, name, cost), _get(out, name, ACCURACY, truth)
    if spent.value and right.value is not None:
      point = (spent.value, right.value, right.low, right.high)
      series.setdefault(family(name), []).append(point)
  return {
    name: sorted(points, key=lambda p: p[0] or 0) for name, points in series.items()
  }
