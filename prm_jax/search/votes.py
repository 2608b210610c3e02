"""Which answer a set of candidates elects: pure functions over arrays.

Every rule turns candidates into one value for each answer; the highest is elected,
each of equals with the same chance (`chances`, or `elect` with keys). Letters: N
candidates, A answers. `answers` [..., N] numbers the answers from 0; -1 has none and
does not vote. Answers without voters are -inf. Leading axes (subsets, problems) are
free. Candidates outside `mask` do not exist.

  >>> values = majority(np.array([0, 1, 1, -1]), np.ones(4, bool))
  >>> values.tolist(), chances(values).tolist()
  ([1.0, 2.0], [0.0, 1.0])
"""

from __future__ import annotations

import numpy as np

from prm_jax.errors import UserError

TAU = 0.5
_TOLERANCE = 1e-9
_LEAST = np.finfo(float).min / 2  # finite with a tolerance taken off


def _votes(answers: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """bool [..., N, A]: who votes for what."""
  n = int(answers.max(initial=0)) + 1
  return (answers[..., None] == np.arange(n)) & mask[..., None]


def _filled(values: np.ndarray, there: np.ndarray) -> np.ndarray:
  return np.where(there.any(axis=-2), values, -np.inf)


def _clean(scores: np.ndarray, name: str, low: float = 0.0) -> np.ndarray:
  """Scores without NaN (not scored: the least), none of them below `low`."""
  s = np.where(np.isfinite(scores), scores, 0.0)
  if (s < low).any():
    raise UserError(
      f'vote {name!r} adds up scores and some are below 0; map them to probabilities '
      'first.'
    )
  return s


def majority(answers: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """[..., A] number of voters."""
  there = _votes(answers, mask)
  return _filled(there.sum(axis=-2).astype(float), there)


def weighted(answers: np.ndarray, mask: np.ndarray, scores: np.ndarray) -> np.ndarray:
  """[..., A] sum of the voters' scores [..., N].

  Raises:
    UserError: a score is negative.
  """
  there = _votes(answers, mask)
  s = _clean(scores, 'weighted')
  return _filled(np.where(there, s[..., None], 0.0).sum(axis=-2), there)


def mean_score(answers: np.ndarray, mask: np.ndarray, scores: np.ndarray) -> np.ndarray:
  """[..., A] mean of the voters' scores [..., N]; candidates not scored are left out.

  An answer of which no voter was scored comes after all others.
  """
  there = _votes(answers, mask)
  known = there & np.isfinite(scores)[..., None]
  total = np.where(known, np.where(np.isfinite(scores), scores, 0)[..., None], 0.0)
  return _filled(means(total.sum(axis=-2), known.sum(axis=-2)), there)


def means(sums: np.ndarray, scored: np.ndarray) -> np.ndarray:
  """`mean_score` from sums of scores and numbers of scored voters, [..., A]."""
  return np.where(scored > 0, sums / np.maximum(scored, 1), _LEAST)


def reward_frequency(
  answers: np.ndarray, mask: np.ndarray, scores: np.ndarray, weight: float = 0.5
) -> np.ndarray:
  """WRF(a) = w R(a) + (1 - w) f(a) (UnPRM), [..., A].

  f is the answer's share of the votes. R is the mean score of its voters; here it is
  divided by the sum over the answers, so that R and f are shares alike. (The paper's
  normalisation is not published.)

  Args:
    answers, mask, scores: [..., N].
    weight: w in [0, 1].

  Raises:
    UserError: a score is negative, or `weight` is outside [0, 1].
  """
  there = _votes(answers, mask)
  s = _clean(scores, 'wrf')
  total = np.where(there, s[..., None], 0.0).sum(axis=-2)
  return _filled(wrf(there.sum(axis=-2), total, weight), there)


def wrf(counts: np.ndarray, sums: np.ndarray, weight: float = 0.5) -> np.ndarray:
  """`reward_frequency` from counts and sums of scores of the voters, [..., A].

  Raises:
    UserError: `weight` is outside [0, 1].
  """
  if not 0 <= weight <= 1:
    raise UserError(f'WRF weight={weight!r} must lie between 0 and 1.')
  mean = sums / np.maximum(counts, 1)
  share = lambda x: x / np.maximum(x.sum(axis=-1, keepdims=True), 1e-300)
  values = weight * share(mean) + (1 - weight) * share(counts)
  return np.where(counts > 0, values, -np.inf)


def hybrid_majority(
  answers: np.ndarray, mask: np.ndarray, scores: np.ndarray, tau: float = TAU
) -> np.ndarray:
  """HMR (UnPRM), [..., A]: the number of voters where the first answer has at least
  the share `tau` of the votes, else `mean_score`."""
  there = _votes(answers, mask)
  counts = there.sum(axis=-2)
  return _filled(hmr(counts, mean_score(answers, mask, scores), tau), there)


def hmr(counts: np.ndarray, means: np.ndarray, tau: float = TAU) -> np.ndarray:
  """`hybrid_majority` from counts and mean scores (`means`) of the voters, [..., A]."""
  top = counts.max(axis=-1, keepdims=True)
  strong = top >= tau * counts.sum(axis=-1, keepdims=True) - _TOLERANCE
  return np.where(counts > 0, np.where(strong, counts, means), -np.inf)


def self_certainty(
  mean_logprobs: np.ndarray, mask: np.ndarray, vocabulary: int
) -> np.ndarray:
  """How far a policy is from knowing nothing: mean KL(uniform || p) over the tokens.

  -(1 / V) sum_j ln p_j - ln V, averaged over a candidate's tokens (arXiv 2502.18581).

  Args:
    mean_logprobs: [..., T] mean of ln p over the whole vocabulary at each token.
    mask: bool [..., T], tokens of the candidate.
    vocabulary: V.

  Returns:
    [...] nats, 0 for a uniform policy; NaN without tokens.
  """
  n = mask.sum(axis=-1)
  total = np.where(mask, -mean_logprobs - np.log(vocabulary), 0.0).sum(axis=-1)
  return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def borda(
  answers: np.ndarray, mask: np.ndarray, certainty: np.ndarray, power: float = 0.5
) -> np.ndarray:
  """Votes of (N - rank + 1)^power by rank of certainty (arXiv 2502.18581), [..., A].

  Ranks go over all candidates, and those without an answer give no vote. Candidates
  of equal certainty share the votes of their ranks. Power 0 is the majority vote; the
  published code takes 0.5.

  Args:
    answers, mask, certainty: [..., N]; NaN is the least certain.
    power: >= 0.
  """
  c = np.where(np.isfinite(certainty), certainty, -np.inf)
  c = np.where(mask, c, np.nan)
  above = (c[..., None, :] > c[..., :, None]).sum(axis=-1)  # NaN compares false
  equal = (c[..., None, :] == c[..., :, None]).sum(axis=-1)
  n = mask.sum(axis=-1, keepdims=True)
  # Votes of ranks 1..N as a running sum, so that equals share theirs exactly.
  size = answers.shape[-1]
  ranks = np.arange(1, size + 1)
  by_rank = np.where(ranks <= n, np.maximum(n - ranks + 1, 1.0) ** power, 0.0)
  sums = np.concatenate(
    [np.zeros((*by_rank.shape[:-1], 1)), np.cumsum(by_rank, axis=-1)], axis=-1
  )
  high = np.take_along_axis(sums, np.minimum(above + equal, size), axis=-1)
  low = np.take_along_axis(sums, np.minimum(above, size), axis=-1)
  votes = (high - low) / np.maximum(equal, 1)
  there = _votes(answers, mask)
  return _filled(np.where(there, votes[..., None], 0.0).sum(axis=-2), there)


def chances(values: np.ndarray) -> np.ndarray:
  """[..., A] chance of each answer to be elected; all 0 where nobody voted."""
  top = values.max(axis=-1, keepdims=True)
  bound = top - _TOLERANCE * np.abs(np.where(np.isfinite(top), top, 0.0))
  tied = np.isfinite(values) & (values >= bound)
  return tied / np.maximum(tied.sum(axis=-1, keepdims=True), 1)


def elect(values: np.ndarray, keys: np.ndarray) -> int:
  """The elected answer of values [A]; keys [A] decide between equals. -1: none."""
  chance = chances(values)
  tied = np.flatnonzero(chance)
  return int(tied[np.argmin(keys[tied])]) if len(tied) else -1
