"""How the processes of a run find each other: settings, checked without jax."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from prm_jax.errors import UserError

AUTO = 'auto'
# Where a process finds its number, and their count, if the config leaves them open:
# our own variable, Slurm, Open MPI, an indexed Kubernetes job.
NUMBER = (
  'PRM_JAX_PROCESS_ID', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK', 'JOB_COMPLETION_INDEX'
)  # fmt: skip
COUNT = ('PRM_JAX_PROCESSES', 'SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE')


@dataclasses.dataclass(frozen=True)
class Processes:
  """How processes find each other, see `parallel` in `configs/base.py`.

  Attributes:
    coordinator: 'host:port' of process 0, 'auto' for what jax finds out, '' for none.
    processes: how many; 0 for what the environment says.
    process_id: which one this is; -1 for what the environment says.
    start_seconds: how long to wait for the others at start.
    lost_seconds: a process that was not heard of for so long counts as dead.
    wait_seconds: how long the others wait for what only the first one does.
  """

  coordinator: str = ''
  processes: int = 0
  process_id: int = -1
  start_seconds: int = 90
  lost_seconds: int = 60
  wait_seconds: int = 86400

  @property
  def several(self) -> bool:
    """Whether the config asks for more than this one process."""
    return bool(self.coordinator)

  @property
  def name(self) -> str:
    """Of this process, for messages."""
    if self.coordinator == AUTO:
      return 'this process'
    return f'process {self.process_id} of {self.processes}'

  def missing(self) -> str:
    """What to say if not all processes met at start."""
    return (
      f'{self.name}: not all processes came to parallel.coordinator='
      f'{self.coordinator} within parallel.start_seconds={self.start_seconds}; check '
      'that every worker runs the same command, that the address can be reached and '
      'that parallel.processes is their number, then run it again on all of them.'
    )

  def lost(self, silent: list[int]) -> str:
    """What to say if others are gone; `silent` are their numbers, as far as known."""
    numbers = ', '.join(map(str, silent))
    who = f'process {numbers}' if silent else 'another process'
    return (
      f'{self.name}: {who} is missing, died or fell silent (its own output says '
      'more); run the same command on all processes to go on from the last saved state.'
    )


def resolve(asked: Processes, environment: Mapping[str, str]) -> Processes:
  """`asked` with number and count of the processes filled in.

  Args:
    asked: from the config.
    environment: `os.environ`.

  Raises:
    UserError: something is missing or out of range; names the key.
  """
  for key in ('start_seconds', 'lost_seconds', 'wait_seconds'):
    if getattr(asked, key) < 1:
      raise UserError(f'parallel.{key}={getattr(asked, key)}: give at least 1.')
  if not asked.several:
    if asked.processes > 1 or asked.process_id > 0:
      raise UserError(
        f'parallel.processes={asked.processes}, parallel.process_id={asked.process_id} '
        'but parallel.coordinator is empty; give the host:port of process 0, or auto.'
      )
    return asked
  if asked.coordinator == AUTO:
    return asked
  host, _, port = asked.coordinator.rpartition(':')
  if not host or not port.isdigit() or not 0 < int(port) < 65536:
    raise UserError(
      f'parallel.coordinator={asked.coordinator!r}: give host:port of process 0, or '
      'auto for what jax finds out on TPU, Slurm and GKE.'
    )
  count = asked.processes or _found(environment, COUNT, 'parallel.processes', 0)
  number = asked.process_id
  if number < 0:
    number = _found(environment, NUMBER, 'parallel.process_id', -1)
  if count < 1 or not 0 <= number < count:
    raise UserError(
      f'parallel.process_id={number} with parallel.processes={count}: processes are '
      'numbered from 0; give each its own number below their count.'
    )
  return dataclasses.replace(asked, processes=count, process_id=number)


def _found(
  environment: Mapping[str, str], names: tuple[str, ...], key: str, default: int
) -> int:
  for name in names:
    text = environment.get(name, '')
    if text.isdigit():
      return int(text)
  raise UserError(
    f'{key}={default} leaves it to the environment, but none of {", ".join(names)} is '
    f'set; set one, or give {key}.'
  )
