"""What a job of several processes does at its ends: the workdir, and who speaks."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator

import jax

from prm_jax import files, jsonl, writer
from prm_jax.errors import UserError
from prm_jax.jobs.configuration import Command, flatten
from prm_jax.parallel import distributed

MARK = '.processes'
SEEN_SECONDS = 60.0  # network file systems may show a new file late


@contextlib.contextmanager
def open_workdir(command: Command) -> Iterator[files.Workdir]:
  """`files.open_workdir` for all processes of a run: process 0 holds it and speaks.

  Raises:
    UserError: it cannot be used, see there; or the others do not see the same folder.
  """
  place, config = command.workdir, flatten(command.config)
  for key in ('profile', 'logging.tensorboard'):
    if jsonl.is_remote(place) and config[key]:
      raise UserError(
        f'{key}={config[key]!r} writes local files only; leave it out, or give a local '
        '--workdir.'
      )
  with contextlib.ExitStack() as held:
    with distributed.lead() as first:
      if first:
        work = held.enter_context(files.open_workdir(place, config))
      else:
        work = files.Workdir(place)
        held.enter_context(writer.muted())
    if jax.process_count() > 1:
      _check_shared(work)
    yield work


def _check_shared(work: files.Workdir) -> None:
  mark = distributed.share(uuid.uuid4().hex)
  with distributed.lead() as first:
    if first:
      work.write_json(MARK, mark)
  until = time.monotonic() + SEEN_SECONDS
  while work.read_json(MARK) != mark:
    if time.monotonic() > until:
      raise UserError(
        f'{work.path}: process {jax.process_index()} does not see what process 0 '
        'wrote there; several processes need a --workdir that all of them see: a '
        'shared file system, gs:// or s3://.'
      )
    time.sleep(0.5)
