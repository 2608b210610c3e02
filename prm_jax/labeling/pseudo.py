"""Pseudo-labels from the outcome alone (FreePRM, arXiv 2506.03570)."""

from __future__ import annotations

from prm_jax.labeling.protocol import Algorithm, Labelled
from prm_jax.labeling.solutions import One, Options, alone, outcome
from prm_jax.records import LabelSet, Trajectory


def free_prm(options: Options) -> Algorithm:
  """Every step carries the outcome of its solution; nothing is rolled out.

  The labels are noisy by design: they are meant for an objective that may give a
  step's probability to a third, uncertain class. No first error follows from them. A
  solution whose answer is not judged is skipped ('unparsed').
  """
  name = options.label or 'free_prm'

  def solve(solution: Trajectory) -> One:
    own = outcome(solution, options.verdict)
    if not solution.steps:
      return Labelled(skipped='no_steps')
    if own is None:
      judged = options.verdict in solution.verdicts
      return Labelled(skipped='unparsed' if judged else 'no_verdict')
    how = {'algorithm': 'free_prm', 'verdict': options.verdict}
    labels = LabelSet('outcome', (float(own),) * solution.n_steps, how)
    return Labelled({name: labels})
    yield  # a generator that asks nothing

  return alone(solve)
