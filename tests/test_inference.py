"""Scores depend on the row alone: not on order, company, padding or devices."""

import dataclasses

import jax
import numpy as np
import pytest

from prm_jax import exports, step_values
from prm_jax.errors import UserError
from prm_jax.formats import step_format, tokenizers
from prm_jax.formats.step_format import Unusable
from prm_jax.inference import api
from prm_jax.inference.scorer import Scorer, Shape
from prm_jax.models import scorer as scoring_model
from prm_jax.parallel import mesh, sharding
from prm_jax.records import ScoreSet, Trajectory
from prm_jax.specs import HeadSpec, ModelSpec, ScorerSpec, StepFormat

MODEL = ModelSpec(
  260, n_layers=2, d_model=16, n_heads=2, n_kv_heads=2, head_dim=8, d_ff=32
)
SPEC = ScorerSpec(
  MODEL,
  HeadSpec(init_scale=0.5),
  StepFormat(max_length=96),
  step_value='sigmoid',
  kind='probability',
)
BYTES = tokenizers.load('bytes')
PARAMS = scoring_model.init(MODEL, SPEC.head, jax.random.key(0))
BUDGET = 1024


def trajectory(index, question, steps):
  return Trajectory(f't{index}', f'p{index}', question, tuple(steps))


def make_rows(n, seed=0):
  rng = np.random.default_rng(seed)

  def text(low, high):
    return ''.join(rng.choice(list('ab +='), rng.integers(low, high))) + 'x'

  return [
    trajectory(i, text(1, 12), [text(1, 6) for _ in range(rng.integers(1, 12))])
    for i in range(n)
  ]


@pytest.fixture(scope='module')
def scorer():
  return Scorer(SPEC, PARAMS, BYTES, batch_tokens=BUDGET)


def numbers(results):
  return [np.array(r.values, np.float32) for r in results]


def test_scores_are_those_of_the_unpadded_rows(scorer):
  rows = make_rows(60)
  forward = jax.jit(scoring_model.apply, static_argnums=(0, 1))
  for row, found in list(zip(rows, scorer.score(rows)))[:2]:
    encoded = step_format.encode(SPEC.step_format, BYTES, row.question, row.steps)
    outputs = forward(
      MODEL, SPEC.head, PARAMS, encoded.tokens[None], encoded.step_positions[None]
    )
    want = step_values.VALUES['sigmoid'](outputs)[0]
    assert found.kind == 'probability' and len(found.values) == row.n_steps
    np.testing.assert_allclose(found.values, want, atol=1e-6)


def test_order_and_company_do_not_matter(scorer):
  rows = make_rows(60)
  whole = numbers(scorer.score(rows))
  order = np.random.default_rng(1).permutation(len(rows))
  shuffled = numbers(scorer.score([rows[i] for i in order]))
  for place, i in enumerate(order):
    np.testing.assert_array_equal(shuffled[place], whole[i])
  for i in (0, 17, 59):
    np.testing.assert_array_equal(numbers(scorer.score([rows[i]]))[0], whole[i])
  spread = max(v.max() - v.min() for v in whole)
  assert spread > 0.01  # the scores do differ, so the equalities above say something


def test_few_shapes(scorer):
  encoded = scorer.encode(make_rows(300))
  rows = [e for e in encoded if not isinstance(e, Unusable)]
  shapes = {scorer.shape_of(e) for e in rows}
  assert len(shapes) <= 8
  for row in rows:
    shape = scorer.shape_of(row)
    assert len(row.tokens) <= shape.T <= 96 and row.n_steps <= shape.P
    assert shape.B % mesh.batch_shards(mesh.make_mesh()) == 0
  long = dataclasses.replace(rows[0], n_steps=9, tokens=np.zeros(5000, np.int32))
  assert scorer.shape_of(long) == Shape(jax.device_count(), 5000, 16)


@pytest.mark.slow
def test_devices_do_not_matter(scorer):
  rows = make_rows(20)
  alone = sharding.replicated(mesh.make_mesh(1, 1, 1, devices=jax.devices()[:1]))
  params = jax.device_put(PARAMS, alone)
  single = Scorer(SPEC, params, BYTES, batch_tokens=BUDGET)
  for a, b in zip(numbers(single.score(rows)), numbers(scorer.score(rows))):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_unusable_rows_keep_their_place(scorer):
  good = make_rows(2)
  rows = [
    good[0],
    trajectory(7, 'q', []),
    trajectory(8, 'q', ['a', '  ']),
    trajectory(9, 'q <prm>', ['a']),
    trajectory(10, 'q' * 200, ['a']),
    good[1],
  ]
  found = scorer.score(rows)
  reasons = [r.reason if isinstance(r, Unusable) else '' for r in found]
  assert reasons == ['', 'no_steps', 'empty_step', 'marker_in_text', 'too_long', '']
  probed = scorer.score(rows, allow_empty=True)[2]
  assert isinstance(probed, ScoreSet) and len(probed.values) == 2
  assert scorer.score([]) == []


def test_dropped_steps_have_no_score():
  fmt = dataclasses.replace(SPEC.step_format, truncation='drop_steps', max_length=32)
  short = Scorer(dataclasses.replace(SPEC, step_format=fmt), PARAMS, BYTES)
  row = trajectory(0, 'question', ['abcde'] * 6)
  values = short.score([row])[0].values
  assert len(values) == 6 and values[-1] is None and values[0] is not None
  kept = [v for v in values if v is not None]
  assert values == (*kept, *[None] * (6 - len(kept)))


def test_broken_parameters_surface(scorer):
  broken = jax.tree.map(lambda x: x * np.nan, PARAMS)
  with pytest.raises(UserError, match='t0: its scores are not finite'):
    Scorer(SPEC, broken, BYTES, batch_tokens=BUDGET).score(make_rows(1))


def test_score_in_a_few_lines(tmp_path, scorer):
  exports.save_scorer(tmp_path / 'scorer', SPEC, PARAMS, BYTES)
  rows = make_rows(3)
  questions, steps = [r.question for r in rows], [list(r.steps) for r in rows]
  found = api.score(str(tmp_path), questions, steps)
  assert found == api.score(str(tmp_path / 'scorer'), questions, steps)
  for a, b in zip(found, numbers(scorer.score(rows))):
    assert all(isinstance(v, float) for v in a)
    np.testing.assert_allclose(a, b, atol=1e-6)
  with pytest.raises(UserError, match=r'solution 1 cannot be scored \(no_steps'):
    api.score(str(tmp_path), ['q', 'q'], [['a'], []])
  with pytest.raises(UserError, match='lists of one length'):
    api.score(str(tmp_path), ['q'], [['a'], ['b']])
  with pytest.raises(UserError, match='must be a list'):
    api.score(str(tmp_path), ['q'], ['abc'])
  with pytest.raises(UserError, match='neither a scorer of ours'):
    api.score(str(tmp_path / 'nowhere'), ['q'], [['a']])
