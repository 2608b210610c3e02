"""Units and commas of answers: what is struck out or grouped, and what is in doubt."""

import time

import pytest

from prm_jax.formats import answer_units, answers
from prm_jax.formats.answer_checker import Checker

pytest.importorskip('math_verify', reason="pip install -e '.[test]' for math-verify")


@pytest.fixture(scope='module')
def checker():
  with Checker(workers=1) as made:
    yield made


UNITS = [
  ('5 cm', '5'),
  ('20 cm^3', '20'),
  ('10 km/h', '10'),
  ('5 dollars per hour', '5'),
  ('7 3/4 cups', '31/4'),
  (r'7 3/4\text{ cups}', '31/4'),
  (r'5 \text{ m}^2', '5'),
  (r'5 \text{ m}/\text{s}^2', '5'),
  (r'5\,\frac{\text{m}}{\text{s}}', '5'),
  (r'2\pi\text{ cm}', r'2\pi'),
  ('5 cm', r'5\text{ centimeters}'),
  ('5 km/hr', r'5\text{ kilometers per hour}'),
  ('12th', '12'),
  (r'\$5 per hour', r'\$5'),
  ('3 pi', r'3\pi'),
  (r'6\mathrm{i}', '6i'),
  ('5 m', '5m'),
]
NO_UNITS = [
  ('6 i', '6'),
  (r'2\,i', '2'),
  (r'-3\,x', '-3'),
  ('2 x', '2'),
  ('$3$ $x$', '3'),
  ('3 pi', '3'),
  ('2 a b', '2'),
  ('2ab', '2'),
  (r'6\mathrm{i}', '6'),
  (r'3\mathrm{e}^2', '3'),
  (r'3\text{ x}', '3'),
  ('2 - 3t', '-1'),
  ('5s', '4s'),
  ('m', '5'),
  ('(2, s)', '(2, 5)'),
  ('5s', '3s + 1'),
  (r'2\pi r h', r'\pi r^2 h'),
]
DOUBTFUL = [
  # Words that change the value.
  ('5 million', '5'),
  ('5 million', '5,000,000'),
  (r'\$2 billion', r'\$2'),
  (r'5\text{ million}', '5'),
  (r'5\pi\text{ million}', r'5\pi'),
  ('2 dozen', '24'),
  ('2 thirds', '2'),
  ('5 squared', '5'),
  ('5k', '5000'),
  # Two units.
  ('2 hours', '120 minutes'),
  (r'1\text{ hour}', r'60\text{ minutes}'),
  (r'5\pi\text{ cm}', r'5\pi\text{ m}'),
  (r'\$0.50', r'50\text{ cents}'),
  (r'\$5', r'5\text{ cents}'),
  (r'\$20', r'20\text{ degrees}'),
  (r'50\%', r'50^\circ'),
  ('5 m', '500 cm'),
  # Letters that may be a unit or unknowns.
  ('5 m', '5'),
  ('5cm', '5'),
  ('5 m^2', '5'),
  ('5 m/s', '5'),
  ('9.8 m/s^2', '9.8'),
  ('5 m', 'x = 5'),
  (r'5\sqrt{2} cm', r'5\sqrt{2}'),
  ('3 cm, 4 cm', '3, 4'),
  (r'(5\mathrm{cm}, 2)', '(5, 2)'),
  ('2 xyz', '2'),
  ('2 abcd', '2'),
  ('3 alpha', '3'),
  ('5 x 10^3', '5000'),
  (r'12^{\text{th}}', '12'),
]


@pytest.mark.parametrize(
  ('answer', 'gold', 'value'),
  [(*pair, True) for pair in UNITS]
  + [(*pair, False) for pair in NO_UNITS]
  + [(*pair, None) for pair in DOUBTFUL],
)
def test_units_are_struck_out_only_where_they_are_units(checker, answer, gold, value):
  for pair in ((answer, gold), (gold, answer)):
    assert checker.compare_many([pair])[0].value is value


@pytest.mark.parametrize(
  ('answer', 'gold', 'value'),
  [
    ('1,200', '1200', True),
    (r'10,\!000', '10,000', True),
    (r'111, \! 111, \! 111', '111111111', True),
    ('1{,}008{,}016', '1008016', True),
    ('x = 1,200', '1200', True),
    # A list has no order, and its blanks or degrees separate.
    ('120, 240', '240, 120', True),
    (r'60^\circ, 120^\circ', '120, 60', True),
    (r'10,\!000, 20,\!000', '20000, 10000', True),
    (r'60^\circ, 120^\circ', '60120', False),
    (r'60^\circ,120^\circ', '60120', False),
    (r'45^\circ, 135^\circ, 225^\circ, 315^\circ', '45135225315', False),
    ('$1$,$200$', '1200', False),
    ('1, 200', '1201', False),
    # Either.
    ('1, 200', '1200', None),
    ('3, 100', '3100', None),
    ('200,100', '100, 200', None),
    ('81,256', '81, 256', None),
    ('200,100', r'\{100, 200\}', None),
    ('1,000, 2,000', '2000, 1000', None),
    ('$120$ $240$', '120240', None),
    (r'120^\circ 240^\circ', '120240', None),
  ],
)
def test_commas_group_digits_or_separate_numbers(checker, answer, gold, value):
  for pair in ((answer, gold), (gold, answer)):
    assert checker.compare_many([pair])[0].value is value


@pytest.mark.parametrize(
  'text',
  [
    '1' + ' a' * 499,
    '1' + r'\text{m} ' * 110 + '!',
    '1' + r' \, ' * 250 + '!',
    '1 ' + 'm/' * 490,
    'a ' * 499 + '!',
    ' ' * 999 + 'a',
    '1' + r'\frac{\text{a}}{' * 60,
  ],
)
def test_long_answers_take_bounded_time(text):
  start = time.process_time()
  answers.compare(text, '5')
  answer_units.strike_text(text)
  answer_units.may_be_units(text, text[:-1])
  assert time.process_time() - start < 0.5
