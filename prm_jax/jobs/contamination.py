"""Contamination: what training data share with benchmarks, and what that does to a
measured number."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from prm_jax import files, jsonl, writer
from prm_jax.data import sources
from prm_jax.errors import UserError
from prm_jax.evaluation.benchmarks import BENCHMARKS
from prm_jax.evaluation.contamination import Finding, Rule, Training, summary
from prm_jax.evaluation.intervals import undefined
from prm_jax.formats import importers
from prm_jax.jobs import assemble, saved_runs
from prm_jax.jobs.assemble import Sets
from prm_jax.jobs.configuration import Command, build, flatten
from prm_jax.jobs.measure import VALIDATION

_COUNTED = re.compile(r'\[\d+ of \d+\]')


def run(command: Command) -> None:
  """Looks up every row of the evaluation sets in the training rows.

  Writes `samples/SET.jsonl.gz` (the rows that share anything, with what and with which
  training row), `table.md` and `results.json`.

  Raises:
    UserError: no training data or no evaluation set is named or found.
  """
  config = command.config
  started = time.monotonic()
  section = {k: v for k, v in config.contamination.items() if k not in ('run', 'drop')}
  rule = build(Rule, 'contamination', section)
  if not config.data.train:
    raise UserError('data.train names no training files; give PATH:FORMAT, ....')
  with files.open_workdir(command.workdir, flatten(config)) as work:
    if work.read_json('results.json'):
      writer.say(f'{work.path}: this check is complete; see table.md')
      return
    evaluated = None
    if config.contamination.run:
      evaluated = saved_runs.load(config.contamination.run)
    sets, read = _sets(config, evaluated)
    mixture = assemble.load(config, config.data.train)
    writer.say(f'{len(mixture.trajectories)} training rows')
    training = Training(mixture.trajectories, rule)
    found: dict[str, list[Finding]] = {}
    for name, rows in sets.items():
      found[name] = training.check(rows)
      work.write_samples(name, (f.line() for f in found[name] if _anything(f)))
      n = sum(f.shared for f in found[name])
      writer.say(f'{name}: {n} of {len(rows)} rows shared')
    metrics: dict[str, dict[str, Any]] = {}
    if evaluated is not None:
      metrics = _without(config, evaluated, sets, found)
    text = _table(found, metrics, rule)
    jsonl.write_bytes(work / 'table.md', text.encode())
    shares = {
      f'{name}/contamination/{what}': _share(counts[what], counts['rows'])
      for name, counts in ((n, summary(f)) for n, f in found.items())
      for what in ('shared', 'shared_by_problem', 'shared_by_solution')
    }
    counters = {f'{n}/{k}': v for n, f in found.items() for k, v in summary(f).items()}
    about = files.provenance(
      command.line,
      config.seed,
      rule=dataclasses.asdict(rule),
      wall_seconds=round(time.monotonic() - started, 1),
    )
    work.write_results(
      'contamination',
      {**shares, **metrics},
      {**{f'train/{k}': v for k, v in mixture.counters.items()}, **read, **counters},
      about,
    )
    print(text)
    writer.say(work.where())


def _share(n: int, rows: int) -> dict[str, Any]:
  return {'value': n / rows, 'low': None, 'high': None, 'n': rows}


def _anything(found: Finding) -> bool:
  return bool(
    found.problem.match or found.solution.match or found.steps_equal or found.shared
  )


def _sets(
  config: ConfigDict, evaluated: saved_runs.Run | None
) -> tuple[Sets, dict[str, int]]:
  """Rows of the evaluated run, of `data.evaluate`, or of every benchmark found; and
  what was met in reading them."""
  if evaluated is not None:
    sets = {s: rows for s, rows in evaluated.rows.items() if s != VALIDATION}
    if not sets:
      raise UserError(
        f'{config.contamination.run}: it holds no per-sample rows of sets with a known '
        'first error; name another run, or leave contamination.run empty.'
      )
    return sets, {}
  if config.data.evaluate:
    return assemble.named_sets(config, config.data.evaluate)
  out: Sets = {}
  counters: dict[str, int] = {}
  missing = []
  for name, benchmark in BENCHMARKS.items():
    for item in benchmark.sources:
      part, _, rest = item.rpartition('=')
      path, _, format = rest.rpartition(':')
      if not sources.is_there(path):
        missing.append(path)
        continue
      full = f'{name}.{part}' if part else name
      out[full], counted = importers.read(
        sources.resolve(path), format, assemble.options(config), distinct=True
      )
      counters |= {f'{full}/read/{k}': n for k, n in counted.items() if n}
  if missing:
    writer.say(f'not found, so left out: {", ".join(missing)}')
  if not out:
    raise UserError(
      f'no benchmark file is found; set {sources.DATA_VARIABLE} to the folder that '
      'holds them, or name sets in data.evaluate.'
    )
  return out, counters


def _without(
  config: ConfigDict,
  evaluated: saved_runs.Run,
  sets: Sets,
  found: Mapping[str, Sequence[Finding]],
) -> dict[str, dict[str, Any]]:
  """Every metric of the run with all rows and without those that are shared."""
  bare = dataclasses.replace(evaluated, estimates={})
  drop = config.contamination.drop
  clean = {
    name: [t for t, f in zip(rows, found[name]) if not getattr(f, drop)]
    for name, rows in sets.items()
  }
  for name, rows in clean.items():
    if not rows:
      writer.say(f'{name}: nothing is left without the shared rows')
  clean = {name: rows for name, rows in clean.items() if rows}
  before = saved_runs.measure(config, bare, sets)
  after = saved_runs.measure(config, bare, clean) if clean else {}
  # A benchmark carries its row count in its name, which is another one now.
  rest = {_COUNTED.sub('', path): e for path, e in after.items()}
  out = {}
  for path, e in before.items():
    other = rest.get(_COUNTED.sub('', path), undefined('nothing_left'))
    gap = None
    if e.value is not None and other.value is not None:
      gap = e.value - other.value
    out[path] = {**e.metric(), 'without': other.metric(), 'difference': gap}
  return out


def _table(
  found: Mapping[str, Sequence[Finding]],
  metrics: Mapping[str, Mapping[str, Any]],
  rule: Rule,
) -> str:
  columns = (
    'rows', 'shared', 'problems', 'problems_shared', 'question_equal',
    'question_any_ngram', 'shared_by_problem', 'solution_equal', 'solution_any_ngram',
    'shared_by_solution', 'steps', 'steps_equal',
  )  # fmt: skip
  lines = [
    f'Shared: equal after normalisation, or at least {rule.share:g} of the word '
    f'{rule.n}-grams found in training (a text of {rule.shortest} to {rule.n - 1} '
    'words: whole). Paraphrases are not found.',
    '',
    f'|set|{"|".join(c.replace("_", " ") for c in columns)}|',
    f'|---|{"--:|" * len(columns)}',
  ]
  for name, held in found.items():
    counts = summary(held)
    lines.append(f'|{name}|{"|".join(str(counts[c]) for c in columns)}|')
  if metrics:
    lines += [
      '',
      '|Metric|n|with|n|without|with - without|',
      '|---|--:|---|--:|---|--:|',
    ]
    known = {path: m for path, m in metrics.items() if m['value'] is not None}
    touched = {p: m for p, m in known.items() if m['n'] != m['without']['n']}
    lines += [_line(path, m) for path, m in touched.items()]
    if len(touched) < len(known):
      lines += ['', f'{len(known) - len(touched)} metrics lose no row.']
    lines += [
      '',
      'The two are measured on different rows: their difference is no paired one, and '
      'rows that are shared may also be easier for other reasons.',
    ]
  return '\n'.join(lines) + '\n'


def _line(path: str, metric: Mapping[str, Any]) -> str:
  other, gap = metric['without'], metric['difference']
  cells = [
    path, str(metric['n']), _shown(metric),
    str(other['n']), _shown(other),
    '' if gap is None else f'{gap:+.4f}',
  ]  # fmt: skip
  return f'|{"|".join(cells)}|'


def _shown(metric: Mapping[str, Any]) -> str:
  if metric['value'] is None:
    return 'undefined' if metric['n'] else 'nothing left'
  if metric['low'] is None:
    return f'{metric["value"]:.4f}'
  return f'{metric["value"]:.4f} [{metric["low"]:.4f}, {metric["high"]:.4f}]'
