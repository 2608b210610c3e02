"""configs/evaluate.py:suite: benchmark files, saved scores, one table."""

import gzip
import json
import subprocess
import sys

import pytest
import tiny_runs
from test_public_prms import make
from tiny_runs import ROOT, refusal, run

from prm_jax import records
from prm_jax.errors import UserError
from prm_jax.formats import importers
from prm_jax.jobs import score
from prm_jax.records import ScoreSet

SUITE = f'{ROOT / "configs" / "evaluate.py"}:suite'

PROCESS_BENCH = [
  {
    'id': f'gsm8k-{i}',
    'generator': 'someone',
    'problem': f'What is {i} + 1?',
    'steps': [f'{i} + 1', f'= {i + 1}', 'so'],
    'final_answer_correct': label < 1,
    'label': label,
  }
  for i, label in enumerate([-1, 0, 1, 2, -1, 1])
]
PRMBENCH = [
  {
    'question': f'What is {i} - 1?',
    'original_question': f'What is {i} less 1?',
    'modified_question': f'What is {i} minus 1?',
    'original_process': ['1. first', '2. then'],
    'modified_process': ['1. first', '2. wrong', 'then'],
    'modified_steps': [2],
    'error_steps': [2],
    'reason': '',
    'idx': f'x_{i}',
    'classification': kind,
  }
  for kind in ('circular', 'redundency')
  for i in range(3)
]


@pytest.fixture
def data(tmp_path, monkeypatch):
  """A data folder with two benchmarks in the layout of the public files."""
  folder = tmp_path / 'data'
  (folder / 'processbench').mkdir(parents=True)
  (folder / 'processbench' / 'gsm8k.json').write_text(json.dumps(PROCESS_BENCH))
  (folder / 'prmbench').mkdir()
  lines = ''.join(json.dumps(row) + '\n' for row in PRMBENCH)
  with gzip.open(folder / 'prmbench' / 'rows.jsonl.gz', 'wt') as f:
    f.write(lines)
  monkeypatch.setenv('PRM_JAX_DATA', str(folder))
  return folder


def suite(workdir, **overrides):
  keys = {'evaluate__resamples': 20, 'report': False, **overrides}
  return tiny_runs.arguments(workdir, SUITE, {}, **keys)


def saved(data, path, change=None, score=0.4):
  """Saved scores of all rows of the folder, as lean rows; `change` edits the list."""
  rows = []
  for name, format in (('processbench/gsm8k.json', 'processbench'), ('prmbench',) * 2):
    for t in importers.read(str(data / name), format)[0]:
      values = [0.9, score, 0.8][: t.n_steps]
      rows.append(
        {'id': t.id, 'scores': {'prm': {'kind': 'probability', 'values': values}}}
      )
  change and change(rows)
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return path


def test_saved_scores_give_one_table_and_versioned_results(data, tmp_path, capsys):
  scores = saved(data, tmp_path / 'scores.jsonl')
  work = tmp_path / 'work'
  assert run(suite(work, score_files=scores, report=True)) == 0
  table = capsys.readouterr().out
  written = (work / 'table.md').read_text()
  assert written.startswith(table) and '\n- Left out' in written
  assert '|process_bench[6 of 3400]' in table and '|prmbench[6 of 6216]' in table
  results = json.loads((work / 'results.json').read_text())
  metrics = results['metrics']
  # Step 1 is called wrong everywhere: 2 of 4 wrong rows have their error there.
  path = 'process_bench[6 of 3400]/gsm8k[6 of 400]/accuracy_error@fixed:0.5'
  assert metrics[path]['value'] == 2 / 4
  assert metrics['prmbench[6 of 6216]/overall/prmscore@fixed:0.5']['value'] == 1
  told = results['benchmarks']['prmbench']
  assert told['version'] == 1 and 'PRMScore = 0.5 F1' in told['definition']
  about = results['provenance']
  assert about['thresholds'] == ['fixed:0.5'] and about['seed'] == 0
  assert about['scorer'] == {'name': 'prm'} and about['git_revision']
  assert {name.rsplit('/', 1)[1] for name in about['data']} == {
    'gsm8k.json', 'rows.jsonl.gz', 'scores.jsonl',
  }  # fmt: skip
  assert all(len(digest) == 64 for digest in about['data'].values())
  assert results['config']['score_files'] == str(scores)
  assert any('prmbench.originals' in w for w in results['warnings'])
  with gzip.open(work / 'samples' / 'prmbench.jsonl.gz', 'rt') as f:
    row = json.loads(f.readline())
  assert row['evaluation']['predicted_wrong_steps'] == [1]
  assert row['steps'] == ['first', 'wrong', 'then']  # numbers are taken off
  page = (work / 'report.html').read_text()
  assert 'prmbench[6 of 6216]' in page and 'micro over steps' in page


