"""Best-of-N from saved candidates, in closed form over all subsets.

A pool of n candidates holds C(n, k) subsets of size k. A selector that ranks
candidates picks the highest of a subset; averaging over all subsets, and over
uniform choices within ties, needs no sampling: a tie group of m candidates, c of
them correct, with b candidates strictly below contributes

  (c / m) (C(b + m, k) - C(b, k)) / C(n, k)

to the chance that the pick is correct. With k = 1 that is pass@1, with distinct
scores the estimator of best-of-k from order statistics; the oracle, pass@k =
1 - C(n - c, k) / C(n, k), is the same formula with correctness as the score
(Chen et al. 2021). `ties='lowest_index'` ranks earlier candidates above later ones
of the same score, which published numbers do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prm_jax.errors import UserError
from prm_jax.evaluation.pools import Pool

TIES = ('uniform', 'lowest_index')


def subset_ratios(n: int, sizes: Sequence[int]) -> np.ndarray:
  """C(j, k) / C(n, k) for j = 0..n and each k of `sizes`: [n + 1, K].

  By C(j - 1, k) = C(j, k) (j - k) / j from C(n, k) / C(n, k) = 1 downward, which
  neither overflows nor cancels; relative error below n * 2^-52.
  """
  j = np.arange(n, 0, -1)[:, None]
  k = np.asarray(sizes)[None, :]
  steps = np.maximum(j - k, 0) / j
  down = np.concatenate([np.ones((1, k.shape[1])), np.cumprod(steps, axis=0)])
  return down[::-1]


def expected_best(
  scores: np.ndarray,
  correct: np.ndarray,
  pool_sizes: np.ndarray,
  sizes: Sequence[int],
  ties: str = 'uniform',
) -> np.ndarray:
  """Chance that the highest-ranked of k candidates is correct, for each problem.

  Args:
    scores: [A, n], finite or -inf; higher is better. Places beyond a problem's
      pool are ignored.
    correct: [A, n] 1 or 0 (or any payoff).
    pool_sizes: [A] candidates of each problem, all at least max(sizes).
    sizes: the K values of k.
    ties: 'uniform' (expectation over equally likely picks) or 'lowest_index'.

  Returns:
    [A, K].

  Raises:
    UserError: `ties` is unknown.
  """
  if ties not in TIES:
    raise UserError(f'ties is {ties!r}; it must be one of {", ".join(TIES)}.')
  a, n = scores.shape
  place = np.broadcast_to(np.arange(n), (a, n))
  real = place < pool_sizes[:, None]
  # Later places first among equals, so that the lowest index ranks highest.
  order = np.lexsort((-place, np.where(real, scores, np.inf), ~real), axis=-1)
  ranked = np.take_along_axis(scores, order, axis=1)
  payoff = np.take_along_axis(np.where(real, correct, 0.0), order, axis=1)
  first = np.ones((a, n), dtype=bool)
  if ties == 'uniform':
    first[:, 1:] = (ranked[:, 1:] != ranked[:, :-1]) | ~real[:, 1:]
  below = np.maximum.accumulate(np.where(first, place, 0), axis=1)
  last = np.ones((a, n), dtype=bool)
  last[:, :-1] = first[:, 1:]
  upto = np.minimum.accumulate(np.where(last, place + 1, n)[:, ::-1], axis=1)[:, ::-1]
  share = payoff / (upto - below)
  out = np.empty((a, len(sizes)))
  for size in np.unique(pool_sizes):
    rows = np.flatnonzero(pool_sizes == size)
    ratios = subset_ratios(int(size), sizes)
    low, high = below[rows, :size], upto[rows, :size]
    for i in range(len(sizes)):
      chance = ratios[high, i] - ratios[low, i]
      out[rows, i] = (share[rows, :size] * chance).sum(axis=1)
  return out


def select(
  pool: Pool,
  scores: np.ndarray,
  sizes: Sequence[int],
  *,
  ties: str = 'uniform',
  subsets: str = 'all',
) -> np.ndarray:
  """Best-of-N accuracy of a score on a pool, for each problem: [A, K].

  Args:
    pool: candidates.
    scores: [R] one a candidate, higher is better.
    sizes: the K values of N.
    ties: see `expected_best`.
    subsets: 'all' subsets of the pool (closed form), or 'prefix': the first N
      candidates only, which published numbers use.

  Raises:
    UserError: an option is unknown.
  """
  if subsets not in ('all', 'prefix'):
    raise UserError(f"subsets is {subsets!r}; it must be 'all' or 'prefix'.")
  if subsets == 'all':
    return expected_best(pool.place(scores), pool.correct, pool.sizes, sizes, ties)
  columns = []
  for k in sizes:
    part = pool.prefix(k)
    columns.append(
      expected_best(part.place(scores), part.correct, part.sizes, [k], ties)
    )
  return np.concatenate(columns, axis=1)


def oracle(pool: Pool, sizes: Sequence[int], subsets: str = 'all') -> np.ndarray:
  """Chance that at least one of N candidates is correct: [A, K]."""
  right = np.zeros(pool.steps.n_rows)
  right[pool.index[pool.mask]] = pool.correct[pool.mask]
  return select(pool, right, sizes, subsets=subsets)


def random_pick(pool: Pool, sizes: Sequence[int], subsets: str = 'all') -> np.ndarray:
  """Chance that a candidate picked blindly is correct, the same for every N: [A, K]."""
  return select(pool, np.zeros(pool.steps.n_rows), sizes, subsets=subsets)
