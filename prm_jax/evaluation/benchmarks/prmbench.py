"""PRMBench and benchmarks of its layout: every step is labelled, errors have classes.

Counts are micro over steps and *correct* is the positive class: TP a correct step
called correct, FP a wrong step called correct, TN a wrong step called wrong, FN a
correct step called wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from prm_jax.errors import UserError
from prm_jax.evaluation.benchmarks.sheet import (
  OVERALL,
  Benchmark,
  Held,
  Rows,
  Sheet,
  constant,
)
from prm_jax.evaluation.intervals import (
  Estimate,
  divide,
  estimate,
  mean_over_same,
  undefined,
)
from prm_jax.evaluation.ranking import rank_metrics
from prm_jax.evaluation.splits import Scores, Split, read_scores

REDUNDANCY = ':redundancy'
"""Ending of the name under which a scorer's redundancy scores are stored."""
REDUNDANCY_THRESHOLD = 0.15
REDUNDANCY_CLASSES = ('redundency', 'circular')
ORIGINALS = 'originals'

CLASSES = {
  'redundency': 'S1', 'circular': 'S1',
  'counterfactual': 'S2', 'step_contradiction': 'S2', 'domain_inconsistency': 'S2',
  'confidence': 'S2',
  'missing_condition': 'S3', 'deception': 'S3', 'multi_solutions': 'S3',
}  # fmt: skip
"""Class (spelled as in the data) -> axis: simplicity, soundness, sensitivity."""
AXES = {'S1': 'S1_simplicity', 'S2': 'S2_soundness', 'S3': 'S3_sensitivity'}
ERRORLESS = ('multi_solutions',)
"""Classes without a wrong step, which go by F1 alone."""

PATTERNS = {
  'repeat': 'transformation',
  'decomposition': 'decomposition',
  'regather': 'regather',
  'premise': 'deduction',
  'conclusion': 'deduction',
  'correction_error': 'verification',
  'detection_error': 'verification',
  'integration': 'integration',
}
"""First words of a file name of Socratic-PRMBench -> reasoning pattern."""


@dataclasses.dataclass(frozen=True, eq=False)
class Truth:
  """Labels as the published evaluation reads them.

  Attributes:
    wrong: [M] bool.
    labelled: [M] bool.
    first: [R] first wrong step; -1 none; one beyond the last where it is named there.
    beyond: [R] bool, `error_steps` names a step that the solution does not have.
    repeated: [R] bool, an earlier row has the same class and `idx`.
  """

  wrong: np.ndarray
  labelled: np.ndarray
  first: np.ndarray
  beyond: np.ndarray
  repeated: np.ndarray


def read_truth(held: Held, by_file: bool = False) -> Truth:
  """Labels from `meta['error_steps']` (1-based); from the label set without them.

  Args:
    held: the set.
    by_file: rows of two files are never the same row, whatever their class and `idx`.
  """
  split = held.split
  wrong, labelled = split.wrong.copy(), split.labelled.copy()
  first = split.first_error.copy()
  beyond = np.zeros(split.n_rows, bool)
  repeated = np.zeros(split.n_rows, bool)
  seen = set()
  for r, t in enumerate(held.rows):
    source = t.source if by_file else t.source.split('/')[0]
    key = (source, t.meta.get('classification'), t.meta.get('idx'))
    repeated[r] = key[-1] is not None and key in seen
    seen.add(key)
    named = t.meta.get('error_steps')
    if not isinstance(named, list) or not all(type(n) is int for n in named):
      continue
    at = np.array(sorted(n - 1 for n in named), np.int64)
    inside = at[(at >= 0) & (at < t.n_steps)]
    beyond[r] = len(inside) < len(at)
    start, stop = split.offsets[r], split.offsets[r + 1]
    wrong[start:stop], labelled[start:stop] = False, True
    wrong[start + inside] = True
    first[r] = min(at[0], t.n_steps) if len(at) else -1
  return Truth(wrong, labelled, first, beyond, repeated)


def _called(
  split: Split, scores: Scores, wrong: np.ndarray, threshold: float
) -> np.ndarray:
  """[M] bool: called correct. A solution that is not scored is misjudged throughout."""
  return np.where(scores.scored[split.row], scores.values > threshold, wrong)


