"""Values of a config.json by key and type: what every reader of one goes through."""

from __future__ import annotations

import math
import sys
from typing import Any

from prm_jax.errors import UserError
from prm_jax.records import Check

LARGEST = 2**31 - 1  # axes are counted in int32


class Values(Check):
  """The values of a config.json, or of an object inside it.

  null means what it means in transformers: a number or text that is not given, an
  object without keys, a switch that is off.

  Attributes:
    held: the parsed object.
    where: the file, for messages.
    path: 'rope_scaling.' of the object under that key, '' of the whole file.
  """

  def __init__(self, held: dict[str, Any], where: str, path: str = ''):
    super().__init__(where)
    self.held, self.path = held, path

  def fail(self, field: str, value: Any, want: str) -> UserError:
    return super().fail(self.path + field, value, want)

  def size(self, key: str, default: int | None = None, *, most: int = LARGEST) -> int:
    """A whole number of at least 1; null gives the default, if there is one."""
    value = self.held.get(key)
    if value is None and default is not None:
      return default
    return self.integer(key, value, 1, most)

  def count(self, key: str) -> int:
    """A whole number of at least 0."""
    return self.integer(key, self.held.get(key), 0)

  def positive(self, key: str, default: float | None = None) -> float:
    """A positive number; null gives the default, which has to be one too."""
    value: Any = self.held.get(key)
    value = default if value is None else value
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value <= sys.float_info.max:
      raise self.fail(key, value, 'a positive number')
    return float(value)

  def amount(self, key: str) -> float:
    """A number of at least 0; null is 0."""
    value = self.held.get(key)
    return self.number(key, 0 if value is None else value, 0, math.inf)

  def flag(self, key: str, default: bool = False) -> bool:
    """true or false; null is false, the default is for a key that is not there."""
    value = self.held.get(key, default)
    return value is not None and self.boolean(key, value)

  def word(self, key: str) -> str | None:
    """A string or null."""
    return self.optional_text(key, self.held.get(key))

  def words(self, key: str) -> tuple[str, ...] | None:
    """A list of strings or null."""
    value = self.held.get(key)
    return None if value is None else self.texts(key, value)

  def inside(self, key: str) -> Values:
    """An object; null is one without keys."""
    value = self.held.get(key)
    held = {} if value is None else self.mapping(key, value)
    return Values(held, self.where, f'{self.path}{key}.')
