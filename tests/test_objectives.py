"""Objectives: published vectors, closed forms, units, context."""

import doctest
import importlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from often import often

from prm_jax import objectives
from prm_jax.errors import UserError

R = jnp.array([[0.5, 1.0, -0.3]])
ONES = jnp.ones((1, 3))


def mean(f, values, labels, **kwargs):
  """Mean loss of one solution of at most four steps, padded to four."""
  n = len(labels)
  pad = lambda x: jnp.asarray([[*x, *[math.nan] * (4 - n)]], jnp.float32)
  mask = jnp.arange(4)[None] < n
  loss_sum, weight = f(pad(values), pad(labels), mask, **kwargs)
  assert loss_sum.dtype == weight.dtype == jnp.float32
  assert loss_sum.shape == weight.shape == ()
  return float(loss_sum / weight)


@pytest.mark.parametrize(
  'name',
  often(
    ('outcome', 'pointwise', 'ranking', 'registry', 'shaping', 'temporal', 'units'),
    'registry',
    'shaping',
    'units',
  ),
)
def test_doctests(name):
  result = doctest.testmod(importlib.import_module(f'prm_jax.objectives.{name}'))
  assert result.failed == 0
  assert result.attempted > 0 or name == 'units'


# Vectors on r = [.5, 1, -.3]: labels, margin, and the value of each form.
VECTORS = [
  ([1, 1, 0], 4, 'q_ranking', 3.270817),
  ([1, 1, 0], 4, 'q_ranking_released', 3.290030),
  ([1, 1, 0], 4, 'q_ranking_theoretical_released', 2.467522),
  ([1, 1, 0], 4, 'q_ranking_theoretical', 2.453113),
  ([1, 1, 0], 0, 'q_ranking', 0.694877),
  ([1, 1, 0], 0, 'q_ranking_released', 0.817591),
  ([1, 1, 0], 0, 'q_ranking_first_error', 0.694877),
  ([1, 1, 1], 4, 'q_ranking', 1.087975),
  ([1, 1, 1], 0, 'q_ranking', 1.087975),
  ([1, 1, 1], 4, 'q_ranking_released', 1.262726),
  ([1, 1, 1], 4, 'q_ranking_theoretical_released', 0.947045),
  ([1, 1, 1], 4, 'q_ranking_theoretical', (0.474081 + 0.680272 + 2.109572) / 4),
  ([1, 1, 1], 0, 'q_ranking_first_error', 1.087975),
  ([0, 0, 0], 4, 'q_ranking', 5.634352),
  ([0, 0, 0], 4, 'q_ranking_released', 5.634352),
  ([0, 0, 0], 4, 'q_ranking_theoretical_released', 1.865850),
  ([0, 0, 0], 4, 'q_ranking_theoretical', 1.408588 + 0.457262),
  ([0, 0, 0], 0, 'q_ranking_first_error', 0.974081),
]


@pytest.mark.parametrize(('labels', 'margin', 'name', 'expected'), VECTORS)
def test_published_vectors(labels, margin, name, expected):
  batch = {'labels': jnp.array([labels]), 'mask': ONES > 0}
  loss, weight = objectives.evaluate(name, R, batch, margin=float(margin))
  assert weight == 1
  # The vectors carry the 1e-5 that the authors' code adds inside the logarithm.
  assert float(loss) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize('margin', [4.0, 0.0])
@pytest.mark.parametrize(
  'labels', [[1, 1, 0], [1, 1, 1], [0, 0, 0], [0, 1, 0], [0, 1, 1]]
)
def test_terms_as_published_with_the_epsilon(labels, margin):
  # The printed formula, exponentials and all; float64.
  r = np.float64(R[0])
  n_sum = sum(math.exp(r[t] + margin) for t in range(3) if not labels[t])
  terms = [math.log(1 + n_sum + 1e-5)] if 0 in labels else []
  for t in (t for t in range(3) if labels[t]):
    before = sum(math.exp(r[q]) for q in range(t) if labels[q])
    own = math.exp(r[t])
    terms.append(-math.log(own / (own + 1 + before + n_sum + 1e-5)))
  loss = mean(objectives.q_ranking, R[0], labels, margin=margin)
  assert loss == pytest.approx(np.mean(terms), abs=1e-5)


@pytest.mark.parametrize(('right', 'wrong'), [(2, 1), (0, 3), (4, 0), (1, 2), (1, 0)])
@pytest.mark.parametrize('margin', [0.0, 4.0])
def test_ranking_of_zeros(right, wrong, margin):
  terms = [math.log(1 + wrong * math.exp(margin))] if wrong else []
  terms += [math.log(t + 1 + wrong * math.exp(margin)) for t in range(1, right + 1)]
  labels = [1] * right + [0] * wrong
  loss = mean(objectives.q_ranking, [0.0] * len(labels), labels, margin=margin)
  assert loss == pytest.approx(np.mean(terms), rel=1e-6)
  if not wrong:
    assert loss == pytest.approx(math.log(math.factorial(right + 1)) / right, rel=1e-6)


