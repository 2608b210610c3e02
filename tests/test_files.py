"""The workdir: whole files, one job at a time, one config a run."""

import json
import os
import subprocess
import sys
import threading

import pytest

from prm_jax import files
from prm_jax.errors import UserError

CONFIG = {
  'train.steps': 10,
  'train.batch_size': 8,
  'optimizer.horizon': 0,
  'parallel.data': 0,
  'parallel.mapper': 'jit',
  'logging.every_steps': 5,
  'profile': '',
  'plan_only': False,
  'world.shared_belief': (0.6, 0.75),
}


def begun(path, config=CONFIG):
  """A workdir in which a run has left something."""
  with files.open_workdir(str(path), config) as work:
    (work / 'metrics.jsonl').write_text('')
  return str(path)


def test_writes_config_and_takes_it_up_again(tmp_path):
  path = begun(tmp_path / 'deep' / 'work')
  with files.open_workdir(path, CONFIG) as work:
    held = work.read_json('config.json')
  assert held['train.steps'] == 10 and held['world.shared_belief'] == [0.6, 0.75]
  assert work.read_json('results.json') is None


@pytest.mark.parametrize(
  'change',
  [
    {'parallel.data': 2},
    {'parallel.mapper': 'pmap'},
    {'logging.every_steps': 1},
    {'profile': '1:2'},
    {'plan_only': True},
    {'shard': 3},
    {'shard.index': 3},
  ],
)
def test_what_may_change(change, tmp_path):
  path = begun(tmp_path / 'work')
  with files.open_workdir(path, {**CONFIG, **change}):
    pass


@pytest.mark.parametrize(
  'change, words',
  [
    ({'train.batch_size': 16}, ('train.batch_size=8', 'now it is 16')),
    ({'train.steps': 20}, ('train.steps=10', '20')),
    ({'new.key': 1}, ('new.key',)),
    ({'profiles': 'x'}, ('profiles',)),
    ({'world.shared_belief': (0.6, 0.8)}, ('world.shared_belief',)),
  ],
)
def test_what_may_not_change_is_refused_by_name(change, words, tmp_path):
  path = begun(tmp_path / 'work')
  with (
    pytest.raises(UserError, match='another --workdir') as e,
    files.open_workdir(path, {**CONFIG, **change}),
  ):
    pass
  for word in (path, *words):
    assert word in str(e.value)
  assert (
    json.loads((tmp_path / 'work' / 'config.json').read_text())['train.steps'] == 10
  )


def test_steps_grow_only_with_a_horizon_of_their_own(tmp_path):
  own = {**CONFIG, 'optimizer.horizon': 100}
  path = begun(tmp_path / 'work', own)
  with files.open_workdir(path, {**own, 'train.steps': 20}):
    pass
  with (
    pytest.raises(UserError, match=r'train\.steps=20'),
    files.open_workdir(path, {**own, 'train.steps': 15}),
  ):
    pass


def test_steps_grow_on_the_same_rows_of_the_world(tmp_path):
  own = {
    **CONFIG, 'optimizer.horizon': 100, 'data.train': 'tr=world:train@2',
    'world.n_train': 0,
  }  # fmt: skip
  path = begun(tmp_path / 'work', own)
  longer = {**own, 'train.steps': 20}
  for other in (longer, {**longer, 'world.n_train': 160}):
    with (
      pytest.raises(UserError, match=r'from 10 to 20 .* give world\.n_train=80'),
      files.open_workdir(path, other),
    ):
      pass
  with files.open_workdir(path, {**longer, 'world.n_train': 80}):
    pass
  # Rows of a file do not follow the steps.
  path = begun(tmp_path / 'file', {**own, 'data.train': 'my_world.jsonl'})
  with files.open_workdir(path, {**longer, 'data.train': 'my_world.jsonl'}):
    pass


def test_a_run_that_never_began_binds_nothing(tmp_path):
  path = str(tmp_path / 'work')
  with pytest.raises(UserError), files.open_workdir(path, CONFIG) as work:
    (work / 'cache' / 'x').mkdir(parents=True)
    raise UserError('train.batch_size does not divide.')
  with files.open_workdir(path, {**CONFIG, 'train.batch_size': 16}) as work:
    assert work.read_json('config.json')['train.batch_size'] == 16


def test_second_job_is_refused(tmp_path):
  path = str(tmp_path / 'work')
  seen = []

  def second():
    try:
      with files.open_workdir(path, CONFIG):
        seen.append('opened')
    except UserError as e:
      seen.append(str(e))

  with files.open_workdir(path, CONFIG):
    thread = threading.Thread(target=second)
    thread.start()
    thread.join()
  assert 'another job is running' in seen[0] and path in seen[0]
  second()
  assert seen[1] == 'opened'


def test_the_lock_goes_with_its_process(tmp_path):
  """A killed job leaves no lock that a person would have to remove."""
  path = str(tmp_path / 'work')
  code = (
    'import sys, os, signal\n'
    'from prm_jax import files\n'
    f'with files.open_workdir({path!r}, {{}}):\n'
    '  os.kill(os.getpid(), signal.SIGKILL)\n'
  )
  done = subprocess.run([sys.executable, '-c', code], check=False)
  assert done.returncode == -9
  with files.open_workdir(path, {}):
    pass


