"""Training from a Hugging Face checkpoint, end to end through the command line."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny_checkpoints
import tiny_runs
from tiny_runs import BARE, BASE, TINY, promised, refusal, results, run

import prm_jax
from configs import base
from prm_jax import exports, tensors
from prm_jax.interop import checkpoints, loading
from prm_jax.jobs import assemble
from prm_jax.jobs import train as job
from prm_jax.specs import HeadSpec, ModelSpec

# No key of the network: those are the checkpoint's.
RUN = {
  **{k: v for k, v in TINY.items() if not k.startswith('model.')},
  **BARE,
  'model.rope_theta': 10000.0,
  'optimizer.warmup_steps': 0,
}
# configs/finetune.py on the embedded world.
LORA = {
  'config': str(tiny_runs.ROOT / 'configs' / 'finetune.py'),
  'data__train': 'world:train',
  'data__validation_share': 0.0,
  'data__label': 'on_track',
  'data__truth': 'on_track',
  'train__accumulation': 1,
  'train__steps': 4,
  'checkpoint__every_steps': 2,
}


@pytest.fixture(scope='module')
def qwen(tmp_path_factory):
  return tiny_checkpoints.write(tmp_path_factory.mktemp('qwen') / 'model')


def argv(work, start, config=BASE, **overrides):
  return tiny_runs.arguments(
    work, config=config, tiny=RUN, model__init_from=start, **overrides
  )


def decoder_of(folder, spec):
  """The checkpoint's own decoder, flat, with as many rows as it has."""
  held = checkpoints.open_checkpoint(folder)
  return tensors.flatten({'decoder': loading.load_decoder(held, spec)})


class Killed(BaseException):
  """Stands for a kill: nothing that handles errors sees it."""


@pytest.fixture(scope='module')
def adapted(qwen, tmp_path_factory):
  """A LoRA run that nothing interrupted."""
  work = tmp_path_factory.mktemp('lora') / 'work'
  assert run(argv(work, qwen, **LORA)) == 0
  return work


@pytest.mark.slow
def test_lora_from_a_checkpoint(qwen, adapted):
  """Merged on export; what is no target has not moved; the marker has a row."""
  spec, params, words = exports.load_scorer(adapted / 'scorer')
  assert spec.model.n_layers == 2 and spec.model.attention_bias
  assert spec.model.vocab_size == 272 and words.token_id('<prm>') == 257
  assert spec.tokenizer == 'tokenizer.json'
  assert spec.model.scan_layers and spec.model.compute_dtype == 'bfloat16'
  before, after = decoder_of(qwen, spec.model), tensors.flatten(params)
  table = before.pop('decoder/embed_VD')
  for path, weight in before.items():
    held = np.asarray(weight, 'bfloat16').astype(np.float32)
    moved = np.abs(after[path].astype(np.float32) - held).max()
    assert moved > 1e-7 if '/w' in path else moved == 0, path
    assert after[path].dtype == ('float32' if '/w' in path else 'bfloat16')
  expected = np.array(table, 'bfloat16').astype(np.float32)
  expected[257] = expected[:257].mean(0)
  found = after['decoder/embed_VD'].astype(np.float32)
  np.testing.assert_allclose(found, expected, atol=2e-4)
  scores = prm_jax.score(str(adapted), ['1+1=?'], [['+1=2', '*4=8']])
  assert np.isfinite(scores).all() and len(scores[0]) == 2
  assert results(adapted)['provenance']['init_hash']


@pytest.mark.slow
def test_checkpoints_hold_adapters_and_head_alone(adapted):
  newest = max((adapted / 'checkpoints').iterdir())
  commit = (newest / 'commit.json').read_text()
  assert 'lora_a_DR' in commit and 'wout_DQ' in commit
  assert 'embed_VD' not in commit and 'frozen' not in commit


@pytest.mark.slow
def test_killed_and_resumed(qwen, adapted, tmp_path, monkeypatch):
  note, calls = job.Run._note, [0]

  def dies(self, *rest):
    calls[0] += 1
    if calls[0] == 3:
      raise Killed
    note(self, *rest)

  with monkeypatch.context() as patch, pytest.raises(Killed):
    patch.setattr(job.Run, '_note', dies)
    run(argv(tmp_path, qwen, **LORA))
  assert run(argv(tmp_path, qwen, **LORA)) == 0
  assert promised(tmp_path) == promised(adapted)


