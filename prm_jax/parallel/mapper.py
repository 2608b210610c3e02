"""A step function, written once, mapped over devices in two ways.

Both mappers have the same three methods and are called alike:

  mapper = jit_mapper(step, mesh, state_shardings)     # any mesh, one process or many
  mapper = pmap_mapper(step)                           # data parallel, local devices
  state = mapper.place_state(state)
  state, metrics = mapper(state, batch)
  state = mapper.fetch_state(state)

The step for `pmap_mapper` must sum over the mapped axis itself, that is, be made
with `axis_name=mapper.PMAP_AXIS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from prm_jax.errors import UserError
from prm_jax.parallel import mesh as meshes
from prm_jax.parallel import sharding

StepFn = Callable[[Any, Any], tuple[Any, Any]]
PMAP_AXIS = 'devices'


class _Throttle:
  """Keeps at most two steps in flight on simulated devices.

  A loop that never waits starves XLA's in-process collectives of threads; they
  abort the program after 40 s.
  """

  def __init__(self, devices: Sequence[jax.Device]):
    self._needed = len(devices) > 1 and devices[0].platform == 'cpu'
    self._last: Any = None

  def wait(self) -> None:
    if self._needed:
      jax.block_until_ready(self._last)

  def note(self, metrics: Any) -> None:
    self._last = metrics


class JitMapper:
  """`jax.jit` over a named mesh; the state keeps its shardings and is donated."""

  def __init__(
    self, step_fn: StepFn, mesh: Mesh, state_shardings: Any, rules: sharding.Rules
  ):
    self._state_shardings = state_shardings
    self._batch_sharding = sharding.batch_sharding(mesh, rules)
    self._throttle = _Throttle(mesh.devices.flatten().tolist())
    self._step = jax.jit(
      step_fn,
      in_shardings=(state_shardings, self._batch_sharding),
      out_shardings=(state_shardings, sharding.replicated(mesh)),
      donate_argnums=0,
    )

  def place_state(self, state: Any) -> Any:
    """Moves a state to its shardings."""
    return jax.device_put(state, self._state_shardings)

  def fetch_state(self, state: Any) -> Any:
    """The state as a tree of global arrays: itself."""
    return state

  def place_batch(self, batch: Any) -> Any:
    """Moves a batch (this process's rows of it) to the devices."""
    return place_batch(batch, self._batch_sharding)

  def __call__(self, state: Any, batch: Any) -> tuple[Any, Any]:
    batch = self.place_batch(batch)
    self._throttle.wait()
    state, metrics = self._step(state, batch)
    self._throttle.note(metrics)
    return state, metrics


class PmapMapper:
  """`jax.pmap` over local devices: the state on each, the batch split over them."""

  def __init__(self, step_fn: StepFn, devices: Sequence[jax.Device] | None):
    self._devices = list(devices) if devices is not None else jax.local_devices()
    self._throttle = _Throttle(self._devices)
    self._step = jax.pmap(
      step_fn, axis_name=PMAP_AXIS, devices=self._devices, donate_argnums=0
    )

  def place_state(self, state: Any) -> Any:
    """A copy of the state for each device, along a new leading axis."""
    n = len(self._devices)
    return jax.tree.map(
      lambda x: np.broadcast_to(np.asarray(x)[None], (n, *np.shape(x))), state
    )

  def fetch_state(self, state: Any) -> Any:
    """The first device's copy, without the leading axis."""
    return jax.tree.map(_first, state)

  def place_batch(self, batch: Any) -> Any:
    """Splits the rows [B, ...] over the devices: [devices, B / devices, ...].

    Raises:
      UserError: the rows do not divide.
    """
    n = len(self._devices)

    def split(x: Any) -> Any:
      if x.shape[0] % n:
        raise UserError(
          f'batch_size = {x.shape[0]} does not divide by the {n} local devices of '
          'parallel.mapper = pmap; use a multiple.'
        )
      return x.reshape(n, x.shape[0] // n, *x.shape[1:])

    return jax.tree.map(split, batch)

  def __call__(self, state: Any, batch: Any) -> tuple[Any, Any]:
    batch = self.place_batch(batch)
    self._throttle.wait()
    state, metrics = self._step(state, batch)
    metrics = jax.tree.map(_first, metrics)
    self._throttle.note(metrics)
    return state, metrics


def _first(x: Any) -> Any:
  # x[0] of an array over several processes would start a global reshard.
  return x[0] if isinstance(x, np.ndarray) else x.addressable_shards[0].data[0]


def place_batch(batch: Any, where: NamedSharding) -> Any:
  """A tree of host arrays (this process's rows) as global arrays with sharding `where`.

  Arrays that are global already are left alone.
  """

  def place(x: Any) -> jax.Array:
    if isinstance(x, jax.Array) and x.sharding == where:
      return x
    if jax.process_count() == 1:
      return jax.device_put(x, where)
    x, parts = np.asarray(x), meshes.batch_process(where.mesh)[1]
    shape = (x.shape[0] * parts, *x.shape[1:])
    return jax.make_array_from_process_local_data(where, x, shape)

  return jax.tree.map(place, batch)


def jit_mapper(
  step_fn: StepFn, mesh: Mesh, state_shardings: Any, rules: sharding.Rules | None = None
) -> JitMapper:
  """Maps `step_fn(state, batch) -> (state, metrics)` with `jax.jit` over a mesh.

  Args:
    step_fn: pure; its metrics are scalars or small arrays, returned on all devices.
    mesh: from `mesh.make_mesh`.
    state_shardings: tree of NamedSharding like the state.
    rules: letter -> mesh axes; only B (the rows of the batch) matters here.
  """
  return JitMapper(step_fn, mesh, state_shardings, rules or sharding.RULES)


def pmap_mapper(
  step_fn: StepFn, devices: Sequence[jax.Device] | None = None
) -> PmapMapper:
  """Maps `step_fn` with `jax.pmap` over local devices (all, by default).

  Args:
    step_fn: pure; sums loss, weight and gradients over the axis `PMAP_AXIS`.
    devices: None for all local devices.
  """
  return PmapMapper(step_fn, devices)
