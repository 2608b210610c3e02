"""Values of config.json: read by type, refused by name, whatever is there."""

import copy
import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prm_jax.errors import UserError
from prm_jax.interop import adapters, architectures, config_keys
from prm_jax.interop.config_values import Values
from prm_jax.specs import ModelSpec

PARITY = Path(__file__).parent / 'fixtures' / 'parity'
WINDOWED = {'use_sliding_window': True, 'sliding_window': 8, 'max_window_layers': 1}
YARN = {'rope_type': 'yarn', 'original_max_position_embeddings': 64}
LLAMA3 = {'rope_type': 'llama3', 'factor': 8, 'low_freq_factor': 4,
          'high_freq_factor': 4, 'original_max_position_embeddings': 32}  # fmt: skip
FILE = 'ckpt/config.json'


def parity(case, **changes):
  return {**json.loads((PARITY / case / 'config.json').read_text()), **changes}


QWEN, GEMMA = parity('qwen2_untied'), parity('gemma3_text')
NESTED = {'model_type': 'gemma3', 'text_config': GEMMA, 'tie_word_embeddings': True}
CONFIGS = (
  {**QWEN, **WINDOWED},
  {**QWEN, 'rope_scaling': {**YARN, 'factor': 2.0, 'mscale': 1.0, 'mscale_all_dim': 1}},
  parity('qwen2_v5_config'),
  parity('llama3_rope'),
  parity('mistral_window'),
  parity('gemma2'),
  {**GEMMA, 'rope_parameters': {'full_attention': {'rope_type': 'linear', 'factor': 8},
                                'sliding_attention': {'rope_theta': 1e4}}},
  NESTED,
)  # fmt: skip


def spec(config):
  return architectures.model_spec(config, 'ckpt')


@pytest.mark.parametrize('changes, field, value, want', [
  ({'model_type': ['qwen2']}, 'model_type', ['qwen2'], 'a string'),
  ({'architectures': 'Qwen2Model'}, 'architectures', 'Qwen2Model', 'a list'),
  ({'architectures': [['x']]}, 'architectures[0]', ['x'], 'a string'),
  ({'layer_types': [['x']] * 2}, 'layer_types[0]', ['x'], 'a string'),
  ({'hidden_act': ['silu']}, 'hidden_act', ['silu'], 'a string'),
  ({'hidden_size': 48.0}, 'hidden_size', 48.0, 'a whole number'),
  ({'hidden_size': True}, 'hidden_size', True, 'a whole number'),
  ({'rms_norm_eps': '1e-6'}, 'rms_norm_eps', '1e-6', 'a positive number'),
  ({'tie_word_embeddings': 'false'}, 'tie_word_embeddings', 'false', 'true or false'),
  ({'attention_bias': 'false'}, 'attention_bias', 'false', 'true or false'),
  ({'use_sliding_window': 'false'}, 'use_sliding_window', 'false', 'true or false'),
  ({**WINDOWED, 'max_window_layers': None}, 'max_window_layers', None,
   'a whole number'),
  ({**WINDOWED, 'max_window_layers': '2'}, 'max_window_layers', '2', 'a whole number'),
  ({**WINDOWED, 'sliding_window': '8'}, 'sliding_window', '8', 'a whole number'),
  ({'rope_theta': 0}, 'rope_theta', 0, 'a positive number'),
  ({'rope_scaling': 'yarn'}, 'rope_scaling', 'yarn', 'an object {...}'),
  ({'rope_scaling': {'rope_type': ['x']}}, 'rope_scaling.rope_type', ['x'], 'a string'),
  ({'rope_scaling': YARN, 'max_position_embeddings': '256'}, 'max_position_embeddings',
   '256', 'a whole number'),
  ({'rope_scaling': {**YARN, 'factor': '2'}}, 'rope_scaling.factor', '2',
   'a positive number'),
  ({'rope_scaling': {**YARN, 'factor': 2, 'mscale': '1', 'mscale_all_dim': 1}},
   'rope_scaling.mscale', '1', 'a finite number'),
  ({'rope_scaling': {**YARN, 'factor': 2, 'truncate': 'false'}},
   'rope_scaling.truncate', 'false', 'true or false'),
  ({'rope_scaling': LLAMA3}, 'rope_scaling.high_freq_factor', 4.0,
   'more than low_freq_factor=4'),
])  # fmt: skip
def test_values_of_the_wrong_type_are_refused_by_name(changes, field, value, want):
  with pytest.raises(UserError) as e:
    spec({**QWEN, **changes})
  start = f'{FILE}: field {field!r} is {value!r}; it must be {want}'
  assert str(e.value).startswith(start)


