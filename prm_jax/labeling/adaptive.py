"""First dead prefix with as few rollouts as the evidence allows; our own algorithm.

A prefix is *dead* if V(prefix) < tau: the named completer reaches the right answer
from it too rarely. Along a solution V is taken for a Markov chain whose end is known,
the solution's own outcome: an alive prefix becomes dead with probability `hazard` a
step, a dead one alive with probability `repair` (a wrong step that is silently put
right). The counts of all prefixes give the posterior of the first dead one, F, as
`change_point` says.

Where to spend next: the prefix whose next rollout is expected to tell most about F
(mutual information) per token. A rollout counts for the prefix that it started from,
and with `reuse` also for the longer prefixes of the solution that it happens to
reproduce step by step, from which it is a fair continuation; never for shorter ones.

When to stop, `rule`:
  'posterior'   one F has posterior probability 1 - alpha or more: the expected loss
                of stopping is below alpha. Nothing is promised for a single V.
  'confidence'  an anytime-valid confidence sequence has shown the prefix of F dead and
                the one before alive, each wrong with probability at most alpha,
                whenever it is looked at; the posterior only chooses where to look.
At `cap` rollouts, or `prefix_cap` of one prefix, the solution is *undecided*: the
first error is unknown, steps that are not surely alive have no label, and the
posterior is kept in `meta`. If none of the rollouts counts it is skipped ('unparsed').
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from prm_jax.labeling.change_point import ChangePoint, Prior
from prm_jax.labeling.confidence import ALIVE, DEAD, UNDECIDED, ConfidenceSequence
from prm_jax.labeling.monte_carlo import AFTER_ERROR
from prm_jax.labeling.protocol import Algorithm, Ask, Continuation, Labelled
from prm_jax.labeling.solutions import (
  One,
  Options,
  Tally,
  alone,
  at_least,
  between,
  one_of,
  outcome,
  unusable,
)
from prm_jax.records import LabelSet, Trajectory

RULES = ('posterior', 'confidence')
PRICES = ('tokens', 'rollouts')


@dataclasses.dataclass(frozen=True)
class AdaptiveOptions(Options):
  """Options of the adaptive search.

  Attributes:
    tau: a prefix is dead if its V is below.
    rule: 'posterior' or 'confidence'.
    alpha: error that the rule allows.
    hazard: prior probability that a step kills an alive prefix.
    repair: prior probability that a step revives a dead one.
    redraw: prior probability that V is drawn anew within its kind by a step.
    alive, dead: (a, b) of the Beta priors of V, cut off at tau.
    price: what is saved: 'tokens' or 'rollouts'.
    reuse: count a rollout also for longer prefixes that it reproduces.
    wave: continuations asked for at a time.
    cap: rollouts of a solution at most.
    prefix_cap: rollouts from one prefix at most.
    check_right: search solutions with a right answer too; otherwise all their steps
      are labelled 1.
    after_error: label of the steps after the first error: 'unlabelled' or 'zero'.
  """

  tau: float = 0.125
  rule: str = 'posterior'
  alpha: float = 0.15
  hazard: float = 0.15
  repair: float = 0.05
  redraw: float = 0.1
  alive: tuple[float, float] = (1.0, 3.0)
  dead: tuple[float, float] = (0.15, 1.0)
  price: str = 'tokens'
  reuse: bool = True
  wave: int = 1
  cap: int = 128
  prefix_cap: int = 64
  check_right: bool = False
  after_error: str = 'unlabelled'

  def __post_init__(self) -> None:
    super().__post_init__()
    one_of('rule', self.rule, RULES)
    one_of('price', self.price, PRICES)
    one_of('after_error', self.after_error, AFTER_ERROR)
    for name in ('tau', 'alpha', 'hazard', 'repair', 'redraw'):
      between(name, getattr(self, name), 0, 1)
    for name in ('alive', 'dead'):
      object.__setattr__(self, name, tuple(getattr(self, name)))
      between(name, min(getattr(self, name)), 0, np.inf)
    for name in ('wave', 'cap', 'prefix_cap'):
      at_least(name, getattr(self, name), 1)


class _Search:
  """One solution under way: evidence, posterior, where to look next."""

  def __init__(self, solution: Trajectory, own: bool, options: AdaptiveOptions):
    self.options = options
    self.solution = solution
    self.n = solution.n_steps
    prior = Prior(
      options.tau,
      options.hazard,
      options.repair,
      options.redraw,
      options.alive,
      options.dead,
    )
    self.chain = ChangePoint(prior, self.n, own)
    self.tallies = [Tally() for _ in range(self.n)]
    self.asked = [0] * self.n
    self.tokens = [0] * self.n
    self.rule = ConfidenceSequence(options.tau, options.alpha)
    self.claims = [UNDECIDED] * (self.n - 1) + [ALIVE if own else DEAD]
    self.why = ''

  def first_dead(self) -> int | None:
    """F if the rule is satisfied (-1: no dead prefix), else None."""
    if self.options.rule == 'posterior':
      best = int(self.chain.posterior.argmax())
      if self.chain.posterior[best] < 1 - self.options.alpha:
        return None
      return -1 if best == self.n else best
    alive, dead = self._bracket()
    if dead == self.n:
      # Right answer: every prefix was shown alive, or counts as such.
      return -1 if all(c == ALIVE for c in self.claims) else None
    return dead if alive == dead - 1 else None

  def _bracket(self) -> tuple[int, int]:
    """(last prefix shown alive before it, first prefix shown dead, or P)."""
    dead = self.claims.index(DEAD) if DEAD in self.claims else self.n
    alive = max((i for i in range(dead) if self.claims[i] == ALIVE), default=-1)
    return alive, dead

  def choose(self) -> int | None:
    """Prefix (0-based by its last step) to roll out next; None at a cap."""
    o = self.options
    if sum(self.asked) >= o.cap:
      return None
    worth = self.chain.information()
    if o.price == 'tokens':
      worth = worth / np.array([self._price(i) for i in range(self.n - 1)])
    allowed = np.array([self.asked[i] < o.prefix_cap for i in range(self.n - 1)])
    if o.rule == 'confidence':
      alive, dead = self._bracket()
      places = np.arange(self.n - 1)
      # With a right answer nothing is shown dead, and every prefix is looked at.
      wanted = (places > (-1 if dead == self.n else alive)) & (places < dead)
      wanted &= np.array(self.claims[: self.n - 1]) == UNDECIDED
      if (wanted & ~allowed).any():
        return None  # what is not known here never will be
      allowed &= wanted
    if not allowed.any():
      return None
    return int(np.where(allowed, worth, -1.0).argmax())

  def _price(self, at: int) -> float:
    """Tokens that a rollout from here is expected to take, in steps if unknown."""
    seen = sum(self.asked)
    if not seen:
      return self.n - 1 - at
    # Mean tokens a remaining step, over all rollouts; then by what remains.
    steps = sum(a * (self.n - 1 - i) for i, a in enumerate(self.asked))
    return max(1.0, sum(self.tokens) / steps * (self.n - 1 - at))

  def add(self, at: int, answers: list[Continuation]) -> None:
    """Takes in rollouts from prefix `at`."""
    self.asked[at] += len(answers)
    self.tokens[at] += sum(c.n_tokens for c in answers)
    touched = {at}
    for c in answers:
      self._count(at, c)
      if self.options.reuse:
        for i in range(at + 1, self.n - 1):
          if self.solution.steps[at + 1 : i + 1] != c.steps[: i - at]:
            break
          self._count(i, c)
          touched.add(i)
    for i in touched:
      tally = self.tallies[i]
      self.chain.update(i, tally.correct, tally.n)

  def _count(self, at: int, answer: Continuation) -> None:
    """One rollout of a prefix; a claim once made stands."""
    tally = self.tallies[at].add([answer], self.options.unjudged)
    self.tallies[at] = tally
    if self.options.rule == 'confidence' and self.claims[at] == UNDECIDED:
      self.claims[at] = int(
        self.rule.decide(np.array(tally.correct), np.array(tally.n))
      )

  def labels(self, first: int | None, how: dict[str, Any]) -> LabelSet:
    """Hard labels; of an undecided solution only those of surely alive steps."""
    n = self.n
    if first is None:
      reasons = ['undecided'] * n
      sure = self._surely_alive()
      values = [1.0 if t < sure else None for t in range(n)]
    else:
      reasons = [self.options.rule] * n
      end = n if first < 0 else first
      after = 0.0 if self.options.after_error == 'zero' else None
      values = [1.0 if t < end else 0.0 if t == end else after for t in range(n)]
    return LabelSet(
      'value',
      tuple(values),
      how,
      n_correct=tuple(t.correct for t in self.tallies),
      n_rollouts=tuple(t.n for t in self.tallies),
      stop_reason=tuple(reasons),
    )

  def _surely_alive(self) -> int:
    """Length of the beginning that is alive beyond the rule's doubt."""
    if self.options.rule == 'confidence':
      return next(i for i, c in enumerate([*self.claims, DEAD]) if c != ALIVE)
    died = np.cumsum(self.chain.posterior)[: self.n]
    return int((died <= self.options.alpha).sum())


