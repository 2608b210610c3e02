"""The client of a completions server, against a real one that fails in every way."""

import email.utils
import json
import os
import shutil
import ssl
import subprocess
import threading
import time

import pytest
from faulty_server import FAULTS, FaultyServer

from prm_jax.errors import UserError
from prm_jax.formats.text_format import prompt_text
from prm_jax.inference import http_client
from prm_jax.inference.remote import RemoteEngine, sample_seed
from prm_jax.inference.requests import Refusal, Request, Sampling
from prm_jax.specs import TextFormat

FORMAT = TextFormat(question_template='Q: {question}\n', separator='\n', end='<eos>')
SAMPLING = Sampling(max_tokens=6, seed=7)
KEY = 'sk-very-secret-4711'
REQUESTS = [
  Request('p0/s0/0', 'one?', n=3),
  Request('p0/s0/1', 'one?', ('a', 'b'), n_steps=1, n=1),
  Request('p0/s0/2', 'one?', ('a', 'b'), n_steps=2, n=5, first_sample=4),
  Request('p1/s0/0', 'two?', n=2),
]


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
  monkeypatch.delenv('PRM_JAX_API_KEY', raising=False)


def engine(server, **options):
  defaults = {
    'concurrency': 4, 'timeout': 10.0, 'connect_timeout': 2.0, 'retries': 3,
    'first_wait': 0.01, 'longest_wait': 0.05,
  }  # fmt: skip
  url = server if isinstance(server, str) else server.url
  return RemoteEngine(url, 'some/model', FORMAT, **{**defaults, **options})


def check(server, requests, answers, sampling=SAMPLING):
  """Every completion is the one that the server has for its own seed."""
  assert len(answers) == len(requests)
  for request, had in zip(requests, answers):
    prompt = prompt_text(FORMAT, request.question, request.steps[: request.n_steps])
    wanted = range(request.first_sample, request.first_sample + request.n)
    assert [c.sample_index for c in had] == list(wanted)
    for completion in had:
      seed = sample_seed(sampling.seed, request.id, completion.sample_index)
      text, logprobs, end = server.expected(prompt, seed, sampling.max_tokens)
      assert (completion.text, completion.finish_reason) == (text, end)
      assert completion.logprobs == logprobs
      assert completion.n_tokens == len(logprobs)


def test_answers_in_order_and_counted():
  with FaultyServer() as server:
    remote = engine(server)
    answers = remote.complete(REQUESTS, SAMPLING)
    check(server, REQUESTS, answers)
    assert {c.finish_reason for had in answers for c in had} == {'end', 'length'}
    assert remote.counters['completions'] == 11
    assert remote.counters['http_requests'] == 4
    spent = sum(c.n_tokens for had in answers for c in had)
    assert remote.counters['decoded_tokens'] == spent
    prompts = {b['prompt'] for b in server.bodies}
    assert 'Q: one?\na\nb\n' in prompts
    assert remote.counters['prefill_tokens'] == sum(map(len, prompts))
    assert remote.complete([], SAMPLING) == []
  assert (remote.name, remote.separator) == ('some/model', '\n')
  assert remote.deterministic is False


@pytest.mark.parametrize('fault', FAULTS)
def test_each_fault_alone(fault):
  late = fault in ('hang', 'trickle')
  with FaultyServer([fault]) as server:
    remote = engine(server, timeout=0.4 if late else 10.0)
    check(server, REQUESTS, remote.complete(REQUESTS, SAMPLING))
    counters = remote.counters
  again = {'error': 'server_errors', 'rate_limit': 'rate_limits'}
  for name in ('reset', 'closed', 'truncated', 'chunks_cut'):
    again[name] = 'broken_connections'
  if fault == 'fewer':
    assert counters['short_answers'] == 3  # a request for one cannot be short
    assert counters['http_requests'] == 4 + 1 + 2 + 1
  elif late:  # a busy machine may be late once more
    assert counters['time_outs'] >= 4
  elif fault in ('shuffled', 'chunked'):
    assert counters['http_requests'] == 4
  else:
    assert counters[again.get(fault, 'malformed_answers')] == 4
    assert counters['http_requests'] == 8
  assert counters['completions'] == 11


