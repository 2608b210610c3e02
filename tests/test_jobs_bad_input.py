"""Bad input as a user meets it, through whole jobs.

Malformed input ends with code 2 and one sentence that names file, line, field and
what to do. Rows that are valid but of no use are counted, and the run goes on unless
nothing is left.
"""

import gzip
import os
import re
import resource
import subprocess

import jax
import jax.numpy as jnp
import pytest
import tiny_runs
from tiny_runs import BARE, arguments, record, refusal, results, run, write_lines

from prm_jax.jobs import convert

TINY = {**tiny_runs.TINY, **BARE, 'optimizer.horizon': 30, 'data.label': 'human'}
NOBODY = {'human': {'kind': 'correctness', 'values': [None] * 4}}


def labels(*values):
  return {'human': {'kind': 'correctness', 'values': list(values)}}


def training(workdir, file, **overrides):
  return arguments(workdir, tiny={**TINY, 'data.train': file}, **overrides)


def line(row):
  """A record as bytes, for damage that JSON itself cannot say."""
  import json

  return json.dumps(row).encode()


MALFORMED = {
  'label of a wrong type': (
    record(2, labels=labels('yes', 1, 0, 0)), ('labels.human.values[0]', "'yes'"),
  ),
  'label out of range': (record(2, labels=labels(2, 1, 0, 0)), ('values[0]', '2')),
  'NaN label': (
    line(record(2)).replace(b'[1, 1, 0, 0]', b'[NaN, 1, 0, 0]'), ('NaN', 'null'),
  ),
  'infinite label': (
    line(record(2)).replace(b'[1, 1, 0, 0]', b'[1e999, 1, 0, 0]'), ('1e999',),
  ),
  'more labels than steps': (
    record(2, labels=labels(1, 1, 0, 0, 0)), ('labels.human.values', '5', '4'),
  ),
  'steps of a wrong type': (record(2, steps='one'), ("'steps'", "'one'")),
  'a step of a wrong type': (record(2, steps=['a', 3]), ('steps[1]', '3')),
  'question of a wrong type': (record(2, question=7), ("'question'", '7')),
  'no question': (
    {k: v for k, v in record(2).items() if k != 'question'}, ("'question'",),
  ),
  'first error out of range': (
    record(2, first_error={'human': 9}), ('first_error', '9'),
  ),
  'verdict of a wrong type': (
    record(2, verdicts={'exact': {'value': 'right'}}), ('verdicts', "'right'"),
  ),
  'unknown field': (record(2, qestion='x'), ("'qestion'",)),
  'not an object': (b'[1, 2]', ('object', 'list')),
  'broken JSON': (b'{"id": "a"', ('JSON',)),
  'invalid UTF-8': (line(record(2)).replace(b'row-2', b'row-\xff'), ('UTF-8',)),
}  # fmt: skip


@pytest.mark.parametrize('zipped', ['', '.gz'])
@pytest.mark.parametrize('what', MALFORMED)
def test_malformed_lines_name_file_line_and_field(what, zipped, tmp_path, capsys):
  bad, expected = MALFORMED[what]
  file = write_lines(tmp_path / f'mine.jsonl{zipped}', [record(0), record(1), bad])
  said = refusal(training(tmp_path / 'work', file), capsys)
  for part in (f'{file}:3', *expected):
    assert part in said, said
  assert said.endswith('.') and len(said) < 400 + len(file)
  assert not (tmp_path / 'work' / 'metrics.jsonl').exists()


@pytest.mark.parametrize(
  'job', ['score', 'evaluate', 'convert', 'inspect', 'tokenizer']
)
def test_every_job_says_the_same(job, tmp_path, capsys):
  file = write_lines(tmp_path / 'mine.jsonl', [record(0), record(1, steps='one')])
  scorer = tmp_path / 'scorer'
  given = {'input': file, 'output': tmp_path / 'out.jsonl', 'data.label': 'human'}
  if job in ('score', 'evaluate'):
    assert run(arguments(scorer, tiny={**TINY, 'data.train': 'world:train',
                                       'data.label': 'on_track'})) == 0  # fmt: skip
    given['scorer'] = scorer
  if job == 'evaluate':
    given |= {'data.evaluate': f'mine={file}', 'data.validation': ''}
  argv = arguments(tmp_path / 'work', tiny={'job': job, **given})
  said = refusal(argv, capsys)
  assert f'{file}:2' in said and "'steps'" in said
  assert not (tmp_path / 'out.jsonl').exists()


