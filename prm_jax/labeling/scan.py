"""Self-denoising Monte-Carlo labels (SCAN, arXiv 2509.16548).

The *self-confidence* c of a problem is the share of its solutions that are right.
Problems with a low c are skipped: where the completer fails by itself, a failed
rollout says little about the step. In a wrong solution the prefixes are rolled out
from the front, k each, up to the first step t without a success; MC is the share of
right ones:

  label of t             0
  of t - 1, t - 2        min(1, MC / c)        (tolerance 2)
  of earlier steps       1
  of later steps         none

A right solution is labelled 1 throughout without rollouts. A wrong one in which every
prefix has a success is skipped ('no_zero_step'). The published data hold as many
right solutions as wrong ones; drawing those is left to whoever trains. A problem of
which no sample counts, and a solution with a prefix of which no rollout does, is
skipped ('unparsed').
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from prm_jax.labeling.monte_carlo import RolloutOptions, label_set, roll_out
from prm_jax.labeling.protocol import Algorithm, Ask, GroupResult, Labelled, Steps
from prm_jax.labeling.solutions import (
  One,
  Options,
  Tally,
  alone,
  at_least,
  between,
  outcome,
  unusable,
)
from prm_jax.records import LabelSet, Trajectory


@dataclasses.dataclass(frozen=True)
class ScanOptions(Options):
  """Constants of the paper.

  Attributes:
    k: continuations of a prefix.
    min_confidence: problems below it are skipped ('low_confidence').
    samples: whole solutions sampled to estimate the self-confidence; 0 takes the
      given solutions of the problem that are judged (128 in the paper).
    tolerance: steps before the first error whose labels are softened.
  """

  k: int = 8
  min_confidence: float = 0.75
  samples: int = 0
  tolerance: int = 2

  def __post_init__(self) -> None:
    super().__post_init__()
    at_least('k', self.k, 1)
    between('min_confidence', self.min_confidence, -1e-9, 1 + 1e-9)
    at_least('samples', self.samples, 0)
    at_least('tolerance', self.tolerance, 0)


def denoised(
  shares: Sequence[float], first_error: int, confidence: float, tolerance: int
) -> list[float | None]:
  """[P] labels up to the first error, None after it.

  Args:
    shares: [P] MC of the prefixes; read only in the tolerance.
    first_error: t.
    confidence: c, above 0.
    tolerance: steps before t that are softened.

  >>> denoised([1, 0.25, 0.75, 0.5, 0, 0], 4, 0.75, 2)
  [1.0, 1.0, 1.0, 0.6666666666666666, 0.0, None]
  """
  t = first_error
  out: list[float | None] = [None] * len(shares)
  for i in range(t):
    out[i] = 1.0 if i < t - tolerance else min(1.0, shares[i] / confidence)
  out[t] = 0.0
  return out


def scan(options: ScanOptions) -> Algorithm:
  """SCAN's labels, of kind 'denoised', with the self-confidence in `meta`."""
  name = options.label or 'scan'
  rollouts = RolloutOptions(
    verdict=options.verdict,
    unjudged=options.unjudged,
    k=options.k,
    stop_after_error=True,
  )
  how = {
    'algorithm': 'scan',
    'k': options.k,
    'stopping': 'fixed_k',
    'stop_after_error': True,
    'min_confidence': options.min_confidence,
    'samples': options.samples,
    'tolerance': options.tolerance,
    'unjudged': options.unjudged,
  }

  def solve(solution: Trajectory, confidence: float) -> One:
    n = solution.n_steps
    if outcome(solution, options.verdict):
      reasons = ('outcome',) * n
      labels = LabelSet('denoised', (1.0,) * n, how, stop_reason=reasons)
      return Labelled({name: labels}, {name: -1})
    evidence = yield from roll_out(solution, rollouts, whole=True)
    tallies = [t or Tally() for t in evidence.tallies]
    reached = [i for i, t in enumerate(evidence.tallies) if t is not None]
    if any(not tallies[i].n for i in reached):
      return Labelled(skipped='unparsed')
    first = next((i for i in reached if not tallies[i].correct), None)
    if first is None:
      return Labelled(skipped='no_zero_step')
    shares = [t.correct / t.n if t.n else 0.0 for t in tallies]
    values = denoised(shares, first, confidence, options.tolerance)
    labels = label_set('denoised', tuple(values), how, evidence)
    return Labelled({name: labels}, {name: first})

  def algorithm(group: Sequence[Trajectory]) -> Steps:
    reasons = {t.id: unusable(t, options) for t in group}
    usable = [t for t in group if not reasons[t.id]]
    tally = Tally()
    if usable and options.samples:
      answers = yield [Ask.of(usable[0], 0, options.samples)]
      tally = Tally().add(answers[0], options.unjudged)
    elif usable:
      own = [outcome(t, options.verdict) for t in usable]
      tally = Tally(len(own), sum(o is True for o in own))
    confidence = tally.correct / tally.n if tally.n else 0.0
    meta = {'self_confidence': {name: [tally.correct, tally.n]}}

    def one(solution: Trajectory) -> One:
      if reasons[solution.id]:
        return Labelled(skipped=reasons[solution.id])
      if not tally.n:
        return Labelled(skipped='unparsed', meta=meta)
      if confidence < options.min_confidence or not tally.correct:
        return Labelled(skipped='low_confidence', meta=meta)
      labelled = yield from solve(solution, confidence)
      return dataclasses.replace(labelled, meta=meta)

    result: GroupResult = yield from alone(one)(group)
    return result

  return algorithm
