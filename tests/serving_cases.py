"""A tiny scorer, a server of it in a thread, and a client."""

import contextlib
import http.client
import json
import threading
from pathlib import Path

import jax
import numpy as np

from prm_jax.formats import tokenizers
from prm_jax.inference.scorer import Scorer
from prm_jax.jobs import configuration, serve
from prm_jax.models import scorer as scoring_model
from prm_jax.parallel.mesh import make_mesh
from prm_jax.parallel.sharding import replicated
from prm_jax.records import Trajectory
from prm_jax.specs import HeadSpec, ModelSpec, ScorerSpec, StepFormat

CONFIG = str(Path(__file__).resolve().parent.parent / 'configs' / 'serve.py')
MODEL = ModelSpec(
  260, n_layers=1, d_model=16, n_heads=2, n_kv_heads=1, head_dim=8, d_ff=32
)
SPEC = ScorerSpec(
  MODEL,
  HeadSpec(init_scale=0.5),
  StepFormat(question_template='{question}\n', max_length=112),
)
ABOUT = {'source': 'tiny', 'digest': '0'}
LONG = 'What is the sum of these numbers?'  # read once for all its solutions


def parameters(spec=SPEC):
  params = scoring_model.init(spec.model, spec.head, jax.random.key(0))
  return jax.device_put(params, replicated(make_mesh(devices=jax.devices()[:1])))


def make_scorer(cls=Scorer, spec=SPEC, **options):
  return cls(
    spec, parameters(spec), tokenizers.load('bytes'), batch_tokens=128, **options
  )


def solutions(n, seed=0):
  """Of two questions, a short one and one that is shared; few shapes."""
  rng = np.random.default_rng(seed)
  out = []
  for i in range(n):
    pairs = rng.integers(10, 99, (2 if i % 3 else 5, 2))
    steps = tuple(f'{a}+{b}' for a, b in pairs)
    question = LONG if i % 2 else f'>{i % 5}?'
    out.append(Trajectory(f's{i}', f'p{i}', question, steps))
  return out


class Gated(Scorer):
  """Scores nothing before `gate` is set."""

  def __init__(self, *args, **options):
    super().__init__(*args, **options)
    self.gate, self.entered = threading.Event(), threading.Event()

  def stream(self, rows):
    self.entered.set()
    assert self.gate.wait(60)
    yield from super().stream(rows)


@contextlib.contextmanager
def server(scorer, **keys):
  """(client, Running) of a server in a thread; in the config's keys __ is the dot."""
  words = [f'--config.{k.replace("__", ".")}={v}' for k, v in keys.items()]
  argv = ['prm_jax', f'--config={CONFIG}', '--config.scorer=tiny', *words]
  held = serve.make(configuration.parse(argv).config, scorer, ABOUT)
  listening = serve.bind('127.0.0.1', 0)
  listening.listen()  # before the thread does, which clients need not wait for
  thread = threading.Thread(target=held.run, args=(listening,))
  thread.start()
  try:
    yield Client(listening.getsockname()[1]), held
  finally:
    held.stop()
    thread.join(60)
    listening.close()
    assert not thread.is_alive()


class Client:
  """Asks over HTTP, each call on a connection of its own unless one is given."""

  def __init__(self, port):
    self.port = port

  def connect(self):
    return http.client.HTTPConnection('127.0.0.1', self.port, timeout=60)

  def post(self, path, body, connection=None, headers=()):
    """(status, parsed answer); a body of bytes is sent as it is."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    held = connection or self.connect()
    try:
      held.request('POST', path, raw, dict(headers))
      answer = held.getresponse()
      return answer.status, json.loads(answer.read())
    finally:
      if connection is None:
        held.close()

  def get(self, path):
    held = self.connect()
    try:
      held.request('GET', path)
      answer = held.getresponse()
      return answer.status, json.loads(answer.read())
    finally:
      held.close()

  def refused(self, path, body, status=400, **options):
    """The sentence of a refusal."""
    found, answer = self.post(path, body, **options)
    assert found == status, (found, answer)
    assert answer['error']['code'] == status
    message = answer['error']['message']
    assert len(message) > 20 and message.endswith('.') and '\n' not in message
    return message


def ask(t):
  """The body of /score for a solution."""
  return {'question': t.question, 'steps': list(t.steps)}
