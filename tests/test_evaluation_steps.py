"""Step metrics, calibration, scores along a solution, and the trivial baselines."""

import dataclasses

import numpy as np
import pytest
from evaluation_cases import solution, world

from prm_jax.errors import UserError
from prm_jax.evaluation import (
  along,
  baselines,
  calibration,
  calibration_fits,
  logistic,
  process_bench,
)
from prm_jax.evaluation import steps as step_metrics
from prm_jax.evaluation.intervals import resamples
from prm_jax.evaluation.splits import Scores, read_scores, read_split
from prm_jax.records import LabelSet, ScoreSet, Verdict


def read(rows, truth='human'):
  split = read_split('split', rows, truth, 'exact')
  return split, read_scores(split, rows, 'prm'), resamples(split.problem_ids)


ROWS = [
  solution('a', [0.9, 0.3, 0.1, 0.8], labels=[1, 0, 0, 1]),  # judged: 0, 1
  solution('b', [0.8, 0.6], labels=[1, 0]),
  solution('c', [0.4, 0.95], labels=[1, 1]),
]


def test_step_metrics_stop_at_the_first_error_and_stand_beside_the_base_rate():
  split, scores, sample = read(ROWS)
  assert split.up_to_first_error.sum() == 6
  assert step_metrics.base_rate(split, scores, sample).metric()['value'] == 4 / 6
  ranked = step_metrics.ranking(split, scores, sample)
  # Correct: .9 .8 .4 .95; wrong: .3 .6. Pairs won: 4 + 3 of 8.
  assert ranked['auroc'].value == 7 / 8
  # Ascending: .3 wrong (1/1), .4, .6 wrong (2/3).
  assert ranked['average_precision'].value == pytest.approx((1 + 2 / 3) / 2)
  found = process_bench.predict(split, scores, 0.5)
  assert found.tolist() == [1, -1, 0]
  held = step_metrics.at_threshold(split, scores, 0.5, found, sample)
  assert held['accuracy'].value == pytest.approx(4 / 6)
  assert held['f1_wrong'].value == pytest.approx(2 * 1 / (2 + 2))
  assert held['first_error_accuracy'].value == pytest.approx(1 / 3)
  assert held['accuracy'].n == 6 and held['first_error_accuracy'].n == 3


def test_the_threshold_is_used():
  split, scores, sample = read(ROWS)
  seen = set()
  for threshold in (0.2, 0.35, 0.5, 0.7):
    found = process_bench.predict(split, scores, threshold)
    held = step_metrics.at_threshold(split, scores, threshold, found, sample)
    seen.add(tuple(round(e.value or 0, 6) for e in held.values()))
  assert len(seen) == 4


def test_steps_after_a_stated_first_error_are_not_judged():
  # The label set leaves the wrong step out and goes on behind it.
  rows = [solution('a', [0.9, 0.2, 0.9], first=1, labels=[1, None, 1])]
  split, _, _ = read(rows)
  assert split.up_to_first_error.tolist() == [True, False, False]


def test_what_is_not_scored_comes_after_the_lowest_logit():
  rows = [solution('a', [-7.0], first=0, kind='logit')]
  rows.append(solution('b', None, labels=[1]))
  split = read_split('split', rows, 'human')
  scores = read_scores(split, rows, 'prm', 'wrong')
  for reduction in ('min', 'mean', 'last', 'max'):
    assert scores.reduced(split, reduction).tolist() == [-7, -np.inf]


def test_a_score_at_the_threshold_is_called_wrong():
  rows = [solution('a', [0.9, 0.5], labels=[1, 0]), solution('b', [0.5], labels=[1])]
  split, scores, sample = read(rows)
  found = process_bench.predict(split, scores, 0.5)
  held = step_metrics.at_threshold(split, scores, 0.5, found, sample)
  assert held['accuracy'].value == pytest.approx(2 / 3)
  assert held['f1_wrong'].value == pytest.approx(2 * 1 / (2 + 1))


