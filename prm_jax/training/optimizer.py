"""AdamW with a schedule, clipping and a decay mask, as an optax transformation.

AdamW: Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (2019). The
order is clip by global norm, Adam, decoupled decay, learning rate.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from prm_jax.errors import UserError

SCHEDULES = ('cosine', 'linear', 'constant', 'wsd')
MOMENT_DTYPES = ('float32', 'bfloat16')

Schedule = Callable[[Any], jax.Array]


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """AdamW and its schedule.

  Attributes:
    peak_lr: highest learning rate.
    schedule: after warm-up, 'constant', 'linear' or 'cosine' down to
      `end_factor * peak_lr` at `horizon`, or 'wsd' (warm-up, stable, decay:
      constant, then linear over the last `decay_fraction` of the horizon).
    warmup_steps: updates of linear rise; the first update has rate
      `peak_lr / warmup_steps`, not 0.
    horizon: updates over which the schedule runs; later ones keep the last rate.
    end_factor: final rate as a share of `peak_lr`.
    decay_fraction: share of the horizon that 'wsd' spends decaying.
    b1, b2, eps: Adam's constants.
    weight_decay: decoupled decay, multiplied by the learning rate.
    no_decay: a parameter whose path contains one of these is not decayed;
      vectors (norms, biases) never are.
    clip_norm: gradients are scaled down to this global norm; 0 never clips.
    moments_dtype: dtype in which Adam's first moment is stored.
    second_moment_dtype: and the second. float32 unless memory is short: bfloat16
      keeps 8 bits, so that an update which moves the mean by less than 1/512 of it is
      lost; with b2 above 0.99 nearly all are, and that is refused.
  """

  peak_lr: float = 1e-3
  schedule: str = 'cosine'
  warmup_steps: int = 100
  horizon: int = 1000
  end_factor: float = 0.1
  decay_fraction: float = 0.2
  b1: float = 0.9
  b2: float = 0.95
  eps: float = 1e-8
  weight_decay: float = 0.1
  no_decay: tuple[str, ...] = ()
  clip_norm: float = 1.0
  moments_dtype: str = 'float32'
  second_moment_dtype: str = 'float32'

  @property
  def moment_bytes(self) -> int:
    """Bytes that the two moments of one parameter take."""
    dtypes = (self.moments_dtype, self.second_moment_dtype)
    return sum(jnp.dtype(d).itemsize for d in dtypes)


class RateState(NamedTuple):
  """Updates made so far (int32) and the rate of the last one (float32)."""

  updates: jax.Array
  learning_rate: jax.Array


def make(config: OptimizerConfig) -> tuple[optax.GradientTransformation, Schedule]:
  """The optax transformation and its schedule.

  Returns:
    (transformation, schedule); schedule(updates made so far) -> float32 rate.

  Raises:
    UserError: a value of the config is impossible.
  """
  _check(config)
  schedule = make_schedule(config)

  parts = [_clip(config.clip_norm)] if config.clip_norm else []
  parts.append(_adam_in_float32(config))
  if config.weight_decay:
    parts.append(_add_decay(config))
  parts.append(_scale_by_rate(schedule))
  return optax.chain(*parts), schedule


def make_schedule(config: OptimizerConfig) -> Schedule:
  """schedule(updates made so far) -> float32 rate of the next one."""
  warmup, end = config.warmup_steps, config.end_factor
  start = warmup
  if config.schedule == 'wsd':
    start = max(warmup, round(config.horizon * (1 - config.decay_fraction)))
  span = max(config.horizon - start, 1)

  def schedule(count: Any) -> jax.Array:
    n = jnp.asarray(count, jnp.float32)
    rise = jnp.minimum(1.0, (n + 1) / max(warmup, 1))
    done = jnp.clip((n - start) / span, 0.0, 1.0)
    if config.schedule == 'constant':
      fall = jnp.float32(1.0)
    elif config.schedule == 'cosine':
      fall = end + (1 - end) * 0.5 * (1 + jnp.cos(math.pi * done))
    else:
      fall = 1 - (1 - end) * done
    return config.peak_lr * rise * fall

  return schedule


def _clip(limit: float) -> optax.GradientTransformation:
  """optax.clip_by_global_norm for a caller that knows the norm: a product alone."""

  def update(updates, state, params=None, *, grad_norm=None, **more):
    del params, more
    if grad_norm is None:
      grad_norm = optax.tree_utils.tree_norm(updates)
    scale = limit / jnp.maximum(grad_norm, limit)
    return jax.tree.map(lambda u: u * scale.astype(u.dtype), updates), state

  return optax.GradientTransformationExtraArgs(
    lambda params: optax.EmptyState(), update
  )


def _adam_in_float32(config: OptimizerConfig) -> optax.GradientTransformation:
  adam = optax.scale_by_adam(
    b1=config.b1, b2=config.b2, eps=config.eps, mu_dtype=config.moments_dtype
  )
  cast = lambda tree, dtype: jax.tree.map(lambda x: x.astype(dtype), tree)
  wide = lambda tree: cast(tree, jnp.float32)
  stored = lambda state: state._replace(nu=cast(state.nu, config.second_moment_dtype))

  def update(updates, state, params=None):
    del params
    updates, new = adam.update(wide(updates), state._replace(nu=wide(state.nu)))
    return updates, stored(new)

  return optax.GradientTransformation(
    lambda params: stored(adam.init(wide(params))), update
  )


def is_decayed(path: str, no_decay: tuple[str, ...] = ()) -> bool:
  """Whether weight decay applies to the parameter at `path` ('decoder/.../wq_DNH').

  A name ends in the letters of its axes, so that a norm is known for a vector also
  where layers are stacked; biases of several axes start with `b`.
  """
  name, _, letters = path.rsplit('/', 1)[-1].rpartition('_')
  vector = len(letters) <= 1 or name.startswith('b')
  return not vector and not any(part in path for part in no_decay)


def _add_decay(config: OptimizerConfig) -> optax.GradientTransformation:
  def one(path, update, param):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if not is_decayed(name, config.no_decay):
      return update
    return update + config.weight_decay * param.astype(update.dtype)

  def update(updates, state, params=None):
    return jax.tree_util.tree_map_with_path(one, updates, params), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _scale_by_rate(schedule: Schedule) -> optax.GradientTransformation:
  """optax.scale_by_learning_rate that also keeps the rate, to be logged."""

  def init(params):
    del params
    return RateState(jnp.zeros([], jnp.int32), jnp.zeros([], jnp.float32))

  def update(updates, state, params=None):
    del params
    rate = schedule(state.updates)
    scaled = jax.tree.map(lambda u: -rate.astype(u.dtype) * u, updates)
    return scaled, RateState(state.updates + 1, rate)

  return optax.GradientTransformation(init, update)


def _check(config: OptimizerConfig) -> None:
  def need(good: bool, field: str, want: str) -> None:
    if not good:
      raise UserError(
        f'optimizer.{field} is {getattr(config, field)!r}; it must be {want}.'
      )

  need(config.schedule in SCHEDULES, 'schedule', f'one of {", ".join(SCHEDULES)}')
  for field in ('moments_dtype', 'second_moment_dtype'):
    known = getattr(config, field) in MOMENT_DTYPES
    need(known, field, f'one of {", ".join(MOMENT_DTYPES)}')
  need(
    config.second_moment_dtype == 'float32' or config.b2 <= 0.99,
    'second_moment_dtype',
    'float32 where b2 is above 0.99',
  )
  need(0 < config.peak_lr < math.inf, 'peak_lr', 'a positive number')
  need(config.horizon >= 1, 'horizon', 'at least 1')
  need(
    0 <= config.warmup_steps <= config.horizon,
    'warmup_steps',
    f'from 0 to the horizon ({config.horizon})',
  )
  need(0 <= config.end_factor <= 1, 'end_factor', 'from 0 to 1')
  need(0 < config.decay_fraction <= 1, 'decay_fraction', 'above 0, at most 1')
  need(0 <= config.b1 < 1, 'b1', 'from 0 to below 1')
  need(0 <= config.b2 < 1, 'b2', 'from 0 to below 1')
  need(config.eps > 0, 'eps', 'a positive number')
  need(config.weight_decay >= 0, 'weight_decay', 'at least 0')
  need(config.clip_norm >= 0, 'clip_norm', 'at least 0 (0 never clips)')
