"""Tables with intervals: those a job composed, and the list of all metrics."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from prm_jax.evaluation.report import scales, words
from prm_jax.evaluation.report.data import Interval, ReportData, Table
from prm_jax.evaluation.report.markup import Html, join, tag

MOST_ROWS = 12
"""A longer one of several tables is folded: its title shows, a click opens it."""


def result_table(table: Table, alone: bool = False) -> Html:
  """A table of a report with a bar under every interval; stacked on a phone.

  Args:
    table: what it holds.
    alone: it is the only one of the report, and so never folded.
  """
  # On a phone a small table is stacked, cell under cell; a large one is scrolled.
  large = len(table.header) > 5 or len(table.rows) * len(table.header) > 30
  spans = _column_scales(table)
  head = [tag('th', table.header[0], scope='col')]
  for k, name in enumerate(table.header[1:]):
    ends = None
    if k in spans:
      low, high = (scales.tick_label(s) for s in spans[k])
      ends = tag('span', tag('span', low), tag('span', high), class_='ends')
    head.append(tag('th', tag('span', name), ends, scope='col'))
  rows = []
  for row in table.rows:
    mark = tag('small', 'baseline') if row.baseline else None
    cells = [tag('th', _breakable(row.name), ' ' if mark else None, mark, scope='row')]
    for k, cell in enumerate(row.cells):
      name = table.header[k + 1] if k + 1 < len(table.header) else ''
      cells.append(_cell(cell, name, spans.get(k)))
    rows.append(tag('tr', *cells, class_='baseline' if row.baseline else None))
  body = tag(
    'table',
    tag('thead', tag('tr', *head)),
    tag('tbody', *rows),
    class_='results large' if large else 'results',
  )
  inside = [
    tag('p', table.note, class_='prose') if table.note else None,
    tag(
      'div', body, class_='scroll', tabindex=0, role='region', aria_label=table.title
    ),
  ]
  if len(table.rows) > MOST_ROWS and not alone:
    count = tag('small', f'{len(table.rows)} rows')
    summary = tag('summary', table.title, ' ', count)
    return tag('details', summary, *inside, class_='card table fold')
  return tag('div', tag('h3', table.title), *inside, class_='card table')


def _column_scales(table: Table) -> dict[int, tuple[float, float]]:
  """Column -> scale of its bars; columns that lie in [0, 1] have one in common."""
  columns: dict[int, list[Interval]] = {}
  for row in table.rows:
    for k, cell in enumerate(row.cells):
      if isinstance(cell, Mapping):
        columns.setdefault(k, []).append(cell)
  spans = {k: scales.bar_scale(values) for k, values in columns.items()}
  unit = [k for k, (low, high) in spans.items() if low >= 0 and high <= 1]
  common = scales.bar_scale([v for k in unit for v in columns[k]])
  return spans | dict.fromkeys(unit, common)


def _cell(cell: object, name: str, scale: tuple[float, float] | None) -> Html:
  if not isinstance(cell, Mapping) or scale is None:
    inside = '' if cell is None else scales.number(cell)
    return tag('td', inside, data_name=name, class_=None if inside else 'empty')
  return tag(
    'td',
    tag(
      'span',
      tag('b', scales.number(cell.get('value'))),
      ' ',
      tag('small', brackets(cell)),
      class_='figure',
    ),
    interval_bar(cell, scale),
    data_name=name,
    title=_count(cell) or None,
  )


def interval_bar(value: Interval, scale: tuple[float, float]) -> Html:
  """A small bar: the interval as a line, the value as a dot, zero if it is inside.

  It is as wide as its place: positions are percentages.
  """
  bottom, top = scale

  def at(v: float) -> float:
    return round(100 * min(max((v - bottom) / (top - bottom), 0), 1), 2)

  parts = [tag('line', class_='track', x1='0%', x2='100%', y1=7, y2=7)]
  if bottom < 0 < top:
    parts.append(
      tag('line', class_='zero', x1=f'{at(0)}%', x2=f'{at(0)}%', y1=0, y2=14)
    )
  low, high, v = (scales.finite(value.get(k)) for k in ('low', 'high', 'value'))
  if low is not None and high is not None:
    span = round(max(at(high) - at(low), 0.5), 2)
    parts.append(
      tag(
        'rect', class_='span', x=f'{at(low)}%', y=3.5, width=f'{span}%', height=7, rx=3
      )
    )
  if v is not None:
    parts.append(tag('circle', class_='dot', cx=f'{at(v)}%', cy=7, r=3))
  return tag('svg', *parts, class_='bar', aria_hidden='true')


def all_metrics(data: ReportData) -> Html | None:
  """The section that lists every metric, by family, each with its definition."""
  if not data.metrics:
    return None
  families: dict[str, dict[str, list[str]]] = {}
  for path in sorted(data.metrics, key=_natural):
    means = words.meaning(path, data.definitions)
    families.setdefault(means.family, {}).setdefault(means.group, []).append(path)
  known = list(words.FAMILIES)
  order = sorted(families, key=lambda f: (known.index(f) if f in known else 99, f))
  blocks = []
  for family in order:
    title = words.FAMILIES.get(family) or words.plain(family).capitalize() or 'Other'
    count = sum(len(paths) for paths in families[family].values())
    groups = [_metric_group(data, paths) for paths in families[family].values()]
    summary = tag('summary', title, ' ', tag('small', f'{count} metrics'))
    blocks.append(tag('details', summary, *groups, class_='card family'))
  note = (
    'Every metric of results.json under its path, with its interval and the number of '
    'rows or problems n behind it.'
  )
  return tag(
    'section',
    tag('h2', 'All metrics', id='metrics'),
    tag('p', note, class_='prose'),
    *blocks,
  )


def _metric_group(data: ReportData, paths: Sequence[str]) -> Html:
  means = words.meaning(paths[0], data.definitions)
  scale = scales.bar_scale([data.metrics[p] for p in paths])
  rows = []
  for path in paths:
    value = data.metrics[path]
    rows.append(
      tag(
        'tr',
        tag('th', tag('code', _breakable(path)), scope='row'),
        tag('td', tag('b', scales.number(value.get('value')))),
        tag('td', brackets(value) or missing(value)),
        tag('td', interval_bar(value, scale), class_='bars'),
        tag('td', _count(value)),
      )
    )
  label = means.label
  if len(paths) > 1:
    label = re.sub(', N\u00a0=\u00a0[0-9]+', '', label)
  better = f'{means.better.capitalize()} is better.' if means.better else ''
  truths = {judged(data, p) for p in paths}
  said = [means.definition, better, truths.pop() if len(truths) == 1 else '']
  sentence = ' '.join(filter(None, said))
  return tag(
    'div',
    tag('h4', label),
    tag('p', sentence, class_='definition') if sentence else None,
    tag('table', tag('tbody', *rows), class_='metrics'),
  )


def judged(data: ReportData, path: str) -> str:
  """The sentence that names the truth behind a metric, or nothing."""
  truth = words.truth(words.judged_by(path, data.judged_by))
  return f'Judged against {truth}.' if truth else ''


def interval_text(value: Interval) -> Html:
  """Interval and n in words."""
  low, high = scales.finite(value.get('low')), scales.finite(value.get('high'))
  if low is None or high is None:
    shown = missing(value)
  else:
    shown = f'95 % interval {scales.fixed(low)} to {scales.fixed(high)}'
  return tag('span', ', '.join(filter(None, (shown, _count(value)))), class_='interval')


def missing(value: Interval) -> str:
  """What to say where an interval would stand."""
  return 'undefined' if scales.finite(value.get('value')) is None else 'no interval'


def brackets(value: Interval) -> str:
  """'[low, high]', or nothing."""
  low, high = scales.finite(value.get('low')), scales.finite(value.get('high'))
  if low is None or high is None:
    return ''
  return f'[{scales.fixed(low)}, {scales.fixed(high)}]'


def _count(value: Interval) -> str:
  n = value.get('n')
  return f'n\u00a0=\u00a0{scales.number(n)}' if n is not None else ''


def _breakable(path: str) -> Html:
  """A path or a name of code that may break after its marks."""
  return join([join((part, tag('wbr'))) for part in re.split('(?<=[/_:])|(?=@)', path)])


def _natural(path: str) -> list[tuple[int, str]]:
  """Sorts x@2 before x@16."""
  parts = re.split('([0-9]+)', path)
  return [(int(p) if p.isdigit() else -1, p) for p in parts]
