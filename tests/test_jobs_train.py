"""The train job as a user runs it: what it leaves, and every way to configure it."""

import gzip
import json
import re

import jax
import numpy as np
import pytest
import tiny_runs
from often import often
from tiny_runs import BARE, arguments, contents, promised, results, run

import prm_jax
from prm_jax import exports, objectives
from prm_jax.formats import tokenizers

COMPILED_ONCE = {'optimizer.horizon': 30}


def train(workdir, **overrides):
  """A tiny run that succeeds; returns its workdir."""
  assert (
    run(arguments(workdir, tiny={**tiny_runs.TINY, **COMPILED_ONCE}, **overrides)) == 0
  )
  return workdir


def bare(workdir, **overrides):
  """The same without any evaluation."""
  tiny = {**tiny_runs.TINY, **COMPILED_ONCE, **BARE}
  assert run(arguments(workdir, tiny=tiny, **overrides)) == 0
  return workdir


def metric_rows(workdir):
  return [json.loads(x) for x in (workdir / 'metrics.jsonl').read_text().splitlines()]


def params_of(workdir):
  return exports.load_scorer(workdir / 'scorer')[1]


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """One complete run with everything on."""
  return train(
    tmp_path_factory.mktemp('runs') / 'whole',
    train__steps=30,
    train__validate_every=10,
    logging__every_steps=10,
    data__pools='heldout=world:heldout',
    logging__tensorboard=True,
  )


def test_leaves_what_is_promised(finished):
  names = {p.name for p in finished.iterdir()}
  assert names == {
    '.lock', 'config.json', 'metrics.jsonl', 'results.json', 'report.html', 'samples',
    'checkpoints', 'scorer', 'cache', 'tensorboard',
  }  # fmt: skip
  config = json.loads((finished / 'config.json').read_text())
  assert config['train.steps'] == 30 and config['data.label'] == 'on_track'
  assert {p.name for p in (finished / 'scorer').iterdir()} == {
    'spec.json',
    'model.safetensors',
  }
  assert {p.name for p in (finished / 'samples').iterdir()} == {
    'validation.jsonl.gz',
    'heldout.jsonl.gz',
  }
  assert not [p for p in contents(finished) if p.endswith('.tmp')]


def test_metrics_rows(finished):
  rows = metric_rows(finished)
  assert [r['step'] for r in rows] == [10, 20, 30]
  for row in rows:
    assert set(row) == {
      'step', 'train/loss', 'train/grad_norm', 'train/learning_rate',
      'time/steps_per_second', 'validation/f1', 'validation/auroc',
    }  # fmt: skip
    assert all(isinstance(v, (int, float)) and np.isfinite(v) for v in row.values())
  assert rows[-1]['train/loss'] < rows[0]['train/loss']
  assert (finished / 'tensorboard').is_dir()


def test_results_schema(finished):
  held = results(finished)
  assert held['schema_version'] == 1 and held['job'] == 'train'
  for name, metric in held['metrics'].items():
    assert set(metric) == {'value', 'low', 'high', 'n'}, name
    assert isinstance(metric['n'], int) and metric['n'] >= 0
    assert metric['value'] is None or np.isfinite(metric['value'])
    assert name in held['judged_by']
  for name in (
    'heldout/process_bench/f1@tuned:validation',
    'heldout/steps/auroc',
    'heldout/best_of_n/prm_min@4',
    'heldout/best_of_n/majority@4',
    'heldout/best_of_n/oracle@4',
    'heldout/best_of_n/prm_min-majority@4',
    'heldout/process_bench/f1@tuned:validation[baseline_position_length]',
    'validation/steps/auroc',
  ):
    assert held['metrics'][name]['value'] is not None, name
  assert held['judged_by']['heldout/steps/auroc'] == 'on_track'
  assert all(isinstance(v, int) for v in held['counters'].values())
  assert held['counters']['train/rows_used'] == 240
  about = held['provenance']
  for key in (
    'command', 'seed', 'git_revision', 'libraries', 'device', 'steps', 'model_hash',
    'data_hash', 'wall_seconds',
  ):  # fmt: skip
    assert about[key] not in (None, '') or key == 'git_revision', key
  assert about['command'].startswith('python -m prm_jax.main --config=')


def test_samples_are_records_with_scores(finished):
  with gzip.open(finished / 'samples' / 'heldout.jsonl.gz', 'rt') as f:
    rows = [json.loads(line) for line in f]
  assert len(rows) == 24
  for row in rows:
    scores = row['scores']['prm']
    assert scores['kind'] == 'probability' and len(scores['values']) == len(
      row['steps']
    )
    assert (
      'on_track' in row['first_error'] and row['labels']['value']['kind'] == 'value'
    )


