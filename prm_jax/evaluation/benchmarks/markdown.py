"""The suite's numbers as one Markdown table, and as tables of the report."""

from __future__ import annotations

from collections.abc import Sequence

from prm_jax.evaluation.benchmarks.sheet import Benchmark, Line
from prm_jax.evaluation.intervals import Estimate
from prm_jax.evaluation.report.data import Row, Table
from prm_jax.evaluation.result import Collector

HEADER = ('Tasks', 'Version', 'Filter', 'Metric', 'Value', '', 'Interval')
_ALIGN = (':', 'r', ':', ':', 'r', ':', ':')


def render(lines: Sequence[Line], out: Collector) -> str:
  """The table in the columns that lm-eval prints, with 95 % intervals for its errors.

  A task is a benchmark or one of its sets (` - set`); the filter is the threshold
  policy or the number of candidates. An undefined value says why.
  """
  rows = []
  last = ''
  for line in lines:
    if line.benchmark != last:
      rows.append((line.benchmark, str(line.version), '', '', '', '', ''))
      last = line.benchmark
    found = out.estimates[line.path]
    rows.append(
      (
        f' - {line.set}',
        str(line.version),
        line.policy or 'none',
        line.metric,
        *_value(found),
      )
    )
  widths = [max(len(r[k]) for r in (HEADER, *rows)) for k in range(len(HEADER))]
  rule = [
    '-' * (w - 1) + ':' if how == 'r' else '-' * w for w, how in zip(widths, _ALIGN)
  ]
  return '\n'.join(
    '|'
    + '|'.join(_pad(cell, w, how) for cell, w, how in zip(row, widths, _ALIGN))
    + '|'
    for row in (HEADER, tuple(rule), *rows)
  )


def _pad(text: str, width: int, how: str) -> str:
  return text.rjust(width) if how == 'r' else text.ljust(width)


def _value(found: Estimate) -> tuple[str, str, str]:
  if found.value is None:
    return 'undefined', '', found.reason.replace('_', ' ')
  if found.low is None or found.high is None:
    return f'{found.value:.4f}', '', found.reason.replace('_', ' ')
  return f'{found.value:.4f}', 'in', f'[{found.low:.4f}, {found.high:.4f}]'


def report_table(
  title: str, lines: Sequence[Line], out: Collector, benchmark: Benchmark
) -> Table:
  """Sets (and policies) as rows, metrics as columns, for report.html."""
  metrics = list(dict.fromkeys(line.metric for line in lines))
  cells: dict[str, dict[str, dict[str, object]]] = {}
  policies = {line.policy for line in lines if line.policy}
  for line in lines:
    # A metric without threshold stands in the set's first row.
    several = line.policy and len(policies) > 1
    row = f'{line.set} @{line.policy}' if several else line.set
    if not line.policy:
      row = next((r for r in cells if r.split(' @')[0] == line.set), line.set)
    cells.setdefault(row, {})[line.metric] = out.estimates[line.path].metric()
  rows = [Row(name, [held.get(m) for m in metrics]) for name, held in cells.items()]
  head = ('set', *(m.replace('_', ' ') for m in metrics))
  note = f'Version {benchmark.version}. {benchmark.definition}'
  if len(policies) == 1:
    note = f'Threshold policy {next(iter(policies))}. {note}'
  return Table(title, head, rows, note)
