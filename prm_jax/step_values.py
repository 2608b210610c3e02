"""What a head's output says of a step, and how P steps make one score.

One place for training metrics, scoring, search and evaluation. Everything is a
named function of NumPy or JAX arrays alike and computes in the array's own
library, so code that only knows NumPy never loads JAX. Letters: P steps, Q
outputs of a head. 1, or a large value, is the good end everywhere.

  >>> values = VALUES['sigmoid'](np.array([2.0, -1.0, 0.0]))
  >>> values.round(3).tolist()
  [0.881, 0.269, 0.5]
  >>> mask = np.array([True, True, False])
  >>> round(float(REDUCTIONS['min'](values, mask)), 3)
  0.269
  >>> predict_first_error(values, mask, threshold=0.5)
  1
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from prm_jax.errors import UserError

Array = Any  # np.ndarray or jax.Array; naming the latter would import jax

EMPTY_SCORE = -np.inf
"""Score of a solution without a single valid step: below every other."""


def _namespace(*arrays: Array) -> Any:
  """`jax.numpy` if one of the arrays is JAX's, else `numpy`."""
  for x in arrays:
    if not isinstance(x, np.ndarray) and hasattr(x, '__array_namespace__'):
      return x.__array_namespace__()
  return np


def _float(xp: Any, x: Array) -> Array:
  x = xp.asarray(x)
  return x.astype(xp.promote_types(x.dtype, np.float32))


def logit(outputs: Array) -> Array:
  """The logit of "correct".

  Args:
    outputs: [P] or [B, P] is the logit itself. With three or more axes the last
      is Q: [..., P, 1] is the logit, [..., P, 2] holds the logits (wrong,
      correct), whose difference it is.

  Returns:
    [..., P], float32 or wider.

  Raises:
    ValueError: Q is neither 1 nor 2.

  >>> logit(np.array([[[0.5, 2.0], [1.0, 0.0]]])).tolist()
  [[1.5, -1.0]]
  """
  x = _float(_namespace(outputs), outputs)
  if x.ndim < 3:
    return x
  if x.shape[-1] not in (1, 2):
    raise ValueError(f'a logit needs 1 or 2 outputs a step, not shape {x.shape}.')
  return x[..., 0] if x.shape[-1] == 1 else x[..., 1] - x[..., 0]


def sigmoid(outputs: Array) -> Array:
  """P(correct) = 1 / (1 + e^(-logit)); arguments as `logit`; [..., P].

  For two-class heads this is the softmax over the two logits.

  >>> sigmoid(np.array([0.0, 800.0, -800.0])).tolist()
  [0.5, 1.0, 0.0]
  """
  return _sigmoid(logit(outputs))


def _sigmoid(x: Array) -> Array:
  xp = _namespace(x)
  return xp.exp(-xp.logaddexp(xp.zeros_like(x), -x))


def softmax2(outputs: Array) -> Array:
  """P(correct) of two logits (wrong, correct): [..., P, 2] -> [..., P].

  Raises:
    ValueError: the last axis is not 2.

  >>> softmax2(np.array([[1.0, 1.0]])).tolist()
  [0.5]
  """
  x = _classes(outputs, 2)
  return _sigmoid(x[..., 1] - x[..., 0])


def softmax3(outputs: Array) -> Array:
  """P(neutral) + P(positive) of three logits (negative, neutral, positive).

  [..., P, 3] -> [..., P]. The reading with which PRM800K's authors score a step
  (Lightman et al. 2023, "Let's Verify Step by Step", appendix F).

  Raises:
    ValueError: the last axis is not 3.

  >>> softmax3(np.zeros((1, 3))).round(4).tolist()
  [0.6667]
  """
  x = _classes(outputs, 3)
  good = _namespace(x).logaddexp(x[..., 1], x[..., 2])
  return _sigmoid(good - x[..., 0])


def quantile(outputs: Array) -> Array:
  """The median of a success rate: the middle one of Q quantiles.

  Args:
    outputs: [..., P, Q], Q odd and at least 3, before the sigmoid. They are sorted
      first, so that quantiles read from one step never cross (Chernozhukov et al.
      2010, "Quantile and probability curves without crossing").

  Returns:
    [..., P] in [0, 1].

  Raises:
    ValueError: Q is not odd and at least 3.

  >>> quantile(np.array([[2.0, 0.0, -1.0]])).tolist()
  [0.5]
  """
  return _quantile(outputs, 0.5)


def quantile_low(outputs: Array) -> Array:
  """The lowest of Q quantiles; otherwise as `quantile`."""
  return _quantile(outputs, 0.0)


def quantile_high(outputs: Array) -> Array:
  """The highest of Q quantiles; otherwise as `quantile`."""
  return _quantile(outputs, 1.0)


def _quantile(outputs: Array, place: float) -> Array:
  x = _float(_namespace(outputs), outputs)
  q = x.shape[-1] if x.ndim > 1 else 0
  if q < 3 or q % 2 == 0:
    raise ValueError(f'an odd number of outputs is needed, not shape {x.shape}.')
  ordered = _namespace(x).sort(x, axis=-1)
  return _sigmoid(ordered[..., round(place * (q - 1))])


def log_ratio(outputs: Array) -> Array:
  """q_t of an implicit scorer: the log-ratio of all tokens up to the end of step t.

  Args:
    outputs: [..., P], beta * sum of log(pi(y) / pi_ref(y)) up to each step's end.

  Returns:
    The same, float32 or wider.
  """
  return _float(_namespace(outputs), outputs)


