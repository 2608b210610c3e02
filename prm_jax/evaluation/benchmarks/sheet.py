"""What every benchmark is given and where it puts its numbers.

A benchmark is a function of scored sets and a `Sheet`. Metric paths are
`BENCHMARK/SET/METRIC@POLICY`; a benchmark or set that holds fewer rows than the
published one carries both counts in its name (`process_bench[1694 of 3400]`), so that a
number of a part is never taken for one of the whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from prm_jax.errors import UserError
from prm_jax.evaluation import process_bench
from prm_jax.evaluation.intervals import Estimate, Resamples
from prm_jax.evaluation.process_bench import Threshold
from prm_jax.evaluation.result import Collector, Options, metric_path
from prm_jax.evaluation.splits import Scores, Split, read_scores, read_split
from prm_jax.records import Trajectory

OVERALL = 'overall'
MEAN = 'mean'
Rows = Sequence[Trajectory]


@dataclasses.dataclass(frozen=True, eq=False)
class Held:
  """One scored set of a benchmark.

  Attributes:
    name: 'BENCHMARK.SET', or 'BENCHMARK' where there is one set.
    title: the set in metric paths, with counts where rows are missing.
    rows: R solutions.
    split: their truth.
    scores: of the scorer that is evaluated.
    sample: resamples of the set's problems.
  """

  name: str
  title: str
  rows: Sequence[Trajectory]
  split: Split
  scores: Scores
  sample: Resamples


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """One benchmark.

  Attributes:
    name: in metric paths and configs.
    version: raised whenever a number could change.
    definition: what the metrics are, from where, and what could not be verified.
    sources: '[SET=]PATH:FORMAT' below the data folder, '' as SET for a single one.
    rows: of the published benchmark, 0 unknown.
    measure: f(sheet, set -> its scored rows) records the metrics of these sets.
    sizes: rows of each published set, where known.
    truth: label set that metrics are judged against.
    verdict: whose word on final answers counts.
    pools: sets are pools of candidates, without step truth.
  """

  name: str
  version: int
  definition: str
  sources: tuple[str, ...]
  rows: int
  measure: Callable[[Sheet, Mapping[str, Rows]], None]
  sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
  truth: str = 'human'
  verdict: str = 'source'
  pools: bool = False


@dataclasses.dataclass(frozen=True)
class Line:
  """One line of the printed table; the number is under `path` in the metrics."""

  benchmark: str
  set: str
  version: int
  policy: str
  metric: str
  path: str


class Sheet:
  """Takes one benchmark's estimates and remembers their order for the table."""

  def __init__(
    self,
    out: Collector,
    benchmark: Benchmark,
    title: str,
    scorer: str,
    options: Options,
    tune: Mapping[str, Held],
  ) -> None:
    """Args:
    out: where estimates, counters, samples and warnings go.
    benchmark: whose sheet it is.
    title: its name with counts where rows are missing.
    scorer: key of `scores` in its rows.
    options: threshold policies, resamples, seed.
    tune: 'BENCHMARK.SET' -> sets that thresholds may be tuned on.
    """
    self.out = out
    self.benchmark = benchmark
    self.title = title
    self.scorer = scorer
    self.options = options
    self.lines: list[Line] = []
    self._tune = tune
    self._tuned: dict[str, Threshold] = {}

  def put(
    self, where: str, name: str, found: Estimate, policy: str = '', shown: bool = True
  ) -> None:
    """Records an estimate as BENCHMARK/`where`/`name`@`policy`.

    Args:
      where: set or class.
      name: of the metric.
      found: the estimate.
      policy: threshold policy, '' where none is involved.
      shown: False keeps it out of the table; it is in results.json all the same.
    """
    path = metric_path(self.title, where, name, policy)
    self.out.put(path, found, self.benchmark.truth)
    if shown:
      version = self.benchmark.version
      self.lines.append(Line(self.title, where, version, policy, name, path))

  def get(self, where: str, name: str, policy: str = '') -> Estimate | None:
    """An estimate recorded before."""
    return self.out.get(metric_path(self.title, where, name, policy))

  def count(self, where: str, counters: Mapping[str, int]) -> None:
    """Adds counters of a set."""
    self.out.count(f'{self.title}/{where}', dict(counters))

  def warn(self, sentence: str) -> None:
    """A sentence that a reader must not miss."""
    self.out.warnings.append(f'{self.title}: {sentence}')

  def hold(self, set_name: str, rows: Rows) -> Held:
    """Truth and scores of one set, see `hold`."""
    return hold(self.benchmark, set_name, rows, self.scorer, self.options)

  def policies(self, held: Held) -> tuple[str, ...]:
    """The threshold policies reported for a set: those asked for, else 0.5 for
    probabilities and argmax for logits and log-ratios."""
    untuned = 'fixed:0.5' if held.scores.kind == 'probability' else 'argmax'
    return self.options.policies or (untuned,)

  def thresholds(self, held: Held) -> Iterator[Threshold]:
    """The thresholds of a set, one a policy; `value` is None where there is none.

    A set is never reported at a threshold tuned on itself: that policy is left out.

    Raises:
      UserError: a policy is unknown, or names a set that is not scored.
    """
    for policy in self.policies(held):
      name, _, rest = policy.partition(':')
      if name != 'tuned':
        yield process_bench.choose_threshold(policy, held.split, held.scores.kind)
      elif rest not in self._tune:
        raise UserError(
          f'evaluate.threshold={policy}: there is no scored set {rest!r} to tune on; '
          f'name one as BENCHMARK.SET, for example process_bench.gsm8k.'
        )
      elif rest != held.name:
        yield self._tuned_on(policy, self._tune[rest], held)

  def _tuned_on(self, policy: str, other: Held, held: Held) -> Threshold:
    if set(other.split.problem_ids) & set(held.split.problem_ids):
      return Threshold(policy, None, 'shares_problems_with_the_tuning_set')
    if policy not in self._tuned:
      self._tuned[policy] = process_bench.tune_threshold(
        other.split, other.scores, policy
      )
    return self._tuned[policy]


def counted(name: str, rows: int, published: int) -> str:
  """A name with its row count where rows are missing or there are others.

  >>> counted('process_bench', 1694, 3400), counted('prmbench', 6216, 6216)
  ('process_bench[1694 of 3400]', 'prmbench')
  """
  return (
    name if not published or rows == published else f'{name}[{rows} of {published}]'
  )


def hold(
  benchmark: Benchmark,
  set_name: str,
  rows: Sequence[Trajectory],
  scorer: str,
  options: Options,
) -> Held:
  """Reads truth and scores of one set.

  Raises:
    UserError: repeated ids, no truth, scores of another number than steps, scores
      that are not finite, or none at all.
  """
  name = f'{benchmark.name}.{set_name}' if set_name else benchmark.name
  split = read_split(name, rows, benchmark.truth, benchmark.verdict)
  return Held(
    name=name,
    title=counted(set_name or OVERALL, len(rows), benchmark.sizes.get(set_name, 0)),
    rows=rows,
    split=split,
    scores=read_scores(split, rows, scorer, options.unscored),
    sample=options.resamples(split.problem_ids),
  )


def constant(scores: Scores, split: Split) -> bool:
  """Whether all steps of several have the same score: such a scorer says nothing."""
  values = scores.values[scores.scored[split.row]]
  return len(values) > 1 and bool(np.all(values == values[0]))