def test_a_kill_in_the_middle_of_a_file_leaves_nothing(tmp_path):
  """Not of a file that is never written again, either; what is whole stays."""
  path = str(tmp_path / 'work')
  code = (
    'import os, signal\n'
    'from prm_jax import files\n'
    'def rows():\n'
    '  yield {"a": 1}\n'
    '  os.kill(os.getpid(), signal.SIGKILL)\n'
    f'with files.open_workdir({path!r}, {{"seed": 0}}) as work:\n'
    '  work.write_samples("whole", [{"a": 1}])\n'
    '  work.write_samples("half", rows())\n'
  )
  child = subprocess.Popen([sys.executable, '-c', code])
  assert child.wait() == -9
  left = {'whole.jsonl.gz', f'.half.jsonl.gz.{child.pid}.tmp'}
  samples = tmp_path / 'work' / 'samples'
  assert {p.name for p in samples.iterdir()} == left
  with pytest.raises(UserError), files.open_workdir(path, {'seed': 1}):
    pass
  assert {p.name for p in samples.iterdir()} == left  # a refused run changes nothing
  with files.open_workdir(path, {'seed': 0}):
    assert [p.name for p in samples.iterdir()] == ['whole.jsonl.gz']


def test_what_another_job_is_writing_stays(tmp_path):
  """A study holds the workdirs of its runs, and those may outlive it."""
  begun(tmp_path)
  begun(tmp_path / 'runs' / 'a')
  mine, theirs = tmp_path / 'x', tmp_path / 'runs' / 'a' / 'scorer'
  for folder in (mine, theirs):
    folder.mkdir()
    (folder / '.spec.json.4711.tmp').write_text('{')
    (folder / '.notes.tmp').write_text('of a person')
  with files.open_workdir(str(tmp_path), CONFIG):
    assert [p.name for p in mine.iterdir()] == ['.notes.tmp']
    assert len(list(theirs.iterdir())) == 2


@pytest.mark.parametrize('where', ['work', 'work/inside'])
def test_a_file_in_its_place(where, tmp_path):
  (tmp_path / 'work').write_text('precious')
  path = str(tmp_path / where)
  with (
    pytest.raises(UserError, match='cannot be used as a workdir') as e,
    files.open_workdir(path, CONFIG),
  ):
    pass
  assert path in str(e.value) and '--workdir' in str(e.value)
  assert (tmp_path / 'work').read_text() == 'precious'


def test_damaged_config_is_named(tmp_path):
  path = begun(tmp_path / 'work')
  (tmp_path / 'work' / 'config.json').write_text('{"train.st')
  with (
    pytest.raises(UserError, match=r'config\.json'),
    files.open_workdir(path, CONFIG),
  ):
    pass


def test_results_have_the_promised_form(tmp_path):
  with files.open_workdir(str(tmp_path), {}) as work:
    metric = {'value': 0.5, 'low': None, 'high': None, 'n': 3}
    work.write_results(
      'train', {'heldout/steps/auroc': metric}, {'rows': 3}, {'seed': 0}, warnings=[]
    )
    work.write_samples('heldout', [{'id': 'a', 'text': 'ü'}])
    first = (tmp_path / 'samples' / 'heldout.jsonl.gz').read_bytes()
    work.write_samples('heldout', [{'id': 'a', 'text': 'ü'}])
    with pytest.raises(ValueError):
      work.write_json('bad.json', {'x': float('nan')})
  assert json.loads((tmp_path / 'results.json').read_text()) == {
    'schema_version': 1,
    'job': 'train',
    'metrics': {'heldout/steps/auroc': metric},
    'counters': {'rows': 3},
    'provenance': {'seed': 0},
    'warnings': [],
  }
  assert (tmp_path / 'samples' / 'heldout.jsonl.gz').read_bytes() == first
  assert not (tmp_path / 'bad.json').exists()


def test_provenance_names_versions_and_device():
  about = files.provenance('the command', 7, steps=3)
  assert (
    about['command'] == 'the command' and about['seed'] == 7 and about['steps'] == 3
  )
  assert set(about['libraries']) == set(files.LIBRARIES)
  assert about['libraries']['jax'][0].isdigit()
  assert 'cpu' in about['device'].lower()
  json.dumps(about, allow_nan=False)


def test_git_revision_is_that_of_this_tree(monkeypatch):
  revision = files.git_revision()
  assert revision == '' or len(revision.removesuffix('+changes')) == 12
  monkeypatch.setenv('PATH', os.devnull)
  assert files.git_revision() == ''


def test_scorer_folder(tmp_path):
  assert files.scorer_folder(str(tmp_path)) == str(tmp_path)
  (tmp_path / 'scorer').mkdir()
  assert files.scorer_folder(str(tmp_path)) == str(tmp_path / 'scorer')