def _redundancy(held: Held, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
  """([M] called correct by redundancy scores, [M] where they decide).

  Raises:
    UserError: only some rows of the two classes have redundancy scores.
  """
  name = held.scores.name + REDUNDANCY
  simple = np.array([c in REDUNDANCY_CLASSES for c in classes], bool)
  there = np.array([name in t.scores for t in held.rows], bool)
  if not (simple & there).any():
    return np.zeros(len(held.split.row), bool), np.zeros(len(held.split.row), bool)
  if (simple & ~there).any():
    missing = held.rows[int((simple & ~there).argmax())].id
    raise UserError(
      f'{held.name}: {missing} has no scores of {name!r}, which other rows of its kind '
      f'have; give them to all rows of {" and ".join(REDUNDANCY_CLASSES)}, or to none.'
    )
  read = read_scores(held.split, held.rows, name, 'wrong')
  decide = (simple & read.scored)[held.split.row]
  return ~(read.values > REDUNDANCY_THRESHOLD), decide


def f1(hit: np.ndarray, missed: np.ndarray, wrongly: np.ndarray) -> np.ndarray:
  """2 hit / (2 hit + missed + wrongly), NaN where there is nothing to find or find."""
  return divide(2 * hit, 2 * hit + missed + wrongly)


def scores_of(counts: np.ndarray, errorless: bool = False) -> dict[str, np.ndarray]:
  """Metrics of step counts.

  Args:
    counts: [n, 4] TP, FP, TN, FN of each resample.
    errorless: there is no wrong step: only F1 is meant to be read.
  """
  tp, fp, tn, fn = counts.T
  positive, negative = f1(tp, fn, fp), f1(tn, fp, fn)
  found = {'f1_correct_steps': positive}
  if not errorless:
    found = {
      'prmscore': 0.5 * positive + 0.5 * negative,
      'f1_correct_steps': positive,
      'f1_wrong_steps': negative,
      'wrong_step_accuracy': divide(tn, tn + fp),
    }
  return {
    **found,
    'correct_step_accuracy': divide(tp, tp + fn),
    'total_step_accuracy': divide(tp + tn, tp + fp + tn + fn),
  }


def by_group(
  sheet: Sheet,
  held: Held,
  groups: Sequence[str],
  policy: str,
  threshold: float,
  truth: Truth,
  more: Mapping[str, Sequence[str]],
  errorless: Sequence[str] = (),
  originals: tuple[Held, Callable[[int], int]] | None = None,
) -> dict[str, Estimate]:
  """Records the step metrics of every group, of unions of groups, and of all.

  Args:
    sheet, held, policy, threshold: what is measured.
    groups: [R] group of each row.
    truth: from `read_truth`.
    more: name -> groups that are pooled under it.
    errorless: groups that go by F1.
    originals: the set of unmodified solutions, and row -> row of it, -1 none; for
      similarity.

  Returns:
    Group -> the score it goes by, for means over groups.
  """
  split = held.split
  names = list(dict.fromkeys(groups))
  group = np.array([names.index(g) for g in groups])
  use = (truth.labelled & ~truth.repeated[split.row]).astype(bool)
  called = _called(split, held.scores, truth.wrong, threshold)
  redundant, decide = _redundancy(held, groups)
  called = np.where(decide, redundant, called)
  wrong = truth.wrong
  columns = (~wrong & called, wrong & called, wrong & ~called, ~wrong & ~called)
  index = split.problem[split.row] * len(names) + group[split.row]
  sums = _sums(index[use], [c[use] for c in columns], split.n_problems, len(names))
  counts = np.tensordot(held.sample.weights, sums, 1)
  sizes = sums.sum(axis=(0, 2))

  rows = split.problem * len(names) + group
  inside = ~truth.repeated & (truth.first >= 0) & (truth.first < split.counts)
  at = np.minimum(split.offsets[:-1] + np.maximum(truth.first, 0), len(called) - 1)
  per_row = [inside & ~called[at], inside]
  if originals is not None:
    per_row += _similarity(held, called, truth, threshold, *originals)
  more_sums = _sums(rows, per_row, split.n_problems, len(names))
  row_totals = np.tensordot(held.sample.weights, more_sums, 1)

  def record(where: str, members: Sequence[int], alone: bool) -> Estimate:
    picked = counts[:, members].sum(axis=1)
    n = int(sizes[members].sum())
    main = undefined('no_rows')
    for name, values in scores_of(picked, alone).items():
      found = estimate(values, held.sample, n, 'no_steps_of_a_class')
      is_main = name == ('f1_correct_steps' if alone else 'prmscore')
      shown = is_main or (
        where == OVERALL and name in ('f1_correct_steps', 'f1_wrong_steps')
      )
      sheet.put(where, name, found, policy, shown)
      if is_main:
        main = found
    totals = row_totals[:, members].sum(axis=1)
    kinds = {'first_error_step_accuracy': (0, 1), 'similarity': (2, 3)}
    for name, (hit, seen) in kinds.items():
      if seen < totals.shape[1] and not (alone and name == 'first_error_step_accuracy'):
        found = estimate(
          divide(totals[:, hit], totals[:, seen]), held.sample,
          int(totals[0, seen]), 'no_rows',
        )  # fmt: skip
        sheet.put(where, name, found, policy, where == OVERALL)
    return main

  mains = {name: record(name, [g], name in errorless) for g, name in enumerate(names)}
  for name, members in more.items():
    record(name, [names.index(m) for m in members if m in names], False)
  record(OVERALL, list(range(len(names))), False)
  return mains


def _sums(
  index: np.ndarray, columns: Sequence[np.ndarray], n_problems: int, n_groups: int
) -> np.ndarray:
  """[A, groups, K] sums of K columns by problem and group."""
  size = n_problems * n_groups
  return np.stack(
    [np.bincount(index, weights=c, minlength=size) for c in columns], axis=1
  ).reshape(n_problems, n_groups, len(columns))


def _similarity(
  held: Held,
  called: np.ndarray,
  truth: Truth,
  threshold: float,
  originals: Held,
  partner: Callable[[int], int],
) -> list[np.ndarray]:
  """[R] |share of steps called correct - that of the original|, and where defined."""
  share = _share(held.split, called)
  nothing = np.zeros(len(originals.split.row), bool)
  theirs = _called(originals.split, originals.scores, nothing, threshold)
  other = _share(originals.split, theirs)
  at = np.array([partner(r) for r in range(held.split.n_rows)])
  known = (at >= 0) & ~truth.repeated & (other[np.maximum(at, 0)] > 0)
  return [np.where(known, np.abs(share - other[np.maximum(at, 0)]), 0.0), known]


def _share(split: Split, called: np.ndarray) -> np.ndarray:
  total = np.bincount(split.row, weights=called, minlength=split.n_rows)
  return total / np.maximum(split.counts, 1)


def _samples(sheet: Sheet, held: Held, truth: Truth, policy: str, value: float) -> None:
  split, scores = held.split, held.scores
  called = _called(split, scores, truth.wrong, value)
  for r, name in enumerate(split.ids):
    span = slice(split.offsets[r], split.offsets[r + 1])
    scored = bool(scores.scored[r])
    found = np.flatnonzero(~called[span])
    sheet.out.samples.append(
      {
        'kind': 'solution',
        'split': split.name,
        'id': name,
        'problem_id': split.problem_ids[split.problem[r]],
        'truth': split.truth,
        'class': held.rows[r].meta.get('classification'),
        'gold_wrong_steps': np.flatnonzero(truth.wrong[span]).tolist(),
        'predicted_wrong_steps': found.tolist() if scored else None,
        'policy': policy,
        'threshold': value,
        'scores': scores.values[span].tolist() if scored else None,
      }
    )


def _start(sheet: Sheet, held: Held, by_file: bool = False) -> Truth:
  truth = read_truth(held, by_file)
  split = held.split
  sheet.count(
    OVERALL,
    {
      'rows': split.n_rows,
      'problems': split.n_problems,
      'unscored': int((~held.scores.scored).sum()),
      'repeated_keys_left_out': int(truth.repeated.sum()),
      'error_steps_beyond_the_solution': int(truth.beyond.sum()),
      'steps_unlabelled': int((~truth.labelled).sum()),
    },
  )
  if constant(held.scores, split):
    sheet.warn('all scores are equal; they tell no steps apart.')
  if not truth.wrong.any():
    sheet.warn('no step is wrong, so scores of wrong steps are undefined.')
  return truth


def _ranking(sheet: Sheet, held: Held, truth: Truth) -> None:
  split = held.split
  use = (truth.labelled & ~truth.repeated[split.row]) & held.scores.scored[split.row]
  auroc, _ = rank_metrics(
    held.scores.values[use],
    truth.wrong[use],
    split.problem[split.row][use],
    held.sample,
  )
  sheet.put(OVERALL, 'step_auroc', auroc)


def _prmbench(sheet: Sheet, sets: Mapping[str, Rows]) -> None:
  if '' not in sets:
    sheet.warn('only original solutions are scored; there is nothing to judge.')
    return
  held = sheet.hold('', sets[''])
  truth = _start(sheet, held)
  classes = [str(t.meta.get('classification')) for t in held.rows]
  unknown = sorted(set(classes) - set(CLASSES))
  if unknown:
    raise UserError(
      f'{held.name}: the class {unknown[0]!r} is none of PRMBench '
      f'({", ".join(CLASSES)}); name these rows socratic_prmbench, or correct them.'
    )
  partner = None
  if ORIGINALS in sets:
    original = sheet.hold(ORIGINALS, sets[ORIGINALS])
    place = {t.meta.get('idx'): r for r, t in enumerate(original.rows)}
    partner = (original, lambda r: place.get(held.rows[r].meta.get('idx'), -1))
  for i, threshold in enumerate(sheet.thresholds(held)):
    if threshold.value is None:
      sheet.put(OVERALL, 'prmscore', undefined(threshold.reason), threshold.policy)
      continue
    mains = by_group(
      sheet, held, classes, threshold.policy, threshold.value, truth, {}, ERRORLESS,
      partner,
    )  # fmt: skip
    for axis, name in AXES.items():
      members = [c for c, of in CLASSES.items() if of == axis]
      if all(c in mains for c in members):
        found = mean_over_same([mains[c] for c in members])
        sheet.put(name, 'prmscore', found, threshold.policy)
    if i == 0:
      _samples(sheet, held, truth, threshold.policy, threshold.value)
  _ranking(sheet, held, truth)


def _socratic(sheet: Sheet, sets: Mapping[str, Rows]) -> None:
  held = sheet.hold('', sets[''])
  truth = _start(sheet, held, by_file=True)
  groups = [_category(t.source, t.meta.get('classification')) for t in held.rows]
  patterns: dict[str, list[str]] = {}
  for name in dict.fromkeys(groups):
    for start, pattern in PATTERNS.items():
      if name.startswith(start):
        patterns.setdefault(pattern, []).append(name)
  for i, threshold in enumerate(sheet.thresholds(held)):
    if threshold.value is None:
      sheet.put(OVERALL, 'prmscore', undefined(threshold.reason), threshold.policy)
      continue
    by_group(
      sheet, held, groups, threshold.policy, threshold.value, truth,
      {f'pattern_{name}': members for name, members in patterns.items()},
    )  # fmt: skip
    if i == 0:
      _samples(sheet, held, truth, threshold.policy, threshold.value)
  _ranking(sheet, held, truth)


def _category(source: str, classification: object) -> str:
  """'premise_redundancy' of a source '.../test_premise_redundancy'."""
  stem = source.rsplit('/', 1)[-1]
  return stem.removeprefix('test_') if 'test_' in stem else str(classification)


_SCORE = (
  'PRMScore = 0.5 F1 + 0.5 F1_negative, micro over steps: f1_correct_steps, correct '
  'steps being the positive class, and f1_wrong_steps. A step is called correct if its '
  'score is above the threshold (published: strictly above 0.5). '
)

PRMBENCH = Benchmark(
  name='prmbench',
  version=1,
  definition=(
    'PRMBench (Song et al. 2025, arXiv 2501.03124; '
    'mr_eval/tasks/prmtest_classified/task.py). '
    + _SCORE
    + 'Nine classes; multi_solutions has no wrong step and goes by F1 alone. '
    'redundency and circular are judged by redundancy scores (above 0.15: redundant, '
    'so wrong) where the scorer has them, else like the others. S1, S2, S3: means over '
    'the classes of an axis; overall: micro over the steps of all rows. error_steps is '
    '1-based in the data; indices beyond the solution (100 rows) are ignored, and of '
    'rows with the same class and idx (5 of multi_solutions) the first counts, both as '
    'in the published code. first_error_step_accuracy: rows with an error whose first '
    'wrong step is called wrong, whatever is said of earlier ones (published as '
    'first_error_acc). similarity: mean absolute '
    'difference between the shares of steps called correct in a row and in its '
    'unmodified solution, left out where that share is 0. A row that is not scored '
    'counts as misjudged at every step; the published code leaves it out and refuses '
    'runs that lack 5 or more. The modified solutions number their steps here and '
    'there; the number is taken off before scoring. Intervals resample original '
    'problems, which the classes share.'
  ),
  sources=('prmbench:prmbench', f'{ORIGINALS}=prmbench:prmbench_originals'),
  rows=6216,
  measure=_prmbench,
)

SOCRATIC_PRMBENCH = Benchmark(
  name='socratic_prmbench',
  version=2,
  definition=(
    'Socratic-PRMBench (Li et al. 2025, arXiv 2505.23474), in PRMBench layout, one '
    'file for each of 20 errors: test_CATEGORY_ERROR.jsonl. '
    + _SCORE
    + 'The same score for every error, for six reasoning patterns (micro over the '
    'steps of their files; repeat is read as transformation, premise and conclusion as '
    'deduction, correction and detection as verification) and over all steps. The '
    'paper gives PRM-Score as 0.5 F1 + 0.5 F1_neg; its code is not published, so the '
    'threshold 0.5, the micro average and the mapping of files to patterns are not '
    'verified. Of rows of one file with the same class and idx the first counts.'
  ),
  sources=('socratic_prmbench:prmbench',),
  rows=2995,
  measure=_socratic,
)
