"""A policy that keeps what it has read: solutions grow a step at a time.

The decode loop of the engine runs from the keys that a row has, so that a step costs
its own tokens. Random numbers are those of an engine's request of the same id.

What a session continues are the tokens that were drawn. An engine that is sent the
prefix as text encodes it again, step by step, and may find other tokens for the same
text; then the two continue from different contexts, and the session's is the one that
the policy wrote. `counters` tells how many steps are so. Only where text has to be cut
inside a token (a separator that ends within one, half a character at the end of an
open step) is the kept part of that token encoded anew and read.

Of one prefix the results of a session are those of the engine up to rounding, which
also depends, by about 1e-6 of a logit, on the other rows of a call.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from prm_jax.errors import UserError
from prm_jax.formats import text_format
from prm_jax.inference import decode_loop, row_caches
from prm_jax.inference.buckets import one_of
from prm_jax.inference.decode_loop import Log, Queue, Slots
from prm_jax.inference.engine import STEPS_CROSSING, JaxEngine, by_row, ended
from prm_jax.inference.requests import Completion, Refusal, Sampling
from prm_jax.inference.row_caches import Block, Grid, Own, RowCaches, Text
from prm_jax.inference.sampling import Filters, Values, row_key
from prm_jax.inference.stops import Stops, whole_characters
from prm_jax.models import decoding
from prm_jax.models.decoding import Caches
from prm_jax.models.weights import Params
from prm_jax.specs import ModelSpec

MAX_ROWS = 64
STEPS = 32  # tokens of a row between two looks of the host; own keys grow so fast
HALF = '\ufffd'  # what an unfinished character decodes to


class Drawn(NamedTuple):
  """A row's last completion, and the row before it.

  Attributes:
    n_own, pending, open: of the row before; see `Row`.
    tokens: of the completion, the one that ended it left out.
    text: of the completion.
  """

  n_own: int
  pending: tuple[int, ...]
  open: tuple[tuple[int, ...], str]
  tokens: tuple[int, ...]
  text: str


@dataclasses.dataclass(frozen=True)
class Row:
  """A beam.

  Attributes:
    text: the question as it was read; None where it is too long.
    length: tokens of the question.
    own: the row's own keys.
    n_own: tokens that they are of.
    pending: ids that follow and have no keys yet, at least one.
    open: tokens and text of the open step.
    drawn: the last completion, for `Sessions.cut`.
    ended: the policy has ended the solution.
  """

  text: Text | None
  length: int
  own: Own = row_caches.NOTHING
  n_own: int = 0
  pending: tuple[int, ...] = ()
  open: tuple[tuple[int, ...], str] = ((), '')
  drawn: Drawn | None = None
  ended: bool = False

  @property
  def shared(self) -> int:
    """Tokens of the question that the row continues: all but the last."""
    return self.length - 1


Beams = row_caches.Beams[Row]


class _Work(NamedTuple):
  """One completion to draw: the row it continues, its key, its tokens at most."""

  row: Row
  key: np.ndarray
  limit: int


class Sessions:
  """Sessions of an in-process policy; implements `search.protocol.PolicySessions`.

  Args:
    engine: whose policy it is. Its parameters are used, its slots and counters not.
    max_rows: completions in work at the same time; a power of two.

  Attributes:
    name, separator: the engine's.
    counters: tokens_read, tokens_generated, tokens_dropped (of those: behind a stop
      string, or half a character), completions, steps (finished by the separator),
      steps_encoded_differently (of those: their text has other tokens), cache_bytes
      (the largest state that `step` returned).

  Raises:
    UserError: `max_rows` is no power of two.
  """

  def __init__(self, engine: JaxEngine, *, max_rows: int = MAX_ROWS):
    if max_rows < row_caches.ROWS[0] or max_rows & (max_rows - 1):
      raise UserError(f'max_rows={max_rows} must be a power of two from 8 on.')
    self.name, self.separator = engine.name, engine.separator
    self.counters: Counter[str] = Counter()
    self._engine, self._max_rows = engine, max_rows
    self._context = engine.text_format.max_length
    self._caches = RowCaches(engine.model)

  def start(self, questions: Sequence[str]) -> Beams:
    """One row a question, without steps; equal questions are read once.

    Raises:
      UserError: a question without a token.
    """
    fmt, words = self._engine.text_format, self._engine.tokenizer
    ids = {q: text_format.encode_prefixes(fmt, words, q, ())[0] for q in questions}
    for q, tokens in ids.items():
      if not len(tokens):
        raise UserError(
          f'question {q!r} has no token to continue; give a question, or a '
          'question_template with more than the question in it.'
        )
    fits = [q for q, tokens in ids.items() if len(tokens) < self._context]
    found = self._caches.read(self._engine.params, [ids[q][:-1] for q in fits])
    texts = dict(zip(fits, found))
    read = {q: text.length for q, text in texts.items()}
    self.counters['tokens_read'] += sum(read.values())
    rows = tuple(
      Row(texts.get(q), len(ids[q]), pending=(int(ids[q][-1]),)) for q in questions
    )
    return Beams(rows, tuple(read.pop(q, 0) for q in questions))

  def step(
    self,
    state: Beams,
    n: Sequence[int],
    sampling: Sampling,
    keys: Sequence[tuple[str, int]],
  ) -> tuple[Beams, list[list[Completion] | Refusal]]:
    """Continues every row; see `search.protocol.PolicySessions`.

    Raises:
      UserError: what the policy computes is not finite.
      ValueError: a row that has ended, or stop strings other than the separator.
    """
    if sampling.stop not in ((), (self.separator,)) or sampling.keep_stop:
      raise ValueError(f'steps end at {self.separator!r}, not at {sampling.stop}')
    if any(row.ended for row in state.rows):
      raise ValueError('a row that has ended cannot be continued')
    rows, read = self._caught_up(state.rows)
    work: list[_Work] = []
    samples: list[int] = []
    tokens_read: list[int] = []
    parts: list[int | Refusal] = []
    for row, k, (name, first), n_read in zip(rows, n, keys, read, strict=True):
      length = row.shared + row.n_own + len(row.pending)
      if length >= self._context:
        room = f'a prompt of {length} tokens leaves no room in {self._context}'
        parts.append(Refusal('too_long', room))
        continue
      limit = min(sampling.max_tokens, self._context - length)
      for sample in range(first, first + k):
        work.append(_Work(row, row_key(sampling.seed, name, sample), limit))
        samples.append(sample)
      tokens_read += [n_read] + [0] * (k - 1)
      parts.append(k)
    made: list[Row] = []
    done: list[Completion] = []
    stops = self._engine.stops_of(sampling)
    for start in range(0, len(work), self._max_rows):
      some = work[start : start + self._max_rows]
      log, block, grid = self._decode(some, stops, sampling)
      new = self._collect(some, samples[start:], log, stops, block, grid)
      made += [row for row, _ in new]
      done += [completion for _, completion in new]
    out: list[list[Completion] | Refusal] = []
    for part in parts:
      if isinstance(part, Refusal):
        out.append(part)
      else:
        out.append(done[:part])
        done = done[part:]
    state = Beams(tuple(made), tuple(tokens_read))
    self.counters['cache_bytes'] = max(self.counters['cache_bytes'], state.cache_bytes)
    return state, out

  def cut(self, state: Beams, lengths: Sequence[int]) -> tuple[Beams, list[str]]:
    """Rows after the first tokens of their completion; see `PolicySessions`."""
    rows, texts = [], []
    for row, k in zip(state.rows, lengths, strict=True):
      drawn = row.drawn
      if drawn is None or k > len(drawn.tokens):
        raise ValueError(f'row cannot be cut after {k} tokens of its last completion')
      stops = self._engine.stops_of(Sampling())
      text = stops.text(drawn.pending[-1], drawn.tokens[:k])
      text = whole_characters(text, self.separator)
      rows.append(self._after(row, drawn, stops, drawn.tokens[:k], text))
      texts.append(text)
    return _beams(rows), texts

  def take(self, state: Beams, indices: Sequence[int]) -> Beams:
    """Some rows, in this order, any of them any number of times."""
    rows = [state.rows[i] for i in indices]
    owns = self._caches.compact([row.own for row in rows])
    return _beams([dataclasses.replace(row, own=own) for row, own in zip(rows, owns)])

  def join(self, states: Sequence[Beams]) -> Beams:
    """The rows of all states, one after the other."""
    return _beams([row for state in states for row in state.rows])

  def _caught_up(self, rows: Sequence[Row]) -> tuple[list[Row], list[int]]:
    """Rows of which all but one pending token are read, and how many that were."""
    out, read = list(rows), [len(row.pending) - 1 for row in rows]
    late = [i for i, k in enumerate(read) if k and rows[i].text is not None]
    for start in range(0, len(late), self._max_rows):
      part = late[start : start + self._max_rows]
      some = [rows[i] for i in part]
      grid = row_caches.lay([_text(row) for row in some])
      t = one_of(max(read[i] for i in part), row_caches.NEW)
      tokens = np.zeros((grid.size, t), np.int32)
      for place, row in zip(grid.places, some):
        tokens[place, : len(row.pending) - 1] = row.pending[:-1]
      block = Block(
        _fed(
          self._engine.model,
          self._engine.params,
          tokens.reshape(grid.groups, grid.members, t),
          grid.spread([row.n_own for row in some]),
          grid.spread([row.shared for row in some]),
          self._caches.shared(grid.texts),
          self._gathered(some, grid, t),
        )
      )
      for i, place in zip(part, grid.places):
        out[i] = dataclasses.replace(
          rows[i],
          own=Own(block, int(place)),
          n_own=rows[i].n_own + read[i],
          pending=rows[i].pending[-1:],
        )
    self.counters['tokens_read'] += sum(read)
    return out, read

  def _gathered(self, rows: Sequence[Row], grid: Grid, n_new: int) -> Caches:
    room = max(row.n_own for row in rows) + n_new
    return self._caches.gather([row.own for row in rows], grid, room)

  def _decode(
    self, work: Sequence[_Work], stops: Stops, sampling: Sampling
  ) -> tuple[list[Log], Block, Grid]:
    """What each completion draws, and the keys that this leaves."""
    rows = [w.row for w in work]
    grid = row_caches.lay([_text(row) for row in rows])
    u, c = grid.groups, grid.members
    filters = Filters.of(sampling)
    steps = STEPS_CROSSING if stops.crossing else STEPS
    zeros = lambda *shape: np.zeros(shape, np.int32)
    place = np.full(grid.size, -1, np.int32)
    place[grid.places] = grid.places
    spread = lambda values: grid.spread(values).reshape(-1)
    keys = np.zeros((grid.size, 2), np.uint32)
    keys[grid.places] = [w.key for w in work]
    first = spread([row.pending[-1] for row in rows])
    queue = Queue(
      first, spread([row.shared for row in rows]), spread([w.limit for w in work]),
      keys, zeros(1), zeros(2), zeros(), np.array(True),
    )  # fmt: skip
    shared = self._caches.shared(grid.texts, donate=True)
    texts = decode_loop.text_caches(
      self._engine.model, 1, shared[0][0].shape[2], self._engine.device
    )
    own = self._gathered(rows, grid, steps)
    start = grid.spread([row.n_own for row in rows])
    state = (
      place.reshape(u, c), start, first.reshape(u, c), zeros(u, c), zeros(u), zeros(u),
      zeros(),
    )  # fmt: skip
    state, queue, ids = jax.device_put((state, queue, stops.ids), self._engine.device)
    slots = Slots(shared, own, *state)
    cancelled = np.zeros((u, c), bool)
    drawn: list[list[int]] = [[] for _ in range(grid.size)]
    logs: list[Log] = []
    longest = max(row.n_own for row in rows)
    while True:
      slots, log, lines = decode_loop.run(
        self._engine.model, filters, steps, self._engine.params, Values.of(sampling),
        ids, queue, texts, slots, cancelled,
      )  # fmt: skip
      row, n = jax.device_get((slots.row, lines))
      logs.append(jax.tree.map(lambda x, n=n: np.asarray(x)[:n], log))
      longest += int(n)
      if stops.crossing:
        cancelled = ended(stops, first, logs[-1], drawn, row)
        row = np.where(cancelled, -1, row)
      if (row < 0).all():
        break
      own = self._caches.grown(slots.own, longest + steps)
      slots = slots._replace(own=own)
    self._caches.keep(grid.texts, slots.shared)
    return logs, Block(slots.own), grid

  def _collect(
    self,
    work: Sequence[_Work],
    samples: Sequence[int],
    logs: Sequence[Log],
    stops: Stops,
    block: Block,
    grid: Grid,
  ) -> list[tuple[Row, Completion]]:
    """Rows and completions out of the log."""
    log = by_row(logs)
    if not np.isfinite(log.logprob).all():
      raise UserError(
        f'{self.name}: its log-probabilities are not finite; the parameters of this '
        'policy are broken, train or export it again.'
      )
    begin = np.searchsorted(log.row, grid.places).tolist()
    stop = np.searchsorted(log.row, grid.places, 'right').tolist()
    out = []
    for w, sample, place, a, b in zip(work, samples, grid.places, begin, stop):
      tokens = log.token[a:b].tolist()
      end = stops.ending(w.row.pending[-1], tokens)
      kept = slice(a, a + end.n_tokens)
      tokens = tokens[: end.n_tokens]
      text, held = end.text, tuple(tokens)
      if end.finish_reason == 'length':
        text = whole_characters(text, self.separator)
      elif end.finish_reason == 'end':
        held = held[:-1]
      row = dataclasses.replace(w.row, own=Own(block, int(place)))
      before = Drawn(row.n_own, row.pending, row.open, held, text)
      row = self._after(row, before, stops, held, text, end.finish_reason)
      out.append(
        (
          row,
          Completion(
            text,
            tuple(tokens),
            tuple(log.logprob[kept].tolist()),
            () if log.entropy is None else tuple(log.entropy[kept].tolist()),
            end.finish_reason,
            sample,
            end.n_tokens,
            () if log.certainty is None else tuple(log.certainty[kept].tolist()),
          ),
        )
      )
      self.counters['tokens_generated'] += b - a
      self.counters['tokens_dropped'] += b - a - end.n_tokens
    self.counters['completions'] += len(work)
    return out

  def _after(
    self,
    row: Row,
    before: Drawn,
    stops: Stops,
    tokens: tuple[int, ...],
    text: str,
    reason: str = 'length',
  ) -> Row:
    """The row that continues `before` with the tokens that make up `text`."""
    finished = reason == 'stop'
    whole = text + self.separator * finished
    k, tail = self._fitted(before.pending[-1], stops, tokens, whole)
    if reason == 'length':
      self.counters['tokens_dropped'] += len(tokens) - k
    last = tokens[k - 1 : k] or before.pending[-1:]
    ids = (*before.open[0], *tokens[:k], *tail)
    begun = before.open[1] + whole
    if finished:
      again = tuple(self._engine.tokenizer.encode(begun))
      self.counters['steps'] += 1
      self.counters['steps_encoded_differently'] += ids != again
    return dataclasses.replace(
      row,
      n_own=before.n_own + k,
      pending=(*last, *tail),
      open=((), '') if finished else (ids, begun),
      drawn=before,
      ended=reason == 'end',
    )

  def _fitted(
    self, before: int, stops: Stops, tokens: tuple[int, ...], text: str
  ) -> tuple[int, tuple[int, ...]]:
    """How many of the tokens spell the beginning of a text, and ids for the rest."""
    k = len(tokens)
    spelled = stops.text(before, tokens)
    while not text.startswith(spelled) or (k < len(tokens) and spelled[-1:] == HALF):
      k -= 1
      spelled = stops.text(before, tokens[:k])
    rest = text[len(spelled) :]
    return k, tuple(self._engine.tokenizer.encode(rest)) if rest else ()


@functools.partial(jax.jit, static_argnums=0, donate_argnums=6)
def _fed(
  spec: ModelSpec,
  params: Params,
  tokens: jax.Array,
  start: jax.Array,
  shared_length: jax.Array,
  shared: Caches,
  own: Caches,
) -> Caches:
  """Own keys with these tokens, int32 [U, C, T], added behind `start` others."""
  _, own = decoding.extend(
    spec, params, tokens, shared_length + start, shared, shared_length,
    decoding.side_by_side(own, *start.shape), jnp.zeros_like(tokens[..., :1]),
  )  # fmt: skip
  return decoding.by_row(own)


def _text(row: Row) -> Text:
  assert row.text is not None
  return row.text


def _beams(rows: Sequence[Row]) -> Beams:
  return Beams(tuple(rows), (0,) * len(rows))
