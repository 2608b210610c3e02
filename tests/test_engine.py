"""The in-process engine against a sampler that recomputes everything."""

import concurrent.futures

import engine_cases
import jax
import numpy as np
import pytest
from engine_cases import Letters, Naive, problem_requests, same
from often import often

from prm_jax.errors import UserError
from prm_jax.inference.engine import JaxEngine
from prm_jax.inference.requests import Refusal, Request, Sampling

SPEC, PARAMS, TOKENIZER = engine_cases.policy(Letters(), max_length=48)
NAIVE = Naive(SPEC, PARAMS, TOKENIZER)


def make(slots=8, group=4, **more):
  return JaxEngine(SPEC, PARAMS, TOKENIZER, slots=slots, group=group, **more)


ENGINE = make()


SAMPLINGS = [
  Sampling(max_tokens=16, seed=3),
  Sampling(max_tokens=12, temperature=0.0),
  Sampling(max_tokens=12, temperature=0.7, top_k=5, entropy=True),
  Sampling(max_tokens=12, min_p=0.1, top_p=0.9, top_k=12, temperature=1.3),
  Sampling(max_tokens=200, seed=1),
  Sampling(max_tokens=24, stop=('ab', '\n\n', '1\n1'), keep_stop=True),
  Sampling(max_tokens=24, stop=('bc', 'é', '\n')),
  Sampling(max_tokens=1, stop=('1',)),
]


@pytest.mark.parametrize(
  'sampling', often(SAMPLINGS, SAMPLINGS[0], SAMPLINGS[3], SAMPLINGS[5]), ids=str
)
def test_equals_full_recompute(sampling):
  """Padding, nested prefixes, several solutions a group, more rows than slots."""
  requests = problem_requests(n_solutions=4, n=2)
  got = ENGINE.complete(requests, sampling)
  for request, completions in zip(requests, got):
    assert same(completions, NAIVE.complete(request, sampling)), request


def test_buffers_of_other_shapes_do_not_pile_up(monkeypatch):
  request = [Request('a', '12', n=2)]
  asked = [Sampling(max_tokens=n, seed=1) for n in (2, 40)]
  kept = [ENGINE.complete(request, sampling) for sampling in asked]
  assert len(ENGINE._held) > 1
  monkeypatch.setattr('prm_jax.inference.engine.HELD_BYTES', 0)
  engine = make()
  assert [engine.complete(request, sampling) for sampling in asked] == kept
  assert len(engine._held) == 1


def test_stop_strings_are_found_wherever_they_stand():
  requests = problem_requests(n_solutions=3, n=4)
  sampling = Sampling(max_tokens=24, stop=('ab', '\n\n'))
  kept = Sampling(max_tokens=24, stop=('ab', '\n\n'), keep_stop=True)
  pairs = zip(ENGINE.complete(requests, sampling), ENGINE.complete(requests, kept))
  reasons, crossed = set(), 0
  for dropped, whole in pairs:
    for a, b in zip(dropped, whole):
      reasons.add(a.finish_reason)
      assert a.tokens == b.tokens
      if a.finish_reason == 'stop':
        assert b.text.endswith(('ab', '\n\n')) and b.text.startswith(a.text)
        assert 'ab' not in a.text and '\n\n' not in a.text
        crossed += TOKENIZER.texts[a.tokens[-1]] in ('b', '\n', '1\n')
  assert 'stop' in reasons and len(reasons) > 1
  assert crossed > 0


def test_refusals_and_the_edge_of_the_context():
  long = Request('long', '1' * 48)
  edge = Request('edge', '1' * 47, n=2)
  got = ENGINE.complete([long, edge], Sampling(max_tokens=9))
  assert isinstance(got[0], Refusal) and got[0].reason == 'too_long'
  assert [c.n_tokens for c in got[1]] == [1, 1]
  for c in got[1]:
    assert c.finish_reason == ('end' if c.tokens[0] == 0 else 'length')
  assert same(got[1], NAIVE.complete(edge, Sampling(max_tokens=9)))


def test_a_solution_longer_than_the_context_still_has_prefixes():
  request = Request('r', '1', ('1+1=2',) * 20, 1, 2)
  sampling = Sampling(max_tokens=6)
  assert same(
    ENGINE.complete([request], sampling)[0], NAIVE.complete(request, sampling)
  )


def bits(completions):
  return repr(completions)


def test_company_order_and_waves_change_nothing():
  requests = problem_requests(n_solutions=4, n=4)
  others = problem_requests(n_solutions=4, n=16, id_='q')
  sampling = Sampling(max_tokens=20)
  alone = [bits(c) for c in ENGINE.complete(requests, sampling)]
  # More rows than one wave holds, and the texts at other places in theirs.
  mixed = ENGINE.complete([*others, *requests[::-1]], sampling)
  assert [bits(c) for c in mixed[len(others) :]] == alone[::-1]
  one_by_one = [bits(ENGINE.complete([r], sampling)[0]) for r in requests]
  assert one_by_one == alone


