"""Checkpoints in: both forms of config.json, names, shards, and every bad input."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import export_cases
import jax
import jax.numpy as jnp
import numpy as np
import parity_cases
import pytest
from jax.sharding import PartitionSpec

from prm_jax import tensors
from prm_jax.errors import UserError
from prm_jax.interop import architectures, checkpoints, config_keys, loading, saving
from prm_jax.models import lm, weights
from prm_jax.parallel import mesh as meshes
from prm_jax.parallel import sharding
from prm_jax.specs import HeadSpec
from prm_jax.tensors import TensorFile

CASE = parity_cases.FOLDER / 'qwen2_untied'
CONFIG = json.loads((CASE / 'config.json').read_text())
QWEN = {
  'model_type': 'qwen2', 'vocab_size': 99, 'hidden_size': 64, 'intermediate_size': 96,
  'num_hidden_layers': 4, 'num_attention_heads': 4,
}  # fmt: skip


def spec(**changes):
  config = {k: v for k, v in {**QWEN, **changes}.items() if v is not ...}
  return architectures.model_spec(config, 'here')


def windows(found):
  return found.window, [found.is_windowed(i) for i in range(found.n_layers)]


def test_windows_of_qwen():
  on = {'use_sliding_window': True, 'sliding_window': 8, 'max_window_layers': 3}
  assert windows(spec(**on)) == (8, [False, False, False, True])
  assert windows(spec(**{**on, 'use_sliding_window': False}))[0] == 0
  types = ['sliding_attention', *['full_attention'] * 3]
  assert windows(spec(**on, layer_types=types))[1] == [True, False, False, False]
  assert windows(spec(sliding_window=8))[0] == 0


def test_windows_of_the_others():
  assert windows(spec(model_type='mistral'))[0] == 4096  # the default of its class
  assert windows(spec(model_type='mistral', sliding_window=None))[0] == 0
  assert windows(spec(model_type='gemma2'))[1] == [True, False, True, False]
  found = spec(model_type='gemma3_text', num_hidden_layers=7, sliding_window_pattern=3)
  assert windows(found)[1] == [True, True, False, True, True, False, True]
  assert spec(model_type='gemma3_text').windowed_layers == ()  # 4 layers, pattern 6


def test_gemma_details():
  two = spec(model_type='gemma2', query_pre_attn_scalar=144)
  assert (two.query_scale, two.head_dim) == (144**-0.5, 256)
  assert (two.attn_softcap, two.final_softcap, two.embed_scale) == (50.0, 30.0, 8.0)
  three = spec(
    model_type='gemma3_text', rope_scaling={'rope_type': 'linear', 'factor': 8}
  )
  assert (three.rope_theta, three.rope_theta_local) == (1e6, 1e4)
  assert three.rope_scaling == ('linear', 8.0) and three.qk_norm
  by_layer = {
    'full_attention': {'rope_type': 'linear', 'factor': 8.0, 'rope_theta': 1e6},
    'sliding_attention': {'rope_type': 'default', 'rope_theta': 1e4},
  }
  kinds = ['sliding_attention', 'full_attention'] * 2
  new = spec(model_type='gemma3_text', rope_parameters=by_layer, layer_types=kinds)
  assert (new.rope_theta, new.rope_theta_local, new.rope_scaling) == (
    1e6, 1e4, ('linear', 8.0),
  )  # fmt: skip
  text = {k: v for k, v in QWEN.items() if k != 'model_type'}
  whole = {'model_type': 'gemma3', 'architectures': ['Gemma3ForConditionalGeneration'],
           'text_config': text, 'vision_config': {'hidden_size': 1}}  # fmt: skip
  assert architectures.model_spec(whole, 'here').tied_embeddings


def test_rope_scaling_in_both_forms():
  llama = {'rope_type': 'llama3', 'factor': 8.0, 'low_freq_factor': 1.0,
           'high_freq_factor': 4.0, 'original_max_position_embeddings': 32}  # fmt: skip
  want = ('llama3', 8.0, 1.0, 4.0, 32.0)
  assert spec(rope_scaling=llama, rope_theta=5e5).rope_scaling == want
  new = spec(rope_parameters={**llama, 'rope_theta': 5e5})
  assert (new.rope_scaling, new.rope_theta) == (want, 5e5)
  yarn = {'type': 'yarn', 'factor': 4.0, 'original_max_position_embeddings': 64}
  assert spec(rope_scaling=yarn).rope_scaling == (
    'yarn', 4.0, 64.0, 32.0, 1.0, pytest.approx(0.1 * np.log(4) + 1),
  )  # fmt: skip
  scaled = spec(rope_scaling={**yarn, 'mscale': 2.0, 'mscale_all_dim': 1.0})
  assert scaled.rope_scaling[5] == pytest.approx(
    (0.2 * np.log(4) + 1) / (0.1 * np.log(4) + 1)
  )
  at_once = spec(
    rope_scaling={'type': 'yarn', 'factor': 2.0}, max_position_embeddings=128
  )
  assert at_once.rope_scaling[2] == 128.0


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'model_type': 'gpt2'}, 'supported are qwen2, qwen3, llama, mistral, gemma2'),
    ({'model_type': ...}, 'model_type None is not supported'),
    ({'architectures': ['Qwen2ForVision']}, "architecture 'Qwen2ForVision'"),
    ({'model_type': 'gemma3'}, "model_type 'gemma3' is not supported"),
    ({'hidden_size': ...}, 'hidden_size is missing'),
    ({'hidden_size': '64'}, "field 'hidden_size' is '64'; it must be a whole number"),
    ({'num_key_value_heads': 3}, 'not a multiple of model.n_kv_heads'),
    ({'hidden_act': 'gelu'}, "hidden_act='gelu' is not supported"),
    ({'model_type': 'llama', 'attention_bias': True}, 'attention_bias=True'),
    ({'model_type': 'llama', 'mlp_bias': True}, 'mlp_bias=True is not supported'),
    ({'model_type': 'gemma2', 'use_bidirectional_attention': True}, 'bidirectional'),
    ({'partial_rotary_factor': 0.5}, 'partial_rotary_factor=0.5 is not supported'),
    ({'quantization_config': {'bits': 4}}, 'quantization_config='),
    ({'num_experts': 8}, 'num_experts=8, which is not known for qwen2'),
    ({'rope_scaling': {'type': 'dynamic', 'factor': 2}}, "rope scaling 'dynamic'"),
    ({'rope_scaling': {'rope_type': 'longrope'}}, "rope scaling 'longrope'"),
    ({'rope_scaling': {'type': 'linear'}}, "rope scaling 'linear' lacks factor"),
    ({'rope_scaling': {'type': 'yarn', 'factor': 2, 'truncate': False,
                       'original_max_position_embeddings': 9}}, 'truncate=false'),
    ({'rope_scaling': {'type': 'linear', 'factor': 2, 'mrope_section': [1]}}, 'mrope'),
    ({'rope_theta': 1, 'rope_scaling': {'type': 'yarn', 'factor': 2,
                       'original_max_position_embeddings': 9}}, 'rope_theta is 1'),
    ({'rope_parameters': {'full_attention': {}}}, 'rope_parameters differ'),
    ({'layer_types': ['full_attention']}, 'for each of the 4 layers'),
    ({'layer_types': ['sliding_attention'] * 4}, 'no sliding_window is in use'),
    ({'layer_types': ['chunked_attention'] * 4}, 'layer_types must name'),
  ],
)  # fmt: skip
def test_what_is_not_supported_is_refused_by_name(changes, message):
  with pytest.raises(UserError, match=re.escape(message)):
    spec(**changes)


def test_harmless_keys_pass():
  held = {**dict.fromkeys(config_keys.HARMLESS, 3), '_name_or_path': 'x', 'odd': None}
  held.update(architectures=None, model_type='qwen2', use_mrope=False)
  assert spec(**held) == spec()


@pytest.fixture
def folder(tmp_path):
  shutil.copytree(CASE, tmp_path / 'ckpt')
  return tmp_path / 'ckpt'


def load(place, head=lm.HEAD, **free):
  ckpt = checkpoints.open_checkpoint(place)
  model = architectures.model_spec(ckpt.config, str(place), **free)
  return loading.load(ckpt, model, head)


def change(place, **changes):
  """Rewrites the weights with some tensors replaced, or removed (None)."""
  file = TensorFile(place / checkpoints.WEIGHTS)
  held = {name: file.read(name) for name in file.names}
  held = {n: x for n, x in {**held, **changes}.items() if x is not None}
  about = {n: (x.shape, x.dtype) for n, x in held.items()}
  tensors.write_stream(place / checkpoints.WEIGHTS, about, lambda n: held[n])


def configure(place, **changes):
  (place / 'config.json').write_text(json.dumps({**CONFIG, **changes}))


def cut(place):
  file = place / checkpoints.WEIGHTS
  file.write_bytes(file.read_bytes()[:-100])


def to_shards(place, **weight_map):
  file = place / checkpoints.WEIGHTS
  names = TensorFile(file).names
  file.rename(place / 'model-00001-of-00001.safetensors')
  where = {**dict.fromkeys(names, 'model-00001-of-00001.safetensors'), **weight_map}
  (place / checkpoints.INDEX).write_text(json.dumps({'weight_map': where}))


def only_pickle(place):
  (place / checkpoints.WEIGHTS).rename(place / 'pytorch_model.bin')


Q = 'model.layers.1.self_attn.q_proj.weight'
ZEROS = np.zeros((48, 48), np.float32)


@pytest.mark.parametrize(
  'damage, message',
  [
    (lambda f: (f / 'config.json').unlink(), 'no config.json there'),
    (lambda f: (f / 'config.json').write_text('[]'), 'expected a JSON object'),
    (lambda f: (f / checkpoints.WEIGHTS).unlink(), 'the weights are missing'),
    (only_pickle, 'a pickle file can run code.*convert it to safetensors'),
    (cut, 'lm_head.weight|ends at byte .* the file is cut off'),
    (lambda f: to_shards(f, x='model-00002.safetensors'), 'model-00002.*not there'),
    (lambda f: to_shards(f, x='model-00001-of-00001.safetensors'), 'holds x, which'),
    (lambda f: to_shards(f, x='../a.safetensors'), 'shards are safetensors files'),
    (lambda f: change(f, **{Q: None}), f'tensor {Q} is missing'),
    (lambda f: change(f, **{Q: ZEROS[:40]}), rf'{Q} has shape \(40, 48\).*\(48, 48\)'),
    (lambda f: change(f, extra=ZEROS), 'tensor extra is not known'),
    (lambda f: change(f, **{Q: ZEROS.astype(np.int8)}), 'stored as int8.*quantized'),
    (lambda f: configure(f, hidden_size=56), r'embed_tokens.weight has shape'),
    (lambda f: configure(f, num_hidden_layers=3), r'tensors model.layers.2.* more are'),
    (lambda f: configure(f, num_hidden_layers=1), r'tensors model.layers.1.*not known'),
    (lambda f: configure(f, tie_word_embeddings=True), 'are tied, but lm_head'),
  ],
)
def test_bad_checkpoints_are_one_sentence(folder, damage, message):
  damage(folder)
  with pytest.raises(UserError, match=message) as e:
    load(folder)
  assert str(folder) in str(e.value) and '\n' not in str(e.value)


@pytest.mark.parametrize(
  'entry, message',
  [
    ({'dtype': 'F8_E4M3', 'shape': [8], 'data_offsets': [0, 8]}, 'type F8_E4M3'),
    ({'dtype': 'F32', 'shape': [3], 'data_offsets': [0, 8]}, 'has 8 bytes'),
    ({'dtype': 'F32', 'shape': [-2], 'data_offsets': [0, 8]}, 'damaged'),
    (
      {'dtype': 'F32', 'shape': [2], 'data_offsets': [4, 12]},
      'tensors a and b overlap',
    ),
    ({'dtype': 'F32', 'shape': [2], 'data_offsets': [8, 16]}, 'b ends at byte 16'),
    ({'shape': [2]}, 'damaged'),
  ],
)
def test_unsound_headers_are_refused(entry, message, tmp_path):
  first = {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 8]}
  header = json.dumps({'a': first, 'b': entry}).encode()
  file = tmp_path / 'x.safetensors'
  file.write_bytes(len(header).to_bytes(8, 'little') + header + bytes(12))
  with pytest.raises(UserError, match=message):
    TensorFile(file)


def test_rows_of_a_tensor():
  file = TensorFile(CASE / checkpoints.WEIGHTS)
  whole = file.read(Q)
  np.testing.assert_array_equal(file.read(Q, 3, 9), whole[3:9])
  np.testing.assert_array_equal(file.read(Q, 40, 99), whole[40:])
  assert whole.ctypes.data % tensors.ALIGNMENT == 0


def test_layouts_and_dtypes_give_the_same_weights(folder):
  want = load(CASE, scan_layers=True)
  file = TensorFile(folder / checkpoints.WEIGHTS)
  held = {n: file.read(n) for n in file.names}
  to_shards(folder)
  jax.tree.map(np.testing.assert_array_equal, load(folder, scan_layers=True), want)
  places = {
    '': 'lm_head.weight',
    'model.language_model.': 'lm_head.weight',
    'language_model.model.': 'language_model.lm_head.weight',
  }
  for prefix, head in places.items():
    named = {prefix + n.removeprefix('model.'): x for n, x in held.items()}
    named[head] = named.pop(prefix + 'lm_head.weight')
    named['rotary_emb.inv_freq'] = np.ones(8, np.float32)
    named['vision_tower.x'] = np.ones(8, np.float32)
    shutil.rmtree(folder)
    about = {n: (x.shape, x.dtype) for n, x in named.items()}
    tensors.write_stream(folder / checkpoints.WEIGHTS, about, named.__getitem__)
    configure(folder)
    jax.tree.map(np.testing.assert_array_equal, load(folder, scan_layers=True), want)
  ckpt = checkpoints.open_checkpoint(folder)
  model = architectures.model_spec(ckpt.config, 'here')
  left = loading.unneeded(ckpt, model, None)
  assert left == [
    'language_model.lm_head.weight',
    'rotary_emb.inv_freq',
    'vision_tower.x',
  ]
  assert set(loading.load_decoder(ckpt, model)) == set(weights.decoder(model))


@pytest.mark.parametrize('stored', ['float16', 'bfloat16'])
def test_half_precision_on_disk(folder, stored):
  file = TensorFile(CASE / checkpoints.WEIGHTS)
  change(folder, **{n: file.read(n).astype(stored) for n in file.names})
  rounded = jax.tree.map(lambda x: x.astype(stored).astype('float32'), load(CASE))
  jax.tree.map(np.testing.assert_array_equal, load(folder), rounded)
  kept = load(folder, param_dtype=stored)
  assert {str(x.dtype) for x in jax.tree.leaves(kept)} == {stored}


def test_a_tied_model_may_hold_its_head_too(folder):
  table = TensorFile(CASE / checkpoints.WEIGHTS).read('model.embed_tokens.weight')
  change(folder, **{'lm_head.weight': table})
  configure(folder, tie_word_embeddings=True)
  assert 'head' not in load(folder)


def test_a_head_without_its_tensors_is_refused():
  with pytest.raises(UserError, match=r'tensors score.weight, score.bias are missing'):
    load(CASE, HeadSpec('linear', 2))


@pytest.mark.parametrize('scan', [False, True])
def test_weights_go_to_their_shards(scan):
  ckpt = checkpoints.open_checkpoint(CASE)
  model = architectures.model_spec(ckpt.config, 'here', scan_layers=scan)
  mesh = meshes.make_mesh(1, 4, 2)
  places = sharding.param_shardings(mesh, weights.declare(model, lm.HEAD))
  found = loading.load(ckpt, model, lm.HEAD, places)
  jax.tree.map(np.testing.assert_array_equal, found, load(CASE, scan_layers=scan))
  layer = found['decoder']['layers' if scan else 'layer_0']['wq_DNH']
  letters = ('fsdp', 'tensor', None)
  assert layer.sharding.spec == PartitionSpec(*((None,) if scan else ()), *letters)
  assert layer.addressable_shards[0].data.nbytes * 8 == layer.nbytes


MEMORY = """
import sys
from prm_jax.jobs.bench_load import measure_load
m = measure_load(sys.argv[1], scan_layers=sys.argv[2] == 'True')
print(m['peak'] - m['start'] - m['placed'], m['two_largest'], m['placed'])
"""


@pytest.mark.slow
@pytest.mark.parametrize('scan', [False, True])
def test_peak_memory(scan, tmp_path):
  """At most start-up, what is placed, and the two largest tensors."""
  wide = {'d_model': 512, 'd_ff': 2048, 'n_layers': 6, 'n_heads': 8, 'head_dim': 64}
  policy = export_cases.policy('llama', **wide)
  shapes = weights.flatten(weights.declare(policy.model, lm.HEAD))
  params = tensors.unflatten({n: np.ones(w.shape, np.float32) for n, w in shapes})
  saving.save(tmp_path, policy, params, export_cases.BYTES)
  said = subprocess.run(
    [sys.executable, '-c', MEMORY, str(tmp_path), str(scan)],
    capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent,
  )  # fmt: skip
  beyond, two_largest, placed = map(int, said.stdout.split())
  assert placed > 90e6
  # Code that is compiled for stacking, and pages of libraries, hold no weights.
  assert beyond < two_largest + (30e6 if scan else 4e6)


def test_two_kinds_of_bfloat16_agree():
  assert jnp.dtype('bfloat16') == tensors.DTYPES['BF16']
