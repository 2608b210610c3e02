"""A comparison in words and as a Markdown table."""

from __future__ import annotations

from collections.abc import Sequence

from prm_jax.evaluation.compare import Compared, Comparison

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
  shown = [row for row in found.rows if not row.identical]
  lines = [
    f'A: {", ".join(a)}  ',
    f'B: {", ".join(b)}',
    '',
    f'|{"|".join(HEADER)}|',
    f'|{"|".join(["---"] * 2 + ["--:"] * 4 + ["---"] + ["--:"] * 3 + ["---"])}|',
    *(_line(row) for row in shown),
    '',
    *(note(found)),
    '',
    *(f'- {statement(row)}' for row in shown),
  ]
  return '\n'.join(lines) + '\n'


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


def note(found: Compared) -> list[str]:
  """How to read the table, and what is not in it."""
  tests = sorted({row.test for row in found.rows if not row.identical})
  seeds = next((row.seeds for row in found.rows if row.seeds), None)
  over = (
    f'seeds ({seeds["n"]} runs of each) and test problems together'
    if seeds
    else 'test problems alone: one run of each method, so that nothing is said about '
    'other training seeds'
  )
  differing = sum(not row.identical for row in found.rows)
  lines = [
    f'Differences are paired by problem; intervals are over {over}. P values: '
    f'{"; ".join(tests)}; p Holm is over the {differing} metrics that differ. '
    'Shown: the interval excludes 0 and p Holm is below .05. "detectable" is the '
    'smallest true difference that a single test at 5 % on such data finds with 80 % '
    'power.'
  ]
  same = [row.metric for row in found.rows if row.identical]
  if same:
    lines.append(f'\nThe same for both on every resample: {", ".join(same)}.')
  lines += [
    f'\nNot compared, {reason}: {", ".join(paths)}.'
    for reason, paths in found.left_out.items()
  ]
  return lines


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