@pytest.mark.slow
@pytest.mark.parametrize('turn', range(4))
def test_all_faults_mixed(turn):
  turned = FAULTS[4 * turn :] + FAULTS[: 4 * turn]
  good = ('shuffled', 'chunked')  # nothing comes after a good answer
  faults = [*(f for f in turned if f not in good), good[turn % 2]]
  many = REQUESTS + [Request(f'p2/s{i}/0', f'three {i}?', n=3) for i in range(8)]
  with FaultyServer(faults) as server:
    remote = engine(server, retries=2 * len(FAULTS), concurrency=12, timeout=0.25)
    check(server, many, remote.complete(many, SAMPLING))
    assert remote.counters['completions'] == sum(r.n for r in many)
    # All but the request for one, which 'fewer' serves in full, meet every fault.
    assert remote.counters['time_outs'] >= 2 * (len(many) - 1)


def test_a_sample_does_not_depend_on_how_it_was_asked_for():
  with FaultyServer() as server:
    at_once = engine(server).complete(REQUESTS, SAMPLING)
    one_by_one = engine(server, choices=1).complete(REQUESTS, SAMPLING)
    n_pairs = len(server.bodies)
    assert engine(server, choices=2).complete(REQUESTS, SAMPLING) == at_once
    later = engine(server).complete(
      [Request('p0/s0/0', 'one?', n=1, first_sample=2)], SAMPLING
    )
  assert one_by_one == at_once
  assert later[0][0] == at_once[0][2]
  assert n_pairs == 4 + 11
  assert sorted(b['n'] for b in server.bodies[n_pairs:]) == [1, 1, 1, 1, 2, 2, 2, 2]


def test_seeds():
  seeds = {
    sample_seed(seed, name, sample)
    for seed in range(3)
    for name in ('a', 'b', 'a/0')
    for sample in range(50)
  }
  assert len(seeds) == 3 * 3 * 50
  assert all(0 <= s < 2**63 - 2**20 for s in seeds)
  assert sample_seed(1, 'a', 5) == sample_seed(1, 'a', 0) + 5


def test_concurrency_limit_holds_for_the_engine():
  many = [Request(f'p/s{i}/0', f'{i}?', n=2) for i in range(24)]
  with FaultyServer(seconds=0.03) as server:
    remote = engine(server, concurrency=3, choices=1)
    both = [[], []]

    def ask(i):
      both[i] = remote.complete(many, SAMPLING)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(2)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    assert both[0] == both[1]
    check(server, many, both[0])
    assert server.most_at_once == 3


def test_what_is_sent():
  with FaultyServer() as server:
    sampling = Sampling(
      temperature=0.6, top_k=20, top_p=0.9, min_p=0.05, max_tokens=6, stop=('\n\n',),
      keep_stop=True, seed=3,
    )  # fmt: skip
    engine(server).complete(REQUESTS[:1], sampling)
    engine(server, logprobs=False).complete(REQUESTS[:1], SAMPLING)
    engine(server, extensions=False).complete(REQUESTS[:1], SAMPLING)
    full, plain, openai = server.bodies
    assert server.keys == [None, None, None]
  assert full == {
    'model': 'some/model', 'prompt': 'Q: one?\n', 'n': 3, 'max_tokens': 6,
    'temperature': 0.6, 'top_p': 0.9, 'seed': sample_seed(3, 'p0/s0/0', 0),
    'stream': False, 'stop': ['\n\n'], 'logprobs': 0, 'top_k': 20, 'min_p': 0.05,
    'repetition_penalty': 1.0, 'include_stop_str_in_output': True,
    'add_special_tokens': False,
  }  # fmt: skip
  # Nothing is left to the server: its model's generation config would step in.
  assert plain['top_k'] == -1
  assert (plain['temperature'], plain['top_p'], plain['min_p']) == (1.0, 1.0, 0.0)
  assert 'logprobs' not in plain
  assert 'top_k' not in openai and 'add_special_tokens' not in openai


