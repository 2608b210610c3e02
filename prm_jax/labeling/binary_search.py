"""The first error by search: from the front, or by halving.

A prefix is taken to be alive if any of up to k continuations is right. `sequential`
tries the prefixes one after the other and stops at the first that is not alive;
`binary_search` takes it that nothing alive follows something dead and needs
ceil(log2 P) prefixes. Both stop at a prefix's first success, and neither asks
anything of a solution whose own answer is right, unless told to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from typing import Any

from prm_jax.labeling.monte_carlo import PrefixOptions
from prm_jax.labeling.protocol import Algorithm, Ask, Continuation, Labelled
from prm_jax.labeling.solutions import One, Tally, alone, outcome, unusable
from prm_jax.records import LabelSet, Trajectory


@dataclasses.dataclass(frozen=True)
class SearchOptions(PrefixOptions):
  """Options of both searches; see `PrefixOptions`."""

  early_stop: bool = True


@dataclasses.dataclass(frozen=True)
class SequentialOptions(SearchOptions):
  """Options of the search from the front.

  Attributes:
    check_right: search solutions with a right answer too; otherwise all their steps
      are labelled 1.
  """

  check_right: bool = False


@dataclasses.dataclass
class Trace:
  """What a search has seen of a solution: prefix length - 1 -> evidence, and why."""

  tallies: dict[int, Tally] = dataclasses.field(default_factory=dict)
  reasons: dict[int, str] = dataclasses.field(default_factory=dict)


def is_alive(
  solution: Trajectory, n_steps: int, options: SearchOptions, trace: Trace
) -> Generator[list[Ask], list[list[Continuation]], bool | None]:
  """Rolls out one prefix: whether any of up to k continuations is right.

  None if none of them counts: all unjudged, and the option says to drop those.
  """
  asked, tally = 0, Tally()
  while asked < options.k and not (options.early_stop and tally.correct):
    size = options.wave if options.early_stop else options.k
    size = min(size, options.k - asked)
    answers = yield [Ask.of(solution, n_steps, size, asked)]
    asked += size
    tally = tally.add(answers[0], options.unjudged)
  trace.tallies[n_steps - 1] = tally
  if not options.early_stop:
    trace.reasons[n_steps - 1] = 'fixed_k'
  else:
    trace.reasons[n_steps - 1] = 'success' if tally.correct else 'k_spent'
  return tally.correct > 0 if tally.n else None


def found(
  solution: Trajectory,
  first_error: int,
  trace: Trace,
  how: dict[str, Any],
  after_error: str,
) -> LabelSet:
  """Hard labels from a first error.

  Args:
    solution: P steps.
    first_error: 0-based, -1 none.
    trace: evidence of the steps that were rolled out; the others are 'implied'.
    how: of the label set.
    after_error: see `SearchOptions`.
  """
  n = solution.n_steps
  end = n if first_error < 0 else first_error
  after = 0.0 if after_error == 'zero' else None
  values = [1.0 if t < end else 0.0 if t == end else after for t in range(n)]
  reasons = [trace.reasons.get(t, 'implied') for t in range(n)]
  if n - 1 not in trace.reasons:
    reasons[-1] = 'outcome'
  seen = [trace.tallies.get(t) for t in range(n)]
  return LabelSet(
    'value',
    tuple(values),
    how,
    n_correct=tuple(None if t is None else t.correct for t in seen),
    n_rollouts=tuple(None if t is None else t.n for t in seen),
    stop_reason=tuple(reasons),
  )


def _how(algorithm: str, options: SearchOptions) -> dict[str, Any]:
  return {
    'algorithm': algorithm,
    'hard': True,
    'k': options.k,
    'stopping': 'first_success' if options.early_stop else 'fixed_k',
    'wave': options.wave if options.early_stop else options.k,
    'after_error': options.after_error,
    'unjudged': options.unjudged,
  }


def sequential(options: SequentialOptions) -> Algorithm:
  """First error from the front; the last step is the solution's own outcome."""
  name = options.label or 'sequential'
  how = {**_how('sequential', options), 'check_right': options.check_right}

  def solve(solution: Trajectory) -> One:
    if reason := unusable(solution, options):
      return Labelled(skipped=reason)
    own, trace = bool(outcome(solution, options.verdict)), Trace()
    first = -1 if own else solution.n_steps - 1
    if not own or options.check_right:
      for n_steps in range(1, solution.n_steps):
        lives = yield from is_alive(solution, n_steps, options, trace)
        if lives is None:
          return Labelled(skipped='unparsed')
        if not lives:
          first = n_steps - 1
          break
    labels = found(solution, first, trace, how, options.after_error)
    return Labelled({name: labels}, {name: first})

  return alone(solve)


def binary_search(options: SearchOptions) -> Algorithm:
  """First error by halving; a solution with a right answer has none."""
  name = options.label or 'binary_search'
  how = _how('binary_search', options)

  def solve(solution: Trajectory) -> One:
    if reason := unusable(solution, options):
      return Labelled(skipped=reason)
    trace, first = Trace(), -1
    if not outcome(solution, options.verdict):
      # The prefix of `dead` steps has no success, that of `alive` steps has.
      alive, dead = 0, solution.n_steps
      while dead - alive > 1:
        middle = (alive + dead) // 2
        lives = yield from is_alive(solution, middle, options, trace)
        if lives is None:
          return Labelled(skipped='unparsed')
        if lives:
          alive = middle
        else:
          dead = middle
      first = dead - 1
    labels = found(solution, first, trace, how, options.after_error)
    return Labelled({name: labels}, {name: first})

  return alone(solve)