def log_ratio_step(outputs: Array) -> Array:
  """r_t = q_t - q_{t-1}, the log-ratio of step t alone; arguments as `log_ratio`.

  >>> log_ratio_step(np.array([0.5, 0.25, 1.0])).tolist()
  [0.5, -0.25, 0.75]
  """
  x = _float(_namespace(outputs), outputs)
  xp = _namespace(x)
  return x - xp.concatenate([xp.zeros_like(x[..., :1]), x[..., :-1]], axis=-1)


def _classes(outputs: Array, n: int) -> Array:
  x = _float(_namespace(outputs), outputs)
  if x.ndim < 2 or x.shape[-1] != n:
    raise ValueError(f'{n} outputs a step are needed, not shape {x.shape}.')
  return x


VALUES: dict[str, Callable[[Array], Array]] = {
  'logit': logit,
  'sigmoid': sigmoid,
  'softmax2': softmax2,
  'softmax3': softmax3,
  'quantile': quantile,
  'quantile_low': quantile_low,
  'quantile_high': quantile_high,
  'log_ratio': log_ratio,
  'log_ratio_step': log_ratio_step,
}
"""Name -> f(head outputs) -> step values [..., P]."""


def _prepare(values: Array, mask: Array | None) -> tuple[Any, Array, Array]:
  xp = _namespace(values, mask)
  v = _float(xp, values)
  m = xp.ones(v.shape, bool) if mask is None else xp.asarray(mask).astype(bool)
  return xp, v, xp.broadcast_to(m, v.shape)


def _or_empty(xp: Any, score: Array, mask: Array) -> Array:
  return xp.where(mask.any(axis=-1), score, EMPTY_SCORE)


def reduce_min(values: Array, mask: Array | None = None) -> Array:
  """The worst step. [..., P] -> [...]; for logits and probabilities."""
  xp, v, m = _prepare(values, mask)
  return _or_empty(xp, xp.where(m, v, np.inf).min(axis=-1, initial=np.inf), m)


def reduce_max(values: Array, mask: Array | None = None) -> Array:
  """The best step. [..., P] -> [...]; for logits and probabilities."""
  xp, v, m = _prepare(values, mask)
  return _or_empty(xp, xp.where(m, v, -np.inf).max(axis=-1, initial=-np.inf), m)


def reduce_product(values: Array, mask: Array | None = None) -> Array:
  """P(every step is correct) if steps were independent. [..., P] -> [...].

  Only for probabilities: see `check_reduction`. NumPy values are multiplied in
  float64, where a product of 100 steps does not underflow.
  """
  xp, v, m = _prepare(values, mask)
  v = v.astype(np.float64) if xp is np else v
  return _or_empty(xp, xp.where(m, v, 1.0).prod(axis=-1), m)


def reduce_mean(values: Array, mask: Array | None = None) -> Array:
  """Mean over the valid steps. [..., P] -> [...]."""
  xp, v, m = _prepare(values, mask)
  total = xp.where(m, v, 0.0).sum(axis=-1)
  return _or_empty(xp, total / xp.maximum(m.sum(axis=-1), 1), m)


def reduce_last(values: Array, mask: Array | None = None) -> Array:
  """The last valid step, the reading of outcome models. [..., P] -> [...]."""
  xp, v, m = _prepare(values, mask)
  if v.shape[-1] == 0:
    return xp.full(v.shape[:-1], EMPTY_SCORE, v.dtype)
  index = v.shape[-1] - 1 - xp.argmax(m[..., ::-1], axis=-1)
  picked = xp.take_along_axis(v, index[..., None], axis=-1)[..., 0]
  return _or_empty(xp, picked, m)


REDUCTIONS: dict[str, Callable[[Array, Array | None], Array]] = {
  'min': reduce_min,
  'product': reduce_product,
  'last': reduce_last,
  'mean': reduce_mean,
  'max': reduce_max,
}
"""Name -> f(values [..., P], mask [..., P]) -> scores [...].

`mask` is True at steps that exist, all of them if None. Values at masked steps
may be anything. A solution without valid steps scores `EMPTY_SCORE`, so that no
selection prefers it; a NaN at a valid step comes through.
"""


def check_reduction(name: str, kind: str) -> None:
  """Refuses a reduction that has no meaning for scores of `kind`.

  Args:
    name: a key of `REDUCTIONS`.
    kind: what the scores are: 'logit', 'probability' or 'log_ratio'.

  Raises:
    UserError: the name is unknown, or it is 'product' and the scores are not
      probabilities.
  """
  if name not in REDUCTIONS:
    known = ', '.join(REDUCTIONS)
    raise UserError(f'reduction {name!r} is unknown; choose one of {known}.')
  if name == 'product' and kind != 'probability':
    raise UserError(
      f"reduction 'product' needs probabilities and these scores are of kind {kind!r}; "
      'choose min, last or mean, or calibrate the scores first.'
    )


def predict_first_error(values: Array, mask: Array | None, threshold: float) -> Array:
  """0-based index of the first step whose value is not above `threshold`.

  Args:
    values: [P] or [..., P]; a step is judged correct if its value is above the
      threshold, so a value equal to it, or NaN, is judged wrong.
    mask: [..., P], True at steps that exist; all of them if None.
    threshold: on the scale of `values`.

  Returns:
    An int for one NumPy solution [P], else int array [...]; -1: no wrong step.

  >>> predict_first_error(np.array([[0.9, 0.2], [0.9, 0.8]]), None, 0.5).tolist()
  [1, -1]
  """
  xp, v, m = _prepare(values, mask)
  wrong = m & ~(v > threshold)
  if v.shape[-1] == 0:
    first = xp.full(v.shape[:-1], -1)
  else:
    first = xp.where(wrong.any(axis=-1), xp.argmax(wrong, axis=-1), -1)
  return int(first) if xp is np and first.ndim == 0 else first
