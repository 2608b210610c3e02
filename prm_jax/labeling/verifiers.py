"""Tools that verify a step: pure functions of (question, steps before, step).

A verifier answers True (right), False (wrong) or None (it cannot tell).

- `calculator`: exact rational arithmetic on the equations that a step states.
- `world`: the embedded world's own reading of a line.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from prm_jax.worlds import truths
from prm_jax.worlds.problems import WorldConfig

Verifier = Callable[[str, tuple[str, ...], str], bool | None]

_MAX_DIGITS = 40
_MAX_TOKENS = 200
_MAX_DEPTH = 20
_MAX_POWER = 64

# LaTeX and typography to plain signs; what is left of LaTeX stays and is not read.
_PLAIN = (
  (re.compile(r'\\(?:times|cdot)(?![A-Za-z])|[×·∙]'), '*'),
  (re.compile(r'\\div(?![A-Za-z])|÷'), '/'),
  (re.compile(r'\\[dt]?frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}'), r'((\1)/(\2))'),
  (re.compile(r'\\left(?=\()|\\right(?=\))|\\[,;!:]|\\?\$|\\[()\[\]]'), ' '),
  (re.compile(r'−'), '-'),
  (re.compile(r'\*\*'), '^'),
  (re.compile(r'(?<=\d),(?=\d{3}(?!\d))'), ''),
  (re.compile(r'(?<=\d)\s+[xX]\s+(?=\d)'), ' * '),
)
# An equals sign that states equality: not part of <=, >=, !=, ==, =>.
_EQUALS = re.compile(r'(?<![<>!=:~≠])=(?![=>])')
_SIDE = frozenset('0123456789 \t.+-*/^()')
# Words before an expression that take part in the arithmetic.
_PART = re.compile(
  'of|times|plus|minus|by|over|than|half|twice|double|triple|mod|sqrt|log|root|ln|exp|'
  'a?(?:rc)?(?:sin|cos|tan|cot|sec|csc)h?|max|min|abs|gcd|lcm|choose|negative|from|'
  'power|squared|cubed|(?:twen|thir|for|fif|six|seven|eigh|nine)ty|hundred|thousand|'
  '[mbtr]+illion'
)
_ADDED = re.compile(r'\badd[a-z]*\b[^.,;:=]*\bto\Z', re.IGNORECASE)
# After an expression: its last number goes on (7x, 7 %, 7 y, 7 remainder 1, 7 percent,
# 7 million, 7 squared, 7 times 2, 7 and 1/2, 7 and a half).
_FRACTION = '(?:half|(?:third|quarter|fourth|fifth|sixth|eighth|tenth)s?|halves)'
_GOES_ON = re.compile(
  r':\d|[%!{\\_°[]|[A-Za-z](?![A-Za-z])|to the (?:power|\d)|'
  r'(?:(?:with (?:a )?)?remainder|mod|per ?cent|pct|hundred|thousand|[mbtr]+illion|'
  rf'dozen|squared|cubed|{_FRACTION})\b|'
  r'(?:times|plus|minus|over|divided by|multiplied by)\s+[-(]*\d|'
  rf'and\s+(?:\(?\d+\s*/\s*\d+(?!\s*[-+*/^=\d])|[a-z]+\s+{_FRACTION}\b)',
  re.IGNORECASE,
)
_BULLET = re.compile(r'\A-\s+')
_OPERATION = re.compile(r'[\d)]\s*[-+*/^]')
_TOKEN = re.compile(r'\s*(?:(\d+(?:\.\d+)?|\.\d+)|([-+*/^()]))')


def calculator(question: str, before: tuple[str, ...], step: str) -> bool | None:
  """Checks every equation of numbers in a step, such as `3 * (4 + 1) = 15`.

  Arithmetic is exact. A side that is one number written with decimals agrees with what
  rounds or cuts to it (`10 / 3 = 3.33`). A chain `a + b = c = d` is checked link
  by link. A dash and a blank at the start of a line begin an item of a list, or a
  negative number; either may hold. Equations that hold anything but numbers and
  + - * / ^ ( ), or stand inside a larger expression (`x + 3 = 7`, `20% of 50 = 10`),
  are not judged.

  Returns:
    False if some equation is wrong; True if there are equations and all are right;
    None if there is none to judge.
  """
  verdicts = [_agrees(a, b) for a, b in equations(step)]
  known = [v for v in verdicts if v is not None]
  return all(known) if known else None


def equations(text: str) -> list[tuple[str, str]]:
  """(left, right) of every equation of numbers in a text that has an operation."""
  found = []
  for line in text.replace('<<', '\n').replace('>>', '\n').splitlines():
    for pattern, sign in _PLAIN:
      line = pattern.sub(sign, line)
    first, *others = _EQUALS.split(line)
    left = _ending(first)
    bullet = _BULLET.match(first.lstrip()) is not None
    for part in others:
      right = _whole(part) or _starting(part)
      if left and right and (_OPERATION.search(left) or _OPERATION.search(right)):
        # A dash and a blank begin an item of a list, or a negative number.
        item = _BULLET.sub('', left) if bullet else left
        found.append((item if _agrees(item, right) else left, right))
      left, bullet = _whole(part) or _ending(part), False
  return found


def _whole(part: str) -> str:
  """A part that holds an expression and nothing else; '' if it does not."""
  alone = _SIDE.issuperset(part) and not re.search(r'\.\s', part.rstrip(' .'))
  return part.rstrip(' \t.').strip() if alone else ''


def _ending(part: str) -> str:
  """The expression right before the first equals sign; '' if there is none.

  It must stand alone: at the start of the text or of a sentence, after a mark, or
  after a word that takes no part in the arithmetic.
  """
  at = len(part)
  while at and part[at - 1] in _SIDE:
    at -= 1
  before, side = part[:at], part[at:]
  sentences = re.split(r'\.\s', side)
  if len(sentences) > 1:
    return sentences[-1].strip()
  if not before or before[-1] in ':,;':
    return side.strip()
  word = re.search(r'(?<![A-Za-z\\])[A-Za-z]{2,}\Z', before)
  free = word is not None and not _PART.fullmatch(word.group().lower())
  free = free and not _ADDED.search(before)
  starts = re.match(r'\s+[\d(]', side) is not None
  return side.strip() if free and starts and _OPERATION.search(side) else ''


def _starting(part: str) -> str:
  """The expression right after the last equals sign; '' if there is none."""
  at = 0
  while at < len(part) and part[at] in _SIDE:
    at += 1
  sentence = re.match(r'.*?\.(?=\s)', part[:at])
  if sentence:
    return sentence.group()[:-1].strip()
  side = re.sub(r'[\s.(]+\Z', '', part[:at])
  return (
    '' if _GOES_ON.match(part[at:]) or side[-1:] in tuple('+-*/^') else side.strip()
  )


def _agrees(left: str, right: str) -> bool | None:
  a, b = evaluate(left), evaluate(right)
  if a is None or b is None:
    return None
  return a == b or _written(a, b, _places(right)) or _written(b, a, _places(left))


def _written(exact: Fraction, shown: Fraction, places: int) -> bool:
  """Whether a number rounds or cuts to what is written with so many decimals."""
  scale = 10**places
  cut = int(exact * scale) == shown * scale
  return places > 0 and (cut or 2 * scale * abs(exact - shown) <= 1)


def _places(side: str) -> int:
  """Digits after the point, if the side is one number; 0 otherwise."""
  match = re.fullmatch(r'-?\d*\.(\d+)', side.strip())
  return len(match.group(1)) if match else 0


def evaluate(text: str) -> Fraction | None:
  """Exact value of an expression of numbers, + - * / ^ and brackets.

  None where it is not one, divides by 0, or is larger than is sensible.

  >>> evaluate('2 * (3 + 4) / 4')
  Fraction(7, 2)
  """
  tokens: list[str] = []
  at = 0
  text = text.strip()
  while at < len(text):
    match = _TOKEN.match(text, at)
    if match is None or len(match.group(1) or '') > _MAX_DIGITS:
      return None
    tokens.append(match.group(1) or match.group(2))
    at = match.end()
  if len(tokens) > _MAX_TOKENS:
    return None
  parser = _Parser(tokens)
  try:
    value = parser.sum()
  except (_NotOne, ZeroDivisionError):
    return None
  return value if parser.at == len(tokens) else None


class _NotOne(Exception):
  """What was read is not an expression."""


class _Parser:
  """Recursive descent; `at` is the next token, `depth` the open brackets and signs."""

  def __init__(self, tokens: list[str]):
    self.tokens = tokens
    self.at = 0
    self.depth = 0

  def take(self, *signs: str) -> str:
    """The next token if it is one of `signs`, else ''."""
    if self.at < len(self.tokens) and self.tokens[self.at] in signs:
      self.at += 1
      return self.tokens[self.at - 1]
    return ''

  def sum(self) -> Fraction:
    value = self.product()
    while sign := self.take('+', '-'):
      term = self.product()
      value = value + term if sign == '+' else value - term
    return value

  def product(self) -> Fraction:
    value = self.signed()
    while sign := self.take('*', '/'):
      factor = self.signed()
      value = value * factor if sign == '*' else value / factor
    return value

  def signed(self) -> Fraction:
    if not self.take('-'):
      return self.power()
    self.deeper()
    value = -self.signed()
    self.depth -= 1
    return value

  def deeper(self) -> None:
    self.depth += 1
    if self.depth > _MAX_DEPTH:
      raise _NotOne

  def power(self) -> Fraction:
    base = self.atom()
    if not self.take('^'):
      return base
    exponent = self.signed()
    small = abs(base.numerator) < 10**6 and base.denominator < 10**6
    if exponent.denominator != 1 or abs(exponent) > _MAX_POWER or not small:
      raise _NotOne
    return base ** int(exponent)

  def atom(self) -> Fraction:
    if self.take('('):
      self.deeper()
      value = self.sum()
      if not self.take(')'):
        raise _NotOne
      self.depth -= 1
      return value
    if self.at >= len(self.tokens) or self.tokens[self.at] in '+-*/^)':
      raise _NotOne
    self.at += 1
    return Fraction(self.tokens[self.at - 1])


def world(max_value: int = 9) -> Verifier:
  """The embedded world's verifier: does the line follow from the line before?

  Args:
    max_value: largest value of the world; its operations wrap around after it.

  Returns:
    A verifier that answers None for a question that is not of such a world.
  """
  config = WorldConfig(
    max_value=max_value, max_operand=99, operator_weights=(1, 1, 1, 1, 1), wrap=True
  )

  def verify(question: str, before: tuple[str, ...], step: str) -> bool | None:
    judged = truths.judge(config, question, (*before, step))
    return None if judged is None else judged.valid[-1]

  return verify


NAMES = ('calculator', 'world')


def make(name: str, max_value: int = 9) -> Verifier:
  """The verifier of a name in `NAMES`."""
  return world(max_value) if name == 'world' else calculator
