"""Tokenizers: nothing added, nothing cut, equal again after saving and loading."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prm_jax.errors import UserError
from prm_jax.formats import tokenizers

TEXTS = [
  'What is 12 + 30?\n',
  'Add the tens: 10 + 30 = 40, then 40 + 2 = 42.',
  'naïve \\boxed{42} → 東京 🙂',
  '',
] * 3


@pytest.fixture(scope='module')
def bpe(tmp_path_factory):
  path = tmp_path_factory.mktemp('bpe') / 'tokenizer.json'
  return tokenizers.train_bpe(TEXTS, 300, path), path


@pytest.fixture(scope='module', params=['bytes', 'bpe'])
def tokenizer(request, bpe):
  return tokenizers.load('bytes') if request.param == 'bytes' else bpe[0]


def test_byte_ids():
  held = tokenizers.load('bytes')
  assert held.encode('aé') == [97, 0xC3, 0xA9]
  assert (held.pad_id, held.bos_id) == (256, 257)
  assert [held.token_id(s) for s in tokenizers.SPECIALS] == [256, 257, 258, 259]
  assert held.token_id('\n') == 10
  assert held.token_id('é') is None
  assert held.decode([97, 259, 0xC3]) == 'a<prm>�'
  assert held.vocab_size == 260
  # The marker written out is plain text here, never the marker's id.
  assert 259 not in held.encode('<prm>')
  with pytest.raises(ValueError, match='260'):
    held.decode([260])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(st.characters(codec='utf-8'), max_size=12), max_size=5))
def test_round_trip_and_ragged(bpe, texts):
  for held in (tokenizers.load('bytes'), bpe[0]):
    ids, lengths = held.encode_ragged(texts)
    assert ids.dtype == np.int32
    ends = np.cumsum(lengths)
    for text, end, n in zip(texts, ends, lengths):
      row = ids[end - n : end].tolist()
      assert row == held.encode(text)
      assert held.decode(row) == text
      assert all(0 <= i < held.vocab_size for i in row)


def test_trained_bpe(bpe, tmp_path):
  held, path = bpe
  assert held.vocab_size <= 300
  assert [held.token_id(s) for s in tokenizers.SPECIALS] == [0, 1, 2, 3]
  assert (held.pad_id, held.bos_id) == (0, 1)
  assert len(held.encode('Add the tens')) < len('Add the tens')
  assert len(held.encode('1234')) == 4  # digits stay apart
  again = tokenizers.train_bpe(TEXTS, 300, tmp_path / 'again.json')
  assert (tmp_path / 'again.json').read_bytes() == path.read_bytes()
  assert again.fingerprint == held.fingerprint


def test_save_and_load(tokenizer, tmp_path):
  name = tokenizer.save(tmp_path)
  again = tokenizers.load(name if name == 'bytes' else tmp_path / name)
  assert again.fingerprint == tokenizer.fingerprint
  assert again.encode(TEXTS[1]) == tokenizer.encode(TEXTS[1])
  if name != 'bytes':
    assert tokenizers.load(tmp_path).fingerprint == tokenizer.fingerprint


def test_truncation_and_padding_of_the_file_are_off(bpe, tmp_path):
  content = json.loads(bpe[1].read_text())
  content['truncation'] = {
    'direction': 'Right', 'max_length': 3, 'strategy': 'LongestFirst', 'stride': 0
  }  # fmt: skip
  content['padding'] = {
    'strategy': {'Fixed': 8}, 'direction': 'Right', 'pad_to_multiple_of': None,
    'pad_id': 0, 'pad_type_id': 0, 'pad_token': '<pad>',
  }  # fmt: skip
  path = tmp_path / 'tokenizer.json'
  path.write_text(json.dumps(content))
  held = tokenizers.load(path)
  assert held.encode(TEXTS[1]) == bpe[0].encode(TEXTS[1])
  assert held.encode('a') == bpe[0].encode('a')
  assert held.encode_ragged([TEXTS[1]])[1][0] > 8


def test_bos_and_pad_by_config(bpe, tmp_path):
  (tmp_path / 'tokenizer.json').write_bytes(bpe[1].read_bytes())
  names = {'bos_token': {'content': '<eos>'}, 'pad_token': '<prm>'}
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps(names))
  held = tokenizers.load(tmp_path)
  assert (held.bos_id, held.pad_id) == (2, 3)
  assert held.fingerprint != bpe[0].fingerprint
  held.save(tmp_path / 'copy')
  assert tokenizers.load(tmp_path / 'copy').bos_id == 2


def test_with_specials(bpe):
  more = bpe[0].with_specials(['<step>', '<prm>'])
  assert more.token_id('<step>') == bpe[0].vocab_size == more.vocab_size - 1
  assert more.token_id('<prm>') == 3
  assert more.encode(TEXTS[0]) == bpe[0].encode(TEXTS[0])


def test_refusals(tmp_path, tokenizer):
  with pytest.raises(UserError, match='no such tokenizer'):
    tokenizers.load(tmp_path / 'none.json')
  bad = tmp_path / 'tokenizer.json'
  bad.write_text('{"model": 3}')
  with pytest.raises(UserError, match=r'tokenizer\.json'):
    tokenizers.load(bad)
  bad.write_bytes(b'\xff\xfe')
  with pytest.raises(UserError, match='UTF-8'):
    tokenizers.load(tmp_path)
  with pytest.raises(UserError, match='at least 260'):
    tokenizers.train_bpe(TEXTS, 200, tmp_path / 'small.json')
  with pytest.raises(UserError, match='no text'):
    tokenizers.train_bpe(['', ''], 300, tmp_path / 'empty.json')
  with pytest.raises(UserError, match='surrogate'):
    tokenizer.encode('a\ud800')