def test_token_counts_without_log_probabilities():
  with FaultyServer() as server:
    exact = engine(server).complete(REQUESTS, SAMPLING)
    remote = engine(server, logprobs=False)
    answers = remote.complete(REQUESTS, SAMPLING)
    alone = engine(server, logprobs=False, choices=1).complete(REQUESTS, SAMPLING)
  assert [[c.n_tokens for c in had] for had in alone] == [
    [c.n_tokens for c in had] for had in exact
  ]
  for had, known in zip(answers, exact):
    assert sum(c.n_tokens for c in had) == sum(c.n_tokens for c in known)
    assert all(c.logprobs == () for c in had)
  assert remote.counters['estimated_token_counts'] == 10
  assert remote.counters['without_logprobs'] == 0  # nobody asked for them


def test_temperature_zero_is_asked_once():
  with FaultyServer() as server:
    remote = engine(server)
    sampling = Sampling(temperature=0, max_tokens=6)
    [had] = remote.complete(REQUESTS[2:3], sampling)
    assert [b['n'] for b in server.bodies] == [1]
  assert [c.sample_index for c in had] == [4, 5, 6, 7, 8]
  assert len({c.text for c in had}) == 1
  assert remote.counters['completions'] == 1


def test_identical_choices_are_counted():
  same = {
    'text': 'same',
    'finish_reason': 'stop',
    'stop_reason': None,
    'logprobs': None,
  }
  with FaultyServer(answer=lambda body, seed: same) as server:
    remote = engine(server)
    remote.complete(REQUESTS[:1], SAMPLING)
  assert remote.counters['identical_choices'] == 2
  assert remote.counters['without_logprobs'] == 0  # no tokens either: usage says 0


TOO_LONG = [
  (400, {'object': 'error', 'message': "This model's maximum context length is 64 "
         'tokens. However, you requested 70 tokens.', 'code': 400}),
  (400, {'error': {'message': 'The decoder prompt (length 70) is longer than the '
         'maximum model length of 64.'}}),
  (400, {'error': {'message': "The input (70 tokens) is longer than the model's "
         'context length (64 tokens).'}}),
  (400, {'error': {'message': 'the request exceeds the available context size'}}),
  (413, {'detail': 'Payload Too Large'}),
]  # fmt: skip


@pytest.mark.parametrize('refusal', TOO_LONG)
def test_too_long_is_a_refusal(refusal):
  def refuse(body):
    return refusal if 'two' in body['prompt'] else None

  with FaultyServer(refuse=refuse) as server:
    remote = engine(server)
    answers = remote.complete(REQUESTS, SAMPLING)
    check(server, REQUESTS[:3], answers[:3])
  assert isinstance(answers[3], Refusal)
  assert answers[3].reason == 'too_long' and answers[3].detail
  assert remote.counters['http_requests'] == 4
  assert remote.counters['refused_requests'] == 1


def test_end_token_in_the_prompt_is_a_refusal():
  with FaultyServer() as server:
    requests = [
      Request('a', 'what is <eos>?'),
      Request('b', 'q', ('x', 'y<eos>'), n_steps=2),
      Request('c', 'q', ('x', 'y<eos>'), n_steps=1),
    ]
    answers = engine(server).complete(requests, SAMPLING)
    assert len(server.bodies) == 1
  assert [isinstance(a, Refusal) for a in answers] == [True, True, False]
  assert answers[0].reason == 'stop_in_prompt'


