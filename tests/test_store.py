"""A workdir on an object store: lease, parts of arrays, whole objects.

The store is a real S3 server on the loopback interface where moto and s3fs are
installed (`pip install 'moto[server]' s3fs`); what needs none is tried on files.
"""

import importlib.util
import json
import os
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tiny_runs
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec
from test_processes import TINY, Group, free_port
from tiny_runs import ROOT

from prm_jax import lease, shards
from prm_jax.errors import UserError
from prm_jax.parallel import mesh as meshes

QUICK = {'seconds': 1.0, 'settle': 0.05}


def test_lease_is_held_and_given_back(tmp_path):
  folder = epath.Path(tmp_path)
  with lease.hold(folder, **QUICK):
    first = json.loads((tmp_path / lease.FILE).read_text())
    with pytest.raises(UserError, match='another job'), lease.hold(folder, **QUICK):
      pass
    assert json.loads((tmp_path / lease.FILE).read_text())['owner'] == first['owner']
  assert not (tmp_path / lease.FILE).exists()


def test_lease_of_a_dead_job_is_taken_over(tmp_path, capsys):
  dead = {'owner': 'x', 'expires': time.time() + 1, 'host': 'h', 'pid': 3}
  (tmp_path / lease.FILE).write_text(json.dumps(dead))
  began = time.monotonic()
  with lease.hold(epath.Path(tmp_path), **QUICK):
    assert time.monotonic() - began >= 1
    assert json.loads((tmp_path / lease.FILE).read_text())['owner'] != 'x'
  assert 'held by h, process 3' in capsys.readouterr().err


def test_two_that_come_at_the_same_moment(tmp_path, monkeypatch):
  """The one whose lease is overwritten while it waits is refused."""
  other = json.dumps({'owner': 'later', 'expires': time.time() + 9})
  monkeypatch.setattr(
    lease.time, 'sleep', lambda s: (tmp_path / lease.FILE).write_text(other)
  )
  with pytest.raises(UserError), lease.hold(epath.Path(tmp_path), **QUICK):
    pass
  assert (tmp_path / lease.FILE).read_text() == other


def test_parts_of_arrays_on_other_meshes(tmp_path):
  rng = np.random.default_rng(0)
  held = {
    'w': rng.normal(size=(8, 12)).astype(np.float32),
    'b': rng.normal(size=(16,)).astype(jax.numpy.bfloat16),
    'n': np.int32(7),
  }
  split = {'w': ('fsdp', 'tensor'), 'b': (('data', 'fsdp'),), 'n': ()}

  def place(sizes):
    mesh = meshes.make_mesh(*sizes)
    return {k: NamedSharding(mesh, PartitionSpec(*split[k])) for k in held}

  arrays = jax.tree.map(jax.device_put, held, place((2, 2, 2)))
  shards.write(epath.Path(tmp_path), arrays)
  size = (tmp_path / 'part-00000.bin').stat().st_size
  assert size == sum(x.nbytes for x in held.values())  # each piece once
  for sizes in ((1, 4, 2), (8, 1, 1)):
    wanted = {
      k: jax.ShapeDtypeStruct(np.shape(held[k]), held[k].dtype, sharding=s)
      for k, s in place(sizes).items()
    }
    found = shards.read(epath.Path(tmp_path), wanted)
    for name, array in found.items():
      assert array.sharding == wanted[name].sharding
      np.testing.assert_array_equal(np.asarray(array), held[name])


def test_other_jobs_need_a_local_workdir(capsys):
  said = tiny_runs.refusal(
    tiny_runs.arguments('gs://bucket/run', job='rollout'), capsys
  )
  assert 'needs a local folder' in said


SERVER = """
import sys, time
import boto3
from moto.server import ThreadedMotoServer
ThreadedMotoServer('127.0.0.1', int(sys.argv[1]), verbose=False).start()
client = boto3.client('s3', endpoint_url=f'http://127.0.0.1:{sys.argv[1]}')
client.create_bucket(Bucket='prm')
print('up', flush=True)
time.sleep(3600)
"""


@pytest.fixture
def store():
  """Environment of processes that find an S3 server with the bucket 'prm'."""
  if not all(map(importlib.util.find_spec, ('moto', 's3fs', 'boto3'))):
    pytest.skip("needs an S3 server: pip install 'moto[server]' s3fs")
  port = free_port()
  found = {
    'AWS_ENDPOINT_URL': f'http://127.0.0.1:{port}',
    'AWS_DEFAULT_REGION': 'us-east-1',
    'AWS_ACCESS_KEY_ID': 'none',
    'AWS_SECRET_ACCESS_KEY': 'none',
    'PYTHONPATH': os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]),
  }
  server = subprocess.Popen(
    [sys.executable, '-c', SERVER, str(port)], env={**os.environ, **found},
    stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
  )  # fmt: skip
  assert server.stdout.readline().strip() == 'up'
  yield found
  server.kill()


@pytest.mark.slow
def test_two_processes_with_a_workdir_on_s3(store, tmp_path):
  """Saved, killed, resumed; the numbers are those of a local workdir."""
  import fsspec

  every = {'train__steps': 12, 'checkpoint__every_steps': 4}
  local = Group(tmp_path / 'local', 2, 2, **every).finish()
  remote = Group('s3://prm/run', 2, 2, environ=store, **every).finish()
  assert [code for code, _ in local + remote] == [0] * 4, remote
  files = fsspec.filesystem(
    's3', key='none', secret='none', use_listings_cache=False,
    client_kwargs={'endpoint_url': store['AWS_ENDPOINT_URL']},
  )  # fmt: skip
  for name in ('scorer/model.safetensors', 'scorer/spec.json'):
    assert files.cat(f'prm/run/{name}') == (tmp_path / 'local' / name).read_bytes()
  assert not files.exists(f'prm/run/{lease.FILE}')
  # As after a kill: the last state is not finished, results and lease are of a
  # job that is gone.
  files.rm('prm/run/results.json')
  files.rm('prm/run/checkpoints/00000012/commit.json')
  again = Group('s3://prm/run', 1, 4, environ=store, **every).finish()
  assert again[0][0] == 0 and 'the one of step 8 is used' in again[0][1], again
  lines = files.cat('prm/run/metrics.jsonl').splitlines()
  assert [json.loads(x)['step'] for x in lines] == list(range(1, 13))
  assert TINY['logging.every_steps'] == 1
