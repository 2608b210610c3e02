"""Sources: parsing, mixing, deduplication, leaks and class balance."""

import dataclasses
import errno

import numpy as np
import pytest

from prm_jax import records
from prm_jax.data import sources
from prm_jax.data.sources import Source
from prm_jax.errors import UserError
from prm_jax.records import LabelSet, Trajectory
from prm_jax.worlds.arithmetic import WorldConfig

WORLD = WorldConfig(n_train=40, n_validation=10, n_heldout=10)


def make(question, steps, values=None, problem_id='', **fields):
  problem_id = problem_id or records.make_problem_id(question)
  labels = {} if values is None else {'human': LabelSet('correctness', tuple(values))}
  return Trajectory(
    records.make_id('t', question, steps), problem_id, question, tuple(steps),
    labels=labels, **fields,
  )  # fmt: skip


def test_parse():
  text = (
    'world:train, a/b.jsonl@0.5,x=c.json.gz:trl@2, gs://bucket/d.jsonl:math_shepherd'
  )
  assert sources.parse(text) == [
    Source('world_train', 'train', 'world', 1.0),
    Source('b', 'a/b.jsonl', 'records', 0.5),
    Source('x', 'c.json.gz', 'trl', 2.0),
    Source('d', 'gs://bucket/d.jsonl', 'math_shepherd', 1.0),
  ]
  assert sources.parse(['a.jsonl', 'b.jsonl'])[1].name == 'b'
  assert sources.parse('shards/*.jsonl')[0].path == 'shards/*.jsonl'


@pytest.mark.parametrize('text, words', [
  ('', 'no data source'),
  (' , ', 'no data source'),
  ('a.jsonl@0', 'above 0'),
  ('a.jsonl@-1', 'above 0'),
  ('a.jsonl@nan', 'above 0'),
  ('a.jsonl:nothing', "no format named 'nothing'.*trl"),
  ('world:moon', "no split 'moon'.*heldout_longer"),
  ('d/a.jsonl,e/a.jsonl', "2 data sources are called 'a'"),
  ('x=', 'no path'),
])  # fmt: skip
def test_parse_refuses(text, words):
  with pytest.raises(UserError, match=words):
    sources.parse(text)


def test_a_workdir_is_no_folder_of_rows(tmp_path):
  (tmp_path / 'config.json').write_text('{}')
  (tmp_path / 'solutions').mkdir()
  with pytest.raises(UserError, match=f'folder of its rows, {tmp_path}/solutions.'):
    sources.load(sources.parse(str(tmp_path)))


def test_paths_are_looked_for_in_the_data_folder(tmp_path, monkeypatch):
  (tmp_path / 'a.jsonl').write_text('')
  monkeypatch.delenv('PRM_JAX_DATA', raising=False)
  with pytest.raises(UserError, match='PRM_JAX_DATA is not set'):
    sources.resolve('a.jsonl')
  monkeypatch.setenv('PRM_JAX_DATA', str(tmp_path))
  assert sources.resolve('a.jsonl') == str(tmp_path / 'a.jsonl')
  assert sources.resolve('*.jsonl') == str(tmp_path / '*.jsonl')
  with pytest.raises(UserError, match='nor under'):
    sources.resolve('b.jsonl')
  with pytest.raises(UserError, match='holds no rows'):
    sources.load(sources.parse('a.jsonl'))


def test_paths_that_are_odd(tmp_path, monkeypatch):
  (tmp_path / 'a').mkdir()
  for name in ('x.jsonl', 'x[1].jsonl'):
    (tmp_path / 'a' / name).write_text('{"question": "Q", "steps": []}')
  read = lambda path: len(sources.load(sources.parse(path)).trajectories)
  for root in (str(tmp_path), ''):
    monkeypatch.setenv('PRM_JAX_DATA', root)
    monkeypatch.chdir(tmp_path / 'a' if root else tmp_path)
    assert [read(p) for p in ('*/*.jsonl', '[a]/x.jsonl', 'a/x[1].jsonl')] == [2, 1, 1]
  with pytest.raises(UserError, match='no such file'):
    read('long' * 100)

  def forbidden(*args):
    raise PermissionError(errno.EACCES, 'Permission denied')

  monkeypatch.setattr('os.stat', forbidden)
  with pytest.raises(UserError, match='no such file'):
    read(str(tmp_path / 'b.jsonl'))
  monkeypatch.undo()
  monkeypatch.setattr('os.listdir', forbidden)
  monkeypatch.setattr('os.scandir', forbidden)
  with pytest.raises(UserError, match=r'a: cannot be read \(Permission denied'):
    read(str(tmp_path / 'a'))


