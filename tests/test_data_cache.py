"""The token cache: labels stay with their steps, nothing is lost in silence."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prm_jax.data import array_files, columns, sources, token_cache
from prm_jax.errors import UserError
from prm_jax.formats import tokenizers
from prm_jax.records import LabelSet, Trajectory, Verdict
from prm_jax.specs import StepFormat
from prm_jax.worlds import arithmetic
from prm_jax.worlds.arithmetic import WorldConfig

BYTES = tokenizers.load('bytes')
FMT = StepFormat(max_length=64)


def make(name, steps, values, weights=(), verdict=None, problem='p', question='Q'):
  return Trajectory(
    name, problem, question, tuple(steps),
    labels={'human': LabelSet('correctness', tuple(values), weights=tuple(weights))},
    verdicts={} if verdict is None else {'exact': Verdict(*verdict)},
  )  # fmt: skip


def test_by_hand():
  rows = [
    make('one', ['a', 'bb', 'c'], [1.0, 0.7, None], [0.0, 1.0, 1.0], (True,)),
    make('two', ['d'], [0.0], verdict=(None,), problem='q'),
    make('three', ['e', ''], [0.0, 1.0]),
    make('four', ['f'], [None]),
    make('five', ['g'], [1.0], [0.0]),
    make('six', ['h <prm>'], [1.0]),
    make('seven', ['x' * 100_000], [1.0]),
    make('eight', ['i'], [1.0], verdict=(False,)),
  ]
  cache = token_cache.build(rows, FMT, BYTES, 'human', 'exact')
  assert [cache.row_id(r) for r in range(cache.n_rows)] == ['one', 'two', 'eight']
  assert cache.row_index.tolist() == [0, 1, 7]
  assert BYTES.decode(cache.tokens) == 'Q\na<prm>bb<prm>c<prm>Q\nd<prm>Q\ni<prm>'
  assert cache.step_positions.tolist() == [3, 6, 8, 3, 3]
  # A soft label is neither rounded nor cut; an unlabelled step is no wrong step.
  np.testing.assert_array_equal(cache.labels, np.float32([1, 0.7, 0, 0, 1]))
  assert cache.mask.tolist() == [True, True, False, True, True]
  assert cache.weights.tolist() == [0, 1, 1, 1, 1]
  assert cache.outcome.tolist() == [1, 0, 0]
  assert cache.outcome_mask.tolist() == [True, False, True]
  assert cache.problem_index.tolist() == [0, 1, 0]
  assert cache.problem_weight.tolist() == [0.5, 1, 0.5]
  assert cache.label_kinds == ('correctness',)
  assert cache.counters == {
    'rows': 8, 'rows_used': 3, 'rows_empty_step': 1, 'rows_unlabelled': 1,
    'rows_weightless': 1, 'rows_marker_in_text': 1, 'rows_too_long': 1,
    'rows_truncated': 0, 'steps_used': 5, 'steps_truncated': 0, 'steps_labelled': 4,
    'steps_context_only': 1,
  }  # fmt: skip
  judged = token_cache.build(
    rows, FMT, BYTES, 'human', 'exact', require=('labels', 'outcome')
  )
  assert [judged.row_id(r) for r in range(2)] == ['one', 'eight']
  assert judged.counters['rows_unjudged'] == 1
  probes = token_cache.build(rows, FMT, BYTES, '', require=(), allow_empty=True)
  assert not probes.mask.any()
  assert probes.counters['rows_used'] == 6


LABEL = st.sampled_from([None, 0.0, 0.25, 0.7, 1.0])
ROWS = st.lists(
  st.lists(
    st.tuples(st.text('ab', min_size=1, max_size=6), LABEL), min_size=1, max_size=6
  ),
  min_size=1,
  max_size=6,
)


@settings(deadline=None, max_examples=60)
@given(rows=ROWS, length=st.integers(6, 30))
def test_truncation_never_parts_labels_and_markers(rows, length):
  made = [
    make(str(i), [s for s, _ in row], [v for _, v in row], [i + 1] * len(row))
    for i, row in enumerate(rows)
  ]
  fmt = StepFormat(max_length=length, truncation='drop_steps')
  try:
    cache = token_cache.build(made, fmt, BYTES, 'human')
  except UserError:
    return
  assert cache.counters['rows_used'] == cache.n_rows
  lost = sum(v for k, v in cache.counters.items() if k.startswith('rows_'))
  assert lost - cache.counters['rows_truncated'] == cache.counters['rows'] == len(rows)
  for r in range(cache.n_rows):
    row = rows[cache.row_index[r]]
    tokens = cache.tokens[cache.offsets[r] : cache.offsets[r + 1]]
    here = slice(cache.step_offsets[r], cache.step_offsets[r + 1])
    n = cache.n_steps[r]
    assert len(tokens) <= length
    assert (tokens == 259).sum() == n == len(cache.labels[here])
    assert np.flatnonzero(tokens == 259).tolist() == cache.step_positions[here].tolist()
    for value, label, mask in zip(
      [v for _, v in row], cache.labels[here], cache.mask[here]
    ):
      assert mask == (value is not None)
      assert label == np.float32(value or 0)
    assert (cache.weights[here] == cache.row_index[r] + 1).all()
    assert cache.mask[here].any()


def test_nothing_left():
  with pytest.raises(UserError, match=r'no row of 1.*1 unlabelled.*human'):
    token_cache.build([make('a', ['x'], [None])], FMT, BYTES, 'human')
  with pytest.raises(UserError, match=r'too_long.*raise format.max_length \(now 64\)'):
    token_cache.build([make('a', ['x' * 99], [1.0])], FMT, BYTES, 'human')
  late = [make('a', ['x', 'y' * 99], [None, 1.0])]
  fmt = dataclasses.replace(FMT, truncation='drop_steps')
  with pytest.raises(UserError, match=r'1 labels_cut.*max_length'):
    token_cache.build(late, fmt, BYTES, 'human')
  with pytest.raises(UserError, match='no row of 0'):
    token_cache.build([], FMT, BYTES, 'human')
  with pytest.raises(UserError, match="label set 'value'; the data holds: human"):
    token_cache.build([make('a', ['x'], [1.0])], FMT, BYTES, 'value')
  with pytest.raises(UserError, match="verdict of 'exact'; the data holds: none"):
    token_cache.build([make('a', ['x'], [1.0])], FMT, BYTES, 'human', 'exact')
  with pytest.raises(UserError, match='row_a: 102 tokens'):
    fmt = dataclasses.replace(FMT, truncation='error')
    token_cache.build([make('row_a', ['x' * 99], [1.0])], fmt, BYTES, 'human')
  with pytest.raises(UserError, match='labelz'):
    rows = [make('a', ['x'], [1.0])]
    token_cache.build(rows, FMT, BYTES, 'human', require=('labelz',))


def same(a, b):
  for field in dataclasses.fields(token_cache.TokenCache):
    x, y = getattr(a, field.name), getattr(b, field.name)
    if field.name not in ('notes', 'key', 'sources'):
      np.testing.assert_array_equal(x, y, err_msg=field.name)


def test_kept_on_disk(tmp_path, monkeypatch):
  rows = [make('a', ['x', 'y'], [1.0, 0.3]), make('b', ['z'], [None], question='é')]
  first = token_cache.build(rows, FMT, BYTES, 'human', '', tmp_path)
  assert [p.name for p in tmp_path.iterdir()] == [first.key]

  with monkeypatch.context() as patch:
    patch.setattr(token_cache, '_encode', None)  # the second run does not encode
    again = token_cache.build(rows, FMT, BYTES, 'human', '', tmp_path)
  same(first, again)
  assert (again.key, again.notes) == (first.key, ())

  other = {
    token_cache.build(rows[:1], FMT, BYTES, 'human', '', tmp_path).key,
    token_cache.build(
      rows,
      dataclasses.replace(FMT, truncation='drop_steps'),
      BYTES,
      'human',
      '',
      tmp_path,
    ).key,
    token_cache.build(rows, FMT, BYTES, '', '', tmp_path, require=()).key,
  }
  assert len(other | {first.key}) == 4

  def flip():
    file = tmp_path / first.key / 'labels.npy'
    file.write_bytes(file.read_bytes()[:-1] + b'\x00')

  damages = [
    flip,
    lambda: (tmp_path / first.key / 'tokens.npy').unlink(),
    lambda: (tmp_path / first.key / 'meta.json').write_text('{'),
    lambda: (tmp_path / first.key / 'meta.json').write_text('[]'),
    lambda: (tmp_path / first.key / 'meta.json').write_text(
      '{"checksums": {}, "meta": {}}'
    ),
  ]
  for damage in damages:
    damage()
    mended = token_cache.build(rows, FMT, BYTES, 'human', '', tmp_path)
    assert 'damaged' in mended.notes[0]
    same(first, mended)
  assert not [p for p in tmp_path.iterdir() if p.name.startswith('.')]


def test_cache_that_cannot_be_written(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='cannot be written'):
    rows = [make('a', ['x'], [1.0])]
    token_cache.build(rows, FMT, BYTES, 'human', '', tmp_path / 'file')
  array_files.save(tmp_path / 'set', {'a': np.arange(3)}, {})
  array_files.save(tmp_path / 'set', {'a': np.arange(5)}, {})  # the first one stays
  assert len(array_files.load(tmp_path / 'set')[0]['a']) == 3


def test_pickled_arrays_are_not_read(tmp_path):
  array_files.save(tmp_path / 'set', {'a': np.arange(3)}, {})
  np.save(tmp_path / 'set' / 'a.npy', np.array([{}], dtype=object), allow_pickle=True)
  with pytest.raises(array_files.Damaged):
    array_files.load(tmp_path / 'set')


def test_several_sources_are_counted_apart():
  mixture = sources.Mixture(
    [make('a', ['x'], [1.0]), make('b', ['y'], [None]), make('c', ['z'], [1.0])],
    np.array([0, 1, 1], np.int32),
    (sources.Source('one', ''), sources.Source('two', '')),
    {},
  )
  cache = token_cache.build(mixture, FMT, BYTES, 'human')
  assert cache.source_index.tolist() == [0, 1]
  assert cache.counters['two/rows_unlabelled'] == 1
  assert cache.counters['one/rows_used'] == cache.counters['two/rows_used'] == 1


@pytest.mark.parametrize('label', ['valid', 'on_track', 'value'])
def test_world_arrays_are_world_records(label):
  config = WorldConfig(n_train=50)
  slow = token_cache.build(
    arithmetic.split(config, 'train'), FMT, BYTES, label, 'exact'
  )
  rows = arithmetic.train_arrays(config, 0, 50)
  fast = token_cache.build_columns(
    columns.of_world(config, rows, label, 'exact'), FMT, BYTES, label, 'exact'
  )
  same(slow, fast)
  with pytest.raises(UserError, match='on_track'):
    columns.of_world(config, rows, 'human')
