"""Posterior of the first dead prefix of a solution, from rollouts of its prefixes.

V of the prefixes is taken for a Markov chain over a few levels, some at or above tau
(alive), some below (dead):

  alive -> dead   with probability `hazard`, to any dead level alike
  dead -> alive   with probability `repair`, to any alive level alike
  else            within its kind: with probability `redraw` to any level, otherwise
                  it stays (1/2) or moves to a neighbouring level (1/4 each side)

The levels are the middles of equally probable parts of a Beta prior, so that they are
alike beforehand. Neighbouring prefixes share evidence through the chain. The question
counts as alive, the finished solution is alive or dead by its outcome. Forward and
backward recursions are exact for counts of separate rollouts. One rollout that is
counted at several prefixes (`adaptive`'s reuse) is fair evidence for each of them and
more certain for all together than it should be.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from scipy import special


@dataclasses.dataclass(frozen=True)
class Prior:
  """What is believed before any rollout.

  Attributes:
    tau: dead means V < tau.
    hazard, repair, redraw: of the chain.
    alive, dead: (a, b) of Beta distributions of V, cut off below and above tau.
    levels: numbers of alive and of dead levels.
  """

  tau: float = 0.125
  hazard: float = 0.15
  repair: float = 0.02
  redraw: float = 0.1
  alive: tuple[float, float] = (1.0, 1.0)
  dead: tuple[float, float] = (0.25, 1.0)
  levels: tuple[int, int] = (8, 4)


@functools.lru_cache(maxsize=64)
def chain(prior: Prior) -> tuple[np.ndarray, np.ndarray]:
  """Levels [K], alive ones first and each kind ascending, and moves [K, K]."""
  n_alive, n_dead = prior.levels
  below = [special.betainc(*ab, prior.tau) for ab in (prior.alive, prior.dead)]
  middles = [(np.arange(n) + 0.5) / n for n in prior.levels]
  levels = np.concatenate([
    special.betaincinv(*prior.alive, below[0] + (1 - below[0]) * middles[0]),
    special.betaincinv(*prior.dead, below[1] * middles[1]),
  ])  # fmt: skip
  moves = np.zeros((n_alive + n_dead,) * 2)
  alive, dead = slice(0, n_alive), slice(n_alive, None)
  moves[alive, alive] = (1 - prior.hazard) * _within(n_alive, prior.redraw)
  moves[alive, dead] = prior.hazard / n_dead
  moves[dead, alive] = prior.repair / n_alive
  moves[dead, dead] = (1 - prior.repair) * _within(n_dead, prior.redraw)
  return np.clip(levels, 1e-9, 1 - 1e-9), moves


def _within(n: int, redraw: float) -> np.ndarray:
  """[n, n] moves within a kind; at an end, the neighbour that is missing is itself."""
  near = np.zeros((n, n))
  at = np.arange(n)
  near[at, at] += 0.5
  near[at, np.maximum(at - 1, 0)] += 0.25
  near[at, np.minimum(at + 1, n - 1)] += 0.25
  return (1 - redraw) * near + redraw / n


class ChangePoint:
  """Posterior of F, the first dead prefix.

  Attributes:
    posterior: [P + 1] of F = 0 .. P - 1 (the prefix that ends with this step is the
      first dead one), and of no dead prefix at all.

  Args:
    prior: see there.
    n: P.
    right: the solution's own outcome: the last prefix is alive.
  """

  def __init__(self, prior: Prior, n: int, right: bool):
    self._levels, self._moves = chain(prior)
    self._split = prior.levels[0]
    self._logs = np.zeros((n, len(self._levels)))
    kind = slice(self._split, None) if right else slice(0, self._split)
    self._logs[-1, kind] = -np.inf
    self._infer()

  def update(self, at: int, correct: int, n: int) -> None:
    """Sets the counts of the prefix that ends with step `at`, at most P - 2."""
    v = self._levels
    self._logs[at] = correct * np.log(v) + (n - correct) * np.log1p(-v)
    self._infer()

  def _infer(self) -> None:
    """Messages of the chain. Each is scaled; logs of the scales are kept."""
    logs, moves, a = self._logs, self._moves, self._split
    n = len(logs)
    like = np.exp(logs - logs.max(axis=1, keepdims=True))
    after, scale = np.ones_like(like), np.zeros(n)  # of all that follows
    for t in range(n - 2, -1, -1):
      after[t] = moves @ (like[t + 1] * after[t + 1])
      scale[t] = np.log(after[t].max()) + scale[t + 1]
      after[t] /= after[t].max()
    # alive[t]: of the counts to t, and alive to t; dying[t]: alive to t - 1, dead at t.
    alive, dying = np.empty((n, a)), np.empty((n, like.shape[1] - a))
    joint, before, log = np.empty(n + 1), np.full(a, 1 / a), 0.0
    with np.errstate(divide='ignore'):
      for t in range(n):
        dying[t] = (before @ moves[:a, a:]) * like[t, a:]
        joint[t] = np.log(dying[t] @ after[t, a:]) + log + scale[t]
        alive[t] = before = (before @ moves[:a, :a]) * like[t, :a]
        total = before.sum()
        if total > 0:
          log += np.log(total)
          before = before / total
      joint[n] = log if total > 0 else -np.inf
    joint = np.exp(joint - joint.max())
    self.posterior = joint / joint.sum()
    self._like, self._after, self._alive, self._dying = like, after, alive, dying

  def information(self) -> np.ndarray:
    """[P - 1] nats that one more rollout of each prefix is expected to tell of F."""
    n = len(self._logs)
    if n == 1:
      return np.zeros(0)
    success = np.empty((n - 1, n + 1))  # P(next success | F)
    self._if_later(success)
    self._if_before(success)
    mean = _entropy(success) @ self.posterior
    return np.maximum(_entropy(success @ self.posterior) - mean, 0.0)

  def _if_later(self, success: np.ndarray) -> None:
    """Fills in F > t: prefix t is alive, and dies at F or never."""
    like, after, a = self._like, self._after, self._split
    n = len(like)
    stay, die = self._moves[:a, :a], self._moves[:a, a:]
    ahead = np.zeros((a, n + 1))
    ahead[:, n - 1] = die @ (like[n - 1, a:] * after[n - 1, a:])
    ahead[:, n] = stay @ like[n - 1, :a]
    for t in range(n - 2, -1, -1):
      now = self._alive[t][:, None] * ahead[:, t + 1 :]
      success[t, t + 1 :] = _mean(self._levels[:a], now)
      if t:
        ahead[:, t + 1 :] = stay @ (like[t, :a, None] * ahead[:, t + 1 :])
        ahead[:, t] = die @ (like[t, a:] * after[t, a:])
        ahead /= np.maximum(ahead.max(axis=0), 1e-300)

  def _if_before(self, success: np.ndarray) -> None:
    """Fills in F <= t: prefix t is the first dead one, or a later one in any state."""
    like, after, a = self._like, self._after, self._split
    n, k = like.shape
    since = np.zeros((k, n))
    for t in range(n - 1):
      since[:, :t] = (self._moves.T @ since[:, :t]) * like[t][:, None]
      since[a:, t] = self._dying[t]
      since /= np.maximum(since.max(axis=0), 1e-300)
      now = since[:, : t + 1] * after[t][:, None]
      success[t, : t + 1] = _mean(self._levels, now)


def _mean(levels: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Weighted mean of levels down each column; of a column of zeros 0."""
  return levels @ weights / np.maximum(weights.sum(axis=0), 1e-300)


def _entropy(p: np.ndarray) -> np.ndarray:
  p = np.clip(p, 1e-12, 1 - 1e-12)
  return -p * np.log(p) - (1 - p) * np.log1p(-p)
