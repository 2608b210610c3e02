"""The work that bench times: score, train, sample, continue prefixes.

The model is the checkpoint `bench_model`, or has random weights of the shape that
`config.model` gives; the solutions are those of `input`, or made up. Everything is
driven as the jobs drive it: `Scorer`, the train step with its mapper and `Batches`, and
`JaxEngine` with requests.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from prm_jax import objectives
from prm_jax.data import token_cache
from prm_jax.data.batches import Batches
from prm_jax.errors import UserError
from prm_jax.formats import tokenizers
from prm_jax.formats.step_format import Encoded
from prm_jax.formats.tokenizers import ByteTokenizer, Tokenizer
from prm_jax.inference.engine import JaxEngine
from prm_jax.inference.requests import Request, Sampling, request_id
from prm_jax.inference.scorer import Scorer
from prm_jax.jobs import assemble, bench_flops
from prm_jax.jobs.bench_flops import Cost
from prm_jax.jobs.configuration import build
from prm_jax.models import weights
from prm_jax.models.lm import HEAD
from prm_jax.parallel import mapper as mapping
from prm_jax.parallel import mesh as meshes
from prm_jax.parallel import sharding
from prm_jax.records import LabelSet, Trajectory
from prm_jax.specs import HeadSpec, PolicySpec, ScorerSpec, StepFormat, TextFormat
from prm_jax.training import optimizer, state, step

# Rows that a mode takes where bench_rows is 0: those of the peer scripts.
ROWS = {'score': 128, 'train': 256, 'sample': 8, 'mc': 4, 'serve': 256}
FREE = ('compute_dtype', 'remat', 'query_block')  # keys of config.model
LABEL, VERDICTS = 'bench', ('regraded', 'source')


@dataclasses.dataclass(frozen=True)
class Work:
  """Attributes:
  unit: what is counted.
  run: one pass; the units done.
  warm: compiles all that `run` needs.
  counts: what the work consists of, by the names that the peer scripts use.
  cost: of a unit.
  devices: how many the work runs on.
  values: score: step values of every solution, in the order given.
  """

  unit: str
  run: Callable[[], int]
  warm: Callable[[], Any]
  counts: dict[str, Any]
  cost: Cost
  devices: int
  values: Callable[[], list[np.ndarray]] | None = None


def score(config: ConfigDict) -> Work:
  """Every step of every solution; tokens are those of the solutions, unpadded."""
  spec, params, words = parts(config)
  scorer = Scorer(spec, params, words)
  rows = [r for r in scorer.encode(solutions(config)) if isinstance(r, Encoded)]
  lengths = np.array([len(r.tokens) for r in rows])
  counts = _counts(lengths) | {'steps': sum(r.n_steps for r in rows)}
  cost = Cost(
    bench_flops.forward(spec.model, spec.head, bench_flops.keys_seen(lengths))
  )
  values = lambda: scorer.values(rows)

  def run() -> int:
    values()
    return counts['tokens']

  return Work('tokens', run, run, counts, cost, jax.local_device_count(), values)


def train(config: ConfigDict) -> Work:
  """`bench_steps` train steps; tokens are those of the solutions, unpadded."""
  spec, params, words = parts(config)
  cache = token_cache.build(
    [_labelled(t) for t in solutions(config)], spec.step_format, words, LABEL
  )
  batches = Batches(cache, seed=config.seed, batch_size=config.train.batch_size)
  loop = _Loop(config, spec, params, batches)
  lengths = cache.lengths
  counts = {
    'solutions': cache.n_rows,
    'mean_tokens': round(float(lengths.mean()), 1),
    'batch_size': config.train.batch_size,
    'steps': config.bench_steps,
  }
  flops = bench_flops.forward(spec.model, spec.head, bench_flops.keys_seen(lengths))
  n = jax.device_count()
  return Work('tokens', loop.run, loop.warm, counts, Cost(3 * flops), n)


class _Loop:
  """The train step, mapped, fed and read as the train job does it."""

  def __init__(
    self, config: ConfigDict, spec: ScorerSpec, params: Any, batches: Batches
  ):
    mesh = meshes.make_mesh(
      config.parallel.data, config.parallel.fsdp, config.parallel.tensor
    )
    tx, _ = optimizer.make(assemble.optimizer(config))
    chosen, hyper = assemble.objective(config)
    train_step = step.make_train_step(
      step.apply_scoring_model(
        spec.model, spec.head, constrain=sharding.constrainer(mesh)
      ),
      lambda outputs, batch: objectives.evaluate(chosen, outputs, batch, **hyper),
      tx,
      seed=config.seed,
      accumulation=config.train.accumulation,
    )
    declared = weights.declare(spec.model, spec.head)
    places = state.shardings(
      lambda key: weights.initialize(declared, key),
      tx,
      sharding.param_shardings(mesh, declared),
      mesh,
    )
    self._mapper = mapping.jit_mapper(train_step, mesh, places)
    build_state = jax.jit(
      lambda params: state.init(lambda _: params, tx, jax.random.key(0)),
      out_shardings=places,
    )
    self._state = build_state(params)
    self._batches, self._steps, self._next = batches, config.bench_steps, 0

  def warm(self) -> None:
    """One step of every shape."""
    seen: dict[int, int] = {}
    for number in range(self._batches.n_batches):
      seen.setdefault(self._batches.rows(number).length, number)
    for number in seen.values():
      self._state, metrics = self._mapper(self._state, self._batches[number])
      jax.block_until_ready(metrics)

  def run(self) -> int:
    """The next steps; their real tokens."""
    first, stop = self._next, self._next + self._steps
    batches = self._batches.iterate(first)
    waiting = None
    for _ in range(first, stop):
      self._state, metrics = self._mapper(self._state, next(batches))
      if waiting is not None:
        jax.device_get(waiting)
      waiting = metrics
    jax.block_until_ready((self._state, waiting))
    if not jax.device_get(waiting)['finite']:
      raise UserError('bench=train: the loss is not finite; lower optimizer.peak_lr.')
    self._next = stop
    rows = np.concatenate([self._batches.rows(s).rows for s in range(first, stop)])
    return int(self._batches.cache.lengths[rows[rows >= 0]].sum())


def sample(config: ConfigDict) -> Work:
  """`bench_samples` solutions of each problem, all of the same length."""
  rows = solutions(config, per_question=1)
  asked = [
    Request(request_id(t.problem_id, '', 0), t.question, n=config.bench_samples)
    for t in rows
  ]
  return _generation(config, asked, len(rows))


def mc(config: ConfigDict) -> Work:
  """`bench_samples` continuations of every prefix of a solution of each problem."""
  asked = []
  rows = solutions(config, per_question=1)
  for t in rows:
    asked += [
      Request(request_id(t.problem_id, t.id, k), t.question, t.steps, k,
              config.bench_samples)
      for k in range(1, min(t.n_steps, config.bench_prefixes) + 1)
    ]  # fmt: skip
  return _generation(config, asked, len(rows))


def _generation(config: ConfigDict, asked: list[Request], n: int) -> Work:
  spec, params, words = _policy(config)
  sampling = build(Sampling, 'sampling', config.sampling, seed=config.seed)
  engine = JaxEngine(
    spec, params, words, slots=config.engine.slots, group=config.engine.group
  )
  _, prompts, _ = engine.encode(asked, sampling)
  if any(p.limit < sampling.max_tokens for p in prompts) or len(prompts) < len(asked):
    raise UserError(
      f'text.max_length={spec.text_format.max_length} is too short for these prompts '
      f'and {sampling.max_tokens} new tokens each; raise it.'
    )
  n_rows = sum(p.n for p in prompts)
  counts = {
    'solutions': n,
    'prompts': len(prompts),
    'samples': config.bench_samples,
    'max_new_tokens': sampling.max_tokens,
    'prompt_tokens': sum(p.length for p in prompts),
    'new_tokens': n_rows * sampling.max_tokens,
  }

  def run() -> int:
    engine.complete(asked, sampling)
    return counts['new_tokens']

  # Rows of a group read the keys of their prompt together, their own apart.
  length = float(np.mean([p.length for p in prompts]))
  own = sampling.max_tokens / 2
  rows = min(n_rows, engine.slots)
  members = min(config.bench_samples, engine.group)
  table = jax.numpy.dtype(spec.model.compute_dtype).itemsize
  n_bytes = bench_flops.matrix_elements(spec.model, HEAD) * table / rows
  n_bytes += bench_flops.cache_bytes(spec.model) * (length / members + own)
  cost = Cost(bench_flops.forward(spec.model, HEAD, length + own), n_bytes)
  return Work('new tokens', run, run, counts, cost, devices=1)


def solutions(config: ConfigDict, per_question: int = 0) -> list[Trajectory]:
  """The first solutions of `input` with steps, or made-up ones; the same for all modes.

  Args:
    per_question: of a problem at most; 0 means `bench_per_question`.
  """
  n = config.bench_rows or ROWS[config.bench]
  most = per_question or config.bench_per_question
  rows: Iterable[Trajectory] = _made_up(config.bench_length, n)
  if config.input:
    rows = assemble.load(config, config.input).trajectories
  taken: dict[str, int] = {}
  out: list[Trajectory] = []
  for t in rows:
    if t.steps and taken.get(t.problem_id, 0) < most and len(out) < n:
      taken[t.problem_id] = taken.get(t.problem_id, 0) + 1
      out.append(t)
  return out


def _made_up(length: int, n: int) -> Iterable[Trajectory]:
  """`n` solutions of `length` tokens each in a format of bytes."""
  size = min(128, max(length // 4, 2))
  n_steps = max((length - 2) // size, 1)
  for i in range(n):
    question = f'{i} '.ljust(max(length - n_steps * size - 1, 1), 'x')
    steps = tuple(f'{j} '.ljust(size - 1, 'x')[: size - 1] for j in range(n_steps))
    yield Trajectory(f's{i}', f'p{i}', question, steps)


def _labelled(t: Trajectory) -> Trajectory:
  """With the verdict on its answer as the label of every step; right if not judged."""
  found = [t.verdicts[c].value for c in VERDICTS if c in t.verdicts]
  value = float(next((v for v in found if v is not None), True))
  labels = {LABEL: LabelSet('outcome', (value,) * t.n_steps)}
  return dataclasses.replace(t, labels=labels)


def _counts(lengths: np.ndarray) -> dict[str, Any]:
  return {'solutions': len(lengths), 'tokens': int(lengths.sum())}


class WideBytes(ByteTokenizer):
  """Bytes with as many ids as a real vocabulary, for models with random weights."""

  def __init__(self, vocab_size: int):
    self.vocab_size = max(vocab_size, ByteTokenizer.vocab_size)

  def decode(self, ids: Iterable[int]) -> str:
    return super().decode(i % 128 for i in ids)


def parts(config: ConfigDict) -> tuple[ScorerSpec, Any, Tokenizer]:
  """Spec, parameters and tokenizer of a scorer: `bench_model`, or random weights."""
  if config.bench_model:
    from prm_jax.interop import public

    spec, params, words, _ = public.load_scorer(
      config.bench_model, adapter=config.bench_adapter
    )
    model = dataclasses.replace(spec.model, **_free(config))
    return dataclasses.replace(spec, model=model), params, words
  wide = WideBytes(config.bench_vocab)
  spec = ScorerSpec(
    assemble.network(config, wide),
    build(HeadSpec, 'head', config.head),
    StepFormat(marker='<prm>', max_length=max(config.bench_length, 16)),
  )
  return spec, _random(config, spec.model, spec.head), wide


def _policy(config: ConfigDict) -> tuple[PolicySpec, Any, Tokenizer]:
  fmt = build(TextFormat, 'text', config.text)
  if config.bench_model:
    from prm_jax.interop import architectures, checkpoints, hub, loading

    held = checkpoints.open_checkpoint(hub.resolve(config.bench_model))
    free = {**_free(config), 'param_dtype': config.model.param_dtype}
    model = architectures.model_spec(held.config, str(held.folder), **free)
    found = tokenizers.load(held.folder, model.vocab_size)
    return PolicySpec(model, fmt), loading.load(held, model, HEAD), found
  wide = WideBytes(config.bench_vocab)
  spec = PolicySpec(assemble.network(config, wide), fmt)
  return spec, _random(config, spec.model, HEAD), wide


def _free(config: ConfigDict) -> dict[str, Any]:
  """What a model's checkpoint leaves open, from the config."""
  return {name: config.model[name] for name in FREE}


def _random(config: ConfigDict, model: Any, head: HeadSpec) -> Any:
  declared = weights.declare(model, head)
  return jax.jit(lambda key: weights.initialize(declared, key))(
    jax.random.key(config.seed)
  )


WORKS: dict[str, Callable[[ConfigDict], Work]] = {
  'score': score, 'train': train, 'sample': sample, 'mc': mc,
}  # fmt: skip
