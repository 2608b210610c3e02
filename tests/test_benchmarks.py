"""Benchmarks over saved scores: hand-worked cases and predictors of known score."""

import dataclasses
import math

import numpy as np
import pytest
from evaluation_cases import candidate, solution

from prm_jax.errors import UserError
from prm_jax.evaluation import benchmarks
from prm_jax.evaluation.benchmarks.sheet import counted
from prm_jax.evaluation.result import Options
from prm_jax.records import ScoreSet, Verdict

FAST = Options(unscored='wrong', n_resamples=50)


def run(sets, **options):
  return benchmarks.evaluate(
    sets, scorer='prm', options=dataclasses.replace(FAST, **options)
  )


def values(sets, **options):
  """Metric path without the benchmark -> value."""
  found = run(sets, **options).found.metrics
  return {path.split('/', 1)[1]: m['value'] for path, m in found.items()}


def right(t, answer):
  return dataclasses.replace(t, verdicts={'source': Verdict(answer)})


FIRST = [
  right(solution('a', [0.9, 0.2, 0.9], first=1), True),  # found
  right(solution('b', [0.9, 0.2, 0.9], first=2), True),  # noticed, too early
  right(solution('c', [0.9, 0.9], first=0), False),  # missed
  right(solution('d', [0.1], first=0), False),  # found
  right(solution('e', [0.6, 0.7], first=-1), True),  # accepted
  right(solution('f', [0.6, 0.5], first=-1), True),  # 0.5 is not above 0.5
]


def test_process_bench():
  sets = {'process_bench.gsm8k': FIRST, 'process_bench.math': FIRST[:5]}
  result = run(sets)
  found = result.found.metrics
  head = 'process_bench[11 of 3400]'
  at = f'{head}/gsm8k[6 of 400]'
  assert found[f'{at}/accuracy_error@fixed:0.5']['value'] == 2 / 4
  assert found[f'{at}/accuracy_correct@fixed:0.5']['value'] == 1 / 2
  assert found[f'{at}/f1@fixed:0.5']['value'] == 1 / 2
  assert found[f'{head}/mean/f1@fixed:0.5']['value'] == pytest.approx(
    (1 / 2 + 2 / 3) / 2
  )
  # Of the two right answers with a wrong step one is located, both are noticed.
  name = f'{at}/right_answer_wrong_step'
  assert found[f'{name}_found@fixed:0.5']['value'] == 1 / 2
  assert found[f'{name}_noticed@fixed:0.5']['value'] == 1
  assert found[f'{name}_found@fixed:0.5']['n'] == 2
  told = result.definitions['process_bench']
  assert (told['version'], told['rows'], told['published_rows']) == (1, 11, 3400)
  assert 'arXiv 2412.06559' in told['definition']
  row = next(s for s in result.found.samples if s['id'] == 'b')
  assert (row['gold_first_error'], row['predicted_first_error']) == (2, 1)


def test_minimum_on_last_step_shares_ties_and_needs_two_steps():
  scores = [[0.9, 0.1], [0.1, 0.9], [0.5, 0.5], [0.3], [0.7, 0.2, 0.2]]
  rows = [solution(f's{i}', s, first=0) for i, s in enumerate(scores)]
  found = values({'process_bench.gsm8k': rows})
  share = (1 + 0 + 1 / 2 + 1 / 2) / 4
  assert found['gsm8k[5 of 400]/minimum_on_last_step'] == pytest.approx(share)


@pytest.mark.parametrize(('score', 'error', 'correct'), [(1.0, 0, 1), (0.0, 1 / 2, 0)])
def test_constant_scores_get_no_f1_and_a_warning(score, error, correct):
  """Always -1 and always 0."""
  rows = [
    dataclasses.replace(
      t, scores={'prm': ScoreSet('probability', (score,) * t.n_steps)}
    )
    for t in FIRST
  ]
  result = run({'process_bench.gsm8k': rows})
  found = {p.rsplit('/', 1)[1]: m['value'] for p, m in result.found.metrics.items()}
  assert found['accuracy_error@fixed:0.5'] == error
  assert found['accuracy_correct@fixed:0.5'] == correct
  assert found['f1@fixed:0.5'] == 0
  assert found['step_auroc'] == 0.5
  assert any('all scores are equal' in w for w in result.found.warnings)


