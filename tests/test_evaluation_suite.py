"""The one entry point: names, truths, baselines, refusals, speed."""

import dataclasses
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from evaluation_cases import candidate, solution, world

from prm_jax.errors import UserError
from prm_jax.evaluation import process_bench
from prm_jax.evaluation.result import Options
from prm_jax.evaluation.splits import read_split
from prm_jax.evaluation.suite import evaluate
from prm_jax.records import LabelSet, ScoreSet, Trajectory, make_problem_id

SPLITS = {
  'heldout': world('h', 60, 1, 0),
  'heldout_longer': world('l', 60, 1, 1),
  'validation': world('v', 60, 1, 2),
}
POOLS = {'heldout': world('p', 30, 8, 3)}
TRAIN = world('t', 80, 1, 4)
QUICK = Options(n_resamples=200, n_draws=20)


def run(splits=SPLITS, pools=POOLS, **changes):
  options = {
    'scorer': 'prm',
    'truth': 'on_track',
    'tune_split': 'validation',
    'train': TRAIN,
    'options': QUICK,
  }
  return evaluate(splits, pools, **(options | changes))


@pytest.fixture(scope='module')
def result():
  return run()


def test_metric_names_truths_and_forms(result):
  for name, truth in {
    'heldout/process_bench/f1@tuned:validation': 'on_track',
    'heldout/process_bench/accuracy_error@tuned:validation': 'on_track',
    'heldout/process_bench/accuracy_correct@argmax': 'on_track',
    'heldout/process_bench/f1@tuned:validation[baseline_position_length]': 'on_track',
    'heldout/process_bench/f1[all_correct]': 'on_track',
    'heldout/process_bench/f1-baseline_position_length@tuned:validation': 'on_track',
    'mean/process_bench/f1@tuned:validation': 'on_track',
    'heldout_longer/steps/auroc': 'on_track',
    'heldout/steps/auroc[baseline_position_length]': 'on_track',
    'heldout/steps/auroc-baseline_position_length': 'on_track',
    'heldout/steps/average_precision': 'on_track',
    'heldout/steps/accuracy@tuned:validation': 'on_track',
    'heldout/steps/base_rate': 'on_track',
    'heldout/steps/first_error_accuracy@tuned:validation': 'on_track',
    'heldout/calibration/brier@platt:validation': 'on_track',
    'heldout/calibration/ece@platt:validation': 'on_track',
    'heldout/trajectory/smoothness': 'none',
    'heldout/trajectory/td_error_mean@platt:validation': 'exact',
    'heldout/value/mae@platt:validation': 'value',
    'heldout/value/correlation@platt:validation': 'value',
    'heldout/best_of_n/pass@1': 'exact',
    'heldout/best_of_n/prm_min@8': 'exact',
    'heldout/best_of_n/prm_mean_sigmoid_vote@4': 'exact',
    'heldout/best_of_n/majority@8': 'exact',
    'heldout/best_of_n/oracle@8': 'exact',
    'heldout/best_of_n/shortest@8': 'exact',
    'heldout/best_of_n/fewest_steps@8': 'exact',
    'heldout/best_of_n/prm_min-majority@8': 'exact',
    'heldout/best_of_n/prm_min-shortest@8': 'exact',
    'heldout/best_of_n/prm_min@8[baseline_position_length]': 'exact',
  }.items():
    assert result.judged_by[name] == truth, name
    found = result.metrics[name]
    assert set(found) == {'value', 'low', 'high', 'n'}
    assert found['low'] <= found['value'] <= found['high'] or 'ece' in name, name
  assert set(result.judged_by) == set(result.metrics) == set(result.estimates)
  # Of the tuning split only what its own trials have to beat.
  tuned_on = [name for name in result.metrics if name.startswith('validation/')]
  assert tuned_on == ['validation/steps/auroc[baseline_position_length]']
  # Raw logits have no product and no uncalibrated Brier.
  assert not any('product' in n for n in result.metrics if '[' not in n)
  assert 'heldout/calibration/brier' not in result.metrics
  json.dumps([result.metrics, result.samples, result.counters], allow_nan=False)


