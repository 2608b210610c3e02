"""The built-in byte tokenizer as tokenizer files that other tools read."""

from __future__ import annotations

import json

from etils import epath

from prm_jax import jsonl
from prm_jax.formats.tokenizers import BOS, CONFIG, EOS, FILE, PAD, SPECIALS


def save(folder: epath.Path) -> None:
  """Writes a tokenizer.json with the ids of `ByteTokenizer`: a byte-level BPE without
  merges, whose 256 letters are the bytes in order, then the special tokens."""
  import tokenizers
  from tokenizers import AddedToken, decoders, models, pre_tokenizers

  letters = {letter: byte for byte, letter in enumerate(_letters())}
  core = tokenizers.Tokenizer(models.BPE(vocab=letters, merges=[]))
  core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  core.decoder = decoders.ByteLevel()
  core.add_special_tokens([AddedToken(s, special=True) for s in SPECIALS])
  jsonl.write_bytes(folder / FILE, core.to_str(pretty=True).encode())
  config = {
    'tokenizer_class': 'PreTrainedTokenizerFast', 'bos_token': BOS, 'eos_token': EOS,
    'pad_token': PAD, 'clean_up_tokenization_spaces': False,
  }  # fmt: skip
  jsonl.write_bytes(folder / CONFIG, (json.dumps(config, indent=2) + '\n').encode())


def _letters() -> list[str]:
  """The printable letter that stands for each byte in byte-level BPE: itself where it
  is printable, else the next free one from 256 on (GPT-2)."""
  printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
  free = iter(range(256, 512))
  return [chr(b if b in printable else next(free)) for b in range(256)]