def test_a_coin_gets_what_a_coin_must():
  """A step is called wrong with chance 1/2: 2^-(e+1) and 2^-P are expected."""
  rng = np.random.default_rng(0)
  rows = [
    solution(f's{i}', rng.random(3).tolist(), first=int(i % 4) - 1) for i in range(8000)
  ]
  found = values({'process_bench.gsm8k': rows}, n_resamples=2)
  at = 'gsm8k[8000 of 400]'
  expected = (1 / 2 + 1 / 4 + 1 / 8) / 3
  assert found[f'{at}/accuracy_error@fixed:0.5'] == pytest.approx(expected, abs=0.02)
  assert found[f'{at}/accuracy_correct@fixed:0.5'] == pytest.approx(1 / 8, abs=0.02)
  assert found[f'{at}/step_auroc'] == pytest.approx(1 / 2, abs=0.02)
  assert found[f'{at}/minimum_on_last_step'] == pytest.approx(1 / 3, abs=0.02)


def test_undefined_numbers_say_why():
  result = run({'process_bench.gsm8k': [t for t in FIRST if t.id in 'ef']})
  path = 'process_bench[2 of 3400]/gsm8k[2 of 400]/f1@fixed:0.5'
  assert result.found.metrics[path]['value'] is None
  assert any('no row has a wrong step' in w for w in result.found.warnings)
  assert 'no erroneous rows' in result.table
  assert 'process_bench[2 of 3400]/undefined/no_erroneous_rows' in result.found.counters


def test_a_set_without_correct_rows_reports_localisation_alone():
  result = run({'mr_gsm8k': FIRST[:4]})
  assert set(result.found.metrics) == {
    'mr_gsm8k[4 of 3000]/overall/accuracy_step@fixed:0.5',
    'mr_gsm8k[4 of 3000]/overall/minimum_on_last_step',
  }
  assert any('only localisation' in w for w in result.found.warnings)


def test_mr_score_by_hand():
  accepted, refused = [0.9, 0.9], [0.9, 0.1]
  rows = [
    solution(f'c{i}', s, first=-1) for i, s in enumerate([accepted] * 3 + [refused])
  ]
  rows += [
    solution(f'w{i}', s, first=e)
    for i, (s, e) in enumerate(
      [(refused, 1), (refused, 1), (refused, 0), (accepted, 1)]
    )
  ]
  found = values({'mr_ben.math': rows})
  # tp 3, tn 3, fp 1, fn 1.
  assert found['math/mcc@fixed:0.5'] == pytest.approx((9 - 1) / 16)
  assert found['math/accuracy_step@fixed:0.5'] == 2 / 4
  assert found['math/mr_score@fixed:0.5'] == pytest.approx(0.2 * 0.5 + 0.3 * 0.5)
  elsewhere = dataclasses.replace(rows[4], first_error={'human': 0})
  other = values({'mr_ben.math': [*rows[:4], elsewhere, *rows[5:]]})
  assert other['math/mr_score@fixed:0.5'] == pytest.approx(0.2 * 0.5 + 0.3 * 1 / 4)
  said = [
    dataclasses.replace(t, scores={'prm': ScoreSet('probability', (1.0, 1.0))})
    for t in rows
  ]
  always = values({'mr_ben.math': said})
  assert always['math/mcc@fixed:0.5'] == always['math/mr_score@fixed:0.5'] == 0
  # A negative correlation counts as none.
  turned = [
    dataclasses.replace(t, scores={'prm': ScoreSet('probability', s)})
    for t, s in zip(rows, [(0.9, 0.1)] * 4 + [(0.9, 0.9)] * 4)
  ]
  against = values({'mr_ben.math': turned})
  assert against['math/mcc@fixed:0.5'] == -1
  assert against['math/mr_score@fixed:0.5'] == 0