def test_values_are_those_of_the_parts(result):
  f1 = result.metrics['heldout/process_bench/f1@tuned:validation']['value']
  longer = result.metrics['heldout_longer/process_bench/f1@tuned:validation']['value']
  mean = result.metrics['mean/process_bench/f1@tuned:validation']
  assert mean['value'] == pytest.approx((f1 + longer) / 2) and mean['n'] == 120
  base = result.metrics[
    'heldout/process_bench/f1@tuned:validation[baseline_position_length]'
  ]
  difference = result.metrics[
    'heldout/process_bench/f1-baseline_position_length@tuned:validation'
  ]
  assert difference['value'] == pytest.approx(f1 - base['value'])
  rows = [s for s in result.samples if s['kind'] == 'solution']
  assert len(rows) == 120
  split = read_split('heldout', SPLITS['heldout'], 'on_track')
  match = np.array([r['match'] for r in rows[:60]])
  on_error = match[split.first_error >= 0].mean()
  on_correct = match[split.first_error == -1].mean()
  assert f1 == pytest.approx(
    float(process_bench.harmonic_mean(np.array(on_error), np.array(on_correct)))
  )
  problems = [s for s in result.samples if s['kind'] == 'problem']
  assert len(problems) == 30 and problems[0]['best_of'] == 8
  got = np.mean([p['chance_correct']['prm_min'] for p in problems])
  assert got == pytest.approx(result.metrics['heldout/best_of_n/prm_min@8']['value'])
  one = result.metrics['heldout/best_of_n/pass@1']['value']
  for selector in ('oracle', 'prm_min', 'prm_max', 'majority', 'shortest'):
    first = result.metrics[f'heldout/best_of_n/{selector}@1']['value']
    assert first == pytest.approx(one)


def test_tables_and_curves_are_ready_for_the_report(result):
  titles = [t.title for t in result.tables]
  assert 'heldout: first wrong step' in titles and 'heldout: best of N' in titles
  for table in result.tables:
    assert table.rows and all(len(r.cells) == len(table.header) - 1 for r in table.rows)
  assert any(row.baseline for row in result.tables[0].rows)
  assert len(result.curves['reliability']) == 2
  (chart,) = result.curves['best_of_n']
  assert set(chart.baselines) < set(chart.series) and 'prm_min' in chart.series
  assert [point[0] for point in chart.series['oracle']] == [1, 2, 4, 8]


def test_the_same_rows_in_another_order_give_the_same_numbers(result):
  turned = run(
    {k: v[::-1] for k, v in SPLITS.items()}, {'heldout': POOLS['heldout'][::-1]}
  )
  for name, found in result.metrics.items():
    assert turned.metrics[name] == pytest.approx(found), name


def test_probabilities_need_no_calibration_and_no_tuning_split():
  splits = {'gsm8k': world('g', 40, 1, 5, kind='probability')}
  pools = {'gsm8k': world('p', 20, 4, 6, kind='probability')}
  got = run(splits, pools, tune_split='', train=())
  names = set(got.metrics)
  assert 'gsm8k/process_bench/f1@fixed:0.5' in names
  assert {'gsm8k/calibration/brier', 'gsm8k/value/mae'} <= names
  assert {'gsm8k/best_of_n/prm_product@4', 'gsm8k/best_of_n/prm_min_vote@4'} <= names
  assert not any('baseline_position_length' in n for n in names)


def test_a_split_is_reported_without_its_own_optimum():
  got = run(report=('validation', 'heldout'), pools={})
  assert 'validation/process_bench/f1@argmax' in got.metrics
  assert not any(n.startswith('validation/') and 'tuned' in n for n in got.metrics)
  assert got.metrics['validation/calibration/brier']['value'] is None
  assert got.counters['validation/undefined/raw_scores_without_calibration'] > 0
  assert 'mean/process_bench/f1@tuned:validation' not in got.metrics


