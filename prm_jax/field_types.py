"""Values of a config or a file, held against the types that a dataclass declares."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from typing import Any

from prm_jax.errors import UserError

_NAMES: dict[type, str] = {
  int: 'a whole number', float: 'a number', str: 'a text', bool: 'True or False',
}  # fmt: skip


def check(where: str, cls: type[Any], values: Mapping[str, Any]) -> None:
  """Refuses values of another type than the field of the same name in `cls`.

  A whole number is a number too; a truth value and an infinite number are none. Of
  tuples their length, where it is declared, and all elements are checked.

  Args:
    where: begins the sentence, directly before the field's name: 'optimizer.' where
      that is a key of the config.
    cls: a dataclass with fields int, float, str, bool, or tuples of one of these.
    values: by field; others keep their defaults.

  Raises:
    UserError: names the field, its value and what it must be.
  """
  hints = typing.get_type_hints(cls)
  for name, value in values.items():
    if what := _misfit(value, hints[name]):
      raise UserError(f'{where}{name}={value!r} must be {what}.')


def _misfit(value: Any, hint: Any) -> str:
  """What the value would have to be, '' if it is."""
  if hint in _NAMES:
    return '' if _is(value, hint) else _NAMES[hint]
  kinds = typing.get_args(hint)  # none of a tuple that mixes types
  size = 0 if not kinds or kinds[-1] is ... else len(kinds)
  fits = isinstance(value, (tuple, list)) and (not size or len(value) == size)
  if fits and all(_is(v, kinds[0]) for v in value if kinds):
    return ''
  of = f' of {size},' if size else ''
  return f'a tuple{of} with {_NAMES[kinds[0]]} at each place' if kinds else 'a tuple'


def _is(value: Any, kind: type) -> bool:
  if isinstance(value, bool):
    return kind is bool
  if kind is float:
    return isinstance(value, (int, float)) and math.isfinite(value)
  return isinstance(value, kind)