def test_a_scorer_scores_every_benchmark_that_is_found(data, tmp_path, capsys):
  work = tmp_path / 'work'
  prm = make(tmp_path / 'trl', 'qwen2_token_cls')
  keys = {'scorer': prm, 'scorer_adapter': 'trl', 'evaluate__suite': 'prmbench'}
  assert run(suite(work, **keys)) == 0
  results = json.loads((work / 'results.json').read_text())
  assert results['provenance']['scorer']['adapter'] == 'trl'
  assert results['provenance']['model_hash']
  assert set(results['benchmarks']) == {'prmbench'}
  assert 'prmbench[6 of 6216]/overall/similarity@fixed:0.5' in results['metrics']
  # Its samples are saved scores: the numbers come back without the model.
  again = {'score_files': work / 'samples', 'evaluate__suite': 'prmbench'}
  assert run(suite(tmp_path / 'again', **again)) == 0
  path = 'prmbench[6 of 6216]/overall/prmscore@fixed:0.5'
  held = json.loads((tmp_path / 'again' / 'results.json').read_text())['metrics']
  assert held[path] == results['metrics'][path]
  capsys.readouterr()


def lengthen(data, name, which):
  """A set of ProcessBench rows, some of them longer than any scorer reads."""
  rows = [
    {**row, 'id': f'{name}-{i}', 'problem': 'What is 1 + 1? ' * (9000 * (i in which))}
    for i, row in enumerate(PROCESS_BENCH)
  ]
  (data / 'processbench' / f'{name}.json').write_text(json.dumps(rows))


def test_rows_that_cannot_be_scored_are_told_of(data, tmp_path, capsys):
  lengthen(data, 'olympiadbench', range(4))
  lengthen(data, 'omnimath', range(6))
  work = tmp_path / 'work'
  prm = make(tmp_path / 'trl', 'qwen2_token_cls')
  keys = {'scorer': prm, 'scorer_adapter': 'trl', 'evaluate__suite': 'process_bench'}
  assert run(suite(work, report=True, **keys)) == 0
  said = capsys.readouterr().err
  some = (
    'process_bench.olympiadbench: 4 of 6 rows could not be scored (4 too_long) and '
    'count as wrong.'
  )
  none = (
    'process_bench.omnimath: none of 6 rows could be scored (6 too_long); left out.'
  )
  for sentence in (some, none):
    assert f'warning: {sentence}' in said
    assert f'- {sentence}\n' in (work / 'table.md').read_text()
    assert sentence in (work / 'report.html').read_text()
  assert 'scored 2 of 6 rows of process_bench.olympiadbench' in said
  assert 'scored 0 of 6 rows of process_bench.omnimath' in said
  results = json.loads((work / 'results.json').read_text())
  assert results['warnings'][:2] == [some, none]
  assert results['benchmarks']['process_bench']['rows'] == 12
  counters = results['counters']
  assert counters['process_bench.omnimath/left_out_without_scores'] == 6
  assert counters['process_bench.omnimath/not_scored/too_long'] == 6
  # No threshold comes from a set that has no scores, or is not measured at all.
  keys['evaluate__threshold'] = 'fixed:0.5,tuned:process_bench.omnimath'
  said = refusal(suite(tmp_path / 'tuned', **keys), capsys)
  assert said == (
    'evaluate.threshold=tuned:process_bench.omnimath: process_bench.omnimath: none of '
    '6 rows could be scored (6 too_long), so no threshold can be tuned on it; take one '
    'of process_bench.gsm8k, process_bench.olympiadbench, or fixed:NUMBER.'
  )
  keys['evaluate__threshold'] = 'tuned:process_bench.math'
  said = refusal(suite(tmp_path / 'absent', **keys), capsys)
  assert "the set 'process_bench.math' is not among those that are measured" in said
  assert not (tmp_path / 'absent' / 'chunks').exists()
  del keys['evaluate__threshold']
  lengthen(data, 'gsm8k', range(6))
  lengthen(data, 'olympiadbench', range(6))
  said = refusal(suite(tmp_path / 'other', **keys), capsys)
  assert said.startswith('no benchmark row could be scored. process_bench.gsm8k: none')