def test_other_scorers_and_both_kinds_of_ties_stand_side_by_side():
  rng = np.random.default_rng(0)
  rows = [
    dataclasses.replace(
      t,
      scores={
        **t.scores,
        'guess': ScoreSet('logit', tuple(rng.normal(size=t.n_steps))),
      },
    )
    for t in POOLS['heldout']
  ]
  both = Options(ties=('uniform', 'lowest_index'), n_resamples=200, n_draws=5)
  got = evaluate(
    {}, {'pool': rows}, scorer='prm', truth='', also=['guess'], options=both
  )
  for name in (
    'pool/best_of_n/prm_min@8[guess]',
    'pool/best_of_n/prm_min@8:lowest_index',
    'pool/best_of_n/prm_min-guess@8',
    'pool/best_of_n/prm_min-majority@8[guess]',
    'pool/best_of_n/majority@8:lowest_index',
  ):
    assert got.metrics[name]['value'] is not None
  assert any('not shown to be better' in w for w in got.warnings) == (
    got.metrics['pool/best_of_n/prm_min-majority@8']['low'] <= 0
    or got.metrics['pool/best_of_n/prm_min-majority@8:lowest_index']['low'] <= 0
  )


def test_undefined_metrics_are_none_and_counted():
  fine = [solution(f'{i}', [0.4, 0.9], first=-1) for i in range(4)]
  got = evaluate({'only_correct': fine}, scorer='prm', truth='human', options=QUICK)
  assert got.metrics['only_correct/process_bench/f1@fixed:0.5']['value'] is None
  assert got.metrics['only_correct/steps/auroc']['value'] is None
  assert got.counters['only_correct/undefined/no_erroneous_rows'] >= 2
  assert got.counters['only_correct/undefined/no_wrong_steps'] == 2
  json.dumps(got.metrics, allow_nan=False)


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'tune_split': 'dev'}, "split 'dev' is not among the splits"),
    ({'report': ['test']}, "split 'test' is not among"),
    ({'truth': 'gold'}, "truth 'gold' \\(found: on_track, value\\)"),
    ({'truth': {'heldout': 'on_track'}}, 'no truth is named'),
    ({'scorer': 'other'}, "no scores of 'other' \\(there: prm\\)"),
    ({'verdict': 'symbolic'}, "verdict 'symbolic' \\(found: exact\\)"),
    ({'options': Options(policies=('best',))}, "policy 'best' is unknown"),
    ({'options': Options(reductions=('median',))}, "reduction 'median' is unknown"),
    ({'options': Options(sizes=(16,))}, 'best of 16 is not defined'),
    ({'options': Options(unscored='skip')}, "must be 'error' or 'wrong'"),
    ({'splits': {}, 'pools': {}, 'tune_split': ''}, 'nothing to evaluate'),
    ({'splits': {'a/b': SPLITS['heldout']}, 'tune_split': ''}, 'ambiguous'),
  ],
)
def test_mistakes_are_named(changes, message):
  with pytest.raises(UserError, match=message):
    run(**changes)


def test_tuning_on_reported_problems_is_refused():
  shared = [dataclasses.replace(t, id=t.id + 'x') for t in SPLITS['heldout'][:3]]
  with pytest.raises(UserError, match='share 3 problems'):
    run({**SPLITS, 'validation': [*SPLITS['validation'], *shared]})


def test_problems_shared_with_training_are_counted():
  got = run(train=[*TRAIN, *SPLITS['heldout'][:2]], pools={})
  assert got.counters['heldout/problems_shared_with_train'] == 2
  assert got.counters['heldout_longer/problems_shared_with_train'] == 0


def test_unscored_candidates_are_counted_and_chosen_last():
  rows = [
    candidate('p', 0, [0.1], True, '1'),
    candidate('p', 1, [0.9], False, '2'),
    candidate('q', 0, [0.1], False, '1'),
    candidate('q', 1, [0.9], True, '2'),
  ]
  rows[1] = dataclasses.replace(rows[1], scores={})
  options = Options(unscored='wrong', n_resamples=10)
  got = evaluate({}, {'pool': rows}, scorer='prm', truth='', options=options)
  assert got.metrics['pool/best_of_n/prm_min@2']['value'] == 1
  assert got.counters['pool/best_of_n/unscored'] == 1


def test_no_jax_is_loaded():
  code = "import sys, prm_jax.evaluation.suite; print('jax' in sys.modules)"
  got = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
  assert got.stdout.strip() == 'False', got.stderr


