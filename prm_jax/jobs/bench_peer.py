"""Bench of real work, in turns with an external command that does the same work.

A turn of ours is `bench_repeats` passes in this process, all programs compiled and all
inputs encoded before the first of them is timed. A turn of the peer is one run of
`peer_command`, which prints one JSON object as its last line; `peer_figure` names the
rate in it. The peer is expected to leave its own start-up and warm-up out. Turns
alternate, and who goes first changes from pair to pair, so that a machine that slows
down or speeds up favours nobody; the ratio is taken within each pair.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from prm_jax import jsonl, writer
from prm_jax.errors import UserError
from prm_jax.jobs import bench_flops, bench_work
from prm_jax.jobs.bench_clock import clock, load, spread
from prm_jax.jobs.bench_work import Work
from prm_jax.parallel import pages

# Mode -> (rate, 'CPU seconds/wall seconds') in what the peer prints.
FIGURES = {
  'score': ('single_pass.tokens_per_s', 'cpu_s/score_s'),
  'train': ('tokens_per_s', 'cpu_s_per_step/step_s'),
  'sample': ('new_tokens_per_s', 'cpu_s/total_s'),
  'mc': ('new_tokens_per_s', 'cpu_s/total_s'),
}


class Turn(NamedTuple):
  """Attributes:
  rate: units a second; the median of the passes.
  cpu_rate: units a CPU second, nan where it is not known.
  """

  rate: float
  cpu_rate: float


def paired(config: ConfigDict) -> dict[str, Any]:
  """Ours alone, or in turns with `peer_command`.

  Raises:
    UserError: the work cannot be done, or the peer fails.
  """
  work = bench_work.WORKS[config.bench](config)
  writer.say(f'{config.bench}: compiling and warming up')
  work.warm()
  peer = Peer(config) if config.peer_command else None
  mine: list[Turn] = []
  theirs: defaultdict[str, list[Turn]] = defaultdict(list)
  said: dict[str, Any] = {}
  loads = [load()]
  for i in range(config.bench_pairs):
    order = [True] if peer is None else [True, False] if i % 2 == 0 else [False, True]
    for ours in order:
      if ours:
        mine.append(_turn(work, config.bench_repeats))
      elif peer is not None:
        said = peer.run()
        for name in peer.figures:
          theirs[name].append(peer.turn(said, name))
      loads.append(load())
  unit = work.unit
  rows: dict[str, Any] = {
    'device': jax.local_devices()[0].device_kind,
    'excluded on both sides': 'start-up, compilation, warm-up'
    if peer
    else 'start-up, compilation',
    **work.counts,
    f'ours: {unit} a second': spread([t.rate for t in mine]),
    f'ours: {unit} a CPU second': spread([t.cpu_rate for t in mine]),
  }
  for name, turns in theirs.items():
    rows |= _compared(mine, turns, unit, f' ({name})' if len(theirs) > 1 else '')
  rows |= {'pairs': config.bench_pairs, 'load average': spread(loads)}
  if peer is not None:
    rows |= _same(work.counts, said)
  if config.peer_dump:
    rows |= _differences(work, config.peer_dump)
  rate = float(np.median([t.rate for t in mine]))
  return rows | bench_flops.figures(config, work.cost, rate, work.devices)


def _turn(work: Work, repeats: int) -> Turn:
  rates, cpu_rates = [], []
  for _ in range(repeats):
    units, wall, cpu = clock(work.run)
    rates.append(units / wall)
    cpu_rates.append(units / cpu)
  return Turn(float(np.median(rates)), float(np.median(cpu_rates)))


def _compared(
  mine: list[Turn], theirs: list[Turn], unit: str, which: str
) -> dict[str, Any]:
  rate = lambda turns: float(np.median([t.rate for t in turns]))
  pairs = list(zip(mine, theirs, strict=True))
  out = {
    f'peer: {unit} a second{which}': spread([t.rate for t in theirs]),
    f'ratio of medians{which}': rate(mine) / rate(theirs),
    f'ratio of each pair, median [least, most]{which}': spread(
      [a.rate / b.rate for a, b in pairs]
    ),
  }
  if all(np.isfinite(t.cpu_rate) for t in theirs):
    out[f'peer: {unit} a CPU second{which}'] = spread([t.cpu_rate for t in theirs])
    out[f'ratio a CPU second, median [least, most]{which}'] = spread(
      [a.cpu_rate / b.cpu_rate for a, b in pairs]
    )
  return out


def _same(counts: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, str]:
  """Counts that both sides give, by the names that the peer scripts use."""
  out = {}
  for name, n in counts.items():
    if name in said:
      equal = abs(said[name] - n) <= 0.05 * (not isinstance(n, int))
      word = 'the same' if equal else 'DIFFERENT WORK'
      out[f'{name}: ours, peer'] = f'{n:,} {said[name]:,} {word}'
  return out


def _differences(work: Work, path: str) -> dict[str, Any]:
  """Our step values against rows `{"probs": [...]}` in the order of the solutions."""
  if work.values is None:
    raise UserError('peer_dump is for bench=score; leave it out.')
  rows = [row['probs'] for _, row in jsonl.iter_json_lines(epath.Path(path))]
  ours = work.values()
  if [len(r) for r in rows] != [len(v) for v in ours]:
    raise UserError(
      f'{path}: {sum(map(len, rows))} steps of {len(rows)} solutions, ours are '
      f'{sum(map(len, ours))} of {len(ours)}; score the same solutions on both sides.'
    )
  gap = max(float(np.max(np.abs(np.asarray(r) - v))) for r, v in zip(rows, ours))
  return {'largest difference of a step value': gap}


class Peer:
  """The external command and what is read of its answer.

  Attributes:
    figures: paths of its rates, 'a.b' is key b of object a.
  """

  def __init__(self, config: ConfigDict):
    figure, cores = FIGURES[config.bench]
    self._command, self._timeout = config.peer_command, config.peer_timeout
    self.figures = (config.peer_figure or figure).replace(' ', '').split(',')
    self._cores = config.peer_cores or cores

  def run(self) -> dict[str, Any]:
    """Runs the command; the JSON object of its last line.

    Raises:
      UserError: it cannot be run, fails, takes too long, or prints no JSON.
    """
    where = f'peer_command={self._command!r}'
    try:
      done = subprocess.run(
        shlex.split(self._command), capture_output=True, text=True,
        timeout=self._timeout, stdin=subprocess.DEVNULL, env=pages.environment(),
      )  # fmt: skip
    except (OSError, ValueError) as e:
      raise UserError(f'{where} cannot be run ({e}); mend the command.') from e
    except subprocess.TimeoutExpired as e:
      raise UserError(
        f'{where} took longer than peer_timeout={self._timeout:g} s; give it less work '
        'or more time.'
      ) from e
    last = lambda text: (text.strip().splitlines() or ['nothing'])[-1][:300]
    if done.returncode:
      raise UserError(
        f'{where} failed with exit code {done.returncode} ({last(done.stderr)}); run '
        'it alone to see why.'
      )
    try:
      said = json.loads(last_line(done.stdout))
    except ValueError:
      said = None
    if not isinstance(said, dict):
      raise UserError(
        f'{where}: its last line is no JSON object but {last(done.stdout)!r}; let it '
        'print one.'
      )
    return said

  def turn(self, said: Mapping[str, Any], figure: str) -> Turn:
    """The rate called `figure`.

    Raises:
      UserError: it is not there, or no number above 0.
    """
    rate = _number(said, figure)
    if rate is None:
      raise UserError(
        f'peer_figure={figure!r}: the last line of peer_command has no number above 0 '
        f'under that name; it has {", ".join(_paths(said)) or "none at all"}.'
      )
    group = figure.rpartition('.')[0]
    inside = lambda name: f'{group}.{name}' if group and '.' not in name else name
    cpu, _, wall = self._cores.partition('/')
    busy, seconds = _number(said, inside(cpu)), _number(said, inside(wall))
    if busy is None or seconds is None:
      return Turn(rate, float('nan'))
    return Turn(rate, rate * seconds / busy)


def last_line(text: str) -> str:
  """The last line that is not blank, '' where there is none."""
  return next((x for x in reversed(text.splitlines()) if x.strip()), '')


def _number(said: Any, path: str) -> float | None:
  for key in path.split('.'):
    said = said.get(key) if isinstance(said, dict) else None
  good = isinstance(said, int | float) and not isinstance(said, bool) and said > 0
  return float(said) if good and np.isfinite(said) else None


def _paths(said: Mapping[str, Any], prefix: str = '') -> list[str]:
  """Names of all numbers in what a peer printed."""
  out = []
  for key, value in said.items():
    if isinstance(value, dict):
      out += _paths(value, f'{prefix}{key}.')
    elif _number(said, key) is not None:
      out.append(f'{prefix}{key}')
  return out
