"""Records: a round trip loses nothing; malformed rows are refused in one sentence."""

import dataclasses
import gzip
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prm_jax import records
from prm_jax.errors import UserError
from prm_jax.records import LabelSet, ScoreSet, Trajectory, Verdict

TEXT = st.text(st.characters(exclude_categories=['Cs']), max_size=12)
NAME = TEXT.filter(bool)
JSON = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
  lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
  max_leaves=4,
).filter(lambda v: v not in (float('inf'), float('-inf')))
FINITE = st.floats(allow_nan=False, allow_infinity=False)
OBJECT = st.dictionaries(
  TEXT, st.none() | st.booleans() | st.integers() | FINITE | TEXT | st.lists(TEXT)
)


@st.composite
def trajectories(draw):
  n = draw(st.integers(0, 3))

  def each(values, optional=True):
    one = st.none() | values if optional else values
    return tuple(draw(st.lists(one, min_size=n, max_size=n)))

  def maybe(value):
    return value if n and draw(st.booleans()) else ()

  def label_set():
    rollouts = maybe(each(st.integers(1, 9)))
    return LabelSet(
      draw(st.sampled_from(records.LABEL_KINDS)),
      each(st.floats(0, 1)),
      draw(OBJECT),
      weights=maybe(each(st.floats(0, 1e6), optional=False)),
      n_correct=tuple(r and 1 for r in rollouts),
      n_rollouts=rollouts,
      stop_reason=maybe(each(TEXT)),
    )

  response = draw(st.none() | TEXT)
  spans = ((0, len(response or '')),) * n
  names = draw(st.sets(NAME, max_size=2))
  verdict = st.builds(Verdict, st.none() | st.booleans(), TEXT, TEXT)
  probability = ScoreSet('probability', each(st.floats(0, 1)))
  return Trajectory(
    id=draw(NAME),
    problem_id=draw(NAME),
    question=draw(TEXT),
    steps=each(TEXT, optional=False),
    source=draw(TEXT),
    gold_answer=draw(st.none() | TEXT),
    separator=draw(TEXT),
    response=response,
    step_spans=maybe(spans),
    generator=draw(TEXT),
    sampling=draw(OBJECT),
    sample_index=draw(st.integers(0, 99)),
    parent=draw(st.none() | st.fixed_dictionaries({'id': TEXT, 'n_steps': st.just(2)})),
    tokens=maybe(each(OBJECT, optional=False)),
    answer=draw(st.none() | TEXT),
    verdicts={name: draw(verdict) for name in names},
    ratings=maybe(each(st.integers(-1, 1))),
    meta=draw(OBJECT),
    labels={name: label_set() for name in names},
    first_error={name: draw(st.none() | st.integers(-1, n - 1)) for name in names},
    scores={
      **{name: ScoreSet('logit', each(FINITE)) for name in names},
      'bounded': probability,
    },
  )


@settings(
  max_examples=100,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rows=st.lists(trajectories(), max_size=2), suffix=st.sampled_from(['', '.gz']))
def test_round_trip_through_a_file(tmp_path, rows, suffix):
  path = tmp_path / f'rows.jsonl{suffix}'
  assert records.write(path, rows) == len(rows)
  assert list(records.read(str(path))) == rows


@settings(max_examples=200, deadline=None)
@given(field=st.sampled_from([f.name for f in dataclasses.fields(Trajectory)]), v=JSON)
def test_any_value_in_any_field_is_read_or_refused(field, v):
  row = {'question': 'q', 'steps': ['a', 'b'], field: v}
  try:
    t = records.from_dict(row, 'f:1')
  except UserError as e:
    assert str(e).startswith('f:1: ') and '\n' not in str(e)
  else:
    assert records.from_dict(records.to_dict(t)) == t


def label(**changes):
  return {'labels': {'human': {'kind': 'correctness', 'values': [1, 0], **changes}}}


