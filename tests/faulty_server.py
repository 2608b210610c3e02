"""A completions server on loopback that answers by rule and fails by schedule.

The answer to (prompt, seed, index) is always the same, and seeds its choices the way
vLLM does (seed + index), so a test can say what every completion must be. Attempt
number a of a prompt meets `faults[a]`, whatever threads do; after the list it is
answered properly.
"""

import hashlib
import http.server
import json
import socket
import struct
import threading
import time

FAULTS = (
  'error', 'rate_limit', 'hang', 'reset', 'closed', 'truncated', 'cut_json', 'not_json',
  'fewer', 'more', 'none', 'duplicate', 'shuffled', 'trickle', 'nan', 'aborted',
  'chunked', 'chunks_cut',
)  # fmt: skip
HANG_SECONDS = 3.0


def words(prompt, seed):
  """The text that a prompt has under a seed, and the log-probability of each token."""
  digest = hashlib.sha256(f'{prompt}|{seed}'.encode()).digest()
  tokens = [f' w{b}' for b in digest[1 : 3 + digest[0] % 6]]
  return tokens, [-(1 + b) / 256 for b in digest[9 : 9 + len(tokens)]]


def answer_words(body, seed):
  """One choice, without its index: words until the end token or max_tokens."""
  tokens, logprobs = words(body['prompt'], seed)
  cut = len(tokens) > body['max_tokens']
  tokens, logprobs = tokens[: body['max_tokens']], logprobs[: body['max_tokens']]
  return {
    'text': ''.join(tokens),
    'finish_reason': 'length' if cut else 'stop',
    'stop_reason': None,
    'logprobs': {'tokens': tokens, 'token_logprobs': logprobs},
  }


class FaultyServer:
  """Use as a context manager; `url` is what a client is given.

  Args:
    faults: names in `FAULTS`; attempt a of a prompt meets faults[a].
    answer: (body, seed) -> a choice without index.
    refuse: body -> (status, JSON) to refuse it, or None.
    seconds: that every proper answer takes.
    retry_after: header of a rate limit, '' for none.
    echo: put the Authorization header into every error message, as a bad server may.
    context: of TLS, for https.
  """

  def __init__(
    self,
    faults=(),
    answer=answer_words,
    refuse=lambda body: None,
    seconds=0.0,
    retry_after='0',
    echo=False,
    context=None,
  ):
    self.faults = faults
    self.answer = answer
    self.refuse = refuse
    self.seconds = seconds
    self.retry_after = retry_after
    self.echo = echo
    self.lock = threading.Lock()
    self.bodies = []
    self.keys = []
    self.times = []
    self.attempts = {}
    self.now = self.most_at_once = 0
    self.problems = []
    self.stopping = threading.Event()
    self.http = _Http(('127.0.0.1', 0), _Handler)
    self.http.owner = self
    scheme = 'http'
    if context is not None:
      self.http.socket = context.wrap_socket(self.http.socket, server_side=True)
      scheme = 'https'
    self.url = f'{scheme}://127.0.0.1:{self.http.server_address[1]}/v1'

  def __enter__(self):
    self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,))
    self.thread.start()
    return self

  def __exit__(self, *exception):
    self.stopping.set()
    self.http.shutdown()
    self.thread.join()
    self.http.server_close()
    assert not self.problems, self.problems

  def expected(self, prompt, seed, max_tokens):
    """(text, log-probabilities, finish reason) of one completion."""
    choice = answer_words({'prompt': prompt, 'max_tokens': max_tokens}, seed)
    end = 'length' if choice['finish_reason'] == 'length' else 'end'
    return choice['text'], tuple(choice['logprobs']['token_logprobs']), end


