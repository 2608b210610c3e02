"""Results and baselines side by side, one table a split, for the report."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from prm_jax.evaluation.baselines import ALL_CORRECT, POSITION_LENGTH
from prm_jax.evaluation.intervals import Estimate
from prm_jax.evaluation.report.data import Row, Table
from prm_jax.evaluation.result import Collector
from prm_jax.evaluation.splits import Split

_FIRST_ERROR = {
  'F1': 'process_bench/f1',
  'rows with an error': 'process_bench/accuracy_error',
  'rows without': 'process_bench/accuracy_correct',
  'step accuracy': 'steps/accuracy',
  'first error': 'steps/first_error_accuracy',
}
_RANKING = {'AUROC': 'steps/auroc', 'average precision': 'steps/average_precision'}
_PROBABILITY = {
  'Brier': 'calibration/brier',
  'ECE': 'calibration/ece',
  'TD error': 'trajectory/td_error_mean',
  'smoothness': 'trajectory/smoothness',
  '|score - V|': 'value/mae',
  'correlation with V': 'value/correlation',
}
_WITHOUT_SCORES = {
  'pass': 'one picked blindly',
  'majority': 'majority vote',
  'shortest': 'shortest text',
  'fewest_steps': 'fewest steps',
}
_PATH = re.compile(r'(?P<name>[^@\[]+)(?:@(?P<at>[^\[]+))?(?:\[(?P<scorer>[^\]]+)\])?$')


def add(out: Collector, reported: Sequence[Split]) -> None:
  """Appends the tables of all reported splits to `out.tables`."""
  for split in reported:
    rate = out.get(f'{split.name}/steps/base_rate')
    share = '' if rate is None or rate.value is None else f'{rate.value:.3f}'
    out.tables.append(
      _table(
        out,
        split,
        'first wrong step',
        _FIRST_ERROR,
        f'Judged by {split.truth}. Calling every step correct gets a step accuracy of '
        f'{share or "no value"}.',
      )
    )
    out.tables.append(
      _table(
        out,
        split,
        'ranking of steps',
        _RANKING,
        f'Judged by {split.truth}, steps up to the first wrong one. Guessing gets an '
        'AUROC of 0.5 and an average precision of the share of wrong steps'
        + (f', {1 - float(share):.3f}.' if share else '.'),
      )
    )
    out.tables.append(
      _table(
        out,
        split,
        'scores as probabilities',
        _PROBABILITY,
        'Lower is better, but for the correlation.',
      )
    )


def scorers_by_reduction(
  title: str,
  found: Mapping[tuple[str, str], Estimate],
  baselines: Sequence[str],
  note: str,
) -> Table:
  """A row for each scorer and a column for each reduction, at one N of best-of-N.

  Args:
    title, note: of the table.
    found: (selector, scorer) -> estimate; selectors that read no scores have the
      scorer '' and stand in a column of their own.
    baselines: those of them that a result has to beat.
  """
  scorers = list(dict.fromkeys(who for _, who in found if who))
  reductions = list(
    dict.fromkeys(s for s, who in found if who and not s.endswith('_vote'))
  )
  rows = [
    Row(who, [None, *(_metric(found.get((r, who))) for r in reductions)])
    for who in scorers
  ]
  for selector, who in found:
    if not who:
      cells = [found[selector, who].metric(), *(None for _ in reductions)]
      named = _WITHOUT_SCORES.get(selector, selector)
      rows.append(Row(named, cells, selector in baselines))
  rows.sort(key=lambda row: row.baseline)
  header = [
    'chosen by',
    'without scores',
    *(r.removeprefix('prm_') + ' of step scores' for r in reductions),
  ]
  return Table(title, header, rows, note)


def _metric(found: Estimate | None) -> dict | None:
  return None if found is None else found.metric()


def _table(
  out: Collector, split: Split, title: str, columns: dict[str, str], note: str
) -> Table:
  """Rows are (scorer, policy); columns are metrics, empty where there is none."""
  cells: dict[tuple[str, str], dict[str, dict]] = {}
  for path, found in out.estimates.items():
    if not path.startswith(f'{split.name}/'):
      continue
    parts = _PATH.match(path.removeprefix(f'{split.name}/'))
    if parts and parts['name'] in columns.values():
      key = (parts['scorer'] or '', parts['at'] or '')
      cells.setdefault(key, {})[parts['name']] = found.metric()
  for (scorer, at), held in cells.items():
    if at and (scorer, '') in cells and title == 'scores as probabilities':
      held.update(cells[scorer, ''])
  if title == 'scores as probabilities':
    mapped = {scorer for scorer, at in cells if at}
    cells = {k: v for k, v in cells.items() if k[1] or k[0] not in mapped}
  rows = [
    Row(
      (scorer or 'this scorer') + (f' @{at}' if at else ''),
      [held.get(metric) for metric in columns.values()],
      scorer in (ALL_CORRECT, POSITION_LENGTH),
    )
    for (scorer, at), held in sorted(cells.items(), key=lambda item: bool(item[0][0]))
  ]
  return Table(f'{split.name}: {title}', ['scorer', *columns], rows, note)
