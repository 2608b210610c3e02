r"""Units of answers: which letters may be struck out, and which make another value.

A word in \text{} after a number is its unit, and so are plain words and symbols of
two letters and more that follow a number and a blank: 5\text{ m}, 5 cm, 10 km/h,
12 square units. Words that change the value (5 million, 2 thirds) and letters that may
be unknowns (2 x, 6 i, 2 a b) are none. Symbols that may be either (5 m, 5cm) are left
where they are, and pairs of answers that differ by them alone are in doubt.
"""

from __future__ import annotations

import re
import string

# Symbol -> its unit; units after a number and a blank.
SYMBOLS = {
  'mm': 'millimeter',
  'cm': 'centimeter',
  'dm': 'decimeter',
  'km': 'kilometer',
  'in': 'inch',
  'inches': 'inch',
  'ft': 'foot',
  'feet': 'foot',
  'yd': 'yard',
  'mi': 'mile',
  'gm': 'gram',
  'kg': 'kilogram',
  'lb': 'pound',
  'lbs': 'pound',
  'oz': 'ounce',
  'sec': 'second',
  'min': 'minute',
  'mins': 'minute',
  'hr': 'hour',
  'hrs': 'hour',
  'yr': 'year',
  'yrs': 'year',
  'mph': 'mile per hour',
  'deg': 'degree',
  'usd': 'dollar',
}
# Units in \text{}; after a bare number they may be unknowns as well.
LETTERS = {
  'm': 'meter',
  'g': 'gram',
  's': 'second',
  'h': 'hour',
  'l': 'liter',
  'L': 'liter',
  'N': 'newton',
  'J': 'joule',
  'W': 'watt',
  'V': 'volt',
  'C': 'celsius',
  'F': 'fahrenheit',
  'K': 'kelvin',
  'mg': 'milligram',
  'mL': 'milliliter',
  'ml': 'milliliter',
  'ms': 'millisecond',
  'ha': 'hectare',
  'am': 'am',
  'pm': 'pm',
  # Thousands and millions: 5k is not 5.
  'k': 'k',
  'M': 'M',
}

_SHORT = re.compile(
  r'(?:bag|box|bus|can|car|cat|cow|cup|day|dog|egg|fox|hat|hen|man|men|pen|pie|pig|toy'
  r'|way)s?'
)
_NOUN = re.compile(r'(?=.*[aeiouy])[a-z]{4,}')
_VALUE = re.compile(
  r'(?:pi|alpha|beta|gamma|delta|epsilon|theta|kappa|lambda|sigma|omega|phi|infinity'
  r'|hundred|thousand|million|billion|trillion|lakh|crore|dozen|gross'
  r'|half|halve|third|fourth|quarter|fifth|sixth|seventh|eighth|ninth|tenth'
  r'|hundredth|thousandth|millionth|billionth'
  r'|minus|negative|below|zero|sqrt|squared|cubed|factorial)s?',
  re.IGNORECASE,
)

# Pi in letters, which is no unit and no product.
PI = re.compile(r'(?<![A-Za-z\\])pi(?![A-Za-z])')
_EXPONENT = r'\s*\^\s*(?:-?\d|\{-?\d\})'
_TEXT = rf'\\(?:text|mathrm|mbox)\s*\{{[^{{}}]*\}}(?:{_EXPONENT})?'
_RATIO = rf'\\[dt]?frac\s*\{{{_TEXT}\}}\s*\{{{_TEXT}\}}'
_ORDINAL = re.compile(r'(?:1st|2nd|3rd|\dth)$')
_TEXTS = rf'((?:(?:{_TEXT}|{_RATIO})(?:[\s~/]|\\[,;!]|\\cdot)*)+)$'
_AFTER_NUMBER = re.compile(rf'(?<=[\d}}])\s*{_TEXTS}')
_AFTER_FORMULA = re.compile(rf'(?<=[\w}})\]])(?:\\[ ,;!]|~|\s)*{_TEXTS}')
_PLAIN = rf'[A-Za-z](?:[A-Za-z ./]|{_EXPONENT}|\\cdot)*'
_WORDS = re.compile(rf'(-?[\d.,/]+(?:\s+\d+/\d+)?)\s+({_PLAIN})')
_AFTER_TERM = re.compile(rf'([\d}})\]]\s*|\w\s+)({_PLAIN})(?=\s*(?:[,)\]&\\]|$))')
_LEFT_SIDE = re.compile(r'^\s*\\?[A-Za-z](?:\([a-z]\))?\s*=')
_SYNTAX = re.compile(rf'\\(?:text|mathrm|mbox|cdot|[dt]?frac)|{_EXPONENT}')
_WORD = re.compile(r'[A-Za-z]+')
_COMMAND = re.compile(r'\\[A-Za-z]+')


