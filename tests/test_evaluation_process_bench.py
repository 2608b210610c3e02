"""The ProcessBench metric, its thresholds, and reading of truth and scores."""

import dataclasses

import numpy as np
import pytest
from evaluation_cases import solution, world
from hypothesis import given, settings
from hypothesis import strategies as st

from prm_jax.errors import UserError
from prm_jax.evaluation import process_bench
from prm_jax.evaluation.intervals import resamples
from prm_jax.evaluation.process_bench import choose_threshold, tune_threshold
from prm_jax.evaluation.splits import UNKNOWN, read_scores, read_split
from prm_jax.records import LabelSet, ScoreSet


def read(rows, name='split', truth='human', unscored='error'):
  split = read_split(name, rows, truth, 'exact')
  return split, read_scores(split, rows, 'prm', unscored)


def measure(rows, threshold=0.5, **options):
  split, scores = read(rows, **options)
  predictions = process_bench.predict(split, scores, threshold)
  return process_bench.process_bench(split, predictions, resamples(split.problem_ids))


ROWS = [
  solution('a', [0.9, 0.2, 0.9], first=1),  # found
  solution('b', [0.9, 0.2, 0.9], first=2),  # too early
  solution('c', [0.9, 0.9], first=0),  # missed
  solution('d', [0.1], first=0),  # found
  solution('e', [0.6, 0.7], first=-1),  # accepted
  solution('f', [0.6, 0.5], first=-1),  # 0.5 is not above 0.5: false alarm
  solution('g', [0.6, 0.51], first=-1),  # accepted
]


def test_hand_worked_case():
  found = measure(ROWS)
  assert found['accuracy_error'].value == 2 / 4 and found['accuracy_error'].n == 4
  assert found['accuracy_correct'].value == pytest.approx(2 / 3)
  assert found['f1'].value == pytest.approx(2 * (1 / 2) * (2 / 3) / (1 / 2 + 2 / 3))
  assert found['f1'].low < found['f1'].value < found['f1'].high


@pytest.mark.parametrize('constant, error, correct', [(1.0, 0, 1), (0.0, 2 / 4, 0)])
def test_degenerate_predictors_get_f1_zero_and_show_both_accuracies(
  constant, error, correct
):
  """Always -1, and always 0."""
  rows = [
    dataclasses.replace(
      t, scores={'prm': ScoreSet('probability', (constant,) * t.n_steps)}
    )
    for t in ROWS
  ]
  found = measure(rows)
  assert found['f1'].value == 0
  assert found['accuracy_error'].value == error
  assert found['accuracy_correct'].value == correct


@pytest.mark.parametrize('first, reason', [(-1, 'no_erroneous'), (0, 'no_correct')])
def test_f1_without_one_class_is_undefined_and_says_why(first, reason):
  found = measure([solution(str(i), [0.4, 0.9], first=first) for i in range(3)])
  assert found['f1'].value is None and found['f1'].reason == f'{reason}_rows'
  other = 'accuracy_correct' if first == -1 else 'accuracy_error'
  assert found[other].value is not None


def test_unknown_first_errors_are_left_out_and_counted():
  rows = [*ROWS, solution('h', [0.9], labels=[None])]
  split, _ = read(rows)
  assert split.first_error[-1] == UNKNOWN
  assert split.counters['first_error_unknown'] == 1
  assert measure(rows)['f1'].metric() == measure(ROWS)['f1'].metric()


def brute_force(split, scores):
  best = 0.0
  for threshold in np.unique(np.append(scores.values, -9.0)):
    found = process_bench.predict(split, scores, threshold)
    on_error = np.mean((found == split.first_error)[split.first_error >= 0])
    on_correct = np.mean((found == split.first_error)[split.first_error == -1])
    if on_error + on_correct:
      best = max(best, 2 * on_error * on_correct / (on_error + on_correct))
  return best


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_tuned_threshold_reaches_the_best_f1_of_all_thresholds(data):
  rows = []
  for i in range(data.draw(st.integers(2, 8))):
    scores = data.draw(st.lists(st.integers(-2, 2), min_size=1, max_size=5))
    low = {0: -1, 1: 0}.get(i, -1)
    high = {0: -1}.get(i, len(scores) - 1)
    first = data.draw(st.integers(low, high))
    values = [float(s) for s in scores]
    rows.append(solution(str(i), values, first=first, kind='logit'))
  split, scores = read(rows)
  tuned = tune_threshold(split, scores)
  found = process_bench.predict(split, scores, tuned.value)
  got = process_bench.process_bench(split, found, resamples(split.problem_ids))
  assert got['f1'].value == pytest.approx(brute_force(split, scores))


