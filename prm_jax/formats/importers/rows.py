"""Rows of public data files, and the checks that every importer needs.

A row is one JSON object: a line of a JSON-lines file, an element of a JSON list, an
element of the lists in a JSON object (MR-Ben), or a row of a parquet file.
"""

from __future__ import annotations

import codecs
import json
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from etils import epath

from prm_jax import jsonl
from prm_jax.errors import UserError
from prm_jax.formats.label_policy import ImportOptions
from prm_jax.records import Check, Trajectory, make_id, make_problem_id


class Row(Check):
  """One row with its place and the options; failures name file, line and field.

  Attributes:
    values: the JSON object.
    where: 'file:line' (or 'file, row N' where a file has no lines).
    key: 'FILE/N', the fall-back for the source's own key.
    format: name of the format it is read as.
    options: import options.
    counters: counts of what was met; shared by all rows of one import.
  """

  def __init__(
    self,
    values: dict[str, Any],
    where: str,
    key: str,
    format: str,
    options: ImportOptions,
    counters: Counter[str],
  ):
    super().__init__(where)
    self.values = values
    self.key = key
    self.format = format
    self.options = options
    self.counters = counters

  def get(self, field: str) -> Any:
    """The field's value; a missing one is refused."""
    if field not in self.values:
      raise UserError(
        f'{self.where}: field {field!r} is missing, which format {self.format} needs; '
        'check the file or name another format (path:format).'
      )
    return self.values[field]

  def string(self, field: str) -> str:
    return self.text(field, self.get(field))

  def maybe_string(self, field: str) -> str | None:
    """The text of a field that may be missing or null; numbers become text."""
    value = self.values.get(field)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
      return str(value)
    return self.optional_text(field, value)

  def strings(self, field: str) -> tuple[str, ...]:
    return self.texts(field, self.get(field))

  def truth(self, field: str) -> bool:
    return self.boolean(field, self.get(field))

  def rating(self, field: str, value: Any) -> int | None:
    """A rating -1, 0, 1 or null; parquet stores them as floats."""
    if isinstance(value, float) and value in (-1.0, 0.0, 1.0):
      value = int(value)
    if value is None:
      return None
    if isinstance(value, bool) or value not in (-1, 0, 1):
      raise self.fail(field, value, '-1, 0, 1 or null')
    return value

  def same_length(self, field: str, found: int, n_steps: int, what: str) -> None:
    """Refuses a count that differs from the number of steps."""
    if found != n_steps:
      raise UserError(
        f'{self.where}: field {field!r} has {found} {what} for {n_steps} steps; there '
        'must be one a step.'
      )

  def step_index(self, field: str, value: Any, n_steps: int, first: int) -> int | None:
    """A step index counted from `first`, as 0-based; None if beyond the solution.

    Raises:
      UserError: not a whole number; or beyond the solution where the policy
        `bad_index` is 'error'.
    """
    last = first + n_steps - 1
    index = self.integer(field, value, -(2**63))
    if first <= index <= last:
      return index - first
    lenient = self.options.bad_index or BAD_INDEX_DEFAULT.get(self.format, 'error')
    if lenient == 'error':
      raise UserError(
        f'{self.where}: field {field!r} is {index}; {self.format} counts steps from '
        f'{first} and the solution has {n_steps}, so it must be from {first} to {last} '
        "(correct the row, or set bad_index='unknown' to read it without labels)."
      )
    return None

  def rest(self, *used: str) -> dict[str, Any]:
    """Fields other than those used, verbatim, for `Trajectory.meta`."""
    return {k: v for k, v in self.values.items() if k not in used}

  def trajectory(
    self,
    question: str,
    steps: tuple[str, ...],
    *,
    key: object = None,
    index: object = 0,
    separator: str = '\n',
    **fields: Any,
  ) -> Trajectory:
    """A record of this row; id and source follow from file, key and index."""
    source = self.options.source or f'{self.format}/{self.key.rsplit("/", 1)[0]}'
    fields.setdefault('problem_id', make_problem_id(question))
    return Trajectory(
      id=make_id(source, self.key if key is None else key, index),
      question=question,
      steps=steps,
      source=source,
      separator=self.options.separator or separator,
      **fields,
    )


