"""Importers of training formats with labels, and what all importers share."""

import datetime
import decimal
import gzip
import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from importing import read, refusal

from prm_jax import records
from prm_jax.errors import UserError
from prm_jax.formats import importers
from prm_jax.formats.importers.step_texts import split_question

TRL = {
  'prompt': 'What is 2+3?',
  'completions': ['2+3=5', 'so 6'],
  'labels': [True, 0.3],
}
SHEPHERD = {
  'input': 'What is 2+3? Step 1: 2+3=5 ки\nStep 2: so -6 ки',
  'label': 'What is 2+3? Step 1: 2+3=5 +\nStep 2: so -6 -',
  'task': 'GSM8K',
}
OPENRLHF = {'input': SHEPHERD['input'], 'value': ['+', 0.25]}


def chat(*pairs):
  turns = []
  for step, sign in pairs:
    turns += [
      {'role': 'user', 'content': step},
      {'role': 'assistant', 'content': sign},
    ]
  return {'conversations': turns}


def test_trl(tmp_path):
  (t,), counters = read(tmp_path, 'trl', [TRL])
  assert (t.question, t.steps) == ('What is 2+3?', ('2+3=5', 'so 6'))
  assert t.labels['source'].values == (1.0, 0.3)
  assert t.labels['source'].kind == 'correctness'
  assert t.first_error == {'source': 1}
  assert t.source == 'trl/rows'
  assert counters['labels'] == 2 and counters['both_classes'] == 1


def test_trl_null_labels_and_weights(tmp_path):
  row = {**TRL, 'labels': [None, 1], 'weights': [0, 2.5], 'extra': 'kept'}
  (t,), _ = read(tmp_path, 'trl', [row])
  assert t.labels['source'].values == (None, 1.0)
  assert t.labels['source'].weights == (0.0, 2.5)
  assert t.first_error == {'source': None}
  assert t.meta == {'extra': 'kept'}


def test_math_shepherd(tmp_path):
  (t,), _ = read(tmp_path, 'math_shepherd', [SHEPHERD])
  assert t.question == 'What is 2+3?'
  assert t.steps == ('Step 1: 2+3=5', 'Step 2: so -6')
  assert t.labels['source'].values == (1.0, 0.0)
  assert t.labels['source'].kind == 'value'
  assert t.meta == {'task': 'GSM8K'}
  (t,), _ = read(tmp_path, 'math_shepherd', [SHEPHERD], label_kind='correctness')
  assert t.labels['source'].kind == 'correctness'


def test_openrlhf(tmp_path):
  (t,), _ = read(tmp_path, 'openrlhf', [OPENRLHF])
  assert t.steps == ('Step 1: 2+3=5', 'Step 2: so -6')
  assert t.labels['source'].values == (1.0, 0.25)
  row = {'input': 'What is 2+3?\n\n2+3=5<s>so 6<s>', 'value': ['0.5', 1]}
  (t,), _ = read(tmp_path, 'openrlhf', [row], placeholder='<s>')
  assert (t.question, t.steps) == ('What is 2+3?', ('2+3=5', 'so 6'))
  assert t.labels['source'].values == (0.5, 1.0)


def test_rlhflow(tmp_path):
  row = chat(('What is 2+3? Step 1: 2+3=5', '+'), ('Step 2: so 6', '-'))
  (t,), _ = read(tmp_path, 'rlhflow', [row])
  assert (t.question, t.steps) == ('What is 2+3?', ('Step 1: 2+3=5', 'Step 2: so 6'))
  assert t.labels['source'].values == (1.0, 0.0)
  assert t.first_error == {'source': 1}


def test_math_aps_shares_prefixes(tmp_path):
  row = {
    'question': 'Q?',
    'final_answer': '5',
    'reasoning_steps': [
      {'solution_prefix': 'Q?', 'mc_value': 0.5},
      {'solution_prefix': 'Q?\n\na', 'mc_value': 0.75},
      {'solution_prefix': 'Q?\n\na\n\nb', 'mc_value': 1.0},
      {'solution_prefix': 'Q?\n\na\n\nc', 'mc_value': 0.0},
    ],
  }
  found, counters = read(tmp_path, 'math_aps', [row])
  assert [t.steps for t in found] == [('a', 'b'), ('a', 'c')]
  assert [t.labels['source'].values for t in found] == [(0.75, 1.0), (0.75, 0.0)]
  assert [t.labels['source'].weights for t in found] == [(), (0.0, 1.0)]
  assert found[0].meta['question_value'] == 0.5 and found[0].gold_answer == '5'
  assert counters['weighted_labels'] == 3 and counters['context_labels'] == 1
  row['reasoning_steps'][0]['solution_prefix'] = 'other'
  assert refusal(tmp_path, 'math_aps', row) == (
    "field 'reasoning_steps[0].solution_prefix' is 'other'; it must be the question, "
    'continued.'
  )


