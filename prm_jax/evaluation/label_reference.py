"""The reference value V of every prefix, from many rollouts, with its own error.

V of a prefix is the chance that a named completer still succeeds from there. A
reference is a label set of kind 'value' with counts: p = n_correct / n_rollouts from
at least 256 rollouts, standard error sqrt(p (1 - p) / n). The prefix of all steps is
the finished solution; its V is the verdict on its answer, exactly.

A prefix is *dead* if V < tau. Where the reference's 95 % Wilson interval (Wilson
1927) contains tau, 256 rollouts cannot tell: such prefixes are *ambiguous*, and
every hard comparison reports them apart.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from prm_jax.errors import UserError
from prm_jax.estimates import wilson
from prm_jax.evaluation.splits import UNKNOWN, Steps, read_steps
from prm_jax.records import LabelSet, Trajectory

ROLLOUTS = 256
"""Rollouts a prefix that a reference is expected to have."""
"""97.5 % point of the normal distribution."""


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
  """V of M prefixes of R solutions.

  Attributes:
    steps: geometry of the solutions.
    tau: below it a prefix is dead.
    values: [M] float64 in [0, 1], 0 where unknown.
    known: [M] bool.
    n: [M] rollouts; 0 where V is exact or unknown.
    standard_error: [M] sqrt(p (1 - p) / n), 0 where V is exact.
    noise: [M] p (1 - p) / (n - 1), the unbiased estimate of the variance of p.
    low, high: [M] Wilson interval, both V where it is exact.
    counters: what is unusual about it.
  """

  steps: Steps
  tau: float
  values: np.ndarray
  known: np.ndarray
  n: np.ndarray
  standard_error: np.ndarray
  noise: np.ndarray
  low: np.ndarray
  high: np.ndarray
  counters: dict[str, int]

  @property
  def ambiguous(self) -> np.ndarray:
    """[M] bool: tau lies in the interval of a V that is not exact."""
    inside = (self.low <= self.tau) & (self.tau <= self.high)
    return self.known & (self.n > 0) & inside

  @property
  def sure(self) -> np.ndarray:
    """[M] bool: it is known on which side of tau V lies."""
    return self.known & ~self.ambiguous

  @property
  def dead(self) -> np.ndarray:
    """[M] bool: p < tau; trust it where `sure`."""
    return self.known & (self.values < self.tau)

  def first_dead(self, sure: bool = True) -> np.ndarray:
    """[R] first step whose prefix is dead, -1 none, `UNKNOWN`.

    Args:
      sure: `UNKNOWN` also where an ambiguous prefix could change the answer: one
        that stands before every dead prefix about which there is no doubt. If False,
        ambiguous prefixes are taken at their point estimate.
    """
    trusted = self.sure if sure else self.known
    alive = trusted & ~self.dead
    # The first prefix that is not certainly alive decides: dead, or not known.
    stops = ~self.steps.padded(alive, fill=True)
    at = stops.argmax(axis=1) if stops.shape[1] else np.zeros(len(stops), np.int64)
    dead = self.steps.padded(trusted & self.dead, fill=False)
    some = stops.any(axis=1)
    certain = np.zeros(len(stops), dtype=bool)
    if stops.shape[1]:
      certain = dead[np.arange(len(stops)), at]
    return np.where(some, np.where(certain, at, UNKNOWN), -1)


def entropic_slope(p: np.ndarray, eta: float) -> np.ndarray:
  """Derivative of `entropic` by p; its size times that of p's error (delta method).

  >>> entropic_slope(np.array([0.0, 1.0]), 1.0).round(3).tolist()
  [1.718, 0.632]
  """
  rest = -math.expm1(-eta)
  return rest / eta / (math.exp(-eta) + np.asarray(p) * rest)


def read_reference(
  trajectories: Sequence[Trajectory], label: str, tau: float
) -> Reference:
  """The reference of R solutions.

  Args:
    trajectories: with the label set in all of them.
    label: name of a label set of kind 'value' with n_correct and n_rollouts.
    tau: in (0, 1).

  Raises:
    UserError: tau is out of range, no solution carries the set, it is of another
      kind or has no counts.
  """
  if not 0 < tau < 1:
    raise UserError(f'tau={tau}: it must be inside (0, 1), for example 0.125.')
  steps = read_steps('reference', trajectories)
  correct, n = np.zeros(len(steps.chars)), np.zeros(len(steps.chars))
  known = np.zeros(len(steps.chars), dtype=bool)
  without = 0
  for r, t in enumerate(trajectories):
    held = t.labels.get(label)
    if held is None:
      without += 1
      continue
    _check(t, label, held)
    for i in range(t.n_steps):
      at = steps.offsets[r] + i
      tried, value = held.n_rollouts[i] if held.n_rollouts else None, held.values[i]
      if tried and held.n_correct and held.n_correct[i] is not None:
        correct[at], n[at], known[at] = held.n_correct[i], tried, True
      elif i == t.n_steps - 1 and value in (0, 1):
        correct[at], known[at] = value, True
  if not known.any():
    there = sorted({name for t in trajectories for name in t.labels})
    raise UserError(
      f'reference: no solution carries counts of a label set {label!r} (there: '
      f'{", ".join(there) or "none"}); make it with {ROLLOUTS} rollouts a prefix.'
    )
  some = np.maximum(n, 1)
  p = correct / some
  low, high = wilson(correct, some)
  exact = n == 0
  return Reference(
    steps=steps,
    tau=tau,
    values=p,
    known=known,
    n=n.astype(np.int64),
    standard_error=np.where(exact, 0.0, np.sqrt(p * (1 - p) / some)),
    noise=np.where(exact, 0.0, p * (1 - p) / np.maximum(n - 1, 1)),
    low=np.where(exact, p, low),
    high=np.where(exact, p, high),
    counters={
      'solutions_without_reference': without,
      'prefixes_without_reference': int((~known).sum()),
      f'prefixes_below_{ROLLOUTS}_rollouts': int(((n > 0) & (n < ROLLOUTS)).sum()),
    },
  )


def _check(t: Trajectory, label: str, held: LabelSet) -> None:
  if held.kind != 'value':
    raise UserError(
      f'reference: label set {label!r} of {t.id} is of kind {held.kind}; V is '
      "estimated by kind 'value' with counts of rollouts."
    )
