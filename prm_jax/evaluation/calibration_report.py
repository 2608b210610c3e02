"""A split before and after calibration: metrics, tables, charts."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from prm_jax.calibration_maps import CalibrationMap
from prm_jax.evaluation import calibration, calibration_fits, calibration_terms
from prm_jax.evaluation.calibration_terms import BINNINGS, Group
from prm_jax.evaluation.intervals import Estimate, Resamples, difference, resamples
from prm_jax.evaluation.ranking import rank_metrics
from prm_jax.evaluation.report.data import LineChart, Reliability, Row, Table
from prm_jax.evaluation.result import Collector, Options, metric_path
from prm_jax.evaluation.splits import Scores, Split
from prm_jax.records import Trajectory

RAW = 'raw'
MAX_GENERATORS = 40  # in the table; the others are counted
_COLUMNS = {
  'Brier': 'brier',
  'skill': 'brier_skill',
  'reliability': 'reliability',
  'resolution': 'resolution',
  'uncertainty': 'uncertainty',
  'within bins': 'within',
  'mean max(0, s - y)': 'over',
  'the same squared': 'positive_brier',
  'mean s - y': 'bias',
}
DEFINITIONS = {
  'brier': 'Mean squared distance of score and truth; lower is better.',
  'brier_skill': 'Share of the Brier score that is saved against the best constant, '
  'the base rate of this very split; above 0 the scores say something.',
  'brier_gain': 'Brier score of a constant, the base rate of the split the map was '
  'fitted on, minus that of the scores; paired.',
  'reliability': 'Part of the Brier score: squared distance of mean score and mean '
  'truth in 10 bins of equal width; lower is better.',
  'resolution': 'Part of the Brier score: how far the truth of the bins lies from the '
  'base rate; higher is better.',
  'uncertainty': 'Part of the Brier score: variance of the truth, the same for all.',
  'within': 'Part of the Brier score: what differs inside the bins.',
  'over': 'Mean of max(0, score - truth): what is promised and does not come.',
  'positive_brier': 'Mean of max(0, score - truth) squared (arXiv 2506.09338).',
  'bias': 'Mean score minus mean truth.',
  'ece': 'Mean distance of mean score and mean truth over bins, weighted by steps. Its '
  'interval is shifted upwards: a resample adds noise to the noise that is there.',
  'ece_over': 'The part of the ECE from bins that promise too much.',
  'ece_perfect': 'ECE of a predictor that gives the same scores and is right about '
  'them: outcomes drawn from the scores; mean and 95 % range of the draws.',
  'ece_excess': 'ECE minus the mean of the perfect predictor.',
  'coverage': 'Share of steps whose truth lies between lowest and highest quantile.',
  'below': 'Share of steps whose truth lies below the lowest quantile.',
  'above': 'Share of steps whose truth lies above the highest quantile.',
  'width': 'Mean distance of lowest and highest quantile.',
}
"""Name of a metric of family calibration -> what it means."""


def n_rollouts(rows: Sequence[Trajectory], split: Split) -> np.ndarray:
  """[M] rollouts behind each label of the split's truth, 0 where none are counted."""
  out = np.zeros(len(split.labels), np.int64)
  for r, t in enumerate(rows):
    held = t.labels.get(split.truth)
    if held is not None and held.n_rollouts:
      start = split.offsets[r]
      out[start : start + t.n_steps] = [n or 0 for n in held.n_rollouts]
  return out


