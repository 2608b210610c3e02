"""The tokenizer of a checkpoint's folder, from all the files that describe it.

tokenizer.json             the tokenizer itself, or vocab.json and merges.txt
tokenizer_config.json      names of bos, eos, pad; further tokens; chat template
special_tokens_map.json    the same names, in older folders
added_tokens.json          further tokens, in older folders
generation_config.json     the id of eos, where nothing else names it
config.json                the same; the family, where nothing else names it
chat_template.jinja        the chat template, in newer folders
"""

from __future__ import annotations

import json
from typing import Any

from etils import epath

from prm_jax import jsonl
from prm_jax.errors import UserError
from prm_jax.formats import chat_template
from prm_jax.formats.tokenizers import (
  CONFIG,
  FILE,
  JsonTokenizer,
  read_core,
  tokenizers_library,
)
from prm_jax.records import Check

SENTENCEPIECE = 'tokenizer.model'
OLDER = 'special_tokens_map.json'
ADDED = 'added_tokens.json'
_CONVERT = 'AutoTokenizer.from_pretrained(folder).save_pretrained(folder)'
_FLAGS = ('single_word', 'lstrip', 'rstrip', 'normalized', 'special')
# How these cut a text into words before the merges; Qwen2 normalises to NFC first.
_QWEN2_WORDS = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
  r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)
_FAMILIES = {
  'Qwen2Tokenizer': 'qwen2',
  'GPT2Tokenizer': 'gpt2',
  'qwen2': 'qwen2',
  'qwen3': 'qwen2',
  'gpt2': 'gpt2',
}


def read(
  folder: epath.Path, file: epath.Path | None = None, rows: int | None = None
) -> JsonTokenizer:
  """The tokenizer in `folder`, its core from `file` if that is not tokenizer.json.

  Args:
    rows: added tokens with this id or a larger one are left out; None keeps all.

  Raises:
    UserError: no tokenizer that can be read, or files that contradict each other.
  """
  config = _object(folder / CONFIG)
  older = _object(folder / OLDER)
  names = {}
  for key in ('bos_token', 'eos_token', 'pad_token'):
    check, token = _given(folder, config, older, key)
    names[key] = _name(check, key, token)
  if config.get('add_bos_token') is not None:
    Check(str(folder / CONFIG)).boolean('add_bos_token', config['add_bos_token'])
  for key in ('bos_token', 'eos_token'):
    if key in older and key not in config:
      config[key] = older[key]
  template = chat_template.load_template(folder)
  if template is not None and 'chat_template' not in config:
    config['chat_template'] = template
  path = file or folder / FILE
  if path.exists():
    where, text = str(path), _text(path)
  else:
    where, text = str(folder), _from_merges(folder, config)
  text = _with_added(text, folder, config, older, names, where)
  if rows is not None:
    text = _within(text, rows)
  if names['eos_token'] is None:
    names['eos_token'] = _eos_by_id(folder, text, where)
  return JsonTokenizer(
    text,
    names['bos_token'],
    names['pad_token'],
    where,
    eos=names['eos_token'],
    config=config,
  )


def _within(text: str, rows: int) -> str:
  """The content of a tokenizer.json without the added tokens from id `rows` on."""
  held = json.loads(text)
  added = held.get('added_tokens') or []
  dropped = {token['content'] for token in added if token['id'] >= rows}
  if not dropped:
    return text
  held['added_tokens'] = [token for token in added if token['content'] not in dropped]
  vocab = held['model'].get('vocab')
  if isinstance(vocab, dict):
    held['model']['vocab'] = {t: i for t, i in vocab.items() if t not in dropped}
  return json.dumps(held, ensure_ascii=False)


def _from_merges(folder: epath.Path, config: dict[str, Any]) -> str:
  """A tokenizer.json for vocab.json and merges.txt.

  Raises:
    UserError: they are not there or belong to a family that is not known here.
  """
  vocab, merges = folder / 'vocab.json', folder / 'merges.txt'
  if not (vocab.exists() and merges.exists()):
    if (folder / SENTENCEPIECE).exists():
      raise UserError(
        f'{folder}: has only a SentencePiece {SENTENCEPIECE}, which is not read here; '
        'write a tokenizer.json once, where transformers and sentencepiece are '
        f'installed: {_CONVERT}.'
      )
    raise UserError(
      f'{folder}: no tokenizer here; it needs tokenizer.json, or vocab.json and '
      'merges.txt.'
    )
  kind = str(config.get('tokenizer_class') or '').removesuffix('Fast')
  kind = kind or str(_object(folder / 'config.json').get('model_type') or '')
  if kind not in _FAMILIES:
    raise UserError(
      f'{folder}: vocab.json and merges.txt of {kind or "an unnamed family"!r} cannot '
      f'be read without a tokenizer.json (known: {", ".join(_FAMILIES)}); write one '
      f'with transformers: {_CONVERT}.'
    )
  library = tokenizers_library()
  words = jsonl.parse_object(jsonl.read_bytes(vocab), str(vocab))
  pairs = [
    tuple(line.split(' '))
    for line in _text(merges).split('\n')
    if line.strip() and not line.startswith('#version')
  ]
  wrong = next((i for i, pair in enumerate(pairs) if len(pair) != 2), None)
  if wrong is not None:
    raise UserError(
      f'{merges}: merge {wrong + 1} is {" ".join(pairs[wrong])!r} and not two tokens; '
      'copy the file again.'
    )
  try:
    core = library.Tokenizer(library.models.BPE(words, pairs))
  except Exception as e:  # the library raises bare Exception
    raise UserError(f'{folder}: vocab.json and merges.txt do not agree ({e}).') from e
  byte_level = library.pre_tokenizers.ByteLevel
  if _FAMILIES[kind] == 'qwen2':
    core.normalizer = library.normalizers.NFC()
    split = library.pre_tokenizers.Split(library.Regex(_QWEN2_WORDS), 'isolated')
    core.pre_tokenizer = library.pre_tokenizers.Sequence(
      [split, byte_level(add_prefix_space=False, use_regex=False)]
    )
  else:
    core.pre_tokenizer = byte_level(add_prefix_space=False)
  core.decoder = library.decoders.ByteLevel()
  return core.to_str()


