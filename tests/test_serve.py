"""The server with a real client: the same numbers, bad input, the end of it."""

import base64
import contextlib
import http.client
import json
import os
import signal
import socket
import threading
import time

import numpy as np
import pytest
from serving_cases import (
  ABOUT,
  LONG,
  SPEC,
  Client,
  Gated,
  ask,
  make_scorer,
  parameters,
  server,
  solutions,
)
from tiny_runs import finish, refusal, start, tool

from prm_jax import exports
from prm_jax.formats import tokenizers
from prm_jax.jobs import score, serve
from prm_jax.step_values import REDUCTIONS


@pytest.fixture(scope='module')
def scorer():
  return make_scorer()


@pytest.fixture(scope='module')
def rows():
  return solutions(32)


@pytest.fixture(scope='module')
def wanted(scorer, rows):
  return [list(s.values) for s in scorer.score(rows)]


@pytest.fixture(scope='module')
def served(scorer, wanted):
  with server(scorer, serve__max_steps=50, serve__body_seconds=1.0) as (client, _):
    yield client


def test_64_clients_get_what_the_score_job_gives(served, rows, wanted):
  found, problems = {}, []

  def client(i):
    connection = served.connect()
    try:
      for k in (i % 32, (i * 7 + 3) % 32):
        found[i, k] = served.post('/score', ask(rows[k]), connection)
    except Exception as e:  # of a thread: shown below
      problems.append(e)
    finally:
      connection.close()

  threads = [threading.Thread(target=client, args=(i,)) for i in range(64)]
  for t in threads:
    t.start()
  for t in threads:
    t.join()
  assert not problems
  for (_, k), (status, answer) in found.items():
    assert status == 200
    assert answer['scores'] == wanted[k]
    assert answer['score'] == float(REDUCTIONS['min'](np.float32(wanted[k]), None))
  assert len(found) > 100
  status, health = served.get('/health')
  assert (status, health['status'], health['load']) == (200, 'ok', 0)
  assert health['batcher']['rounds'] < health['batcher']['requests']


def test_lists_of_solutions(served, rows, wanted):
  for body in ([ask(t) for t in rows], {'solutions': [ask(t) for t in rows]}):
    status, answer = served.post('/score', body)
    assert status == 200 and [r['scores'] for r in answer['results']] == wanted
  assert answer['kind'] == 'logit' and answer['reduction'] == 'min'
  assert answer['model'] == 'tiny'
  status, answer = served.get('/v1/models')
  assert answer['data'][0]['id'] == 'tiny' and answer['data'][0]['root'] == 'tiny'


