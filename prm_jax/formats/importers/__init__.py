"""Importers: public data formats to `Trajectory` records.

`FORMATS` names them; `read` reads a file (a directory of shards, a pattern) of one and
returns the records with counters of everything met on the way. A malformed row
raises `UserError` naming file, line, field and value; a row that is valid but cannot be
used is counted. Formats are named explicitly; where none is named a file holds our own
records, and a file that looks like another format is refused by that name.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from prm_jax import jsonl, records
from prm_jax.errors import UserError
from prm_jax.formats.importers import (
  benchmarks,
  pools,
  prefix_values,
  prm800k,
  problems,
  step_texts,
  trees,
)
from prm_jax.formats.importers.pools import attach_scores
from prm_jax.formats.importers.rows import Row, iter_rows, stem
from prm_jax.formats.label_policy import ImportOptions, class_counts
from prm_jax.records import Trajectory, make_id

__all__ = [
  'FORMATS', 'Format', 'attach_scores', 'describe', 'look_like', 'read', 'stream',
]  # fmt: skip


class Format(NamedTuple):
  """A data format.

  Attributes:
    read: function from rows to records.
    fields: what a row must hold; also how a file is recognised in messages.
    label: name of the label set it makes, '' if none.
  """

  read: Callable[[Iterable[Row]], list[Trajectory]]
  fields: tuple[str, ...]
  label: str = ''


def _records(rows: Iterable[Row]) -> list[Trajectory]:
  return [records.from_dict(row.values, row.where) for row in rows]


FORMATS: dict[str, Format] = {
  'records': Format(_records, ('question', 'steps')),
  'trl': Format(step_texts.trl, ('prompt', 'completions', 'labels'), 'source'),
  'math_shepherd': Format(step_texts.math_shepherd, ('input', 'label'), 'source'),
  'openrlhf': Format(step_texts.openrlhf, ('input', 'value'), 'source'),
  'rlhflow': Format(step_texts.rlhflow, ('conversations',), 'source'),
  'math_aps': Format(prefix_values.math_aps, ('question', 'reasoning_steps'), 'source'),
  'openr_tree': Format(trees.openr_tree, ('question', 'reasoning_steps'), 'source'),
  'openr_node': Format(trees.openr_node, ('text', 'mc_value', 'children'), 'source'),
  'openr_prefixes': Format(
    trees.openr_prefixes, ('solution_prefix', 'mc_value'), 'source'
  ),
  'openr_partial': Format(
    trees.openr_partial, ('question', 'partial_answer', 'mc_score'), 'source'
  ),
  'mm_prm_tree': Format(
    trees.mm_prm_tree, ('question', 'answer', 'mc_value', 'children'), 'source'
  ),
  'mm_prm_rows': Format(trees.mm_prm_rows, ('question', 'process', 'labels'), 'source'),
  'er_prm': Format(trees.er_prm, ('text', 'value'), 'source'),
  'prm800k_native': Format(prm800k.native, ('question', 'label'), 'human'),
  'prm800k_steps': Format(
    prm800k.steps, ('instruction', 'responses', 'next_response', 'rating'), 'human'
  ),
  'prm800k_trajectories': Format(
    prm800k.trajectories, ('problem', 'steps', 'ratings'), 'human'
  ),
  'processbench': Format(
    benchmarks.processbench, ('id', 'problem', 'steps', 'label'), 'human'
  ),
  'mr_gsm8k': Format(
    benchmarks.mr_gsm8k,
    ('question', 'model_output_steps', 'model_output_solution_first_error_step'),
    'human',
  ),
  'mr_ben': Format(
    benchmarks.mr_ben,
    ('Question', 'Model_Solution_Steps', 'Model_Solution_First_Error_Step'),
    'human',
  ),
  'bigbench_mistake': Format(
    benchmarks.bigbench_mistake, ('input', 'steps', 'mistake_index'), 'human'
  ),
  'prmbench': Format(benchmarks.prmbench, ('modified_process', 'error_steps'), 'human'),
  'prmbench_originals': Format(
    benchmarks.prmbench_originals, ('original_question', 'original_process'), 'human'
  ),
  'verify_cot': Format(benchmarks.verify_cot, ('question', 'answer', 'flag'), 'human'),
  'bon_pools': Format(pools.bon_pools, ('problem_id', 'question', 'candidates')),
  'gsm8k': Format(problems.gsm8k, ('question', 'answer')),
  'gsm8k_solutions': Format(
    problems.gsm8k_solutions, ('question', 'ground_truth', problems.METHODS[0])
  ),
  'math': Format(problems.math, ('problem',)),
}


def look_like(row: dict[str, Any]) -> str:
  """Name of the format whose fields the row holds, the most demanding one; '' none."""
  fits = [n for n, f in FORMATS.items() if set(f.fields) <= set(row)]
  return max(fits, key=lambda n: len(FORMATS[n].fields), default='')


def read(
  path: str,
  format: str = 'records',
  options: ImportOptions | None = None,
  *,
  distinct: bool = False,
  limit: int = 0,
) -> tuple[list[Trajectory], dict[str, int]]:
  """Reads a file, a directory of shards, or a pattern.

  Args:
    path: .jsonl, .json, either with .gz, or .parquet.
    format: a name in `FORMATS`.
    options: label policies and the like; None means the defaults.
    distinct: refuse a row that stands there twice: id and solution are the same. Rows
      that share an id alone get ids of their own in any case; sources do repeat keys.
    limit: records kept, the first ones; 0 keeps all.

  Returns:
    The records in file order, and counters. Of what is kept: problems, trajectories,
    steps, empty_steps, without_steps, repeated_ids, and the counts of
    `label_policy.class_counts` for the label set the format makes. Of the source:
    files, rows, left_out_by_limit, and what the format counts itself (ratings,
    conflicts, dropped rows). `describe` puts them into a sentence.

  Raises:
    UserError: no such path or format, a malformed row, nothing left, or rows that
      are there twice and must not be.
  """
  if format not in FORMATS:
    raise UserError(
      f'{path}: unknown format {format!r}; known formats are {", ".join(FORMATS)}.'
    )
  counters: Counter[str] = Counter()
  files = jsonl.expand(path)
  rows = _rows(files, format, options or ImportOptions(), counters)
  held = FORMATS[format].read(rows)
  if distinct:
    _refuse_doubled(path, held)
  if limit:
    counters['left_out_by_limit'] = max(len(held) - limit, 0)
    held = held[:limit]
  trajectories = _unique_ids(held, counters)
  if not trajectories:
    met = ', '.join(f'{k} {v}' for k, v in sorted(counters.items()) if v)
    raise UserError(f'{path}: no row of it can be used as {format} ({met}).')
  counters['files'] = len(files)
  counters['trajectories'] = len(trajectories)
  counters['problems'] = len({t.problem_id for t in trajectories})
  counters['steps'] = sum(t.n_steps for t in trajectories)
  counters['empty_steps'] = sum(not s.strip() for t in trajectories for s in t.steps)
  counters['without_steps'] = sum(not t.steps for t in trajectories)
  if FORMATS[format].label:
    # Not added up: a reader counts context labels before it drops trajectories.
    for name, count in class_counts(trajectories, FORMATS[format].label).items():
      counters[name] = count
  return trajectories, dict(counters)


def stream(path: str, options: ImportOptions | None = None) -> Iterator[Trajectory]:
  """Our own records of a path one at a time, as they are: ids may repeat.

  Raises:
    UserError: a malformed row.
  """
  counters: Counter[str] = Counter()
  rows = _rows(jsonl.expand(path), 'records', options or ImportOptions(), counters)
  yield from (records.from_dict(row.values, row.where) for row in rows)


def _rows(
  files: Iterable[Any], format: str, options: ImportOptions, counters: Counter[str]
) -> Iterator[Row]:
  """Rows of all files, each checked to hold the format's fields."""
  wanted = FORMATS[format].fields
  for file in files:
    for number, (where, values) in enumerate(iter_rows(file), start=1):
      counters['rows'] += 1
      missing = [f for f in wanted if f not in values]
      if missing:
        seen = look_like(values)
        hint = (
          f'the row looks like {seen}, so name that format: {file}:{seen}'
          if seen
          else f'a {format} row has {", ".join(wanted)}; check the file or name its '
          'format (path:format)'
        )
        raise UserError(f'{where}: field {missing[0]!r} is missing; {hint}.')
      yield Row(values, where, f'{stem(file)}/{number}', format, options, counters)


