"""Tables and charts of a label audit, from its estimates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prm_jax.evaluation import label_efficiency
from prm_jax.evaluation.intervals import Estimate
from prm_jax.evaluation.label_efficiency import ACCURACY, COSTS
from prm_jax.evaluation.label_errors import AMBIGUOUS, REFERENCE, path
from prm_jax.evaluation.label_readings import Reading
from prm_jax.evaluation.report.data import LineChart, Row, Table
from prm_jax.evaluation.result import Collector

FIRST_ERRORS = 'First errors and what they cost'
DEFINITIONS = {
  'mean_error': 'Mean of label minus estimand; above 0 the labels are too good.',
  'mean_absolute_error': 'Mean distance between label and estimand, the noise of the '
  'reference included: an upper bound.',
  'mean_absolute_error_net': 'The same less the mean absolute noise of the reference: '
  'a lower bound.',
  'mean_squared_error': 'Mean squared distance between label and estimand, the noise '
  'of the reference included.',
  'mean_squared_error_net': 'The same less the variance of the reference.',
  'hard_accuracy': 'Share of prefixes on the right side; ambiguous ones are left out.',
  'false_dead': 'Share of living prefixes (correct steps) that are called dead.',
  'false_alive': 'Share of dead prefixes (wrong steps) that are called alive.',
  ACCURACY: 'Share of solutions whose first dead (wrong) step, or its absence, is '
  'named exactly; an undecided one is a miss.',
  'false_claims': 'Share of the decided solutions whose first error is misnamed.',
  'undecided': 'Share of solutions about whose first error nothing is said.',
  'tokens': 'Tokens generated for the labels of one solution.',
  'rollouts': 'Continuations sampled for the labels of one solution.',
  'ambiguous_prefixes': 'Share of prefixes whose 95 % reference interval holds tau.',
  'ambiguous_first_errors': 'Share of solutions whose first dead step an ambiguous '
  'prefix could move.',
  'rms_standard_error': 'Root mean square of the standard error of the reference.',
  'off_track_alive': 'Share of prefixes with a wrong step whose value is at least tau: '
  'continuations silently repair it.',
  'first_wrong_alive': 'The same of prefixes that end in the first wrong step.',
  'on_track_dead': 'Share of prefixes without a wrong step whose value is below tau.',
  'cost_ratio': 'Cost of the first relative to the second; below 1 it is cheaper.',
}
"""Metric, or family of a comparison -> what it says."""


def definitions(paths: Sequence[str]) -> dict[str, str]:
  """Metric path -> sentence, of those that need other words than usual."""
  out = {}
  for full in paths:
    _, family, name = full.split('/', 2)
    metric = name.partition('[')[0]
    if family in DEFINITIONS and family != ACCURACY:
      out[full] = DEFINITIONS[family]
    elif family.startswith('at_equal_'):
      out[full] = (
        'Accuracy of the first less that of the second family at the cost of the first.'
      )
    elif family.endswith('_at_equal_accuracy'):
      out[full] = (
        'Cost of the first relative to the second at the accuracy of the first.'
      )
    elif metric in DEFINITIONS:
      out[full] = DEFINITIONS[metric]
  return out


def add(
  out: Collector,
  readings: Sequence[Reading],
  truth: str,
  chosen: Sequence[str],
  tau: float,
) -> None:
  """Appends all tables and the cost curves; `truth` is '' where there is none."""
  truths = [REFERENCE, *([truth] if truth else [])]
  names = [r.name for r in readings]
  sides = {t: f' ({"V" if t == REFERENCE else t})' for t in truths}
  first = {f'first error{sides[t]}': (ACCURACY, t) for t in truths}
  wrong = {f'false claims{sides[t]}': ('false_claims', t) for t in truths}
  spent = {f'{c} a solution': (c, '') for c in COSTS}
  out.tables.append(
    _table(
      out,
      FIRST_ERRORS,
      names,
      {
        **first,
        **wrong,
        'first error, ambiguous rows': (ACCURACY, AMBIGUOUS),
        'undecided': ('undecided', ''),
        **spent,
      },
      f'Dead means V below {tau:g}. Ambiguous rows, where the reference cannot tell, '
      'are judged by its point estimate and are in no other column.',
    )
  )
  out.tables.append(_errors(out, readings))
  hard = {
    f'{metric.replace("_", " ")}{sides[t]}': (metric, t)
    for t in truths
    for metric in ('hard_accuracy', 'false_dead', 'false_alive')
  }
  out.tables.append(
    _table(
      out,
      'Single prefixes, dead or alive',
      names,
      hard,
      'Ambiguous prefixes are left out of the columns about V.',
    )
  )
  soft = {f'{m}{sides[t]}': (m.lower(), t) for t in truths for m in ('Brier', 'ECE')}
  out.tables.append(
    _table(
      out,
      'Soft labels as probabilities',
      [r.name for r in readings if r.soft],
      soft,
      'Lower is better.',
    )
  )
  for t in truths:
    _comparisons(out, t, chosen)
    for cost in COSTS:
      series = label_efficiency.curves(out, names, cost, t)
      if series:
        out.best_of_n.append(_chart(series, cost, t, chosen))
  gaps = [
    (label, out.get(path(REFERENCE, metric, truth)))
    for label, metric in (
      ('off track, yet alive', 'off_track_alive'),
      ('first wrong step, yet alive', 'first_wrong_alive'),
      ('on track, yet dead', 'on_track_dead'),
    )
  ]
  rows = [Row(label, [e.metric()]) for label, e in gaps if e is not None]
  if rows:
    note = 'Share of the prefixes of each kind, ambiguous ones left out.'
    out.tables.append(Table('Wrong is not dead', ['prefix', 'share'], rows, note))


def _errors(out: Collector, readings: Sequence[Reading]) -> Table:
  columns = (
    'mean_error',
    'mean_absolute_error',
    'mean_absolute_error_net',
    'mean_squared_error_net',
  )
  rows = []
  for r in readings:
    found = {m: _find(out, f'audit/{r.name}/{m}[') for m in columns}
    if any(found.values()):
      against = next(p for p, _ in filter(None, found.values())).partition('[')[2][:-1]
      cells = [e[1].metric() if e else None for e in found.values()]
      rows.append(Row(r.name, [against.replace('_', ' '), *cells]))
  header = [
    'algorithm',
    'against',
    'mean error',
    '|error|, at most',
    '|error|, at least',
    'squared error',
  ]
  note = (
    'Each label set against what it estimates. The noise of the reference is '
    'taken off the squared error and bounds the absolute one.'
  )
  return Table('Labels against their own estimand', header, rows, note)


def _find(out: Collector, start: str) -> tuple[str, Estimate] | None:
  return next(((p, e) for p, e in out.estimates.items() if p.startswith(start)), None)


def _table(
  out: Collector,
  title: str,
  names: Sequence[str],
  columns: Mapping[str, tuple[str, str]],
  note: str,
) -> Table:
  rows = []
  for name in names:
    found = [out.get(path(name, metric, t)) for metric, t in columns.values()]
    rows.append(Row(name, [e.metric() if e is not None else None for e in found]))
  return Table(title, ['algorithm', *columns], rows, note)


def _comparisons(out: Collector, truth: str, chosen: Sequence[str]) -> None:
  """One row a pair: difference of accuracy, ratios of cost."""
  start, end = f'audit/{ACCURACY}/', f'[{truth}]'
  rows = []
  for full, found in out.estimates.items():
    if not (full.startswith(start) and full.endswith(end)):
      continue
    a, _, b = full[len(start) : -len(end)].partition('-')
    ratios = [out.get(f'audit/cost_ratio/{a}_over_{b}[{c}]') for c in COSTS]
    cells = [e.metric() if e else None for e in (found, *ratios)]
    rows.append(Row(f'{a} and {b}', cells))
  note = (
    'Paired by problem: accuracy of the first less that of the second, and cost of '
    'the first over that of the second.'
  )
  if rows:
    out.tables.append(
      Table(
        f'Compared, {truth}',
        ['pair', 'accuracy', *(f'{c}, ratio' for c in COSTS)],
        rows,
        note,
      )
    )
  rows = []
  for full in out.estimates:
    if full.startswith('audit/at_equal_tokens/') and full.endswith(end):
      a, _, f = full.removeprefix('audit/at_equal_tokens/')[: -len(end)].partition('-')
      cells = []
      for cost in COSTS:
        for name in (
          f'audit/at_equal_{cost}/{a}-{f}{end}',
          f'audit/{cost}_at_equal_accuracy/{a}_over_{f}{end}',
        ):
          e = out.get(name)
          cells.append(e.metric() if e else None)
      rows.append(Row(f'{a} and {f}', cells))
  header = ['pair']
  for cost in COSTS:
    header += [f'accuracy at equal {cost}', f'{cost} at equal accuracy, ratio']
  note = (
    'The second is read off its curve between its settings; empty where the first '
    'lies beyond them.'
  )
  if rows:
    out.tables.append(Table(f'At equal cost or accuracy, {truth}', header, rows, note))


def _chart(
  series: Mapping[str, Sequence[Sequence[float | None]]],
  cost: str,
  truth: str,
  chosen: Sequence[str],
) -> LineChart:
  return LineChart(
    f'First-error accuracy ({truth}) against {cost}',
    series,
    x_label=f'{cost} a solution',
    y_label='first-error accuracy',
    log2=True,
    baselines=[name for name in series if name not in chosen],
  )
