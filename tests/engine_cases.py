"""A tiny policy, and a sampler that recomputes everything, to hold the engine to."""

import jax
import numpy as np

from prm_jax.formats import text_format
from prm_jax.formats.tokenizers import ByteTokenizer
from prm_jax.inference.requests import Completion, Refusal, Request, Sampling
from prm_jax.inference.sampling import (
  BLOCK,
  Filters,
  Values,
  blocks,
  draw,
  exponentials,
  row_key,
)
from prm_jax.models import lm
from prm_jax.specs import ModelSpec, PolicySpec, TextFormat


class Letters:
  """Few tokens, some of several characters: stop strings cross their boundaries."""

  texts = (
    '<eos>', *'0123456789', ' ', '\n', '+', '=', '-', 'a', 'ab', 'abc', 'b', 'c',
    '1\n', '\n\n', 'é', '. ',
  )  # fmt: skip
  vocab_size = len(texts)
  bos_id = None
  pad_id = 0
  fingerprint = 'letters'

  def encode(self, text):
    out = []
    while text:
      fits = [t for t in self.texts if text.startswith(t)]
      best = max(fits, key=len)
      out.append(self.texts.index(best))
      text = text[len(best) :]
    return out

  def decode(self, ids):
    return ''.join(self.texts[i] for i in ids)

  def token_id(self, text):
    return self.texts.index(text) if text in self.texts else None


def policy(tokenizer=None, max_length=64, seed=0, vocab_size=0, **changes):
  """(spec, params, tokenizer) of a model with random weights."""
  tokenizer = tokenizer or ByteTokenizer()
  values = {'n_layers': 2, 'd_model': 16, 'n_heads': 2, 'n_kv_heads': 1}
  model = ModelSpec(
    vocab_size or tokenizer.vocab_size,
    **{**values, 'head_dim': 8, 'd_ff': 32, **changes},
  )
  fmt = TextFormat(question_template='{question}\n', max_length=max_length)
  params = lm.init(model, jax.random.key(seed))
  # Larger logits than at initialisation: some tokens are likely, some are not.
  params['decoder']['final_norm_D'] = 4.0 * params['decoder']['final_norm_D']
  return PolicySpec(model, fmt), params, tokenizer


class Naive:
  """One token at a time, the whole text through the model each time."""

  def __init__(self, spec, params, tokenizer):
    self.spec, self.params, self.tokenizer = spec, params, tokenizer
    self.apply = jax.jit(lm.apply, static_argnums=0)
    self.draw = jax.jit(draw, static_argnums=0)

  def logits(self, tokens):
    padded = np.zeros((1, self.spec.text_format.max_length), np.int32)
    padded[0, : len(tokens)] = tokens
    out = self.apply(self.spec.model, self.params, padded)
    return out[:, len(tokens) - 1, : self.tokenizer.vocab_size]

  def gap(self, request: Request, sampling: Sampling, tokens, sample, pair):
    """By how much the first of two candidates for the token after `tokens` leads the
    other in the first race that they do not run together, of their blocks or of the
    tokens: log-probability minus the log of an exponential, unfiltered."""
    prompt, _ = text_format.encode_prefixes(
      self.spec.text_format, self.tokenizer, request.question,
      request.steps[: request.n_steps],
    )  # fmt: skip
    logits = self.logits(prompt.tolist() + list(tokens))
    key = row_key(sampling.seed, request.id, sample)[None]
    number = np.array([len(tokens)], np.int32)
    scaled = np.asarray(blocks(logits / sampling.temperature, -np.inf))[0]
    e = -np.log(exponentials(key, number, len(scaled) + BLOCK))[0]
    of_blocks = np.logaddexp.reduce(scaled, axis=-1) + e[: len(scaled)]
    of_tokens = scaled + e[len(scaled) :]
    (a, i), (b, j) = (divmod(token, BLOCK) for token in pair)
    return of_tokens[a, i] - of_tokens[b, j] if a == b else of_blocks[a] - of_blocks[b]

  def complete(self, request: Request, sampling: Sampling):
    fmt = self.spec.text_format
    prompt, ends = text_format.encode_prefixes(
      fmt, self.tokenizer, request.question, request.steps[: request.n_steps]
    )
    assert ends[-1] == len(prompt)
    if len(prompt) >= fmt.max_length:
      return Refusal('too_long')
    samples = range(request.first_sample, request.first_sample + request.n)
    return [self.one(request.id, prompt.tolist(), s, sampling) for s in samples]

  def one(self, id_, prompt, sample, sampling):
    key = row_key(sampling.seed, id_, sample)[None]
    tokens, logprobs, entropies = [], [], []
    reason, text = 'length', ''
    end = text_format.end_id(self.spec.text_format, self.tokenizer)
    while len(tokens) < sampling.max_tokens and (
      len(prompt) + len(tokens) < self.spec.text_format.max_length
    ):
      drawn = self.draw(
        Filters.of(sampling), Values.of(sampling), self.logits(prompt + tokens), key,
        np.array([len(tokens)], np.int32),
      )  # fmt: skip
      tokens.append(int(drawn.token[0]))
      logprobs.append(float(drawn.logprob[0]))
      if sampling.entropy:
        entropies.append(float(drawn.entropy[0]))
      if tokens[-1] == end:
        reason = 'end'
        break
      text = self.tokenizer.decode(tokens)
      found = [(text.find(s), len(s)) for s in sampling.stop if s in text]
      if found:
        start, length = min(found)
        text, reason = text[: start + length * sampling.keep_stop], 'stop'
        break
    return Completion(
      text, tuple(tokens), tuple(logprobs), tuple(entropies), reason, sample,
      len(tokens),
    )  # fmt: skip


def same(a, b, tolerance=1e-4):
  """Two lists of completions are the same but for rounding of log-probabilities."""
  if isinstance(a, Refusal) or isinstance(b, Refusal):
    return a.reason == b.reason
  return len(a) == len(b) and all(
    (x.text, x.tokens, x.finish_reason, x.sample_index, x.n_tokens)
    == (y.text, y.tokens, y.finish_reason, y.sample_index, y.n_tokens)
    and np.allclose(x.logprobs, y.logprobs, atol=tolerance, rtol=0)
    and len(x.entropies) == len(y.entropies)
    and np.allclose(x.entropies, y.entropies, atol=tolerance, rtol=0)
    for x, y in zip(a, b)
  )


def problem_requests(n_solutions=3, n=5, id_='p'):
  """All prefixes of some solutions, nested, of different lengths, in one bucket."""
  rows = []
  for i in range(n_solutions):
    steps = tuple(f'{j}+' + ' ' * (i % 2) for j in range(i % 3 + 1))
    for k in range(len(steps) + 1):
      rows.append(Request(f'{id_}{i}/{k}', f'{i}+1', steps, k, n))
  return rows
