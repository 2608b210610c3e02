"""Every selection rule on one bank of candidates, for every N up to its size.

Rankings (best of N, oracle, one picked blindly) have closed forms over all subsets of N
candidates, ties shared. Votes depend on the whole subset: they are averaged over
subsets drawn from a seed, the same for all rules and scorers; where N is a problem's
whole bank, every draw is the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from prm_jax.evaluation import best_of_n
from prm_jax.evaluation.pools import Pool

Vote = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(counts, sums of weights, numbers of voters that have a weight), [..., A] each ->
values; the highest answer wins."""
Ballots = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
_CELLS = 2_000_000  # numbers held at once; bounds memory
_TOLERANCE = 1e-9


@dataclasses.dataclass(frozen=True)
class Rule:
  """A rule with what it reads.

  Attributes:
    name: 'best', 'majority', 'vote', 'wrf', ...
    scorer: '' for rules that read no scores.
    reduction: of step scores, '' as well.
  """

  name: str
  scorer: str = ''
  reduction: str = ''


@dataclasses.dataclass(frozen=True, eq=False)
class Voter:
  """A vote: how values follow from the votes, and each candidate's weight [R].

  Attributes:
    values: see `Vote`.
    weights: of the candidates; what is not finite is no weight and adds 0.
    ballots: in place of `values`, for rules that look at each of the N candidates:
      (answers [..., N], mask [..., N], weights [..., N]) -> values [..., A].
  """

  values: Vote | None
  weights: np.ndarray
  ballots: Ballots | None = None


def rankings(
  pool: Pool, scores: Mapping[Rule, np.ndarray], sizes: Sequence[int]
) -> dict[Rule, np.ndarray]:
  """Chance that the pick is right, [A, K] each; beside the scores [R] given, the
  oracle and a blind pick."""
  out = {
    Rule('oracle'): best_of_n.oracle(pool, sizes),
    Rule('pass'): best_of_n.random_pick(pool, sizes),
  }
  for rule, values in scores.items():
    held = np.where(np.isnan(values), -np.inf, values)
    out[rule] = best_of_n.select(pool, held, sizes)
  return out


def votes(
  pool: Pool,
  voters: Mapping[Rule, Voter],
  sizes: Sequence[int],
  *,
  n_draws: int,
  seed: int,
) -> dict[Rule, np.ndarray]:
  """Chance that the elected answer is right, [A, K] each.

  Args:
    pool: n candidates each problem (larger pools are cut at the smallest).
    voters: rule -> vote.
    sizes: rising N.
    n_draws, seed: orders drawn; the first N of an order are its subset.
  """
  n = max(sizes)
  a = len(pool.sizes)
  groups = int(pool.answers.max(initial=0)) + 1
  placed = {}
  for rule, voter in voters.items():
    w = np.asarray(voter.weights, np.float64)
    placed[rule] = pool.place(np.where(np.isfinite(w), w, np.nan), np.nan)
  out = {rule: np.zeros((a, len(sizes))) for rule in voters}
  rng = np.random.default_rng([seed, 0x62616E6B])
  cells = max(groups, pool.index.shape[1])
  if any(voter.ballots for voter in voters.values()):
    cells *= n  # ballots compare candidates with each other and with the answers
  at_once = max(1, _CELLS // (a * cells))
  for start in range(0, n_draws, at_once):
    keys = rng.random((min(at_once, n_draws - start), *pool.index.shape))
    order = np.argsort(np.where(pool.mask, keys, 2.0), axis=-1)[:, :, :n]
    for rule, won in _elected(pool, order, voters, placed, sizes, groups).items():
      out[rule] += won
  return {rule: total / n_draws for rule, total in out.items()}


def _elected(
  pool: Pool,
  order: np.ndarray,
  voters: Mapping[Rule, Voter],
  placed: Mapping[Rule, np.ndarray],
  sizes: Sequence[int],
  groups: int,
) -> dict[Rule, np.ndarray]:
  """[A, K] sums over the draws `order` [D, A, n]."""
  d, a, n = order.shape
  rows = np.arange(a)[None, :, None]
  answers = pool.answers[rows, order]
  right = pool.correct[rows, order]
  weight = {rule: np.nan_to_num(w)[rows, order] for rule, w in placed.items()}
  known = {rule: ~np.isnan(w)[rows, order] for rule, w in placed.items()}
  counts, good = np.zeros((d, a, groups)), np.zeros((d, a, groups))
  sums = {rule: np.zeros((d, a, groups)) for rule in voters}
  # Mostly all are scored, and need no counts of their own.
  scored = {
    rule: counts if known[rule].all() else np.zeros((d, a, groups)) for rule in voters
  }
  out = {rule: np.zeros((a, len(sizes))) for rule in voters}
  for k in range(n):
    i, j = np.nonzero(answers[:, :, k] >= 0)
    where = (i, j, answers[i, j, k])
    counts[where] += 1
    good[where] += right[i, j, k]
    for rule in voters:
      sums[rule][where] += weight[rule][i, j, k]
      if scored[rule] is not counts:
        scored[rule][where] += known[rule][i, j, k]
    if k + 1 not in sizes:
      continue
    share = good / np.maximum(counts, 1)
    for rule, voter in voters.items():
      if voter.values is not None:
        values = voter.values(counts, sums[rule], scored[rule])
      else:
        assert voter.ballots is not None
        first = (answers[..., : k + 1], np.ones((d, a, k + 1), bool))
        values = voter.ballots(*first, weight[rule][..., : k + 1])
        beyond = [(0, 0)] * 2 + [(0, groups - values.shape[-1])]
        values = np.pad(values, beyond, constant_values=-np.inf)
      values = np.where(counts > 0, values, -np.inf)
      top = values.max(axis=-1, keepdims=True)
      bound = top - _TOLERANCE * np.abs(np.where(np.isfinite(top), top, 0.0))
      tied = np.isfinite(values) & (values >= bound)
      chance = (share * tied).sum(axis=-1) / np.maximum(tied.sum(axis=-1), 1)
      out[rule][:, list(sizes).index(k + 1)] = chance.sum(axis=0)
  return out
