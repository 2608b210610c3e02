"""Logistic regression by Newton's method, for baselines and calibration."""

from __future__ import annotations

import dataclasses

import numpy as np

from prm_jax.errors import UserError

_RIDGE = 1e-6  # keeps the solution finite where the classes can be separated
_MAX_STEPS = 100


@dataclasses.dataclass(frozen=True, eq=False)
class Logistic:
  """P(y = 1 | x) = sigmoid((x - mean) / scale . coefficients + intercept).

  Attributes:
    mean, scale: [K] standardisation of the features.
    coefficients: [K], of standardised features.
    intercept: float.
  """

  mean: np.ndarray
  scale: np.ndarray
  coefficients: np.ndarray
  intercept: float

  def logits(self, features: np.ndarray) -> np.ndarray:
    """[M, K] features -> [M] log odds."""
    return (features - self.mean) / self.scale @ self.coefficients + self.intercept

  def probabilities(self, features: np.ndarray) -> np.ndarray:
    """[M, K] features -> [M] probabilities in [0, 1]."""
    return sigmoid(self.logits(features))


def sigmoid(x: np.ndarray) -> np.ndarray:
  """1 / (1 + e^-x) without overflow."""
  return np.exp(-np.logaddexp(0.0, -x))


def fit(features: np.ndarray, targets: np.ndarray) -> Logistic:
  """Maximum likelihood fit with intercept, features standardised.

  Minimises mean cross-entropy + (1e-6 / 2) |coefficients|^2 by Newton steps, halved
  while they do not improve. A constant feature gets coefficient 0.

  Args:
    features: [M, K].
    targets: [M] in [0, 1]; soft targets are allowed.

  Raises:
    UserError: there are no rows, or all targets are 0 or all 1.
  """
  m, k = features.shape
  if m == 0 or targets.max() == 0 or targets.min() == 1:
    raise UserError(
      'a logistic regression needs rows of both classes; the split it is fitted on '
      'has only one: take a larger one.'
    )
  mean, scale = features.mean(axis=0), features.std(axis=0)
  scale = np.where(scale > 0, scale, 1.0)
  x = np.concatenate([(features - mean) / scale, np.ones((m, 1))], axis=1)
  ridge = np.append(np.full(k, _RIDGE), 0.0)
  w = np.zeros(k + 1)
  loss = _loss(x, targets, w, ridge)
  for _ in range(_MAX_STEPS):
    p = sigmoid(x @ w)
    gradient = x.T @ (p - targets) / m + ridge * w
    hessian = (x * (p * (1 - p))[:, None]).T @ x / m + np.diag(ridge + 1e-12)
    step = np.linalg.solve(hessian, gradient)
    for _ in range(30):
      candidate = _loss(x, targets, w - step, ridge)
      if candidate <= loss:
        break
      step = step / 2
    else:
      break
    w, done, loss = w - step, loss - candidate < 1e-13, candidate
    if done:
      break
  return Logistic(mean, scale, w[:-1], float(w[-1]))


def _loss(x: np.ndarray, y: np.ndarray, w: np.ndarray, ridge: np.ndarray) -> float:
  z = x @ w
  return float(np.mean(np.logaddexp(0.0, z) - y * z) + 0.5 * np.sum(ridge * w * w))
