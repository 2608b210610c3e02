"""Saving, falling back, being killed, running out of space, moving to another mesh."""

import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from prm_jax import exports, specs, tensors
from prm_jax.checkpoint import Checkpointer, CheckpointPolicy
from prm_jax.errors import UserError
from prm_jax.formats import tokenizers
from prm_jax.models import lm, scorer
from prm_jax.specs import (
  HeadSpec,
  ModelSpec,
  PolicySpec,
  ScorerSpec,
  StepFormat,
  TextFormat,
)
from prm_jax.training import optimizer, state

ROOT = Path(__file__).resolve().parent.parent
MODEL = ModelSpec(
  260, n_layers=1, d_model=16, n_heads=2, n_kv_heads=2, head_dim=8, d_ff=32
)
SPEC = ScorerSpec(MODEL, HeadSpec(), StepFormat(), objective='bce')


@pytest.fixture(scope='module')
def train_state():
  tx, _ = optimizer.make(optimizer.OptimizerConfig())
  init_params = functools.partial(scorer.init, MODEL, HeadSpec())
  made = state.init(init_params, tx, jax.random.key(0))
  odd = jax.tree.map(lambda x: x / 3 if x.dtype == jnp.float32 else x, made)
  return odd.replace(step=jnp.int32(7))


def abstract(tree):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    assert x.dtype == y.dtype
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_round_trip_is_bit_exact(tmp_path, train_state):
  saver = Checkpointer(tmp_path)
  extra = {'best': 0.1 + 0.2, 'metrics_bytes': 123, 'name': 'é'}
  saver.save(7, train_state, extra)
  saver.save(8, train_state, extra)
  back = Checkpointer(tmp_path).restore(abstract(train_state))
  assert (back.step, back.extra, back.note, back.metric) == (8, extra, '', None)
  assert_same(back.state, train_state)


def test_nothing_saved_is_none(tmp_path, train_state):
  assert Checkpointer(tmp_path / 'none').restore(abstract(train_state)) is None
  assert Checkpointer(tmp_path / 'none').restore_best(abstract(train_state)) is None


def test_policy_rolls_by_time_and_keeps_by_step(tmp_path, train_state):
  now = [0.0]
  policy = CheckpointPolicy(every_seconds=10, every_steps=4, keep_last=2)
  saver = Checkpointer(tmp_path, policy, clock=lambda: now[0])
  small = {'x': jnp.arange(3)}
  saved = []
  for step in range(1, 12):
    now[0] += 6
    if saver.due(step):
      saver.save(step, small)
      saved.append(step)
  assert saved == [2, 4, 6, 8, 10]
  assert saver.steps() == [4, 6, 8, 10]
  assert not Checkpointer(tmp_path, CheckpointPolicy(every_seconds=0)).due(5)


def test_best_is_kept_apart(tmp_path):
  saver = Checkpointer(tmp_path)
  shape = {'x': jax.ShapeDtypeStruct((), jnp.float32)}
  for step, metric in ((1, 0.5), (2, 0.7), (3, 0.7), (4, float('nan')), (5, 0.6)):
    assert saver.save_best(step, {'x': jnp.float32(step)}, metric) == (step < 3)
  assert saver.best() == (2, 0.7) and saver.steps() == []
  best = saver.restore_best(shape)
  assert (float(best.state['x']), best.step, best.metric) == (2, 2, 0.7)
  # A run taken up before its best step meets an equal metric earlier: that one wins.
  assert saver.save_best(1, {'x': jnp.float32(1)}, 0.7)
  low = Checkpointer(tmp_path / 'low', CheckpointPolicy(best_mode='min'))
  won = [low.save_best(i, {'x': jnp.float32(i)}, m) for i, m in enumerate((3, 4, 2))]
  assert won == [True, False, True]


