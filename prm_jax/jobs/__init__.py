"""Jobs: own files, clock, progress and resume; no mathematics.

Each job is a module with `run(command)`. `JOBS` lists exactly what runs.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prm_jax import jsonl
from prm_jax.errors import NonFiniteLoss, PeerLost, Preempted, UserError
from prm_jax.parallel.processes import Processes, resolve

if TYPE_CHECKING:
  from prm_jax.jobs.configuration import Command

JOBS = {
  'train': 'train a scorer or a policy, evaluate it, write the report',
  'rollout': 'sample solutions from a policy',
  'label': 'give every step of solutions a label',
  'search': 'solve problems by searches; compare them at equal compute',
  'bank': 'every selection rule on the same saved candidates, for every N',
  'bench': 'measure how fast a policy decodes',
  'score': 'add step scores to a file of trajectories',
  'serve': 'answer requests for step scores over HTTP',
  'evaluate': 'measure saved scores or a checkpoint; write the report',
  'audit': 'hold step labels against a reference, the truth and each other',
  'compare': 'say whether runs of one method are better than runs of another',
  'hackability': 'try known attacks on a scorer; say which it fails',
  'contamination': 'find what training data share with evaluation sets',
  'view': 'show solutions of scored files and runs, and trees, as a page',
  'inspect': 'print token | step | label of chosen rows',
  'convert': 'import a public format, or export to one',
  'export': 'write a model as a Hugging Face checkpoint',
  'tokenizer': 'train a small BPE tokenizer on a file',
  'study': 'run a list of overrides and tabulate the results',
}
HELP = '\n'.join(f'  {name:10} {text}' for name, text in JOBS.items())
# Jobs -> what makes them need less memory, beside more devices.
_SMALLER = {
  'train': 'train.batch_size, or more train.accumulation (--config.plan_only=true says '
  'what is needed)',
  **dict.fromkeys(('rollout', 'label'), 'engine.slots'),
  'search': 'engine.slots or scorer_batch_tokens',
  **dict.fromkeys(('score', 'serve', 'evaluate', 'hackability'), 'scorer_batch_tokens'),
}

# Jobs that several processes do together; the others are divided with `shard`.
TOGETHER = ('train',)


def processes(command: Command) -> Processes:
  """Which of how many processes this is.

  Raises:
    UserError: no such job, one that takes no further processes, or a key of
      `parallel` that does not fit.
  """
  config = command.config
  if config.job not in JOBS:
    raise UserError(f'job={config.job!r}: no such job; jobs are {", ".join(JOBS)}.')
  section = config.parallel
  held = resolve(
    Processes(
      coordinator=section.coordinator,
      processes=section.processes,
      process_id=section.process_id,
      start_seconds=section.start_seconds,
      lost_seconds=section.lost_seconds,
      wait_seconds=section.wait_seconds,
    ),
    os.environ,
  )
  if held.several and config.job not in TOGETHER:
    raise UserError(
      f'parallel.coordinator={held.coordinator!r}: job={config.job} runs in processes '
      'that know nothing of each other; leave it empty and give each a shard=i/n.'
    )
  if jsonl.is_remote(command.workdir) and config.job not in TOGETHER:
    raise UserError(
      f'--workdir={command.workdir}: job={config.job} needs a local folder; copy its '
      'results afterwards.'
    )
  if held.several and section.mapper != 'jit':
    raise UserError(
      f'parallel.mapper={section.mapper} uses the devices of one process; leave '
      'parallel.coordinator empty, or take parallel.mapper=jit.'
    )
  return held


def run(command: Command) -> None:
  """Runs the job `command.config.job`, with its other processes if there are any.

  Raises:
    UserError: see `processes` and `checks.check`; the memory does not suffice; or
      whatever the job meets.
    PeerLost: another process did not come.
  """
  from prm_jax.jobs import checks

  among = processes(command)
  checks.check(command.config)
  job = importlib.import_module(f'prm_jax.jobs.{command.config.job}')
  if not among.several:
    with _memory(command.config.job):
      job.run(command)
    return
  from prm_jax.parallel import distributed

  distributed.start(among)
  try:
    with _memory(command.config.job):
      job.run(command)
  except PeerLost:
    raise
  except Preempted:
    distributed.finish()
    raise
  except (UserError, NonFiniteLoss):
    distributed.part()
    raise
  distributed.finish()


@contextlib.contextmanager
def _memory(job: str) -> Iterator[None]:
  """Out of memory, here or on a device, is a sentence: the remedy is the user's."""
  try:
    yield
  except (MemoryError, RuntimeError) as e:
    text = str(e).partition('\n')[0]
    if not isinstance(e, MemoryError) and 'RESOURCE_EXHAUSTED' not in text:
      raise
    raise UserError(
      f'job={job}: the memory does not suffice ({text.rstrip(".")}); take more devices '
      f'or less {_SMALLER.get(job, "input")}.'
    ) from e
