"""Which child a tree search descends into (NumPy, pure)."""

from __future__ import annotations

import numpy as np

BASE = 19652  # of the exploration constant's growth
INITIAL = 1.25


def puct(
  values: np.ndarray,
  visits: np.ndarray,
  priors: np.ndarray,
  parent_visits: int,
  base: float = BASE,
  initial: float = INITIAL,
) -> np.ndarray:
  """Q + P * (ln((N_p + base + 1) / base) + initial) * sqrt(N_p) / (1 + N_c).

  AlphaZero's rule with the constants of OpenR's tree search.

  Args:
    values: [N] Q, the mean value of each child, 0 where it has no visits.
    visits: [N] N_c.
    priors: [N] P, which sum to 1.
    parent_visits: N_p.

  Returns:
    [N]; the highest is next.
  """
  c = np.log((parent_visits + base + 1) / base) + initial
  return values + priors * c * np.sqrt(parent_visits) / (1 + visits)


def uct(
  values: np.ndarray, visits: np.ndarray, parent_visits: int, c: float = 1.0
) -> np.ndarray:
  """V + c * sqrt(2 ln N_p / N_c), infinite without visits (ReST-MCTS*).

  Args:
    values, visits: [N].
    parent_visits: N_p >= 1.
    c: weight of the exploration.

  Returns:
    [N]; the highest is next.
  """
  bonus = np.sqrt(2 * np.log(max(parent_visits, 1)) / np.maximum(visits, 1))
  return np.where(visits > 0, values + c * bonus, np.inf)
