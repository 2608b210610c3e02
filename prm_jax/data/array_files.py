"""A set of arrays as a folder: written whole or not at all, damage noticed on reading.

    FOLDER/NAME.npy    one array each
    FOLDER/meta.json   checksums of the arrays, and what the caller adds

Arrays are read without pickle, so nothing in a file is ever executed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from prm_jax import jsonl
from prm_jax.errors import UserError

META = 'meta.json'


class Damaged(Exception):
  """The folder is not what was written; says what is wrong with it."""


def save(
  folder: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], meta: dict[str, Any]
) -> None:
  """Writes into a temporary folder beside `folder`, then renames it.

  If another process wrote `folder` in the meantime, that one stays.

  Raises:
    UserError: the place cannot be written.
  """
  target = epath.Path(folder)
  remote = jsonl.is_remote(target)  # no rename: `META`, written last, makes it count
  aside = target.parent / f'.{target.name}.{uuid.uuid4().hex[:8]}.tmp'
  temporary = target if remote else aside
  sums = {}
  try:
    temporary.mkdir(parents=True, exist_ok=remote)
    for name, array in arrays.items():
      data = io.BytesIO()
      np.save(data, array, allow_pickle=False)
      sums[name] = hashlib.sha256(data.getbuffer()).hexdigest()
      (temporary / f'{name}.npy').write_bytes(data.getvalue())
    text = json.dumps({'checksums': sums, 'meta': meta}, ensure_ascii=False)
    (temporary / META).write_text(text)
    if remote:
      return
    try:
      temporary.rename(target)
    except OSError:
      if not (target / META).exists():
        raise
      temporary.rmtree()
  except OSError as e:
    if temporary.exists():
      temporary.rmtree(missing_ok=True)
    raise UserError(
      f'{target}: the cache cannot be written ({e.strerror or e}); choose another '
      'place or free some space.'
    ) from e


def load(
  folder: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Arrays and meta of `save`.

  Raises:
    Damaged: a file is missing, changed or unreadable.
  """
  source = epath.Path(folder)
  try:
    held = json.loads((source / META).read_text())
    arrays = {}
    for name, checksum in held['checksums'].items():
      data = (source / f'{name}.npy').read_bytes()
      if hashlib.sha256(data).hexdigest() != checksum:
        raise Damaged(f'{name}.npy has changed')
      arrays[name] = np.load(io.BytesIO(data), allow_pickle=False)
    return arrays, held['meta']
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
    raise Damaged(f'{type(e).__name__}: {e}') from e


def discard(folder: str | os.PathLike[str]) -> None:
  """Removes a damaged folder out of the way."""
  target = epath.Path(folder)
  aside = target.parent / f'.{target.name}.{uuid.uuid4().hex[:8]}.damaged'
  try:
    if jsonl.is_remote(target):
      target.rmtree(missing_ok=True)
      return
    target.rename(aside)
    aside.rmtree(missing_ok=True)
  except OSError as e:
    raise UserError(
      f'{target}: damaged, and cannot be removed ({e.strerror or e}); remove it.'
    ) from e
