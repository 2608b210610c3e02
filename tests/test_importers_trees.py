"""Importers of search trees, on small rows in the exact layouts."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from importing import read, refusal

from prm_jax import records
from prm_jax.formats import importers
from prm_jax.formats.label_policy import ImportOptions

WRAPPED = {
  'question': 'What is 2+3?',
  'final_answer': '5',
  'question_id': 7,
  'reasoning_steps': {
    'text': 'What is 2+3?',
    'mc_value': 0.5,
    'children': [
      {
        'text': 'Add them.',
        'mc_value': 0.25,
        'children': [
          {'text': 'It is 6.', 'mc_value': 0.0, 'children': []},
          {'text': 'It is 5.', 'mc_value': 1.0, 'children': []},
        ],
      },
      {'text': 'Add them', 'mc_value': 1.0, 'children': []},
    ],
  },
}
MM_TREE = {
  'question': 'What is 2+3?',
  'answer': '5',
  'image_path': 'a.png',
  'mc_value': 0.5,
  'visit_count': 1,
  'correct_rollouts': [['So 5.']],
  'incorrect_rollouts': [['Add. ', 'So 6.']],
  'children': [
    {
      'partial_solution': ['Read. ', 'Add.'],
      'mc_value': 0.75,
      'visit_count': 0,
      'correct_rollouts': [['So 5.']],
      'incorrect_rollouts': [['So 6.'], ['So 7.']],
      'children': [
        {
          'partial_solution': ['So 5.'],
          'mc_value': 1.0,
          'visit_count': 0,
          'correct_rollouts': [],
          'incorrect_rollouts': [],
          'children': [],
        }
      ],
    },
    {'partial_solution': ['So 6.'], 'mc_value': 0.0, 'children': []},
  ],
}
MM_ROW = {
  'question': 'What is 2+3?',
  'answer': '5',
  'image_path': 'a.png',
  'process': 'Read.\n\nAdd.<prm>\n\nSo 5.<prm>',
  'labels': [0.75, 1.0],
}
ER = {'text': 'What is 2+3? Step 1: 2+3=5 ки\nStep 2: 5 ки', 'value': [0.62, 1.0]}


def shown(found):
  return [(t.steps, t.labels['source'].values) for t in found]


def test_openr_nested(tmp_path):
  found, counters = read(tmp_path, 'openr_tree', [WRAPPED])
  assert shown(found) == [
    (('Add them.', 'It is 6.'), (0.25, 0.0)),
    (('Add them.', 'It is 5.'), (0.25, 1.0)),
    (('Add them',), (1.0,)),
  ]
  assert {t.question for t in found} == {'What is 2+3?'}
  assert found[0].gold_answer == '5' and found[0].separator == '\n\n'
  assert found[0].meta == {'question_id': 7, 'question_value': 0.5}
  assert found[0].labels['source'].kind == 'value'
  assert found[1].labels['source'].weights == (0.0, 1.0)
  assert counters['distinct_labels'] == 4 and counters['context_labels'] == 1


def test_openr_one_file_a_question(tmp_path):
  found, _ = read(tmp_path, 'openr_tree', WRAPPED, 'question_7.json')
  assert len(found) == 3


def test_openr_bare(tmp_path):
  root = {**WRAPPED['reasoning_steps'], 'text': ' What is 2+3?\n'}
  found, _ = read(tmp_path, 'openr_node', root, 'tree.json')
  wrapped, _ = read(tmp_path, 'openr_tree', [WRAPPED])
  assert shown(found) == shown(wrapped)
  assert found[0].question == 'What is 2+3?' and found[0].gold_answer is None


FLAT = [
  {'solution_prefix': 'Q?', 'mc_value': 0.5},
  {'solution_prefix': 'Q?\n\nA.', 'mc_value': 0.25},
  {'solution_prefix': 'Q?\n\nA.\n\nB.', 'mc_value': 0.0},
]


def test_openr_flat_in_all_its_wrappings(tmp_path):
  expected = [(('A.', 'B.'), (0.25, 0.0))]
  row = {'question': 'Q?', 'final_answer': '5', 'reasoning_steps': FLAT}
  for format in ('openr_tree', 'math_aps'):
    assert shown(read(tmp_path, format, [row])[0]) == expected
  found, _ = read(tmp_path, 'openr_prefixes', FLAT, 'all.json')
  assert shown(found) == expected and found[0].meta['question_value'] == 0.5
  two = [*FLAT, *({**x, 'solution_prefix': 'P' + x['solution_prefix']} for x in FLAT)]
  found, _ = read(tmp_path, 'openr_prefixes', two)
  assert shown(found) == expected * 2
  assert [t.question for t in found] == ['Q?', 'PQ?']
  assert len({t.id for t in found}) == 2


def test_openr_v1(tmp_path):
  rows = [
    {'question': 'Q?', 'partial_answer': 'Add two', 'mc_score': 0.6},
    {'question': 'Q?', 'partial_answer': 'Add two and three', 'mc_score': 0.2},
    {'question': 'Q?', 'partial_answer': 'Guess', 'mc_score': 0.0},
    {'question': 'R?', 'partial_answer': 'Add', 'mc_score': 1.0},
  ]
  found, counters = read(tmp_path, 'openr_partial', rows)
  assert shown(found) == [
    (('Add two', 'and three'), (0.6, 0.2)),
    (('Guess',), (0.0,)),
    (('Add',), (1.0,)),
  ]
  assert [t.question for t in found] == ['Q?', 'Q?', 'R?']
  assert found[0].separator == ' ' and counters['problems'] == 2


def test_mm_prm_tree(tmp_path):
  found, counters = read(tmp_path, 'mm_prm_tree', [MM_TREE])
  assert shown(found) == [
    (('Read.', 'Add.', 'So 5.'), (None, 0.75, 1.0)),
    (('So 6.',), (0.0,)),
  ]
  assert found[0].gold_answer == '5'
  assert found[0].meta == {'image_path': 'a.png', 'question_value': 0.5}
  assert [t.first_error['source'] for t in found] == [None, 0]
  assert counters['wrong_rollouts_left_out'] == 2


def test_mm_prm_rows(tmp_path):
  (t,), _ = read(tmp_path, 'mm_prm_rows', [MM_ROW])
  assert t.steps == ('Read.\n\nAdd.', 'So 5.')
  assert t.labels['source'].values == (0.75, 1.0)
  assert t.meta == {'image_path': 'a.png'} and t.separator == '\n\n'


def test_er_prm(tmp_path):
  (t,), counters = read(tmp_path, 'er_prm', [ER], 'data.json')
  assert (t.question, t.steps) == ('What is 2+3?', ('Step 1: 2+3=5', 'Step 2: 5'))
  held = t.labels['source']
  assert (held.kind, held.values) == ('entropic', (0.62, 1.0))
  assert 'last_step_without_marker' not in counters
  cut = {**ER, 'text': ER['text'].removesuffix(' ки')}
  (same,), counters = read(tmp_path, 'er_prm', [cut])
  assert same.labels == t.labels and counters['last_step_without_marker'] == 1


@pytest.mark.parametrize(
  'format, row, match',
  [
    ('er_prm', {**ER, 'value': [1.0]}, "field 'value' has 1 values for 2 steps"),
    ('er_prm', {**ER, 'value': [1.5, 1]}, "field 'value[0]' is 1.5"),
    ('er_prm', {**ER, 'value': [None, 1]}, "field 'value' is None"),
    ('mm_prm_rows', {**MM_ROW, 'labels': [1]}, "field 'labels' has 1 labels for 2"),
    ('mm_prm_rows', {**MM_ROW, 'process': 'a<prm>b'}, "field 'process' is 'b'"),
    ('mm_prm_tree', {**MM_TREE, 'children': {}}, "field 'children' is {}"),
    (
      'mm_prm_tree',
      {**MM_TREE, 'children': [{'partial_solution': 'x', 'mc_value': 1}]},
      "field 'children[0].partial_solution' is 'x'",
    ),
    (
      'mm_prm_tree',
      {**MM_TREE, 'children': [{**MM_TREE['children'][0], 'incorrect_rollouts': 5}]},
      "field 'children[0].incorrect_rollouts' is 5",
    ),
    (
      'openr_tree',
      {**WRAPPED, 'reasoning_steps': {'children': [{'text': 'x', 'mc_value': 2}]}},
      "field 'reasoning_steps.children[0].mc_value' is 2",
    ),
    ('openr_tree', {**WRAPPED, 'reasoning_steps': 3}, "field 'reasoning_steps' is 3"),
    ('openr_node', {'text': 3, 'mc_value': 1, 'children': []}, "field 'text' is 3"),
    ('openr_prefixes', {'solution_prefix': 'x', 'mc_value': 'y'}, "'mc_value' is 'y'"),
  ],
)
def test_refusals(tmp_path, format, row, match):
  assert match in refusal(tmp_path, format, row)


def test_files_are_recognised():
  rows = {'openr_node': WRAPPED['reasoning_steps'], 'mm_prm_tree': MM_TREE}
  rows |= {'mm_prm_rows': MM_ROW, 'er_prm': ER, 'openr_prefixes': FLAT[0]}
  for format, row in rows.items():
    assert importers.look_like(row) == format
  assert importers.look_like({'x': 1}) == ''


nodes = st.deferred(
  lambda: st.fixed_dictionaries(
    {
      'partial_solution': st.lists(st.text(max_size=3), min_size=1, max_size=2),
      'mc_value': st.none() | st.floats(0, 1),
      'children': st.lists(nodes, max_size=2),
    }
  )
)


def n_leaves(node):
  return sum(map(n_leaves, node['children'])) if node['children'] else 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(nodes, min_size=1, max_size=3))
def test_every_leaf_is_a_trajectory(tmp_path, children):
  path = tmp_path / 'trees.json'
  path.write_text(json.dumps([{**MM_TREE, 'children': children}]))
  found, _ = importers.read(str(path), 'mm_prm_tree', ImportOptions())
  assert len(found) == sum(map(n_leaves, children))
  assert len({t.id for t in found}) == len(found)
  for t in found:
    assert records.from_dict(json.loads(json.dumps(records.to_dict(t)))) == t


def chain(depth):
  node = {'text': 'end', 'mc_value': 1.0, 'children': []}
  for _ in range(depth):
    node = {'text': 'step', 'mc_value': 0.5, 'children': [node]}
  return node


def test_deep_trees(tmp_path):
  """A JSON value may be 256 levels deep, which is a tree of 127."""
  (t,), _ = read(tmp_path, 'openr_node', [chain(120)])
  assert t.n_steps == 120
  assert 'nested more than 256 levels' in refusal(tmp_path, 'openr_node', chain(140))
