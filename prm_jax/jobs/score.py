"""Score: add a scorer's step scores to a file of trajectories.

    NAME.jsonl.gz               the rows with their scores, in the order of the input
    NAME.results.json           which scorer it was, and what was counted
    NAME.jsonl.gz.unfinished/   chunks that are done (`jobs/chunks.py`), until all are

The same command again goes on where it was, or says that all is done. Shards share a
folder of chunks, and the one that ends last writes the output.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from prm_jax.jobs import assemble, chunks
from prm_jax.jobs.configuration import Command, flatten
from prm_jax.parallel.mesh import make_mesh
from prm_jax.parallel.sharding import param_shardings
from prm_jax.records import Trajectory

SCORED = 'scored'
KEY = '--config.output'  # gives another folder for chunks
CHUNK = 20000  # rows that `add_scores` gives to the scorer at once


def run(command: Command) -> None:
  """Reads `input`, scores it with `scorer`, writes `output` and its results.

  Rows that cannot be scored are written without scores, and counted. Of our own records
  no more than a chunk is held at once.

  Raises:
    UserError: a key is missing, an output of something else is there already, the
      scorer cannot be loaded, or nothing could be scored.
    Preempted: asked to stop; finished chunks stay.
  """
  config = command.config
  shard = chunks.parse_shard(config.shard)
  output = _output(config)
  rows = _rows(config)
  # All rows are read before any is scored, so that a malformed one costs nothing.
  spans, hashes = _divide(rows(), config.chunk.size)
  if not spans:
    raise UserError(f'{config.input}: no row is there to be scored; check the file.')
  if shard[0] >= len(spans):
    writer.say(
      f'shard {config.shard}: nothing to do, chunks of {config.chunk.size} leave it '
      f'none of {spans[-1][-1] + 1} solutions; a smaller --config.chunk.size would'
    )
    return
  place = output.parent / f'{output.name}.unfinished'
  if output.exists():
    _clear(place, config)  # from a run that was killed at its very end
    if not _origin(output):
      files.check_new(output, KEY)  # before a large scorer is loaded for nothing
  # The reference's log-probabilities of implicit PRMs stay beside the scores.
  cache = config.data.cache_dir or str(output.parent / 'cache')
  scorer, about = load(config, cache)
  told = {'name': config.scorer_name, **about}
  made_from = chunks.key({**told, 'output': output.name, 'rows': hashes}, [])
  if output.exists():
    if _origin(output) != made_from:
      files.check_new(output, KEY)
    writer.say(f'{output}: is complete')
    return
  held, at = rows(), 0

  def process(span: Sequence[int], worker: int) -> chunks.Produced:
    nonlocal at  # one worker takes the chunks in order: rows are read forwards once
    part = list(itertools.islice(held, span[0] - at, span[-1] + 1 - at))
    at = span[-1] + 1
    return _chunk(config, scorer, part)

  with files.open_workdir(str(place), flatten(config), shard, KEY) as work:
    done = chunks.run(
      work, spans, process,
      keys=[chunks.key({**told, 'rows': h}, []) for h in hashes], outputs=(SCORED,),
      shard=shard, what='chunks of solutions',
    )  # fmt: skip
    if done.whole and done.counters['scored']:
      _write(command, work, output, told, made_from, done)
  if not done.whole:
    writer.say(
      f'{place}: shard {config.shard} is there; {output} is written by the one that '
      'ends last'
    )
    return
  _clear(place, config)
  unusable = {k: n for k, n in done.counters.items() if k.startswith('not_scored/')}
  if not done.counters['scored']:
    raise UserError(f'{config.input}: no row could be scored ({_words(unusable)}).')
  note = f', not scored: {_words(unusable)}' if unusable else ''
  writer.say(f'{output}: {done.counters["rows"]} rows written{note}')


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


def _output(config: ConfigDict) -> epath.Path:
  """Where the rows go.

  Raises:
    UserError: a key is missing, or it is no place for chunks of JSON lines.
  """
  if not (config.input and config.output and config.scorer):
    raise UserError(
      'score needs --config.scorer=WORKDIR (or a public PRM), '
      '--config.input=PATH[:FORMAT] and --config.output=FILE.jsonl.gz.'
    )
  jsonl.check_name(config.output)
  if jsonl.is_remote(config.output):
    raise UserError(
      f'{KEY}={config.output}: job=score needs a local folder; copy its results '
      'afterwards.'
    )
  return epath.Path(config.output)


def _rows(config: ConfigDict) -> Callable[[], Iterator[Trajectory]]:
  """Reads the rows anew: our own records one by one, other formats held at once."""
  named = sources.parse(config.input)
  if len(named) > 1 or named[0].format != sources.RECORDS:
    held = assemble.load(config, config.input, dedupe='none').trajectories
    return lambda: iter(held)
  path, options = sources.rows_of(named[0].path), assemble.options(config)
  limit = config.data.limit or None
  return lambda: itertools.islice(importers.stream(path, options), limit)


def _divide(
  rows: Iterable[Trajectory], size: int
) -> tuple[list[Sequence[int]], list[str]]:
  """(numbers of the rows of each chunk, what each is made from)."""
  spans: list[Sequence[int]] = []
  hashes = []
  start = 0
  for part in chunks.batches(rows, size):
    spans.append(range(start, start + len(part)))
    hashes.append(chunks.key({}, [records.to_dict(t) for t in part]))
    start += len(part)
  return spans, hashes


def _chunk(
  config: ConfigDict, scorer: Scorer, part: Sequence[Trajectory]
) -> chunks.Produced:
  """The rows with scores where possible, and what was counted."""
  rows, unusable = add_scores(scorer, part, config.scorer_name, quiet=True)
  counters = Counter({f'not_scored/{reason}': n for reason, n in unusable.items()})
  for t in rows:
    held = t.scores.get(config.scorer_name)
    values = () if held is None else held.values
    counters['scored'] += held is not None
    counters['steps'] += len(values)
    counters['steps_cut_off'] += values.count(None)
  counters['rows'] += len(rows)
  return chunks.Produced({SCORED: [records.to_dict(t) for t in rows]}, counters)


def _write(
  command: Command,
  work: files.Workdir,
  output: epath.Path,
  told: dict[str, Any],
  made_from: str,
  done: chunks.Done,
) -> None:
  """The results, then the output: once it is there, nothing is left to do."""
  config = command.config
  value = {
    'schema_version': files.SCHEMA_VERSION,
    'job': 'score',
    'input': config.input,
    'output': str(output),
    'scorer': told,
    'made_from': made_from,
    'counters': {k: n for k, n in sorted(done.counters.items()) if n},
    'provenance': files.provenance(
      command.line, config.seed, model_hash=told['digest']
    ),
  }
  files.Workdir(output.parent).write_json(_results_name(output), value)
  # A kill leaves a half-written one among the chunks, which are cleared away. Shards
  # that end at the same time each write their own.
  made = work / f'{done.shard[0]}-of-{done.shard[1]}.{output.name}'
  lines = (jsonl.iter_json_lines(epath.Path(file)) for file in done.main)
  jsonl.write_json_lines(made, (row for _, row in itertools.chain(*lines)))
  made.replace(output)


def _results_name(output: epath.Path) -> str:
  return f'{output.name.removesuffix(".gz").removesuffix(".jsonl")}.results.json'


def _origin(output: epath.Path) -> str:
  """What the output was made from, '' where nothing says so."""
  results = files.Workdir(output.parent).read_json(_results_name(output))
  return results.get('made_from', '') if isinstance(results, dict) else ''


def _clear(place: epath.Path, config: ConfigDict) -> None:
  """Removes the chunks, unless another shard reads them: it will."""
  if place.exists():
    with (
      contextlib.suppress(UserError),
      files.open_workdir(str(place), flatten(config), key=KEY),
    ):
      shutil.rmtree(place, ignore_errors=True)


def _words(counts: dict[str, int]) -> str:
  return ', '.join(f'{n} {k.rpartition("/")[2]}' for k, n in sorted(counts.items()))
