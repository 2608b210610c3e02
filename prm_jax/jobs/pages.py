"""From an evaluation's result to the page and the closing lines of a job."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from prm_jax.data import sources
from prm_jax.evaluation import baselines, benchmarks
from prm_jax.evaluation.report import LineChart, Reliability, ReportData, sample
from prm_jax.evaluation.result import EvaluationResult
from prm_jax.jobs.configuration import Command
from prm_jax.models import lm, weights
from prm_jax.records import Trajectory
from prm_jax.specs import PolicySpec, ScorerSpec

NOT_REPORTED = ('mean', 'validation')


def build(
  command: Command,
  job: str,
  spec: ScorerSpec | PolicySpec | None,
  found: EvaluationResult,
  shown: Mapping[str, Sequence[Trajectory]],
  counters: Mapping[str, int],
  curve: Sequence[Mapping[str, Any]],
  about: Mapping[str, Any],
) -> ReportData:
  """Everything on report.html."""
  config = command.config
  named = f'{config.data.train},{config.data.evaluate},{config.data.pools}'
  world = any(f'{w}:' in named for w in sources.WORLDS)
  return ReportData(
    title=f'{command.workdir.rstrip("/").rsplit("/", 1)[-1]}: {job}',
    job=job,
    command=command.line,
    summary=_summary(config, spec),
    highlights=_highlights(config, spec),
    headline=headline(found, reduction(config, spec)),
    metrics=found.metrics,
    judged_by=found.judged_by,
    tables=found.tables,
    learning_curves=_curves(curve),
    reliability=[c for c in found.curves['reliability'] if isinstance(c, Reliability)],
    best_of_n=[c for c in found.curves['best_of_n'] if isinstance(c, LineChart)],
    counters=counters,
    warnings=found.warnings,
    samples=_samples(config, found, shown),
    truth=config.data.truth,
    provenance=about,
    embedded_world=world,
  )


def _summary(config: Any, spec: ScorerSpec | PolicySpec | None) -> str:
  if config.evaluate.suite:
    return (
      'Step scores of a process reward model, measured on public benchmarks. Their '
      'definitions, with versions, stand above the tables.'
    )
  if spec is None:
    return (
      'Step scores that were saved earlier, measured as they are; no model was run.'
    )
  if isinstance(spec, PolicySpec):
    return (
      f'A policy was trained on the solutions of {config.data.train}; how well it '
      'predicts others, token by token, is measured here, and how often it is right '
      'by rollouts.'
    )
  judged = f'scores are judged against {config.data.truth}.'
  if not spec.objective:
    return f'What a process reward model was trained on is not recorded; its {judged}'
  learned = f'label set {spec.label}' if spec.label else 'verdicts'
  return (
    f'A process reward model was trained with objective {spec.objective} on {learned}; '
    f'its {judged}'
  )


def _highlights(config: Any, spec: ScorerSpec | PolicySpec | None) -> dict[str, object]:
  pools_only = config.data.pools and not config.data.evaluate
  truth = config.data.checker if pools_only else config.data.truth
  out: dict[str, object] = {'judged against': truth, 'seed': config.seed}
  if isinstance(spec, PolicySpec):
    n = weights.count(weights.declare(spec.model, lm.HEAD))
    out = {
      'objective': config.objective.name,
      'trained on': f'{config.policy.train_on} solutions of {config.data.train}',
      'parameters': f'{n:,}',
      'seed': config.seed,
    }
  elif spec is not None:
    n = weights.count(weights.declare(spec.model, spec.head))
    trained = {
      'objective': spec.objective,
      'trained on': f'{spec.label or "verdicts"} of {config.data.train}',
    }
    out = {
      **(trained if spec.objective else {}),
      'reduction': spec.reduction,
      'parameters': f'{n:,}',
      **out,
    }
  if config.job == 'train':
    out['steps x batch'] = f'{config.train.steps} x {config.train.batch_size}'
  return out


def _curves(curve: Sequence[Mapping[str, Any]]) -> list[LineChart]:
  def series(name: str) -> list[tuple[float, float]]:
    return [(r['step'], r[name]) for r in curve if r.get(name) is not None]

  charts = [
    LineChart('Training loss', {'train/loss': series('train/loss')}, y_label='loss')
  ]
  validation = {n: series(n) for n in ('validation/f1', 'validation/auroc')}
  validation = {n: s for n, s in validation.items() if s}
  if validation:
    charts.append(
      LineChart(
        'On validation while training',
        validation,
        note='The threshold of F1 is tuned on these very rows: a curve to compare '
        'steps with, not a result.',
      )
    )
  for name, title in (
    ('validation/loss', 'Loss on validation, a token'),
    ('validation/token_accuracy', 'Tokens predicted on validation'),
  ):
    charts.append(LineChart(title, {name: series(name)}, y_label=name.split('/')[1]))
  return [c for c in charts if any(c.series.values())]


def _samples(
  config: Any, found: EvaluationResult, shown: Mapping[str, Sequence[Trajectory]]
) -> list[Any]:
  """Evenly chosen solutions of every split that was reported."""
  judged: dict[str, dict[str, dict[str, Any]]] = {}
  for row in found.samples:
    if row['kind'] == 'solution':
      judged.setdefault(row['split'], {})[row['id']] = row
  room = config.evaluate.max_samples // max(len(judged), 1)
  out = []
  for split, rows in judged.items():
    held = [t for t in shown[split] if t.id in rows and config.scorer_name in t.scores]
    every = max(1, -(-len(held) // max(room, 1)))
    benchmark, part = set_of(split)
    out += [
      sample(
        t,
        split=part,
        benchmark=benchmark,
        scorer=config.scorer_name,
        label=config.data.truth,
        threshold=rows[t.id]['threshold'],
        checker=config.data.checker,
      )
      for t in held[::every]
    ]
  return out


def set_of(split: str) -> tuple[str, str]:
  """(benchmark, set) of a split's name; the benchmark is '' where it is none's."""
  head, _, rest = split.partition('.')
  return (head, rest or head) if head in benchmarks.BENCHMARKS else ('', split)


def reduction(config: Any, spec: ScorerSpec | PolicySpec | None) -> str:
  """The reduction chosen beforehand: that of the config, else the scorer's own."""
  own = spec.reduction if isinstance(spec, ScorerSpec) else 'min'
  return config.evaluate.reduction or own


