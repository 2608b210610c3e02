"""Calibrate: fit maps from scores to probabilities, store one, report before and after.

A mode of evaluate. Maps are fitted on `data.validation` and reported on
`data.evaluate`; with `data.pools`, calibrated scores also say how many samples a
problem needs.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from prm_jax import exports, files, jsonl, writer
from prm_jax.calibration_maps import KINDS, CalibrationMap
from prm_jax.errors import UserError
from prm_jax.evaluation import (
  adaptive_report,
  calibration,
  calibration_fits,
  calibration_report,
  report,
)
from prm_jax.evaluation.adaptive_report import Rule
from prm_jax.evaluation.pools import read_pool
from prm_jax.evaluation.report import LineChart, Reliability, ReportData
from prm_jax.evaluation.result import Collector, EvaluationResult
from prm_jax.evaluation.splits import (
  Scores,
  Split,
  Steps,
  check_disjoint,
  read_scores,
  read_split,
  read_steps,
)
from prm_jax.inference.scorer import Scorer
from prm_jax.interop.public import EXPORTED, OWN
from prm_jax.jobs import measure, score
from prm_jax.jobs.configuration import Command
from prm_jax.jobs.score import add_scores
from prm_jax.objectives.pinball import check_levels
from prm_jax.records import Trajectory
from prm_jax.search import effort, finals
from prm_jax.specs import ScorerSpec

QUANTILES = ('quantile_low', 'quantile_high')
OUTCOME = 'outcome'
WEIGHTED = 'weighted'


def run(command: Command, work: files.Workdir, started: float) -> None:
  """Fits on validation, stores `evaluate.calibrate`'s map, reports on the other sets.

  The map goes to WORKDIR/calibration.json and, of our own scorers and their exports,
  beside the scorer.

  Raises:
    UserError: scorer, validation or evaluation sets are missing or share problems, or
      the scores cannot be calibrated.
  """
  config = command.config
  chosen = config.evaluate.calibrate
  if not config.scorer or config.scorer_calibrated:
    raise UserError(
      'calibrating needs --config.scorer=WORKDIR, with scorer_calibrated left off.'
    )
  scorer, about = score.load(config, config.data.cache_dir or str(work / 'cache'))
  levels = _levels(config, scorer.spec) if _gives_quantiles(scorer.spec) else ()
  sets = measure.load_sets(config)
  if not sets.validation or not sets.splits:
    raise UserError(
      'calibrating needs rows to fit on, in data.validation, and others to report on, '
      'in data.evaluate.'
    )
  measure.check_sets(config, sets, scorer.kind)
  fitted_on = read_steps(measure.VALIDATION, sets.validation)
  for name, rows in (*sets.splits.items(), *sets.pools.items()):
    check_disjoint(fitted_on, read_steps(name, rows))
  out, options = Collector(), measure.options(config, scorer.spec)
  out.counters.update(sets.counters)
  _, tune, tune_scores = _read(command, scorer, measure.VALIDATION, sets.validation)
  maps = {
    kind: dataclasses.replace(
      calibration_fits.fit(kind, tune, tune_scores), model_hash=about['digest']
    )
    for kind in KINDS
  }
  level, by = 0.0, 0.0
  if _gives_quantiles(scorer.spec):
    level = levels[-1] - levels[0]
    low, high = _quantiles(command, scorer, measure.VALIDATION, sets.validation)
    by = calibration_fits.margin(tune, low, high, level)
    maps[chosen] = dataclasses.replace(maps[chosen], margin=by)
  held = {
    name: _read(command, scorer, name, rows) for name, rows in sets.splits.items()
  }
  use = calibration.truth_steps(tune, tune_scores)
  base_rate = float(tune.labels[use].mean())
  for name, (rows, split, scores) in held.items():
    calibration_report.measure(
      out, split, rows, scores, maps, chosen, base_rate, options
    )
    if _gives_quantiles(scorer.spec):
      low, high = _quantiles(command, scorer, name, sets.splits[name])
      calibration_report.quantiles(
        out, split, low, high, by, measure.VALIDATION, level, options
      )
    writer.say(f'{name}: {int(calibration.truth_steps(split, scores).sum())} steps')
  stored = [_store(work.path, maps[chosen])]
  if about['adapter'] in (OWN, EXPORTED):
    try:
      stored.append(_store(about['folder'], maps[chosen]))
    except UserError as e:  # a folder of others: what was measured is not lost
      out.warnings.append(f'the map is in the workdir only: {e}')
  else:
    out.warnings.append(
      f'{about["source"]} is no scorer of ours: its map is in the workdir only.'
    )
  writer.say(f'stored: {", ".join(stored)}')
  if sets.pools:
    _adaptive(command, scorer, tune, tune_scores, sets.pools, out)
  _write(command, work, out.result(), about, maps[chosen], started)


def _store(folder: str | os.PathLike[str], fitted: CalibrationMap) -> str:
  """Writes the map into a folder; says where, and what it replaces."""
  file = jsonl.place(folder) / exports.CALIBRATION
  note = ''
  if file.exists():
    try:
      note = f' (replaces {exports.load_calibration(folder).kind})'
    except UserError:
      note = ' (replaces a damaged one)'
  exports.save_calibration(folder, fitted)
  return f'{file}: {fitted.kind}{note}'


def _gives_quantiles(spec: ScorerSpec) -> bool:
  return spec.step_value == 'quantile'


def _levels(config: ConfigDict, spec: ScorerSpec) -> tuple[float, ...]:
  """The levels that a quantile head was trained for.

  Raises:
    UserError: `objective.levels` names others, or none are known.
  """
  given = config.objective.levels
  if not (spec.levels or given):
    raise UserError(
      f'{config.scorer}: its {exports.SPEC} does not say for which levels its '
      'quantiles were trained; give the objective.levels of that run, for example '
      "--config.objective.levels='(0.1, 0.5, 0.9)'."
    )
  levels = check_levels(given or spec.levels, spec.head.n_outputs)
  if spec.levels and levels != spec.levels:
    raise UserError(
      f'objective.levels={levels}: the quantiles of {config.scorer} were trained for '
      f'{spec.levels}; leave the key out.'
    )
  return levels


def _read(
  command: Command, scorer: Scorer, name: str, rows: Sequence[Trajectory]
) -> tuple[list[Trajectory], Split, Scores]:
  config = command.config
  scored, unusable = add_scores(scorer, rows, config.scorer_name, quiet=True)
  for reason, n in unusable.items():
    writer.say(f'{name}: {n} not scored ({reason})')
  split = read_split(name, scored, config.data.truth, config.data.checker)
  return scored, split, read_scores(split, scored, config.scorer_name, 'wrong')


def _quantiles(
  command: Command, scorer: Scorer, name: str, rows: Sequence[Trajectory]
) -> tuple[Scores, Scores]:
  """Scores read as the lowest and as the highest quantile."""
  low, high = (_read(command, scorer.reading(q), name, rows)[2] for q in QUANTILES)
  return low, high


def _adaptive(
  command: Command,
  scorer: Scorer,
  tune: Split,
  tune_scores: Scores,
  pools: dict[str, list[Trajectory]],
  out: Collector,
) -> None:
  """How many samples each problem of a pool needs, by calibrated scores.

  Scores of first steps and of whole solutions are calibrated against the outcome of
  the validation rows; of quantile heads the lowest quantile of the first step is read
  as it is. A candidate that is not scored has no chance and no vote, and is counted.
  """
  config, section = command.config, command.config.adaptive
  options = measure.options(config, scorer.spec)
  reduction = options.reduction
  whole = tune_scores.reduced(tune, reduction)
  try:
    first_map = _outcome_map(tune, _first(tune, tune_scores), tune_scores)
    whole_map = _outcome_map(tune, whole, tune_scores)
  except UserError as e:
    out.warnings.append(f'no samples as needed, scores say too little of outcomes: {e}')
    return
  for name, rows in pools.items():
    scored, _ = add_scores(scorer, rows, config.scorer_name, quiet=True)
    pool = read_pool(name, scored, config.data.checker)
    scores = read_scores(pool.steps, scored, config.scorer_name, 'wrong')
    out.count(
      f'{name}/{adaptive_report.FAMILY}', {'unscored': int((~scores.scored).sum())}
    )
    first = _chances(first_map, _first(pool.steps, scores))
    if _gives_quantiles(scorer.spec):
      low, _ = add_scores(
        scorer.reading(QUANTILES[0]), rows, config.scorer_name, quiet=True
      )
      lowest = read_scores(pool.steps, low, config.scorer_name, 'wrong')
      first = np.nan_to_num(_first(pool.steps, lowest))
    reduced = scores.reduced(pool.steps, reduction)
    chances = _chances(whole_map, reduced)
    rules = []
    for confidence in section.confidence:
      for family, p in (('first_step', first), ('first_solution', chances)):
        needed = [effort.samples_needed(x, confidence) for x in p.tolist()]
        rules.append(Rule(family, confidence, needed=np.array(needed)))
      rules.append(Rule('sequence', confidence, chances=chances))
    weights = finals.vote_weights(reduced, scores.kind)
    choosers = {'majority': np.ones(len(chances)), WEIGHTED: weights}
    adaptive_report.measure(
      out, pool, choosers, rules, section.stable, section.orders, options
    )


def _first(steps: Steps, scores: Scores) -> np.ndarray:
  """[R] score of the first step; NaN without steps or scores."""
  out = np.full(steps.n_rows, np.nan)
  held = np.flatnonzero(scores.scored & (steps.counts > 0))
  out[held] = scores.values[steps.offsets[held]]
  return out


def _chances(fitted: CalibrationMap, scores: np.ndarray) -> np.ndarray:
  """[R] probabilities; 0 where there is no score."""
  known = np.isfinite(scores)
  out = np.zeros(len(scores))
  out[known] = fitted.apply(scores[known])
  return out


def _outcome_map(tune: Split, values: np.ndarray, scores: Scores) -> CalibrationMap:
  """Platt's map from one score a solution to the chance that its answer is right."""
  use = tune.judged & scores.scored & np.isfinite(values)
  as_steps = dataclasses.replace(
    tune,
    offsets=np.arange(tune.n_rows + 1),
    labels=tune.outcome,
    labelled=use,
    truth=tune.verdict,
    truth_kind=OUTCOME,
  )
  one = dataclasses.replace(scores, values=np.where(use, values, 0.0))
  return calibration_fits.fit('platt', as_steps, one, use)


