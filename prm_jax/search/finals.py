"""The answer that a search gives in the end: rules over its candidates (pure)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prm_jax.search import votes

FINALS = ('chosen', 'vote', 'majority')
"""'chosen': the algorithm's own choice; 'vote': candidates vote with the weight of
their score; 'majority': with one voice each."""


def vote_weights(scores: np.ndarray, kind: str) -> np.ndarray:
  """[N] probabilities as they are, other kinds through a sigmoid; NaN and -inf (not
  scored, no steps) weigh nothing."""
  s = np.asarray(scores, np.float64)
  if kind != 'probability':
    with np.errstate(over='ignore'):
      s = 1 / (1 + np.exp(-s))
  return np.where(np.isfinite(s), s, 0.0)


def chances_right(
  answers: Sequence[int],
  right: Sequence[bool],
  weights: Sequence[float] | None,
  copies: Sequence[int],
  chosen: int | None,
) -> dict[str, float]:
  """Chance that each final rule picks a right answer; tied answers share it.

  Args:
    answers: [N] number of each candidate's answer, -1 has none.
    right: [N] whether it was judged right.
    weights: [N] >= 0 of the votes, None without a scorer: no 'vote' then.
    copies: [N] voices that a candidate stands for.
    chosen: place of the algorithm's choice, None without candidates.

  Returns:
    Rule -> chance in [0, 1]. An answer is as right as its voices are on average.

  >>> chances_right([0, 1, 1], [True, False, False], [0.9, 0.3, 0.3], [1, 1, 1], 1)
  {'chosen': 0.0, 'vote': 1.0, 'majority': 0.0}
  """
  out = {'chosen': float(chosen is not None and right[chosen])}
  if not len(answers):
    return {r: 0.0 for r in FINALS if r != 'vote' or weights is not None}
  voices = np.repeat(np.arange(len(answers)), copies)
  held = np.asarray(answers)[voices]
  mask = np.ones(len(voices), bool)
  n = int(max(held.max(), 0)) + 1
  there = held[:, None] == np.arange(n)
  share = (there * np.asarray(right, float)[voices, None]).sum(axis=0)
  share = share / np.maximum(there.sum(axis=0), 1)
  if weights is not None:
    values = votes.weighted(held, mask, np.asarray(weights, float)[voices])
    out['vote'] = float(votes.chances(values) @ share)
  values = votes.majority(held, mask)
  return out | {'majority': float(votes.chances(values) @ share)}
