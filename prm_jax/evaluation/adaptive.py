"""As many samples as a problem needs, against as many for every problem.

From a bank of n candidates a problem, drawn in random orders: a rule says after how
many candidates it stops, a vote chooses among those, and what they cost is counted. A
rule is held against a fixed number of candidates of the same mean cost: between two
whole numbers a share of the problems has the larger one.

  first      stops after N(p), from a score p of the first candidate: N samples that are
             right with chance p each hold a right one with confidence C
  sequence   the same with each candidate's own p_i: stops after the first n for which
             (1 - p_1) ... (1 - p_n) <= 1 - C; equal p_i give N(p)
  stable     stops once the leading answer is unlikely to be overtaken: under a uniform
             prior, P(share of the first answer > share of the second) =
             I_1/2(v2 + 1, v1 + 1) >= level, for their votes v1 and v2
             ("adaptive consistency", Aggarwal et al. 2023, arXiv 2305.11860)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import special

from prm_jax.errors import UserError
from prm_jax.evaluation.intervals import Estimate, Resamples, divide, estimate
from prm_jax.evaluation.pools import Pool
from prm_jax.evaluation.votes import winners

N_ORDERS = 20
_CLIP = 1e-4


@dataclasses.dataclass(frozen=True, eq=False)
class Bank:
  """What each number of candidates gives, in D random orders of each problem's n.

  Attributes:
    pool: the candidates.
    places: int [D, A, n], columns of the pool in the order they are drawn.
    right: [D, A, n] chance that the choice among the first k is right, k = 1 .. n.
    spent: [D, A, n] what the first k cost together.
  """

  pool: Pool
  places: np.ndarray
  right: np.ndarray
  spent: np.ndarray

  @property
  def n(self) -> int:
    """Candidates of a problem."""
    return self.places.shape[2]

  def of_candidates(self, values: np.ndarray) -> np.ndarray:
    """[R] values of candidates as [D, A, n], in the order they are drawn."""
    rows = np.arange(self.places.shape[1])[None, :, None]
    return self.pool.place(values, 0.0)[rows, self.places]


def bank(
  pool: Pool,
  weights: np.ndarray,
  costs: np.ndarray,
  *,
  n_orders: int = N_ORDERS,
  seed: int = 0,
) -> Bank:
  """A pool as a bank; votes are weighted, ties share the chance.

  Args:
    pool: as many candidates for every problem.
    weights: [R] weight of each candidate's vote, >= 0; ones are the majority vote.
    costs: [R] > 0 what a candidate costs; ones count candidates.
    n_orders: D.
    seed: of the orders.

  Raises:
    UserError: problems have different numbers of candidates, or a weight is negative
      or missing.
  """
  a, n = pool.index.shape
  if pool.smallest != n:
    raise UserError(
      f'pool {pool.steps.name!r}: its problems have {pool.smallest} to {n} candidates; '
      'a bank needs as many for each.'
    )
  if not (weights >= 0).all():
    raise UserError(
      f'pool {pool.steps.name!r}: votes need weights of 0 or more for all candidates.'
    )
  rng = np.random.default_rng([seed, 0x62616E6B])
  places = np.argsort(rng.random((n_orders, a, n)), axis=2)
  placed = {'': pool.place(weights, 0.0)}
  sizes = range(1, n + 1)
  right = [winners(pool, p[None], placed, sizes, 'uniform')[''].T for p in places]
  rows = np.arange(a)[None, :, None]
  spent = np.cumsum(pool.place(costs, 0.0)[rows, places], axis=2)
  return Bank(pool, places, np.stack(right), spent)


def by_first(held: Bank, needed: np.ndarray) -> np.ndarray:
  """Where a rule stops that asks for `needed` [R] candidates by the first one drawn.

  Returns:
    int [D, A], from 1 to the bank's n.
  """
  first = held.of_candidates(needed)[..., 0]
  return np.clip(first, 1, held.n).astype(np.int64)


def in_sequence(held: Bank, chances: np.ndarray, confidence: float) -> np.ndarray:
  """Where the drawn candidates hold a right one with this confidence; int [D, A].

  Args:
    held: the bank.
    chances: [R] calibrated chance of each candidate to be right, as if they erred
      apart from each other; kept below 1 - 1e-4.
    confidence: C in (0, 1).

  Where it is never reached, all n are drawn.
  """
  p = np.clip(held.of_candidates(chances), 0.0, 1 - _CLIP)
  sure = np.cumsum(np.log1p(-p), axis=2) <= np.log1p(-confidence)
  return np.where(sure.any(axis=2), sure.argmax(axis=2) + 1, held.n)


def stable(held: Bank, level: float) -> np.ndarray:
  """Where drawing stops once the majority is stable; int [D, A].

  Candidates without an answer do not vote; where it never is, all n are drawn.
  """
  pool = held.pool
  rows = np.arange(held.places.shape[1])[None, :, None]
  answers = pool.answers[rows, held.places]
  votes = np.zeros((*answers.shape[:2], int(pool.answers.max(initial=0)) + 1))
  stop = np.full(answers.shape[:2], held.n)
  for k in range(held.n):
    votes += answers[..., k, None] == np.arange(votes.shape[2])
    top = np.sort(votes, axis=2)
    second = top[..., -2] if votes.shape[2] > 1 else np.zeros_like(top[..., -1])
    sure = special.betainc(second + 1, top[..., -1] + 1, 0.5) >= level
    stop = np.where(sure & (stop == held.n), np.minimum(stop, k + 1), stop)
  return stop


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
  """What a rule gets and spends on each problem, over all orders.

  Attributes:
    right, spent: [A] means over the orders.
    candidates: mean number of candidates.
    capped: share of (order, problem) pairs in which all n were drawn.
  """

  right: np.ndarray
  spent: np.ndarray
  candidates: float
  capped: float


def outcome(held: Bank, stop: np.ndarray) -> Outcome:
  """The outcome of stopping after `stop` [D, A] candidates."""
  take = lambda x: np.take_along_axis(x, stop[..., None] - 1, axis=2)[..., 0].mean(0)
  return Outcome(
    take(held.right),
    take(held.spent),
    float(stop.mean()),
    float((stop == held.n).mean()),
  )


def ladder(held: Bank) -> list[Outcome]:
  """The outcomes of fixed numbers of candidates, 1 .. n."""
  right, spent = held.right.mean(axis=0), held.spent.mean(axis=0)
  return [
    Outcome(right[:, k], spent[:, k], k + 1.0, float(k + 1 == held.n))
    for k in range(held.n)
  ]


def accuracy(found: Outcome, sample: Resamples) -> Estimate:
  """Share of the problems solved."""
  values = divide(sample.weights @ found.right, sample.weights.sum(axis=1))
  return estimate(values, sample, len(found.right), 'no_problems')


def gain(
  found: Outcome, others: Sequence[Outcome], sample: Resamples
) -> tuple[Estimate, Estimate]:
  """How much more is solved than by others of the same mean cost, paired.

  In every resample the others' mean costs are computed anew and their accuracy is read
  off, by linear interpolation, at the rule's own mean cost there.

  Args:
    found: the rule.
    others: a family by rising cost, such as `ladder`.
    sample: resamples of the pool's problems.

  Returns:
    (difference, the others' accuracy at that cost); both undefined where the rule
    costs less or more than all of them, for the reason 'cost_out_of_range'.
  """
  weights = sample.weights / sample.weights.sum(axis=1, keepdims=True)
  right, cost = weights @ found.right, weights @ found.spent
  costs = weights @ np.stack([o.spent for o in others], axis=1)
  rights = weights @ np.stack([o.right for o in others], axis=1)
  at = np.full(len(cost), np.nan)
  slack = 1e-9 * costs[:, -1]
  for r in np.flatnonzero(
    (costs[:, 0] - slack <= cost) & (cost <= costs[:, -1] + slack)
  ):
    at[r] = np.interp(cost[r], costs[r], rights[r])
  n, reason = len(found.right), 'cost_out_of_range'
  return (
    estimate(right - at, sample, n, reason),
    estimate(at, sample, n, reason),
  )
