"""JSON lines, plain or gzipped, in one file or in shards.

Reading turns every kind of damage into one sentence that names file and line.
Writing is atomic (a file is there whole or not at all) and deterministic: gzip
members carry neither time stamp nor file name, so equal rows give equal bytes.
"""

from __future__ import annotations

import codecs
import contextlib
import functools
import glob
import gzip
import io
import json
import math
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from etils import epath

from prm_jax.errors import UserError

SUFFIXES = ('.jsonl', '.jsonl.gz', '.json', '.json.gz', '.parquet')

# Of a tree with 100 steps, two levels each; of a record, a few.
MAX_DEPTH = 256
_TEMPORARY = re.compile(r'\.(.+)\.\d+\.tmp')


def is_remote(path: str | os.PathLike[str]) -> bool:
  """Whether a path is on an object store (gs://, s3://), where there is no rename, no
  append and no lock, and where a single object is there whole or not at all."""
  return '://' in os.fspath(path)


def place(path: str | os.PathLike[str]) -> epath.Path:
  """`path` as it can be handed on: absolute, unless it is on an object store."""
  text = os.fspath(path)
  if not is_remote(text):
    return epath.Path(os.path.abspath(text))
  _fresh_listings()
  return epath.Path(text)


@functools.cache
def _fresh_listings() -> None:
  """fsspec remembers listings; those that other processes write must be seen."""
  import fsspec

  for scheme in ('s3', 'gs', 'gcs'):
    fsspec.config.conf.setdefault(scheme, {})['use_listings_cache'] = False


def expand(path: str, suffixes: tuple[str, ...] = SUFFIXES) -> list[epath.Path]:
  """Files that `path` names: a file, a directory of shards, or a glob, sorted.

  Raises:
    UserError: nothing is there, a directory cannot be read, or a name is not UTF-8,
      so that no record could name it.
  """
  p = epath.Path(os.path.expanduser(path))
  if p.is_dir():
    try:
      found = sorted(f for f in p.iterdir() if str(f).endswith(suffixes))
    except OSError as e:
      raise UserError(f'{path}: cannot be read ({e.strerror or e}).') from e
  elif p.exists():
    found = [p]
  else:
    found = [epath.Path(f) for f in sorted(glob.glob(os.path.expanduser(path)))]
  if not found:
    raise UserError(
      f'{path}: no such file, directory of shards or pattern; check the path '
      f'(files end in {", ".join(suffixes)}).'
    )
  for file in found:
    if not is_text(str(file)):
      raise UserError(f'{str(file)!a}: the name is not valid UTF-8; rename the file.')
  return found


def is_text(text: str) -> bool:
  """Whether UTF-8 can hold it; names from a file system may have bytes of no text."""
  try:
    text.encode()
  except UnicodeEncodeError:
    return False
  return True


def read_bytes(path: epath.Path) -> bytes:
  """Whole content of a file, unzipped if its name ends in .gz.

  Raises:
    UserError: the file cannot be read, or its gzip stream is damaged.
  """
  try:
    raw = path.read_bytes()
  except OSError as e:
    raise UserError(f'{path}: cannot be read ({e.strerror or e}).') from e
  if not str(path).endswith('.gz'):
    return raw
  try:
    if not raw:
      raise EOFError('the file is empty')
    return gzip.decompress(raw)
  except (OSError, EOFError, zlib.error) as e:
    raise _damaged(path, e) from e


def _damaged(path: epath.Path, e: Exception) -> UserError:
  return UserError(
    f'{path}: the gzip stream is damaged or cut off ({e}); copy or download '
    'the file again.'
  )


