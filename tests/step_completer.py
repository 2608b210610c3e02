"""A completer with known success rates, and a driver for one label algorithm.

A solution of the planted problem has P steps 'g0' .. 'g{P-1}'; a wrong one has 'b{i}'
from its first error on. Whether a continuation succeeds, and where it fails, is a
function of its prefix, path and number alone.
"""

import dataclasses

from prm_jax.labeling.protocol import Continuation
from prm_jax.labeling.tree_rows import draw
from prm_jax.records import Trajectory, Verdict


def good(n):
  return tuple(f'g{i}' for i in range(n))


def wrong(n, first_error):
  """P steps with the first error planted there."""
  return tuple(('b' if i >= first_error else 'g') + str(i) for i in range(n))


def solution(steps, right, key=0, **fields):
  verdicts = {} if right is None else {'exact': Verdict(right)}
  return Trajectory(
    f'solution{key}',
    'p',
    'Q?',
    tuple(steps),
    gold_answer='5',
    verdicts=verdicts,
    **fields,
  )


@dataclasses.dataclass
class Completer:
  """Continues prefixes of a planted problem.

  Attributes:
    n_steps: P.
    rate: chance of success of a prefix that is good so far.
    repaired: chance of success of a prefix with an error.
    asked: (prefix, k) of every ask so far.
    unjudged: every continuation number that this divides is not judged; 0 none is.
  """

  n_steps: int = 6
  rate: float = 0.6
  repaired: float = 0.0
  asked: list = dataclasses.field(default_factory=list)
  unjudged: int = 0

  def __call__(self, ask):
    prefix = ask.path[: ask.n_steps]
    self.asked.append((prefix, ask.k))
    return [self.one(ask, prefix, ask.first_sample + j) for j in range(ask.k)]

  def one(self, ask, prefix, number):
    name = (ask.path_id, ask.n_steps, number)
    dead = any(step[0] == 'b' for step in prefix)
    right = draw('succeed', *name) < (self.repaired if dead else self.rate)
    start, n = len(prefix), self.n_steps
    if right:
      steps = good(n)[start:]
    else:
      at = n if dead else start + int(draw('where', *name) * (n - start))
      steps = wrong(n, min(at, start if dead else at))[start:]
    judged = not self.unjudged or number % self.unjudged
    return Continuation(
      id='/'.join(map(str, name)),
      steps=steps,
      correct=(right or (start == n and not dead)) if judged else None,
      n_tokens=3 * len(steps),
      logprob=-0.5 * len(steps),
      step_tokens=(3,) * len(steps),
    )


def drive(algorithm, group, completer):
  """Runs an algorithm to its end; the completer answers each ask."""
  steps = algorithm(group)
  try:
    asks = next(steps)
    while True:
      assert asks, 'an empty list of asks is a round for nothing'
      asks = steps.send([completer(ask) for ask in asks])
  except StopIteration as end:
    result = end.value
  assert len(result.labelled) == len(group)
  return result
