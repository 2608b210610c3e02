"""Importers of evaluation sets, of pools with scores, and of problems."""

import json

import pytest
from importing import read, refusal

from prm_jax.errors import UserError
from prm_jax.formats import importers
from prm_jax.records import make_problem_id

PROCESSBENCH = {
  'id': 'x-1',
  'generator': 'some-model',
  'problem': 'Q?',
  'steps': ['a', 'b', 'c'],
  'final_answer_correct': False,
  'label': 1,
}
MR_GSM8K = {
  'uuid': 'u',
  'question': 'Q?',
  'ground_truth_answer': 5,
  'model_output_steps': ['a', 'b', 'c'],
  'model_output_answer_correctness': 'wrong',
  'model_output_solution_correctness': 'wrong',
  'model_output_solution_first_error_step': 2,
}
MR_BEN = {
  'Question_UUID': 'u',
  'Question': 'Q?',
  'Options': 'A: 1, B: 2',
  'Ground_Truth_Answer': 'B',
  'Sampled_Model': 'some-model',
  'Model_Solution_Steps': ['a', 'b', 'c'],
  'Model_Solution_Correctness': 'incorrect',
  'Model_Solution_First_Error_Step': '2',
}
BIGBENCH = {
  'input': 'Q?',
  'steps': ['a', 'b', 'c'],
  'target': 'x',
  'answer': 'y',
  'mistake_index': 1,
}
PRMBENCH = {
  'question': 'Q?',
  'modified_question': 'Q!',
  'modified_process': ['a', 'b', 'c'],
  'error_steps': [2, 3],
  'classification': 'circular',
  'idx': 7,
}
VERIFY = {
  'question': 'Q?',
  'answer': 'First\n#1. a\n\n#2. (by #1) b',
  'final_answer': '5',
  'correct': True,
  'flag': 1,
}


@pytest.mark.parametrize(
  ('format', 'row', 'field', 'none'),
  [
    ('processbench', PROCESSBENCH, 'label', {'label': -1}),
    ('bigbench_mistake', BIGBENCH, 'mistake_index', {'mistake_index': None}),
    (
      'mr_gsm8k',
      MR_GSM8K,
      'model_output_solution_first_error_step',
      {
        'model_output_solution_correctness': 'correct',
        'model_output_solution_first_error_step': 'N/A',
      },
    ),
    (
      'mr_ben',
      MR_BEN,
      'Model_Solution_First_Error_Step',
      {
        'Model_Solution_Correctness': 'correct',
        'Model_Solution_First_Error_Step': 'N/A',
      },
    ),
  ],
)
def test_first_errors_are_0_based_and_say_no_more(tmp_path, format, row, field, none):
  first = {'processbench': 0, 'bigbench_mistake': 0}.get(format, 1)
  kind = str if format == 'mr_ben' else int
  rows = [{**row, field: kind(first + at)} for at in range(3)] + [{**row, **none}]
  found, _ = read(tmp_path, format, rows)
  assert [t.first_error['human'] for t in found] == [0, 1, 2, -1]
  assert [t.labels['human'].values for t in found] == [
    (0.0, None, None),
    (1.0, 0.0, None),
    (1.0, 1.0, 0.0),
    (1.0, 1.0, 1.0),
  ]


def test_prmbench_is_1_based_and_labels_every_step(tmp_path):
  (t,), _ = read(tmp_path, 'prmbench', [PRMBENCH])
  assert (t.question, t.steps) == ('Q!', ('a', 'b', 'c'))
  assert t.labels['human'].values == (1.0, 0.0, 0.0)
  assert t.first_error == {'human': 1}
  (t,), _ = read(tmp_path, 'prmbench', [{**PRMBENCH, 'error_steps': []}])
  assert t.first_error == {'human': -1}


def test_prmbench_rows_of_one_problem_share_it(tmp_path):
  rows = [
    PRMBENCH,
    {**PRMBENCH, 'modified_question': 'Q??', 'classification': 'redundency'},
  ]
  found, counters = read(tmp_path, 'prmbench', rows)
  assert counters['problems'] == 1 and len({t.id for t in found}) == 2
  assert found[0].problem_id == make_problem_id('Q?')


