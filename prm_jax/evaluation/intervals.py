"""Intervals: bootstrap by problem, paired differences, and several seeds.

Solutions of one problem are not independent, so whole problems are drawn, with
replacement: a resample is a count for each problem, and any statistic that is a
function of sums over problems is computed for all resamples in one matrix
product. Intervals are 95 % percentile intervals (Efron & Tibshirani 1993, ch. 13).

The counts depend only on (seed, the set of problem ids), so two methods measured
on the same problems share them and their difference is paired by construction.

On request an estimate also says what each problem contributes to it, for tests by
problem of any metric (`hypothesis_tests`): of a quotient of sums its own part, of other
statistics the jackknife's pseudo-values (Miller 1974), from taking them without it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from prm_jax.errors import UserError

N_RESAMPLES = 1000
LEVEL = 0.95
MAX_BLOCKS = 2000  # of problems left out at once, where contributions are asked for
_MAX_UNDEFINED = 0.05  # share of resamples without a value that is put up with


@dataclasses.dataclass(frozen=True, eq=False)
class Resamples:
  """How often each of A problems is drawn in each of `n` resamples.

  Attributes:
    weights: [1 + n + G, A] float64; row 0 is all ones, the data themselves, the last
      G rows are ones but for one block of problems each, 0 there.
    key: equal for equal problems, seed and n; pairing is only allowed within it.
    block_sizes: [G] problems in each block; G = 0 where contributions are not asked
      for, else min(A, MAX_BLOCKS).
  """

  weights: np.ndarray
  key: str
  block_sizes: np.ndarray = dataclasses.field(
    default_factory=lambda: np.zeros(0, np.int64)
  )

  @property
  def n_problems(self) -> int:
    """A."""
    return self.weights.shape[1]

  @property
  def n(self) -> int:
    """Resamples, without the data themselves and without the blocks."""
    return len(self.weights) - 1 - len(self.block_sizes)


def resamples(
  problem_ids: Sequence[str],
  n: int = N_RESAMPLES,
  seed: int = 0,
  *,
  contributions: bool = False,
) -> Resamples:
  """Draws the resamples of a set of problems.

  Args:
    problem_ids: [A] distinct, in the order of the statistics' columns (sorted,
      so that the order of rows in a file does not matter).
    n: number of resamples.
    seed: of the draw; the problem ids are hashed into it, so that different
      sets are resampled independently.
    contributions: estimates also say what each problem adds to them; up to
      `MAX_BLOCKS` problems one by one, more in that many blocks of neighbours.
  """
  digest = hashlib.sha256('\x1f'.join(problem_ids).encode('utf-8')).hexdigest()[:16]
  a = len(problem_ids)
  weights = np.ones((n + 1, a))
  if a:
    rng = np.random.default_rng([seed, int(digest, 16)])
    drawn = rng.integers(0, a, (n, a)) + a * np.arange(n)[:, None]
    weights[1:] = np.bincount(drawn.ravel(), minlength=n * a).reshape(n, a)
  sizes = np.zeros(0, np.int64)
  if contributions and a:
    blocks = np.array_split(np.arange(a), min(a, MAX_BLOCKS))
    sizes = np.array([len(block) for block in blocks])
    without = np.ones((len(blocks), a))
    without[np.repeat(np.arange(len(blocks)), sizes), np.arange(a)] = 0
    weights = np.concatenate([weights, without])
  return Resamples(weights, f'{digest}:{seed}:{n}', sizes)


@dataclasses.dataclass(frozen=True, eq=False)
class Estimate:
  """A number with its interval.

  Attributes:
    value: None where the number is undefined; `reason` then says why.
    low, high: 95 % interval, None where there is none.
    n: how many rows, steps or problems the number is over.
    reason: '' or a word for the counters ('no_erroneous_rows').
    replicates: [n_resamples] values of the resamples, NaN where undefined there;
      empty if there are none.
    key: of the resamples.
    contributions: [G] what each block of problems adds to the value, empty if not
      asked for. For a quotient of sums its part (`shares`), and they sum to the value;
      for other statistics, to first order, value - (1 - m_g / A) value without block
      g, of m_g of the A problems, NaN where undefined without g.
  """

  value: float | None
  low: float | None = None
  high: float | None = None
  n: int = 0
  reason: str = ''
  replicates: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
  key: str = ''
  contributions: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))

  def metric(self) -> dict[str, Any]:
    """The form of results.json: {'value', 'low', 'high', 'n'}."""
    return {'value': self.value, 'low': self.low, 'high': self.high, 'n': self.n}


def undefined(reason: str, n: int = 0) -> Estimate:
  """An estimate that has no value, for a stated reason."""
  return Estimate(None, n=n, reason=reason)


def estimate(
  values: np.ndarray,
  sample: Resamples,
  n: int,
  reason: str = 'undefined',
  parts: np.ndarray | None = None,
) -> Estimate:
  """An estimate from a statistic's values on the data and on each resample.

  Args:
    values: [1 + n + G], one a row of `sample.weights`, NaN where undefined; or
      [1 + n], without contributions.
    sample: the resamples they belong to.
    n: see `Estimate`.
    reason: given if the value itself is undefined.
    parts: [G] contributions where they are known exactly (`shares`).

  Returns:
    With one problem, or more than 5 % undefined resamples, there is a value but
    no interval, and `reason` says so.
  """
  if not np.isfinite(values[0]):
    return undefined(reason, n)
  replicates, without = values[1 : 1 + sample.n], values[1 + sample.n :]
  low, high = interval(replicates) if sample.n_problems > 1 else (None, None)
  if parts is None:
    kept = (1 - sample.block_sizes / max(sample.n_problems, 1))[: len(without)]
    # A block holds everything where there is one problem: nothing is without it.
    parts = values[0] - np.where(kept > 0, kept * without, 0.0)
  return Estimate(
    value=float(values[0]),
    low=low,
    high=high,
    n=n,
    reason='' if low is not None else 'no_interval',
    replicates=replicates,
    key=sample.key,
    contributions=parts,
  )


def interval(replicates: np.ndarray) -> tuple[float | None, float | None]:
  """Percentile interval of [n_resamples] values; (None, None) if too few are finite."""
  good = replicates[np.isfinite(replicates)]
  if len(good) < (1 - _MAX_UNDEFINED) * len(replicates) or not len(good):
    return None, None
  low, high = np.quantile(good, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
  return float(low), float(high)


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
  """Quotient that is NaN, without a warning, where the denominator is 0."""
  out = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
  np.divide(numerator, denominator, out=out, where=denominator != 0)
  return out


def ratio(
  numerator: np.ndarray,
  denominator: np.ndarray,
  sample: Resamples,
  *,
  reason: str = 'nothing_to_average',
) -> Estimate:
  """Estimate of sum(numerator) / sum(denominator), both [A] sums of a problem."""
  values = divide(sample.weights @ numerator, sample.weights @ denominator)
  parts = shares(numerator, denominator, sample)
  return estimate(values, sample, int(denominator.sum()), reason, parts)


def shares(
  numerator: np.ndarray, denominator: np.ndarray, sample: Resamples
) -> np.ndarray:
  """[G] what each block of problems adds to sum(numerator) / sum(denominator).

  A problem on which the denominator is 0 adds nothing. A pseudo-value would give it
  1 / A of the value all the same: a difference seen on 4 of 200 problems would look
  like one seen on all of them, and its P value would be far too small.
  """
  starts = np.cumsum(sample.block_sizes) - sample.block_sizes
  sums = (
    np.add.reduceat(numerator.astype(np.float64), starts) if len(starts) else starts
  )
  return divide(sums, denominator.sum())


def means(columns: np.ndarray, sample: Resamples) -> list[Estimate]:
  """Estimates of the means over problems of K quantities, `columns` [A, K]."""
  total = sample.weights.sum(axis=1, keepdims=True)
  values = divide(sample.weights @ columns, total)
  return [
    estimate(values[:, k], sample, columns.shape[0], 'no_problems')
    for k in range(columns.shape[1])
  ]


def bootstrap(
  sums: np.ndarray,
  statistic: Callable[[np.ndarray], np.ndarray],
  sample: Resamples,
  n: int,
  reason: str = 'undefined',
) -> Estimate:
  """Estimate of any function of sums over problems.

  Args:
    sums: [A, K], K sums of each problem.
    statistic: f([1 + n + G, K] totals) -> [1 + n + G], NaN where undefined.
    sample, n, reason: as in `estimate`.
  """
  return estimate(statistic(sample.weights @ sums), sample, n, reason)


def difference(a: Estimate, b: Estimate) -> Estimate:
  """Paired bootstrap of a - b over the same problems.

  `a` is better than `b` if the whole interval is above 0.

  Raises:
    UserError: the two were measured on different problems or resamples.
  """
  if a.value is None or b.value is None:
    return undefined('difference_of_undefined')
  if a.key != b.key:
    raise UserError(
      'a paired difference needs two methods measured on the same problems with '
      'the same seed; measure both on the same files.'
    )
  replicates = a.replicates - b.replicates
  if a.low is None or b.low is None:
    low = high = None
  else:
    low, high = interval(replicates)
  return Estimate(
    a.value - b.value,
    low,
    high,
    min(a.n, b.n),
    '' if low is not None else 'no_interval',
    replicates,
    a.key,
    a.contributions - b.contributions
    if len(a.contributions) == len(b.contributions)
    else np.zeros(0),
  )


def mean_over_same(estimates: Sequence[Estimate]) -> Estimate:
  """Unweighted mean of estimates over the same problems (classes of one set, say).

  Undefined if any of them is. n adds up.

  Raises:
    UserError: they were measured on different problems or resamples.
  """
  if not estimates or any(e.value is None for e in estimates):
    return undefined('mean_of_undefined')
  if len({e.key for e in estimates}) > 1:
    raise UserError(
      'a mean over the same problems needs estimates measured on the same problems '
      'with the same seed; measure them on the same files.'
    )
  contributions = np.mean([e.contributions for e in estimates], axis=0)
  return _mean_of(estimates, estimates[0].key, contributions)


def plain_mean(estimates: Sequence[Estimate]) -> Estimate:
  """Unweighted mean over splits, each resampled by its own problems.

  The splits are independent samples, so replicate r of the mean is the mean of
  the splits' replicates r. Undefined if any of them is. n adds up.
  """
  if not estimates or any(e.value is None for e in estimates):
    return undefined('mean_of_undefined')
  each = [e.contributions / len(estimates) for e in estimates]
  return _mean_of(
    estimates,
    '+'.join(e.key for e in estimates),
    np.concatenate(each) if all(len(c) for c in each) else np.zeros(0),
  )


def _mean_of(
  estimates: Sequence[Estimate], key: str, contributions: np.ndarray
) -> Estimate:
  replicates = np.mean([e.replicates for e in estimates], axis=0)
  bounded = all(e.low is not None for e in estimates)
  low, high = interval(replicates) if bounded else (None, None)
  return Estimate(
    float(np.mean([e.value for e in estimates])),
    low,
    high,
    sum(e.n for e in estimates),
    '' if low is not None else 'no_interval',
    replicates,
    key,
    contributions,
  )
