"""Solutions whose V is known at every prefix, and a completer that obeys it.

`python tests/planted.py` compares the searches for the first dead prefix: accuracy
against tokens and rollouts, on solutions of several shapes.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

if __name__ == '__main__':
  sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from prm_jax.inference.requests import Refusal
from prm_jax.labeling import driver
from prm_jax.labeling.protocol import Continuation
from prm_jax.labeling.registry import ALGORITHMS
from prm_jax.records import Trajectory, Verdict, make_id

TOKENS = 8  # of a step
TAU = 0.125


def solution(name, n_steps, right, problem='p', verdict='exact'):
  """A solution of `n_steps` steps; `right` None is unjudged."""
  return Trajectory(
    id=name,
    problem_id=problem,
    question='How much?',
    steps=tuple(f'{name} step {i}' for i in range(n_steps)),
    gold_answer='1',
    verdicts={verdict: Verdict(right)},
  )


class Planted:
  """Implements the completer's side: success by the V of the prefix.

  A rollout from a prefix writes the solution's own next step with probability
  `follow` (less where V would not allow it), and otherwise leaves it and succeeds
  with the probability that makes V come out right.

  Args:
    values: solution id -> [P + 1] V of the prefixes of 0 .. P steps.
    unjudged: probability that a continuation is not judged.
    refuse: solution ids whose asks are refused.
  """

  def __init__(self, values, follow=0.0, unjudged=0.0, refuse=(), seed=0):
    self.values = values
    self.follow = follow
    self.unjudged = unjudged
    self.refuse = refuse
    self.seed = seed
    self.how = {'completer': 'planted', 'sampling': {'seed': seed}}
    self.counters = Counter()
    self.rollouts = []
    self.asked = []

  def ask(self, problems, asks):
    out = []
    for problem, ask in zip(problems, asks):
      self.asked.append(ask)
      self.counters['asks'] += 1
      if ask.path_id in self.refuse:
        out.append(Refusal('too_long'))
        continue
      samples = range(ask.first_sample, ask.first_sample + ask.k)
      out.append([self._one(problem, ask, i) for i in samples])
    return out

  def take_rollouts(self):
    taken, self.rollouts = self.rollouts, []
    return taken

  def _one(self, problem, ask, index):
    key = f'{self.seed}/{ask.path_id}/{ask.n_steps}/{index}'
    draw = random.Random(key)
    v = self.values[ask.path_id]
    at, n = ask.n_steps, len(ask.path)
    correct, steps = None, []
    while at < n:
      # What success off the path must be, if the path is followed this often.
      m = self.follow
      if m:
        low = 0 if v[at + 1] == 0 else v[at] / v[at + 1]
        low = 1 if v[at + 1] == 0 else low
        high = 1 if v[at + 1] >= 1 else (1 - v[at]) / (1 - v[at + 1])
        m = min(m, low, high)
      if m >= 1 or draw.random() < m:
        steps.append(ask.path[at])
        at += 1
        continue
      off = (v[at] - m * v[at + 1]) / (1 - m)
      correct = bool(draw.random() < off)
      steps += [f'{key} new {i}' for i in range(at, n)]
      break
    if correct is None:
      correct = bool(draw.random() < v[n])
    if draw.random() < self.unjudged:
      correct = None
    name = make_id('planted', key, 0)
    self.counters['rollouts'] += 1
    self.counters['tokens'] += TOKENS * len(steps)
    self.rollouts.append(
      Trajectory(
        id=name,
        problem_id=problem.problem_id,
        question=problem.question,
        steps=ask.path[: ask.n_steps] + tuple(steps),
        parent={'id': ask.path_id, 'n_steps': ask.n_steps},
        sample_index=index,
      )
    )
    return Continuation(name, tuple(steps), correct, TOKENS * len(steps))


def steep(n_steps, first_error, alive=0.9, dead=0.0):
  """[P + 1] V that drops once; first_error -1 never drops."""
  v = np.full(n_steps + 1, alive)
  if first_error >= 0:
    v[first_error + 1 :] = dead
    v[-1] = 0.0
  else:
    v[-1] = 1.0
  return v


def draw_values(rng, shape, n_steps):
  """[P + 1] V of a wrong solution of a shape."""
  error = rng.integers(n_steps)
  v = np.empty(n_steps + 1)
  high = rng.uniform(0.5, 1.0) if shape != 'hard' else rng.uniform(0.2, 0.5)
  low = rng.beta(0.5, 20)
  if shape == 'graded':
    ramp = np.linspace(high, rng.uniform(0.15, 0.3), error + 1)
    v[: error + 1] = ramp
  else:
    v[: error + 1] = np.clip(high + rng.normal(0, 0.08, error + 1), 0.13, 1.0)
  v[error + 1 :] = low * rng.uniform(0.3, 1.0, n_steps - error)
  if shape == 'repairs' and rng.random() < 0.5 and error + 2 < n_steps:
    back = rng.integers(error + 2, n_steps)
    v[back:] = rng.uniform(0.2, high)
    v[rng.integers(back + 1, n_steps + 1) :] = low / 2
  v[-1] = 0.0
  return v


def draw(shape, n, seed=0):
  """Groups of one wrong solution each, their V, and the first dead step."""
  rng = np.random.default_rng(seed)
  groups, values, truth = [], {}, {}
  for i in range(n):
    n_steps = int(rng.integers(4, 13))
    t = solution(f'{shape}{i}', n_steps, False, problem=f'{shape}{i}')
    v = draw_values(rng, shape, n_steps)
    groups.append([t])
    values[t.id] = v
    truth[t.id] = int((v[1:] < TAU).argmax())
  return groups, values, truth


SHAPES = ('steep', 'graded', 'hard', 'repairs')


def measure(name, options, drawn, follow=0.0, seed=0):
  """(accuracy, undecided, tokens, rollouts) a solution."""
  groups, values, truth = drawn
  algorithm = ALGORITHMS[name].make(ALGORITHMS[name].options(**options))
  result = driver.run(groups, algorithm, Planted(values, follow, seed=seed))
  label = options.get('label') or name
  said = [g.labelled[0].first_error[label] for g in result.groups]
  right = [a == truth[g[0].id] for a, g in zip(said, groups)]
  n = len(groups)
  return (
    float(np.mean(right)),
    said.count(None) / n,
    result.counters['tokens'] / n,
    result.counters['rollouts'] / n,
  )


def compare(shapes=SHAPES, n=500, follow=0.0, seed=1):
  """Prints the table."""
  settings = [
    *(('sequential', {'k': k}) for k in (4, 8, 12, 16, 32)),
    *(('binary_search', {'k': k}) for k in (4, 8, 12, 16, 32)),
    *(('adaptive', {'alpha': a}) for a in (0.4, 0.25, 0.15, 0.08)),
    ('adaptive', {'rule': 'confidence', 'alpha': 0.2, 'cap': 512, 'prefix_cap': 256}),
  ]
  for shape in shapes:
    drawn = draw(shape, n, seed)
    print(f'{shape}, follow {follow}: accuracy  undecided  tokens  rollouts  seconds')
    for name, options in settings:
      start = time.perf_counter()
      a, u, tokens, rollouts = measure(name, options, drawn, follow)
      spent = time.perf_counter() - start
      said = ' '.join(f'{k}={v}' for k, v in options.items())
      print(
        f'  {name:14}{said:48} {a:.3f} {u:.3f} {tokens:8.1f} {rollouts:7.2f} '
        f'{spent:.1f}'
      )


if __name__ == '__main__':
  for follow in map(float, sys.argv[2:] or (0.0, 0.6)):
    compare(n=int(sys.argv[1]) if len(sys.argv) > 1 else 500, follow=follow)
