"""Estimates with their bootstrap replicates, and with what each problem contributes,
in a file: for statistics over runs."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping

import numpy as np
from etils import epath

from prm_jax import jsonl
from prm_jax.errors import UserError
from prm_jax.evaluation.intervals import Estimate

FILE = 'replicates.npz'
_PARTS = (
  'names', 'keys', 'values', 'counts', 'replicates', 'contributions', 'n_contributions',
)  # fmt: skip


def save(path: str | os.PathLike[str], estimates: Mapping[str, Estimate]) -> None:
  """Writes the defined estimates that have replicates; equal ones give equal bytes.

  Args:
    path: of the .npz file.
    estimates: metric path -> estimate.
  """
  held = {
    name: e
    for name, e in estimates.items()
    if e.value is not None and e.replicates.size
  }
  sizes = {e.replicates.size for e in held.values()}
  if len(sizes) > 1:
    raise ValueError(f'replicates of different numbers {sizes} in one evaluation')
  n = sizes.pop() if sizes else 0
  parts = [e.contributions for e in held.values()]
  out = io.BytesIO()
  np.savez(
    out,
    names=np.array(list(held), dtype=np.str_),
    keys=np.array([e.key for e in held.values()], dtype=np.str_),
    values=np.array([e.value for e in held.values()], dtype=np.float64),
    counts=np.array([e.n for e in held.values()], dtype=np.int64),
    replicates=np.array([e.replicates for e in held.values()], np.float32).reshape(
      len(held), n
    ),
    # Not rounded: a permutation test asks which sums of them are equal.
    contributions=np.concatenate([np.zeros(0), *parts]),
    n_contributions=np.array([len(p) for p in parts], np.int64),
  )
  jsonl.write_bytes(path, out.getvalue())


def load(path: str | os.PathLike[str]) -> dict[str, Estimate]:
  """Metric path -> estimate, without intervals; the inverse of `save`.

  Raises:
    UserError: the file is not there or damaged.
  """
  try:
    with epath.Path(path).open('rb') as file:
      data = np.load(io.BytesIO(file.read()), allow_pickle=False)
    parts = {k: data[k] for k in _PARTS}
  except (OSError, ValueError, KeyError, EOFError) as e:
    raise UserError(
      f'{path}: no readable replicates there ({e}); run it again with '
      'evaluate.replicates=true.'
    ) from e
  ends = np.cumsum(parts['n_contributions'])
  each = np.split(parts['contributions'].astype(np.float64), ends[:-1])
  return {
    str(name): Estimate(
      value=float(parts['values'][i]),
      n=int(parts['counts'][i]),
      replicates=parts['replicates'][i].astype(np.float64),
      key=str(parts['keys'][i]),
      contributions=each[i],
    )
    for i, name in enumerate(parts['names'])
  }