BAD_INDEX_DEFAULT = {'prmbench': 'unknown', 'mr_ben': 'unknown'}


def stem(file: epath.Path) -> str:
  """File name without its data suffix: the same for jsonl.gz and parquet."""
  name = file.name
  for suffix in sorted(jsonl.SUFFIXES, key=len, reverse=True):
    if name.endswith(suffix):
      return name[: -len(suffix)]
  return name


def iter_rows(file: epath.Path) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields (place, object) for every row of a file.

  Raises:
    UserError: damage of any kind, naming the place; or no row at all.
  """
  empty = True
  if file.name.endswith('.parquet'):
    found = _parquet(file)
  elif file.name.endswith(('.json', '.json.gz')):
    found = _json(file)
  else:
    found = ((f'{file}:{n}', row) for n, row in jsonl.iter_json_lines(file))
  for where, row in found:
    empty = False
    yield where, row
  if empty:
    raise UserError(f'{file}: holds no rows; check that the file is complete.')


def _json(file: epath.Path) -> Iterator[tuple[str, dict[str, Any]]]:
  data = jsonl.read_bytes(file).removeprefix(codecs.BOM_UTF8)
  if data.lstrip()[:1] == b'{' and _is_json_lines(data):
    for number, row in jsonl.iter_json_lines(file):
      yield f'{file}:{number}', row
    return
  whole = jsonl.parse_json(data, str(file))
  if isinstance(whole, dict):
    grouped = bool(whole) and all(isinstance(v, list) for v in whole.values())
    whole = [row for rows in whole.values() for row in rows] if grouped else [whole]
  if not isinstance(whole, list):
    raise UserError(
      f'{file}: expected a JSON list of objects, found {type(whole).__name__}.'
    )
  for number, row in enumerate(whole, start=1):
    if not isinstance(row, dict):
      raise UserError(
        f'{file}, row {number}: expected a JSON object, found {type(row).__name__}; '
        'every element must be one {...}.'
      )
    yield f'{file}, row {number}', row


def _is_json_lines(data: bytes) -> bool:
  """Whether the first line is an object of its own and others follow."""
  first, _, others = data.lstrip().partition(b'\n')
  if not others.strip():
    return False
  try:
    json.loads(first)
  except (ValueError, RecursionError):
    return False
  return True


def _parquet(file: epath.Path) -> Iterator[tuple[str, dict[str, Any]]]:
  try:
    import pyarrow
    import pyarrow.parquet
  except ImportError as e:
    raise UserError(
      f'{file}: reading parquet needs pyarrow: pip install "pyarrow>=17", or give the '
      'JSON-lines form of the file.'
    ) from e
  try:
    with file.open('rb') as f:
      rows = pyarrow.parquet.read_table(f).to_pylist()
  except (OSError, pyarrow.ArrowException) as e:
    reason = str(e).splitlines()[0][:120] if str(e) else type(e).__name__
    raise UserError(
      f'{file}: not a readable parquet file ({reason}); copy or download it again.'
    ) from e
  for number, row in enumerate(rows, start=1):
    where = f'{file}, row {number}'
    yield where, {k: _cell(v, k, where) for k, v in row.items()}


def _cell(value: Any, field: str, where: str) -> Any:
  """JSON form of a cell; a NaN stands for null, as pandas writes it."""
  missing = isinstance(value, float) and math.isnan(value)
  return None if missing else _plain(value, field, where)


def _plain(value: Any, field: str, where: str) -> Any:
  """JSON form of a parquet value, of what it holds too: dates, decimals, bytes become
  text. Inside lists and objects NaN is as little JSON as it is in a JSON file."""
  if isinstance(value, dict):
    return {k: _plain(v, f'{field}.{k}', where) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(v, f'{field}[{i}]', where) for i, v in enumerate(value)]
  if isinstance(value, float) and not math.isfinite(value):
    raise UserError(f'{where}: field {field!r} is {value}, not JSON; use null instead.')
  plain = value is None or isinstance(value, (str, bool, int, float))
  return value if plain else str(value)
