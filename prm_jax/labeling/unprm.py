"""UnPRM (arXiv 2508.01773): label the solutions and steps a policy is unsure of.

Which solutions, by uncertainty and diversity:

  H_i      = - sum over the tokens of step i of q log q,  q = softmax(logprob / 5)
  u        = mean over i of |H_i - H_(i-1)|
  next one = argmax of  a * u + (1 - a) * (1 - mean cosine to those chosen)

with u scaled to [0, 1] over the group; H is over the step's own token
log-probabilities, not over the vocabulary. Which step is the first error: a step
fails where its perplexity-weighted solve rate

  rate = sum over right j of w_j / sum over j of w_j,   w_j = exp(logprob_j / tokens_j)

is below the question's own. Right solutions are right in every step, without
rollouts; in a wrong one every step from the first error on is wrong, and if no step
fails it is the last.

Choices: the question's rate is that of the first n of the root rollouts that the
dynamic rule has anyway; a continuation whose log-probability is not known weighs 1; a
solution with a verified step of whose rollouts none counts is skipped ('unparsed').
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from prm_jax.labeling.protocol import (
  Algorithm,
  Ask,
  Continuation,
  GroupResult,
  Labelled,
  Steps,
)
from prm_jax.labeling.solutions import (
  One,
  Options,
  Tally,
  alone,
  at_least,
  one_of,
  outcome,
)
from prm_jax.records import LabelSet, Trajectory

NAME = 'un_prm'
SEARCHES = ('uncertainty', 'uncertainty_change', 'sequential', 'binary', 'adaptive')
_BY_TOKENS = ('uncertainty', 'uncertainty_change')


@dataclasses.dataclass(frozen=True)
class UnOptions(Options):
  """Constants of the released code.

  Attributes:
    search: how the first error is looked for: 'uncertainty' (steps by falling H),
      'uncertainty_change' (by falling H_i - H_(i-1), so never the first step),
      'sequential', 'binary', or 'adaptive' (binary; its first middle lies earlier for
      hard questions and later for easy ones). The first two return the first step
      tried that fails, which need not be the earliest.
    choose: solutions chosen by uncertainty; False labels all of the group.
    n_right, n_chosen: right solutions chosen at most, and chosen in all.
    alpha: a, weight of uncertainty against diversity.
    temperature: the 5 of q.
    rollouts: k of a step. 0 is the dynamic rule: `probes` rollouts of the root; skip
      the question if at most `min_solved` of them are right; then
      max(16, i rounded up to a multiple of 8), i the 0-based place of the probe that
      is right for the `min_solved`-th time.
    probes, min_solved: of the dynamic rule.

  Raises:
    UserError: a value that means nothing.
  """

  search: str = 'uncertainty'
  choose: bool = True
  n_right: int = 2
  n_chosen: int = 8
  alpha: float = 0.8
  temperature: float = 5.0
  rollouts: int = 0
  probes: int = 72
  min_solved: int = 10

  def __post_init__(self) -> None:
    super().__post_init__()
    one_of('search', self.search, SEARCHES)
    at_least('temperature', self.temperature, 1e-6)
    for name, least in (
      ('n_right', 0), ('n_chosen', 1), ('rollouts', 0), ('probes', 1),
      ('min_solved', 1), ('alpha', 0),
    ):  # fmt: skip
      at_least(name, getattr(self, name), least)


def step_entropy(logprobs: Sequence[float], temperature: float = 5.0) -> float:
  """H of a step, in nats, of its own tokens' log-probabilities [T]; 0 without any."""
  if not len(logprobs):
    return 0.0
  scaled = np.asarray(logprobs, np.float64) / temperature
  q = np.exp(scaled - scaled.max())
  q /= q.sum()
  return float(-np.sum(q * np.log(np.where(q > 0, q, 1.0))))


def uncertainty(entropies: Sequence[float]) -> float:
  """u of a solution: the mean absolute change of H; 0 for a single step."""
  return float(np.abs(np.diff(entropies)).mean()) if len(entropies) > 1 else 0.0


def cosine(a: Sequence[int], b: Sequence[int]) -> float:
  """Cosine of two token-id vectors, cut to the shorter; 0 if one is all zero."""
  n = min(len(a), len(b))
  x, y = np.asarray(a[:n], np.float64), np.asarray(b[:n], np.float64)
  size = float(np.linalg.norm(x) * np.linalg.norm(y))
  return float(x @ y) / size if size else 0.0