def test_bigbench_mistake_is_reported_task_by_task():
  found = values(
    {
      'bigbench_mistake.word_sorting': FIRST,
      'bigbench_mistake.dyck_languages': FIRST[:5],
    }
  )
  assert found['word_sorting/accuracy_all@fixed:0.5'] == 3 / 6
  assert found['dyck_languages/accuracy_all@fixed:0.5'] == 3 / 5
  assert found['mean/accuracy_all@fixed:0.5'] == pytest.approx((3 / 6 + 3 / 5) / 2)


def test_a_solution_that_is_not_scored_never_matches():
  rows = [*FIRST, solution('g', None, labels=[1.0, 1.0], first=-1)]
  found = values({'mr_ben.math': rows})
  assert found['math/f1@fixed:0.5'] == pytest.approx(2 * (1 / 2) * (1 / 3) / (5 / 6))
  assert found['math/mcc@fixed:0.5'] == pytest.approx(
    (1 * 3 - 1 * 2) / math.sqrt(2 * 3 * 4 * 5)
  )


def prm(name, errors, scores, kind='circular', idx=None, **more):
  """A PRMBench row; `errors` is 1-based, as in the data."""
  n = len(scores)
  labels = [float(i + 1 not in errors) for i in range(n)]
  beyond = any(e > n for e in errors)
  t = solution(name, scores, labels=[None] * n if beyond else labels)
  meta = {'classification': kind, 'idx': idx or name, 'error_steps': list(errors)}
  return dataclasses.replace(t, meta=meta, **more)


PRM = [
  prm('a', [2, 4], [0.9, 0.2, 0.4, 0.8]),  # TP TN FN FP
  prm('b', [3], [0.9, 0.5, 0.6], 'counterfactual'),  # TP FN FP: 0.5 is not above 0.5
  prm('c', [], [0.9, 0.1], 'multi_solutions'),  # TP FN
]
F1_ALL, NEGATIVE_ALL = 6 / (6 + 2 + 3), 2 / (2 + 2 + 3)


def test_prmscore_by_hand():
  result = run({'prmbench': PRM})
  found = {p.split('/', 1)[1]: m for p, m in result.found.metrics.items()}

  def value(name):
    return found[f'{name}@fixed:0.5']['value']

  assert value('circular/prmscore') == 0.5 * 0.5 + 0.5 * 0.5
  assert value('counterfactual/prmscore') == 0.5 * (2 / 4) + 0.5 * 0
  assert value('multi_solutions/f1_correct_steps') == pytest.approx(2 / 3)
  assert 'multi_solutions/prmscore@fixed:0.5' not in found
  assert value('overall/f1_correct_steps') == pytest.approx(F1_ALL)
  assert value('overall/f1_wrong_steps') == pytest.approx(NEGATIVE_ALL)
  assert value('overall/prmscore') == pytest.approx((F1_ALL + NEGATIVE_ALL) / 2)
  assert value('overall/correct_step_accuracy') == 3 / 6
  assert value('overall/wrong_step_accuracy') == pytest.approx(1 / 3)
  assert value('overall/total_step_accuracy') == 4 / 9
  assert value('overall/first_error_step_accuracy') == 1 / 2
  assert found['overall/first_error_step_accuracy@fixed:0.5']['n'] == 2
  assert 'overall/similarity@fixed:0.5' not in found
  assert not any(p.startswith('S1') for p in found)  # one of its classes is missing
  row = next(s for s in result.found.samples if s['id'] == 'a')
  assert (row['gold_wrong_steps'], row['predicted_wrong_steps']) == ([1, 3], [1, 2])


