"""Solutions a second of the server, beside those of the score job on the same rows.

Both use one scorer, in turns. The clients are another process on the same machine, so
what they cost counts against the server. Everything is compiled before it is timed.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from prm_jax import writer
from prm_jax.errors import UserError
from prm_jax.inference.scorer import Scorer
from prm_jax.jobs import bench_work, score, serve
from prm_jax.jobs.bench_clock import load, spread
from prm_jax.records import Trajectory

CLIENTS = (1, 8, 64)
FEWEST = 16  # solutions that a single client is timed with
NAME = 'bench'
Scores = list[list[float | None]]


def measured(config: ConfigDict) -> dict[str, Any]:
  """A checkpoint or random weights, as for mode 'score'; rows of `input`, or made up.

  Raises:
    UserError: the scorer cannot be loaded, a row cannot be scored, or the clients are
      not answered.
  """
  spec, params, words = bench_work.parts(config)
  scorer = Scorer(spec, params, words, batch_tokens=config.scorer_batch_tokens)
  rows = bench_work.solutions(config) if config.input else list(_made_up(config))
  with _serving(config, scorer) as port:
    return _compared(config, scorer, rows, port)


def _compared(
  config: ConfigDict, scorer: Scorer, rows: Sequence[Trajectory], port: int
) -> dict[str, Any]:
  writer.say('serve: compiling and warming up')
  wanted = _offline(scorer, rows)[1]
  same = _served(port, rows, max(CLIENTS))[1] == wanted
  offline: list[float] = []
  served: dict[int, list[float]] = {n: [] for n in CLIENTS}
  loads = [load()]
  for _ in range(config.bench_pairs):
    offline.append(_offline(scorer, rows)[0])
    for n in CLIENTS:
      few = min(max(len(rows) * n // max(CLIENTS), FEWEST), len(rows))
      rate, found = _served(port, rows[:few], n)
      served[n].append(rate)
      same = same and found == wanted[:few]
    loads.append(load())
  shares = {n: [a / b for a, b in zip(served[n], offline)] for n in CLIENTS}
  return {
    'device': jax.local_devices()[0].device_kind,
    'solutions': len(rows),
    'steps': sum(t.n_steps for t in rows),
    'tokens of a batch': scorer.batch_tokens,
    'excluded on both sides': 'start-up, compilation, warm-up',
    'the same scores on both sides': same,
    'score job: solutions a second': spread(offline),
    **{f'server, {n} clients: solutions a second': spread(served[n]) for n in CLIENTS},
    **{f'server, {n} clients / score job': spread(shares[n]) for n in CLIENTS},
    'turns': config.bench_pairs,
    'load average': spread(loads),
  }


def _offline(scorer: Scorer, rows: Sequence[Trajectory]) -> tuple[float, Scores]:
  """Solutions a second of what the score job does, and their scores."""
  start = time.perf_counter()
  done, unusable = score.add_scores(scorer, rows, NAME, quiet=True)
  seconds = time.perf_counter() - start
  if unusable:
    raise UserError(f'bench=serve: rows that cannot be scored ({dict(unusable)}).')
  return len(rows) / seconds, [list(t.scores[NAME].values) for t in done]


def _served(port: int, rows: Sequence[Trajectory], n: int) -> tuple[float, Scores]:
  """Solutions a second of n clients, and their scores."""
  bodies = [{'question': t.question, 'steps': list(t.steps)} for t in rows]
  clients = subprocess.run(
    [sys.executable, '-m', 'prm_jax.jobs.bench_clients', str(port), str(n)],
    input='\n'.join(map(json.dumps, bodies)),
    capture_output=True,
    text=True,
    check=False,
  )
  if clients.returncode:
    raise UserError(f'bench=serve: the clients failed: {clients.stderr[-500:]}')
  said = json.loads(clients.stdout.splitlines()[-1])
  return len(rows) / said['seconds'], said['scores']


@contextlib.contextmanager
def _serving(config: ConfigDict, scorer: Scorer) -> Iterator[int]:
  """The port of a server in another thread."""
  config.serve.name = NAME
  running = serve.make(config, scorer, {'source': NAME})
  with contextlib.closing(serve.bind('127.0.0.1', 0)) as listening:
    thread = threading.Thread(target=running.run, args=(listening,))
    thread.start()
    try:
      yield listening.getsockname()[1]
    finally:
      running.stop()
      thread.join()


def _made_up(config: ConfigDict) -> Iterator[Trajectory]:
  """Solutions of half to all of `bench_length` bytes; every question, an eighth to a
  quarter of it, has `bench_per_question` of them."""
  rng = np.random.default_rng(config.seed)
  size = max(config.bench_length // 16, 4)
  question = ''
  for i in range(config.bench_rows or bench_work.ROWS['serve']):
    if i % config.bench_per_question == 0:
      question = f'{i} '.ljust(rng.integers(2 * size, 4 * size), 'x')
    steps = tuple(f'{j} '.ljust(size - 1, 'y') for j in range(rng.integers(6, 12)))
    yield Trajectory(f's{i}', f'p{i // config.bench_per_question}', question, steps)
