"""What training data share with an evaluation set: problems, solutions, steps.

Texts are compared as words: NFKC, case folded, everything but letters, digits and
underscores taken as a boundary. So white space and punctuation do not hide a copy; nor
do they tell `x + 1` from `x - 1`. Three comparisons, of questions with questions and of
solutions (all steps, one after the other) with solutions:

- equal text, after that normalisation;
- overlap: the share of a text's word n-grams that occur anywhere in the training texts.
  n = 13 after Brown et al. 2020 (GPT-3), appendix C, where one shared 13-gram makes a
  row dirty; a text shorter than that is one n-gram of its own length, looked for whole;
  below `shortest` words a question counts if it is equal, a solution not at all;
- steps: how many steps of at least `shortest` words are, as a whole, steps somewhere in
  the training data.

Rows that were made from others are looked up by those too, where they say so: the
`original_question` and `original_process` of PRMBench, kept in `meta`.

A row is shared *by problem* (or *by solution*) if its question (solution) is equal to
one of training or its overlap is at least `share`. Paraphrases and translations are not
found: no overlap is no proof of none.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from prm_jax.errors import UserError
from prm_jax.records import Trajectory

_WORD = re.compile(r'\w+')


@dataclasses.dataclass(frozen=True)
class Rule:
  """When a row counts as shared.

  Attributes:
    n: words of an n-gram.
    share: of a text's n-grams that are found in training, at or above which it counts
      as shared; 0 is the rule of GPT-3, any single one.
    shortest: words below which a question is compared by equality alone, and a step
      or a whole solution says nothing.

  Raises:
    UserError: a value is out of range.
  """

  n: int = 13
  share: float = 0.5
  shortest: int = 5

  def __post_init__(self) -> None:
    if not 1 <= self.shortest <= self.n or not 0 <= self.share <= 1:
      raise UserError(
        f'contamination: n={self.n}, shortest={self.shortest}, share={self.share}; it '
        'must be 1 <= shortest <= n and 0 <= share <= 1.'
      )

  def fits(self, equal: bool, overlap: float | None) -> bool:
    """Whether a text with these findings counts as shared."""
    found = overlap is not None and overlap > 0 and overlap >= self.share
    return equal or found


def words(text: str) -> list[str]:
  """The words that texts are compared by.

  >>> words('Find  $X$ if\\n\\\\frac{1}{2}X = 3.')
  ['find', 'x', 'if', 'frac', '1', '2', 'x', '3']
  """
  return _WORD.findall(unicodedata.normalize('NFKC', text).casefold())


@functools.lru_cache(maxsize=200_000)
def _code(word: str) -> int:
  return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), 'big')


@functools.lru_cache(maxsize=500_000)
def _codes(text: str) -> np.ndarray:
  """[W] uint64, one random-looking number a word."""
  return np.array([_code(w) for w in words(text)], np.uint64)


@dataclasses.dataclass(frozen=True, eq=False)
class _Texts:
  """Distinct texts as codes of words.

  Attributes:
    codes: [M] of all texts, one after the other.
    lengths: [A] words of each.
  """

  codes: np.ndarray
  lengths: np.ndarray

  @classmethod
  def of(cls, texts: Sequence[np.ndarray]) -> _Texts:
    flat = np.concatenate([np.zeros(0, np.uint64), *texts])
    return cls(flat, np.array([len(t) for t in texts], np.int64))

  def grams(self, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(hash, text) of every n-gram that lies within one text."""
    m = len(self.codes) - n + 1
    if m <= 0:
      return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    factors = np.random.default_rng(n).integers(0, 2**63, n, dtype=np.uint64) * 2 + 1
    out = np.zeros(m, np.uint64)
    for k in range(n):
      out += self.codes[k : k + m] * factors[k]  # modulo 2^64
    text = np.repeat(np.arange(len(self.lengths)), self.lengths)
    inside = text[:m] == text[n - 1 :]
    return out[inside], text[:m][inside]


