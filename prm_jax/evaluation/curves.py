"""Searches and a bank of samples on common axes: lines over N, tables, charts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from prm_jax.evaluation import best_of_n, intervals
from prm_jax.evaluation.compute import Line, Method, Prices, Verdict
from prm_jax.evaluation.intervals import Resamples
from prm_jax.evaluation.pools import Pool, ladder
from prm_jax.evaluation.report.data import LineChart, Row, Table
from prm_jax.evaluation.votes import vote

MAJORITY, ORACLE = 'majority', 'oracle'
BEST, VOTE = 'best', 'vote'
NAMED = 5
"""A warning about more methods than these counts them."""
_MILLION = 1e6


def bank_lines(
  pool: Pool,
  scores: np.ndarray | None,
  weights: np.ndarray | None,
  counts: Sequence[Mapping[str, int]],
  own_tokens: np.ndarray,
  prices: Prices,
  *,
  n_draws: int,
  seed: int,
) -> dict[str, Line]:
  """What a bank of n samples a problem gives at every N, and what that costs.

  N samples cost what is read once for a problem and N times what one of its samples
  costs on average; the PRM reads only for selectors that use it.

  Args:
    pool: A problems with n candidates each.
    scores: [R] reduced step scores, weights: [R] of votes; None without a scorer.
    counts: [A] tokens of the whole bank: policy_generated, policy_read, prm_read.
    own_tokens: [R] tokens of each solution that the PRM read for it alone.
    prices: of a token.
    n_draws, seed: of the votes' subsets.

  Returns:
    'majority' at every N; 'oracle', 'best' and 'vote' at powers of two and n.
  """
  every, some = tuple(range(1, pool.smallest + 1)), tuple(ladder(pool))
  voters = {MAJORITY: np.ones(pool.steps.n_rows)}
  right = vote(pool, voters, every, n_draws=n_draws, seed=seed)
  sizes = {MAJORITY: every, ORACLE: some}
  right[ORACLE] = best_of_n.oracle(pool, some)
  if scores is not None and weights is not None:
    right |= vote(pool, {VOTE: weights}, some, n_draws=n_draws, seed=seed)
    right[BEST] = best_of_n.select(pool, scores, some)
    sizes |= {VOTE: some, BEST: some}
  held = {k: np.array([c.get(k, 0) for c in counts], float)
          for k in ('policy_generated', 'policy_read', 'prm_read')}  # fmt: skip
  written = held['policy_generated'] / pool.sizes
  own = np.where(pool.mask, pool.place(own_tokens.astype(float), 0.0), 0.0).sum(axis=1)
  once, each = held['prm_read'] - own, own / pool.sizes
  out = {}
  for name, at in sizes.items():
    guided = name in (BEST, VOTE)
    methods = []
    for k, n in enumerate(at):
      policy = held['policy_read'] + n * written
      prm = (once + n * each) if guided else np.zeros(len(counts))
      title = f'best_of_n(n={n}).{name}'
      flops = _flops(prices, policy, prm)
      methods.append(Method(title, right[name][:, k], flops, policy, prm, guided))
    out[name] = Line(name, at, tuple(methods))
  return out


def _flops(prices: Prices, policy: np.ndarray, prm: np.ndarray) -> np.ndarray:
  if prices.policy is None or (prm.any() and prices.prm is None):
    return np.full(len(policy), np.nan)
  return 2.0 * prices.policy * policy + 2.0 * (prices.prm or 0) * prm


def chart(
  title: str,
  lines: Mapping[str, Line],
  searches: Mapping[str, Sequence[Method]],
  sample: Resamples,
  note: str,
) -> LineChart | None:
  """Share solved against compute; None where FLOPs are not known.

  Args:
    title, note: of the chart.
    lines: of the bank.
    searches: name of a line -> its methods, one a budget.
    sample: of the problems.
  """
  names = {
    MAJORITY: 'majority vote',
    ORACLE: 'oracle',
    BEST: 'best of N',
    VOTE: 'weighted vote of N',
  }
  drawn: dict[str, Sequence[Method]] = {}
  for key, line in lines.items():
    powers = [m for n, m in zip(line.sizes, line.methods)
              if n & (n - 1) == 0 or n == line.sizes[-1]]  # fmt: skip
    drawn[names[key]] = powers
  series = {}
  for name, methods in {**drawn, **searches}.items():
    at = [m for m in methods if np.isfinite(m.flops).all()]
    points = []
    for m in sorted(at, key=lambda m: m.flops.mean()):
      found = intervals.means(m.right[:, None], sample)[0]
      points.append((m.flops.mean() / _MILLION, found.value, found.low, found.high))
    if points:
      series[name] = points
  if not series:
    return None
  return LineChart(
    title,
    series,
    x_label='estimated MFLOPs of a problem, policy and PRM',
    y_label='share solved',
    baselines=[n for n in ('majority vote', 'oracle') if n in series],
    log2=True,
    note=note,
  )


def table(title: str, verdicts: Sequence[Verdict], note: str) -> Table:
  """One row a method: what it solves, what the vote solves at its compute, the cost."""
  header = [
    'method', 'share solved', 'majority at equal compute', 'its N',
    'paired difference', 'P', 'P after Holm', 'MFLOPs', 'policy tokens', 'PRM tokens',
    'against majority',
  ]  # fmt: skip
  rows = []
  gain = lambda v: -np.inf if v.difference.value is None else v.difference.value
  for v in sorted(verdicts, key=gain, reverse=True):
    known = v.n is not None
    rows.append(
      Row(
        v.method + (' (chosen on validation)' if v.chosen else ''),
        [
          v.right.metric(),
          v.majority.metric() if known else None,
          v.n,
          v.difference.metric() if known else None,
          v.p,
          v.p_holm,
          None if v.flops.value is None else v.flops.value / _MILLION,
          _rounded(v.policy_tokens.value),
          _rounded(v.prm_tokens.value),
          v.shown,
        ],
        not v.guided,
      )
    )
  return Table(title, header, rows, note)


def _rounded(value: float | None) -> int | None:
  return None if value is None else round(value)


def warnings(verdicts: Sequence[Verdict]) -> list[str]:
  """Plain sentences for searches that are not better than the vote at equal compute."""
  of: Callable[[str], list[str]] = lambda shown: [
    v.method for v in verdicts if v.guided and v.shown == shown
  ]
  out = []
  for v in verdicts:
    if v.chosen and v.shown != 'better':
      out.append(
        f'{v.method}, chosen on validation, is {v.shown} against the majority vote at '
        'equal compute on the other problems.'
      )
  if worse := of('worse'):
    out.append(f'Worse than the majority vote at equal compute: {_some(worse)}.')
  if unclear := of('not shown'):
    out.append(
      'Not shown to be better than the majority vote at equal compute: '
      f'{_some(unclear)}.'
    )
  if beyond := of('beyond the bank'):
    out.append(
      'Not compared, because they cost more than the whole bank of samples: '
      f'{_some(beyond)}; give best_of_n a larger n.'
    )
  return out


def _some(names: Sequence[str]) -> str:
  if len(names) <= NAMED:
    return ', '.join(names)
  return f'{len(names)} of the methods (the table says which)'