def test_the_same_command_takes_a_stopped_suite_up(data, tmp_path, monkeypatch):
  prm = make(tmp_path / 'trl', 'qwen2_token_cls')
  keys = {'scorer': prm, 'scorer_adapter': 'trl', 'chunk__size': 2}
  assert run(suite(tmp_path / 'straight', **keys)) == 0
  add_scores, seen = score.add_scores, []

  def stopped(scorer, rows, name, *, quiet=False):
    if len(seen) == 2:
      raise UserError('the machine is taken away.')
    seen.append(rows)
    return add_scores(scorer, rows, name, quiet=quiet)

  monkeypatch.setattr(score, 'add_scores', stopped)
  assert run(suite(tmp_path / 'work', **keys)) == 2
  seen.append(None)
  assert run(suite(tmp_path / 'work', **keys)) == 0
  assert len(seen) == 2 + 1 + 6
  a, b = (
    json.loads((tmp_path / name / 'results.json').read_text())
    for name in ('straight', 'work')
  )
  assert (a['metrics'], a['counters']) == (b['metrics'], b['counters'])


def test_a_partial_set_carries_its_counts(data, tmp_path, capsys):
  scores = saved(data, tmp_path / 'scores.jsonl')
  keys = {'data__limit': 4, 'evaluate__suite': 'process_bench'}
  assert run(suite(tmp_path / 'work', score_files=scores, **keys)) == 0
  assert 'process_bench[4 of 3400]' in capsys.readouterr().out
  results = json.loads((tmp_path / 'work' / 'results.json').read_text())
  counters = results['counters']
  assert counters['score_files/rows_of_no_benchmark'] == 8
  read = {k: counters[f'process_bench.gsm8k/read/{k}'] for k in ('rows', 'steps')}
  assert read == {'rows': 6, 'steps': 12}
  assert counters['process_bench.gsm8k/read/trajectories'] == 4
  assert counters['process_bench.gsm8k/read/left_out_by_limit'] == 2


def drop_score(rows):
  rows[0]['scores']['prm']['values'].pop()


def repeat(rows):
  rows.append(rows[0])


def lose(rows):
  del rows[1]


def poison(rows):
  rows[0]['scores']['prm']['values'][0] = float('nan')


def exceed(rows):
  rows[0]['scores']['prm']['values'][0] = 1.5


def rename(rows):
  for row in rows:
    row['scores']['other'] = row['scores'].pop('prm')


def swap_steps(rows):
  rows[0]['steps'] = ['of', 'another', 'solution', 'altogether']


def forget_id(rows):
  del rows[0]['id']


@pytest.mark.parametrize(
  ('change', 'expected'),
  [
    (drop_score, ('scores.jsonl:1', '2 scores for 3 steps')),
    (repeat, ('scores.jsonl:13', 'has a row already', 'scores.jsonl:1')),
    (lose, ('process_bench.gsm8k', '5 of its 6 rows', 'missing')),
    (poison, ('scores.jsonl:1', 'NaN')),
    (exceed, ('scores.jsonl:1', '1.5')),
    (rename, ("'prm'", 'other', '12 rows')),
    (swap_steps, ('scores.jsonl:1', '4 steps', 'not the 3')),
    (forget_id, ('scores.jsonl:1', "'id'")),
  ],
)
def test_score_files_that_do_not_fit_are_refused(
  change, expected, data, tmp_path, capsys
):
  scores = saved(data, tmp_path / 'scores.jsonl', change)
  said = refusal(suite(tmp_path / 'work', score_files=scores), capsys)
  for part in expected:
    assert part in said, said
  assert not (tmp_path / 'work' / 'results.json').exists()