def _write(
  command: Command,
  work: files.Workdir,
  found: EvaluationResult,
  about_scorer: dict[str, Any],
  stored: CalibrationMap,
  started: float,
) -> None:
  config = command.config
  about = files.provenance(
    command.line,
    config.seed,
    model_hash=about_scorer['digest'],
    scorer={'name': config.scorer_name, **about_scorer},
    wall_seconds=round(time.monotonic() - started, 1),
  )
  fitted = {k: v for k, v in stored.to_dict().items() if k != 'problem_ids'}
  fitted['problems'] = len(stored.problem_ids)
  if config.report:
    page = ReportData(
      title=f'{command.workdir.rstrip("/").rsplit("/", 1)[-1]}: calibration',
      job='evaluate',
      command=command.line,
      summary='Step scores turned into probabilities by maps fitted on '
      f'{stored.fitted_on}, and held against {stored.truth} on problems not fitted on.',
      highlights={
        'stored': f'{stored.kind}, fitted on {stored.fitted_on}',
        'problems fitted on': len(stored.problem_ids),
        'data hash': stored.data_hash,
        'judged against': stored.truth,
        'seed': config.seed,
      },
      headline=[(path, '') for path in _headline(found, stored)],
      metrics=found.metrics,
      judged_by=found.judged_by,
      definitions=_definitions(found),
      tables=found.tables,
      reliability=[
        c for c in found.curves['reliability'] if isinstance(c, Reliability)
      ],
      best_of_n=[c for c in found.curves['best_of_n'] if isinstance(c, LineChart)],
      counters=found.counters,
      warnings=found.warnings,
      truth=stored.truth,
      provenance=about,
      embedded_world='world:' in config.data.evaluate,
    )
    report.write(work / 'report.html', page)
  work.write_results(
    'evaluate', found.metrics, found.counters, about,
    judged_by=found.judged_by, warnings=found.warnings, calibration=fitted,
  )  # fmt: skip
  for path in _headline(found, stored):
    writer.say(f'{path}: {_shown(found.metrics[path])}')
  for warning in found.warnings:
    writer.say(f'warning: {warning}')
  writer.say(work.where())


