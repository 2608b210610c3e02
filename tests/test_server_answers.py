"""What completions servers answer, in their dialects and with anything wrong in it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prm_jax.inference import server_answers
from prm_jax.inference.http_client import Unusable
from prm_jax.inference.requests import Sampling


def said(text='x ', finish_reason='stop', **more):
  choice = {'index': 0, 'text': text, 'finish_reason': finish_reason, **more}
  return {'choices': [choice], 'usage': {'completion_tokens': 4, 'prompt_tokens': 3}}


@pytest.mark.parametrize(
  ('choice', 'keep', 'want'),
  [
    ({'stop_reason': '##'}, False, ('stop', 'x ', 0)),
    ({'stop_reason': '##'}, True, ('stop', 'x ##', 0)),
    ({'stop_reason': '##', 'text': 'x ##'}, True, ('stop', 'x ##', 0)),
    ({'stop_reason': '##', 'text': 'x ##'}, False, ('stop', 'x ', 0)),
    ({'stop_reason': None}, True, ('end', 'x ', 0)),
    ({'stop_reason': 151643}, False, ('end', 'x ', 0)),
    ({'matched_stop': '##'}, True, ('stop', 'x ##', 0)),
    ({'matched_stop': 2}, True, ('end', 'x ', 0)),
    ({}, False, ('stop', 'x ', 1)),
    ({'text': 'x ##'}, True, ('stop', 'x ##', 0)),
    ({'finish_reason': 'length'}, True, ('length', 'x ', 0)),
  ],
)
def test_endings_of_different_servers(choice, keep, want):
  answer = server_answers.read(
    said(**choice), 1, Sampling(stop=('##', '!'), keep_stop=keep)
  )
  only = answer.choices[0]
  assert (only.finish_reason, only.text, answer.unclear_stops) == want
  assert only.n_tokens == 4


def test_lone_surrogates_are_replaced_and_counted():
  answer = server_answers.read(said('a\ud800b'), 1, Sampling())
  assert answer.choices[0].text == 'a?b'
  assert answer.repaired_texts == 1


JSON = st.recursive(
  st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=4),
  lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(
      st.sampled_from(
        ['choices', 'index', 'text', 'finish_reason', 'stop_reason', 'logprobs',
         'token_logprobs', 'tokens', 'usage', 'completion_tokens', 'prompt_tokens',
         'error']
      ),
      inner,
      max_size=6,
    )
  ),
  max_leaves=20,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(JSON, st.lists(JSON, max_size=3))
def test_no_answer_breaks_the_reader(anything, choices):
  for value in (anything, {'choices': choices, 'usage': anything}):
    try:
      answer = server_answers.read(value, 2, Sampling(stop=('#',)))
    except Unusable:
      continue
    assert set(answer.choices) <= {0, 1} and answer.choices
