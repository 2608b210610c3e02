"""Answers: extraction by ordered policies, exact comparison, bounded time."""

import time
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prm_jax.errors import UserError
from prm_jax.formats import answers
from prm_jax.records import Trajectory


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    (r'\boxed{\frac{1}{2}} or \boxed{\sqrt{2}+\frac{a}{b}}.', r'\sqrt{2}+\frac{a}{b}'),
    (r'\boxed{\{1, 2\}}', r'\{1, 2\}'),
    (r'\boxed{a \\} and', r'a \\'),
    (r'\boxed 7, done', '7'),
    (r'\fbox{3}', '3'),
    (r'\boxed{5} but cut off: \boxed{\frac{1', '5'),
    (r'\boxed{\frac{1', None),
    (r'\boxedtext{9}', None),
    ('no box', None),
  ],
)
def test_boxed_matches_braces_and_takes_the_last(text, expected):
  assert answers.boxed(text) == expected


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('costs $1,234.50.', '1,234.50'),
    ('half: 1/2', '1/2'),
    ('x = -3', '-3'),
    ('12, 8,000', '8,000'),
    ('room v2 and 7 apples', '7'),
    ('none', None),
  ],
)
def test_last_number(text, expected):
  found = answers.last_number(text)
  assert found is None if expected is None else found.replace('$', '') == expected


def test_policies_are_tried_in_order_and_named():
  text = 'A: 4\n#### 5\nI mean \\boxed{6}, not 7'
  assert answers.extract(text) == ('6', 'boxed')
  assert answers.extract(text, ('hash', 'boxed')) == ('5', 'hash')
  assert answers.extract(text, ('a_line',)) == ('4', 'a_line')
  assert answers.extract('it is 7', ('boxed', 'last_number')) == ('7', 'last_number')
  assert answers.extract('it is 7') is None
  with pytest.raises(UserError, match="answer policy 'guess' is unknown; choose from"):
    answers.extract('x', ('guess',))


SAME = [
  ('1,234', '1234'),
  ('1,234 dollars', '1234'),
  (r'$\dfrac12$', r'\frac{1}{2}'),
  ('0.5', r'\frac{1}{2}'),
  ('4/8', '1/2'),
  ('.5', '0.50'),
  ('1e3', '1000'),
  ('-0', '0'),
  (r'7\frac{3}{4}', '31/4'),
  (r'x = 5', '5'),
  (r'90^\circ', '90'),
  (r'\text{(C)}', 'C'),
  ('4210_{5}', '4210_5'),
  ('10,000', '10000.0'),
]


@pytest.mark.parametrize(('a', 'b'), SAME)
def test_equal_answers_both_ways_round(a, b):
  assert answers.compare(a, b).value is True
  assert answers.compare(b, a).value is True


DIFFERENT = [
  ('2', '12'),
  ('12', '2'),
  ('000', '8,000'),
  ('10001', '10000'),
  ('50', '0.5'),
  ('-1', '1'),
  ('1/3', '0.333333'),
  ('100', '1e3'),
]


@pytest.mark.parametrize(('a', 'b'), DIFFERENT)
def test_different_numbers_are_wrong_not_close(a, b):
  assert answers.compare(a, b).value is False


def test_what_needs_a_symbolic_checker_is_not_judged():
  verdict = answers.compare(r'3 + 2\sqrt{2}', r'2\sqrt{2} + 3')
  assert verdict.value is None
  assert verdict.reason == 'not plain numbers, and written differently'
  assert answers.compare('', '5').reason == 'empty answer'
  assert answers.compare('5', ' ').reason == 'empty reference'


def test_a_substring_is_not_an_answer():
  answer, verdict = answers.check(r'Of the 12 apples, \boxed{12} are red.', '2')
  assert answer.text == '12' and verdict.value is False


def test_check_says_why_there_is_no_verdict():
  assert answers.check('it is 5', '5')[1].reason == 'no answer found'
  answer, verdict = answers.check(r'\boxed{5}', None)
  assert (answer.text, verdict.value) == ('5', None)
  assert verdict.reason == 'no reference answer'
  assert answers.check(r'\boxed{5}', '5.0')[1].method == 'boxed/rational'


def test_a_record_is_checked_by_response_then_answer_then_steps():
  t = Trajectory('i', 'p', 'q', ('so', r'\boxed{3}'), gold_answer='3')
  assert answers.check_trajectory(t).value is True
  assert answers.check_trajectory(replace(t, answer='4')).value is False
  held = replace(t, answer='4', response=r'\boxed{3}')
  assert answers.check_trajectory(held).value is True


HOSTILE = [
  '9' * 10_000,
  '9**9**9',
  '9^9^9^9',
  '1e999999999',
  '1e999999',
  '{' * 50_000 + '}' * 50_000,
  r'\boxed{' * 20_000,
  r'\boxed{' * 5_000 + '}' * 4_999,
  r'\frac{' * 5_000,
  '1,234' * 20_000,
  '-$' * 50_000,
  ' ' * 100_000 + 'A:',
  '####' * 50_000,
  '1/' * 50_000,
  '٣' * 400,
  r'\text{' * 300 + '}' * 300,
  '1' + ' a' * 490 + '!',
  '__import__("os").system("true")',
]


@pytest.mark.parametrize('text', HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_input_takes_bounded_time(text):
  start = time.process_time()
  for policy in answers.EXTRACTORS:
    answers.extract(text, (policy,))
  answers.compare(text, '5')
  answers.compare(text[:900], '5')
  answers.rational(text)
  assert answers.compare(text, text).value is True
  assert time.process_time() - start < 1.0


def test_deep_braces_still_give_the_last_closed_box():
  text = r'\boxed{7} ' + r'\boxed{' * 10_000
  assert answers.boxed(text) == '7'


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80), st.text(max_size=80))
def test_any_two_texts_compare_without_failing(a, b):
  forward, backward = answers.compare(a, b), answers.compare(b, a)
  assert forward.value == backward.value
  for policy in answers.EXTRACTORS:
    answers.extract(a, (policy,))


@settings(max_examples=100, deadline=None)
@given(st.integers(-(10**12), 10**12), st.integers(1, 10**6))
def test_rationals_are_read_exactly(top, bottom):
  value = Fraction(top, bottom)
  assert answers.rational(f'{top}/{bottom}') == value
  sign = '-' if top < 0 else ''
  assert answers.rational(rf'{sign}\frac{{{abs(top)}}}{{{bottom}}}') == value
  assert answers.rational(f'{top:,}') == top