@pytest.mark.slow
def test_best_parameters_under_pmap(qwen, tmp_path):
  """Updates of the best state meet frozen weights that pmap held."""
  keys = {
    'parallel__mapper': 'pmap', 'train__use': 'best', 'train__validate_every': 2,
    'data__validation': 'world:validation',
  }  # fmt: skip
  assert run(argv(tmp_path, qwen, **LORA, **keys)) == 0
  _, params, _ = exports.load_scorer(tmp_path / 'scorer')
  assert all(np.isfinite(x).all() for x in tensors.flatten(params).values())


def test_frozen_weights_that_changed_are_noticed(tmp_path, capsys, monkeypatch):
  """A resumed run reads them from where they were, so they must still be there."""
  start = tiny_checkpoints.write(tmp_path / 'model')
  keys = {'model__freeze': 'decoder', 'train__steps': 2}
  with monkeypatch.context() as patch, pytest.raises(Killed):
    patch.setattr(job.Run, 'finish', lambda *_: (_ for _ in ()).throw(Killed))
    run(argv(tmp_path / 'work', start, **keys))
  tiny_checkpoints.write(start, seed=1)
  said = refusal(argv(tmp_path / 'work', start, **keys), capsys)
  assert 'not the weights that this run started from' in said


def test_head_alone(qwen, tmp_path):
  """A frozen backbone in bfloat16: exported as it was read."""
  keys = {'model__freeze': 'decoder', 'model__frozen_dtype': 'bfloat16'}
  assert run(argv(tmp_path, qwen, **keys, train__steps=2)) == 0
  spec, params, _ = exports.load_scorer(tmp_path / 'scorer')
  before = decoder_of(qwen, spec.model)
  for path, weight in tensors.flatten(params).items():
    if path.startswith('decoder/layer'):
      assert weight.dtype == jax.numpy.bfloat16
      np.testing.assert_array_equal(weight, before[path].astype('bfloat16'))
    if path.startswith('head/'):
      assert weight.dtype == np.float32 and np.abs(weight).max() > 0


@pytest.mark.slow
def test_full_fine_tuning_over_a_mesh(tmp_path):
  """Eight devices give what one gives. The marker has no room in the table, which
  grows to rows that divide."""
  start = tiny_checkpoints.write(tmp_path / 'model', rows=257)
  keys = {'model__scan_layers': True}
  mesh = {'parallel__data': 2, 'parallel__fsdp': 2, 'parallel__tensor': 2}
  assert run(argv(tmp_path / 'many', start, **keys, **mesh)) == 0
  code, err = tiny_runs.finish(tiny_runs.start(argv(tmp_path / 'one', start, **keys)))
  assert code == 0, err
  spec, one, _ = exports.load_scorer(tmp_path / 'one' / 'scorer')
  _, many, _ = exports.load_scorer(tmp_path / 'many' / 'scorer')
  assert spec.model.vocab_size == 384
  for path, weight in tensors.flatten(one).items():
    np.testing.assert_allclose(
      tensors.flatten(many)[path], weight, atol=1e-5, err_msg=path
    )