def test_tuning_is_exact_for_thousands_of_scores():
  split, scores = read(world('v', 1500, 1, 0), truth='on_track')
  tuned = tune_threshold(split, scores)
  assert len(np.unique(scores.values)) > 4000
  grid = np.linspace(-2, 2, 81)
  best = max(
    process_bench.process_bench(
      split,
      process_bench.predict(split, scores, t),
      resamples(split.problem_ids, n=2),
    )['f1'].value
    for t in [*grid, tuned.value]
  )
  found = process_bench.predict(split, scores, tuned.value)
  sample = resamples(split.problem_ids, n=2)
  assert process_bench.process_bench(split, found, sample)['f1'].value == best


def test_the_middle_of_equally_good_thresholds_is_taken():
  rows = [solution('a', [0.9, 0.1], first=1), solution('b', [0.8, 0.6], first=-1)]
  assert tune_threshold(*read(rows)).value == pytest.approx(0.35)
  # Scores that no match depends on make more candidates: .15, .25, .4, .55.
  rows.append(solution('c', [0.2, 0.3, 0.5], labels=[1, None, None]))
  assert tune_threshold(*read(rows)).value == pytest.approx(0.4)


def test_threshold_policies_and_their_refusals():
  split, _ = read(ROWS)
  other = read([solution('z', [0.9], first=-1)], 'other')
  assert choose_threshold('fixed:0.7', split, 'probability').value == 0.7
  assert choose_threshold('argmax', split, 'probability').value == 0.5
  assert choose_threshold('argmax', split, 'logit').value == 0
  with pytest.raises(UserError, match='share 7 problems'):
    renamed = read(ROWS, 'validation')
    choose_threshold('tuned:validation', split, 'probability', renamed)
  with pytest.raises(UserError, match="no split 'validation'"):
    choose_threshold('tuned:validation', split, 'probability', other)
  for policy in ('best', 'fixed:', 'fixed:nan', 'tuned:', 'argmax:2'):
    with pytest.raises(UserError, match='unknown'):
      choose_threshold(policy, split, 'probability', other)
  found = choose_threshold('tuned:other', split, 'probability', other)
  assert found.value is None and found.reason == 'tuning_split_lacks_a_class'


def test_scores_that_cannot_be_used_are_refused_by_name():
  fine = solution('a', [0.9, 0.2], first=1)
  without = solution('without', None, labels=[1, 1])
  with pytest.raises(
    UserError, match=r"without has no scores of 'prm' \(there: none\)"
  ):
    read([fine, without])
  hole = dataclasses.replace(
    fine, id='c', scores={'prm': ScoreSet('logit', (1.0, None))}
  )
  with pytest.raises(UserError, match='steps without a score'):
    read([fine, hole])
  short = dataclasses.replace(
    fine, id='c', scores={'prm': ScoreSet('probability', (1.0,))}
  )
  with pytest.raises(UserError, match=r'1 scores of .* for 2 steps'):
    read([fine, short])
  bad = dataclasses.replace(
    fine, id='c', scores={'prm': ScoreSet('probability', (0.5, float('nan')))}
  )
  with pytest.raises(UserError, match='step 1 of c has the score nan'):
    read([fine, bad])
  raw = dataclasses.replace(fine, id='c', scores={'prm': ScoreSet('logit', (1.0, 2.0))})
  with pytest.raises(UserError, match='of kind logit in c and probability in a'):
    read([fine, raw])
  with pytest.raises(UserError, match='occurs more than once'):
    read([fine, fine])
  with pytest.raises(UserError, match=r"truth 'gold' \(found: human\)"):
    read([fine], truth='gold')
  with pytest.raises(UserError, match='holds no solutions'):
    read([])
  # On request they count against the scorer instead.
  found = measure([*ROWS, without], unscored='wrong')
  assert found['accuracy_correct'].value == 2 / 4


def test_truth_is_read_from_labels_or_first_error_and_context_is_not_judged():
  by_labels = solution('a', [0.5] * 3, labels=[1, None, 0])
  by_first = solution('b', [0.5] * 3, first=1)
  both = dataclasses.replace(
    solution('c', [0.5] * 3, first=1),
    labels={'human': LabelSet('correctness', (1.0, 0.0, 1.0), weights=(0.0, 1.0, 1.0))},
  )
  split, _ = read([by_labels, by_first, both])
  assert split.first_error.tolist() == [UNKNOWN, 1, 1]
  assert split.labelled.tolist() == [
    True,
    False,
    True,
    True,
    True,
    False,
    False,
    True,
    True,
  ]
  assert split.up_to_first_error.tolist() == [
    *(True, False, True),  # unlabelled in between is left out
    *(True, True, False),
    *(False, True, False),  # context before, beyond the error after
  ]
  assert split.counters['steps_context_only'] == 1
  assert split.counters['steps_unlabelled'] == 2