@pytest.mark.parametrize(
  ('overrides', 'expected'),
  [
    ({'evaluate__suite': 'processbench'}, ("'processbench'", 'process_bench')),
    ({'evaluate__suite': 'mr_ben'}, ('no file', 'mr_ben/math.json.gz')),
    ({'data__evaluate': 'x=processbench/gsm8k.json:processbench'}, ("'x'",)),
    ({'evaluate__threshold': 'best'}, ("'best'", 'tuned:BENCHMARK.SET')),
    ({'evaluate__threshold': 'tuned:process_bench.math'}, ('process_bench.math',)),
    ({'score_files': 'gsm8k:prm=x.jsonl'}, ('x.jsonl',)),
    ({'score_files': ''}, ("'prm'", 'name a scorer')),
  ],
)
def test_suite_refusals(overrides, expected, data, tmp_path, capsys):
  keys = {'score_files': saved(data, tmp_path / 'scores.jsonl'), **overrides}
  said = refusal(suite(tmp_path / 'work', **keys), capsys)
  for part in expected:
    assert part in said, said


def test_a_label_out_of_range_names_its_row(data, tmp_path, capsys):
  rows = [*PROCESS_BENCH[:2], {**PROCESS_BENCH[2], 'label': 3}]
  (data / 'processbench' / 'gsm8k.json').write_text(json.dumps(rows))
  scores = tmp_path / 'scores.jsonl'
  scores.write_text('{"id": "x", "scores": {}}\n')
  said = refusal(suite(tmp_path / 'other', score_files=scores), capsys)
  assert "row 3: field 'label' is 3" in said and 'from 0 to 2' in said


def test_rows_without_scores_count_against_the_scorer(data, tmp_path, capsys):
  def unscored(rows):
    rows[2]['scores'] = {}

  scores = saved(data, tmp_path / 'scores.jsonl', unscored)
  keys = {'evaluate__suite': 'process_bench'}
  assert run(suite(tmp_path / 'work', score_files=scores, **keys)) == 0
  results = json.loads((tmp_path / 'work' / 'results.json').read_text())
  assert (
    'process_bench.gsm8k: 1 of 6 rows could not be scored (1 without_scores) and count '
    'as wrong.'
  ) in results['warnings']
  at_set = 'process_bench[6 of 3400]/gsm8k[6 of 400]'
  assert results['metrics'][f'{at_set}/accuracy_error@fixed:0.5']['value'] == 1 / 4
  assert results['counters'][f'{at_set}/unscored'] == 1
  capsys.readouterr()


def test_records_that_carry_truth_and_scores_need_no_data_folder(
  data, tmp_path, monkeypatch, capsys
):
  rows, _ = importers.read(str(data / 'processbench' / 'gsm8k.json'), 'processbench')
  scored = [
    records.add(t, 'scores', 'mine', ScoreSet('logit', (1.0, -0.5, 2.0))) for t in rows
  ]
  records.write(tmp_path / 'scored.jsonl', scored)
  monkeypatch.delenv('PRM_JAX_DATA')
  keys = {
    'data__evaluate': f'process_bench.gsm8k={tmp_path / "scored.jsonl"}',
    'scorer_name': 'mine',
  }
  assert run(suite(tmp_path / 'work', **keys)) == 0
  metrics = json.loads((tmp_path / 'work' / 'results.json').read_text())['metrics']
  path = 'process_bench[6 of 3400]/gsm8k[6 of 400]/accuracy_error@argmax'
  assert metrics[path]['value'] == 2 / 4
  capsys.readouterr()


def test_saved_scores_load_no_model():
  code = (
    'import sys; from prm_jax.evaluation import benchmarks; '
    "print([m for m in sys.modules if m.startswith(('jax', 'flax', 'prm_jax.models'))])"
  )
  out = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True
  )
  assert out.stdout.strip() == '[]'
