"""Exports: what is written comes back bit for bit, in every family and layout."""

import dataclasses
import json

import export_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from export_cases import BYTES, FAMILIES

from prm_jax import exports, specs, tensors
from prm_jax.calibration_maps import CalibrationMap
from prm_jax.errors import UserError
from prm_jax.formats import tokenizers
from prm_jax.inference import api
from prm_jax.interop import architectures, checkpoints, loading, saving
from prm_jax.models import lm, weights
from prm_jax.specs import PolicySpec, ScorerSpec


def back(folder, **changes):
  """(spec, parameters) of an export, the model told by config.json alone."""
  ckpt = checkpoints.open_checkpoint(folder)
  about = checkpoints.read_about(folder)
  cls = ScorerSpec if about['kind'] == 'scorer' else PolicySpec
  spec = specs.from_dict(cls, about['spec'], 'prm_jax.json')
  model = architectures.model_spec(ckpt.config, str(folder), **changes)
  head = spec.head if cls is ScorerSpec else lm.HEAD
  return spec, loading.load(ckpt, model, head)


def same(a, b):
  a, b = tensors.flatten(a), tensors.flatten(b)
  assert a.keys() == b.keys()
  for name in a:
    assert a[name].dtype == b[name].dtype, name
    np.testing.assert_array_equal(np.asarray(a[name]), np.asarray(b[name]), name)


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('head', export_cases.HEADS)
def test_scorers_come_back(family, head, tmp_path):
  if head == 'mlp' and family != 'qwen2':
    with pytest.raises(UserError, match='a qwen2 model cannot express'):
      spec = export_cases.scorer(family, head)
      params = export_cases.random(spec.model, spec.head)
      saving.save(tmp_path, spec, params, BYTES, layout='vllm')
    return
  spec = export_cases.scorer(family, head)
  params = export_cases.random(spec.model, spec.head)
  layout = 'vllm' if head == 'mlp' else 'transformers'
  digest = saving.save(tmp_path, spec, params, BYTES, layout=layout)
  held, found = back(tmp_path)
  assert held == spec
  assert tensors.model_hash(found) == tensors.model_hash(params) == digest
  same(found, params)


@pytest.mark.parametrize('family', ['mistral', 'gemma2'])
def test_policies_with_scanned_layers_come_back_from_shards(family, tmp_path):
  spec = export_cases.policy(family, scan_layers=True)
  params = export_cases.random(spec.model, lm.HEAD)
  saving.save(tmp_path, spec, params, BYTES, family=family, largest_file=9000)
  index = json.loads((tmp_path / checkpoints.INDEX).read_text())
  assert len(set(index['weight_map'].values())) > 3
  held, found = back(tmp_path, scan_layers=True)
  assert held == spec
  same(found, params)
  saving.save(tmp_path, spec, params, BYTES)  # over it, as one file
  assert not (tmp_path / checkpoints.INDEX).exists()
  same(back(tmp_path, scan_layers=True)[1], params)


def test_another_dtype(tmp_path):
  spec = export_cases.scorer('qwen3', 'linear2')
  params = export_cases.random(spec.model, spec.head)
  saving.save(tmp_path, spec, params, BYTES, dtype='bfloat16')
  ckpt = checkpoints.open_checkpoint(tmp_path)
  assert ckpt.config['torch_dtype'] == 'bfloat16'
  assert {str(ckpt.dtype(n)) for n in ckpt.names} == {'bfloat16'}
  rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(x.dtype), params)
  same(back(tmp_path)[1], rounded)
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  same(back(tmp_path, param_dtype='bfloat16')[1], half)


def test_config_of_a_token_classifier(tmp_path):
  spec = export_cases.scorer('qwen2', 'linear2')
  params = export_cases.random(spec.model, spec.head)
  metrics = {'heldout/f1': {'value': 0.5, 'low': 0.4, 'high': 0.6, 'n': 9}}
  origin = {'base': 'some/base', 'metrics': metrics}
  saving.save(tmp_path, spec, params, BYTES, origin=origin)
  config = json.loads((tmp_path / 'config.json').read_text())
  assert config['architectures'] == ['Qwen2ForTokenClassification']
  assert config['num_labels'] == 2 and config['label2id'] == {
    'LABEL_0': 0,
    'LABEL_1': 1,
  }
  card = (tmp_path / 'README.md').read_text()
  for text in ('some/base', 'LABEL_1 is "the step is correct"', 'heldout/f1', '<prm>',
               'AutoModelForTokenClassification', 'configs/score.py'):  # fmt: skip
    assert text in card, text


