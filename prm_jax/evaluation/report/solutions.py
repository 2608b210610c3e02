"""The solutions of a report: their data for the page's script, and its frame.

The script (`viewer.js`) filters, sorts and pages in the browser and draws only the
solutions of one page. It reads the JSON made here, which cannot end its own element
or start another: every `<`, `>`, `&` and line separator is written as an escape.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from prm_jax.evaluation.report import words
from prm_jax.evaluation.report.data import FAILURE_KINDS, Sample
from prm_jax.evaluation.report.markup import Html, tag

PAYLOAD_VERSION = 1
PAGE_SIZE = 25
ALWAYS = tuple(k for k in FAILURE_KINDS if k != 'unknown')
FACETS: tuple[tuple[str, str, Mapping[str, str]], ...] = (
  ('failure', 'Prediction', FAILURE_KINDS),
  ('split', 'Set', {}),
  ('verdict', 'Final answer', {'right': 'right', 'wrong': 'wrong', '': 'not judged'}),
  ('generator', 'Written by', {}),
)
"""What solutions are filtered by: key of a sample, heading, value -> name ({}: itself).
The values in `ALWAYS` have a button even where no solution has them."""

_UNSAFE = re.compile('[<>&\u2028\u2029\ud800-\udfff]')


def payload(samples: Sequence[Sample]) -> dict[str, Any]:
  """What the script gets: `{'version', 'page_size', 'facets', 'always', 'scales',
  'samples'}`.

  An id that occurs again gets a number, so that each solution has an address of its
  own. Scores are rounded to 6 significant digits. `scales` holds, for each (kind,
  threshold) that occurs, the scores drawn as fully wrong and fully correct: 0 and 1
  for probabilities, else the threshold plus and minus the 95th percentile of the
  distances from it.

  Raises:
    ValueError: scores or truth are not one a step.
  """
  for s in samples:
    if len(s.scores) != len(s.steps) or len(s.truth) not in (0, len(s.steps)):
      raise ValueError(
        f'sample {s.id!r}: {len(s.steps)} steps, {len(s.scores)} scores, '
        f'{len(s.truth)} labels'
      )
  scales, rows, times = _scales(samples), [], Counter[str]()
  for s in samples:
    times[s.id] += 1
    row = {
      'id': s.id if times[s.id] == 1 else f'{s.id} ({times[s.id]})',
      'split': s.split,
      'question': s.question,
      'steps': list(s.steps),
      'scores': [_short(v) for v in s.scores],
      'truth': [_short(v) for v in s.truth],
      'gold': _index(s.gold_first_error),
      'predicted': _index(s.predicted_first_error),
      'failure': s.failure,
      'threshold': _short(s.threshold),
      'scale': scales[_scale_key(s)][0],
      'answer': s.answer,
      'gold_answer': s.gold_answer,
      'verdict': '' if s.verdict is None else 'right' if s.verdict else 'wrong',
      'generator': s.generator,
    }
    rows.append({k: v for k, v in row.items() if v not in (None, '', [])})
  return {
    'version': PAYLOAD_VERSION,
    'page_size': PAGE_SIZE,
    'facets': [{'key': k, 'title': t, 'names': n} for k, t, n in FACETS],
    'always': {'failure': ALWAYS},
    'scales': [bounds for _, bounds in scales.values()],
    'samples': rows,
  }


def json_text(value: Any) -> Html:
  """JSON that is safe inside a script element, for any text in it."""
  raw = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(',', ':'))
  return Html(_UNSAFE.sub(lambda m: f'\\u{ord(m.group()):04x}', raw))


def view(samples: Sequence[Sample], truth: str) -> Html:
  """The frame that the script fills, and the JSON it fills it from."""
  key = tag(
    'ul',
    tag(
      'li',
      _cell('up', 9),
      'a step whose score is above the threshold; fuller and bluer, further above',
    ),
    tag(
      'li',
      _cell('down', 4),
      'a step at or below it; emptier and more orange, further below',
    ),
    tag(
      'li',
      _symbol('gold'),
      'first wrong step according to the truth',
      f' ({words.truth(truth)})' if truth else '',
    ),
    tag('li', _symbol('predicted'), 'first wrong step according to the model'),
    class_='key',
  )
  confidence = (
    'Confidence is how far the score that decides, that of the first step at or below '
    'the threshold or else the lowest, lies from the threshold, as a share of the '
    'scale.'
  )
  return tag(
    'div',
    key,
    tag('p', confidence, class_='prose'),
    tag('noscript', tag('p', 'The solutions need JavaScript.', class_='warning')),
    tag('div', id='filters', class_='filters card'),
    tag('p', id='shown', class_='shown', role='status', aria_live='polite'),
    tag('ol', id='list', class_='solutions'),
    tag('nav', id='pages', class_='pages', aria_label='pages of solutions'),
    tag('script', json_text(payload(samples)), type='application/json', id='data'),
  )


def _symbol(which: str) -> Html:
  d = {'gold': 'M5 0 10 5 5 10 0 5z', 'predicted': 'M0 9 5 0 10 9z'}[which]
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


def _scale_key(sample: Sample) -> tuple[str, float | None]:
  return sample.kind, sample.threshold


def _scales(samples: Sequence[Sample]) -> dict[Any, tuple[int, list[float]]]:
  groups: dict[Any, list[float]] = {}
  for s in samples:
    middle = s.threshold if s.threshold is not None else 0.0
    found = groups.setdefault(_scale_key(s), [])
    found.extend(
      abs(v - middle) for v in s.scores if v is not None and math.isfinite(v)
    )
  out: dict[Any, tuple[int, list[float]]] = {}
  for kind, threshold in groups:
    if kind == 'probability':
      bounds = [0.0, 0.5 if threshold is None else threshold, 1.0]
    else:
      distances = sorted(groups[kind, threshold])
      reach = distances[int(0.95 * (len(distances) - 1))] if distances else 1.0
      middle, reach = threshold or 0.0, reach or 1.0
      bounds = [middle - reach, middle, middle + reach]
    out[kind, threshold] = (len(out), [float(f'{b:.6g}') for b in bounds])
  return out


def _index(value: int | None) -> int | None:
  return None if value is None else int(value)


def _short(value: float | None) -> float | None:
  if value is None or not math.isfinite(value):
    return None
  return float(f'{value:.6g}')
