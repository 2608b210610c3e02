"""Jobs beside training: score, evaluate, inspect, convert, tokenizer, study."""

import gzip
import json

import numpy as np
import pytest
import tiny_runs
from tiny_runs import BARE, arguments, record, refusal, results, run, tool, write_lines

from prm_jax import records
from prm_jax.formats import tokenizers

TINY = {**tiny_runs.TINY, 'optimizer.horizon': 30}


@pytest.fixture(scope='module')
def scorer(tmp_path_factory):
  """The workdir of a run that only trained."""
  work = tmp_path_factory.mktemp('scorer') / 'work'
  assert run(arguments(work, tiny={**TINY, **BARE})) == 0
  return str(work)


@pytest.fixture(scope='module')
def rows(tmp_path_factory):
  """A zipped file of twelve records."""
  path = tmp_path_factory.mktemp('rows') / 'rows.jsonl.gz'
  return write_lines(path, [record(i) for i in range(12)])


def read(path):
  return list(records.read(str(path)))


def test_score_adds_and_keeps(scorer, rows, tmp_path, capsys):
  out = tmp_path / 'scored.jsonl.gz'
  assert run(tool('score', scorer=scorer, input=rows, output=out)) == 0
  assert '12 rows written' in capsys.readouterr().err
  before, after = read(rows), read(out)
  for a, b in zip(before, after, strict=True):
    assert len(b.scores['prm'].values) == 4 and b.labels == a.labels and b.id == a.id
  # Another name goes beside; other scores of one name are refused.
  both = tmp_path / 'both.jsonl'
  assert (
    run(tool('score', scorer=scorer, input=out, output=both, scorer_name='two')) == 0
  )
  t = read(both)[0]
  assert t.scores['two'] == t.scores['prm']
  other = {'kind': 'logit', 'values': [0, 0, 0, 0]}
  taken = write_lines(tmp_path / 'taken.jsonl', [record(0, scores={'prm': other})])
  said = refusal(
    tool('score', scorer=scorer, input=taken, output=tmp_path / 'x.jsonl'), capsys
  )
  assert "scores['prm']" in said and not (tmp_path / 'x.jsonl').exists()
  said = refusal(
    evaluation(tmp_path / 'work', scorer=scorer, data__evaluate=taken), capsys
  )
  assert "scores called 'prm'" in said and 'scorer_name' in said


def test_score_does_not_depend_on_order(scorer, rows, tmp_path):
  reverse = write_lines(
    tmp_path / 'reverse.jsonl', [record(i) for i in reversed(range(12))]
  )
  values = []
  for name, source in (('a', rows), ('b', reverse)):
    out = tmp_path / f'{name}.jsonl'
    assert run(tool('score', scorer=scorer, input=source, output=out)) == 0
    values.append({t.id: t.scores['prm'].values for t in read(out)})
  assert values[0].keys() == values[1].keys()
  for key in values[0]:
    np.testing.assert_allclose(values[0][key], values[1][key], atol=1e-5)


def test_score_counts_what_it_cannot_read(scorer, tmp_path, capsys):
  source = write_lines(
    tmp_path / 'mixed.jsonl',
    [
      record(0),
      record(1, steps=['=' * 100_000, 'a', 'b', 'c']),
      record(2, question='1+1<prm>'),
      record(3, steps=['a', '', 'b', 'c']),
    ],
  )
  out = tmp_path / 'out.jsonl'
  assert run(tool('score', scorer=scorer, input=source, output=out)) == 0
  said = capsys.readouterr().err.splitlines()[-1]
  assert '4 rows written' in said and 'not scored: 1 ' in said and 'too_long' in said
  assert ['prm' in t.scores for t in read(out)] == [True, False, False, False]


@pytest.mark.parametrize(
  'overrides, expected',
  [
    ({}, ('score needs', '--config.scorer')),
    (
      {'scorer': 'nowhere', 'input': 'world:validation', 'output': 'y.jsonl'},
      ('nowhere', 'spec.json'),
    ),
    (
      {'scorer': 'nowhere', 'input': 'x', 'output': 'y'},
      ('y: rows are written as JSON lines',),
    ),
    ({'scorer': 'nowhere', 'input': 'x', 'output': 'y.jsonl'}, ('x: no such',)),
  ],
)
def test_score_refusals(overrides, expected, capsys):
  said = refusal(tool('score', **overrides), capsys)
  for part in expected:
    assert part in said


