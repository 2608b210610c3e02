"""Final answers: finding them in a text, and exact comparison with a reference.

Extraction follows an ordered list of policies and says which one found the answer. A
comparison is exact: equal after normalisation of the notation, or equal as rational
numbers (`fractions.Fraction`). Two answers that are neither, where at least one is not
a plain number, are not judged (None): whether they are equal is a question for a
symbolic checker (`answer_checker`). No tolerance, no factor of 100, no evaluation of
input; every parsed number is bounded, so that no string can hang the comparison.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

from prm_jax.errors import UserError
from prm_jax.formats import answer_units
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


# \! takes blanks away: 10,\!000 is a number, and 10, 000 a list.
_CLOSING = re.compile(r'\s*\\!\s*')
_DEGREE = re.compile(r'\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\degree|°')
_DELETED = re.compile(
  r'\\left|\\right|\\,|\\;|\\:|\\ |\\quad|~|\\displaystyle|\\\(|\\\)|\\\[|\\\]'
  rf'|\\\$|\\%|[$%]|{_DEGREE.pattern}'
)
_TEXT = re.compile(
  r'\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}'
)
_LEFT_SIDE = re.compile(r'^\\?[A-Za-z](?:\([a-z]\))?=(?=.)')
_MIXED = re.compile(r'(-?\d+)\s+(\d+)/(\d+)')
# Of one blank: a deleted sign leaves another, as in $120$ $240$, two numbers.
_GROUPS = re.compile(r'-?\d{1,3}(?:\s\d{3})+(?:\.\d*)?')
_GROUPED = re.compile(r'-?\d{1,3}(?:,\d{3})+(?:\.\d*)?')
_LIST = re.compile(r'\s,|,\s')
_BASE = re.compile(r'([0-9A-Za-z]+)_\{?(\d+)\}?')
_LETTERS = re.compile(r'[A-Za-z]+')
_COMMAND = re.compile(r'\\[A-Za-z]+')

UNDECIDED = 'not plain numbers, and written differently'


def normalise(answer: str) -> str:
  r"""One notation for answers that differ only in notation.

  Removed: white space (but between numbers), dollar and percent signs, degrees, sizing
  and spacing commands, a final full stop, thousands commas (one beside a blank parts a
  list), a trailing unit after a number (see `answer_units`), 'x =' before the rest, the
  parentheses of a choice (C).
  \dfrac and \tfrac become \frac, \text{a} becomes a, x^{2} becomes x^2, the mixed
  number 7 3/4 becomes 7\frac{3}{4}.

  >>> normalise(r'$\dfrac12$'), normalise('1,234 dollars'), normalise(r'x = 5\%')
  ('\\frac{1}{2}', '1234', '5')
  """
  s = answer_units.strike(_plain(answer))[0]
  s = _TEXT.sub(r'\1', s)
  is_list = _LIST.search(s)
  s = _closed_up(s)
  s = _LEFT_SIDE.sub('', s)
  if not is_list and _GROUPED.fullmatch(s):
    s = s.replace(',', '')
  s = re.sub(r'\\frac(\d)(\d)', r'\\frac{\1}{\2}', s)
  s = re.sub(r'\\frac(\d)\{', r'\\frac{\1}{', s)
  s = re.sub(r'(\\frac\{[^{}]*\})(\d)', r'\1{\2}', s)
  s = re.sub(r'\\sqrt(\d)', r'\\sqrt{\1}', s)
  s = re.sub(r'([_^])\{(\w)\}', r'\1\2', s)
  return re.sub(r'^\(([A-Z])\)$', r'\1', s)


def _plain(answer: str) -> str:
  """Without signs and commands that say nothing."""
  s = answer.strip()
  s = s.replace('\\dfrac', '\\frac').replace('\\tfrac', '\\frac').replace('−', '-')
  s = s.replace('{,}', ',')
  s = answer_units.PI.sub(r'\\pi', _CLOSING.sub('', s))
  return _DELETED.sub(' ', s).strip().rstrip('.').strip()


def _closed_up(s: str) -> str:
  """Without white space; numbers that it alone keeps apart stay apart."""
  s = re.sub(r'\\frac\s*(\d)\s+(\d)', r'\\frac{\1}{\2}', s)
  if mixed := _MIXED.fullmatch(s):
    return rf'{mixed[1]}\frac{{{mixed[2]}}}{{{mixed[3]}}}'
  if not _GROUPS.fullmatch(s):
    s = re.sub(r'(?<=\d)\s+(?=\d)', '\x00', s)
  return ''.join(s.split()).replace('\x00', ' ')


_DECIMAL = r'(?:\d+\.?\d*|\.\d+)'
_PLAIN = re.compile(rf'([+-]?)({_DECIMAL})(?:[eE]([+-]?\d{{1,6}}))?')
_RATIO = re.compile(rf'([+-]?)\(?({_DECIMAL})/({_DECIMAL})\)?')
_FRAC = re.compile(rf'([+-]?)(\d*)\\frac\{{([+-]?{_DECIMAL})\}}\{{([+-]?{_DECIMAL})\}}')


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
    False: both are rationals, or single words, or numbers in the same base, and
      differ.
    None: not judged; `reason` says why, and is `UNDECIDED` where a symbolic checker
      may know.
  """
  if max(len(answer), len(gold)) > MAX_LENGTH:
    if answer.strip() == gold.strip():
      return Verdict(True, 'string')
    return Verdict(None, 'string', f'longer than {MAX_LENGTH} characters')
  a, b = normalise(answer), normalise(gold)
  if not a or not b:
    return Verdict(None, 'string', 'empty answer' if not a else 'empty reference')
  x, y = (None, None) if a == b else (rational(answer), rational(gold))
  if a == b or (x is not None and x == y):
    reason = _doubt(answer, gold)
    return Verdict(None if reason else True, 'string' if a == b else 'rational', reason)
  if x is not None and y is not None:
    reason = _other_units(answer, gold)
    return Verdict(None if reason else False, 'rational', reason)
  if (base := _BASE.fullmatch(a)) and (other := _BASE.fullmatch(b)):
    if base[2] == other[2]:
      return Verdict(False, 'base')
    return Verdict(None, 'base', 'numbers in different bases')
  if _is_word(answer, a) and _is_word(gold, b):
    return _words(a.casefold(), b.casefold())
  return Verdict(None, 'rational', UNDECIDED)


