"""The train step: a pure function of (state, batch), and the only place that divides.

An objective returns `(loss_sum, weight)`. The step adds both, and the gradient of
the sum, over microbatches and devices, and divides once. So gradient accumulation,
any mesh and `pmap` give one number, however unevenly the weight is spread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from prm_jax.errors import NonFiniteLoss, UserError
from prm_jax.models import lm, scorer
from prm_jax.specs import HeadSpec, ModelSpec
from prm_jax.training.state import TrainState

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
ApplyFn = Callable[[Any, Batch, jax.Array], jax.Array]
Combine = Callable[[Any, Any, jax.Array], Any]
Objective = Callable[[jax.Array, Batch], tuple[jax.Array, jax.Array]]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def apply_scoring_model(spec: ModelSpec, head: HeadSpec, **options: Any) -> ApplyFn:
  """An `ApplyFn` of the scoring model; `options` are those of `scorer.apply`."""

  def apply_fn(params: Any, batch: Batch, key: jax.Array) -> jax.Array:
    if 'question_tokens' in batch:
      return scorer.apply_shared(spec, head, params, batch, key=key, **options)
    tokens, positions = batch['tokens'], batch['step_positions']
    return scorer.apply(
      spec, head, params, tokens, positions,
      key=key, segments=batch.get('segments'), **options,
    )  # fmt: skip

  return apply_fn


def apply_policy(spec: ModelSpec, **options: Any) -> ApplyFn:
  """An `ApplyFn` of the language model; `options` are those of `lm.apply`."""

  def apply_fn(params: Any, batch: Batch, key: jax.Array) -> jax.Array:
    del key  # it has no dropout
    return lm.apply(
      spec, params, batch['tokens'], segments=batch.get('segments'), **options
    )

  return apply_fn


def make_train_step(
  apply_fn: ApplyFn,
  objective: Objective,
  tx: optax.GradientTransformation,
  *,
  seed: int = 0,
  accumulation: int = 1,
  axis_name: str | None = None,
  n_sources: int = 1,
  combine: Combine | None = None,
) -> TrainStep:
  """Builds `train_step(state, batch) -> (state, metrics)`; map it with jit or pmap.

  A step whose weight is 0, or whose loss or gradient is not finite, changes nothing
  but the number of the step.

  Args:
    apply_fn: (params, batch, dropout key) -> head outputs, [B, P] or [B, P, Q], or
      logits [B, T, V].
    objective: (outputs, batch) -> (loss_sum, weight), float32 scalars; rows whose
      `row_mask` is False must not count, as with `objectives.registry.evaluate`.
    tx: optimizer; it may take the norm of the gradient as `grad_norm`.
    seed: of dropout; a step's key is made of it and the number of the step.
    accumulation: microbatches a batch is split into (rows a, a + A, a + 2A, ...: so
      every device keeps its own rows).
    axis_name: axis of `pmap` or `shard_map` to sum over; None under `jit`.
    n_sources: data sources; with more than one, the loss of each is measured, by
      the batch's `source_index`.
    combine: (params, frozen, dropout key) -> parameters for `apply_fn`, where the state
      has frozen ones (`parts.Parts.whole`). Only `params` have a gradient.

  Returns:
    The step. Its metrics are scalars: loss, weight, grad_norm (before clipping),
    param_norm (after the step), supervised_steps (true entries of the batch's mask,
    if it has one), finite (bool), skipped (bool), learning_rate if `tx` keeps one;
    and with several sources source_loss_sum and source_weight, [n_sources].

  Raises:
    UserError: while tracing, if the rows do not divide by `accumulation`.
  """

  def loss_fn(params: Any, frozen: Any, batch: Batch, key: jax.Array):
    if combine is not None:
      params = combine(params, frozen, key)
    outputs = apply_fn(params, batch, key)
    loss_sum, weight = objective(outputs, batch)
    sums = {'loss_sum': loss_sum, 'weight': weight}
    if 'mask' in batch:
      sums['supervised_steps'] = jnp.sum(batch['mask'], dtype=jnp.float32)
    if n_sources > 1:
      outputs = jax.lax.stop_gradient(outputs)
      per_source = lambda s: objective(outputs, _of_source(batch, s))
      parts = jax.vmap(per_source)(jnp.arange(n_sources))
      sums['source_loss_sum'], sums['source_weight'] = parts
    return loss_sum, sums

  grad_fn = jax.grad(loss_fn, has_aux=True)
  tx = optax.with_extra_args_support(tx)

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    if axis_name is not None:
      key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    grads, sums = _accumulate(
      grad_fn, (state.params, state.frozen), batch, key, accumulation
    )
    if axis_name is not None:
      grads, sums = jax.lax.psum((grads, sums), axis_name)

    weight = sums.pop('weight')
    divisor = jnp.where(weight > 0, weight, 1.0)
    loss = sums.pop('loss_sum') / divisor
    # A product, because it is fused into what reads it; a division would be stored.
    mean = lambda: jax.tree.map(lambda g: g * (1.0 / divisor), grads)
    grad_norm = optax.tree_utils.tree_norm(mean())
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm) & jnp.isfinite(weight)
    good = finite & (weight > 0)

    def update(held):
      updates, opt_state = tx.update(mean(), held[1], held[0], grad_norm=grad_norm)
      return optax.apply_updates(held[0], updates), opt_state

    # A branch, because it updates in place. To choose between old and new numbers
    # keeps both: copies of the moments, and twice the time for a large vocabulary.
    params, opt_state = jax.lax.cond(
      good, update, lambda held: held, (state.params, state.opt_state)
    )
    metrics = {
      'loss': loss,
      'weight': weight,
      'grad_norm': grad_norm,
      'param_norm': _norm(params),
      'finite': finite,
      'skipped': finite & (weight == 0),
      **sums,
    }
    rates = optax.tree_utils.tree_get_all_with_path(opt_state, 'learning_rate')
    if rates:
      metrics['learning_rate'] = rates[0][1]
    return TrainState(state.step + 1, params, opt_state, state.frozen), metrics

  return train_step


def _accumulate(grad_fn, trees: tuple[Any, Any], batch: Batch, key: jax.Array, n: int):
  """Sums of float32 gradients and of the other sums over `n` microbatches."""
  wide = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float32), tree)
  if n == 1:
    return wide(grad_fn(*trees, batch, key))

  def split(x: jax.Array) -> jax.Array:
    if x.shape[0] % n:
      raise UserError(
        f'a batch of {x.shape[0]} rows a device does not divide into {n} microbatches; '
        'change the batch size or the accumulation.'
      )
    return jnp.swapaxes(x.reshape(x.shape[0] // n, n, *x.shape[1:]), 0, 1)

  def add(carry, part):
    index, micro = part
    new = wide(grad_fn(*trees, micro, jax.random.fold_in(key, index)))
    return jax.tree.map(jnp.add, carry, new), None

  micros = jax.tree.map(split, dict(batch))
  first = jax.tree.map(lambda x: x[0], micros)
  shapes = jax.eval_shape(grad_fn, *trees, first, key)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), shapes)
  return jax.lax.scan(add, zeros, (jnp.arange(n), micros))[0]


def _norm(tree: Any) -> jax.Array:
  return optax.tree_utils.tree_norm(jax.tree.map(lambda x: x.astype(jnp.float32), tree))


def _of_source(batch: Batch, source: jax.Array) -> dict[str, jax.Array]:
  """The batch with only the rows of one source left to count."""
  mine = batch['source_index'] == source
  return {**batch, 'row_mask': mine & batch.get('row_mask', True)}


def check_finite(step: int, metrics: Mapping[str, Any], what: str = '') -> None:
  """Stops a run whose step was not finite; waits for that step's metrics.

  Args:
    step: number of the step the metrics belong to.
    metrics: of that step, from `train_step`.
    what: names the batch, for example its sources and row ids.

  Raises:
    NonFiniteLoss: names step and batch; parameters are those before the step.
  """
  if bool(metrics['finite']):
    return
  raise NonFiniteLoss(
    f'step {step}: loss {float(metrics["loss"]):g} and gradient norm '
    f'{float(metrics["grad_norm"]):g} are not both finite'
    f'{f" ({what})" if what else ""}; the parameters were left as before this step. '
    'Look at the rows of this batch, or lower the learning rate.'
  )
