"""Score: add a scorer's step scores to a file of trajectories."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from prm_jax import files, jsonl, records, writer
from prm_jax.data import sources
from prm_jax.errors import UserError
from prm_jax.formats import importers
from prm_jax.formats.step_format import Unusable
from prm_jax.inference import api
from prm_jax.inference.scorer import Scorer
from prm_jax.jobs import assemble
from prm_jax.jobs.configuration import Command
from prm_jax.parallel.mesh import make_mesh
from prm_jax.parallel.sharding import param_shardings
from prm_jax.records import Trajectory

CHUNK = 20000  # rows that are held at once


def run(command: Command) -> None:
  """Reads `input`, scores it with `scorer`, writes `output` and its results.

  Rows are read, scored and written in chunks; those that cannot be scored are
  written without scores, and counted. Beside OUTPUT.jsonl.gz, OUTPUT.results.json says
  which scorer it was, where the reference scores of its family come from, and what
  was counted.

  Raises:
    UserError: a key is missing, the output is there already, the scorer cannot be
      loaded, or nothing could be scored.
  """
  config = command.config
  if not (config.input and config.output and config.scorer):
    raise UserError(
      'score needs --config.scorer=WORKDIR (or a public PRM), '
      '--config.input=PATH[:FORMAT] and --config.output=FILE.jsonl.gz.'
    )
  jsonl.check_name(config.output)
  output = epath.Path(os.path.expanduser(config.output))
  if output.exists():
    raise UserError(
      f'{output}: is there already, and scores are never written over; remove it or '
      'give another --config.output.'
    )
  total, rows = _rows(config)
  # The reference's log-probabilities of implicit PRMs stay beside the scores.
  cache = config.data.cache_dir or str(output.parent / 'cache')
  scorer, about = load(config, cache)
  counted: Counter[str] = Counter()
  scored = _scored(config, scorer, rows, total, counted)
  jsonl.write_json_lines(output, (records.to_dict(t) for t in scored))
  _write_results(command, output, about, counted)
  unusable = {k: n for k, n in counted.items() if k.startswith('not_scored/')}
  note = f', not scored: {_words(unusable)}' if unusable else ''
  writer.say(f'{output}: {counted["rows"]} rows written{note}')


def load(
  config: ConfigDict, cache: str = '', devices: Sequence[jax.Device] | None = None
) -> tuple[Scorer, dict[str, Any]]:
  """The scorer that a config names, on its mesh, and where it comes from.

  Args:
    config: with `scorer`, the keys scorer_*, and `parallel`.
    cache: folder for the log-probabilities of a reference.
    devices: lie on these, spread over all; None takes the mesh of `parallel`.

  Raises:
    UserError: it cannot be loaded.
  """
  held = config.parallel
  if devices is None:
    mesh = make_mesh(held.data, held.fsdp, held.tensor)
  else:
    mesh = make_mesh(devices=devices)
  return api.open_scorer(
    config.scorer,
    adapter=config.scorer_adapter,
    dtype=config.scorer_dtype,
    separator=config.scorer_separator,
    reference=config.scorer_reference,
    calibrated=config.scorer_calibrated,
    cache=cache,
    shardings=functools.partial(param_shardings, mesh),
    batch_tokens=config.scorer_batch_tokens,
  )


def add_scores(
  scorer: Scorer, rows: Sequence[Trajectory], name: str, *, quiet: bool = False
) -> tuple[list[Trajectory], Counter[str]]:
  """The rows with `scores[name]` where possible, and the reasons where not."""
  out = []
  unusable: Counter[str] = Counter()
  shown = contextlib.nullcontext() if quiet else writer.Progress(len(rows), 'scored')
  with shown as progress:
    for start in range(0, len(rows), CHUNK):
      part = rows[start : start + CHUNK]
      for t, result in zip(part, scorer.score(part)):
        if isinstance(result, Unusable):
          unusable[result.reason] += 1
          out.append(t)
        else:
          out.append(records.add(t, 'scores', name, result))
      if progress is not None:
        progress.to(len(out))
  return out, unusable


def _rows(config: ConfigDict) -> tuple[int, Iterator[Trajectory]]:
  """(how many, rows): our own records one by one, other formats all at once."""
  named = sources.parse(config.input)
  limit = config.data.limit
  if len(named) > 1 or named[0].format != sources.RECORDS:
    held = assemble.load(config, config.input, dedupe='none').trajectories
    return len(held), iter(held)
  path = sources.resolve(named[0].path)
  lines = itertools.chain.from_iterable(map(jsonl.iter_lines, jsonl.expand(path)))
  total = sum(bool(line.strip()) for line in itertools.islice(lines, limit or None))
  rows = importers.stream(path, assemble.options(config))
  return total, itertools.islice(rows, limit or None)


def _scored(
  config: ConfigDict,
  scorer: Scorer,
  rows: Iterator[Trajectory],
  total: int,
  counted: Counter[str],
) -> Iterator[Trajectory]:
  """The rows with scores where possible, chunk by chunk; fills `counted`.

  Raises:
    UserError: none could be scored.
  """
  with writer.Progress(total, 'scored') as progress:
    while part := list(itertools.islice(rows, CHUNK)):
      done, unusable = add_scores(scorer, part, config.scorer_name, quiet=True)
      counted['rows'] += len(done)
      counted.update({f'not_scored/{reason}': n for reason, n in unusable.items()})
      for t in done:
        held = t.scores.get(config.scorer_name)
        values = () if held is None else held.values
        counted['scored'] += held is not None
        counted['steps'] += len(values)
        counted['steps_cut_off'] += values.count(None)
      progress.to(counted['rows'])
      yield from done
  if not counted['scored']:
    unusable = Counter({k: n for k, n in counted.items() if '/' in k})
    raise UserError(f'{config.input}: no row could be scored ({_words(unusable)}).')


def _write_results(
  command: Command, output: epath.Path, about: dict[str, Any], counted: Counter[str]
) -> None:
  config = command.config
  told = {'name': config.scorer_name, **about}
  value = {
    'schema_version': files.SCHEMA_VERSION,
    'job': 'score',
    'input': config.input,
    'output': str(output),
    'scorer': told,
    'counters': {k: n for k, n in sorted(counted.items()) if n},
    'provenance': files.provenance(
      command.line, config.seed, model_hash=about['digest']
    ),
  }
  stem = output.name.removesuffix('.gz').removesuffix('.jsonl')
  files.Workdir(output.parent).write_json(f'{stem}.results.json', value)


def _words(counts: dict[str, int]) -> str:
  return ', '.join(f'{n} {k.rpartition("/")[2]}' for k, n in sorted(counts.items()))
