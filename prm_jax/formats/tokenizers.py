"""Tokenizers: text to ids and back, behind one small protocol.

Built in is the byte-level tokenizer ('bytes'), which needs no file; any Hugging
Face `tokenizer.json` is read through the `tokenizers` library, and `train_bpe`
makes a small byte-level BPE of that kind for models trained from scratch. What the
other files of a checkpoint's folder add is read by tokenizer_files.py.
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
CONFIG = 'tokenizer_config.json'
_BOS_NAMES = (BOS, '<s>', '<|begin_of_text|>', '<｜begin▁of▁sentence｜>', '[BOS]')
_EOS_NAMES = (EOS, '</s>', '<|end_of_text|>', '<｜end▁of▁sentence｜>', '<|endoftext|>')
_PAD_NAMES = (PAD, '<|pad|>', '[PAD]', '<|finetune_right_pad_id|>', '<|endoftext|>')
_CHUNK = 8192  # texts a call: bounds the memory of the library's encoding objects


class Tokenizer(Protocol):
  """What the rest of the library asks of a tokenizer.

  Attributes:
    vocab_size: V, one more than the largest id.
    n_text_ids: one more than the largest id of ordinary text, that is of a token that
      was not added.
    bos_id: id of the beginning-of-sequence token, or None.
    eos_id: id of the token that ends a text, or None.
    pad_id: id that fills rows on the right; never attended to, so any id will do.
    fingerprint: sha256 of the content; equal fingerprints give equal ids.
    adds_bos: whether its own code begins a text with bos. `encode` never does; it says
      what a step format for models of others should do.
    names: bos_token, eos_token, pad_token: those there are, as chat templates ask.
  """

  vocab_size: int
  n_text_ids: int
  bos_id: int | None
  eos_id: int | None
  pad_id: int
  fingerprint: str
  adds_bos: bool

  @property
  def names(self) -> dict[str, str]:
    """See above."""

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
  n_text_ids = 256
  pad_id = 256
  bos_id: int | None = 257
  eos_id: int | None = 258
  adds_bos = False
  fingerprint = hashlib.sha256(('bytes ' + ' '.join(SPECIALS)).encode()).hexdigest()

  @property
  def names(self) -> dict[str, str]:
    return {'bos_token': BOS, 'eos_token': EOS, 'pad_token': PAD}

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
    bos, pad, eos: names of those tokens; None looks for the usual names among the
      added tokens, unless `config` names the token and leaves it null.
    where: for messages.
    config: content of tokenizer_config.json, chat template included; `save` writes it
      again.

  Attributes:
    config: as given.
  """

  def __init__(
    self,
    text: str,
    bos: str | None = None,
    pad: str | None = None,
    where: str = FILE,
    *,
    eos: str | None = None,
    config: dict[str, Any] | None = None,
  ):
    core = read_core(text, where)
    core.no_truncation()
    core.no_padding()
    self._core: Any = core
    self._text = text
    self.config = dict(config or {})
    largest = lambda added: max(core.get_vocab(added).values(), default=-1)
    self.vocab_size = largest(True) + 1
    self.n_text_ids = largest(False) + 1
    self.bos_id = self._id_of(bos, 'bos_token', _BOS_NAMES)
    self.eos_id = self._id_of(eos, 'eos_token', _EOS_NAMES)
    usual = (pad,) if pad else _PAD_NAMES
    self._pad = next((n for n in usual if core.token_to_id(n) is not None), None)
    self.pad_id = 0 if self._pad is None else core.token_to_id(self._pad)
    content = f'{text}\x1f{self.bos_id}\x1f{self.pad_id}'
    self.fingerprint = hashlib.sha256(content.encode()).hexdigest()
    asked = self.config.get('add_bos_token')
    does = self.bos_id is not None and core.encode('x').ids[:1] == [self.bos_id]
    self.adds_bos = asked if isinstance(asked, bool) else does
    # Special tokens are never added here; what is left of it would cut blanks out of
    # the characters that a token covers.
    core.post_processor = tokenizers_library().processors.Sequence([])

  def _id_of(self, name: str | None, key: str, usual: Sequence[str]) -> int | None:
    if name:
      return self._core.token_to_id(name)
    if key in self.config:
      return None
    added = {t.content: i for i, t in self._core.get_added_tokens_decoder().items()}
    return next((added[n] for n in usual if n in added), None)

  @property
  def names(self) -> dict[str, str]:
    """bos_token, eos_token, pad_token: those there are."""
    held = {'bos_token': self.bos_id, 'eos_token': self.eos_id}
    named = {k: self._core.id_to_token(i) for k, i in held.items() if i is not None}
    return named if self._pad is None else {**named, 'pad_token': self._pad}

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
    # What the text becomes counts more than a token of that spelling: where a
    # tokenizer puts a blank before a text, '+' becomes '▁+', and '+' is another token.
    ids = self.encode(text)
    if len(ids) == 1 and self.decode(ids) == text:
      return ids[0]
    return self._core.token_to_id(text)

  def save(self, folder: str | os.PathLike[str]) -> str:
    """Writes tokenizer.json and tokenizer_config.json, which transformers load too."""
    target = epath.Path(folder)
    jsonl.write_bytes(target / FILE, self._text.encode())
    # tokenizer.json holds all added tokens; code of others is not passed on.
    dropped = ('added_tokens_decoder', 'auto_map')
    config = {k: v for k, v in self.config.items() if k not in dropped}
    config.setdefault('tokenizer_class', 'PreTrainedTokenizerFast')
    config.setdefault('clean_up_tokenization_spaces', False)
    # An ordinary token that only an id in config.json calls the end of a text would
    # come back as a special one if it were named.
    added = {t.content for t in self._core.get_added_tokens_decoder().values()}
    named = {k: n for k, n in self.names.items() if n in added}
    config |= dict.fromkeys(('bos_token', 'eos_token', 'pad_token')) | named
    raw = json.dumps(config, ensure_ascii=False, indent=2).encode()
    jsonl.write_bytes(target / CONFIG, raw)
    return FILE

  def with_specials(self, names: Sequence[str]) -> JsonTokenizer:
    """A copy that also knows `names` as special tokens, which cut the text.

    A name that is an ordinary token keeps its id; one that is new gets the next id
    after the last one, whatever padding the vocabulary of a model has behind it.

    Raises:
      UserError: the vocabulary has gaps, so that a new token would get a used id.
    """
    core = read_core(self._text, FILE)
    held = {t.content for t in core.get_added_tokens_decoder().values()}
    wanted = [n for n in dict.fromkeys(names) if n not in held]
    new = [n for n in wanted if core.token_to_id(n) is None]
    core.add_special_tokens(wanted)
    for i, name in enumerate(new):
      if core.token_to_id(name) != self.vocab_size + i:
        raise UserError(
          f'special token {name!r} would get id {core.token_to_id(name)} where '
          f'{self.vocab_size + i} is the next free one, because the ids of this '
          'tokenizer have gaps; choose a marker that it already has.'
        )
    named = self.names
    return JsonTokenizer(
      core.to_str() if wanted else self._text,
      named.get('bos_token'),
      named.get('pad_token'),
      eos=named.get('eos_token'),
      config=self.config,
    )