def test_score_refuses_an_output_that_cannot_be_written(scorer, rows, tmp_path, capsys):
  (tmp_path / 'file').write_text('precious')
  out = tmp_path / 'file' / 'out.jsonl'
  said = refusal(tool('score', scorer=scorer, input=rows, output=out), capsys)
  assert str(out) in said and '--config.output' in said
  assert (tmp_path / 'file').read_text() == 'precious'


def test_score_refuses_a_damaged_scorer(scorer, rows, tmp_path, capsys):
  import shutil

  copy = tmp_path / 'copy'
  shutil.copytree(f'{scorer}/scorer', copy)
  weights = copy / 'model.safetensors'
  weights.write_bytes(weights.read_bytes()[:-100])
  said = refusal(
    tool('score', scorer=copy, input=rows, output=tmp_path / 'x.jsonl'), capsys
  )
  assert 'model.safetensors' in said


def evaluation(workdir, **overrides):
  return arguments(workdir, tiny={**TINY, 'job': 'evaluate'}, **overrides)


def test_evaluate_with_a_scorer_equals_the_run_itself(tmp_path):
  """The same numbers as at the end of training, baselines included."""
  assert run(arguments(tmp_path / 'train', tiny=TINY)) == 0
  assert run(evaluation(tmp_path / 'evaluate', scorer=tmp_path / 'train')) == 0
  trained, evaluated = results(tmp_path / 'train'), results(tmp_path / 'evaluate')
  assert evaluated['job'] == 'evaluate'
  assert evaluated['metrics'] == trained['metrics']
  same = ('model_hash', 'seed')
  assert all(evaluated['provenance'][k] == trained['provenance'][k] for k in same)
  for name in ('report.html', 'samples/heldout.jsonl.gz', 'config.json'):
    assert (tmp_path / 'evaluate' / name).exists()
  before = tiny_runs.contents(tmp_path / 'evaluate')
  assert run(evaluation(tmp_path / 'evaluate', scorer=tmp_path / 'train')) == 0
  assert tiny_runs.contents(tmp_path / 'evaluate') == before


def test_evaluate_saved_scores(scorer, rows, tmp_path):
  scored = tmp_path / 'scored.jsonl.gz'
  assert run(tool('score', scorer=scorer, input=rows, output=scored)) == 0
  keys = {
    'data__train': '',
    'data__validation': '',
    'data__evaluate': f'mine={scored}',
    'data__truth': 'human',
  }
  assert run(evaluation(tmp_path / 'work', **keys)) == 0
  held = results(tmp_path / 'work')['metrics']
  assert held['mine/steps/auroc']['n'] == 36
  assert 'mine/process_bench/f1@fixed:0.5' in held


@pytest.mark.parametrize(
  'overrides, expected',
  [
    ({'data__evaluate': ''}, ('nothing',)),
    ({'data__truth': 'nobody'}, ("'nobody'", 'on_track')),
    ({'evaluate__threshold': 'tuned:validation', 'data__validation': ''}, ('tune',)),
    ({'data__evaluate': 'nowhere.jsonl'}, ('nowhere.jsonl',)),
    ({'data__pools': 'world:trian'}, ('trian',)),
    ({'score_files': 'x'}, ('score_files', 'POOL:NAME=PATH')),
  ],
)
def test_evaluate_refusals(overrides, expected, scorer, tmp_path, capsys):
  given = {} if 'score_files' in overrides else {'scorer': scorer}
  said = refusal(evaluation(tmp_path / 'work', **given, **overrides), capsys)
  for part in expected:
    assert part in said, said
  assert not (tmp_path / 'work' / 'results.json').exists()


def test_inspect_prints_token_step_label(rows, capsys):
  keys = {'input': rows, 'data__label': 'human', 'rows': '1:2'}
  assert run(tool('inspect', **keys)) == 0
  out = capsys.readouterr().out
  assert 'row-1' in out and 'row-0' not in out
  assert out.count('<prm>') >= 4
  for word in ('token', 'step', 'label'):
    assert word in out.lower()


def test_inspect_names_the_labels_that_are_there(rows, capsys):
  assert run(tool('inspect', input=rows, rows='0:1', data__label='nobody')) == 0
  told = "no label set 'nobody', it has 'human'"
  assert told in capsys.readouterr().out
  assert run(tool('inspect', input=rows, rows='0:1', data__label='human')) == 0
  assert 'no label set' not in capsys.readouterr().out