@pytest.mark.parametrize('changes, field, want', [
  ({'final_logit_softcapping': 'x'}, 'final_logit_softcapping', 'a finite number'),
  ({'final_logit_softcapping': True}, 'final_logit_softcapping', 'a finite number'),
  ({'rope_parameters': {'full_attention': 'x'}}, 'rope_parameters.full_attention',
   'an object {...}'),
  ({'query_pre_attn_scalar': None}, 'query_pre_attn_scalar', 'a positive number'),
])  # fmt: skip
def test_those_of_gemma_too(changes, field, want):
  with pytest.raises(UserError) as e:
    spec({**GEMMA, **changes})
  said = str(e.value)
  assert said.startswith(f'{FILE}: field {field!r} is ')
  assert f'; it must be {want}' in said


def test_the_part_about_text_is_named():
  text = {**GEMMA, 'hidden_size': '48'}
  with pytest.raises(UserError, match=r"'text_config.hidden_size' is '48'"):
    spec({**NESTED, 'text_config': text})
  with pytest.raises(UserError, match=r"'text_config.model_type' is 'qwen2'"):
    spec({**NESTED, 'text_config': QWEN})
  with pytest.raises(UserError, match="'tie_word_embeddings' is 'true'"):
    spec({**NESTED, 'tie_word_embeddings': 'true'})


def test_null_means_what_it_means_in_transformers():
  free = ('num_key_value_heads', 'rope_theta', 'rope_scaling', 'layer_types',
          'tie_word_embeddings', 'use_sliding_window', 'architectures')  # fmt: skip
  found = spec({**QWEN, **dict.fromkeys(free)})
  assert found.n_kv_heads == found.n_heads and found.rope_theta == 10000.0
  assert not found.tied_embeddings and not found.window
  capped = {'attn_logit_softcapping': None, 'final_logit_softcapping': None}
  assert spec(parity('gemma2', **capped)).final_softcap == 0.0


def places(config):
  """Paths of all keys of a config.json and of the objects in it."""
  for key, value in config.items():
    yield (key,)
    if isinstance(value, dict):
      yield from ((key, *rest) for rest in places(value))


def changed(config, path, value):
  out = copy.deepcopy(config)
  held = out
  for key in path[:-1]:
    held = held[key]
  held[path[-1]] = value
  return out


scalars = (
  st.none()
  | st.booleans()
  | st.integers()
  | st.sampled_from([0, 1, 2, 3, 2**31, 10**400])
  | st.floats(allow_nan=False, allow_infinity=False)
  | st.sampled_from(['', 'x', '2', 'false', 'yarn', 'linear', 'gemma3', 'qwen3'])
  | st.text(max_size=5)
)
keys = st.sampled_from(['type', 'rope_type', 'factor', 'full_attention', 'x'])
values = st.recursive(
  scalars,
  lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
  max_leaves=6,
)


@st.composite
def configs(draw):
  """A sound config.json with one key set to any JSON value."""
  config = draw(st.sampled_from(CONFIGS))
  family = config_keys.FAMILIES.get(config['model_type'], {})
  known = sorted({*places(config), *((key,) for key in family)})
  return changed(config, draw(st.sampled_from(known)), draw(values))


@settings(max_examples=200, deadline=None)
@given(configs())
@example({**QWEN, 'architectures': {'x': 1}})
@example({**NESTED, 'text_config': {**GEMMA, 'model_type': ['x']}})
@example({**QWEN, 'num_hidden_layers': 2**31})
def test_any_value_gives_a_model_or_one_sentence(config):
  for read in (spec, candidates):
    try:
      found = read(config)
      assert isinstance(found, ModelSpec | list)
    except UserError as e:
      assert str(e).startswith('ckpt') and '\n' not in str(e)


def candidates(config):
  return adapters.candidates('me/prm', Values(config, FILE), [], [])


def test_the_configs_are_sound():
  for config in CONFIGS:
    assert spec(config) and candidates(config) == []
