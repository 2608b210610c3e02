"""The page: sections in reading order, from `ReportData` to one HTML string."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources

from prm_jax.evaluation.report import charts, solutions, words
from prm_jax.evaluation.report.data import Interval, ReportData, Table
from prm_jax.evaluation.report.markup import Html, join, tag

HOW_TO_READ = (
  'Brackets hold 95 % intervals from a bootstrap by problem: whole problems are drawn '
  'again, with all their solutions, so solutions of one problem are not counted as '
  'independent. Overlap of two intervals says little; whether one method beats another '
  'is read from the paired difference. Where candidates or answers tie, a number is the '
  'expectation under a uniformly random choice among them.'
)
EMBEDDED_WORLD = (
  'These solutions come from the embedded arithmetic world. Gaps between methods seen '
  'here are properties of that world: it ranks methods and finds bugs, and it does not '
  'predict gains on language models.'
)


def render(data: ReportData) -> Html:
  """The whole page. Equal data give equal text."""
  style, script = _asset('style.css'), _asset('viewer.js')
  sections = [s for s in _sections(data) if s[2]]
  links = [tag('a', short, href=f'#{anchor}') for anchor, short, _ in sections]
  policy = (
    f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
    "img-src data:; base-uri 'none'; form-action 'none'"
  )
  head = tag(
    'head',
    tag('meta', charset='utf-8'),
    tag('meta', http_equiv='Content-Security-Policy', content=policy),
    tag('meta', name='viewport', content='width=device-width, initial-scale=1'),
    tag('meta', name='color-scheme', content='light dark'),
    tag('meta', name='referrer', content='no-referrer'),
    tag('link', rel='icon', href='data:,'),
    tag('title', data.title),
    tag('style', style),
  )
  body = tag(
    'body',
    tag('a', 'Skip to the results', href='#main', class_='skip'),
    _header(data),
    tag('nav', *links, class_='contents', aria_label='sections') if links else None,
    tag('main', *(content for *_, content in sections), id='main'),
    tag('script', script) if data.samples else None,
  )
  return Html('<!DOCTYPE html>\n' + tag('html', head, body, lang='en') + '\n')


def _sections(data: ReportData) -> list[tuple[str, str, Html | None]]:
  """(anchor, name in the contents, content or None) in reading order."""
  return [
    ('results', 'Results', _results(data)),
    ('tables', 'Tables', _tables(data)),
    ('curves', 'Curves', _curves(data)),
    ('solutions', 'Solutions', _solutions(data)),
    ('metrics', 'All metrics', _metrics(data)),
    ('counters', 'Counters', _counters(data)),
    ('provenance', 'Provenance', _provenance(data)),
  ]


def _header(data: ReportData) -> Html:
  facts = [
    tag('div', tag('dt', words.plain(str(k))), tag('dd', charts.number(v)))
    for k, v in data.highlights.items()
  ]
  return tag(
    'header',
    tag('p', data.job, class_='job'),
    tag('h1', data.title),
    tag('p', data.summary, class_='summary') if data.summary else None,
    tag('dl', *facts, class_='facts') if facts else None,
  )


def _results(data: ReportData) -> Html | None:
  cards = [
    _headline(data, path, reading)
    for path, reading in data.headline
    if path in data.metrics
  ]
  warnings = [tag('li', w) for w in data.warnings]
  if not (cards or warnings or data.metrics or data.embedded_world):
    return None
  return tag(
    'section',
    charts.heading(2, 'Results', 'results'),
    tag('div', tag('h3', 'Read this first'), tag('ul', *warnings), class_='warning',
        role='note') if warnings else None,
    tag('div', *cards, class_='cards') if cards else None,
    tag('p', HOW_TO_READ, class_='prose'),
    tag('p', EMBEDDED_WORLD, class_='prose world') if data.embedded_world else None,
  )  # fmt: skip


def _headline(data: ReportData, path: str, reading: str) -> Html:
  value = data.metrics[path]
  means = words.meaning(path, data.definitions)
  scale = charts.bar_scale([value])
  low, high = (charts.tick_label(s) for s in scale)
  axis = tag('span', tag('span', low), tag('span', high), class_='ends')
  definition = ' '.join(filter(None, (means.definition, _judged(data, path))))
  return tag(
    'article',
    tag('h3', means.label),
    tag('p', words.plain(means.split), class_='split') if means.split else None,
    tag('p', tag('b', charts.number(value.get('value')), class_='big'), ' ',
        _interval_text(value), class_='value'),
    tag('div', charts.interval_bar(value, scale), axis, class_='scale'),
    tag('p', reading, class_='says') if reading else None,
    tag('p', definition, class_='definition') if definition else None,
    class_='card headline',
  )  # fmt: skip


def _tables(data: ReportData) -> Html | None:
  if not data.tables:
    return None
  shown = [_table(t) for t in data.tables]
  return tag('section', charts.heading(2, 'Tables', 'tables'), *shown)


def _table(table: Table) -> Html:
  scales = {}
  for k in range(len(table.header) - 1):
    column = [r.cells[k] for r in table.rows if k < len(r.cells)]
    values = [c for c in column if isinstance(c, Mapping)]
    if values:
      scales[k] = charts.bar_scale(values)
  head = [tag('th', table.header[0], scope='col')]
  for k, name in enumerate(table.header[1:]):
    ends = None
    if k in scales:
      low, high = (charts.tick_label(s) for s in scales[k])
      ends = tag('span', tag('span', low), tag('span', high), class_='ends')
    head.append(tag('th', tag('span', name), ends, scope='col'))
  rows = []
  for row in table.rows:
    mark = tag('small', 'baseline') if row.baseline else None
    cells = [tag('th', row.name, ' ' if mark else None, mark, scope='row')]
    for k, cell in enumerate(row.cells):
      name = table.header[k + 1] if k + 1 < len(table.header) else ''
      cells.append(_cell(cell, name, scales.get(k)))
    rows.append(tag('tr', *cells, class_='baseline' if row.baseline else None))
  body = tag('table', tag('thead', tag('tr', *head)), tag('tbody', *rows), class_='results')
  return tag(
    'div',
    tag('h3', table.title),
    tag('p', table.note, class_='prose') if table.note else None,
    tag('div', body, class_='scroll', tabindex=0, role='region', aria_label=table.title),
    class_='card table',
  )


def _cell(cell: object, name: str, scale: tuple[float, float] | None) -> Html:
  if not isinstance(cell, Mapping) or scale is None:
    inside = '' if cell is None else charts.number(cell)
    return tag('td', inside, data_name=name, class_=None if inside else 'empty')
  return tag(
    'td',
    tag('span', tag('b', charts.number(cell.get('value'))), ' ',
        tag('small', _brackets(cell)), class_='figure'),
    charts.interval_bar(cell, scale),
    data_name=name, title=_count(cell) or None,
  )  # fmt: skip


def _curves(data: ReportData) -> Html | None:
  figures = [charts.line_chart(c) for c in data.best_of_n]
  figures += [charts.reliability_chart(c) for c in data.reliability]
  figures += [charts.line_chart(c) for c in data.learning_curves]
  if not figures:
    return None
  hint = 'Point at a line or a disc for its numbers, at a name to single its line out.'
  return tag(
    'section',
    charts.heading(2, 'Curves', 'curves'),
    tag('p', hint, class_='prose screen'),
    tag('div', *figures, class_='figures'),
  )


def _solutions(data: ReportData) -> Html | None:
  if not data.samples:
    return None
  return tag(
    'section',
    charts.heading(2, 'Solutions', 'solutions'),
    solutions.view(data.samples, data.truth),
  )


def _metrics(data: ReportData) -> Html | None:
  if not data.metrics:
    return None
  families: dict[str, dict[str, list[str]]] = {}
  for path in sorted(data.metrics, key=_natural):
    means = words.meaning(path, data.definitions)
    name = path.split('/', 1)[1] if means.split else path
    families.setdefault(means.family, {}).setdefault(name, []).append(path)
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
  return tag('section', charts.heading(2, 'All metrics', 'metrics'),
             tag('p', note, class_='prose'), *blocks)  # fmt: skip


def _metric_group(data: ReportData, paths: Sequence[str]) -> Html:
  means = words.meaning(paths[0], data.definitions)
  scale = charts.bar_scale([data.metrics[p] for p in paths])
  rows = []
  for path in paths:
    value = data.metrics[path]
    rows.append(
      tag('tr', tag('th', tag('code', _breakable(path)), scope='row'),
          tag('td', tag('b', charts.number(value.get('value')))),
          tag('td', _brackets(value) or 'no interval'),
          tag('td', charts.interval_bar(value, scale), class_='bars'),
          tag('td', _count(value)))
    )  # fmt: skip
  better = f'{means.better.capitalize()} is better.' if means.better else ''
  judged = {_judged(data, p) for p in paths}
  said = [means.definition, better, judged.pop() if len(judged) == 1 else '']
  sentence = ' '.join(filter(None, said))
  return tag(
    'div',
    tag('h4', means.label),
    tag('p', sentence, class_='definition') if sentence else None,
    tag('table', tag('tbody', *rows), class_='metrics'),
  )


def _counters(data: ReportData) -> Html | None:
  if not data.counters:
    return None
  names = sorted(data.counters)
  rows = [
    tag('tr', tag('th', words.plain(n.replace('/', ', ')), scope='row'),
        tag('td', charts.number(data.counters[n])))
    for n in names if data.counters[n]
  ]  # fmt: skip
  zero = [words.plain(n.replace('/', ', ')) for n in names if not data.counters[n]]
  return tag(
    'section',
    charts.heading(2, 'Counters', 'counters'),
    tag('p', 'What was left out, cut off or could not be judged. Nothing is dropped '
        'without being counted here.', class_='prose'),
    tag('div', tag('table', tag('tbody', *rows), class_='counters') if rows else None,
        tag('p', 'Counted, and zero: ', '; '.join(zero), '.', class_='reading')
        if zero else None, class_='card'),
  )  # fmt: skip


def _provenance(data: ReportData) -> Html | None:
  if not (data.provenance or data.command):
    return None
  facts = [
    tag('div', tag('dt', words.plain(str(k))), tag('dd', charts.number(v)))
    for k, v in data.provenance.items()
  ]
  command = [tag('p', 'The same run again:'), tag('pre', tag('code', data.command))]
  return tag(
    'section',
    charts.heading(2, 'Provenance', 'provenance'),
    tag('div', command if data.command else None,
        tag('dl', *facts, class_='facts') if facts else None, class_='card'),
  )  # fmt: skip


def _judged(data: ReportData, path: str) -> str:
  truth = words.judged_by(path, data.judged_by)
  return f'Judged against {truth}.' if truth else ''


def _interval_text(value: Interval) -> Html:
  low, high = value.get('low'), value.get('high')
  if charts.finite(low) is None or charts.finite(high) is None:
    shown = 'no interval' if charts.finite(value.get('value')) is not None else 'undefined'
  else:
    shown = f'95 % interval {charts.number(low)} to {charts.number(high)}'
  return tag('span', ', '.join(filter(None, (shown, _count(value)))), class_='interval')


def _brackets(value: Interval) -> str:
  low, high = charts.finite(value.get('low')), charts.finite(value.get('high'))
  if low is None or high is None:
    return ''
  return f'[{charts.number(low)}, {charts.number(high)}]'


def _count(value: Interval) -> str:
  n = value.get('n')
  return f'n = {charts.number(n)}' if n is not None else ''


def _breakable(path: str) -> Html:
  """A path that may break after its slashes."""
  return join([join((part, tag('wbr'))) for part in path.replace('/', '/\0').split('\0')])


def _natural(path: str) -> tuple[str, int]:
  """Sorts x@2 before x@16."""
  base, _, last = path.rpartition('@')
  return (base, int(last)) if last.isdigit() else (path, -1)


def _asset(name: str) -> Html:
  return Html(resources.files(__package__).joinpath(name).read_text('utf-8'))


def _hash(content: str) -> str:
  digest = hashlib.sha256(content.encode('utf-8')).digest()
  return 'sha256-' + base64.b64encode(digest).decode('ascii')
