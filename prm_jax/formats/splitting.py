"""Text to steps with character offsets: one splitter for rollout and import alike.

Every way of splitting returns the steps, their places in the text and what stands
between them, so that `join` gives the text back, character for character. A step is
never empty and never white space alone.

'separator'       exact pieces between the separators.
'newlines'        lines; white space around them is not theirs.
'paragraphs'      what blank lines separate; white space around is not theirs.
'numbering'       a step starts at 'Step 1:', 'Step 2:', ... or, in a text without
                  those, at lines '1.', '2)', ...; the longest run of numbers that go
                  up by 1 counts, so that a list within a step does not cut it.
'low_confidence'  a step starts at a sampled token of probability below `threshold`
                  (AdaptiveStep, arXiv 2502.13943, which takes the threshold that
                  makes 2 % of the tokens cuts: `find_threshold`).
'entropy'         a step starts at a token before which the vocabulary's entropy was
                  above `threshold` nats (EDU-PRM, arXiv 2503.22233: 1.0).

The steps of the two token modes follow each other without a gap: joined by '' they
are the text.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

from prm_jax.errors import UserError

HOWS = (
  'separator',
  'newlines',
  'paragraphs',
  'numbering',
  'low_confidence',
  'entropy',
)
ENTROPY = 1.0  # nats, EDU-PRM
TOKEN_HOWS = ('low_confidence', 'entropy')

_BLANK_LINES = re.compile(r'\n[^\S\n]*(?:\n[^\S\n]*)+')
_HEADING = r'(?:#+[ \t]*)?(?:\*\*)?'
_STEP = re.compile(
  rf'^[ \t]*{_HEADING}step[ \t]+(\d+)\b|\bstep[ \t]+(\d+):',
  re.MULTILINE | re.IGNORECASE,
)
# Not indented: lists within a step mostly are.
_NUMBER = re.compile(rf'^ ?{_HEADING}(\d+)[.)](?![\d.])', re.MULTILINE)

Span = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Splitter:
  """How a text becomes steps.

  Attributes:
    how: one of `HOWS`, see there.
    separator: what 'separator' cuts at.
    pattern: regular expression of a step's start for 'numbering', in place of the
      numbers; '^' is the start of a line. Every match counts.
    threshold: a probability for 'low_confidence', nats for 'entropy', where 0 stands
      for the published 1.0.

  Raises:
    UserError: a way that does not exist, or options that do not fit it.
  """

  how: str = 'separator'
  separator: str = '\n\n'
  pattern: str = ''
  threshold: float = 0.0

  def __post_init__(self) -> None:
    if self.how not in HOWS:
      raise UserError(f'splitter.how is {self.how!r}; use one of {", ".join(HOWS)}.')
    if self.how == 'separator' and not self.separator:
      raise UserError("splitter.separator is empty; how='separator' needs a text.")
    if self.pattern:
      try:
        re.compile(self.pattern, re.MULTILINE)
      except re.error as e:
        raise UserError(
          f'splitter.pattern {self.pattern!r} is no regular expression: {e}.'
        ) from e
    if self.how == 'low_confidence' and not 0 < self.threshold <= 1:
      raise UserError(
        f'splitter.threshold is {self.threshold!r}; low_confidence needs a probability '
        'above 0 (find_threshold gives the one for 2 % cuts).'
      )
    if self.how == 'entropy' and not 0 <= self.threshold < math.inf:
      raise UserError(
        f'splitter.threshold is {self.threshold!r}; entropy needs nats, 0 or above.'
      )


@dataclasses.dataclass(frozen=True)
class Split:
  """A text in P steps.

  Attributes:
    steps: P texts, none of them empty.
    spans: [P, 2] their character offsets, start and end (exclusive).
    joins: P + 1 texts: what stands before the first step, between steps, and after
      the last.
  """

  steps: tuple[str, ...]
  spans: tuple[Span, ...]
  joins: tuple[str, ...]


def join(split: Split) -> str:
  """The text that was split.

  >>> join(split('1 + 1\\n= 2\\n', Splitter('newlines')))
  '1 + 1\\n= 2\\n'
  """
  parts = [split.joins[0]]
  for step, gap in zip(split.steps, split.joins[1:]):
    parts += (step, gap)
  return ''.join(parts)


def split(
  text: str,
  splitter: Splitter,
  *,
  offsets: Sequence[int] | None = None,
  logprobs: Sequence[float] | None = None,
  entropies: Sequence[float] | None = None,
) -> Split:
  """Splits a text into steps.

  Args:
    text: a response.
    splitter: how.
    offsets: [n + 1] where each of n tokens starts in the text, in characters, and
      where the last ends (`token_offsets`); for the token modes. Tokens without text
      of their own (a piece of a character, an end token) share an offset.
    logprobs: [n] natural log-probability of each sampled token, for 'low_confidence'.
    entropies: [n] entropy of the vocabulary, nats, for 'entropy'.

  Returns:
    No steps for a text of white space, or of separators, alone.

  Raises:
    UserError: a token mode without its numbers.
    ValueError: offsets that do not fit the text or the numbers.
  """
  if splitter.how in TOKEN_HOWS:
    low = splitter.how == 'low_confidence'
    values = logprobs if low else entropies
    if offsets is None or values is None:
      raise UserError(
        f'splitter.how={splitter.how!r} needs offsets and '
        f'{"log-probabilities" if low else "entropies"} of the tokens, which this '
        'source does not give; split by text instead.'
      )
    spans = _by_tokens(text, offsets, values, splitter)
  elif splitter.how == 'numbering':
    spans = _stripped(text, _between(_numbered(text, splitter.pattern), len(text)))
  elif splitter.how == 'separator':
    spans = _pieces(text, re.compile(re.escape(splitter.separator)))
    spans = [s for s in spans if text[slice(*s)].strip()]
  else:
    lines = splitter.how == 'newlines'
    spans = _stripped(text, _pieces(text, re.compile('\n') if lines else _BLANK_LINES))
  edges = [0, *(edge for span in spans for edge in span), len(text)]
  return Split(
    steps=tuple(text[a:b] for a, b in spans),
    spans=tuple(spans),
    joins=tuple(text[a:b] for a, b in zip(edges[::2], edges[1::2])),
  )


def _pieces(text: str, gap: re.Pattern[str]) -> list[Span]:
  """What stands between the matches of `gap`."""
  edges = [0]
  for match in gap.finditer(text):
    edges += match.span()
  edges.append(len(text))
  return list(zip(edges[::2], edges[1::2]))


def _between(starts: Sequence[int], end: int) -> list[Span]:
  return list(pairwise([*starts, end]))


def _stripped(text: str, spans: Iterable[Span]) -> list[Span]:
  """Spans without the white space at their ends; those of nothing else are left out."""
  out = []
  for start, end in spans:
    piece = text[start:end]
    left = len(piece) - len(piece.lstrip())
    body = piece.strip()
    if body:
      out.append((start + left, start + left + len(body)))
  return out


def _numbered(text: str, pattern: str) -> list[int]:
  """Where steps start; what stands before the first number belongs to its step."""
  if pattern:
    found = [m.start() for m in re.finditer(pattern, text, re.MULTILINE)]
    return [0, *(start for start in found[1:] if start)]
  starts = _in_turn(_STEP.finditer(text)) or _in_turn(_NUMBER.finditer(text))
  return [0, *starts[1:]]


def _in_turn(matches: Iterable[re.Match[str]]) -> list[int]:
  """Starts of the longest run of numbers that go up by 1; the first of equals."""
  # Last number of a run -> its length, start, and the run without this last one.
  runs: dict[int, tuple[int, int, Any]] = {}
  for match in matches:
    number = int(next(g for g in match.groups() if g is not None)[:9])
    before = runs.get(number - 1)
    length = before[0] + 1 if before else 1
    if number not in runs or length > runs[number][0]:
      runs[number] = (length, match.start(), before)
  run = max(runs.values(), key=lambda r: r[0], default=None)
  starts = []
  while run is not None:
    starts.append(run[1])
    run = run[2]
  return starts[::-1]


def _by_tokens(
  text: str, offsets: Sequence[int], values: Sequence[float], splitter: Splitter
) -> list[Span]:
  """Cuts before the tokens that the threshold names."""
  n = len(values)
  if len(offsets) != n + 1:
    raise ValueError(f'{len(offsets)} offsets for {n} tokens; there must be {n + 1}')
  rising = all(a <= b for a, b in pairwise(offsets))
  if not rising or offsets[0] != 0 or offsets[-1] != len(text):
    raise ValueError(f"offsets must rise from 0 to the text's length, {len(text)}")
  if splitter.how == 'low_confidence':
    cut = [math.exp(value) < splitter.threshold for value in values]
  else:
    cut = [value > (splitter.threshold or ENTROPY) for value in values]
  starts = [0]
  for at, here in zip(offsets, cut):
    # A piece of white space alone goes with what follows it, or with what stands
    # before it at the end of the text.
    if here and text[starts[-1] : at].strip() and text[at:].strip():
      starts.append(at)
  return _between(starts, len(text)) if text.strip() else []


def token_offsets(
  text: str, tokens: Sequence[int], decode: Callable[[Sequence[int]], str]
) -> list[int]:
  """Where each token of a completion starts in its text.

  Args:
    text: the completion; an end token or stop string may have been cut off.
    tokens: [n] ids.
    decode: a tokenizer's.

  Returns:
    [n + 1] offsets in characters for `split`. A token that only finishes a character
    begun before it starts where that character does.
  """
  offsets = [0]
  for i in range(1, len(tokens)):
    # An unfinished character decodes to replacement characters.
    shown = decode(tokens[:i]).rstrip('\ufffd')
    same = len(shown) if text.startswith(shown) else _common(shown, text)
    offsets.append(max(offsets[-1], same))
  return [*offsets, len(text)] if tokens else [len(text)]


def _common(a: str, b: str) -> int:
  return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def find_threshold(
  values: Iterable[Sequence[float]], how: str, share: float = 0.02
) -> float:
  """The threshold that makes about `share` of the tokens cuts.

  Args:
    values: log-probabilities ('low_confidence') or entropies ('entropy') of the
      tokens of some responses, one sequence each.
    how: one of `TOKEN_HOWS`.
    share: of all tokens, between 0 and 1. AdaptiveStep: 0.02.

  Returns:
    For `Splitter.threshold`: at most this share of the tokens lies beyond it, and as
    many as ties allow.

  Raises:
    UserError: no tokens, a share outside (0, 1), or another way of splitting.
  """
  if how not in TOKEN_HOWS:
    raise UserError(f'how={how!r} has no threshold; use {" or ".join(TOKEN_HOWS)}.')
  if not 0 < share < 1:
    raise UserError(f'share={share!r} of the tokens; give one between 0 and 1.')
  sign = 1 if how == 'low_confidence' else -1
  ordered = sorted(sign * v for each in values for v in each)
  if not ordered:
    raise UserError('there are no tokens to find a threshold from; sample some first.')
  bound = sign * ordered[int(share * len(ordered))]
  # 0 would stand for the published threshold.
  return math.exp(bound) if how == 'low_confidence' else max(bound, math.ulp(0.0))
