"""Tests by problem: hand-worked cases, exact levels, error rates by simulation."""

import math

import numpy as np
import pytest

from prm_jax.evaluation import hypothesis_tests as tests
from prm_jax.evaluation.intervals import (
  MAX_BLOCKS,
  bootstrap,
  difference,
  divide,
  mean_over_same,
  means,
  plain_mean,
  ratio,
  resamples,
)
from prm_jax.evaluation.ranking import rank_metrics


def ids(n):
  return [f'p{i:04}' for i in range(n)]


def test_sign_flip_of_three_problems_by_hand():
  # Sums of +-1 +-2 +-4 are the odd numbers up to 7; at least 5 in size: 4 of 8.
  (found,) = tests.sign_flip(np.array([[-1.0], [2.0], [4.0]]))
  assert found == tests.FlipTest(4 / 8, True, 3)


def test_problems_without_a_difference_do_not_count():
  parts = np.zeros((500, 1))
  parts[:5] = 0.1
  (found,) = tests.sign_flip(parts)
  assert found == tests.FlipTest(2 / 32, True, 5)
  assert tests.sign_flip(np.zeros((9, 1)))[0].p == 1.0


def test_drawn_signs_agree_with_all_signs_and_are_never_zero():
  rng = np.random.default_rng(0)
  parts = rng.normal(0.4, 1.0, (14, 1))
  (exact,) = tests.sign_flip(parts)
  # One more problem that differs by next to nothing: signs are drawn.
  (drawn,) = tests.sign_flip(np.concatenate([parts, [[1e-6]]]), n_flips=20_000)
  assert exact.exact and not drawn.exact
  assert drawn.p == pytest.approx(exact.p, abs=0.015)
  (sure,) = tests.sign_flip(np.ones((40, 1)), n_flips=999)
  assert sure.p == 1 / 1000


def test_an_undefined_part_gives_no_p_value():
  parts = np.array([[0.1, np.nan], [0.2, 0.1]])
  assert [t.p for t in tests.sign_flip(parts)] == [0.5, None]


def test_mcnemar_by_hand():
  a = np.array([1, 1, 1, 1, 1, 1, 0, 0, 1], bool)
  b = np.array([0, 0, 0, 0, 0, 1, 1, 0, 1], bool)
  # 5 against 1: 2 (C(6,0) + C(6,1)) / 64.
  assert tests.mcnemar(a, b) == tests.McNemar(5, 1, 14 / 64)
  assert tests.mcnemar(a, a) == tests.McNemar(0, 0, 1.0)
  assert tests.mcnemar(a, ~a).p == pytest.approx(2 * (1 + 9 + 36) / 512)


def test_holm_by_hand():
  assert tests.holm([0.01, 0.02, 0.03, 0.005]) == pytest.approx(
    [0.03, 0.04, 0.04, 0.02]
  )
  assert tests.holm([]) == []
  assert tests.holm([0.9, 0.8]) == [1.0, 1.0]


def test_the_detectable_difference():
  assert tests.detectable(1.0) == pytest.approx(1.959964 + 0.841621, abs=1e-5)
  # Few degrees of freedom need more: t_0.975 and t_0.8 of 2 are 4.3027 and 1.0607.
  assert tests.detectable(2.0, freedom=2) == pytest.approx(2 * 5.3633, abs=1e-3)


def test_contributions_of_a_mean_are_the_values_themselves():
  x = np.array([[0.0], [1.0], [0.5], [1.0]])
  (found,) = means(x, resamples(ids(4), 50, contributions=True))
  np.testing.assert_allclose(found.contributions, x[:, 0] / 4, atol=1e-12)
  assert found.replicates.shape == (50,)
  plain = means(x, resamples(ids(4), 50))[0]
  assert plain.contributions.size == 0
  assert (plain.low, plain.high) == (found.low, found.high)


def test_contributions_by_hand():
  n, d = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 4.0])
  sample = resamples(ids(3), 20, contributions=True)
  np.testing.assert_allclose(ratio(n, d, sample).contributions, n / 8)
  of_sums = bootstrap(np.stack([n, d], 1), lambda t: t[:, 0] / t[:, 1], sample, 8)
  want = [6 / 8 - 2 / 3 * r for r in (5 / 6, 4 / 6, 3 / 4)]
  np.testing.assert_allclose(of_sums.contributions, want)
  assert ratio(n, d, resamples(ids(3), 20)).contributions.size == 0


