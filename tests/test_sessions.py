"""Solutions that grow by steps are those of the engine, and of a naive sampler."""

import dataclasses

import engine_cases
import jax
import numpy as np
import pytest
import tiny_policies

from prm_jax.errors import UserError
from prm_jax.formats import text_format
from prm_jax.inference.engine import JaxEngine
from prm_jax.inference.requests import Refusal, Sampling
from prm_jax.inference.sessions import Sessions
from prm_jax.search.uncached import EngineSessions

QUESTIONS = ['1+1=', '2-1*3', '1+1=']
STEP = Sampling(max_tokens=10, stop=('\n',), seed=3, top_p=0.95)


@pytest.fixture(scope='module')
def policy():
  return tiny_policies.tiny(max_length=96)


@pytest.fixture(scope='module')
def engine(policy):
  return JaxEngine(*policy, slots=8, group=8)


@pytest.fixture(scope='module')
def sessions(engine):
  return Sessions(engine, max_rows=8)


def flat(answers):
  return [c for answer in answers for c in answer]


def going(done):
  """Four rows that go on, some of them twice."""
  rows = [i for i, c in enumerate(done) if c.finish_reason != 'end']
  assert rows
  return (rows * 4)[:4]


def shown(completions):
  return [(c.text, c.tokens, c.finish_reason, c.sample_index) for c in completions]


@pytest.mark.parametrize(
  'temperature', [pytest.param(0.0, marks=pytest.mark.slow), 1.0]
)
def test_steps_are_those_of_the_engine(engine, sessions, temperature):
  again = EngineSessions(engine, engine.tokenizer.decode)
  sampling = dataclasses.replace(STEP, temperature=temperature)
  a, b = sessions.start(QUESTIONS), again.start(QUESTIONS)
  assert a.tokens_read == (4, 5, 0)  # all but the last token; equal questions once
  reasons = set()
  for k in range(4):
    n = [2] * len(a)
    keys = [(f'p{i}/{k}', i) for i in range(len(a))]
    a, mine = sessions.step(a, n, sampling, keys)
    b, theirs = again.step(b, n, sampling, keys)
    assert shown(flat(mine)) == shown(flat(theirs))
    for x, y in zip(flat(mine), flat(theirs)):
      np.testing.assert_allclose(x.logprobs, y.logprobs, atol=1e-4)
    assert not any(a.tokens_read) and sum(b.tokens_read) > 0
    reasons |= {c.finish_reason for c in flat(mine)}
    rows = going(flat(mine))
    a, b = sessions.take(a, rows), again.take(b, rows)
    a = sessions.join([sessions.take(a, [0, 1]), sessions.take(a, [2, 3])])
  if temperature:
    assert reasons >= {'stop', 'length'}


def test_counters(sessions):
  counters = sessions.counters
  assert counters['steps'] > 0 and counters['steps_encoded_differently'] == 0
  assert counters['tokens_generated'] > counters['steps'] and counters['tokens_read']
  assert counters['cache_bytes'] > 0


@pytest.mark.slow
def test_long_completions_are_those_of_a_naive_sampler():
  policy = tiny_policies.tiny(end='', max_length=96)
  sessions = Sessions(JaxEngine(*policy, slots=8, group=8), max_rows=8)
  sampling = Sampling(max_tokens=70, seed=1, temperature=0.7)
  state = sessions.start(['1'])
  state, (first,) = sessions.step(state, [1], STEP, [('a', 0)])
  state, (found,) = sessions.step(state, [3], sampling, [('b', 5)])
  spec, _, words = policy
  prompt, _ = text_format.encode_prefixes(spec.text_format, words, '1', ())
  naive = engine_cases.Naive(*policy)
  context = [*prompt.tolist(), *first[0].tokens]
  want = [naive.one('b', context, 5 + j, sampling) for j in range(3)]
  assert engine_cases.same(found, want)
  assert max(c.n_tokens for c in found) > 32  # the keys had to grow


