"""Scores of solutions that grow: a new step costs that step's tokens.

For searches that score a step as soon as it is there, prune, and repeat:

    scorer = IncrementalScorer(spec, params, tokenizer)
    state = scorer.start(['What is 2 + 2 + 3?'])           # the question is read once
    state = scorer.take(state, [0, 0])                      # two beams
    state, scores = scorer.extend(state, ['2 + 2 = 4', '2 + 2 = 5'])
    state = scorer.take(state, [0])                         # prune
    state, scores = scorer.extend(state, ['4 + 3 = 7'])

States are values: a call leaves the state that it was given as it was.

The scores are those that `Scorer` gives for whole solutions, up to rounding (1e-4 at
most). A format whose ids of a prefix are no prefix of the ids (`StepFormat.extends`)
is scored anew with every step; `IncrementalScorer.extends` says so.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from prm_jax.errors import UserError
from prm_jax.formats import step_format
from prm_jax.formats.step_format import Encoded
from prm_jax.formats.tokenizers import Tokenizer
from prm_jax.inference import row_caches
from prm_jax.inference.buckets import bucket, one_of
from prm_jax.inference.row_caches import Block, Own, RowCaches, Text
from prm_jax.inference.scorer import Scorer
from prm_jax.models import decoding, heads
from prm_jax.models.decoding import Caches
from prm_jax.models.weights import Params
from prm_jax.records import ScoreSet, Trajectory
from prm_jax.specs import ScorerSpec
from prm_jax.step_values import VALUES

MAX_ROWS = 64


@dataclasses.dataclass(frozen=True)
class Row:
  """A beam.

  Attributes:
    question: its text.
    text: the question as it was read, None where every step is scored anew.
    shared: tokens of it that the row continues.
    own: its own keys.
    n_own: tokens that they are of.
    last: id of the last token.
    n_steps: steps read.
    steps: their texts, where the format has to be scored anew.
    reason: why nothing more can be read, one of `step_format.REASONS`, or ''.
  """

  question: str
  text: Text | None = None
  shared: int = 0
  own: Own = row_caches.NOTHING
  n_own: int = 0
  last: int = 0
  n_steps: int = 0
  steps: tuple[str, ...] = ()
  reason: str = ''


Beams = row_caches.Beams[Row]


class _New(NamedTuple):
  """What a row has to read: ids from own token `start` on, and where steps end."""

  start: int
  tokens: np.ndarray
  positions: np.ndarray


class IncrementalScorer:
  """A scorer that keeps what it has read; implements `search.protocol.ScorerSessions`.

  Args:
    spec, params, tokenizer: as for `Scorer`.
    name: key of the scores in records.
    max_rows: beams of one call of the model at most; a power of two.
    scorer: a `Scorer` of the same model, whose parameters are then used.

  Attributes:
    name, kind: see `search.protocol.ScorerSessions`.
    extends: whether steps are added without reading what stands before them.
    counters: tokens_read (questions and steps), steps, calls.

  Raises:
    UserError: `max_rows` is no power of two.
  """

  def __init__(
    self,
    spec: ScorerSpec,
    params: Any,
    tokenizer: Tokenizer,
    *,
    name: str = 'prm',
    max_rows: int = MAX_ROWS,
    scorer: Scorer | None = None,
  ):
    if max_rows < row_caches.ROWS[0] or max_rows & (max_rows - 1):
      raise UserError(f'max_rows={max_rows} must be a power of two from 8 on.')
    self.counters: Counter[str] = Counter()
    self._scorer = scorer or Scorer(spec, params, tokenizer)
    self.name, self.kind = name, self._scorer.kind
    self._params = _in_one_place(self._scorer.params)
    # An implicit scorer reads sums over two models' tokens, not states at the steps.
    self.extends = spec.step_format.extends and type(self._scorer) is Scorer
    self._spec, self._format, self._tokenizer = spec, spec.step_format, tokenizer
    self._max_rows = max_rows
    self._caches = RowCaches(spec.model)

  @classmethod
  def of(cls, scorer: Scorer, **options: Any) -> IncrementalScorer:
    """Of the model that a `Scorer` has, without a second copy of it."""
    return cls(scorer.spec, scorer.params, scorer.tokenizer, scorer=scorer, **options)

  def start(self, questions: Sequence[str]) -> Beams:
    """One row a question, without steps; equal questions are read once."""
    if not self.extends:
      return _beams([Row(q) for q in questions])
    ids = {
      q: step_format.encode_question(self._format, self._tokenizer, q)
      for q in questions
    }
    most = self._format.max_length
    # Of a question that is too long nothing is read; its first step will be refused.
    wanted = [tokens if len(tokens) < most else tokens[:0] for tokens in ids.values()]
    texts = dict(zip(ids, self._caches.read(self._params, wanted)))
    read = {q: text.length for q, text in texts.items()}
    self.counters['tokens_read'] += sum(read.values())
    rows = tuple(Row(q, texts[q], texts[q].length) for q in questions)
    return Beams(rows, tuple(read.pop(q, 0) for q in questions))

  def extend(self, state: Beams, steps: Sequence[str]) -> tuple[Beams, np.ndarray]:
    """Adds one step to every row.

    Args:
      state: R rows.
      steps: [R] texts.

    Returns:
      The new rows, and float32 [R] the values of the new steps; NaN where the row
      cannot be read (it is too long now, the step is empty or holds the marker), as
      are those of all steps after it.

    Raises:
      UserError: a score is not finite; or a row is too long and the step format's
        policy is 'error'.
    """
    state, values = self.extend_by(state, [(step,) for step in steps])
    return state, np.array([v[0] for v in values], np.float32)

  def extend_by(
    self, state: Beams, steps: Sequence[Sequence[str]]
  ) -> tuple[Beams, list[np.ndarray]]:
    """`extend` by any number of steps for each row: [R] lists of float32 [P]."""
    if len(steps) != len(state.rows):
      raise ValueError(f'{len(steps)} rows of steps for {len(state.rows)} beams')
    self.counters['steps'] += sum(map(len, steps))
    if not self.extends:
      return self._anew(state, steps)
    rows = list(state.rows)
    values = [np.full(len(added), np.nan, np.float32) for added in steps]
    work = self._encode(rows, steps)
    for part in self._parts(work):
      made, found = self._run([(rows[i], work[i]) for i in part])
      for i, row, value in zip(part, made, found):
        rows[i] = row
        values[i][: len(value)] = value
    read = [len(work[i].tokens) if i in work else 0 for i in range(len(rows))]
    self.counters['tokens_read'] += sum(read)
    return Beams(tuple(rows), tuple(read)), values

  def score(
    self, questions: Sequence[str], solutions: Sequence[Sequence[str]]
  ) -> tuple[list[np.ndarray], list[int]]:
    """Whole solutions without a state; see `score_whole`."""
    values, read = score_whole(self._scorer, questions, solutions)
    self.counters['tokens_read'] += sum(read)
    self.counters['steps'] += sum(map(len, solutions))
    return values, read

  def take(self, state: Beams, indices: Sequence[int]) -> Beams:
    """Some rows, in this order, any of them any number of times."""
    rows = [state.rows[i] for i in indices]
    owns = self._caches.compact([row.own for row in rows])
    return _beams([_with(row, own=own) for row, own in zip(rows, owns)])

  def join(self, states: Sequence[Beams]) -> Beams:
    """The rows of all states, one after the other."""
    return _beams([row for state in states for row in state.rows])

  def _encode(self, rows: list[Row], steps: Sequence[Sequence[str]]) -> dict[int, _New]:
    """What the rows have to read; rows get the reason why they read no more."""
    work: dict[int, _New] = {}
    able = [i for i, added in enumerate(steps) if added and not rows[i].reason]
    fresh = [i for i in able if not rows[i].n_steps]
    encoded = step_format.encode_rows(
      self._format,
      self._tokenizer,
      [rows[i].question for i in fresh],
      [steps[i] for i in fresh],
      names=[f'beam {i}' for i in fresh],
    )
    for r, i in enumerate(fresh):
      if encoded.reasons[r]:
        rows[i] = _with(rows[i], reason=encoded.reasons[r])
        continue
      row = encoded.row(r)
      lost = 'too_long' if row.n_steps < len(steps[i]) else ''
      rows[i], work[i] = self._first(rows[i], row, lost)
    for i in able:
      if rows[i].n_steps:
        rows[i], new = self._next(i, rows[i], steps[i])
        if new is not None:
          work[i] = new
    return work

  def _first(self, row: Row, encoded: Encoded, reason: str) -> tuple[Row, _New]:
    """A row's first steps; what of the question they continue is told by them."""
    begin = int(min(row.shared, encoded.question_length, encoded.step_positions[0]))
    new = _New(0, encoded.tokens[begin:], encoded.step_positions - begin)
    return _with(row, shared=begin, reason=reason), new

  def _next(self, i: int, row: Row, steps: Sequence[str]) -> tuple[Row, _New | None]:
    """Further steps of row number `i`, as far as they can be read."""
    fmt = self._format
    marker = len(step_format.marker_ids(fmt, self._tokenizer))
    back = 1 + (max(marker, 1) if fmt.position == 'before' else 0)
    ids: list[np.ndarray] = []
    positions: list[int] = []
    n = 0
    for number, step in enumerate(steps, row.n_steps + 1):
      reason = step_format.step_reason(fmt, self._tokenizer, step, number)
      if reason:
        row, ids = _with(row, reason=reason), []
        break
      ids.append(step_format.encode_step(fmt, self._tokenizer, step, number))
      length = row.shared + row.n_own + n + len(ids[-1])
      if length > fmt.max_length:
        step_format.refuse_length(fmt, f'beam {i}', length)
        row = _with(row, reason='too_long')
        ids = ids[:-1] if fmt.truncation == 'drop_steps' else []
        break
      n += len(ids[-1])
      positions.append(n - back)
    if not ids:
      return row, None
    positions = positions[: len(ids)]
    again = max(0, -positions[0])  # a step may be read at the token before it
    before = np.array([row.last] * again, np.int32)
    places = np.array(positions, np.int32) + again
    return row, _New(row.n_own - again, np.concatenate([before, *ids]), places)

  def _parts(self, work: dict[int, _New]) -> list[list[int]]:
    """Rows that go through the model together."""
    if not work:
      return []
    longest = max(len(new.tokens) for new in work.values())
    most = self._scorer.batch_tokens // one_of(longest, row_caches.NEW)
    n = max((r for r in row_caches.ROWS if r <= most), default=row_caches.ROWS[0])
    n = self._max_rows if most >= self._max_rows else min(n, self._max_rows)
    order = list(work)
    return [order[start : start + n] for start in range(0, len(order), n)]

  def _run(self, work: Sequence[tuple[Row, _New]]) -> tuple[list[Row], list[Any]]:
    """Rows with what they have read, and the values of their new steps."""
    rows, new = [r for r, _ in work], [x for _, x in work]
    texts = [row.text for row in rows if row.text is not None]
    grid = row_caches.lay(texts)
    t = one_of(max(len(x.tokens) for x in new), row_caches.NEW)
    p = bucket(max(len(x.positions) for x in new), 1, 1)
    room = max(x.start for x in new) + t
    tokens = np.zeros((grid.size, t), np.int32)
    at = np.zeros((grid.size, p), np.int32)
    for place, x in zip(grid.places, new):
      tokens[place, : len(x.tokens)] = x.tokens
      at[place, : len(x.positions)] = x.positions
    shape = (grid.groups, grid.members, -1)
    values, own = _extended(
      self._spec,
      self._params,
      tokens.reshape(shape),
      grid.spread([x.start for x in new]),
      grid.spread([row.shared for row in rows]),
      at.reshape(shape),
      self._caches.shared(grid.texts),
      self._caches.gather([row.own for row in rows], grid, room),
    )
    self.counters['calls'] += 1
    block = Block(own)
    made = [
      _with(
        row,
        own=Own(block, int(place)),
        n_own=x.start + len(x.tokens),
        last=int(x.tokens[-1]),
        n_steps=row.n_steps + len(x.positions),
      )
      for row, x, place in zip(rows, new, grid.places)
    ]
    read = np.asarray(values)[grid.places]
    found = [v[: len(x.positions)] for v, x in zip(read, new)]
    if not all(np.isfinite(v).all() for v in found):
      raise UserError(
        'the scores of a step are not finite; the parameters of this model are broken, '
        'train or export it again.'
      )
    return made, [self._scorer.calibrated(v).astype(np.float32) for v in found]

  def _anew(
    self, state: Beams, steps: Sequence[Sequence[str]]
  ) -> tuple[Beams, list[np.ndarray]]:
    rows = [
      _with(row, steps=(*row.steps, *added), n_steps=row.n_steps + len(added))
      for row, added in zip(state.rows, steps)
    ]
    values, read = score_whole(
      self._scorer, [r.question for r in rows], [r.steps for r in rows]
    )
    self.counters['tokens_read'] += sum(read)
    fresh = [v[len(v) - len(added) :] for v, added in zip(values, steps)]
    return Beams(tuple(rows), tuple(read)), fresh


