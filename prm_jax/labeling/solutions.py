"""What every label algorithm shares: its base options, own outcomes, one at a time.

Most algorithms treat each solution of a problem by itself. They are written as a
generator over one solution, and `alone` makes the group's algorithm of it: the asks
of all solutions of the problem go out together.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Generator, Sequence

from prm_jax.errors import UserError
from prm_jax.labeling.protocol import (
  Algorithm,
  Ask,
  Continuation,
  GroupResult,
  Labelled,
  Steps,
)
from prm_jax.records import Trajectory

UNJUDGED = ('wrong', 'drop')

One = Generator[list[Ask], list[list[Continuation]], Labelled]


@dataclasses.dataclass(frozen=True)
class Options:
  """What all algorithms may be told.

  Attributes:
    label: name of the label set; '' takes the algorithm's own.
    verdict: key of `verdicts` that holds a given solution's own outcome.
    unjudged: a continuation without a verdict counts as 'wrong', or is left out of
      all counts ('drop'). Either way it is counted.

  Raises:
    UserError: a value that is not known.
  """

  label: str = ''
  verdict: str = 'exact'
  unjudged: str = 'wrong'

  def __post_init__(self) -> None:
    one_of('unjudged', self.unjudged, UNJUDGED)


def one_of(name: str, value: str, known: Sequence[str]) -> None:
  """Raises UserError unless `value` is one of `known`."""
  if value not in known:
    raise UserError(f'label option {name}={value!r}; use one of {", ".join(known)}.')


def at_least(name: str, value: float, least: float) -> None:
  """Raises UserError unless `value` is `least` or more."""
  if not value >= least:
    raise UserError(f'label option {name}={value!r} must be {least:g} or more.')


def between(name: str, value: float, low: float, high: float) -> None:
  """Raises UserError unless `value` lies strictly between `low` and `high`."""
  if not low < value < high:
    raise UserError(
      f'label option {name}={value!r} must lie between {low:g} and {high:g}.'
    )


class Refused(Exception):
  """Thrown into an algorithm in place of answers: some asks cannot be served.

  An algorithm that does not catch it ends, and all solutions of its problem are
  skipped for that reason.

  Attributes:
    reasons: [A] for each ask why it was refused ('too_long', ...), '' if it was not.
    answers: [A] its continuations, [] if it was refused.
  """

  def __init__(self, reasons: list[str], answers: list[list[Continuation]]):
    super().__init__(', '.join(sorted(set(filter(None, reasons)))))
    self.reasons = reasons
    self.answers = answers

  @property
  def reason(self) -> str:
    """The first reason."""
    return next(filter(None, self.reasons))


def outcome(solution: Trajectory, verdict: str) -> bool | None:
  """A given solution's own outcome; None if it was not judged."""
  held = solution.verdicts.get(verdict)
  return None if held is None else held.value


def unusable(solution: Trajectory, options: Options) -> str:
  """Why a solution cannot be labelled by rollouts, '' if it can.

  'no_steps', 'empty_step', 'no_gold_answer' (continuations could not be judged),
  'no_verdict' (its own answer was never checked), 'unparsed' (its own answer could
  not be judged, and the option `unjudged` is 'drop'; else it counts as wrong).
  """
  if not solution.steps:
    return 'no_steps'
  if not all(step.strip() for step in solution.steps):
    return 'empty_step'
  if solution.gold_answer is None:
    return 'no_gold_answer'
  if options.verdict not in solution.verdicts:
    return 'no_verdict'
  if outcome(solution, options.verdict) is None and options.unjudged == 'drop':
    return 'unparsed'
  return ''


@dataclasses.dataclass(frozen=True)
class Tally:
  """Evidence about one prefix: rollouts that count, successes, unjudged ones."""

  n: int = 0
  correct: int = 0
  unjudged: int = 0

  def add(self, answers: Sequence[Continuation], unjudged: str) -> Tally:
    """With further continuations, read by the option `unjudged`."""
    judged = [c for c in answers if c.correct is not None or unjudged == 'wrong']
    return Tally(
      self.n + len(judged),
      self.correct + sum(c.correct is True for c in judged),
      self.unjudged + sum(c.correct is None for c in answers),
    )


def alone(solve: Callable[[Trajectory], One]) -> Algorithm:
  """The algorithm that solves each solution by itself, all at the same time.

  A refused ask skips its solution alone.
  """

  def algorithm(group: Sequence[Trajectory]) -> Steps:
    runs = [solve(solution) for solution in group]
    labelled: list[Labelled] = [Labelled() for _ in group]
    asks: dict[int, list[Ask]] = {}

    def go_on(at: int, move: Callable[[], list[Ask]]) -> None:
      try:
        asks[at] = move()
      except StopIteration as end:
        asks.pop(at, None)
        labelled[at] = end.value

    for at in range(len(runs)):
      go_on(at, runs[at].__next__)
    while asks:
      sizes = {at: len(some) for at, some in asks.items()}
      reasons = [''] * sum(sizes.values())
      try:
        answers = yield [ask for some in asks.values() for ask in some]
      except Refused as refused:
        answers, reasons = refused.answers, refused.reasons
      start = 0
      for at, size in sizes.items():
        part = slice(start, start + size)
        start += size
        reason = next(filter(None, reasons[part]), '')
        if reason:
          runs[at].close()
          del asks[at]
          labelled[at] = Labelled(skipped=reason)
        else:
          go_on(at, functools.partial(runs[at].send, answers[part]))
    return GroupResult(labelled)

  return algorithm


def count_skipped(labelled: Sequence[Labelled]) -> Counter[str]:
  """'labelled' and 'skipped/REASON' of some solutions."""
  return Counter(
    f'skipped/{one.skipped}' if one.skipped else 'labelled' for one in labelled
  )