def choose(
  uncertainties: Sequence[float], ids: Sequence[Sequence[int]], n: int, alpha: float
) -> list[int]:
  """Places of the n solutions chosen greedily, the most uncertain first.

  Args:
    uncertainties: u of each.
    ids: token ids of each.
    n: how many; all of them if there are no more.
    alpha: weight of uncertainty against diversity.
  """
  if len(uncertainties) <= n:
    return list(range(len(uncertainties)))
  if n < 1:
    return []
  u = np.asarray(uncertainties, np.float64)
  spread = u.max() - u.min()
  scaled = (u - u.min()) / spread if spread else np.full(len(u), 0.5)
  chosen = [int(np.argmax(scaled))]
  while len(chosen) < n:
    left = [i for i in range(len(u)) if i not in chosen]
    similar = {i: np.mean([cosine(ids[i], ids[c]) for c in chosen]) for i in left}
    chosen.append(
      max(left, key=lambda i: alpha * scaled[i] + (1 - alpha) * (1 - similar[i]))
    )
  return chosen


def solve_rate(found: Sequence[Continuation], unjudged: str = 'wrong') -> float | None:
  """Perplexity-weighted share of right continuations; None if none counts."""
  weights = [
    1.0 if one.logprob is None else math.exp(one.logprob / max(one.n_tokens, 1))
    for one in found
  ]
  counted = [one.correct is not None or unjudged == 'wrong' for one in found]
  total = sum(w for w, c in zip(weights, counted) if c)
  good = sum(w for w, one in zip(weights, found) if one.correct)
  return good / total if total else None


def n_rollouts(found: Sequence[Continuation], options: UnOptions) -> int:
  """Rollouts of a step by the dynamic rule, from the root's; 0 skips the question."""
  places = [i for i, one in enumerate(found) if one.correct]
  if len(places) <= options.min_solved:
    return 0
  return max(16, math.ceil(places[options.min_solved - 1] / 8) * 8)


def un_prm(options: UnOptions | None = None) -> Algorithm:
  """The algorithm with these options; labels are called 'un_prm'."""
  chosen = options or UnOptions()
  return lambda group: _run(group, chosen)


def _run(group: Sequence[Trajectory], options: UnOptions) -> Steps:
  skipped = _unfit(group, options)
  if all(skipped):
    return GroupResult([Labelled(skipped=reason) for reason in skipped])
  k, solved = 0, 0
  rate: float | None = None
  if any(not s and not outcome(t, options.verdict) for s, t in zip(skipped, group)):
    n = options.rollouts or options.probes
    (found,) = yield [Ask.of(group[0], 0, n)]
    k = options.rollouts or n_rollouts(found, options)
    solved = sum(bool(one.correct) for one in found)
    rate = solve_rate(found[:k], options.unjudged)
    reason = _hopeless(found, k, rate)
    skipped = [s or reason for s in skipped]

  def one(solution: Trajectory) -> One:
    at = next(i for i, t in enumerate(group) if t is solution)
    if skipped[at]:
      return _nothing(skipped[at])
    return _solve(solution, k, rate, options)

  result = yield from alone(one)(group)
  name = options.label or NAME
  facts = {'question_rate': rate, 'k': k, 'solved_probes': solved}
  labelled = [
    x if x.skipped else dataclasses.replace(x, meta={name: {**facts, **x.meta}})
    for x in result.labelled
  ]
  return GroupResult(labelled)


def _hopeless(found: Sequence[Continuation], k: int, rate: float | None) -> str:
  """Why no solution of a question can be labelled; '' if they can."""
  if rate and k:
    return ''
  if any(one.correct for one in found):
    return 'few_right'
  return 'all_wrong' if any(one.correct is False for one in found) else 'unparsed'


def _nothing(reason: str) -> One:
  """Skips a solution."""
  yield from ()
  return Labelled(skipped=reason)