class _Index:
  """Distinct training texts, and who has them."""

  def __init__(self, texts: Iterable[tuple[tuple[str, ...], str]]) -> None:
    """`texts`: (parts of a text, id of its row); the first such row gives its name."""
    held: dict[tuple[str, ...], str] = {}
    for parts, name in texts:
      held.setdefault(parts, name)
    each = [_joined(parts) for parts in held]
    self.names = list(held.values())
    self.texts = _Texts.of(each)
    self.equal: dict[bytes, str] = {}
    for codes, name in zip(each, self.names):
      if len(codes):
        self.equal.setdefault(codes.tobytes(), name)
    self._sorted: dict[int, tuple[np.ndarray, np.ndarray]] = {}

  def grams(self, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(distinct hashes, sorted; the first text that has each)."""
    if n not in self._sorted:
      hashes, text = self.texts.grams(n)
      distinct, first = np.unique(hashes, return_index=True)
      self._sorted[n] = (distinct, text[first])
    return self._sorted[n]


def _joined(parts: tuple[str, ...]) -> np.ndarray:
  return np.concatenate([np.zeros(0, np.uint64), *map(_codes, parts)])


@dataclasses.dataclass(frozen=True)
class Match:
  """What a text shares with training texts.

  Attributes:
    equal: the same text after normalisation.
    overlap: share of its n-grams found anywhere in training; None if it is too short.
    n: words of those n-grams, 0 without overlap.
    match: id of the training row that is equal, or else has most of the n-grams found
      (each counted for the first row that has it); '' without any.
  """

  equal: bool
  overlap: float | None
  n: int
  match: str


class Training:
  """Training rows, ready to be looked up."""

  def __init__(self, rows: Sequence[Trajectory], rule: Rule | None = None) -> None:
    """Args:
    rows: training rows.
    rule: when a row counts as shared.
    """
    self.rule = rule or Rule()
    self.questions = _Index(((t.question,), t.id) for t in rows)
    self.solutions = _Index((t.steps, t.id) for t in rows)
    steps = {s for t in rows for s in t.steps}
    self.steps = {c.tobytes() for c in map(_codes, steps) if len(c)}

  def _matches(
    self, index: _Index, texts: Sequence[tuple[str, ...]]
  ) -> dict[tuple[str, ...], Match]:
    distinct = list(dict.fromkeys(texts))
    codes = [_joined(parts) for parts in distinct]
    sizes = np.array([self._size(len(c)) for c in codes], np.int64)
    overlaps: list[float | None] = [None] * len(codes)
    names = [''] * len(codes)
    for n in np.unique(sizes[sizes > 0]).tolist():
      some = np.flatnonzero(sizes == n).tolist()
      hashes, text = _Texts.of([codes[i] for i in some]).grams(n)
      known, owner = index.grams(n)
      at = np.searchsorted(known, hashes)
      hit = np.zeros(len(hashes), bool)
      hit[at < len(known)] = known[at[at < len(known)]] == hashes[at < len(known)]
      found = np.bincount(text[hit], minlength=len(some))
      total = np.bincount(text, minlength=len(some))
      order = np.argsort(text[hit], kind='stable')
      owners = np.split(owner[at[hit]][order], np.cumsum(found)[:-1])
      for j, i in enumerate(some):
        overlaps[i] = float(found[j] / total[j])
        if found[j]:
          who, times = np.unique(owners[j], return_counts=True)
          names[i] = index.names[int(who[times.argmax()])]
    out = {}
    for i, parts in enumerate(distinct):
      same = index.equal.get(codes[i].tobytes(), '') if len(codes[i]) else ''
      out[parts] = Match(bool(same), overlaps[i], int(sizes[i]), same or names[i])
    return out

  def _size(self, n_words: int) -> int:
    if n_words < self.rule.shortest:
      return 0
    return min(n_words, self.rule.n)

  def check(self, rows: Sequence[Trajectory]) -> list[Finding]:
    """What each row of an evaluation set shares with the training rows."""
    asked, solved = [_questions(t) for t in rows], [_solutions(t) for t in rows]
    questions = self._matches(self.questions, [q for held in asked for q in held])
    solutions = self._matches(self.solutions, [s for held in solved for s in held])
    out = []
    for t, qs, ss in zip(rows, asked, solved):
      long = [c for c in map(_codes, t.steps) if len(c) >= self.rule.shortest]
      problem = max((questions[q] for q in qs), key=_strength)
      solution = max((solutions[s] for s in ss), key=_strength)
      out.append(
        Finding(
          id=t.id,
          problem_id=t.problem_id,
          problem=problem,
          solution=solution,
          steps=len(long),
          steps_equal=sum(c.tobytes() in self.steps for c in long),
          by_problem=self.rule.fits(problem.equal, problem.overlap),
          by_solution=solution.n > 0
          and self.rule.fits(solution.equal, solution.overlap),
        )
      )
    return out


def _questions(t: Trajectory) -> list[tuple[str, ...]]:
  """The question, and the one that it was made from."""
  origin = t.meta.get('original_question')
  return [(t.question,), *([(origin,)] if isinstance(origin, str) else [])]


def _solutions(t: Trajectory) -> list[tuple[str, ...]]:
  origin = t.meta.get('original_process')
  usable = isinstance(origin, list) and all(isinstance(s, str) for s in origin)
  return [t.steps, *([tuple(origin)] if isinstance(origin, list) and usable else [])]


def _strength(match: Match) -> tuple[bool, float]:
  return match.equal, match.overlap or 0.0


@dataclasses.dataclass(frozen=True)
class Finding:
  """One row of an evaluation set.

  Attributes:
    id, problem_id: of the row.
    problem, solution: what its question and its solution share, or those that it was
      made from if they share more.
    steps: its steps of at least `shortest` words.
    steps_equal: those of them that are a training step as a whole.
    by_problem, by_solution: whether it counts as shared.
  """

  id: str
  problem_id: str
  problem: Match
  solution: Match
  steps: int
  steps_equal: int
  by_problem: bool
  by_solution: bool

  @property
  def shared(self) -> bool:
    """By problem or by solution."""
    return self.by_problem or self.by_solution

  def line(self) -> dict[str, Any]:
    """JSON form."""
    return dataclasses.asdict(self)


def summary(found: Sequence[Finding]) -> dict[str, int]:
  """Counts of rows, and of distinct problems, by what they share."""
  shared = {f.problem_id for f in found if f.by_problem}
  return {
    'rows': len(found),
    'problems': len({f.problem_id for f in found}),
    'problems_shared': len(shared),
    'question_equal': sum(f.problem.equal for f in found),
    'question_any_ngram': sum(bool(f.problem.overlap) for f in found),
    'question_too_short': sum(f.problem.overlap is None for f in found),
    'shared_by_problem': sum(f.by_problem for f in found),
    'solution_equal': sum(f.solution.equal for f in found),
    'solution_any_ngram': sum(bool(f.solution.overlap) for f in found),
    'solution_too_short': sum(f.solution.overlap is None for f in found),
    'shared_by_solution': sum(f.by_solution for f in found),
    'shared': sum(f.shared for f in found),
    'steps': sum(f.steps for f in found),
    'steps_equal': sum(f.steps_equal for f in found),
  }
