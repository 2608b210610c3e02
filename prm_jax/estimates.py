"""Two functions of a success rate that labelling and its audit must share."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

Z = 1.959963984540054  # of a 95 % interval


def wilson(
  correct: ArrayLike, n: ArrayLike, z: float = Z
) -> tuple[np.ndarray, np.ndarray]:
  """Score interval of a proportion whose n was fixed beforehand (Wilson 1927).

  Args:
    correct: successes, any shape.
    n: trials, the same shape; (0, 1) where there are none.
    z: quantile of the normal distribution.

  Returns:
    Lower and upper ends, float64 of that shape.

  >>> [round(float(x), 4) for x in wilson(0, 8)]
  [0.0, 0.3244]
  """
  n = np.asarray(n, np.float64)
  some = np.maximum(n, 1)
  p = np.asarray(correct) / some
  middle = (p + z**2 / (2 * some)) / (1 + z**2 / some)
  half = z / (1 + z**2 / some) * np.sqrt(p * (1 - p) / some + z**2 / (4 * some**2))
  low = np.where(n > 0, np.clip(middle - half, 0, 1), 0.0)
  high = np.where(n > 0, np.clip(middle + half, 0, 1), 1.0)
  return low, high


def entropic(p: ArrayLike, eta: float) -> np.ndarray:
  """ln(1 - p + p e^eta) / eta: the value of ER-PRM (Zhang et al. 2024); eta > 0.

  Written so that neither a large nor a small eta loses digits.

  Args:
    p: success rates in [0, 1], any shape.

  Returns:
    float64 of that shape, in [0, 1].

  >>> entropic([0.0, 0.5, 1.0], 1.0).round(3).tolist()
  [0.0, 0.62, 1.0]
  """
  p = np.asarray(p, np.float64)
  safe = np.where(p > 0, p, 1.0)
  value = 1 + np.log1p((1 - safe) * np.expm1(-eta)) / eta
  return np.where(p > 0, np.clip(value, 0.0, 1.0), 0.0)
