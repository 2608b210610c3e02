"""Stopping rules keep what they promise; the naive interval does not."""

import numpy as np
import pytest

from prm_jax.errors import UserError
from prm_jax.estimates import wilson
from prm_jax.labeling.change_point import ChangePoint, Prior, chain
from prm_jax.labeling.confidence import (
  ALIVE,
  DEAD,
  UNDECIDED,
  BetaPosterior,
  ConfidenceSequence,
  FixedInterval,
  realised_error,
)

TAU = 0.125


@pytest.mark.parametrize('alpha', [0.05, 0.2])
@pytest.mark.parametrize('p', [TAU, TAU - 0.05, TAU + 0.05, 0.0, 1.0])
def test_confidence_sequence_holds_at_any_time(p, alpha):
  rule = ConfidenceSequence(TAU, alpha)
  found = realised_error(rule, p, TAU, 400, streams=4000, seed=1)
  assert found.error <= alpha
  assert found.dead + found.alive + found.undecided == pytest.approx(1)
  if p in (0.0, 1.0):
    assert found.undecided == found.error == 0


def test_naive_interval_errs_27_percent():
  found = realised_error(FixedInterval(TAU), TAU, TAU, 32, streams=40000)
  assert found.error == pytest.approx(0.27, abs=0.01)


def test_a_fixed_interval_looked_at_once_is_fine():
  rng = np.random.default_rng(0)
  correct = rng.binomial(32, TAU, 20000)
  claims = FixedInterval(TAU).decide(correct, np.full(20000, 32))
  assert (claims != UNDECIDED).mean() < 0.08


def test_beta_posterior_is_calibrated_under_its_prior():
  rule = BetaPosterior(TAU, prior=(0.5, 1.0), cost=0.1)
  rng = np.random.default_rng(0)
  wrong = claimed = 0
  for i, p in enumerate(rng.beta(0.5, 1.0, 300)):
    found = realised_error(rule, float(p), TAU, 200, streams=20, seed=i)
    wrong += found.error
    claimed += 1 - found.undecided
  assert wrong / claimed < 0.1


def test_claims():
  for rule in (ConfidenceSequence(TAU), BetaPosterior(TAU), FixedInterval(TAU)):
    n = np.array([0, 200, 200])
    assert rule.decide(np.array([0, 0, 200]), n).tolist() == [UNDECIDED, DEAD, ALIVE]


def test_realised_error_is_a_function_of_its_seed():
  rule = ConfidenceSequence(TAU, 0.2)
  a = realised_error(rule, 0.1, TAU, 50, 500, 3)
  assert a == realised_error(rule, 0.1, TAU, 50, 500, 3)
  assert a != realised_error(rule, 0.1, TAU, 50, 500, 4)
  with pytest.raises(UserError):
    realised_error(rule, 0.1, TAU, 0)


def test_the_mixture_is_an_e_value():
  # Its mean under V = tau is 1 at every fixed n, one side at a time.
  from scipy import stats

  rule = ConfidenceSequence(TAU)
  for n in (1, 7, 40):
    s = np.arange(n + 1)
    for log_e in rule.log_evidence(s, np.full(n + 1, n)):
      mean = (stats.binom.pmf(s, n, TAU) * np.exp(log_e)).sum()
      assert mean == pytest.approx(1, rel=1e-6)


def test_wilson():
  low, high = wilson(4, 8)
  assert low == pytest.approx(1 - high)
  assert wilson(0, 0) == (0.0, 1.0)


PRIOR = Prior(TAU, 0.2, 0.05, 0.3, (1.0, 1.0), (0.25, 1.0), (2, 2))


def masses(counts, right):
  """[P + 1] P(F, counts) by going through all paths of levels."""
  levels, moves = chain(PRIOR)
  n, n_alive = len(counts), PRIOR.levels[0]
  out = np.zeros(n + 1)
  for path in np.ndindex(*(len(levels),) * n):
    if (path[-1] < n_alive) != right:
      continue
    mass = moves[:n_alive, path[0]].mean()
    for t, level in enumerate(path):
      mass *= moves[path[t - 1], level] if t else 1.0
      s, m = counts[t]
      mass *= levels[level] ** s * (1 - levels[level]) ** (m - s)
    first = next((t for t, level in enumerate(path) if level >= n_alive), n)
    out[first] += mass
  return out


def filled(counts, right):
  made = ChangePoint(PRIOR, len(counts), right)
  for i, (s, n) in enumerate(counts[:-1]):
    made.update(i, s, n)
  return made


def test_levels_and_moves():
  levels, moves = chain(Prior())
  assert (levels[:8] > TAU).all() and (levels[8:] < TAU).all()
  np.testing.assert_allclose(moves.sum(axis=1), 1)


@pytest.mark.parametrize('right', [True, False])
def test_posterior_against_all_paths(right):
  counts = [(3, 5), (0, 6), (1, 9), (0, 2), (0, 0)]
  expected = masses(counts, right)
  made = filled(counts, right)
  np.testing.assert_allclose(made.posterior, expected / expected.sum(), rtol=1e-9)


@pytest.mark.parametrize('right', [True, False])
@pytest.mark.parametrize('counts', [
  [(1, 2), (0, 3), (0, 1), (0, 0)],
  [(0, 0), (2, 9), (0, 7), (3, 4), (0, 0)],
  [(0, 0), (0, 0)],
])  # fmt: skip
def test_information_is_the_expected_gain(counts, right):
  def entropy(p):
    p = p / p.sum()
    return -sum(x * np.log(x) for x in p if x > 0)

  now = masses(counts, right)
  said = filled(counts, right).information()
  for i, (s, n) in enumerate(counts[:-1]):
    after = [
      masses([*counts[:i], (s + more, n + 1), *counts[i + 1 :]], right)
      for more in (0, 1)
    ]
    expected = sum(m.sum() / now.sum() * entropy(m) for m in after)
    assert said[i] == pytest.approx(entropy(now) - expected, abs=1e-9)


def test_many_rollouts_do_not_underflow():
  made = ChangePoint(Prior(), 30, False)
  for i in range(29):
    made.update(i, 900 if i < 12 else 0, 1000)
  assert made.posterior.argmax() == 12
  assert np.isfinite(made.information()).all()
