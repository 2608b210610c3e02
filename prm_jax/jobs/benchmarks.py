"""Evaluate's suite: public benchmarks, a scorer or saved scores, one table."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from prm_jax import files, jsonl, records, writer
from prm_jax.data import sources
from prm_jax.errors import UserError
from prm_jax.evaluation import benchmarks, same_rows
from prm_jax.evaluation.benchmarks.prmbench import ORIGINALS, REDUNDANCY
from prm_jax.formats import importers
from prm_jax.formats.importers import attach_scores
from prm_jax.jobs import assemble, chunks, measure, score
from prm_jax.jobs.assemble import Sets
from prm_jax.jobs.configuration import Command, flatten
from prm_jax.records import Check, Trajectory
from prm_jax.specs import ScorerSpec

ALL = 'all'
Index = dict[str, tuple[str, dict[str, Any]]]
"""Id -> (place, row) of score files."""


@dataclasses.dataclass
class Found:
  """Benchmark rows and where they come from.

  Attributes:
    sets: 'BENCHMARK.SET' or 'BENCHMARK' -> rows.
    hashes: file -> sha256 of its bytes.
    counters: 'SET/what' -> count met by the importers and when joining scores.
    warnings: what a reader must not miss.
  """

  sets: Sets
  hashes: dict[str, str]
  counters: Counter[str]
  warnings: list[str]


def run(command: Command, work: files.Workdir, started: float) -> None:
  """Reads the benchmarks that are there, gets scores, measures, writes and prints.

  Raises:
    UserError: no benchmark is found, scores and rows do not belong together, or no row
      could be scored.
    Preempted: asked to stop; chunks that are scored stay.
  """
  config = command.config
  named = _named(config)
  _check_tuned(config, named)
  found = Found({}, {}, Counter(), [])
  spec, more = None, dict[str, Any]()
  if config.scorer:
    _read(config, named, found)
    spec, more = _score(config, work, found)
  else:
    _with_saved(config, named, found)
  _unscored(found, config.scorer_name)
  _check_tuned(config, found.sets, found)
  result = benchmarks.evaluate(
    found.sets, scorer=config.scorer_name, options=measure.options(config, spec)
  )
  result.found.warnings[:0] = found.warnings
  shown = {n: rows for n, rows in found.sets.items() if not _is_pool(n)}
  for name in found.sets:
    if _is_pool(name):
      rows = [s for s in result.found.samples if s['split'] == name]
      work.write_samples(name, rows)
  notes = ''.join(f'\n- {warning}' for warning in result.found.warnings)
  text = f'{result.table}\n{notes}\n' if notes else f'{result.table}\n'
  jsonl.write_bytes(work / 'table.md', text.encode())
  policies = list(dict.fromkeys(ln.policy for ln in result.lines if ':' in ln.policy))
  about = files.provenance(
    command.line,
    config.seed,
    scorer={'name': config.scorer_name, **more},
    thresholds=policies or ['argmax'],
    data=found.hashes,
    **({'model_hash': more['digest']} if more else {}),
  )
  measure.write(
    command, work, 'evaluate', None, result.found, shown,
    rows={n: _digest(n, rows) for n, rows in found.sets.items()},
    counters=found.counters, curve=(), about=about, started=started,
    more={
      'config': flatten(config),
      'benchmarks': result.definitions,
      'table': [dataclasses.asdict(line) for line in result.lines],
    },
  )  # fmt: skip
  print(result.table, flush=True)


def _check_tuned(
  config: ConfigDict, names: Collection[str], found: Found | None = None
) -> None:
  """Refuses to tune on a set that is not among `names`: before scoring those that are
  there, after it (with what was `found`) those that have scores.

  Raises:
    UserError: says which sets there are.
  """
  there = [n for n in names if not _is_pool(n)]
  for policy in config.evaluate.threshold.split(','):
    name = policy.strip().removeprefix('tuned:')
    if not policy.strip().startswith('tuned:') or name in there:
      continue
    why = f'the set {name!r} is not among those that are measured'
    if found is not None:
      told = (w for w in found.warnings if w.startswith(f'{name}: '))
      why = next(told, f'{name}: it has no scores.').removesuffix('; left out.')
      why = why.removesuffix('.')
    raise UserError(
      f'evaluate.threshold={policy.strip()}: {why}, so no threshold can be tuned on '
      f'it; take one of {", ".join(there) or "(none)"}, or fixed:NUMBER.'
    )


def _is_pool(name: str) -> bool:
  return benchmarks.find(name)[0].pools


def _digest(name: str, rows: Sequence[Trajectory]) -> str:
  benchmark = benchmarks.find(name)[0]
  return same_rows.digest(rows, benchmark.truth, benchmark.verdict)


def _named(config: ConfigDict) -> dict[str, sources.Source]:
  """The sets of `data.evaluate`, or else those whose files are found."""
  if not config.data.evaluate.strip():
    return _there(config.evaluate.suite)
  named = {source.name: source for source in sources.parse(config.data.evaluate)}
  for name in named:
    benchmarks.find(name)
  return named


def _read(
  config: ConfigDict, named: Mapping[str, sources.Source], found: Found
) -> None:
  """Adds the rows of sets, at most `data.limit` of each.

  Raises:
    UserError: a file is malformed, or holds a row twice.
  """
  for name, source in named.items():
    path = sources.resolve(source.path)
    found.sets[name], counted = importers.read(
      path,
      source.format,
      assemble.options(config),
      distinct=True,
      limit=config.data.limit,
    )
    found.counters.update({f'{name}/read/{k}': n for k, n in counted.items() if n})
    _hash(found, path)


def _there(wanted: str) -> dict[str, sources.Source]:
  """Sources of the wanted benchmarks whose files are here or in the data folder."""
  names = [w.strip() for w in wanted.split(',') if w.strip()]
  chosen = list(benchmarks.BENCHMARKS) if names == [ALL] else names
  found, missing = {}, []
  for name in chosen:
    benchmark, part = benchmarks.find(name)
    for item in benchmark.sources:
      set_name, equals, rest = item.rpartition('=')
      full = f'{benchmark.name}.{set_name}' if equals else benchmark.name
      if part and part != set_name:
        continue
      path, _, format = rest.rpartition(':')
      if sources.is_there(path):
        found[full] = sources.Source(full, path, format)
      else:
        missing.append(path)
  if not found:
    raise UserError(
      f'evaluate.suite={wanted}: no file of a benchmark is found (looked for '
      f'{", ".join(missing[:3])}, ...); set {sources.DATA_VARIABLE} to the folder that '
      'holds them, or name sets in data.evaluate.'
    )
  if missing:
    writer.say(f'not found, so left out: {", ".join(missing)}')
  return found


def _hash(out: Found, path: str, suffixes: tuple[str, ...] = jsonl.SUFFIXES) -> None:
  for file in jsonl.expand(path, suffixes):
    out.hashes[str(file)] = hashlib.sha256(file.read_bytes()).hexdigest()


def _score(
  config: ConfigDict, work: files.Workdir, found: Found
) -> tuple[ScorerSpec, dict[str, Any]]:
  """Scores all rows, in chunks that stay; returns what the scorer is, and whence.

  Raises:
    UserError: rows carry scores of the name, or chunks there are of other rows.
    Preempted: asked to stop; chunks that are scored stay.
  """
  name = config.scorer_name
  for where, rows in found.sets.items():
    if any(name in t.scores for t in rows):
      raise UserError(
        f'{where}: its rows carry scores called {name!r} already, which are never '
        'rewritten; give this scorer another scorer_name.'
      )
  scorer, about = score.load(config, config.data.cache_dir or str(work / 'cache'))
  parts = [
    [(where, t) for t in part]
    for where, rows in found.sets.items()
    for part in chunks.cut(rows, config.chunk.size)
  ]

  def process(part: Sequence[tuple[str, Trajectory]], worker: int) -> chunks.Produced:
    rows, unusable = score.add_scores(scorer, [t for _, t in part], name, quiet=True)
    where = part[0][0]  # one set a chunk
    return chunks.Produced(
      {score.SCORED: [_lean(t, name) for t in rows]},
      {f'{where}/not_scored/{reason}': n for reason, n in unusable.items()},
    )

  done = chunks.run(
    work, parts, process,
    keys=[
      chunks.key(
        {'name': name, 'set': p[0][0], **about}, [records.to_dict(t) for _, t in p]
      )
      for p in parts
    ],
    outputs=(score.SCORED,), what='chunks of solutions',
  )  # fmt: skip
  found.counters.update(done.counters)
  held = itertools.chain.from_iterable(
    ((f'{file}:{n}', row) for n, row in jsonl.iter_json_lines(epath.Path(file)))
    for file in done.main
  )
  for where, rows in found.sets.items():
    found.sets[where] = [_with(t, *next(held), name) for t in rows]
    n = sum(measure.is_scored(t, name) for t in found.sets[where])
    writer.say(f'scored {n} of {len(rows)} rows of {where}')
  return scorer.spec, about


def _lean(t: Trajectory, name: str) -> dict[str, Any]:
  """A row of score files."""
  held = t.scores.get(name)
  return {'id': t.id, 'scores': {name: dataclasses.asdict(held)} if held else {}}


def _unscored(found: Found, name: str) -> None:
  """Warns of rows that lack scores; leaves out sets in which all do.

  Raises:
    UserError: no set is left.
  """
  for where, rows in list(found.sets.items()):
    start = f'{where}/not_scored/'
    reasons = {
      k.removeprefix(start): n for k, n in found.counters.items() if k.startswith(start)
    }
    said, none = measure.not_scored(where, rows, name, reasons, _meaning(where))
    found.warnings.extend([said] if said else [])
    if none:
      found.counters[f'{where}/left_out_without_scores'] = len(found.sets.pop(where))
  if not found.sets:
    raise UserError(
      f'no benchmark row could be scored. {" ".join(found.warnings)} Take a scorer '
      'that has room for them.'
    )


def _meaning(name: str) -> str:
  """What a row of a set without scores comes to."""
  if _is_pool(name):
    return 'are chosen last'
  if benchmarks.find(name)[1] == ORIGINALS:
    return 'are left out of similarity'
  return 'count as wrong'


def _with_saved(
  config: ConfigDict, named: Mapping[str, sources.Source], found: Found
) -> None:
  """Rows with the scores of `score_files`; leaves out sets that have none.

  Raises:
    UserError: no set has scores, or a set has them for a part of its rows.
  """
  name = config.scorer_name
  held: Index = {}
  of_pools = {}
  for item in filter(None, (i.strip() for i in config.score_files.split(','))):
    head, equals, path = item.partition('=')
    path = sources.resolve(path if equals else item)
    _hash(found, path, ('.jsonl', '.jsonl.gz'))
    where, _, scorer = head.partition(':')
    if not equals:
      _index(held, path)
    elif where in named and _is_pool(where) and scorer == name:
      of_pools[where] = path
    else:
      raise UserError(
        f'score_files: {item!r} is not best_of_n.SET:{name}=PATH with a pool that is '
        'found; scores of other sets are given as PATH, rows with id and scores.'
      )
  unused = set(held)
  _read(config, {n: s for n, s in named.items() if not _is_pool(n)}, found)
  for where in list(found.sets):
    _join(found, where, held, unused, name)
  # Pools are large: they are read only if scores may be theirs.
  direct = config.data.evaluate.strip()
  pools = [n for n in named if _is_pool(n) and (n in of_pools or unused or direct)]
  _read(config, {n: named[n] for n in pools}, found)
  for where in pools:
    if where in of_pools:
      found.sets[where] = attach_scores(
        found.sets[where], of_pools[where], name, part=bool(config.data.limit)
      )
    else:
      _join(found, where, held, unused, name)
  without = [
    w for w in named if not any(name in t.scores for t in found.sets.get(w, ()))
  ]
  for where in without:
    found.counters[f'{where}/left_out_without_scores'] = len(found.sets.pop(where, ()))
  if not found.sets:
    there = sorted({s for _, row in held.values() for s in _names(row)})
    raise UserError(
      f'no benchmark row has scores called {name!r} (score_files hold '
      f'{", ".join(there) or "none"} for {len(held)} rows, {len(unused)} of them of no '
      'benchmark that is found); name a scorer, or the files and scorer_name.'
    )
  if without:
    found.warnings.append(f'Left out, without scores: {", ".join(without)}.')
  if unused:
    found.counters['score_files/rows_of_no_benchmark'] = len(unused)
    found.warnings.append(
      f'{len(unused)} rows of score_files belong to no benchmark that is found.'
    )


def _join(found: Found, where: str, held: Index, unused: set[str], name: str) -> None:
  """Gives one set its scores by id; a set that has none stays as it is."""
  rows = found.sets[where]
  matched = [t.id for t in rows if t.id in held]
  unused.difference_update(matched)
  if matched and len(matched) < len(rows):
    missing = next(t.id for t in rows if t.id not in held)
    raise UserError(
      f'{where}: score_files hold {len(matched)} of its {len(rows)} rows ({missing} is '
      'missing); give all of them, a row that could not be scored without scores.'
    )
  if matched:
    found.sets[where] = [_with(t, *held[t.id], name) for t in rows]


def _index(held: Index, path: str) -> None:
  """Adds the rows of score files: id -> (place, row)."""
  for file in jsonl.expand(path, ('.jsonl', '.jsonl.gz')):
    for number, row in jsonl.iter_json_lines(file):
      where = f'{file}:{number}'
      key = Check(where).text('id', row.get('id'))
      if key in held:
        raise UserError(
          f'{where}: id {key!r} has a row already ({held[key][0]}); there must be one.'
        )
      held[key] = (where, row)


def _names(row: Mapping[str, Any]) -> Sequence[str]:
  scores = row.get('scores')
  return list(scores) if isinstance(scores, dict) else []


def _with(t: Trajectory, where: str, row: dict[str, Any], name: str) -> Trajectory:
  """The row with the scores of `name`, and its redundancy scores, checked."""
  steps = row.get('steps')
  if steps is not None and steps != list(t.steps):
    raise UserError(
      f'{where}: {t.id} has {len(steps) if isinstance(steps, list) else "no"} steps '
      f'that are not the {t.n_steps} of its benchmark row; score the same version of '
      'the data.'
    )
  scores = Check(where).mapping('scores', row.get('scores', {}))
  wanted = {k: v for k, v in scores.items() if k in (name, name + REDUNDANCY)}
  plain = {
    'id': t.id,
    'problem_id': t.problem_id,
    'question': t.question,
    'steps': list(t.steps),
    'scores': wanted,
  }
  checked = records.from_dict(plain, where).scores
  return dataclasses.replace(t, scores={**t.scores, **checked})
