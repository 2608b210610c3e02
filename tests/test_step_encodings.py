"""Encodings of the step format: what holds for each of them, and known traps."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prm_jax import specs
from prm_jax.errors import UserError
from prm_jax.formats import inspection, splitting, step_format, tokenizers
from prm_jax.formats.step_format import Unusable, encode, encode_question, encode_step
from prm_jax.records import LabelSet, Trajectory
from prm_jax.specs import StepFormat

GOLDENS = Path(__file__).parent / 'fixtures' / 'goldens'
BYTES = tokenizers.load('bytes')
LONG = StepFormat(max_length=10_000)


def fmt(**changes) -> StepFormat:
  return dataclasses.replace(LONG, **changes)


FORMATS = {
  'joined': fmt(encoding='joined', marker='<extra_0>'),
  'joined_no_marker': fmt(encoding='joined', marker='', step_template='{step}\n'),
  'separator': fmt(marker='\n---\n', marker_in_text='allow'),
  'lines': fmt(marker='\n', marker_in_text='split'),
  'joined_lines': fmt(marker='\n', marker_in_text='split', encoding='joined'),
  'turns': fmt(
    question_template='<|im_start|>user\n{question} ',
    first_step_template='{step}<|im_end|>\n<|im_start|>assistant\n',
    step_template='<|im_end|>\n<|im_start|>user\n{step}<|im_end|>\n<|im_start|>assistant\n',
    marker='+',
    position='before',
    marker_in_text='allow',
    encoding='joined',
    strip=True,
  ),
  'whole': fmt(
    question_template='{question} ',
    first_step_template='Step {number}: {step}',
    step_template='\nStep {number}: {step}',
    marker=' ки',
    encoding='whole',
  ),
  'whole_before': fmt(encoding='whole', marker='\n+', position='before',
                      marker_in_text='allow'),
  'whole_special': fmt(encoding='whole', marker='<extra_0>', add_bos=False),
  'whole_no_marker': fmt(encoding='whole', marker='', step_template='{step}\n\n'),
}  # fmt: skip
# Marks that meet and merge, and characters of several bytes.
PIECE = st.sampled_from(
  ['a', 'ки', '.', '\n', ' ', '+', '-', '東', '🙂', ' so', '3', 'é']
)
TEXT = st.lists(PIECE, min_size=1, max_size=6).map(''.join).filter(str.strip)
STEPS = st.lists(TEXT, min_size=1, max_size=4)


@pytest.fixture(scope='module')
def bpe():
  return tokenizers.load(GOLDENS / 'byte_level')


@pytest.mark.parametrize('name', FORMATS)
@settings(deadline=None, max_examples=40)
@given(question=TEXT, steps=STEPS)
def test_what_holds_for_every_row(bpe, name, question, steps):
  held = FORMATS[name]
  step_format.check(held, bpe)
  try:
    row = encode(held, bpe, question, steps)
  except Unusable as e:
    # Only a marker met in the text, or one that merged with it, may stop a row here.
    assert e.reason in ('marker_in_text', 'marker_mismatch', 'ambiguous')
    assert held.encoding == 'whole' or e.reason != 'marker_mismatch'
    return
  at = row.step_positions
  assert row.n_steps == len(steps) == len(at)
  assert (np.diff(at) > 0).all() and at[0] >= 0 and at[-1] < len(row.tokens)
  marker = step_format.marker_ids(held, bpe)
  if marker and held.position == 'marker':
    assert (row.tokens[at] == marker[-1]).all()
  if marker and held.position == 'before' and held.extends:
    assert (row.tokens[at + 1] == marker[0]).all()
  if held.marker_in_text == 'refuse' and marker:
    assert (row.tokens == marker[-1]).sum() == len(steps)
  alone = encode_question(held, bpe, question)
  common = row.question_length
  assert row.tokens[:common].tolist() == alone[:common].tolist()
  assert common <= at[0] + 1
  for n in range(1, len(steps)):
    if held.extends:
      part = encode(held, bpe, question, steps[:n])
      assert part.tokens.tolist() == row.tokens[: len(part.tokens)].tolist()
      assert part.step_positions.tolist() == at[:n].tolist()
      more = encode_step(held, bpe, steps[n], n + 1)
      there = row.tokens[len(part.tokens) :][: len(more)]
      assert there.tolist() == more.tolist()


@pytest.mark.parametrize('name', FORMATS)
@settings(deadline=None, max_examples=15)
@given(
  rows=st.lists(st.tuples(TEXT, STEPS), min_size=1, max_size=4), cut=st.integers(30, 90)
)
def test_truncation_and_rows_together(bpe, name, rows, cut):
  for policy in ('drop_example', 'drop_steps'):
    held = dataclasses.replace(FORMATS[name], max_length=cut, truncation=policy)
    many = step_format.encode_rows(
      held, bpe, [q for q, _ in rows], [s for _, s in rows]
    )
    for r, (question, steps) in enumerate(rows):
      full_fmt = dataclasses.replace(held, max_length=10_000)
      try:
        full = encode(full_fmt, bpe, question, steps)
      except Unusable as e:
        assert many.reasons[r] == e.reason
        continue
      assert many.full_length[r] == len(full.tokens)
      if many.reasons[r]:
        assert many.reasons[r] == 'too_long' and len(full.tokens) > cut
        continue
      row = many.row(r)
      assert len(row.tokens) <= cut
      kept = encode(full_fmt, bpe, question, steps[: row.n_steps])
      assert row.tokens.tolist() == kept.tokens.tolist()
      assert row.step_positions.tolist() == kept.step_positions.tolist()
      if row.n_steps < len(steps):
        assert policy == 'drop_steps'
        longer = encode(full_fmt, bpe, question, steps[: row.n_steps + 1])
        assert len(longer.tokens) > cut


def test_by_hand():
  row = encode(FORMATS['lines'], BYTES, 'Q\nR', ['a\nb', 'c'])
  assert BYTES.decode(row.tokens) == 'Q\nR\na\nb\nc\n'
  assert row.step_positions.tolist() == [7, 9]  # the end of line b, of line c
  row = encode(FORMATS['separator'], BYTES, 'Q', ['a\n---\n', 'b'])
  assert BYTES.decode(row.tokens) == 'Q\na\n---\n\n---\nb\n---\n'
  assert row.step_positions.tolist() == [12, 18]
  turns = fmt(question_template='{question} ', first_step_template='{step}: ',
              step_template='; {step}: ', marker='+', position='before', strip=True,
              marker_in_text='allow')  # fmt: skip
  row = encode(turns, BYTES, ' 1 + 1', ['a +\n', '+'])
  assert BYTES.decode(row.tokens) == '1 + 1 a +: +; +: +'
  assert [BYTES.decode(row.tokens[p - 1 : p + 2]) for p in row.step_positions] == [
    ': +', ': +'
  ]  # fmt: skip
  row = encode(FORMATS['whole_before'], BYTES, 'é\n+', ['a', 'b\n+'])
  assert BYTES.decode(row.tokens) == 'é\n+\na\n+b\n+\n+'
  assert [BYTES.decode([row.tokens[p]]) for p in row.step_positions] == ['a', '+']


def test_specs_saved_before_these_keys_load():
  old = {'question_template': '{question}', 'marker': '<prm>', 'max_length': 64}
  held = specs.from_dict(StepFormat, old)
  assert (held.encoding, held.marker_in_text, held.strip) == ('pieces', 'refuse', False)
  assert held.extends and not FORMATS['whole'].extends


@pytest.mark.parametrize('change, words', [
  ({'encoding': 'text'}, 'encoding.*pieces, joined, whole'),
  ({'marker_in_text': 'ignore'}, 'marker_in_text.*refuse, allow, split'),
  ({'marker': '', 'marker_in_text': 'split'}, 'needs a marker to cut at'),
  ({'marker': '\n', 'marker_in_text': 'split', 'encoding': 'whole'}, 'needs a marker'),
  ({'marker': '\n--\n'}, "4 tokens.*marker_in_text to 'allow'"),
])  # fmt: skip
def test_formats_that_cannot_work(change, words):
  with pytest.raises(UserError, match=words):
    step_format.check(fmt(**change), BYTES)


def test_steps_without_ids_of_their_own():
  with pytest.raises(ValueError, match='step 1'):
    encode_step(FORMATS['joined'], BYTES, 'a', 1)
  with pytest.raises(ValueError, match='whole'):
    encode_step(FORMATS['whole'], BYTES, 'a', 2)


def test_encoded_whole_a_prefix_may_have_other_ids(bpe):
  held = fmt(encoding='whole', marker='')
  one, two = (encode(held, bpe, 'Q', steps) for steps in (['a.'], ['a.', '\nb']))
  # The second step's line break joins the full stop, in which the first is read.
  assert not held.extends
  assert one.tokens.tolist() != two.tokens[: len(one.tokens)].tolist()
  assert bpe.decode([two.tokens[two.step_positions[0]]]) == '.\n'


# Traps.


def test_no_separator_after_the_prompt_and_none_doubled():
  trl = fmt(question_template='{question}', marker='\n', marker_in_text='allow')
  row = encode(trl, BYTES, 'Q', ['a', 'b'])
  assert BYTES.decode(row.tokens) == 'Qa\nb\n'
  assert row.step_positions.tolist() == [2, 4]
  # Training and scoring are the same function, so the ids are the same as well; the
  # prefix that a search scores is one of the trained row.
  part = encode(trl, BYTES, 'Q', ['a'])
  assert part.tokens.tolist() == row.tokens[:3].tolist()


def test_a_response_that_ends_in_blank_lines_gives_no_empty_step():
  for how in ('paragraphs', 'newlines', 'separator'):
    found = splitting.split('First.\n\nSecond.\n\n', splitting.Splitter(how=how))
    assert [s.strip() for s in found.steps] == ['First.', 'Second.']
  with pytest.raises(Unusable, match='empty_step'):
    encode(FORMATS['lines'], BYTES, 'Q', ['First.', ''])


def test_a_step_is_read_at_its_marker_and_neither_before_nor_after(bpe):
  held = FORMATS['joined']
  marker = bpe.token_id('<extra_0>')
  row = encode(held, bpe, 'Q', ['a.', '\n\nb', 'c'])
  assert np.flatnonzero(row.tokens == marker).tolist() == row.step_positions.tolist()
  rows = step_format.encode_rows(held, bpe, ['Q'], [['a.', '\n\nb', 'c']])
  step_format.check_dataset(held, bpe, rows, np.ones(3, bool))
  for off in (-1, 1):
    shifted = dataclasses.replace(rows, step_positions=rows.step_positions + off)
    with pytest.raises(UserError, match=r'not read at its markers|outside it'):
      step_format.check_dataset(held, bpe, shifted, np.ones(3, bool))


@pytest.mark.parametrize('name', ['lines', 'separator', 'turns', 'whole', 'joined'])
def test_datasets_of_every_encoding_pass_their_check(bpe, name):
  held = FORMATS[name]
  rows = step_format.encode_rows(
    held, bpe, ['Q + 1', 'R'], [['a\nb', 'c'], ['d', 'e', 'f']]
  )
  assert rows.reasons == ['', '']
  step_format.check_dataset(held, bpe, rows, np.ones(5, bool))


def test_a_marker_inside_the_question_is_not_read(bpe):
  refused, allowed = (
    dataclasses.replace(FORMATS['whole'], marker_in_text=how)
    for how in ('refuse', 'allow')
  )
  question, steps = 'What does ки mean, and ки ки?', ['a ки or b', 'c']
  with pytest.raises(Unusable, match='marker_in_text'):
    encode(refused, bpe, question, ['a', 'c'])
  with pytest.raises(Unusable, match='marker_in_text'):
    encode(refused, bpe, 'Q', steps)
  row = encode(allowed, bpe, question, steps)
  marker = step_format.marker_id(allowed, bpe)
  assert (row.tokens == marker).sum() == 6 and row.n_steps == 2
  ends = [bpe.decode(row.tokens[: p + 1]) for p in row.step_positions]
  assert ends[0].endswith('Step 1: a ки or b ки') and ends[1].endswith('2: c ки')


def test_a_marker_that_merges_is_counted_by_name(bpe):
  # '.' and a line break are one token of this vocabulary, and then no marker is left.
  held = fmt(encoding='whole', marker='\n', step_template='{step}')
  rows = step_format.encode_rows(held, bpe, ['Q', 'Q'], [['a', 'b'], ['a.', 'b']])
  assert rows.reasons == ['', 'marker_mismatch']
  text = inspection.render([Trajectory('t', 'p', 'Q', ('a.', 'b'))], held, bpe, '')
  assert 'not usable, marker_mismatch' in text
  found = bpe.encode('Q\na.\n')[-1]
  assert f"after step 0: [{found}] '.\\n'" in text


def test_soft_labels_stay_soft_in_the_inspected_table(bpe):
  labels = LabelSet('value', (0.7, 0.25))
  row = Trajectory('t1', 'p1', 'Q', ('\na', 'b'), labels={'mc': labels})
  held = fmt(question_template='user\n{question}\nassistant\n', encoding='joined',
             marker='<extra_0>')  # fmt: skip
  lines = inspection.render([row], held, bpe, 'mc').splitlines()
  assert [line.split('<- ')[1] for line in lines if '<- ' in line] == [
    'step 0: 0.7', 'step 1: 0.25'
  ]  # fmt: skip
  cells = [[c.strip() for c in line.split('|')] for line in lines[2:]]
  shared = [c for c in cells if c[3] == '-/0']
  assert [c[2] for c in shared] == [repr('\n\n')]  # the break of both
  for name in ('whole', 'turns', 'lines', 'separator', 'whole_before'):
    text = inspection.render([row], FORMATS[name], bpe, 'mc')
    assert text.count('<- step') == 2, name
    n = len(encode(FORMATS[name], bpe, 'Q', row.steps).tokens)
    assert sum(line[:1].isdigit() for line in text.splitlines()) == n, name
  assert 'prefixes are re-scored' in inspection.render([row], FORMATS['whole'], bpe, '')


def test_inspection_says_what_the_tokenizers_own_code_would_add():
  held = tokenizers.load(GOLDENS / 'blank_first')
  row = Trajectory('t', 'p', 'Q', ('a',))
  for add_bos in (False, True):
    shown = inspection.render([row], fmt(marker='', add_bos=add_bos), held, '')
    assert ("without the <s> of this tokenizer's own code" in shown) != add_bos


def test_a_tokenizer_without_the_marker_and_a_vocabulary_that_is_too_small(bpe):
  with pytest.raises(UserError, match=r'<step>.*tokens.*add the marker'):
    step_format.check(fmt(marker='<step>'), bpe)
  with pytest.raises(UserError, match=f'{bpe.vocab_size} ids and the model only'):
    step_format.check(FORMATS['joined'], bpe, vocab_size=bpe.vocab_size - 1)
  more = bpe.with_specials(['<step>'])
  step_format.check(fmt(marker='<step>'), more, vocab_size=bpe.vocab_size + 1)
  assert more.token_id('<step>') == bpe.vocab_size == more.vocab_size - 1