def test_axes_are_means_over_classes_and_overall_is_micro():
  rows = [PRM[0], prm('d', [1], [0.1, 0.9, 0.9, 0.9, 0.9], 'redundency')]
  found = values({'prmbench': rows})
  assert found['redundency/prmscore@fixed:0.5'] == 1
  assert found['S1_simplicity/prmscore@fixed:0.5'] == (0.5 + 1) / 2
  micro = (2 * 5 / (2 * 5 + 2) + 2 * 2 / (2 * 2 + 2)) / 2
  assert found['overall/prmscore@fixed:0.5'] == pytest.approx(micro)


def test_redundancy_scores_decide_in_the_redundancy_classes_alone():
  extra = {'prm:redundancy': ScoreSet('probability', (0.1, 0.2, 0.15, 0.2))}
  with_them = dataclasses.replace(PRM[0], scores={**PRM[0].scores, **extra})
  other = dataclasses.replace(
    prm('e', [2, 4], [0.9, 0.2, 0.4, 0.8], 'counterfactual'),
    scores=with_them.scores,
  )
  found = values({'prmbench': [with_them, other]})
  assert found['circular/prmscore@fixed:0.5'] == 1  # 0.15 is not above 0.15
  assert found['counterfactual/prmscore@fixed:0.5'] == 0.5
  with pytest.raises(UserError, match='has no scores of'):
    run({'prmbench': [with_them, prm('f', [1], [0.1, 0.9], 'redundency')]})


def test_similarity_compares_with_the_original_solution():
  original = dataclasses.replace(
    solution('o', [0.9, 0.9, 0.9, 0.1], first=-1),
    meta={'classification': 'correct', 'idx': 'a'},
  )
  empty = dataclasses.replace(
    solution('p', [0.1] * 6, first=-1), meta={'classification': 'correct', 'idx': 'b'}
  )
  sets = {'prmbench': PRM, 'prmbench.originals': [original, empty]}
  found = run(sets).found.metrics
  at = 'prmbench[3 of 6216]/overall/similarity@fixed:0.5'
  # b is left out, because nothing of its original is accepted; c has none.
  assert (found[at]['value'], found[at]['n']) == (abs(2 / 4 - 3 / 4), 1)


def test_indices_beyond_the_solution_and_repeated_keys():
  rows = [
    prm('a', [2, 4], [0.9, 0.2]),  # 4 is beyond: ignored
    prm('b', [3], [0.9, 0.2]),  # all beyond: no wrong step, no first error
    prm('c', [1], [0.9, 0.9], idx='a'),  # the key of the first row again
  ]
  result = run({'prmbench': rows})
  found = {p.split('/', 1)[1]: m for p, m in result.found.metrics.items()}
  assert found['overall/f1_correct_steps@fixed:0.5']['value'] == 2 * 2 / (2 * 2 + 1)
  assert found['overall/f1_correct_steps@fixed:0.5']['n'] == 4
  assert found['overall/first_error_step_accuracy@fixed:0.5']['n'] == 1
  counters = result.found.counters
  assert counters['prmbench[3 of 6216]/overall/repeated_keys_left_out'] == 1
  assert counters['prmbench[3 of 6216]/overall/error_steps_beyond_the_solution'] == 2


@pytest.mark.parametrize(
  ('draw', 'positive', 'negative'),
  [
    (lambda rng, n: [1.0] * n, 2 * 4 / (2 * 4 + 1), 0),
    (lambda rng, n: [0.0] * n, 0, 2 * 1 / (2 * 1 + 4)),
    (lambda rng, n: rng.random(n).tolist(), 4 / (4 + 1 / 2 + 2), 1 / (1 + 1 / 2 + 2)),
  ],
  ids=['all correct', 'all wrong', 'coin'],
)
def test_prmscore_of_predictors_that_know_nothing(draw, positive, negative):
  """Of five steps one is wrong."""
  rng = np.random.default_rng(1)
  rows = [prm(f's{i}', [1 + i % 5], draw(rng, 5)) for i in range(2000)]
  found = values({'prmbench': rows}, n_resamples=2)
  score = (positive + negative) / 2
  assert found['overall/prmscore@fixed:0.5'] == pytest.approx(score, abs=0.01)


