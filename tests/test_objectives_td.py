"""Temporal-difference learning: targets by hand, gradients, and a fixed point."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prm_jax import objectives
from prm_jax.errors import UserError
from prm_jax.objectives import shaping

V = np.array([0.2, 0.6, 0.9, 0.5])
R = jnp.asarray(np.log(V / (1 - V)), jnp.float32)[None]
LABELS = jnp.array([[1.0, 1.0, 0.0, 0.0]])
ALL = jnp.ones((1, 4), bool)
WIN = jnp.ones(1)


@functools.cache
def gradient(**hyper):
  hyper = {k: dict(v) if k == 'shaping_options' else v for k, v in hyper.items()}
  f = lambda r, labels, mask, arrays: objectives.td(r, labels, mask, **arrays, **hyper)
  return jax.jit(jax.value_and_grad(f, has_aux=True))


def targets(values=R, labels=LABELS, mask=ALL, steps_mask=ALL, **kwargs):
  """The targets of steps that have an own term, NaN for others.

  The gradient of a term of weight 1 is σ(r) − target, if and only if nothing flows
  through the target.
  """
  arrays = {'steps_mask': steps_mask}
  for name in ('outcome', 'outcome_mask', 'weights'):
    if name in kwargs:
      arrays[name] = kwargs.pop(name)
  arrays.setdefault('outcome', WIN)
  _, grad = gradient(**kwargs)(values, labels, mask, arrays)
  grad = np.float64(grad)
  return np.where(grad == 0, np.nan, jax.nn.sigmoid(np.float64(values)) - grad)[0]


def check(found, expected):
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_one_step():
  check(targets(), [0.6, 0.9, 0.5, 1.0])
  check(targets(discount=0.5), [0.3, 0.45, 0.25, 1.0])
  check(targets(discount=0.5, outcome=0 * WIN), [0.3, 0.45, 0.25, 0.0])


def test_the_loss_is_the_cross_entropy_with_the_target():
  loss, weight = objectives.td(R, LABELS, ALL, outcome=WIN)
  t = np.array([0.6, 0.9, 0.5, 1.0])
  expected = -(t * np.log(V) + (1 - t) * np.log(1 - V)).sum()
  assert float(weight) == 4
  assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_n_steps_by_hand():
  check(targets(n_steps=2), [0.9, 0.5, 1.0, 1.0])
  check(targets(n_steps=3), [0.5, 1.0, 1.0, 1.0])
  check(targets(n_steps=2, discount=0.5), [0.225, 0.125, 0.5, 1.0])
  monte_carlo = [0.125, 0.25, 0.5, 1.0]
  for n_steps in (4, 5, 100):
    check(targets(n_steps=n_steps, discount=0.5), monte_carlo)


def test_lambda_returns_by_hand():
  # From the end: 1; ½·.5 + ½·1 = .75; ½·.9 + ½·.75 = .825; ½·.6 + ½·.825 = .7125
  check(targets(lambda_=0.5), [0.7125, 0.825, 0.75, 1.0])
  # With γ = ½ each line is halved: .375, then ½ (.45 + .1875), then ½ (.3 + .159375)
  check(targets(lambda_=0.5, discount=0.5), [0.2296875, 0.31875, 0.375, 1.0])


@pytest.mark.parametrize('discount', [1.0, 0.7])
def test_lambda_between_one_step_and_monte_carlo(discount):
  args = {'discount': discount, 'shaping': 'cosine'}
  check(targets(lambda_=0.0, **args), targets(n_steps=1, **args))
  check(targets(lambda_=1.0, **args), targets(n_steps=4, **args))


def test_rewards_enter_with_their_discount():
  # Rewards of the steps: .2, .1(1 + cos 45°), −.1, −.1(1 + cos 135°)
  reward = np.array([0.2, 0.1 + 0.1 * math.sqrt(0.5), -0.1, math.nan])
  rewards = shaping.cosine(LABELS, ALL, ALL)[0]
  np.testing.assert_allclose(rewards[:3], reward[:3], atol=1e-7)
  cosine = functools.partial(targets, shaping='cosine', discount=0.8)
  check(cosine(), [*(reward[:3] + 0.8 * V[1:]), 1.0])
  two = reward[0] + 0.8 * reward[1] + 0.64 * V[2]
  check(cosine(n_steps=2)[0], two)
  options = (('correct', (0.0, 0.0)), ('wrong', (-0.4, -0.4)))
  found = cosine(shaping_options=options)
  check(found, [0.8 * V[1], 0.8 * V[2], 0.8 * V[3] - 0.4 if V[3] > 0.5 else 0.0, 1.0])


def test_a_shaping_function_of_ones_own():
  own = lambda labels, mask, steps_mask: 0.1 * labels
  check(targets(shaping=own), [0.7, 1.0, 0.5, 1.0])


def test_unlabelled_steps_get_no_reward():
  mask = jnp.array([[True, False, True, False]])
  rewards = shaping.cosine(jnp.full((1, 4), jnp.nan), mask & False, ALL)
  np.testing.assert_array_equal(rewards, jnp.zeros((1, 4)))
  assert (np.asarray(shaping.cosine(LABELS, mask, ALL)) != 0).tolist() == mask.tolist()
  assert not np.asarray(shaping.zero(LABELS, mask, ALL)).any()


def test_clipping():
  big = lambda labels, mask, steps_mask: labels * 3.0 - 1.0
  check(targets(shaping=big), [1.0, 1.0, 0.0, 1.0])
  check(targets(shaping=big, clip=False), [2.6, 2.9, -0.5, 1.0])
  # The saturation of reward ½ and discount 0.8: min(1, ½ + 0.8 V) has fixed point 1.
  value = 0.5
  for _ in range(20):
    value = min(1.0, 0.5 + 0.8 * value)
  assert value == 1.0


def test_context_bootstraps_without_a_term_of_its_own():
  # Step 1 has no label, step 2 has weight 0: both only pass values on.
  mask = jnp.array([[True, False, True, True]])
  weights = jnp.array([[1.0, jnp.nan, 0.0, 1.0]])
  labels = jnp.array([[1.0, jnp.nan, 1.0, 1.0]])
  found = targets(labels=labels, mask=mask, weights=weights)
  check(found, [0.6, np.nan, np.nan, 1.0])
  found = targets(labels=labels, mask=mask, weights=weights, train_unlabeled=True)
  check(found, [0.6, 0.9, np.nan, 1.0])


def test_a_verdict_labels_the_last_step():
  # No step labels at all: the verdict alone is one labelled step.
  none = ~ALL
  check(targets(mask=none), [np.nan, np.nan, np.nan, 1.0])
  check(targets(mask=none, train_unlabeled=True), [0.6, 0.9, 0.5, 1.0])
  _, weight = objectives.td(R, LABELS, none, outcome=WIN, steps_mask=ALL)
  assert weight == 1


def test_without_a_verdict_the_end_is_only_bootstrapped_from():
  unknown = jnp.full(1, jnp.nan)
  no = jnp.zeros(1, bool)
  found = targets(outcome=unknown, outcome_mask=no)
  check(found, [0.6, 0.9, 0.5, np.nan])
  found = targets(outcome=unknown, outcome_mask=no, lambda_=1.0, discount=0.5)
  check(found, [0.0625, 0.125, 0.25, np.nan])
  _, weight = objectives.td(R, LABELS, ALL, outcome=unknown, outcome_mask=no)
  assert weight == 3


def test_the_last_label_ends_the_row_at_its_step():
  mask = jnp.array([[True, True, True, False]])
  last = functools.partial(targets, mask=mask, terminal='last_label', outcome=WIN)
  check(last(), [0.6, 0.9, 0.0, np.nan])
  check(last(n_steps=2), [0.9, 0.0, 0.0, np.nan])
  check(last(train_unlabeled=True), [0.6, 0.9, 0.0, np.nan])
  # The step behind is not looked at, whatever it holds.
  poisoned = R.at[0, 3].set(jnp.nan)
  loss, weight = objectives.td(
    poisoned, LABELS, mask, steps_mask=ALL, terminal='last_label'
  )
  assert jnp.isfinite(loss)
  assert weight == 3


def test_last_label_needs_no_verdict():
  a = objectives.td(R, LABELS, ALL, terminal='last_label')
  b = objectives.td(R, LABELS, ALL, outcome=LABELS[:, -1])
  np.testing.assert_array_equal(a, b)
  with pytest.raises(ValueError, match='outcome'):
    objectives.td(R, LABELS, ALL)


def test_masks_are_of_the_row():
  # Four rows of different length in one batch, each as if it stood alone.
  values = jnp.tile(R, (4, 1)) + jnp.arange(4.0)[:, None] / 3
  exists = jnp.arange(4)[None] < jnp.array([[1], [2], [3], [4]])
  values = jnp.where(exists, values, jnp.nan)
  labels = jnp.tile(LABELS, (4, 1))
  outcome = jnp.array([1.0, 0.0, 1.0, 0.0])
  for kwargs in ({'n_steps': 2}, {'n_steps': 3}, {'lambda_': 0.7}):
    f = lambda s, k=kwargs: objectives.td(
      values[s], labels[s], exists[s], outcome=outcome[s], discount=0.8, **k
    )
    alone = np.sum([f(slice(b, b + 1)) for b in range(4)], axis=0)
    np.testing.assert_allclose(f(slice(0, 4)), alone, rtol=1e-6)
    assert alone[1] == 10


@pytest.mark.parametrize('kwargs', [{}, {'n_steps': 2}, {'lambda_': 0.5}])
def test_every_setting_changes_the_loss(kwargs):
  r = R + 0.25  # no value of exactly ½, whose loss is the same for every target
  loss = lambda **k: float(objectives.td(r, LABELS, ALL, outcome=WIN, **kwargs, **k)[0])
  losses = [
    loss(), loss(discount=0.8), loss(discount=0.5), loss(shaping='cosine'),
    loss(terminal='last_label'),
  ]  # fmt: skip
  assert len(set(losses)) == len(losses)


def test_no_gradient_passes_through_the_bootstrap():
  # Only step 0 has a term; its target is V of step 1, which must get no gradient.
  mask = jnp.array([[True, False, False, False]])
  f = lambda r: objectives.td(
    r, LABELS, mask, outcome=WIN, outcome_mask=0 * WIN, steps_mask=ALL
  )[0]
  grad = np.asarray(jax.grad(f)(R))[0]
  assert grad[0] == pytest.approx(0.2 - 0.6, abs=1e-6)
  assert (grad[1:] == 0).all()
  moved = f(R.at[0, 1].add(1.0))
  assert abs(float(moved - f(R))) > 0.01  # although the loss does depend on it


@pytest.mark.parametrize(
  'wrong',
  [
    {'discount': 1.5},
    {'discount': -0.1},
    {'n_steps': 0},
    {'lambda_': 1.1},
    {'lambda_': 0.5, 'n_steps': 2},
    {'terminal': 'outcome'},
    {'shaping': 'sine'},
  ],
)
def test_mistakes_are_named(wrong):
  with pytest.raises(UserError, match=next(iter(wrong))):
    objectives.td(R, LABELS, ALL, outcome=WIN, **wrong)


@pytest.mark.parametrize('kwargs', [{}, {'n_steps': 2}, {'lambda_': 0.8}])
def test_the_fixed_point_is_the_probability_of_success(kwargs):
  # A table with one value for each prefix of 3 binary choices; 64 solutions whose
  # verdicts are random. With discount 1 and no reward each prefix must end at the
  # share of its continuations that succeeded.
  rng = np.random.default_rng(0)
  choices = rng.integers(0, 2, (64, 3))
  weight = 2 ** np.arange(3)
  prefix = np.stack(
    [2 ** (t + 1) + choices[:, : t + 1] @ weight[: t + 1] for t in range(3)], 1
  )
  outcome = rng.random(64) < np.where(choices.sum(1) > 1, 0.8, 0.3)
  share = np.array([outcome[(prefix == i).any(1)].mean() for i in range(2, 16)])
  assert share.min() > 0
  assert share.max() < 1

  def loss(table):
    values = table[prefix]
    total, weight = objectives.td(
      values,
      jnp.zeros_like(values),
      jnp.ones_like(values),
      outcome=jnp.asarray(outcome, jnp.float32),
      **kwargs,
    )
    return total / weight

  @jax.jit
  def solve(table):
    step = lambda table, _: (table - 30.0 * jax.grad(loss)(table), None)
    return jax.lax.scan(step, table, length=1500)[0]

  found = jax.nn.sigmoid(solve(jnp.zeros(16)))
  np.testing.assert_allclose(found[2:], share, atol=2e-3)


def test_with_a_discount_the_fixed_point_is_not_the_probability():
  value = float(targets(discount=0.8, n_steps=4)[0])
  assert value == pytest.approx(0.8**3)