@pytest.mark.skipif(
  not os.environ.get('PRM_JAX_DATA'), reason='set PRM_JAX_DATA to a folder with prm800k'
)
def test_position_length_baseline_on_real_ratings():
  """AUROC .632 on the steps people rated, rating >= 0 as correct."""

  def read(name):
    rows = []
    path = Path(os.environ['PRM_JAX_DATA']) / 'prm800k' / name
    with gzip.open(path, 'rt') as lines:
      for i, row in enumerate(map(json.loads, lines)):
        if row['rating'] is None:
          continue
        before = row['responses']
        label = LabelSet(
          'correctness', (*[None] * len(before), float(row['rating'] >= 0))
        )
        steps = (*before, row['next_response'])
        rows.append(
          Trajectory(
            id=str(i),
            problem_id=make_problem_id(row['instruction']),
            question=row['instruction'],
            steps=steps,
            labels={'human': label},
            scores={'none': ScoreSet('logit', (0.0,) * len(steps))},
          )
        )
    return rows

  test = read('phase1_test.stepwise-critic.jsonl.gz')
  train = read('phase1_train_plus.stepwise-critic.jsonl.gz')
  got = evaluate(
    {'test': test}, scorer='none', truth='human', train=train, options=QUICK
  )
  found = got.metrics['test/steps/auroc[baseline_position_length]']
  assert found['n'] == 5082 and round(found['value'], 3) == 0.632
  assert got.metrics['test/steps/auroc']['value'] == 0.5


def test_solutions_without_steps_do_no_harm():
  empty = [
    dataclasses.replace(solution(f'e{i}', [0.5], first=-1), steps=(),
                        scores={'prm': ScoreSet('probability', ())})
    for i in range(2)
  ]  # fmt: skip
  fine = [solution('a', [0.9, 0.2], first=1), solution('b', [0.9], first=-1)]
  got = evaluate(
    {'some': [empty[0], *fine, empty[1]], 'all': empty},
    scorer='prm', truth='human', options=QUICK,
  )  # fmt: skip
  assert got.counters['some/rows_without_steps'] == 2
  assert got.metrics['some/process_bench/f1@fixed:0.5']['value'] == 1
  assert got.metrics['all/steps/auroc']['value'] is None
  pool = [
    candidate('p', 0, [], True, None),
    candidate('p', 1, [0.1], True, '1'),
  ]
  best = evaluate({}, {'pool': pool}, scorer='prm', truth='', options=QUICK)
  assert best.metrics['pool/best_of_n/prm_min@2']['value'] == 1


def test_an_auroc_difference_is_over_the_steps_that_both_have_scored():
  rows = world('h', 30, 1, seed=4, kind='probability')
  rng = np.random.default_rng(5)
  rows = [
    dataclasses.replace(
      t,
      scores={
        'other': ScoreSet('probability', tuple(rng.random(t.n_steps))),
        **({} if i % 3 == 0 else t.scores),
      },
    )
    for i, t in enumerate(rows)
  ]

  def measured(some):
    options = Options(n_resamples=20, unscored='wrong')
    return evaluate(
      {'h': some}, scorer='prm', truth='on_track', also=['other'], options=options
    ).metrics

  found = measured(rows)
  common = measured([t for t in rows if 'prm' in t.scores])
  path = 'h/steps/auroc-other'
  assert found['h/steps/auroc[other]']['n'] > found['h/steps/auroc']['n']
  assert found[path]['n'] == found['h/steps/auroc']['n']
  gap = common['h/steps/auroc']['value'] - common['h/steps/auroc[other]']['value']
  assert found[path]['value'] == pytest.approx(gap)


def test_a_problem_with_few_candidates_ends_the_n_with_a_warning():
  rows = [
    candidate(f'p{k}', i, [0.5], i < k, str(i)) for k in range(3) for i in range(4)
  ]
  found = run({}, {'pool': rows[:10]}, truth='', tune_split='', train=())
  assert found.warnings[0] == (
    'pool: problem p2 has 2 candidates and others up to 4; no N above 2 is reported.'
  )
  assert 'pool/best_of_n/prm_min@4' not in found.metrics
  whole = run({}, {'pool': rows}, truth='', tune_split='', train=())
  assert not any('candidates' in w for w in whole.warnings)