@functools.partial(jax.jit, static_argnums=0, donate_argnums=7)
def _extended(
  spec: ScorerSpec,
  params: Params,
  tokens: jax.Array,
  start: jax.Array,
  shared_length: jax.Array,
  at: jax.Array,
  shared: Caches,
  own: Caches,
) -> tuple[jax.Array, Caches]:
  """Step values float32 [U * C, P], and the own keys with the tokens added.

  Args:
    tokens: int32 [U, C, T].
    start, shared_length: int32 [U, C], own keys and keys of the text that are there.
    at: int32 [U, C, P], where the steps are read.
    shared: as for `decoding.extend`.
    own: keys and values [U * C, K, S, H] of each layer.
  """
  groups = decoding.side_by_side(own, *start.shape)
  hidden, groups = decoding.extend(
    spec.model, params, tokens, shared_length + start, shared, shared_length, groups, at
  )
  hidden = hidden.reshape(-1, *hidden.shape[2:])
  outputs = heads.read(spec.model, spec.head, params, hidden)
  return VALUES[spec.step_value](outputs.astype(np.float32)), decoding.by_row(groups)


def score_whole(
  scorer: Scorer, questions: Sequence[str], solutions: Sequence[Sequence[str]]
) -> tuple[list[np.ndarray], list[int]]:
  """Scores of whole solutions, each read once.

  Returns:
    For each solution float32 [P], NaN for steps that cannot be read; and the tokens
    read for it (what solutions share of a question counts with the first).
  """
  asked = [
    Trajectory(f'beam {i}', '', question, tuple(steps))
    for i, (question, steps) in enumerate(zip(questions, solutions, strict=True))
  ]
  values = []
  for t, found in zip(asked, scorer.score(asked)):
    held = found.values if isinstance(found, ScoreSet) else (None,) * t.n_steps
    values.append(np.array([np.nan if v is None else v for v in held], np.float32))
  seen: set[bytes] = set()
  read = []
  for row in scorer.encode(asked):
    n = 0
    if isinstance(row, Encoded):
      shared = scorer.shared_length(row)
      question = row.tokens[:shared].tobytes()
      n = len(row.tokens) - shared * (question in seen)
      seen.add(question)
    read.append(n)
  return values, read


def _in_one_place(params: Any) -> Any:
  """Parameters that every device has whole, as those of the first one."""
  leaves = jax.tree.leaves(params)
  if not all(x.is_fully_replicated for x in leaves):
    return params
  return jax.tree.map(lambda x: x.addressable_data(0), params)


def _with(row: Row, **changes: Any) -> Row:
  return dataclasses.replace(row, **changes)


def _beams(rows: Sequence[Row]) -> Beams:
  return Beams(tuple(rows), (0,) * len(rows))
