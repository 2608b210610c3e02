"""What train and evaluate share: load sets, score them, measure, write the report."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from prm_jax import files, records, writer
from prm_jax.data.sources import Mixture
from prm_jax.errors import UserError
from prm_jax.evaluation import pools as candidates
from prm_jax.evaluation import replicates, report, same_rows, selection, suite
from prm_jax.evaluation import splits as solutions
from prm_jax.evaluation.result import EvaluationResult, Options
from prm_jax.inference.scorer import Scorer
from prm_jax.jobs import assemble, pages
from prm_jax.jobs.configuration import Command
from prm_jax.jobs.score import add_scores
from prm_jax.records import Trajectory
from prm_jax.specs import PolicySpec, ScorerSpec

VALIDATION = 'validation'


@dataclasses.dataclass(frozen=True)
class Sets:
  """Attributes:
  validation: rows on which thresholds are tuned; [] without.
  splits: name -> rows whose first error is known.
  pools: name -> candidates, several a problem.
  counters: 'NAME/read/what' -> count of what was met in reading them.
  train: what is left to train on where validation was held out of it, else None.
  """

  validation: list[Trajectory]
  splits: dict[str, list[Trajectory]]
  pools: dict[str, list[Trajectory]]
  counters: dict[str, int]
  train: Mixture | None = None

  def judged(self) -> dict[str, list[Trajectory]]:
    """Everything that must not be trained on."""
    pools = {f'{name} (pool)': rows for name, rows in self.pools.items()}
    return {
      **({VALIDATION: self.validation} if self.validation else {}),
      **self.splits,
      **pools,
    }


def load_sets(config: ConfigDict) -> Sets:
  """Validation rows, evaluation splits and pools of the config.

  Raises:
    UserError: a source cannot be read or holds a row twice, or an evaluation set is
      called validation.
  """
  validation, counters = assemble.named_sets(config, config.data.validation)
  train = None
  if config.data.validation_share:
    train, held_out = assemble.training(config)
    validation = {VALIDATION: held_out.trajectories if held_out else []}
  splits, read = assemble.named_sets(config, config.data.evaluate)
  if VALIDATION in splits:
    raise UserError(
      'data.evaluate: a set is called validation, the name of the tuning split; '
      'give it another as NAME=path.'
    )
  rows = [t for held in validation.values() for t in held]
  if not rows and f'tuned:{VALIDATION}' in config.evaluate.threshold.split(','):
    raise UserError(
      f'evaluate.threshold={config.evaluate.threshold!r} needs a set to tune on; name '
      'one in data.validation, or take fixed:0.5.'
    )
  pools, more = assemble.pools(config)
  return Sets(rows, splits, pools, {**counters, **read, **more}, train)


def check_sets(config: ConfigDict, sets: Sets) -> None:
  """Reads the truths of all sets once, before the time that training takes.

  Raises:
    UserError: a set carries no truth of the name, or candidates no verdict, or
      scores of the scorer's name are there already.
  """
  for name, rows in sets.judged().items():
    if any(config.scorer_name in t.scores for t in rows):
      raise UserError(
        f'{name}: its rows carry scores called {config.scorer_name!r} already, which '
        'are never rewritten; give this scorer another scorer_name.'
      )
  truth, checker = config.data.truth, config.data.checker
  named = {**({VALIDATION: sets.validation} if sets.validation else {}), **sets.splits}
  for name, rows in named.items():
    solutions.read_split(name, rows, truth, checker)
  for name, rows in sets.pools.items():
    candidates.read_pool(name, rows, checker)


def options(config: ConfigDict, spec: ScorerSpec | None) -> Options:
  """How the config asks for metrics."""
  section = config.evaluate
  policies = tuple(p.strip() for p in section.threshold.split(',') if p.strip())
  return Options(
    policies=policies,
    reduction=pages.reduction(config, spec),
    ties=tuple(t.strip() for t in section.ties.split(',')),
    n_resamples=section.resamples,
    n_draws=section.subsets,
    unscored='wrong',
    seed=section.seed,
    contributions=section.replicates,
  )


def digests(config: ConfigDict, sets: Sets) -> dict[str, str]:
  """Set or pool -> which rows it holds (`same_rows.digest`), without validation."""
  return {
    name: same_rows.digest(rows, config.data.truth, config.data.checker)
    for name, rows in sets.judged().items()
    if name != VALIDATION
  }


def validation(config: ConfigDict, scorer: Scorer, sets: Sets) -> dict[str, float]:
  """F1 and AUROC on validation while training, see `selection.on_validation`."""
  rows, _ = add_scores(scorer, sets.validation, config.scorer_name, quiet=True)
  found = _selection(config, rows, 0)
  names = {'validation/f1': selection.F1, 'validation/auroc': selection.AUROC}
  values = {
    short: found.get(f'{VALIDATION}/{long}', {}).get('value')
    for short, long in names.items()
  }
  return {name: v for name, v in values.items() if v is not None}


def _selection(
  config: ConfigDict, rows: Sequence[Trajectory], n_resamples: int
) -> dict[str, dict[str, Any]]:
  return selection.on_validation(
    VALIDATION,
    rows,
    scorer=config.scorer_name,
    truth=config.data.truth,
    verdict=config.data.checker,
    n_resamples=n_resamples,
  )


def conclude(
  command: Command,
  work: files.Workdir,
  job: str,
  scorer: Scorer,
  sets: Sets,
  *,
  examples: Sequence[Trajectory],
  counters: Mapping[str, int],
  curve: Sequence[Mapping[str, Any]],
  about: dict[str, Any],
  started: float,
) -> None:
  """Scores all sets, measures, and writes samples, results.json and report.html."""
  config = command.config
  name = config.scorer_name
  unusable: Counter[str] = Counter()

  def scored(where: str, rows: list[Trajectory]) -> list[Trajectory]:
    out, missing = add_scores(scorer, rows, name, quiet=True)
    unusable.update({f'{where}/not_scored/{k}': n for k, n in missing.items()})
    return out

  splits = {s: scored(s, rows) for s, rows in sets.splits.items()}
  pools = {p: scored(f'{p}/best_of_n', rows) for p, rows in sets.pools.items()}
  tuning = {VALIDATION: scored(VALIDATION, sets.validation)} if sets.validation else {}
  if splits or pools:
    found = suite.evaluate(
      {**tuning, **splits},
      pools,
      scorer=name,
      truth=config.data.truth,
      verdict=config.data.checker,
      tune_split=VALIDATION if tuning else '',
      train=examples,
      train_truth=config.data.label,
      options=options(config, scorer.spec),
    )
  else:
    found = EvaluationResult(
      {}, {}, {}, [], {'reliability': [], 'best_of_n': []}, [], [], {}
    )
  for path, metric in (
    _selection(config, tuning[VALIDATION], config.evaluate.resamples) if tuning else {}
  ).items():
    found.metrics[path] = metric
    found.judged_by[path] = config.data.truth
  write(
    command, work, job, scorer.spec, found, {**tuning, **splits},
    rows=digests(config, sets), counters={**counters, **sets.counters, **unusable},
    curve=curve, about=about, started=started,
  )  # fmt: skip


def write(
  command: Command,
  work: files.Workdir,
  job: str,
  spec: ScorerSpec | PolicySpec | None,
  found: EvaluationResult,
  shown: Mapping[str, Sequence[Trajectory]],
  *,
  rows: Mapping[str, str],
  counters: Mapping[str, int],
  curve: Sequence[Mapping[str, Any]],
  about: dict[str, Any],
  started: float,
  more: Mapping[str, Any] | None = None,
) -> None:
  """Writes samples, the report, and last of all results.json with `more` sections and
  what says which rows were measured (`digests`)."""
  for name, held in shown.items():
    work.write_samples(name, _sample_rows(name, held, found))
  every = {**counters, **found.counters}
  if command.config.evaluate.replicates:
    replicates.save(work / replicates.FILE, found.estimates)
  about = {**about, 'wall_seconds': round(time.monotonic() - started, 1)}
  if command.config.report:
    page = pages.build(command, job, spec, found, shown, every, curve, about)
    report.write(work / 'report.html', page)
  work.write_results(
    job, found.metrics, every, about, judged_by=found.judged_by,
    warnings=found.warnings, rows=dict(rows), **(more or {}),
  )  # fmt: skip
  for line in pages.summary_lines(found, pages.reduction(command.config, spec)):
    writer.say(line)
  writer.say(work.where())


def _sample_rows(
  split: str, rows: Sequence[Trajectory], found: EvaluationResult
) -> Iterator[dict[str, Any]]:
  judged = {s['id']: s for s in found.samples if s.get('split') == split and 'id' in s}
  for t in rows:
    extra = {k: v for k, v in judged.get(t.id, {}).items() if k not in ('id', 'split')}
    yield {**records.to_dict(t), **({'evaluation': extra} if extra else {})}


@contextlib.contextmanager
def profiled(steps: str, work: files.Workdir) -> Iterator[Any]:
  """Hands out `at(step)`, which traces the steps START:STOP into WORKDIR/profile."""
  import jax

  try:
    start, stop = (int(s) for s in steps.split(':')) if steps else (-1, -1)
  except ValueError as e:
    raise UserError(f'profile={steps!r}: give START:STOP, for example 10:15.') from e
  running = False

  def at(step: int) -> None:
    nonlocal running
    if step == start:
      jax.profiler.start_trace(str(work / 'profile'))
      running = True
    elif step == stop and running:
      jax.profiler.stop_trace()
      running = False

  yield at
  if running:
    jax.profiler.stop_trace()
