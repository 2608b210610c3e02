"""The score job in chunks: shards, deaths, and what is left behind."""

import json
import shutil
import time

import jax
import numpy as np
import pytest
from test_chunks import Killed
from tiny_runs import (
  ROOT,
  arguments,
  contents,
  finish,
  record,
  refusal,
  run,
  start,
  write_lines,
)

from prm_jax import exports, jsonl, records
from prm_jax.formats import tokenizers
from prm_jax.jobs import chunks, score
from prm_jax.models import scorer as scoring_model
from prm_jax.specs import HeadSpec, ModelSpec, ScorerSpec, StepFormat

CONFIG = str(ROOT / 'configs' / 'score.py')
N = 11


@pytest.fixture(scope='module')
def given(tmp_path_factory):
  """{key: value}: a scorer that was never trained, and rows, one of them blank."""
  folder = tmp_path_factory.mktemp('given')
  words = tokenizers.load('bytes')
  model = ModelSpec(
    words.vocab_size, n_layers=1, d_model=16, n_heads=2, n_kv_heads=1, head_dim=8,
    d_ff=32,
  )  # fmt: skip
  spec = ScorerSpec(
    model, HeadSpec(), StepFormat(marker='', position='before', max_length=48),
    step_value='sigmoid', kind='probability',
  )  # fmt: skip
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda w: np.asarray(w + rng.normal(size=w.shape).astype(np.float32)),
    scoring_model.init(model, spec.head, jax.random.key(0)),
  )
  exports.save_scorer(folder / 'scorer', spec, params, words)
  rows = [record(i) for i in range(N)]
  rows[5]['steps'][1] = ''
  file = write_lines(folder / 'rows.jsonl.gz', rows)
  return {'scorer': folder / 'scorer', 'input': file, 'scorer_batch_tokens': 256}


def argv(folder, given, **overrides):
  keys = {**given, 'chunk__size': 3, 'output': folder / 'out.jsonl.gz', **overrides}
  return arguments(None, CONFIG, {}, **keys)


def left(folder):
  return {p.name for p in folder.iterdir()}


def counted(folder):
  return json.loads((folder / 'out.results.json').read_text())['counters']


@pytest.fixture(scope='module')
def straight(given, tmp_path_factory):
  """(bytes, counters) of all rows in one chunk."""
  folder = tmp_path_factory.mktemp('straight')
  assert run(argv(folder, given, chunk__size=20000)) == 0
  data = (folder / 'out.jsonl.gz').read_bytes()
  before = [*jsonl.iter_json_lines(jsonl.place(given['input']))]
  for (_, a), t in zip(before, records.read(folder / 'out.jsonl.gz'), strict=True):
    assert t.id == a['id'] and ('prm' in t.scores) == (t.id != 'row-5')
  assert left(folder) == {'out.jsonl.gz', 'out.results.json'}
  told = counted(folder)
  assert told == {'not_scored/empty_step': 1, 'rows': N, 'scored': 10, 'steps': 40}
  return data, told


def is_whole(folder, straight):
  """Output and counters of an undisturbed run, and nothing beside them."""
  assert left(folder) == {'out.jsonl.gz', 'out.results.json'}
  assert ((folder / 'out.jsonl.gz').read_bytes(), counted(folder)) == straight


def watch(monkeypatch):
  """Ids of the rows in the order in which they are scored from now on."""
  add_scores, seen = score.add_scores, []

  def watched(scorer, rows, name, *, quiet=False):
    seen.extend(t.id for t in rows)
    return add_scores(scorer, rows, name, quiet=quiet)

  monkeypatch.setattr(score, 'add_scores', watched)
  return seen


@pytest.mark.parametrize('order', [(0, 1, 2), (2, 0, 1)])
def test_shards_are_the_whole(order, given, straight, tmp_path, monkeypatch, capsys):
  seen = watch(monkeypatch)
  for i in order:
    assert not (tmp_path / 'out.jsonl.gz').exists()
    assert run(argv(tmp_path, given, shard=f'{i}/3')) == 0
    last = i == order[-1]
    assert ('by the one that ends last' in capsys.readouterr().err) == (not last)
  is_whole(tmp_path, straight)
  assert sorted(seen) == sorted(f'row-{i}' for i in range(N))


def test_shards_in_folders_of_their_own_are_put_together(given, straight, tmp_path):
  for i in range(2):
    assert run(argv(tmp_path / str(i), given, shard=f'{i}/2')) == 0
    assert left(tmp_path / str(i)) == {'out.jsonl.gz.unfinished'}
  # Another place is another output, so the files of chunks are what moves.
  here, there = (tmp_path / str(i) / 'out.jsonl.gz.unfinished' for i in range(2))
  for name in ('scored', 'chunks'):
    shutil.copytree(there / name, here / name, dirs_exist_ok=True)
  assert run(argv(tmp_path / '0', given)) == 0
  is_whole(tmp_path / '0', straight)


@pytest.mark.parametrize('bad', ['nonsense', '2/2', '-1/2', '1'])
def test_bad_shards(bad, given, tmp_path, capsys):
  said = refusal(argv(tmp_path, given, shard=bad), capsys)
  assert f'shard={bad!r}: give i/n' in said and not left(tmp_path)


