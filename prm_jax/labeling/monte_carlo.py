"""Monte-Carlo labels of steps (Math-Shepherd, arXiv 2312.08935).

From every prefix of a solution k continuations are sampled. A step is labelled by
those of the prefix that ends with it:

  hard (Eq. 3): 1 if any continuation is right, else 0
  soft (Eq. 4): the share of right ones; here the mean of a Beta posterior, and the
                share itself for prior (0, 0)

The last step is labelled by the solution's own outcome, without a rollout. A step of
whose rollouts none counts (`unjudged`) has no label; the others keep theirs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence
from typing import Any

from prm_jax.errors import UserError
from prm_jax.estimates import wilson
from prm_jax.labeling.protocol import Algorithm, Ask, Continuation, Labelled
from prm_jax.labeling.solutions import (
  One,
  Options,
  Tally,
  alone,
  at_least,
  one_of,
  outcome,
  unusable,
)
from prm_jax.records import LabelSet, Trajectory, first_error_of

AFTER_ERROR = ('unlabelled', 'zero')

Gathering = Generator[list[Ask], list[list[Continuation]], 'Evidence']


@dataclasses.dataclass(frozen=True)
class PrefixOptions(Options):
  """How a prefix is rolled out, and what is said of steps after the first error.

  Attributes:
    k: continuations of a prefix at most.
    early_stop: stop at a prefix's first success.
    wave: with early_stop, how many continuations are asked for at a time; all in a
      wave are paid for.
    after_error: label of steps after the first error: 'unlabelled' or 'zero'.

  Raises:
    UserError: a value that means nothing.
  """

  k: int = 8
  early_stop: bool = False
  wave: int = 1
  after_error: str = 'unlabelled'

  def __post_init__(self) -> None:
    super().__post_init__()
    at_least('k', self.k, 1)
    at_least('wave', self.wave, 1)
    one_of('after_error', self.after_error, AFTER_ERROR)


@dataclasses.dataclass(frozen=True)
class RolloutOptions(PrefixOptions):
  """How the prefixes of a solution are rolled out.

  Attributes:
    stop_after_error: go from the first prefix to the last and stop at the first that
      was judged without a success; steps after it are labelled by `after_error`. Else
      all prefixes are rolled out side by side, each step keeps its own label, as in
      Math-Shepherd, and `after_error` has nothing to act on.

  Raises:
    UserError: after_error='zero' without stop_after_error.
  """

  stop_after_error: bool = False

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.after_error != PrefixOptions.after_error and not self.stop_after_error:
      raise UserError(
        f'label option after_error={self.after_error!r}: all steps are rolled out and '
        'keep their own labels; set stop_after_error=True, or leave after_error out.'
      )


@dataclasses.dataclass(frozen=True)
class HardOptions(RolloutOptions):
  """Options of hard labels; see `RolloutOptions`."""

  early_stop: bool = True


@dataclasses.dataclass(frozen=True)
class SoftOptions(RolloutOptions):
  """Options of soft labels.

  Attributes:
    prior: (a, b) of the Beta prior of V; (0, 0) gives the share of successes, and
      needs a fixed k.

  Raises:
    UserError: a negative prior, or (0, 0) together with early_stop: the share of a
      sample that was stopped at a success is biased.
  """

  prior: tuple[float, float] = (0.5, 0.5)

  def __post_init__(self) -> None:
    super().__post_init__()
    check_prior(self.prior, self.early_stop)


def check_prior(prior: tuple[float, float], early_stop: bool) -> None:
  """Raises UserError unless the posterior mean is defined and not misleading."""
  at_least('prior', min(prior), 0)
  if early_stop:
    at_least('prior (both numbers, with early_stop)', min(prior), 1e-6)


@dataclasses.dataclass(frozen=True)
class Evidence:
  """What rolling out left, one entry a step.

  Attributes:
    tallies: [P] evidence; None for the last step and for steps not rolled out.
    stop_reason: [P] 'fixed_k'; with early_stop 'success' or 'k_spent';
      'no_judged_rollouts'; 'after_error'; 'outcome' (the last step).
    own: the solution's outcome.
  """

  tallies: tuple[Tally | None, ...]
  stop_reason: tuple[str, ...]
  own: bool

  @property
  def n_correct(self) -> tuple[int | None, ...]:
    """[P] successes."""
    return tuple(None if t is None else t.correct for t in self.tallies)

  @property
  def n_rollouts(self) -> tuple[int | None, ...]:
    """[P] rollouts that count."""
    return tuple(None if t is None else t.n for t in self.tallies)


def roll_out(
  solution: Trajectory, options: RolloutOptions, whole: bool = False
) -> Gathering:
  """Rolls out the prefixes of 1 to P - 1 steps of a usable solution.

  A prefix of which no rollout counts is not an error: with `stop_after_error` the next
  one is rolled out, whose evidence stands by itself.

  Args:
    solution: P steps.
    options: how.
    whole: with `stop_after_error`, stop at such a prefix too, for a caller to whom
      the solution is then useless.
  """
  n_steps = solution.n_steps
  tallies: list[Tally | None] = [None] * n_steps
  reasons = ['after_error'] * (n_steps - 1) + ['outcome']
  # All prefixes at once, or one after the other.
  every = list(range(n_steps - 1))
  batches = [[at] for at in every] if options.stop_after_error else [every]
  for batch in batches:
    asked = dict.fromkeys(batch, 0)
    for at in batch:
      tallies[at], reasons[at] = Tally(), 'k_spent' if options.early_stop else 'fixed_k'
    going = list(batch)
    while going:
      size = options.wave if options.early_stop else options.k
      sizes = {at: min(size, options.k - asked[at]) for at in going}
      answers = yield [
        Ask.of(solution, at + 1, k, asked[at]) for at, k in sizes.items()
      ]
      for at, some in zip(going, answers):
        asked[at] += sizes[at]
        tally = (tallies[at] or Tally()).add(some, options.unjudged)
        tallies[at] = tally
        if options.early_stop and tally.correct:
          reasons[at] = 'success'
        elif asked[at] == options.k and not tally.n:
          reasons[at] = 'no_judged_rollouts'
      going = [at for at in going if asked[at] < options.k and reasons[at] != 'success']
    last = tallies[batch[-1]] if options.stop_after_error else None
    if last and not last.correct and (last.n or whole):
      break
  own = bool(outcome(solution, options.verdict))
  return Evidence(tuple(tallies), tuple(reasons), own)


def filled(
  evidence: Evidence, values: Sequence[float | None], after_error: str
) -> tuple[float | None, ...]:
  """[P] labels of the rolled-out steps, with the steps after the error and the last.

  Args:
    evidence: of the solution.
    values: [P] labels where there is evidence; the others are not looked at.
    after_error: see `PrefixOptions`.
  """
  out = list(values)
  for at, reason in enumerate(evidence.stop_reason):
    if reason == 'outcome':
      out[at] = float(evidence.own)
    elif reason == 'after_error':
      out[at] = 0.0 if after_error == 'zero' else None
    elif reason == 'no_judged_rollouts':
      out[at] = None
  return tuple(out)


def hard_values(evidence: Evidence) -> list[float | None]:
  """[P] 1 where any continuation was right, else 0."""
  return [None if t is None else float(t.correct > 0) for t in evidence.tallies]


def posterior_means(
  evidence: Evidence, prior: tuple[float, float]
) -> list[float | None]:
  """[P] mean of the Beta posterior of V; None without evidence and prior."""
  a, b = prior
  return [
    None if t is None or t.n + a + b == 0 else (t.correct + a) / (t.n + a + b)
    for t in evidence.tallies
  ]


def stopping(options: RolloutOptions) -> dict[str, Any]:
  """What `how` says about stopping."""
  how = {
    'k': options.k,
    'stopping': 'first_success' if options.early_stop else 'fixed_k',
    'wave': options.wave if options.early_stop else options.k,
    'stop_after_error': options.stop_after_error,
    'unjudged': options.unjudged,
  }
  if options.stop_after_error:
    how['after_error'] = options.after_error
  return how


def mc_hard(options: HardOptions) -> Algorithm:
  """Math-Shepherd's hard labels; first error: the first step without a success."""
  name = options.label or 'mc_hard'

  def solve(solution: Trajectory) -> One:
    if reason := unusable(solution, options):
      return Labelled(skipped=reason)
    evidence = yield from roll_out(solution, options)
    values = filled(evidence, hard_values(evidence), options.after_error)
    how = {'algorithm': 'mc_hard', 'hard': True, **stopping(options)}
    made = label_set('value', values, how, evidence)
    return Labelled({name: made}, {name: first_error_of(values)})

  return alone(solve)


def mc_soft(options: SoftOptions) -> Algorithm:
  """Math-Shepherd's soft labels, with Wilson intervals in `meta` where k is fixed."""
  name = options.label or 'mc_soft'

  def solve(solution: Trajectory) -> One:
    if reason := unusable(solution, options):
      return Labelled(skipped=reason)
    evidence = yield from roll_out(solution, options)
    means = posterior_means(evidence, options.prior)
    values = filled(evidence, means, options.after_error)
    how = {'algorithm': 'mc_soft', 'prior': list(options.prior), **stopping(options)}
    meta = {}
    if not options.early_stop:
      meta['wilson'] = {
        name: [
          t and [float(x) for x in wilson(t.correct, t.n)] for t in evidence.tallies
        ]
      }
    return Labelled({name: label_set('value', values, how, evidence)}, meta=meta)

  return alone(solve)


def label_set(
  kind: str, values: tuple[float | None, ...], how: dict[str, Any], evidence: Evidence
) -> LabelSet:
  """A label set with its evidence."""
  return LabelSet(
    kind,
    values,
    how,
    n_correct=evidence.n_correct,
    n_rollouts=evidence.n_rollouts,
    stop_reason=evidence.stop_reason,
  )
