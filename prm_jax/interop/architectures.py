"""config.json <-> ModelSpec: the public families that one decoder covers.

Both forms in circulation are read: that of transformers 4 (`rope_theta`,
`rope_scaling`, `torch_dtype`) and that of transformers 5 (`rope_parameters`, `dtype`,
`layer_types`). A key that is missing has the default of transformers' class. Every key
is either read here, known not to change the computation (`HARMLESS`), or refused by
name; an unknown key passes only where its value says that the thing is off (null,
false, empty) or its name begins with '_'. So a variant of a family is never computed
silently wrong.
"""

from __future__ import annotations

import math
from typing import Any

from prm_jax.errors import UserError
from prm_jax.interop import rope_config
from prm_jax.specs import ModelSpec

REQUIRED = ('hidden_size', 'intermediate_size', 'num_hidden_layers')
# Defaults of transformers' classes for the keys that are read; `...` marks keys that
# have to be there. The keys of a family are those that it understands.
_COMMON: dict[str, Any] = {
  **dict.fromkeys(REQUIRED, ...), 'vocab_size': ..., 'num_attention_heads': ...,
  'num_key_value_heads': None, 'head_dim': None, 'hidden_act': 'silu',
  'rms_norm_eps': 1e-6, 'tie_word_embeddings': False, 'max_position_embeddings': None,
  'rope_theta': None, 'rope_scaling': None, 'rope_parameters': None,
  'partial_rotary_factor': None, 'original_max_position_embeddings': None,
  'attention_bias': False, 'mlp_bias': False, 'layer_types': None,
}  # fmt: skip
_QWEN = {
  **_COMMON, 'use_sliding_window': False, 'sliding_window': 4096,
  'max_window_layers': 28,
}  # fmt: skip
_GEMMA = {
  **_COMMON, 'num_attention_heads': 8, 'num_key_value_heads': 4, 'head_dim': 256,
  'hidden_activation': 'gelu_pytorch_tanh', 'tie_word_embeddings': True,
  'query_pre_attn_scalar': 256, 'sliding_window': 4096,
  'attn_logit_softcapping': None, 'final_logit_softcapping': None,
  'use_bidirectional_attention': None,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
  'qwen2': _QWEN,
  'qwen3': {**_QWEN, 'head_dim': 128},
  'llama': _COMMON,
  'mistral': {**_COMMON, 'sliding_window': 4096},
  'gemma2': {
    **_GEMMA, 'vocab_size': 256000, 'attn_logit_softcapping': 50.0,
    'final_logit_softcapping': 30.0,
  },
  'gemma3_text': {
    **_GEMMA, 'vocab_size': 262208, 'rope_local_base_freq': None,
    'sliding_window_pattern': 6,
  },
}  # fmt: skip
# What training, generation, tokenizers and libraries leave in a config.json.
HARMLESS = frozenset(
  """
  architectures model_type auto_map transformers_version torch_dtype dtype name_or_path
  bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id unk_token_id
  mask_token_id use_cache cache_implementation attention_dropout hidden_dropout
  classifier_dropout summary_dropout_prob dropout resid_pdrop embd_pdrop
  initializer_range initializer_factor num_labels id2label label2id problem_type
  finetuning_task task_specific_params token_classification_bias output_attentions
  output_hidden_states output_router_logits return_dict return_dict_in_generate
  torchscript gradient_checkpointing pretraining_tp tokenizer_class model_max_length
  max_length min_length max_new_tokens temperature top_k top_p typical_p do_sample
  num_beams num_beam_groups num_return_sequences repetition_penalty length_penalty
  diversity_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size early_stopping
  bad_words_ids begin_suppress_tokens suppress_tokens forced_bos_token_id
  forced_eos_token_id exponential_decay_length_penalty output_scores
  remove_invalid_values renormalize_logits pruned_heads use_bfloat16 tf_legacy_loss
  is_decoder is_encoder_decoder chunk_size_feed_forward prefix cross_attention_hidden_size
  unsloth_fixed unsloth_version unsloth_training_args attn_implementation
  transformers.js_config chat_template
  """.split()
)
# Classes whose decoder is the plain one of the family, by what follows its name.
_CLASSES = (
  'Model', 'TextModel', 'ForCausalLM', 'ForTokenClassification',
  'TextForTokenClassification', 'ForSequenceClassification',
  'TextForSequenceClassification', 'ForProcessRewardModel', 'ForRewardModel',
  'ForPrmModel', 'ForConditionalGeneration',
)  # fmt: skip
_STEMS = {
  'qwen2': 'Qwen2', 'qwen3': 'Qwen3', 'llama': 'Llama', 'mistral': 'Mistral',
  'gemma2': 'Gemma2', 'gemma3_text': 'Gemma3',
}  # fmt: skip
ACTIVATIONS = {'silu': 'silu', 'gelu_pytorch_tanh': 'gelu_tanh'}


