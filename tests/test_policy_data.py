"""Rows of a policy: exact solutions of the world, tokens of the response alone."""

import dataclasses

import numpy as np
import pytest

from prm_jax.data import columns, sources, token_cache
from prm_jax.data.batches import Batches
from prm_jax.errors import UserError
from prm_jax.formats import text_format, tokenizers
from prm_jax.records import Trajectory, Verdict
from prm_jax.specs import TextFormat
from prm_jax.worlds import arithmetic, truths
from prm_jax.worlds.arithmetic import WorldConfig

BYTES = tokenizers.load('bytes')
FMT = TextFormat(max_length=64)
WORLD = WorldConfig(n_train=40, n_validation=10)


def make(name, steps, value='none', question='Q'):
  verdicts = {} if value == 'none' else {'exact': Verdict(value)}
  return Trajectory(name, f'p-{name}', question, tuple(steps), verdicts=verdicts)


def test_exact_solutions_of_the_world():
  rows = arithmetic.split(WORLD, 'train', exact=True)
  solved = arithmetic.split(WORLD, 'train')
  assert [t.question for t in rows] == [t.question for t in solved]
  assert not {t.id for t in rows} & {t.id for t in solved}
  for t in rows:
    found = truths.judge(WORLD, t.question, t.steps)
    assert found.first_error == -1 and found.answer == found.gold
    assert t.answer == t.gold_answer == str(found.gold)
    assert t.verdicts['exact'].value is True
    assert t.generator == 'world/exact' and t.source == 'world_exact:train'
    assert set(t.labels['value'].values) == {1.0} == set(t.labels['on_track'].values)
  # As problems for rollouts have them, so that none is trained on unawares.
  asked = arithmetic.problem_records(WORLD, 'train', 40)
  assert [t.problem_id for t in asked] == [t.problem_id for t in rows]


def test_arrays_and_records_give_the_same_rows():
  arrays = arithmetic.train_arrays(WORLD, 0, 40, exact=True)
  fast = columns.of_world(WORLD, arrays, '', 'exact')
  mixture = sources.load(sources.parse('world_exact:train'), world=WORLD)
  slow = columns.of_trajectories(
    mixture.trajectories, '', 'exact', mixture.source_index, mixture.names
  )
  assert fast.hash() == slow.hash() and fast.sources == ('world_exact_train',)
  with pytest.raises(UserError, match='no split'):
    sources.parse('world_exact:nowhere')


def test_the_cache_keeps_what_is_not_wrong():
  rows = [
    make('right', ['a', 'bb'], True),
    make('wrong', ['c'], False),
    make('unjudged', ['d'], None),
    make('plain', ['e']),
    make('long', ['x' * 99], True),
    make('end', ['<eos>'], True),
    make('empty', ['f', ' '], True),
  ]
  cache = token_cache.build(rows, FMT, BYTES, '', 'exact', require=('right',))
  assert BYTES.decode(cache.tokens) == 'Q\na\nbb<eos>Q\nd<eos>Q\ne<eos>'
  counted = {k: v for k, v in cache.counters.items() if v and k.startswith('rows')}
  assert counted == {
    'rows': 7, 'rows_used': 3, 'rows_wrong': 1, 'rows_too_long': 1,
    'rows_marker_in_text': 1, 'rows_empty_step': 1, 'rows_used_without_verdict': 2,
  }  # fmt: skip
  everything = token_cache.build(rows, FMT, BYTES, '', require=())
  assert everything.counters['rows_used'] == 4 and everything.key != cache.key
  with pytest.raises(UserError, match='train_on'):
    token_cache.build(rows[1:2], FMT, BYTES, '', 'exact', require=('right',))
  with pytest.raises(UserError, match=r'text\.max_length'):
    token_cache.build(rows[4:5], FMT, BYTES, '', 'exact', require=('right',))
  with pytest.raises(UserError, match=r'text\.separator'):
    bad = dataclasses.replace(FMT, separator='')
    token_cache.build(rows, bad, BYTES, '', require=())


def test_the_cache_is_read_back(tmp_path):
  rows = [make('one', ['a', 'bb']), make('two', ['c'])]
  first = token_cache.build(rows, FMT, BYTES, '', cache_dir=tmp_path, require=())
  again = token_cache.build(rows, FMT, BYTES, '', cache_dir=tmp_path, require=())
  assert first.key == again.key and len(list(tmp_path.iterdir())) == 1
  np.testing.assert_array_equal(first.tokens, again.tokens)
  other = dataclasses.replace(FMT, separator=';')
  assert token_cache.build(rows, other, BYTES, '', require=()).key != first.key


def test_batches_mask_question_and_padding():
  rows = [
    make('one', ['a', 'bb']),
    make('two', ['c'], question='long'),
    make('3', ['d']),
  ]
  cache = token_cache.build(rows, FMT, BYTES, '', require=())
  batches = Batches(cache, seed=0, batch_size=4, of='tokens', buckets=(12,))
  batch = batches[0]
  assert set(batch) == {
    'tokens', 'token_mask', 'row_mask', 'problem_index', 'problem_weight',
    'source_index',
  }  # fmt: skip
  assert batch['token_mask'].dtype == bool and batch['tokens'].dtype == np.int32
  seen = set()
  for tokens, mask, there in zip(
    batch['tokens'], batch['token_mask'], batch['row_mask'], strict=True
  ):
    if not there:
      assert not mask.any() and (tokens == BYTES.pad_id).all()
      continue
    seen.add((BYTES.decode(tokens[~mask]), BYTES.decode(tokens[mask])))
  pad = '<pad>'
  assert seen == {
    (f'Q\n{pad * 5}', 'a\nbb<eos>'),
    (f'long\n{pad * 5}', 'c<eos>'),
    (f'Q\n{pad * 8}', 'd<eos>'),
  }
  whole, length = text_format.encode_solution(FMT, BYTES, 'long', ['c'])
  assert BYTES.decode(whole[length:]) == 'c<eos>'
