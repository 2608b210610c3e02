"""Objectives by the name a config gives them, and the one call a train step makes.

>>> batch = {'labels': jnp.array([[1.0, 0.0]]), 'mask': jnp.ones((1, 2), bool)}
>>> loss_sum, weight = evaluate('bce', jnp.zeros((1, 2, 2)), batch)
>>> round(float(loss_sum / weight), 4)
0.6931
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from prm_jax import step_values
from prm_jax.errors import UserError
from prm_jax.objectives import (
  outcome,
  packed,
  pointwise,
  ranking,
  temporal,
  tokens,
  units,
)
from prm_jax.objectives.pinball import pinball
from prm_jax.specs import HeadSpec


@dataclasses.dataclass(frozen=True)
class Objective:
  """An objective and what must be known to train and read a model with it.

  Attributes:
    name: what a config calls it.
    fn: `fn(values, labels, mask, weights, **arrays, **hyperparameters)`, which
      returns `(loss_sum, weight)`.
    outputs: Q, the numbers of outputs a step that a head may have. 1 and 2 reach
      `fn` as the logit of "correct" [B, P], others as they are, [B, P, Q]. () is a
      language model: `fn(logits [B, T, V], tokens, token_mask, weights)`.
    step_value: the name in `step_values.VALUES` by which a model trained so is
      read.
    kind: what the values read so are: 'logit' or 'probability'.
    reduction: the name in `step_values.REDUCTIONS` used if none is chosen.
    unit: the unit of weight used if none is chosen.
    arrays: the batch arrays beyond labels, mask and weights that `fn` takes.
    fixed: (name, value) of hyperparameters that this name stands for and that can
      not be overridden.
    defaults: (name, value) of hyperparameters whose default differs from `fn`'s.
  """

  name: str
  fn: Callable[..., units.LossAndWeight]
  outputs: tuple[int, ...] = (1, 2)
  step_value: str = 'sigmoid'
  kind: str = 'probability'
  reduction: str = 'min'
  unit: str = 'step'
  arrays: tuple[str, ...] = ()
  fixed: tuple[tuple[str, Any], ...] = ()
  defaults: tuple[tuple[str, Any], ...] = ()

  @property
  def trains_policy(self) -> bool:
    """Whether tokens are learned, and not what is known about steps."""
    return not self.outputs

  @property
  def hyperparameters(self) -> dict[str, Any]:
    """Name -> default of everything a config may set, apart from the unit.

    >>> OBJECTIVES['q_ranking'].hyperparameters
    {'margin': 4.0, 'threshold': 0.5}
    """
    not_set = {'unit', 'problem_weight', *self.arrays, *dict(self.fixed)}
    return {
      p.name: dict(self.defaults).get(p.name, p.default)
      for p in inspect.signature(self.fn).parameters.values()
      if p.kind is p.KEYWORD_ONLY and p.name not in not_set
    }


def _ranking(name: str, fn: Callable[..., units.LossAndWeight], **fixed) -> Objective:
  return Objective(
    name,
    fn,
    step_value='logit',
    kind='logit',
    unit='trajectory',
    fixed=tuple(fixed.items()),
  )


_OUTCOME = ('outcome', 'outcome_mask', 'steps_mask')

_ALL = (
  Objective('bce', pointwise.bce, defaults=(('threshold', 0.5),)),
  Objective('bce_soft', pointwise.bce, fixed=(('threshold', None),)),
  Objective(
    'three_class',
    pointwise.three_class,
    outputs=(3,),
    step_value='softmax3',
    reduction='product',
  ),
  Objective('mse', pointwise.mse),
  Objective('pinball', pinball, outputs=(3,), step_value='quantile'),
  Objective('orm', outcome.orm, reduction='last', unit='trajectory', arrays=_OUTCOME),
  Objective(
    'orm_no_error',
    outcome.orm_no_error,
    reduction='last',
    unit='trajectory',
    arrays=('steps_mask',),
  ),
  _ranking('q_ranking', ranking.q_ranking, double_count=False),
  _ranking('q_ranking_theoretical', ranking.q_ranking_theoretical, double_count=False),
  _ranking('q_ranking_first_error', ranking.q_ranking_first_error),
  _ranking('q_ranking_released', ranking.q_ranking, double_count=True),
  _ranking(
    'q_ranking_theoretical_released', ranking.q_ranking_theoretical, double_count=True
  ),
  Objective('td', temporal.td, reduction='last', arrays=_OUTCOME),
  Objective('next_token', tokens.next_token, outputs=(), unit='token'),
)

OBJECTIVES: dict[str, Objective] = {o.name: o for o in _ALL}
"""Name in a config -> objective."""


def get(objective: str | Objective) -> Objective:
  """The objective of that name.

  Raises:
    UserError: there is none.
  """
  if isinstance(objective, Objective):
    return objective
  if objective not in OBJECTIVES:
    raise UserError(
      f'objective {objective!r} is unknown; choose one of {", ".join(OBJECTIVES)}.'
    )
  return OBJECTIVES[objective]


def check_head(objective: str | Objective, head: HeadSpec) -> None:
  """Refuses a head whose outputs the objective can not read.

  Raises:
    UserError: the head has the wrong number of outputs a step, or is none of a
      language model where one is trained.
  """
  objective = get(objective)
  if objective.trains_policy:
    if head.kind != 'lm':
      raise UserError(
        f'objective {objective.name!r} trains a policy, and head {head.kind!r} reads '
        "steps; set head.kind='lm'."
      )
    return
  counts = {'scalar': 1, 'mlp': 2, 'label_tokens': len(head.label_tokens)}
  n = counts.get(head.kind, head.n_outputs)
  if head.kind == 'lm' or n not in objective.outputs:
    outputs = 'one a token' if head.kind == 'lm' else n
    raise UserError(
      f'objective {objective.name!r} reads {" or ".join(map(str, objective.outputs))} '
      f'outputs a step and head {head.kind!r} has {outputs}; choose another head.'
    )


def check_hyperparameters(objective: str | Objective, names: Mapping[str, Any]) -> None:
  """Refuses hyperparameters that the objective does not have, thresholds that call
  all steps correct or all wrong, and negative margins.

  Raises:
    UserError: a name is unknown, and the sentence lists those that exist; or a value
      is out of range.
  """
  objective = get(objective)
  known = objective.hyperparameters
  for name in names:
    if name not in known:
      raise UserError(
        f'objective {objective.name!r} has no hyperparameter {name!r}; it has '
        f'{", ".join(known) or "none"}.'
      )
  threshold, margin = names.get('threshold'), names.get('margin')
  if threshold is not None and not 0 < threshold <= 1:
    raise UserError(
      f'objective.threshold is {threshold:g}; labels lie in [0, 1]: give a number '
      'above 0, at most 1.'
    )
  if margin is not None and not margin >= 0:
    raise UserError(f'objective.margin is {margin:g}; it must be at least 0.')


def check_values(
  objective: str | Objective, hyperparameters: Mapping[str, Any], unit: str | None
) -> None:
  """Refuses what `evaluate` would refuse of its unit and hyperparameters, before there
  is a batch.

  Raises:
    UserError: one is unknown or out of range.
  """
  objective = get(objective)
  row, tokens = jnp.zeros(1), jnp.zeros((1, 2), jnp.int32)
  batch = dict.fromkeys(objective.arrays, row)
  batch |= dict.fromkeys(('labels', 'mask', 'weights', 'steps_mask'), jnp.zeros((1, 2)))
  batch |= {'tokens': tokens, 'token_mask': tokens, 'problem_weight': row}
  n = max(objective.outputs, default=1)
  jax.eval_shape(
    lambda: evaluate(
      objective, jnp.zeros((1, 2, n)), batch, unit=unit, **hyperparameters
    )
  )


def evaluate(
  objective: str | Objective,
  outputs: jax.Array,
  batch: Mapping[str, jax.Array],
  *,
  unit: str | None = None,
  **hyperparameters: Any,
) -> units.LossAndWeight:
  """Loss sum and weight of a batch, from a head's outputs.

  Args:
    objective: a name of `OBJECTIVES`, or an `Objective`.
    outputs: [B, P] or [B, P, Q], any float dtype; [B, T, V] of a language model.
    batch: arrays by name: 'labels' and 'mask' [B, P], 'weights' [B, P] (ones if
      absent), or 'tokens' and 'token_mask' [B, T] for a policy; 'row_mask' [B] (False
      at rows that fill up a batch, which then count nowhere), 'problem_weight' [B]
      (for unit 'problem'), and the objective's own `arrays`. Other entries are not
      looked at. A batch of rows with several solutions each (`data.batches`) is
      brought into this form first.
    unit: of weight; the objective's own if None.
    **hyperparameters: the objective's, by name.

  Returns:
    (loss_sum, weight), float32 scalars. Only the train step divides them.

  Raises:
    UserError: unknown objective, unit or hyperparameter, or one out of range.
    ValueError: the outputs' shape is not one that the objective reads, or the batch
      lacks an array.
  """
  objective = get(objective)
  check_hyperparameters(objective, hyperparameters)
  if objective.trains_policy:
    return _of_tokens(objective, outputs, batch, unit or objective.unit)
  if jnp.ndim(batch['mask']) == 3:
    outputs, batch = packed.solutions(outputs, batch)
  n_outputs = 1 if jnp.ndim(outputs) == 2 else outputs.shape[-1]
  if n_outputs not in objective.outputs:
    raise ValueError(
      f'objective {objective.name!r} reads {objective.outputs} outputs a step, not '
      f'outputs of shape {jnp.shape(outputs)}.'
    )
  values = step_values.logit(outputs) if n_outputs in (1, 2) else outputs
  arrays = {name: batch[name] for name in objective.arrays if name in batch}
  mask = jnp.asarray(batch['mask']).astype(bool)
  if 'row_mask' in batch:
    rows = jnp.asarray(batch['row_mask']).astype(bool)
    mask &= rows[:, None]
    if 'steps_mask' in arrays:
      arrays['steps_mask'] = arrays['steps_mask'].astype(bool) & rows[:, None]
    if 'outcome_mask' in arrays:
      arrays['outcome_mask'] = arrays['outcome_mask'].astype(bool) & rows
  return objective.fn(
    values,
    batch['labels'],
    mask,
    batch.get('weights'),
    **arrays,
    **{**dict(objective.defaults), **hyperparameters, **dict(objective.fixed)},
    unit=unit or objective.unit,
    problem_weight=batch.get('problem_weight'),
  )


def _of_tokens(
  objective: Objective,
  logits: jax.Array,
  batch: Mapping[str, jax.Array],
  unit: str,
) -> units.LossAndWeight:
  if 'segments' in batch:
    tokens.check_unit(unit)
    mask, shares = packed.token_shares(batch, unit)
    return objective.fn(logits, batch['tokens'], mask, shares, unit='token')
  mask = jnp.asarray(batch['token_mask']).astype(bool)
  if 'row_mask' in batch:
    mask &= jnp.asarray(batch['row_mask']).astype(bool)[:, None]
  problem_weight = batch.get('problem_weight')
  return objective.fn(
    logits, batch['tokens'], mask, unit=unit, problem_weight=problem_weight
  )