@pytest.mark.parametrize('chosen', ['a:b', '5:5', '12:13', '-1:2', '99', '3:1'])
def test_inspect_refuses_rows_that_are_not_there(chosen, rows, capsys):
  said = refusal(tool('inspect', input=rows, rows=chosen), capsys)
  assert f'rows={chosen!r}' in said


def test_convert_is_a_round_trip(rows, tmp_path, capsys):
  exported, back = tmp_path / 'trl.jsonl', tmp_path / 'back.jsonl.gz'
  keys = {'data__label': 'human', 'export': 'trl'}
  assert run(tool('convert', input=rows, output=exported, **keys)) == 0
  assert '12 rows written' in capsys.readouterr().err
  first = json.loads(exported.read_text().splitlines()[0])
  assert set(first) >= {'prompt', 'completions', 'labels'}
  assert run(tool('convert', input=f'{exported}:trl', output=back)) == 0
  for a, b in zip(read(rows), read(back), strict=True):
    assert (a.question, a.steps) == (b.question, b.steps)
    assert list(a.labels['human'].values) == list(b.labels['source'].values)
  again = tmp_path / 'again.jsonl'
  keys = {'data__label': 'source', 'export': 'trl'}
  assert run(tool('convert', input=back, output=again, **keys)) == 0
  assert again.read_bytes() == exported.read_bytes()


def test_convert_counts_what_a_limit_keeps(tmp_path, capsys):
  lines = [
    {'prompt': f'{i}?', 'completions': ['a', 'b'], 'labels': [True, i > 0]}
    for i in range(5)
  ]
  file = write_lines(tmp_path / 'trl.jsonl', lines)
  keys = {'input': f'{file}:trl', 'output': tmp_path / 'out.jsonl'}
  assert run(tool('convert', **keys, data__limit=2)) == 0
  assert (
    'trl: 5 rows: 2 trajectories of 2 problems, 4 steps; 4 labels (75.0% positive), 0 '
    'of them context only; 50.0% of 2 labelled trajectories hold both classes; '
    'left_out_by_limit 3.'
  ) in capsys.readouterr().err
  assert len(read(tmp_path / 'out.jsonl')) == 2


def test_convert_is_deterministic(rows, tmp_path):
  for name in ('a.jsonl.gz', 'b.jsonl.gz'):
    assert run(tool('convert', input=rows, output=tmp_path / name)) == 0
  assert (tmp_path / 'a.jsonl.gz').read_bytes() == (
    tmp_path / 'b.jsonl.gz'
  ).read_bytes()