def test_byte_tokenizer_files_give_the_same_ids(tmp_path):
  spec = export_cases.scorer('llama', 'scalar')
  saving.save(tmp_path, spec, export_cases.random(spec.model, spec.head), BYTES)
  read = tokenizers.load(str(tmp_path / 'tokenizer.json'))
  text = '3 + 4 = 7\n\tso "äñ漢🙂" \x00\x7f'
  assert read.encode(text) == BYTES.encode(text)
  for name in tokenizers.SPECIALS:
    assert read.token_id(name) == BYTES.token_id(name)


def test_the_given_tokenizer_is_saved_whatever_the_spec_calls_it(tmp_path):
  spec = export_cases.scorer('llama', 'scalar')
  words = tokenizers.train_bpe(['ab'], 260, tmp_path / 'words.json')
  saving.save(tmp_path, spec, export_cases.random(spec.model, spec.head), words)
  assert spec.tokenizer == 'bytes'
  assert checkpoints.read_about(tmp_path)['spec']['tokenizer'] == 'tokenizer.json'
  read = tokenizers.load(str(tmp_path)).encode('ab')
  assert read == words.encode('ab') != BYTES.encode('ab')


@pytest.mark.parametrize(
  'family, head, options, message',
  [
    ('qwen2', 'linear2', {'layout': 'vllm'}, "layout of Qwen2ForProcessRewardModel"),
    ('qwen2', 'mlp', {}, "no place for head.kind='mlp'"),
    ('qwen2', 'scalar', {'layout': 'onnx'}, "export='onnx'"),
    ('qwen2', 'scalar', {'dtype': 'int8'}, "export_dtype='int8'"),
    ('qwen2', 'scalar', {'family': 'gpt2'}, "family='gpt2'"),
    ('qwen2', 'scalar', {'family': 'llama'}, 'model.attention_bias=True'),
  ],
)  # fmt: skip
def test_refusals(family, head, options, message, tmp_path):
  spec = export_cases.scorer(family, head)
  params = export_cases.random(spec.model, spec.head)
  with pytest.raises(UserError, match=message):
    saving.save(tmp_path / 'x', spec, params, BYTES, **options)
  assert not (tmp_path / 'x' / 'config.json').exists()


def test_a_model_of_no_family_is_refused_by_what_is_in_the_way():
  model = export_cases.model('llama', norm_offset=1.0)
  with pytest.raises(UserError, match=r'nearest is llama.*model\.norm_offset=1\.0'):
    architectures.hf_config(model)


@pytest.mark.parametrize('family', ['gemma2', 'gemma3_text'])
def test_gemma_without_windows_says_one_all_the_same(family):
  """Its classes in transformers refuse to run without, whatever the layers are."""
  plain = {'window': 0, 'windowed_layers': (), 'rope_theta_local': 0.0}
  model = export_cases.model(family, **plain)
  config = architectures.hf_config(model, family=family)
  assert set(config['layer_types']) == {'full_attention'}
  assert config['sliding_window'] == 4096
  again = architectures.model_spec(config, '')
  assert not any(again.is_windowed(i) for i in range(model.n_layers))


def test_too_many_tokens_for_the_embeddings(tmp_path):
  spec = export_cases.scorer('llama', 'scalar')
  model = dataclasses.replace(spec.model, vocab_size=200)
  spec = dataclasses.replace(spec, model=model)
  params = export_cases.random(model, spec.head)
  with pytest.raises(UserError, match='200 embeddings, its tokenizer ids up to 259'):
    saving.save(tmp_path, spec, params, BYTES)


def test_lengths_of_yarn_give_its_factor(tmp_path):
  """transformers 4 divides the longest by the original length to get it."""
  spec = export_cases.scorer('qwen2', 'scalar')
  fmt = dataclasses.replace(spec.step_format, max_length=50)
  spec = dataclasses.replace(spec, step_format=fmt)
  params = export_cases.random(spec.model, spec.head)
  saving.save(tmp_path, spec, params, BYTES)
  config = json.loads((tmp_path / 'config.json').read_text())
  original = config['rope_scaling']['original_max_position_embeddings']
  assert config['max_position_embeddings'] / original == 4
  with pytest.raises(UserError, match='export_positions=50'):
    saving.save(tmp_path, spec, params, BYTES, max_positions=50)
  with pytest.raises(UserError, match='export_positions=-1: give the longest text'):
    saving.save(tmp_path, spec, params, BYTES, max_positions=-1)


@pytest.mark.parametrize('name', ['spec.json', 'config.json', 'README.md'])
def test_what_another_wrote_is_left_alone(name, tmp_path):
  (tmp_path / name).write_text('{}')
  spec = export_cases.scorer('llama', 'scalar')
  params = export_cases.random(spec.model, spec.head)
  with pytest.raises(UserError, match=f'holds a {name} that no export has written'):
    saving.save(tmp_path, spec, params, BYTES)
  assert [p.name for p in tmp_path.iterdir()] == [name]