def test_zero_initialisation_of_ranking():
  loss = lambda margin: mean(objectives.q_ranking, [0.0] * 3, [1, 1, 0], margin=margin)
  assert loss(4.0) == pytest.approx(4.04, abs=5e-3)
  assert loss(0.0) == pytest.approx(1.06, abs=5e-3)


@pytest.mark.parametrize('r', [-50.0, -3.0, 0.0, 2.0, 50.0])
def test_one_step_ranking_is_shifted_bce(r):
  softplus = lambda x: np.logaddexp(0, x)
  right = mean(objectives.q_ranking, [r], [1], margin=4.0)
  wrong = mean(objectives.q_ranking, [r], [0], margin=4.0)
  assert right == pytest.approx(softplus(-r), rel=1e-6)
  assert wrong == pytest.approx(softplus(r + 4), rel=1e-6)
  assert right == pytest.approx(mean(objectives.bce, [r], [1]), rel=1e-6)


def test_first_error_is_the_true_first_wrong_step():
  # + - + : the number of correct labels, 2, is the index of a correct step.
  r, labels = np.array([0.2, 1.5, -0.7]), [1, 0, 1]
  wrong = math.exp(r[1])
  terms = [
    math.log(1 + wrong),
    math.log(1 + math.exp(r[0]) + wrong) - r[0],
    math.log(1 + math.exp(r[0]) + math.exp(r[2]) + wrong) - r[2],
  ]
  loss = mean(objectives.q_ranking_first_error, r, labels)
  assert loss == pytest.approx(np.mean(terms), rel=1e-6)


def test_wrong_steps_are_ranked_only_by_the_theoretical_form():
  swap = lambda f: mean(f, [1.0, -1.0], [0, 0]) - mean(f, [-1.0, 1.0], [0, 0])
  assert swap(objectives.q_ranking) == pytest.approx(0, abs=1e-6)
  assert swap(objectives.q_ranking_theoretical) < -0.5


def test_context_stays_in_the_denominators_and_bce_ignores_it():
  labels, weights = jnp.array([[1.0, 1.0, 0.0]]), jnp.array([[0.0, 1.0, 1.0]])
  loss, _ = objectives.q_ranking(R, labels, ONES, weights)
  # Terms l_0 and l_2 of the published vector; l_1 is context.
  assert float(loss * 2) == pytest.approx(3.724423 + 2.824597, abs=2e-5)
  steps = objectives.q_ranking(R, labels, ONES, weights, unit='step')
  assert float(steps[0]) == pytest.approx(3.724423 + 2.824597, abs=2e-5)
  assert steps[1] == 2
  dropped = objectives.q_ranking(R, labels, weights > 0)
  assert float(dropped[0]) != pytest.approx(float(loss), abs=1e-2)
  a = objectives.bce(R, labels, ONES, weights)
  b = objectives.bce(R, labels, weights > 0)
  np.testing.assert_allclose(a, b, rtol=1e-6)


def test_the_anchor_counts_with_the_largest_weight_of_a_wrong_step():
  labels, weights = jnp.array([[1.0, 0.0, 0.0]]), jnp.array([[1.0, 0.0, 0.5]])
  loss, weight = objectives.q_ranking(R, labels, ONES, weights, unit='step', margin=0.0)
  e = np.exp(np.float64(R[0]))
  anchor = math.log(1 + e[1] + e[2])
  own = math.log(1 + e[0] + e[1] + e[2]) - 0.5
  assert float(weight) == 1.5
  assert float(loss) == pytest.approx(0.5 * anchor + own, rel=1e-6)
  grad = jax.grad(lambda r: objectives.q_ranking(r, labels, ONES, weights)[0])(R)
  assert grad[0, 1] > 0  # a wrong context step is still pushed down by the others


def test_units_by_hand():
  values, labels = jnp.zeros((3, 2)), jnp.ones((3, 2))
  mask = jnp.array([[True, True], [True, False], [False, False]])
  weights = jnp.array([[3.0, 1.0], [2.0, 9.0], [9.0, 9.0]])
  values = values.at[0, 0].set(-2.0)
  log2, big = math.log(2), math.log1p(math.exp(2))
  rows = [(3 * big + log2) / 4, log2]
  f = lambda unit, **k: objectives.bce(values, labels, mask, weights, unit=unit, **k)
  np.testing.assert_allclose(f('step'), (3 * big + 3 * log2, 6), rtol=1e-6)
  np.testing.assert_allclose(f('trajectory'), (sum(rows), 2), rtol=1e-6)
  share = jnp.array([0.25, 1.0, jnp.nan])
  np.testing.assert_allclose(
    f('problem', problem_weight=share), (0.25 * rows[0] + rows[1], 1.25), rtol=1e-6
  )
  with pytest.raises(ValueError, match='problem_weight'):
    f('problem')
  with pytest.raises(UserError, match='step, trajectory, problem'):
    f('token')


