"""Text to ids of the public families, as their authors' code encodes.

The goldens were computed with transformers (tests/fixtures/goldens/make_goldens.py);
the formats are those of the adapters.
"""

import dataclasses
import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from prm_jax.errors import UserError
from prm_jax.formats import chat_template, step_format, tokenizers
from prm_jax.formats.step_format import encode
from prm_jax.interop.adapters import ADAPTERS
from prm_jax.specs import StepFormat

HERE = Path(__file__).parent / 'fixtures' / 'goldens'
GOLDENS = json.loads((HERE / 'ids.json').read_text())
REAL = json.loads((HERE / 'ids_qwen2.json').read_text())
DATA = os.environ.get('PRM_JAX_DATA', '')
SPECIALS = (
  '<|endoftext|>', '<|im_start|>', '<|im_end|>', '<|object_ref_start|>',
  '<|object_ref_end|>', '<|box_start|>', '<|box_end|>', '<|quad_start|>', '<extra_0>',
)  # fmt: skip
ADAPTER_OF = {'qwen': 'qwen_math_prm', 'trl_rule': 'trl'}
CHATML = (HERE / 'chatml.jinja').read_text()
LLAMA3 = (HERE / 'llama3.jinja').read_text()


@pytest.fixture(scope='module')
def own():
  return {k: tokenizers.load(HERE / k) for k in ('byte_level', 'blank_first')}


@pytest.fixture(scope='module')
def qwen2(tmp_path_factory):
  source = Path(DATA) / 'tokenizers' / 'qwen2'
  if not DATA or not source.exists():
    pytest.skip('PRM_JAX_DATA does not name the folder with the Qwen2 vocabulary')
  folder = tmp_path_factory.mktemp('qwen2')
  for name in ('vocab.json', 'merges.txt'):
    packed = (source / f'{name}.gz').read_bytes()
    (folder / name).write_bytes(gzip.decompress(packed))
  added = {
    str(151643 + i): {'content': name, 'special': True, 'normalized': False}
    for i, name in enumerate(SPECIALS)
  }
  config = {'tokenizer_class': 'Qwen2Tokenizer', 'bos_token': None,
            'eos_token': '<|endoftext|>', 'added_tokens_decoder': added}  # fmt: skip
  (folder / 'tokenizer_config.json').write_text(json.dumps(config))
  return tokenizers.load(folder)


def format_of(family: str, tokenizer) -> StepFormat:
  adapter = ADAPTERS[ADAPTER_OF.get(family, family)]
  fmt = dataclasses.replace(
    adapter.format,
    max_length=2000,
    add_bos=adapter.bos and tokenizer.bos_id is not None,
  )
  if family == 'trl_rule':  # a separator of several ids
    fmt = dataclasses.replace(fmt, marker='\n---\n')
  if family == 'eurus':  # the chat of the goldens has a default system message
    text = chat_template.question_template(CHATML)
    fmt = dataclasses.replace(fmt, question_template=text)
  return fmt


def check(golden, tokenizer):
  fmt = format_of(golden['family'], tokenizer)
  step_format.check(fmt, tokenizer)
  row = encode(fmt, tokenizer, golden['question'], golden['steps'])
  # Nothing comes after the last marker: what is read there does not see it.
  assert row.tokens.tolist() == golden['ids'][: len(row.tokens)]
  assert row.step_positions.tolist() == golden['at']
  read_last = 2 if fmt.position == 'before' else 1
  assert len(row.tokens) == golden['at'][-1] + read_last


@pytest.mark.parametrize(
  'golden', GOLDENS, ids=lambda g: f'{g["family"]}-{g["question"]}'
)
def test_ids_are_those_of_the_authors_code(golden, own):
  check(golden, own[golden['tokenizer']])


def test_ids_with_the_real_vocabulary(qwen2):
  known = {'Answer': 16141, ':': 25, 'ки': 16748, '\n': 198, '<extra_0>': 151651}
  assert {text: qwen2.token_id(text) for text in known} == known
  assert (qwen2.vocab_size, qwen2.bos_id, qwen2.eos_id) == (151652, None, 151643)
  for golden in REAL:
    check(golden, qwen2)


def test_chat_templates_give_the_text_of_the_adapters(own):
  system = 'Please reason step by step, and put your final answer within \\boxed{}.'
  qwen = ADAPTERS['qwen_math_prm'].format
  for given in (system, None):  # None: the default of this template is the same
    text = chat_template.question_template(CHATML, system=given)
    assert text == qwen.question_template
  names = {'bos_token': '<|begin_of_text|>'}
  turns = chat_template.turn_templates(LLAMA3, specials=names)
  fmt = ADAPTERS['rlhflow'].format
  assert dataclasses.asdict(turns) == {
    name: getattr(fmt, name) for name in dataclasses.asdict(turns)
  }


def test_pieces_would_differ_where_a_blank_goes_first(own):
  golden = next(g for g in GOLDENS if g['family'] == 'math_shepherd')
  tokenizer = own['blank_first']
  fmt = format_of('math_shepherd', tokenizer)
  assert not fmt.extends
  pieces = dataclasses.replace(fmt, encoding='pieces')
  row = encode(pieces, tokenizer, golden['question'], golden['steps'])
  assert row.tokens.tolist() != golden['ids']
  # A prefix's ids need not be a prefix of the ids, but here its positions are.
  part = encode(fmt, tokenizer, golden['question'], golden['steps'][:1])
  assert part.step_positions.tolist() == golden['at'][:1]


def test_joined_is_needed_where_a_step_begins_with_a_line_break(own):
  golden = next(
    g for g in GOLDENS if g['family'] == 'qwen' and g['steps'][0].startswith('\n')
  )
  tokenizer = own['byte_level']
  fmt = format_of('qwen', tokenizer)
  row = encode(fmt, tokenizer, golden['question'], golden['steps'])
  pieces = dataclasses.replace(fmt, encoding='pieces')
  apart = encode(pieces, tokenizer, golden['question'], golden['steps'])
  assert len(apart.tokens) == len(row.tokens) + 1
  # 'assistant\n' and the step's line break are one token: the common beginning ends
  # before it, one token short of the question.
  assert row.question_length == apart.question_length - 1


def test_a_marker_alone_must_be_the_one_in_its_place(own):
  # 'ки' after a blank is another token than alone in a byte-level vocabulary.
  fmt = dataclasses.replace(
    ADAPTERS['math_shepherd'].format, marker='ки', max_length=500
  )
  with pytest.raises(UserError, match=r'not after a step.*blank before it'):
    step_format.check(fmt, own['byte_level'])
  blank = dataclasses.replace(
    fmt,
    marker=' ки',
    first_step_template='Step {number}: {step}',
    step_template='\nStep {number}: {step}',
  )
  step_format.check(blank, own['byte_level'])
  row = encode(blank, own['byte_level'], 'Q', ['a', 'b'])
  assert row.n_steps == 2
  assert np.all(row.tokens[row.step_positions] == own['byte_level'].token_id(' ки'))
