"""Bootstrap by problem, paired differences, ranking metrics, several seeds."""

import math

import numpy as np
import pytest

from prm_jax.errors import UserError
from prm_jax.evaluation import intervals, seeds
from prm_jax.evaluation.ranking import rank_metrics
from prm_jax.evaluation.report import words


def by_hand(values, wrong):
  """AUROC over all pairs, and average precision step by step."""
  good, bad = values[~wrong], values[wrong]
  pairs = good[:, None] - bad[None, :]
  auroc = (np.sum(pairs > 0) + 0.5 * np.sum(pairs == 0)) / pairs.size
  precision = [np.sum(wrong[values <= v]) / np.sum(values <= v) for v in values[wrong]]
  return auroc, np.mean(precision)


@pytest.mark.parametrize('levels', [1, 3, 1000])
def test_rank_metrics_equal_the_definition_on_data_and_on_repeated_rows(levels):
  rng = np.random.default_rng(levels)
  m, a = 60, 9
  values = rng.integers(0, levels, m).astype(float)
  wrong, problem = rng.random(m) < 0.4, rng.integers(0, a, m)
  sample = intervals.resamples([f'p{i}' for i in range(a)], n=20)
  auroc, average = rank_metrics(values, wrong, problem, sample)
  assert (auroc.value, average.value) == pytest.approx(by_hand(values, wrong))
  for r in range(20):
    times = sample.weights[1 + r, problem].astype(int)
    rows = np.repeat(np.arange(m), times)
    want = by_hand(values[rows], wrong[rows])
    assert (auroc.replicates[r], average.replicates[r]) == pytest.approx(want)
  if levels == 1:
    assert auroc.value == 0.5
    assert average.value == pytest.approx(wrong.mean())


def test_rank_metrics_without_a_class_are_undefined_with_a_reason():
  sample = intervals.resamples(['a', 'b'])
  values, problem = np.array([0.1, 0.2]), np.array([0, 1])
  for wrong, reason in ((False, 'no_wrong_steps'), (True, 'no_correct_steps')):
    for found in rank_metrics(values, np.full(2, wrong), problem, sample):
      assert found.value is None and found.low is None and found.reason == reason
  empty = rank_metrics(np.zeros(0), np.zeros(0, bool), np.zeros(0, int), sample)
  assert [e.value for e in empty] == [None, None]


def test_resamples_draw_whole_problems_from_a_fixed_seed():
  ids = [f'p{i}' for i in range(7)]
  one, same = intervals.resamples(ids), intervals.resamples(ids)
  assert np.array_equal(one.weights, same.weights) and one.key == same.key
  assert np.array_equal(one.weights[0], np.ones(7))
  assert np.array_equal(one.weights.sum(axis=1), np.full(1001, 7.0))
  assert one.weights[1:].mean() == pytest.approx(1.0)
  other = intervals.resamples([*ids[:-1], 'q'])
  assert one.key != other.key and not np.array_equal(one.weights, other.weights)
  assert intervals.resamples(ids, seed=1).key != one.key


def test_interval_of_a_mean_agrees_with_the_normal_one_and_widens_by_clusters():
  rng = np.random.default_rng(1)
  x = rng.normal(size=400)
  rows = intervals.resamples([str(i) for i in range(400)], n=4000)
  found = intervals.ratio(x, np.ones(400), rows)
  half = 1.96 * x.std() / 20
  assert found.high - found.low == pytest.approx(2 * half, rel=0.08)
  # The same 400 numbers, each copied four times into one problem: no news.
  clustered = intervals.ratio(4 * x, np.full(400, 4.0), rows)
  assert clustered.metric() == pytest.approx({**found.metric(), 'n': 1600})


def test_undefined_is_none_with_a_reason_and_one_problem_has_no_interval():
  two, one = intervals.resamples(['a', 'b']), intervals.resamples(['a'])
  nothing = intervals.ratio(np.zeros(2), np.zeros(2), two, reason='no_rows')
  assert nothing.metric() == {'value': None, 'low': None, 'high': None, 'n': 0}
  assert nothing.reason == 'no_rows'
  alone = intervals.ratio(np.ones(1), np.full(1, 2.0), one)
  assert (alone.value, alone.low, alone.reason) == (0.5, None, 'no_interval')
  # Undefined in a quarter of the resamples: the value stays, the interval does not.
  rare = intervals.ratio(np.array([1.0, 0.0]), np.array([1.0, 0.0]), two)
  assert (rare.value, rare.low, rare.reason) == (1.0, None, 'no_interval')


def test_difference_is_paired():
  rng = np.random.default_rng(2)
  hard = rng.normal(size=300)
  sample = intervals.resamples([str(i) for i in range(300)])
  a = intervals.ratio(hard + 0.1, np.ones(300), sample)
  b = intervals.ratio(hard, np.ones(300), sample)
  assert a.low < b.high  # side by side they overlap
  found = intervals.difference(a, b)
  assert found.value == pytest.approx(0.1)
  assert (found.low, found.high) == pytest.approx((0.1, 0.1))
  elsewhere = intervals.ratio(hard, np.ones(300), intervals.resamples(['x'] * 300))
  with pytest.raises(UserError, match='same problems'):
    intervals.difference(a, elsewhere)
  gone = intervals.difference(a, intervals.undefined('no_rows'))
  assert gone.value is None and gone.reason == 'difference_of_undefined'


