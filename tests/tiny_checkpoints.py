"""Hugging Face checkpoints of random weights, small enough for tests."""

import json

import numpy as np
import tiny_tokenizers

from prm_jax import tensors

LAYERS, D, N, K, H, F = 2, 16, 4, 2, 8, 32
IDS = 257  # of the tokenizer: bytes and one special token


def write(folder, *, rows=272, tied=True, seed=0, ids=IDS):
  """A Qwen2 model whose tokenizer lacks the marker; returns the folder.

  Args:
    folder: where; made if it is not there.
    rows: V, of the embedding table; those from `ids` on have no token.
    tied: without lm_head.
    ids: of the tokenizer, bytes first.
  """
  specials = {f'<|special_{i}|>': i for i in range(256, ids)}
  tiny_tokenizers.write(folder, specials=specials)
  rng = np.random.default_rng(seed)
  flat = {}

  def add(name, *shape, mean=0.0):
    values = mean + 0.3 * rng.standard_normal(shape)
    flat[name] = values.astype(np.float32)

  add('model.embed_tokens.weight', rows, D)
  for i in range(LAYERS):
    at = f'model.layers.{i}.'
    for name, out in (('q', N * H), ('k', K * H), ('v', K * H)):
      add(f'{at}self_attn.{name}_proj.weight', out, D)
      add(f'{at}self_attn.{name}_proj.bias', out)
    add(f'{at}self_attn.o_proj.weight', D, N * H)
    add(f'{at}mlp.gate_proj.weight', F, D)
    add(f'{at}mlp.up_proj.weight', F, D)
    add(f'{at}mlp.down_proj.weight', D, F)
    add(f'{at}input_layernorm.weight', D, mean=1.0)
    add(f'{at}post_attention_layernorm.weight', D, mean=1.0)
  add('model.norm.weight', D, mean=1.0)
  if not tied:
    add('lm_head.weight', rows, D)
  tensors.write(folder / 'model.safetensors', flat)
  config = {
    'architectures': ['Qwen2ForCausalLM'],
    'model_type': 'qwen2',
    'vocab_size': rows,
    'hidden_size': D,
    'intermediate_size': F,
    'num_hidden_layers': LAYERS,
    'num_attention_heads': N,
    'num_key_value_heads': K,
    'head_dim': H,
    'hidden_act': 'silu',
    'rms_norm_eps': 1e-6,
    'rope_theta': 10000.0,
    'tie_word_embeddings': tied,
    'torch_dtype': 'float32',
  }
  (folder / 'config.json').write_text(json.dumps(config))
  return folder