QUESTION, STEPS = {'question': 'q'}, ['a', 'b']
BAD = {
  'not JSON': (b'{"question": ', 'JSON'),
  'cut off': (json.dumps(QUESTION | {'steps': STEPS}).encode()[:-3], 'JSON'),
  'not text': (b'\xff\xfe\x00', 'request'),
  'empty': (b'', 'request'),
  'NaN': (b'{"question": NaN}', 'NaN'),
  'a text': ('steps', "'body'"),
  'no steps': (QUESTION | {'steps': []}, 'no steps'),
  'steps missing': (QUESTION, "'steps' is missing"),
  'steps of numbers': (QUESTION | {'steps': ['a', 3]}, "'steps[1]' is 3"),
  'steps a text': (QUESTION | {'steps': 'a'}, 'must be a list'),
  'question a list': ({'question': ['q'], 'steps': STEPS}, "'question'"),
  '10,000 steps': (QUESTION | {'steps': ['a'] * 10000}, '10000 steps'),
  'too long': (QUESTION | {'steps': ['a' * 200]}, 'too_long: 203 tokens'),
  'empty step': (QUESTION | {'steps': ['a', ' ']}, 'empty_step'),
  'marker': (QUESTION | {'steps': ['a<prm>']}, 'marker_in_text'),
  'surrogate': (b'{"question": "\\ud800", "steps": ["a"]}', 'urrogate'),
  'unknown field': (QUESTION | {'steps': STEPS, 'stpes': 1}, "'stpes' is not known"),
  'second is bad': ([QUESTION | {'steps': STEPS}, QUESTION], 'solution 1'),
  'nothing': ([], 'from 1 to 1024'),
  'deep': (b'[' * 5000, 'request'),
  'null': (None, "'body'"),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_bodies_get_a_sentence(served, name):
  body, said = BAD[name]
  assert said in served.refused('/score', body)


def test_other_refusals(served):
  assert "'tiny'" in served.refused('/score', {'model': 'x', **QUESTION}, 404)
  assert '/pooling' in served.refused('/scores', {}, 404)
  status, answer = served.get('/score')
  assert status == 405 and 'POST /score' in answer['error']['message']
  many = [QUESTION | {'steps': ['a']}] * 1025
  assert '1025 solutions' in served.refused('/score', many)


def test_a_body_of_100_mb(served):
  body = b'{"question": "' + b'x' * 100_000_000 + b'"}'
  said = served.refused('/score', body, 413)
  assert '100,000,016 bytes' in said and '4,000,000' in said
  # Without a length, in chunks.
  connection = served.connect()
  chunks = (b'x' * 1_000_000 for _ in range(6))
  connection.request('POST', '/score', chunks, encode_chunked=True, headers={
    'transfer-encoding': 'chunked'
  })  # fmt: skip
  assert connection.getresponse().status == 413
  connection.close()


def test_requests_that_do_not_come_whole(served, rows):
  head = b'POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n{"question'
  with socket.create_connection(('127.0.0.1', served.port)) as raw:
    raw.sendall(head)
    raw.shutdown(socket.SHUT_WR)  # cut off in the middle
    raw.settimeout(30)
    while raw.recv(1000):
      pass
  with socket.create_connection(('127.0.0.1', served.port)) as raw:
    raw.sendall(head)  # and then nothing
    answer = http.client.HTTPResponse(raw)
    answer.begin()
    assert answer.status == 408 and b'did not arrive within 1 seconds' in answer.read()
  with socket.create_connection(('127.0.0.1', served.port)) as raw:
    raw.sendall(b'GARBAGE\r\n\r\n')
    assert b'400' in raw.recv(100)
  assert served.post('/score', ask(rows[0]))[0] == 200
  assert served.get('/health')[1]['load'] == 0


def test_a_full_queue_a_late_answer_and_a_client_that_leaves(rows):
  scorer = make_scorer(Gated)
  with server(scorer, serve__queue=3, serve__timeout=0.5) as (client, held):
    left = client.connect()
    left.request('POST', '/score', json.dumps([ask(t) for t in rows[:2]]))
    assert scorer.entered.wait(60)
    waits = client.connect()
    waits.request('POST', '/score', json.dumps(ask(rows[2])))
    await_load(client, 3)
    said = client.refused('/score', ask(rows[3]), 429)
    assert 'the queue is full (3 solutions)' in said
    assert 'from 1 to 3' in client.refused('/score', [ask(t) for t in rows[:4]])
    left.close()
    answer = waits.getresponse()
    assert answer.status == 504 and b'within 0.5 seconds' in answer.read()
    scorer.gate.set()
    await_load(client, 0)
    assert client.get('/health')[1]['batcher']['cancelled'] == 2
    assert client.post('/score', ask(rows[2]))[0] == 200
    assert held.http.lost == 0


def await_load(client, n):
  for _ in range(600):
    if client.get('/health')[1]['load'] == n:
      return
    time.sleep(0.05)
  raise AssertionError(client.get('/health'))


def test_broken_parameters_are_our_fault(rows):
  import jax

  scorer = make_scorer()
  scorer._params = jax.tree.map(lambda x: x * np.nan, scorer._params)
  with server(scorer) as (client, _):
    assert 'not finite' in client.refused('/score', ask(rows[0]), 500)


def test_stopping_answers_what_was_accepted(rows, wanted):
  scorer = make_scorer(Gated)
  with server(scorer) as (client, held):
    accepted = client.connect()
    accepted.request('POST', '/score', json.dumps(ask(rows[0])))
    assert scorer.entered.wait(60)
    idle = client.connect()
    idle.connect()
    held.stop()
    time.sleep(0.3)
    with pytest.raises(OSError):
      client.connect().connect()  # refused: nobody listens
    scorer.gate.set()
    answer = accepted.getresponse()
    assert json.loads(answer.read())['scores'] == wanted[0]
  assert (held.http.answered, held.http.lost) == (1, 0)


# vLLM's form.


def pooled(served, **body):
  status, answer = served.post('/pooling', body)
  assert status == 200, answer
  assert answer['object'] == 'list' and answer['id'].startswith('pool-')
  assert [d['index'] for d in answer['data']] == list(range(len(answer['data'])))
  return [d['data'] for d in answer['data']], answer


def tagged(t):
  return f'{t.question}\n' + ''.join(f'{s}<prm>' for s in t.steps)


def test_pooling(served, scorer, rows, wanted):
  """Short questions share nothing, so the numbers are those of `score`, bit by bit."""
  short, values = rows[0], np.float32(wanted[0])
  [pairs], answer = pooled(served, input=tagged(short), task='token_classify')
  p = 1 / (1 + np.exp(-values))
  np.testing.assert_allclose(pairs, np.stack([1 - p, p], -1), atol=1e-6)
  [row] = scorer.encode([short])
  n = len(row.tokens)
  assert answer['usage'] == {
    'prompt_tokens': n, 'total_tokens': n, 'completion_tokens': 0
  }  # fmt: skip
  [again], _ = pooled(served, input=row.tokens.tolist(), model='tiny')
  assert again == pairs
  messages = [
    {'role': 'user', 'content': short.question},
    {'role': 'assistant', 'content': ''.join(f'{s}<prm>' for s in short.steps)},
  ]
  [again], _ = pooled(served, messages=messages, use_activation=True)
  assert again == pairs
  [logits], _ = pooled(served, input=tagged(short), use_activation=False)
  assert logits == [[0.0, v] for v in wanted[0]]
  inputs = [tagged(t) for t in rows[:4]]
  several, _ = pooled(served, input=inputs, encoding_format='float', priority=0)
  assert several[0] == pairs and len(several) == 4
  packed, _ = pooled(served, input=inputs, encoding_format='base64')
  for text, found in zip(packed, several):
    held = np.frombuffer(base64.b64decode(text), '<f4').reshape(-1, 2)
    np.testing.assert_array_equal(held, np.float32(found))
  # The long question is not told apart in a text: read as one, within rounding.
  np.testing.assert_allclose(
    np.array(several[1])[:, 1], 1 / (1 + np.exp(-np.array(wanted[1]))), atol=1e-5
  )
  messages[0]['content'] = LONG
  messages[1]['content'] = ''.join(f'{s}<prm>' for s in rows[1].steps)
  [chat], _ = pooled(served, messages=messages, use_activation=False)
  assert [b for _, b in chat] == wanted[1]


def chat(*roles):
  return {'messages': [{'role': r, 'content': 'a<prm>'} for r in roles]}


BAD_POOLING = {
  'no tag': ({'input': 'q\na'}, "step tag '<prm>' 0 times"),
  'too many': ({'input': 'q\n' + '<prm>' * 60}, '50 times at most'),
  'too long': ({'input': 'x' * 200 + '<prm>'}, '201 tokens'),
  'id too large': ({'input': [300]}, 'vocabulary of 260'),
  'id negative': ({'input': [[-1]]}, 'input[0][0]'),
  'mixed': ({'input': ['a<prm>', 3]}, 'input[1]'),
  'none': ({'input': []}, '0 solutions'),
  'nothing': ({}, "either 'input' or 'messages'"),
  'task': ({'input': 'a<prm>', 'task': 'embed'}, "task='embed' is not served"),
  'truncate': ({'input': 'a<prm>', 'truncate_prompt_tokens': 5}, 'not served'),
  'format': ({'input': 'a<prm>', 'encoding_format': 'bytes'}, "'base64'"),
  'unknown': ({'input': 'a<prm>', 'dimensions': 3}, "'dimensions' is not known"),
  'activation': ({'input': 'a<prm>', 'use_activation': 'yes'}, 'true, false'),
  'roles': (chat('user', 'user'), "['user', 'user']"),
  'system': (chat('system', 'user', 'assistant'), 'system message'),
  'no steps': ({'messages': [
    {'role': 'user', 'content': 'q'}, {'role': 'assistant', 'content': 'a'}
  ]}, 'no steps'),
  'content': ({'messages': [{'role': 'user', 'content': 1}]}, 'messages[0].content'),
}  # fmt: skip


@pytest.mark.parametrize('name', BAD_POOLING)
def test_bad_pooling_requests(served, name):
  body, said = BAD_POOLING[name]
  assert said in served.refused('/pooling', body)


# OpenRLHF's form.

POLICY = {
  'text__question_template': 'Q: {question}\nA: ',
  'text__end': '<eos>',
  'text__separator': ' | ',
}


def sample(t, prefix='<bos>', end='<eos>'):
  prompt = f'Q: {t.question}\nA: '
  return prompt, prefix + prompt + ' | '.join(t.steps) + end


def test_get_reward(scorer, rows, wanted):
  part = rows[:4]
  prompts, queries = zip(*(sample(t) for t in part))
  body = {'query': queries, 'prompts': prompts, 'labels': ['4'] * 4}
  with server(scorer, **POLICY) as (client, _):
    status, answer = client.post('/get_reward', body)
    assert status == 200
    assert answer['step_scores'] == wanted[:4]
    assert answer['rewards'] == [min(w) for w in wanted[:4]]
    assert all(0 <= s <= 1 for s in answer['scores'])
    for name, values in answer['extra_logs'].items():
      assert len(values) == 4 and all(type(v) is float for v in values), name
    assert answer['extra_logs']['n_steps'] == [float(t.n_steps) for t in part]
    for query, ends, t in zip(queries, answer['step_ends'], part):
      assert [query[:e].rpartition(' ')[2] for e in ends] == list(t.steps)
    empty = sample(rows[0])[0]
    body = {'query': [empty + '<eos>'], 'prompts': [empty], 'labels': ['4']}
    assert 'no_steps' in client.refused('/get_reward', body)
    body['prompts'] = ['Q: other\nA: ']
    assert 'query[0] does not hold' in client.refused('/get_reward', body)
    body['prompts'] = ['other']
    assert 'text.question_template' in client.refused('/get_reward', body)
    assert "'prompts' is None" in client.refused('/get_reward', {'query': ['a']})
    body['prompts'] = []
    assert "'prompts' 0" in client.refused('/get_reward', body)


def test_what_cannot_be_scored_may_have_a_reward(scorer, rows, wanted):
  (p, q), (p2, _) = sample(rows[0]), sample(rows[1])
  body = {'query': [p + '<eos>', q, p2 + 'x' * 200], 'prompts': [p, p, p2]}
  with server(scorer, serve__unusable_reward=-5.0, **POLICY) as (client, _):
    status, answer = client.post('/get_reward', body)
    assert status == 200
    assert answer['rewards'] == [-5.0, min(wanted[0]), -5.0]
    assert answer['step_scores'] == [[], wanted[0], [None]]
    assert answer['extra_logs']['unusable'] == [1.0, 0.0, 1.0]
    none = {'query': [p], 'prompts': [p]}
    assert client.post('/get_reward', none)[1]['rewards'] == [-5.0]


# The job.


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('serve') / 'runs'
  exports.save_scorer(folder / 'scorer', SPEC, parameters(), tokenizers.load('bytes'))
  return folder


def test_what_keeps_it_from_starting(workdir, capsys):
  said = lambda **keys: refusal(tool('serve', **keys), capsys)
  assert '--config.scorer=WORKDIR' in said()
  with socket.socket() as taken:
    taken.bind(('127.0.0.1', 0))
    taken.listen()
    port = taken.getsockname()[1]
    assert f'serve.port={port}' in said(scorer=workdir, serve__port=port)
  assert "'no.such.host" in said(scorer=workdir, serve__host='no.such.host.invalid')
  free = {'scorer': workdir, 'serve__port': 0}
  assert 'serve.queue=0' in said(**free, serve__queue=0)
  assert 'needs probabilities' in said(**free, serve__reduction='product')
  assert "splitting.how='entropy'" in said(**free, splitting__how='entropy')
  assert 'exactly once' in said(**free, text__question_template='x')


@pytest.mark.slow
def test_what_takes_too_long_at_the_end_is_counted(rows, monkeypatch, capsys):
  scorer = make_scorer(Gated)
  monkeypatch.setattr(score, 'load', lambda config, cache: (scorer, ABOUT))
  before = signal.getsignal(signal.SIGTERM)
  listening = serve.bind('127.0.0.1', 0)
  listening.listen()
  monkeypatch.setattr(serve, 'bind', lambda host, port: listening)

  def client():
    held = Client(listening.getsockname()[1]).connect()
    held.request('POST', '/score', json.dumps(ask(rows[0])))
    assert scorer.entered.wait(60)
    os.kill(os.getpid(), signal.SIGTERM)
    with contextlib.suppress(OSError, http.client.HTTPException):  # it never comes
      held.getresponse()

  thread = threading.Thread(target=client)
  thread.start()
  said = refusal(tool('serve', scorer='x', serve__drain_seconds=1.0), capsys, code=75)
  thread.join(60)
  scorer.gate.set()
  assert '1 requests were not answered' in said and 'serve.drain_seconds=1' in said
  assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_sigterm_under_load(workdir, rows):
  """A real process answers what it accepted, and ends with 0."""
  process = start(tool('serve', scorer=workdir, serve__port=0))
  try:
    line = next(x for x in iter(process.stderr.readline, '') if 'serving' in x)
    port = int(line.rpartition(':')[2])
    connections = [http.client.HTTPConnection('127.0.0.1', port) for _ in range(16)]
    for i, c in enumerate(connections):
      c.request('POST', '/score', json.dumps([ask(t) for t in rows[i : i + 8]]))
    time.sleep(0.5)  # accepted, and compiling
    process.send_signal(signal.SIGTERM)
    for c in connections:
      answer = c.getresponse()
      assert answer.status == 200 and len(json.loads(answer.read())['results']) == 8
    code, told = finish(process)
    assert code == 0 and 'Traceback' not in told
    assert 'served 16 requests, refused 0, left 0' in told
  finally:
    process.kill()
    process.wait()
