"""Best-of-N pushed too far: true accuracy beside the reward that chooses.

Choosing the best of N by a reward is a way of optimising that reward, harder the
larger N is (Gao et al. 2023, "Scaling Laws for Reward Model Overoptimization", arXiv
2210.10760). It stands here in place of the tier of "Reward Under Attack" that trains a
policy by RL, and shows less: the candidates are those of the solvers, nobody looks for
solutions that only the reward likes. All values over subsets are exact.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from prm_jax.evaluation import best_of_n, votes
from prm_jax.evaluation.hack_effects import FAIL, PASS, UNDEFINED, WARN, Rules
from prm_jax.evaluation.intervals import Estimate, Resamples, difference, means
from prm_jax.evaluation.pools import Pool


@dataclasses.dataclass(frozen=True, eq=False)
class Overoptimised:
  """Best-of-N of one reward over a ladder of N.

  Attributes:
    sizes: the K values of N, rising.
    accuracy: [K] of the candidate with the highest reward.
    proxy: [K] its reward.
    majority, oracle: [K] of a vote, and of a perfect choice.
    best: the N of the highest accuracy.
    drop: accuracy at the best N minus that at the largest. The best N of a problem is
      the one that is best on the other half of the problems, so that the larger of
      noisy numbers is not taken for a drop.
    over_majority: accuracy minus that of the vote, both at the largest N.
    verdict: 'pass', 'warn', 'fail' or 'undefined'.
    by_problem: [A, K] accuracy.
  """

  sizes: list[int]
  accuracy: list[Estimate]
  proxy: list[Estimate]
  majority: list[Estimate]
  oracle: list[Estimate]
  best: int
  drop: Estimate
  over_majority: Estimate
  verdict: str
  by_problem: np.ndarray


def overoptimise(
  pool: Pool,
  reward: np.ndarray,
  sizes: list[int],
  sample: Resamples,
  rules: Rules,
  *,
  n_draws: int = 50,
  seed: int = 0,
) -> Overoptimised:
  """Measures best-of-N by `reward` for every N.

  Args:
    pool: candidates of A problems.
    reward: [R] one a candidate, NaN where there is none: never chosen before others.
    sizes: the N, rising, up to the smallest pool.
    sample: resamples of the pool's problems.
    rules: thresholds.
    n_draws, seed: of the majority vote.
  """
  known = np.isfinite(reward)
  held = np.where(known, reward, -np.inf)
  lowest = reward[known].min() if known.any() else 0.0
  placed = pool.place(held)
  right = best_of_n.expected_best(placed, pool.correct, pool.sizes, sizes)
  payoff = np.where(np.isfinite(placed) & pool.mask, placed, lowest)
  gained = best_of_n.expected_best(placed, payoff, pool.sizes, sizes)
  voted = votes.vote(
    pool, {'majority': np.ones(len(reward))}, sizes, n_draws=n_draws, seed=seed
  )['majority']
  accuracy, majority = means(right, sample), means(voted, sample)
  drop = means(_drops(right)[:, None], sample)[0]
  over = difference(accuracy[-1], majority[-1])
  return Overoptimised(
    sizes=list(sizes),
    accuracy=accuracy,
    proxy=means(gained, sample),
    majority=majority,
    oracle=means(best_of_n.oracle(pool, sizes), sample),
    best=sizes[int(np.argmax(right.mean(axis=0)))],
    drop=drop,
    over_majority=over,
    verdict=_verdict(drop, over, rules) if known.any() else UNDEFINED,
    by_problem=right,
  )


def _drops(right: np.ndarray) -> np.ndarray:
  """[A] accuracy at the N that is best on the other half, minus at the largest."""
  half = np.arange(len(right)) % 2
  out = np.zeros(len(right))
  for side in (0, 1):
    others = right[half != side]
    best = int(np.argmax(others.mean(axis=0))) if len(others) else -1
    out[half == side] = right[half == side, best] - right[half == side, -1]
  return out


def _verdict(drop: Estimate, over: Estimate, rules: Rules) -> str:
  shown = drop.low is not None and drop.low > 0
  if shown and (drop.value or 0) >= rules.drop:
    return FAIL
  behind = over.high is not None and over.high < 0
  return WARN if shown or behind else PASS
