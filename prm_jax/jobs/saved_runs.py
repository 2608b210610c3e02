"""Evaluated runs as other jobs read them: estimates, rows, and the config behind."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from prm_jax import files, jsonl, records
from prm_jax.errors import UserError
from prm_jax.evaluation import benchmarks, replicates, suite
from prm_jax.evaluation.intervals import Estimate
from prm_jax.evaluation.result import Options
from prm_jax.jobs.measure import VALIDATION
from prm_jax.records import Trajectory

_NAMED = re.compile(r'(?P<path>.*)\[(?P<scorer>[^\]/]+)\]')


@dataclasses.dataclass(frozen=True)
class Run:
  """One evaluated run.

  Attributes:
    name: as it was given.
    folder: its workdir, resolved.
    job: that left it.
    scorer: '' for the one that was evaluated, or one of several named there.
    config: its resolved config, flat.
    versions: benchmark -> version of its definition.
    digests: set or pool -> which rows it held; {} where the run does not say.
    judged_by: metric path -> truth.
    estimates: metric path -> estimate, of its scorer; {} without replicates.
    rows: split -> its rows, from the per-sample files; {} without.
    said: (split, id) -> what was said about the row.
  """

  name: str
  folder: Path
  job: str
  scorer: str
  config: dict[str, Any]
  versions: dict[str, int]
  digests: dict[str, str]
  judged_by: dict[str, str]
  estimates: dict[str, Estimate]
  rows: dict[str, list[Trajectory]]
  said: dict[tuple[str, str], dict[str, Any]]

  @property
  def truth(self) -> str:
    """Label set that its splits are judged against."""
    return str(self.config.get('data.truth', ''))

  @property
  def kind(self) -> str:
    """Of its scores, as its per-sample rows say; '' if none do."""
    name = self.scorer or str(self.config.get('scorer_name', ''))
    held = (
      t.scores[name].kind
      for rows in self.rows.values()
      for t in rows
      if name in t.scores
    )
    return next(held, '')


def load(path: str, scorer: str = '') -> Run:
  """The run of a workdir, or of the results.json in it.

  Args:
    path: of the one or the other.
    scorer: one of several that were measured there, '' for the one evaluated.

  Raises:
    UserError: no finished run of this schema is there, or a file is damaged.
  """
  folder = Path(os.path.dirname(path) if path.endswith('results.json') else path)
  results = files.Workdir(folder).read_json('results.json')
  if not isinstance(results, dict) or 'metrics' not in results:
    raise UserError(
      f'{path}: there is no results.json of a finished run in it; name the workdir of '
      'a run that has evaluated.'
    )
  version = results.get('schema_version')
  if version != files.SCHEMA_VERSION:
    raise UserError(
      f'{folder / "results.json"}: its schema_version is {version}, this program reads '
      f'{files.SCHEMA_VERSION}; evaluate the run again.'
    )
  file = folder / replicates.FILE
  config = files.Workdir(folder).read_json('config.json') or {}
  rows, said = _samples(folder)
  return Run(
    name=path + (f'@{scorer}' if scorer else ''),
    folder=folder.resolve(),
    job=str(results.get('job', '')),
    scorer=scorer,
    config=config,
    versions={k: b['version'] for k, b in results.get('benchmarks', {}).items()},
    digests=results.get('rows', {}),
    judged_by=_of(scorer, results.get('judged_by', {})),
    estimates=_of(scorer, replicates.load(file)) if file.exists() else {},
    rows=rows,
    said=said,
  )


def _of(scorer: str, held: Mapping[str, Any]) -> dict[str, Any]:
  """What belongs to a scorer, without its name in the paths."""
  out = {}
  for path, value in held.items():
    named = _NAMED.fullmatch(path)
    if (named['scorer'] if named else '') == scorer:
      out[named['path'] if named else path] = value
  return out


def _samples(
  folder: Path,
) -> tuple[dict[str, list[Trajectory]], dict[tuple[str, str], dict[str, Any]]]:
  """Solutions of the per-sample files, with what was said about them."""
  rows: dict[str, list[Trajectory]] = {}
  said = {}
  for file in sorted((folder / 'samples').glob('*.jsonl.gz')):
    split = file.name.removesuffix('.jsonl.gz')
    for number, row in jsonl.iter_json_lines(jsonl.place(file)):
      if 'steps' not in row or 'question' not in row:
        break  # per-sample lines of another kind
      judged = row.pop('evaluation', None)
      t = records.from_dict(row, f'{file}:{number}')
      rows.setdefault(split, []).append(t)
      if judged is not None:
        said[split, t.id] = judged
  return rows, said


def measure(
  config: ConfigDict, r: Run, rows: Mapping[str, Sequence[Trajectory]]
) -> dict[str, Estimate]:
  """Estimates of a run from its saved scores, with its threshold policies; those of
  pools stay as they are."""
  policies = str(r.config.get('evaluate.threshold', ''))
  options = Options(
    policies=tuple(p.strip() for p in policies.split(',') if p.strip()),
    unscored='wrong',
    n_resamples=config.evaluate.resamples,
    seed=config.evaluate.seed,
    contributions=True,
  )
  scorer = r.scorer or str(r.config.get('scorer_name', ''))
  if r.config.get('evaluate.suite'):
    found = benchmarks.evaluate(rows, scorer=scorer, options=options).found
    replaced = tuple(f'{benchmarks.find(name)[0].name}' for name in rows)
  else:
    tune = {VALIDATION: r.rows[VALIDATION]} if VALIDATION in r.rows else {}
    found = suite.evaluate(
      {**tune, **rows},
      scorer=scorer,
      truth=r.truth,
      verdict=str(r.config.get('data.checker', '')),
      tune_split=VALIDATION if tune else '',
      options=options,
    )
    replaced = tuple(f'{name}/' for name in (*rows, suite.MEAN))
  kept = {p: e for p, e in r.estimates.items() if not p.startswith(replaced)}
  return {**kept, **_of('', found.estimates)}
