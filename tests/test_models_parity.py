"""Public families: hidden states and logits against a reference implementation.

The folder `PRM_JAX_PARITY` holds one directory a case: `config.json`,
`model.safetensors` and `expected.npz` with the outputs of transformers.
"""

import json
import math
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prm_jax.models import decoder, heads, weights
from prm_jax.specs import HeadSpec, ModelSpec

FOLDER = pathlib.Path(os.environ.get('PRM_JAX_PARITY', ''))
CASES = (
  'qwen2_untied', 'qwen2_tied', 'qwen3_tied', 'llama3_rope', 'mistral_window',
  'gemma2', 'gemma3_text', 'qwen2_token_cls', 'qwen2_math_prm', 'qwen2_skywork',
  'mistral_plus_minus', 'qwen2_v5_config',
)  # fmt: skip

pytestmark = pytest.mark.skipif(
  not os.environ.get('PRM_JAX_PARITY'),
  reason='PRM_JAX_PARITY does not name a folder of reference checkpoints',
)


def model_spec(c: dict, **changes) -> ModelSpec:
  rope = c.get('rope_parameters') or {}
  gemma = c['model_type'].startswith('gemma')
  n = c['num_hidden_layers']
  scaling = c.get('rope_scaling') or {}
  if scaling:
    names = ('factor', 'low_freq_factor', 'high_freq_factor')
    scaling = (
      scaling['rope_type'], *(scaling[k] for k in names),
      scaling['original_max_position_embeddings'],
    )  # fmt: skip
  windowed: tuple[bool, ...] = ()
  if c['model_type'] == 'gemma2':
    windowed = tuple(i % 2 == 0 for i in range(n))
  if c['model_type'] == 'gemma3_text':
    windowed = tuple((i + 1) % c['sliding_window_pattern'] != 0 for i in range(n))
  values = {
    'vocab_size': c['vocab_size'],
    'n_layers': n,
    'd_model': c['hidden_size'],
    'n_heads': c['num_attention_heads'],
    'n_kv_heads': c['num_key_value_heads'],
    'head_dim': c.get('head_dim') or c['hidden_size'] // c['num_attention_heads'],
    'd_ff': c['intermediate_size'],
    'activation': 'gelu_tanh' if gemma else 'silu',
    'norm_eps': c['rms_norm_eps'],
    'norm_offset': 1.0 if gemma else 0.0,
    'post_norms': gemma,
    'embed_scale': math.sqrt(c['hidden_size']) if gemma else 0.0,
    'tied_embeddings': c['tie_word_embeddings'],
    'attention_bias': c['model_type'] == 'qwen2',
    'qk_norm': c['model_type'] in ('qwen3', 'gemma3_text'),
    'query_scale': c['query_pre_attn_scalar'] ** -0.5 if gemma else 0.0,
    'attn_softcap': c.get('attn_logit_softcapping') or 0.0,
    'final_softcap': c.get('final_logit_softcapping') or 0.0,
    'rope_theta': c.get('rope_theta') or rope['rope_theta'],
    'rope_theta_local': c.get('rope_local_base_freq') or 0.0,
    'rope_scaling': tuple(scaling),
    'window': c.get('sliding_window') or 0,
    'windowed_layers': windowed,
  }
  return ModelSpec(**{**values, **changes})


def head_spec(name: str) -> HeadSpec:
  return {
    'qwen2_token_cls': HeadSpec('linear', 2),
    'qwen2_math_prm': HeadSpec('mlp'),
    'qwen2_skywork': HeadSpec('scalar'),
  }.get(name, HeadSpec('lm'))


def public_names(spec: ModelSpec) -> dict[str, str]:
  post = spec.post_norms
  names = {
    'attn_norm_D': 'input_layernorm.weight',
    'attn_post_norm_D': 'post_attention_layernorm.weight',
    'mlp_norm_D': f'{"pre_feedforward" if post else "post_attention"}_layernorm.weight',
    'mlp_post_norm_D': 'post_feedforward_layernorm.weight',
    'wo_NHD': 'self_attn.o_proj.weight',
    'q_norm_H': 'self_attn.q_norm.weight',
    'k_norm_H': 'self_attn.k_norm.weight',
    'wgate_DF': 'mlp.gate_proj.weight',
    'wup_DF': 'mlp.up_proj.weight',
    'wdown_FD': 'mlp.down_proj.weight',
  }
  for x, heads_letter in (('q', 'N'), ('k', 'K'), ('v', 'K')):
    names[f'w{x}_D{heads_letter}H'] = f'self_attn.{x}_proj.weight'
    names[f'b{x}_{heads_letter}H'] = f'self_attn.{x}_proj.bias'
  return names