@pytest.mark.slow
@pytest.mark.parametrize(
  'tied', [pytest.param(True, marks=pytest.mark.slow), False], ids=['tied', 'untied']
)
def test_a_policy_from_a_causal_lm(tied, tmp_path):
  """lm_head is loaded where there is one, and gets a row for the end token."""
  start = tiny_checkpoints.write(tmp_path / 'model', tied=tied)
  keys = {
    'objective__name': 'next_token', 'head__kind': 'lm', 'text__max_length': 48,
    'data__train': 'world_exact:train', 'optimizer__peak_lr': 1e-9, 'train__steps': 1,
    'format__max_length': 128,
  }  # fmt: skip
  assert run(argv(tmp_path / 'work', start, **keys)) == 0
  spec, params, words = exports.load_policy(tmp_path / 'work' / 'policy')
  assert words.token_id('<eos>') == 257
  held = checkpoints.open_checkpoint(start)
  theirs = tensors.flatten(loading.load(held, spec.model, HeadSpec('lm')))
  ours = tensors.flatten(params)
  assert ours.keys() == theirs.keys() and ('head/lm_head_VD' in ours) != tied
  for path, weight in theirs.items():
    rows = slice(None, 257) if path.endswith('VD') else slice(None)
    np.testing.assert_allclose(ours[path][rows], weight[rows], atol=1e-7)
  # And a policy goes on from a policy, lm_head and all.
  assert run(argv(tmp_path / 'again', tmp_path / 'work', **keys)) == 0
  again = tensors.flatten(exports.load_policy(tmp_path / 'again' / 'policy')[1])
  for path, weight in ours.items():
    np.testing.assert_allclose(again[path], weight, atol=1e-7)


@pytest.mark.parametrize(
  'keys, message',
  [
    ({'lora__rank': 2, 'lora__targets': '("wz",)'}, 'there are wq_DNH'),
    ({'model__freeze': 'layers:1-3'}, 'layers 0 to 1'),
    ({'model__freeze': 'norms'}, "'norms' matches no weight"),
    ({'model__n_layers': 4}, 'n_layers='),
    ({'parallel__tensor': 8}, 'does not divide model.n_heads = 4'),
    ({'tokenizer': 'elsewhere'}, 'elsewhere'),
  ],
)
def test_refusals_are_one_sentence(keys, message, qwen, tmp_path, capsys):
  assert message in refusal(argv(tmp_path, qwen, **keys), capsys)


def test_folders_that_hold_no_model(tmp_path, capsys):
  (tmp_path / 'empty').mkdir()
  said = refusal(argv(tmp_path / 'work', tmp_path / 'empty'), capsys)
  assert 'config.json' in said and 'spec.json' in said
  few = tiny_checkpoints.write(tmp_path / 'few', rows=200)
  assert 'table 200 rows' in refusal(argv(tmp_path / 'work', few), capsys)
  bare = tiny_checkpoints.write(tmp_path / 'bare')
  (bare / 'tokenizer.json').unlink()
  assert 'no tokenizer there' in refusal(argv(tmp_path / 'work', bare), capsys)


def test_a_policy_needs_a_vocabulary_head_that_is_clear(tmp_path, capsys):
  config = str(tiny_runs.ROOT / 'configs' / 'policy.py')
  untied = tiny_checkpoints.write(tmp_path / 'untied')
  file = untied / 'config.json'
  held = json.loads(file.read_text())
  file.write_text(json.dumps({**held, 'tie_word_embeddings': False}))
  said = refusal(argv(tmp_path / 'work', untied, config=config), capsys)
  assert 'has no lm_head, and its embeddings are not tied' in said
  tied = tiny_checkpoints.write(tmp_path / 'tied', tied=False)
  file = tied / 'config.json'
  file.write_text(
    file.read_text().replace(
      '"tie_word_embeddings": false', '"tie_word_embeddings": true'
    )
  )
  said = refusal(argv(tmp_path / 'work', tied, config=config), capsys)
  assert 'config.json says that embeddings are tied, but lm_head' in said


def test_keys_left_alone_are_the_defaults_of_the_network():
  """That is how a key that was set is known from one that was not."""
  section = base.get_config().model
  fields = {f.name: f.default for f in dataclasses.fields(ModelSpec)}
  for key, value in section.items():
    if key not in assemble.STARTING:
      assert fields[key] == value, key


def test_a_separator_of_ordinary_text_gets_no_token(qwen):
  config = base.get_config()
  config.model.init_from = str(qwen)
  config.format.marker = '\n---\n'
  assert assemble.tokenizer(config).token_id('\n---\n') == tiny_checkpoints.IDS
  config.format.marker_in_text = 'allow'
  assert assemble.tokenizer(config).token_id('\n---\n') is None


def test_new_weights_are_not_frozen(tmp_path, capsys):
  said = refusal(argv(tmp_path, '', lora__rank=2), capsys)
  assert 'lora.rank is set, but model.init_from is empty' in said
