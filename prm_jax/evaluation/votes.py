"""Majority and weighted votes over the answers of N candidates.

A vote depends on the whole subset, so there is no closed form: it is averaged over
subsets drawn without replacement, from a seed, the same for every voting rule. N = 1
and N = n need no draws. Candidates without an answer do not vote; where nobody
votes, the vote is wrong. Tied answers share the chance equally, and an answer is as
correct as its voters are on average (verdicts on equal answers may differ where one
of them was not judged).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from prm_jax.errors import UserError
from prm_jax.evaluation.best_of_n import TIES
from prm_jax.evaluation.pools import Pool

Rule = TypeVar('Rule', bound=Hashable)

N_DRAWS = 200
_CELLS = 2_000_000  # places looked at in one go; bounds memory
_TOLERANCE = 1e-9  # sums of weights in another order differ by less


def vote(
  pool: Pool,
  weights: Mapping[Rule, np.ndarray],
  sizes: Sequence[int],
  *,
  ties: str = 'uniform',
  subsets: str = 'all',
  n_draws: int = N_DRAWS,
  seed: int = 0,
) -> dict[Rule, np.ndarray]:
  """Chance that the winning answer of N candidates is correct, for each problem.

  Args:
    pool: candidates.
    weights: rule -> [R] weight of each candidate's vote, >= 0; all ones is the
      majority vote.
    sizes: the K values of N.
    ties: 'uniform', or 'lowest_index': the answer seen first wins and its first
      candidate stands for it. The latter needs an order, so it looks at the first
      N candidates whatever `subsets` says.
    subsets: 'all' (drawn) or 'prefix' (the first N candidates).
    n_draws: subsets drawn for each N between 1 and n.
    seed: of the draws.

  Returns:
    rule -> [A, K].

  Raises:
    UserError: an option is unknown or a weight is negative.
  """
  if ties not in TIES:
    raise UserError(f'ties is {ties!r}; it must be one of {", ".join(TIES)}.')
  placed = {}
  for rule, w in weights.items():
    w = np.where(np.isfinite(w), w, 0.0)  # not scored: no weight
    if (w < 0).any():
      raise UserError(
        f'vote {rule!r} has negative weights, for which a sum has no meaning; map the '
        'scores to probabilities first.'
      )
    placed[rule] = pool.place(w, 0.0)
  out = {rule: np.empty((len(pool.sizes), len(sizes))) for rule in weights}
  drawn = []
  for i, k in enumerate(sizes):
    whole = k == pool.sizes.min() == pool.sizes.max()
    if whole or subsets == 'prefix' or ties == 'lowest_index':
      places = np.broadcast_to(np.arange(k), (1, len(pool.sizes), k))
      for rule, w in placed.items():
        out[rule][:, i] = winners(pool, places, {rule: w}, [k], ties)[rule][0]
    elif k == 1:
      answered = np.where(pool.answers >= 0, pool.correct, 0.0).sum(axis=1) / pool.sizes
      for rule in placed:
        out[rule][:, i] = answered
    else:
      drawn.append((i, k))
  if drawn:
    rng = np.random.default_rng([seed, 0x766F7465])
    total = {rule: np.zeros((len(drawn), len(pool.sizes))) for rule in weights}
    at_once = max(1, _CELLS // pool.index.size)
    for start in range(0, n_draws, at_once):
      keys = rng.random((min(at_once, n_draws - start), *pool.index.shape))
      keys = np.where(pool.mask, keys, 2.0)
      places = np.argsort(keys, axis=-1)[:, :, : drawn[-1][1]]
      won = winners(pool, places, placed, [k for _, k in drawn], ties)
      for rule in total:
        total[rule] += won[rule]
    for j, (i, _) in enumerate(drawn):
      for rule in total:
        out[rule][:, i] = total[rule][j] / n_draws
  return out


def winners(
  pool: Pool,
  places: np.ndarray,
  weights: Mapping[Rule, np.ndarray],
  sizes: Sequence[int],
  ties: str,
) -> dict[Rule, np.ndarray]:
  """Chance of a correct winner among the first k of `places` [D, A, K'], summed over D.

  Args:
    pool: candidates.
    places: int, columns of the pool's matrices in the order they are drawn.
    weights: rule -> [A, n] weights of the votes.
    sizes: the k, rising.
    ties: as for `vote`.

  Returns:
    rule -> [len(sizes), A].
  """
  d, a, _ = places.shape
  groups = int(pool.answers.max(initial=0)) + 1
  rows = np.arange(a)[None, :, None]
  answers = pool.answers[rows, places]
  slot = (np.arange(d)[:, None, None] * a + rows) * groups + answers
  voters, correct = np.zeros(d * a * groups), np.zeros(d * a * groups)
  sums = {rule: np.zeros(d * a * groups) for rule in weights}
  right = pool.correct[rows, places]
  weight = {rule: w[rows, places] for rule, w in weights.items()}
  out = {rule: np.zeros((len(sizes), a)) for rule in weights}
  done = 0
  for i, k in enumerate(sizes):
    part = (slice(None), slice(None), slice(done, k))
    done = k
    votes = answers[part] >= 0
    where = slot[part][votes]
    voters += np.bincount(where, minlength=len(voters))
    correct += np.bincount(where, right[part][votes], minlength=len(voters))
    for rule in weights:
      sums[rule] += np.bincount(where, weight[rule][part][votes], minlength=len(voters))
      out[rule][i] = _winner(sums[rule], voters, correct, (d, a, groups), pool, ties)
  return out


def _winner(
  sums: np.ndarray,
  voters: np.ndarray,
  correct: np.ndarray,
  shape: tuple[int, int, int],
  pool: Pool,
  ties: str,
) -> np.ndarray:
  there = (voters > 0).reshape(shape)
  held = np.where(there, sums.reshape(shape), -np.inf)
  top = held.max(axis=-1, keepdims=True)
  tied = there & (held >= top - _TOLERANCE * np.abs(np.maximum(top, 0.0)))
  if ties == 'lowest_index':
    # Answers are numbered by first appearance and all places are a prefix.
    first = tied.argmax(axis=-1)[0]
    lead = (pool.answers == first[:, None]).argmax(axis=1)
    chosen = pool.correct[np.arange(shape[1]), lead]
    return np.where(tied[0].any(axis=-1), chosen, 0.0)
  chance = correct.reshape(shape) / np.maximum(voters.reshape(shape), 1)
  n_tied = np.maximum(tied.sum(axis=-1), 1)
  return ((chance * tied).sum(axis=-1) / n_tied).sum(axis=0)