def test_load_and_dedupe(tmp_path):
  one = [make('Q', ['a', 'b'], [1.0, None]), make('Q', ['a', 'b'], [1.0, 0.0])]
  two = [make('Q', ['a', 'b'], [0.0, 1.0]), make('Q', ['a'], [1.0])]
  records.write(tmp_path / 'one.jsonl', one)
  records.write(tmp_path / 'two.jsonl', two)
  named = sources.parse([f'{tmp_path}/one.jsonl', f'{tmp_path}/two.jsonl@0.5'])
  across = sources.load(named)
  assert [t.steps for t in across.trajectories] == [('a', 'b'), ('a', 'b'), ('a',)]
  assert across.source_index.tolist() == [0, 0, 1]
  assert across.weights == (1.0, 0.5)
  want = {
    'one/trajectories': 2, 'two/trajectories': 2, 'two/duplicates': 1,
    'two/duplicate_label_conflicts': 1, 'two/duplicate_labels_dropped': 1,
  }  # fmt: skip
  assert across.counters | want == across.counters
  assert 'one/duplicates' not in across.counters
  every = sources.load(named, dedupe='all')
  assert len(every.trajectories) == 2
  assert every.counters['one/duplicates'] == 1
  assert len(sources.load(named, dedupe='none').trajectories) == 4
  with pytest.raises(UserError, match='dedupe'):
    sources.load(named, dedupe='some')
  once = sources.load(named, dedupe='none', weigh_once='human')
  weights = [t.labels['human'].weights for t in once.trajectories]
  assert sum(map(sum, (w or (1,) for w in weights))) == once.counters['distinct_labels']
  assert once.counters['conflicting_labels'] == 2  # a 1 / 0, b 0 / 1


def test_class_balance():
  rows = [make('Q', ['a', 'b', 'c'], [1.0, 0.0, None]), make('R', ['a'], [1.0])]
  mixture = sources.Mixture(
    rows, np.array([0, 1], np.int32), (Source('x', ''), Source('y', '')), {}
  )
  balance = sources.class_balance(mixture, 'human')
  assert balance['x']['both_classes'] == 1
  assert balance['x']['unlabelled_steps'] == 1
  assert balance['x']['positive_labels'] == balance['x']['negative_labels'] == 1
  assert balance['y'] | {'both_classes': 0, 'labels': 1, 'steps': 1} == balance['y']


def test_problems_that_leak():
  rows = [
    make('Q  one', ['a']),
    make('two', ['a']),
    make('three', ['a'], problem_id='7'),
  ]
  mixture = sources.Mixture(rows, np.zeros(3, np.int32), (Source('x', ''),), {})
  # The same question under another id, with other white space; and the same id.
  judged = {
    'heldout': [make('Q one', ['b'], problem_id='9'), make('x', [], problem_id='7')]
  }
  kept = sources.exclude_problems(mixture, judged)
  assert [t.question for t in kept.trajectories] == ['two']
  assert kept.counters == {'leak/heldout': 2}
  counted = sources.exclude_problems(mixture, judged, 'count')
  assert len(counted.trajectories) == 3
  assert counted.counters == {'leak/heldout': 2}
  with pytest.raises(UserError, match='2 training rows share'):
    sources.exclude_problems(mixture, judged, 'error')
  with pytest.raises(UserError, match='every training row'):
    sources.exclude_problems(mixture, {'all': rows})
  with pytest.raises(UserError, match='leak'):
    sources.exclude_problems(mixture, judged, 'ignore')


def test_world_and_hold_out():
  mixture = sources.load(sources.parse('world:train'), world=WORLD)
  assert len(mixture.trajectories) == 40
  assert mixture.names == ('world_train',)
  rest, held = sources.hold_out(mixture, 0.3, seed=1)
  assert len(rest.trajectories) + len(held.trajectories) == 40
  ids = [{t.problem_id for t in m.trajectories} for m in (rest, held)]
  assert not ids[0] & ids[1]
  # A problem's side does not depend on the others.
  fewer = dataclasses.replace(
    mixture,
    trajectories=mixture.trajectories[:20],
    source_index=mixture.source_index[:20],
  )
  again = sources.hold_out(fewer, 0.3, seed=1)[1]
  assert {t.problem_id for t in again.trajectories} <= ids[1]
  with pytest.raises(UserError, match='inside'):
    sources.hold_out(mixture, 1.0, seed=1)
  with pytest.raises(UserError, match='one side empty'):
    sources.hold_out(mixture.take(np.arange(1)), 0.5, seed=1)
