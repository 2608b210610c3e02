"""Steps are scored as they come, as whole solutions are, and each is read once."""

import dataclasses

import jax
import numpy as np
import pytest
from often import often

from prm_jax import step_values
from prm_jax.calibration_maps import CalibrationMap
from prm_jax.errors import UserError
from prm_jax.formats import step_format, tokenizers
from prm_jax.inference import row_caches
from prm_jax.inference.incremental import IncrementalScorer, score_whole
from prm_jax.inference.scorer import Scorer
from prm_jax.models import scorer as scoring_model
from prm_jax.records import Trajectory
from prm_jax.search.uncached import RescoringSessions
from prm_jax.specs import HeadSpec, ModelSpec, ScorerSpec, StepFormat

BYTES = tokenizers.load('bytes')
SIZES = {'n_layers': 2, 'd_model': 16, 'n_heads': 2, 'n_kv_heads': 1, 'head_dim': 8}
WINDOWS = {'window': 9, 'windowed_layers': (True, False)}
LENGTH = 96
CASES = {
  'scalar': (HeadSpec(init_scale=0.5), 'sigmoid', {}, WINDOWS),
  'linear': (
    HeadSpec('linear', 2, init_scale=0.5), 'softmax2',
    {'position': 'before', 'encoding': 'joined', 'step_template': '{number}: {step}'},
    {},
  ),
  # Read before a marker that is not there: a step of one token at the token before it.
  'label_tokens': (
    HeadSpec('label_tokens', label_tokens=(45, 43)), 'softmax2',
    {'position': 'before', 'marker': ''}, {'scan_layers': True},
  ),
  'mlp': (
    HeadSpec('mlp', init_scale=0.5), 'softmax2',
    {'marker': '+', 'marker_in_text': 'split', 'encoding': 'joined'},
    {'rope_scaling': ('linear', 2.0)},
  ),
}  # fmt: skip


def make(name='scalar', **changes):
  head, value, fmt, model = CASES[name]
  model = ModelSpec(260, **{**SIZES, 'd_ff': 32, **model})
  fmt = StepFormat(**{'max_length': LENGTH, **fmt, **changes})
  spec = ScorerSpec(model, head, fmt, step_value=value, kind='probability')
  return spec, scoring_model.init(model, head, jax.random.key(0))


def texts(rng, n, most):
  letters = list('abc +=')
  return [''.join(rng.choice(letters, rng.integers(0, most))) + 'x' for _ in range(n)]


def reference(spec, params):
  """Values of the last steps of solutions by one padded forward pass."""
  forward = jax.jit(scoring_model.apply, static_argnums=(0, 1))

  def values(questions, solutions):
    rows = step_format.encode_rows(spec.step_format, BYTES, questions, solutions)
    tokens = np.zeros((8, LENGTH), np.int32)
    at = np.zeros((8, 1), np.int32)
    for i in range(len(questions)):
      row = rows.row(i)
      tokens[i, : len(row.tokens)] = row.tokens
      at[i] = row.step_positions[-1]
    outputs = forward(spec.model, spec.head, params, tokens, at)
    lengths = np.diff(rows.offsets)
    found = np.asarray(step_values.VALUES[spec.step_value](outputs))
    return found[: len(questions), 0], lengths

  return values


@pytest.mark.parametrize('name', often(CASES, 'scalar'))
def test_equals_whole_solutions_and_reads_new_tokens_only(name):
  spec, params = make(name)
  scorer = IncrementalScorer(spec, params, BYTES, max_rows=8)
  assert scorer.extends
  again = reference(spec, params)
  rng = np.random.default_rng(0)
  state = scorer.take(scorer.start(['1+1=', '2*3 is']), [0, 1, 0, 0, 1, 1])
  questions = ['1+1=', '2*3 is', '1+1=', '1+1=', '2*3 is', '2*3 is']
  solutions, length = [()] * 6, None
  seen = []
  for k in range(5):
    new = texts(rng, len(state), 6)
    if k == 3:
      new[0] = 'x'
    state, values = scorer.extend(state, new)
    solutions = [(*old, step) for old, step in zip(solutions, new)]
    want, now = again(questions, solutions)
    np.testing.assert_allclose(values, want, atol=1e-5)
    seen += values.tolist()
    if length is not None:
      reread = name == 'label_tokens'  # the token before, where a step is one token
      ones = np.array([reread and len(step) == 1 for step in new])
      np.testing.assert_array_equal(state.tokens_read, now - length + ones)
    kept = [0, 1, *rng.integers(0, len(state), 4).tolist()]
    if k == 1:
      state = scorer.join([scorer.take(state, kept[:1]), scorer.take(state, kept[1:])])
    else:
      state = scorer.take(state, kept)
    assert state.tokens_read == (0,) * 6
    questions, solutions = ([x[i] for i in kept] for x in (questions, solutions))
    length = now[kept]
  assert np.std(seen) > 0.01


@pytest.fixture(scope='module')
def scorer():
  spec, params = make(truncation='drop_steps')
  return IncrementalScorer(spec, params, BYTES, max_rows=8)


@pytest.mark.slow
def test_states_are_values(scorer):
  start = scorer.take(scorer.start(['1+1=']), [0, 0])
  assert scorer.start(['1+1=', '1+1=']).tokens_read == (5, 0)
  one, first = scorer.extend(start, ['aa', 'b'])
  _, other = scorer.extend(one, ['c', 'dd'])
  scorer.extend(scorer.take(one, [1, 1]), ['x', 'y'])
  _, same = scorer.extend(one, ['c', 'dd'])
  np.testing.assert_array_equal(other, same)
  _, both = scorer.extend_by(start, [('aa', 'c'), ('b', 'dd')])
  np.testing.assert_allclose(both, np.stack([first, other], 1), atol=1e-6)
  _, (nothing, _) = scorer.extend_by(start, [(), ('b',)])
  assert nothing.shape == (0,)


