"""Splitting: joining gives the text back, no step is empty, cuts stand where stated."""

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prm_jax.errors import UserError
from prm_jax.formats import splitting
from prm_jax.formats.splitting import Splitter
from prm_jax.formats.tokenizers import ByteTokenizer

TEXT_SPLITTERS = [
  Splitter('separator', '\n\n'),
  Splitter('separator', '\n'),
  Splitter('separator', 'ки'),
  Splitter('separator', '. '),
  Splitter('newlines'),
  Splitter('paragraphs'),
  Splitter('numbering'),
  Splitter('numbering', pattern=r'^#\d+\.'),
]
TOKEN_SPLITTERS = [Splitter('low_confidence', threshold=0.8), Splitter('entropy')]

PIECES = (
  '\n', '\n\n', ' ', '\t', 'ки', ' ки\n', 'Step 1: ', 'Step 2: ', '1. ', '2. ', '10) ',
  '#1. ', '3.5', 'x = 4', '. ', 'é', '\u2028', '\r\n', '\u00a0', '数', '😀',
)  # fmt: skip
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=14).map(
  ''.join
)


def check(text, split, separator=' '):
  assert splitting.join(split) == text
  assert len(split.joins) == len(split.steps) + 1 == len(split.spans) + 1
  for step, (start, end) in zip(split.steps, split.spans):
    assert step == text[start:end]
    assert step.strip(), 'an empty step'
  edges = [edge for span in split.spans for edge in span]
  assert edges == sorted(edges)
  if text.replace(separator, '').strip():
    assert split.steps
  else:
    assert split.steps == () and split.joins == (text,)


@settings(max_examples=150, deadline=None)
@given(texts)
def test_joining_gives_the_text_back(text):
  for splitter in TEXT_SPLITTERS:
    split = splitting.split(text, splitter)
    separator = splitter.separator if splitter.how == 'separator' else ' '
    check(text, split, separator)
    for gap in split.joins:
      assert not gap.replace(separator, '').strip()


@settings(max_examples=150, deadline=None)
@given(texts, st.data())
def test_joining_gives_the_text_back_in_token_modes(text, data):
  cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=12))
  offsets = [0, *sorted(cuts), len(text)]
  n = len(offsets) - 1
  draw = lambda low, high: data.draw(
    st.lists(st.floats(low, high), min_size=n, max_size=n)
  )
  numbers = {'logprobs': draw(-3, 0), 'entropies': draw(0, 2)}
  for splitter in TOKEN_SPLITTERS:
    split = splitting.split(text, splitter, offsets=offsets, **numbers)
    check(text, split)
    if split.steps:
      assert ''.join(split.steps) == text
      assert {a for a, _ in split.spans} <= set(offsets)


@pytest.mark.parametrize(
  ('splitter', 'text', 'steps'),
  [
    (Splitter('separator'), 'a\n\nb \n\n\n\nc\n\n', ('a', 'b ', 'c')),
    (Splitter('separator'), 'a\n\n\nb', ('a', '\nb')),
    (Splitter('separator', '\n'), '+4=7\n-2=5\n', ('+4=7', '-2=5')),
    (Splitter('separator', 'ки'), 'ки a ки\nки', (' a ',)),
    (Splitter('newlines'), '  a \r\n\n b', ('a', 'b')),
    (Splitter('paragraphs'), 'a\nb\n \t\n\nc\n', ('a\nb', 'c')),
    (Splitter('paragraphs'), 'a\nb', ('a\nb',)),
  ],
)
def test_separators_lines_and_paragraphs(splitter, text, steps):
  assert splitting.split(text, splitter).steps == steps


@pytest.mark.parametrize(
  ('text', 'steps'),
  [
    ('Step 1: a\nStep 2: b', ('Step 1: a', 'Step 2: b')),
    ('Step 1: a Step 2: b', ('Step 1: a', 'Step 2: b')),
    ('### Step 1\na\n**Step 2.** b', ('### Step 1\na', '**Step 2.** b')),
    ('Well.\n1. a\n2) b', ('Well.\n1. a', '2) b')),
    ('1. a\n  1. x\n  2. y\n2. b', ('1. a\n  1. x\n  2. y', '2. b')),
    ('Step 1: a\n1. x\n2. y\nStep 2: b', ('Step 1: a\n1. x\n2. y', 'Step 2: b')),
    ('Step 1: a\nStep 2: as in Step 1: b', ('Step 1: a', 'Step 2: as in Step 1: b')),
    ('1.5 apples\n2.5 pears', ('1.5 apples\n2.5 pears',)),
    ('2024. A year\n1. a\n2. b\n3. c', ('2024. A year\n1. a', '2. b', '3. c')),
    ('Step 4: goes on\nStep 5: b', ('Step 4: goes on', 'Step 5: b')),
    ('no numbers\nat all', ('no numbers\nat all',)),
    (f'{"9" * 5000}. a', (f'{"9" * 5000}. a',)),
  ],
)
def test_numbering(text, steps):
  assert splitting.split(text, Splitter('numbering')).steps == steps