def test_brier_ece_and_reliability_by_hand():
  split, scores, sample = read(ROWS)
  found = calibration.calibration(split, scores, sample)
  s = np.array([0.9, 0.3, 0.8, 0.6, 0.4, 0.95])
  y = np.array([1, 0, 1, 0, 1, 1])
  assert found['brier'].value == pytest.approx(np.mean((s - y) ** 2))
  by_bin = [[0.3], [0.4 - 1], [0.6], [0.8 - 1], [0.9 - 1, 0.95 - 1]]
  ece = sum(abs(sum(b)) for b in by_bin) / 6
  assert found['ece'].value == pytest.approx(ece)
  curve = calibration.reliability(split, scores, sample)
  assert len(curve) == 10 and [b[0] for b in curve] == [0, 0, 0, 1, 1, 0, 1, 0, 1, 2]
  assert curve[9][1:3] == pytest.approx((0.925, 1.0))


def test_a_score_of_one_is_in_the_last_bin():
  split, scores, sample = read([solution('a', [1.0, 0.0], labels=[1, 0])])
  assert calibration.reliability(split, scores, sample)[9][0] == 1
  assert calibration.calibration(split, scores, sample)['ece'].value == 0


def test_platt_recovers_a_known_map_and_names_the_split():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=4000) * 2
  labels = (rng.random(4000) < 1 / (1 + np.exp(-(0.7 * logits - 0.4)))).astype(float)
  rows = [
    solution(f'{i}', [float(z)], labels=[float(y)], kind='logit')
    for i, (z, y) in enumerate(zip(logits, labels))
  ]
  split, scores, _ = read(rows)
  split = dataclasses.replace(split, name='validation')
  platt = calibration_fits.fit('platt', split, scores)
  assert platt.parameters['slope'][0] == pytest.approx(0.7, abs=0.07)
  assert platt.parameters['intercept'][0] == pytest.approx(-0.4, abs=0.1)
  assert platt.fitted_on == 'validation'
  other, raw, _ = read([solution('new', [1.0, 2.0], labels=[1, 0], kind='logit')])
  mapped, suffix = calibration_fits.as_probabilities(other, raw, platt)
  assert suffix == '@platt:validation' and mapped.kind == 'probability'
  assert calibration_fits.as_probabilities(other, raw, None) == (None, '')
  with pytest.raises(UserError, match='shares 4000 problems'):
    calibration_fits.as_probabilities(split, scores, platt)
  ready = dataclasses.replace(raw, kind='probability')
  assert calibration_fits.as_probabilities(other, ready, None) == (ready, '')


def test_soft_labels_are_a_target_for_brier():
  row = dataclasses.replace(
    solution('a', [0.5, 0.25], labels=[1, 1]),
    labels={'value': LabelSet('value', (0.75, 0.0))},
  )
  split, scores, sample = read([row], 'value')
  assert calibration.calibration(split, scores, sample)['brier'].value == pytest.approx(
    0.0625
  )


def test_smoothness_and_td_error_by_hand():
  rows = [
    solution('a', [0.5, 0.75, 0.25], first=2, verdicts={'exact': Verdict(False)}),
    solution('b', [0.75], first=-1, verdicts={'exact': Verdict(True)}),
    solution('c', [0.5, 0.0], first=-1, verdicts={'exact': Verdict(None)}),
  ]
  split, scores, sample = read(rows)
  smooth = along.smoothness(split, scores, sample)
  assert smooth.value == pytest.approx((0.25 + 0.5 + 0.5) / 3) and smooth.n == 3
  errors = np.array([0.25, 0.5, 0.25, 0.25])  # c has no verdict
  found = along.td_error(split, scores, sample)
  assert found['td_error_mean'].value == pytest.approx(errors.mean())
  assert found['td_error_std'].value == pytest.approx(errors.std())
  assert found['td_error_mean'].n == 4
  silent, scores, sample = read([rows[2]])
  assert along.td_error(silent, scores, sample)['td_error_mean'].reason == 'no_verdicts'


