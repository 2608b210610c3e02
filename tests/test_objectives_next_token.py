"""Next-token prediction: the response alone counts, by hand and by gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from prm_jax import objectives
from prm_jax.errors import UserError
from prm_jax.objectives import next_token, packed
from prm_jax.specs import HeadSpec

LOGITS = jnp.array(
  [[[0.0, 1.0, 2.0], [3.0, 0.0, 0.0], [1.0, 1.0, 1.0]],
   [[2.0, 0.0, 0.0], [0.0, 0.0, 5.0], [9.0, 9.0, 9.0]]]
)  # fmt: skip
TOKENS = jnp.array([[0, 2, 0], [1, 0, 1]])
MASK = jnp.array([[False, True, True], [False, False, True]])


def log_softmax(z, i):
  z = np.asarray(z, np.float64)
  return z[i] - np.log(np.exp(z).sum())


def test_by_hand():
  # Token t is predicted by row t - 1; the last row of logits predicts nothing.
  terms = [
    -log_softmax([0, 1, 2], 2),
    -log_softmax([3, 0, 0], 0),
    -log_softmax([0, 0, 5], 1),
  ]
  loss_sum, weight = next_token(LOGITS, TOKENS, MASK)
  np.testing.assert_allclose(loss_sum, sum(terms), rtol=1e-6)
  assert float(weight) == 3
  loss_sum, weight = next_token(LOGITS, TOKENS, MASK, unit='trajectory')
  np.testing.assert_allclose(loss_sum, (terms[0] + terms[1]) / 2 + terms[2], rtol=1e-6)
  assert float(weight) == 2
  loss_sum, weight = next_token(
    LOGITS, TOKENS, MASK, unit='problem', problem_weight=jnp.array([0.5, 0.25])
  )
  want = 0.5 * (terms[0] + terms[1]) / 2 + 0.25 * terms[2]
  np.testing.assert_allclose(loss_sum, want, rtol=1e-6)
  assert float(weight) == 0.75
  w = jnp.array([[9.0, 2.0, 0.0], [9.0, 9.0, 1.0]])
  loss_sum, weight = next_token(LOGITS, TOKENS, MASK, w)
  np.testing.assert_allclose(loss_sum, 2 * terms[0] + terms[2], rtol=1e-6)
  assert float(weight) == 3


def test_what_is_masked_is_not_seen():
  hole = LOGITS.at[1, 0].set(jnp.nan).at[:, 2].set(jnp.inf)
  f = lambda z: next_token(z, TOKENS, MASK)[0]
  np.testing.assert_allclose(f(hole), f(LOGITS), rtol=1e-6)
  grad = jax.grad(f)(hole)
  assert jnp.isfinite(grad).all() and not grad[:, 2].any() and not grad[1, 0].any()
  assert jnp.isnan(f(LOGITS.at[0, 0].set(jnp.nan)))
  loss_sum, weight = next_token(LOGITS, TOKENS, jnp.zeros((2, 3), bool))
  assert float(loss_sum) == float(weight) == 0
  # The first token has nothing before it; filler ids may be any.
  first = jnp.array([[True, False, False]] * 2)
  assert float(next_token(LOGITS, TOKENS, first)[1]) == 0
  np.testing.assert_allclose(
    f(LOGITS), next_token(LOGITS, TOKENS.at[1, 1].set(99), MASK)[0]
  )


def test_gradients():
  check_grads(
    lambda z: next_token(z, TOKENS, MASK)[0],
    (LOGITS,),
    order=2,
    modes=['rev'],
    rtol=2e-2,
  )
  half = next_token(LOGITS.astype(jnp.bfloat16), TOKENS, MASK)
  assert half[0].dtype == jnp.float32
  big = next_token(1e4 * LOGITS, TOKENS, MASK)[0]
  assert jnp.isfinite(big)


def test_through_the_registry():
  batch = {'tokens': TOKENS, 'token_mask': MASK, 'row_mask': jnp.array([True, False])}
  found = objectives.evaluate('next_token', LOGITS, batch)
  alone = next_token(LOGITS[:1], TOKENS[:1], MASK[:1])
  np.testing.assert_allclose(found, alone, rtol=1e-6)
  unit = objectives.evaluate('next_token', LOGITS, batch, unit='trajectory')
  assert float(unit[1]) == 1
  chosen = objectives.get('next_token')
  assert chosen.trains_policy and chosen.hyperparameters == {}
  assert not objectives.get('bce').trains_policy


def test_what_is_refused():
  objectives.check_head('next_token', HeadSpec(kind='lm'))
  with pytest.raises(UserError, match=r"head\.kind='lm'"):
    objectives.check_head('next_token', HeadSpec(kind='scalar'))
  with pytest.raises(UserError, match='choose another head'):
    objectives.check_head('bce', HeadSpec(kind='lm'))
  with pytest.raises(UserError, match='token, trajectory, problem'):
    next_token(LOGITS, TOKENS, MASK, unit='step')
  with pytest.raises(UserError, match='no hyperparameter'):
    objectives.evaluate('next_token', LOGITS, {}, margin=1.0)
  with pytest.raises(ValueError, match='shapes'):
    next_token(LOGITS, TOKENS[:, :2], MASK)


def test_shares_of_solutions_that_lie_in_one_row():
  batch = {
    'token_mask': jnp.array([[False, True, True, False, True, False]]),
    'segments': jnp.array([[1, 1, 1, 2, 2, 0]]),
    'row_mask': jnp.array([[True, True]]),
    'problem_weight': jnp.array([[0.5, 0.25]]),
  }
  for unit, want in {
    'token': [0, 1, 1, 0, 1, 0],
    'trajectory': [0, 0.5, 0.5, 0, 1, 0],
    'problem': [0, 0.25, 0.25, 0, 0.25, 0],
  }.items():
    mask, shares = packed.token_shares(batch, unit)
    assert mask.tolist() == batch['token_mask'].tolist()
    assert shares.tolist() == [want]
  filler = {**batch, 'row_mask': jnp.array([[True, False]])}
  assert packed.token_shares(filler, 'problem')[1].tolist() == [
    [0, 0.25, 0.25, 0, 0, 0]
  ]