def aps(value):
  step = {'solution_prefix': 'Q?\n\na', 'mc_value': value}
  return {'question': 'Q?', 'reasoning_steps': [step]}


MALFORMED = [
  (
    'trl',
    {**TRL, 'labels': [1, -100]},
    "field 'labels[1]' is -100; it must be true, false or a number from 0 to 1 (null "
    'where a step has no label).',
  ),
  (
    'trl',
    {**TRL, 'labels': [1, 'good']},
    "field 'labels[1]' is 'good'; it must be true, false or a number from 0 to 1 (null "
    'where a step has no label).',
  ),
  (
    'trl',
    {**TRL, 'labels': [1, 0, 1]},
    "field 'labels' has 3 labels for 2 steps; there must be one a step.",
  ),
  (
    'trl',
    {**TRL, 'labels': []},
    "field 'labels' has 0 labels for 2 steps; there must be one a step.",
  ),
  (
    'trl',
    {**TRL, 'weights': [1]},
    "field 'weights' has 1 entries for 2 steps; there must be one a step.",
  ),
  (
    'trl',
    {**TRL, 'completions': 'text'},
    "field 'completions' is 'text'; it must be a list.",
  ),
  ('trl', {**TRL, 'prompt': None}, "field 'prompt' is None; it must be a string."),
  (
    'trl',
    {**TRL, 'labels': [1, float('nan')]},
    'the value NaN is not JSON; use null instead.',
  ),
  (
    'math_shepherd',
    {**SHEPHERD, 'label': 'What is 2+3? Step 1: 2+3=5 +'},
    "field 'label' has 1 labels (+ or - at the end of a line) for 2 markers 'ки' in "
    "field 'input'; there must be one a step.",
  ),
  (
    'math_shepherd',
    {**SHEPHERD, 'label': SHEPHERD['label'].replace('2+3=5', '2+3=4')},
    "field 'label' differs from field 'input' at step 1; it must be the same text with "
    "+ or - in place of each 'ки'.",
  ),
  (
    'math_shepherd',
    {**SHEPHERD, 'label': ['+', '-']},
    "field 'label' is ['+', '-']; it must be a string.",
  ),
  (
    'openrlhf',
    {**OPENRLHF, 'value': ['+']},
    "field 'value' has 1 labels for 2 markers 'ки' in field 'input'; there must be one "
    'a step.',
  ),
  (
    'openrlhf',
    {**OPENRLHF, 'input': 'What is ки? ' + OPENRLHF['input']},
    "field 'value' has 2 labels for 3 markers 'ки' in field 'input'; there must be one "
    'a step.',
  ),
  (
    'openrlhf',
    {**OPENRLHF, 'value': ['+', 'nan']},
    "field 'value[1]' is 'nan'; it must be '+', '-' or a number from 0 to 1.",
  ),
  (
    'openrlhf',
    {**OPENRLHF, 'value': ['+', True]},
    "field 'value[1]' is True; it must be '+', '-' or a number from 0 to 1.",
  ),
  (
    'rlhflow',
    {'conversations': chat(('a', '+'))['conversations'][:1]},
    "field 'conversations' has 1 turns; there must be a user turn (a step) and an "
    'assistant turn (+ or -) for every step.',
  ),
  (
    'rlhflow',
    chat(('Q? Step 1: a', 'yes')),
    "field 'conversations[1].content' is 'yes'; it must be '+' or '-'.",
  ),
  (
    'rlhflow',
    {'conversations': list(reversed(chat(('a', '+'))['conversations']))},
    "field 'conversations[0].role' is 'assistant'; it must be 'user'.",
  ),
  (
    'rlhflow',
    {'conversations': ['a', 'b']},
    "field 'conversations[0]' is 'a'; it must be an object {...}.",
  ),
  (
    'math_aps',
    aps(1.5),
    "field 'reasoning_steps[0].mc_value' is 1.5; it must be a finite number from 0 to "
    '1.',
  ),
]


@pytest.mark.parametrize(
  ('format', 'row', 'message'), MALFORMED, ids=range(len(MALFORMED))
)
def test_malformed_rows_name_field_value_and_remedy(tmp_path, format, row, message):
  assert refusal(tmp_path, format, row) == message


