"""Training that starts from the decoder of another model."""

import jax
import numpy as np
import pytest
import tiny_runs
from tiny_runs import BARE, BASE, ROOT, TINY, refusal, results, run

from prm_jax import exports

POLICY = {
  **{k: v for k, v in TINY.items() if not k.startswith('format.')},
  'text.max_length': 48,
  'data.evaluate': '',
  'data.validation': '',
  'world.n_train': 40,
  'model.rope_theta': 100.0,
  'report': False,
}


@pytest.fixture(scope='module')
def policy(tmp_path_factory):
  work = tmp_path_factory.mktemp('policy') / 'work'
  config = str(ROOT / 'configs' / 'policy.py')
  assert run(tiny_runs.arguments(work, config=config, tiny=POLICY)) == 0
  return work


def argv(work, start, **overrides):
  tiny = {**TINY, **BARE, 'train.steps': 2, 'optimizer.warmup_steps': 0}
  return tiny_runs.arguments(
    work, config=BASE, tiny=tiny, model__init_from=start, **overrides
  )


def flat(tree):
  return {jax.tree_util.keystr(k): v for k, v in jax.tree.leaves_with_path(tree)}


@pytest.mark.slow
def test_a_scorer_starts_from_a_policy(policy, tmp_path):
  """With steps too small to matter the decoder is still the policy's."""
  assert run(argv(tmp_path, policy, optimizer__peak_lr=1e-9)) == 0
  _, theirs, _ = exports.load_policy(policy / 'policy')
  _, ours, _ = exports.load_scorer(tmp_path / 'scorer')
  start, end = flat(theirs['decoder']), flat(ours['decoder'])
  assert start.keys() == end.keys()
  for name, weight in start.items():
    np.testing.assert_allclose(end[name], weight, atol=1e-7, err_msg=name)
  origin = results(policy)['provenance']['model_hash']
  assert results(tmp_path)['provenance']['init_hash'] == origin


@pytest.mark.slow
@pytest.mark.parametrize(
  'how', [{'model__scan_layers': True}, {'parallel__fsdp': 2}], ids=['scanned', 'fsdp']
)
def test_layout_does_not_matter(how, policy, tmp_path):
  assert run(argv(tmp_path / 'a', policy)) == 0
  assert run(argv(tmp_path / 'b', policy, **how)) == 0
  _, a, _ = exports.load_scorer(tmp_path / 'a' / 'scorer')
  _, b, _ = exports.load_scorer(tmp_path / 'b' / 'scorer')
  a, b = (flat(tree) for tree in (a, b))
  assert a.keys() == b.keys()  # one layer: nothing is stacked
  for name, weight in a.items():
    np.testing.assert_allclose(b[name], weight, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_a_scorer_starts_from_a_scorer(policy, tmp_path):
  assert run(argv(tmp_path / 'a', policy)) == 0
  assert run(argv(tmp_path / 'b', tmp_path / 'a' / 'scorer', seed=1)) == 0
  assert results(tmp_path / 'b')['provenance']['init_hash']


@pytest.mark.slow
def test_a_resumed_run_does_not_start_again(policy, tmp_path):
  grows = {'optimizer__horizon': 30, 'world__n_train': 48}
  assert run(argv(tmp_path / 'a', policy, **grows)) == 0
  assert run(argv(tmp_path / 'a', policy, **grows, train__steps=4)) == 0
  assert run(argv(tmp_path / 'b', policy, **grows, train__steps=4)) == 0
  weights = [
    (tmp_path / name / 'scorer' / 'model.safetensors').read_bytes() for name in 'ab'
  ]
  assert weights[0] == weights[1]


@pytest.mark.parametrize(
  'keys, message',
  [
    ({'model__d_ff': 64}, 'd_ff=32'),
    ({'model__rope_theta': 7.0}, 'rope_theta'),
    ({'model__init_from': '/nowhere'}, '/nowhere'),
  ],
)
def test_refusals_are_one_sentence(keys, message, policy, tmp_path, capsys):
  keys = {'model__init_from': policy, **keys}
  start = keys.pop('model__init_from')
  assert message in refusal(argv(tmp_path, start, **keys), capsys)


def test_another_tokenizer_is_refused(policy, tmp_path, capsys):
  questions = tmp_path / 'rows.jsonl'
  tiny_runs.write_lines(questions, [tiny_runs.record(i) for i in range(30)])
  words = tmp_path / 'tokenizer.json'
  made = tiny_runs.tool(
    'tokenizer', input=str(questions), output=str(words), vocab_size=300
  )
  assert run(made) == 0
  said = refusal(argv(tmp_path / 'work', policy, tokenizer=str(words)), capsys)
  assert 'tokenizer is not the one' in said
