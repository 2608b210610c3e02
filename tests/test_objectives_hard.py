"""Hard cases for every objective, and the registry that names them."""

import dataclasses
import functools
import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from often import often

from prm_jax import objectives, records, specs, step_values
from prm_jax.errors import UserError
from prm_jax.objectives import OBJECTIVES

R = jnp.array([[0.5, 1.0, -0.3]])
ONES = jnp.ones((1, 3))
# Those of steps; tests/test_objectives_next_token.py has the one of tokens.
NAMES = tuple(n for n, o in OBJECTIVES.items() if not o.trains_policy)

KINDS = {
  'all_correct': [1, 1, 1],
  'all_wrong': [0, 0, 0],
  'falling': [1, 0, 0],
  'not_monotone': [0, 1, 0],
}


def whole_batch(name, labels=(1.0, 0.0, 1.0), rows=1, scale=1.0, dtype=jnp.float32):
  n = len(labels)
  values = jnp.tile(jnp.array([[0.5, 1.0, -0.3]])[:, :n], (rows, 1)) * scale
  if OBJECTIVES[name].outputs == (3,):
    values = jnp.stack([-values, 0.3 * values, values], axis=-1)
  batch = {
    'labels': jnp.tile(jnp.array([labels], jnp.float32), (rows, 1)),
    'mask': jnp.ones((rows, n), bool),
    'steps_mask': jnp.ones((rows, n), bool),
    'outcome': jnp.ones(rows),
    'outcome_mask': jnp.ones(rows, bool),
    'problem_weight': jnp.full(rows, 0.5),
  }
  return batch, values.astype(dtype)


@functools.cache
def compiled(name, **hyper):
  return jax.jit(lambda x, batch: objectives.evaluate(name, x, batch, **hyper)[0])


@functools.cache
def jitted(name, unit):
  f = lambda x, batch: objectives.evaluate(name, x, batch, unit=unit)
  return jax.jit(jax.value_and_grad(f, has_aux=True))


def loss_and_grad(name, outputs, batch, unit=None):
  """(loss_sum, weight, gradient); compiled once for a name, a unit and a dtype."""
  batch = {
    'weights': jnp.ones_like(batch['labels']),
    'row_mask': jnp.ones(len(outputs), bool),
    **batch,
  }
  (loss, weight), grad = jitted(name, unit)(outputs, batch)
  assert loss.dtype == weight.dtype == jnp.float32
  assert grad.dtype == outputs.dtype
  return float(loss), float(weight), np.asarray(grad, np.float32)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', often(NAMES, 'bce', 'q_ranking', 'td'))
