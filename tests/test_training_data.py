"""What is trained on: the embedded world by its short way, and by the rules of all."""

import numpy as np
import pytest
from etils import epath
from tiny_runs import arguments

from prm_jax.data.batches import Batches
from prm_jax.errors import UserError
from prm_jax.formats import label_policy
from prm_jax.jobs import assemble, training_data
from prm_jax.jobs.configuration import parse
from prm_jax.worlds import arithmetic

N = 48  # rows of a tiny run


def config_of(**overrides):
  return parse(arguments('unused', **overrides)).config


def load(tmp_path, judged=None, **overrides):
  config = config_of(**overrides)
  words = assemble.tokenizer(config)
  objective, _ = assemble.objective(config)
  fmt = assemble.spec(config, words).step_format
  return training_data.load(
    config, objective, fmt, words, epath.Path(tmp_path), judged or {}
  )


def train_rows(n=N, **overrides):
  return arithmetic.split(assemble.world(config_of(**overrides)), 'train', n)


@pytest.fixture
def no_records(monkeypatch):
  def made(*_, **__):
    raise AssertionError('records were made')

  monkeypatch.setattr(assemble, 'training', made)


def test_the_world_as_it_is_needs_no_records(no_records, tmp_path):
  config = config_of()
  judged = {'held': arithmetic.split(assemble.world(config), 'heldout')}
  found = load(tmp_path, judged)
  assert found.cache.n_rows == N and found.source_weights == ()
  assert found.examples == training_data.examples(config, judged) == train_rows()


@pytest.mark.parametrize('weight, n', [('', 48), ('@1', 48), ('@0.5', 24), ('@3', 144)])
def test_weight_of_the_world(weight, n, tmp_path):
  found = load(tmp_path, data__train=f'world:train{weight}')
  batches = Batches(
    found.cache, seed=0, batch_size=8, source_weights=found.source_weights
  )
  assert batches.usage.solutions == n


def test_labels_of_the_world_weigh_once(tmp_path):
  keys = {'world__solutions_per_problem': 8, 'data__weigh_once': True}
  found = load(tmp_path, **keys)
  _, expected = label_policy.weigh_once(train_rows(**keys), 'on_track')
  assert expected['context_labels'] > 0
  assert {k: found.counters[k] for k in ('distinct_labels', 'context_labels')} == {
    k: expected[k] for k in ('distinct_labels', 'context_labels')
  }
  assert found.cache.weights.sum() == expected['distinct_labels']


def test_problems_of_the_world_that_are_judged(tmp_path):
  judged = {'tr': train_rows(10)}
  found = load(tmp_path, judged)
  assert found.counters['leak/tr'] == 10 and found.cache.n_rows == N - 10
  assert {t.id for t in found.examples}.isdisjoint(t.id for t in judged['tr'])
  assert found.examples == training_data.examples(config_of(), judged)
  found = load(tmp_path, judged, data__leak='count')
  assert found.counters['leak/tr'] == 10 and found.cache.n_rows == N
  with pytest.raises(UserError, match='10 training rows share their problem with tr,'):
    load(tmp_path, judged, data__leak='error')


def test_another_split_is_trained_on_as_named(tmp_path):
  found = load(tmp_path, data__train='world:heldout')
  rows = arithmetic.split(assemble.world(config_of()), 'heldout')
  assert [found.cache.row_id(r) for r in range(len(rows))] == [t.id for t in rows]


@pytest.mark.parametrize('label', ['flip@0.3', 'mc_soft@4'])
def test_noise_is_the_same_either_way(label, tmp_path):
  keys = {'data__label': label}
  short = load(tmp_path, **keys)
  long = load(tmp_path, **keys, data__train='world:train@2')
  np.testing.assert_allclose(long.cache.labels, short.cache.labels, atol=1e-6)
  assert long.counters['steps_labelled'] == short.counters['steps_labelled']