@pytest.mark.parametrize(
  'overrides, expected',
  [
    ({}, ('convert needs', '--config.input')),
    ({'input': 'nowhere.jsonl', 'output': 'x.jsonl'}, ('nowhere.jsonl',)),
    ({'input': 'ROWS', 'output': 'x.jsonl', 'export': 'nothing'}, ("'nothing'", 'trl')),
  ],
)
def test_convert_refusals(overrides, expected, rows, tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  given = {k: rows if v == 'ROWS' else v for k, v in overrides.items()}
  said = refusal(tool('convert', **given), capsys)
  for part in expected:
    assert part in said, said
  assert not list(tmp_path.iterdir())


def test_tokenizer_is_trained(rows, tmp_path, capsys):
  out = tmp_path / 'words' / 'tokenizer.json'
  assert run(tool('tokenizer', input=rows, output=out, vocab_size=262)) == 0
  assert 'bytes a token' in capsys.readouterr().err
  words = tokenizers.load(str(out))
  text = '11+1=? für'
  assert words.decode(words.encode(text)) == text
  assert len(words.encode('1+1=?')) < 5
  assert words.token_id('<prm>') is not None


def test_tokenizer_refuses(rows, tmp_path, capsys):
  assert 'tokenizer needs' in refusal(tool('tokenizer', input=rows), capsys)
  out = tmp_path / 'tokenizer.json'
  said = refusal(tool('tokenizer', input=rows, output=out, vocab_size=10), capsys)
  assert '10' in said and not out.exists()


@pytest.mark.parametrize('job', ['convert', 'tokenizer'])
def test_a_file_that_is_there_is_not_written_over(job, rows, tmp_path, capsys):
  out = tmp_path / ('out.jsonl' if job == 'convert' else 'tokenizer.json')
  assert run(tool(job, input=rows, output=out, vocab_size=262)) == 0
  held = out.read_bytes()
  source = out if job == 'convert' else rows
  keys = {'input': source, 'output': out, 'data__limit': 1, 'vocab_size': 300}
  said = refusal(tool(job, **keys), capsys)
  assert f'{out}: is there already; give another --config.output, or remove' in said
  assert out.read_bytes() == held


@pytest.mark.slow
def test_study_of_two_methods_and_two_seeds(tmp_path, capsys):
  """Finished runs are read, a broken one is named, the table is written."""
  common = ' '.join(
    f'{k}={v!r}' if ' ' in str(v) else f'{k}={v}' for k, v in TINY.items()
  )
  words = [
    'prm_jax',
    f'--config={tiny_runs.ROOT}/configs/base.py',
    f'--workdir={tmp_path}',
    '--config.job=study',
    *(
      f'--config.study.methods={name}={tiny_runs.ROOT}/configs/{name}.py'
      for name in ('bce', 'pqm')
    ),
    f'--config.study.common={common}',
    '--config.study.trials=optimizer.peak_lr=0.001',
    '--config.study.trials=optimizer.peak_lr=0.01',
    '--config.study.select=validation/process_bench/f1@tuned:self',
    '--config.study.seeds=0',
    '--config.study.seeds=1',
    '--config.study.metrics=heldout/steps/auroc',
    '--config.study.reference=bce',
  ]
  monkey = tiny_runs.environment()
  with pytest.MonkeyPatch.context() as patch:
    for key in ('PYTHONPATH', 'JAX_PLATFORMS', 'JAX_COMPILATION_CACHE_DIR'):
      patch.setenv(key, monkey[key])
    assert run(words) == 0
    held = results(tmp_path)
    assert held['counters']['runs'] == 4
    assert {p for p in held['metrics'] if p.endswith('heldout/steps/auroc')} == {
      'seeds/bce/heldout/steps/auroc',
      'seeds/pqm/heldout/steps/auroc',
      'seeds/pqm-bce/heldout/steps/auroc',
    }
    table = (tmp_path / 'table.md').read_text()
    assert '| bce |' in table and '| pqm |' in table
    runs = sorted(
      str(p.parent.relative_to(tmp_path)) for p in tmp_path.rglob('log.txt')
    )
    assert len(runs) == 8
    logs = {p: p.stat().st_mtime_ns for p in tmp_path.rglob('log.txt')}
    assert f'{tmp_path}: results.json, table.md' in capsys.readouterr().err
    assert run(words) == 0
    assert {p: p.stat().st_mtime_ns for p in logs} == logs
    folder = tmp_path / 'runs' / 'bce' / 'default' / 'seed-1'
    config = json.loads((folder / 'config.json').read_text())
    changed = json.dumps({**config, 'optimizer.b1': 0.8})
    (folder / 'config.json').write_text(changed)
    said = refusal(words, capsys)
    assert 'seed-1: this workdir holds a run with optimizer.b1=0.8, now it is' in said
    (folder / 'config.json').write_text(json.dumps(config))
    broken = [*words, '--config.study.metrics=nothing']
    assert run(broken) == 0
    assert (
      '| bce | undefined in every run, or never' in (tmp_path / 'table.md').read_text()
    )
    broken[2] = f'--workdir={tmp_path}/other'
    broken.append("--config.study.settings='bad: train.steps=0'")
    said = refusal(broken, capsys)
    assert 'exit code 2' in said and 'train.steps=0' in said and 'log.txt' in said


def test_study_refusals(tmp_path, capsys):
  words = ['x', f'--config={tiny_runs.BASE}', f'--workdir={tmp_path}']
  words += ['--config.job=study']
  assert 'study.methods' in refusal(words, capsys)
  words += ['--config.study.methods=alone']
  assert 'NAME=configs/FILE.py' in refusal(words, capsys)
  words[-1] += '=configs/bce.py'
  said = refusal([*words, '--config.study.reference=pqm'], capsys)
  assert said.startswith("study.reference='pqm': it must be one of the methods (alone)")
  trials = [f'--config.study.trials=seed={i}' for i in (1, 2)]
  assert 'study.select is empty, and 2 trials' in refusal([*words, *trials], capsys)


def test_gzip_without_time_stamp(rows, tmp_path):
  out = tmp_path / 'out.jsonl.gz'
  assert run(tool('convert', input=rows, output=out)) == 0
  assert out.read_bytes()[4:8] == b'\0\0\0\0' and gzip.decompress(out.read_bytes())
