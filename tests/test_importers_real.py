"""Every public file under $PRM_JAX_DATA imports, with the counts its origin states.

Layout of that folder: one directory a data set, as in the tables below.
"""

import functools
import os
from collections import Counter
from pathlib import Path

import pytest
from etils import epath

from prm_jax import jsonl
from prm_jax.formats import answers, exporters, importers
from prm_jax.formats.label_policy import ImportOptions

DATA = os.environ.get('PRM_JAX_DATA', '')

pytestmark = pytest.mark.skipif(
  not DATA, reason='set PRM_JAX_DATA to a folder of public data sets to run these'
)

# (path, format): rows; solutions for mr_ben.
ROWS = {
  ('processbench/gsm8k.json', 'processbench'): 189,
  ('processbench/math.json', 'processbench'): 512,
  ('processbench/olympiadbench.json', 'processbench'): 520,
  ('processbench/omnimath.json', 'processbench'): 473,
  ('prmbench', 'prmbench'): 6216,
  ('mr_gsm8k/mr_gsm8k_partial_wrong_only.jsonl', 'mr_gsm8k'): 277,
  ('mr_ben/math.json.gz', 'mr_ben'): 918,
  ('mr_ben/physics.json.gz', 'mr_ben'): 667,
  ('mr_ben/chemistry.json.gz', 'mr_ben'): 848,
  ('mr_ben/biology.json.gz', 'mr_ben'): 1035,
  ('mr_ben/medicine.json.gz', 'mr_ben'): 828,
  ('mr_ben/coding.json.gz', 'mr_ben'): 238,
  ('bigbench_mistake/dyck_languages.jsonl', 'bigbench_mistake'): 517,
  ('bigbench_mistake/logical_deduction.jsonl', 'bigbench_mistake'): 162,
  ('bigbench_mistake/multistep_arithmetic.jsonl', 'bigbench_mistake'): 148,
  ('bigbench_mistake/tracking_shuffled_objects.jsonl', 'bigbench_mistake'): 137,
  ('bigbench_mistake/word_sorting.jsonl', 'bigbench_mistake'): 148,
  ('verify_cot', 'verify_cot'): 600,
  ('gsm8k/train.jsonl.gz', 'gsm8k'): 7473,
  ('gsm8k/test.jsonl.gz', 'gsm8k'): 1319,
  ('gsm8k/example_model_solutions.jsonl.gz', 'gsm8k_solutions'): 661,
  ('math/math500_test.jsonl', 'math'): 500,
  ('math/math_train_problems_and_answers.json.gz', 'math'): 7500,
  ('math/math_test_with_solutions.jsonl.gz', 'math'): 5000,
  ('math_shepherd/samples.jsonl', 'math_shepherd'): 7,
  ('math_aps/samples.jsonl', 'math_aps'): 3,
  ('prm800k/samples_native_format.jsonl', 'prm800k_native'): 6,
  ('prm800k/phase1_test.stepwise-critic.jsonl.gz', 'prm800k_steps'): 5449,
  ('prm800k/train_subset_trajectories.jsonl.gz', 'prm800k_trajectories'): 1333,
  ('bon_pools/gsm8k_32x500.jsonl.gz', 'bon_pools'): 500,
  ('bon_pools/math500_32x500.jsonl.gz', 'bon_pools'): 500,
}
SEVERAL = {'gsm8k_solutions': 4, 'bon_pools': 32}


def read(path, format, **options):
  where = Path(DATA) / path
  if not where.exists():
    pytest.skip(f'{where} is not there')
  return importers.read(str(where), format, ImportOptions(**options))


@functools.cache
def pool(name):
  return read(f'bon_pools/{name}_32x500.jsonl.gz', 'bon_pools')


def first_errors(trajectories):
  return [t.first_error['human'] for t in trajectories]