def text_config(config: dict[str, Any], where: str) -> dict[str, Any]:
  """The part of config.json that describes the text decoder.

  Gemma 3 with vision keeps it under `text_config`.

  Raises:
    UserError: the model is of no supported family.
  """
  kind = config.get('model_type')
  if kind == 'gemma3' and isinstance(config.get('text_config'), dict):
    inner = {'model_type': 'gemma3_text', **config['text_config']}
    if 'tie_word_embeddings' in config:
      inner.setdefault('tie_word_embeddings', config['tie_word_embeddings'])
    return {'architectures': config.get('architectures'), **inner}
  if kind not in FAMILIES:
    raise UserError(
      f'{where}: model_type {kind!r} is not supported; supported are '
      f'{", ".join(FAMILIES)} and the text part of gemma3.'
    )
  return config


def model_spec(config: dict[str, Any], where: str, **free: Any) -> ModelSpec:
  """The decoder that a config.json describes.

  Args:
    config: config.json, parsed.
    where: for messages, for example the checkpoint's folder.
    **free: fields of ModelSpec that a checkpoint does not fix (scan_layers, remat,
      param_dtype, compute_dtype, query_block, ...).

  Raises:
    UserError: a family, class, key or value that is not supported; named.
  """
  config = text_config(config, where)
  family = config['model_type']
  _check_keys(config, family, where)
  c = {key: config.get(key, default) for key, default in FAMILIES[family].items()}
  for key, value in c.items():
    if value is ...:
      raise UserError(f'{where}: {key} is missing in config.json.')
  gemma = family.startswith('gemma')
  heads = _whole(c, 'num_attention_heads', where)
  width = _whole(c, 'hidden_size', where)
  window, windowed = _windows(c, family, where)
  values = {
    'vocab_size': _whole(c, 'vocab_size', where),
    'n_layers': _whole(c, 'num_hidden_layers', where),
    'd_model': width,
    'n_heads': heads,
    'n_kv_heads': _whole(c, 'num_key_value_heads', where, heads),
    'head_dim': _whole(c, 'head_dim', where, width // heads),
    'd_ff': _whole(c, 'intermediate_size', where),
    'activation': _activation(c, gemma, where),
    'norm_eps': _number(c, 'rms_norm_eps', where),
    'norm_offset': 1.0 if gemma else 0.0,
    'post_norms': gemma,
    'embed_scale': math.sqrt(width) if gemma else 0.0,
    'tied_embeddings': bool(c['tie_word_embeddings']),
    'attention_bias': family == 'qwen2',
    'qk_norm': family in ('qwen3', 'gemma3_text'),
    'query_scale': _number(c, 'query_pre_attn_scalar', where) ** -0.5 if gemma else 0.0,
    'attn_softcap': float(c.get('attn_logit_softcapping') or 0.0),
    'final_softcap': float(c.get('final_logit_softcapping') or 0.0),
    'window': window,
    'windowed_layers': windowed,
    **rope_config.read(c, family, where),
  }
  try:
    return ModelSpec(**{**values, **free})
  except UserError as e:
    raise UserError(f'{where}: {e}') from e


def _check_keys(config: dict[str, Any], family: str, where: str) -> None:
  """Refuses what would change the computation and is not read."""
  for name in config.get('architectures') or ():
    if name not in {_STEMS[family] + end for end in _CLASSES}:
      raise UserError(
        f'{where}: architecture {name!r} of model_type {family!r} is not supported; '
        f'supported are {", ".join(_STEMS[family] + end for end in _CLASSES)}.'
      )
  off: dict[str, tuple] = {
    'attention_bias': (False, None, True) if family == 'qwen2' else (False, None),
    'mlp_bias': (False, None),
    'use_bidirectional_attention': (False, None),
    'partial_rotary_factor': (1, None),
  }
  if family == 'gemma3_text':
    off['attn_logit_softcapping'] = (None,)  # transformers ignores it for Gemma 3
  for key, value in config.items():
    if key in off:
      if value not in off[key]:
        raise UserError(f'{where}: {key}={value!r} is not supported for {family}.')
    elif key in FAMILIES[family] or key in HARMLESS or key.startswith('_'):
      continue
    elif value not in (None, False, '', [], {}):
      raise UserError(
        f'{where}: config.json has {key}={_short(value)}, which is not known for '
        f'{family} and may change the computation; if it does not, delete the key.'
      )


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 60 else text[:57] + '...'


def _whole(c: dict[str, Any], key: str, where: str, default: int = 0) -> int:
  value = c[key]
  if value is None and default:
    return default
  if type(value) is not int or value < 1:
    raise UserError(f'{where}: {key}={_short(value)}; it must be a positive number.')
  return value


def _number(c: dict[str, Any], key: str, where: str) -> float:
  value = c[key]
  if type(value) not in (int, float) or not value > 0:
    raise UserError(f'{where}: {key}={_short(value)}; it must be a positive number.')
  return float(value)


def _activation(c: dict[str, Any], gemma: bool, where: str) -> str:
  # Gemma's class reads hidden_activation; its hidden_act is a leftover.
  key = 'hidden_activation' if gemma else 'hidden_act'
  name = c[key] or ('gelu_pytorch_tanh' if gemma else None)
  if name not in ACTIVATIONS:
    raise UserError(
      f'{where}: {key}={name!r} is not supported; supported are '
      f'{", ".join(ACTIVATIONS)}.'
    )
  return ACTIVATIONS[name]


def _windows(
  c: dict[str, Any], family: str, where: str
) -> tuple[int, tuple[bool, ...]]:
  """(window, windowed_layers) of ModelSpec; layer_types decides where it is there."""
  n = _whole(c, 'num_hidden_layers', where)
  window = c.get('sliding_window')
  if family.startswith('qwen') and not c['use_sliding_window']:
    window = None
  types = c['layer_types']
  if types is not None:
    known = {'full_attention': False, 'sliding_attention': True}
    if not isinstance(types, list) or len(types) != n or not set(types) <= set(known):
      raise UserError(
        f'{where}: layer_types must name full_attention or sliding_attention for each '
        f'of the {n} layers; found {_short(types)}.'
      )
    flags = tuple(known[t] for t in types)
  elif family.startswith('qwen'):
    after = c['max_window_layers']
    flags = tuple(window is not None and i >= after for i in range(n))
  elif family == 'gemma2':
    flags = tuple(i % 2 == 0 for i in range(n))
  elif family == 'gemma3_text':
    every = _whole(c, 'sliding_window_pattern', where)
    flags = tuple((i + 1) % every != 0 for i in range(n))
  else:
    flags = (window is not None,) * n
  if not any(flags):
    return 0, ()
  if window is None:
    raise UserError(
      f'{where}: layer_types names sliding_attention, but no sliding_window is in use.'
    )
  size = _whole({'sliding_window': window}, 'sliding_window', where)
  return size, () if all(flags) else flags
