"""Tests of "A is not better than B" by problem, and what many of them together mean.

- `sign_flip`: permutation test of a paired difference. Under the null hypothesis the
  two methods may change places on any problem, so each problem's part of the
  difference may change its sign (Fisher 1935; Good 2005, ch. 3).
- `mcnemar`: exact test of two rates of right rows (McNemar 1947), only where a problem
  has one row.
- `holm`: P values corrected for many comparisons (Holm 1979).
- `detectable`: the smallest true difference that such data would have shown.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from prm_jax.evaluation.intervals import LEVEL

ALPHA = 1 - LEVEL
POWER = 0.8
N_FLIPS = 20_000
EXACT_UP_TO = 14
"""Problems that differ, up to which all 2^k signs are tried (16,384)."""
_BLOCK = 1_000
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class FlipTest:
  """Result of `sign_flip` for one difference.

  Attributes:
    p: two-sided P value; None where a problem's part is undefined.
    exact: all signs were tried; else they were drawn.
    n_differing: problems on which the two differ.
  """

  p: float | None
  exact: bool
  n_differing: int


def sign_flip(
  parts: np.ndarray, *, n_flips: int = N_FLIPS, seed: int = 0
) -> list[FlipTest]:
  """Two-sided sign-flip permutation tests of K differences over the same problems.

  The statistic is |sum of parts|. With up to `EXACT_UP_TO` problems that differ all
  sign vectors are tried; with more, `n_flips` are drawn, the same for all K, and
  P = (1 + as extreme) / (1 + n_flips), which is never 0 (Phipson & Smyth 2010).

  Args:
    parts: [G, K], what each problem adds to each difference.
    n_flips: signs drawn.
    seed: of the draw.

  >>> [t.p for t in sign_flip(np.array([[1.0], [1.0], [1.0]]))]  # 2 of 8 sign vectors
  [0.25]
  """
  g, k = parts.shape
  out: list[FlipTest | None] = [None] * k
  drawn = []
  for j in range(k):
    column = parts[:, j]
    if not np.isfinite(column).all():
      out[j] = FlipTest(None, False, 0)
      continue
    scale = np.abs(column).max(initial=0.0)
    rest = column[np.abs(column) > _ROUNDING * scale] if scale else column[:0]
    if len(rest) <= EXACT_UP_TO:
      out[j] = FlipTest(_all_signs(rest), True, len(rest))
    else:
      drawn.append(j)
  if drawn:
    columns = parts[:, drawn]
    observed = np.abs(columns.sum(axis=0))
    slack = _ROUNDING * np.abs(columns).sum(axis=0)
    extreme = np.zeros(len(drawn), np.int64)
    rng = np.random.default_rng(seed)
    for start in range(0, n_flips, _BLOCK):
      n = min(_BLOCK, n_flips - start)
      signs = 2.0 * rng.integers(0, 2, (n, g), dtype=np.int8) - 1.0
      extreme += (np.abs(signs @ columns) >= observed - slack).sum(axis=0)
    for j, hits in zip(drawn, extreme):
      differing = int((np.abs(parts[:, j]) > 0).sum())
      out[j] = FlipTest(float((1 + hits) / (1 + n_flips)), False, differing)
  return [t for t in out if t is not None]


def _all_signs(parts: np.ndarray) -> float:
  sums = np.zeros(1)
  for part in parts:
    sums = np.concatenate([sums + part, sums - part])
  slack = _ROUNDING * np.abs(parts).sum()
  return float(np.mean(np.abs(sums) >= abs(parts.sum()) - slack))


@dataclasses.dataclass(frozen=True)
class McNemar:
  """Attributes:
  only_a, only_b: rows that only the one or only the other has right.
  p: two-sided P value, exact.
  """

  only_a: int
  only_b: int
  p: float


def mcnemar(a: np.ndarray, b: np.ndarray) -> McNemar:
  """Exact McNemar test of paired right / wrong rows, one row a problem.

  Rows that both have right or both wrong say nothing; of the others, each is as likely
  to be A's as B's under the null hypothesis: binomial with 1/2.

  Args:
    a, b: [R] bool, the row is right.
  """
  only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
  n, few = only_a + only_b, min(only_a, only_b)
  tail = sum(math.comb(n, i) for i in range(few + 1))
  return McNemar(only_a, only_b, min(1.0, 2 * tail / 2**n))


def holm(p: Sequence[float]) -> list[float]:
  """Adjusted P values: rejecting where one is at most alpha keeps the chance of any
  false rejection among all of them at most alpha, however they depend on each other.

  >>> [round(x, 3) for x in holm([0.01, 0.04, 0.03])]
  [0.03, 0.06, 0.06]
  """
  order = sorted(range(len(p)), key=lambda i: p[i])
  out = [1.0] * len(p)
  highest = 0.0
  for rank, i in enumerate(order):
    highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
    out[i] = highest
  return out


def detectable(
  standard_error: float, freedom: float = math.inf, power: float = POWER
) -> float:
  """Smallest true difference that a two-sided test at 5 % finds with that power.

  (t_0.975 + t_power) standard errors (Bloom 1995). It says what the data can show, not
  what was found; no correction for many comparisons is in it.

  Args:
    standard_error: of the difference.
    freedom: degrees of freedom of the standard error, infinite for a bootstrap.
  """
  if math.isinf(freedom):
    quantiles = [NormalDist().inv_cdf(q) for q in (1 - ALPHA / 2, power)]
  else:
    from scipy import special

    quantiles = [float(special.stdtrit(freedom, q)) for q in (1 - ALPHA / 2, power)]
  return sum(quantiles) * standard_error
