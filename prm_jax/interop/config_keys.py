"""The keys of a config.json: read, harmless, or refused, for each family."""

from __future__ import annotations

from typing import Any

from prm_jax.errors import UserError
from prm_jax.interop.config_values import Values

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
  (
    'architectures', 'model_type', 'auto_map', 'transformers_version',
    'torch_dtype', 'dtype', 'name_or_path', 'bos_token_id', 'eos_token_id',
    'pad_token_id', 'sep_token_id', 'decoder_start_token_id', 'unk_token_id',
    'mask_token_id', 'use_cache', 'cache_implementation', 'attention_dropout',
    'hidden_dropout', 'classifier_dropout', 'summary_dropout_prob', 'dropout',
    'resid_pdrop', 'embd_pdrop', 'initializer_range', 'initializer_factor',
    'num_labels', 'id2label', 'label2id', 'problem_type', 'finetuning_task',
    'task_specific_params', 'token_classification_bias', 'output_attentions',
    'output_hidden_states', 'output_router_logits', 'return_dict',
    'return_dict_in_generate', 'torchscript', 'gradient_checkpointing',
    'pretraining_tp', 'tokenizer_class', 'model_max_length', 'max_length',
    'min_length', 'max_new_tokens', 'temperature', 'top_k', 'top_p', 'typical_p',
    'do_sample', 'num_beams', 'num_beam_groups', 'num_return_sequences',
    'repetition_penalty', 'length_penalty', 'diversity_penalty',
    'no_repeat_ngram_size', 'encoder_no_repeat_ngram_size', 'early_stopping',
    'bad_words_ids', 'begin_suppress_tokens', 'suppress_tokens',
    'forced_bos_token_id', 'forced_eos_token_id',
    'exponential_decay_length_penalty', 'output_scores', 'remove_invalid_values',
    'renormalize_logits', 'use_bfloat16', 'tf_legacy_loss', 'is_decoder',
    'is_encoder_decoder', 'chunk_size_feed_forward', 'prefix',
    'cross_attention_hidden_size', 'unsloth_fixed', 'unsloth_version',
    'unsloth_training_args', 'attn_implementation', 'transformers.js_config',
    'chat_template',
  )
)  # fmt: skip
# Classes whose decoder is the plain one of the family, by what follows its name.
CLASSES = (
  'Model', 'TextModel', 'ForCausalLM', 'ForTokenClassification',
  'TextForTokenClassification', 'ForSequenceClassification',
  'TextForSequenceClassification', 'ForProcessRewardModel', 'ForRewardModel',
  'ForPrmModel', 'ForConditionalGeneration',
)  # fmt: skip
STEMS = {
  'qwen2': 'Qwen2', 'qwen3': 'Qwen3', 'llama': 'Llama', 'mistral': 'Mistral',
  'gemma2': 'Gemma2', 'gemma3_text': 'Gemma3',
}  # fmt: skip


def check(c: Values, family: str) -> None:
  """Refuses what would change the computation and is not read.

  Args:
    c: config.json, or the part of it that describes the text decoder.
    family: its model_type, a key of FAMILIES.

  Raises:
    UserError: a class, key or value that is not supported; named.
  """
  for name in c.words('architectures') or ():
    if name not in {STEMS[family] + end for end in CLASSES}:
      raise UserError(
        f'{c.where}: architecture {name!r} of model_type {family!r} is not supported; '
        f'supported are {", ".join(STEMS[family] + end for end in CLASSES)}.'
      )
  refused = {
    'attention_bias': c.flag('attention_bias') and family != 'qwen2',
    'mlp_bias': c.flag('mlp_bias'),
    'use_bidirectional_attention': c.flag('use_bidirectional_attention'),
    'partial_rotary_factor': c.positive('partial_rotary_factor', 1) != 1,
    'quantization_config': c.held.get('quantization_config') is not None,
  }
  if family == 'gemma3_text':  # transformers ignores it for Gemma 3
    cap = c.held.get('attn_logit_softcapping')
    refused['attn_logit_softcapping'] = cap is not None
  for key, value in c.held.items():
    if refused.get(key):
      raise UserError(f'{c.where}: {key}={short(value)} is not supported for {family}.')
    if key in (*refused, *FAMILIES[family]) or key in HARMLESS or key.startswith('_'):
      continue
    if value not in (None, False, '', [], {}):
      raise UserError(
        f'{c.where} has {key}={short(value)}, which is not known for '
        f'{family} and may change the computation; if it does not, delete the key.'
      )


def short(value: Any) -> str:
  """`repr`, cut."""
  text = repr(value)
  return text if len(text) <= 60 else text[:57] + '...'
