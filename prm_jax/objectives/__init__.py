"""Training objectives: arrays in, `(loss_sum, weight)` out.

Each is a pure function `f(values, labels, mask, weights=None, *, ...)` of the logits
of "correct" [B, P] and of what is known about the steps. `OBJECTIVES` holds them by
name, `evaluate` calls one on a head's outputs and a batch, and `units` explains what
one unit of weight is. `shaping` has the rewards of temporal-difference learning.
`next_token` is the one that trains policies: it reads tokens instead of steps.
"""

from prm_jax.objectives import shaping, units
from prm_jax.objectives.outcome import orm, orm_no_error
from prm_jax.objectives.pinball import pinball
from prm_jax.objectives.pointwise import bce, mse, three_class
from prm_jax.objectives.ranking import (
  q_ranking,
  q_ranking_first_error,
  q_ranking_theoretical,
)
from prm_jax.objectives.registry import (
  OBJECTIVES,
  Objective,
  check_head,
  check_hyperparameters,
  check_values,
  evaluate,
  get,
)
from prm_jax.objectives.temporal import lambda_returns, n_step_returns, td
from prm_jax.objectives.tokens import next_token, token_losses
from prm_jax.objectives.units import UNITS

__all__ = [
  'OBJECTIVES',
  'UNITS',
  'Objective',
  'bce',
  'check_head',
  'check_hyperparameters',
  'check_values',
  'evaluate',
  'get',
  'lambda_returns',
  'mse',
  'n_step_returns',
  'next_token',
  'orm',
  'orm_no_error',
  'pinball',
  'q_ranking',
  'q_ranking_first_error',
  'q_ranking_theoretical',
  'shaping',
  'td',
  'three_class',
  'token_losses',
  'units',
]
