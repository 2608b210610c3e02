"""Instance-adaptive numbers of samples on a bank: metrics, table, chart."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from prm_jax.evaluation import adaptive
from prm_jax.evaluation.adaptive import Bank, Outcome
from prm_jax.evaluation.intervals import Estimate, Resamples, resamples
from prm_jax.evaluation.pools import Pool
from prm_jax.evaluation.report.data import LineChart, Row, Table
from prm_jax.evaluation.result import Collector, Options, metric_path

FAMILY = 'adaptive'
STABLE = 'stable'
DEFINITIONS = {
  'accuracy': 'Share of problems solved by a vote among the candidates drawn.',
  'candidates': 'Mean number of candidates drawn.',
  'capped': 'Share of the cases in which all candidates of the bank were drawn.',
  'gain': 'Share of problems solved more than by a fixed number of candidates of the '
  'same mean number, paired.',
  'gain_characters': 'The same, at the same mean number of characters written.',
  'gain_over_stable': 'Share of problems solved more than by stopping at a stable '
  'majority, at the same mean number of candidates, paired.',
}
"""Name of a metric of family adaptive -> what it means."""


@dataclasses.dataclass(frozen=True, eq=False)
class Rule:
  """A rule for stopping, at one setting.

  Attributes:
    family: its name, 'first_step', 'first_solution', 'sequence'.
    setting: the confidence C, or a level.
    needed: [R] candidates that a problem gets whose first candidate this is, or None.
    chances: [R] chance of each candidate to be right, for the sequential rule.
  """

  family: str
  setting: float
  needed: np.ndarray | None = None
  chances: np.ndarray | None = None

  @property
  def name(self) -> str:
    """'FAMILY:SETTING'."""
    return f'{self.family}:{self.setting:g}'

  def stop(self, held: Bank) -> np.ndarray:
    """int [D, A], after how many candidates it stops."""
    if self.needed is not None:
      return adaptive.by_first(held, self.needed)
    if self.chances is not None:
      return adaptive.in_sequence(held, self.chances, self.setting)
    return adaptive.stable(held, self.setting)


def measure(
  out: Collector,
  pool: Pool,
  choosers: Mapping[str, np.ndarray],
  rules: Sequence[Rule],
  levels: Sequence[float],
  n_orders: int,
  options: Options,
) -> None:
  """Records all rules on a pool, for each way of choosing.

  Paths are 'POOL/adaptive/NAME@RULE:SETTING[CHOOSER]' and '...@fixed:N[CHOOSER]'.

  Args:
    out: where it goes.
    pool: as many candidates for every problem.
    choosers: name -> [R] weights of the votes, the same for rules and fixed numbers.
    rules: instance-adaptive ones.
    levels: of the rule that stops at a stable majority, rising.
    n_orders: random orders of each problem's candidates.
    options: resamples and seed.
  """
  name = pool.steps.name
  sample = resamples(pool.steps.problem_ids, options.n_resamples, options.seed)
  out.count(f'{name}/{FAMILY}', pool.counters)
  every = [*rules, *(Rule(STABLE, level) for level in levels)]
  for chooser, weights in choosers.items():
    held = adaptive.bank(
      pool, weights, np.ones(len(weights)), n_orders=n_orders, seed=options.seed
    )
    written = dataclasses.replace(held, spent=_characters(held))
    fixed, fixed_written = adaptive.ladder(held), adaptive.ladder(written)
    stops = {rule.name: rule.stop(held) for rule in every}
    found = {rule: adaptive.outcome(held, stop) for rule, stop in stops.items()}
    put = lambda what, at, value, chooser=chooser: out.put(
      metric_path(name, FAMILY, what, at, chooser), value, pool.verdict
    )
    # At a level of .75 or less one vote is stable enough.
    by_stable = [fixed[0], *(found[r.name] for r in every if r.family == STABLE)]
    for rule in every:
      put('gain', rule.name, adaptive.gain(found[rule.name], fixed, sample)[0])
      in_characters = adaptive.outcome(written, stops[rule.name])
      put(
        'gain_characters',
        rule.name,
        adaptive.gain(in_characters, fixed_written, sample)[0],
      )
      if rule.family != STABLE:
        over = adaptive.gain(found[rule.name], by_stable, sample)[0]
        put('gain_over_stable', rule.name, over)
      _put_outcome(put, rule.name, found[rule.name], sample)
    for k in _shown(held.n):
      _put_outcome(put, f'fixed:{k}', fixed[k - 1], sample)
    _show(out, pool, chooser, every, found, fixed, sample)


def _characters(held: Bank) -> np.ndarray:
  lengths = held.of_candidates(np.maximum(held.pool.characters, 1).astype(float))
  return np.cumsum(lengths, axis=2)


def _shown(n: int) -> list[int]:
  return sorted({*(1 << i for i in range(n.bit_length())), n})


def _put_outcome(put, at: str, found: Outcome, sample: Resamples) -> None:
  put('accuracy', at, adaptive.accuracy(found, sample))
  n = len(found.right)
  for what, value in (('candidates', found.candidates), ('capped', found.capped)):
    put(what, at, Estimate(value, None, None, n, '', np.zeros(0), ''))


def _show(
  out: Collector,
  pool: Pool,
  chooser: str,
  every: Sequence[Rule],
  found: Mapping[str, Outcome],
  fixed: Sequence[Outcome],
  sample: Resamples,
) -> None:
  name = pool.steps.name
  columns = ('candidates', 'capped', 'accuracy', 'gain', 'gain_characters')
  names = [rule.name for rule in every]
  names += [f'fixed:{k}' for k in _shown(len(fixed))]
  cell = lambda what, at: out.get(metric_path(name, FAMILY, what, at, chooser))
  rows = []
  for at in names:
    cells = [cell(what, at) for what in (*columns, 'gain_over_stable')]
    baseline = at.startswith(('fixed', STABLE))
    rows.append(Row(at, [None if c is None else c.metric() for c in cells], baseline))
  out.tables.append(
    Table(
      f'{name}: samples as needed, {chooser} vote',
      [
        'rule', 'candidates', 'all drawn', 'solved', 'over fixed N',
        'over fixed N (characters)', 'over a stable majority',
      ],
      rows,
      'Differences are paired over problems, at the same mean cost.',
    )
  )  # fmt: skip

  def points(outcomes: Sequence[Outcome]) -> list[tuple[float | None, ...]]:
    out: list[tuple[float | None, ...]] = []
    for o in sorted(outcomes, key=lambda o: o.candidates):
      e = adaptive.accuracy(o, sample)
      bounds = () if e.low is None else (e.low, e.high)
      out.append((o.candidates, e.value, *bounds))
    return out

  families = dict.fromkeys(rule.family for rule in every)
  series = {
    family: points([found[r.name] for r in every if r.family == family])
    for family in families
  }
  out.best_of_n.append(
    LineChart(
      f'{name}: solved by a {chooser} vote',
      {**series, 'fixed N': points(fixed)},
      x_label='mean number of candidates',
      y_label='share solved',
      baselines=('fixed N', STABLE),
      log2=True,
    )
  )