def cut(file):
  file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file):
  raw = bytearray(file.read_bytes())
  raw[len(raw) // 2] ^= 1
  file.write_bytes(bytes(raw))


def largest(folder):
  files = [f for f in (folder / 'state').rglob('*') if f.is_file()]
  return max(files, key=lambda f: f.stat().st_size)


@pytest.mark.parametrize(
  'damage',
  [
    lambda folder: cut(largest(folder)),
    lambda folder: flip(largest(folder)),
    lambda folder: largest(folder).unlink(),
    lambda folder: shutil.rmtree(folder / 'state'),
    lambda folder: cut(folder / 'extra.json'),
    lambda folder: (folder / 'commit.json').write_bytes(b'\x00garbage'),
    lambda folder: cut(folder / 'commit.json'),
    lambda folder: (folder / 'commit.json').unlink(),
  ],
  ids=['cut', 'flip', 'no_file', 'no_state', 'extra', 'garbage', 'half', 'no_commit'],
)  # fmt: skip
def test_damaged_newest_falls_back_and_says_so(tmp_path, damage):
  saver = Checkpointer(tmp_path)
  shape = {'x': jax.ShapeDtypeStruct((64,), jnp.float32)}
  for step in (10, 20):
    saver.save(step, {'x': jnp.arange(64.0) + step}, {'step': step})
  damage(tmp_path / '00000020')
  saver = Checkpointer(tmp_path)
  back = saver.restore(shape)
  assert back.step == 10 and back.extra == {'step': 10} and back.state['x'][0] == 10
  assert '00000020' in back.note and 'step 10 is used' in back.note
  saver.save(20, {'x': jnp.arange(64.0) + 20}, {'step': 20})
  assert saver.steps() == [10, 20]
  assert Checkpointer(tmp_path).restore(shape).note == ''


def test_all_damaged_is_refused_rather_than_started_over(tmp_path):
  saver = Checkpointer(tmp_path)
  saver.save(1, {'x': jnp.arange(64.0)})
  cut(largest(tmp_path / '00000001'))
  with pytest.raises(UserError, match='no sound checkpoint is left'):
    saver.restore({'x': jax.ShapeDtypeStruct((64,), jnp.float32)})


def test_state_of_another_config_is_refused_by_name(tmp_path):
  saver = Checkpointer(tmp_path)
  saver.save(1, {'a': {'w_DF': jnp.ones((2, 3))}})
  with pytest.raises(UserError, match=r'a\.w_DF is float32\[2, 3\] there and float32'):
    saver.restore({'a': {'w_DF': jax.ShapeDtypeStruct((2, 4), jnp.float32)}})


def mesh_of(data, fsdp):
  return jax.make_mesh(
    (data, fsdp), ('data', 'fsdp'), axis_types=(AxisType.Auto,) * 2,
    devices=jax.devices()[: data * fsdp],
  )  # fmt: skip


def test_restores_onto_another_mesh(tmp_path, train_state):
  assert jax.device_count() >= 8, 'conftest.py asks for 8 simulated devices'

  def placed(mesh):
    def one(x):
      split = x.ndim and x.shape[0] % mesh.shape['fsdp'] == 0
      return NamedSharding(mesh, PartitionSpec('fsdp') if split else PartitionSpec())

    return jax.tree.map(one, train_state)

  saver = Checkpointer(tmp_path)
  saver.save(3, jax.device_put(train_state, placed(mesh_of(1, 8))))
  for mesh in (mesh_of(2, 4), mesh_of(1, 1)):
    want = jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      train_state,
      placed(mesh),
    )
    back = saver.restore(want).state
    assert_same(back, train_state)
    assert back.params['decoder']['embed_VD'].sharding.mesh.shape == mesh.shape


SAVE_FOR_EVER = """
import sys, jax.numpy as jnp
from prm_jax.checkpoint import Checkpointer
saver = Checkpointer(sys.argv[1])
for step in range(1, 100000):
  saver.save(step, {'x': jnp.full((2000, 100), step, jnp.float32)}, {'step': step})
  print(step, flush=True)
"""


def start(code, *arguments):
  return subprocess.Popen(
    [sys.executable, '-c', code, *map(str, arguments)],
    cwd=ROOT, env={**os.environ, 'JAX_PLATFORMS': 'cpu'}, text=True,
    stdout=subprocess.PIPE, stderr=subprocess.PIPE,
  )  # fmt: skip