def test_an_export_that_was_cut_off_is_written_again(tmp_path, monkeypatch):
  spec = export_cases.scorer('llama', 'scalar')
  params = export_cases.random(spec.model, spec.head)

  def cut(*args):
    raise KeyboardInterrupt

  with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
    m.setattr(saving.card, 'text', cut)
    saving.save(tmp_path, spec, params, BYTES)
  assert not checkpoints.is_checkpoint(tmp_path)
  saving.save(tmp_path, spec, params, BYTES)
  same(back(tmp_path)[1], params)


def test_a_model_is_not_written_over_itself(tmp_path, capsys):
  from tiny_runs import refusal, tool

  spec = export_cases.scorer('qwen3', 'linear2')
  params = export_cases.random(spec.model, spec.head)
  held = tmp_path / 'work' / 'scorer'
  exports.save_scorer(held, spec, params, BYTES)
  said = refusal(tool('export', input=str(tmp_path / 'work'), output=str(held)), capsys)
  assert 'holds a spec.json' in said
  same(exports.load_scorer(held)[1], params)
  out = str(tmp_path / 'out')
  saving.save(out, spec, params, BYTES)
  said = refusal(tool('export', input=out, output=f'{out}/'), capsys)
  assert 'is what would be exported' in said


def test_export_job(tmp_path, capsys):
  from tiny_runs import refusal, run, tool

  spec = export_cases.scorer('qwen3', 'linear2')
  params = export_cases.random(spec.model, spec.head)
  exports.save_scorer(tmp_path / 'work' / 'scorer', spec, params, BYTES)
  out = tmp_path / 'out'
  assert run(tool('export', input=str(tmp_path / 'work'), output=str(out))) == 0
  same(back(out)[1], params)
  policy = export_cases.policy('llama')
  other = export_cases.random(policy.model, lm.HEAD)
  exports.save_policy(tmp_path / 'policy', policy, other, BYTES)
  said = refusal(
    tool('export', input=str(tmp_path / 'policy'), output=str(out)), capsys
  )
  assert f'{out}: holds the export of another model' in said
  same(back(out)[1], params)
  keys = {'input': str(tmp_path / 'work'), 'export_dtype': 'bfloat16'}
  assert run(tool('export', output=str(out), **keys)) == 0  # the same in another dtype
  assert checkpoints.open_checkpoint(out).config['torch_dtype'] == 'bfloat16'
  params, out = other, tmp_path / 'out of the policy'
  assert run(tool('export', input=str(tmp_path / 'policy'), output=str(out))) == 0
  same(back(out)[1], params)
  assert weights.count(weights.declare(policy.model, lm.HEAD)) > 0
  assert run(tool('export', input=str(tmp_path / 'none'), output=str(out))) == 2
  assert 'none' in capsys.readouterr().err


def test_a_calibration_goes_along_unless_the_scores_change(tmp_path, capsys):
  from tiny_runs import run, tool

  spec = export_cases.scorer('qwen3', 'scalar')
  params = export_cases.random(spec.model, spec.head)
  work = tmp_path / 'work' / 'scorer'
  digest = exports.save_scorer(work, spec, params, BYTES)
  parameters = {'slope': (2.0,), 'intercept': (0.5,)}
  fitted = CalibrationMap('platt', spec.kind, parameters, model_hash=digest)
  exports.save_calibration(work, fitted)
  scores = [
    api.score(str(tmp_path / 'work'), ['1+1=?'], [['1+1=2', 'so']], calibrated=True)
  ]
  for source, name in (('work', 'out'), ('out', 'again')):
    out = tmp_path / name
    assert run(tool('export', input=tmp_path / source, output=out)) == 0
    assert 'with its calibration.json' in capsys.readouterr().err
    scores.append(api.score(str(out), ['1+1=?'], [['1+1=2', 'so']], calibrated=True))
  np.testing.assert_allclose(scores[1:], [scores[0]] * 2, rtol=1e-6)
  keys = {'input': tmp_path / 'work', 'export_dtype': 'bfloat16'}
  assert run(tool('export', output=tmp_path / 'out', **keys)) == 0
  assert 'calibration.json: is left out' in capsys.readouterr().err
  assert not (tmp_path / 'out' / exports.CALIBRATION).exists()
  exports.save_calibration(work, dataclasses.replace(fitted, model_hash='other'))
  keys = {'input': tmp_path / 'work', 'output': tmp_path / 'more'}
  assert run(tool('export', **keys)) == 0
  assert 'calibration.json: is left out' in capsys.readouterr().err