def measure(
  out: Collector,
  split: Split,
  rows: Sequence[Trajectory],
  scores: Scores,
  maps: Mapping[str, CalibrationMap],
  chosen: str,
  base_rate: float,
  options: Options,
) -> None:
  """Records everything about one split.

  Paths are 'SPLIT/calibration/NAME@raw' and '...@KIND:FITTED_SPLIT'; the ECE's name
  carries its bins.

  Args:
    out: where it goes.
    split, rows, scores: solutions with truth and scores.
    maps: kind -> map, all fitted on one other split.
    chosen: the kind that is stored and shown in the tables of parts.
    base_rate: mean truth of the split that the maps were fitted on.
    options: resamples and seed.

  Raises:
    UserError: a map was fitted on problems of this split.
  """
  sample = resamples(split.problem_ids, options.n_resamples, options.seed)
  draws = calibration_terms.trials(split, n_rollouts(rows, split))
  out.count(split.name, {'rows': split.n_rows, 'problems': split.n_problems})
  out.count(split.name, split.counters)
  out.count(split.name, {'unscored': int((~scores.scored).sum())})
  named: dict[str, Scores] = {}
  if scores.kind == 'probability':
    named[RAW] = scores
  for kind, fitted in maps.items():
    calibration_fits.check_unseen(fitted, split)
    named[f'{kind}:{fitted.fitted_on}'] = calibration_fits.apply(fitted, scores)
  constant = dataclasses.replace(
    scores, kind='probability', values=np.full(len(scores.values), base_rate)
  )
  brier_of_constant = calibration.calibration(split, constant, sample)['brier']
  auroc = _auroc(split, scores, sample)
  out.put(metric_path(split.name, 'steps', 'auroc', RAW), auroc, split.truth)
  for at, held in named.items():
    put = lambda name, value, at=at: out.put(
      metric_path(split.name, 'calibration', name, at), value, split.truth
    )
    _probabilities(put, split, held, draws, sample, options.seed)
    brier = out.estimates[metric_path(split.name, 'calibration', 'brier', at)]
    put('brier_gain', difference(brier_of_constant, brier))
    if at != RAW:
      after = _auroc(split, held, sample)
      out.put(metric_path(split.name, 'steps', 'auroc', at), after, split.truth)
      path = metric_path(split.name, 'steps', f'auroc-{RAW}', at)
      out.put(path, difference(after, auroc), split.truth)
    bins = calibration.reliability(split, held, sample)
    out.reliability.append(Reliability(f'{split.name}, {at}: {split.truth}', bins))
  _tables(out, split, list(named))
  at = f'{chosen}:{maps[chosen].fitted_on}'
  _parts(out, split, rows, named[at], at, sample, draws, options.seed)


def _probabilities(put, split, held, draws, sample, seed) -> None:
  use = calibration.truth_steps(split, held)
  for i, binning in enumerate(BINNINGS):
    terms = calibration_terms.decomposition(split, held, sample, binning)
    ece = terms.pop('ece')
    put(f'ece_{binning.name}', ece)
    put(f'ece_over_{binning.name}', terms.pop('ece_over'))
    perfect = calibration_terms.perfect_ece(
      held.values[use], draws[use], binning, seed=seed
    )
    n = int(use.sum())
    put(f'ece_perfect_{binning.name}', _plain(*perfect, n))
    gap = None if ece.value is None else ece.value - perfect[0]
    put(f'ece_excess_{binning.name}', _plain(gap, None, None, n))
    if i == 0:
      for name, value in terms.items():
        put(name, value)
  for name, value in calibration_terms.over_estimation(split, held, sample).items():
    put(name, value)


def _plain(value: float | None, low: float | None, high: float | None, n: int):
  return Estimate(value, low, high, n, '', np.zeros(0), '')


def _auroc(split: Split, scores: Scores, sample: Resamples) -> Estimate:
  use = calibration.truth_steps(split, scores)
  problem = split.problem[split.row][use]
  return rank_metrics(scores.values[use], split.wrong[use], problem, sample)[0]


def _tables(out: Collector, split: Split, names: Sequence[str]) -> None:
  def cell(name: str, at: str, family: str = 'calibration'):
    found = out.get(metric_path(split.name, family, name, at))
    return None if found is None else found.metric()

  out.tables.append(
    Table(
      f'{split.name}: Brier score and its parts',
      ['scores', *_COLUMNS, 'AUROC', 'AUROC - raw'],
      [
        Row(
          at,
          [
            *(cell(name, at) for name in _COLUMNS.values()),
            cell('auroc', at, 'steps'),
            cell(f'auroc-{RAW}', at, 'steps'),
          ],
          at == RAW,
        )
        for at in names
      ],
      f'Judged by {split.truth}. Brier = reliability - resolution + uncertainty + '
      'within bins, over 10 bins of equal width; skill = 1 - Brier / uncertainty.',
    )
  )
  parts = ('ece', 'ece_perfect', 'ece_excess', 'ece_over')
  out.tables.append(
    Table(
      f'{split.name}: ECE beside a perfect predictor',
      [
        'scores',
        *(f'{p.replace("_", " ")}, {b.name}' for b in BINNINGS for p in parts),
      ],
      [
        Row(at, [cell(f'{p}_{b.name}', at) for b in BINNINGS for p in parts], at == RAW)
        for at in names
      ],
      'width10: 10 bins of equal width; mass15: 15 bins of equally many steps. The '
      'perfect predictor gives the same scores, and outcomes are drawn from them.',
    )
  )


