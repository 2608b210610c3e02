"""What an evaluation hands back, and how metric paths are put together."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from prm_jax.evaluation.intervals import Estimate, Resamples, resamples
from prm_jax.evaluation.pools import Pool
from prm_jax.evaluation.report.data import LineChart, Reliability, Table
from prm_jax.evaluation.splits import Scores


@dataclasses.dataclass(frozen=True)
class Options:
  """How to evaluate; the defaults are the project's rules.

  Attributes:
    policies: threshold policies ('fixed:0.5', 'argmax', 'tuned:SPLIT'), the first
      is the one predictions are shown with; () means tuned on the tuning split if
      there is one, and the untuned one: fixed:0.5 for probabilities, else argmax.
    reduction: the reduction chosen beforehand, for headline comparisons.
    reductions: all that are reported; product is left out for raw logits.
    sizes: the N of best-of-N; () means 1, 2, 4, ... up to the pool.
    ties: how ties are broken, one or several of 'uniform' and 'lowest_index' (see
      `best_of_n`); numbers of the latter are named `prm_min@16:lowest_index`.
    subsets: see `best_of_n.select`.
    unscored: 'error', or 'wrong': see `splits.read_scores`.
    value_label: label set that holds V, used where it is there.
    n_resamples: of every bootstrap.
    n_draws: subsets drawn for votes.
    seed: of resamples and draws.
    contributions: estimates also say what each problem adds, for `compare`.
  """

  policies: tuple[str, ...] = ()
  reduction: str = 'min'
  reductions: tuple[str, ...] = ('min', 'product', 'last', 'mean', 'max')
  sizes: tuple[int, ...] = ()
  ties: tuple[str, ...] = ('uniform',)
  subsets: str = 'all'
  unscored: str = 'error'
  value_label: str = 'value'
  n_resamples: int = 1000
  n_draws: int = 200
  seed: int = 0
  contributions: bool = False

  def resamples(self, problem_ids: Sequence[str]) -> Resamples:
    """The resamples of a set of problems, see `intervals.resamples`."""
    return resamples(
      problem_ids, self.n_resamples, self.seed, contributions=self.contributions
    )


@dataclasses.dataclass
class EvaluationResult:
  """Everything an evaluation found.

  Attributes:
    metrics: path -> {'value', 'low', 'high', 'n'}; value None where undefined.
    judged_by: path -> name of the label set or verdict it is judged against.
    counters: what was left out, undefined or unusual, path -> count.
    tables: for the report, results and baselines side by side.
    curves: 'reliability' and 'best_of_n', for the report.
    samples: one dict a solution (split, id, gold and predicted first error, ...)
      and one a problem of each pool, for the per-sample file.
    warnings: sentences a reader must not miss.
    estimates: path -> `Estimate` with its replicates, for paired comparisons and
      intervals over seeds.
  """

  metrics: dict[str, dict[str, Any]]
  judged_by: dict[str, str]
  counters: dict[str, int]
  tables: list[Table]
  curves: dict[str, Sequence[Reliability | LineChart]]
  samples: list[dict[str, Any]]
  warnings: list[str]
  estimates: dict[str, Estimate]


def metric_path(
  split: str, family: str, name: str, at: str | int = '', scorer: str = ''
) -> str:
  """'SPLIT/FAMILY/NAME@AT[SCORER]'; `scorer` is '' for the one evaluated."""
  suffix = f'[{scorer}]' if scorer else ''
  return f'{split}/{family}/{name}{f"@{at}" if at != "" else ""}{suffix}'


class Collector:
  """Gathers estimates under their paths and counts the reasons of undefined ones."""

  def __init__(self) -> None:
    self.estimates: dict[str, Estimate] = {}
    self.judged_by: dict[str, str] = {}
    self.counters: Counter[str] = Counter()
    self.tables: list[Table] = []
    self.reliability: list[Reliability] = []
    self.best_of_n: list[LineChart] = []
    self.samples: list[dict[str, Any]] = []
    self.warnings: list[str] = []

  def put(self, path: str, found: Estimate, judged_by: str) -> None:
    """Records one estimate; a path is taken once."""
    if path in self.estimates:
      raise ValueError(f'metric {path} was measured twice')
    self.estimates[path] = found
    self.judged_by[path] = judged_by
    if found.reason:
      self.counters[f'{path.split("/")[0]}/undefined/{found.reason}'] += 1

  def get(self, path: str) -> Estimate | None:
    """The estimate recorded under a path."""
    return self.estimates.get(path)

  def count(self, split: str, counters: dict[str, int]) -> None:
    """Adds counters of a split, zeros included: a zero is a finding too."""
    for name, n in counters.items():
      self.counters[f'{split}/{name}'] += n

  def result(self) -> EvaluationResult:
    """The finished result."""
    return EvaluationResult(
      metrics={path: e.metric() for path, e in self.estimates.items()},
      judged_by=dict(self.judged_by),
      counters={k: int(n) for k, n in self.counters.items()},
      tables=self.tables,
      curves={'reliability': self.reliability, 'best_of_n': self.best_of_n},
      samples=self.samples,
      warnings=self.warnings,
      estimates=dict(self.estimates),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class ScoredPool:
  """A pool with the scorers that choose from it; '' names the one evaluated."""

  pool: Pool
  scorers: dict[str, Scores]