AMBIGUOUS = [
  ('math_shepherd', {'input': 'No split here ки', 'label': 'No split here +'}),
  ('rlhflow', chat(('One.\n\nTwo.\n\nThree.', '+'))),
  ('openrlhf', {'input': 'Step 1: a Step 1: b ки', 'value': ['+']}),
  ('openrlhf', {'input': OPENRLHF['input'] + ' and more', 'value': ['+', '-']}),
]


@pytest.mark.parametrize(('format', 'row'), AMBIGUOUS, ids=range(len(AMBIGUOUS)))
def test_ambiguous_rows_are_dropped_and_counted_or_refused(tmp_path, format, row):
  good = {
    'math_shepherd': SHEPHERD,
    'openrlhf': OPENRLHF,
    'rlhflow': chat(('Q? Step 1: a', '+')),
  }[format]
  found, counters = read(tmp_path, format, [row, good])
  assert len(found) == 1 and counters['rows'] == 2
  dropped = counters.get('ambiguous_first_step', 0)
  assert dropped + counters.get('text_after_last_marker', 0) == 1
  assert "set ambiguous='drop'" in refusal(tmp_path, format, row, ambiguous='error')
  with pytest.raises(UserError, match=f'no row of it can be used as {format}'):
    read(tmp_path, format, [row])


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('Q? Step 1: a', ('Q?', 'Step 1: a')),
    ('Q?\n## Step 1: a', ('Q?', '## Step 1: a')),
    ('Q?\n\nMore. Step 1: a', ('Q?\n\nMore.', 'Step 1: a')),
    ('Q?\n\na', ('Q?', 'a')),
    ('Q?\n\nMore.\n\na', None),
    ('Step 1: a', None),
    ('Q? misstep 1: a', None),
    ('', None),
  ],
)
def test_split_question(text, expected):
  assert split_question(text) == expected


def test_a_row_of_another_format_is_named(tmp_path):
  message = refusal(tmp_path, 'records', SHEPHERD)
  assert message == (
    "field 'question' is missing; the row looks like math_shepherd, so name that "
    f'format: {tmp_path}/rows.jsonl:math_shepherd.'
  )
  assert refusal(tmp_path, 'trl', {'x': 1}) == (
    "field 'prompt' is missing; a trl row has prompt, completions, labels; check the "
    'file or name its format (path:format).'
  )
  with pytest.raises(UserError, match="unknown format 'tlr'; known formats are"):
    importers.read(str(tmp_path), 'tlr')


def test_columns_of_parquet_that_are_not_json(tmp_path):
  pyarrow = pytest.importorskip('pyarrow')
  parquet = pytest.importorskip('pyarrow.parquet')
  file = tmp_path / 'rows.parquet'

  def refused(**column):
    row = {**TRL, 'labels': [], **column}
    parquet.write_table(pyarrow.Table.from_pylist([row]), file)
    with pytest.raises(UserError) as e:
      importers.read(str(file), 'trl')
    return str(e.value).removeprefix(f'{file}, row 1: ')

  made = {'at': datetime.date(2026, 1, 2), 'cost': [decimal.Decimal('1.5')]}
  row = {**TRL, 'labels': [1.0, 0.3], 'made': [made], 'loss': math.nan}
  parquet.write_table(pyarrow.Table.from_pylist([row]), file)
  (t,), _ = importers.read(str(file), 'trl')
  assert t.meta == {'made': [{'at': '2026-01-02', 'cost': ['1.5']}], 'loss': None}
  records.write(tmp_path / 'out.jsonl', [t])
  assert (
    refused(x=[[math.nan]]) == "field 'x[0][0]' is nan, not JSON; use null instead."
  )
  assert refused(x=math.inf) == "field 'x' is inf, not JSON; use null instead."


def test_a_byte_order_mark_is_no_content(tmp_path):
  for name, text in {
    'list.json': json.dumps([TRL, TRL]),
    'lines.json': f'{json.dumps(TRL)}\n{json.dumps(TRL)}\n',
    'lines.jsonl': f'{json.dumps(TRL)}\n{json.dumps(TRL)}\n',
  }.items():
    (tmp_path / name).write_text(text, encoding='utf-8-sig')
    assert len(importers.read(str(tmp_path / name), 'trl')[0]) == 2