@pytest.mark.parametrize(('path', 'format'), ROWS, ids=lambda v: v.replace('/', '-'))
def test_every_row_is_imported(path, format):
  if format == 'bon_pools':
    found, counters = pool(path.split('/')[1].split('_')[0])
  else:
    found, counters = read(path, format)
  assert counters['rows'] == ROWS[path, format]
  assert len({t.id for t in found}) == len(found) == counters['trajectories']
  if not format.startswith(('prm800k_steps', 'prm800k_native', 'math_aps')):
    assert len(found) == counters['rows'] * SEVERAL.get(format, 1)
  name = importers.FORMATS[format].label
  if name:
    weighed = counters['weighted_labels'] + counters['context_labels']
    assert counters['labels'] == weighed
    for t in found:
      at = t.first_error[name]
      assert at is None or -1 <= at < t.n_steps
      values = t.labels[name].values
      if at is not None and format != 'math_aps':
        assert all(v is None or v >= 0.5 for v in values[: at if at >= 0 else None])
        assert at < 0 or values[at] < 0.5


def test_raw_indices_become_0_based():
  for path, format, field in (
    ('mr_gsm8k/mr_gsm8k_partial_wrong_only.jsonl', 'mr_gsm8k', 'model_output_solution'),
    ('mr_ben/math.json.gz', 'mr_ben', 'Model_Solution'),
  ):
    found, _ = read(path, format)
    (raw,) = {
      name
      for name in found[0].meta
      if name.lower() == f'{field}_first_error_step'.lower()
    }
    pairs = [(t.first_error['human'], t.meta[raw]) for t in found]
    assert all(at + 1 == int(index) for at, index in pairs if at >= 0)
  # Shifted by one, the first or the last step would never be wrong.
  for path, format, first, last in (
    ('processbench/gsm8k.json', 'processbench', True, True),
    ('bigbench_mistake/word_sorting.jsonl', 'bigbench_mistake', False, True),
    ('mr_gsm8k/mr_gsm8k_partial_wrong_only.jsonl', 'mr_gsm8k', True, False),
    ('mr_ben/math.json.gz', 'mr_ben', True, True),
    ('prmbench', 'prmbench', True, True),
  ):
    found, _ = read(path, format)
    assert any(t.first_error['human'] == 0 for t in found) == first, format
    ends = (t.first_error['human'] == t.n_steps - 1 for t in found)
    assert any(ends) == last, format


def test_processbench_marks_and_verdicts():
  for split in ('gsm8k', 'math'):
    found, _ = read(f'processbench/{split}.json', 'processbench')
    unflagged = [
      t for t in found if not t.verdicts['source'].value and t.first_error['human'] < 0
    ]
    assert not unflagged  # a wrong answer always has a wrong step


def test_prmbench_has_an_error_in_every_row_but_one_class():
  found, counters = read('prmbench', 'prmbench')
  classes = Counter(
    t.meta['classification'] for t in found if t.first_error['human'] == -1
  )
  assert classes == {'multi_solutions': 165}
  assert counters['index_out_of_range'] == 100


def test_mr_ben_right_and_wrong():
  found, counters = read('mr_ben/math.json.gz', 'mr_ben')
  assert Counter(at >= 0 for at in first_errors(found)) == {True: 769, False: 149}
  assert 'index_out_of_range' not in {k for k, v in counters.items() if v}


def test_verify_cot_flags_half_of_each_file():
  found, _ = read('verify_cot', 'verify_cot')
  assert Counter(first_errors(found)) == {-1: 300, None: 300}


def test_prm800k_phase_1_train_weighs_every_rated_step_once():
  path = 'prm800k/phase1_train_plus.stepwise-critic.jsonl.gz'
  found, counters = read(path, 'prm800k_steps')
  assert counters['rows'] == 51_835
  assert counters['ratings'] == 48_672 and counters['null_ratings'] == 3_163
  pairs = {
    (t.problem_id, t.steps[: i + 1])
    for t in found
    for i, rating in enumerate(t.ratings)
    if rating is not None
  }
  weight = sum(
    w
    for t in found
    for v, w in zip(
      t.labels['human'].values, t.labels['human'].weights or (1.0,) * t.n_steps
    )
    if v is not None
  )
  assert weight == len(pairs) == counters['rated_steps'] == 42_800
  assert counters['weighted_labels'] == 42_800
  assert counters['repeated_ratings'] == 48_672 - 42_800
  assert counters['conflicting_ratings'] == 55
  assert counters['context_labels'] + 42_800 == counters['labels']
  share = counters['both_classes'] / counters['labelled_trajectories']
  assert 0.5 < share < 0.55
  assert f'{share:.1%} of {len(found):,} labelled' in importers.describe(counters)