def test_prmbench_steps_lose_their_own_number_alone(tmp_path):
  steps = ['1. a', ' 2. b', '3.5 kg', '3. c', '12. d']
  row = {**PRMBENCH, 'modified_process': steps}
  (t,), counters = read(tmp_path, 'prmbench', [row])
  assert t.steps == ('a', 'b', '3.5 kg', '3. c', '12. d')
  assert counters['step_numbers_taken_off'] == 2


def test_prmbench_originals_are_those_of_one_class(tmp_path):
  row = {**PRMBENCH, 'original_question': 'Q', 'original_process': ['1. x', '2. y']}
  rows = [row, {**row, 'classification': 'redundency'}]
  (t,), counters = read(tmp_path, 'prmbench_originals', rows)
  assert (t.question, t.steps, t.meta['idx']) == ('Q', ('x', 'y'), 7)
  assert t.first_error == {'human': -1}
  assert t.problem_id == make_problem_id('Q?')
  assert counters['rows_of_other_classes'] == 1


def test_fields_beyond_steps(tmp_path):
  (t,), _ = read(tmp_path, 'processbench', [PROCESSBENCH])
  assert t.generator == 'some-model' and t.verdicts['source'].value is False
  assert t.meta == {'id': 'x-1'}
  (t,), _ = read(tmp_path, 'bigbench_mistake', [BIGBENCH])
  assert (t.gold_answer, t.answer) == ('x', 'y')
  assert t.verdicts['source'].value is False
  (t,), _ = read(tmp_path, 'mr_gsm8k', [MR_GSM8K])
  assert t.gold_answer == '5' and t.verdicts['source'].value is False
  (t,), _ = read(tmp_path, 'mr_ben', [MR_BEN])
  assert t.question == 'Q?\nA: 1, B: 2' and t.gold_answer == 'B'


def test_mr_ben_groups_solutions_under_their_question(tmp_path):
  found, counters = read(
    tmp_path, 'mr_ben', {'u': [MR_BEN, MR_BEN], 'v': [MR_BEN]}, name='a.json'
  )
  assert len(found) == counters['rows'] == 3 and counters['problems'] == 1


def test_mr_ben_code_names_the_wrong_line_by_its_text(tmp_path):
  row = {**MR_BEN, 'Model_Solution_Steps': 'x = 1\nif y:\n  x = 1\nend'}
  lines = ['if y:', '  x = 1', 'x = 2', '']
  rows = [{**row, 'Model_Solution_First_Error_Step': line} for line in lines]
  found, counters = read(tmp_path, 'mr_ben', rows)
  assert [t.first_error['human'] for t in found] == [1, None, None, None]
  assert counters['error_line_not_unique'] == 3


def test_verify_cot_flags_whole_chains(tmp_path):
  found, _ = read(tmp_path, 'verify_cot', [VERIFY, {**VERIFY, 'flag': 0}])
  assert found[0].steps == ('First\n#1. a', '#2. (by #1) b')
  assert [t.first_error['human'] for t in found] == [-1, None]
  assert found[1].labels['human'].values == (None, None)
  (t,), _ = read(tmp_path, 'verify_cot', [{**VERIFY, 'choices': ['1', '2']}])
  assert t.question == 'Q?\n(A) 1\n(B) 2'


