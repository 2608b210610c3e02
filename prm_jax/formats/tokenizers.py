"""Tokenizers: text to ids and back, behind one small protocol.

Built in is the byte-level tokenizer ('bytes'), which needs no file; any Hugging
Face `tokenizer.json` is read through the `tokenizers` library, and `train_bpe`
makes a small byte-level BPE of that kind for models trained from scratch.
Encoding never adds special tokens, cuts or pads: where a sequence begins, ends and
is read is the step format's business.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from etils import epath

from prm_jax import jsonl
from prm_jax.errors import UserError

PAD, BOS, EOS, PRM = '<pad>', '<bos>', '<eos>', '<prm>'
SPECIALS = (PAD, BOS, EOS, PRM)
FILE = 'tokenizer.json'
_CONFIG = 'tokenizer_config.json'
_BOS_NAMES = (BOS, '<s>', '<|begin_of_text|>', '<｜begin▁of▁sentence｜>', '[BOS]')
_PAD_NAMES = (PAD, '<|pad|>', '[PAD]', '<|finetune_right_pad_id|>', '<|endoftext|>')
_CHUNK = 8192  # texts a call: bounds the memory of the library's encoding objects


class Tokenizer(Protocol):
  """What the rest of the library asks of a tokenizer.

  Attributes:
    vocab_size: V, one more than the largest id.
    bos_id: id of the beginning-of-sequence token, or None.
    pad_id: id that fills rows on the right; never attended to, so any id will do.
    fingerprint: sha256 of the content; equal fingerprints give equal ids.
  """

  vocab_size: int
  bos_id: int | None
  pad_id: int
  fingerprint: str

  def encode(self, text: str) -> list[int]:
    """Ids of a text, no special tokens added."""

  def encode_ragged(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Ids of many texts end to end (int32) and how many each has (int64)."""

  def encode_spans(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each text: ids [T] and [start, end) of the characters each covers, [T, 2].

    Both ends never decrease. Tokens that are parts of one character cover all of it.
    """

  def decode(self, ids: Iterable[int]) -> str:
    """Text of ids, special tokens by name."""

  def token_id(self, text: str) -> int | None:
    """The single id of a special token or of a text that is one token, or None."""

  def save(self, folder: str | os.PathLike[str]) -> str:
    """Writes what `load` needs into `folder`; returns the name to give to `load`."""


class ByteTokenizer:
  """UTF-8 bytes as ids 0-255, then <pad> 256, <bos> 257, <eos> 258, <prm> 259."""

  vocab_size = 256 + len(SPECIALS)
  pad_id = 256
  bos_id: int | None = 257
  fingerprint = hashlib.sha256(('bytes ' + ' '.join(SPECIALS)).encode()).hexdigest()

  def encode(self, text: str) -> list[int]:
    return list(_utf8(text))

  def encode_ragged(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    pieces = [_utf8(t) for t in texts]
    lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
    return np.frombuffer(b''.join(pieces), np.uint8).astype(np.int32), lengths

  def encode_spans(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    out = []
    for text in texts:
      ids = np.frombuffer(_utf8(text), np.uint8).astype(np.int32)
      # Bytes 10xxxxxx go on with the character before.
      at = np.cumsum((ids & 0xC0) != 0x80) - 1
      out.append((ids, np.stack([at, at + 1], axis=1)))
    return out

  def decode(self, ids: Iterable[int]) -> str:
    out = bytearray()
    for i in ids:
      if not 0 <= i < self.vocab_size:
        raise ValueError(f'id {i} is not in the vocabulary of {self.vocab_size}')
      out += bytes([i]) if i < 256 else SPECIALS[i - 256].encode()
    return out.decode('utf-8', errors='replace')

  def token_id(self, text: str) -> int | None:
    if text in SPECIALS:
      return 256 + SPECIALS.index(text)
    ids = self.encode(text)
    return ids[0] if len(ids) == 1 else None

  def save(self, folder: str | os.PathLike[str]) -> str:
    del folder  # nothing to write: the name says it all
    return 'bytes'


class JsonTokenizer:
  """A Hugging Face `tokenizer.json`.

  Truncation and padding that the file may ask for are switched off: a silently cut
  row loses its labels.

  Args:
    text: content of the file.
    bos, pad: names of those tokens; None looks for the usual names.
    where: for messages.
  """

  def __init__(
    self,
    text: str,
    bos: str | None = None,
    pad: str | None = None,
    where: str = FILE,
  ):
    import tokenizers  # loads a native library; only who needs it pays

    try:
      core = tokenizers.Tokenizer.from_str(text)
    except Exception as e:  # the library raises bare Exception
      raise UserError(
        f'{where}: not a tokenizer.json that the tokenizers library reads ({e}).'
      ) from e
    core.no_truncation()
    core.no_padding()
    self._core: Any = core
    self._text = text
    self._bos, self._pad = bos, pad
    self.vocab_size = (
      max(core.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    )
    self.bos_id = self._first((bos,) if bos else _BOS_NAMES)
    found = self._first((pad,) if pad else _PAD_NAMES)
    self.pad_id = 0 if found is None else found
    content = f'{text}\x1f{self.bos_id}\x1f{self.pad_id}'
    self.fingerprint = hashlib.sha256(content.encode()).hexdigest()

  def _first(self, names: Sequence[str]) -> int | None:
    found = (self._core.token_to_id(n) for n in names)
    return next((i for i in found if i is not None), None)

  def encode(self, text: str) -> list[int]:
    _utf8(text)
    return self._core.encode(text, add_special_tokens=False).ids

  def encode_ragged(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    # Questions and shared prefixes repeat in most data: each text is encoded once.
    place: dict[str, int] = {}
    which = np.fromiter(
      (place.setdefault(t, len(place)) for t in texts), np.int64, len(texts)
    )
    unique = list(place)
    ids: list[np.ndarray] = []
    for i in range(0, len(unique), _CHUNK):
      part = unique[i : i + _CHUNK]
      for text in part:
        _utf8(text)
      found = self._core.encode_batch_fast(part, add_special_tokens=False)
      ids += [np.asarray(e.ids, np.int32) for e in found]
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))[which]
    flat = [ids[i] for i in which]
    return np.concatenate(flat) if flat else np.zeros(0, np.int32), lengths

  def encode_spans(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    out = []
    for i in range(0, len(texts), _CHUNK):
      part = list(texts[i : i + _CHUNK])
      for text in part:
        _utf8(text)
      for e in self._core.encode_batch(part, add_special_tokens=False):
        spans = np.array(e.offsets, np.int64).reshape(-1, 2)
        out.append((np.array(e.ids, np.int32), np.maximum.accumulate(spans)))
    return out

  def decode(self, ids: Iterable[int]) -> str:
    return self._core.decode([int(i) for i in ids], skip_special_tokens=False)

  def token_id(self, text: str) -> int | None:
    found = self._core.token_to_id(text)
    if found is not None:
      return found
    ids = self.encode(text)
    alone = len(ids) == 1 and self.decode(ids) == text
    return ids[0] if alone else None

  def save(self, folder: str | os.PathLike[str]) -> str:
    target = epath.Path(folder)
    jsonl.write_bytes(target / FILE, self._text.encode())
    names = {k: v for k, v in (('bos_token', self._bos), ('pad_token', self._pad)) if v}
    jsonl.write_bytes(target / _CONFIG, json.dumps(names).encode())
    return FILE

  def with_specials(self, names: Sequence[str]) -> JsonTokenizer:
    """A copy that also knows `names` as special tokens (new ids at the end)."""
    import tokenizers

    core = tokenizers.Tokenizer.from_str(self._text)
    core.add_special_tokens([n for n in names if core.token_to_id(n) is None])
    return JsonTokenizer(core.to_str(), self._bos, self._pad)


def load(name_or_path: str | os.PathLike[str]) -> Tokenizer:
  """'bytes', a tokenizer.json, or a folder that holds one.

  A `tokenizer_config.json` beside it names the bos and pad tokens.

  Raises:
    UserError: there is no such file, or the library cannot read it.
  """
  name = os.fspath(name_or_path)
  if name == 'bytes':
    return ByteTokenizer()
  path = epath.Path(os.path.expanduser(name))
  if path.is_dir():
    path = path / FILE
  if not path.exists():
    raise UserError(
      f"{name}: no such tokenizer; give 'bytes', a tokenizer.json or a folder "
      'that holds one.'
    )
  try:
    text = jsonl.read_bytes(path).decode('utf-8')
  except UnicodeDecodeError as e:
    raise UserError(f'{path}: invalid UTF-8 at byte {e.start}.') from e
  config: dict[str, Any] = {}
  beside = path.parent / _CONFIG
  if beside.exists():
    config = jsonl.parse_object(jsonl.read_bytes(beside), str(beside))
  return JsonTokenizer(
    text, _name(config.get('bos_token')), _name(config.get('pad_token')), str(path)
  )


def train_bpe(
  texts: Iterable[str], vocab_size: int, path: str | os.PathLike[str]
) -> JsonTokenizer:
  """Trains a byte-level BPE, digits apart, and writes its tokenizer.json to `path`.

  Ids: <pad> 0, <bos> 1, <eos> 2, <prm> 3, the 256 bytes, then the merges. Equal
  texts in equal order give an equal file.

  Raises:
    UserError: `vocab_size` has no room for bytes and special tokens, or there is
      no text.
  """
  import tokenizers
  from tokenizers import decoders, models, pre_tokenizers, trainers

  least = 256 + len(SPECIALS)
  if vocab_size < least:
    raise UserError(
      f'vocab_size={vocab_size} has no room for 256 bytes and {len(SPECIALS)} special '
      f'tokens; give at least {least}.'
    )
  held = [t for t in texts if t]
  if not held:
    raise UserError('there is no text to train a tokenizer on; name a file with rows.')
  core = tokenizers.Tokenizer(models.BPE())
  core.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Digits(individual_digits=True),
      pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
  )
  core.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size,
    special_tokens=list(SPECIALS),
    initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    show_progress=False,
  )
  core.train_from_iterator(held, trainer)
  text = core.to_str(pretty=True)
  jsonl.write_bytes(path, text.encode())
  return JsonTokenizer(text, where=str(path))


def _name(token: Any) -> str | None:
  """Token names in a tokenizer_config.json are strings or {'content': ...}."""
  held = token.get('content') if isinstance(token, dict) else token
  return held if isinstance(held, str) and held else None


def _utf8(text: str) -> bytes:
  try:
    return text.encode('utf-8')
  except UnicodeEncodeError as e:
    raise UserError(
      f'a text holds the lone surrogate {text[e.start]!r} at character {e.start}, '
      'which is not valid Unicode; repair the text.'
    ) from e