def test_kill_during_save_leaves_the_one_before(tmp_path):
  shape = {'x': jax.ShapeDtypeStruct((2000, 100), jnp.float32)}
  process = start(SAVE_FOR_EVER, tmp_path)
  rng = np.random.default_rng(0)
  last = int(process.stdout.readline())
  for _ in range(3):
    last = int(process.stdout.readline())
  time.sleep(rng.uniform(0, 0.1))
  process.send_signal(signal.SIGKILL)
  rest = process.communicate()[0].split()
  last = max([last, *map(int, rest)])
  back = Checkpointer(tmp_path).restore(shape)
  assert back.step in (last, last + 1)
  assert back.extra == {'step': back.step}
  assert (np.asarray(back.state['x']) == back.step).all()


def test_kill_at_every_stage_of_a_save(tmp_path, monkeypatch):
  """Whatever part of the files is there, only a commit makes a state count."""
  saver = Checkpointer(tmp_path)
  shape = {'x': jax.ShapeDtypeStruct((8,), jnp.float32)}
  saver.save(1, {'x': jnp.zeros(8)})
  saver.save(2, {'x': jnp.ones(8)})
  whole = tmp_path / '00000002'
  for n_files in range(len(list(whole.rglob('*')))):
    part = tmp_path / 'part'
    shutil.copytree(tmp_path, part, ignore=shutil.ignore_patterns('part'))
    for file in sorted((part / '00000002').rglob('*'), reverse=True)[n_files:]:
      if file.is_file() and file.name != 'commit.json':
        file.unlink()
    (part / '00000002' / 'commit.json').unlink()
    assert Checkpointer(part).restore(shape).step == 1
    shutil.rmtree(part)


FILL = """
import sys, jax, jax.numpy as jnp
from prm_jax.checkpoint import Checkpointer
from prm_jax.errors import UserError
saver = Checkpointer(sys.argv[1])
saver.save(1, {'x': jnp.arange(100.0)}, {'step': 1})
noise = jax.random.normal(jax.random.key(0), (1000, 1000))
try:
  saver.save(2, {'x': noise})
  print('saved')
except UserError as e:
  print(e)
back = Checkpointer(sys.argv[1]).restore({'x': jax.ShapeDtypeStruct((100,), 'float32')})
print(back.step, back.extra, repr(back.note))
print(sorted(__import__('os').listdir(sys.argv[1])))
"""


def can_mount():
  probe = ['unshare', '--mount', '--map-root-user', 'true']
  return bool(shutil.which('unshare')) and not subprocess.run(probe).returncode


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason='needs a mount namespace of its own')
def test_full_disk_is_one_sentence_and_older_states_stay(tmp_path):
  script = tmp_path / 'fill.py'
  script.write_text(FILL)
  disk = tmp_path / 'disk'
  disk.mkdir()
  line = f'mount -t tmpfs -o size=1m none {disk} && {sys.executable} {script} {disk}'
  done = subprocess.run(
    ['unshare', '--mount', '--map-root-user', 'sh', '-c', line],
    cwd=ROOT, capture_output=True, text=True, check=False,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)},
  )  # fmt: skip
  check_refused(done.stdout, 'No space left on device', done.stderr)


def test_a_file_too_large_is_one_sentence_and_older_states_stay(tmp_path):
  limit = 'import resource as r\nr.setrlimit(r.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n'
  out, err = start(limit + FILL, tmp_path).communicate()
  check_refused(out, 'File too large', err)


def check_refused(stdout, reason, stderr):
  lines = stdout.splitlines()
  assert len(lines) == 3, stdout + stderr
  assert f'the checkpoint of step 2 cannot be saved ({reason})' in lines[0]
  assert lines[1:] == ["1 {'step': 1} ''", "['00000001']"]


