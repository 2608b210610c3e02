"""The step format: prefixes stay prefixes, steps are read where they end."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prm_jax.errors import UserError
from prm_jax.formats import inspection, step_format, tokenizers
from prm_jax.formats.step_format import Unusable, encode, encode_question, encode_step
from prm_jax.records import LabelSet, Trajectory
from prm_jax.specs import HeadSpec, StepFormat

BYTES = tokenizers.load('bytes')
FORMATS = {
  'marker': StepFormat(max_length=10_000),
  'before': StepFormat(position='before', max_length=10_000),
  'no_marker': StepFormat(marker='', step_template='{step}\n', max_length=10_000),
  'numbered': StepFormat(step_template='Step {number}: {step}', max_length=10_000),
  'chat': StepFormat(
    question_template='User: {question}',
    first_step_template=' {step}',
    step_template='\n\n{step}',
    add_bos=True,
    max_length=10_000,
  ),
}
TEXT = st.text(st.characters(codec='utf-8'), min_size=1, max_size=8).filter(str.strip)
STEPS = st.lists(TEXT, min_size=1, max_size=5)


@pytest.fixture(scope='module')
def bpe(tmp_path_factory):
  path = tmp_path_factory.mktemp('bpe') / 'tokenizer.json'
  texts = ['the sum of 3 and 4 is 7\n', 'User: what is the sum?\n\n'] * 4
  return tokenizers.train_bpe(texts, 290, path)


@pytest.mark.parametrize('name', FORMATS)
@settings(deadline=None, max_examples=40)
@given(question=TEXT, steps=STEPS)
def test_ids_of_a_prefix_are_a_prefix(bpe, name, question, steps):
  fmt = FORMATS[name]
  for tokenizer in (BYTES, bpe):
    whole = encode(fmt, tokenizer, question, steps)
    assert whole.n_steps == len(steps) == len(whole.step_positions)
    for n in range(1, len(steps)):
      part = encode(fmt, tokenizer, question, steps[:n])
      assert part.tokens.tolist() == whole.tokens[: len(part.tokens)].tolist()
      assert part.step_positions.tolist() == whole.step_positions[:n].tolist()
    # Piece by piece, as search extends a solution, gives the same ids.
    pieces = [encode_question(fmt, tokenizer, question)] + [
      encode_step(fmt, tokenizer, s, i) for i, s in enumerate(steps, 1)
    ]
    assert np.concatenate(pieces).tolist() == whole.tokens.tolist()
    assert whole.question_length == len(pieces[0])
    ends = np.cumsum([len(p) for p in pieces])[1:] - 1
    shift = 1 if fmt.position == 'before' else 0
    assert whole.step_positions.tolist() == (ends - shift).tolist()
    if fmt.marker and not shift:
      marker = tokenizer.token_id(fmt.marker)
      assert (whole.tokens[whole.step_positions] == marker).all()


def test_steps_are_numbered_from_1_and_braces_in_a_step_stay():
  fmt = StepFormat(question_template='{question}', step_template='{number}) {step}')
  row = encode(fmt, BYTES, 'q', ['{number}', 'b'])
  assert BYTES.decode(row.tokens) == 'q1) {number}<prm>2) b<prm>'


@settings(deadline=None, max_examples=40)
@given(
  rows=st.lists(st.tuples(TEXT, STEPS), min_size=1, max_size=5), cut=st.integers(3, 40)
)
def test_many_rows_are_the_single_rows(rows, cut):
  for policy in ('drop_example', 'drop_steps'):
    fmt = StepFormat(max_length=cut, truncation=policy)
    many = step_format.encode_rows(
      fmt, BYTES, [q for q, _ in rows], [s for _, s in rows]
    )
    for r, (question, steps) in enumerate(rows):
      try:
        one = encode(fmt, BYTES, question, steps)
      except Unusable as e:
        assert many.reasons[r] == e.reason
        assert many.offsets[r] == many.offsets[r + 1]
        assert many.step_offsets[r] == many.step_offsets[r + 1]
        continue
      assert len(one.tokens) <= cut
      assert many.row(r).tokens.tolist() == one.tokens.tolist()
      assert many.row(r).step_positions.tolist() == one.step_positions.tolist()


def test_text_by_hand():
  row = encode(FORMATS['chat'], BYTES, 'Q{step}', ['a', 'b{question}'])
  assert BYTES.decode(row.tokens) == '<bos>User: Q{step} a<prm>\n\nb{question}<prm>'
  assert row.tokens.dtype == row.step_positions.dtype == np.int32


def test_a_marker_of_several_tokens_is_read_at_its_last_or_before_its_first():
  for position, want in (('marker', ['!', '!']), ('before', ['a', 'b'])):
    fmt = StepFormat(marker='?!', position=position, marker_in_text='allow')
    row = encode(fmt, BYTES, 'Q', ['a', 'b'])
    assert BYTES.decode(row.tokens).endswith('a?!b?!')
    assert [BYTES.decode(row.tokens[p : p + 1]) for p in row.step_positions] == want


def test_truncation():
  steps = ['aaaa', 'bbbb', 'cccc']  # 5 tokens each with the marker, question 2
  keep = StepFormat(max_length=12, truncation='drop_steps')
  row = encode(keep, BYTES, 'Q', steps)
  assert (row.n_steps, len(row.tokens)) == (2, 12)
  assert (row.tokens == 259).sum() == row.n_steps
  drop = dataclasses.replace(keep, truncation='drop_example')
  with pytest.raises(Unusable) as e:
    encode(drop, BYTES, 'Q', steps)
  assert e.value.reason == 'too_long'
  with pytest.raises(UserError, match=r'17 tokens.*max_length=12'):
    encode(dataclasses.replace(keep, truncation='error'), BYTES, 'Q', steps)
  with pytest.raises(Unusable, match='too_long'):  # not even one step fits
    encode(dataclasses.replace(keep, max_length=6), BYTES, 'Q', steps)
  exact = encode(dataclasses.replace(drop, max_length=17), BYTES, 'Q', steps)
  assert exact.n_steps == 3


@pytest.mark.parametrize('question, steps, reason', [
  ('Q', [], 'no_steps'),
  ('Q', ['a', ' \n'], 'empty_step'),
  ('Q <prm>', ['a'], 'marker_in_text'),
  ('Q', ['a', 'b<prm>'], 'marker_in_text'),
  ('Q', ['x' * 100_000], 'too_long'),
])  # fmt: skip
def test_unusable_rows(bpe, question, steps, reason):
  for tokenizer in (BYTES, bpe):
    with pytest.raises(Unusable) as e:
      encode(StepFormat(), tokenizer, question, steps)
    assert e.value.reason == reason


def test_marker_id_in_text():
  # A marker that is an ordinary token of the vocabulary is found by its id as well.
  fmt = StepFormat(marker='\n', question_template='{question}\n')
  row = encode(fmt, BYTES, 'Q', ['a', 'b'])
  assert row.step_positions.tolist() == [3, 5]
  with pytest.raises(Unusable, match='marker_in_text'):
    encode(fmt, BYTES, 'Q', ['a\nb'])
  with pytest.raises(Unusable, match='marker_in_text'):
    encode(fmt, BYTES, 'Q\nR', ['a'])


class Folding(tokenizers.ByteTokenizer):
  """Reads a carriage return as a line break."""

  def encode(self, text):
    return super().encode(text.replace('\r', '\n'))

  def encode_ragged(self, texts):
    return super().encode_ragged([t.replace('\r', '\n') for t in texts])


def test_a_marker_s_id_from_other_text_is_found():
  fmt = StepFormat(marker='\n', question_template='{question}\n')
  assert encode(fmt, Folding(), 'Q', ['a', 'b']).n_steps == 2
  for question, steps in (('Q', ['a', 'b\rc']), ('Q\rR', ['a']), ('Q', ['a\rb'])):
    with pytest.raises(Unusable, match='marker_in_text'):
      encode(fmt, Folding(), question, steps)


def test_the_question_of_a_joined_row_begins_with_bos():
  fmt = StepFormat(encoding='joined', add_bos=True, question_template='{question} ')
  row = encode(fmt, BYTES, 'Q', ['a'])
  assert BYTES.decode(row.tokens) == '<bos>Q a<prm>' and row.question_length == 3


def test_empty_steps_for_probes():
  fmt = FORMATS['marker']
  row = encode(fmt, BYTES, 'Q', ['', 'a', ''], allow_empty=True)
  assert row.step_positions.tolist() == [2, 4, 5]
  bare = StepFormat(marker='')
  with pytest.raises(Unusable, match='ambiguous'):
    encode(bare, BYTES, 'Q', ['a', ''], allow_empty=True)
  before = StepFormat(question_template='{question}', position='before')
  with pytest.raises(Unusable, match='ambiguous'):
    encode(before, BYTES, '', ['', 'a'], allow_empty=True)


@pytest.mark.parametrize('change, words', [
  ({'question_template': 'Q:'}, 'question_template.*{question}'),
  ({'step_template': '{step}{step}'}, 'step_template.*exactly once'),
  ({'first_step_template': 'x'}, 'first_step_template'),
  ({'step_template': '{step}<prm>'}, 'holds the marker'),
  ({'position': 'after'}, 'position.*marker, before'),
  ({'truncation': 'left'}, 'truncation.*drop_steps'),
  ({'marker': '<step>'}, 'must be exactly one'),
  ({'max_length': 1}, 'max_length=1'),
])  # fmt: skip
def test_formats_that_cannot_work(change, words):
  with pytest.raises(UserError, match=words):
    step_format.check(dataclasses.replace(StepFormat(), **change), BYTES)


def test_check_of_model_and_head():
  step_format.check(StepFormat(), BYTES, vocab_size=260)
  with pytest.raises(UserError, match='vocab_size=256'):
    step_format.check(StepFormat(), BYTES, vocab_size=256)
  assert step_format.label_token_ids(BYTES, ('-', '+')) == (45, 43)
  with pytest.raises(UserError, match='2 tokens'):
    step_format.label_token_ids(BYTES, (' -', ' +'))
  with pytest.raises(UserError, match='not distinct'):
    step_format.label_token_ids(BYTES, ('+', '+'))
  with pytest.raises(UserError, match='label_tokens'):
    head = HeadSpec('label_tokens', label_tokens=(5, 999))
    step_format.check(StepFormat(), BYTES, head=head)

  class NoBos(tokenizers.ByteTokenizer):
    bos_id = None

  with pytest.raises(UserError, match='add_bos'):
    step_format.check(StepFormat(add_bos=True), NoBos())


def test_dataset_that_must_not_be_trained_on():
  fmt = StepFormat()
  rows = step_format.encode_rows(fmt, BYTES, ['Q', 'R'], [['a', 'b'], ['c']])
  good = np.ones(3, bool)
  step_format.check_dataset(fmt, BYTES, rows, good)
  with pytest.raises(UserError, match='no step of the data carries a label'):
    step_format.check_dataset(fmt, BYTES, rows, ~good)
  with pytest.raises(UserError, match='2 labels stand against 3 steps'):
    step_format.check_dataset(fmt, BYTES, rows, good[:2])
  tokens = rows.tokens.copy()
  tokens[rows.step_positions[0] - 1] = 259
  with pytest.raises(UserError, match='row 0 has more or fewer markers'):
    spoilt = dataclasses.replace(rows, tokens=tokens)
    step_format.check_dataset(fmt, BYTES, spoilt, good)
  with pytest.raises(UserError, match='row 0 reads two steps at one token'):
    same = rows.step_positions.copy()
    same[1] = same[0]
    spoilt = dataclasses.replace(rows, step_positions=same)
    step_format.check_dataset(fmt, BYTES, spoilt, good)
  with pytest.raises(UserError, match='is not read at its markers'):
    spoilt = dataclasses.replace(rows, step_positions=rows.step_positions - 1)
    step_format.check_dataset(fmt, BYTES, spoilt, good)


def test_inspection_shows_token_step_label():
  labels = LabelSet('correctness', (1.0, 0.7, None), weights=(0.0, 1.0, 1.0))
  good = Trajectory('t1', 'p1', 'Q?', ('ab', 'c', 'd'), labels={'human': labels})
  bad = Trajectory('t2', 'p1', '<prm>', ('ab',))
  text = inspection.render([good, bad], StepFormat(), BYTES, 'human')
  lines = text.splitlines()
  assert '3 of 3 steps' in lines[0]
  at = [line for line in lines if '<prm>' in line]
  assert at[0].endswith("'<prm>' | 0    | <- step 0: 1 (weight 0)")
  assert at[1].endswith('| 1    | <- step 1: 0.7')
  assert at[2].endswith('| 2    | <- step 2: unlabelled')
  cells = [[c.strip() for c in line.split('|')] for line in lines]
  assert ['0', '81', "'Q'", '-', ''] in [[*c[:4], ''] for c in cells]
  assert 'not usable, marker_in_text' in text
  before = inspection.render([good], FORMATS['before'], BYTES, 'human')
  assert "'b'     | 0    | <- step 0" in before
  long = dataclasses.replace(good, question='x' * 500)
  assert len(inspection.render([long], StepFormat(max_length=600), BYTES, 'human',
                               limit=5).splitlines()) < 30  # fmt: skip
