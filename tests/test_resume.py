"""A run that was stopped gives, bit for bit, what an uninterrupted one gives."""

import json
import os
import random
import signal
import time

import pytest
import tiny_runs
from often import often
from tiny_runs import BASE, arguments, promised, results, run

from prm_jax import exports, files
from prm_jax.jobs import train as job

TINY = {**tiny_runs.TINY, 'optimizer.horizon': 30, 'train.steps': 9}


def argv(workdir, **overrides):
  return arguments(workdir, tiny=TINY, **overrides)


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
  """An uninterrupted run, and what it promises."""
  work = tmp_path_factory.mktemp('straight') / 'work'
  assert run(argv(work)) == 0
  return promised(work)


def saved(work):
  return sorted(int(p.name) for p in (work / 'checkpoints').iterdir())


def signal_at(step, monkeypatch, number=signal.SIGTERM):
  """Sends this process a signal while the step of that number is under way."""
  note = job.Run._note

  def noted(self, waiting, window):
    note(self, waiting, window)
    if waiting[0] == step:
      os.kill(os.getpid(), number)

  monkeypatch.setattr(job.Run, '_note', noted)


@pytest.mark.parametrize('step', often([0, 4, 5], 4))
def test_sigterm_saves_and_resumes(step, straight, tmp_path, monkeypatch, capsys):
  """Before, at and after a logged step: sums since the last one survive."""
  with monkeypatch.context() as patch:
    signal_at(step, patch)
    assert run(argv(tmp_path)) == 75
  said = capsys.readouterr().err.splitlines()[-1]
  assert 'SIGTERM' in said and 'the same command' in said
  stopped = saved(tmp_path)
  assert len(stopped) == 1 and 0 < stopped[0] < 9
  assert not (tmp_path / 'results.json').exists()
  assert run(argv(tmp_path)) == 0
  assert f'after step {stopped[0]}' in capsys.readouterr().err
  assert promised(tmp_path) == straight


@pytest.mark.slow
def test_sigint_is_the_same(straight, tmp_path, monkeypatch):
  with monkeypatch.context() as patch:
    signal_at(3, patch, signal.SIGINT)
    assert run(argv(tmp_path)) == 75
  assert run(argv(tmp_path)) == 0
  assert promised(tmp_path) == straight


class Killed(BaseException):
  """Stands for a kill: nothing that handles errors sees it."""


def kill_in(patch, owner, name, *, call=1, after=False):
  """Makes the call of that number die, before or after it did its work."""
  original = getattr(owner, name)
  calls = [0]

  def dies(*args, **kwargs):
    calls[0] += 1
    if calls[0] < call:
      return original(*args, **kwargs)
    if after:
      original(*args, **kwargs)
    raise Killed

  patch.setattr(owner, name, dies)


PLACES = {
  'in a step': (job.Run, '_note', {'call': 6}),
  'before a save': (job.checkpoint.Checkpointer, 'save', {'call': 2}),
  'after a save': (job.checkpoint.Checkpointer, 'save', {'call': 2, 'after': True}),
  'inside a save': (job.checkpoint, '_describe', {'call': 2}),
  'after a logged row': (job.writer.MetricWriter, 'write', {'call': 3, 'after': True}),
  'before the export': (exports, 'save_scorer', {}),
  'after the export': (exports, 'save_scorer', {'after': True}),
  'in evaluation': (job.measure.suite, 'evaluate', {}),
  'before results': (job.files.Workdir, 'write_results', {}),
}


@pytest.mark.parametrize('place', often(PLACES, 'in a step', 'inside a save'))
def test_dying_anywhere(place, straight, tmp_path, monkeypatch):
  owner, name, how = PLACES[place]
  every = {'checkpoint__every_steps': 3}  # not where a row is logged
  with monkeypatch.context() as patch, pytest.raises(Killed):
    kill_in(patch, owner, name, **how)
    run(argv(tmp_path, **every))
  assert not (tmp_path / 'results.json').exists()
  assert run(argv(tmp_path, **every)) == 0
  assert promised(tmp_path) == straight


@pytest.mark.slow
def test_best_parameters_survive(tmp_path, monkeypatch):
  best = {
    'train__use': 'best',
    'train__validate_every': 2,
    'data__evaluate': '',
    'checkpoint__every_steps': 3,
  }
  assert run(argv(tmp_path / 'straight', **best)) == 0
  for step in (4, 7):
    work = tmp_path / f'killed-{step}'
    with monkeypatch.context() as patch, pytest.raises(Killed):
      kill_in(patch, job.Run, '_note', call=step)
      run(argv(work, **best))
    assert run(argv(work, **best)) == 0
    assert promised(work) == promised(tmp_path / 'straight')


def test_damaged_newest_checkpoint(straight, tmp_path, monkeypatch, capsys):
  every = {'checkpoint__every_steps': 3}
  with monkeypatch.context() as patch, pytest.raises(Killed):
    kill_in(patch, job.Run, 'finish')
    run(argv(tmp_path, **every))
  assert saved(tmp_path) == [3, 6, 9]
  for file in (tmp_path / 'checkpoints' / '00000009' / 'state').rglob('*'):
    if file.is_file():
      file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
  capsys.readouterr()
  assert run(argv(tmp_path, **every)) == 0
  said = capsys.readouterr().err
  assert '00000009 is damaged' in said and 'step 6 is used' in said
  assert promised(tmp_path) == straight


def test_no_sound_checkpoint_left(tmp_path, monkeypatch, capsys):
  with monkeypatch.context() as patch, pytest.raises(Killed):
    kill_in(patch, job.Run, 'finish')
    run(argv(tmp_path))
  (tmp_path / 'checkpoints' / '00000009' / 'extra.json').write_text('{')
  said = tiny_runs.refusal(argv(tmp_path), capsys)
  assert 'no sound checkpoint is left' in said and 'start over' in said


