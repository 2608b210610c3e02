"""A policy and a scorer whose whole tree is written down, as sessions.

A character is a token, and the separator is one. What is drawn is a function of the
key alone, as with the real engine.
"""

import dataclasses
import hashlib
import math

import numpy as np

from prm_jax.inference.requests import Completion, Refusal
from prm_jax.records import Trajectory

SEPARATOR = '\n'
END = '$'  # stands for the end token at the end of a scripted step


@dataclasses.dataclass
class Rows:
  rows: list
  tokens_read: list

  def __len__(self):
    return len(self.rows)


class Texts:
  """Rows of (question, steps, open text, before); nothing is read twice."""

  def start(self, questions):
    return Rows([(q, (), '', None) for q in questions], [len(q) for q in questions])

  def take(self, state, indices):
    return Rows([state.rows[i] for i in indices], [0] * len(indices))

  def join(self, states):
    rows = [row for state in states for row in state.rows]
    return Rows(rows, [0] * len(rows))


def uniform(*names):
  digest = hashlib.sha256('/'.join(map(str, names)).encode()).digest()
  return int.from_bytes(digest[:7]) / 2**56


class Policy(Texts):
  """Draws the next step from `options(steps) -> {step: probability}`.

  A step that ends in '$' ends the solution. `longest` is the context in characters.
  """

  name, separator = 'scripted', SEPARATOR

  def __init__(self, options, longest=10**6):
    self.options, self.longest = options, longest
    self.calls = []

  def step(self, state, n, sampling, keys):
    assert sampling.stop in ((SEPARATOR,), ())
    self.calls.append((len(state), sampling))
    rows, answers = [], []
    for (question, steps, begun, _), k, (name, first) in zip(state.rows, n, keys):
      if sum(map(len, steps)) + len(begun) >= self.longest:
        answers.append(Refusal('too_long'))
        continue
      some = []
      for j in range(k):
        c, new = self._draw(steps, begun, sampling, (sampling.seed, name, first + j))
        rows.append((question, *new, (steps, begun, c)))
        some.append(dataclasses.replace(c, sample_index=first + j))
      answers.append(some)
    return Rows(rows, [0] * len(rows)), answers

  def _draw(self, steps, begun, sampling, key):
    text, logprobs, reason, start = '', [], '', steps
    number = 0
    while not reason:
      masses = {
        s + SEPARATOR * (s[-1] != END): p
        for s, p in self.options(steps).items()
        if (s + SEPARATOR).startswith(begun)
      }
      total = sum(masses.values())
      at = uniform(*key, number) * total
      pick = max(masses, key=masses.get)
      if sampling.temperature > 0:
        ends = np.cumsum(list(masses.values()))
        pick = list(masses)[int(np.searchsorted(ends, at, side='right'))]
      number += 1
      while not reason and begun != pick:
        token = pick[len(begun)]
        held = sum(p for s, p in masses.items() if s.startswith(begun))
        begun += token
        now = sum(p for s, p in masses.items() if s.startswith(begun))
        logprobs.append(math.log(now / held))
        if token == END:
          reason = 'end'
        elif token == SEPARATOR and sampling.stop:
          reason = 'stop'
        else:
          text += token
        if not reason and len(logprobs) >= sampling.max_tokens:
          reason = 'length'
      if reason != 'length':
        steps, begun = (*steps, begun[:-1]), ''
    tokens = tuple(range(len(logprobs)))
    c = Completion(text, tokens, tuple(logprobs), (), reason, 0, len(tokens))
    if not sampling.stop and reason == 'length':
      steps, begun = start, begun
    return c, (steps, begun)

  def cut(self, state, lengths):
    rows, texts = [], []
    for (question, _, _, (steps, begun, c)), k in zip(state.rows, lengths):
      texts.append(c.text[:k])
      rows.append((question, steps, begun + texts[-1], None))
    return Rows(rows, [0] * len(rows)), texts


class Scorer(Texts):
  """Scores a step by `value(steps)`; refuses what no scorer should be given."""

  name = 'scripted_prm'

  def __init__(self, value, kind='probability'):
    self.value, self.kind = value, kind
    self.seen = []

  def _one(self, steps):
    assert steps[-1].strip() and SEPARATOR not in steps[-1] and END not in steps[-1]
    self.seen.append(steps)
    return self.value(steps)

  def extend(self, state, steps):
    rows = [(q, (*old, s), '', None) for (q, old, *_), s in zip(state.rows, steps)]
    values = np.array([self._one(row[1]) for row in rows], np.float32)
    return Rows(rows, [len(s) for s in steps]), values

  def score(self, questions, solutions):
    values = [
      np.array([self._one(tuple(s[: i + 1])) for i in range(len(s))], np.float32)
      for s in solutions
    ]
    read = [len(q) + sum(map(len, s)) for q, s in zip(questions, solutions)]
    return values, read


def good_and_bad(depth=4, good=0.3):
  """Every step is good or bad; the solution is right if all are good."""

  def options(steps):
    end = END if len(steps) == depth - 1 else ''
    return {f'bad{len(steps)}{end}': 1 - good, f'good{len(steps)}{end}': good}

  return options


def all_good(steps):
  return 0.9 if all(s.startswith('g') for s in steps) else 0.1


def problems(n=1):
  return [Trajectory(f'row{i}', f'p{i}', f'question {i}', ()) for i in range(n)]