def _refuse_doubled(path: str, trajectories: Sequence[Trajectory]) -> None:
  """Refuses a solution that is there twice, whatever was added to it since."""
  times = Counter(
    (t.id, t.problem_id, t.sample_index, t.steps, t.response, t.answer)
    for t in trajectories
  )
  twice = [key[0] for key, n in times.items() if n > 1]
  if twice:
    extra = len(trajectories) - len(times)
    raise UserError(
      f'{path}: {extra} of {len(trajectories)} rows repeat the id and the solution of '
      f'another one ({twice[0]!r} for example) and would be counted again; drop them, '
      'or give other samples an id or sample_index of their own.'
    )


def _unique_ids(
  trajectories: Iterable[Trajectory], counters: Counter[str]
) -> list[Trajectory]:
  """Numbers the later ones of several records with one id; sources do repeat keys."""
  seen: Counter[str] = Counter()
  out = []
  for t in trajectories:
    n = seen[t.id]
    seen[t.id] += 1
    if n:
      counters['repeated_ids'] += 1
      t = dataclasses.replace(t, id=make_id(t.source, t.id, n))
    out.append(t)
  return out


def describe(counters: dict[str, int]) -> str:
  """One line for people: what was read, class balance, share with both classes."""
  c: Counter[str] = Counter(counters)
  parts = [
    f'{c["rows"]:,} rows: {c["trajectories"]:,} trajectories of {c["problems"]:,} '
    f'problems, {c["steps"]:,} steps'
  ]
  if c['labels']:
    share = c['positive_labels'] / c['labels']
    both = c['both_classes'] / max(c['labelled_trajectories'], 1)
    parts.append(
      f'{c["labels"]:,} labels ({share:.1%} positive), {c["context_labels"]:,} of them '
      f'context only; {both:.1%} of {c["labelled_trajectories"]:,} labelled '
      'trajectories hold both classes'
    )
  known = set(class_counts([], '')) | {
    'rows', 'trajectories', 'problems', 'steps', 'files', 'without_steps',
    'distinct_labels',
  }  # fmt: skip
  extra = [f'{k} {v:,}' for k, v in sorted(c.items()) if v and k not in known]
  return '; '.join(parts + extra) + '.'