def load(path: pathlib.Path, spec: ModelSpec, head: HeadSpec) -> weights.Params:
  from safetensors.numpy import load_file

  tensors = load_file(path / 'model.safetensors')
  mlp, skywork = head.kind == 'mlp', head.kind == 'scalar'
  last = 'score.2' if mlp else 'v_head.summary' if skywork else 'score'
  outside = {
    'decoder/embed_VD': 'model.embed_tokens.weight',
    'decoder/final_norm_D': 'model.norm.weight',
    'head/lm_head_VD': 'lm_head.weight',
    'head/win_DD': 'score.0.weight', 'head/bin_D': 'score.0.bias',
    'head/wout_DQ': f'{last}.weight', 'head/bout_Q': f'{last}.bias',
  }  # fmt: skip
  inside = public_names(spec)
  used = set()

  def find(path, weight):
    path = '/'.join(k.key for k in path)
    if path in outside:
      name = outside[path]
    else:
      _, layer, own = path.split('/')
      name = f'model.layers.{layer.removeprefix("layer_")}.{inside[own]}'
    used.add(name)
    value = tensors[name]
    if value.ndim == 2 and not path.endswith('_VD'):
      value = value.T
    return jnp.asarray(value.reshape(weight.shape))

  params = jax.tree_util.tree_map_with_path(find, weights.declare(spec, head))
  assert used == set(tensors)
  return params


def close(actual, expected, mask, tolerance=1e-4):
  difference = np.abs(np.asarray(actual) - expected)[np.asarray(mask) == 1]
  assert difference.max() < tolerance


def close_to_plus_minus(spec, params, hidden, expected):
  cases = json.loads((FOLDER / 'manifest.json').read_text())['cases']
  ids = next(c for c in cases if c['name'] == 'mistral_plus_minus')['token_ids']
  head = HeadSpec('label_tokens', label_tokens=(ids['minus'], ids['plus']))
  at = expected['right_step_positions']
  states = np.take_along_axis(np.asarray(hidden), np.maximum(at, 0)[:, :, None], 1)
  logits = heads.read(spec, head, params, states)
  # The reference's columns are plus, minus; ours go from worst to best.
  close(logits, expected['right_step_logits'][..., ::-1], at >= 0)
  good = jax.nn.softmax(logits)[..., 1]
  close(good, expected['right_step_probs'], at >= 0, 1e-5)


@pytest.mark.parametrize('case', CASES)
def test_matches_reference(case):
  """Every option of the public families, in both directions it can be wrong."""
  folder = FOLDER / case
  config = json.loads((folder / 'config.json').read_text())
  spec, head = model_spec(config), head_spec(case)
  params = load(folder, spec, head)
  expected = np.load(folder / 'expected.npz')
  tokens, mask = expected['right_input_ids'], expected['right_attention_mask']
  hidden = decoder.forward(spec, params['decoder'], tokens)
  close(hidden, expected['right_last_hidden'], mask)
  logits = heads.read(spec, head, params, hidden)
  logits = logits[..., None] if head.kind == 'scalar' else logits
  name = 'right_head_logits'
  name = name if name in expected else 'right_logits'
  if name in expected:
    close(logits, expected[name], mask)
  if case == 'mistral_plus_minus':
    close_to_plus_minus(spec, params, hidden, expected)
  # The scanned model, in blocks, at chosen positions only, is the same model.
  changed = model_spec(config, scan_layers=True, query_block=5)
  at = np.array([[8, 3, 0], [7, 7, 1], [2, 4, 8]], np.int32)
  states = decoder.forward(
    changed, weights.stack_layers(params)['decoder'], tokens, at
  )
  full = np.take_along_axis(expected['right_last_hidden'], at[:, :, None], 1)
  close(states, full, np.ones_like(at))