@pytest.mark.parametrize('cut', [0, 5, 60, -4])
def test_truncated_gzip(cut, tmp_path, capsys):
  file = tmp_path / 'mine.jsonl.gz'
  write_lines(file, [record(i) for i in range(50)])
  file.write_bytes(file.read_bytes()[:cut])
  said = refusal(training(tmp_path / 'work', file), capsys)
  assert str(file) in said and 'gzip' in said and 'again' in said


def test_damaged_parquet(tmp_path, capsys):
  pytest.importorskip('pyarrow')
  file = tmp_path / 'mine.parquet'
  file.write_bytes(b'PAR1' + bytes(50))
  said = refusal(training(tmp_path / 'work', f'{file}:trl'), capsys)
  assert str(file) in said


UNUSABLE = {
  'too long': (record(90, steps=['1' * 100_000, 'b', 'c', 'd']), 'too_long'),
  'no steps': (record(90, steps=[], labels={}, first_error={}), 'no_steps'),
  'empty step': (record(90, steps=['1', '', '2', '3']), 'empty_step'),
  'marker in the question': (record(90, question='1<prm>1'), 'marker_in_text'),
  'marker in a step': (record(90, steps=['1', '<prm>', '2', '3']), 'marker_in_text'),
  'all labels null': (record(90, labels=NOBODY, first_error={}), 'unlabelled'),
  'no such label set': (record(90, labels={}, first_error={}), 'unlabelled'),
  'all labels context': (
    record(90, labels={'human': {**labels(1, 1, 0, 0)['human'], 'weights': [0] * 4}}),
    'weightless',
  ),
}


def test_unusable_rows_are_counted_and_the_run_goes_on(tmp_path):
  bad = [
    {**row, 'id': f'bad-{i}', 'problem_id': f'bad-{i}'}
    for i, (row, _) in enumerate(UNUSABLE.values())
  ]
  good = [record(i) for i in range(10)]
  file = write_lines(tmp_path / 'mine.jsonl', [*bad, *good])
  assert run(training(tmp_path / 'work', file)) == 0
  counters = results(tmp_path / 'work')['counters']
  assert counters['train/rows'] == 18 and counters['train/rows_used'] == 10
  expected: dict[str, int] = {}
  for _, reason in UNUSABLE.values():
    expected[f'train/rows_{reason}'] = expected.get(f'train/rows_{reason}', 0) + 1
  found = {k: v for k, v in counters.items() if k in expected}
  assert found == expected
  dropped = {
    k: v
    for k, v in counters.items()
    if k.startswith('train/rows_') and k not in ('train/rows_used',)
  }
  assert sum(v for k, v in dropped.items() if k != 'train/rows_truncated') == 8


@pytest.mark.parametrize('what', UNUSABLE)
def test_nothing_left_is_an_error(what, tmp_path, capsys):
  row, reason = UNUSABLE[what]
  file = write_lines(tmp_path / 'mine.jsonl', [row])
  said = refusal(training(tmp_path / 'work', file), capsys)
  nobody = "no row has the label set 'human'"
  assert (f'1 {reason}' if row['labels'] else nobody) in said


def test_an_error_if_the_policy_says_so(tmp_path, capsys):
  file = write_lines(tmp_path / 'mine.jsonl', [record(0), UNUSABLE['too long'][0]])
  said = refusal(training(tmp_path / 'work', file, format__truncation='error'), capsys)
  assert 'row-90' in said and 'max_length' in said


def test_unjudged_answers_do_not_train_an_outcome_objective(tmp_path, capsys):
  rows = [record(i, verdicts={'exact': {'value': None}}) for i in range(6)]
  file = write_lines(tmp_path / 'none.jsonl', rows)
  said = refusal(training(tmp_path / 'work', file, objective__name='orm'), capsys)
  assert '6 unjudged' in said