@pytest.mark.parametrize(
  ('status', 'body', 'want'),
  [
    (401, {'error': {'message': 'bad key'}}, 'bad key.*PRM_JAX_API_KEY'),
    (403, {'error': 'no'}, 'PRM_JAX_API_KEY'),
    (404, {'message': 'The model `some/model` does not exist.'}, 'model name'),
    (400, {'message': 'top_k must be an integer'}, 'top_k must be'),
    (301, {}, 'HTTP 301'),
  ],
)
def test_a_users_mistake_is_not_tried_again(status, body, want):
  with FaultyServer(refuse=lambda _: (status, body)) as server:
    remote = engine(server, concurrency=1)
    with pytest.raises(UserError, match=want) as caught:
      remote.complete(REQUESTS, SAMPLING)
    assert len(server.bodies) == 1
  assert 'p0/s0/0' in str(caught.value) and server.url in str(caught.value)


def test_persistent_failure_is_one_sentence():
  with FaultyServer(['error'] * 9) as server:
    remote = engine(server, retries=2)
    with pytest.raises(UserError) as caught:
      remote.complete(REQUESTS[:1], SAMPLING)
  message = str(caught.value)
  assert f'{server.url}/completions: request p0/s0/0 failed 3 times' in message
  assert 'HTTP 500: the engine died' in message
  assert '\n' not in message and message.count('. ') == 0
  assert remote.counters['server_errors'] == 3


def test_a_server_that_is_down():
  with FaultyServer() as server:
    url = server.url
  with pytest.raises(UserError, match=r'failed 4 times .*refused.*check that'):
    engine(url).complete(REQUESTS, SAMPLING)


def test_a_failure_does_not_wait_for_the_others():
  def refuse(body):
    if 'two' in body['prompt']:
      time.sleep(0.2)
      return 404, {'message': 'gone'}

  with FaultyServer(['hang'], refuse=refuse) as server:
    remote = engine(server, timeout=60)
    start = time.monotonic()
    with pytest.raises(UserError, match='gone'):
      remote.complete(REQUESTS, SAMPLING)
    assert time.monotonic() - start < 1.5


def test_retry_after_is_honoured():
  with FaultyServer(['rate_limit'], retry_after='1') as server:
    remote = engine(server)
    check(server, REQUESTS[:1], remote.complete(REQUESTS[:1], SAMPLING))
    first, second = server.times
  assert 1.0 <= second - first < 5.0


def test_retry_after_as_a_date_or_nonsense():
  soon = email.utils.formatdate(time.time() + 30, usegmt=True)
  assert 25 < http_client._seconds(soon) < 31
  assert http_client._seconds('2.5') == 2.5
  for nonsense in ('', 'soon', '-3', 'nan', 'inf', 'Mon, 99 Foo 2020 00:00:00 GMT'):
    assert http_client._seconds(nonsense) == 0.0


def test_the_key_is_sent_and_never_shown(monkeypatch, capfd, caplog):
  monkeypatch.setenv('MY_KEY', KEY)
  shown = []
  refusals = {'one': (401, {'message': f'Incorrect API key {KEY}'}), 'two': None}

  def refuse(body):
    return refusals['one' if 'one' in body['prompt'] else 'two']

  with FaultyServer(['error'] * 4, refuse=refuse, echo=True) as server:
    remote = engine(server, key_variable='MY_KEY', retries=1)
    for request in (REQUESTS[0], REQUESTS[3]):
      with pytest.raises(UserError) as caught:
        remote.complete([request], SAMPLING)
      e = caught.value
      while e is not None:
        shown.append(f'{e!r} {e}')
        e = e.__cause__ or e.__context__
    assert server.keys == [f'Bearer {KEY}'] * 3
  shown += [repr(remote), str(remote), json.dumps(remote.counters)]
  shown += [repr(vars(remote)), repr(vars(remote._client))]
  shown += [*capfd.readouterr(), caplog.text]
  assert not any(KEY in text for text in shown)
  assert '***' in shown[0] and 'MY_KEY' in shown[0]


