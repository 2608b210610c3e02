"""Bench mode `search_cache`: scoring the steps of a search with and without caches."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from prm_jax.formats.tokenizers import ByteTokenizer
from prm_jax.inference.incremental import IncrementalScorer, score_whole
from prm_jax.inference.scorer import Scorer
from prm_jax.jobs import assemble
from prm_jax.jobs.bench_clock import load, median
from prm_jax.models import scorer as scoring_model
from prm_jax.specs import HeadSpec, ScorerSpec, StepFormat

STEPS, BEAMS, KEPT = 20, 16, 4
QUESTION_BYTES, STEP_BYTES = 120, (8, 25)


class Round(NamedTuple):
  """One step of a search that is known beforehand.

  Attributes:
    parents: [BEAMS] beams of the round before that these continue.
    steps: [BEAMS] their new steps.
  """

  parents: list[int]
  steps: list[str]


class Taken(NamedTuple):
  """What scoring a search took.

  Attributes:
    values: float32 [STEPS, BEAMS].
    tokens: that were read.
    wall, cpu: [STEPS] seconds of each step.
  """

  values: np.ndarray
  tokens: int
  wall: np.ndarray
  cpu: np.ndarray


def cached(config: ConfigDict) -> dict[str, Any]:
  """Beam search over steps that are made up: of `BEAMS` beams the same `KEPT` go on in
  both ways of scoring, so that they score the same steps."""
  tokenizer = ByteTokenizer()
  spec = ScorerSpec(
    assemble.network(config, tokenizer),
    HeadSpec(),
    StepFormat(max_length=config.text.max_length),
    step_value='sigmoid',
    kind='probability',
  )
  params = scoring_model.init(spec.model, spec.head, jax.random.key(config.seed))
  scorer = Scorer(spec, params, tokenizer)
  question, rounds = made_up(np.random.default_rng(config.seed))
  ways = {
    'with caches': functools.partial(_with_caches, IncrementalScorer.of(scorer)),
    'prefixes again': functools.partial(_again, scorer),
  }
  for way in ways.values():
    way(question, rounds)  # compiles
  runs: dict[str, list[Taken]] = {name: [] for name in ways}
  for _ in range(config.bench_repeats):
    for name, way in ways.items():
      runs[name].append(way(question, rounds))
  fast, slow = runs.values()
  ratio = lambda f: median([f(a) / f(b) for a, b in zip(fast, slow)])
  growth = lambda run: run.cpu[-5:].sum() / run.cpu[:5].sum()
  return {
    'device': jax.local_devices()[0].device_kind,
    'load': load(),
    'steps x beams': f'{STEPS} x {BEAMS}',
    'largest difference of a score': float(
      np.abs(fast[0].values - slow[0].values).max()
    ),
    'tokens of the new steps, and of the question': tokens_of(question, rounds),
    'tokens read, with caches': fast[0].tokens,
    'tokens read, prefixes again': slow[0].tokens,
    'tokens read, ratio': fast[0].tokens / slow[0].tokens,
    'seconds with caches': median([float(r.wall.sum()) for r in fast]),
    'seconds, prefixes again': median([float(r.wall.sum()) for r in slow]),
    'wall time, ratio': ratio(lambda r: r.wall.sum()),
    'CPU time, ratio': ratio(lambda r: r.cpu.sum()),
    'CPU time of the last 5 steps / the first 5, with caches': median(
      [growth(r) for r in fast]
    ),
    'the same, prefixes again': median([growth(r) for r in slow]),
  }


def made_up(rng: np.random.Generator) -> tuple[str, list[Round]]:
  """A question, and the rounds of a search."""

  def text(n: int) -> str:
    return ''.join(rng.choice(list('0123456789+-*/= '), n - 1)) + '.'

  rounds = []
  for i in range(STEPS):
    kept = rng.choice(BEAMS, KEPT, replace=False) if i else np.zeros(KEPT, int)
    steps = [text(int(rng.integers(*STEP_BYTES))) for _ in range(BEAMS)]
    rounds.append(Round(np.repeat(kept, BEAMS // KEPT).tolist(), steps))
  return text(QUESTION_BYTES), rounds


def tokens_of(question: str, rounds: Sequence[Round]) -> int:
  """Tokens of the question and of every step, each once (a byte is a token)."""
  return len(question) + 1 + sum(len(step) + 1 for r in rounds for step in r.steps)


def _with_caches(
  scorer: IncrementalScorer, question: str, rounds: Sequence[Round]
) -> Taken:
  values, seconds = [], []
  before = scorer.counters['tokens_read']
  start = _now()
  state = scorer.start([question])
  for r in rounds:
    state, found = scorer.extend(scorer.take(state, r.parents), r.steps)
    values.append(found)
    seconds.append(_now() - start)
    start = _now()
  tokens = scorer.counters['tokens_read'] - before
  return Taken(np.stack(values), tokens, *np.stack(seconds).T)


def _again(scorer: Scorer, question: str, rounds: Sequence[Round]) -> Taken:
  values, seconds, tokens = [], [], 0
  beams: list[tuple[str, ...]] = [()] * BEAMS
  for r in rounds:
    start = _now()
    beams = [(*beams[p], step) for p, step in zip(r.parents, r.steps)]
    found, read = score_whole(scorer, [question] * BEAMS, beams)
    values.append([v[-1] for v in found])
    tokens += sum(read)
    seconds.append(_now() - start)
  return Taken(np.stack(values), tokens, *np.stack(seconds).T)


def _now() -> np.ndarray:
  """Wall and CPU clock, float64 [2]."""
  return np.array([time.perf_counter(), time.process_time()])
