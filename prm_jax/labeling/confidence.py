"""When to stop rolling out: rules that say whether V is below tau, and their errors.

A rule looks at s successes in n rollouts, after every rollout, and says 'dead'
(V < tau), 'alive' (V > tau) or nothing yet. `ConfidenceSequence` may be looked at
whenever one likes: whatever V is, it ever claims something false with probability
at most alpha. A fixed 95 % interval looked at after every rollout does not have
that property: at V = tau it is wrong 27 % of the time by n = 32 (`FixedInterval`).
`BetaPosterior` promises nothing for a single V, but the smallest expected loss if V
comes from its prior.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, Protocol

import numpy as np
from scipy import special

from prm_jax.estimates import Z, wilson
from prm_jax.labeling.solutions import at_least, between

ALIVE, UNDECIDED, DEAD = 1, 0, -1
"""What a rule says of a prefix."""


class Rule(Protocol):
  """Attribute `tau`, and `decide`, which works on arrays."""

  tau: float

  def decide(self, correct: np.ndarray, n: np.ndarray) -> np.ndarray:
    """int8: ALIVE, DEAD or UNDECIDED after `correct` successes in `n` rollouts."""


@dataclasses.dataclass(frozen=True)
class ConfidenceSequence:
  """Anytime-valid: two one-sided beta-binomial mixture tests of V = tau.

  For q < tau <= V the likelihood ratio of q to tau is a supermartingale, and so is
  its mean over q from a Beta(a, b) cut off at tau:

    E_n = B(a + s, b + n - s) I_tau(a + s, b + n - s)
          / (B(a, b) I_tau(a, b) tau^s (1 - tau)^(n - s))

  By Ville's inequality it ever reaches 2 / alpha with probability at most alpha / 2;
  'dead' is said when it does. 'alive' mirrors it with q > tau. (Robbins 1970, mixture
  martingales; Ville 1939.)

  Attributes:
    tau: the limit.
    alpha: bound of the probability that a false claim is ever made, both together.
    dead, alive: (a, b) of the mixtures; they move power, not validity.
  """

  tau: float = 0.125
  alpha: float = 0.05
  dead: tuple[float, float] = (0.25, 1.0)
  alive: tuple[float, float] = (1.0, 1.0)

  def __post_init__(self) -> None:
    object.__setattr__(self, 'dead', tuple(self.dead))
    object.__setattr__(self, 'alive', tuple(self.alive))
    between('tau', self.tau, 0, 1)
    between('alpha', self.alpha, 0, 1)
    for name in ('dead', 'alive'):
      between(name, min(getattr(self, name)), 0, np.inf)

  def log_evidence(
    self, correct: np.ndarray, n: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """ln E_n against V >= tau and against V <= tau."""
    s, f = np.asarray(correct, float), np.asarray(n, float) - correct
    at_tau = s * np.log(self.tau) + f * np.log1p(-self.tau)

    def log_mixture(ab: tuple[float, float], upper: bool) -> np.ndarray:
      a, b = ab
      share = special.betaincc if upper else special.betainc
      with np.errstate(divide='ignore'):  # no mass beyond tau: evidence 0
        return (
          special.betaln(a + s, b + f)
          - special.betaln(a, b)
          + np.log(share(a + s, b + f, self.tau))
          - np.log(share(a, b, self.tau))
          - at_tau
        )

    return log_mixture(self.dead, False), log_mixture(self.alive, True)

  def decide(self, correct: np.ndarray, n: np.ndarray) -> np.ndarray:
    """int8: ALIVE, DEAD or UNDECIDED after `correct` successes in `n` rollouts."""
    dead, alive = self.log_evidence(correct, n)
    limit = np.log(2 / self.alpha)
    return _claims(dead >= limit, alive >= limit)


@dataclasses.dataclass(frozen=True)
class BetaPosterior:
  """Stops where one more rollout costs more than the expected loss of stopping now.

  Attributes:
    tau: the limit.
    prior: (a, b) of the Beta prior of V.
    cost: of one rollout, in units of the loss of one wrong claim: stop when the
      posterior probability of being wrong is at most this.
  """

  tau: float = 0.125
  prior: tuple[float, float] = (0.25, 0.5)
  cost: float = 0.02

  def __post_init__(self) -> None:
    object.__setattr__(self, 'prior', tuple(self.prior))
    between('tau', self.tau, 0, 1)
    between('cost', self.cost, 0, 0.5)
    between('prior', min(self.prior), 0, np.inf)

  def decide(self, correct: np.ndarray, n: np.ndarray) -> np.ndarray:
    """int8: ALIVE, DEAD or UNDECIDED after `correct` successes in `n` rollouts."""
    a, b = self.prior
    s, f = np.asarray(correct, float), np.asarray(n, float) - correct
    below = special.betainc(a + s, b + f, self.tau)
    return _claims(1 - below <= self.cost, below <= self.cost)


@dataclasses.dataclass(frozen=True)
class FixedInterval:
  """The rule that must not be used: a Wilson interval looked at after each rollout."""

  tau: float = 0.125
  z: float = Z

  def decide(self, correct: np.ndarray, n: np.ndarray) -> np.ndarray:
    """int8: ALIVE, DEAD or UNDECIDED after `correct` successes in `n` rollouts."""
    some, tried = np.broadcast_arrays(correct, n)
    low, high = wilson(some, tried, self.z)
    return _claims(high < self.tau, low > self.tau)


def _claims(dead: np.ndarray, alive: np.ndarray) -> np.ndarray:
  return np.where(dead, DEAD, np.where(alive, ALIVE, UNDECIDED)).astype(np.int8)


class Realised(NamedTuple):
  """What a rule did on streams of rollouts with a known V.

  Attributes:
    error: share of streams that ended in a false claim; at V = tau both are false.
    standard_error: of `error`.
    dead, alive, undecided: shares of streams by how they ended.
    mean_rollouts: until the claim, or n_max.
  """

  error: float
  standard_error: float
  dead: float
  alive: float
  undecided: float
  mean_rollouts: float


def realised_error(
  rule: Rule,
  p: float,
  tau: float,
  n_max: int,
  streams: int = 10000,
  seed: int = 0,
) -> Realised:
  """Looks at streams of Bernoulli(p) rollouts with a rule until it claims something.

  Args:
    rule: any.
    p: the true V.
    tau: the limit that the claims are judged by.
    n_max: rollouts at most.
    streams: number of streams.
    seed: of the draws.

  Raises:
    UserError: n_max or streams below 1.
  """
  at_least('n_max', n_max, 1)
  at_least('streams', streams, 1)
  s, n = np.meshgrid(np.arange(n_max + 1), np.arange(n_max + 1))
  claims = rule.decide(np.minimum(s, n), n)  # [n, s]
  rng = np.random.default_rng(seed)
  correct = np.zeros(streams, np.int64)
  claim = np.full(streams, claims[0, 0])
  used = np.zeros(streams, np.int64)
  for at in range(1, n_max + 1):
    going = claim == UNDECIDED
    if not going.any():
      break
    used[going] += 1
    correct += rng.random(streams) < p
    claim[going] = claims[at, correct[going]]
  wrong = ((claim == DEAD) & (p >= tau)) | ((claim == ALIVE) & (p <= tau))
  error = float(wrong.mean())
  return Realised(
    error,
    float(np.sqrt(error * (1 - error) / streams)),
    float((claim == DEAD).mean()),
    float((claim == ALIVE).mean()),
    float((claim == UNDECIDED).mean()),
    float(used.mean()),
  )
