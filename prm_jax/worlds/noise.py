"""Labels made worse on purpose: flips, and Monte-Carlo estimates from k rollouts.

A noise is named as configs name it, and so is the label set that it makes:

  flip@P      each label of the base set is flipped with probability P
  mc_soft@K   n_correct / K, n_correct ~ Binomial(K, V): what K rollouts by the
              population would have said
  mc_hard@K   the same rollouts read as Math-Shepherd does: 1 if n_correct > 0

The draws of a row are a function of (seed, name of the noise's kind, row's id), so
that mc_soft@K and mc_hard@K see the same rollouts, and the first K of mc_soft@2K's.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable

import numpy as np

from prm_jax import records
from prm_jax.errors import UserError
from prm_jax.worlds import randomness


@dataclasses.dataclass(frozen=True)
class Noise:
  """A parsed name: kind 'flip', 'mc_soft' or 'mc_hard' and its number."""

  kind: str
  amount: float

  @property
  def n_rollouts(self) -> int:
    """K of a Monte-Carlo noise."""
    return int(self.amount)


def parse(name: str) -> Noise:
  """Reads a noise's name.

  Raises:
    UserError: no such kind, or its number makes no sense.
  """
  kind, _, amount = name.partition('@')
  try:
    number = float(amount)
  except ValueError:
    number = -1.0
  fits = {
    'flip': 0 <= number <= 1,
    'mc_soft': number >= 1 and number == int(number),
    'mc_hard': number >= 1 and number == int(number),
  }
  if not fits.get(kind, False):
    raise UserError(
      f'label noise {name!r} cannot be read; write flip@P with P in [0, 1], or '
      'mc_soft@K or mc_hard@K with K >= 1 rollouts.'
    )
  return Noise(kind, number)


def row_keys(ids: Iterable[str]) -> np.ndarray:
  """uint64 [R]: a random key a row, from the rows' ids."""
  return np.array(
    [int.from_bytes(hashlib.sha256(i.encode()).digest()[:8], 'little') for i in ids],
    np.uint64,
  )


def noisy(
  name: str, base: np.ndarray, keys: np.ndarray, step_index: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
  """Noisy labels of S steps.

  Args:
    name: of the noise.
    base: [S] what is made noisy: for flip the labels (0 or 1), else V in [0, 1].
    keys: uint64 [S], key of each step's row (`row_keys`, repeated for its steps).
    step_index: int64 [S], number of the step in its row.
    seed: of the noise.

  Returns:
    float32 [S] labels and int64 [S] n_correct (zeros for flip).
  """
  noise = parse(name)
  family = 'flip' if noise.kind == 'flip' else 'mc'
  keys = randomness.bits(keys ^ randomness.key_of('noise', family, seed), step_index)
  base = np.asarray(base, np.float64)
  if noise.kind == 'flip':
    flips = randomness.uniform(keys, 0) < noise.amount
    return np.where(flips, 1 - base, base).astype(np.float32), np.zeros(len(base), int)
  n_correct = np.zeros(len(base), np.int64)
  for k in range(noise.n_rollouts):
    n_correct += randomness.uniform(keys, k) < base
  soft = n_correct / noise.n_rollouts
  values = soft if noise.kind == 'mc_soft' else n_correct > 0
  return values.astype(np.float32), n_correct


def add(
  trajectories: Iterable[records.Trajectory],
  name: str,
  *,
  base: str = 'on_track',
  seed: int = 0,
) -> list[records.Trajectory]:
  """Adds a noisy label set and its first error to every record.

  Args:
    name: of the noise; the label set bears it too ('flip@0.1').
    base: correctness labels to flip; Monte-Carlo noise reads label set 'value'.
    seed: of the noise.

  Returns:
    New records. `first_error` under the same name is the first label below 0.5, for
    mc_soft the first of 0 (no rollout succeeded), as for mc_hard.

  Raises:
    UserError: a record lacks the labels that the noise starts from.
  """
  noise = parse(name)
  base = base if noise.kind == 'flip' else 'value'
  out = []
  for trajectory in trajectories:
    held = trajectory.labels.get(base)
    if held is None or any(v is None for v in held.values):
      raise UserError(
        f'trajectory {trajectory.id}: noise {name} needs label {base!r} on every '
        'step; use the embedded world, or name another base.'
      )
    index = np.arange(trajectory.n_steps)
    keys = np.repeat(row_keys([trajectory.id]), trajectory.n_steps)
    values, n_correct = noisy(name, np.array(held.values), keys, index, seed)
    how = {'noise': name, 'base': base, 'seed': seed, **held.how}
    soft = tuple(float(v) for v in values)
    if noise.kind == 'flip':
      labels = records.LabelSet(held.kind, soft, how)
    else:
      if noise.kind == 'mc_soft':
        soft = tuple(n / noise.n_rollouts for n in n_correct.tolist())
      labels = records.LabelSet(
        'value',
        soft,
        {**how, 'estimate': 'monte carlo'},
        n_correct=tuple(n_correct.tolist()),
        n_rollouts=(noise.n_rollouts,) * trajectory.n_steps,
      )
    least = 0.5 if noise.kind == 'flip' else 0.5 / noise.n_rollouts
    first = records.first_error_of(soft, least)
    trajectory = records.add(trajectory, 'labels', name, labels)
    out.append(records.add(trajectory, 'first_error', name, first))
  return out
