"""Is A better than B? Every metric that both have, over the same problems.

For each metric: the difference with its paired bootstrap interval, a sign-flip
permutation test by problem, McNemar's test where a problem has one row that is right or
wrong, P values after Holm over all metrics compared, and the smallest difference that
the data could have shown. With several runs of each method (seeds) the interval and the
P value hold both sources of variance, seeds and problems.

A difference is called shown if its interval excludes 0 and its P value after Holm is
below 5 %. Everything else is "not shown", which is not "equal": see the detectable
difference.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from prm_jax.errors import UserError
from prm_jax.evaluation import hypothesis_tests, seeds
from prm_jax.evaluation.intervals import Estimate, difference, interval
from prm_jax.evaluation.report import words
from prm_jax.evaluation.suite import MEAN

Run = Mapping[str, Estimate]
"""Metric path -> estimate, of one run."""

SIGN_FLIP = 'sign-flip'
SEEDS = 't over seeds and problems'
NO_TEST = 'none'
IN_UNITS_OF_SCORES = '/trajectory/smoothness'
_F1 = re.compile(r'/f1(?=@|$)')
_RIGHT_OR_WRONG = 1e-4
"""How far 0 and 1 may be off after their way through a file of float32."""


@dataclasses.dataclass(frozen=True)
class Comparison:
  """One metric of both methods.

  Attributes:
    metric: its path.
    better: which end is the good one: 'higher', 'lower', or '' for neither.
    n, n_problems: rows (or steps, or problems) that it is over, and problems (blocks
      of problems beyond `intervals.MAX_BLOCKS`; 0 where that is not known).
    a, b: values, means over seeds.
    difference, low, high: a - b and its 95 % interval, None where there is none.
    p, test: two-sided P value, None where there is none, and where it comes from.
    p_holm: after Holm, over all metrics on which they differ; None without `p`.
    standard_error: of the difference.
    detectable: smallest true difference found with 80 % power.
    mcnemar: {'only_a', 'only_b', 'p'} or None where it does not apply.
    seeds: {'n', 'sd_seeds', 'se_seeds', 'se_problems'}, None with one run each.
    winner: 'a' or 'b' where a difference is shown, else ''.
  """

  metric: str
  better: str
  n: int
  n_problems: int
  a: float
  b: float
  difference: float
  low: float | None
  high: float | None
  p: float | None
  test: str
  p_holm: float | None
  standard_error: float | None
  detectable: float | None
  mcnemar: dict[str, Any] | None
  seeds: dict[str, Any] | None
  winner: str = ''

  @property
  def identical(self) -> bool:
    """Both have the same value on every resample, as metrics have that read neither's
    scores."""
    return self.difference == 0 and not self.standard_error


@dataclasses.dataclass(frozen=True)
class Compared:
  """Everything a comparison found.

  Attributes:
    rows: metrics compared, in the order of the first run.
    left_out: reason -> metrics that could not be paired.
  """

  rows: list[Comparison]
  left_out: dict[str, list[str]]


def compare(
  a: Sequence[Run],
  b: Sequence[Run],
  *,
  keep: Callable[[str], bool] = lambda path: True,
  kinds: Sequence[str] = (),
  n_flips: int = hypothesis_tests.N_FLIPS,
  seed: int = 0,
) -> Compared:
  """Compares two methods on every metric that all their runs have.

  Args:
    a, b: runs of the two methods, equally many; run s of one is paired with run s of
      the other (the same training seed, say).
    keep: which metric paths to compare; by default all. Differences, and metrics of
      named scorers ('[NAME]' at the end), are for the caller to leave out.
    kinds: of the scores of all runs; metrics in the units of scores are compared
      where they have one.
    n_flips, seed: of the sign-flip test.

  Raises:
    UserError: other numbers of runs, or no metric that can be paired.
  """
  if not a or len(a) != len(b):
    raise UserError(
      f'A has {len(a)} runs and B has {len(b)}; name equally many (seed s of one is '
      'paired with seed s of the other), at least one each.'
    )
  runs = [*a, *b]
  left_out: dict[str, list[str]] = {}
  usable: list[str] = []
  for path in dict.fromkeys(p for run in runs for p in run if keep(p)):
    reason = _unusable([run.get(path) for run in runs])
    if not reason and len(kinds) > 1 and path.endswith(IN_UNITS_OF_SCORES):
      reason = f'in the units of the scores, which differ ({" and ".join(kinds)})'
    if reason:
      left_out.setdefault(reason, []).append(path)
    else:
      usable.append(path)
  if not usable:
    raise UserError(_nothing(left_out))
  rows = [_one(path, [r[path] for r in a], [r[path] for r in b]) for path in usable]
  if len(a) == 1:
    rows = _sign_flips(rows, a[0], b[0], n_flips, seed)
  rows = [_with_winner(row) for row in _holm(rows)]
  return Compared(rows, left_out)


def _unusable(found: Sequence[Estimate | None]) -> str:
  """Why these cannot be paired, '' if they can."""
  if any(e is None or e.value is None for e in found):
    return 'not in every run, or undefined in one'
  held = [e for e in found if e is not None]
  if any(not e.replicates.size for e in held):
    return 'without replicates'
  # A key is DIGEST:SEED:N, several joined by '+' for a mean over splits.
  if len({re.sub(r':[^+]*', '', e.key) for e in held}) > 1:
    return 'over other problems'
  if len({e.key for e in held}) > 1:
    return 'resampled with another seed or number of resamples'
  if len({e.n for e in held}) > 1:
    return 'over other rows of the same problems'
  return ''


def _nothing(left_out: Mapping[str, Sequence[str]]) -> str:
  why = '; '.join(
    f'{len(paths)} {reason} ({paths[0]})' for reason, paths in left_out.items()
  )
  return (
    f'no metric of A and B can be compared: {why or "they have none"}; evaluate both '
    'on the same files, with the same evaluate.seed and evaluate.replicates=true.'
  )


def _one(path: str, a: Sequence[Estimate], b: Sequence[Estimate]) -> Comparison:
  """All but the tests over problems."""
  pairs = [difference(x, y) for x, y in zip(a, b)]
  n_problems = max(len(a[0].contributions), 1)
  error: float | None
  if len(a) == 1:
    found = pairs[0]
    draws = found.replicates[np.isfinite(found.replicates)]
    low, high = _interval(found)
    error = float(draws.std(ddof=1)) if len(draws) > 1 and low is not None else None
    p, test, spread, freedom = None, NO_TEST, None, math.inf
    value = found.value or 0.0
  else:
    # Without contributions the number of problems is not known; rows stand for it.
    problems = n_problems if len(a[0].contributions) else a[0].n
    over = seeds.paired_over_seeds(
      a, b, n_problems=problems, between=words.between(path)
    )
    value, low, high = over.value, over.low, over.high
    error, freedom = seeds.standard_error(over, problems)
    p, test = seeds.p_value(over, problems), SEEDS
    spread = {k: getattr(over, k) for k in ('n', 'sd_seeds', 'se_seeds', 'se_problems')}
  values = [float(np.mean([e.value for e in each])) for each in (a, b)]
  return Comparison(
    metric=path,
    better=words.meaning(path).better,
    n=a[0].n,
    n_problems=len(a[0].contributions),
    a=values[0],
    b=values[1],
    difference=value,
    low=low,
    high=high,
    p=p,
    test=test,
    p_holm=None,
    standard_error=error,
    detectable=None if error is None else hypothesis_tests.detectable(error, freedom),
    mcnemar=_mcnemar(a[0], b[0]) if len(a) == 1 else None,
    seeds=spread,
  )


def _interval(found: Estimate) -> tuple[float | None, float | None]:
  """Of a difference of estimates that may come from a file, without their bounds."""
  if len(found.contributions) == 1:
    return None, None
  return interval(found.replicates)


def _mcnemar(a: Estimate, b: Estimate) -> dict[str, Any] | None:
  """Only where every problem has one row that is right (1) or wrong (0)."""
  sides = []
  for found in (a, b):
    parts = found.contributions * len(found.contributions)
    if not len(parts) or len(parts) != found.n:
      return None
    right = np.abs(parts - 1) < _RIGHT_OR_WRONG
    if not np.all(right | (np.abs(parts) < _RIGHT_OR_WRONG)):
      return None
    sides.append(right)
  return dataclasses.asdict(hypothesis_tests.mcnemar(*sides))


def _parts(path: str, a: Run, b: Run) -> np.ndarray:
  """[G] what each problem adds to the difference in a metric."""
  return _f1_parts(path, a, b) if _F1.search(path) else _own_parts(path, a, b)


def _own_parts(path: str, a: Run, b: Run) -> np.ndarray:
  return difference(a[path], b[path]).contributions


def _f1_parts(path: str, a: Run, b: Run) -> np.ndarray:
  """Those of a harmonic mean F of two accuracies, or of a mean over sets of them.

  F is no sum over problems; in the middle between A and B it is one to second order,
  of what problems add to the two accuracies. So a problem on which A and B agree adds
  nothing, and few wrong solutions among many are as few for F1.
  """
  names = path.split('/')
  sets = [path]
  if MEAN in names[:-1]:
    form = '/'.join('[^/]+' if n == MEAN else re.escape(n) for n in names)
    sets = [p for p in a if p != path and re.fullmatch(form, p)]
  # A mean over sets holds their parts one after another.
  if not sets or '+'.join(a[p].key for p in sets) != a[path].key:
    return _own_parts(path, a, b)
  each = []
  for p in sets:
    error, correct = (_F1.sub(f'/accuracy_{c}', p) for c in ('error', 'correct'))
    if not all(name in run for name in (error, correct) for run in (a, b)):
      return _own_parts(path, a, b)
    e, c = (((a[n].value or 0.0) + (b[n].value or 0.0)) / 2 for n in (error, correct))
    to_error, to_correct = (2 * (x / (e + c or 1.0)) ** 2 for x in (c, e))
    each.append(
      to_error * _own_parts(error, a, b) + to_correct * _own_parts(correct, a, b)
    )
  return np.concatenate(each) / len(sets)


def _sign_flips(
  rows: Sequence[Comparison], a: Run, b: Run, n_flips: int, seed: int
) -> list[Comparison]:
  """P values of all metrics; those over the same problems share the signs."""
  parts = {row.metric: _parts(row.metric, a, b) for row in rows}
  groups: dict[tuple[str, int], list[str]] = {}
  for path, held in parts.items():
    if len(held) > 1:
      groups.setdefault((a[path].key, len(held)), []).append(path)
  found: dict[str, hypothesis_tests.FlipTest] = {}
  for paths in groups.values():
    columns = np.stack([parts[p] for p in paths], axis=1)
    tests = hypothesis_tests.sign_flip(columns, n_flips=n_flips, seed=seed)
    found.update(zip(paths, tests))
  out = []
  for row in rows:
    test = found.get(row.metric)
    if test is not None and test.p is not None:
      name = f'{SIGN_FLIP}, {"all signs" if test.exact else f"{n_flips} drawn"}'
      row = dataclasses.replace(row, p=test.p, test=name)
    out.append(row)
  return out


def _holm(rows: Sequence[Comparison]) -> list[Comparison]:
  """Corrected P values. A metric on which no problem differs could not be rejected
  whatever the signs, so it does not count among the many (Tarone 1990)."""
  tested = [row.p for row in rows if row.p is not None and not row.identical]
  adjusted = iter(hypothesis_tests.holm(tested))
  out = []
  for row in rows:
    if row.p is not None:
      row = dataclasses.replace(row, p_holm=1.0 if row.identical else next(adjusted))
    out.append(row)
  return out


def _with_winner(row: Comparison) -> Comparison:
  shown = (
    row.low is not None
    and row.high is not None
    and (row.low > 0 or row.high < 0)
    and row.p_holm is not None
    and row.p_holm < hypothesis_tests.ALPHA
  )
  if not shown:
    return row
  higher = row.difference > 0
  return dataclasses.replace(
    row, winner='a' if higher == (row.better != 'lower') else 'b'
  )
