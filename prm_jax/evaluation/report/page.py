"""The page: sections in reading order, from `ReportData` to one HTML string."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources

from prm_jax.evaluation.report import charts, scales, solutions, tables, words
from prm_jax.evaluation.report.data import Interval, ReportData
from prm_jax.evaluation.report.markup import Html, join, tag

HOW_TO_READ = (
  'Brackets hold 95 % intervals from a bootstrap by problem: whole problems are drawn '
  'again, with all their solutions, so solutions of one problem are not counted as '
  'independent. Overlap of two intervals says little; whether one method beats another '
  'is read from the paired difference. Where candidates or answers tie, a number is '
  'the expectation under a uniformly random choice among them.'
)
SCRIPTS = ('marks.js', 'browse.js', 'solution.js', 'tree.js')
EMBEDDED_WORLD = (
  'These solutions come from the embedded arithmetic world. Gaps between methods seen '
  'here are properties of that world: it ranks methods and finds bugs, and it does not '
  'predict gains on language models.'
)


def render(data: ReportData) -> Html:
  """The whole page. Equal data give equal text.

  Without a title there is no header: what a notebook shows inside its own page.
  """
  style, script = _asset('style.css'), _script()
  sections, whole = [s for s in _sections(data) if s[2]], bool(data.title)
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
    tag('title', data.title or 'solutions'),
    tag('style', style),
  )
  body = tag(
    'body',
    tag('a', 'Skip to the results', href='#main', class_='skip') if whole else None,
    _header(data) if whole else None,
    tag('nav', *links, class_='contents', aria_label='sections')
    if links and whole
    else None,
    tag('main', *(content for *_, content in sections), id='main'),
    (solutions.embedded(data.samples, data.trees), tag('script', script))
    if data.samples or data.trees
    else None,
    class_=None if whole else 'inline',
  )
  return Html('<!DOCTYPE html>\n' + tag('html', head, body, lang='en') + '\n')


def _sections(data: ReportData) -> list[tuple[str, str, Html | None]]:
  """(anchor, name in the contents, content or None) in reading order."""
  return [
    ('results', 'Results', _results(data)),
    ('tables', 'Tables', _tables(data)),
    ('curves', 'Curves', _curves(data)),
    ('solutions', 'Solutions', _solutions(data)),
    ('trees', 'Trees', _trees(data)),
    ('metrics', 'All metrics', tables.all_metrics(data)),
    ('counters', 'Counters', _counters(data)),
    ('provenance', 'Provenance', _provenance(data)),
  ]


def _header(data: ReportData) -> Html:
  facts = [
    tag('div', tag('dt', words.plain(str(k))), tag('dd', scales.number(v)))
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
  groups: dict[str, list[tuple[str, str]]] = {}
  for path, reading in data.headline:
    if path in data.metrics:
      group = words.meaning(path).group
      groups.setdefault(group, []).append((path, reading))
  cards = [_headline(data, entries) for entries in groups.values()]
  warnings = [tag('li', w) for w in data.warnings]
  if not (cards or warnings or data.metrics or data.embedded_world):
    return None
  return tag(
    'section',
    tag('h2', 'Results', id='results'),
    tag(
      'div',
      tag('h3', 'Read this first'),
      tag('ul', *warnings),
      class_='warning',
      role='note',
    )
    if warnings
    else None,
    tag('div', *cards, class_='cards') if cards else None,
    tag(
      'div',
      tag('p', HOW_TO_READ, class_='prose'),
      tag('p', EMBEDDED_WORLD, class_='prose world') if data.embedded_world else None,
      class_='notes',
    ),
  )


def _headline(data: ReportData, entries: Sequence[tuple[str, str]]) -> Html:
  """A card for one metric: the first entry large, other sets and baselines below."""
  first = entries[0][0]
  means = words.meaning(first, data.definitions)
  values = [data.metrics[path] for path, _ in entries]
  scale = scales.bar_scale([*values, {'value': 0.0}, {'value': 1.0}])
  low, high = (scales.tick_label(s) for s in scale)
  readings = dict.fromkeys(_without_split(*entry) for entry in entries)
  truths = dict.fromkeys(tables.judged(data, path) for path, _ in entries)
  definition = ' '.join(filter(None, (means.definition, *truths)))
  return tag(
    'article',
    tag('h3', means.label),
    _entry(first, data.metrics[first], scale, first=True),
    [_entry(path, data.metrics[path], scale) for path, _ in entries[1:]],
    tag('span', tag('span', low), tag('span', high), class_='ends'),
    [tag('p', reading, class_='says') for reading in readings if reading],
    tag('p', definition, class_='definition') if definition else None,
    class_='card headline',
  )


def _entry(
  path: str, value: Interval, scale: tuple[float, float], first: bool = False
) -> Html:
  means = words.meaning(path)
  whose = ', '.join(filter(None, (means.split, means.scorer)))
  shown = tag('b', scales.number(value.get('value')), class_='big' if first else None)
  if first:
    interval = tables.interval_text(value)
  else:
    interval = tag('small', tables.brackets(value) or tables.missing(value))
  return tag(
    'div',
    tag('span', whose, class_='split') if whose else None,
    tag('span', shown, ' ', interval, class_='figure'),
    tables.interval_bar(value, scale),
    class_='entry baseline' if means.baseline else 'entry',
  )


def _without_split(path: str, reading: str) -> str:
  """The sentence without a leading 'SPLIT: ', which stands beside the number."""
  prefix = f'{path.split("/")[0]}: '
  if not reading.startswith(prefix):
    return reading
  rest = reading.removeprefix(prefix)
  return rest[:1].upper() + rest[1:]


def _tables(data: ReportData) -> Html | None:
  if not data.tables:
    return None
  shown = [tables.result_table(t, len(data.tables) == 1) for t in data.tables]
  return tag('section', tag('h2', 'Tables', id='tables'), *shown)


def _curves(data: ReportData) -> Html | None:
  figures = [charts.line_chart(c) for c in data.best_of_n]
  figures += [charts.reliability_chart(c) for c in data.reliability]
  figures += [charts.line_chart(c) for c in data.learning_curves]
  if not figures:
    return None
  hint = 'Point at a line or a disc for its numbers, at a name to single its line out.'
  return tag(
    'section',
    tag('h2', 'Curves', id='curves'),
    tag('p', hint, class_='prose screen'),
    tag('div', *figures, class_='figures'),
  )


def _solutions(data: ReportData) -> Html | None:
  if not data.samples:
    return None
  return tag(
    'section',
    tag('h2', 'Solutions', id='solutions'),
    solutions.view(data.samples, data.truth),
  )


def _trees(data: ReportData) -> Html | None:
  if not data.trees:
    return None
  return tag('section', tag('h2', 'Trees', id='trees'), solutions.tree_view(data.trees))


def _counters(data: ReportData) -> Html | None:
  if not data.counters:
    return None
  names = sorted(data.counters)
  rows = [
    tag(
      'tr',
      tag('th', words.plain(n.replace('/', ', ')), scope='row'),
      tag('td', scales.number(data.counters[n])),
    )
    for n in names
    if data.counters[n]
  ]
  zero = [words.plain(n.replace('/', ', ')) for n in names if not data.counters[n]]
  return tag(
    'section',
    tag('h2', 'Counters', id='counters'),
    tag(
      'p',
      'What was left out, cut off or could not be judged. Nothing is dropped '
      'without being counted here.',
      class_='prose',
    ),
    tag(
      'div',
      tag('table', tag('tbody', *rows), class_='counters') if rows else None,
      tag('p', 'Counted, and zero: ', '; '.join(zero), '.', class_='reading')
      if zero
      else None,
      class_='card',
    ),
  )


def _provenance(data: ReportData) -> Html | None:
  if not (data.provenance or data.command):
    return None
  facts = [
    tag('div', tag('dt', words.plain(str(k))), tag('dd', scales.number(v)))
    for k, v in data.provenance.items()
  ]
  parts = join([tag('span', w) for w in data.command.split(' ')], ' ')
  command = [tag('p', 'The same run again:'), tag('pre', tag('code', parts))]
  return tag(
    'section',
    tag('h2', 'Provenance', id='provenance'),
    tag(
      'div',
      command if data.command else None,
      tag('dl', *facts, class_='facts') if facts else None,
      class_='card',
    ),
  )


def _asset(name: str) -> Html:
  return Html(resources.files(__package__).joinpath(name).read_text('utf-8'))


def _script() -> Html:
  """The parts of the script as one: what they declare is theirs alone."""
  parts = ''.join(_asset(name) for name in SCRIPTS)
  return Html(f"'use strict';\n{{\n{parts}}}\n")


def _hash(content: str) -> str:
  digest = hashlib.sha256(content.encode('utf-8')).digest()
  return 'sha256-' + base64.b64encode(digest).decode('ascii')
