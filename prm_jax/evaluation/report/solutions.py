"""Solutions and trees of a report: their data for the page's script, and its frames.

The script filters, sorts and pages in the browser and draws only one page of them
(`browse.js`: the list, `solution.js` and `tree.js`: what is in it, `marks.js`: colours
and symbols). It reads the JSON made here, which cannot end its own element or start
another: every `<`, `>`, `&` and line separator is written as an escape.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prm_jax.evaluation.report import words
from prm_jax.evaluation.report.data import (
  DISAGREEMENTS,
  FAILURE_KINDS,
  Reading,
  Sample,
  Tree,
  failure_kind,
)
from prm_jax.evaluation.report.markup import Html, tag
from prm_jax.evaluation.report.scales import number

PAYLOAD_VERSION = 2
PAGE_SIZE = 25
ALWAYS = tuple(k for k in FAILURE_KINDS if k != 'unknown')
VERDICTS = {'right': 'right', 'wrong': 'wrong', '': 'not judged'}
Facets = tuple[tuple[str, str, Mapping[str, str]], ...]
FACETS: Facets = (
  ('failure', 'Prediction', FAILURE_KINDS),
  ('benchmark', 'Benchmark', {}),
  ('split', 'Set', {}),
  ('verdict', 'Final answer', VERDICTS),
  ('generator', 'Written by', {}),
)
"""What solutions are filtered by: key of a sample, heading, value -> name ({}: itself).
The values in `ALWAYS` have a button even where no solution has them."""
RIVAL_FACETS: Facets = (
  ('disagreement', 'A and B', DISAGREEMENTS),
  ('failure', 'Prediction of A', FAILURE_KINDS),
  ('rival_failure', 'Prediction of B', FAILURE_KINDS),
  *FACETS[1:],
)
"""The same where two scorers are compared."""
TREE_FACETS: Facets = (
  ('verdict', 'Final answer', VERDICTS),
  ('algorithm', 'Algorithm', {}),
  ('split', 'Set', {}),
)

_UNSAFE = re.compile('[<>&\u2028\u2029\ud800-\udfff]')


def payload(samples: Sequence[Sample], trees: Sequence[Tree] = ()) -> dict[str, Any]:
  """What the script gets: `{'version', 'page_size', 'facets', 'tree_facets', 'always',
  'scales', 'samples', 'trees'}`.

  An id that occurs again gets a number, so that each item has an address of its own.
  Numbers are rounded to 6 significant digits. `scales` holds, for each (scorer, kind,
  threshold) that occurs, the scores drawn as fully wrong and fully correct: 0 and 1
  for probabilities, else the threshold plus and minus the 95th percentile of the
  distances from it.

  Raises:
    ValueError: scores or truth are not one a step, samples have different pairs of
      scorers, or a tree's nodes do not stand in order.
  """
  _check(samples, trees)
  scales = _scales(samples, trees)
  pair = any(s.rival for s in samples)
  return {
    'version': PAYLOAD_VERSION,
    'page_size': PAGE_SIZE,
    'facets': _named(RIVAL_FACETS if pair else FACETS),
    'tree_facets': _named(TREE_FACETS),
    'always': {} if pair else {'failure': ALWAYS},
    'scales': [bounds for _, bounds in scales.values()],
    'samples': _numbered([_sample(s, scales) for s in samples]),
    'trees': _numbered([_tree(t, scales) for t in trees]),
  }


def _check(samples: Sequence[Sample], trees: Sequence[Tree]) -> None:
  pairs = {(s.scorer, s.rival.scorer) for s in samples if s.rival}
  if len(pairs) > 1:
    raise ValueError(f'one page compares two scorers, not {sorted(pairs)}')
  for s in samples:
    numbers = [len(r.scores) for r in (s, s.rival) if r]
    if set(numbers) != {len(s.steps)} or len(s.truth) not in (0, len(s.steps)):
      raise ValueError(
        f'sample {s.id!r}: {len(s.steps)} steps, '
        f'{" and ".join(map(str, numbers))} scores, {len(s.truth)} labels'
      )
  for t in trees:
    bad = [
      i for i, n in enumerate(t.nodes) if not (-1 if i == 0 else 0) <= n.parent < i
    ]
    if bad or not t.nodes or not 0 <= (t.chosen or 0) < len(t.nodes):
      raise ValueError(f'tree {t.id!r}: nodes {bad}, chosen {t.chosen}')


def _named(facets: Facets) -> list[dict[str, Any]]:
  return [{'key': k, 'title': t, 'names': n} for k, t, n in facets]


def _numbered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  times = Counter[str]()
  for row in rows:
    times[row['id']] += 1
    if times[row['id']] > 1:
      row['id'] = f'{row["id"]} ({times[row["id"]]})'
  return rows


def _there(row: dict[str, Any]) -> dict[str, Any]:
  return {k: v for k, v in row.items() if v is not None and v != '' and v != []}


def _reading(s: Sample | Reading, gold: int | None, scales: Scales) -> dict[str, Any]:
  return {
    'scores': [_short(v) for v in s.scores],
    'predicted': _index(s.predicted_first_error),
    'failure': failure_kind(gold, s.predicted_first_error),
    'threshold': _short(s.threshold),
    'scale': scales[_scale_key(s)][0],
  }


def _sample(s: Sample, scales: Scales) -> dict[str, Any]:
  gold, rival = s.gold_first_error, None
  if s.rival:
    rival = _there(_reading(s.rival, gold, scales))
  return _there(
    {
      'id': s.id,
      'benchmark': s.benchmark,
      'split': s.split,
      'question': s.question,
      'steps': list(s.steps),
      **_reading(s, gold, scales),
      'truth': [_short(v) for v in s.truth],
      'gold': _index(gold),
      'answer': s.answer,
      'gold_answer': s.gold_answer,
      'verdict': _verdict(s.verdict),
      'generator': s.generator,
      'rival': rival,
      'rival_failure': rival and rival['failure'],
      'disagreement': s.disagreement,
    }
  )


def _tree(t: Tree, scales: Scales) -> dict[str, Any]:
  path, at = set(), t.chosen if t.chosen is not None else -1
  while at >= 0:
    path.add(at)
    at = t.nodes[at].parent
  nodes = [
    _there(
      {
        'parent': n.parent,
        'steps': list(n.steps),
        'value': _short(n.value),
        'note': n.note,
        'right': n.right,
        'chosen': True if i in path else None,
      }
    )
    for i, n in enumerate(t.nodes)
  ]
  return _there(
    {
      'id': t.id,
      'question': t.question,
      'nodes': nodes,
      'chosen': t.chosen,
      'algorithm': t.algorithm,
      'split': t.split,
      'scale': scales[_scale_key(t)][0],
      'answer': t.answer,
      'gold_answer': t.gold_answer,
      'verdict': _verdict(t.verdict),
      'facts': [[str(k), str(number(v))] for k, v in t.facts.items()],
    }
  )


def _verdict(value: bool | None) -> str:
  return '' if value is None else 'right' if value else 'wrong'


def json_text(value: Any) -> Html:
  """JSON that is safe inside a script element, for any text in it."""
  raw = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(',', ':'))
  return Html(_UNSAFE.sub(lambda m: f'\\u{ord(m.group()):04x}', raw))


def embedded(samples: Sequence[Sample], trees: Sequence[Tree]) -> Html:
  """The element that the script reads."""
  raw = json_text(payload(samples, trees))
  return tag('script', raw, type='application/json', id='data')


def view(samples: Sequence[Sample], truth: str) -> Html:
  """The frame of the solutions, which the script fills."""
  pair = next(((s.scorer, s.rival.scorer) for s in samples if s.rival), None)
  according = f' ({words.truth(truth)})' if truth else ''
  key = [
    (_cell('up', 9), 'a step above the threshold; fuller and bluer, further above'),
    (_cell('down', 4), 'a step at or below it; emptier and more orange, further below'),
    (_symbol('gold'), 'first wrong step according to the truth' + according),
  ]
  if pair:
    key += [
      (_symbol('predicted'), f'first wrong step according to A: {pair[0]}'),
      (_symbol('rival'), f'first wrong step according to B: {pair[1]}'),
    ]
    reading = (
      'The gap is the widest distance between the two scores of a step, each as a '
      'share of its own scale.'
    )
  else:
    key.append((_symbol('predicted'), 'first wrong step according to the model'))
    reading = (
      'Confidence is how far the score that decides, that of the first step at or '
      'below the threshold or else the lowest, lies from the threshold, as a share of '
      'the scale.'
    )
  return _frame('', 'solutions', key, reading)


def tree_view(trees: Sequence[Tree]) -> Html:
  """The frame of the trees, which the script fills."""
  middle = 'one half' if all(t.kind == 'probability' for t in trees) else 'the middle'
  key = [
    (_cell('up', 9), f'a value above {middle}; bluer, further above'),
    (_cell('down', 4), f'a value at or below {middle}; more orange, further below'),
  ]
  reading = (
    'A row is a step, or several where only their end has a value; rows move in where '
    'a path forks. Open and close a row by a click or with the arrow keys.'
  )
  if any(t.chosen is not None for t in trees):
    reading += ' A thick bar stands beside the path of the chosen solution.'
  return _frame('tree-', 'trees', key, reading)


def _frame(
  prefix: str, noun: str, key: Sequence[tuple[Html, str]], reading: str
) -> Html:
  none = f'The {noun} need JavaScript.'
  return tag(
    'div',
    tag('ul', *(tag('li', *entry) for entry in key), class_='key'),
    tag('p', reading, class_='prose'),
    tag('noscript', tag('p', none, class_='warning')),
    tag('div', id=f'{prefix}filters', class_='filters card'),
    tag('p', id=f'{prefix}shown', class_='shown', role='status', aria_live='polite'),
    tag('ol', id=f'{prefix}list', class_='solutions'),
    tag('nav', id=f'{prefix}pages', class_='pages', aria_label=f'pages of {noun}'),
  )


def _symbol(which: str) -> Html:
  d = {
    'gold': 'M5 0 10 5 5 10 0 5z',
    'predicted': 'M0 9 5 0 10 9z',
    'rival': 'M0 1 10 1 5 10z',
  }[which]
  return tag(
    'svg',
    tag('path', d=d),
    class_=f'symbol {which}',
    viewBox='0 0 10 10',
    aria_hidden='true',
  )


def _cell(tone: str, height: int) -> Html:
  return tag(
    'svg',
    tag('rect', class_='cell', x=1, y=0, width=8, height=10, rx=1),
    tag(
      'rect', class_=f'fill {tone}', x=1, y=10 - height, width=8, height=height, rx=1
    ),
    class_='symbol',
    viewBox='0 0 10 10',
    aria_hidden='true',
  )


ScaleKey = tuple[str, str, float | None]
Scales = dict[ScaleKey, tuple[int, list[float]]]


def _scale_key(of: Sample | Reading | Tree) -> ScaleKey:
  if isinstance(of, Tree):
    return '', of.kind, None
  return of.scorer, of.kind, of.threshold


def _scales(samples: Sequence[Sample], trees: Sequence[Tree]) -> Scales:
  """Key -> (place in the list, [lowest, middle, highest])."""
  groups: dict[ScaleKey, list[float]] = {}

  def add(key: ScaleKey, values: Iterable[float | None]) -> None:
    middle = key[2] or 0.0
    found = groups.setdefault(key, [])
    found += [abs(v - middle) for v in values if v is not None and math.isfinite(v)]

  for s in samples:
    add(_scale_key(s), s.scores)
    if s.rival:
      add(_scale_key(s.rival), s.rival.scores)
  for t in trees:
    add(_scale_key(t), (n.value for n in t.nodes))
  out: Scales = {}
  for key, distances in groups.items():
    _, kind, threshold = key
    if kind == 'probability':
      bounds = [0.0, 0.5 if threshold is None else threshold, 1.0]
    else:
      distances.sort()
      reach = distances[int(0.95 * (len(distances) - 1))] if distances else 1.0
      middle, reach = threshold or 0.0, reach or 1.0
      bounds = [middle - reach, middle, middle + reach]
    out[key] = (len(out), [float(f'{b:.6g}') for b in bounds])
  return out


def _index(value: int | None) -> int | None:
  return None if value is None else int(value)


def _short(value: float | None) -> float | None:
  if value is None or not math.isfinite(value):
    return None
  return float(f'{value:.6g}')
