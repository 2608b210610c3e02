"""Evaluate: measure a scorer, or saved scores, on splits and candidate pools."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from prm_jax import files, writer
from prm_jax.data import sources
from prm_jax.errors import UserError
from prm_jax.evaluation import suite
from prm_jax.formats.importers import attach_scores
from prm_jax.jobs import benchmarks, calibrate, measure, score, training_data
from prm_jax.jobs.configuration import Command, flatten
from prm_jax.records import Trajectory


def run(command: Command) -> None:
  """Evaluates `scorer`, or the saved scores that the data carry.

  Raises:
    UserError: nothing to evaluate, or data that cannot be read.
  """
  config = command.config
  started = time.monotonic()
  with files.open_workdir(command.workdir, flatten(config)) as work:
    if work.read_json('results.json'):
      writer.say(f'{work.path}: this evaluation is complete; see report.html')
      return
    if config.evaluate.suite:
      benchmarks.run(command, work, started)
    elif config.evaluate.calibrate:
      calibrate.run(command, work, started)
    elif config.scorer:
      _with_scorer(command, work, started)
    else:
      _with_saved_scores(command, work, started)


def _with_scorer(command: Command, work: files.Workdir, started: float) -> None:
  config = command.config
  scorer, about_scorer = score.load(
    config, config.data.cache_dir or str(work / 'cache')
  )
  sets = measure.load_sets(config)
  if not sets.splits and not sets.pools:
    raise UserError('nothing to evaluate; name sets in data.evaluate or data.pools.')
  measure.check_sets(config, sets, scorer.kind)
  examples: Sequence[Trajectory] = ()
  if config.data.train:
    examples = training_data.examples(config, sets.judged(), sets.train)
  about = files.provenance(
    command.line,
    config.seed,
    model_hash=about_scorer['digest'],
    scorer={'name': config.scorer_name, **about_scorer},
  )
  measure.conclude(
    command, work, 'evaluate', scorer, sets,
    examples=examples, counters={}, curve=(), about=about, started=started,
  )  # fmt: skip


def _with_saved_scores(command: Command, work: files.Workdir, started: float) -> None:
  """Several scorers' saved step scores of each pool; splits that carry scores."""
  config = command.config
  sets = measure.load_sets(config)
  pools, scorers = attach(sets.pools, config.score_files, bool(config.data.limit))
  # No scorer of several stands before the others, except where splits need one.
  name, also = config.scorer_name, list[str]()
  if scorers and sets.splits:
    name, *also = scorers
  elif scorers:
    name, also = '', scorers
  tuning = {measure.VALIDATION: sets.validation} if sets.validation else {}
  found = suite.evaluate(
    {**tuning, **sets.splits},
    pools,
    scorer=name,
    also=tuple(also),
    truth=config.data.truth,
    verdict=config.data.checker,
    tune_split=measure.VALIDATION if sets.validation else '',
    options=measure.options(config, None),
  )
  every = [n for n in (name, *also) if n]
  meanings = {
    'are left out of tuning': tuning,
    'count as wrong': sets.splits,
    'are chosen last': {measure.pool_name(p): rows for p, rows in pools.items()},
  }
  found.warnings[:0] = [
    said
    for meaning, held in meanings.items()
    for where, rows in held.items()
    for said in _lacking(where, rows, every, meaning)
  ]
  measure.write(
    command, work, 'evaluate', None, found, sets.splits,
    rows=measure.digests(config, sets), counters=sets.counters, curve=(),
    about=files.provenance(command.line, config.seed), started=started,
  )  # fmt: skip


def _lacking(
  where: str, rows: Sequence[Trajectory], scorers: Sequence[str], meaning: str
) -> Iterator[str]:
  """A sentence for each scorer that has scores for some of the rows only."""
  for scorer in scorers:
    name = f'{where} [{scorer}]' if len(scorers) > 1 else where
    said, none = measure.not_scored(name, rows, scorer, {}, meaning)
    if said and not none:
      yield said


def attach(
  pools: Mapping[str, list[Trajectory]], text: str, part: bool = False
) -> tuple[dict[str, list[Trajectory]], list[str]]:
  """Pools with the scores of 'POOL:NAME=PATH, ...', and the names in order; see
  `attach_scores` for `part`.

  Raises:
    UserError: an entry has another form, or names no pool.
  """
  out = dict(pools)
  names: dict[str, None] = {}
  for item in filter(None, (i.strip() for i in text.split(','))):
    head, equals, path = item.partition('=')
    pool, colon, name = head.partition(':')
    if not (equals and colon and name) or pool not in out:
      raise UserError(
        f'score_files: {item!r} is not POOL:NAME=PATH with a pool of data.pools '
        f'({", ".join(out) or "none"}).'
      )
    out[pool] = attach_scores(out[pool], sources.resolve(path), name, part=part)
    names[name] = None
  return out, list(names)
