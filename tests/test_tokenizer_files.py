"""Tokenizers of checkpoint folders, from all the files that describe them."""

import json
from pathlib import Path

import pytest

from prm_jax.errors import UserError
from prm_jax.formats import chat_template, tokenizers

GOLDENS = Path(__file__).parent / 'fixtures' / 'goldens'
FILE = (GOLDENS / 'byte_level' / 'tokenizer.json').read_text()


def folder(tmp_path, **files):
  """A folder with the small tokenizer, or other files: name without suffix -> JSON."""
  (tmp_path / 'tokenizer.json').write_text(FILE)
  for name, content in files.items():
    (tmp_path / f'{name}.json').write_text(json.dumps(content))
  return tmp_path


@pytest.fixture(scope='module')
def plain():
  return tokenizers.load(GOLDENS / 'byte_level')


def test_names_and_where_they_come_from(tmp_path, plain):
  assert (plain.bos_id, plain.eos_id) == (None, plain.token_id('<|endoftext|>'))
  held = tokenizers.load(folder(tmp_path, special_tokens_map={
    'bos_token': {'content': '<|begin_of_text|>'}, 'eos_token': '<|eot_id|>',
    'pad_token': '<|im_end|>',
  }))  # fmt: skip
  assert held.names == {'bos_token': '<|begin_of_text|>', 'eos_token': '<|eot_id|>',
                        'pad_token': '<|im_end|>'}  # fmt: skip
  # A null in tokenizer_config.json counts; another file's id is then the last resort.
  im_end = plain.token_id('<|im_end|>')
  held = tokenizers.load(
    folder(
      tmp_path,
      tokenizer_config={'bos_token': None, 'eos_token': None},
      generation_config={'eos_token_id': [im_end, 3]},
    )
  )
  assert (held.bos_id, held.eos_id) == (None, im_end)


def test_whether_the_tokenizer_begins_with_bos(tmp_path, plain):
  blank_first = tokenizers.load(GOLDENS / 'blank_first')
  assert blank_first.adds_bos and not plain.adds_bos
  assert blank_first.bos_id not in blank_first.encode('a text')
  config = json.loads((GOLDENS / 'blank_first' / 'tokenizer_config.json').read_text())
  (tmp_path / 'tokenizer.json').write_text(
    (GOLDENS / 'blank_first' / 'tokenizer.json').read_text()
  )
  config['add_bos_token'] = False
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps(config))
  assert not tokenizers.load(tmp_path).adds_bos


def test_tokens_that_only_the_config_names(tmp_path, plain):
  size = plain.vocab_size
  held = tokenizers.load(folder(
    tmp_path,
    tokenizer_config={
      'added_tokens_decoder': {
        str(size): {'content': '<extra_1>', 'special': True, 'normalized': False},
        str(size + 1): {'content': '<tool>', 'special': False, 'lstrip': False},
      },
      'additional_special_tokens': ['<extra_1>', '<extra_2>', {'content': '[PRM]'}],
    },
  ))  # fmt: skip
  assert held.encode('a<extra_1><tool><extra_2>[PRM]') == [
    *plain.encode('a'), size, size + 1, size + 2, plain.token_id('[PRM]')
  ]  # fmt: skip
  assert held.vocab_size == size + 3
  again = folder(
    tmp_path, tokenizer_config={'additional_special_tokens': []},
    added_tokens={'<extra_0>': 5},
  )  # fmt: skip
  with pytest.raises(UserError, match=r"'<extra_0>' the id 5 and the tokenizer"):
    tokenizers.load(again)
  broken = {'added_tokens_decoder': {'7': {'special': True}}}
  with pytest.raises(UserError, match='without content or id'):
    tokenizers.load(folder(tmp_path, tokenizer_config=broken))


def test_added_tokens_beyond_the_table_of_the_model(tmp_path, plain):
  last = plain.vocab_size
  config = {'added_tokens_decoder': {str(last): {'content': '<soft>', 'special': True}}}
  where = folder(tmp_path, tokenizer_config=config)
  assert tokenizers.load(where).encode('<soft>') == [last]
  held = tokenizers.load(where, last)
  assert held.vocab_size == last and held.encode('<soft>') == plain.encode('<soft>')
  held.save(tmp_path / 'saved')
  assert tokenizers.load(tmp_path / 'saved').fingerprint == held.fingerprint
  text = plain.n_text_ids  # ids of text are never left out
  assert tokenizers.load(where, text - 1).n_text_ids == text


@pytest.mark.parametrize('file, content, words', [
  ('tokenizer_config', {'bos_token': 5}, "'bos_token' is 5; it must be a string"),
  ('tokenizer_config', {'bos_token': {'content': 5}}, "'bos_token' is {'content': 5}"),
  ('special_tokens_map', {'eos_token': ['</s>']}, "'eos_token' is ['</s>']"),
  ('tokenizer_config', {'add_bos_token': 'false'}, 'it must be true or false'),
  ('tokenizer_config', {'extra_special_tokens': 5}, 'it must be a list'),
  ('tokenizer_config', {'additional_special_tokens': '<a>'}, 'it must be a list'),
  ('special_tokens_map', {'additional_special_tokens': [5]}, 'it must be a string'),
  ('tokenizer_config', {'added_tokens_decoder': {'7': {
    'content': '<x>', 'special': 'false'}}}, "'added_tokens_decoder.7.special' is"),
  ('added_tokens', {'<x>': 3.5}, "'<x>' is 3.5; it must be a whole number"),
  ('generation_config', {'eos_token_id': -1}, "'eos_token_id' is -1"),
  ('generation_config', {'eos_token_id': [2**40]}, 'must be a whole number'),
  ('generation_config', {'eos_token_id': 'x'}, 'must be a whole number'),
  ('tokenizer_config', {'chat_template': 5}, "'chat_template' is 5; it must be a text"),
  ('tokenizer_config', {'chat_template': {'default': 5}}, "'chat_template.default'"),
])  # fmt: skip
def test_values_of_the_wrong_type_are_refused_by_name(tmp_path, file, content, words):
  with pytest.raises(UserError) as e:
    tokenizers.load(folder(tmp_path, **{file: content}))
  said = str(e.value)
  assert said.startswith(str(tmp_path / f'{file}.json')) and words in said


