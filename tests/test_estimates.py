"""What labelling and its audit share of success rates."""

import doctest
import math

import numpy as np
import pytest

from prm_jax import estimates


def test_doctests():
  found = doctest.testmod(estimates)
  assert found.attempted >= 2 and not found.failed


@pytest.mark.parametrize('eta', [1e-9, 1e-3, 1.0, 30.0, 2000.0])
def test_entropic_keeps_its_digits(eta):
  p = np.array([0.0, 1e-3, 0.25, 0.5, 1.0])
  by_hand = [
    0.0 if x == 0 else 1 + math.log(x + (1 - x) * math.exp(-eta)) / eta for x in p
  ]
  # For a tiny eta the closed form itself cancels; its limit is p.
  want = p if eta < 1e-6 else by_hand
  np.testing.assert_allclose(estimates.entropic(p, eta), want, rtol=1e-7, atol=1e-12)


def test_wilson_of_nothing_and_of_everything():
  low, high = estimates.wilson([0, 4, 8], [0, 8, 8])
  np.testing.assert_allclose(low, [0, 0.2152, 0.6756], atol=1e-4)
  np.testing.assert_allclose(high, [1, 0.7848, 1.0], atol=1e-4)