@pytest.mark.parametrize(
  'url', ['http://10.0.0.1:8000/v1', 'http://localhost.evil.org']
)
def test_the_key_stays_off_plain_http(monkeypatch, url):
  engine(url)
  monkeypatch.setenv('PRM_JAX_API_KEY', KEY)
  with pytest.raises(UserError, match='plain http to another machine') as caught:
    engine(url)
  assert KEY not in str(caught.value)
  engine(url.replace('http:', 'https:'))
  engine(url, key_variable='')
  for loopback in ('http://localhost:1/v1', 'http://127.0.0.2', 'http://[::1]:8000/v1'):
    engine(loopback)


def test_a_key_that_is_none(monkeypatch):
  monkeypatch.setenv('PRM_JAX_API_KEY', f'{KEY}\r\nX-Other: 1')
  with pytest.raises(UserError, match='set it to the key alone') as caught:
    engine('https://example.org/v1')
  assert KEY not in str(caught.value)


@pytest.mark.parametrize(
  ('url', 'want'),
  [
    ('localhost:8000', 'not an address'),
    ('ftp://host/v1', 'not an address'),
    ('http://', 'not an address'),
    ('http://host:99999/v1', 'not an address'),
    ('http://a host/v1', 'not an address'),
    ('http://me:secret@host/v1', 'user, query or fragment'),
    ('https://host/v1?key=secret', 'user, query or fragment'),
    ('http://host/v1/chat/completions', 'chat interface'),
  ],
)
def test_addresses_that_cannot_be_used(url, want):
  with pytest.raises(UserError, match=want) as caught:
    engine(url)
  assert 'secret' not in str(caught.value)


def test_forms_of_the_address():
  with FaultyServer() as server:
    for end in ('', '/', '/completions'):
      check(server, REQUESTS, engine(server.url + end).complete(REQUESTS, SAMPLING))
    bare = engine(server.url.removesuffix('/v1'))
    check(server, REQUESTS, bare.complete(REQUESTS, SAMPLING))
    with pytest.raises(UserError, match='check the path of the url'):
      engine(server.url + '/v2').complete(REQUESTS, SAMPLING)


@pytest.mark.parametrize(
  'wrong',
  [{'concurrency': 0}, {'timeout': 0}, {'retries': -1}, {'choices': -1}],
)
def test_numbers_that_cannot_be_used(wrong):
  with pytest.raises(UserError, match=next(iter(wrong))):
    engine('http://localhost/v1', **wrong)


def test_what_a_server_does_not_give_is_refused():
  remote = engine('http://localhost/v1', extensions=False)
  with pytest.raises(UserError, match='does not give the entropy'):
    remote.complete(REQUESTS, Sampling(entropy=True))
  with pytest.raises(UserError, match='not part of the OpenAI interface'):
    remote.complete(REQUESTS, Sampling(min_p=0.1))


@pytest.fixture(scope='module')
def certificate(tmp_path_factory):
  if shutil.which('openssl') is None:
    pytest.skip('no openssl program to make a certificate with')
  folder = tmp_path_factory.mktemp('tls')
  subprocess.run(
    ['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256',
     '-nodes', '-days', '2', '-subj', '/CN=test', '-addext',
     'subjectAltName=IP:127.0.0.1', '-keyout', folder / 'key', '-out', folder / 'cert'],
    check=True, capture_output=True,
  )  # fmt: skip
  return os.fspath(folder / 'cert'), os.fspath(folder / 'key')


def test_https(monkeypatch, certificate):
  context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
  context.load_cert_chain(*certificate)
  with FaultyServer(['truncated', 'hang', 'closed'], context=context) as server:
    with pytest.raises(UserError, match='certificate cannot be trusted'):
      engine(server).complete(REQUESTS, SAMPLING)
    monkeypatch.setenv('SSL_CERT_FILE', certificate[0])
    monkeypatch.setenv('PRM_JAX_API_KEY', KEY)
    remote = engine(server, timeout=1.0, retries=9)
    check(server, REQUESTS, remote.complete(REQUESTS, SAMPLING))
    assert set(server.keys) == {f'Bearer {KEY}'}
