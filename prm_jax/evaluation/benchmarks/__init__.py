"""Benchmarks over saved scores, and the suite that runs them all.

`BENCHMARKS` names them; each is a small function of scored sets
(`prm_jax.evaluation.benchmarks.sheet`) with a versioned definition, which results
quote. `evaluate` is the one entry point: it reads no files and runs no model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from prm_jax.errors import UserError
from prm_jax.evaluation.benchmarks import markdown
from prm_jax.evaluation.benchmarks.best_of_n import BEST_OF_N
from prm_jax.evaluation.benchmarks.first_error import (
  BIGBENCH_MISTAKE,
  MR_BEN,
  MR_GSM8K,
  PROCESS_BENCH,
)
from prm_jax.evaluation.benchmarks.prmbench import (
  ORIGINALS,
  PRMBENCH,
  SOCRATIC_PRMBENCH,
)
from prm_jax.evaluation.benchmarks.sheet import (
  Benchmark,
  Line,
  Sheet,
  counted,
  hold,
)
from prm_jax.evaluation.result import Collector, EvaluationResult, Options
from prm_jax.records import Trajectory

__all__ = ['BENCHMARKS', 'Benchmark', 'SuiteResult', 'evaluate', 'find']

BENCHMARKS: dict[str, Benchmark] = {
  b.name: b
  for b in (
    PROCESS_BENCH,
    PRMBENCH,
    SOCRATIC_PRMBENCH,
    MR_GSM8K,
    MR_BEN,
    BIGBENCH_MISTAKE,
    BEST_OF_N,
  )
}


@dataclasses.dataclass(frozen=True)
class SuiteResult:
  """Attributes:
  found: metrics, counters, samples, tables for the report.
  lines: of the table, in order.
  definitions: benchmark -> {'version', 'definition', 'rows', 'published_rows'}.
  table: the table as Markdown.
  """

  found: EvaluationResult
  lines: Sequence[Line]
  definitions: Mapping[str, Mapping[str, object]]
  table: str


def find(name: str) -> tuple[Benchmark, str]:
  """Benchmark and set of 'BENCHMARK.SET' or 'BENCHMARK'.

  Raises:
    UserError: there is no such benchmark.
  """
  head, _, rest = name.partition('.')
  if head not in BENCHMARKS:
    raise UserError(
      f'{name!r} names no benchmark; it is BENCHMARK or BENCHMARK.SET, and the '
      f'benchmarks are {", ".join(BENCHMARKS)}.'
    )
  return BENCHMARKS[head], rest


def evaluate(
  sets: Mapping[str, Sequence[Trajectory]],
  *,
  scorer: str,
  options: Options | None = None,
) -> SuiteResult:
  """Measures a scorer on benchmarks, from rows that carry its scores.

  Args:
    sets: 'BENCHMARK.SET' or 'BENCHMARK' -> its rows, with truth and scores.
    scorer: key of `scores`.
    options: threshold policies, resamples, seed, and what an unscored row means.

  Raises:
    UserError: unknown names, rows without truth or scores, scores that are not one a
      step or not finite, ids that occur twice.
  """
  options = options or Options(unscored='wrong')
  if not sets:
    raise UserError('there is no benchmark to evaluate.')
  given: dict[str, dict[str, Sequence[Trajectory]]] = {}
  for name, rows in sets.items():
    benchmark, part = find(name)
    given.setdefault(benchmark.name, {})[part] = rows
  tune = {
    name: hold(*find(name), rows, scorer, options)
    for name, rows in sets.items()
    if f'tuned:{name}' in options.policies and not find(name)[0].pools
  }
  out = Collector()
  lines: list[Line] = []
  definitions: dict[str, dict[str, object]] = {}
  for name, benchmark in BENCHMARKS.items():
    if name not in given:
      continue
    rows_there = sum(len(r) for k, r in given[name].items() if k != ORIGINALS)
    title = counted(name, rows_there, benchmark.rows)
    sheet = Sheet(out, benchmark, title, scorer, options, tune)
    benchmark.measure(sheet, given[name])
    lines += sheet.lines
    definitions[name] = {
      'version': benchmark.version,
      'definition': benchmark.definition,
      'rows': rows_there,
      'published_rows': benchmark.rows or None,
    }
    if not benchmark.pools:
      out.tables.append(markdown.report_table(title, sheet.lines, out, benchmark))
  found = out.result()
  return SuiteResult(found, lines, definitions, markdown.render(lines, out))
