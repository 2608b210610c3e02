"""Byte-level tokenizers with chosen ids, for checkpoints of a few hundred tokens."""

import json


def _byte_characters():
  """The characters by which byte-level tokenizers write bytes 0 to 255 (GPT-2)."""
  plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
  out = {b: chr(b) for b in plain}
  for i, b in enumerate(b for b in range(256) if b not in out):
    out[b] = chr(256 + i)
  return out


def write(folder, fixed=(), specials=(), bos=None):
  """Writes tokenizer.json and tokenizer_config.json.

  Args:
    folder: where; made if it is not there.
    fixed: text -> id of ordinary tokens; longer texts are merged from bytes.
    specials: text -> id of special tokens.
    bos: name of the beginning-of-sequence token, one of `specials`.
  """
  chars = _byte_characters()
  fixed, specials = dict(fixed), dict(specials)
  written = {t: ''.join(chars[b] for b in t.encode()) for t in fixed}
  vocab = {written[t]: i for t, i in fixed.items()}
  taken = {*fixed.values(), *specials.values()}
  vocab |= specials  # an added token keeps its id only if the model has it
  free = (i for i in range(10_000_000) if i not in taken)
  for char in chars.values():
    if char not in vocab:
      vocab[char] = next(free)
  merges = []
  for text in written.values():
    for n in range(1, len(text)):
      pair = [text[:n], text[n]]
      if len(text) > 1 and pair not in merges:
        merges.append(pair)
        if text[: n + 1] not in vocab:
          vocab[text[: n + 1]] = next(free)
  flags = dict.fromkeys(('single_word', 'lstrip', 'rstrip', 'normalized'), False)
  level = {
    'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': False,
    'use_regex': False,
  }  # fmt: skip
  content = {
    'version': '1.0',
    'truncation': None,
    'padding': None,
    'added_tokens': [
      {'id': i, 'content': t, 'special': True, **flags} for t, i in specials.items()
    ],
    'normalizer': None,
    'pre_tokenizer': level,
    'post_processor': None,
    'decoder': level,
    'model': {
      'type': 'BPE', 'dropout': None, 'unk_token': None,
      'continuing_subword_prefix': None, 'end_of_word_suffix': None,
      'fuse_unk': False, 'byte_fallback': False, 'vocab': vocab, 'merges': merges,
    },
  }  # fmt: skip
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'tokenizer.json').write_text(json.dumps(content))
  (folder / 'tokenizer_config.json').write_text(json.dumps({'bos_token': bos}))
  return folder