def test_unusable_rows_of_an_evaluation_set_are_told_of(tmp_path, capsys):
  """Such a row counts as judged wrong; a set of such rows alone is left out."""
  bad = record(90, steps=['1' * 1000, '2', '3', '4'])
  rows = [record(i) for i in range(6)]
  rows[0] = record(0, labels=labels(1, 1, 1, 1), first_error={'human': -1})
  file = write_lines(tmp_path / 'held.jsonl', [*rows, bad])
  none = write_lines(tmp_path / 'none.jsonl', [bad, {**bad, 'id': 'row-91'}])
  keys = {
    'data__label': 'on_track',
    'data__truth': 'human',
    'data__evaluate': f'mine={file},long={none}',
    'data__validation': none,
    'evaluate__threshold': 'tuned:validation,fixed:0.5',
  }
  # Both sets hold the row called 90.
  said = refusal(training(tmp_path / 'work', 'world:train', **keys), capsys)
  assert "'validation' and 'mine' share 1 problems" in said
  logits = {'objective__name': 'q_ranking', 'evaluate__threshold': 'fixed:0'}
  argv = training(tmp_path / 'work', 'world:train', **{**keys, **logits})
  assert "'validation' and 'mine' share 1 problems" in refusal(argv, capsys)
  assert not (tmp_path / 'work' / 'metrics.jsonl').exists()
  tuned = write_lines(
    tmp_path / 'tuned.jsonl', [record(92, steps=['1' * 1000, '2', '3', '4'])]
  )
  keys['data__validation'] = tuned
  assert run(training(tmp_path / 'work', 'world:train', **keys)) == 0
  held = results(tmp_path / 'work')
  sentences = [
    'mine: 1 of 7 rows could not be scored (1 too_long) and count as wrong.',
    'long: none of 2 rows could be scored (2 too_long); left out.',
    'validation: none of 1 rows could be scored (1 too_long); left out.',
  ]
  assert held['warnings'][:3] == sentences
  shown = capsys.readouterr().err
  assert all(f'warning: {sentence}' in shown for sentence in sentences)
  assert 'long/process_bench/f1@fixed:0.5' not in held['metrics']
  assert held['counters']['long/left_out_without_scores'] == 2
  assert set(held['rows']) == {'mine'}
  assert held['counters']['mine/not_scored/too_long'] == 1
  assert held['counters']['mine/read/trajectories'] == 7
  metric = held['metrics']['mine/process_bench/f1@fixed:0.5']
  assert metric['n'] == 7


@pytest.mark.slow
def test_an_evaluation_of_which_nothing_can_be_scored(tmp_path, capsys):
  keys = {'data__label': 'on_track', 'data__evaluate': '', 'train__steps': 1}
  assert run(training(tmp_path / 'run', 'world:train', **keys)) == 0
  bad = record(90, steps=['1' * 1000, '2', '3', '4'])
  keys = {
    'job': 'evaluate',
    'scorer': tmp_path / 'run',
    'data__train': '',
    'data__validation': '',
    'data__truth': 'human',
    'data__evaluate': f'long={write_lines(tmp_path / "long.jsonl", [bad])}',
  }
  said = refusal(arguments(tmp_path / 'work', **keys), capsys)
  assert said.startswith('nothing could be scored. long: none of 1 rows')


def test_saved_scores_of_a_part_of_the_rows(tmp_path, capsys):
  scores = {'prm': {'kind': 'logit', 'values': [1.0, -1.0, 1.0, 1.0]}}
  told = {'verdicts': {'exact': {'value': True, 'method': 'exact'}}}
  rows = [record(i, **told, **({'scores': scores} if i != 1 else {})) for i in range(3)]
  file = write_lines(tmp_path / 'mine.jsonl', rows)
  keys = {
    'job': 'evaluate',
    'data__train': '',
    'data__validation': '',
    'data__truth': 'human',
    'data__evaluate': f'mine={file}',
    'data__pools': f'mine={file}',
  }
  assert run(arguments(tmp_path / 'work', **keys)) == 0
  lacking = '1 of 3 rows could not be scored (1 without_scores) and'
  assert results(tmp_path / 'work')['warnings'][:2] == [
    f'mine: {lacking} count as wrong.',
    f'mine (pool): {lacking} are chosen last.',
  ]
  page = (tmp_path / 'work' / 'report.html').read_text()
  assert 'no model was run' in page and 'public reward models' not in page
  capsys.readouterr()


def test_a_file_where_the_workdir_must_be(tmp_path, capsys):
  (tmp_path / 'work').write_text('precious')
  said = refusal(training(tmp_path / 'work', 'world:train'), capsys)
  assert str(tmp_path / 'work') in said and '--workdir' in said
  assert (tmp_path / 'work').read_text() == 'precious'


@pytest.mark.parametrize('name', ['checkpoints', 'cache', 'scorer', 'samples'])
def test_a_file_where_a_folder_of_the_workdir_must_be(name, tmp_path, capsys):
  (tmp_path / name).write_text('precious')
  keys = {'data__label': 'on_track', 'data__evaluate': 'heldout=world:heldout'}
  said = refusal(training(tmp_path, 'world:train', **keys), capsys)
  assert str(tmp_path / name) in said
  assert (tmp_path / name).read_text() == 'precious'


