"""The in-process engine: requests in, completions out, on one device.

`complete` encodes the requests, plans waves (`waves`), and for each wave reads its
texts once, runs the decode loop (`decode_loop`) and turns what was drawn into text
(`stops`). What a request gets depends on that request, the policy and the seed, not on
the other requests of the call; and not on the device, as long as it is of one kind.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from prm_jax.errors import UserError
from prm_jax.formats import text_format
from prm_jax.formats.tokenizers import Tokenizer
from prm_jax.inference import decode_loop, waves
from prm_jax.inference.decode_loop import Log, Queue, Slots
from prm_jax.inference.requests import Completion, Refusal, Request, Sampling
from prm_jax.inference.sampling import Filters, Values, row_key
from prm_jax.inference.stops import Stops
from prm_jax.inference.waves import Prompt, Shape, Wave
from prm_jax.models import weights
from prm_jax.models.decoding import Caches
from prm_jax.specs import PolicySpec

PREFILL_TOKENS = 256  # of one prefill, padding and places that stay empty included
TEXT_BYTES = 2**26  # of the keys and values that a wave's texts may take, about
HELD_BYTES = 2**28  # of buffers kept for later waves of other shapes
ROWS_PER_SLOT = 16
STEPS = 256  # lines of the log: the loop returns to the host at least so often
STEPS_CROSSING = 8  # where the host has to look for stop strings


class JaxEngine:
  """Samples from a policy in this process.

  Args:
    spec: the policy.
    params: its weights, a tree of arrays.
    tokenizer: the one it was trained with.
    slots: completions in work at the same time. Another number moves logits by about
      1e-5, so that a row may differ from where two tokens nearly tie.
    group: slots that share a text's keys; a divisor of `slots`.
    device: a local device; None takes the first.
    name: recorded as generator and completer.

  Attributes:
    name, separator, deterministic: as in `requests.Engine`.
    slots, group: see above.
    model, params, tokenizer, text_format, device: what it computes with; the layers
      unrolled.
    counters: prefill_tokens, prefill_tokens_without_sharing (if each completion had
      prefilled its own prompt), decoded_tokens, overrun_tokens (drawn after a stop
      string, before the host saw it, and dropped), slot_steps (steps times slots: what
      is not decoded_tokens or overrun_tokens of it was idle), completions, refused,
      compilations (programs of different shapes that were asked for).

  Raises:
    UserError: spec, tokenizer, slots and group do not fit together.
  """

  deterministic = True

  def __init__(
    self,
    spec: PolicySpec,
    params: Any,
    tokenizer: Tokenizer,
    *,
    slots: int = 64,
    group: int = 8,
    device: jax.Device | None = None,
    name: str = 'policy',
  ):
    text_format.check(spec.text_format, tokenizer)
    if tokenizer.vocab_size > spec.model.vocab_size:
      raise UserError(
        f'the tokenizer has {tokenizer.vocab_size} ids and the model only '
        f'{spec.model.vocab_size}; give the tokenizer that the policy was trained with.'
      )
    if group < 1 or slots < 1 or slots % group:
      raise UserError(
        f'engine.slots={slots} is no multiple of engine.group={group}; change one.'
      )
    self.name = name
    self.separator = spec.text_format.separator
    self.counters: Counter[str] = Counter()
    self.text_format, self.tokenizer = spec.text_format, tokenizer
    self._end = text_format.end_id(spec.text_format, tokenizer)
    self.slots, self.group = slots, group
    self.device = device or jax.local_devices()[0]
    # Unrolled, so that the loop does not cut its weights out of stacks every step.
    self.model = dataclasses.replace(spec.model, scan_layers=False)
    self.params = jax.device_put(weights.unstack_layers(params), self.device)
    self._held: dict[Shape, tuple[Caches, Slots]] = {}
    self._stops: dict[tuple[Any, ...], Stops] = {}
    self._programs: set[Any] = set()

  def complete(
    self, requests: Sequence[Request], sampling: Sampling
  ) -> list[list[Completion] | Refusal]:
    """For each request, in order, its n completions by sample index, or a refusal.

    A prompt that leaves no room for a new token in the context is refused as
    'too_long'; a completion that fills the context ends with 'length'.

    Raises:
      UserError: what the policy computes is not finite.
    """
    out, prompts, texts = self.encode(requests, sampling)
    stops = self.stops_of(sampling)
    for wave in self.plan(prompts, texts, sampling):
      caches = self.read(wave)
      queue = self.queue(wave, requests, sampling)
      log = self.decode(wave, queue, caches, stops, sampling)
      self.collect(wave, log, stops, out)
    for completions in out:
      if isinstance(completions, list):
        completions.sort(key=lambda c: c.sample_index)
    return out

  def encode(
    self, requests: Sequence[Request], sampling: Sampling
  ) -> tuple[list[list[Completion] | Refusal], list[Prompt], list[np.ndarray]]:
    """Results to be filled in, refusals among them; prompts; and their texts."""
    places: dict[tuple[str, tuple[str, ...], str], int] = {}
    encoded: list[tuple[np.ndarray, np.ndarray]] = []
    prompts: list[Prompt] = []
    out: list[list[Completion] | Refusal] = []
    context = self.text_format.max_length
    for i, r in enumerate(requests):
      text = places.setdefault((r.question, tuple(r.steps), r.begun), len(encoded))
      if text == len(encoded):
        encoded.append(
          text_format.encode_prefixes(
            self.text_format, self.tokenizer, r.question, r.steps, r.begun
          )
        )
      length = int(encoded[text][1][r.n_steps])
      if not length:
        raise UserError(
          f'request {r.id}: its prompt has no token to continue; give a question, or a '
          'question_template with more than the question in it.'
        )
      if length >= context:
        self.counters['refused'] += 1
        out.append(
          Refusal(
            'too_long',
            f'a prompt of {length} tokens leaves no room in a context of {context}',
          )
        )
        continue
      limit = min(sampling.max_tokens, context - length)
      prompts.append(Prompt(i, text, length, limit, r.n, r.first_sample))
      out.append([])
    return out, prompts, [tokens[:context] for tokens, _ in encoded]

  def stops_of(self, sampling: Sampling) -> Stops:
    key = (sampling.stop, sampling.keep_stop)
    if key not in self._stops:
      self._stops[key] = Stops(self.tokenizer, self._end, *key)
    return self._stops[key]

  def plan(
    self, prompts: Sequence[Prompt], texts: Sequence[np.ndarray], sampling: Sampling
  ) -> list[Wave]:
    """The waves of one call."""
    return list(
      waves.plan(
        prompts,
        texts,
        slots=self.slots,
        group=self.group,
        own=min(sampling.max_tokens, self.text_format.max_length - 1),
        max_rows=ROWS_PER_SLOT * self.slots,
        max_texts=self._max_texts,
      )
    )

  def _max_texts(self, shape: Shape) -> int:
    """W: texts whose keys are held at a time."""
    m = self.model
    position = 2 * m.n_layers * m.n_kv_heads * m.head_dim
    size = position * shape.text * np.dtype(jax.numpy.dtype(m.compute_dtype)).itemsize
    return min(max(TEXT_BYTES // size, shape.groups), ROWS_PER_SLOT * self.slots)

  def _of_shape(self, shape: Shape) -> tuple[Caches, Slots]:
    """Buffers of a shape, kept from wave to wave. They are donated: put them back.

    Those that were not used for longest go first where new ones would be too many.
    """
    if shape not in self._held:
      size = lambda held: sum(x.nbytes for x in jax.tree.leaves(held))
      while self._held and sum(map(size, self._held.values())) > HELD_BYTES:
        del self._held[next(iter(self._held))]
      n = self._max_texts(shape)
      texts = decode_loop.text_caches(self.model, n, shape.text, self.device)
      return texts, decode_loop.empty(self.model, shape, self.device)
    return self._held.pop(shape)

  def read(self, wave: Wave) -> Caches:
    """Prefills the texts of a wave; keys and values [W, K, S, H] for each layer."""
    shape = wave.shape
    caches, slots = self._of_shape(shape)
    for size in sorted(set(wave.sizes)):
      self._program('read', size)
      # As many at a time whatever there is, so that company changes nothing.
      once = max(1, PREFILL_TOKENS // size)
      same = [i for i, other in enumerate(wave.sizes) if other == size]
      for start in range(0, len(same), once):
        some = same[start : start + once]
        places = np.zeros(once, np.int32)
        places[: len(some)] = some
        tokens = np.zeros((once, size), np.int32)
        for row, i in zip(tokens, some):
          row[: len(wave.texts[i])] = wave.texts[i]
        new = decode_loop.read_texts(self.model, self.params, tokens)
        caches = decode_loop.put_texts(new, places, np.int32(len(some)), caches)
    self._held[shape] = caches, slots
    self.counters['prefill_tokens'] += wave.shared_tokens
    self.counters['prefill_tokens_without_sharing'] += wave.unshared_tokens
    return caches

  def queue(self, wave: Wave, requests: Sequence[Request], sampling: Sampling) -> Queue:
    """The tables of a wave, padded to fixed sizes."""
    rows = ROWS_PER_SLOT * self.slots
    padded = lambda x, n: np.concatenate([x, np.repeat(x[-1:], n - len(x), axis=0)])
    keys = np.stack([
      row_key(sampling.seed, requests[r].id, s)
      for r, s in zip(wave.request.tolist(), wave.sample.tolist())
    ])  # fmt: skip
    return Queue(
      padded(wave.first_token, rows),
      padded(wave.shared_length, rows),
      padded(wave.limit, rows),
      padded(keys, rows),
      padded(wave.share_text, rows),
      padded(wave.offsets, rows + 1),
      np.array(len(wave.share_text), np.int32),
      np.array(False),
    )

  def decode(
    self, wave: Wave, queue: Queue, caches: Caches, stops: Stops, sampling: Sampling
  ) -> Log:
    """Runs the loop until the wave is worked off; the log, sorted by row, [tokens]."""
    filters = Filters.of(sampling)
    steps = STEPS_CROSSING if stops.crossing else STEPS
    self._program('run', wave.shape, filters, steps)
    _, slots = self._held.pop(wave.shape)
    slots = decode_loop.rewound(slots)
    queue, ids = jax.device_put((queue, stops.ids), self.device)
    cancelled = np.zeros(wave.shape[:2], bool)
    drawn: list[list[int]] = [[] for _ in range(wave.n_rows)]
    logs = []
    while True:
      slots, log, lines = decode_loop.run(
        self.model, filters, steps, self.params, Values.of(sampling), ids,
        queue, caches, slots, cancelled,
      )  # fmt: skip
      row, share, n = jax.device_get((slots.row, slots.next_share, lines))
      logs.append(jax.tree.map(lambda x: np.asarray(x)[:n], log))  # noqa: B023
      self.counters['slot_steps'] += int(n) * self.slots
      if stops.crossing:
        cancelled = ended(stops, wave.first_token, logs[-1], drawn, row)
        row = np.where(cancelled, -1, row)
        # Slots that the host freed may have rows left in their group's queue.
        if cancelled.any():
          continue
      if (row < 0).all() and share >= len(wave.share_text):
        break
    self._held[wave.shape] = caches, slots
    return by_row(logs)

  def _program(self, *key: Any) -> None:
    self.counters['compilations'] += key not in self._programs
    self._programs.add(key)

  def collect(
    self,
    wave: Wave,
    log: Log,
    stops: Stops,
    out: list[list[Completion] | Refusal],
  ) -> None:
    """Turns the log of a wave into completions."""
    if not np.isfinite(log.logprob).all():
      raise UserError(
        f'{self.name}: its log-probabilities are not finite; the parameters of this '
        'policy are broken, train or export it again.'
      )
    ends = np.cumsum(np.bincount(log.row, minlength=wave.n_rows)).tolist()
    tokens, logprobs = log.token.tolist(), log.logprob.tolist()
    entropies = [] if log.entropy is None else log.entropy.tolist()
    certainties = [] if log.certainty is None else log.certainty.tolist()
    start = 0
    for i, stop in enumerate(ends):
      end = stops.ending(int(wave.first_token[i]), tokens[start:stop])
      kept = slice(start, start + end.n_tokens)
      request = out[wave.request[i]]
      assert isinstance(request, list)
      request.append(
        Completion(
          end.text,
          tuple(tokens[kept]),
          tuple(logprobs[kept]),
          tuple(entropies[kept]),
          end.finish_reason,
          int(wave.sample[i]),
          end.n_tokens,
          tuple(certainties[kept]),
        )
      )
      self.counters['decoded_tokens'] += end.n_tokens
      self.counters['overrun_tokens'] += stop - start - end.n_tokens
      start = stop
    self.counters['completions'] += wave.n_rows


def by_row(logs: Sequence[Log]) -> Log:
  """Lines of the log as entries [tokens], rows ascending, each in order of time."""
  log = jax.tree.map(lambda *parts: np.concatenate([p.ravel() for p in parts]), *logs)
  order = np.argsort(log.row, kind='stable')
  order = order[np.searchsorted(log.row[order], 0) :]
  return jax.tree.map(lambda x: x[order], log)


def ended(
  stops: Stops,
  first_token: np.ndarray,
  log: Log,
  drawn: list[list[int]],
  row: np.ndarray,
) -> np.ndarray:
  """Which slots work on a row whose text holds a stop string by now.

  Args:
    stops: what is looked for.
    first_token: int32 [R], last token of each row's prompt.
    log: new lines.
    drawn: [R] tokens of each row before them; they are added.
    row: int32 [U, C], row of each slot, -1 none.

  Returns:
    bool [U, C].
  """
  before = [len(tokens) for tokens in drawn]
  for r, token in zip(log.row.ravel().tolist(), log.token.ravel().tolist()):
    if r >= 0:
      drawn[r].append(token)
  found = np.zeros(row.shape, bool)
  for place in zip(*np.nonzero(row >= 0)):
    r = int(row[place])
    n_new = len(drawn[r]) - before[r]
    found[place] = n_new > 0 and stops.seen(int(first_token[r]), drawn[r], n_new)
  return found
