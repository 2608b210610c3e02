"""Exporters: a round trip loses nothing a format can hold; the rest is refused."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prm_jax import jsonl, records
from prm_jax.errors import UserError
from prm_jax.formats import exporters, importers
from prm_jax.formats.label_policy import ImportOptions
from prm_jax.records import LabelSet, Trajectory

QUIET = settings(
  max_examples=60,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)

TEXT = st.text(st.characters(exclude_categories=['Cs']), max_size=30)
# Texts that all formats can hold: no marker, no blank line, no 'Step 1:' of their own.
WORDS = st.text('abc xyz+-=<>$\\é漢', min_size=1, max_size=20).filter(str.strip)
HARD = st.sampled_from([0.0, 1.0])
SOFT = st.floats(0, 1)


def make(steps, values, question='What is 2+3?', name='human', **fields):
  labels = {name: LabelSet('correctness', tuple(values), **fields.pop('labels', {}))}
  id = records.make_id('test', question, '\x1e'.join(steps))
  problem = records.make_problem_id(question)
  return Trajectory(id, problem, question, tuple(steps), labels=labels, **fields)


def there_and_back(tmp_path, trajectories, format, options=None):
  path = tmp_path / 'rows.jsonl'
  assert exporters.write(path, trajectories, format, label='human') == len(trajectories)
  return importers.read(str(path), format, options)[0]


@st.composite
def solutions(draw, texts, values, first='', min_steps=1):
  n = draw(st.integers(min_steps, 4))
  steps = [draw(texts) for _ in range(n)]
  if steps:
    steps[0] = first + steps[0]
  weights = draw(st.sampled_from([(), (1.0, 0.0, 2.5, 1.0)[:n]]))
  held = [draw(values) for _ in range(n)]
  return make(steps, held, draw(texts), labels={'weights': weights})


@QUIET
@given(rows=st.lists(solutions(TEXT, SOFT, min_steps=0), min_size=1, max_size=3))
def test_trl_round_trip(tmp_path, rows):
  back = there_and_back(tmp_path, rows, 'trl')
  for a, b in zip(rows, back, strict=True):
    assert (b.question, b.steps, b.problem_id) == (a.question, a.steps, a.problem_id)
    assert b.labels['source'].values == a.labels['human'].values
    ones = (1.0,) * a.n_steps
    weights = a.labels['human'].weights
    assert (b.labels['source'].weights or ones) == (weights or ones)


@QUIET
@given(
  rows=st.lists(solutions(WORDS, HARD, first='Step 1: '), min_size=1, max_size=3),
  format=st.sampled_from(['math_shepherd', 'openrlhf', 'rlhflow']),
)
def test_formats_with_signs_round_trip(tmp_path, rows, format):
  rows = [
    make(t.steps, t.labels['human'].values, t.question, meta={'task': 'GSM8K'})
    for t in rows
  ]
  back = there_and_back(tmp_path, rows, format)
  for a, b in zip(rows, back, strict=True):
    assert b.question == a.question.strip()
    assert b.steps == tuple(s.strip() for s in a.steps)
    assert b.labels['source'].values == a.labels['human'].values
    assert b.meta == ({'task': 'GSM8K'} if format == 'math_shepherd' else {})


@QUIET
@given(rows=st.lists(solutions(WORDS, SOFT), min_size=1, max_size=3))
def test_openrlhf_holds_soft_labels(tmp_path, rows):
  rows = [make(t.steps, t.labels['human'].values, t.question) for t in rows]
  back = there_and_back(tmp_path, rows, 'openrlhf')
  for a, b in zip(rows, back, strict=True):
    assert b.question == a.question.strip()
    assert b.labels['source'].values == a.labels['human'].values


@QUIET
@given(
  ratings=st.lists(st.sampled_from([-1, 0, 1, None]), min_size=1, max_size=5),
  steps=st.lists(TEXT, min_size=5, max_size=5),
  question=TEXT,
)
def test_prm800k_ratings_round_trip(tmp_path, ratings, steps, question):
  steps = steps[: len(ratings)]
  row = make(steps, [None] * len(ratings), question, ratings=tuple(ratings))
  (back,) = there_and_back(
    tmp_path, [row], 'prm800k_trajectories', ImportOptions(neutral='class')
  )
  table = {-1: 0.0, 0: 0.5, 1: 1.0, None: None}
  assert (back.question, back.steps) == (question, tuple(steps))
  assert back.ratings == row.ratings
  assert back.labels['human'].values == tuple(table[r] for r in ratings)


@QUIET
@given(rows=st.lists(solutions(TEXT, SOFT, min_steps=0), min_size=1, max_size=3))
def test_records_round_trip_whole(tmp_path, rows):
  path = tmp_path / 'rows.jsonl.gz'
  exporters.write(path, rows, 'records', label='')
  assert list(records.read(str(path))) == rows


def test_a_soft_label_stays_soft_and_a_column_has_one_type(tmp_path):
  rows = [make(['a', 'b'], [1, 0]), make(['c'], [0.7])]
  path = tmp_path / 'a.jsonl'
  exporters.write(path, rows, 'trl', label='human')
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  assert [row['labels'] for row in lines] == [[1.0, 0.0], [0.7]]
  assert all(isinstance(v, float) for row in lines for v in row['labels'])
  exporters.write(path, rows[:1], 'trl', label='human')
  assert json.loads(path.read_text()) == {
    'prompt': 'What is 2+3?',
    'completions': ['a', 'b'],
    'labels': [True, False],
  }


def test_the_public_layout_of_each_format():
  row = [make(['Step 1: 2+3=5', 'Step 2: so 6'], [1, 0])]
  assert exporters.EXPORTERS['math_shepherd'](row, 'human') == [
    {
      'input': 'What is 2+3? Step 1: 2+3=5 ки\nStep 2: so 6 ки',
      'label': 'What is 2+3? Step 1: 2+3=5 +\nStep 2: so 6 -',
    }
  ]
  assert exporters.EXPORTERS['openrlhf'](row, 'human')[0]['value'] == ['+', '-']
  assert exporters.EXPORTERS['rlhflow'](row, 'human')[0]['conversations'] == [
    {'role': 'user', 'content': 'What is 2+3? Step 1: 2+3=5'},
    {'role': 'assistant', 'content': '+'},
    {'role': 'user', 'content': 'Step 2: so 6'},
    {'role': 'assistant', 'content': '-'},
  ]


def test_without_step_numbers_a_blank_line_parts_question_and_step():
  row = [make(['2+3=5'], [1])]
  (out,) = exporters.EXPORTERS['openrlhf'](row, 'human')
  assert out['input'] == 'What is 2+3?\n\n2+3=5 ки'


REFUSED = [
  (
    'math_shepherd',
    make(['x'], [0.7]),
    'the label of step 0 is 0.7, and math_shepherd holds only + and -; export as trl '
    'or openrlhf, which hold numbers.',
  ),
  (
    'trl',
    make(['x', 'y'], [1, None]),
    "step 1 has no label under 'human', and the format needs one; ask for another "
    'format, or put these rows out as records (no export).',
  ),
  (
    'trl',
    make(['x'], [1], name='source'),
    "no label set 'human' to export (it has 'source'); name one of its own with "
    '--config.data.label.',
  ),
  (
    'math_shepherd',
    make(['x', 'a ки b'], [1, 1]),
    "step 1 contains 'ки', the marker that math_shepherd puts after each step; export "
    'as trl, which has no marker.',
  ),
  (
    'openrlhf',
    make(['x'], [1], question='What is ки?'),
    "the question contains 'ки', the marker that openrlhf puts after each step; export "
    'as trl, which has no marker.',
  ),
  (
    'openrlhf',
    make(['x'], [0.5], labels={'weights': (0.0,)}),
    'step 0 has loss weight 0, and openrlhf holds no weights; export as trl, which '
    'gets a column of weights.',
  ),
  (
    'rlhflow',
    make(['x'], [1], question='First.\n\nSecond.'),
    'rlhflow runs question and first step together, and here neither a single '
    "'Step 1:' nor a single blank line would tell them apart; export as trl, which "
    'keeps them apart.',
  ),
  (
    'rlhflow',
    make([], []),
    'there is no step, and rlhflow has at least one; ask for another format, or put '
    'these rows out as records (no export).',
  ),
  (
    'prm800k_trajectories',
    make(['x'], [1]),
    'it has no ratings (-1, 0, 1), which prm800k_trajectories holds; export as trl, '
    'which holds labels.',
  ),
]


@pytest.mark.parametrize(('format', 'row', 'message'), REFUSED)
def test_refusals_name_row_reason_and_remedy(tmp_path, format, row, message):
  path = tmp_path / 'out.jsonl'
  path.write_text('before')
  with pytest.raises(UserError) as e:
    exporters.write(path, [row], format, label='human')
  assert str(e.value) == f'trajectory {row.id}: {message}'
  assert path.read_text() == 'before'


def test_refuses_unknown_format_wrong_suffix_and_nothing(tmp_path):
  row = [make(['x'], [1])]
  with pytest.raises(UserError, match=r"'processbench' is unknown; choose from"):
    exporters.write(tmp_path / 'a.jsonl', row, 'processbench', label='human')
  with pytest.raises(UserError, match=r'give it a name that ends in \.jsonl or'):
    exporters.write(tmp_path / 'a.parquet', row, 'trl', label='human')
  with pytest.raises(UserError, match='there are no rows to export'):
    exporters.write(tmp_path / 'a.jsonl', [], 'trl', label='human')
  assert not list(tmp_path.iterdir())


def test_every_export_format_is_an_import_format():
  assert set(exporters.EXPORTERS) <= set(importers.FORMATS)


def test_equal_rows_give_equal_bytes(tmp_path):
  rows = [make(['x'], [1])]
  for name in ('a.jsonl.gz', 'b.jsonl.gz'):
    exporters.write(tmp_path / name, rows, 'trl', label='human')
  a, b = ((tmp_path / f'{n}.jsonl.gz').read_bytes() for n in 'ab')
  assert a == b and jsonl.read_bytes(tmp_path / 'a.jsonl.gz').count(b'\n') == 1