def test_numbering_by_a_pattern_of_ones_own():
  splitter = Splitter('numbering', pattern=r'^#\d+\.')
  split = splitting.split('So:\n#1. a\n#5. b #6. c', splitter)
  assert split.steps == ('So:\n#1. a', '#5. b #6. c')
  assert split.joins == ('', '\n', '')


def test_low_confidence_cuts_before_the_unsure_token():
  text = 'one two three four'
  offsets = [0, 3, 7, 13, 18]
  logprobs = [math.log(p) for p in (0.1, 0.9, 0.5, 0.75)]
  splitter = Splitter('low_confidence', threshold=0.75)
  split = splitting.split(text, splitter, offsets=offsets, logprobs=logprobs)
  assert split.steps == ('one two', ' three four')


def test_entropy_cuts_before_the_undecided_token():
  offsets, entropies = [0, 1, 2, 3, 3], [9.0, 1.0, 1.01, 3.0]
  splitter = Splitter('entropy')
  split = splitting.split('abc', splitter, offsets=offsets, entropies=entropies)
  assert split.steps == ('ab', 'c')


def test_white_space_does_not_become_a_step_of_its_own():
  splitter = Splitter('entropy', threshold=0.5)
  split = splitting.split('a \n ', splitter, offsets=[0, 1, 2, 4], entropies=[1] * 3)
  assert split.steps == ('a \n ',)
  split = splitting.split(' \nab', splitter, offsets=[0, 2, 3, 4], entropies=[1] * 3)
  assert split.steps == (' \na', 'b')


def test_offsets_of_byte_tokens_keep_characters_whole():
  tokenizer = ByteTokenizer()
  text = 'né 数😀.'
  tokens = tokenizer.encode(text)
  offsets = splitting.token_offsets(text, tokens, tokenizer.decode)
  assert len(offsets) == len(tokens) + 1
  assert offsets == [0, 1, 1, 2, 3, 3, 3, 4, 4, 4, 4, 5, 6]
  ended = splitting.token_offsets(text, [*tokens, 258], tokenizer.decode)
  assert ended == [*offsets, len(text)]
  assert splitting.token_offsets('', [], tokenizer.decode) == [0]
  # A stop string was cut off the text.
  assert splitting.token_offsets('né', tokens, tokenizer.decode)[-9:] == [2] * 9


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=12))
def test_byte_offsets_rise_and_cover_any_text(text):
  tokenizer = ByteTokenizer()
  tokens = tokenizer.encode(text)
  offsets = splitting.token_offsets(text, tokens, tokenizer.decode)
  split = splitting.split(
    text, Splitter('entropy'), offsets=offsets, entropies=[2.0] * len(tokens)
  )
  check(text, split)
  if not any(c.isspace() or c == '\ufffd' for c in text):
    assert split.steps == tuple(text)


def test_the_threshold_makes_two_in_a_hundred_tokens_cuts():
  logprobs = [[math.log((i + 1) / 1001) for i in range(k, 1000, 4)] for k in range(4)]
  threshold = splitting.find_threshold(logprobs, 'low_confidence')
  below = sum(math.exp(v) < threshold for each in logprobs for v in each)
  assert below == 20 and threshold == pytest.approx(21 / 1001)
  entropies = [[float(i) for i in range(100)]]
  assert splitting.find_threshold(entropies, 'entropy', 0.05) == 94.0
  zero = splitting.find_threshold([[0.0] * 10], 'entropy')
  assert Splitter('entropy', threshold=zero).threshold > 0


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: Splitter('words'), "splitter.how is 'words'; use one of separator"),
    (lambda: Splitter('separator', ''), 'splitter.separator is empty'),
    (lambda: Splitter('numbering', pattern='('), 'is no regular expression'),
    (lambda: Splitter('low_confidence'), 'low_confidence needs a probability above 0'),
    (lambda: Splitter('entropy', threshold=math.nan), 'needs nats, 0 or above'),
    (
      lambda: splitting.split('a', Splitter('entropy')),
      'needs offsets and entropies of the tokens',
    ),
    (lambda: splitting.find_threshold([[1]], 'newlines'), 'has no threshold'),
    (lambda: splitting.find_threshold([[]], 'entropy'), 'there are no tokens'),
    (lambda: splitting.find_threshold([[1]], 'entropy', 2), 'share=2 of the tokens'),
  ],
)
def test_mistakes_are_named(make, message):
  with pytest.raises(UserError, match=message):
    make()


@pytest.mark.parametrize('offsets', [[0, 1], [0, 2, 1], [1, 2, 3], [0, 1, 2]])
def test_offsets_that_do_not_fit_are_refused(offsets):
  with pytest.raises(ValueError, match='offsets'):
    splitting.split('abc', Splitter('entropy'), offsets=offsets, entropies=[0, 0])


@pytest.mark.parametrize(
  'text',
  ['\n' * 200_000, '1. \n' * 50_000, 'Step 1: ' * 30_000, ' \n\t' * 60_000 + 'x'],
  ids=range(4),
)
def test_hostile_texts_take_bounded_time(text):
  start = time.process_time()
  for splitter in TEXT_SPLITTERS:
    check(text, splitting.split(text, splitter))
  assert time.process_time() - start < 5
