"""Which beams live on: pure functions of scores, masks and keys.

`keys` are uniform numbers from [0, 1), one a beam. Beams of equal score are ordered by
them, so every one of them is as likely to be first. A NaN score (not scored) ranks
below every number. Higher scores are better.

  >>> top_k(np.array([0.2, 0.9, 0.9]), np.ones(3, bool), 2, np.array([0.1, 0.8, 0.3]))
  [2, 1]
"""

from __future__ import annotations

import numpy as np

_SLACK = 1e-9  # what rounding may add to a whole number


def ranked(scores: np.ndarray, mask: np.ndarray, keys: np.ndarray) -> list[int]:
  """Places where `mask` is True, best first; scores, mask, keys [N]."""
  clean = np.where(np.isnan(scores), -np.inf, scores)
  order = np.lexsort((keys, -clean))
  return [int(i) for i in order if mask[i]]


def top_k(scores: np.ndarray, mask: np.ndarray, k: int, keys: np.ndarray) -> list[int]:
  """The k best places, or all there are; best first."""
  return ranked(scores, mask, keys)[:k]


def best_of_groups(
  scores: np.ndarray, mask: np.ndarray, groups: np.ndarray, keys: np.ndarray
) -> dict[int, int]:
  """The best place of each group, as diverse verifier tree search keeps them.

  Args:
    scores, mask, keys: [N].
    groups: int [N], the subtree of each.

  Returns:
    group -> place; groups without a place are left out.
  """
  out: dict[int, int] = {}
  for place in ranked(scores, mask, keys):
    out.setdefault(int(groups[place]), place)
  return out


def duplicated(n_beams: int, n: int) -> list[int]:
  """Copies of each of `n_beams` when their list is repeated and cut at n.

  >>> duplicated(3, 8)
  [3, 3, 2]
  """
  return [n // n_beams + (i < n % n_beams) for i in range(n_beams)]


def rebase_widths(
  scores: np.ndarray,
  mask: np.ndarray,
  budget: int,
  keys: np.ndarray,
  temperature: float = 0.2,
) -> np.ndarray:
  """Children of each beam by REBASE (arXiv 2408.00724).

  In descending order of score a beam gets ceil(what is left * its share of the
  weights exp(s / T) that are left), and leaves the rest to the others.

  Args:
    scores, mask, keys: [N].
    budget: B >= 0 children together.
    temperature: T; the published 0.2 is for scores in [0, 1].

  Returns:
    int [N], B together where `mask` has any beam, 0 outside of it.
  """
  widths = np.zeros(len(scores), int)
  order = ranked(scores, mask, keys)
  if not order:
    return widths
  weights = softmax(np.asarray(scores, float)[order] / temperature)
  left = budget
  for i, place in enumerate(order):
    rest = weights[i:].sum()
    share = weights[i] / rest if rest > 0 else 1 / (len(order) - i)
    widths[place] = min(left, int(np.ceil(left * share - _SLACK)))
    left -= widths[place]
  return widths


def softmax(values: np.ndarray) -> np.ndarray:
  """exp(v) normalised, [N]; NaN and -inf weigh nothing, and all alike if all do."""
  v = np.where(np.isnan(values), -np.inf, np.asarray(values, float))
  top = v.max(initial=-np.inf)
  if top == -np.inf:
    return np.full(len(v), 1 / max(len(v), 1))
  v = np.exp(v - top)
  return v / v.sum()