def test_other_config_is_refused_by_name(straight, tmp_path, capsys):
  assert run(argv(tmp_path)) == 0
  before = tiny_runs.contents(tmp_path)
  for key, value in {
    'train.batch_size': 16, 'seed': 1, 'optimizer.peak_lr': 0.1, 'train.steps': 8,
  }.items():  # fmt: skip
    said = tiny_runs.refusal(argv(tmp_path, **{key: value}), capsys)
    assert f'{key}=' in said and f'now it is {value}' in said and '--workdir' in said
  assert tiny_runs.contents(tmp_path) == before
  # These do not make it another run.
  for key, value in {
    'parallel.fsdp': 2, 'logging.every_steps': 1, 'profile': '1:2', 'plan_only': True,
  }.items():  # fmt: skip
    assert run(argv(tmp_path, **{key: value})) == 0
    assert 'is complete' in capsys.readouterr().err


@pytest.mark.slow
def test_steps_may_grow(tmp_path, capsys):
  assert run(argv(tmp_path)) == 0
  assert 'world.n_train=72' in tiny_runs.refusal(
    argv(tmp_path, train__steps=12), capsys
  )
  assert run(argv(tmp_path, world__n_train=72, train__steps=12)) == 0
  assert 'after step 9' in capsys.readouterr().err
  assert results(tmp_path)['provenance']['steps'] == 12
  assert run(argv(tmp_path / 'b', world__n_train=72, train__steps=12)) == 0
  assert promised(tmp_path)['parameters'] == promised(tmp_path / 'b')['parameters']


# Real processes.

LONG = {
  **tiny_runs.TINY,
  'train.steps': 200,
  'logging.every_steps': 10,
  'checkpoint.every_steps': 10,
  'train.validate_every': 50,
  'data.pools': 'heldout=world:heldout',
  'evaluate.resamples': 2000,
}


def long_argv(workdir):
  return arguments(workdir, config=BASE, tiny=LONG)


def wait_for(condition, process, timeout=300):
  """Waits until a file says so; the process must still be alive then."""
  end = time.monotonic() + timeout
  while time.monotonic() < end and process.poll() is None:
    if condition():
      return
    time.sleep(0.002)
  raise AssertionError(f'never met, exit code {process.poll()}')


def newest(work):
  return max((int(p.name) for p in work.glob('checkpoints/[0-9]*')), default=0)


def logged(work):
  file = work / 'metrics.jsonl'
  return len(file.read_bytes().splitlines()) if file.exists() else 0


def unfinished(work):
  """Numbers of the checkpoints that are being written."""
  folders = work.glob('checkpoints/[0-9]*')
  return [int(p.name) for p in folders if not (p / 'commit.json').exists()]


# Where a run stands, seen from outside; `after` is a random number of steps.
MOMENTS = {
  'steps': lambda work, base, after: logged(work) > (base + after) // 10,
  'save': lambda work, base, after: any(n > base + after for n in unfinished(work)),
  'later steps': lambda work, base, after: newest(work) >= base + after,
  'near the end': lambda work, base, after: newest(work) >= 200 - after // 2,
  'evaluation': lambda work, base, after: (work / 'scorer' / 'spec.json').exists(),
}


@pytest.mark.slow
def test_kill_9_at_five_random_moments_of_one_run(tmp_path):
  """Each kind of moment once, at a step and after a delay that are drawn anew."""
  seed = time.time_ns()
  draw = random.Random(seed)
  straight, work = tmp_path / 'straight', tmp_path / 'killed'
  code, err = tiny_runs.finish(tiny_runs.start(long_argv(straight)))
  assert code == 0, err
  exported = (straight / 'scorer' / 'spec.json').stat().st_mtime
  evaluating = (straight / 'results.json').stat().st_mtime - exported
  for name, reached in MOMENTS.items():
    base, after = newest(work), draw.randrange(10, 40)
    process = tiny_runs.start(long_argv(work))
    wait_for(lambda: reached(work, base, after), process)  # noqa: B023
    longest = {'save': 0.01, 'evaluation': 0.6 * evaluating}.get(name, 0.05)
    time.sleep(draw.uniform(0, longest))
    process.send_signal(signal.SIGKILL)
    assert tiny_runs.finish(process)[0] == -9, (name, seed)
    assert not (work / 'results.json').exists()
  code, err = tiny_runs.finish(tiny_runs.start(long_argv(work)))
  assert code == 0, err
  assert promised(work) == promised(straight), seed


@pytest.mark.slow
@pytest.mark.parametrize('moment', ['steps', 'evaluation'])
def test_sigterm_of_a_process(moment, tmp_path):
  work = tmp_path / 'work'
  process = tiny_runs.start(long_argv(work))
  wait_for(lambda: MOMENTS[moment](work, 0, 20), process)
  process.send_signal(signal.SIGTERM)
  code, err = tiny_runs.finish(process)
  assert code == 75, err
  assert 'Traceback' not in err
  assert 'SIGTERM' in err.splitlines()[-1]
  code, err = tiny_runs.finish(tiny_runs.start(long_argv(work)))
  assert code == 0, err
  rows = [json.loads(x) for x in (work / 'metrics.jsonl').read_text().splitlines()]
  assert [r['step'] for r in rows] == list(range(10, 201, 10))


@pytest.mark.slow
def test_second_process_in_the_same_workdir(tmp_path):
  with files.open_workdir(str(tmp_path), {}):
    code, err = tiny_runs.finish(tiny_runs.start(argv(tmp_path)))
  assert code == 2 and 'another job is running' in err.splitlines()[-1]
  assert tiny_runs.finish(tiny_runs.start(argv(tmp_path)))[0] == 0
