"""Study: methods x settings x tuning trials x seeds, tabulated with intervals.

Every run is a process of its own with a workdir of its own, so a study that was
stopped goes on where it was: finished runs are read, an unfinished one resumes.

    STUDY/runs/METHOD/SETTING/trial-I     tuning trials, judged on validation only
    STUDY/runs/METHOD/SETTING/seed-S      the chosen trial with every seed
    STUDY/table.md, STUDY/results.json    the tables, with intervals over seeds
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from prm_jax import files, jsonl, writer
from prm_jax.errors import Preempted, UserError
from prm_jax.evaluation import replicates, seeds
from prm_jax.evaluation.intervals import Estimate
from prm_jax.evaluation.report import words
from prm_jax.jobs import configuration
from prm_jax.training.preemption import StopSignal

TRIAL_COMMON = ('data.evaluate=', 'data.pools=')
COMMON = ('report=false', 'evaluate.replicates=true')


@dataclasses.dataclass(frozen=True)
class Study:
  """What is run and tabulated: `config.study`, whose comments say more.

  Attributes:
    methods, settings: names and overrides.
    common: overrides of all runs.
    trials, trial_seed, select: tuning.
    seeds: of the chosen trials.
    metrics, reference: of the tables.
    processes: runs at the same time.

  Raises:
    UserError: no seed, or one twice.
  """

  methods: tuple[str, ...]
  settings: tuple[str, ...]
  common: str
  trials: tuple[str, ...]
  trial_seed: int
  select: str
  seeds: tuple[int, ...]
  metrics: tuple[str, ...]
  reference: str
  processes: int

  def __post_init__(self) -> None:
    if not self.seeds or len(set(self.seeds)) < len(self.seeds):
      raise UserError(f'study.seeds={self.seeds}: give at least one, each once.')


@dataclasses.dataclass(frozen=True)
class Run:
  """One process: `key` names its folder, `arguments` follow the program."""

  key: str
  arguments: tuple[str, ...]


def run(command: configuration.Command) -> None:
  """Runs all that is missing, then writes the tables.

  Raises:
    UserError: the study names no methods or no seeds, or one of its runs failed.
    Preempted: asked to stop; so were its runs.
  """
  study = configuration.build(Study, 'study', command.config.study)
  methods = _named('study.methods', study.methods, '=')
  settings = _named('study.settings', study.settings or (':',), ':')
  common = _words('study.common', study.common)
  trials = [_words('study.trials', t) for t in study.trials]
  if not methods or not all(methods.values()):
    raise UserError(
      f'study.methods={list(study.methods)}: give NAME=configs/FILE.py for each.'
    )
  if study.reference and study.reference not in methods:
    raise UserError(
      f'study.reference={study.reference!r}: it must be one of the methods '
      f'({", ".join(methods)}), or empty.'
    )
  if len(trials) > 1 and not study.select:
    raise UserError(
      f'study.select is empty, and {len(trials)} trials need a metric on validation '
      'to choose by, for example validation/process_bench/f1@tuned:self.'
    )
  # The runs have their own configs; of this one only the study itself matters.
  own_keys = {
    key: value
    for key, value in configuration.flatten(command.config).items()
    if key.partition('.')[0] in ('job', 'study')
  }
  with files.open_workdir(command.workdir, own_keys) as work:
    chosen = {}
    for method, (config, *given) in methods.items():
      for setting, overrides in settings.items():
        own = [*COMMON, *common, *given, *overrides]
        chosen[method, setting] = [
          *own,
          *_tune(work, study, trials, method, setting, config, own),
        ]
    runs = [
      Run(
        f'{method}/{setting or "default"}/seed-{seed}',
        (
          f'--config={methods[method][0]}',
          *_flags([*overrides, f'seed={seed}']),
        ),
      )
      for (method, setting), overrides in chosen.items()
      for seed in study.seeds
    ]
    results = _run_all(work, runs, study.processes)
    _tabulate(work, command, study, chosen, results)


def _named(key: str, items: Sequence[str], separator: str) -> dict[str, list[str]]:
  """Name -> words of each 'NAME<separator>words'."""
  pairs = [item.partition(separator) for item in items]
  out = {name.strip(): _words(key, rest) for name, _, rest in pairs}
  if len(out) < len(items):
    raise UserError(f'{key}={list(items)}: give each a name of its own.')
  return out


def _words(key: str, text: str) -> list[str]:
  try:
    return shlex.split(text)
  except ValueError as e:
    raise UserError(
      f'{key}: {text.strip()!r} cannot be read ({e}); close what is opened.'
    ) from e


def _flags(overrides: Sequence[str]) -> list[str]:
  return [f'--config.{o}' for o in overrides]


def _tune(
  work: files.Workdir,
  study: Study,
  trials: Sequence[list[str]],
  method: str,
  setting: str,
  config: str,
  own: list[str],
) -> list[str]:
  """The trial with the best `study.select`; all methods get the same trials."""
  if len(trials) < 2:
    return trials[0] if trials else []
  runs = [
    Run(
      f'{method}/{setting or "default"}/trial-{i}',
      (
        f'--config={config}',
        *_flags([*own, *trial, *TRIAL_COMMON, f'seed={study.trial_seed}']),
      ),
    )
    for i, trial in enumerate(trials)
  ]
  results = _run_all(work, runs, study.processes)
  scores = []
  for r in runs:
    value = results[r.key]['metrics'].get(study.select, {}).get('value')
    if value is None:
      raise UserError(
        f'{r.key}: its results have no metric {study.select!r}; study.select must '
        'name one that is computed on validation.'
      )
    scores.append(value)
  best = min if words.meaning(study.select).better == 'lower' else max
  return trials[best(range(len(trials)), key=lambda i: scores[i])]


def _run_all(
  work: files.Workdir, runs: Sequence[Run], processes: int
) -> dict[str, dict[str, Any]]:
  for r in runs:
    _check_finished(work, r)
  results = {}
  with (
    writer.Progress(len(runs), 'runs') as progress,
    StopSignal() as stop,
    ThreadPoolExecutor(max(processes, 1)) as pool,
  ):
    one = lambda r: _one(work, r, stop)
    for done, (key, result) in enumerate(pool.map(one, runs), 1):
      results[key] = result
      progress.to(done, key)
  return results


def _check_finished(work: files.Workdir, run: Run) -> None:
  """Refuses a finished run whose config file says something else by now: it would stand
  in one table with runs of the new one."""
  folder = Path(work.path) / 'runs' / run.key
  if (folder / 'results.json').exists():
    config = configuration.parse(['prm_jax', *run.arguments]).config
    files.check_config(files.Workdir(folder), configuration.flatten(config))


def _wait(process: subprocess.Popen, stop: StopSignal) -> int:
  """Exit code; a wish to stop is handed on, so that the run saves its state."""
  told = False
  while process.poll() is None:
    if stop.requested and not told:
      process.terminate()
      told = True
    time.sleep(0.1)
  return process.returncode


def _one(work: files.Workdir, run: Run, stop: StopSignal) -> tuple[str, dict[str, Any]]:
  folder = Path(work.path) / 'runs' / run.key
  file = folder / 'results.json'
  if not file.exists():
    if stop.requested:
      raise Preempted(f'stopped by {stop.name}; run the same command to go on.')
    folder.mkdir(parents=True, exist_ok=True)
    # Runs of one study differ in few shapes: they share compiled programs.
    environment = {
      'JAX_COMPILATION_CACHE_DIR': str(Path(work.path).resolve() / 'compiled'),
      **os.environ,
    }
    words = [
      sys.executable,
      '-m',
      'prm_jax.main',
      *run.arguments,
      f'--workdir={folder}',
    ]
    with open(folder / 'log.txt', 'ab') as log:
      child = subprocess.Popen(words, stdout=log, stderr=log, env=environment)
      code = _wait(child, stop)
    if stop.requested:
      raise Preempted(f'stopped by {stop.name}; run the same command to go on.')
    if code:
      last = (folder / 'log.txt').read_text(errors='replace').strip().splitlines()
      raise UserError(
        f'{run.key}: ended with exit code {code}: {last[-1] if last else "no output"} '
        f'(log: {folder / "log.txt"}); mend it and run the same command again.'
      )
  return run.key, json.loads(file.read_text())


def _tabulate(
  work: files.Workdir,
  command: configuration.Command,
  study: Study,
  chosen: Mapping[tuple[str, str], Sequence[str]],
  results: Mapping[str, Mapping[str, Any]],
) -> None:
  lines = [f'# Study\n\n`{command.line}`\n']
  metrics: dict[str, Any] = {}
  for setting in dict.fromkeys(setting for _, setting in chosen):
    methods = [m for m, s in chosen if s == setting]
    held = {
      m: [
        replicates.load(
          work / 'runs' / m / (setting or 'default') / f'seed-{s}' / replicates.FILE
        )
        for s in study.seeds
      ]
      for m in methods
    }
    for metric in study.metrics:
      found = {m: [run[metric] for run in held[m] if metric in run] for m in methods}
      missing = [m for m in methods if len(found[m]) < len(study.seeds)]
      runs = {m: e for m, e in found.items() if m not in missing}
      lines += _heading(metric, setting, study.reference)
      lines += _rows(runs, study.reference, metrics, setting, metric)
      for m in missing:
        runs_without = 'some run' if found[m] else 'every run, or never measured'
        lines.append(f'| {m} | undefined in {runs_without} | | |')
  lines.append(
    '\nIntervals: 95 %, over seeds and test problems together (t, Welch and '
    'Satterthwaite); differences are paired by seed and by problem. Those of shares '
    'are cut at 0 and 1, of their differences at -1 and 1: few seeds give a t interval '
    'that reaches beyond.'
  )
  lines.append('\n## Chosen on validation\n')
  for (method, setting), overrides in chosen.items():
    own = [o for o in overrides if o not in COMMON]
    lines.append(f'- {method} {setting}: `{" ".join(own) or "the config as it is"}`')
  text = '\n'.join(lines) + '\n'
  jsonl.write_bytes(work / 'table.md', text.encode())
  work.write_results(
    'study',
    metrics,
    {'runs': len(results)},
    files.provenance(command.line, command.config.seed),
    chosen={'/'.join(filter(None, k)): list(v) for k, v in chosen.items()},
  )
  print(text)
  writer.say(work.where())


def _heading(metric: str, setting: str, reference: str) -> list[str]:
  where = f' ({setting})' if setting else ''
  return [
    f'\n## {metric}{where}\n',
    f'| method | mean over seeds | each seed | minus {reference or "-"} |',
    '|---|---|---|---|',
  ]


def _rows(
  runs: Mapping[str, Sequence[Estimate]],
  reference: str,
  metrics: dict[str, Any],
  setting: str,
  metric: str,
) -> list[str]:
  """Rows of the table; their intervals go into `metrics` too."""
  lines = []
  for method, estimates in runs.items():
    n = min(len(e.contributions) or e.n for e in estimates)
    ends = words.between(metric)
    mean = seeds.over_seeds(estimates, n_problems=n, between=ends).metric()
    path = '/'.join(filter(None, ('seeds', method, setting, metric)))
    metrics[path] = mean
    against = ''
    if reference in runs and method != reference:
      paired = seeds.paired_over_seeds(
        estimates, runs[reference], n_problems=n, between=ends
      ).metric()
      name = '/'.join(filter(None, ('seeds', f'{method}-{reference}', setting, metric)))
      metrics[name] = paired
      against = _cell(paired)
    each = ' '.join(f'{e.value:.3f}' for e in estimates)
    lines.append(f'| {method} | {_cell(mean)} | {each} | {against} |')
  return lines


def _cell(interval: Mapping[str, Any]) -> str:
  if interval['low'] is None:
    return f'{interval["value"]:.3f}'
  return f'{interval["value"]:.3f} [{interval["low"]:.3f}, {interval["high"]:.3f}]'