def test_mean_of_means_is_not_taken():
  # Two devices with 4 and 1 labelled steps: the mean over steps is 2.6.
  values = jnp.array([[3.0, 3.0, 3.0, 3.0], [1.0, 0.0, 0.0, 0.0]])
  mask = jnp.array([[True] * 4, [True, False, False, False]])
  loss = lambda s: objectives.units.total(
    values[s], mask[s].astype(jnp.float32), 'step'
  )
  a, b = loss(slice(0, 1)), loss(slice(1, 2))
  assert float((a[0] + b[0]) / (a[1] + b[1])) == pytest.approx(2.6)


def test_bce_closed_forms():
  assert mean(objectives.bce, [0.0, 0.0], [1, 0]) == pytest.approx(math.log(2))
  y, r = 0.3, 1.7
  p = 1 / (1 + math.exp(-r))
  soft = -y * math.log(p) - (1 - y) * math.log(1 - p)
  assert mean(objectives.bce, [r], [y]) == pytest.approx(soft, rel=1e-6)
  hard = mean(objectives.bce, [r], [y], threshold=0.5)
  assert hard == pytest.approx(-math.log(1 - p), rel=1e-6)
  assert mean(objectives.mse, [r], [y]) == pytest.approx((p - y) ** 2, rel=1e-6)
  # Small losses keep their digits: softplus(r) - r would lose them.
  assert mean(objectives.bce, [20.0], [1]) == pytest.approx(math.exp(-20), rel=1e-5)


def test_soft_labels_are_not_rounded():
  losses = {mean(objectives.bce, [1.0], [y]) for y in (0.0, 0.3, 0.7, 1.0)}
  assert len(losses) == 4


@pytest.mark.parametrize(
  ('label', 'share'),
  [(0, [1, 0, 0]), (0.5, [0, 1, 0]), (1, [0, 0, 1]), (0.75, [0, 0.5, 0.5])],
)
def test_three_classes(label, share):
  logits = jnp.array([[[0.3, -1.0, 2.0]]])
  log_p = np.asarray(jax.nn.log_softmax(logits[0, 0]))
  loss, _ = objectives.three_class(logits, jnp.full((1, 1), label), jnp.ones((1, 1)))
  assert float(loss) == pytest.approx(-np.dot(share, log_p), rel=1e-6)


def test_a_two_class_head_is_read_as_the_difference_of_its_logits():
  two = jnp.stack([jnp.array([[1.0, 2.0, 0.0]]), R + jnp.array([[1.0, 2.0, 0.0]])], -1)
  batch = {'labels': jnp.array([[1.0, 0.0, 1.0]]), 'mask': ONES}
  for name in ('bce', 'mse', 'q_ranking', 'orm_no_error'):
    expected = objectives.evaluate(name, R, batch)
    np.testing.assert_allclose(
      objectives.evaluate(name, two, batch), expected, rtol=1e-6
    )
    one = objectives.evaluate(name, R[..., None], batch)
    np.testing.assert_array_equal(one, expected)
  # Orientation: the second class is "correct".
  better = objectives.evaluate('bce', two.at[0, 0, 1].add(1.0), batch)
  assert better[0] < objectives.evaluate('bce', two, batch)[0]


def test_outcome_models_read_the_last_existing_step():
  exists = jnp.array([[True, True, False]])
  labelled = jnp.array([[True, False, False]])
  bce_at_1 = float(np.logaddexp(0, -1.0))
  loss, weight = objectives.orm(
    R, 0 * ONES, labelled, outcome=jnp.ones(1), steps_mask=exists
  )
  assert (float(loss), float(weight)) == (pytest.approx(bce_at_1), 1)
  loss, _ = objectives.orm_no_error(R, ONES, labelled, steps_mask=exists)
  assert float(loss) == pytest.approx(bce_at_1)
  loss, weight = objectives.orm(
    R, ONES, exists, outcome=jnp.full(1, jnp.nan), outcome_mask=jnp.zeros(1)
  )
  assert (float(loss), float(weight)) == (0, 0)


def test_verdict_and_no_error_differ_where_the_answer_is_right_by_luck():
  labels, verdict = jnp.array([[1.0, 0.0, 1.0]]), jnp.ones(1)
  by_verdict = objectives.orm(R, labels, ONES, outcome=verdict)[0]
  by_labels = objectives.orm_no_error(R, labels, ONES)[0]
  assert float(by_verdict) == pytest.approx(np.logaddexp(0, 0.3), rel=1e-6)
  assert float(by_labels) == pytest.approx(np.logaddexp(0, -0.3), rel=1e-6)
