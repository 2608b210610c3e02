"""Chunked work: once, whole, in any order, on any worker, after any death."""

import gzip
import json
import os
import signal
import threading

import jax
import numpy as np
import pytest
from tiny_runs import contents

from prm_jax import files, jsonl
from prm_jax.errors import Preempted, UserError
from prm_jax.jobs import chunks

OUTPUTS = ('made', 'evidence')
ITEMS = [{'id': f'item-{i}', 'n': i} for i in range(23)]
PARTS = chunks.cut(ITEMS, 4)
KEYS = [chunks.key({'policy': 'a'}, part) for part in PARTS]


def process(items, worker=0):
  rows = [{'id': item['id'], 'square': item['n'] ** 2} for item in items]
  evidence = [row for row in rows if row['square'] % 2]
  return chunks.Produced(
    {'made': rows, 'evidence': evidence}, {'items': len(items)}, {'worker_was': worker}
  )


def promised(path):
  """All files of chunks: not timing, config or locks."""
  return {
    name: data
    for name, data in contents(path).items()
    if name.split('/')[0] in ('chunks', *OUTPUTS)
  }


def go(path, shard='0/1', work_on=process, parts=PARTS, keys=KEYS, **options):
  divided = chunks.parse_shard(shard)
  with files.open_workdir(str(path), {'job': 'x', 'shard': shard}, divided) as work:
    return chunks.run(
      work, parts, work_on, keys=keys, outputs=OUTPUTS, shard=divided, **options
    )


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
  path = tmp_path_factory.mktemp('straight')
  go(path)
  return promised(path)


def test_files_rows_and_counters(tmp_path):
  done = go(tmp_path)
  assert done.whole and done.chunks == tuple(range(6)) and done.n_made == 6
  assert done.counters == {'items': 23}
  rows = [row for file in done.main for _, row in jsonl.iter_json_lines(file_of(file))]
  assert rows == [{'id': i['id'], 'square': i['n'] ** 2} for i in ITEMS]
  raw = (tmp_path / 'made' / '00002.jsonl.gz').read_bytes()
  assert raw[4:8] == bytes(4) and b'00002' not in raw  # no time stamp, no name
  timing = (tmp_path / 'timing.jsonl').read_text().splitlines()
  assert sorted(json.loads(line)['chunk'] for line in timing) == list(range(6))


def file_of(name):
  from etils import epath

  return epath.Path(name)


def test_evidence_without_rows_is_no_file(tmp_path):
  go(tmp_path, parts=[[ITEMS[0]], [ITEMS[1]]], keys=['a', 'b'])
  assert {p.name for p in (tmp_path / 'evidence').iterdir()} == {'00001.jsonl.gz'}
  assert len(list((tmp_path / 'made').iterdir())) == 2


def test_finished_chunks_are_skipped(tmp_path, straight, capsys):
  go(tmp_path)
  (tmp_path / 'made' / '00003.jsonl.gz').unlink()
  seen = []

  def watched(items, worker):
    seen.append(items[0]['n'])
    return process(items)

  done = go(tmp_path, work_on=watched)
  assert seen == [12] and done.n_made == 1 and done.counters == {'items': 23}
  assert promised(tmp_path) == straight
  assert '5 of 6 chunks are there already' in capsys.readouterr().err


@pytest.mark.parametrize('n', [1, 2, 3, 8])
@pytest.mark.parametrize('workers', [1, 8])
def test_shards_together_are_the_single_run(n, workers, straight, tmp_path):
  """In one workdir, and in several whose files are then put together."""
  apart = {}
  for i in range(n):
    done = go(tmp_path / 'one', f'{i}/{n}', workers=workers)
    assert done.whole == (i >= min(n, 6) - 1)
    done = go(tmp_path / str(i), f'{i}/{n}', workers=workers)
    assert done.chunks == tuple(range(i, 6, n)) and done.whole == (n == 1)
    apart |= promised(tmp_path / str(i))
  assert promised(tmp_path / 'one') == straight == apart


def test_eight_devices_give_the_same_bytes(tmp_path):
  """Threads that compute, each on its own device."""
  devices = jax.local_devices()
  assert len(devices) == 8
  used = set()
  all_started = threading.Barrier(6, timeout=30)

  @jax.jit
  def squares(n):
    return n * n

  def on_device(items, worker):
    if len(used) < 6:
      used.add(worker)
      all_started.wait()
    n = jax.device_put(np.array([item['n'] for item in items]), devices[worker])
    rows = [{'square': int(s)} for s in squares(n)]
    return chunks.Produced({'made': rows})

  go(tmp_path / 'eight', work_on=on_device, workers=8)
  assert len(used) == 6  # never more workers than chunks
  used.update(range(8))
  go(tmp_path / 'one', work_on=on_device)
  assert promised(tmp_path / 'eight') == promised(tmp_path / 'one')


class Killed(BaseException):
  """Stands for a kill: nothing that handles errors sees it."""


