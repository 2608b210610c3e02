"""Temporal-difference learning of step values along a solution.

V_t = σ(r_t) estimates what comes of the solution from step t on. After TDRM (arXiv
2509.15110), which trains pairs of states; here whole solutions give the same terms
in one pass, and λ-returns (Sutton and Barto, 2nd ed., section 12.1) besides.

  >>> values = jnp.array([[0.0, 0.0]])
  >>> labels, mask = jnp.array([[1.0, 1.0]]), jnp.ones((1, 2), bool)
  >>> loss_sum, weight = td(values, labels, mask, outcome=jnp.array([1.0]))
  >>> round(float(loss_sum / weight), 4)
  0.6931
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from prm_jax import masking
from prm_jax.errors import UserError
from prm_jax.objectives import outcome as outcomes
from prm_jax.objectives import pointwise, units
from prm_jax.objectives.shaping import SHAPINGS, Shaping

TERMINALS = ('verdict', 'last_label')


def n_step_returns(
  state_values: jax.Array,
  rewards: jax.Array,
  is_last: jax.Array,
  terminal: jax.Array,
  *,
  discount: float,
  n_steps: int,
) -> jax.Array:
  """Targets that look `n_steps` ahead, or to the end where that is nearer.

  G_t = Σ_{k<n} γᵏ reward_{t+k} + γⁿ V_{t+n}            if t + n ≤ S
  G_t = Σ_{k<S−t} γᵏ reward_{t+k} + γ^{S−t} G_S         else, G_S = terminal

  Args:
    state_values: [B, P] V.
    rewards: [B, P].
    is_last: [B, P] bool, True at the last step S of a row.
    terminal: [B] G_S.
    discount: γ.
    n_steps: n ≥ 1; from P on this is the Monte-Carlo return.

  Returns:
    [B, P]; meaningless after the last step.

  >>> v, last = jnp.array([[0.1, 0.2, 0.4]]), jnp.array([[False, False, True]])
  >>> g = n_step_returns(v, 0 * v, last, jnp.ones(1), discount=0.5, n_steps=1)
  >>> [round(x, 2) for x in g[0].tolist()]
  [0.1, 0.2, 1.0]
  """
  returns = state_values
  for _ in range(min(n_steps, state_values.shape[1])):
    ahead = rewards + discount * _next(returns)
    returns = jnp.where(is_last, terminal[:, None], ahead)
  return returns


def lambda_returns(
  state_values: jax.Array,
  rewards: jax.Array,
  is_last: jax.Array,
  terminal: jax.Array,
  *,
  discount: float,
  lambda_: float,
) -> jax.Array:
  """Targets that mix all horizons, n steps ahead with weight (1 − λ) λⁿ⁻¹.

  G_t = reward_t + γ [(1 − λ) V_{t+1} + λ G_{t+1}],  G_S = terminal

  λ = 0 is `n_step_returns` with n = 1, λ = 1 the Monte-Carlo return.

  Args:
    state_values: [B, P] V.
    rewards: [B, P].
    is_last: [B, P] bool, True at the last step S of a row.
    terminal: [B] G_S.
    discount: γ.
    lambda_: λ in [0, 1].

  Returns:
    [B, P]; meaningless after the last step.

  >>> v, last = jnp.array([[0.1, 0.2, 0.4]]), jnp.array([[False, False, True]])
  >>> g = lambda_returns(v, 0 * v, last, jnp.ones(1), discount=1.0, lambda_=0.5)
  >>> [round(x, 3) for x in g[0].tolist()]
  [0.45, 0.7, 1.0]
  """

  def back(
    later: jax.Array, step: tuple[jax.Array, ...]
  ) -> tuple[jax.Array, jax.Array]:
    reward, next_value, last = step
    mixed = reward + discount * ((1 - lambda_) * next_value + lambda_ * later)
    now = jnp.where(last, terminal, mixed)
    return now, now

  steps = (rewards.T, _next(state_values).T, is_last.T)
  _, returns = jax.lax.scan(back, jnp.zeros_like(terminal), steps, reverse=True)
  return returns.T


def _next(x: jax.Array) -> jax.Array:
  """x_{t+1} at t, 0 at the end."""
  return jnp.concatenate([x[:, 1:], jnp.zeros_like(x[:, :1])], axis=1)


def td(
  values: jax.Array,
  labels: jax.Array,
  mask: jax.Array,
  weights: jax.Array | None = None,
  *,
  outcome: jax.Array | None = None,
  outcome_mask: jax.Array | None = None,
  steps_mask: jax.Array | None = None,
  discount: float = 1.0,
  n_steps: int = 1,
  lambda_: float | None = None,
  shaping: str | Shaping = 'zero',
  shaping_options: Mapping[str, Any] | None = None,
  terminal: str = 'verdict',
  clip: bool = True,
  train_unlabeled: bool = False,
  unit: str = 'step',
  problem_weight: jax.Array | None = None,
) -> units.LossAndWeight:
  """Cross-entropy of each step's value with a target bootstrapped from later ones.

  ℓ_t = −T_t log σ(r_t) − (1 − T_t) log(1 − σ(r_t)),  T_t = sg clip(G_t, 0, 1)

  G_t is `n_step_returns`, or `lambda_returns` if `lambda_` is given, of V = σ(r) of
  the same network; no gradient passes through it. TDRM uses γ = 0.8 and its own
  shaping. With γ = 1 and zero reward the fixed point is the probability that the
  terminal target is 1; with any other setting V is not a probability.

  The last step's target is the terminal target itself, without its reward:

  - `terminal='verdict'`: the verdict on the final answer, at the last existing
    step, which it labels. In a row without a verdict that step is only
    bootstrapped from.
  - `terminal='last_label'`: the last label of the row, at its step; steps behind
    it take no part.

  Every step up to the last takes part in the bootstrap, also one that has no label
  or weight 0. Own terms have the steps with a label, and the others if
  `train_unlabeled`.

  Args:
    values: [B, P] logits.
    labels: [B, P] in [0, 1]; they enter through shaping and 'last_label'.
    mask: [B, P] bool, True where labelled.
    weights: [B, P] non-negative weights of labelled steps; 0 is context.
    outcome: [B] in [0, 1], the verdict; needed by `terminal='verdict'`.
    outcome_mask: [B] bool, True where judged; all rows if None.
    steps_mask: [B, P] bool, True where a step exists, without gaps; up to the last
      label if None.
    discount: γ in [0, 1].
    n_steps: steps to look ahead, at least 1; must be 1 if `lambda_` is given.
    lambda_: λ in [0, 1], or None for n-step targets.
    shaping: a name of `SHAPINGS`, or a function like those.
    shaping_options: keyword arguments for it.
    terminal: one of `TERMINALS`.
    clip: clip targets into [0, 1]. Without it targets above 1 have no finite
      minimiser, only a gradient σ(r) − T.
    train_unlabeled: steps that exist without a label have own terms of weight 1.
    unit: see `prm_jax.objectives.units`.
    problem_weight: [B], for unit 'problem'.

  Raises:
    UserError: a hyperparameter is out of range or unknown.
    ValueError: `outcome` is missing.

  >>> ones = jnp.ones((1, 1))
  >>> round(float(td(2 * ones, 0 * ones, ones, terminal='last_label')[0]), 4)
  2.1269
  """
  _check(discount, n_steps, lambda_, terminal)
  # Values of unlabelled steps are needed too: labels are guarded, values later.
  blank, y, mask, w = units.prepare(jnp.zeros_like(values), labels, mask, weights)
  exists = _up_to_last(mask) if steps_mask is None else _bool(steps_mask)
  if terminal == 'verdict':
    if outcome is None:
      raise ValueError("terminal='verdict' needs outcome [B], which is missing.")
    known = _bool(jnp.ones_like(outcome) if outcome_mask is None else outcome_mask)
    end = masking.guard(masking.as_float(outcome), known)
  else:
    exists &= _up_to_last(mask)
    known = exists.any(axis=1)
    end = jnp.sum(masking.guard(y, outcomes.last_step(mask)), axis=1)
  r = masking.guard(masking.as_float(values), exists) + blank
  is_last = outcomes.last_step(exists)

  v = jax.nn.sigmoid(r)
  # An episode whose end is unknown goes on: it is worth what the network says.
  end = jnp.where(known, end, jnp.sum(masking.guard(v, is_last), axis=1))
  rewards = _rewards(shaping, y, mask, exists, shaping_options)
  chain = (v, rewards, is_last, end)
  if lambda_ is None:
    targets = n_step_returns(*chain, discount=discount, n_steps=n_steps)
  else:
    targets = lambda_returns(*chain, discount=discount, lambda_=lambda_)
  targets = jnp.clip(targets, 0.0, 1.0) if clip else targets
  targets = masking.guard(jax.lax.stop_gradient(targets), exists)

  judged = is_last & known[:, None]
  unlabeled = jnp.where(train_unlabeled | judged, 1.0, 0.0)
  w = jnp.where(mask, w, unlabeled)
  w = masking.guard(w, exists & (judged | ~is_last))
  return units.total(pointwise.cross_entropy(r, targets), w, unit, problem_weight)


def _bool(x: jax.Array) -> jax.Array:
  return jnp.asarray(x).astype(bool)


def _up_to_last(mask: jax.Array) -> jax.Array:
  """True at every step that is, or has behind it, a True of its row."""
  return jax.lax.cummax(mask.astype(jnp.int32), axis=1, reverse=True).astype(bool)


def _rewards(
  name: str | Shaping,
  labels: jax.Array,
  mask: jax.Array,
  exists: jax.Array,
  options: Mapping[str, Any] | None,
) -> jax.Array:
  if isinstance(name, str):
    if name not in SHAPINGS:
      known = ', '.join(SHAPINGS)
      raise UserError(f'objective.shaping={name!r} is unknown; choose one of {known}.')
    name = SHAPINGS[name]
  return name(labels, mask, exists, **(options or {}))


def _check(discount: float, n_steps: int, lambda_: float | None, terminal: str) -> None:
  if not 0 <= discount <= 1:
    raise UserError(f'objective.discount is {discount}; it must be from 0 to 1.')
  if n_steps < 1:
    raise UserError(f'objective.n_steps is {n_steps}; it must be at least 1.')
  if lambda_ is not None and not 0 <= lambda_ <= 1:
    raise UserError(f'objective.lambda_ is {lambda_}; it must be from 0 to 1, or None.')
  if lambda_ is not None and n_steps != 1:
    raise UserError(
      f'objective.n_steps is {n_steps} and lambda_ is {lambda_}: give one of them; a '
      'λ-return mixes all horizons and takes n_steps=1.'
    )
  if terminal not in TERMINALS:
    known = ' or '.join(TERMINALS)
    raise UserError(f'objective.terminal={terminal!r} is unknown; choose {known}.')