def strike(s: str) -> tuple[str, str]:
  r"""(the rest, name) of a number and its unit; (s, '') without one.

  >>> strike(r'5\text{ m}/\text{s}^2'), strike('3 ft'), strike('5 million')
  (('5', 'meter per second'), ('3', 'foot'), ('5 million', ''))
  """
  name = ''
  if (text := _AFTER_NUMBER.search(s)) and _is_text_unit(text[1]):
    s, name = s[: text.start()], _name(text[1])
  if (plain := _WORDS.fullmatch(s)) and _is_plain_unit(plain[2]):
    s, name = plain[1], f'{_name(plain[2])} {name}'.strip()
  if _ORDINAL.search(s):
    s, name = s[:-2], f'th {name}'.strip()
  return s, name


def strike_text(s: str) -> tuple[str, str]:
  r"""(the rest, name) of any formula and the unit in \text{} at its end.

  >>> strike_text(r'2\pi\text{ cm}^2'), strike_text(r'6\mathrm{i}')
  (('2\\pi', 'centimeter'), ('6\\mathrm{i}', ''))
  """
  text = _AFTER_FORMULA.search(s)
  if text and _is_text_unit(text[1]):
    return s[: text.start()], _name(text[1])
  return s, ''


def may_be_units(s: str, other: str) -> bool:
  """Whether two formulas differ in letters that may be units, and in no unknown.

  >>> may_be_units('5 m/s', '5'), may_be_units('5m', '4m'), may_be_units('5 m', '5x')
  (True, False, False)
  """
  (rest, units), (other_rest, others) = _loose(s), _loose(other)
  return units != others and _unknowns(rest) == _unknowns(other_rest)


def _loose(s: str) -> tuple[str, list[str]]:
  """A formula without the letters that may be units of its terms, and their names."""
  found = []

  def take(match: re.Match[str]) -> str:
    if not all(w in LETTERS or w.casefold() in SYMBOLS for w in _words(match[2])):
      return match[0]
    found.append(_name(match[2]))
    return match[1]

  return _AFTER_TERM.sub(take, _LEFT_SIDE.sub('', s)), found


def _unknowns(s: str) -> set[str]:
  return set(_WORD.findall(_COMMAND.sub(' ', s)))


def _words(unit: str) -> list[str]:
  return _WORD.findall(_SYNTAX.sub(' ', unit))


def _is_text_unit(unit: str) -> bool:
  r"""Whether a text is a unit: \text{m} is, \mathrm{i} and \text{ million} are not."""
  words = _words(unit)
  if len(words) == 1 and len(words[0]) == 1:
    return words[0] in LETTERS
  return not any(map(_VALUE.fullmatch, words))


def _is_plain_unit(unit: str) -> bool:
  """Whether plain letters are a unit: no unknown among them, and one unit for sure."""
  words = _words(unit)
  if any((len(w) == 1 and w not in LETTERS) or _VALUE.fullmatch(w) for w in words):
    return False
  return any(w.casefold() in SYMBOLS or _is_noun(w.casefold()) for w in words)


def _is_noun(word: str) -> bool:
  """Whether letters are a word, not the product of unknowns: cups, not xy or abcd."""
  return _SHORT.fullmatch(word) is not None or (
    _NOUN.fullmatch(word) is not None and word not in string.ascii_lowercase
  )


def _name(unit: str) -> str:
  """A unit without number, square and cubic, which its notations agree in; or ''."""
  words = _words(_SYNTAX.sub(' ', unit).replace('/', ' per '))
  names = [LETTERS.get(w) or SYMBOLS.get(w.casefold()) or w.casefold() for w in words]
  names = [n.removesuffix('s') for n in names]
  return ' '.join(n for n in names if n not in ('square', 'cubic', 'unit'))
