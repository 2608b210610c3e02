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


def pool_name(name: str) -> str:
  """What a pool is called beside splits, which may have its name."""
  return f'{name} (pool)'


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
    pools = {pool_name(name): rows for name, rows in self.pools.items()}
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


def check_sets(config: ConfigDict, sets: Sets, kind: str) -> None:
  """Reads the truths of all sets once, before the time that training takes.

  Args:
    config, sets: what is evaluated.
    kind: of the scores that will be there.

  Raises:
    UserError: a set carries no truth of the name, or candidates no verdict, or
      scores of the scorer's name are there already, or a threshold or a calibration
      would be fitted on problems that are reported.
  """
  for name, rows in sets.judged().items():
    if any(config.scorer_name in t.scores for t in rows):
      raise UserError(
        f'{name}: its rows carry scores called {config.scorer_name!r} already, which '
        'are never rewritten; give this scorer another scorer_name.'
      )
  truth, checker = config.data.truth, config.data.checker
  named = {**({VALIDATION: sets.validation} if sets.validation else {}), **sets.splits}
  held = {n: solutions.read_split(n, t, truth, checker) for n, t in named.items()}
  # Scores that are no probabilities are calibrated on validation.
  fitted = not _policies(config) or f'tuned:{VALIDATION}' in _policies(config)
  fitted |= kind != 'probability'
  for name in sets.splits if sets.validation and fitted else ():
    solutions.check_disjoint(held[VALIDATION], held[name])
  for name, rows in sets.pools.items():
    candidates.read_pool(name, rows, checker)


def options(config: ConfigDict, spec: ScorerSpec | None) -> Options:
  """How the config asks for metrics."""
  section = config.evaluate
  return Options(
    policies=_policies(config),
    reduction=pages.reduction(config, spec),
    ties=tuple(t.strip() for t in section.ties.split(',')),
    n_resamples=section.resamples,
    n_draws=section.subsets,
    unscored='wrong',
    seed=section.seed,
    contributions=section.replicates,
  )


def _policies(config: ConfigDict) -> tuple[str, ...]:
  return tuple(p.strip() for p in config.evaluate.threshold.split(',') if p.strip())


def is_scored(t: Trajectory, scorer: str) -> bool:
  """Whether every step has a score."""
  return scorer in t.scores and None not in t.scores[scorer].values


def not_scored(
  name: str,
  rows: Sequence[Trajectory],
  scorer: str,
  unusable: Mapping[str, int],
  meaning: str,
) -> tuple[str, bool]:
  """What a reader must know of the rows of a set that lack scores.

  Args:
    name: of the set.
    rows: its rows, with what scores they have.
    scorer: key of `scores`.
    unusable: reason -> rows that the scorer could not score for it.
    meaning: what becomes of such rows, to follow "and".

  Returns:
    (a sentence, '' if all rows have scores; whether none has).
  """
  lacking = [t for t in rows if not is_scored(t, scorer)]
  if not lacking:
    return '', False
  reasons = Counter(unusable)
  reasons['cut_off'] += sum(scorer in t.scores for t in lacking)
  # Saved scores do not say why a row has none.
  reasons['without_scores'] = len(lacking) - reasons.total()
  why = ', '.join(f'{n} {reason}' for reason, n in sorted(reasons.items()) if n)
  if len(lacking) == len(rows):
    return f'{name}: none of {len(rows)} rows could be scored ({why}); left out.', True
  some = f'{len(lacking)} of {len(rows)} rows could not be scored ({why})'
  return f'{name}: {some} and {meaning}.', False


def digests(config: ConfigDict, sets: Sets) -> dict[str, str]:
  """Set or pool -> which rows it holds (`same_rows.digest`), without validation."""
  return {
    name: same_rows.digest(rows, config.data.truth, config.data.checker)
    for name, rows in sets.judged().items()
    if name != VALIDATION
  }


def validation(config: ConfigDict, scorer: Scorer, sets: Sets) -> dict[str, float]:
  """F1 and AUROC on validation while training, see `selection.on_validation`.

  Raises:
    UserError: no row could be scored.
  """
  name = config.scorer_name
  rows, unusable = add_scores(scorer, sets.validation, name, quiet=True)
  said, none = not_scored(VALIDATION, rows, name, unusable, '')
  if none:
    raise UserError(
      f'{said.removesuffix("; left out.")}, so nothing can be chosen on them; name '
      'others in data.validation, or train.validate_every=0 and train.use=last.'
    )
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
  """Scores all sets, measures, and writes samples, results.json and report.html.

  A set of which no row can be scored is left out, with a warning: what was trained is
  measured on the others.

  Raises:
    UserError: an evaluation that is left with nothing.
  """
  config = command.config
  name = config.scorer_name
  unusable: Counter[str] = Counter()
  warnings: list[str] = []

  def scored(
    held: Mapping[str, list[Trajectory]], meaning: str, family: str = ''
  ) -> dict[str, list[Trajectory]]:
    """Sets with scores, without those of which no row could be scored."""
    out = {}
    for s, rows in held.items():
      with_scores, missing = add_scores(scorer, rows, name, quiet=True)
      unusable.update({f'{s}{family}/not_scored/{k}': n for k, n in missing.items()})
      shown = pool_name(s) if family else s
      said, none = not_scored(shown, with_scores, name, missing, meaning)
      warnings.extend([said] if said else [])
      if none:
        unusable[f'{s}{family}/left_out_without_scores'] = len(rows)
      else:
        out[s] = with_scores
    return out

  splits = scored(sets.splits, 'count as wrong')
  pools = scored(sets.pools, 'are chosen last', '/best_of_n')
  tuning = {VALIDATION: sets.validation} if sets.validation else {}
  tuning = scored(tuning, 'are left out of tuning')
  how = options(config, scorer.spec)
  if sets.validation and not tuning:
    kept = tuple(p for p in how.policies if p != f'tuned:{VALIDATION}')
    how = dataclasses.replace(how, policies=kept)
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
      options=how,
    )
  elif job == 'evaluate':
    raise UserError(
      f'nothing could be scored. {" ".join(warnings)} Take a scorer that has room for '
      'them.'
    )
  else:
    found = EvaluationResult(
      {}, {}, {}, [], {'reliability': [], 'best_of_n': []}, [], [], {}
    )
  found.warnings[:0] = warnings
  for path, metric in (
    _selection(config, tuning[VALIDATION], config.evaluate.resamples) if tuning else {}
  ).items():
    found.metrics[path] = metric
    found.judged_by[path] = config.data.truth
  write(
    command, work, job, scorer.spec, found, {**tuning, **splits},
    rows=digests(config, dataclasses.replace(sets, splits=splits, pools=pools)),
    counters={**counters, **sets.counters, **unusable},
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
