"""Masked reductions: what is masked is never seen, what is real always is."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from prm_jax import masking

X = np.array([[1.0, np.nan, 3.0], [np.inf, np.nan, -np.inf]], np.float32)
MASK = np.array([[True, False, True], [False, False, False]])


def test_doctests():
  assert doctest.testmod(masking).failed == 0


def test_values_with_garbage_under_the_mask():
  np.testing.assert_array_equal(masking.masked_sum(X, MASK, 1), [4.0, 0.0])
  np.testing.assert_array_equal(masking.masked_mean(X, MASK, axis=1), [2.0, 0.0])
  np.testing.assert_allclose(
    masking.masked_logsumexp(X, MASK), [np.logaddexp(1.0, 3.0), -np.inf], rtol=1e-6
  )
  weights = np.array([[3.0, np.nan, 1.0], [1.0, 1.0, 1.0]], np.float32)
  mean = masking.masked_mean(X, MASK, weights, axis=1)
  np.testing.assert_array_equal(mean, [1.5, 0.0])


@pytest.mark.parametrize(
  'f', [masking.masked_sum, masking.masked_mean, masking.masked_logsumexp]
)
def test_gradients_are_finite_and_zero_under_the_mask(f):
  kept = lambda x: jnp.sum(jnp.where(jnp.isfinite(y := f(x, MASK)), y, 0.0))
  grads = jax.grad(kept)(jnp.asarray(X))
  assert np.isfinite(grads).all()
  assert (np.asarray(grads)[~MASK] == 0).all()
  assert (np.asarray(grads)[MASK] > 0).all()


@pytest.mark.parametrize(
  'f', [masking.masked_sum, masking.masked_mean, masking.masked_logsumexp]
)
def test_a_real_nan_surfaces(f):
  assert np.isnan(f(X[:1], np.array([[True, True, False]]))).all()


def test_logsumexp_of_any_magnitude():
  x = jnp.array([[1e4, 1e4 - 1.0], [-1e4, -1e4]])
  where = jnp.ones_like(x, bool)
  expected = jax.scipy.special.logsumexp(x, axis=1)
  np.testing.assert_allclose(masking.masked_logsumexp(x, where), expected, rtol=1e-7)
  with jax.enable_x64(True):
    small = jnp.array([[0.3, -2.0, 1.0]], jnp.float64)
    where = jnp.array([[True, True, False]])
    check_grads(jax.jit(lambda x: masking.masked_logsumexp(x, where)), (small,), 2)


def test_half_types_are_added_in_float32():
  x = jnp.full((1, 4096), 1.0, jnp.bfloat16)
  total = masking.masked_sum(x, x > 0)
  assert total == 4096
  assert total.dtype == jnp.float32
  assert masking.masked_logsumexp(x, x > 0).dtype == jnp.float32


def test_safe_divide():
  grad = jax.grad(lambda d: jnp.sum(masking.safe_divide(jnp.array([1.0, 2.0]), d)))
  np.testing.assert_allclose(grad(jnp.array([2.0, 0.0])), [-0.25, 0.0])
  assert np.isnan(masking.safe_divide(jnp.array(1.0), jnp.array(jnp.nan)))
