"""Sessions that keep nothing: prefixes are sent as text and read again every time.

What a remote engine or a scorer without a cache offers, and the answers that cached
sessions must give too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from prm_jax.errors import UserError
from prm_jax.formats import splitting
from prm_jax.inference.incremental import score_whole
from prm_jax.inference.requests import Completion, Engine, Refusal, Request, Sampling
from prm_jax.inference.scorer import Scorer
from prm_jax.inference.stops import whole_characters

Count = Callable[[str, Sequence[str], str], int]


@dataclasses.dataclass(frozen=True)
class Row:
  """A prefix as text.

  Attributes:
    question, steps: what stands there.
    begun: text of the open step.
    was: steps and begun before the last completion.
    text, tokens: of the last completion.
  """

  question: str
  steps: tuple[str, ...] = ()
  begun: str = ''
  was: tuple[tuple[str, ...], str] = ((), '')
  text: str = ''
  tokens: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Rows:
  """A state: rows of text."""

  rows: tuple[Row, ...]
  tokens_read: tuple[int, ...]

  def __len__(self) -> int:
    return len(self.rows)


class _Texts:
  """What both kinds of sessions do with rows of text."""

  def start(self, questions: Sequence[str]) -> Rows:
    """One row a question; nothing is read before it is needed."""
    return _rows([Row(q) for q in questions])

  def take(self, state: Rows, indices: Sequence[int]) -> Rows:
    """Some rows, in this order."""
    return _rows([state.rows[i] for i in indices])

  def join(self, states: Sequence[Rows]) -> Rows:
    """The rows of all states."""
    return _rows([row for state in states for row in state.rows])


def _rows(rows: Sequence[Row]) -> Rows:
  return Rows(tuple(rows), (0,) * len(rows))


class EngineSessions(_Texts):
  """Any engine as sessions of a policy; implements `protocol.PolicySessions`.

  Args:
    engine: in-process or remote.
    decode: the tokenizer's, for `cut`; None where tokens are not known.
    count: tokens of a prompt (question, steps, begun step); None splits what the
      engine counted in a call among its prompts, by their length.

  Attributes:
    name, separator: the engine's.
  """

  def __init__(
    self,
    engine: Engine,
    decode: Callable[[Sequence[int]], str] | None = None,
    count: Count | None = None,
  ):
    self.name, self.separator = engine.name, engine.separator
    self._engine, self._decode, self._count = engine, decode, count

  def step(
    self,
    state: Rows,
    n: Sequence[int],
    sampling: Sampling,
    keys: Sequence[tuple[str, int]],
  ) -> tuple[Rows, list[list[Completion] | Refusal]]:
    """See `protocol.PolicySessions`; every row's prompt is read anew."""
    requests = [
      Request(name, row.question, row.steps, len(row.steps), k, first, row.begun)
      for row, k, (name, first) in zip(state.rows, n, keys, strict=True)
    ]
    before = self._engine.counters.get('prefill_tokens', 0)
    answers = self._engine.complete(requests, sampling)
    total = self._engine.counters.get('prefill_tokens', 0) - before
    reads = self._reads(state.rows, answers, total)
    rows: list[Row] = []
    tokens_read: list[int] = []
    out: list[list[Completion] | Refusal] = []
    for row, answer, read in zip(state.rows, answers, reads):
      if isinstance(answer, list):
        answer = [self._whole_characters(c) for c in answer]
        rows += [self._after(row, c) for c in answer]
        tokens_read += [read] + [0] * (len(answer) - 1)
      out.append(answer)
    return Rows(tuple(rows), tuple(tokens_read)), out

  def cut(self, state: Rows, lengths: Sequence[int]) -> tuple[Rows, list[str]]:
    """See `protocol.PolicySessions`.

    Raises:
      UserError: there is no tokenizer, or the engine gave no tokens.
    """
    rows, texts = [], []
    for row, k in zip(state.rows, lengths, strict=True):
      if self._decode is None or (k and not row.tokens):
        raise UserError(
          f'{self.name}: this engine does not say which tokens it drew, so a solution '
          'cannot be cut at one of them; use the in-process engine.'
        )
      offsets = splitting.token_offsets(row.text, row.tokens, self._decode)
      steps, begun = row.was
      texts.append(row.text[: offsets[k]])
      rows.append(Row(row.question, steps, begun + texts[-1], row.was))
    return _rows(rows), texts

  def _whole_characters(self, c: Completion) -> Completion:
    """Without a half character or half a separator at the end of an open step."""
    if c.finish_reason != 'length':
      return c
    return dataclasses.replace(c, text=whole_characters(c.text, self.separator))

  def _after(self, row: Row, c: Completion) -> Row:
    text = row.begun + c.text
    ended = c.finish_reason != 'length'
    return Row(
      row.question,
      (*row.steps, text) if ended else row.steps,
      '' if ended else text,
      (row.steps, row.begun),
      c.text,
      c.tokens,
    )

  def _reads(
    self,
    rows: Sequence[Row],
    answers: Sequence[list[Completion] | Refusal],
    total: int,
  ) -> list[int]:
    """Tokens read for each row."""
    served = [isinstance(answer, list) for answer in answers]
    if self._count is not None:
      return [
        self._count(r.question, r.steps, r.begun) if ok else 0
        for r, ok in zip(rows, served)
      ]
    sizes = [
      ok * (len(r.question) + sum(map(len, r.steps)) + len(r.begun) + 1)
      for r, ok in zip(rows, served)
    ]
    ends = np.rint(np.cumsum(sizes) / max(sum(sizes), 1) * total).astype(int)
    return np.diff(ends, prepend=0).tolist()


class RescoringSessions(_Texts):
  """A scorer as sessions; every extension reads question and steps anew.

  Implements `protocol.ScorerSessions`.

  Args:
    scorer: scores trajectories.
    name: key of `scores` in records.

  Attributes:
    name, kind: see `protocol.ScorerSessions`.
  """

  def __init__(self, scorer: Scorer, name: str = 'prm'):
    self.name, self.kind = name, scorer.kind
    self._scorer = scorer

  def extend(self, state: Rows, steps: Sequence[str]) -> tuple[Rows, np.ndarray]:
    """See `protocol.ScorerSessions`."""
    rows = [
      Row(row.question, (*row.steps, step))
      for row, step in zip(state.rows, steps, strict=True)
    ]
    values, read = self.score([r.question for r in rows], [r.steps for r in rows])
    last = np.array([v[-1] for v in values], np.float32)
    return Rows(tuple(rows), tuple(read)), last

  def score(
    self, questions: Sequence[str], solutions: Sequence[Sequence[str]]
  ) -> tuple[list[np.ndarray], list[int]]:
    """See `protocol.ScorerSessions`."""
    return score_whole(self._scorer, questions, solutions)
