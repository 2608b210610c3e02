"""Particles: their weights, and schemes that draw the next ones (NumPy, pure).

Weights as in "A Probabilistic Inference Approach to Inference-Time Scaling of LLMs
using Particle-Based Monte Carlo Methods" (Puri et al., arXiv 2502.01618):
softmax(logit(r) / T), r the score of the prefix as it stands. It resamples at every
step, multinomially; the other schemes have the same expected number of copies and
less variance (Douc, Cappe and Moulines 2005).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

CLIP = 1e-7


def log_weights(scores: np.ndarray, kind: str, clip: float = CLIP) -> np.ndarray:
  """ln r - ln(1 - r) of probabilities r; other kinds are on that scale already.

  Args:
    scores: [N]; NaN weighs nothing.
    kind: 'probability', 'logit' or 'log_ratio'.
    clip: r is kept this far from 0 and 1.

  Returns:
    float64 [N].
  """
  r = np.asarray(scores, np.float64)
  if kind == 'probability':
    r = np.clip(r, clip, 1 - clip)
    r = np.log(r) - np.log1p(-r)
  return np.where(np.isnan(r), -np.inf, r)


def effective_size(weights: np.ndarray) -> float:
  """1 / sum of w^2 for weights [N] that sum to 1: N if they are equal, 1 if one has
  all.

  >>> effective_size(np.array([0.5, 0.5, 0.0]))
  2.0
  """
  return float(1 / np.square(weights).sum())


def _at(weights: np.ndarray, positions: np.ndarray) -> np.ndarray:
  """Places where the running sum of the weights first exceeds each position."""
  ends = np.cumsum(weights)
  found = np.searchsorted(ends / ends[-1], positions, side='right')
  return np.minimum(found, np.flatnonzero(weights)[-1])


def multinomial(weights: np.ndarray, keys: np.ndarray) -> np.ndarray:
  """Every particle by a draw of its own.

  Args:
    weights: [N], >= 0, not all 0.
    keys: [M] uniform numbers from [0, 1), one for each particle to draw.

  Returns:
    int [M] places.
  """
  return _at(weights, keys)


def stratified(weights: np.ndarray, keys: np.ndarray) -> np.ndarray:
  """One draw from each of M equal strata; arguments as `multinomial`."""
  m = len(keys)
  return _at(weights, (np.arange(m) + keys) / m)


def systematic(weights: np.ndarray, keys: np.ndarray) -> np.ndarray:
  """The strata at one common offset, `keys[0]`; arguments as `multinomial`."""
  m = len(keys)
  return _at(weights, (np.arange(m) + keys[0]) / m) if m else np.zeros(0, int)


def residual(weights: np.ndarray, keys: np.ndarray) -> np.ndarray:
  """floor(M w) copies of each, the others multinomial from what is left of M w.

  Arguments as `multinomial`; the last keys are used.
  """
  m = len(keys)
  expected = m * np.asarray(weights, float) / np.sum(weights)
  copies = np.floor(expected + 1e-9).astype(int)
  sure = np.repeat(np.arange(len(copies)), copies)[:m]
  rest = np.maximum(expected - copies, 0.0)
  if len(sure) == m:
    return sure
  drawn = multinomial(rest if rest.any() else expected, keys[len(sure) :])
  return np.concatenate([sure, drawn])


SCHEMES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
  'multinomial': multinomial,
  'stratified': stratified,
  'systematic': systematic,
  'residual': residual,
}
"""Name -> f(weights [N], keys [M]) -> places [M]."""