class _Http(http.server.ThreadingHTTPServer):
  daemon_threads = True
  block_on_close = False
  request_queue_size = 128

  def handle_error(self, request, client_address):
    import sys

    problem = sys.exc_info()[1]
    if not isinstance(problem, OSError):  # a client may hang up; a bug may not hide
      self.owner.problems.append(problem)


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'

  def log_message(self, *args):
    pass

  def do_POST(self):
    owner = self.server.owner
    length = int(self.headers['Content-Length'])
    raw = self.rfile.read(length)
    if len(raw) < length:  # the client has given up
      return self.drop()
    body = json.loads(raw)
    with owner.lock:
      attempt = owner.attempts.get(body['prompt'], 0)
      owner.attempts[body['prompt']] = attempt + 1
      owner.bodies.append(body)
      owner.keys.append(self.headers.get('Authorization'))
      owner.times.append(time.monotonic())
      owner.now += 1
      owner.most_at_once = max(owner.most_at_once, owner.now)
    fault = owner.faults[attempt] if attempt < len(owner.faults) else ''
    self.serve(owner, body, fault)

  def serve(self, owner, body, fault):
    if self.path != '/v1/completions':
      return self.error(404, {'detail': 'Not Found'})
    refused = owner.refuse(body)
    if refused:
      return self.error(*refused)
    if fault == 'error':
      return self.error(500, {'error': {'message': 'the engine died', 'code': 500}})
    if fault == 'rate_limit':
      return self.error(429, {'message': 'too many requests'}, owner.retry_after)
    if fault == 'hang':
      owner.stopping.wait(HANG_SECONDS)
      self.leave()
      return self.drop()
    if fault == 'reset':
      linger = struct.pack('ii', 1, 0)
      self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    if fault in ('reset', 'closed'):
      self.leave()
      return self.drop()
    owner.stopping.wait(owner.seconds)
    said = self.completions(owner, body, fault)
    raw = json.dumps(said).encode()
    self.leave()
    if fault == 'cut_json':
      raw = raw[: len(raw) // 2]
    if fault == 'not_json':
      raw = b'<html>welcome to the proxy</html>'
    self.send_response(200)
    self.send_header('Content-Type', 'application/json')
    if fault in ('chunked', 'chunks_cut'):
      return self.chunks(raw, whole=fault == 'chunked')
    self.send_header('Content-Length', str(len(raw)))
    self.end_headers()
    if fault == 'truncated':
      self.wfile.write(raw[: len(raw) // 2])
      return self.drop()
    if fault == 'trickle':
      for i in range(len(raw)):
        self.wfile.write(raw[i : i + 1])
        if owner.stopping.wait(0.05):
          break
      return None
    self.wfile.write(raw)

  def chunks(self, raw, whole):
    self.send_header('Transfer-Encoding', 'chunked')
    self.end_headers()
    half = len(raw) // 2
    self.wfile.write(b'%x\r\n%b\r\n' % (half, raw[:half]))
    if not whole:
      return self.drop()
    self.wfile.write(b'%x\r\n%b\r\n0\r\n\r\n' % (len(raw) - half, raw[half:]))

  def completions(self, owner, body, fault):
    n = body['n'] + (fault == 'more')
    choices = [{'index': i, **owner.answer(body, body['seed'] + i)} for i in range(n)]
    if fault == 'fewer':
      # Every second one, so that what is missing stands in several places.
      choices = choices[::2] if n > 1 else choices
    if fault == 'none':
      choices = []
    if fault == 'duplicate':
      choices[-1]['index'] = 0
      choices = [choices[-1], *choices]
    if fault == 'shuffled':
      choices = choices[::-1]
    if fault == 'nan':
      choices[0]['logprobs'] = {'tokens': ['a'], 'token_logprobs': [float('nan')]}
    if fault == 'aborted':
      choices[0]['finish_reason'] = 'abort'
    spent = sum(len(c['logprobs']['tokens']) for c in choices if c.get('logprobs'))
    if 'logprobs' not in body:
      choices = [{**c, 'logprobs': None} for c in choices]
    usage = {'prompt_tokens': len(body['prompt']), 'completion_tokens': spent}
    return {'object': 'text_completion', 'choices': choices, 'usage': usage}

  def error(self, status, said, retry_after=''):
    self.leave()
    raw = json.dumps(said)
    if self.server.owner.echo:
      raw = json.dumps({'message': f'{raw} for {self.headers.get("Authorization")}'})
    self.send_response(status)
    self.send_header('Content-Length', str(len(raw)))
    if retry_after:
      self.send_header('Retry-After', retry_after)
    self.end_headers()
    self.wfile.write(raw.encode())

  def leave(self):
    # Before the answer: who has it may ask again before this thread goes on.
    with self.server.owner.lock:
      self.server.owner.now -= 1

  def drop(self):
    self.close_connection = True
    self.wfile.flush()
    self.connection.close()