def _with_added(
  text: str,
  folder: epath.Path,
  config: dict[str, Any],
  older: dict[str, Any],
  names: dict[str, str | None],
  where: str,
) -> str:
  """The tokenizer with the tokens that only the files beside it name.

  Raises:
    UserError: a file gives a token another id than the tokenizer does.
  """
  core = read_core(text, where)
  held = {t.content for t in core.get_added_tokens_decoder().values()}
  by_id = _by_id(folder, config)
  changed = False
  for i, token in sorted(by_id.items()):
    if token.content not in held:
      core.add_tokens([token])
      changed = True
    if core.token_to_id(token.content) != i:
      raise UserError(
        f'{folder}: {CONFIG} or added_tokens.json gives {token.content!r} the id {i} '
        f'and the tokenizer {core.token_to_id(token.content)}; the files are not of '
        'one checkpoint, copy them again.'
      )
  held |= {token.content for token in by_id.values()}
  wanted: list[str] = []
  for key in ('additional_special_tokens', 'extra_special_tokens'):
    check, more = _given(folder, config, older, key)
    more = list(more.values()) if isinstance(more, dict) else more
    for token in check.items(key, [] if more is None else more):
      wanted.append(_name(check, key, token) or '')
  wanted += [names[k] or '' for k in ('bos_token', 'eos_token')]
  new = [n for n in dict.fromkeys(wanted) if n and n not in held]
  core.add_special_tokens(new)
  return core.to_str() if new or changed else text


def _by_id(folder: epath.Path, config: dict[str, Any]) -> dict[int, Any]:
  """Tokens that the files beside the tokenizer give an id.

  Raises:
    UserError: an entry is not a token with an id.
  """
  added = tokenizers_library().AddedToken
  older, where = _object(folder / ADDED), Check(str(folder / ADDED))
  check, key = Check(str(folder / CONFIG)), 'added_tokens_decoder'
  out: dict[int, Any] = {}
  try:
    for content, i in older.items():
      at = where.integer(content, i, 0)
      out[at] = added(content, special=True, normalized=False)
    for i, token in (config.get(key) or {}).items():
      flags = {
        k: check.boolean(f'{key}.{i}.{k}', token[k]) for k in _FLAGS if k in token
      }
      out[int(i)] = added(token['content'], **flags)
  except (AttributeError, KeyError, TypeError, ValueError) as e:
    raise UserError(
      f'{folder}: {CONFIG} or added_tokens.json holds an added token without content '
      f'or id ({e}); copy the files again.'
    ) from e
  return out


def _eos_by_id(folder: epath.Path, text: str, where: str) -> str | None:
  """Name of the token that generation_config.json or config.json end a text with."""
  for file in ('generation_config.json', 'config.json'):
    found = _object(folder / file).get('eos_token_id')
    ids = found if isinstance(found, list) else [found]
    if ids and found is not None:
      first = Check(str(folder / file)).integer('eos_token_id', ids[0], 0, 2**31 - 1)
      return read_core(text, where).id_to_token(first)
  return None


def _object(path: epath.Path) -> dict[str, Any]:
  """A JSON object, {} where there is no such file."""
  if not path.exists():
    return {}
  return jsonl.parse_object(jsonl.read_bytes(path), str(path))


def _text(path: epath.Path) -> str:
  try:
    return jsonl.read_bytes(path).decode('utf-8')
  except UnicodeDecodeError as e:
    raise UserError(f'{path}: invalid UTF-8 at byte {e.start}.') from e


def _given(
  folder: epath.Path, config: dict[str, Any], older: dict[str, Any], key: str
) -> tuple[Check, Any]:
  """A value and checks that name its file; tokenizer_config.json counts first."""
  if key in older and key not in config:
    return Check(str(folder / OLDER)), older[key]
  return Check(str(folder / CONFIG)), config.get(key)


def _name(check: Check, field: str, token: Any) -> str | None:
  """Token names are strings or {'content': ...}.

  Raises:
    UserError: it is neither, nor null.
  """
  held = token.get('content') if isinstance(token, dict) else token
  if held is not None and not isinstance(held, str):
    raise check.fail(field, token, 'a string, an object with content, or null')
  return held or None
