"""From an evaluation's result to the page and the closing lines of a job."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from prm_jax.evaluation.report import LineChart, ReportData, sample
from prm_jax.evaluation.result import EvaluationResult
from prm_jax.jobs.configuration import Command
from prm_jax.models import weights
from prm_jax.records import Trajectory
from prm_jax.specs import ScorerSpec

HEADLINES = (
  (r'{s}/process_bench/f1@[^\[]*', 'finds the first wrong step'),
  (r'{s}/best_of_n/prm_\w+-majority@\d+', 'gain of choosing by score over voting'),
)
NOT_REPORTED = ('mean', 'validation')


def build(
  command: Command,
  job: str,
  spec: ScorerSpec | None,
  found: EvaluationResult,
  shown: Mapping[str, Sequence[Trajectory]],
  counters: Mapping[str, int],
  curve: Sequence[Mapping[str, Any]],
  about: Mapping[str, Any],
) -> ReportData:
  """Everything on report.html."""
  config = command.config
  world = 'world:' in f'{config.data.train},{config.data.evaluate},{config.data.pools}'
  return ReportData(
    title=f'{command.workdir.rstrip("/").rsplit("/", 1)[-1]}: {job}',
    job=job,
    command=command.line,
    summary=_summary(config, spec),
    highlights=_highlights(config, spec),
    headline=[(path, text) for path, text in headline(found)],
    metrics=found.metrics,
    judged_by=found.judged_by,
    tables=found.tables,
    learning_curves=_curves(curve),
    reliability=found.curves.get('reliability', ()),
    best_of_n=found.curves.get('best_of_n', ()),
    counters={k: v for k, v in counters.items() if v},
    warnings=found.warnings,
    samples=_samples(config, found, shown),
    truth=config.data.truth,
    provenance=about,
    embedded_world=world,
  )


def _summary(config: Any, spec: ScorerSpec | None) -> str:
  if spec is None:
    return 'Saved step scores of public reward models, measured on saved candidates.'
  return (
    f'A process reward model was trained with objective {spec.objective} on label '
    f'set {spec.label}; its scores are judged against {config.data.truth}.'
  )


def _highlights(config: Any, spec: ScorerSpec | None) -> dict[str, object]:
  out: dict[str, object] = {'judged against': config.data.truth, 'seed': config.seed}
  if spec is not None:
    n = weights.count(weights.declare(spec.model, spec.head))
    out = {
      'objective': spec.objective,
      'trained on': f'{spec.label} of {config.data.train}',
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
        note='The threshold of F1 is tuned on these very rows: a curve to compare steps '
        'with, not a result.',
      )
    )
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
    out += [
      sample(
        t,
        split=split,
        scorer=config.scorer_name,
        label=config.data.truth,
        threshold=rows[t.id]['threshold'],
        checker=config.data.checker,
      )
      for t in held[::every]
    ]
  return out


def headline(found: EvaluationResult) -> list[tuple[str, str]]:
  """(metric path, sentence) of the few results that matter, split by split."""
  splits = dict.fromkeys(path.split('/')[0] for path in found.metrics)
  reported = [s for s in splits if s not in NOT_REPORTED] or list(splits)
  out = []
  for split in reported:
    for pattern, text in HEADLINES:
      expression = re.compile(pattern.replace('{s}', re.escape(split)))
      paths = [p for p in found.metrics if expression.fullmatch(p)]
      if paths:
        path = _largest(paths) if 'best_of_n' in pattern else paths[0]
        out.append((path, f'{split}: {text}.'))
  return out


def _largest(paths: Sequence[str]) -> str:
  """The path with the largest N; of several selectors the first."""
  size = lambda p: int(p.rsplit('@', 1)[1])
  return max(paths, key=size)


def summary_lines(found: EvaluationResult) -> list[str]:
  """The headline as lines of text, with intervals."""
  lines = []
  for path, _ in headline(found):
    m = found.metrics[path]
    if m['value'] is None:
      lines.append(f'{path}: undefined')
    elif m['low'] is None:
      lines.append(f'{path}: {m["value"]:.3f}')
    else:
      lines.append(f'{path}: {m["value"]:.3f} [{m["low"]:.3f}, {m["high"]:.3f}]')
  return [*lines, *(f'warning: {w}' for w in found.warnings)]
