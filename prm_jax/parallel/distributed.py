"""Several processes: started by config alone, with waits that end.

One process, the first (number 0), does what must be done once: it holds the workdir,
writes its files, prints, evaluates. The others wait for it at `lead` and `share`; while
they wait, jax's heartbeats tell them if it dies. With one process all of this costs
nothing and imports nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from prm_jax.errors import NonFiniteLoss, PeerLost, UserError
from prm_jax.parallel.processes import AUTO, Processes

SHUTDOWN_SECONDS = 60
PART_SECONDS = 20
_names = itertools.count()


def start(asked: Processes) -> None:
  """Meets the other processes; must come before any other use of jax.

  Args:
    asked: from `resolve`; nothing happens if it names no coordinator.

  Raises:
    PeerLost: the others did not come in time.
    UserError: 'auto' finds no cluster here.
  """
  if not asked.several:
    return
  auto = asked.coordinator == AUTO
  place: dict[str, Any] = {} if auto else {
    'coordinator_address': asked.coordinator,
    'num_processes': asked.processes,
    'process_id': asked.process_id,
    'cluster_detection_method': 'deactivate',
  }  # fmt: skip
  try:
    jax.distributed.initialize(
      **place,
      initialization_timeout=asked.start_seconds,
      heartbeat_timeout_seconds=asked.lost_seconds,
      shutdown_timeout_seconds=SHUTDOWN_SECONDS,
    )
  except ValueError as e:
    raise UserError(
      f'parallel.coordinator={asked.coordinator!r}: jax finds no cluster here ({e}); '
      'give host:port, parallel.processes and parallel.process_id, or leave it empty '
      'to run as one process.'
    ) from e
  except jax.errors.JaxRuntimeError as e:
    raise PeerLost(asked.missing()) from e


def finish() -> None:
  """Takes leave of the others, who must do so too; harmless where none are."""
  if jax.distributed.is_initialized():
    jax.distributed.shutdown()


def part(seconds: int = PART_SECONDS) -> None:
  """Takes leave of the others if they come, as they do where all of them meet the same
  mistake. Who is the first to end would else be a lost process to the others, and they
  would say that instead of the mistake.

  Args:
    seconds: how long to wait for them; who does not come hears of a lost process.
  """
  if jax.process_count() == 1:
    return
  try:
    _barrier('part', seconds)
  except jax.errors.JaxRuntimeError:
    return
  finish()


def share(value: Any, seconds: int = Processes.wait_seconds) -> Any:
  """The first process's JSON-ready `value`, on all of them; a meeting of all.

  Args:
    value: read from process 0 alone.
    seconds: how long to wait for the others.
  """
  if jax.process_count() == 1:
    return value
  from jax.experimental import multihost_utils

  # A device collective must not wait for hours; the barrier may.
  _meet(seconds)
  data = np.frombuffer(json.dumps(value).encode(), np.uint8)
  size = int(multihost_utils.broadcast_one_to_all(np.int32(data.size)))
  if jax.process_index() != 0:
    data = np.zeros(size, np.uint8)
  data = np.asarray(multihost_utils.broadcast_one_to_all(data))
  return json.loads(data.astype(np.uint8).tobytes())


def _meet(seconds: int) -> None:
  _barrier(str(next(_names)), seconds)


def _barrier(name: str, seconds: int) -> None:
  from orbax.checkpoint import multihost

  everyone = set(range(jax.process_count()))
  barrier = multihost.get_barrier_sync_fn(processes=everyone)
  barrier(key=f'prm_jax {name}', timeout_ms=seconds * 1000)


@contextlib.contextmanager
def lead(seconds: int = Processes.wait_seconds) -> Iterator[bool]:
  """The first process goes through the block alone, then all the others do.

  Yields:
    Whether this is the first process.

  Raises:
    UserError, NonFiniteLoss: on the others too, if the first one met it.
  """
  if jax.process_count() == 1:
    yield True
    return
  if jax.process_index() == 0:
    try:
      yield True
    except (UserError, NonFiniteLoss) as e:
      share([type(e).__name__, str(e)], seconds)
      raise
    share(None, seconds)
    return
  if trouble := share(None, seconds):
    kinds = {c.__name__: c for c in (UserError, NonFiniteLoss)}
    raise kinds[trouble[0]](trouble[1])
  yield False


def on_first(tree: Any, places: Any) -> Any:
  """A tree of arrays on devices of the first process; a collective of all.

  One array at a time is gathered, so that no device holds more than one whole.

  Args:
    tree: of arrays on a mesh of all processes.
    places: tree of shardings over the first process's own devices.

  Returns:
    The arrays where `places` says; on the other processes None for each. With one
    process the tree as it is.
  """
  if jax.process_count() == 1:
    return tree
  from jax.experimental import multihost_utils

  def move(x: Any, place: Any) -> Any:
    whole = multihost_utils.process_allgather(x, tiled=True)
    return jax.device_put(whole, place) if jax.process_index() == 0 else None

  return jax.tree.map(move, tree, places)


class Votes:
  """Yes or no from each process, the same answer on all: carried by the train step.

  A vote rides in the batch and comes back in the metrics, so there is no further
  meeting; it is known one step later. Without several processes it is known at once.

  Args:
    step_fn: a train step (state, batch) -> (state, metrics).
    n: questions.
  """

  KEY = 'votes'

  def __init__(self, n: int):
    self._n = n
    self.several = jax.process_count() > 1

  def counted(self, step_fn: Any) -> Any:
    """`step_fn` that takes votes out of the batch and counts them in its metrics."""
    if not self.several:
      return step_fn

    def step(state: Any, batch: Mapping[str, Any]) -> tuple[Any, Any]:
      rest = {k: v for k, v in batch.items() if k != self.KEY}
      state, metrics = step_fn(state, rest)
      return state, {**metrics, self.KEY: batch[self.KEY].max(0)}

    return step

  def cast(self, batch: Mapping[str, Any], *asked: bool) -> dict[str, Any]:
    """The batch (numpy, this process's rows) with this process's votes."""
    if not self.several:
      return dict(batch)
    rows = len(next(iter(batch.values())))
    return {**batch, self.KEY: np.tile(np.array(asked, np.float32), (rows, 1))}

  def read(self, metrics: Mapping[str, Any] | None, *asked: bool) -> tuple[bool, ...]:
    """Whether anyone said yes: by an earlier step's metrics, or `asked` if alone."""
    if not self.several:
      return asked
    if metrics is None:
      return (False,) * self._n
    return tuple(bool(v) for v in np.asarray(metrics[self.KEY]))