@pytest.mark.parametrize(
  ('format', 'row', 'message'),
  [
    (
      'processbench',
      {**PROCESSBENCH, 'label': 3},
      "field 'label' is 3; processbench counts steps from 0 and the solution has 3, so "
      "it must be from 0 to 2 (correct the row, or set bad_index='unknown' to read it "
      'without labels).',
    ),
    (
      'processbench',
      {**PROCESSBENCH, 'label': '1'},
      "field 'label' is '1'; it must be a whole number.",
    ),
    (
      'processbench',
      {**PROCESSBENCH, 'final_answer_correct': 'yes'},
      "field 'final_answer_correct' is 'yes'; it must be true or false.",
    ),
    (
      'mr_gsm8k',
      {**MR_GSM8K, 'model_output_solution_first_error_step': 0},
      "field 'model_output_solution_first_error_step' is 0; mr_gsm8k counts steps from "
      '1 and the solution has 3, so it must be from 1 to 3 (correct the row, or set '
      "bad_index='unknown' to read it without labels).",
    ),
    (
      'mr_gsm8k',
      {**MR_GSM8K, 'model_output_solution_correctness': 'maybe'},
      "field 'model_output_solution_correctness' is 'maybe'; it must be 'correct' or "
      "'wrong'.",
    ),
    (
      'bigbench_mistake',
      {**BIGBENCH, 'mistake_index': -1},
      "field 'mistake_index' is -1; bigbench_mistake counts steps from 0 and the "
      'solution has 3, so it must be from 0 to 2 (correct the row, or set '
      "bad_index='unknown' to read it without labels).",
    ),
    (
      'prmbench',
      {**PRMBENCH, 'error_steps': 2},
      "field 'error_steps' is 2; it must be a list.",
    ),
    ('verify_cot', {**VERIFY, 'flag': 2}, "field 'flag' is 2; it must be 0 or 1."),
    (
      'gsm8k',
      {'question': 'Q?', 'answer': '5'},
      "field 'answer' has no line '#### ANSWER'; check that the file is GSM8K.",
    ),
    (
      'math',
      {'problem': 'Q?', 'solution': 'It is 5.'},
      "no reference answer: neither field 'answer' nor 'final_answer', and no "
      "\\boxed{...} in 'solution'; add one.",
    ),
  ],
)
def test_malformed_rows(tmp_path, format, row, message):
  assert refusal(tmp_path, format, row) == message


@pytest.mark.parametrize(
  ('format', 'row'),
  [
    ('prmbench', {**PRMBENCH, 'error_steps': [1, 4]}),
    ('prmbench', {**PRMBENCH, 'error_steps': [0]}),
    ('mr_ben', {**MR_BEN, 'Model_Solution_First_Error_Step': '4'}),
  ],
)
def test_known_bad_indices_lose_their_labels_and_are_counted(tmp_path, format, row):
  (t,), counters = read(tmp_path, format, [row])
  assert t.first_error == {'human': None}
  assert t.labels['human'].values == (None, None, None)
  assert counters['index_out_of_range'] == 1 and counters['labelled_trajectories'] == 0
  assert 'counts steps from 1' in refusal(tmp_path, format, row, bad_index='error')


def test_a_bad_index_can_be_read_as_unknown(tmp_path):
  row = {**PROCESSBENCH, 'label': 9}
  (t,), counters = read(tmp_path, 'processbench', [row], bad_index='unknown')
  assert t.first_error == {'human': None} and counters['index_out_of_range'] == 1


def test_problems(tmp_path):
  row = {'question': 'Q?', 'answer': 'a <<2+3=5>>\n#### 1,005'}
  (t,), counters = read(tmp_path, 'gsm8k', [row])
  assert (t.n_steps, t.gold_answer) == (0, '1,005') and counters['without_steps'] == 1
  rows = [
    {'problem': 'Q?', 'answer': '5', 'unique_id': 'u'},
    {'problem': 'R?', 'final_answer': 6},
    {'problem': 'S?', 'solution': r'so \boxed{\frac{1}{2}}'},
  ]
  found, _ = read(tmp_path, 'math', rows)
  assert [t.gold_answer for t in found] == ['5', '6', r'\frac{1}{2}']


def test_gsm8k_model_samples(tmp_path):
  sample = {'solution': 'a\n\nb\nA: 5', 'is_correct': True}
  row = {'question': 'Q?', 'ground_truth': 'c\nA: 5', '6b_finetuning': sample}
  (t,), _ = read(tmp_path, 'gsm8k_solutions', [row])
  assert t.steps == ('a', 'b', 'A: 5')
  assert [t.response[a:b] for a, b in t.step_spans] == list(t.steps)
  assert (t.answer, t.gold_answer) == ('5', '5')
  assert t.verdicts['source'].value is True


