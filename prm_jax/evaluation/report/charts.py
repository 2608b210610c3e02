"""Charts as inline SVG: axes, lines with bands, scatter.

Colour is never alone: a line also has its own marker and, for baselines, a dash.
Colours, fonts and stroke widths are classes of the style sheet, so a chart follows
light, dark and print. Units are those of the view box, `WIDTH` by `HEIGHT`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from prm_jax.evaluation.report.data import LineChart, Reliability
from prm_jax.evaluation.report.markup import Html, join, tag
from prm_jax.evaluation.report.scales import finite, nice_ticks, number, tick_label

WIDTH, HEIGHT = 440, 286
LEFT, RIGHT, TOP, BOTTOM = 42, 16, 24, 40
MARKERS = ('circle', 'square', 'up', 'diamond', 'down', 'cross')
MOST_POINTS = 400
MOST_ROWS = 40
MOST_BANDS = 2
LANE = 9


class _Point(NamedTuple):
  """One point to draw; `low` and `high` are both there or both None."""

  x: float
  y: float
  low: float | None
  high: float | None
  gap: bool  # the line is lifted before it


Drawn = Mapping[str, Sequence[_Point]]


class _Axes:
  """Maps data to the view box and draws frame, grid and tick labels."""

  def __init__(
    self,
    x: Sequence[float],
    y: Sequence[float],
    log2: bool = False,
    lanes: Sequence[str] = (),
  ):
    """Ticks of both axes; `lanes`: series with a bar for their last interval."""
    self.log2, self.xs, self.ys, self.lanes = log2, list(x), list(y), list(lanes)
    self.right = WIDTH - RIGHT - LANE * (len(lanes) + 1 if lanes else 0)

  def x(self, value: float) -> float:
    low, high = self.xs[0], self.xs[-1]
    if self.log2:
      low, high, value = math.log2(low), math.log2(high), math.log2(value)
    share = (value - low) / (high - low) if high > low else 0.5
    return round(LEFT + share * (self.right - LEFT), 1)

  def y(self, value: float) -> float:
    low, high = self.ys[0], self.ys[-1]
    share = min(max((value - low) / (high - low), -0.02), 1.02)
    return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

  def draw(self, x_label: str, y_label: str) -> Html:
    out = []
    for tick in self.ys:
      y = self.y(tick)
      out.append(tag('line', class_='grid', x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y))
      out.append(tag('text', tick_label(tick), class_='tick end', x=LEFT - 6, y=y + 4))
    for tick in self.xs:
      x, base = self.x(tick), HEIGHT - BOTTOM
      out.append(tag('line', class_='axis', x1=x, x2=x, y1=base, y2=base + 4))
      out.append(tag('text', tick_label(tick), class_='tick middle', x=x, y=base + 17))
    out.append(
      tag(
        'line',
        class_='axis',
        x1=LEFT,
        x2=self.right,
        y1=HEIGHT - BOTTOM,
        y2=HEIGHT - BOTTOM,
      )
    )
    middle = (LEFT + self.right) / 2
    out.append(tag('text', x_label, class_='label middle', x=middle, y=HEIGHT - 5))
    out.append(tag('text', y_label, class_='label', x=4, y=13))
    return join(out)


def line_chart(chart: LineChart) -> Html:
  """A figure: heading, lines, legend with last values, and the numbers as a table."""
  named = {n: _clean(p) for n, p in chart.series.items()}
  drawn = {n: points for n, points in named.items() if points}
  if not drawn:
    return _figure(chart.title, chart.note, tag('p', 'No points to draw.'))
  axes = _axes_for(chart, drawn)
  styles = _styles(list(drawn), set(chart.baselines))
  layers = [axes.draw(chart.x_label, chart.y_label)]
  for back in (True, False):
    for name, points in drawn.items():
      if (name in chart.baselines) == back:
        layers.append(_series(axes, name, points, styles[name], chart))
  summary = f'{chart.title}: {chart.y_label or "value"} against {chart.x_label}, '
  svg = tag(
    'svg',
    *layers,
    class_='chart',
    viewBox=f'0 0 {WIDTH} {HEIGHT}',
    role='img',
    aria_label=summary + f'{len(drawn)} lines; the numbers are in the table below.',
  )
  reading = None
  if axes.lanes:
    reading = tag(
      'p',
      'Bars on the right: 95 % intervals at the last point, in the order of the '
      'names below.',
      class_='reading',
    )
  return _figure(
    chart.title,
    chart.note,
    svg,
    reading,
    _legend(drawn, styles),
    _numbers(chart, drawn),
  )


def reliability_chart(chart: Reliability) -> Html:
  """A figure: mean truth against mean score, one disc a bin, area by its count."""
  title = chart.title
  if 'reliability' not in title.lower():
    title = f'Reliability, {title}'
  bins = [b for b in chart.bins if b[0] > 0]
  ticks = [0, 0.2, 0.4, 0.6, 0.8, 1.0]
  axes = _Axes(ticks, ticks)
  largest = max((b[0] for b in bins), default=1)
  marks = [
    tag(
      'line', class_='diagonal', x1=axes.x(0), y1=axes.y(0), x2=axes.x(1), y2=axes.y(1)
    )
  ]
  for count, score, truth, *interval in bins:
    x, y = axes.x(score), axes.y(truth)
    if len(interval) == 2 and None not in interval:
      marks.append(
        tag(
          'line',
          class_='whisker',
          x1=x,
          x2=x,
          y1=axes.y(interval[0]),
          y2=axes.y(interval[1]),
        )
      )
    hint = f'{number(int(count))} steps: mean score {score:.3f}, mean truth {truth:.3f}'
    radius = round(3 + 12 * math.sqrt(count / largest), 1)
    disc = tag('circle', tag('title', hint), class_='bin', cx=x, cy=y, r=radius)
    marks.insert(1, disc)
  svg = tag(
    'svg',
    axes.draw('mean score in the bin', 'mean truth in the bin'),
    *marks,
    class_='chart',
    viewBox=f'0 0 {WIDTH} {HEIGHT}',
    role='img',
    aria_label=f'{title}: {len(bins)} bins; the numbers are in the table below.',
  )
  rows = [
    [number(int(b[0])), number(float(b[1])), _with_interval(b[2], *b[3:5])]
    for b in bins
  ]
  table = _details(['steps', 'mean score', 'mean truth'], rows)
  reading = (
    'On the dotted diagonal a score means what it says; below it the model is too '
    'sure. The area of a disc is the number of steps in its bin.'
  )
  return _figure(title, chart.note, svg, tag('p', reading, class_='reading'), table)


def _clean(points: Sequence[Sequence[float | None]]) -> list[_Point]:
  """Points with finite x and y in order of x; long series are thinned."""
  kept: list[_Point] = []
  gap = False
  pairs = [(x, p) for p in points if (x := finite(p[0])) is not None]
  for x, p in sorted(pairs, key=lambda pair: pair[0]):
    y, low, high = (finite(v) for v in [*p[1:4], None, None][:3])
    if y is None:
      gap = True
      continue
    if low is None or high is None:
      low = high = None
    kept.append(_Point(x, y, low, high, gap))
    gap = False
  if len(kept) <= MOST_POINTS:
    return kept
  # Each bucket keeps its lowest and highest point, so that no spike is lost.
  size = math.ceil(2 * len(kept) / MOST_POINTS)
  thin: list[_Point] = []
  for k in range(0, len(kept), size):
    bucket = kept[k : k + size]
    ends = {min(bucket, key=lambda p: p.y), max(bucket, key=lambda p: p.y)}
    thin.extend(sorted(ends, key=lambda p: p.x))
  return thin if thin[-1] is kept[-1] else [*thin, kept[-1]]


def _axes_for(chart: LineChart, drawn: Drawn) -> _Axes:
  points = [p for series in drawn.values() for p in series]
  xs = [p.x for p in points]
  ys = [v for p in points for v in (p.y, p.low, p.high) if v is not None]
  if len(chart.y_range) == 2:
    ys = [float(v) for v in chart.y_range]
  y_ticks = nice_ticks(min(ys), max(ys))
  ending = [n for n, s in drawn.items() if any(p.low is not None for p in s)]
  results = [n for n in ending if n not in chart.baselines]
  lanes = _by_last(drawn, ending) if len(results) > MOST_BANDS else []
  if chart.log2 and min(xs) > 0:
    first, last = math.floor(math.log2(min(xs))), math.ceil(math.log2(max(xs)))
    every = max(1, math.ceil((last - first) / 8))
    x_ticks = [2.0**k for k in range(first, max(last, first + 1) + every, every)]
    return _Axes(x_ticks, y_ticks, log2=True, lanes=lanes)
  return _Axes(nice_ticks(min(xs), max(xs)), y_ticks, lanes=lanes)


def _styles(names: Sequence[str], baselines: set[str]) -> dict[str, tuple[str, str]]:
  """name -> (CSS classes, marker): results by colour, baselines grey by dash."""
  out, results, others = {}, 0, 0
  for name in names:
    if name in baselines:
      marker = MARKERS[(others + 1) % len(MARKERS)]
      out[name] = (f'series baseline dash{others % 4}', marker)
      others += 1
    else:
      out[name] = (f'series hue{results % 6}', MARKERS[results % len(MARKERS)])
      results += 1
  return {n: (f'{c} s{k}', m) for k, (n, (c, m)) in enumerate(out.items())}


def _series(
  axes: _Axes,
  name: str,
  points: Sequence[_Point],
  style: tuple[str, str],
  chart: LineChart,
) -> Html:
  classes, marker = style
  parts = []
  ends = [
    (p, p.low, p.high) for p in points if p.low is not None and p.high is not None
  ]
  if ends and name not in chart.baselines:
    over = [f'{axes.x(p.x)},{axes.y(high)}' for p, _, high in ends]
    under = [f'{axes.x(p.x)},{axes.y(low)}' for p, low, _ in reversed(ends)]
    many = 'band many' if axes.lanes else 'band'
    parts.append(tag('polygon', class_=many, points=' '.join(over + under)))
  if ends and name in axes.lanes:
    x = WIDTH - RIGHT - LANE * (len(axes.lanes) - 1 - axes.lanes.index(name))
    p, low, high = ends[-1]
    y1, y2 = axes.y(low), axes.y(high)
    parts.append(tag('line', class_='whisker', x1=x, x2=x, y1=y1, y2=y2))
    parts.append(_marker(marker, x, axes.y(p.y)))
  path = [
    f'{"M" if p.gap or not k else "L"}{axes.x(p.x)} {axes.y(p.y)}'
    for k, p in enumerate(points)
  ]
  parts.append(tag('path', class_='line', d=''.join(path)))
  every = max(1, math.ceil(len(points) / 12))
  for k, p in enumerate(points):
    hint = f'{name}: {_with_interval(p.y, p.low, p.high)} at {tick_label(p.x)}'
    px, py = axes.x(p.x), axes.y(p.y)
    inside = [tag('title', hint), tag('circle', class_='hit', cx=px, cy=py, r=7)]
    if k % every == 0 or k == len(points) - 1:
      inside.append(_marker(marker, px, py))
    parts.append(tag('g', *inside))
  return tag('g', *parts, class_=classes)


def _marker(kind: str, x: float, y: float) -> Html:
  if kind == 'circle':
    return tag('circle', class_='mark', cx=x, cy=y, r=3.2)
  d = {
    'square': 'm-3-3h6v6h-6z',
    'up': 'm-3.7 2.9 3.7-6.4 3.7 6.4z',
    'down': 'm-3.7-2.9 3.7 6.4 3.7-6.4z',
    'diamond': 'm0-4.2 4.2 4.2-4.2 4.2-4.2-4.2z',
    'cross': 'm-3-3l6 6m0-6l-6 6',
  }[kind]
  return tag('path', class_=f'mark {kind}', d=f'M{x} {y}{d}')


def _legend(drawn: Drawn, styles: Mapping[str, tuple[str, str]]) -> Html:
  """Names in the order of their last values, highest first, as the lines end."""
  items = []
  for name in _by_last(drawn, list(drawn)):
    classes, marker = styles[name]
    swatch = tag('path', class_='line', d='M1 7H27')
    line = tag('g', swatch, _marker(marker, 14, 7), class_=classes)
    icon = tag('svg', line, class_='swatch', viewBox='0 0 28 14', aria_hidden='true')
    key = classes.rsplit(' ', 1)[-1]
    value = tag('b', number(drawn[name][-1].y))
    items.append(tag('li', icon, tag('span', name), value, class_=key))
  return tag('ul', *items, class_='legend', aria_label='lines and their last values')


def _by_last(drawn: Drawn, names: Sequence[str]) -> list[str]:
  """`names` in the order of their last values, highest first."""
  return sorted(names, key=lambda n: -drawn[n][-1].y)


def _numbers(chart: LineChart, drawn: Drawn) -> Html:
  xs = sorted({p.x for s in drawn.values() for p in s})
  every = math.ceil(len(xs) / MOST_ROWS)
  kept = xs[::every] if (len(xs) - 1) % every == 0 else [*xs[::every], xs[-1]]
  looked_up = {n: {p.x: p for p in s} for n, s in drawn.items()}
  rows = []
  for x in kept:
    row = [tick_label(x)]
    for at in looked_up.values():
      point = at.get(x)
      row.append(_with_interval(*point[1:4]) if point else '')
    rows.append(row)
  note = f'Every {every}th of {len(xs)} points.' if every > 1 else ''
  return _details([chart.x_label, *drawn], rows, note)


def _details(
  header: Sequence[str], rows: Sequence[Sequence[str]], note: str = ''
) -> Html:
  head = tag('tr', *(tag('th', h, scope='col') for h in header))
  body = [
    tag('tr', tag('th', row[0], scope='row'), *(tag('td', c) for c in row[1:]))
    for row in rows
  ]
  table = tag('table', tag('thead', head), tag('tbody', *body), class_='numbers')
  scroll = tag(
    'div',
    table,
    class_='scroll',
    tabindex=0,
    role='region',
    aria_label='numbers of the chart',
  )
  more = tag('p', note, class_='reading') if note else None
  return tag('details', tag('summary', 'The numbers'), more, scroll, class_='more')


def _with_interval(
  value: float | None, low: float | None = None, high: float | None = None
) -> str:
  shown = number(value)
  if low is None or high is None or value is None:
    return shown
  return f'{shown} [{number(low)}, {number(high)}]'


def _figure(title: str, note: str, *parts: object) -> Html:
  caption = tag('figcaption', tag('h3', title), tag('p', note) if note else None)
  return tag('figure', caption, *parts, class_='card')
