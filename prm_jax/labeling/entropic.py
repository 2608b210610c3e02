"""Entropy-regularised labels (ER-PRM, arXiv 2412.11006).

  label = (1 / eta) ln( (1 / k) sum_j exp(eta r_j) )
        = (1 / eta) ln( (1 - p) + p e^eta ),   r_j in {0, 1}, p their mean

It tends to the soft label for eta -> 0 and to the hard one for eta -> infinity. The
last step is the solution's own outcome.
"""

from __future__ import annotations

import dataclasses
import math

from prm_jax.estimates import entropic
from prm_jax.labeling.monte_carlo import (
  RolloutOptions,
  check_prior,
  filled,
  label_set,
  posterior_means,
  roll_out,
  stopping,
)
from prm_jax.labeling.protocol import Algorithm, Labelled
from prm_jax.labeling.solutions import One, alone, between, unusable
from prm_jax.records import Trajectory


@dataclasses.dataclass(frozen=True)
class EntropicOptions(RolloutOptions):
  """Options of entropic labels.

  Attributes:
    k: 16 in the paper.
    eta: above 0.
    prior: (a, b) of the Beta prior whose posterior mean stands for p; (0, 0), as in
      the paper, is the share of successes and needs a fixed k.
  """

  k: int = 16
  eta: float = 1.0
  prior: tuple[float, float] = (0.0, 0.0)

  def __post_init__(self) -> None:
    super().__post_init__()
    between('eta', self.eta, 0, math.inf)
    check_prior(self.prior, self.early_stop)


def er_prm(options: EntropicOptions) -> Algorithm:
  """ER-PRM's labels, of kind 'entropic'."""
  name = options.label or 'er_prm'

  def solve(solution: Trajectory) -> One:
    if reason := unusable(solution, options):
      return Labelled(skipped=reason)
    evidence = yield from roll_out(solution, options)
    values = [
      None if p is None else float(entropic(p, options.eta))
      for p in posterior_means(evidence, options.prior)
    ]
    labels = filled(evidence, values, options.after_error)
    how = {
      'algorithm': 'er_prm',
      'eta': options.eta,
      'prior': list(options.prior),
      **stopping(options),
    }
    return Labelled({name: label_set('entropic', labels, how, evidence)})

  return alone(solve)
