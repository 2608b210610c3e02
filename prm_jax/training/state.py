"""What a training run carries from step to step, born sharded.

Everything that must survive a restart is here: the number of the step (which is
also the position in the data and the seed of dropout), parameters, optimizer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec


@flax.struct.dataclass
class TrainState:
  """Attributes:
  step: int32 scalar, steps taken; the next batch is number `step`.
  params: tree of parameters that are trained.
  opt_state: optax state.
  frozen: tree of parameters that stay as they are, or None. The step returns it as it
    is (donated, so nothing is copied); checkpoints do not hold it.
  """

  step: Any
  params: Any
  opt_state: Any
  frozen: Any = None


def init(
  init_params: Callable[[jax.Array], Any],
  tx: optax.GradientTransformation,
  key: jax.Array,
) -> TrainState:
  """State at step 0; pure, so it can be traced, jitted with shardings, eval_shape'd."""
  params = init_params(key)
  return TrainState(jnp.zeros([], jnp.int32), params, tx.init(params))


def abstract(
  init_params: Callable[[jax.Array], Any],
  tx: optax.GradientTransformation,
  shardings: TrainState | None = None,
) -> TrainState:
  """The state as `ShapeDtypeStruct`s: what a restore needs, without computing any.

  Args:
    shardings: from `shardings`; where restored arrays shall live. None leaves it open.
  """
  shapes = jax.eval_shape(lambda key: init(init_params, tx, key), jax.random.key(0))
  if shardings is None:
    return shapes
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
  )


def shardings(
  init_params: Callable[[jax.Array], Any],
  tx: optax.GradientTransformation,
  param_shardings: Any,
  mesh: Mesh,
) -> TrainState:
  """NamedShardings of the state: moments lie as their parameters, scalars everywhere.

  Args:
    param_shardings: tree like the parameters.
    mesh: mesh of those shardings.
  """
  everywhere = NamedSharding(mesh, PartitionSpec())
  shapes = abstract(init_params, tx)
  opt_state = optax.tree_utils.tree_map_params(
    tx,
    lambda _, sharding: sharding,
    shapes.opt_state,
    param_shardings,
    transform_non_params=lambda _: everywhere,
  )
  return TrainState(everywhere, param_shardings, opt_state)


def init_sharded(
  init_params: Callable[[jax.Array], Any],
  tx: optax.GradientTransformation,
  state_shardings: TrainState,
  key: jax.Array,
) -> TrainState:
  """State at step 0, each array created where it will live.

  The numbers do not depend on the mesh.
  """
  build = jax.jit(init_params, out_shardings=state_shardings.params)
  return start(build(key), tx, state_shardings)


def start(
  params: Any, tx: optax.GradientTransformation, state_shardings: TrainState
) -> TrainState:
  """State at step 0 of parameters that lie where they will live; so will the rest."""
  begin = jax.jit(
    lambda params: (jnp.zeros([], jnp.int32), tx.init(params)),
    out_shardings=(state_shardings.step, state_shardings.opt_state),
  )
  zero, moments = begin(params)
  return TrainState(zero, params, moments)