def candidate(*steps, correct=True):
  return {
    'response': '\n'.join(steps),
    'steps': list(steps),
    'extracted_answer': '0',
    'is_correct_source': False,
    'is_correct_regraded': correct,
  }


POOL = {
  'problem_id': 'p',
  'question': 'Q?',
  'gold_answer': '5',
  'temperature': 0.8,
  'candidates': [candidate('a', r'\boxed{5}'), candidate('6', correct=None)],
}


def scores(index, values, **more):
  row = {'prm_name': 'prm', 'problem_id': 'p', 'candidate_index': index}
  return {**row, 'step_scores': values, 'n_steps': len(values), **more}


def attach(tmp_path, rows, **options):
  found, _ = read(tmp_path, 'bon_pools', [POOL])
  path = tmp_path / 'scores.jsonl'
  path.write_text('\n'.join(map(json.dumps, rows)))
  return importers.attach_scores(found, str(path), **options)


def test_pools(tmp_path):
  found, counters = read(tmp_path, 'bon_pools', [POOL])
  assert [t.steps for t in found] == [('a', r'\boxed{5}'), ('6',)]
  assert [t.sample_index for t in found] == [0, 1]
  assert {t.problem_id for t in found} == {'p'}
  assert [t.answer for t in found] == ['5', '6']
  assert [t.verdicts['regraded'].value for t in found] == [True, None]
  assert [t.verdicts['source'].value for t in found] == [False, False]
  assert found[0].sampling == {'temperature': 0.8}
  assert found[0].step_spans == ((0, 1), (2, 11))
  assert counters['rows'] == 1 and counters['trajectories'] == 2
  bad = {**POOL, 'candidates': [{**POOL['candidates'][0], 'is_correct_source': 1}]}
  assert refusal(tmp_path, 'bon_pools', bad) == (
    "field 'candidates[0].is_correct_source' is 1; it must be true, false or null."
  )


def test_scores_join_their_pool_in_any_order(tmp_path):
  out = attach(tmp_path, [scores(1, [0.5]), scores(0, [0.25, 1])])
  assert [t.scores['prm'].values for t in out] == [(0.25, 1.0), (0.5,)]
  assert out[0].scores['prm'].kind == 'probability'
  out = attach(tmp_path, [scores(1, [5]), scores(0, [0.25, -1])], name='other')
  assert [t.scores['other'].kind for t in out] == ['logit', 'logit']


@pytest.mark.parametrize(
  ('rows', 'message'),
  [
    (
      [scores(0, [1, 1])],
      "no scores for problem 'p', candidate 1; score file and pool do not belong "
      'together.',
    ),
    (
      [scores(0, [1]), scores(1, [1])],
      "field 'step_scores' has 1 scores for 2 steps; score file and pool do not belong "
      'together.',
    ),
    (
      [scores(0, [1, 1]), scores(1, [1]), scores(2, [1])],
      "problem 'p', candidate 2 is not in the pool; score file and pool do not belong "
      'together.',
    ),
    (
      [scores(0, [1, 1]), scores(0, [1, 1])],
      "problem 'p', candidate 0 has scores already; there must be one row a candidate.",
    ),
    (
      [scores(0, [1, 1], n_steps=3)],
      "field 'n_steps' is 3; it must be the number of step_scores, 2.",
    ),
    (
      [scores(0, [1, 'x'])],
      "field 'step_scores[1]' is 'x'; it must be a finite number.",
    ),
  ],
)
def test_scores_that_do_not_fit_are_refused(tmp_path, rows, message):
  with pytest.raises(UserError) as e:
    attach(tmp_path, rows)
  assert str(e.value).startswith(f'{tmp_path}/scores.jsonl')
  assert str(e.value).endswith(f': {message}')