def test_magnitude_50_in_both_float_types(name, kind):
  for scale in (50.0, -50.0, 167.0):
    batch, outputs = whole_batch(name, KINDS[kind], scale=scale, dtype=jnp.bfloat16)
    half = loss_and_grad(name, outputs, batch)
    full = loss_and_grad(name, outputs.astype(jnp.float32), batch)
    for loss, weight, grad in (half, full):
      assert math.isfinite(loss)
      assert loss >= 0
      assert weight > 0
      assert np.isfinite(grad).all()
    assert half[:2] == full[:2]  # the arithmetic is float32 for both
    np.testing.assert_allclose(half[2], full[2], rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize('name', often(NAMES, 'bce', 'q_ranking', 'td'))
def test_bfloat16_of_ordinary_size(name):
  batch, outputs = whole_batch(name, dtype=jnp.bfloat16)
  loss, _, _ = loss_and_grad(name, outputs, batch)
  exact = loss_and_grad(name, whole_batch(name)[1], batch)
  assert loss == pytest.approx(exact[0], rel=5e-3)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', NAMES)
def test_check_grads(name, kind):
  # A bootstrapped target moves with the values; the Monte-Carlo one does not.
  hyper = {'n_steps': 3} if name == 'td' else {}
  with jax.enable_x64(True):
    batch, outputs = whole_batch(name, KINDS[kind], dtype=jnp.float64)
    batch['weights'] = jnp.array([[1.0, 0.5, 2.0]])
    f = compiled(name, **hyper)
    check_grads(
      lambda x: f(x, batch), (outputs,), order=1, modes=['rev'], atol=1e-6, rtol=1e-6
    )


@pytest.mark.parametrize('name', NAMES)
def test_single_step(name):
  for label in (0.0, 1.0):
    batch, outputs = whole_batch(name, [label])
    loss, weight, grad = loss_and_grad(name, outputs, batch)
    assert loss > 0
    assert weight == 1
    assert np.isfinite(grad).all()
    if name not in ('three_class', 'orm', 'td'):
      assert (np.sign(grad[0, 0]) == (1 if label == 0 else -1)).all()


@pytest.mark.parametrize(
  ('name', 'unit'), [(n, None) for n in NAMES] + [('bce', u) for u in objectives.UNITS]
)
def test_fully_masked(name, unit):
  batch, outputs = whole_batch(name)
  nothing = {k: jnp.zeros_like(v) for k, v in batch.items()}
  for filler in (nothing, batch | {'row_mask': jnp.zeros(1, bool)}):
    garbage = jnp.full_like(outputs, jnp.nan)
    loss, weight, grad = loss_and_grad(name, garbage, filler, unit)
    assert (loss, weight) == (0, 0)
    assert (grad == 0).all()


@pytest.mark.parametrize('name', [n for n in NAMES if n not in ('orm', 'td')])
def test_context_alone_counts_nothing(name):
  batch, outputs = whole_batch(name)
  batch['weights'] = jnp.zeros_like(batch['labels'])
  assert loss_and_grad(name, outputs, batch)[:2] == (0, 0)


@pytest.mark.parametrize('where', [0, 1, 2])
@pytest.mark.parametrize('name', NAMES)
def test_a_real_nan_surfaces(name, where):
  if name.startswith('orm') and where < 2:
    where = 2  # they read the last step only
  batch, outputs = whole_batch(name)
  loss, _, _ = loss_and_grad(name, outputs.at[0, where].set(jnp.nan), batch)
  assert math.isnan(loss)


@pytest.mark.parametrize('name', [n for n in NAMES if n != 'orm'])
def test_a_nan_label_surfaces(name):
  batch, outputs = whole_batch(name)
  batch['labels'] = batch['labels'].at[0, 1].set(jnp.nan)
  assert math.isnan(loss_and_grad(name, outputs, batch)[0])


@pytest.mark.parametrize('name', ['orm', 'td'])
def test_a_nan_verdict_surfaces(name):
  batch, outputs = whole_batch(name)
  batch['outcome'] = jnp.full(1, jnp.nan)
  assert math.isnan(loss_and_grad(name, outputs, batch)[0])


@pytest.mark.parametrize('name', NAMES)
def test_a_gradient_step_lowers_the_loss(name):
  batch, outputs = whole_batch(name)
  before, _, grad = loss_and_grad(name, outputs, batch)
  after, _, _ = loss_and_grad(name, outputs - 0.05 * grad, batch)
  assert after < before


@pytest.mark.parametrize('name', NAMES)
def test_registered_names_are_complete(name):
  objective = OBJECTIVES[name]
  assert objective.name == name
  assert objective.step_value in step_values.VALUES
  assert objective.kind in records.SCORE_KINDS
  step_values.check_reduction(objective.reduction, objective.kind)
  assert objective.unit in objectives.UNITS
  signature = inspect.signature(objective.fn).parameters
  assert set(objective.arrays) <= set(signature)
  assert list(signature)[:4] == ['values', 'labels', 'mask', 'weights']
  assert hash(objective) is not None
  batch, outputs = whole_batch(name)
  objectives.evaluate(name, outputs, batch, **objective.hyperparameters)


def test_names_in_configs():
  assert set(NAMES) >= {
    'bce', 'bce_soft', 'three_class', 'mse', 'orm', 'orm_no_error', 'q_ranking',
    'q_ranking_theoretical', 'q_ranking_first_error', 'q_ranking_released', 'td',
  }  # fmt: skip
  labels = jnp.array([[0.6, 0.2, 1.0]])
  batch = {'labels': labels, 'mask': ONES}
  hard = objectives.evaluate('bce', R, batch)[0]
  soft = objectives.evaluate('bce_soft', R, batch)[0]
  assert hard == objectives.bce(R, jnp.array([[1.0, 0.0, 1.0]]), ONES)[0]
  assert soft == objectives.bce(R, labels, ONES)[0]


@pytest.mark.parametrize('name', NAMES)
def test_every_hyperparameter_changes_the_loss(name):
  # No dead config keys: another value of each gives another number.
  batch, outputs = whole_batch(name, [1.0, 0.45, 0.0])
  batch['outcome'] = jnp.zeros(1)
  batch['mask'] = jnp.array([[True, True, False]])
  batch['labels'] = jnp.array([[1.0, 0.45, 0.0]])
  other = {
    'threshold': 0.3, 'margin': 1.0, 'discount': 0.5, 'n_steps': 2, 'lambda_': 0.5,
    'shaping': 'cosine', 'terminal': 'last_label', 'clip': False,
    'train_unlabeled': True, 'levels': (0.2, 0.5, 0.7),
    'shaping_options': {'correct': (0.9, 0.1)},
  }  # fmt: skip
  for key in OBJECTIVES[name].hyperparameters:
    base = {}
    if key == 'shaping_options':
      base = {'shaping': 'cosine'}
    if key == 'clip':
      base = {'shaping': 'cosine', 'shaping_options': {'correct': (0.9, 0.9)}}
    if key == 'train_unlabeled':
      batch = batch | {'outcome_mask': jnp.zeros(1)}
      base = {'terminal': 'verdict'}
      batch['mask'] = jnp.array([[True, False, True]])
      batch['labels'] = jnp.array([[1.0, 0.0, 0.0]])
    a = objectives.evaluate(name, outputs, batch, **base)
    b = objectives.evaluate(name, outputs, batch, **{**base, key: other[key]})
    assert tuple(map(float, a)) != tuple(map(float, b)), key


def test_mistakes_are_named():
  batch = {'labels': ONES, 'mask': ONES}
  with pytest.raises(UserError, match="objective 'pqm' is unknown"):
    objectives.evaluate('pqm', R, batch)
  with pytest.raises(UserError, match="no hyperparameter 'zeta'; it has margin"):
    objectives.evaluate('q_ranking', R, batch, zeta=4)
  with pytest.raises(UserError, match='has none'):
    objectives.check_hyperparameters('mse', {'margin': 1})
  with pytest.raises(UserError, match='double_count'):  # fixed by the name
    objectives.evaluate('q_ranking_released', R, batch, double_count=False)
  with pytest.raises(UserError, match='unit'):
    objectives.evaluate('bce', R, batch, unit='tokens')
  with pytest.raises(ValueError, match='outputs'):
    objectives.evaluate('three_class', R, batch)
  with pytest.raises(ValueError, match='outputs'):
    objectives.evaluate('bce', jnp.zeros((1, 3, 3)), batch)
  with pytest.raises(ValueError, match='shapes'):
    objectives.bce(R, ONES[:, :2], ONES)


@pytest.mark.parametrize(
  ('name', 'head', 'fits'),
  [
    ('bce', {'kind': 'scalar'}, True),
    ('bce', {'kind': 'linear', 'n_outputs': 2}, True),
    ('q_ranking', {'kind': 'mlp'}, True),
    ('td', {'kind': 'label_tokens', 'label_tokens': (3, 4)}, True),
    ('three_class', {'kind': 'linear', 'n_outputs': 3}, True),
    ('bce', {'kind': 'linear', 'n_outputs': 3}, False),
    ('three_class', {'kind': 'scalar'}, False),
    ('bce', {'kind': 'lm'}, False),
  ],
)
def test_heads(name, head, fits):
  head = specs.HeadSpec(**head)
  if fits:
    objectives.check_head(name, head)
  else:
    with pytest.raises(UserError, match='choose another head'):
      objectives.check_head(name, head)


def test_an_objective_of_ones_own():
  own = dataclasses.replace(OBJECTIVES['bce'], name='own', defaults=())
  batch = {'labels': 0.3 * ONES, 'mask': ONES}
  expected = objectives.evaluate('bce_soft', R, batch)
  np.testing.assert_array_equal(objectives.evaluate(own, R, batch), expected)
