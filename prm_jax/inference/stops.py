"""Where a completion ends, and its text.

A stop string of a single byte can only lie inside one token, so the device itself
stops at the tokens that hold it. A longer one may begin in one token and end in
another: the host looks for it in the text every few tokens. Either way the completion
ends with the first token at which its text holds a stop string.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from prm_jax.formats.tokenizers import Tokenizer


class Ending(NamedTuple):
  """Of a completion.

  Attributes:
    text: without the end token; the stop string kept or not, as asked.
    n_tokens: tokens up to and including the one that ended it.
    finish_reason: one of `requests.FINISH_REASONS`.
  """

  text: str
  n_tokens: int
  finish_reason: str


def whole_characters(text: str, separator: str) -> str:
  """An open step's text without a half character or half a separator at its end.

  What is left out is drawn again with what follows it: read as text, half a separator
  would hide the whole one.
  """
  text = text.rstrip('\ufffd')
  for size in range(len(separator) - 1, 0, -1):
    if text.endswith(separator[:size]):
      return text[:-size]
  return text


class Stops:
  """What ends the completions of one call.

  Args:
    tokenizer: of the policy.
    end: id of the end token, None if there is none.
    strings: stop strings.
    keep: leave the stop string in the text.

  Attributes:
    ids: bool [vocabulary], tokens at which the device stops.
    crossing: whether the host has to look at the text.
  """

  def __init__(
    self,
    tokenizer: Tokenizer,
    end: int | None,
    strings: Sequence[str] = (),
    keep: bool = False,
  ):
    self._tokenizer, self._end = tokenizer, end
    self._strings, self._keep = tuple(strings), keep
    self.crossing = any(len(s.encode('utf-8', 'replace')) > 1 for s in strings)
    self.ids = np.zeros(tokenizer.vocab_size, bool)
    if end is not None:
      self.ids[end] = True
    for i in range(tokenizer.vocab_size if strings else 0):
      self.ids[i] |= self._find(tokenizer.decode([i])) is not None
    self._longest = max((len(s.encode('utf-8', 'replace')) for s in strings), default=0)

  def _find(self, text: str) -> tuple[int, int] | None:
    """(start, length) of the first stop string, of the shortest where two begin."""
    found = [(text.find(s), len(s)) for s in self._strings]
    return min((f for f in found if f[0] >= 0), default=None)

  def text(self, before: int, tokens: Sequence[int]) -> str:
    """Text of tokens that follow `before`; some decoders drop a leading space."""
    head = len(self._tokenizer.decode([before]))
    return self._tokenizer.decode([before, *tokens])[head:]

  def seen(self, before: int, tokens: Sequence[int], n_new: int) -> bool:
    """Whether a stop string ends within the last `n_new` of `tokens`."""
    start = max(0, len(tokens) - n_new - self._longest)
    if start:
      before = tokens[start - 1]
    return self._find(self.text(before, tokens[start:])) is not None

  def ending(self, before: int, tokens: Sequence[int]) -> Ending:
    """Where a completion ends.

    Args:
      before: the last token of its prompt.
      tokens: what was drawn, perhaps beyond its end.
    """
    ended = tokens[-1] == self._end
    body = tokens[:-1] if ended else tokens
    text = self.text(before, body)
    if self._find(text) is None:
      return Ending(text, len(tokens), 'end' if ended else 'length')
    low, high = 1, len(body)
    while low < high:
      middle = (low + high) // 2
      if self._find(self.text(before, body[:middle])) is None:
        low = middle + 1
      else:
        high = middle
    text = self.text(before, body[:low])
    start, length = self._find(text) or (len(text), 0)
    return Ending(text[: start + length * self._keep], low, 'stop')