def test_vocab_and_merges(tmp_path, plain):
  model = json.loads(FILE)['model']
  merges = [m if isinstance(m, str) else ' '.join(m) for m in model['merges']]
  (tmp_path / 'vocab.json').write_text(json.dumps(model['vocab']))
  (tmp_path / 'merges.txt').write_text('#version: 0.2\n' + '\n'.join(merges) + '\n')
  with pytest.raises(UserError, match=r'unnamed family.*GPT2Tokenizer'):
    tokenizers.load(tmp_path)
  (tmp_path / 'config.json').write_text('{"model_type": "qwen2"}')
  size = len(model['vocab'])
  (tmp_path / 'added_tokens.json').write_text(json.dumps({'<|im_end|>': size}))
  held = tokenizers.load(tmp_path)
  for text in ("It's 12 + 30.\n\nSo", 'Naïve — 東京 🙂 ки\n', 'e\u0301'):
    assert held.encode(text) == plain.encode(text)
  assert held.encode('<|im_end|>') == [size]
  config = {'tokenizer_class': 'GPT2TokenizerFast'}
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps(config))
  # GPT-2 keeps digits together and does not compose accents.
  assert tokenizers.load(tmp_path).encode('e\u0301') != plain.encode('e\u0301')
  (tmp_path / 'merges.txt').write_text('a b c\n')
  with pytest.raises(UserError, match="merge 1 is 'a b c'"):
    tokenizers.load(tmp_path)


def test_folders_without_a_tokenizer_that_can_be_read(tmp_path):
  with pytest.raises(UserError, match='no tokenizer here'):
    tokenizers.load(tmp_path)
  (tmp_path / 'tokenizer.model').write_bytes(b'\n')
  with pytest.raises(UserError, match=r'SentencePiece.*save_pretrained'):
    tokenizers.load(tmp_path)


def test_markers_that_are_added_or_there_already(plain):
  size = plain.vocab_size
  more = plain.with_specials(['<step>', '<extra_0>', '<next>'])
  assert more.vocab_size == size + 2
  assert more.encode('a<step><extra_0><next>') == [
    *plain.encode('a'), size, plain.token_id('<extra_0>'), size + 1
  ]  # fmt: skip
  assert plain.with_specials(['<extra_0>']).fingerprint == plain.fingerprint
  # An ordinary token keeps its id and cuts the text from then on.
  word = 'Step'
  assert plain.token_id(word) is not None
  cut = plain.with_specials([word])
  assert (cut.vocab_size, cut.token_id(word)) == (size, plain.token_id(word))
  assert len(plain.encode('Steps')) != len(cut.encode('Steps')) or (
    cut.encode('Steps')[0] == cut.token_id(word)
  )


def test_new_tokens_never_take_a_used_id(tmp_path):
  held = json.loads(FILE)
  vocab = held['model']['vocab']
  last = max(vocab, key=vocab.get)
  vocab[last] += len(held['added_tokens']) + 3  # a gap below it
  held['added_tokens'] = []
  (tmp_path / 'tokenizer.json').write_text(json.dumps(held))
  with pytest.raises(UserError, match='have gaps'):
    tokenizers.load(tmp_path).with_specials(['<a>', '<b>', '<c>'])


def test_what_a_text_becomes_counts_more_than_a_token_of_that_spelling():
  held = tokenizers.load(GOLDENS / 'blank_first')
  for text in '+-':
    assert held.token_id(text) == held.encode(text)[-1]
    bare = held._core.token_to_id(text)
    assert bare is not None and bare != held.token_id(text)


def test_saving_keeps_everything(tmp_path, plain):
  chatml = (GOLDENS / 'chatml.jinja').read_text()
  source = folder(tmp_path, tokenizer_config={
    'tokenizer_class': 'Qwen2TokenizerFast', 'bos_token': None,
    'eos_token': '<|im_end|>', 'pad_token': '<|endoftext|>', 'auto_map': {'x': 'y'},
    'added_tokens_decoder': {str(plain.vocab_size): {'content': '<late>'}},
  })  # fmt: skip
  (source / 'chat_template.jinja').write_text(chatml)
  held = tokenizers.load(source).with_specials(['<prm>'])
  held.save(tmp_path / 'out')
  again = tokenizers.load(tmp_path / 'out')
  assert again.fingerprint == held.fingerprint
  assert (again.bos_id, again.eos_id, again.pad_id) == (
    None, plain.token_id('<|im_end|>'), plain.token_id('<|endoftext|>')
  )  # fmt: skip
  text = 'Naïve\n\n<late> a.<prm><|im_end|>'
  assert again.encode(text) == held.encode(text)
  assert again.vocab_size == plain.vocab_size + 2
  assert chat_template.load_template(tmp_path / 'out') == chatml
  config = json.loads((tmp_path / 'out' / 'tokenizer_config.json').read_text())
  assert 'auto_map' not in config and config['tokenizer_class'] == 'Qwen2TokenizerFast'