@pytest.mark.parametrize('moment', ['before', 'after', 'half'])
@pytest.mark.parametrize('call', range(1, 20))
def test_dying_at_every_file_write(call, moment, straight, tmp_path, monkeypatch):
  """17 files and the config; a half-written one is left under a temporary name."""
  write = jsonl.write_bytes
  calls = [0]

  def dies(path, data):
    calls[0] += 1
    if calls[0] == call:
      if moment == 'half':
        path.parent.mkdir(exist_ok=True)
        (path.parent / f'.{path.name}.99999.tmp').write_bytes(data[: len(data) // 2])
      if moment == 'after':
        write(path, data)
      raise Killed
    write(path, data)

  with monkeypatch.context() as patch:
    patch.setattr(jsonl, 'write_bytes', dies)
    try:
      go(tmp_path)
    except Killed:
      assert calls[0] == call
  go(tmp_path)
  assert promised(tmp_path) == straight


DAMAGE = {
  'cut': lambda p: p.write_bytes(p.read_bytes()[:-9]),
  'empty': lambda p: p.write_bytes(b''),
  'one bit': lambda p: p.write_bytes(p.read_bytes()[:-3] + b'?' + p.read_bytes()[-2:]),
  'gone': lambda p: p.unlink(),
}


@pytest.mark.parametrize('how', DAMAGE)
@pytest.mark.parametrize(
  'file', ['made/00001.jsonl.gz', 'evidence/00001.jsonl.gz', 'chunks/00001.json']
)
def test_damaged_chunks_are_named_and_made_again(how, file, straight, tmp_path, capsys):
  go(tmp_path)
  DAMAGE[how](tmp_path / file)
  capsys.readouterr()
  assert go(tmp_path).n_made == 1
  assert promised(tmp_path) == straight
  said = capsys.readouterr().err
  assert (file in said) or (how == 'gone' and file.startswith('made'))


def test_other_input_is_refused(tmp_path):
  go(tmp_path)
  before = contents(tmp_path)
  keys = [*KEYS[:2], chunks.key({'policy': 'b'}, PARTS[2]), *KEYS[3:]]
  with pytest.raises(UserError, match=r'made/00002.jsonl.gz.*other input.*--workdir'):
    go(tmp_path, keys=keys)
  assert contents(tmp_path) == before


def test_an_error_in_one_chunk_keeps_the_others(tmp_path, straight):
  def fails(items, worker):
    if items[0]['n'] == 12:
      raise UserError('the server is down.')
    return process(items)

  with pytest.raises(UserError, match='the server is down'):
    go(tmp_path, work_on=fails, workers=2)
  there = {p.name for p in (tmp_path / 'made').iterdir()}
  assert '00003.jsonl.gz' not in there and len(there) >= 3
  go(tmp_path)
  assert promised(tmp_path) == straight


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_chunk_and_leaves(number, tmp_path, straight, capsys):
  seen = threading.Event()

  def signalled(items, worker):
    if items[0]['n'] == 8:
      os.kill(os.getpid(), number)
      seen.wait(0.3)
    return process(items)

  with pytest.raises(Preempted, match=r'3 of 6 chunks are left.*the same command'):
    go(tmp_path, work_on=signalled)
  assert len(list((tmp_path / 'made').iterdir())) == 3
  assert 'finished first' in capsys.readouterr().err
  go(tmp_path)
  assert promised(tmp_path) == straight


def test_two_jobs_in_one_workdir(tmp_path):
  def inside(shard):
    def nested(items, worker):
      with pytest.raises(UserError, match='another job is running'):
        go(tmp_path, shard)
      return process(items)

    return nested

  files.LOCK_SECONDS, held = 0.2, files.LOCK_SECONDS
  try:
    for running, second in (('0/1', '0/1'), ('0/1', '0/2'), ('0/2', '0/1'),
                            ('0/2', '0/2'), ('0/2', '1/3')):  # fmt: skip
      go(tmp_path, running, work_on=inside(second), parts=PARTS[:1], keys=KEYS[:1])
      (tmp_path / 'made' / '00000.jsonl.gz').unlink()
  finally:
    files.LOCK_SECONDS = held


def test_shards_at_the_same_time(tmp_path, straight):
  def other(items, worker):
    if items[0]['n'] == 0:
      go(tmp_path, '1/2')
    return process(items)

  assert go(tmp_path, '0/2', work_on=other).whole
  assert promised(tmp_path) == straight


def test_a_shard_of_another_config_is_refused(tmp_path):
  """Also before anything is written: the first one is running."""

  def other(items, worker):
    with (
      pytest.raises(UserError, match='seed=0, now it is 1'),
      files.open_workdir(str(tmp_path), {'seed': 1}, (1, 2)),
    ):
      pass
    return process(items)

  with files.open_workdir(str(tmp_path), {'seed': 0}, (0, 2)) as work:
    chunks.run(work, PARTS, other, keys=KEYS, outputs=OUTPUTS, shard=(0, 2))


@pytest.mark.parametrize('bad', ['', '1', '4/4', '5/4', '-1/4', 'a/b', '0/0', '1/2/3'])
def test_bad_shards(bad):
  with pytest.raises(UserError, match='give i/n'):
    chunks.parse_shard(bad)


def test_shard_and_chunk_sizes():
  assert chunks.parse_shard('3/4') == (3, 4)
  assert [len(c) for c in chunks.cut(range(7), 3)] == [3, 3, 1]
  assert chunks.cut([], 3) == []
  with pytest.raises(UserError, match=r'chunk\.size=0'):
    chunks.cut([1], 0)


def test_more_shards_than_chunks(tmp_path):
  done = go(tmp_path, '7/8')
  assert not done.whole and done.chunks == () and done.n_made == 0


def test_an_unwritable_place_is_one_sentence(tmp_path):
  (tmp_path / 'made').write_text('in the way')
  with pytest.raises(UserError, match=r'made.*cannot be written'):
    go(tmp_path)


def test_rows_are_sorted_by_name_beyond_five_digits():
  many = chunks._Books(files.Workdir('x'), ('made',), ['k'] * 100_001)
  assert many._name('made', 7) == 'made/000007.jsonl.gz'


def test_files_are_zipped_json_lines(tmp_path):
  go(tmp_path)
  text = gzip.decompress((tmp_path / 'evidence' / '00000.jsonl.gz').read_bytes())
  assert [json.loads(line)['id'] for line in text.splitlines()] == ['item-1', 'item-3']