TWO = """
import sys, jax, numpy as np
jax.config.update('jax_num_cpu_devices', 2)
rank, port, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.distributed.initialize(f'localhost:{port}', num_processes=2, process_id=rank)
from jax.sharding import PartitionSpec
from prm_jax import checkpoint, exports
from prm_jax.formats import tokenizers
from prm_jax.parallel import distributed, mesh, sharding
from prm_jax.specs import HeadSpec, ModelSpec, ScorerSpec, StepFormat
from prm_jax.models import scorer, weights
spec = ScorerSpec(ModelSpec(264, 1, 16, 2, 2, 8, 32), HeadSpec(), StepFormat())
where = sharding.param_shardings(
  mesh.make_mesh(1, 2, 2), weights.declare(spec.model, spec.head)
)
params = jax.jit(lambda k: scorer.init(spec.model, spec.head, k), out_shardings=where)(
  jax.random.key(1)
)
slow = checkpoint.CheckpointPolicy(every_seconds=10)
saver = checkpoint.Checkpointer(folder + '/c', slow, clock=lambda: 0.0)
clock = iter([0.0, 20.0 * (1 - rank)])
other = checkpoint.Checkpointer(folder + '/c', slow, clock=lambda: next(clock))
assert not saver.due(1)
late = distributed.share(other.late())  # the clocks differ; process 0 is believed
assert late and other.due(1, late)
for step in (1, 2, 3):
  saver.save(step, params, {'step': step})
abstract = jax.tree.map(
  lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), params
)
assert saver.restore(abstract).step == 3
exports.save_scorer(folder + '/s', spec, params, tokenizers.load('bytes'))
jax.distributed.shutdown()
"""


@pytest.mark.slow
def test_two_processes_save_and_one_restores(tmp_path):
  with socket.socket() as s:
    s.bind(('localhost', 0))
    port = s.getsockname()[1]
  pair = [start(TWO, rank, port, tmp_path) for rank in (0, 1)]
  try:
    for process in pair:
      _, err = process.communicate(timeout=120)
      assert process.returncode == 0, err
  finally:
    for process in pair:
      process.kill()
  spec, params, _ = exports.load_scorer(tmp_path / 's')
  want = scorer.init(spec.model, spec.head, jax.random.key(1))
  for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(want)):
    np.testing.assert_allclose(a, b, rtol=1e-6)
  back = Checkpointer(tmp_path / 'c').restore(abstract(want))
  assert back.step == 3 and back.extra == {'step': 3}
  assert_same(jax.device_get(back.state), params)
  assert Checkpointer(tmp_path / 'c').steps() == [2, 3]


def test_a_file_in_the_way_is_one_sentence(tmp_path):
  (tmp_path / 'checkpoints').write_text('in the way')
  with pytest.raises(UserError, match='cannot be saved'):
    Checkpointer(tmp_path / 'checkpoints').save(1, {'x': jnp.ones(2)})


def test_tensors_are_safetensors(tmp_path):
  from safetensors.numpy import load_file, save_file

  tree = {'a': {'w_DF': jnp.arange(6.0).reshape(2, 3), 'n': jnp.int32(4)}}
  tensors.write(tmp_path / 'ours', tree)
  theirs = load_file(tmp_path / 'ours')
  np.testing.assert_array_equal(theirs['a/w_DF'], tree['a']['w_DF'])
  save_file(theirs, tmp_path / 'theirs', metadata={'format': 'np'})
  assert_same(tensors.read(tmp_path / 'theirs'), jax.device_get(tree))
  half = {'w': jnp.ones((3, 1), jnp.bfloat16) / 3}
  tensors.write(tmp_path / 'half', half)
  assert_same(tensors.read(tmp_path / 'half'), jax.device_get(half))


def test_model_hash_is_of_names_and_bytes():
  a = {'x': jnp.arange(3.0), 'y': jnp.zeros(2)}
  assert tensors.model_hash(a) == tensors.model_hash(dict(reversed(a.items())))
  for other in ({**a, 'y': jnp.zeros(2, jnp.int32)}, {'x': a['x'], 'z': a['y']}):
    assert tensors.model_hash(a) != tensors.model_hash(other)


@pytest.fixture
def exported(tmp_path):
  params = scorer.init(MODEL, SPEC.head, jax.random.key(1))
  digest = exports.save_scorer(tmp_path, SPEC, params, tokenizers.load('bytes'))
  return tmp_path, params, digest


def test_scorer_round_trip(exported):
  folder, params, digest = exported
  assert sorted(os.listdir(folder)) == ['model.safetensors', 'spec.json']
  spec, loaded, tokenizer = exports.load_scorer(folder)
  assert spec == SPEC and tensors.model_hash(loaded) == digest
  assert tokenizer.fingerprint == tokenizers.load('bytes').fingerprint
  assert_same(loaded, jax.device_get(params))


