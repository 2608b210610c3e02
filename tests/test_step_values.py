"""Step values and reductions, on NumPy and JAX arrays alike."""

import doctest
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prm_jax import step_values
from prm_jax.errors import UserError
from prm_jax.step_values import REDUCTIONS, VALUES

BOTH = pytest.mark.parametrize('xp', [np, jnp], ids=['numpy', 'jax'])
PROBS = np.array([[0.9, 0.2, 0.7, 9.0], [0.5, 0.5, 9.0, 9.0]], np.float32)
MASK = np.array([[True, True, True, False], [True, True, False, False]])
EXPECTED = {
  'min': [0.2, 0.5],
  'max': [0.9, 0.5],
  'last': [0.7, 0.5],
  'mean': [0.6, 0.5],
  'product': [0.126, 0.25],
}


def test_doctests():
  assert doctest.testmod(step_values).failed == 0


def test_numpy_users_do_not_load_jax():
  code = (
    'import sys, numpy as np; from prm_jax import step_values as s; '
    '[f(np.ones((2, 3)), None) for f in s.REDUCTIONS.values()]; '
    "s.VALUES['softmax3'](np.ones((2, 3))); print('jax' in sys.modules)"
  )
  out = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert out.stdout.strip() == 'False'


@BOTH
def test_logit_of_one_and_two_outputs(xp):
  r = xp.array([[0.5, -2.0]])
  two = xp.stack([xp.array([[1.0, 3.0]]), xp.array([[1.5, 1.0]])], axis=-1)
  for outputs in (r, r[..., None], two):
    np.testing.assert_allclose(VALUES['logit'](outputs), [[0.5, -2.0]])
    np.testing.assert_allclose(
      VALUES['sigmoid'](outputs), 1 / (1 + np.exp([[-0.5, 2.0]])), rtol=1e-6
    )
  np.testing.assert_allclose(
    VALUES['softmax2'](two), np.exp(two[..., 1]) / np.exp(two).sum(-1), rtol=1e-6
  )
  assert isinstance(VALUES['softmax2'](two), np.ndarray if xp is np else jax.Array)


def test_two_steps_of_a_scalar_head_are_not_two_classes():
  np.testing.assert_array_equal(VALUES['logit'](np.ones((3, 2))), np.ones((3, 2)))


@BOTH
def test_three_classes_are_read_as_neutral_or_positive(xp):
  logits = xp.array([[[2.0, 0.0, 1.0], [0.0, 0.0, 80.0], [80.0, 0.0, 0.0]]])
  soft = np.exp(np.float64(logits)) / np.exp(np.float64(logits)).sum(-1, keepdims=True)
  np.testing.assert_allclose(
    VALUES['softmax3'](logits), soft[..., 1] + soft[..., 2], rtol=1e-5
  )


@BOTH
def test_quantiles_are_sorted_before_they_are_read(xp):
  crossed = xp.array([[[1.0, -2.0, 0.0], [0.0, 1.0, 2.0]]])
  for name, logits in {
    'quantile_low': [-2.0, 0.0],
    'quantile': [0.0, 1.0],
    'quantile_high': [1.0, 2.0],
  }.items():
    expected = 1 / (1 + np.exp(-np.array([logits])))
    np.testing.assert_allclose(VALUES[name](crossed), expected, rtol=1e-6)


@pytest.mark.parametrize(
  ('name', 'shape'),
  [
    ('logit', (1, 2, 3)),
    ('softmax2', (1, 2, 3)),
    ('softmax3', (2, 2)),
    ('softmax2', 2),
    ('quantile', (2, 2)),
    ('quantile_low', 3),
  ],
)
def test_wrong_number_of_outputs_is_refused(name, shape):
  with pytest.raises(ValueError, match='outputs'):
    VALUES[name](np.zeros(shape))


def test_values_of_half_types_are_float32():
  out = VALUES['sigmoid'](jnp.full((1, 2), 50.0, jnp.bfloat16))
  assert out.dtype == jnp.float32
  assert jnp.isfinite(jax.grad(lambda x: VALUES['sigmoid'](x).sum())(out)).all()


@BOTH
@pytest.mark.parametrize('name', REDUCTIONS)
def test_reductions(xp, name):
  values, mask = xp.asarray(PROBS), xp.asarray(MASK)
  out = REDUCTIONS[name](values, mask)
  np.testing.assert_allclose(out, EXPECTED[name], rtol=1e-6)
  assert isinstance(out, np.ndarray if xp is np else jax.Array)
  np.testing.assert_allclose(
    REDUCTIONS[name](values[0, :3], None), EXPECTED[name][0], rtol=1e-6
  )


@BOTH
@pytest.mark.parametrize('name', REDUCTIONS)
def test_nothing_valid_is_below_everything_and_a_real_nan_surfaces(xp, name):
  garbage = xp.full((1, 3), xp.nan)
  empty = REDUCTIONS[name](garbage, xp.zeros((1, 3), bool))
  np.testing.assert_array_equal(empty, [-np.inf])
  none = REDUCTIONS[name](xp.zeros((1, 0)), xp.zeros((1, 0), bool))
  np.testing.assert_array_equal(none, [-np.inf])
  last = xp.array([[False, False, True]])
  assert np.isnan(REDUCTIONS[name](garbage, last)).all()
  np.testing.assert_allclose(
    REDUCTIONS[name](xp.array([[xp.nan, xp.nan, 0.3]]), last), [0.3], rtol=1e-6
  )


@pytest.mark.parametrize('name', REDUCTIONS)
def test_reductions_under_jit_with_padding(name):
  f = jax.jit(REDUCTIONS[name])
  np.testing.assert_allclose(f(PROBS, MASK), EXPECTED[name], rtol=1e-6)
  longer = np.pad(PROBS, ((0, 0), (0, 3)), constant_values=np.nan)
  mask = np.pad(MASK, ((0, 0), (0, 3)))
  np.testing.assert_array_equal(f(longer, mask), f(PROBS, MASK))


def test_a_long_product_does_not_underflow():
  values = np.full((2, 100), 0.01, np.float32)
  values[1] = 0.02
  low, high = REDUCTIONS['product'](values, None)
  assert 0 < low < high


def test_each_reduction_differs():
  scores = {float(f(PROBS[0], MASK[0])) for f in REDUCTIONS.values()}
  assert len(scores) == len(REDUCTIONS)


@BOTH
def test_first_error(xp):
  values = xp.array([[0.9, 0.5, 0.1], [0.9, 0.8, 0.1], [0.1, 0.1, 0.1]])
  mask = xp.array([[True, True, True], [True, True, False], [False] * 3])
  out = step_values.predict_first_error(values, mask, 0.5)
  np.testing.assert_array_equal(out, [1, -1, -1])
  np.testing.assert_array_equal(
    jax.jit(step_values.predict_first_error)(values, mask, 0.5), [1, -1, -1]
  )


def test_first_error_of_one_solution():
  first = step_values.predict_first_error(np.array([2.0, np.nan]), None, 0.0)
  assert type(first) is int
  assert first == 1
  assert step_values.predict_first_error(np.zeros(0), None, 0.0) == -1


def test_product_of_logits_is_refused():
  step_values.check_reduction('product', 'probability')
  step_values.check_reduction('min', 'logit')
  with pytest.raises(UserError, match='product'):
    step_values.check_reduction('product', 'logit')
  with pytest.raises(UserError, match='min, product'):
    step_values.check_reduction('minimum', 'logit')