def headline(found: EvaluationResult, chosen: str) -> list[tuple[str, str]]:
  """(metric path, sentence) of the few results that matter, split by split; of
  choosing among candidates, one a scorer, by the reduction `chosen`."""
  splits = dict.fromkeys(path.split('/')[0] for path in found.metrics)
  reported = [s for s in splits if s not in NOT_REPORTED] or list(splits)
  out = []
  for split in reported:
    where = f'On {split.replace("_", " ")}'
    f1 = _first(found, rf'{re.escape(split)}/process_bench/f1@[^\[]*')
    if f1:
      rival = found.metrics.get(f'{f1}[{baselines.POSITION_LENGTH}]', {}).get('value')
      beside = '' if rival is None else f'position and length alone get {rival:.3f}'
      out.append((f1, f'{where}, {beside or "no baseline was fitted"}.'))
    gain = rf'{re.escape(split)}/best_of_n/prm_{chosen}-majority@\d+(\[.*\])?'
    largest = _first(found, gain)
    if not largest:
      continue
    n = _size(largest)
    majority, oracle = (
      found.metrics.get(f'{split}/best_of_n/{name}@{n}', {}).get('value')
      for name in ('majority', 'oracle')
    )
    if majority is not None and oracle is not None:
      where += f', a majority solves {majority:.1%} and an oracle {oracle:.1%}'
    each = (p for p in found.metrics if re.fullmatch(gain, p))
    out += [(path, f'{where}.') for path in each if _size(path) == n]
  return out


def _first(found: EvaluationResult, pattern: str) -> str:
  """The matching path with the largest N, '' if there is none."""
  paths = [p for p in found.metrics if re.fullmatch(pattern, p)]
  return max(paths, key=_size, default='')


def _size(path: str) -> int:
  """N of a path '...@N' or '...@N[SCORER]', 0 where there is none."""
  at = re.search(r'@(\d+)(?:\[|$)', path)
  return int(at[1]) if at else 0


def summary_lines(found: EvaluationResult, chosen: str) -> list[str]:
  """The headline as lines of text, with intervals."""
  lines = []
  for path, _ in headline(found, chosen):
    m = found.metrics[path]
    if m['value'] is None:
      lines.append(f'{path}: undefined')
    elif m['low'] is None:
      lines.append(f'{path}: {m["value"]:.3f}')
    else:
      lines.append(f'{path}: {m["value"]:.3f} [{m["low"]:.3f}, {m["high"]:.3f}]')
  return [*lines, *(f'warning: {w}' for w in found.warnings)]