def iter_json_lines(path: epath.Path) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields (line number from 1, object) of a JSON-lines file; blank lines pass.

  Raises:
    UserError: names file and line of broken gzip, UTF-8, JSON, or a line that is
      not an object. NaN and Infinity are not JSON and are refused.
  """
  for number, raw in enumerate(iter_lines(path), start=1):
    if raw.strip():
      yield number, parse_object(raw, f'{path}:{number}')


def iter_lines(path: epath.Path) -> Iterator[bytes]:
  """Lines of a file one after the other, unzipped if its name ends in .gz, without a
  byte-order mark.

  Raises:
    UserError: as `read_bytes`.
  """
  try:
    with path.open('rb') as file:
      stream = file
      if str(path).endswith('.gz'):
        if not file.read(1):
          raise EOFError('the file is empty')
        file.seek(0)
        stream = io.BufferedReader(gzip.GzipFile(fileobj=file), 1 << 20)
      for number, line in enumerate(stream):
        yield line if number else line.removeprefix(codecs.BOM_UTF8)
  except (gzip.BadGzipFile, EOFError, zlib.error) as e:
    raise _damaged(path, e) from e
  except OSError as e:
    raise UserError(f'{path}: cannot be read ({e.strerror or e}).') from e


def parse_object(raw: bytes, where: str) -> dict[str, Any]:
  """One JSON object from bytes; errors as in `iter_json_lines`."""
  value = parse_json(raw, where)
  if not isinstance(value, dict):
    raise UserError(
      f'{where}: expected a JSON object, found {type(value).__name__}; '
      'each line must be one {...}.'
    )
  return value


def parse_json(raw: bytes, where: str) -> Any:
  """Any JSON value from bytes that can be written again.

  Raises:
    UserError: invalid UTF-8, broken JSON, NaN, Infinity or a number that overflows
      to it, a lone surrogate (half a character, which UTF-8 cannot hold), or
      more than `MAX_DEPTH` levels of nesting.
  """

  def refuse(name: str) -> None:
    raise UserError(f'{where}: the value {name} is not JSON; use null instead.')

  def finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
      shown = text if len(text) <= 40 else text[:37] + '...'
      raise UserError(f'{where}: the number {shown} is too large; use null instead.')
    return value

  try:
    text = raw.decode('utf-8')
  except UnicodeDecodeError as e:
    raise UserError(
      f'{where}: invalid UTF-8 at byte {e.start}; save the file as UTF-8.'
    ) from e
  try:
    value = json.loads(text, parse_constant=refuse, parse_float=finite)
  except json.JSONDecodeError as e:
    raise UserError(
      f'{where}: not valid JSON ({e.msg}, column {e.colno}); repair or delete the line.'
    ) from e
  except RecursionError as e:
    raise UserError(
      f'{where}: nested more than {MAX_DEPTH} levels deep; a record is flat, so this '
      'is not one.'
    ) from e
  except ValueError as e:
    raise UserError(
      f'{where}: a whole number has too many digits; write it as a string.'
    ) from e
  # Only lines that could hold either trouble pay for the walk.
  if raw.count(b'[') + raw.count(b'{') > MAX_DEPTH or b'\\u' in raw:
    _check_writable(value, where)
  return value


def _check_writable(value: Any, where: str) -> None:
  """Refuses lone surrogates and deep nesting; visits nodes without recursion."""
  pending: list[tuple[Any, str, int]] = [(value, '', 1)]
  while pending:
    node, path, depth = pending.pop()
    if depth > MAX_DEPTH:
      raise UserError(
        f'{where}: nested more than {MAX_DEPTH} levels deep; a record is flat, so this '
        'is not one.'
      )
    if isinstance(node, str):
      try:
        node.encode('utf-8')
      except UnicodeEncodeError as e:
        raise UserError(
          f'{where}: field {path!r} holds the lone surrogate {node[e.start]!a}, which '
          'is half a character; repair the text.'
        ) from e
    elif isinstance(node, dict):
      for key, item in node.items():
        inner = f'{path}.{key}' if path else key
        pending.append((key, inner, depth))
        pending.append((item, inner, depth + 1))
    elif isinstance(node, list):
      pending.extend((item, f'{path}[{i}]', depth + 1) for i, item in enumerate(node))


def dump_line(row: dict[str, Any]) -> str:
  """One JSON line without newline: UTF-8 kept, NaN refused (ValueError)."""
  return json.dumps(row, ensure_ascii=False, allow_nan=False)


def encode_lines(rows: Iterable[dict[str, Any]], *, zipped: bool) -> bytes:
  """The bytes of a JSON-lines file; equal rows give equal bytes."""
  data = ''.join(dump_line(row) + '\n' for row in rows).encode('utf-8')
  return gzip.compress(data, mtime=0) if zipped else data


def check_name(path: str | os.PathLike[str]) -> None:
  """Refuses a file name that does not say JSON lines.

  Raises:
    UserError: it ends in neither .jsonl nor .jsonl.gz.
  """
  if not str(path).endswith(('.jsonl', '.jsonl.gz')):
    raise UserError(
      f'{path}: rows are written as JSON lines; give it a name that ends in .jsonl or '
      '.jsonl.gz.'
    )


def write_json_lines(
  path: str | os.PathLike[str], rows: Iterable[dict[str, Any]]
) -> int:
  """Writes rows atomically, each as it comes; a name ending in .gz is zipped.

  Returns:
    Their number.
  """
  n = 0
  zipped = str(path).endswith('.gz')

  def parts() -> Iterator[bytes]:
    nonlocal n
    squeeze = zlib.compressobj(9, wbits=31) if zipped else None
    for row in rows:
      n += 1
      line = (dump_line(row) + '\n').encode('utf-8')
      yield line if squeeze is None else squeeze.compress(line)
    if squeeze is not None:
      yield squeeze.flush()

  write_parts(path, parts())
  return n


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
  """Writes a file so that it is there whole or not at all; makes its folder.

  Raises:
    UserError: the place cannot be written (a file where a folder must be, no
      permission, disk full). What stood at `path` before is untouched.
  """
  write_parts(path, [data])


def write_parts(path: str | os.PathLike[str], parts: Iterable[Any]) -> None:
  """Writes buffers one after the other; otherwise as `write_bytes`."""
  target = epath.Path(path)
  temporary = target.parent / f'.{target.name}.{os.getpid()}.tmp'  # `half_written`
  try:
    if is_remote(target):
      _upload(target, parts)
      return
    target.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open('wb') as file:
      for part in parts:
        file.write(part)
    temporary.replace(target)
  except OSError as e:
    raise UserError(
      f'{target}: cannot be written ({e.strerror or e}); choose another place or '
      'free some space.'
    ) from e
  finally:
    if not is_remote(target):
      with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)


def half_written(name: str) -> str | None:
  """Name of the file that a kill left unfinished as `name`; None of any other name."""
  found = _TEMPORARY.fullmatch(name)
  return found[1] if found else None


def _upload(target: epath.Path, parts: Iterable[Any]) -> None:
  """Writes one object; it appears when its last byte has arrived."""
  file = target.open('wb')
  try:
    for part in parts:
      file.write(part)
  except BaseException:
    # To close it would make an object of the part that is there.
    getattr(file, 'discard', lambda: None)()
    raise
  file.close()
