"""The text format: prompts are prefixes of what the policy was trained on."""

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prm_jax.errors import UserError
from prm_jax.formats import text_format, tokenizers
from prm_jax.formats.text_format import (
  check,
  encode_prefixes,
  encode_rows,
  encode_solution,
  end_id,
  prompt_text,
)
from prm_jax.specs import TextFormat

BYTES = tokenizers.load('bytes')
FORMATS = {
  'lines': TextFormat(max_length=10_000),
  'chat': TextFormat(
    question_template='User: {question}\nAssistant: ',
    separator='\n\n',
    add_bos=True,
    max_length=10_000,
  ),
  'no end': TextFormat(separator=' so ', end='', max_length=10_000),
}
# Without names of special tokens, which are refused (see below).
TEXT = st.text(st.characters(codec='utf-8'), min_size=1, max_size=8).filter(
  lambda text: text.strip() and not re.search('<[a-z]+>', text)
)
STEPS = st.lists(TEXT, min_size=1, max_size=5)


@pytest.fixture(scope='module')
def bpe(tmp_path_factory):
  path = tmp_path_factory.mktemp('bpe') / 'tokenizer.json'
  texts = ['the sum of 3 and 4 is 7\n\n', 'User: what is the sum?\n\n so '] * 4
  return tokenizers.train_bpe(texts, 290, path)


@pytest.mark.parametrize('name', FORMATS)
@settings(deadline=None, max_examples=40)
@given(question=TEXT, steps=STEPS)
def test_prompts_are_prefixes_of_the_solution(bpe, name, question, steps):
  fmt = FORMATS[name]
  for tokenizer in (BYTES, bpe):
    whole, question_length = encode_solution(fmt, tokenizer, question, steps)
    tokens, ends = encode_prefixes(fmt, tokenizer, question, steps)
    assert tokens.dtype == ends.dtype == whole.dtype == np.int32
    assert question_length == ends[0] and ends[-1] == len(tokens)
    for k in range(len(steps)):
      part, part_ends = encode_prefixes(fmt, tokenizer, question, steps[:k])
      assert part.tolist() == whole[: ends[k]].tolist() == tokens[: ends[k]].tolist()
      assert part_ends.tolist() == ends[: k + 1].tolist()
    end = end_id(fmt, tokenizer)
    if end is not None:
      assert whole[-1] == end and (whole[:-1] == end).sum() == 0
      whole = whole[:-1]
    text = tokenizer.decode(whole[int(fmt.add_bos) :].tolist())
    assert text + fmt.separator == prompt_text(fmt, question, steps)
    rows = encode_rows(fmt, tokenizer, [question], [steps])
    row = rows.row(0)
    again, _ = encode_solution(fmt, tokenizer, question, steps)
    assert row.tokens.tolist() == again.tolist()
    assert row.question_length == question_length
    last = [*(ends[1:-1] - 1).tolist(), len(again) - 1]
    assert row.step_positions.tolist() == last


def test_many_rows_are_each_alone():
  fmt = TextFormat(max_length=12)
  questions = ['ab', 'c', 'd', 'e', 'f', '', '<eos>']
  steps = [['1', '2'], [], ['1', ' '], ['x' * 10], ['x' * 9], ['3'], ['4']]
  rows = encode_rows(fmt, BYTES, questions, steps)
  want = ['', 'no_steps', 'empty_step', 'too_long', '', '', 'marker_in_text']
  assert rows.reasons == want
  for r in np.flatnonzero([not w for w in want]):
    alone, length = encode_solution(fmt, BYTES, questions[r], steps[r])
    assert rows.row(r).tokens.tolist() == alone.tolist()
    assert rows.row(r).question_length == length
  assert rows.full_length[4] == 12 and rows.full_length[3] == 13
  assert len(rows.tokens) == rows.offsets[-1]


def test_texts_stay_as_they_are():
  fmt = TextFormat(question_template='Q {question} A ', separator='\n')
  assert prompt_text(fmt, '{question} {step} {0}', []) == 'Q {question} {step} {0} A '
  # A separator inside a step is text of that step.
  steps = ['one\ntwo', 'three']
  assert prompt_text(fmt, 'q', steps) == 'Q q A one\ntwo\nthree\n'
  tokens, ends = encode_prefixes(fmt, BYTES, 'q', steps)
  assert BYTES.decode(tokens[ends[0] : ends[1]]) == 'one\ntwo\n'
  assert prompt_text(fmt, 'q', ['', 'a']) == 'Q q A \na\n'
  bare, length = encode_solution(fmt, BYTES, 'q', [])
  assert length == len('Q q A ') and bare.tolist()[length:] == [BYTES.token_id('<eos>')]


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'question_template': 'no place'}, 'question_template'),
    ({'question_template': '{question}{question}'}, 'exactly once'),
    ({'separator': ''}, 'separator'),
    ({'separator': '<eos>'}, 'before its time'),
    ({'end': '<|im_end|>'}, 'must be exactly one'),
    ({'max_length': 2}, 'max_length'),
  ],
)
def test_a_format_that_cannot_work(changes, message):
  with pytest.raises(UserError, match=message):
    check(dataclasses.replace(TextFormat(), **changes), BYTES)


def test_check_knows_the_tokenizer(bpe):
  check(TextFormat(), bpe)
  check(TextFormat(end=''), BYTES)
  assert text_format.end_id(TextFormat(end=''), BYTES) is None

  class NoBos(tokenizers.ByteTokenizer):
    bos_id = None

  with pytest.raises(UserError, match='add_bos'):
    check(TextFormat(add_bos=True), NoBos())
