"""Audit: label algorithms against a reference value, the truth, and each other."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from prm_jax import files, jsonl, records, writer
from prm_jax.data import sources
from prm_jax.errors import UserError
from prm_jax.evaluation import label_audit, label_tables, report
from prm_jax.evaluation.report import LineChart, Reliability, ReportData
from prm_jax.evaluation.result import EvaluationResult
from prm_jax.jobs import assemble, stopping
from prm_jax.jobs.configuration import Command, flatten
from prm_jax.records import Trajectory
from prm_jax.worlds import truths

LABELLED = 'labelled'
_ITEM = re.compile(r'(?:(?P<name>[^=@]+)=)?(?P<path>[^@]+)(?:@(?P<label>.+))?')


@dataclasses.dataclass(frozen=True)
class Labelled:
  """A label set in a file, written [NAME=]PATH[@LABELSET].

  Attributes:
    name: what metrics call it.
    path: file or folder of records, or the workdir of a label run.
    label: label set; by default its family's name, NAME without its setting.
  """

  name: str
  path: str
  label: str


def run(command: Command) -> None:
  """Audits `audit.labelled` against `audit.reference`.

  Raises:
    UserError: a file or label set is missing, or see `label_audit.audit`.
  """
  config = command.config
  started = time.monotonic()
  asked = parse(config.audit.labelled)
  reference = parse_one(config.audit.reference, 'audit.reference', 'reference')
  with files.open_workdir(command.workdir, flatten(config)) as work:
    if work.read_json('results.json'):
      writer.say(f'{work.path}: this audit is complete; see report.html')
      return
    held = {
      path: load(path)
      for path in dict.fromkeys(item.path for item in (reference, *asked))
    }
    rows, judged = with_truth(config, held[reference.path])
    found = label_audit.audit(
      rows,
      {item.name: (held[item.path], item.label) for item in asked},
      label=reference.label,
      tau=config.audit.tau,
      truth=config.data.truth if judged else '',
      compare=[n.strip() for n in config.audit.compare.split(',') if n.strip()],
      n_resamples=config.evaluate.resamples,
      seed=config.evaluate.seed,
    )
    found.warnings.extend(shared_rollouts(reference, asked, held))
    metrics, tables = stopping.measure(
      {item.name: how(held[item.path], item.label) for item in asked},
      config.audit.tau,
      config.audit.streams,
      config.evaluate.seed,
    )
    found.metrics.update(metrics)
    found.tables.extend(tables)
    about = files.provenance(
      command.line, config.seed, data={p: digest(p) for p in held}
    )
    _write(command, work, found, about, started)


def parse(text: str) -> list[Labelled]:
  """The labelled files of 'NAME=PATH[@LABELSET], ...'.

  Raises:
    UserError: none is named, one has another form, or a name is given twice.
  """
  items = [s.strip() for s in text.split(',') if s.strip()]
  if not items:
    raise UserError(
      'audit.labelled names nothing; give NAME=PATH[@LABELSET], separated by commas.'
    )
  out = [parse_one(item, 'audit.labelled') for item in items]
  names = [item.name for item in out]
  for name in names:
    if names.count(name) > 1:
      raise UserError(f'audit.labelled: the name {name!r} is given twice.')
  return out


def parse_one(text: str, key: str, label: str = '') -> Labelled:
  """One of them; with a default `label` the name may be left out.

  Raises:
    UserError: it has another form.
  """
  found = _ITEM.fullmatch(text.strip())
  if found is None or not (found['name'] or label):
    form = 'PATH[@LABELSET]' if label else 'NAME=PATH[@LABELSET]'
    raise UserError(f'{key}={text.strip()!r}: it must have the form {form}.')
  name = found['name'] or label
  return Labelled(name, found['path'], found['label'] or label or name.split('.')[0])


def load(path: str) -> list[Trajectory]:
  """Records of a file, a folder of shards, or a label run's workdir.

  Raises:
    UserError: nothing readable is there.
  """
  rows = list(records.read(_folder(path)))
  if not rows:
    raise UserError(f'{path}: there are no solutions in it; name another file.')
  return rows


def _folder(path: str) -> str:
  here = sources.resolve(path)
  inside = os.path.join(here, LABELLED)
  return inside if os.path.isdir(inside) else here


def digest(path: str) -> str:
  """Hash of the files that `load` reads."""
  total = hashlib.sha256()
  for file in jsonl.expand(_folder(path), ('.jsonl', '.jsonl.gz')):
    total.update(file.read_bytes())
  return total.hexdigest()[:16]


def with_truth(
  config: ConfigDict, rows: Sequence[Trajectory]
) -> tuple[Sequence[Trajectory], bool]:
  """Rows with the truth about their steps, and whether there is any.

  Questions of the embedded world are judged by it where the rows carry no truth.
  """
  name = config.data.truth
  if not name or any(name in t.labels or name in t.first_error for t in rows):
    return rows, bool(name)
  world = assemble.world(config)
  out = []
  for t in rows:
    found = truths.judge(world, t.question, t.steps)
    if found is not None and name in ('on_track', 'valid'):
      held = truths.correctness(getattr(found, name))
      t = records.add(t, 'labels', name, held)
      t = records.add(t, 'first_error', name, found.first_error)
    out.append(t)
  return out, any(name in t.labels for t in out)


def shared_rollouts(
  reference: Labelled,
  asked: Sequence[Labelled],
  held: Mapping[str, Sequence[Trajectory]],
) -> list[str]:
  """Warnings: labels from the reference's own rollouts look better than they are."""
  seed = _seed(held[reference.path], reference.label)
  if seed is None:
    return []
  same = [i.name for i in asked if _seed(held[i.path], i.label) == seed]
  if not same:
    return []
  return [
    f'{", ".join(same)}: sampled with the same completer and seed ({seed[1]}) as the '
    'reference, so that rollouts may be shared; make the reference with another seed.'
  ]


