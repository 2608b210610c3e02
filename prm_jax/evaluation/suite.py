"""The whole evaluation of one scorer, from trajectories that carry its scores.

`evaluate` is the one entry point of the evaluate job: named splits with step truth,
named pools of candidates, a split to tune on, training steps for the baseline. It
reads no files and runs no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prm_jax.errors import UserError
from prm_jax.evaluation import baselines, on_pools, on_splits, steps, tables
from prm_jax.evaluation.intervals import plain_mean
from prm_jax.evaluation.on_splits import Tuning
from prm_jax.evaluation.pools import read_pool
from prm_jax.evaluation.result import (
  Collector,
  EvaluationResult,
  Options,
  ScoredPool,
  metric_path,
)
from prm_jax.evaluation.splits import Scores, Split, read_scores, read_split
from prm_jax.records import Trajectory

MEAN = 'mean'
"""Stands for the split in the paths of plain means over splits."""


def evaluate(
  splits: Mapping[str, Sequence[Trajectory]],
  pools: Mapping[str, Sequence[Trajectory]] | None = None,
  *,
  scorer: str,
  truth: str | Mapping[str, str],
  verdict: str = 'exact',
  also: Sequence[str] = (),
  tune_split: str = '',
  report: Sequence[str] = (),
  train: Sequence[Trajectory] = (),
  train_truth: str = '',
  options: Options | None = None,
) -> EvaluationResult:
  """Evaluates a scorer on splits and pools, beside baselines, with intervals.

  Args:
    splits: name -> solutions with step truth and scores.
    pools: name -> candidates with verdicts and scores, several a problem.
    scorer: key of `scores` in all of them, the one evaluated; '' where pools alone
      are measured and no scorer stands before the others.
    truth: label set that metrics are judged against, one for all or one a split.
    verdict: checker whose word on answers counts.
    also: further keys of `scores`, measured on the same rows and compared with
      `scorer`; their metrics end in `[NAME]`. Without `scorer`, each pool is measured
      with those of them that it carries.
    tune_split: key of `splits` on which thresholds and calibration maps are
      fitted; '' for none. It must share no problem with a reported split.
    report: keys of `splits` to report; () means all but the tuning split.
    train: labelled training solutions, for the position-and-length baseline; ()
      leaves it out.
    train_truth: label set of `train`; '' means that of the tuning split, or of the
      first reported one.
    options: see `Options`.

  Raises:
    UserError: something is missing, malformed, or tuned on what is reported.
  """
  options = options or Options()
  pools = pools or {}
  truths = {s: truth if isinstance(truth, str) else truth.get(s, '') for s in splits}
  reported = list(report) or [s for s in splits if s != tune_split]
  _check_names(splits, truths, tune_split, reported, bool(pools))
  if splits and not scorer:
    raise UserError('splits are evaluated for one scorer; name it.')
  out = Collector()
  read = {
    s: read_split(s, splits[s], truths[s], verdict)
    for s in dict.fromkeys([*([tune_split] if tune_split else []), *reported])
  }
  values = {s: _value_split(s, splits[s], options) for s in read}
  scorers = {
    s: {
      who: read_scores(read[s], splits[s], who or scorer, options.unscored)
      for who in ('', *also)
    }
    for s in read
  }
  held = {}
  for p, candidates in pools.items():
    pool = read_pool(p, candidates, verdict)
    held[p] = ScoredPool(
      pool,
      {
        who: read_scores(pool.steps, candidates, who or scorer, options.unscored)
        for who in (('', *also) if scorer else _carried(candidates, also))
      },
    )
  if train:
    known = truths.get(tune_split) or truths.get(reported[0] if reported else '', '')
    _add_baseline(out, train, train_truth or known, read, scorers, held)
  tuning: dict[str, Tuning] = {}
  if tune_split:
    for who, scores in scorers[tune_split].items():
      tuning[who] = on_splits.fit_tuning(read[tune_split], scores, values[tune_split])
  for s in reported:
    on_splits.measure(out, read[s], values[s], scorers[s], tuning, options)
  if train and tune_split and tune_split not in reported:
    _baseline_on_tuning(out, read[tune_split], scorers[tune_split], options)
  _means(out, reported, truths)
  tables.add(out, [read[s] for s in reported])
  for scored_pool in held.values():
    on_pools.measure(out, scored_pool, options)
  return out.result()


def _check_names(
  splits: Mapping[str, Sequence[Trajectory]],
  truths: Mapping[str, str],
  tune_split: str,
  reported: Sequence[str],
  has_pools: bool,
) -> None:
  for name in [*([tune_split] if tune_split else []), *reported]:
    if name not in splits:
      raise UserError(
        f'split {name!r} is not among the splits ({", ".join(splits) or "none"}).'
      )
    if not truths[name]:
      raise UserError(
        f'split {name!r}: no truth is named; say which label set it is judged against.'
      )
  for name in splits:
    if name == MEAN or '/' in name or '[' in name:
      raise UserError(
        f'split name {name!r} would be ambiguous in metric names; choose one without '
        f"'/' and '[' that is not {MEAN!r}."
      )
  if not reported and not has_pools:
    raise UserError('there is nothing to evaluate: no reported split and no pool.')


def _carried(candidates: Sequence[Trajectory], names: Sequence[str]) -> list[str]:
  return [name for name in names if any(name in t.scores for t in candidates)]


def _value_split(
  name: str, trajectories: Sequence[Trajectory], options: Options
) -> Split | None:
  label = options.value_label
  if any(label in t.labels and t.labels[label].kind == 'value' for t in trajectories):
    return read_split(name, trajectories, label)
  return None


def _add_baseline(
  out: Collector,
  train: Sequence[Trajectory],
  truth: str,
  read: Mapping[str, Split],
  scorers: Mapping[str, dict[str, Scores]],
  held: Mapping[str, ScoredPool],
) -> None:
  """Fits the baseline and scores everything with it; counts shared problems."""
  rows = read_split('train', train, truth)
  model = baselines.fit_position_length(rows)
  seen, who = set(rows.problem_ids), baselines.POSITION_LENGTH
  for s, split in read.items():
    scorers[s][who] = baselines.score(model, split)
    shared = len(seen & set(split.problem_ids))
    out.count(s, {'problems_shared_with_train': shared})
  for p, pool in held.items():
    pool.scorers[who] = baselines.score(model, pool.pool.steps)
    shared = len(seen & set(pool.pool.steps.problem_ids))
    out.count(f'{p}/best_of_n', {'problems_shared_with_train': shared})


def _baseline_on_tuning(
  out: Collector, split: Split, scorers: Mapping[str, Scores], options: Options
) -> None:
  """What trials that are compared on the tuning split have to beat there."""
  who = baselines.POSITION_LENGTH
  sample = options.resamples(split.problem_ids)
  found = steps.ranking(split, scorers[who], sample)['auroc']
  out.put(metric_path(split.name, 'steps', 'auroc', '', who), found, split.truth)


def _means(out: Collector, reported: Sequence[str], truths: Mapping[str, str]) -> None:
  """Plain mean over splits of every F1 that all of them have."""
  if len(reported) < 2:
    return
  start = f'{reported[0]}/process_bench/f1'
  judged = '+'.join(dict.fromkeys(truths[s] for s in reported))
  for path in list(out.estimates):
    if not path.startswith((start + '@', start + '[')):
      continue
    name = path.removeprefix(f'{reported[0]}/process_bench/')
    each = [out.get(metric_path(s, 'process_bench', name)) for s in reported]
    there = [e for e in each if e is not None]
    if len(there) == len(reported):
      out.put(metric_path(MEAN, 'process_bench', name), plain_mean(there), judged)
