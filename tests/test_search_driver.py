"""Searches with a real policy and a real scorer, and sessions that keep nothing."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import tiny_policies

from prm_jax.errors import UserError
from prm_jax.formats import text_format
from prm_jax.inference.engine import JaxEngine
from prm_jax.inference.incremental import IncrementalScorer
from prm_jax.inference.requests import Refusal, Request, Sampling
from prm_jax.inference.scorer import Scorer
from prm_jax.models import scorer as scoring_model
from prm_jax.records import Trajectory, from_dict, to_dict
from prm_jax.search import driver, registry
from prm_jax.search.uncached import EngineSessions, RescoringSessions
from prm_jax.specs import HeadSpec, ScorerSpec, StepFormat

SMALL = {
  'best_of_n': {'n': 4},
  'adaptive_n': {'first': 2, 'most': 4},
  'greedy': {'width': 3},
  'beam': {'n': 4, 'width': 2},
  'dvts': {'n': 4, 'width': 2},
  'lookahead': {'n': 4, 'width': 2},
  'rebase': {'n': 4},
  'particle': {'n': 4},
  'mcts': {'simulations': 2, 'width': 2},
  'early_rejection': {'n': 4, 'width': 2, 'tau': 2},
  'pats': {'widths': (1, 2, 3)},
  'adaptive_step': {'threshold': 0.1, 'width': 3, 'choices': 4},
}
SAMPLING = Sampling(temperature=0.9, max_tokens=32, seed=5)
PROBLEMS = [
  Trajectory(f'row{i}', f'p{i}', q, ()) for i, q in enumerate(['1+1=?', '2*3=?'])
]


@functools.cache
def models():
  """(engine, scorer, decode, count) of a policy and a PRM that were never trained."""
  spec, params, words = tiny_policies.tiny()
  engine = JaxEngine(spec, params, words, slots=8, group=4)
  # One length of scoring for all: fewer shapes to compile.
  fmt = StepFormat(max_length=96)
  held = ScorerSpec(
    dataclasses.replace(spec.model, d_ff=16), HeadSpec(), fmt,
    step_value='sigmoid', kind='probability',
  )  # fmt: skip
  weights = scoring_model.init(held.model, held.head, jax.random.key(1))
  rng = np.random.default_rng(0)
  noise = lambda w: w + 0.3 * rng.normal(size=w.shape).astype(np.float32)
  scorer = Scorer(held, jax.tree.map(noise, weights), words)

  def count(question, steps, begun):
    encoded = text_format.encode_prefixes(
      spec.text_format, words, question, steps, begun
    )
    return len(encoded[0])

  return engine, scorer, words.decode, count


def search(name, problems=PROBLEMS, **options):
  engine, scorer, decode, count = models()
  algorithm, _ = registry.build(name, {**SMALL[name], **options}, kind='probability')
  return driver.run(
    problems, algorithm, EngineSessions(engine, decode, count),
    RescoringSessions(scorer), SAMPLING, step_tokens=32, name=name,
  )  # fmt: skip


@pytest.mark.parametrize('name', registry.ALGORITHMS)
def test_with_real_models(name):
  """Steps, scores and texts of all candidates belong together."""
  _, scorer, _, _ = models()
  results = search(name)
  candidates = [t for r in results for t in r.candidates]
  scored = [t for t in candidates if t.steps]
  assert len(scored) >= 2
  for t, whole in zip(scored, scorer.score(scored)):
    assert t.scores['prm'].values == pytest.approx(whole.values, abs=1e-5)
    assert [t.response[a:b] for a, b in t.step_spans] == list(t.steps)
    assert all(s.strip() and '\n' not in s for s in t.steps)
  for t in candidates:
    assert from_dict(to_dict(t)) == t
  assert len({t.id for t in candidates}) == len(candidates)
  for r in results:
    assert r.counts['policy_generated'] > 0 and r.counts['prm_read'] > 0
  if name in ('particle', 'early_rejection'):
    assert search(name, PROBLEMS[1:]) == results[1:]


@pytest.mark.slow
def test_a_scorer_that_keeps_what_it_read():
  """The same search; of a new step only its own tokens are read."""
  engine, scorer, decode, count = models()
  algorithm, _ = registry.build('beam', SMALL['beam'], kind='probability')
  cached = driver.run(
    PROBLEMS, algorithm, EngineSessions(engine, decode, count),
    IncrementalScorer.of(scorer), SAMPLING, step_tokens=32, name='beam',
  )  # fmt: skip
  for r, plain in zip(cached, search('beam')):
    for t, u in zip(r.candidates, plain.candidates, strict=True):
      assert t.response == u.response and t.id == u.id
      assert t.scores['prm'].values == pytest.approx(u.scores['prm'].values, abs=1e-4)
    assert r.chosen == plain.chosen
    assert r.counts['prm_read'] < plain.counts['prm_read']


def test_another_seed_is_another_search():
  engine, scorer, decode, count = models()
  algorithm, _ = registry.build('beam', SMALL['beam'], kind='probability')
  texts = set()
  for seed in (5, 5, 6):
    sampling = dataclasses.replace(SAMPLING, seed=seed)
    policy = EngineSessions(engine, decode, count)
    found = driver.run(
      PROBLEMS, algorithm, policy, RescoringSessions(scorer), sampling, step_tokens=32
    )
    texts.add(tuple(t.response for r in found for t in r.candidates))
  assert len(texts) == 2


def test_a_begun_step_goes_on():
  """At temperature 0, a text cut anywhere and continued is the text in one piece."""
  engine, _, _, count = models()
  sampling = Sampling(temperature=0.0, max_tokens=12)
  ((whole,),) = engine.complete([Request('a', '1+1=?', ('2',), 1)], sampling)
  assert len(whole.text) == 12
  for k in (1, 7):
    request = Request('b', '1+1=?', ('2',), 1, begun=whole.text[:k])
    rest = dataclasses.replace(sampling, max_tokens=12 - k)
    assert engine.complete([request], rest)[0][0].text == whole.text[k:]
  assert count('1+1=?', ('2',), '34') == count('1+1=?', ('2',), '') + 2
  with pytest.raises(UserError, match='only after all'):
    Request('b', 'q', ('2', '3'), 1, begun='x')


def test_cut_rows_go_on_from_there():
  engine, _, decode, count = models()
  sessions = EngineSessions(engine, decode, count)
  greedy = Sampling(temperature=0.0, max_tokens=8, stop=('\n',))
  state, [[first]] = sessions.step(sessions.start(['1+1=?']), [1], greedy, [('a', 0)])
  assert state.tokens_read == (count('1+1=?', (), ''),)
  state, texts = sessions.cut(state, [3])
  assert texts == [first.text[:3]]
  shorter = dataclasses.replace(greedy, max_tokens=5)
  state, [[second]] = sessions.step(state, [1], shorter, [('b', 0)])
  assert texts[0] + second.text == first.text
  blind = EngineSessions(engine)
  with pytest.raises(UserError, match='which tokens it drew'):
    blind.cut(state, [1])


def test_reads_without_a_tokenizer_add_up():
  """What an engine counted is split among its prompts, and none of it lost."""
  engine, _, _, _ = models()
  sessions = EngineSessions(engine)
  before = engine.counters['prefill_tokens']
  state = sessions.start(['1+1=?', '9' * 70, '12*3=?'])
  state, answers = sessions.step(
    state, [2, 1, 1], SAMPLING, [('a', 0), ('b', 0), ('c', 0)]
  )
  assert isinstance(answers[1], Refusal) and len(state) == 3
  assert state.tokens_read[1] == 0
  assert sum(state.tokens_read) == engine.counters['prefill_tokens'] - before


class OneText:
  """An engine that writes one text, `max_tokens` characters at a time."""

  name, separator, deterministic, counters = 'one', '\n\n', True, {}

  def __init__(self, text):
    self.text = text
    self.inner = models()[0]

  def complete(self, requests, sampling):
    out = []
    (like,) = self.inner.complete(requests[:1], dataclasses.replace(sampling, stop=()))
    for r in requests:
      done = ''.join(s + self.separator for s in r.steps) + r.begun
      assert self.text.startswith(done)
      rest = self.text[len(done) :]
      end = rest.find(self.separator)
      piece = rest[: sampling.max_tokens]
      reason = 'length'
      if 0 <= end <= sampling.max_tokens - len(self.separator):
        piece, reason = rest[:end], 'stop'
      elif len(rest) < sampling.max_tokens:
        reason = 'end'
      n = len(piece)
      c = dataclasses.replace(like[0], text=piece, finish_reason=reason, n_tokens=n)
      out.append([c])
    return out


def test_half_a_separator_is_drawn_again():
  """A limit in the middle of a separator must not hide it."""
  sessions = EngineSessions(OneText('ab\n\ncd'))
  partial = dataclasses.replace(SAMPLING, max_tokens=3, stop=('\n\n',))
  state = sessions.start(['q'])
  state, [[c]] = sessions.step(state, [1], partial, [('a', 0)])
  assert c.text == 'ab' and c.finish_reason == 'length'
  longer = dataclasses.replace(partial, max_tokens=9)
  state, [[c]] = sessions.step(state, [1], longer, [('b', 0)])
  assert (c.text, c.finish_reason) == ('', 'stop')
  assert state.rows[0].steps == ('ab',)


def test_rescoring_reads_and_refuses():
  """Tokens are those encoded; what is too long has no score."""
  _, scorer, _, _ = models()
  sessions = RescoringSessions(scorer)
  state, values = sessions.extend(sessions.start(['1+1=?', '7' * 120]), ['=2', '=3'])
  assert np.isfinite(values[0]) and np.isnan(values[1])
  rows = [Trajectory('a', '', '1+1=?', ('=2', '=4'))]
  (encoded,) = scorer.encode(rows)
  state, values = sessions.extend(sessions.take(state, [0, 0]), ['=4', '=5'])
  assert state.tokens_read == (len(encoded.tokens),) * 2
  assert values[0] == pytest.approx(scorer.score(rows)[0].values[1], abs=1e-6)
  joined = sessions.join([state, sessions.start(['x'])])
  assert len(joined) == 3 and joined.tokens_read == (0, 0, 0)
