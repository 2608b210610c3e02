"""Step scores as rewards for reinforcement learning.

Functions of NumPy or JAX arrays alike, which compute in the array's own library:
step scores [..., P] in, step rewards [..., P] out, 0 at steps that `mask` leaves out.
`to_tokens` puts them on the tokens. The return of a step is the plain sum of the
rewards from there on (discount 1); with another discount `delta` and `min_form` do not
mean what is said of them here.

Which one to take decides what is learned. Plain sums favour many short good steps
(`per_step`); what stands against it: the worst step alone (`min_form`), nothing to
gain by a further step (`clip`), nothing but the step's own score (`delta`). In the
papers all of them are added to a reward for the right answer; process rewards alone
were exploited within some hundred steps of training.

  >>> p = np.array([0.9, 0.4, 0.8])
  >>> min_form(signed(p)).round(3).tolist()  # the worst step, -0.2, has it all
  [0.0, -0.2, 0.0]
  >>> delta(clip(p, 0.7)).round(3).tolist()
  [0.3, -0.3, 0.0]
  >>> to_tokens(last_step(p), np.array([3, 6, 9]), 10).tolist()
  [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.8]
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any  # np.ndarray or jax.Array; naming the latter would import jax


def _prepare(values: Array, mask: Array | None) -> tuple[Any, Array, Array]:
  """(library, float values with 0 where masked, bool mask of their shape)."""
  held = [values] if mask is None else [values, mask]
  spaces = [x.__array_namespace__() for x in held if hasattr(x, 'shape')]
  xp = next((s for s in spaces if s is not np), np)
  v = xp.asarray(values)
  v = v.astype(xp.promote_types(v.dtype, np.float32))
  m = xp.ones(v.shape, bool) if mask is None else xp.asarray(mask).astype(bool)
  m = xp.broadcast_to(m, v.shape)
  return xp, xp.where(m, v, 0.0), m


def signed(probabilities: Array) -> Array:
  """P(right) - P(wrong) = 2p - 1, in [-1, 1]: the step reward of PURE.

  >>> signed(np.array([1.0, 0.25])).tolist()
  [1.0, -0.5]
  """
  return 2 * probabilities - 1


def last_step(values: Array, mask: Array | None = None) -> Array:
  """The score of the last step, at the last step: an outcome reward.

  Args:
    values: [..., P] step scores.
    mask: [..., P] bool, True at steps that exist; all of them if None. Values at the
      others may be anything.

  Returns:
    [..., P], float32 or wider; zeros for a solution without steps.

  >>> last_step(np.array([0.9, 0.5, 7.0]), np.array([True, True, False])).tolist()
  [0.0, 0.5, 0.0]
  """
  xp, v, m = _prepare(values, mask)
  return xp.where(m & ~_others(xp, m, after=True).any(axis=-1), v, 0.0)


def per_step(values: Array, mask: Array | None = None) -> Array:
  """Every step's own score; arguments as `last_step`.

  Its sum grows with the number of steps, so it rewards many short ones.

  >>> per_step(np.array([0.5, 0.25])).tolist()
  [0.5, 0.25]
  """
  return _prepare(values, mask)[1]


def min_form(
  values: Array, mask: Array | None = None, *, temperature: float = 0.1
) -> Array:
  """w_t r_t with w = softmax(-r / temperature) over the steps: sums to about min r.

  "Stop Summation: Min-Form Credit Assignment Is All Process Reward Model Needs for
  Reasoning" (PURE, Cheng et al. 2025), where r is `signed(p)` and the temperature 0.1.

  Args:
    values, mask: as `last_step`.
    temperature: at 0 the first of the worst steps has all of it.

  Returns:
    [..., P]; the sum lies between min r and mean r, and in P steps at most
    temperature * log(P) above min r.

  Raises:
    ValueError: the temperature is negative.

  >>> min_form(np.array([0.2, 0.2, 0.5]), temperature=0).tolist()
  [0.2, 0.0, 0.0]
  """
  if temperature < 0:
    raise ValueError(f'temperature={temperature} must not be negative.')
  xp, v, m = _prepare(values, mask)
  if v.shape[-1] == 0:
    return v
  low = xp.where(m, v, np.inf).min(axis=-1, keepdims=True)
  low = xp.where(m.any(axis=-1, keepdims=True), low, 0.0)
  if temperature == 0:
    worst = m & (v == low)
    first = worst & ~(_others(xp, m, after=False) & worst[..., None, :]).any(axis=-1)
    # A NaN is nobody's minimum, and must not pass for a reward of 0.
    return xp.where(first | xp.isnan(low), v, 0.0)
  # What is masked would overflow where all steps are far above 0.
  w = xp.where(m, xp.exp(xp.where(m, low - v, 0.0) / temperature), 0.0)
  total = w.sum(axis=-1, keepdims=True)
  return w / xp.where(total == 0, 1.0, total) * v


def clip(values: Array, threshold: float, mask: Array | None = None) -> Array:
  """min(r - threshold, 0): a good step earns nothing, so further ones do not pay.

  "On Designing Effective RL Reward at Training Time for LLM Reasoning" (Gao et al.
  2024, arXiv 2410.15115).

  Args:
    values, mask: as `last_step`.
    threshold: eta, on the scale of the values.

  >>> clip(np.array([0.9, 0.25]), 0.5).tolist()
  [0.0, -0.25]
  """
  xp, v, m = _prepare(values, mask)
  return xp.where(m, xp.minimum(v - threshold, 0.0), 0.0)


def delta(values: Array, mask: Array | None = None) -> Array:
  """r_k - r_{k+1}; r_{K-1} at the last step but one; 0 at the last step K.

  The return of step k < K is then r_k itself, however many steps follow; the last
  step, with the answer, is left to the reward for the answer. Same paper as `clip`,
  which there comes first: `delta(clip(values, eta, mask), mask)`.

  Args:
    values, mask: as `last_step`; the next step is the next one that exists.

  >>> delta(np.array([0.75, 0.5, 0.25])).tolist()
  [0.25, 0.5, 0.0]
  """
  xp, v, m = _prepare(values, mask)
  if v.shape[-1] == 0:
    return v
  later = _others(xp, m, after=True)
  following = xp.take_along_axis(v, xp.argmax(later, axis=-1), axis=-1)
  n_later = later.sum(axis=-1)
  out = v - xp.where(n_later > 1, following, 0.0)
  return xp.where(m & (n_later > 0), out, 0.0)


def difference(
  values: Array, mask: Array | None = None, *, start: float = 0.0
) -> Array:
  """r_t - r_{t-1}: what step t adds; the first step is held against `start`.

  With values of a prover this is the advantage of PAV (Setlur et al. 2024, arXiv
  2410.08146): Q(s_t, a_t) - Q(s_{t-1}, a_{t-1}). All of them sum to the last score
  minus `start`.

  Args:
    values, mask: as `last_step`; the step before is the last one that exists.
    start: value of the question alone.

  >>> difference(np.array([0.5, 0.75, 0.25]), start=0.25).tolist()
  [0.25, 0.25, -0.5]
  """
  xp, v, m = _prepare(values, mask)
  if v.shape[-1] == 0:
    return v
  earlier = _others(xp, m, after=False)
  place = v.shape[-1] - 1 - xp.argmax(earlier[..., ::-1], axis=-1)
  previous = xp.take_along_axis(v, place, axis=-1)
  previous = xp.where(earlier.any(axis=-1), previous, start)
  return xp.where(m, v - previous, 0.0)


def to_tokens(
  step_rewards: Array, step_positions: Array, length: int, mask: Array | None = None
) -> Array:
  """Token rewards: each step's reward at its last token, 0 elsewhere.

  Args:
    step_rewards: [..., P].
    step_positions: [..., P] int, the token that ends each step, counted from 0 in
      the sequence that is trained on; several steps on one token add up.
    length: T of the result.
    mask: as `last_step`; positions of the other steps may be anything.

  Returns:
    [..., T], of the dtype of the rewards.

  Raises:
    ValueError: a step that exists lies outside [0, T). Under `jax.jit` positions have
      no value yet; there such a step adds nothing.

  >>> to_tokens(np.array([1.0, -1.0]), np.array([1, 3]), 5).tolist()
  [0.0, 1.0, 0.0, -1.0, 0.0]
  """
  xp, v, m = _prepare(step_rewards, mask)
  at = xp.broadcast_to(xp.asarray(step_positions), v.shape)
  if xp is np:
    outside = m & ((at < 0) | (at >= length))
    if outside.any():
      raise ValueError(
        f'a step ends at token {at[outside][0]}, outside the {length} tokens.'
      )
  shape = (*v.shape, length)
  here = xp.broadcast_to(at[..., None], shape) == xp.broadcast_to(
    xp.arange(length).reshape((1,) * v.ndim + (length,)), shape
  )
  return xp.where(here & m[..., None], v[..., None], 0.0).sum(axis=-2)


def _others(xp: Any, mask: Array, *, after: bool) -> Array:
  """[..., P, P] bool: whether step j exists and comes after (before) step k."""
  n = mask.shape[-1]
  j, k = np.arange(n)[None, :], np.arange(n)[:, None]
  order = xp.asarray(j > k if after else j < k).reshape((1,) * (mask.ndim - 1) + (n, n))
  return mask[..., None, :] & xp.broadcast_to(order, (*mask.shape, n))