def test_contributions_go_along_with_means_and_differences():
  sample = resamples(ids(4), 20, contributions=True)
  a, b = means(np.array([[0.0, 1], [1, 1], [1, 0], [1, 0]]), sample)
  assert difference(a, b).contributions.sum() == pytest.approx(0.25)
  assert mean_over_same([a, b]).contributions.sum() == pytest.approx(0.625)
  other = means(np.ones((3, 1)), resamples(ids(3), 20, contributions=True))[0]
  assert plain_mean([a, other]).contributions.shape == (7,)
  assert plain_mean([a, other]).contributions.sum() == pytest.approx(0.875)
  assert resamples(ids(1), 5, contributions=True).block_sizes.tolist() == [1]
  alone = means(np.ones((1, 1)), resamples(ids(1), 5, contributions=True))[0]
  assert alone.value == 1 and alone.contributions.tolist() == [1]


def test_many_problems_are_left_out_in_blocks():
  sample = resamples(ids(MAX_BLOCKS + 500), 2, contributions=True)
  assert sample.block_sizes.sum() == MAX_BLOCKS + 500
  assert sample.weights.shape == (3 + MAX_BLOCKS, MAX_BLOCKS + 500)
  x = np.random.default_rng(0).random((MAX_BLOCKS + 500, 1))
  (found,) = means(x, sample)
  assert found.contributions.sum() == pytest.approx(found.value)
  rows = np.arange(MAX_BLOCKS + 500) % 3
  found = ratio(rows * x[:, 0], rows, sample)
  assert found.contributions.sum() == pytest.approx(found.value)
  np.testing.assert_allclose(
    found.contributions[0], (rows[:2] * x[:2, 0]).sum() / rows.sum()
  )


def auroc(scores, wrong, problem, sample):
  return rank_metrics(scores, wrong, problem, sample)[0]


def f1(right, wrong, problem, sample):
  sums = np.stack(
    [
      np.bincount(problem, weights=w, minlength=sample.n_problems)
      for w in (right & wrong, wrong, right & ~wrong, ~wrong)
    ],
    axis=1,
  )
  return bootstrap(
    sums,
    lambda t: divide(
      2 * divide(t[:, 0], t[:, 1]) * divide(t[:, 2], t[:, 3]),
      divide(t[:, 0], t[:, 1]) + divide(t[:, 2], t[:, 3]),
    ),
    sample,
    len(right),
  )


def p_values(kind, effect, n_runs, n_problems=60, per_problem=3, seed=1):
  """P values of simulated comparisons; rows of a problem depend on each other."""
  rng = np.random.default_rng(seed)
  sample = resamples(ids(n_problems), 2, contributions=True)
  problem = np.repeat(np.arange(n_problems), per_problem)
  out = []
  for _ in range(n_runs):
    wrong = rng.random(len(problem)) < 0.4
    level = rng.normal(size=n_problems)[problem]
    found = []
    for shift in (effect, 0.0):
      own = 0.7 * rng.normal(size=n_problems)[problem]
      x = (1.0 + shift) * ~wrong + 0.5 * level + own + rng.normal(size=len(problem))
      if kind == 'auroc':
        found.append(auroc(x, wrong, problem, sample))
      elif kind == 'f1':
        found.append(f1((x > 0.4) == ~wrong, wrong, problem, sample))
      else:
        right = ((x > 0.4) == ~wrong).astype(float)
        each = np.bincount(problem, weights=right) / per_problem
        found.append(means(each[:, None], sample)[0])
    parts = difference(*found).contributions[:, None]
    out.append(tests.sign_flip(parts, n_flips=400)[0].p)
  return np.array(out)


@pytest.mark.parametrize('kind', ['mean', 'f1', 'auroc'])
def test_the_error_rate_under_no_difference_is_the_level(kind):
  runs = 250 if kind == 'auroc' else 400
  rate = np.mean(p_values(kind, 0.0, runs) <= 0.05)
  # Three standard deviations of a share of `runs`, around .05.
  assert abs(rate - 0.05) < 3 * math.sqrt(0.05 * 0.95 / runs), rate


def test_a_true_difference_is_found_as_often_as_its_detectable_size_says():
  rng = np.random.default_rng(3)
  n, runs = 80, 300
  effect = tests.detectable(1 / math.sqrt(n))
  found = [
    tests.sign_flip(rng.normal(effect, 1.0, (n, 1)) / n, n_flips=400)[0].p <= 0.05
    for _ in range(runs)
  ]
  assert np.mean(found) == pytest.approx(0.8, abs=0.07)
  assert np.mean(p_values('auroc', 1.0, 40) <= 0.05) > 0.8
