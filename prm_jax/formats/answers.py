"""Final answers: finding them in a text, and exact comparison with a reference.

Extraction follows an ordered list of policies and says which one found the answer. A
comparison is exact: equal after normalisation of the notation, or equal as rational
numbers (`fractions.Fraction`). Two answers that are neither, where at least one is not
a plain number, are not judged (None): whether they are equal is a question for a
symbolic checker. No tolerance, no factor of 100, no evaluation of input; every
parsed number is bounded, so that no string can hang the comparison.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

from prm_jax.errors import UserError
from prm_jax.records import Trajectory, Verdict

MAX_LENGTH = 1000
MAX_DIGITS = 100
MAX_EXPONENT = 100

NUMBER = re.compile(
  r'(?<![\w.])-?\$?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:/\d+)?|-?\$?\.\d+'
)

_BOX = re.compile(r'\\(?:boxed|fbox)(?![A-Za-z])\s*')
_BARE = re.compile(r'(?<=\s)[^\s${}]+')
_BRACE = re.compile(r'\\.|[{}]', re.DOTALL)


class Answer(NamedTuple):
  """An extracted answer and the policy that found it."""

  text: str
  method: str


def boxed(text: str) -> str | None:
  r"""Content of the last \boxed{...} (or \fbox), braces matched; None if none closes.

  >>> boxed(r'so \boxed{\frac{1}{2}}.')
  '\\frac{1}{2}'
  """
  closing = _closing_braces(text)
  for box in reversed(list(_BOX.finditer(text))):
    at = box.end()
    if text[at : at + 1] == '{':
      if at in closing:
        return text[at + 1 : closing[at]].strip()
    elif bare := _BARE.match(text, at):
      content = bare.group().strip('.,')
      if content:
        return content
  return None


def _closing_braces(text: str) -> dict[int, int]:
  """Place of each opening brace that closes -> of its closing one, in one pass."""
  opened: list[int] = []
  closing = {}
  for match in _BRACE.finditer(text):
    if match.group() == '{':
      opened.append(match.start())
    elif match.group() == '}' and opened:
      closing[opened.pop()] = match.start()
  return closing


def hash_line(text: str) -> str | None:
  """What follows the last '####' on its line (GSM8K's reference solutions)."""
  _, found, rest = text.rpartition('####')
  return (rest.strip().split('\n')[0].strip() or None) if found else None


def a_line(text: str) -> str | None:
  """What follows 'A:' on the last line that starts so (GSM8K's model samples)."""
  found = re.findall(r'^[ \t]*A:[ \t]*(\S[^\n]*)$', text, re.MULTILINE)
  return found[-1].strip() if found else None


def last_number(text: str) -> str | None:
  """The last number of the text: digits with thousands commas, decimals, or a/b.

  A guess: it takes any number the text happens to end with, so a truncated
  solution has an 'answer' too. Not for labels or rewards.
  """
  found = None
  for match in NUMBER.finditer(text):
    found = match.group()
  return found


EXTRACTORS: dict[str, Callable[[str], str | None]] = {
  'boxed': boxed,
  'hash': hash_line,
  'a_line': a_line,
  'last_number': last_number,
}


def extract(text: str, policies: Sequence[str] = ('boxed',)) -> Answer | None:
  """The final answer by the first policy that finds one; None if none does.

  Args:
    text: a response or the joined steps.
    policies: names in `EXTRACTORS`, in order.

  Raises:
    UserError: an unknown policy.
  """
  for name in policies:
    if name not in EXTRACTORS:
      raise UserError(
        f'answer policy {name!r} is unknown; choose from {", ".join(EXTRACTORS)}.'
      )
    found = EXTRACTORS[name](text)
    if found:
      return Answer(found, name)
  return None


_DELETED = re.compile(
  r'\\left|\\right|\\!|\\,|\\;|\\:|\\ |\\quad|~|\\displaystyle|\\\(|\\\)|\\\[|\\\]'
  r'|\\\$|\\%|[$%]|\^\s*\{?\s*\\circ\s*\}?|\\degree|°'
)
_TEXT = re.compile(
  r'\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}'
)
_UNIT = re.compile(r'(?<=[\d}])(?:\\(?:text|mathrm|mbox)\{[^{}]*\}(?:\^\{?\d\}?)?)$')
_WORDS = re.compile(r'^(-?[\d.,/]+)\s+[A-Za-z][A-Za-z .]*$')


def normalise(answer: str) -> str:
  r"""One notation for answers that differ only in notation.

  Removed: white space, dollar and percent signs, degrees, sizing and spacing commands,
  a final full stop, thousands commas, a trailing unit in \text{} or in words after a
  number, 'x =' before the rest, the parentheses of a choice (C). \dfrac and \tfrac
  become \frac, \text{a} becomes a, x^{2} becomes x^2.

  >>> normalise(r'$\dfrac12$'), normalise('1,234 dollars'), normalise(r'x = 5\%')
  ('\\frac{1}{2}', '1234', '5')
  """
  s = answer.strip()
  s = s.replace('\\dfrac', '\\frac').replace('\\tfrac', '\\frac').replace('−', '-')
  s = s.replace('{,}', ',')
  s = _DELETED.sub(' ', s).strip().rstrip('.').strip()
  bare = ''.join(s.split())
  s = _UNIT.sub('', bare) if _UNIT.search(bare) else s
  words = _WORDS.match(s)
  s = words.group(1) if words else s
  s = _TEXT.sub(r'\1', s)
  s = ''.join(s.split())
  s = re.sub(r'^\\?[A-Za-z](?:\([a-z]\))?=(?=.)', '', s)
  if re.fullmatch(r'-?\d{1,3}(?:,\d{3})+(?:\.\d*)?', s):
    s = s.replace(',', '')
  s = re.sub(r'\\frac(\d)(\d)', r'\\frac{\1}{\2}', s)
  s = re.sub(r'\\frac(\d)\{', r'\\frac{\1}{', s)
  s = re.sub(r'(\\frac\{[^{}]*\})(\d)', r'\1{\2}', s)
  s = re.sub(r'\\sqrt(\d)', r'\\sqrt{\1}', s)
  s = re.sub(r'([_^])\{(\w)\}', r'\1\2', s)
  return re.sub(r'^\(([A-Z])\)$', r'\1', s)


_DECIMAL = r'(?:\d+\.?\d*|\.\d+)'
_PLAIN = re.compile(rf'([+-]?)({_DECIMAL})(?:[eE]([+-]?\d{{1,6}}))?')
_RATIO = re.compile(rf'([+-]?)\(?({_DECIMAL})/({_DECIMAL})\)?')
_FRAC = re.compile(
  rf'([+-]?)(\d*)\\frac\{{([+-]?{_DECIMAL})\}}\{{([+-]?{_DECIMAL})\}}'
)


def rational(answer: str) -> Fraction | None:
  r"""The rational number an answer states; None if it is not plainly one.

  Integers, decimals, 1e3, a/b, \frac{a}{b}, mixed numbers 7\frac{3}{4}. Numbers of
  more than 100 digits or with an exponent beyond 100 are not read.

  >>> rational('-1,000.50'), rational(r'7\frac{3}{4}'), rational('1e999999')
  (Fraction(-2001, 2), Fraction(31, 4), None)
  """
  if len(answer) > MAX_LENGTH:
    return None
  s = normalise(answer)
  if sum(c.isdigit() for c in s) > MAX_DIGITS or not s.isascii():
    return None
  if match := _PLAIN.fullmatch(s):
    exponent = int(match[3] or 0)
    if abs(exponent) > MAX_EXPONENT:
      return None
    return _signed(match[1], Fraction(match[2]) * Fraction(10) ** exponent)
  if match := _RATIO.fullmatch(s):
    bottom = Fraction(match[3])
    return _signed(match[1], Fraction(match[2]) / bottom) if bottom else None
  if match := _FRAC.fullmatch(s):
    top, bottom = Fraction(match[3]), Fraction(match[4])
    if not bottom or (match[2] and (top < 0 or bottom < 0)):
      return None
    return _signed(match[1], Fraction(match[2] or 0) + top / bottom)
  return None


def _signed(sign: str, value: Fraction) -> Fraction:
  return -value if sign == '-' else value


def compare(answer: str, gold: str) -> Verdict:
  """Whether `answer` states the reference answer `gold`.

  Returns:
    True: same text after normalisation ('string'), or same rational ('rational').
    False: both are rationals and differ.
    None: not judged; `reason` says why.
  """
  if max(len(answer), len(gold)) > MAX_LENGTH:
    if answer.strip() == gold.strip():
      return Verdict(True, 'string')
    return Verdict(None, 'string', f'longer than {MAX_LENGTH} characters')
  a, b = normalise(answer), normalise(gold)
  if not a or not b:
    return Verdict(None, 'string', 'empty answer' if not a else 'empty reference')
  if a == b:
    return Verdict(True, 'string')
  x, y = rational(answer), rational(gold)
  if x is not None and y is not None:
    return Verdict(x == y, 'rational')
  return Verdict(None, 'rational', 'not plain numbers, and written differently')


def check(
  text: str, gold: str | None, policies: Sequence[str] = ('boxed',)
) -> tuple[Answer | None, Verdict]:
  """Extracts the answer of a response and compares it with the reference."""
  answer = extract(text, policies)
  if gold is None:
    return answer, Verdict(None, 'exact', 'no reference answer')
  if answer is None:
    return None, Verdict(None, 'exact', 'no answer found')
  verdict = compare(answer.text, gold)
  method = f'{answer.method}/{verdict.method}'
  return answer, Verdict(verdict.value, method, verdict.reason)


def check_trajectory(
  trajectory: Trajectory, policies: Sequence[str] = ('boxed',)
) -> Verdict:
  """Verdict on a record: from its response, else its answer, else its steps."""
  t = trajectory
  if t.response is None and t.answer is not None and t.gold_answer is not None:
    return compare(t.answer, t.gold_answer)
  text = t.separator.join(t.steps) if t.response is None else t.response
  return check(text, t.gold_answer, policies)[1]
