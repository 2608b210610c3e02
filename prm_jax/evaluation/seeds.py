"""Intervals over training seeds: two sources of variance, each named.

A difference between two methods varies with the seeds they were trained with and
with the problems they were tested on. Both belong in the interval; a bootstrap
over problems alone is too narrow for a claim about methods.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prm_jax.errors import UserError
from prm_jax.evaluation.intervals import LEVEL, Estimate, difference


@dataclasses.dataclass(frozen=True)
class SeedInterval:
  """Mean over S seeds with an interval over seeds and problems.

  Attributes:
    value: mean over seeds.
    low, high: 95 % interval (t distribution), None with a single seed.
    n: S.
    sd_seeds: standard deviation between seeds; None with a single seed.
    se_seeds: standard error of the mean that comes from the seeds.
    se_problems: standard error of the mean that comes from the test problems;
      None if it was not estimated, in which case the interval is over seeds only.
  """

  value: float
  low: float | None
  high: float | None
  n: int
  sd_seeds: float | None
  se_seeds: float | None
  se_problems: float | None

  def metric(self) -> dict[str, Any]:
    """{'value', 'low', 'high', 'n'} and the three named spreads."""
    return dataclasses.asdict(self)


def over_seeds(
  estimates: Sequence[Estimate],
  *,
  n_problems: int,
  between: tuple[float, float] = (-math.inf, math.inf),
) -> SeedInterval:
  """Mean of one quantity over seeds.

  With d_s the value of seed s and d_sr its value on resample r of the problems,
  var = var_s(d_s) / S + var_r(mean_s d_sr). All seeds are tested on the same
  problems, so the first term holds what the seeds add and the second what the
  choice of problems adds; their interaction is in both, which errs on the wide
  side. Degrees of freedom after Welch and Satterthwaite, with S - 1 and
  n_problems - 1. If the estimates come from different problems for each seed, the
  first term holds both sources already and the second is left out.

  Args:
    estimates: one a seed, of a metric or of a paired difference.
    n_problems: test problems behind each.
    between: least and greatest value that the quantity can take. A t interval knows
      nothing of them and, with few seeds, may reach beyond; it is cut there, which
      leaves its coverage as it is, because the true value lies inside.

  Raises:
    UserError: there is no seed, or the value of one is undefined.
  """
  if not estimates or any(e.value is None for e in estimates):
    raise UserError(
      'an interval over seeds needs a defined value from every seed; leave out the '
      'runs whose metric is undefined and say so.'
    )
  points = np.array([e.value for e in estimates], dtype=np.float64)
  s, mean = len(points), float(points.mean())
  same = len({e.key for e in estimates}) == 1 and len(estimates[0].replicates) > 1
  se_problems = None
  if same:
    se_problems = float(np.nanstd(np.mean([e.replicates for e in estimates], axis=0)))
  if s == 1:
    return SeedInterval(mean, None, None, 1, None, None, se_problems)
  sd = float(points.std(ddof=1))
  a, b = sd**2 / s, (se_problems or 0.0) ** 2
  if a + b == 0:
    return SeedInterval(mean, mean, mean, s, sd, 0.0, se_problems)
  from scipy import special

  found = SeedInterval(mean, None, None, s, sd, math.sqrt(a), se_problems)
  error, freedom = standard_error(found, n_problems)
  half = float(special.stdtrit(freedom, (1 + LEVEL) / 2)) * (error or 0.0)
  return dataclasses.replace(
    found, low=max(mean - half, between[0]), high=min(mean + half, between[1])
  )


def standard_error(found: SeedInterval, n_problems: int) -> tuple[float | None, float]:
  """Standard error from both sources, and its degrees of freedom (see `over_seeds`).

  (None, infinite) with a single seed.
  """
  if found.se_seeds is None:
    return None, math.inf
  a, b = found.se_seeds**2, (found.se_problems or 0.0) ** 2
  if a + b == 0:
    return 0.0, math.inf
  freedom = (a + b) ** 2 / (a**2 / (found.n - 1) + b**2 / max(n_problems - 1, 1))
  return math.sqrt(a + b), freedom


def p_value(found: SeedInterval, n_problems: int) -> float | None:
  """Two-sided P value of "the mean is 0", the t test that the interval belongs to.

  None with a single seed. Without any spread it is 1 for a mean of 0, else 0.
  """
  error, freedom = standard_error(found, n_problems)
  if error is None:
    return None
  if error == 0:
    return 1.0 if found.value == 0 else 0.0
  from scipy import special

  return float(2 * special.stdtr(freedom, -abs(found.value) / error))


def paired_over_seeds(
  a: Sequence[Estimate],
  b: Sequence[Estimate],
  *,
  n_problems: int,
  between: tuple[float, float] = (-math.inf, math.inf),
) -> SeedInterval:
  """Interval of the difference a - b over seeds, seed s of one against the other.

  Args:
    a, b: one estimate a seed.
    n_problems: test problems behind each.
    between: least and greatest value that a and b can take, see `over_seeds`.

  Raises:
    UserError: the two have different numbers of seeds, or see `over_seeds`.
  """
  if len(a) != len(b):
    raise UserError(
      f'a paired interval over seeds needs equally many runs of both methods, not '
      f'{len(a)} and {len(b)}.'
    )
  return over_seeds(
    [difference(x, y) for x, y in zip(a, b)],
    n_problems=n_problems,
    between=(between[0] - between[1], between[1] - between[0]),
  )


def table(
  runs: Mapping[str, Sequence[Estimate]], *, reference: str, n_problems: int
) -> list[dict[str, Any]]:
  """Seeds x methods as a table: each method, and its difference from `reference`.

  Args:
    runs: method -> one estimate a seed, seeds in the same order for all.
    reference: the method the others are compared with.
    n_problems: test problems behind each estimate.

  Returns:
    Rows {'method', 'mean': interval, 'minus_<reference>': interval or None}.

  Raises:
    UserError: `reference` is not among the methods, or see `over_seeds`.
  """
  if reference not in runs:
    raise UserError(
      f'the reference method {reference!r} is not among {", ".join(runs)}.'
    )
  rows = []
  for method, estimates in runs.items():
    against = None
    if method != reference:
      against = paired_over_seeds(
        estimates, runs[reference], n_problems=n_problems
      ).metric()
    mean = over_seeds(estimates, n_problems=n_problems).metric()
    rows.append({'method': method, 'mean': mean, f'minus_{reference}': against})
  return rows
