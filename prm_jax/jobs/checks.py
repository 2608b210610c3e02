"""What every job refuses before it reads data or compiles anything.

A mistake in a key that is used at the end of a run must not cost the run. Here stand
the keys that no typed section checks, of all jobs together.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from prm_jax.calibration_maps import KINDS
from prm_jax.data import sources
from prm_jax.errors import UserError
from prm_jax.step_values import REDUCTIONS

CHOICES: dict[str, tuple[str, ...]] = {
  'train.use': ('last', 'best'),
  'parallel.mapper': ('jit', 'pmap'),
  'data.leak': sources.LEAKS,
  'evaluate.reduction': ('', *REDUCTIONS),
  'evaluate.calibrate': ('', *KINDS),
  'contamination.drop': ('shared', 'by_problem', 'by_solution'),
}
LEAST = {
  'seed': 0,
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
  'evaluate.seed': 0,
  'search.policy_parameters': 0,
  'bank.most': 0,
  'adaptive.orders': 1,
  'audit.streams': 1,
  'compare.flips': 1,
  'hack.solutions': 1,
  'hack.copies': 1,
  'hack.tokens': 0,
  'hack.iterations': 0,
  'hack.exchanges': 0,
  'hack.train_rows': 1,
  'hack.transfer_rows': 1,
  'hack.random': 1,
  'bench_length': 1,
  'bench_rows': 0,
  'bench_per_question': 1,
  'bench_steps': 1,
  'bench_samples': 1,
  'bench_prefixes': 1,
  'bench_repeats': 1,
  'bench_pairs': 1,
}
# Of each of these, some.
SETS: dict[str, tuple[str, ...]] = {
  'bank.reductions': tuple(REDUCTIONS),
  'hack.places': ('question', 'step'),
}
# Rising, strictly between 0 and 1; they are called as `:g` writes them.
SHARES = ('adaptive.confidence', 'adaptive.stable')
TIES = ('uniform', 'lowest_index')
_NUMBER = r'[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?'
_POLICY = re.compile(f'argmax|tuned:validation|fixed:{_NUMBER}')
_SUITE_POLICY = re.compile(rf'argmax|tuned:[\w.-]+|fixed:{_NUMBER}')
_PROFILE = re.compile(r'(\d+:\d+)?')


def check(config: ConfigDict) -> None:
  """Checks the keys of all jobs that no typed section checks.

  Raises:
    UserError: names the key, its value and what it may be.
  """
  for key, allowed in CHOICES.items():
    _member(key, _get(config, key), allowed)
  for key, least in LEAST.items():
    if _get(config, key) < least:
      raise UserError(f'{key}={_get(config, key)}: it must be at least {least}.')
  for key, allowed in SETS.items():
    _members(key, _get(config, key), allowed)
  for key in SHARES:
    _check_shares(key, _get(config, key))
  if not 0 < config.audit.tau < 1:
    raise UserError(f'audit.tau={config.audit.tau:g}: it must lie between 0 and 1.')
  _members('evaluate.ties', [t.strip() for t in config.evaluate.ties.split(',')], TIES)
  _check_policies(config)
  start, _, stop = config.profile.partition(':')
  if not _PROFILE.fullmatch(config.profile) or (start and int(start) >= int(stop)):
    raise UserError(
      f'profile={config.profile!r}: give START:STOP, START below STOP, for example '
      '10:15.'
    )
  if config.job == 'train':
    _check_training(config)


def _check_policies(config: ConfigDict) -> None:
  known, tuned = _POLICY, 'tuned:validation'
  if config.evaluate.suite:
    known, tuned = _SUITE_POLICY, 'tuned:BENCHMARK.SET'
  policies = [p.strip() for p in config.evaluate.threshold.split(',') if p.strip()]
  for policy in policies:
    if not known.fullmatch(policy):
      raise UserError(
        f'evaluate.threshold={policy!r}: give fixed:NUMBER, argmax or {tuned}, or '
        'several with commas.'
      )
  _once('evaluate.threshold', policies)


def _check_training(config: ConfigDict) -> None:
  for key, file in (('suite', 'evaluate.py:suite'), ('calibrate', 'calibrate.py')):
    if config.evaluate[key]:
      raise UserError(
        f'evaluate.{key}={config.evaluate[key]!r}: training does not do that; leave it '
        f'out, and run --config=configs/{file} with --config.scorer=WORKDIR after it.'
      )
  section = config.parallel
  if config.profile and int(config.profile.partition(':')[0]) >= config.train.steps:
    raise UserError(
      f'profile={config.profile}: a run of train.steps={config.train.steps} ends '
      'before; name steps of it, counted from 0.'
    )
  if section.mapper == 'pmap' and (section.fsdp > 1 or section.tensor > 1):
    raise UserError(
      f'parallel.mapper=pmap keeps the whole model on every device, and fsdp='
      f'{section.fsdp}, tensor={section.tensor} would split it; take '
      'parallel.mapper=jit, or leave both at 1.'
    )
  if config.train.use == 'best' and not (
    config.data.validation.strip() or config.data.validation_share
  ):
    raise UserError(
      'train.use=best needs rows to choose on; name them in data.validation, or take '
      'train.use=last.'
    )


def _check_shares(key: str, values: Sequence[Any]) -> None:
  numbers = all(isinstance(v, (int, float)) for v in values)
  ends = (0.0, *values, 1.0)
  if not numbers or not all(a < b for a, b in itertools.pairwise(ends)):
    raise UserError(f'{key}={values}: give numbers between 0 and 1, in rising order.')
  _once(key, [f'{v:g}' for v in values])


def _get(config: ConfigDict, key: str) -> Any:
  section, _, name = key.rpartition('.')
  return (config[section] if section else config)[name]


def _once(key: str, values: Sequence[Any]) -> None:
  if len(set(values)) < len(values):
    raise UserError(f'{key}={", ".join(map(str, values))}: name each once.')


def _members(key: str, values: Sequence[Any], allowed: tuple[str, ...]) -> None:
  """Refuses none, others, and one that is there twice."""
  for value in values or ['']:
    _member(key, value, allowed)
  _once(key, values)


def _member(key: str, value: Any, allowed: tuple[str, ...]) -> None:
  if value not in allowed:
    raise UserError(
      f'{key}={value!r}: it must be one of {", ".join(repr(a) for a in allowed)}.'
    )