def test_shards_json_lists_and_parquet_hold_the_same(tmp_path):
  rows = [{**TRL, 'labels': [1.0, 0.3]}, {**TRL, 'prompt': 'R?', 'labels': [1, 0]}]
  plain, _ = read(tmp_path, 'trl', rows)
  listed, _ = read(tmp_path, 'trl', rows, name='rows.json')
  assert listed == plain
  pyarrow = pytest.importorskip('pyarrow')
  parquet = pytest.importorskip('pyarrow.parquet')
  (tmp_path / 'tables').mkdir()
  table = pyarrow.Table.from_pylist(rows)
  parquet.write_table(table, tmp_path / 'tables' / 'rows.parquet')
  assert importers.read(str(tmp_path / 'tables'), 'trl')[0] == plain
  (tmp_path / 'tables' / 'bad.parquet').write_bytes(b'PAR1')
  with pytest.raises(UserError, match=r'bad\.parquet: not a readable parquet file'):
    importers.read(str(tmp_path / 'tables'), 'trl')
  shards = tmp_path / 'shards'
  shards.mkdir()
  for name, row in zip(('a.jsonl.gz', 'b.jsonl.gz'), rows):
    (shards / name).write_bytes(gzip.compress(json.dumps(row).encode()))
  for path in (shards, shards / '*.gz'):
    found, counters = importers.read(str(path), 'trl')
    assert [t.question for t in found] == ['What is 2+3?', 'R?']
    assert counters['files'] == counters['rows'] == 2


def test_truncated_empty_and_broken_files(tmp_path):
  path = tmp_path / 'a.jsonl.gz'
  path.write_bytes(gzip.compress(json.dumps(TRL).encode())[:-4])
  with pytest.raises(UserError, match='the gzip stream is damaged or cut off'):
    importers.read(str(path), 'trl')
  path = tmp_path / 'a.jsonl'
  path.write_text('\n')
  with pytest.raises(UserError, match='holds no rows; check that the file is complete'):
    importers.read(str(path), 'trl')
  path = tmp_path / 'a.json'
  for text, message in (
    ('3', 'expected a JSON list of objects, found int'),
    ('[1]', r'a\.json, row 1: expected a JSON object, found int'),
    ('[{"a": 1}', r'a\.json: not valid JSON'),
  ):
    path.write_text(text)
    with pytest.raises(UserError, match=message):
      importers.read(str(path), 'trl')


def test_repeated_keys_get_ids_of_their_own(tmp_path):
  row = {'id': 'x', 'problem': 'Q?', 'steps': ['a'], 'label': -1}
  found, counters = read(tmp_path, 'processbench', [row, row, row])
  assert len({t.id for t in found}) == 3 and counters['repeated_ids'] == 2
  again, _ = read(tmp_path, 'processbench', [row, row, row])
  assert [t.id for t in again] == [t.id for t in found]


def test_source_and_separator_options(tmp_path):
  (t,), _ = read(tmp_path, 'trl', [TRL], source='mine', separator='\n\n')
  assert (t.source, t.separator) == ('mine', '\n\n')


def test_empty_and_missing_steps_are_counted(tmp_path):
  rows = [
    {'prompt': 'Q?', 'completions': ['', ' '], 'labels': [1, 0]},
    {'prompt': 'R?', 'completions': [], 'labels': []},
  ]
  found, counters = read(tmp_path, 'trl', rows)
  assert [t.n_steps for t in found] == [2, 0]
  assert counters['empty_steps'] == 2 and counters['without_steps'] == 1


def test_describe_says_balance_context_and_share_with_both_classes(tmp_path):
  _, counters = read(
    tmp_path, 'prm800k_trajectories',
    [
      {'problem': 'Q?', 'steps': ['a', 'b'], 'ratings': [1, -1]},
      {'problem': 'Q?', 'steps': ['a', 'c'], 'ratings': [1, 1]},
    ],
  )  # fmt: skip
  assert importers.describe(counters) == (
    '2 rows: 2 trajectories of 1 problems, 4 steps; 4 labels (75.0% positive), 1 of '
    'them context only; 50.0% of 2 labelled trajectories hold both classes; ratings 4.'
  )


ANY = st.recursive(
  st.sampled_from([None, True, -3, 0, 1, 2, 0.5, '', '+', 'Step 1: a ки']) | st.text(),
  lambda inner: (
    st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2)
  ),
  max_leaves=5,
)


@settings(
  max_examples=300,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(format=st.sampled_from(sorted(importers.FORMATS)), data=st.data())
def test_any_row_is_read_or_refused_in_one_sentence(tmp_path, format, data):
  row = {field: data.draw(ANY) for field in importers.FORMATS[format].fields}
  try:
    found, _ = read(tmp_path, format, [row])
  except UserError as e:
    assert str(tmp_path) in str(e) and '\n' not in str(e)
  else:
    for t in found:
      assert records.from_dict(records.to_dict(t)) == t