def test_texts_of_all_lengths_run_together_and_notice_nothing():
  """Alone each has room of its own size, 64 or 256 keys; together that of all."""
  spec, params, tokenizer = engine_cases.policy(Letters(), max_length=256)
  engine = JaxEngine(spec, params, tokenizer, slots=8, group=4)
  requests = [
    Request(f'r{n}/{k}', '1' * (n - 9), ('1+1', 'ab'), k, 4)
    for n in (12, 150) for k in (0, 2)
  ]  # fmt: skip
  sampling = Sampling(max_tokens=8)
  together = engine.complete(requests, sampling)
  assert engine.counters['compilations'] == 3  # two sizes read, one loop
  alone = [engine.complete([r], sampling)[0] for r in requests]
  assert bits(together) == bits(alone)
  naive = Naive(spec, params, tokenizer)
  for i in (0, 3):
    assert same(together[i], naive.complete(requests[i], sampling))


def test_samples_go_on_where_they_ended():
  sampling = Sampling(max_tokens=8)
  at_once = ENGINE.complete([Request('r', '1+1', n=6)], sampling)[0]
  first = ENGINE.complete([Request('r', '1+1', n=4)], sampling)[0]
  rest = ENGINE.complete([Request('r', '1+1', n=2, first_sample=4)], sampling)[0]
  assert bits(at_once) == bits([*first, *rest])
  assert len({c.tokens for c in at_once}) > 1


def test_few_completions_of_many_prompts_fill_the_slots():
  requests = [Request(f'r{i}', f'{i}+{i}') for i in range(40)]
  engine = make()
  sampling = Sampling(max_tokens=8)
  got = engine.complete(requests, sampling)
  assert all(same(c, NAIVE.complete(r, sampling)) for r, c in zip(requests, got))
  assert engine.counters['slot_steps'] < 1.5 * engine.counters['decoded_tokens']


def test_devices_agree_to_the_bit():
  requests = problem_requests(n_solutions=4, n=4)
  sampling = Sampling(max_tokens=16, stop=('ab',))
  devices = jax.local_devices()
  engines = [make(device=devices[i]) for i in (0, 5)]
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    results = list(pool.map(lambda e: bits(e.complete(requests, sampling)), engines))
  assert results[0] == results[1] == bits(ENGINE.complete(requests, sampling))


@pytest.mark.slow
def test_other_slot_counts_differ_at_near_ties_only():
  """Logits within 1e-4; a row may part only where two candidates nearly tie, which
  is rare: 2 of these 322 rows at most."""
  requests = problem_requests(n_solutions=8, n=14)
  sampling = Sampling(max_tokens=24)
  few = make(16, 8).complete(requests, sampling)
  many = make(64, 8).complete(requests, sampling)
  n_rows = differing = 0
  for request, x, y in zip(requests, few, many):
    assert len(x) == len(y) == request.n
    for a, b in zip(x, y):
      n_rows += 1
      common = 0
      while common < min(a.n_tokens, b.n_tokens) and (
        a.tokens[common] == b.tokens[common]
      ):
        common += 1
      np.testing.assert_allclose(a.logprobs[:common], b.logprobs[:common], atol=1e-4)
      if a.tokens != b.tokens:
        differing += 1
        pair = a.tokens[common], b.tokens[common]
        before = a.tokens[:common]
        lead = NAIVE.gap(request, sampling, before, a.sample_index, pair)
        assert abs(lead) < 1e-3
  assert n_rows == sum(r.n for r in requests) >= 300
  assert differing <= 2


def test_the_race_is_the_one_that_is_run():
  [request] = problem_requests(n_solutions=1, n=1)[:1]
  sampling = Sampling(max_tokens=1)
  [[drawn]] = ENGINE.complete([request], sampling)
  for other in {*range(TOKENIZER.vocab_size)} - {drawn.tokens[0]}:
    assert NAIVE.gap(request, sampling, (), 0, (drawn.tokens[0], other)) > 0


def test_counters():
  engine = make()
  requests = problem_requests(n_solutions=4, n=8)
  got = engine.complete(requests, Sampling(max_tokens=12))
  n = engine.counters
  assert n['completions'] == sum(r.n for r in requests)
  assert n['decoded_tokens'] == sum(c.n_tokens for x in got for c in x)
  assert n['overrun_tokens'] == 0
  assert n['prefill_tokens'] * 8 <= n['prefill_tokens_without_sharing']
  assert n['slot_steps'] >= n['decoded_tokens']
  before = n['compilations']
  engine.complete(requests[::-1], Sampling(max_tokens=12, seed=9, temperature=0.4))
  assert n['compilations'] == before


def test_ids_behind_the_tokenizer_are_never_drawn():
  spec, params, tokenizer = engine_cases.policy(Letters(), vocab_size=500)
  got = JaxEngine(spec, params, tokenizer, slots=8, group=4).complete(
    [Request('r', '1', n=8)], Sampling(max_tokens=8)
  )
  assert max(t for c in got[0] for t in c.tokens) < tokenizer.vocab_size


@pytest.mark.parametrize('name', ['spec', 'slots', 'nan'])
def test_mistakes_are_named(name):
  if name == 'slots':
    with pytest.raises(UserError, match='slots'):
      make(slots=9)
  elif name == 'spec':
    spec, params, _ = engine_cases.policy(Letters())
    with pytest.raises(UserError, match='ids'):
      JaxEngine(spec, params, engine_cases.ByteTokenizer())
  else:
    broken = jax.tree.map(lambda x: x * np.nan, PARAMS)
    with pytest.raises(UserError, match='not finite'):
      JaxEngine(SPEC, broken, TOKENIZER, slots=8, group=4).complete(
        [Request('r', '1')], Sampling(max_tokens=4)
      )