def _doubt(answer: str, gold: str) -> str:
  """Why answers that look equal once normalised may still differ, or ''."""
  if answer == gold:
    return ''
  if reason := _other_units(answer, gold):
    return reason
  left, right = (_LEFT_SIDE.match(''.join(_plain(s).split())) for s in (answer, gold))
  sides = {m.group() for m in (left, right) if m}
  # The lines x = 3 and y = 3; but f(x) = may stand for y =.
  return 'different unknowns' if len(sides) == 2 and '(' not in ''.join(sides) else ''


def _other_units(answer: str, gold: str) -> str:
  """Why values with units are not judged, as 2 hours and 120 minutes, or ''."""
  units = [answer_units.strike(_plain(s))[1] for s in (answer, gold)]
  if not all(units):
    # A sign goes with most words ($5 per hour), but not with what another one means.
    units = [u or _sign(s) for u, s in zip(units, (answer, gold))]
    if not all(u in ('dollar', 'cent', 'percent', 'degree') for u in units):
      return ''
  return 'units differ' if units[0] != units[1] else ''


def _sign(answer: str) -> str:
  """The unit that a sign states, or ''."""
  if answer.count('$') % 2:  # those around a formula come in pairs
    return 'dollar'
  return 'percent' if '%' in answer else 'degree' if _DEGREE.search(answer) else ''


def _is_word(answer: str, normal: str) -> bool:
  letters = _LETTERS.findall(_COMMAND.sub(' ', answer))
  return len(letters) == 1 and _LETTERS.fullmatch(normal) is not None


def _words(a: str, b: str) -> Verdict:
  """Single words: odd and even differ; c and C, ab and ba, no and none may not."""
  if a == b and len(a) > 1:
    return Verdict(True, 'words')
  if a in b or b in a or sorted(a) == sorted(b):
    return Verdict(None, 'words', 'words that resemble each other')
  return Verdict(False, 'words')


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