def tokenizers_library() -> Any:
  """The `tokenizers` module; a native library, so only who needs it pays."""
  import tokenizers

  return tokenizers


def read_core(text: str, where: str) -> Any:
  """The library's tokenizer of the content of a tokenizer.json.

  Raises:
    UserError: it is not one.
  """
  try:
    return tokenizers_library().Tokenizer.from_str(text)
  except Exception as e:  # the library raises bare Exception
    raise UserError(
      f'{where}: not a tokenizer.json that the tokenizers library reads ({e}).'
    ) from e


def load(name_or_path: str | os.PathLike[str], rows: int | None = None) -> Tokenizer:
  """'bytes', a tokenizer.json, or the folder of a checkpoint.

  The files beside a tokenizer.json count as well; see tokenizer_files.py.

  Args:
    rows: V of the model that reads the ids. Added tokens beyond it, as a text model has
      them whose family also reads images, are not known then: their names are text.

  Raises:
    UserError: there is no such file, or it cannot be read.
  """
  from prm_jax.formats import tokenizer_files  # which needs the classes above

  name = os.fspath(name_or_path)
  if name == 'bytes':
    return ByteTokenizer()
  path = epath.Path(os.path.expanduser(name))
  if path.is_dir():
    return tokenizer_files.read(path, rows=rows)
  if not path.exists():
    raise UserError(
      f"{name}: no such tokenizer; give 'bytes', a tokenizer.json or a folder "
      'that holds one.'
    )
  return tokenizer_files.read(path.parent, path, rows)


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


def _utf8(text: str) -> bytes:
  try:
    return text.encode('utf-8')
  except UnicodeEncodeError as e:
    raise UserError(
      f'a text holds the lone surrogate {text[e.start]!r} at character {e.start}, '
      'which is not valid Unicode; repair the text.'
    ) from e
