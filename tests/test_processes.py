"""Training in several processes: the same numbers, and no silent end.

The processes are real ones, each with simulated devices, on the loopback interface.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tiny_checkpoints
import tiny_runs
from tiny_runs import BASE, ROOT, arguments, environment, promised

from prm_jax import exports
from prm_jax.errors import PeerLost, UserError
from prm_jax.parallel import supervisor
from prm_jax.parallel.processes import Processes, resolve

TINY = {
  **tiny_runs.TINY,
  **tiny_runs.BARE,
  'model.n_heads': 8,
  'model.n_kv_heads': 2,
  'train.steps': 50,
  'logging.every_steps': 1,
  'optimizer.horizon': 60,
}
LOST = 20  # seconds of silence


def free_port():
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    return s.getsockname()[1]


class Group:
  """The same command in `n` processes of `devices` each."""

  def __init__(
    self, workdir, n, devices, environ=None, present=None, keys=TINY, **overrides
  ):
    tiny = {**keys, **{k.replace('__', '.'): v for k, v in overrides.items()}}
    if n > 1:
      tiny |= {
        'parallel.coordinator': f'127.0.0.1:{free_port()}',
        'parallel.processes': n,
        'parallel.lost_seconds': LOST,
      }
    words = arguments(workdir, config=BASE, tiny=tiny)[1:]
    shared = {**environment(devices), **(environ or {})}
    self.processes = [
      subprocess.Popen(
        [sys.executable, '-m', 'prm_jax.main', *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={**shared, 'PRM_JAX_PROCESS_ID': str(i)},
      )
      for i in (range(n) if present is None else present)
    ]  # fmt: skip

  def finish(self, timeout=300):
    """[(exit code, standard error)] of all."""
    try:
      told = [p.communicate(timeout=timeout)[1] for p in self.processes]
    finally:
      for p in self.processes:
        p.kill()
    return [(p.returncode, text) for p, text in zip(self.processes, told, strict=True)]


def train(workdir, n, devices, **overrides):
  """Runs to the end; what every process said."""
  ended = Group(workdir, n, devices, **overrides).finish()
  assert [code for code, _ in ended] == [0] * n, ended
  return [text for _, text in ended]


def curve(workdir):
  rows = [json.loads(x) for x in (workdir / 'metrics.jsonl').read_text().splitlines()]
  return np.array([r['train/loss'] for r in rows])


def wait_until(condition, group, timeout=120):
  end = time.monotonic() + timeout
  while not condition():
    over = time.monotonic() > end
    if over or any(p.poll() is not None for p in group.processes):
      for p in group.processes:
        p.kill()
      said = '\n'.join(text[-3000:] for _, text in group.finish(30))
      pytest.fail(f'{"too late" if over else "ended before"}: {said}')
    time.sleep(0.01)


def child_of(process):
  """The job under a command: the child of its own that it waits for."""
  path = f'/proc/{process.pid}/task/{process.pid}/children'
  with open(path) as file:
    return int(file.read().split()[0])


def steps_logged(workdir):
  file = workdir / 'metrics.jsonl'
  return len(file.read_bytes().splitlines()) if file.exists() else 0


# Light.


def test_processes_are_resolved():
  asked = Processes(coordinator='host:1234')
  found = resolve(asked, {'SLURM_PROCID': '1', 'SLURM_NTASKS': '4'})
  assert (found.process_id, found.processes) == (1, 4)
  ours = {'PRM_JAX_PROCESS_ID': '2', 'SLURM_PROCID': '1', 'SLURM_NTASKS': '4'}
  assert resolve(asked, ours).name == 'process 2 of 4'
  assert resolve(Processes(), ours) == Processes()  # nothing is started by itself
  assert resolve(Processes(coordinator='auto'), {}).name == 'this process'


@pytest.mark.parametrize(
  ('asked', 'named'),
  [
    ({'processes': 2}, 'parallel.coordinator'),
    ({'coordinator': 'host'}, 'host:port'),
    ({'coordinator': 'host:1'}, 'parallel.processes'),
    ({'coordinator': 'host:1', 'processes': 2}, 'PRM_JAX_PROCESS_ID'),
    ({'coordinator': 'host:1', 'processes': 2, 'process_id': 2}, 'process_id=2'),
    ({'coordinator': 'host:1', 'start_seconds': 0}, 'parallel.start_seconds'),
  ],
)
def test_settings_that_do_not_fit_are_named(asked, named):
  with pytest.raises(UserError, match=re.escape(named)):
    resolve(Processes(**asked), {})


def test_how_a_child_ended():
  among = Processes('host:1', 4, 2)
  died = 'The following tasks are unhealthy (stopped sending heartbeats):\n1\n3\nThe'
  code, text = supervisor.verdict(-6, died, among)
  assert code == PeerLost.exit_code and text.startswith('process 2 of 4: process 1, 3')
  gloo = 'JaxRuntimeError: UNKNOWN: Gloo all-reduce failed: Connection closed by peer'
  assert supervisor.verdict(1, gloo, among)[0] == PeerLost.exit_code
  late = 'most likely indicates that another task died\nRPC: /x/RegisterTask'
  assert 'parallel.start_seconds=90' in supervisor.verdict(-6, late, among)[1]
  assert supervisor.verdict(1, 'ZeroDivisionError', among) == (1, '')
  assert supervisor.verdict(2, gloo, among) == (2, '')
  code, text = supervisor.verdict(-9, '', among)
  assert code == 1 and 'SIGKILL' in text and 'memory' in text


def test_jobs_that_are_divided_otherwise(tmp_path, capsys):
  words = {'parallel.coordinator': 'h:1', 'parallel.processes': 2}
  words['parallel.process_id'] = 0
  said = tiny_runs.refusal(arguments(tmp_path, job='rollout', **words), capsys)
  assert 'shard=i/n' in said
  said = tiny_runs.refusal(
    arguments(tmp_path, **words, **{'parallel.mapper': 'pmap'}), capsys
  )
  assert 'parallel.mapper' in said


# Real processes.


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  """The curve of one process with one device."""
  work = tmp_path_factory.mktemp('alone') / 'work'
  train(work, 1, 1)
  return curve(work)


MESHES = {
  'data': {},
  'fsdp': {'parallel__fsdp': 8},
  'tensor': {'parallel__tensor': 8},
  'all three': {'parallel__fsdp': 2, 'parallel__tensor': 2},
  'accumulation': {
    'parallel__fsdp': 4,
    'train__accumulation': 2,
    'train__batch_size': 16,
  },
}


@pytest.mark.slow
@pytest.mark.parametrize('mesh', MESHES)
def test_the_same_curve(mesh, alone, tmp_path):
  one, two = tmp_path / 'one', tmp_path / 'two'
  train(one, 1, 8, **MESHES[mesh])
  said = train(two, 2, 4, **MESHES[mesh])
  assert len(curve(two)) == 50
  np.testing.assert_allclose(curve(two), curve(one), rtol=1e-5)
  if mesh != 'accumulation':
    np.testing.assert_allclose(curve(two), alone, rtol=1e-5)
  assert 'parameters' in said[0] and 'parameters' not in said[1]  # one speaks


@pytest.mark.slow
def test_low_rank_updates_of_a_checkpoint(tmp_path):
  """The frozen weights are read by both processes, onto the shards of each."""
  keys = {k: v for k, v in TINY.items() if not k.startswith('model.')}
  keys |= {
    'model.init_from': tiny_checkpoints.write(tmp_path / 'model'),
    'model.rope_theta': 10000.0,
    'model.scan_layers': True,
    'model.frozen_dtype': 'bfloat16',
    'lora.rank': 4,
    'lora.dropout': 0.1,
    'optimizer.warmup_steps': 0,
    'train.steps': 20,
    'world.n_train': 160,  # it follows train.steps otherwise
    'parallel.fsdp': 4,
  }
  one, two = tmp_path / 'one', tmp_path / 'two'
  train(one, 1, 8, keys=keys)
  train(two, 2, 4, keys=keys)
  np.testing.assert_allclose(curve(two), curve(one), rtol=1e-5)
  commits = [max((w / 'checkpoints').iterdir()) / 'commit.json' for w in (one, two)]
  for commit in commits:
    held = commit.read_text()
    assert 'lora_a_DR' in held and 'embed_VD' not in held
  merged = [exports.load_scorer(w / 'scorer')[1] for w in (one, two)]
  for a, b in zip(*map(jax.tree.leaves, merged), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)
  # Two processes take up what one saved, on another mesh.
  more = keys | {'train.steps': 24, 'parallel.tensor': 2, 'parallel.fsdp': 2}
  assert 'after step 20' in train(one, 2, 4, keys=more)[0]


@pytest.mark.slow
def test_validation_and_evaluation_by_the_first(tmp_path):
  full = {
    'train__steps': 6,
    'train__validate_every': 3,
    'train__use': 'best',
    'data__validation': 'world:validation',
    'data__evaluate': 'heldout=world:heldout',
    'report': True,
  }
  train(tmp_path / 'one', 1, 8, **full)
  train(tmp_path / 'two', 2, 4, **full)
  one, two = (tiny_runs.results(tmp_path / name) for name in ('one', 'two'))
  assert one['metrics'].keys() == two['metrics'].keys()
  for name, metric in one['metrics'].items():
    assert metric['value'] == pytest.approx(two['metrics'][name]['value'], rel=1e-4)
  assert (tmp_path / 'two' / 'report.html').exists()
  assert train(tmp_path / 'two', 2, 4, **full)[0].count('is complete') == 1


@pytest.mark.slow
def test_another_mesh_and_number_of_processes(tmp_path):
  """30 steps in two processes, 10 in one, 10 in two again, on other meshes."""
  straight, work = tmp_path / 'straight', tmp_path / 'work'
  same = {'world__n_train': 400}  # it follows train.steps otherwise
  train(straight, 1, 8, **same)
  train(work, 2, 4, **same, train__steps=30, parallel__fsdp=4)
  train(work, 1, 4, **same, train__steps=40, parallel__tensor=2)
  last = {'train__steps': 50, 'parallel__fsdp': 2, 'parallel__tensor': 4}
  said = train(work, 2, 4, **same, **last)
  assert 'after step 40' in said[0]
  np.testing.assert_allclose(curve(work), curve(straight), rtol=1e-5)


LONG = {'train__steps': 20000, 'optimizer__horizon': 20000}


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize('which', [0, 1])
def test_a_signal_to_one_stops_all(which, number, tmp_path):
  group = Group(tmp_path, 2, 2, **LONG)
  wait_until(lambda: steps_logged(tmp_path) > 5, group)
  group.processes[which].send_signal(number)
  ended = group.finish(60)
  assert [code for code, _ in ended] == [75, 75], ended
  steps = {re.search(r'after step (\d+), the state is saved', t)[1] for _, t in ended}
  assert len(steps) == 1
  step = int(steps.pop())
  assert (tmp_path / 'checkpoints' / f'{step:08d}' / 'commit.json').exists()
  said = Group(tmp_path, 2, 2, **{**LONG, 'plan_only': True}).finish(120)
  assert [code for code, _ in said] == [0, 0]


@pytest.mark.slow
def test_preempted_and_resumed(tmp_path):
  every = {'train__steps': 50, 'checkpoint__every_steps': 20}
  straight, work = tmp_path / 'straight', tmp_path / 'work'
  train(straight, 2, 2, **every)
  group = Group(work, 2, 2, **every)
  wait_until(lambda: steps_logged(work) > 8, group)
  group.processes[1].send_signal(signal.SIGTERM)
  assert [code for code, _ in group.finish(60)] == [75, 75]
  said = train(work, 2, 2, **every)
  assert 'goes on after step' in said[0]
  assert promised(work) == promised(straight)


@pytest.mark.slow
@pytest.mark.parametrize('which', [0, 1])
@pytest.mark.parametrize('how', ['kill', 'kill the job under it', 'stop'])
def test_a_peer_that_dies_or_falls_silent(how, which, tmp_path):
  group = Group(tmp_path, 2, 2, **LONG, checkpoint__every_steps=10)
  wait_until(lambda: steps_logged(tmp_path) > 25, group)
  began = time.monotonic()
  victim, other = group.processes[which], group.processes[1 - which]
  child = child_of(victim)
  if how == 'kill':
    victim.kill()
  else:
    os.kill(child, signal.SIGKILL if how != 'stop' else signal.SIGSTOP)
  try:
    _, said = other.communicate(timeout=120)
  finally:
    if how == 'stop':
      os.kill(child, signal.SIGKILL)
    other.kill()
  assert other.returncode == 75, said
  last = said.splitlines()[-1]
  assert last.startswith(f'prm_jax: process {1 - which} of 2: ')
  assert 'missing, died or fell silent' in last and 'the same command' in last
  assert time.monotonic() - began < 120
  code, text = group.finish(30)[which]
  if how == 'kill the job under it':
    assert code == 1 and 'SIGKILL' in text
  # What was saved is there, and the same command goes on from it.
  group = Group(tmp_path, 2, 2, **LONG, checkpoint__every_steps=10)
  before = steps_logged(tmp_path)
  wait_until(lambda: steps_logged(tmp_path) > before + 5, group)
  group.processes[0].terminate()
  said = group.finish(60)
  assert [code for code, _ in said] == [75, 75]
  assert 'goes on after step' in said[0][1]


@pytest.mark.slow
@pytest.mark.parametrize('present', [0, 1])
def test_a_peer_that_never_comes(present, tmp_path):
  began = time.monotonic()
  group = Group(tmp_path, 2, 4, present=[present], parallel__start_seconds=10)
  ((code, said),) = group.finish(120)
  assert code == 75 and time.monotonic() - began < 120
  last = said.splitlines()[-1]
  assert last.startswith(f'prm_jax: process {present} of 2: not all processes came')
  assert 'parallel.coordinator' in last and 'parallel.start_seconds=10' in last


@pytest.mark.slow
def test_a_mistake_ends_all(tmp_path):
  """What only the first process meets is what all say."""
  (tmp_path / 'work').write_text('a file, where a folder must be')
  ended = Group(tmp_path / 'work', 2, 4).finish(120)
  assert [code for code, _ in ended] == [2, 2], ended
  assert all('cannot be used as a workdir' in text for _, text in ended)
  ended = Group(tmp_path / 'b', 2, 4, parallel__tensor=16).finish(120)
  assert [code for code, _ in ended] == [2, 2]
  ended = Group(tmp_path / 'c', 2, 4, train__batch_size=12).finish(120)
  assert all('batch_size = 12' in text for _, text in ended), ended
  ended = Group(tmp_path / 'd', 2, 4, model__n_heads=6, parallel__tensor=4).finish(120)
  assert all('model.n_heads = 6' in text for _, text in ended), ended


PARTING = """
import os, sys, time
from prm_jax.parallel import distributed
from prm_jax.parallel.processes import Processes

number, port, delay = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
distributed.start(Processes(f'127.0.0.1:{port}', 2, number, lost_seconds=20))
time.sleep(delay)
distributed.part(20)
os._exit(2)
"""


@pytest.mark.slow
@pytest.mark.parametrize('delays', [(0, 3), (3, 0)])
def test_who_meets_a_mistake_first_waits_for_the_other(delays):
  """Else the other one would be told of a lost process, not of the mistake."""
  port = str(free_port())
  words = [sys.executable, '-c', PARTING]
  started = [
    subprocess.Popen(
      [*words, str(i), port, str(delays[i])],
      stderr=subprocess.PIPE, text=True, env=environment(1), cwd=ROOT,
    )
    for i in (0, 1)
  ]  # fmt: skip
  ended = [tiny_runs.finish(p, 120) for p in started]
  assert [code for code, _ in ended] == [2, 2], ended
