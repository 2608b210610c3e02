"""Bench: how fast the parts are, alone or in turns with an external command."""

from __future__ import annotations

import importlib
import subprocess
import sys
from typing import Any

from ml_collections import ConfigDict

from prm_jax import jsonl, writer
from prm_jax.errors import UserError
from prm_jax.jobs import bench_clock
from prm_jax.jobs.configuration import Command

# Mode -> the module of this package that has it, a function of the config.
MODES = {
  'decode': 'bench_engine.sampled',
  'prefix_sharing': 'bench_engine.sampled',
  'imports': 'bench.imports',
  'load': 'bench_load.measured',
  'search_cache': 'bench_search.cached',
  'score': 'bench_peer.paired',
  'train': 'bench_peer.paired',
  'sample': 'bench_peer.paired',
  'mc': 'bench_peer.paired',
  'serve': 'bench_serve.measured',
}
REPEATS = 9


def run(command: Command) -> None:
  """Measures `bench`, prints a table, and writes it to `output` if that is named.

  Raises:
    UserError: there is no such mode, or what it is asked to measure cannot be.
  """
  config = command.config
  if config.bench not in MODES:
    raise UserError(f'bench={config.bench!r}: modes are {", ".join(MODES)}.')
  module, _, function = MODES[config.bench].partition('.')
  rows = getattr(importlib.import_module(f'prm_jax.jobs.{module}'), function)(config)
  for name, value in rows.items():
    writer.say(f'{name:44} {bench_clock.words(value)}')
  if config.output:
    jsonl.write_json_lines(config.output, [{'command': command.line, **rows}])


def imports(config: ConfigDict) -> dict[str, Any]:
  """Seconds that our imports add to those of jax and flax.linen, in new processes."""
  del config
  code = (
    'import time, importlib, jax, flax.linen; t = time.perf_counter(); '
    'importlib.import_module({!r}); print(time.perf_counter() - t)'
  )
  out: dict[str, list[float]] = {'prm_jax': [], 'prm_jax.objectives': []}
  for _ in range(REPEATS):
    for name, seconds in out.items():
      command = [sys.executable, '-c', code.format(name)]
      said = subprocess.run(command, capture_output=True, text=True, check=True)
      seconds.append(float(said.stdout))
  return {
    f'seconds added by import {name}': bench_clock.median(s) for name, s in out.items()
  }