def test_rows_that_are_let_go_free_their_keys():
  scorer = IncrementalScorer(*make(), BYTES)
  state, _ = scorer.extend(scorer.take(scorer.start(['1+1=']), [0] * 64), ['aa'] * 64)
  few = scorer.take(state, [3, 3])
  question = state.rows[0].text.keys.nbytes
  assert few.cache_bytes - question == (state.cache_bytes - question) // 8
  _, a = scorer.extend(state, ['b'] * 64)
  _, b = scorer.extend(few, ['b', 'b'])
  np.testing.assert_allclose(a[3:5], b, atol=1e-6)


def test_what_cannot_be_read_is_nan_as_it_is_for_whole_solutions(scorer):
  again = RescoringSessions(Scorer(scorer._spec, scorer._params, BYTES))
  states = [s.start(['1+1=', 'q' * 200] + ['2'] * 3) for s in (scorer, again)]
  for new in (
    ['a', 'a', ' ', 'a<prm>', 'a'],
    ['b', 'b', 'b', 'b', '<prm>'],
    ['c' * 90, 'c', 'c', 'c', 'c'],
    ['d', 'd', 'd', 'd', 'd'],
  ):
    found = []
    for i, sessions in enumerate((scorer, again)):
      states[i], values = sessions.extend(states[i], new)
      found.append(values)
    np.testing.assert_allclose(*found, atol=1e-5)
  assert np.isnan(found[0]).all() and not any(states[0].tokens_read)
  values, read = scorer.score(['1', '1'], [['a', 'b' * 99], ['a', '']])
  assert np.isnan(values[0]).tolist() == [False, True] and np.isnan(values[1]).all()
  assert read == [4, 0]


def test_too_long_may_be_an_error():
  spec, params = make(truncation='error')
  strict = IncrementalScorer(spec, params, BYTES, max_rows=8)
  state, _ = strict.extend(strict.start(['1+1=']), ['a'])
  with pytest.raises(UserError, match='max_length=96'):
    strict.extend(state, ['a' * 90])


def test_formats_that_do_not_extend_are_scored_anew():
  spec, params = make(encoding='whole', marker='=', marker_in_text='allow')
  sessions = IncrementalScorer(spec, params, BYTES)
  assert not sessions.extends
  state = sessions.take(sessions.start(['1+1', '2']), [0, 1, 1])
  state, _ = sessions.extend(state, ['a', 'b', 'c'])
  state, values = sessions.extend(state, ['d', 'e', 'f'])
  whole, read = score_whole(
    Scorer(spec, params, BYTES), ['1+1', '2', '2'], ['ad', 'be', 'cf']
  )
  np.testing.assert_array_equal(values, [v[-1] for v in whole])
  assert list(state.tokens_read) == read == [8, 6, 6]


def test_broken_parameters_and_options_are_refused():
  spec, params = make()
  broken = jax.tree.map(lambda x: x * np.nan, params)
  sessions = IncrementalScorer.of(Scorer(spec, broken, BYTES))
  with pytest.raises(UserError, match='not finite'):
    sessions.extend(sessions.start(['1+1=']), ['a'])
  with pytest.raises(UserError, match='power of two'):
    IncrementalScorer(spec, params, BYTES, max_rows=12)
  with pytest.raises(ValueError, match='2 rows of steps for 1 beams'):
    sessions.extend(sessions.start(['1']), ['a', 'b'])


def test_grids_share_texts_where_that_costs_nothing():
  a, b = (row_caches.Text(1, np.zeros(1)) for _ in range(2))
  grid = row_caches.lay([a] * 5)
  assert (grid.groups, grid.members, grid.places.tolist()) == (1, 8, [0, 1, 2, 3, 4])
  grid = row_caches.lay([a, b] * 4)
  assert (grid.groups, grid.members) == (8, 1)
  assert [t is a for t in grid.texts] == [True] * 4 + [False] * 4
  grid = row_caches.lay([a] * 12 + [b])
  assert (grid.groups, grid.members) == (16, 1)
  grid = row_caches.lay([a] * 12)
  assert (grid.groups, grid.members) == (2, 8)


def test_a_calibrated_scorer_gives_its_probabilities():
  spec, params = make()
  spec = dataclasses.replace(spec, step_value='logit', kind='logit')
  held = {'slope': (2.0,), 'intercept': (-0.5,)}
  fitted = CalibrationMap('platt', spec.kind, held)
  scorer = Scorer(spec, params, BYTES, calibration=fitted)
  steps = ['+1=2', '-1=1']
  (want,) = scorer.score([Trajectory('a', 'p', '1+1-1=', tuple(steps))])
  assert want.kind == 'probability' and spec.kind != 'probability'
  raw = np.array(Scorer(spec, params, BYTES).values(scorer.encode([
    Trajectory('a', 'p', '1+1-1=', tuple(steps))
  ]))[0])  # fmt: skip
  np.testing.assert_allclose(want.values, 1 / (1 + np.exp(0.5 - 2 * raw)), atol=1e-6)
  for sessions in (IncrementalScorer.of(scorer), RescoringSessions(scorer)):
    assert sessions.kind == 'probability'
    state, found = sessions.start(['1+1-1=']), []
    for step in steps:
      state, scores = sessions.extend(state, [step])
      found += scores.tolist()
    np.testing.assert_allclose(found, want.values, atol=1e-5)