@pytest.mark.slow
def test_cut_rows_go_on_from_the_tokens_that_are_left(policy, sessions):
  state, answers = sessions.step(sessions.start(['1']), [3], STEP, [('a', 0)])
  lengths = [0, 1, min(3, len(answers[0][2].text))]
  rows, texts = sessions.cut(state, lengths)
  assert texts == [c.text[:k] for c, k in zip(answers[0], lengths)]
  _, found = sessions.step(rows, [1] * 3, STEP, [('b', 0), ('c', 0), ('d', 0)])
  spec, _, words = policy
  naive = engine_cases.Naive(*policy)
  prompt, _ = text_format.encode_prefixes(spec.text_format, words, '1', ())
  for name, c, k, answer in zip('bcd', answers[0], lengths, found):
    want = naive.one(name, [*prompt.tolist(), *c.tokens[:k]], 0, STEP)
    assert engine_cases.same(answer, [want])
  with pytest.raises(ValueError, match='cut after 99'):
    sessions.cut(state, [99, 0, 0])


def test_full_contexts_are_refused_and_ended_rows_are_not_continued(sessions):
  state, answers = sessions.step(
    sessions.start(['q' * 95, 'q' * 90, '1']), [2, 1, 1],
    dataclasses.replace(STEP, stop=(), max_tokens=200),
    [('a', 0), ('b', 0), ('c', 0)],
  )  # fmt: skip
  assert isinstance(answers[0], Refusal) and answers[0].reason == 'too_long'
  assert len(state) == 2 and answers[1][0].n_tokens <= 5
  ended = [i for i, c in enumerate(flat(answers[1:])) if c.finish_reason == 'end']
  full = [i for i, c in enumerate(flat(answers[1:])) if c.finish_reason == 'length']
  for i in ended:
    with pytest.raises(ValueError, match='has ended'):
      sessions.step(sessions.take(state, [i]), [1], STEP, [('d', 0)])
  for i in full:
    _, (refused,) = sessions.step(sessions.take(state, [i]), [1], STEP, [('d', 0)])
    assert isinstance(refused, Refusal)
  with pytest.raises(ValueError, match='steps end at'):
    sessions.step(state, [1, 1], Sampling(stop=('x',)), [('d', 0)] * 2)


@pytest.mark.slow
def test_separators_inside_tokens_are_cut_and_counted():
  """A token that holds the separator and more: what is kept of it is read anew."""
  words = engine_cases.Letters()
  words.texts = tuple('.' if t == 'é' else t for t in words.texts)
  spec, params, _ = engine_cases.policy(words, seed=2)
  fmt = dataclasses.replace(spec.text_format, separator='.')
  engine = JaxEngine(
    dataclasses.replace(spec, text_format=fmt), params, words, slots=8, group=8
  )
  sessions, again = Sessions(engine, max_rows=8), EngineSessions(engine, words.decode)
  sampling = Sampling(max_tokens=6, stop=('.',), seed=1)
  a, b = sessions.start(['2']), again.start(['2'])
  token = (words.texts.index('. '),)  # the likeliest step: an empty one
  for k in range(2):
    keys = [(f'p{i}/{k}', 0) for i in range(len(a))]
    a, mine = sessions.step(a, [4] * len(a), sampling, keys)
    b, theirs = again.step(b, [4] * len(b), sampling, keys)
    assert shown(flat(mine)) == shown(flat(theirs))
    # What is before '.' had no keys yet; '.' itself is fed when the row goes on.
    assert list(a.tokens_read) == [int(k > 0 and not i % 4) for i in range(len(a))]
    rows = [i for i, c in enumerate(flat(mine)) if c.tokens == token]
    assert len(rows) > 1
    a, b = sessions.take(a, rows), again.take(b, rows)
  counters = sessions.counters
  assert counters['steps'] >= counters['steps_encoded_differently'] == 0


def test_broken_parameters_and_options_are_refused(policy, engine):
  spec, params, words = policy
  broken = jax.tree.map(lambda x: x * np.nan, params)
  sessions = Sessions(JaxEngine(spec, broken, words, slots=8, group=8), max_rows=8)
  with pytest.raises(UserError, match='not finite'):
    sessions.step(sessions.start(['1']), [1], STEP, [('a', 0)])
  with pytest.raises(UserError, match='power of two'):
    Sessions(engine, max_rows=12)
  blank = dataclasses.replace(spec.text_format, question_template='{question}')
  blank = JaxEngine(
    dataclasses.replace(spec, text_format=blank), params, words, slots=8, group=8
  )
  with pytest.raises(UserError, match='no token to continue'):
    Sessions(blank).start([''])