def test_prm800k_test_and_subset_ratings():
  found, counters = read(
    'prm800k/phase1_test.stepwise-critic.jsonl.gz', 'prm800k_steps', neutral='class'
  )
  assert counters['ratings'] == 2_245 + 867 + 1_970
  same, _ = read(
    'prm800k/phase1_test.stepwise-critic.parquet', 'prm800k_steps', neutral='class'
  )
  assert same == found
  found, counters = read(
    'prm800k/train_subset_trajectories.jsonl.gz', 'prm800k_trajectories'
  )
  ratings = Counter(r for t in found for r in t.ratings)
  assert ratings == {1: 7_544, 0: 594, -1: 1_110}
  assert counters['problems'] == 216
  assert Counter(t.ratings[-1] == -1 for t in found) == {True: 1_110, False: 223}


def test_exports_give_back_what_was_imported(tmp_path):
  found, _ = read('prm800k/train_subset_trajectories.jsonl.gz', 'prm800k_trajectories')
  for format, name in (('trl', 'source'), ('prm800k_trajectories', 'human')):
    path = tmp_path / f'{format}.jsonl'
    assert exporters.write(path, found, format, label='human') == 1_333
    back, _ = importers.read(str(path), format)
    assert [(t.question, t.steps) for t in back] == [
      (t.question, t.steps) for t in found
    ]
    held = [(t.labels[name].values, t.labels[name].weights) for t in back]
    assert held == [
      (t.labels['human'].values, t.labels['human'].weights) for t in found
    ]


def test_exported_math_shepherd_rows_are_those_of_the_source():
  found, _ = read('math_shepherd/samples.jsonl', 'math_shepherd')
  rows = jsonl.iter_json_lines(epath.Path(DATA) / 'math_shepherd/samples.jsonl')
  exported = exporters.EXPORTERS['math_shepherd'](found, 'source')
  assert exported == [row for _, row in rows]


def test_scores_of_public_models_join_their_pools():
  folder = Path(DATA) / 'bon_pools' / 'prm_step_scores'
  for name in ('qwen_prm', 'math_shepherd'):
    file = folder / f'{name}_gsm8k.jsonl.gz'
    if not file.exists():
      pytest.skip(f'{file} is not there')
    scored = importers.attach_scores(pool('gsm8k')[0], str(file), name=name)
    assert len(scored) == 16_000
    assert {t.scores[name].kind for t in scored} == {'probability'}


def test_answers_agree_with_the_regraded_gsm8k_pool():
  judged = Counter(
    (answers.check_trajectory(t, ('boxed', 'last_number')).value, regraded)
    for t in pool('gsm8k')[0]
    if (regraded := t.verdicts['regraded'].value) is not None
  )
  assert judged == {(True, True): 13_929, (False, False): 2_071}


def test_answers_agree_with_the_regraded_math500_pool_where_there_is_a_box():
  judged = Counter(
    (value, t.verdicts['regraded'].value)
    for t in pool('math500')[0]
    if (value := answers.check_trajectory(t, ('boxed',)).value) is not None
    and t.verdicts['regraded'].value is not None
  )
  agreed = judged[True, True] + judged[False, False]
  # The 10 others are 12\text{th} and 12th where 12 is asked, which we call right.
  assert judged[False, True] == 0 and judged[True, False] == 10
  assert agreed / judged.total() > 0.999


def test_gsm8k_model_samples_agree_with_their_source():
  found, _ = read('gsm8k/example_model_solutions.jsonl.gz', 'gsm8k_solutions')
  assert sum(t.verdicts['source'].value for t in found) == 136 + 252 + 223 + 378
  both = Counter(
    (ours, t.verdicts['source'].value)
    for t in found
    if (ours := answers.check_trajectory(t, ('a_line',)).value) is not None
  )
  assert both == {(True, True): 989, (False, False): 1_650}
