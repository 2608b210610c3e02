"""How far probabilities are from what happens, and from what they could be.

With n_k steps in bin k, mean score s_k and mean truth y_k there, and y over all:

  Brier = mean (s - y)^2 = reliability - resolution + uncertainty + within
  reliability = sum_k n_k/n (s_k - y_k)^2      resolution = sum_k n_k/n (y_k - y)^2
  uncertainty = mean (y_i - y)^2
  within = sum_k sum_i in k [(s_i - s_k)^2 - 2 (s_i - s_k)(y_i - y_k)] / n

(Murphy 1973; the term within bins by Stephenson, Coelho & Jolliffe 2008, without which
the sum is right only where all scores of a bin are equal). Brier skill is 1 - Brier /
uncertainty: what is gained over the best constant, the split's own base rate.

  ECE = sum_k n_k/n |s_k - y_k|,  its over-estimating part the bins with s_k > y_k

Even a perfect predictor's ECE is above 0, by chance; `perfect_ece` draws it.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from prm_jax.errors import UserError
from prm_jax.evaluation.calibration import truth_steps
from prm_jax.evaluation.intervals import Estimate, Resamples, divide, estimate, ratio
from prm_jax.evaluation.splits import Scores, Split

N_DRAWS = 500
_COLUMNS = 6  # n, s, y, s^2, y^2, s y of a bin


@dataclasses.dataclass(frozen=True)
class Binning:
  """How scores in [0, 1] are grouped.

  Attributes:
    how: 'width' (bins of equal width) or 'mass' (of equally many steps; equal scores
      share a bin, so there may be fewer).
    n: number of bins.
  """

  how: str
  n: int

  @property
  def name(self) -> str:
    """'width10', 'mass15', ..."""
    return f'{self.how}{self.n}'

  def index(self, values: np.ndarray) -> np.ndarray:
    """[M] number of each value's bin.

    Raises:
      UserError: `how` is unknown.
    """
    if self.how == 'width':
      return np.clip((values * self.n).astype(np.int64), 0, self.n - 1)
    if self.how != 'mass':
      raise UserError(f"bins are of equal 'width' or 'mass', not {self.how!r}.")
    if not len(values):
      return np.zeros(0, np.int64)
    inner = np.quantile(values, np.arange(1, self.n) / self.n)
    return np.searchsorted(np.unique(inner), values, side='right')


BINNINGS = (Binning('width', 10), Binning('width', 15), Binning('mass', 15))


def trials(split: Split, n_rollouts: np.ndarray | None = None) -> np.ndarray:
  """[M] how many draws each label is the mean of; 0 where it is exact.

  Args:
    split: labels of correctness and others that are 0 or 1 throughout are one draw.
    n_rollouts: [M] rollouts of each step, 0 unknown, of labels that count them.
  """
  if n_rollouts is not None and (n_rollouts > 0).any():
    return n_rollouts
  held = split.labels[split.labelled]
  return np.full(len(split.labels), int(((held == 0) | (held == 1)).all()))


def perfect_ece(
  values: np.ndarray,
  draws: np.ndarray,
  binning: Binning,
  *,
  n_draws: int = N_DRAWS,
  seed: int = 0,
) -> tuple[float, float, float]:
  """ECE of a predictor that gives these very probabilities and is right about them.

  Outcomes are drawn from the probabilities, step by step.

  Args:
    values: [M] probabilities.
    draws: [M] see `trials`; exact labels of a perfect predictor are its scores.
    binning: as for the ECE it stands beside.

  Returns:
    (mean, 2.5 %, 97.5 %) over `n_draws` drawn sets of labels; zeros without steps.
  """
  if not len(values):
    return 0.0, 0.0, 0.0
  rng = np.random.default_rng([seed, 0x65636500])
  index = binning.index(values)
  n = np.maximum(draws, 1)
  found = np.empty(n_draws)
  for i in range(n_draws):
    drawn = np.where(draws > 0, rng.binomial(n, values) / n, values)
    found[i] = np.abs(np.bincount(index, weights=values - drawn)).sum() / len(values)
  low, high = np.quantile(found, [0.025, 0.975])
  return float(found.mean()), float(low), float(high)


def decomposition(
  split: Split, scores: Scores, sample: Resamples, binning: Binning
) -> dict[str, Estimate]:
  """'brier', 'brier_skill', the four terms, 'ece' and 'ece_over'.

  Bins are those of the data themselves in every resample.
  """
  use = truth_steps(split, scores)
  index = np.zeros(len(use), np.int64)
  index[use] = binning.index(scores.values[use])
  s, y = scores.values, split.labels
  columns = []
  for k in range(int(index.max(initial=0)) + 1):
    inside = use & (index == k)
    columns += [np.where(inside, c, 0.0) for c in (1.0, s, y, s * s, y * y, s * y)]
  found = _terms(sample.weights @ split.sum_steps(*columns))
  n = int(use.sum())
  return {k: estimate(v, sample, n, 'no_labelled_steps') for k, v in found.items()}


def _terms(totals: np.ndarray) -> dict[str, np.ndarray]:
  """The terms of [R, K * 6] totals, [R] each."""
  n, s, y, ss, yy, sy = np.moveaxis(totals.reshape(len(totals), -1, _COLUMNS), 2, 0)
  every = n.sum(axis=1)
  there = np.maximum(n, 1e-12)
  gap = s - y  # n_k (s_k - y_k)
  base = divide(y.sum(axis=1), every)
  uncertainty = divide(yy.sum(axis=1), every) - base**2
  brier = divide((ss - 2 * sy + yy).sum(axis=1), every)
  spread = ss - s * s / there - 2 * (sy - s * y / there)
  return {
    'brier': brier,
    'brier_skill': np.where(uncertainty > 0, 1 - divide(brier, uncertainty), np.nan),
    'reliability': divide((gap**2 / there).sum(axis=1), every),
    'resolution': divide((y * y / there).sum(axis=1), every) - base**2,
    'uncertainty': uncertainty,
    'within': divide(spread.sum(axis=1), every),
    'ece': divide(np.abs(gap).sum(axis=1), every),
    'ece_over': divide(np.maximum(gap, 0.0).sum(axis=1), every),
  }


def over_estimation(
  split: Split, scores: Scores, sample: Resamples
) -> dict[str, Estimate]:
  """'over' = mean max(0, s - y), 'positive_brier' = mean max(0, s - y)^2, and
  'bias' = mean s - y.

  arXiv 2506.09338 reports the squared form: what is promised and does not come.
  """
  use = truth_steps(split, scores)
  gap = np.where(use, scores.values - split.labels, 0.0)
  over = np.maximum(gap, 0.0)
  sums = split.sum_steps(over, over**2, gap, use)
  names = ('over', 'positive_brier', 'bias')
  return {
    name: ratio(sums[:, i], sums[:, -1], sample, reason='no_labelled_steps')
    for i, name in enumerate(names)
  }


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
  """Calibration of a part of the steps: a position, a generator.

  Attributes:
    name: of the part.
    n: its steps.
    score, truth: their means.
    bias, brier, ece: estimates over the part; 10 bins of equal width.
    perfect: ECE of a perfect predictor with these scores.
  """

  name: str
  n: int
  score: float
  truth: float
  bias: Estimate
  brier: Estimate
  ece: Estimate
  perfect: float


def by_group(
  split: Split,
  scores: Scores,
  sample: Resamples,
  group: np.ndarray,
  names: list[str],
  draws: np.ndarray,
  seed: int = 0,
) -> list[Group]:
  """Calibration of each part of the steps that has any.

  Args:
    split, scores, sample: as everywhere.
    group: [M] int, part of each step.
    names: of the parts.
    draws: [M] see `trials`.
    seed: of the perfect predictor.
  """
  use = truth_steps(split, scores)
  out = []
  for g, name in enumerate(names):
    inside = use & (group == g)
    if not inside.any():
      continue
    part = dataclasses.replace(split, labelled=inside)
    terms = decomposition(part, scores, sample, BINNINGS[0])
    mean = perfect_ece(scores.values[inside], draws[inside], BINNINGS[0], seed=seed)[0]
    out.append(
      Group(
        name,
        int(inside.sum()),
        float(scores.values[inside].mean()),
        float(split.labels[inside].mean()),
        over_estimation(part, scores, sample)['bias'],
        terms['brier'],
        terms['ece'],
        mean,
      )
    )
  return out


def coverage(
  split: Split, low: Scores, high: Scores, sample: Resamples
) -> dict[str, Estimate]:
  """How often the truth lies between two quantiles.

  Args:
    split: labels, best the exact value.
    low, high: scores of the lowest and highest quantile.

  Returns:
    'coverage', 'below' and 'above': shares of steps whose label is inside, below and
    above; 'width': mean distance between the two.
  """
  use = truth_steps(split, low)
  y = split.labels
  below, above = use & (y < low.values), use & (y > high.values)
  width = np.where(use, high.values - low.values, 0.0)
  sums = split.sum_steps(use & ~below & ~above, below, above, width, use)
  names = ('coverage', 'below', 'above', 'width')
  return {
    name: ratio(sums[:, i], sums[:, -1], sample, reason='no_labelled_steps')
    for i, name in enumerate(names)
  }
