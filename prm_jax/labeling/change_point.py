"""Posterior of the first dead prefix of a solution, from rollouts of its prefixes.

The states of the prefixes form a two-state Markov chain; the counts of each prefix
are binomial in a V that the state's prior draws. See `adaptive`.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
from scipy import special


@dataclasses.dataclass(frozen=True)
class Prior:
  """What is believed before any rollout.

  Attributes:
    tau: dead means V < tau.
    hazard: P(dead | the prefix before is alive); the question counts as alive.
    repair: P(alive | the prefix before is dead).
    alive, dead: (a, b) of Beta distributions of V, cut off below and above tau.
  """

  tau: float
  hazard: float
  repair: float
  alive: tuple[float, float]
  dead: tuple[float, float]


class Emission(NamedTuple):
  """Counts of one prefix: ln P(counts | state), and P(next success | state)."""

  log_alive: float
  log_dead: float
  next_alive: float
  next_dead: float


@functools.lru_cache(maxsize=1 << 16)
def emission(prior: Prior, correct: int, n: int) -> Emission:
  """Of `correct` successes in `n` rollouts, for both states."""
  alive, dead = (
    (
      _log_mass(prior, state, correct, n),
      _log_mass(prior, state, correct + 1, n + 1),
    )
    for state in ('alive', 'dead')
  )
  return Emission(
    alive[0], dead[0], np.exp(alive[1] - alive[0]), np.exp(dead[1] - dead[0])
  )


def _log_mass(prior: Prior, state: str, correct: int, n: int) -> float:
  """ln of the mean of V^s (1 - V)^(n - s) under the state's prior."""
  (a, b), share = (
    (prior.alive, special.betaincc)
    if state == 'alive'
    else (prior.dead, special.betainc)
  )
  s, f = correct, n - correct
  part = share(a + s, b + f, prior.tau) / share(a, b, prior.tau)
  return float(
    special.betaln(a + s, b + f) - special.betaln(a, b) + np.log(max(part, 1e-300))
  )


class ChangePoint:
  """Posterior of F, the first dead prefix.

  Attributes:
    posterior: [P + 1] of F = 0 .. P - 1 (the prefix that ends with this step is the
      first dead one), and of no dead prefix at all.

  Args:
    prior: see there.
    n: P.
    right: the solution's own outcome: the last state is alive.
  """

  def __init__(self, prior: Prior, n: int, right: bool):
    self._prior = prior
    self._n = n
    self._seen = [emission(prior, 0, 0)] * n
    self._known = np.array([[0.0, -np.inf] if right else [-np.inf, 0.0]])
    self._step()

  def update(self, at: int, correct: int, n: int) -> None:
    """Sets the counts of the prefix that ends with step `at`, at most P - 2."""
    self._seen[at] = emission(self._prior, correct, n)
    self._step()

  def _step(self) -> None:
    n, h, r = self._n, self._prior.hazard, self._prior.repair
    # ln P(counts | state), [P, 2], alive and dead; scaled so that nothing vanishes.
    logs = np.array([e[:2] for e in self._seen])
    logs[-1] = self._known
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    # after[t]: of all that follows, given the state of t, up to a common factor; the
    # factors are kept as logs.
    move = np.array([[1 - h, h], [r, 1 - r]])
    after, scale = np.ones((n, 2)), np.zeros(n)
    for t in range(n - 2, -1, -1):
      after[t] = move @ (weights[t + 1] * after[t + 1])
      total = after[t].max()
      after[t] /= total
      scale[t] = scale[t + 1] + np.log(total)
    with np.errstate(divide='ignore'):
      alive, dead = np.log(weights[:, 0]), np.log(weights[:, 1])
      start = np.concatenate([[0.0], np.cumsum(np.log1p(-h) + alive)])
      found = start[:n] + np.log(h) + dead + np.log(after[:, 1]) + scale
    joint = np.append(found, start[n])
    joint = np.exp(joint - joint.max())
    self.posterior = joint / joint.sum()
    self._weights, self._after, self._move = weights, after, move

  def information(self) -> np.ndarray:
    """[P - 1] nats that one more rollout of each prefix is expected to tell of F."""
    n = self._n
    if n == 1:
      return np.zeros(0)
    success = np.array([e[2:] for e in self._seen])
    # P(state of t is alive | F = f): 1 before f, 0 at f; after f the dead one may have
    # been revived.
    alive = np.zeros(n + 1)
    alive[n] = 1.0
    out = np.empty(n - 1)
    ahead = np.arange(n + 1)
    for t in range(n - 1):
      if t:
        # One step of the chain, given all counts.
        step = self._move * (self._weights[t] * self._after[t])
        with np.errstate(invalid='ignore'):
          step = step / step.sum(axis=1, keepdims=True)
        moved = alive * step[0, 0] + (1 - alive) * step[1, 0]
        alive = np.where(ahead < t, moved, 0.0)
      now = np.where(ahead > t, 1.0, alive)
      now[t] = 0.0
      p = now * success[t, 0] + (1 - now) * success[t, 1]
      out[t] = _entropy(self.posterior @ p) - self.posterior @ _entropy(p)
      alive = now
    return np.maximum(out, 0.0)


def _entropy(p: np.ndarray) -> np.ndarray:
  p = np.clip(p, 1e-12, 1 - 1e-12)
  return -p * np.log(p) - (1 - p) * np.log1p(-p)