def test_report_is_one_file_about_this_run(finished):
  page = (finished / 'report.html').read_text()
  for word in ('heldout', 'validation', 'Training loss', 'majority'):
    assert word in page
  assert not re.search(r'(src|href)="https?://', page)
  assert len(page) > 20_000


def test_the_same_command_again_changes_nothing(finished, capsys):
  before = contents(finished)
  train(
    finished,
    train__steps=30,
    train__validate_every=10,
    logging__every_steps=10,
    data__pools='heldout=world:heldout',
    logging__tensorboard=True,
  )
  assert 'is complete' in capsys.readouterr().err
  assert contents(finished) == before


def test_scores_in_a_few_lines(finished):
  with gzip.open(finished / 'samples' / 'heldout.jsonl.gz', 'rt') as f:
    row = json.loads(f.readline())
  scores = prm_jax.score(str(finished), [row['question']], [row['steps']])
  np.testing.assert_allclose(scores[0], row['scores']['prm']['values'], atol=1e-4)


def test_same_seed_same_bytes_other_seed_others(tmp_path):
  a = promised(bare(tmp_path / 'a'))
  assert promised(bare(tmp_path / 'b')) == a
  other = promised(bare(tmp_path / 'c', seed=1))
  assert other['parameters'] != a['parameters']


def test_plan_only_trains_nothing(tmp_path, capsys):
  bare(tmp_path / 'work', plan_only=True)
  out = capsys.readouterr().out
  assert 'parameters' in out and 'bytes on each device' in out and '48 training' in out
  assert not (tmp_path / 'work' / 'metrics.jsonl').exists()
  bare(tmp_path / 'shared', plan_only=True, data__share_question=3)
  assert 'rows of 3 solutions of' in capsys.readouterr().out
  # The planned run itself may follow in the same place.
  bare(tmp_path / 'work')
  assert results(tmp_path / 'work')['provenance']['steps'] == 6


def agree(a, b):
  close = lambda x, y: np.testing.assert_allclose(x, y, atol=2e-4)
  jax.tree.map(close, params_of(a), params_of(b))


@pytest.mark.slow
def test_pmap_agrees(tmp_path):
  agree(bare(tmp_path / 'jit'), bare(tmp_path / 'pmap', parallel__mapper='pmap'))


@pytest.mark.slow
def test_accumulation_agrees(tmp_path):
  agree(
    bare(tmp_path / 'whole', train__batch_size=16),
    bare(tmp_path / 'parts', train__batch_size=16, train__accumulation=2),
  )


HEADS = {
  'softmax2': ('linear', 2),
  'softmax3': ('linear', 3),
  'quantile': ('linear', 3),
}


def objective_keys(name):
  chosen = objectives.get(name)
  kind, n = HEADS.get(chosen.step_value, ('scalar', 1))
  keys = {'objective__name': name, 'head__kind': kind, 'head__n_outputs': n}
  if name in ('bce_soft', 'pinball'):
    keys['data__label'] = 'value'
  return keys


@pytest.mark.parametrize(
  'name', often(('q_ranking', 'td', 'three_class', 'orm', 'mse'), 'q_ranking', 'td')
)
def test_objectives_train(name, tmp_path):
  work = bare(tmp_path / name, **objective_keys(name))
  rows = metric_rows(work)
  assert rows[-1]['step'] == 6
  assert all(np.isfinite(r['train/loss']) and r['train/grad_norm'] > 0 for r in rows)
  spec = exports.load_scorer(work / 'scorer')[0]
  assert spec.objective == name
  if name == 'orm':
    assert 'train/rows_unjudged' not in results(work)['counters']


STEP_OBJECTIVES = [n for n, o in objectives.OBJECTIVES.items() if not o.trains_policy]


@pytest.mark.slow
@pytest.mark.parametrize('name', sorted(STEP_OBJECTIVES))
def test_every_objective_trains_and_is_evaluated(name, tmp_path):
  work = train(tmp_path / name, **objective_keys(name))
  held = results(work)
  assert held['metrics']['heldout/steps/auroc']['value'] is not None
  assert (
    held['metrics']['heldout/process_bench/f1@tuned:validation']['value'] is not None
  )


@pytest.mark.slow
def test_best_parameters_are_kept(tmp_path, capsys):
  work = train(
    tmp_path / 'work',
    train__use='best',
    train__validate_every=2,
    data__evaluate='',
    optimizer__peak_lr=0.05,
  )
  scores = {r['step']: r['validation/f1'] for r in metric_rows(work)}
  assert list(scores) == [2, 4, 6]
  best = min(s for s, v in scores.items() if v == max(scores.values()))
  assert f'step {best}, best on validation' in capsys.readouterr().err
  assert [int(p.name) for p in (work / 'checkpoints' / 'best').iterdir()] == [best]