def test_a_row_that_is_not_scored_is_misjudged_throughout():
  missing = dataclasses.replace(PRM[0], scores={})
  found = values({'prmbench': [missing, PRM[1]]})
  assert found['circular/prmscore@fixed:0.5'] == 0


def test_classes_share_resamples():
  rows = [
    dataclasses.replace(prm(f'{k}{i}', [1], [0.1, s], k), problem_id=f'p{i}')
    for k in ('circular', 'redundency')
    for i, s in enumerate([0.9, 0.1, 0.2, 0.9, 0.7])
  ]
  found = run({'prmbench': rows}).found.estimates
  head = 'prmbench[10 of 6216]'
  names = ('circular', 'redundency', 'S1_simplicity')
  each = [found[f'{head}/{n}/prmscore@fixed:0.5'] for n in names]
  np.testing.assert_array_equal(each[0].replicates, each[1].replicates)
  np.testing.assert_allclose(each[0].replicates, each[2].replicates)


def test_socratic_prmbench_goes_by_file_and_pattern():
  rows = [
    # Each file numbers its rows anew: no two of these are the same row.
    prm(name, errors, scores, kind='x', source=f'prmbench/test_{file}', idx='1')
    for name, errors, scores, file in (
      ('a', [2], [0.9, 0.1], 'premise_redundancy'),
      ('b', [2], [0.9, 0.9], 'conclusion_invalidity'),
      ('c', [1], [0.1, 0.9], 'repeat_inconsistency'),
    )
  ]
  found = values({'socratic_prmbench': rows})
  assert found['premise_redundancy/prmscore@fixed:0.5'] == 1
  # Pooled: TP 2, FP 1, TN 1.
  deduction = (4 / 5 + 2 / 3) / 2
  assert found['pattern_deduction/prmscore@fixed:0.5'] == pytest.approx(deduction)
  assert found['pattern_transformation/prmscore@fixed:0.5'] == 1
  assert found['overall/prmscore@fixed:0.5'] == pytest.approx((6 / 7 + 4 / 5) / 2)


def test_best_of_n():
  rows = [
    candidate('p', i, s, ok, str(i))
    for i, (s, ok) in enumerate([([0.9, 0.2], False), ([0.5, 0.6], True)])
  ]
  rows = [
    dataclasses.replace(t, verdicts={'regraded': t.verdicts['exact']}) for t in rows
  ]
  found = values({'best_of_n.mine': rows})
  assert found['mine/prm_min@2'] == 1
  assert found['mine/pass@1'] == 0.5
  assert found['mine/minimum_on_last_step'] == 0.5


def test_thresholds_are_part_of_names_and_tuned_elsewhere():
  lower = [
    dataclasses.replace(
      t,
      id=f'{t.id}/low',
      problem_id=f'{t.problem_id}/low',
      scores={
        'prm': ScoreSet('probability', tuple(v / 2 for v in t.scores['prm'].values))
      },
    )
    for t in FIRST
  ]
  sets = {
    'process_bench.gsm8k': lower,
    'process_bench.math': lower[:2] + FIRST,
    'process_bench.omnimath': FIRST,
  }
  tuned = 'tuned:process_bench.gsm8k'
  result = run(sets, policies=('fixed:0.5', tuned))
  found = {p.split('/', 1)[1]: m['value'] for p, m in result.found.metrics.items()}
  assert f'omnimath[6 of 1000]/f1@{tuned}' in found
  assert f'gsm8k[6 of 400]/f1@{tuned}' not in found  # never at its own optimum
  assert found[f'math[8 of 1000]/f1@{tuned}'] is None
  reason = 'shares_problems_with_the_tuning_set'
  assert any(k.endswith(reason) for k in result.found.counters)
  with pytest.raises(UserError, match='no scored set'):
    run({'process_bench.math': FIRST}, policies=(tuned,))


