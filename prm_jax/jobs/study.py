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
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from prm_jax import files, writer
from prm_jax.errors import UserError
from prm_jax.evaluation import seeds as seed_statistics
from prm_jax.jobs import configuration

TRIAL_COMMON = ('data.evaluate=', 'data.pools=', 'report=false')


@dataclasses.dataclass(frozen=True)
class Run:
  """One process: `key` names its folder, `arguments` follow the program."""

  key: str
  arguments: tuple[str, ...]


def run(command: configuration.Command) -> None:
  """Runs all that is missing, then writes the tables.

  Raises:
    UserError: the study names no methods, or one of its runs failed.
  """
  study = command.config.study
  methods = _named(study.methods, '=')
  settings = _named(study.settings or (':',), ':')
  if not methods:
    raise UserError('study.methods is empty; give NAME=configs/FILE.py for each.')
  with files.open_workdir(
    command.workdir, configuration.flatten(command.config)
  ) as work:
    common = shlex.split(study.common)
    chosen = {}
    for method, config in methods.items():
      for setting, overrides in settings.items():
        own = [*common, *shlex.split(overrides)]
        chosen[method, setting] = [*own, *_tune(work, study, method, setting, config, own)]
    runs = [
      Run(
        f'{method}/{setting or "default"}/seed-{seed}',
        (f'--config={methods[method]}', *_flags([*overrides, f'seed={seed}'])),
      )
      for (method, setting), overrides in chosen.items()
      for seed in study.seeds
    ]
    results = _run_all(work, runs, study.processes)
    _tabulate(work, command, chosen, results)


def _named(items: Sequence[str], separator: str) -> dict[str, str]:
  pairs = [item.partition(separator) for item in items]
  return {name.strip(): rest.strip() for name, _, rest in pairs}


def _flags(overrides: Sequence[str]) -> list[str]:
  return [f'--config.{o}' for o in overrides]


def _tune(
  work: files.Workdir, study: Any, method: str, setting: str, config: str, own: list[str]
) -> list[str]:
  """The trial with the best `study.select`; all methods get the same trials."""
  trials = [shlex.split(t) for t in study.trials]
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
  return trials[max(range(len(trials)), key=lambda i: scores[i])]


def _run_all(
  work: files.Workdir, runs: Sequence[Run], processes: int
) -> dict[str, dict[str, Any]]:
  progress = writer.Progress(len(runs), 'runs')
  results = {}
  with ThreadPoolExecutor(max_workers=max(processes, 1)) as pool:
    for done, (key, result) in enumerate(pool.map(lambda r: _one(work, r), runs), 1):
      results[key] = result
      progress.to(done, key)
  progress.close()
  return results


def _one(work: files.Workdir, run: Run) -> tuple[str, dict[str, Any]]:
  folder = Path(work.path) / 'runs' / run.key
  file = folder / 'results.json'
  if not file.exists():
    folder.mkdir(parents=True, exist_ok=True)
    # Runs of one study differ in few shapes: they share compiled programs.
    environment = {
      'JAX_COMPILATION_CACHE_DIR': str(Path(work.path).resolve() / 'compiled'),
      **os.environ,
    }
    words = [sys.executable, '-m', 'prm_jax.main', *run.arguments, f'--workdir={folder}']
    with open(folder / 'log.txt', 'ab') as log:
      code = subprocess.run(
        words, stdout=log, stderr=log, env=environment, check=False
      ).returncode
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
  chosen: Mapping[tuple[str, str], Sequence[str]],
  results: Mapping[str, Mapping[str, Any]],
) -> None:
  study = command.config.study
  values: dict[tuple[str, str], dict[str, list[float | None]]] = {}
  for method, setting in chosen:
    values[method, setting] = {
      metric: [
        results[f'{method}/{setting or "default"}/seed-{s}']['metrics']
        .get(metric, {})
        .get('value')
        for s in study.seeds
      ]
      for metric in study.metrics
    }
  lines = [f'# Study\n\n`{command.line}`\n']
  metrics: dict[str, Any] = {}
  for metric in study.metrics:
    lines.append(f'\n## {metric}\n')
    lines.append('| method | setting | mean [95 %] over seeds | each seed | difference |')
    lines.append('|---|---|---|---|---|')
    for (method, setting), held in values.items():
      mean = seed_statistics.mean_interval(held[metric])
      metrics['/'.join(filter(None, ('seeds', method, setting, metric)))] = mean
      difference = ''
      if study.reference and method != study.reference:
        other = values[study.reference, setting][metric]
        paired = seed_statistics.paired_interval(held[metric], other)
        name = f'seeds/{method}-{study.reference}/{setting}/{metric}'.replace('//', '/')
        metrics[name] = paired
        difference = _cell(paired)
      each = ' '.join('-' if v is None else f'{v:.3f}' for v in held[metric])
      lines.append(f'| {method} | {setting} | {_cell(mean)} | {each} | {difference} |')
  if study.reference:
    lines.append(
      f'\nDifference: method minus {study.reference}, paired by seed; interval: '
      f'{seed_statistics.DESCRIPTION}.'
    )
  lines.append('\n## Chosen settings\n')
  for (method, setting), overrides in chosen.items():
    lines.append(f'- {method} {setting}: `{" ".join(overrides) or "the config as it is"}`')
  text = '\n'.join(lines) + '\n'
  (work / 'table.md').write_text(text)
  work.write_results(
    'study',
    metrics,
    {'runs': len(results)},
    files.provenance(command.line, command.config.seed),
    chosen={'/'.join(filter(None, k)): list(v) for k, v in chosen.items()},
  )
  print(text)


def _cell(interval: Mapping[str, Any]) -> str:
  if interval['value'] is None:
    return 'undefined'
  if interval['low'] is None:
    return f'{interval["value"]:.3f}'
  return f'{interval["value"]:.3f} [{interval["low"]:.3f}, {interval["high"]:.3f}]'
