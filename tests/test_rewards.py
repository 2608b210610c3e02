"""Step scores as rewards: hand-worked cases, masks, both array libraries."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prm_jax import rewards

V = np.array([[0.5, 9.0, 0.25, 0.75], [0.5, -0.25, 0.0, 9.0]])
MASK = np.array([[True, False, True, True], [True, True, False, False]])
NONE = np.zeros((1, 3), bool)
ALL = {
  'last_step': rewards.last_step,
  'per_step': rewards.per_step,
  'min_form': rewards.min_form,
  'strict': lambda v, m: rewards.min_form(v, m, temperature=0),
  'clip': lambda v, m: rewards.clip(v, 0.5, m),
  'delta': rewards.delta,
  'clip_delta': lambda v, m: rewards.delta(rewards.clip(v, 0.5, m), m),
  'difference': lambda v, m: rewards.difference(v, m, start=0.125),
}
# By hand; masked steps are not there, so step 2 of the first row follows step 0.
EXPECTED = {
  'last_step': [[0, 0, 0, 0.75], [0, -0.25, 0, 0]],
  'per_step': [[0.5, 0, 0.25, 0.75], [0.5, -0.25, 0, 0]],
  'strict': [[0, 0, 0.25, 0], [0, -0.25, 0, 0]],
  'clip': [[0, 0, -0.25, 0], [0, -0.75, 0, 0]],
  'delta': [[0.25, 0, 0.25, 0], [0.5, 0, 0, 0]],
  'clip_delta': [[0.25, 0, -0.25, 0], [0, 0, 0, 0]],
  'difference': [[0.375, 0, -0.25, 0.5], [0.375, -0.75, 0, 0]],
}


def test_doctests():
  assert doctest.testmod(rewards).failed == 0


@pytest.mark.parametrize('name', EXPECTED)
def test_by_hand(name):
  np.testing.assert_allclose(ALL[name](V, MASK), EXPECTED[name], atol=1e-12)


@pytest.mark.parametrize('name', ALL)
def test_both_libraries_and_one_row_at_a_time(name):
  whole = ALL[name](V, MASK)
  assert isinstance(whole, np.ndarray) and whole.dtype == np.float64
  np.testing.assert_array_equal(np.stack([ALL[name](*r) for r in zip(V, MASK)]), whole)
  found = jax.jit(ALL[name])(jnp.asarray(V, jnp.float32), jnp.asarray(MASK))
  assert isinstance(found, jax.Array) and found.dtype == jnp.float32
  np.testing.assert_allclose(found, whole, atol=1e-6)
  half = ALL[name](jnp.asarray(V, jnp.bfloat16), MASK)
  assert half.dtype == jnp.float32


@pytest.mark.parametrize('name', ALL)
def test_masked_values_do_not_matter(name):
  broken = np.where(MASK, V, np.nan)
  np.testing.assert_array_equal(ALL[name](broken, MASK), ALL[name](V, MASK))
  gone = ALL[name](np.full(NONE.shape, np.nan), NONE)
  np.testing.assert_array_equal(gone, np.zeros(NONE.shape))
  assert ALL[name](np.zeros((2, 0)), np.zeros((2, 0), bool)).shape == (2, 0)
  # Steps that do not exist might as well not be there.
  for row, mask, whole in zip(V, MASK, ALL[name](V, MASK)):
    np.testing.assert_array_equal(ALL[name](row[mask], None), whole[mask])


@pytest.mark.parametrize('name', ALL)
def test_a_nan_of_a_step_that_counts_comes_through(name):
  assert np.isnan(ALL[name](np.array([0.5, np.nan, 0.5, np.nan]), None)).any()


def test_min_form_of_logits_beside_padding():
  """Masked steps count 0, and 0 lies far below logits of good steps."""
  values, mask = np.float32([[12.0, 30.0, 5.0]]), np.array([[True, True, False]])
  with np.errstate(all='raise', under='ignore'):
    np.testing.assert_allclose(rewards.min_form(values, mask), [[12.0, 0.0, 0.0]])
  slope = jax.grad(lambda v: rewards.min_form(v, jnp.array(mask)).sum())
  np.testing.assert_allclose(slope(jnp.array(values)), [[1.0, 0.0, 0.0]])


def test_min_form_is_pures():
  r = np.array([0.9, -0.3, 0.1])
  w = np.exp(-r / 0.1) / np.exp(-r / 0.1).sum()
  np.testing.assert_allclose(rewards.min_form(r), w * r)
  # Far apart, and on a scale where exp would overflow without the shift.
  np.testing.assert_allclose(rewards.min_form(100 * r), [0, -30, 0], atol=1e-12)
  drawn = np.random.default_rng(0).uniform(-1, 1, (200, 12))
  excess = rewards.min_form(drawn).sum(-1) - drawn.min(-1)
  assert (excess >= 0).all() and (excess <= 0.1 * np.log(12)).all()
  uniform = rewards.min_form(drawn, temperature=1e9).sum(-1)
  np.testing.assert_allclose(uniform, drawn.mean(-1), atol=1e-6)
  with pytest.raises(ValueError, match='negative'):
    rewards.min_form(r, temperature=-1)


def test_what_delta_and_difference_sum_to():
  drawn = np.random.default_rng(1).uniform(0, 1, (50, 9))
  back = lambda x: np.cumsum(x[..., ::-1], axis=-1)[..., ::-1]
  returns = back(rewards.delta(drawn))
  np.testing.assert_allclose(returns[:, :-1], drawn[:, :-1])
  np.testing.assert_array_equal(returns[:, -1], 0)
  total = rewards.difference(drawn, start=0.3).sum(-1)
  np.testing.assert_allclose(total, drawn[:, -1] - 0.3)
  # More good steps never earn more once they are clipped.
  assert rewards.clip(np.full(40, 0.9), 0.5).sum() == 0
  assert rewards.delta(np.array([0.7])).tolist() == [0.0]


def test_onto_tokens():
  r = np.array([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
  at = np.array([[0, 2, 2], [1, 4, -7]])
  mask = np.array([[True] * 3, [True, True, False]])
  wanted = [[1, 0, 6, 0, 0], [0, 8, 0, 0, 16]]
  np.testing.assert_array_equal(rewards.to_tokens(r, at, 5, mask), wanted)
  found = jax.jit(rewards.to_tokens, static_argnums=2)(
    jnp.asarray(r, jnp.float32), jnp.asarray(at), 5, jnp.asarray(mask)
  )
  np.testing.assert_array_equal(found, wanted)
  with pytest.raises(ValueError, match='token -7, outside the 5 tokens'):
    rewards.to_tokens(r, at, 5)
  with pytest.raises(ValueError, match='token 4'):
    rewards.to_tokens(r, at, 4, mask)
  np.testing.assert_array_equal(rewards.to_tokens(np.ones(2), np.array([0, 1]), 2), 1)