def test_a_shard_without_a_chunk(given, straight, tmp_path, capsys):
  """It does nothing and says so, before and after the others are done."""
  for i in (1, 0, 1):
    keys = {'chunk__size': 20000, 'shard': f'{i}/2'}
    assert run(argv(tmp_path, given, **keys)) == 0
    told = capsys.readouterr().err
    assert ('nothing to do' in told and 'chunk.size' in told) == (i == 1)
  is_whole(tmp_path, straight)


@pytest.mark.parametrize('after', [False, True])
@pytest.mark.parametrize('call', [1, 3])
def test_dying_between_chunks(
  call, after, given, straight, tmp_path, monkeypatch, capsys
):
  """What is there is not scored again."""
  write, calls = chunks._Books.write, [0]

  def dies(self, number, made):
    calls[0] += 1
    if calls[0] == call and not after:
      raise Killed
    write(self, number, made)
    if calls[0] == call:
      raise Killed

  with monkeypatch.context() as patch, pytest.raises(Killed):
    patch.setattr(chunks._Books, 'write', dies)
    run(argv(tmp_path, given))
  assert left(tmp_path) == {'out.jsonl.gz.unfinished'}
  seen = watch(monkeypatch)
  assert run(argv(tmp_path, given)) == 0
  first = 3 * (call - 1 + after)
  assert seen == [f'row-{i}' for i in range(first, N)]
  is_whole(tmp_path, straight)


@pytest.mark.parametrize('after', [False, True])
@pytest.mark.parametrize(
  'owner, name', [(score, '_write'), (jsonl, 'write_json_lines')]
)
def test_dying_at_the_end(owner, name, after, given, straight, tmp_path, monkeypatch):
  """Before the results, between them and the output, and after both."""
  whole = getattr(owner, name)

  def dies(*args):
    if after:
      whole(*args)
    raise Killed

  with monkeypatch.context() as patch, pytest.raises(Killed):
    patch.setattr(owner, name, dies)
    run(argv(tmp_path, given))
  seen = watch(monkeypatch)
  there = (tmp_path / 'out.jsonl.gz').exists()
  assert there == (owner is score and after)
  # Of a run that was whole, what it left is cleared away.
  assert run(argv(tmp_path, given)) == 0
  assert not seen
  is_whole(tmp_path, straight)


def test_a_shard_that_ends_while_another_reads_the_chunks(
  given, straight, tmp_path, monkeypatch
):
  assert run(argv(tmp_path, given, shard='1/2')) == 0
  write, codes = score._write, []

  def writes(*args):
    if not codes:
      codes.append(None)
      codes[0] = run(argv(tmp_path, given, shard='1/2'))
      assert (tmp_path / 'out.jsonl.gz.unfinished' / 'scored').is_dir()
    write(*args)

  monkeypatch.setattr(score, '_write', writes)
  assert run(argv(tmp_path, given, shard='0/2')) == 0
  assert codes == [0]
  is_whole(tmp_path, straight)


def test_other_input_or_options_name_the_output(given, straight, tmp_path, capsys):
  assert run(argv(tmp_path, given, shard='0/2')) == 0
  said = refusal(argv(tmp_path, given, scorer_name='two'), capsys)
  assert "scorer_name='prm', now it is 'two'; give another --config.output" in said
  file = write_lines(tmp_path / 'rows.jsonl', [record(i) for i in range(N)])
  changed = {**given, 'input': file}
  other = tmp_path / 'other'
  assert run(argv(other, changed, shard='0/2')) == 0
  write_lines(file, [record(i + 1) for i in range(N)])
  said = refusal(argv(other, changed, shard='0/2'), capsys)
  assert 'made from other input' in said and 'give another --config.output' in said
  assert contents(other) and not (other / 'out.jsonl.gz').exists()


def test_nothing_is_left_where_no_row_can_be_scored(given, tmp_path, capsys):
  blank = [record(i, steps=['a', '', 'b', 'c']) for i in range(4)]
  file = write_lines(tmp_path / 'rows.jsonl', blank)
  work = tmp_path / 'work'
  said = refusal(argv(work, {**given, 'input': file}), capsys)
  assert 'no row could be scored (4 empty_step)' in said and not left(work)


def test_another_store_is_refused(given, tmp_path, capsys):
  said = refusal(argv(tmp_path, given, output='s3://bucket/out.jsonl'), capsys)
  assert 's3://bucket/out.jsonl' in said and 'local folder' in said


@pytest.mark.slow
def test_kill_9(given, tmp_path):
  """A real process, killed when chunks are there, and started again."""
  straight, work = tmp_path / 'straight', tmp_path / 'work'
  assert finish(start(argv(straight, given, chunk__size=1)))[0] == 0
  process = start(argv(work, given, chunk__size=1))
  place = work / 'out.jsonl.gz.unfinished' / 'scored'
  end = time.monotonic() + 300
  while len(list(place.glob('0*.gz'))) < 2:
    assert process.poll() is None and time.monotonic() < end
    time.sleep(0.001)
  process.kill()
  assert finish(process)[0] == -9
  assert not (work / 'out.jsonl.gz').exists()
  n = len(list(place.glob('0*.gz')))
  code, said = finish(start(argv(work, given, chunk__size=1)))
  assert code == 0 and f'{n} of {N} chunks of solutions are there already' in said
  is_whole(work, ((straight / 'out.jsonl.gz').read_bytes(), counted(straight)))