def _parts(
  out: Collector,
  split: Split,
  rows: Sequence[Trajectory],
  scores: Scores,
  at: str,
  sample: Resamples,
  draws: np.ndarray,
  seed: int,
) -> None:
  """Tables by position and by generator, and the bias along the positions."""
  last = int(split.position.max(initial=0))
  parts = calibration_terms.by_group(
    split, scores, sample, split.position,
    [f'step {p + 1}' for p in range(last + 1)], draws, seed,
  )  # fmt: skip
  out.tables.append(_of_parts(f'{split.name}: by position, {at}', 'position', parts))
  points = [
    (int(g.name.split()[1]), g.bias.value, g.bias.low, g.bias.high) for g in parts
  ]
  out.best_of_n.append(
    LineChart(
      f'{split.name}: mean score - mean truth by position, {at}',
      {'score - truth': points, 'none': [(p[0], 0.0) for p in points]},
      x_label='step',
      y_label='score - truth',
      baselines=('none',),
    )
  )
  writers = [t.generator or 'unknown' for t in rows]
  common = [w for w, _ in Counter(writers).most_common()]
  number = {w: i for i, w in enumerate(common[:MAX_GENERATORS])}
  group = np.array([number.get(w, -1) for w in writers])[split.row]
  out.count(split.name, {'generators_not_shown': max(len(common) - MAX_GENERATORS, 0)})
  parts = calibration_terms.by_group(
    split, scores, sample, group, list(number), draws, seed
  )
  out.tables.append(_of_parts(f'{split.name}: by generator, {at}', 'generator', parts))


def _of_parts(title: str, what: str, parts: Sequence[Group]) -> Table:
  return Table(
    title,
    [
      what, 'steps', 'mean score', 'mean truth', 'mean s - y', 'Brier', 'ECE, width10',
      'ECE of a perfect predictor',
    ],
    [
      Row(
        g.name,
        [
          g.n, g.score, g.truth, g.bias.metric(), g.brier.metric(), g.ece.metric(),
          g.perfect,
        ],
      )
      for g in parts
    ],
    'Small parts have a large ECE by chance; the perfect predictor shows how large.',
  )  # fmt: skip


def quantiles(
  out: Collector,
  split: Split,
  low: Scores,
  high: Scores,
  margin: float,
  fitted_on: str,
  level: float,
  options: Options,
) -> None:
  """Records how often the truth lies between two quantiles, and tables it.

  Args:
    out, split, options: as for `measure`.
    low, high: the lowest and highest quantile.
    margin: see `calibration_fits.margin`; '@margin:SPLIT' in the paths.
    fitted_on: the split that it was fitted on.
    level: share that ought to lie between them.
  """
  sample = resamples(split.problem_ids, options.n_resamples, options.seed)
  pairs = {
    RAW: (low, high),
    f'margin:{fitted_on}': calibration_fits.widened(low, high, margin),
  }
  rows = []
  for at, (bottom, top) in pairs.items():
    found = calibration_terms.coverage(split, bottom, top, sample)
    for name, value in found.items():
      path = metric_path(split.name, 'calibration', name, at)
      out.put(path, value, split.truth)
    rows.append(Row(at, [value.metric() for value in found.values()], at == RAW))
  out.tables.append(
    Table(
      f'{split.name}: quantiles',
      ['quantiles', 'coverage', 'below', 'above', 'width'],
      rows,
      f'Judged by {split.truth}; {level:g} ought to be covered. The margin, '
      f'{margin:.4f} at both ends, was fitted on {fitted_on}.',
    )
  )
