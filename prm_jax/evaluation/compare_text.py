"""A comparison in words, as a Markdown table, and as a table of a report."""

from __future__ import annotations

from collections.abc import Sequence

from prm_jax.evaluation.compare import Compared, Comparison
from prm_jax.evaluation.report import Row, Table

HEADER = (
  'Metric', '', 'n', 'A', 'B', 'A - B', '95 % interval', 'p', 'p Holm',
  'detectable', 'shown',
)  # fmt: skip
_ARROWS = {'higher': '↑', 'lower': '↓', '': ''}


def markdown(found: Compared, a: Sequence[str], b: Sequence[str]) -> str:
  """The whole comparison as Markdown: table, what was left out, statements.

  Args:
    found: of `compare`.
    a, b: names of the runs.
  """
  rows = differing(found)
  head = (
    f'|{"|".join(HEADER)}|',
    f'|{"|".join(["---"] * 2 + ["--:"] * 4 + ["---"] + ["--:"] * 3 + ["---"])}|',
  )
  parts = [
    f'A: {", ".join(a)}  \nB: {", ".join(b)}',
    '\n'.join((*head, *map(_line, rows))) if rows else '',
    note(found),
    same(found),
    *left_out(found),
    '\n'.join(f'- {statement(row)}' for row in rows),
  ]
  return '\n\n'.join(filter(None, parts)) + '\n'


def table(found: Compared) -> Table | None:
  """The metrics that differ, for a page; None if none does."""
  rows = [
    Row(
      row.metric,
      (
        row.better, row.n, row.a, row.b,
        {'value': row.difference, 'low': row.low, 'high': row.high, 'n': row.n},
        _p(row.p), _p(row.p_holm), row.detectable, row.winner.upper() or 'no',
      ),
    )
    for row in differing(found)
  ]  # fmt: skip
  if not rows:
    return None
  header = (
    'metric', 'better', 'n', 'A', 'B', 'A - B', 'p', 'p Holm', 'detectable', 'shown',
  )  # fmt: skip
  return Table(
    'A and B', header, rows, ' '.join(filter(None, (note(found), same(found))))
  )


def differing(found: Compared) -> list[Comparison]:
  """Metrics that are not the same for both on every resample."""
  return [row for row in found.rows if not row.identical]


def _line(row: Comparison) -> str:
  cells = (
    row.metric,
    _ARROWS[row.better],
    str(row.n),
    f'{row.a:.4f}',
    f'{row.b:.4f}',
    f'{row.difference:+.4f}',
    _interval(row),
    _p(row.p),
    _p(row.p_holm),
    '' if row.detectable is None else f'{row.detectable:.4f}',
    row.winner.upper() or 'no',
  )
  return f'|{"|".join(cell.replace("|", "/") for cell in cells)}|'


def _interval(row: Comparison) -> str:
  if row.low is None or row.high is None:
    return 'none'
  return f'[{row.low:+.4f}, {row.high:+.4f}]'


def _p(value: float | None) -> str:
  if value is None:
    return ''
  return f'{value:.4f}' if value >= 0.0001 else '< .0001'


def note(found: Compared) -> str:
  """How to read the table."""
  rows = differing(found)
  if not rows:
    return 'No metric differs.'
  tests = sorted({row.test for row in rows})
  seeds = next((row.seeds for row in found.rows if row.seeds), None)
  over = (
    f'seeds ({seeds["n"]} runs of each) and test problems together'
    if seeds
    else 'test problems alone: one run of each method, so that nothing is said about '
    'other training seeds'
  )
  return (
    f'Differences are paired by problem; intervals are over {over}. P values: '
    f'{"; ".join(tests)}; p Holm is over the {len(rows)} metrics that differ. '
    'Shown: the interval excludes 0 and p Holm is below .05. "detectable" is the '
    'smallest true difference that a single test at 5 % on such data finds with 80 % '
    'power.'
  )


def same(found: Compared) -> str:
  """Which metrics do not differ, '' if all do."""
  paths = [row.metric for row in found.rows if row.identical]
  return f'The same for both on every resample: {", ".join(paths)}.' if paths else ''


def left_out(found: Compared) -> list[str]:
  """What is not in the table, and why."""
  return [
    f'Not compared, {reason}: {", ".join(paths)}.'
    for reason, paths in found.left_out.items()
  ]


def statement(row: Comparison) -> str:
  """What one metric says, as a sentence."""
  numbers = f'difference {row.difference:+.4f} {_interval(row)}'
  if row.p is not None:
    p, holm = (
      '< .0001' if v is not None and v < 0.0001 else f'{v:.4f}'
      for v in (row.p, row.p_holm)
    )
    numbers += f', p {p} (Holm {holm})'
  if row.mcnemar:
    m = row.mcnemar
    numbers += (
      f', McNemar p {m["p"]:.4f} ({m["only_a"]} rows right in A alone, {m["only_b"]} '
      'in B alone)'
    )
  if row.seeds:
    s = row.seeds
    problems = 'unknown' if s['se_problems'] is None else f'{s["se_problems"]:.4f}'
    numbers += (
      f'; standard error from seeds {s["se_seeds"]:.4f}, from problems {problems}'
    )
  if row.winner:
    first, second = ('A', 'B') if row.winner == 'a' else ('B', 'A')
    word = 'better' if row.better else 'higher'
    return f'{first} is {word} than {second} on {row.metric}: {numbers}.'
  end = '' if row.detectable is None else f'; detectable {row.detectable:.4f}'
  return f'Not shown on {row.metric}: {numbers}{end}.'