def test_scorer_with_a_trained_tokenizer(tmp_path):
  bpe = tokenizers.train_bpe(['one two one two'] * 9, 270, tmp_path / 't.json')
  params = scorer.init(MODEL, SPEC.head, jax.random.key(1))
  exports.save_scorer(tmp_path / 'scorer', SPEC, params, bpe)
  spec, _, tokenizer = exports.load_scorer(tmp_path / 'scorer')
  assert spec.tokenizer == 'tokenizer.json'
  assert tokenizer.encode('one two') == bpe.encode('one two')


def edit(folder, **changes):
  about = json.loads((folder / 'spec.json').read_text())
  (folder / 'spec.json').write_text(json.dumps({**about, **changes}))


@pytest.mark.parametrize(
  'damage, message',
  [
    (lambda f: (f / 'spec.json').unlink(), 'no spec.json there'),
    (lambda f: cut(f / 'spec.json'), 'not valid JSON'),
    (lambda f: edit(f, spec={'model': {}}), 'vocab_size'),
    (lambda f: (f / 'model.safetensors').unlink(), 'model.safetensors: cannot be read'),
    (lambda f: cut(f / 'model.safetensors'), 'not a sound safetensors file'),
    (lambda f: (f / 'model.safetensors').write_bytes(b'\xff' * 99), 'not a sound'),
    (lambda f: flip(f / 'model.safetensors'), 'another hash'),
    (lambda f: edit(f, tokenizer_fingerprint='0'), 'another fingerprint'),
  ],
)
def test_bad_export_is_refused(exported, damage, message):
  folder, _, _ = exported
  damage(folder)
  with pytest.raises(UserError, match=message):
    exports.load_scorer(folder)


@pytest.mark.parametrize(
  'path, value, message',
  [
    ('model.n_layers', 'two', "spec.model.n_layers='two' must be a whole number"),
    ('model.norm_eps', None, 'spec.model.norm_eps=None must be a number'),
    ('model.n_layers', 0, 'spec.model: model.n_layers is 0'),
    ('model', 'x', "spec.model is 'x'; it must be an object"),
    ('reduction', 3, 'spec.reduction=3 must be a text'),
    ('reduction', 'least', "spec.reduction='least' must be one of min, product"),
    ('step_value', 'tanh', "spec.step_value='tanh' must be one of logit"),
    ('step_value', 'softmax3', "spec.step_value='softmax3': 3 outputs"),
    ('step_format.position', 'after', "format.position='after' must be one of"),
  ],
)
def test_spec_edited_by_hand_names_the_key(exported, path, value, message):
  folder, _, _ = exported
  spec = specs.to_dict(SPEC)
  *sections, key = path.split('.')
  functools.reduce(dict.__getitem__, sections, spec)[key] = value
  edit(folder, spec=spec)
  with pytest.raises(UserError) as e:
    exports.load_scorer(folder)
  assert str(e.value).startswith(f'{folder}/spec.json: spec') and message in str(
    e.value
  )


def test_policy_round_trip(tmp_path):
  spec = PolicySpec(MODEL, TextFormat(separator=';', end='<eos>'))
  params = lm.init(MODEL, jax.random.key(2))
  digest = exports.save_policy(tmp_path, spec, params, tokenizers.load('bytes'))
  assert sorted(os.listdir(tmp_path)) == ['model.safetensors', 'spec.json']
  loaded, held, tokenizer = exports.load_policy(tmp_path)
  assert loaded == spec and tensors.model_hash(held) == digest
  assert tokenizer.token_id('<eos>') == 258
  assert_same(held, jax.device_get(params))


def test_the_other_kind_is_refused(exported, tmp_path_factory):
  folder, _, _ = exported
  with pytest.raises(UserError, match='holds a scorer, where a policy is needed'):
    exports.load_policy(folder)
  place = tmp_path_factory.mktemp('policy')
  spec = PolicySpec(MODEL, TextFormat())
  params = lm.init(MODEL, jax.random.key(2))
  exports.save_policy(place, spec, params, tokenizers.load('bytes'))
  with pytest.raises(UserError, match='holds a policy, where a scorer is needed'):
    exports.load_scorer(place)
  # A scorer exported before there were policies does not name its kind.
  about = json.loads((folder / 'spec.json').read_text())
  del about['kind']
  (folder / 'spec.json').write_text(json.dumps(about))
  assert exports.load_scorer(folder)[0] == SPEC
