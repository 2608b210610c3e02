"""What a job refuses before it reads data or compiles anything.

A mistake in a key that is used at the end of a run must not cost the run.
"""

from __future__ import annotations

import re
from typing import Any

from ml_collections import ConfigDict

from prm_jax.data import sources
from prm_jax.errors import UserError
from prm_jax.step_values import REDUCTIONS

CHOICES: dict[str, tuple[str, ...]] = {
  'train.use': ('last', 'best'),
  'parallel.mapper': ('jit', 'pmap'),
  'data.leak': sources.LEAKS,
  'evaluate.reduction': ('', *REDUCTIONS),
}
LEAST = {
  'train.steps': 1,
  'train.batch_size': 1,
  'train.accumulation': 1,
  'train.validate_every': 0,
  'logging.every_steps': 1,
  'checkpoint.every_steps': 0,
  'checkpoint.every_seconds': 0,
  'data.limit': 0,
  'evaluate.resamples': 1,
  'evaluate.subsets': 1,
  'evaluate.max_samples': 0,
}
TIES = ('uniform', 'lowest_index')
_NUMBER = r'[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?'
_POLICY = re.compile(f'argmax|tuned:validation|fixed:{_NUMBER}')
_SUITE_POLICY = re.compile(rf'argmax|tuned:[\w.-]+|fixed:{_NUMBER}')
_PROFILE = re.compile(r'(\d+:\d+)?')


def check(config: ConfigDict) -> None:
  """Checks the keys of train and evaluate that no typed section checks.

  Raises:
    UserError: names the key, its value and what it may be.
  """
  for key, allowed in CHOICES.items():
    _member(key, _get(config, key), allowed)
  for key, least in LEAST.items():
    if _get(config, key) < least:
      raise UserError(f'{key}={_get(config, key)}: it must be at least {least}.')
  for tie in config.evaluate.ties.split(','):
    _member('evaluate.ties', tie.strip(), TIES)
  for policy in filter(None, config.evaluate.threshold.split(',')):
    known, tuned = _POLICY, 'tuned:validation'
    if config.evaluate.suite:
      known, tuned = _SUITE_POLICY, 'tuned:BENCHMARK.SET'
    if not known.fullmatch(policy.strip()):
      raise UserError(
        f'evaluate.threshold={policy.strip()!r}: give fixed:NUMBER, argmax or '
        f'{tuned}, or several with commas.'
      )
  if not _PROFILE.fullmatch(config.profile):
    raise UserError(f'profile={config.profile!r}: give START:STOP, for example 10:15.')
  if config.train.use == 'best' and not (
    config.data.validation.strip() or config.data.validation_share
  ):
    raise UserError(
      'train.use=best needs rows to choose on; name them in data.validation, or take '
      'train.use=last.'
    )


def _get(config: ConfigDict, key: str) -> Any:
  section, name = key.split('.')
  return config[section][name]


def _member(key: str, value: str, allowed: tuple[str, ...]) -> None:
  if value not in allowed:
    raise UserError(
      f'{key}={value!r}: it must be one of {", ".join(repr(a) for a in allowed)}.'
    )