def test_plain_mean_is_unweighted_and_undefined_with_any_part():
  big = intervals.ratio(
    np.full(90, 1.0), np.ones(90), intervals.resamples(list('a' * 90))
  )
  small = intervals.ratio(
    np.zeros(10), np.ones(10), intervals.resamples(list('b' * 10))
  )
  assert intervals.plain_mean([big, small]).value == 0.5
  assert intervals.plain_mean([big, small]).n == 100
  assert intervals.plain_mean([big, intervals.undefined('x')]).value is None


def test_over_seeds_names_both_sources_of_variance():
  rng = np.random.default_rng(3)
  sample = intervals.resamples([str(i) for i in range(200)])
  problem = rng.normal(size=200)
  runs = [
    intervals.ratio(problem + shift, np.ones(200), sample)
    for shift in (0.0, 0.1, 0.2, 0.3, 0.4)
  ]
  found = seeds.over_seeds(runs, n_problems=200)
  assert found.sd_seeds == pytest.approx(np.std([0, 0.1, 0.2, 0.3, 0.4], ddof=1))
  assert found.se_seeds == pytest.approx(found.sd_seeds / np.sqrt(5))
  assert found.se_problems == pytest.approx(problem.std() / np.sqrt(200), rel=0.1)
  wide = found.high - found.low
  total = np.hypot(found.se_seeds, found.se_problems)
  assert 2 * 1.96 * total < wide < 2 * 2.78 * total  # t of 4 degrees and more
  # Shared problems cancel in a paired difference, the seeds do not.
  base = [intervals.ratio(problem, np.ones(200), sample)] * 5
  paired = seeds.paired_over_seeds(runs, base, n_problems=200)
  assert paired.value == pytest.approx(0.2)
  assert paired.se_problems == pytest.approx(0, abs=1e-12)
  assert paired.low == pytest.approx(0.2 - 2.77645 * found.se_seeds, abs=1e-5)
  # Welch-Satterthwaite: the problems' part has one degree of freedom less than they.
  held = seeds.SeedInterval(0.0, None, None, 3, 1.0, 0.6, 0.8)
  assert seeds.standard_error(held, 5)[0] == pytest.approx(1)
  assert seeds.standard_error(held, 5)[1] == pytest.approx(
    1 / (0.6**4 / 2 + 0.8**4 / 4)
  )


def test_intervals_over_few_seeds_end_where_the_metric_does():
  def make(value):
    return intervals.Estimate(value, n=9, replicates=np.full(3, value), key='k')

  runs, base = [make(0.99), make(0.9)], [make(0.1), make(0.02)]
  free = seeds.over_seeds(runs, n_problems=9)
  cut = seeds.over_seeds(runs, n_problems=9, between=words.between('x/steps/auroc'))
  assert free.high > 1 and free.low > 0
  assert (cut.low, cut.high, cut.value) == (free.low, 1.0, free.value)
  assert (cut.sd_seeds, cut.se_seeds) == (free.sd_seeds, free.se_seeds)
  wide = [make(0.1), make(-0.9)]
  paired = seeds.paired_over_seeds(wide, base, n_problems=9, between=(0.0, 1.0))
  assert (paired.low, paired.high) == (-1.0, 1.0)
  assert words.between('x/process_bench/f1@tuned:validation[prm]') == (0.0, 1.0)
  assert words.between('b/set/mcc@argmax') == (-1.0, 1.0)
  assert words.between('x/steps/auroc-baseline_position_length') == (-1.0, 1.0)
  for unknown in ('search/beam/gain', 'x/trajectory/smoothness', 'x/value/a-b', 'x'):
    assert words.between(unknown)[1] == math.inf


def test_over_seeds_table_and_its_refusals():
  sample = intervals.resamples(['a', 'b', 'c'])
  make = lambda x: intervals.ratio(np.full(3, x), np.ones(3), sample)
  runs = {'bce': [make(0.5), make(0.6)], 'pqm': [make(0.7), make(0.7)]}
  rows = seeds.table(runs, reference='bce', n_problems=3)
  assert [r['method'] for r in rows] == ['bce', 'pqm']
  assert rows[0]['minus_bce'] is None
  assert rows[1]['minus_bce']['value'] == pytest.approx(0.15)
  single = seeds.over_seeds([make(0.5)], n_problems=3)
  assert single.low is None and single.sd_seeds is None
  with pytest.raises(UserError, match='not among'):
    seeds.table(runs, reference='td', n_problems=3)
  with pytest.raises(UserError, match='equally many'):
    seeds.paired_over_seeds(runs['bce'], [make(1)], n_problems=3)
  with pytest.raises(UserError, match='defined value'):
    seeds.over_seeds([intervals.undefined('x')], n_problems=3)