def test_raw_logits_are_cut_at_zero():
  rows = [
    dataclasses.replace(
      t,
      scores={'prm': ScoreSet('logit', tuple(v - 0.5 for v in t.scores['prm'].values))},
    )
    for t in FIRST
  ]
  assert values({'process_bench.gsm8k': rows})['gsm8k[6 of 400]/f1@argmax'] == 0.5


def test_the_table_has_the_columns_of_lm_eval():
  lines = run({'process_bench.gsm8k': FIRST, 'prmbench': PRM}).table.splitlines()
  cells = [[c.strip() for c in line.strip('|').split('|')] for line in lines]
  assert cells[0] == ['Tasks', 'Version', 'Filter', 'Metric', 'Value', '', 'Interval']
  assert {len(line) for line in lines} == {len(lines[0])}
  assert cells[2][0] == 'process_bench[6 of 3400]'
  assert cells[3][:5] == ['- gsm8k[6 of 400]', '1', 'fixed:0.5', 'f1', '0.5000']


@pytest.mark.parametrize(
  ('rows', 'said'),
  [
    ([FIRST[0], FIRST[0]], 'occurs more than once'),
    (
      [dataclasses.replace(FIRST[0], steps=('x', 'y'))],
      '3 scores of .prm. for 2 steps',
    ),
    (
      [
        dataclasses.replace(
          FIRST[0], scores={'prm': ScoreSet('probability', (math.nan, 0.1, 0.2))}
        )
      ],
      'must be finite numbers',
    ),
    ([dataclasses.replace(FIRST[0], scores={})], 'no solution carries scores'),
    ([dataclasses.replace(FIRST[0], first_error={})], 'carries the truth'),
  ],
)
def test_what_does_not_belong_together_is_refused(rows, said):
  with pytest.raises(UserError, match=said):
    run({'process_bench.gsm8k': rows})


def test_names():
  assert counted('a', 3, 3) == counted('a', 3, 0) == 'a'
  with pytest.raises(UserError, match='names no benchmark'):
    run({'processbench': FIRST})
  with pytest.raises(UserError, match='there is no benchmark'):
    run({})
  with pytest.raises(UserError, match='none of PRMBench'):
    run({'prmbench': [prm('a', [1], [0.1], 'premise')]})


def test_prmscore_equals_a_plain_loop():
  rng = np.random.default_rng(3)
  rows = []
  for i in range(60):
    n = int(rng.integers(1, 7))
    errors = [e for e in range(1, n + 2) if rng.random() < 0.3]
    kind = ['circular', 'deception', 'confidence'][i % 3]
    rows.append(prm(f's{i}', errors, rng.random(n).round(1).tolist(), kind))
  for kinds, name in ((['deception'], 'deception'), (None, 'overall')):
    tp = fp = tn = fn = 0
    for t in rows:
      if kinds and t.meta['classification'] not in kinds:
        continue
      for i, score in enumerate(t.scores['prm'].values):
        wrong, accepted = i + 1 in t.meta['error_steps'], score > 0.5
        tp += accepted and not wrong
        fp += accepted and wrong
        tn += wrong and not accepted
        fn += not accepted and not wrong
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    positive = 2 * precision * recall / (precision + recall)
    precision, recall = tn / (tn + fn), tn / (tn + fp)
    negative = 2 * precision * recall / (precision + recall)
    found = values({'prmbench': rows})[f'{name}/prmscore@fixed:0.5']
    assert found == pytest.approx(0.5 * positive + 0.5 * negative)