def test_distance_to_value_by_hand():
  rng = np.random.default_rng(1)
  rows, s, v = [], [], []
  for i in range(20):
    scores, values = rng.random(3), rng.random(3)
    s.extend(scores)
    v.extend(values)
    row = solution(str(i), scores.tolist(), first=-1)
    label = LabelSet('value', tuple(values.tolist()))
    rows.append(dataclasses.replace(row, labels={'value': label}))
  split, scores, sample = read(rows, 'value')
  found = along.value_distance(split, scores, sample)
  gap = np.array(s) - np.array(v)
  assert found['mae'].value == pytest.approx(np.abs(gap).mean())
  assert found['rmse'].value == pytest.approx(np.sqrt((gap**2).mean()))
  assert found['correlation'].value == pytest.approx(np.corrcoef(s, v)[0, 1])
  flat = Scores('prm', 'probability', np.full(60, 0.5), np.ones(20, bool))
  none = along.value_distance(split, flat, sample)['correlation']
  assert none.value is None and none.reason == 'no_spread'


def test_logistic_regression_is_at_the_optimum():
  rng = np.random.default_rng(2)
  x = rng.normal(size=(500, 2)) * [1, 100] + [5, -300]
  y = (rng.random(500) < 1 / (1 + np.exp(-(x[:, 0] - 5)))).astype(float)
  model = logistic.fit(x, y)
  p = model.probabilities(x)
  assert p.mean() == pytest.approx(y.mean(), abs=1e-6)
  z = (x - model.mean) / model.scale
  np.testing.assert_allclose(z.T @ (p - y) / 500, 0, atol=1e-5)


def test_logistic_regression_survives_separable_and_constant_features():
  y = np.array([0.0, 0, 1, 1])
  model = logistic.fit(np.array([[1.0, 7], [2, 7], [3, 7], [4, 7]]), y)
  assert np.isfinite(model.coefficients).all() and model.coefficients[1] == 0
  assert ((model.probabilities(np.array([[0.0, 7], [9, 7]])) > 0.5) == [0, 1]).all()
  with pytest.raises(UserError, match='both classes'):
    logistic.fit(np.zeros((3, 1)), np.ones(3))
  with pytest.raises(UserError, match='both classes'):
    logistic.fit(np.zeros((0, 1)), np.zeros(0))


def test_position_length_baseline_reads_position_and_characters_only():
  rows = [solution('a', [0.5] * 3, labels=[1, 1, 0], steps=('ab', 'c', 'def'))]
  split, _, _ = read(rows)
  want = [[0, 2, 0], [1, 1, 2], [2, 3, 3]]
  assert baselines.features(split).tolist() == want
  model = baselines.fit_position_length(split)
  found = baselines.score(model, split)
  assert found.kind == 'probability' and found.name == 'baseline_position_length'
  assert found.values[2] < 0.5 < found.values[0]


def test_all_correct_predicts_no_error_anywhere():
  split, _, sample = read(world('w', 30, 1, 0), 'on_track')
  found = process_bench.predict(split, baselines.all_correct(split), 0.5)
  assert (found == -1).all()
  held = process_bench.process_bench(split, found, sample)
  assert held['f1'].value == 0 and held['accuracy_correct'].value == 1


def test_unscored_solutions_are_left_out_of_step_metrics():
  bare = dataclasses.replace(ROWS[2], scores={})
  split = read_split('split', [*ROWS[:2], bare], 'human')
  scores = read_scores(split, [*ROWS[:2], bare], 'prm', 'wrong')
  assert scores.scored.tolist() == [True, True, False]
  sample = resamples(split.problem_ids)
  assert step_metrics.ranking(split, scores, sample)['auroc'].n == 4
  assert process_bench.predict(split, scores, 0.5)[2] == process_bench.UNDECIDED


def test_equal_scores_everywhere_rank_nothing():
  rows = [
    dataclasses.replace(t, scores={'prm': ScoreSet('logit', (0.3,) * t.n_steps)})
    for t in ROWS
  ]
  split, scores, sample = read(rows)
  ranked = step_metrics.ranking(split, scores, sample)
  assert ranked['auroc'].value == 0.5
  assert ranked['average_precision'].value == pytest.approx(2 / 6)
  assert process_bench.tune_threshold(split, scores).value is not None
