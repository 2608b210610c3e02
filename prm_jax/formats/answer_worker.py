r"""The process that compares two formulas, for `answer_checker`; a script of its own.

It reads one JSON object a line, {"answer", "gold"}, and answers {"value", "reason"}.
A comparison may hang, or exhaust memory, inside native code; so the kernel holds the
limits: ITIMER_PROF ends the process by SIGPROF when a comparison has used its CPU
time, and RLIMIT_AS bounds its memory. When its input closes (the parent is gone) the
process ends; one that is busy then ends with its comparison or its limit.

Formulas are read by math-verify's LaTeX parser, which evaluates no Python. A verdict
needs two witnesses to be True: math-verify shows equality, and values in high
precision do not contradict it. It is False where values differ, and None otherwise;
`verify` alone calls \pi 10^{-20} and 2\pi 10^{-20} equal, and what it merely cannot
show equal it calls different.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import signal
import sys
from typing import Any

MEMORY = 2 << 30  # bytes of address space
DIGITS = 60
SAME = 1e-45  # relative difference of equal values at DIGITS digits
ZERO = 1e-100  # what is left of a value that cancels exactly
POINTS = 3


def read(text: str) -> Any:
  """The formula of an answer as a sympy object; None if it cannot be read."""
  from latex2sympy2_extended import NormalizationConfig
  from math_verify import LatexExtractionConfig, parse

  # Its units are any letters at the end: 2 - 3t would be -1.
  notation = NormalizationConfig(
    units=False, malformed_operators=True, nits=True, boxed='all'
  )
  config = [
    LatexExtractionConfig(boxed_match_priority=0, normalization_config=notation)
  ]
  found = parse(
    f'\\boxed{{{text}}}', config, fallback_mode='no_fallback', parsing_timeout=None
  )
  return unwrap(found[0]) if found else None


def unwrap(found: Any) -> Any:
  """A set of values of one unknown, x = 1 or x = 2, as the set of its values."""
  import sympy

  if isinstance(found, sympy.FiniteSet) and len(found) > 1:
    unknowns = {e.lhs if _is_assignment(e) else None for e in found}
    if len(unknowns) == 1 and None not in unknowns:
      return sympy.FiniteSet(*(e.rhs for e in found))
  return found


def judge(answer: str, gold: str) -> tuple[bool | None, str]:
  """(verdict, reason) on two formulas."""
  from math_verify import verify

  a, g = read(answer), read(gold)
  if a is None or g is None:
    return None, f'the {"answer" if a is None else "reference"} is no readable formula'
  # y = 2x + 3 may be answered by 2x + 3 and the other way round, but an equation
  # that defines nothing is not its right side.
  if _is_assignment(a) and kind(g) != 'relation':
    a = a.rhs
  elif _is_assignment(g) and kind(a) != 'relation':
    g = g.rhs
  numbers = same_numbers(a, g)
  if numbers is False:
    return False, ''
  alike = same_kind(a, g)
  # The reference goes first: verify is not symmetric.
  if verify(g, a, float_rounding=12, timeout_seconds=None):
    return (
      (True, '') if alike else (None, 'called equal, but different kinds of object')
    )
  if numbers:
    return None, 'equal in numbers, not shown to be equal'
  return None, 'neither shown to be equal nor different'


def _is_assignment(a: Any) -> bool:
  import sympy
  from sympy.core.function import AppliedUndef

  return isinstance(a, sympy.Eq) and isinstance(a.lhs, (sympy.Symbol, AppliedUndef))


def kind(a: Any) -> str:
  """What sort of object a formula is: only alike ones can be equal."""
  import sympy
  from latex2sympy2_extended.logic import And

  if isinstance(a, (sympy.core.relational.Relational, And)):
    return 'relation'
  for name, type_ in (
    ('finite set', sympy.FiniteSet),
    ('set', sympy.Set),
    ('tuple', sympy.Tuple),
    ('matrix', (sympy.MatrixBase, sympy.MatrixExpr)),
    ('value', sympy.Expr),
  ):
    if isinstance(a, type_):
      return name
  return type(a).__name__


def same_kind(a: Any, g: Any) -> bool:
  """Whether 'equal' can be believed of these two."""
  import sympy

  if kind(g) == 'relation' and isinstance(a, sympy.Set) and kind(a) != 'finite set':
    return True  # x > 2 as (2, oo)
  if 'finite set' in (kind(a), kind(g)):
    return sorted(map(kind, members(a))) == sorted(map(kind, members(g)))
  return kind(a) == kind(g)


def members(a: Any) -> list[Any]:
  """Elements of a finite set; a single value is the set of itself."""
  return list(a) if kind(a) == 'finite set' else [a]


def same_numbers(a: Any, g: Any) -> bool | None:
  """Whether two objects have the same values; None if that cannot be computed."""
  import sympy

  kinds = {kind(a), kind(g)}
  if a == g:
    return True
  if kinds == {'value'}:
    return _same_values(a, g)
  if kinds <= {'finite set', 'value'}:
    return _same_members(members(a), members(g))
  if all(isinstance(x, sympy.Interval) for x in (a, g)):
    if (a.left_open, a.right_open) != (g.left_open, g.right_open):
      return False
    return _all_same([a.start, a.end], [g.start, g.end])
  if isinstance(a, sympy.Set) and isinstance(g, sympy.Set):
    return None if 'finite set' in kinds else _same_sets(a, g)
  if 'value' in kinds and kinds & {'set', 'tuple', 'matrix'}:
    return False
  if kinds <= {'tuple', 'set'}:
    pairs = [_ordered(a), _ordered(g)]
    return None if None in pairs else _all_same(*pairs)
  if all(isinstance(x, sympy.MatrixBase) for x in (a, g)):
    return a.shape == g.shape and _all_same(a.flat(), g.flat())
  if all(isinstance(x, sympy.Eq) for x in (a, g)):
    return _same_equations(a, g)
  return None


def _ordered(a: Any) -> list[Any] | None:
  """Elements of a tuple; (1, 2) is read as an open interval."""
  if kind(a) == 'tuple':
    return list(a)
  return [a.start, a.end] if getattr(a, 'is_Interval', False) else None


def _all_same(xs: Any, ys: Any) -> bool | None:
  if len(xs) != len(ys):
    return False
  found = [same_numbers(x, y) for x, y in zip(xs, ys)]
  if False in found:
    return False
  return None if None in found else True


def _same_members(xs: Any, ys: Any) -> bool | None:
  """Whether each element has an equal in the other set."""
  table = [[same_numbers(x, y) for y in ys] for x in xs]
  lines = table + [list(column) for column in zip(*table)]
  if any(all(v is False for v in line) for line in lines):
    return False
  return True if all(True in line for line in lines) else None


def _same_sets(a: Any, g: Any) -> bool | None:
  """Whether nothing lies in one of them alone; None where sympy cannot say."""
  return a.symmetric_difference(g).is_empty


def _same_equations(a: Any, g: Any) -> bool | None:
  """Whether two polynomial equations have the same (complex) solutions.

  They have if one is the other times a constant, multiple factors taken once.
  """
  import sympy

  left, right = (_exact(e.lhs - e.rhs) for e in (a, g))
  names = sorted(left.free_symbols | right.free_symbols, key=str)
  if not names:
    return None
  try:
    forms = [sympy.Poly(e, *names) for e in (left, right)]
  except sympy.PolynomialError:
    return None
  if all(f.domain.is_ZZ or f.domain.is_QQ for f in forms):
    forms = [f.sqf_part() for f in forms]
  elif any(f.total_degree() > 1 or f.free_symbols_in_domain for f in forms):
    return None
  terms = sorted({m for f in forms for m in f.monoms()}, reverse=True)
  row, other = ([f.coeff_monomial(m) for m in terms] for f in forms)
  if not any(row) or not any(other):
    return None
  at = next(i for i, value in enumerate(row) if value)
  if not other[at]:
    return False
  return _all_same([v * other[at] for v in row], [v * row[at] for v in other])


def _exact(a: Any) -> Any:
  """Decimals as the rationals they were written as, units of evaluation opened."""
  import sympy

  a = a.doit()
  return a.xreplace({f: sympy.Rational(str(f)) for f in a.atoms(sympy.Float)})


def _same_values(a: Any, g: Any) -> bool | None:
  """Compares two expressions at a few positive values of their unknowns."""
  import sympy

  a, g = _exact(a), _exact(g)
  names = sorted(a.free_symbols | g.free_symbols, key=str)
  verdict = None
  for point in range(POINTS if names else 1):
    values = {
      s: sympy.I if s.name == 'i' else sympy.Rational(29 + 12 * k + 7 * point, 31)
      for k, s in enumerate(names)
    }
    x, y = _value(a.subs(values)), _value(g.subs(values))
    if x is None or y is None:
      return None
    scale = max(abs(x), abs(y))
    if scale > ZERO and abs(x - y) > SAME * scale:
      return False
    verdict = True
  return verdict


def _value(a: Any) -> Any:
  """A finite number to DIGITS digits, or None."""
  import sympy

  number = sympy.N(a, DIGITS, maxn=4 * DIGITS)
  if not number.is_number or number.has(sympy.oo, -sympy.oo, sympy.zoo, sympy.nan):
    return None
  parts = number.as_real_imag()
  return number if all(p.is_Float or p.is_Rational for p in parts) else None


def serve(cpu_seconds: float) -> None:
  """Answers requests from standard input until it closes."""
  replies = os.fdopen(os.dup(1), 'wb', buffering=0)
  os.dup2(2, 1)  # whatever a library prints
  logging.disable(logging.CRITICAL)
  # Some systems have no such limit; that of CPU time holds there all the same.
  with contextlib.suppress(ValueError, OSError):
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
  judge(r'\frac{\sqrt{2}}{2}', r'\frac{1}{\sqrt{2}}')  # imports and caches, untimed
  signal.signal(signal.SIGPROF, signal.SIG_DFL)
  replies.write(b'{}\n')  # ready
  for line in sys.stdin.buffer:
    request = json.loads(line)
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    try:
      value, reason = judge(request['answer'], request['gold'])
    except Exception:  # of the libraries, MemoryError too: every pair gets a verdict
      value, reason = None, 'the comparison failed'
    signal.setitimer(signal.ITIMER_PROF, 0)
    replies.write(json.dumps({'value': value, 'reason': reason}).encode() + b'\n')


if __name__ == '__main__':
  serve(float(sys.argv[1]))
