"""Jobs: own files, clock, progress and resume; no mathematics.

Each job is a module with `run(command)`. `JOBS` lists exactly what runs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from prm_jax.errors import UserError

if TYPE_CHECKING:
  from prm_jax.jobs.configuration import Command

JOBS = {
  'train': 'train a scorer or a policy, evaluate it, write the report',
  'rollout': 'sample solutions from a policy',
  'label': 'give every step of solutions a label',
  'bench': 'measure how fast a policy decodes',
  'score': 'add step scores to a file of trajectories',
  'evaluate': 'measure saved scores or a checkpoint; write the report',
  'audit': 'hold step labels against a reference, the truth and each other',
  'inspect': 'print token | step | label of chosen rows',
  'convert': 'import a public format, or export to one',
  'tokenizer': 'train a small BPE tokenizer on a file',
  'study': 'run a list of overrides and tabulate the results',
}
HELP = '\n'.join(f'  {name:10} {text}' for name, text in JOBS.items())


def run(command: Command) -> None:
  """Runs the job `command.config.job`.

  Raises:
    UserError: there is no such job.
  """
  name = command.config.job
  if name not in JOBS:
    raise UserError(f'job={name!r}: no such job; jobs are {", ".join(JOBS)}.')
  importlib.import_module(f'prm_jax.jobs.{name}').run(command)