def test_trains_on_a_file_of_records(tmp_path):
  rows = [tiny_runs.record(i) for i in range(20)]
  file = tiny_runs.write_lines(tmp_path / 'mine.jsonl.gz', rows)
  work = bare(tmp_path / 'work', data__train=file, data__label='human')
  counters = results(work)['counters']
  assert counters['train/rows_used'] == 20
  assert counters['train/mine/labels/positive_labels'] == 40
  assert counters['train/mine/labels/negative_labels'] == 40


def test_verdicts_suffice_where_labels_play_no_part(tmp_path, capsys):
  rows = [tiny_runs.record(i, labels={}, first_error={}) for i in range(20)]
  keys = {'data__train': tiny_runs.write_lines(tmp_path / 'mine.jsonl', rows)}
  work = bare(tmp_path / 'orm', objective__name='orm', report=True, **keys)
  assert results(work)['counters']['train/rows_used'] == 20
  assert exports.load_scorer(work / 'scorer')[0].label == ''
  assert 'objective orm on verdicts;' in (work / 'report.html').read_text()

  td = {**keys, 'objective__name': 'td', 'plan_only': True}
  bare(tmp_path / 'td', **td, objective__train_unlabeled=True)
  for reads in ({}, {'train_unlabeled': True, 'shaping': 'cosine'}):
    more = {f'objective__{k}': v for k, v in reads.items()}
    tiny = {**tiny_runs.TINY, **BARE}
    said = tiny_runs.refusal(
      arguments(tmp_path / 'no', tiny=tiny, **td, **more), capsys
    )
    assert "no row has the label set 'on_track'" in said


@pytest.mark.slow
def test_trains_on_a_mixture_with_weights(tmp_path):
  a = tiny_runs.write_lines(
    tmp_path / 'a.jsonl', [tiny_runs.record(i) for i in range(16)]
  )
  b = tiny_runs.write_lines(
    tmp_path / 'b.jsonl', [tiny_runs.record(i) for i in range(12, 40)]
  )
  work = bare(
    tmp_path / 'work', data__train=f'first={a}@2, {b}@0.5', data__label='human'
  )
  counters = results(work)['counters']
  assert counters['train/first/rows_used'] == 16 and counters['train/b/rows_used'] == 24
  assert counters['train/b/duplicates'] == 4
  for row in metric_rows(work):
    assert np.isfinite(row['train/loss[first]']) and np.isfinite(row['train/loss[b]'])


@pytest.mark.slow
def test_trains_on_the_world_beside_a_file(tmp_path):
  file = tiny_runs.write_lines(
    tmp_path / 'mine.jsonl',
    [
      tiny_runs.record(
        i, labels={'on_track': {'kind': 'correctness', 'values': [1, 1, 0, 0]}}
      )
      for i in range(8)
    ],
  )
  work = bare(tmp_path / 'work', data__train=f'world:train, {file}')
  counters = results(work)['counters']
  assert counters['train/world_train/rows_used'] == 48
  assert counters['train/mine/rows_used'] == 8


def test_leaked_problems_are_dropped_and_counted(tmp_path):
  file = tiny_runs.write_lines(
    tmp_path / 'train.jsonl', [tiny_runs.record(i) for i in range(12)]
  )
  held = tiny_runs.write_lines(
    tmp_path / 'held.jsonl', [tiny_runs.record(i) for i in range(9, 15)]
  )
  work = train(
    tmp_path / 'work',
    data__train=file,
    data__label='human',
    data__truth='human',
    data__validation='',
    data__evaluate=f'mine={held}',
  )
  counters = results(work)['counters']
  assert counters['train/leak/mine'] == 3 and counters['train/rows_used'] == 9


def test_token_cache_may_live_elsewhere(tmp_path):
  bare(tmp_path / 'a', data__cache_dir=tmp_path / 'caches')
  assert len(list((tmp_path / 'caches').iterdir())) == 1
  assert not (tmp_path / 'a' / 'cache').exists()


@pytest.mark.slow
def test_trains_with_a_tokenizer_of_its_own(tmp_path):
  texts = [tiny_runs.record(i)['question'] for i in range(50)] + ['=12', '3+1']
  file = tmp_path / 'tokenizer.json'
  tokenizers.train_bpe(texts, 270, str(file))
  rows = [tiny_runs.record(i) for i in range(16)]
  data = tiny_runs.write_lines(tmp_path / 'mine.jsonl', rows)
  work = bare(tmp_path / 'work', tokenizer=file, data__train=data, data__label='human')
  file.unlink()  # the scorer has its own copy
  assert len(prm_jax.score(str(work), ['1+1=?'], [['1+1', '=2']])[0]) == 2


@pytest.mark.slow
def test_profile_is_written(tmp_path):
  work = bare(tmp_path / 'work', profile='2:3')
  assert any((work / 'profile').rglob('*.xplane.pb'))