def adaptive(options: AdaptiveOptions) -> Algorithm:
  """First dead prefix; hard labels of kind 'value' at tau."""
  name = options.label or 'adaptive'
  how = {
    'algorithm': 'adaptive',
    'hard': True,
    'tau': options.tau,
    'stopping': options.rule,
    'alpha': options.alpha,
    'prior': {
      'hazard': options.hazard,
      'repair': options.repair,
      'redraw': options.redraw,
      'alive': list(options.alive),
      'dead': list(options.dead),
    },
    'price': options.price,
    'reuse': options.reuse,
    'wave': options.wave,
    'cap': options.cap,
    'prefix_cap': options.prefix_cap,
    'check_right': options.check_right,
    'after_error': options.after_error,
    'unjudged': options.unjudged,
  }

  def solve(solution: Trajectory) -> One:
    if reason := unusable(solution, options):
      return Labelled(skipped=reason)
    own = bool(outcome(solution, options.verdict))
    search = _Search(solution, own, options)
    first: int | None = -1
    if not own or options.check_right:
      while (first := search.first_dead()) is None:
        at = search.choose()
        if at is None:
          break
        k = min(options.wave, options.prefix_cap - search.asked[at])
        k = min(k, options.cap - sum(search.asked))
        answers = yield [Ask.of(solution, at + 1, k, search.asked[at])]
        search.add(at, answers[0])
    if first is None and not any(t.n for t in search.tallies):
      return Labelled(skipped='unparsed')  # its labels would be the prior's
    meta = {'posterior': {name: [round(float(p), 6) for p in search.chain.posterior]}}
    return Labelled({name: search.labels(first, how)}, {name: first}, meta=meta)

  return alone(solve)
