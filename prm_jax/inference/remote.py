"""An engine that lives elsewhere: any OpenAI-compatible `/v1/completions` server.

vLLM and SGLang are what it was written for. Text is sent and text comes back, so
no tokenizer is needed here. Nothing is left to the server's own defaults: a model's
generation config may set temperature, top-p, top-k and a repetition penalty, and
`max_tokens` is 16 where it is not sent.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import re
import threading
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import Any

from prm_jax.errors import UserError
from prm_jax.formats import text_format
from prm_jax.inference import http_client, server_answers
from prm_jax.inference.http_client import Cancel, Cancelled, Client, Refused
from prm_jax.inference.requests import Completion, Refusal, Request, Sampling
from prm_jax.inference.server_answers import Answer
from prm_jax.specs import TextFormat

# How servers say that prompt and max_tokens do not fit into the context.
_TOO_LONG = re.compile(
  r'context[ _](length|size|window)|maximum (model|context|prompt|input) length'
  r"|longer than the model|(prompt|input) (is )?too (long|large)|exceed_context",
  re.IGNORECASE,
)  # fmt: skip
COUNTERS = (
  'prefill_tokens', 'decoded_tokens', 'completions', 'compilations',
  'http_requests', 'server_errors', 'rate_limits', 'time_outs', 'broken_connections',
  'malformed_answers', 'short_answers', 'refused_requests', 'identical_choices',
  'unclear_stops', 'without_logprobs', 'estimated_token_counts', 'repaired_texts',
)  # fmt: skip


class RemoteEngine:
  """Client of a completions server; implements `requests.Engine`.

  Every sample has a seed of its own, derived from (sampling.seed, request id, sample
  index). Seeds of neighbouring samples differ by one, which is how vLLM seeds the n
  choices of one request: there a sample is the same whether it was asked for alone
  or with others. A server promises no bytes all the same (`deterministic` is False):
  its batches, and so its rounding, depend on who else is served.

  Log-probabilities are the server's: at temperature 1 and before any filter in vLLM's
  default mode (`raw_logprobs`); SGLang divides by the temperature unless told
  otherwise. The end token is the one that the server's model knows.

  Args:
    url: of the server, such as http://localhost:8000/v1.
    model: its name there.
    text_format: how prompts are written. `add_bos` says whether the server's
      tokenizer adds its special tokens; `max_length` is the server's business.
    concurrency: requests under way at once.
    timeout: seconds for a whole answer.
    connect_timeout: seconds for a connection.
    retries: attempts after the first, for whatever may pass: no connection, time-out,
      broken or malformed answer, status 408, 425, 429 and 5xx.
    first_wait: seconds; doubles with each retry, and a random part of it is waited.
    longest_wait: seconds.
    choices: completions asked for at once, at most; 0 asks for all of a request's. 1
      is for servers whose n choices share a seed (see counter `identical_choices`).
    logprobs: ask for log-probabilities, which also give exact token counts.
    extensions: send the fields that vLLM and SGLang add to OpenAI's (top_k, min_p,
      repetition_penalty, ...); a server that refuses unknown fields needs False.
    key_variable: environment variable of the API key.
    name: recorded as generator; '' takes the model's.

  Raises:
    UserError: an address or a number that cannot be used, or a key that would go
      over plain http to another machine.
  """

  deterministic = False

  def __init__(
    self,
    url: str,
    model: str,
    text_format: TextFormat,
    *,
    concurrency: int = 16,
    timeout: float = 600.0,
    connect_timeout: float = 10.0,
    retries: int = 6,
    first_wait: float = 1.0,
    longest_wait: float = 60.0,
    choices: int = 0,
    logprobs: bool = True,
    extensions: bool = True,
    key_variable: str = 'PRM_JAX_API_KEY',
    name: str = '',
  ):
    for key, good, want in (
      ('model', bool(model), "the model's name on the server"),
      ('concurrency', concurrency >= 1, '1 or more'),
      ('timeout', 0 < timeout < math.inf, 'seconds above 0'),
      ('connect_timeout', 0 < connect_timeout < math.inf, 'seconds above 0'),
      ('retries', retries >= 0, '0 or more'),
      ('first_wait', 0 <= first_wait < math.inf, 'seconds'),
      ('longest_wait', 0 <= longest_wait < math.inf, 'seconds'),
      ('choices', choices >= 0, '0 (all at once) or more'),
    ):
      if not good:
        raise UserError(f'remote engine: {key} must be {want}.')
    if text_format.question_template.count('{question}') != 1:
      raise UserError(
        f'remote engine: question_template={text_format.question_template!r} must '
        'contain {question} exactly once.'
      )
    self.name = name or model
    self.separator = text_format.separator
    self._model = model
    self._format = text_format
    self._concurrency = concurrency
    self._choices = choices
    self._logprobs = logprobs
    self._extensions = extensions
    self._key_variable = key_variable
    self._lock = threading.Lock()
    self._counters = dict.fromkeys(COUNTERS, 0)
    self._client = Client(
      _completions_url(url),
      key_variable=key_variable,
      connect_timeout=connect_timeout,
      timeout=timeout,
      retries=retries,
      first_wait=first_wait,
      longest_wait=longest_wait,
      count=self._count,
      concurrency=concurrency,
    )

  @property
  def counters(self) -> Mapping[str, int]:
    """Running totals, a copy."""
    with self._lock:
      return dict(self._counters)

  def complete(
    self, requests: Sequence[Request], sampling: Sampling
  ) -> list[list[Completion] | Refusal]:
    """For each request, in order, its n completions by sample index, or a refusal.

    A request is sent with all its n (at most `choices`); what a server leaves out is
    asked for again. At temperature 0 one completion is asked for and copied: the
    samples are the same by definition, and vLLM refuses n > 1.

    Raises:
      UserError: the server cannot be used, or something was asked that it does not
        give.
    """
    self._check(sampling)
    calls = [
      (place, first, n)
      for place, request in enumerate(requests)
      for first, n in self._calls(request, sampling)
    ]
    answers: list[dict[int, Completion]] = [{} for _ in requests]
    refusals: dict[int, Refusal] = {}
    cancel = Cancel()
    pool = futures.ThreadPoolExecutor(min(self._concurrency, max(1, len(calls))))

    def run(request: Request, first: int, n: int) -> dict[int, Completion] | Refusal:
      cancel.sleep(0)
      try:
        return self._call(request, first, n, sampling, cancel)
      except BaseException:
        cancel.set()
        raise

    try:
      running = {pool.submit(run, requests[p], first, n): p for p, first, n in calls}
      for future in futures.as_completed(running):
        try:
          place, answer = running[future], future.result()
        except Cancelled:
          continue  # because another one failed, which is raised here in its turn
        if isinstance(answer, Refusal):
          refusals[place] = answer
        else:
          answers[place].update(answer)
    finally:
      cancel.set()
      pool.shutdown(cancel_futures=True)
    self._count('refused_requests', len(refusals))
    return [
      refusals[place] if place in refusals else _ordered(request, had, sampling)
      for place, (request, had) in enumerate(zip(requests, answers))
    ]

  def _check(self, sampling: Sampling) -> None:
    if sampling.entropy or sampling.certainty:
      raise UserError(
        'sampling: a completions server does not give the entropy of the vocabulary, '
        'nor its certainty; use the in-process engine, or do without (splitting.how, '
        'sampling.certainty).'
      )
    filtered = sampling.top_k > 0 or sampling.min_p > 0
    if filtered and not self._extensions:
      raise UserError(
        f'sampling.top_k={sampling.top_k} and min_p={sampling.min_p:g} are not part '
        'of the OpenAI interface; leave them at 0, or allow extensions.'
      )

  def _calls(self, request: Request, sampling: Sampling) -> list[tuple[int, int]]:
    """(first sample, number of samples) of each call that this request needs."""
    n = 1 if sampling.temperature == 0 else request.n
    most = self._choices or n
    return [(request.first_sample + at, min(most, n - at)) for at in range(0, n, most)]

  def _call(
    self, request: Request, first: int, n: int, sampling: Sampling, cancel: Cancel
  ) -> dict[int, Completion] | Refusal:
    """Samples `first` to `first + n - 1`, by index."""
    end = self._format.end
    prefix = request.steps[: request.n_steps]
    texts = (request.question, *prefix, request.begun)
    if end and any(end in text for text in texts):
      return Refusal('stop_in_prompt', f'{end!r} stands in question or steps')
    prompt = text_format.prompt_text(self._format, request.question, prefix)
    prompt += request.begun
    had: dict[int, Completion] = {}
    while True:
      missing = [i for i in range(first, first + n) if i not in had]
      if not missing:
        return had
      start = missing[0]
      run = next((k for k, i in enumerate(missing) if i != start + k), len(missing))
      body = self._body(prompt, request.id, start, run, sampling)
      try:
        answer = self._client.post(
          body,
          request.id,
          functools.partial(server_answers.read, asked=run, sampling=sampling),
          cancel,
        )
      except Refused as e:
        return self._refusal(request, e)
      self._count_answer(answer, run, sampling)
      had.update(
        (start + k, dataclasses.replace(c, sample_index=start + k))
        for k, c in answer.choices.items()
      )

  def _body(
    self, prompt: str, request_id: str, first: int, n: int, sampling: Sampling
  ) -> dict[str, Any]:
    body: dict[str, Any] = {
      'model': self._model,
      'prompt': prompt,
      'n': n,
      'max_tokens': sampling.max_tokens,
      'temperature': sampling.temperature,
      'top_p': sampling.top_p,
      'seed': sample_seed(sampling.seed, request_id, first),
      'stream': False,
    }
    if sampling.stop:
      body['stop'] = list(sampling.stop)
    if self._logprobs:
      body['logprobs'] = 0
    if self._extensions:
      body |= {
        # Servers agree on -1 for all, not on 0.
        'top_k': sampling.top_k or -1,
        'min_p': sampling.min_p,
        'repetition_penalty': 1.0,
        'include_stop_str_in_output': sampling.keep_stop,
        'add_special_tokens': self._format.add_bos,
      }
    return body

  def _refusal(self, request: Request, e: Refused) -> Refusal:
    if e.status == 413 or (e.status in (400, 422) and _TOO_LONG.search(e.message)):
      return Refusal('too_long', e.message)
    remedy = {
      401: f'set {self._key_variable} to a key that the server accepts',
      403: f'set {self._key_variable} to a key that may use this model',
      404: f'check the path of the url and the model name {self._model!r}',
    }.get(e.status, 'change what it objects to')
    raise UserError(
      f'{self._client.url}: request {request.id} was refused with HTTP {e.status} '
      f'({e.message}); {remedy}.'
    ) from None

  def _count(self, name: str, by: int = 1) -> None:
    with self._lock:
      self._counters[name] += by

  def _count_answer(self, answer: Answer, asked: int, sampling: Sampling) -> None:
    held = list(answer.choices.values())
    for name, by in (
      ('prefill_tokens', answer.prompt_tokens),
      ('decoded_tokens', sum(c.n_tokens for c in held)),
      ('completions', len(held)),
      ('short_answers', int(len(held) < asked)),
      ('unclear_stops', answer.unclear_stops),
      ('repaired_texts', answer.repaired_texts),
      ('estimated_token_counts', answer.estimated_token_counts),
    ):
      self._count(name, by)
    if self._logprobs:
      self._count('without_logprobs', sum(c.n_tokens > len(c.logprobs) for c in held))
    if sampling.temperature > 0:
      self._count('identical_choices', len(held) - len({c.text for c in held}))


def sample_seed(seed: int, request_id: str, sample: int) -> int:
  """The seed of one sample, an int64 from 0 up; the next sample's is one more."""
  key = f'{seed}\x1f{request_id}'.encode('utf-8', 'surrogatepass')
  digest = hashlib.sha256(key).digest()
  return (int.from_bytes(digest[:8], 'big') >> 2) + sample


def _completions_url(url: str) -> str:
  url = url.strip().rstrip('/')
  path = http_client.split_url(url).path
  if path.endswith('/chat/completions'):
    raise UserError(
      f'engine url {url!r} is the chat interface, which cannot continue a solution; '
      'give .../v1, and the chat template in question_template.'
    )
  if path.endswith('/completions'):
    return url
  return f'{url}/completions' if path else f'{url}/v1/completions'


def _ordered(
  request: Request, had: dict[int, Completion], sampling: Sampling
) -> list[Completion]:
  wanted = range(request.first_sample, request.first_sample + request.n)
  if sampling.temperature == 0:
    only = had[request.first_sample]
    return [dataclasses.replace(only, sample_index=i) for i in wanted]
  if sorted(had) != list(wanted):
    raise AssertionError(f'request {request.id}: samples {sorted(had)} for {wanted}')
  return [had[i] for i in wanted]