MALFORMED = [
  ({'question': 3}, "field 'question' is 3; it must be a string."),
  ({'steps': 'ab'}, "field 'steps' is 'ab'; it must be a list."),
  ({'steps': ['a', 2]}, "field 'steps[1]' is 2; it must be a string."),
  ({'steps': ['a', None]}, "field 'steps[1]' is None; it must be a string."),
  (
    {'steps': ['a', '\ud800']},
    "field 'steps[1]' is '\\ud800'; it must be valid Unicode (no lone surrogates).",
  ),
  ({'id': ''}, "field 'id' is ''; it must be a name, or left out."),
  (
    {'stepz': []},
    "unknown field 'stepz'; put what a format carries beyond the record under "
    '"meta", or name the format (path:format).',
  ),
  (
    label(values=[1, 0, 1]),
    "field 'labels.human.values' has 3 labels for 2 steps; there must be one a step "
    '(null where unlabelled).',
  ),
  (
    label(values=[1, float('nan')]),
    "field 'labels.human.values[1]' is nan; it must be a finite number from 0 to 1.",
  ),
  (
    label(values=[1, 1.5]),
    "field 'labels.human.values[1]' is 1.5; it must be a finite number from 0 to 1.",
  ),
  (
    label(values=[1, '0']),
    "field 'labels.human.values[1]' is '0'; it must be a finite number from 0 to 1.",
  ),
  (
    label(values=[1, True]),
    "field 'labels.human.values[1]' is True; it must be a finite number from 0 to 1.",
  ),
  (
    label(values=[10**400, 1]),
    f"field 'labels.human.values[0]' is 1{'0' * 76}...; it must be a finite number "
    'from 0 to 1.',
  ),
  (
    label(weights=[1]),
    "field 'labels.human.weights' has 1 entries for 2 steps; there must be one a step.",
  ),
  (
    label(weights=[1, -1]),
    "field 'labels.human.weights[1]' is -1; it must be a finite number of at least 0.",
  ),
  (
    label(weights=[1, 10**400]),
    f"field 'labels.human.weights[1]' is 1{'0' * 76}...; it must be a finite number "
    'of at least 0.',
  ),
  (
    label(kind='good'),
    "field 'labels.human.kind' is 'good'; it must be one of correctness, value, "
    'entropic, denoised, outcome, progress.',
  ),
  (
    label(n_correct=[3, 1], n_rollouts=[2, 2]),
    "field 'labels.human.n_correct[0]' is 3; it must be at most n_rollouts, 2.",
  ),
  (
    label(vales=[]),
    "field 'labels.human' is 'vales'; it must be an object with only kind, values, "
    'how, weights, n_correct, n_rollouts, stop_reason.',
  ),
  (
    {'first_error': {'human': 2}},
    "field 'first_error.human' is 2; it must be a whole number of at least -1 and at "
    'most 1.',
  ),
  (
    {'verdicts': {'exact': {'value': 1}}},
    "field 'verdicts.exact.value' is 1; it must be true, false or null.",
  ),
  (
    {'ratings': [2, 0]},
    "field 'ratings[0]' is 2; it must be a whole number of at least -1 and at most 1.",
  ),
  (
    {'scores': {'prm': {'kind': 'probability', 'values': [0.5, 2]}}},
    "field 'scores.prm.values[1]' is 2; it must be a finite number from 0 to 1.",
  ),
  (
    {'scores': {'prm': {'kind': 'logit', 'values': [0.5]}}},
    "field 'scores.prm.values' has 1 scores for 2 steps; there must be one a step.",
  ),
  (
    {'response': 'ab', 'step_spans': [[0, 1], [1, 3]]},
    "field 'step_spans[1]' is 3; it must be a whole number of at least 1 and at most "
    '2.',
  ),
  (
    {'parent': {'id': 'x'}},
    "field 'parent' is {'id': 'x'}; it must be {'id': ..., 'n_steps': ...}.",
  ),
]


@pytest.mark.parametrize(('changes', 'message'), MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_rows_name_place_field_and_value(changes, message):
  row = {'question': 'q', 'steps': ['a', 'b'], **changes}
  with pytest.raises(UserError) as e:
    records.from_dict(row, 'rows.jsonl:7')
  assert str(e.value) == f'rows.jsonl:7: {message}'


def test_a_missing_field_is_named():
  with pytest.raises(UserError, match="f:1: field 'steps' is missing; a record has"):
    records.from_dict({'question': 'q'}, 'f:1')


def test_reading_names_file_and_line_of_the_first_bad_row(tmp_path):
  path = tmp_path / 'a.jsonl.gz'
  rows = [{'question': 'q', 'steps': []}, {'question': 'q', 'steps': [1]}]
  path.write_bytes(gzip.compress('\n'.join(map(json.dumps, rows)).encode()))
  found = records.read(str(path))
  assert next(found).n_steps == 0
  with pytest.raises(UserError) as e:
    next(found)
  assert str(e.value) == f"{path}:2: field 'steps[0]' is 1; it must be a string."


def test_unusual_but_valid_rows_are_read(tmp_path):
  rows = [
    {'question': '', 'steps': []},
    {'question': 'q', 'steps': ['', 'x' * 100_000]},
    {'question': 'q', 'steps': ['a'], **label(values=[None])},
  ]
  path = tmp_path / 'a.jsonl'
  path.write_text('\n'.join(map(json.dumps, rows)))
  found = list(records.read(str(path)))
  assert [t.n_steps for t in found] == [0, 2, 1]
  assert len(found[1].steps[1]) == 100_000
  assert found[2].labels['human'].values == (None,)


def test_a_name_of_another_kind_of_file_is_refused(tmp_path):
  for name in ('a.parquet', 'a.json', 'a'):
    with pytest.raises(UserError, match=r'ends in \.jsonl or \.jsonl\.gz\.$'):
      records.write(tmp_path / name, [])
  assert not list(tmp_path.iterdir())


def test_shards_are_read_in_the_order_of_their_names(tmp_path):
  for name, text in (('b.jsonl', 'two'), ('a.jsonl.gz', 'one'), ('c.jsonl', 'three')):
    records.write(tmp_path / name, [records.from_dict({'question': text, 'steps': []})])
  assert [t.question for t in records.read(str(tmp_path))] == ['one', 'two', 'three']


def test_problem_id_ignores_white_space_and_unicode_form():
  same = {records.make_problem_id(q) for q in ('½  cup\n', '1⁄2 cup', ' 1⁄2\tcup')}
  assert len(same) == 1
  assert records.make_problem_id('1/2 cup') not in same
  assert records.make_id('a', 'bc') != records.make_id('ab', 'c')


@pytest.mark.parametrize(
  ('values', 'expected'),
  [
    ((1.0, 0.4, 1.0), 1),
    ((1.0, 0.5), -1),
    ((), -1),
    ((1.0, None, 0.0), None),
    ((0.0, None), 0),
  ],
)
def test_first_error_of(values, expected):
  assert records.first_error_of(values) == expected


def test_what_is_there_is_never_rewritten():
  t = records.from_dict({'question': 'q', 'steps': ['a'], 'id': 'x'})
  scores = ScoreSet('logit', (1.0,))
  scored = records.add(t, 'scores', 'prm', scores)
  assert t.scores == {} and scored.scores == {'prm': scores}
  assert records.add(scored, 'scores', 'prm', scores) == scored
  with pytest.raises(UserError) as e:
    records.add(scored, 'scores', 'prm', ScoreSet('logit', (2.0,)))
  assert str(e.value) == (
    "trajectory x: scores['prm'] is there already and is never rewritten; give the new "
    'one another name.'
  )