def _unfit(group: Sequence[Trajectory], options: UnOptions) -> list[str]:
  """Why each solution is not labelled; '' if it is."""
  by_tokens = options.choose or options.search in _BY_TOKENS
  reasons = []
  for t in group:
    if not t.steps:
      reasons.append('no_steps')
    elif outcome(t, options.verdict) is None:
      reasons.append('unparsed')
    elif by_tokens and not _has_tokens(t):
      reasons.append('no_logprobs')
    else:
      reasons.append('')
  if not options.choose:
    return reasons
  left = options.n_chosen
  for side, limit in ((True, options.n_right), (False, options.n_chosen)):
    places = [
      i
      for i, t in enumerate(group)
      if not reasons[i] and outcome(t, options.verdict) is side
    ]
    kept = choose(
      [uncertainty(_entropies(group[i], options)) for i in places],
      [_ids(group[i]) for i in places],
      min(limit, left),
      options.alpha,
    )
    left -= len(kept)
    for place in {*range(len(places))} - {*kept}:
      reasons[places[place]] = 'not_chosen'
  return reasons


def _has_tokens(t: Trajectory) -> bool:
  return len(t.tokens) == t.n_steps and all(
    held.get('logprobs') and held.get('ids') for held in t.tokens
  )


def _entropies(t: Trajectory, options: UnOptions) -> list[float]:
  return [step_entropy(held['logprobs'], options.temperature) for held in t.tokens]


def _ids(t: Trajectory) -> list[int]:
  return [i for held in t.tokens for i in held['ids']]


def _solve(solution: Trajectory, k: int, rate: float | None, options: UnOptions) -> One:
  """Labels of one solution; asks `k` continuations of the steps that it verifies."""
  n = solution.n_steps
  name = options.label or NAME
  tried: dict[int, tuple[Tally, float]] = {}
  error = n
  if not outcome(solution, options.verdict):
    assert rate is not None  # the question was asked for the wrong solutions
    search = _Order(solution, rate, options)
    while (at := search.next()) is not None:
      (found,) = yield [Ask.of(solution, at + 1, k)]
      one = solve_rate(found, options.unjudged)
      if one is None:
        return Labelled(skipped='unparsed')
      tried[at] = Tally().add(found, options.unjudged), one
      search.saw(at, one < rate)
    error = search.error
  tallies = [tried.get(t, (None, None))[0] for t in range(n)]
  held = LabelSet(
    'value',
    tuple(float(t < error) for t in range(n)),
    {'by': NAME, 'hard': True, 'search': options.search},
    n_correct=tuple(None if t is None else t.correct for t in tallies),
    n_rollouts=tuple(None if t is None else t.n for t in tallies),
    stop_reason=tuple('inferred' if t is None else 'verified' for t in tallies),
  )
  rates = {str(t): one for t, (_, one) in sorted(tried.items())}
  first_error = -1 if error == n else error
  return Labelled({name: held}, {name: first_error}, meta={'rates': rates})


class _Order:
  """Which step to verify next, and what that says of the first error.

  Attributes:
    error: the first error so far as known; the last step until one fails.
  """

  def __init__(self, solution: Trajectory, rate: float, options: UnOptions):
    self.error = solution.n_steps - 1
    self._binary = options.search in ('binary', 'adaptive')
    self._left, self._right = 0, solution.n_steps - 2
    self._shift = 0
    if options.search == 'adaptive' and self._right >= 4:
      rating = round(rate * 5)
      side = -1 if rating < 2 else int(rating >= 5)
      self._shift = side * (self._right // 4)
    steps = range(solution.n_steps - 1)
    if options.search in _BY_TOKENS:
      h = _entropies(solution, options)
      if options.search == 'uncertainty':
        order = sorted(steps, key=lambda t: -h[t])
      else:
        order = sorted(steps[1:], key=lambda t: h[t - 1] - h[t])
    else:
      order = list(steps)
    self._queue = order[::-1]

  def next(self) -> int | None:
    """The step to verify; None if the search is over."""
    if not self._binary:
      return self._queue.pop() if self._queue else None
    if self._left > self._right:
      return None
    return (self._left + self._right) // 2 + self._shift

  def saw(self, at: int, failed: bool) -> None:
    """Takes in the verdict on a step."""
    self._shift = 0
    if self._binary:
      if failed:
        self._right = at - 1
      else:
        self._left = at + 1
      self.error = self._left
    elif failed:
      self.error = at
      self._queue = []
