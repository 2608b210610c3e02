"""Benchmarks that name the first wrong step of each solution.

ProcessBench, MR-GSM8K, MR-Ben and BIG-Bench Mistake share their truth (a 0-based first
wrong step, -1 for none) and the prediction: the first step whose score is not above
the threshold, else -1. They differ in what they make of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from prm_jax.evaluation import on_splits, process_bench, steps
from prm_jax.evaluation.benchmarks.sheet import (
  MEAN,
  Benchmark,
  Held,
  Rows,
  Sheet,
  constant,
)
from prm_jax.evaluation.intervals import (
  Estimate,
  bootstrap,
  divide,
  plain_mean,
  ratio,
  undefined,
)
from prm_jax.evaluation.process_bench import UNDECIDED
from prm_jax.evaluation.splits import UNKNOWN, Scores, Steps

Found = dict[str, Estimate]
MR_WEIGHTS = (0.2, 0.3, 0.5)
"""Weights of MCC, step accuracy and reason accuracy in the MR-Score."""


def matches(held: Held, predictions: np.ndarray) -> Found:
  """F1 with its two accuracies, and the share of all rows that match."""
  split = held.split
  found = process_bench.process_bench(split, predictions, held.sample)
  known = split.first_error != UNKNOWN
  sums = split.sum_rows(known & (predictions == split.first_error), known)
  reason = 'no_known_first_error'
  found['accuracy_all'] = ratio(sums[:, 0], sums[:, 1], held.sample, reason=reason)
  return found


def right_answer_wrong_process(held: Held, predictions: np.ndarray) -> Found:
  """Accuracy on rows whose final answer is right although a step is wrong.

  Returns:
    'right_answer_wrong_step_found': the first wrong step is named exactly;
    'right_answer_wrong_step_noticed': any step is called wrong.
  """
  split = held.split
  rows = (split.first_error >= 0) & split.judged & (split.outcome == 1)
  exact = rows & (predictions == split.first_error)
  sums = split.sum_rows(rows, exact, rows & (predictions >= 0))
  reason = 'no_right_answer_with_a_wrong_step'
  return {
    f'right_answer_wrong_step_{name}': ratio(
      sums[:, k], sums[:, 0], held.sample, reason=reason
    )
    for k, name in ((1, 'found'), (2, 'noticed'))
  }


def minimum_on_last_step(split: Steps, scores: Scores) -> np.ndarray:
  """[A, 2]: of each problem's solutions with two steps or more, how many have their
  lowest score on the last step (k equal lowest scores count 1/k each), and how many
  there are."""
  use = scores.scored & (split.counts > 1)
  padded = split.padded(scores.values, np.inf)
  lowest = padded.min(axis=1, initial=np.inf)
  tied = (padded == lowest[:, None]) & split.mask
  last = tied[np.arange(split.n_rows), np.maximum(split.counts - 1, 0)]
  share = np.where(use & last, 1 / np.maximum(tied.sum(axis=1), 1), 0.0)
  return split.sum_rows(share, use)


def mr_parts(held: Held, predictions: np.ndarray) -> Found:
  """MR-Score and the parts that step scores can answer.

  Returns:
    'mcc': Matthews correlation of the predicted with the true correctness of the
    solution, 0 where a prediction is never made; 'accuracy_step': share of wrong
    solutions whose first wrong step is named; 'mr_score': see `_MR`.
  """
  split = held.split
  correct, wrong = split.first_error == -1, split.first_error >= 0
  said_correct, said_wrong = predictions == -1, predictions >= 0
  # A solution without prediction agrees with neither.
  said_correct = np.where(predictions == UNDECIDED, wrong, said_correct)
  columns = (
    correct & said_correct,
    wrong & said_wrong & (predictions != UNDECIDED),
    wrong & said_correct,
    correct & ~said_correct,
    wrong & (predictions == split.first_error),
  )
  sums = split.sum_rows(*columns)
  n = int(correct.sum() + wrong.sum())

  def mcc(t: np.ndarray) -> np.ndarray:
    tp, tn, fp, fn = t[:, 0], t[:, 1], t[:, 2], t[:, 3]
    both = (tp + fn > 0) & (tn + fp > 0)
    spread = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    value = np.where(spread > 0, divide(tp * tn - fp * fn, spread), 0.0)
    return np.where(both, value, np.nan)

  def step(t: np.ndarray) -> np.ndarray:
    return divide(t[:, 4], t[:, 1] + t[:, 2])

  def score(t: np.ndarray) -> np.ndarray:
    return MR_WEIGHTS[0] * np.maximum(mcc(t), 0.0) + MR_WEIGHTS[1] * step(t)

  lacks = 'no_correct_rows' if wrong.any() else 'no_erroneous_rows'
  return {
    'mr_score': bootstrap(sums, score, held.sample, n, lacks),
    'mcc': bootstrap(sums, mcc, held.sample, n, lacks),
    'accuracy_step': bootstrap(
      sums, step, held.sample, int(wrong.sum()), 'no_erroneous_rows'
    ),
  }


def _measure(
  sheet: Sheet,
  sets: Mapping[str, Rows],
  parts: Callable[[Held, np.ndarray], Found],
  averaged: tuple[str, ...],
  shown: tuple[str, ...],
) -> None:
  """Every set at every policy, then plain means over sets."""
  measured: dict[str, list[str]] = {}
  for set_name, rows in sets.items():
    held = sheet.hold(set_name, rows)
    split = held.split
    sheet.count(held.title, {'rows': split.n_rows, 'problems': split.n_problems})
    sheet.count(held.title, split.counters)
    sheet.count(held.title, {'unscored': int((~held.scores.scored).sum())})
    if constant(held.scores, split):
      sheet.warn(f'{held.title}: all scores are equal; they tell no steps apart.')
    only = _only_wrong(sheet, held)
    for i, threshold in enumerate(sheet.thresholds(held)):
      policy = threshold.policy
      if threshold.value is None:
        sheet.put(held.title, averaged[0], undefined(threshold.reason), policy)
        continue
      predictions = process_bench.predict(split, held.scores, threshold.value)
      found = parts(held, predictions)
      for name, value in found.items():
        if only and name not in ('accuracy_error', 'accuracy_step'):
          continue
        sheet.put(held.title, name, value, policy, name in shown)
      measured.setdefault(policy, []).append(held.title)
      if i == 0:
        sheet.out.samples += on_splits.sample_rows(
          split, held.scores, predictions, threshold
        )
    if not only:
      ranked = steps.ranking(split, held.scores, held.sample)
      sheet.put(held.title, 'step_auroc', ranked['auroc'])
    sums = minimum_on_last_step(split, held.scores)
    reason = 'no_solutions_of_two_steps'
    found_last = ratio(sums[:, 0], sums[:, 1], held.sample, reason=reason)
    sheet.put(held.title, 'minimum_on_last_step', found_last)
  for policy, titles in measured.items():
    _mean(sheet, averaged, titles, policy)


def _only_wrong(sheet: Sheet, held: Held) -> bool:
  """Whether a set has no correct row; says what that, or its reverse, means."""
  first = held.split.first_error
  if not (first >= 0).any():
    sheet.warn(
      f'{held.title}: no row has a wrong step, so what needs one (F1, localisation) is '
      'undefined.'
    )
    return False
  if not (first == -1).any():
    sheet.warn(
      f'{held.title}: no row is correct, so only localisation accuracy is reported; '
      'calling every solution wrong costs nothing here.'
    )
    return True
  return False


def _mean(
  sheet: Sheet, averaged: tuple[str, ...], titles: list[str], policy: str
) -> None:
  """Plain means over the sets, of what all of them have."""
  if len(titles) < 2:
    return
  for name in averaged:
    each = [sheet.get(title, name, policy) for title in titles]
    there = [e for e in each if e is not None]
    if len(there) == len(titles):
      sheet.put(MEAN, name, plain_mean(there), policy)


def _process_bench(sheet: Sheet, sets: Mapping[str, Rows]) -> None:
  def parts(held: Held, predictions: np.ndarray) -> Found:
    found = matches(held, predictions)
    return {**found, **right_answer_wrong_process(held, predictions)}

  shown = (
    'f1', 'accuracy_error', 'accuracy_correct', 'right_answer_wrong_step_found',
  )  # fmt: skip
  _measure(sheet, sets, parts, ('f1', 'accuracy_error', 'accuracy_correct'), shown)


def _bigbench_mistake(sheet: Sheet, sets: Mapping[str, Rows]) -> None:
  shown = ('accuracy_all', 'accuracy_error', 'accuracy_correct', 'f1')
  _measure(sheet, sets, matches, shown, shown)


def _mr(sheet: Sheet, sets: Mapping[str, Rows]) -> None:
  shown = ('mr_score', 'mcc', 'accuracy_step')

  def parts(held: Held, predictions: np.ndarray) -> Found:
    found = mr_parts(held, predictions)
    return {**found, 'f1': matches(held, predictions)['f1']}

  _measure(sheet, sets, parts, shown, (*shown, 'f1'))


_LAST = (
  'minimum_on_last_step: share of the solutions with two steps or more whose lowest '
  'step score stands on the last step, k equal lowest ones counting 1/k each (Zhang '
  'et al. 2025, arXiv 2501.07301, who count it over best-of-8 responses). step_auroc: '
  'steps up to the first wrong one, ties one half.'
)
_PREDICTION = (
  'The prediction is the first step whose score is not above the threshold, else -1 '
  '(no wrong step). A solution that could not be scored never matches. '
)
_MR = (
  'MR-Score (Zeng et al., arXiv 2312.17080; weights and denominators as in the '
  'published scripts calculate_mr_score.py and, for MR-Ben, arXiv 2406.13975, '
  'script/utils.py): 0.2 max(0, MCC) + 0.3 ACC_step + 0.5 ACC_reason. MCC is that of '
  'solution correctness, correct being the positive class, and 0 where one of the two '
  'is never predicted; ACC_step is the share of the wrong solutions that are called '
  'wrong with the first wrong step named exactly. Step scores give no reason, so '
  'ACC_reason counts as 0, as the scripts count a missing reason: mr_score is at most '
  '0.5 and a lower bound for a judge that also explains. '
)

PROCESS_BENCH = Benchmark(
  name='process_bench',
  version=1,
  definition=(
    'ProcessBench (Zheng et al. 2024, arXiv 2412.06559; code/run_eval.py). '
    + _PREDICTION
    + 'accuracy_error and accuracy_correct: share of the rows with and without a wrong '
    'step whose prediction equals the label; f1: their harmonic mean, 0 where both are '
    '0, undefined where a class has no rows. mean: plain mean over the sets. A '
    'threshold tuned on one set is not reported on that set, so such a mean is over '
    'the other sets, unlike the published one, which includes GSM8K. '
    'right_answer_wrong_step: over rows whose final answer is right although a step is '
    'wrong, the share whose first wrong step is named exactly (found) or in which any '
    'step is called wrong (noticed); arXiv 2501.07301, Table 5, does not say which of '
    'the two it is. ' + _LAST
  ),
  sources=tuple(
    f'{s}=processbench/{s}.json:processbench'
    for s in ('gsm8k', 'math', 'olympiadbench', 'omnimath')
  ),
  rows=3400,
  sizes={'gsm8k': 400, 'math': 1000, 'olympiadbench': 1000, 'omnimath': 1000},
  measure=_process_bench,
)

MR_GSM8K = Benchmark(
  name='mr_gsm8k',
  version=1,
  definition=(
    'MR-GSM8K. ' + _PREDICTION + _MR + 'Without correct rows only accuracy_step is '
    'reported. Rows: 1,427 correct and 1,573 wrong in the published script. ' + _LAST
  ),
  sources=('mr_gsm8k:mr_gsm8k',),
  rows=3000,
  measure=_mr,
)

MR_BEN = Benchmark(
  name='mr_ben',
  version=1,
  definition=(
    'MR-Ben. ' + _PREDICTION + _MR + 'mean: plain mean over subjects. Coding: the '
    'published script leaves the place of the error to a language model; here the '
    'line must be named exactly, and rows whose line is not unique are left out and '
    'counted. Verified from the published scripts, not from the paper. ' + _LAST
  ),
  sources=tuple(
    f'{s}=mr_ben/{s}.json.gz:mr_ben'
    for s in (
      'math', 'physics', 'chemistry', 'biology', 'medicine', 'coding', 'logic',
    )
  ),
  rows=5975,
  measure=_mr,
)  # fmt: skip

BIGBENCH_MISTAKE = Benchmark(
  name='bigbench_mistake',
  version=1,
  definition=(
    'BIG-Bench Mistake (Tyen et al. 2023, arXiv 2311.08516), task by task. '
    + _PREDICTION
    + 'accuracy_all: share of all traces whose mistake location, or its absence, is '
    'named exactly (one class a step and one for none); accuracy_error and '
    'accuracy_correct: those with and without a mistake; f1: their harmonic mean '
    '(ours). mean: plain mean over tasks. ' + _LAST
  ),
  sources=tuple(
    f'{s}=bigbench_mistake/{s}.jsonl:bigbench_mistake'
    for s in (
      'dyck_languages',
      'logical_deduction',
      'multistep_arithmetic',
      'tracking_shuffled_objects',
      'word_sorting',
    )
  ),
  rows=2186,
  measure=_bigbench_mistake,
)
