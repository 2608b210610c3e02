"""Bench modes `decode` and `prefix_sharing`: the engine against what bounds it."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from prm_jax.errors import UserError
from prm_jax.formats.tokenizers import ByteTokenizer
from prm_jax.inference import decode_loop, waves
from prm_jax.inference.engine import JaxEngine
from prm_jax.inference.requests import Completion, Refusal, Request, Sampling
from prm_jax.inference.sampling import Filters, Values, draw
from prm_jax.jobs import assemble
from prm_jax.jobs.bench_clock import clock, median
from prm_jax.jobs.configuration import build
from prm_jax.models import decoding, lm
from prm_jax.specs import ModelSpec, PolicySpec, TextFormat

REPEATS = 9
PROBLEMS, SAMPLES = 128, 8  # decode
SOLUTIONS, STEPS, STEP_BYTES, PROMPT = 8, 8, 15, 512  # prefix_sharing


def sampled(config: ConfigDict) -> dict[str, Any]:
  """The modes that sample from a policy with random weights.

  Raises:
    UserError: the context is too short for them.
  """
  sampling = build(Sampling, 'sampling', config.sampling, seed=config.seed)
  if config.text.max_length < PROMPT + sampling.max_tokens:
    raise UserError(
      f'text.max_length={config.text.max_length} is too short for a prompt of {PROMPT} '
      f'tokens and {sampling.max_tokens} new ones; raise it.'
    )
  tokenizer = ByteTokenizer()
  spec = PolicySpec(
    assemble.network(config, tokenizer),
    TextFormat(max_length=config.text.max_length),
  )
  params = lm.init(spec.model, jax.random.key(config.seed))
  engine = TimedEngine(
    spec, params, tokenizer, slots=config.engine.slots, group=config.engine.group
  )
  if config.bench == 'decode':
    rows = decode(engine, spec, params, sampling)
  else:
    rows = prefix_sharing(engine, sampling)
  return {'device': jax.local_devices()[0].device_kind, **rows}


class TimedEngine(JaxEngine):
  """The engine with a clock around each part of a call.

  Attributes:
    seconds: part -> seconds so far.
  """

  def __init__(self, *args: Any, **more: Any):
    super().__init__(*args, **more)
    self.seconds: defaultdict[str, float] = defaultdict(float)

  def _timed(self, part: str, function: Callable, *args: Any) -> Any:
    start = time.perf_counter()
    out = jax.block_until_ready(function(*args))
    self.seconds[part] += time.perf_counter() - start
    return out

  def encode(self, *args):
    return self._timed('encode', super().encode, *args)

  def plan(self, *args):
    return self._timed('plan', super().plan, *args)

  def read(self, *args):
    return self._timed('prefill', super().read, *args)

  def queue(self, *args):
    return self._timed('queue', super().queue, *args)

  def decode(self, *args):
    return self._timed('decode loop', super().decode, *args)

  def collect(self, *args):
    return self._timed('text', super().collect, *args)


def decode(
  engine: TimedEngine, spec: PolicySpec, params: Any, sampling: Sampling
) -> dict[str, Any]:
  """New tokens a second of the engine and of the bare loop, measured in turns."""
  requests = [Request(f'p{i}', f'What is {i} + 1?', n=SAMPLES) for i in range(PROBLEMS)]
  asked = lambda i: dataclasses.replace(sampling, seed=i)
  length = len(requests[-1].question) + 1
  shape = waves.shape_of(
    waves.Prompt(0, 0, length, sampling.max_tokens, SAMPLES, 0), length,
    slots=engine.slots, group=engine.group, own=sampling.max_tokens,
  )  # fmt: skip
  bare = BareLoop(spec.model, params, sampling, shape, length - 1)
  bare()
  engine.complete(requests, asked(0))
  engine.seconds.clear()
  engine.counters.clear()
  tokens, whole, loop, busy = [], [], [], []
  for i in range(REPEATS):
    _, seconds, _ = clock(bare)
    loop.append(bare.n_tokens / seconds)
    call = functools.partial(engine.complete, requests, asked(i))
    out, seconds, cpu = clock(call)
    tokens.append(sum(c.n_tokens for c in _flat(out)))
    whole.append(tokens[-1] / seconds)
    busy.append(tokens[-1] / cpu)
  total = sum(n / rate for n, rate in zip(tokens, whole))
  counts = engine.counters
  parts = {
    f'share of time: {part}': seconds / total
    for part, seconds in engine.seconds.items()
  }
  return {
    'slots': engine.slots,
    'new tokens of a call': int(np.mean(tokens)),
    'engine: new tokens a second': median(whole),
    'engine: new tokens a CPU second': median(busy),
    'bare loop: new tokens a second': median(loop),
    'engine / bare loop': median([a / b for a, b in zip(whole, loop)]),
    **parts,
    'share of time: other': 1 - sum(parts.values()),
    'share of slot steps that were idle': 1
    - (counts['decoded_tokens'] + counts['overrun_tokens']) / counts['slot_steps'],
  }


class BareLoop:
  """Decode step and draw in one jitted loop, all slots busy, nothing else.

  Attributes:
    n_tokens: new tokens of one call.
  """

  def __init__(
    self,
    spec: ModelSpec,
    params: Any,
    sampling: Sampling,
    shape: waves.Shape,
    shared_length: int,
  ):
    u, c = shape.groups, shape.members
    self.n_tokens = u * c * sampling.max_tokens
    filters, values = Filters.of(sampling), Values.of(sampling)
    lengths = jnp.full((u, c), shared_length, jnp.int32)
    keys = jnp.arange(2 * u * c, dtype=jnp.uint32).reshape(-1, 2)

    def step(i, state, params, shared):
      tokens, own = state
      logits, own = decoding.decode_step(
        spec, params, tokens, lengths + i, shared, lengths, own
      )
      numbers = jnp.full(u * c, i, jnp.int32)
      flat = logits.reshape(u * c, -1)
      return draw(filters, values, flat, keys, numbers).token.reshape(u, c), own

    @functools.partial(jax.jit, donate_argnums=2)
    def loop(params, shared, own):
      state = (jnp.zeros((u, c), jnp.int32), own)
      body = lambda i, state: step(i, state, params, shared)
      return jax.lax.fori_loop(0, sampling.max_tokens, body, state)

    self._own = decoding.own_caches(spec, u, c, shape.own, None)
    shared = decode_loop.text_caches(spec, u, shape.text, None)
    self._loop = functools.partial(loop, params, shared)

  def __call__(self) -> None:
    tokens, self._own = self._loop(self._own)
    jax.block_until_ready(tokens)


def prefix_sharing(engine: TimedEngine, sampling: Sampling) -> dict[str, Any]:
  """Continuations of all prefixes, the text read once and each prompt read apart.

  Apart means one sample of each prefix a call, each prefix as a text of its own, so
  that no two completions share a prefill.
  """
  size = (STEP_BYTES + 1) * STEPS
  text = lambda i, n: f'{i} '.ljust(n, 'x')
  shared, apart = [], []
  for i in range(SOLUTIONS):
    steps = tuple(text(j, STEP_BYTES) for j in range(STEPS))
    question = text(i, PROMPT - size - 1)
    for k in range(1, STEPS + 1):
      name = f's{i}/{k}'
      shared.append(Request(name, question, steps, k, SAMPLES))
      apart += [
        Request(name, question, steps[:k], k, 1, sample) for sample in range(SAMPLES)
      ]
  calls = [[r for r in apart if r.first_sample == s] for s in range(SAMPLES)]

  def together() -> list[Completion]:
    return _flat(engine.complete(shared, sampling))

  def separately() -> list[Completion]:
    found = [_flat(engine.complete(call, sampling)) for call in calls]
    return [found[s][i] for i in range(len(shared)) for s in range(SAMPLES)]

  a, b = together(), separately()
  differing = sum(x.tokens != y.tokens for x, y in zip(a, b, strict=True))
  if differing > len(a) / 100:
    raise AssertionError(f'{differing} of {len(a)} completions differ')
  engine.counters.clear()
  together()
  counts = Counter(engine.counters)
  engine.counters.clear()
  separately()
  unshared = engine.counters['prefill_tokens']
  with_, without = [], []
  for _ in range(REPEATS):
    with_.append(clock(together)[1:])
    without.append(clock(separately)[1:])
  ratio = lambda i: median([x[i] / y[i] for x, y in zip(with_, without)])
  return {
    'completions': len(a),
    'of these different without sharing': differing,
    'prefill tokens with sharing': counts['prefill_tokens'],
    'prefill tokens without': unshared,
    'prefill tokens, with / without': counts['prefill_tokens'] / unshared,
    'seconds with sharing': median([x[0] for x in with_]),
    'seconds without': median([x[0] for x in without]),
    'wall time, with / without': ratio(0),
    'CPU time, with / without': ratio(1),
  }


def _flat(results: Sequence[list[Completion] | Refusal]) -> list[Completion]:
  return [c for row in results if not isinstance(row, Refusal) for c in row]