def _seed(rows: Sequence[Trajectory], label: str) -> tuple[str, str] | None:
  """(completer, seed) of a label set, None if it does not say."""
  said = how(rows, label)
  sampling = said.get('sampling')
  seed = sampling.get('seed') if isinstance(sampling, dict) else None
  return None if seed is None else (str(said.get('completer')), str(seed))


def how(rows: Sequence[Trajectory], label: str) -> Mapping[str, Any]:
  """How a label set was made: what its first row says; {} if there is none."""
  return next((t.labels[label].how for t in rows if label in t.labels), {})


def _write(
  command: Command,
  work: files.Workdir,
  found: EvaluationResult,
  about: dict[str, Any],
  started: float,
) -> None:
  """Samples, the report, and last of all results.json."""
  config = command.config
  work.write_samples('audit', found.samples)
  about = {**about, 'wall_seconds': round(time.monotonic() - started, 1)}
  if config.report:
    page = ReportData(
      title=f'{command.workdir.rstrip("/").rsplit("/", 1)[-1]}: audit of labels',
      job='audit',
      command=command.line,
      summary='Step labels of several algorithms on the same solutions, held against '
      'a reference value of every prefix and against the truth about the steps.',
      highlights={
        'dead below': config.audit.tau,
        'solutions': found.counters['audit/solutions'],
        'reference': config.audit.reference,
        'truth': config.data.truth,
      },
      headline=[(path, '') for path in _headline(found)],
      metrics=found.metrics,
      judged_by=found.judged_by,
      definitions={
        **label_tables.definitions(list(found.metrics)),
        **stopping.definitions(found.metrics),
      },
      tables=found.tables,
      reliability=[
        c for c in found.curves['reliability'] if isinstance(c, Reliability)
      ],
      best_of_n=[c for c in found.curves['best_of_n'] if isinstance(c, LineChart)],
      counters=found.counters,
      warnings=found.warnings,
      provenance=about,
      embedded_world='on_track' in found.judged_by.values(),
    )
    report.write(work / 'report.html', page)
  work.write_results(
    'audit',
    found.metrics,
    found.counters,
    about,
    judged_by=found.judged_by,
    warnings=found.warnings,
  )
  for line in _lines(found):
    writer.say(line)
  for warning in found.warnings:
    writer.say(f'warning: {warning}')
  writer.say(work.where())


def _headline(found: EvaluationResult) -> list[str]:
  """Metric paths of the few results that matter: the gaps, and the comparisons that
  have an interval (where the cost or accuracy lies on the other family's curve)."""
  starts = (
    'audit/reference/off_track_alive',
    'audit/reference/on_track_dead',
    'audit/tokens_at_equal_accuracy/',
    'audit/at_equal_tokens/',
  )
  known = [path for path, m in found.metrics.items() if m['low'] is not None]
  return [path for start in starts for path in known if path.startswith(start)]


def _lines(found: EvaluationResult) -> list[str]:
  """First errors and cost, false claims of the rules, and the comparisons, as text."""
  lines = []
  for table in found.tables:
    if table.title not in (label_tables.FIRST_ERRORS, stopping.FALSE_CLAIMS):
      continue
    width = max(len(row.name) for row in table.rows)
    lines.append(f'{table.title}: {" | ".join(table.header[1:])}')
    for row in table.rows:
      cells = [_shown(cell) for cell in row.cells if isinstance(cell, Mapping)]
      lines.append(f'{row.name:{width}}  {" | ".join(cells)}')
  return lines + [f'{p}: {_shown(found.metrics[p])}' for p in _headline(found)]


def _shown(metric: Mapping[str, Any]) -> str:
  if metric['value'] is None:
    return 'undefined'
  if metric['low'] is None:
    return f'{metric["value"]:.3f}'
  return f'{metric["value"]:.3f} [{metric["low"]:.3f}, {metric["high"]:.3f}]'
