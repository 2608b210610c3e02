"""Models as Hugging Face checkpoints, which transformers or vLLM load.

    config.json               family, sizes, class
    model.safetensors         weights by their public names, or shards and an index
    tokenizer.json, tokenizer_config.json
    prm_jax.json              our spec: step format, head, reading; read first by us
                              and written first, so that it marks a folder of ours
    README.md                 model card

Weights are fetched, turned and written one at a time. Layouts: 'transformers'
(token classification for scalar and linear heads, causal language model for heads that
read the vocabulary) and 'vllm' (the two-layer head of Qwen2.5-Math-PRM).
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from prm_jax import jsonl, specs, tensors
from prm_jax.errors import UserError
from prm_jax.exports import CALIBRATION, SPEC
from prm_jax.formats.tokenizers import Tokenizer
from prm_jax.interop import (
  architectures,
  byte_tokenizer,
  card,
  checkpoints,
  config_keys,
  names,
)
from prm_jax.interop.checkpoints import ABOUT, CONFIG, INDEX, WEIGHTS
from prm_jax.interop.loading import check_vocabulary
from prm_jax.models import lm, weights
from prm_jax.specs import HeadSpec, PolicySpec, ScorerSpec

CARD = 'README.md'
LAYOUTS = ('transformers', 'vllm')
VERSION = 1
LARGEST_FILE = 5_000_000_000  # bytes of a file of weights; more go to shards
About = dict[str, tuple[tuple[int, ...], np.dtype]]


def save(
  directory: str | os.PathLike[str],
  spec: ScorerSpec | PolicySpec,
  params: Any,
  tokenizer: Tokenizer,
  *,
  layout: str = 'transformers',
  dtype: str = '',
  family: str = '',
  max_positions: int = 0,
  origin: Mapping[str, Any] | None = None,
  largest_file: int = LARGEST_FILE,
) -> str:
  """Writes the folder; of several processes all must call it, the first one writes.

  Args:
    directory: the folder; files of an earlier export of the same model in it, of any
      dtype and layout, are replaced.
    spec: what is exported.
    params: its parameters, sharded in any way, on devices or on the host.
    tokenizer: its tokenizer.
    layout: one of LAYOUTS.
    dtype: of the stored weights; '' keeps that of each.
    family: model_type of config.json; '' takes the first that describes the model.
    max_positions: longest sequence in tokens; 0 means that of the step format, with
      yarn rope scaling the original length times its factor.
    origin: for the model card: 'base' (what training started from) and 'metrics'
      (those of results.json).
    largest_file: bytes, above which weights are split into shards.

  Returns:
    The model hash of the parameters.

  Raises:
    UserError: no public layout holds this model, the folder holds another model or
      other files of the names that are written, or the place cannot be written.
  """
  if dtype and dtype not in specs.DTYPES:
    raise UserError(f'export_dtype={dtype!r}: use one of {", ".join(specs.DTYPES)}.')
  folder = epath.Path(
    directory if '://' in str(directory) else os.path.abspath(os.fspath(directory))
  )
  head = spec.head if isinstance(spec, ScorerSpec) else lm.HEAD
  where = 'the model that is exported'
  declared = weights.declare(spec.model, head)
  weights.check(params, declared, where)
  check_vocabulary(spec.model, tokenizer.vocab_size, where)
  config = _config(spec, head, tokenizer, layout, family, max_positions)
  _check_place(folder)
  digest = tensors.model_hash(params)
  _check_model(folder, digest)
  leads = jax.process_index() == 0
  if leads:
    # Until config.json is there again, the folder is no checkpoint.
    # A calibration was of what was there before.
    _remove(folder, (CONFIG, INDEX, WEIGHTS, CALIBRATION))
    # What is saved is the tokenizer that was given, whatever the spec calls it.
    spec = dataclasses.replace(spec, tokenizer=tokenizer.save(folder))
    if spec.tokenizer == 'bytes':
      byte_tokenizer.save(folder)
    about = {
      'version': VERSION,
      'kind': 'scorer' if isinstance(spec, ScorerSpec) else 'policy',
      'layout': layout,
      'model_hash': digest,
      'tokenizer_fingerprint': tokenizer.fingerprint,
      'spec': specs.to_dict(spec),
    }
    _write_json(folder / ABOUT, about)
  stored = _write_weights(folder, spec, head, params, declared, dtype, largest_file)
  config['torch_dtype'] = stored
  if leads:
    text = card.text(spec, tokenizer, config, layout, digest, origin or {})
    jsonl.write_bytes(folder / CARD, text.encode())
    _write_json(folder / CONFIG, config)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('checkpoint exported')
  return digest


def _config(
  spec: ScorerSpec | PolicySpec,
  head: HeadSpec,
  tokenizer: Tokenizer,
  layout: str,
  family: str,
  max_positions: int,
) -> dict[str, Any]:
  """config.json but for the dtype.

  Raises:
    UserError: the layout has no place for this head or model, or a length below 0.
  """
  if max_positions < 0:
    raise UserError(
      f'export_positions={max_positions}: give the longest text in tokens, or 0 for '
      "the format's max_length."
    )
  fmt = spec.step_format if isinstance(spec, ScorerSpec) else spec.text_format
  longest = max_positions or fmt.max_length
  config = architectures.hf_config(
    spec.model, family=family or _family(head), max_positions=longest
  )
  told = config['max_position_embeddings']
  if max_positions and told != max_positions:
    raise UserError(
      f'export_positions={max_positions}: this model has yarn rope scaling, whose '
      f'factor some readers take from the longest sequence, which is then {told}; '
      'leave export_positions out.'
    )
  stem = config_keys.STEMS[config['model_type']]
  _check_layout(layout, head, config['model_type'])
  if head.kind in ('lm', 'label_tokens'):
    name = f'{stem}ForCausalLM'
  elif head.kind == 'mlp':
    name = f'{stem}ForProcessRewardModel'
  elif config['model_type'] == 'gemma3_text':
    name = f'{stem}TextModel'  # transformers has no class with a head a token for it
  else:
    name = f'{stem}ForTokenClassification'
  config['architectures'] = [name]
  if head.kind not in ('lm', 'label_tokens'):
    n = weights.n_outputs(spec.model, head)
    labels = {str(i): f'LABEL_{i}' for i in range(n)}
    config |= {
      'num_labels': n,
      'id2label': labels,
      'label2id': {label: int(i) for i, label in labels.items()},
      'classifier_dropout': head.dropout,
    }
    if head.kind != 'mlp':
      config['token_classification_bias'] = head.bias
  end = spec.text_format.end if isinstance(spec, PolicySpec) else ''
  config |= {
    'bos_token_id': tokenizer.bos_id,
    'eos_token_id': tokenizer.token_id(end) if end else tokenizer.eos_id,
    'pad_token_id': tokenizer.pad_id,
    'use_cache': True,
  }
  return config


def _family(head: HeadSpec) -> str:
  """The family that a head binds a model to; '' for none."""
  return 'qwen2' if head.kind == 'mlp' else ''


def _check_layout(layout: str, head: HeadSpec, family: str) -> None:
  if layout not in LAYOUTS:
    raise UserError(f'export={layout!r}: use one of {", ".join(LAYOUTS)}.')
  if layout == 'vllm' and (head.kind != 'mlp' or family != 'qwen2'):
    raise UserError(
      f"export='vllm' is the layout of Qwen2ForProcessRewardModel: a Qwen2 model with "
      f"head.kind='mlp'; this is {family} with head.kind={head.kind!r}, use "
      "export='transformers'."
    )
  if layout == 'transformers' and head.kind == 'mlp':
    raise UserError(
      "export='transformers' has no place for head.kind='mlp' (token classification "
      "is one linear layer); use export='vllm'."
    )


def _check_place(folder: epath.Path) -> None:
  """Refuses the folder of something else, such as the model that is exported."""
  if (folder / ABOUT).exists():
    return
  others = (SPEC, CONFIG, INDEX, WEIGHTS, CARD)
  found = next((name for name in others if (folder / name).exists()), None)
  if found:
    raise UserError(
      f'{folder}: holds a {found} that no export has written; give an empty or a new '
      'folder.'
    )


def _check_model(folder: epath.Path, digest: str) -> None:
  """Refuses the export of another model; one that was cut off is written again."""
  about = checkpoints.read_about(folder)
  if about is not None and about['model_hash'] != digest:
    raise UserError(
      f'{folder}: holds the export of another model ({about["model_hash"][:12]}, this '
      f'one is {digest[:12]}); give another folder, or remove it.'
    )


def _remove(folder: epath.Path, files: tuple[str, ...]) -> None:
  try:
    for name in files:
      (folder / name).unlink(missing_ok=True)
  except OSError as e:
    raise UserError(f'{folder}: cannot be written ({e.strerror or e}).') from e


def _write_json(path: epath.Path, value: Any) -> None:
  text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
  jsonl.write_bytes(path, (text + '\n').encode())


def _write_weights(
  folder: epath.Path,
  spec: ScorerSpec | PolicySpec,
  head: HeadSpec,
  params: Any,
  declared: dict[str, Any],
  dtype: str,
  largest_file: int,
) -> str:
  """Writes one file or shards; returns the dtype of the first weight."""
  flat = dict(weights.flatten(params))
  wanted = names.sources(spec.model, declared, 'model.', names.head_names(head))
  about: About = {}
  origin: dict[str, tuple[str, int]] = {}
  for path, source in wanted.items():
    stored = np.dtype(dtype or flat[path].dtype)
    for i, name in enumerate(source.names):
      about[name] = (source.shape, stored)
      origin[name] = (path, i)

  def get(name: str) -> np.ndarray:
    path, i = origin[name]
    source, leaf = wanted[path], flat[path]
    array = tensors.fetch(leaf[i] if source.stacked else leaf)
    if source.transposed:
      array = array.reshape(source.shape[::-1]).T
    return np.ascontiguousarray(array.reshape(source.shape), about[name][1])

  metadata = {'format': 'pt'}
  parts = _shards(about, largest_file)
  if len(parts) == 1:
    tensors.write_stream(folder / WEIGHTS, about, get, metadata)
  else:
    where: dict[str, str] = {}
    for i, part in enumerate(parts, 1):
      file = f'model-{i:05}-of-{len(parts):05}.safetensors'
      tensors.write_stream(folder / file, part, get, metadata)
      where |= dict.fromkeys(part, file)
    if jax.process_index() == 0:
      size = sum(map(_n_bytes, about.values()))
      _write_json(
        folder / INDEX, {'metadata': {'total_size': size}, 'weight_map': where}
      )
  return str(next(iter(about.values()))[1])


def _n_bytes(entry: tuple[tuple[int, ...], np.dtype]) -> int:
  return math.prod(entry[0]) * entry[1].itemsize


def _shards(about: About, largest: int) -> list[About]:
  """Tensors in order, cut where a file would grow beyond `largest` bytes."""
  parts: list[About] = [{}]
  size = 0
  for name, entry in about.items():
    if parts[-1] and size + _n_bytes(entry) > largest:
      parts.append({})
      size = 0
    parts[-1][name] = entry
    size += _n_bytes(entry)
  return parts