@pytest.mark.slow
def test_non_finite_loss_names_step_and_batch(tmp_path, capsys):
  keys = {
    'optimizer__peak_lr': 1e30,
    'optimizer__clip_norm': 0,
    'optimizer__warmup_steps': 0,
    'data__label': 'on_track',
    'checkpoint__every_steps': 1,
  }
  said = refusal(training(tmp_path / 'work', 'world:train', **keys), capsys, code=3)
  assert said.startswith('step ') and 'not both finite' in said
  assert re.search(r'batch \d of epoch 0: [0-9a-f]{16}, ', said)
  assert 'learning rate' in said
  assert not (tmp_path / 'work' / 'results.json').exists()
  # Every state that was saved is sound, and the same command says the same.
  again = refusal(training(tmp_path / 'work', 'world:train', **keys), capsys, code=3)
  assert again == said


def full_disk_run(workdir, **overrides):
  """A run in another process, whose files may not pass a size."""
  keys = {'data__label': 'on_track', **overrides}
  argv = arguments(workdir, tiny={**TINY, 'data.train': 'world:train'}, **keys)
  return tiny_runs.finish(tiny_runs.start(argv))


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason='only root can mount a small file system')
@pytest.mark.parametrize('room', ['160k', '260k', '400k', '520k'])
def test_full_disk(room, tmp_path):
  """Wherever the disk is full: one sentence, code 2, and room heals it."""
  mount = tmp_path / 'small'
  mount.mkdir()
  what = ['mount', '-t', 'tmpfs', '-o', f'size={room}', 'tmpfs', str(mount)]
  if subprocess.run(what, capture_output=True, check=False).returncode:
    pytest.skip('this machine does not let root mount a tmpfs')
  try:
    many = {'checkpoint__every_steps': 2, 'train__steps': 12}
    code, err = full_disk_run(mount / 'work', **many)
    assert code == 2 and 'Traceback' not in err, err[-2000:]
    assert 'No space left' in err.splitlines()[-1]
    remount = ['mount', '-o', 'remount,size=64m', str(mount)]
    subprocess.run(remount, check=True)
    code, err = full_disk_run(mount / 'work', **many)
    assert code == 0, err
    code, err = full_disk_run(tmp_path / 'straight', **many)
    assert code == 0, err
    promised = tiny_runs.promised
    assert promised(mount / 'work') == promised(tmp_path / 'straight')
  finally:
    subprocess.run(['umount', str(mount)], check=False)


@pytest.mark.slow
@pytest.mark.parametrize('limit', [2_000, 20_000])
def test_files_that_may_not_grow(limit, tmp_path):
  """The same by a limit on file size, which needs no rights."""
  keys = {'data__label': 'on_track', 'checkpoint__every_steps': 2}
  argv = arguments(
    tmp_path / 'work', tiny={**TINY, 'data.train': 'world:train'}, **keys
  )
  bound = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
  code, err = tiny_runs.finish(tiny_runs.start(argv, preexec_fn=bound))
  assert code == 2 and 'Traceback' not in err, err[-2000:]
  assert 'File too large' in err.splitlines()[-1]
  code, err = tiny_runs.finish(tiny_runs.start(argv))
  assert code == 0, err


def test_more_than_the_memory(tmp_path, capsys):
  tiny = {**tiny_runs.TINY, **BARE, 'train.batch_size': 10**12}
  argv = arguments(tmp_path / 'work', tiny=tiny)
  said = refusal(argv, capsys)
  assert 'job=train: the memory does not suffice (' in said
  assert 'less train.batch_size' in said and 'plan_only' in said


def test_more_than_the_memory_of_a_device(tmp_path, monkeypatch, capsys):
  argv = tiny_runs.tool('convert', input=tmp_path / 'a', output=tmp_path / 'b.jsonl')
  monkeypatch.setattr(convert, 'run', lambda command: jnp.zeros(10**15))
  assert 'does not suffice (RESOURCE_EXHAUSTED' in refusal(argv, capsys)
  # Any other error of the runtime is our fault, and keeps its traceback.
  monkeypatch.setattr(convert, 'run', lambda command: fail())
  with pytest.raises(jax.errors.JaxRuntimeError):
    run(argv)


def fail():
  raise jax.errors.JaxRuntimeError('INTERNAL: something else')


def test_gzip_of_something_else(tmp_path, capsys):
  file = tmp_path / 'mine.jsonl.gz'
  file.write_bytes(line(record(0)))
  said = refusal(training(tmp_path / 'work', file), capsys)
  assert str(file) in said and 'gzip' in said
  file.write_bytes(gzip.compress(b''))
  said = refusal(training(tmp_path / 'work', file), capsys)
  assert 'holds no rows' in said