def _definitions(found: EvaluationResult) -> dict[str, str]:
  out = {}
  told = {
    'calibration': calibration_report.DEFINITIONS,
    adaptive_report.FAMILY: adaptive_report.DEFINITIONS,
  }
  for path in found.metrics:
    _, family, name = path.split('/', 2)
    name = name.partition('@')[0]
    for binned in ('ece_over', 'ece_perfect', 'ece_excess', 'ece'):
      if name.startswith(f'{binned}_') and name not in told['calibration']:
        name = binned
        break
    if name in told.get(family, {}):
      out[path] = told[family][name]
  return out


def _headline(found: EvaluationResult, stored: CalibrationMap) -> list[str]:
  """What was asked: distance to a perfect predictor, skill, ranking, samples."""
  at = f'{stored.kind}:{stored.fitted_on}'
  splits = dict.fromkeys(path.split('/')[0] for path in found.metrics)
  names = [
    'calibration/ece_width10', 'calibration/ece_perfect_width10',
    'calibration/ece_excess_width10', 'calibration/brier_skill',
    'calibration/brier_gain', f'steps/auroc-{calibration_report.RAW}',
  ]  # fmt: skip
  paths = [f'{s}/{n}@{at}' for s in splits for n in names]
  covered = (calibration_report.RAW, f'margin:{stored.fitted_on}')
  paths += [f'{s}/calibration/coverage@{c}' for s in splits for c in covered]
  gains = f'/{adaptive_report.FAMILY}/gain@'
  wanted = [p for p in found.metrics if gains in p and p.endswith(f'[{WEIGHTED}]')]
  return [p for p in (*paths, *wanted) if p in found.metrics]


def _shown(metric: dict[str, Any]) -> str:
  if metric['value'] is None:
    return 'undefined'
  if metric['low'] is None:
    return f'{metric["value"]:.4f}'
  return f'{metric["value"]:.4f} [{metric["low"]:.4f}, {metric["high"]:.4f}]'
