"""Label audit: hand-computed cases and populations whose truth is planted."""

import dataclasses
import math

import numpy as np
import pytest

from prm_jax import estimates
from prm_jax.errors import UserError
from prm_jax.evaluation import (
  label_audit,
  label_efficiency,
  label_readings,
  label_reference,
)
from prm_jax.evaluation.splits import UNKNOWN, read_steps
from prm_jax.records import LabelSet, Trajectory, add

TAU = 0.125


def solution(name, counts=None, n=256, *, problem='', track=None, last=None, **sets):
  """A solution with reference counts of all but its last step, whose V is `last`."""
  n_steps = len(counts) + 1 if counts is not None else len(track)
  t = Trajectory(
    id=name,
    problem_id=problem or name,
    question='q',
    steps=tuple(f's{i}' for i in range(n_steps)),
  )
  if counts is not None:
    values = (*(c / n for c in counts), float(last))
    held = LabelSet(
      'value',
      values,
      n_correct=(*counts, None),
      n_rollouts=(*(n for _ in counts), None),
    )
    t = add(t, 'labels', 'reference', held)
  if track is not None:
    t = add(t, 'labels', 'on_track', LabelSet('correctness', tuple(track)))
    first = track.index(0) if 0 in track else -1
    t = add(t, 'first_error', 'on_track', first)
  for label, held in sets.items():
    t = add(t, 'labels', label, held)
  return t


def labelled(t, label, values, *, kind='value', first='derive', cost=None, **how):
  """The solution with an algorithm's label set, and what it cost."""
  t = add(t, 'labels', label, LabelSet(kind, tuple(values), how))
  if first != 'derive':
    t = add(t, 'first_error', label, first)
  if cost is not None:
    spent = {'tokens': cost[0], 'rollouts': cost[1]}
    t = add(t, 'meta', 'label_cost', {label: spent})
  return t


def run(reference, algorithms, **options):
  options = {'truth': 'on_track', 'n_resamples': 50, **options}
  pairs = {name: (rows, name) for name, rows in algorithms.items()}
  return label_audit.audit(reference, pairs, label='reference', tau=TAU, **options)


def value(found, path):
  return found.metrics[path]['value']


# --- The reference.


def test_reference_by_hand():
  t = solution('a', [192, 32, 0], last=0, track=[1, 1, 0, 0])
  ref = label_reference.read_reference([t], 'reference', TAU)
  assert ref.values.tolist() == [0.75, 0.125, 0.0, 0.0]
  assert ref.standard_error[0] == pytest.approx(math.sqrt(0.75 * 0.25 / 256))
  assert ref.noise[0] == pytest.approx(0.75 * 0.25 / 255)
  assert ref.n.tolist() == [256, 256, 256, 0]
  # 32 of 256 is tau itself; the finished solution is exact.
  assert ref.ambiguous.tolist() == [False, True, False, False]
  assert ref.dead.tolist() == [False, False, True, True]
  assert ref.low[3] == ref.high[3] == 0


def test_wilson_holds_the_truth_about_95_percent_of_the_time():
  rng = np.random.default_rng(0)
  hits = rng.binomial(256, TAU, 20_000).astype(float)
  low, high = estimates.wilson(hits, np.full(20_000, 256.0))
  assert np.mean((low <= TAU) & (high >= TAU)) == pytest.approx(0.95, abs=0.012)


@pytest.mark.parametrize(
  ('counts', 'last', 'sure', 'best'),
  [
    ([200, 200], 1, -1, -1),
    ([200, 200], 0, 2, 2),
    ([200, 0], 0, 1, 1),
    ([0, 200], 1, 0, 0),
    ([32, 0], 0, UNKNOWN, 1),  # it may have been dead at 0 already
    ([30, 0], 0, UNKNOWN, 0),
    ([0, 32], 0, 0, 0),  # what follows a dead prefix cannot move the first
    ([200, 34], 1, UNKNOWN, -1),
  ],
)
def test_first_dead_step_and_what_ambiguity_leaves_of_it(counts, last, sure, best):
  ref = label_reference.read_reference(
    [solution('a', counts, last=last)], 'reference', TAU
  )
  assert ref.first_dead().tolist() == [sure]
  assert ref.first_dead(sure=False).tolist() == [best]


def test_a_prefix_without_counts_is_unknown_and_counted():
  held = LabelSet(
    'value', (0.5, None, 1.0), n_correct=(128, None, None), n_rollouts=(256, None, None)
  )
  t = solution('a', track=[1, 1, 1], reference=held)
  ref = label_reference.read_reference([t], 'reference', TAU)
  assert ref.known.tolist() == [True, False, True]
  assert ref.first_dead().tolist() == ref.first_dead(sure=False).tolist() == [UNKNOWN]
  assert ref.counters['prefixes_without_reference'] == 1
  # Only a finished solution's V is known without rollouts.
  stated = dataclasses.replace(held, values=(0.5, 1.0, 1.0))
  t = solution('a', track=[1, 1, 1], reference=stated)
  ref = label_reference.read_reference([t], 'reference', TAU)
  assert ref.known.tolist() == [True, False, True]


def test_entropic_transform_and_its_error():
  p, eta, n = 0.3, 2.0, 4000
  by_hand = math.log(1 - p + p * math.exp(eta)) / eta
  assert estimates.entropic(np.array(p), eta) == pytest.approx(by_hand)
  rng = np.random.default_rng(0)
  drawn = estimates.entropic(rng.binomial(n, p, 20_000) / n, eta)
  slope = label_reference.entropic_slope(np.array(p), eta)
  assert drawn.std() == pytest.approx(slope * math.sqrt(p * (1 - p) / n), rel=0.03)


@pytest.mark.parametrize('tau', [0.0, 1.0, 2.0])
def test_tau_out_of_range_is_refused(tau):
  with pytest.raises(UserError, match='tau='):
    label_reference.read_reference([solution('a', [1], last=0)], 'reference', tau)


def test_a_reference_of_another_kind_or_name_is_refused():
  t = solution('a', track=[1, 0], human=LabelSet('correctness', (1.0, 0.0)))
  with pytest.raises(UserError, match='kind correctness'):
    label_reference.read_reference([t], 'human', TAU)
  with pytest.raises(UserError, match='there: human, on_track'):
    label_reference.read_reference([t], 'reference', TAU)


# --- Reading an algorithm.


def test_reading_thresholds_nulls_and_costs():
  base = [solution(n, [200, 200], last=1, track=[1, 1, 1]) for n in 'abc']
  rows = [
    labelled(base[0], 'x', [0.5, 0.1, None], cost=(40, 16)),
    labelled(base[1], 'x', [0.5, None, 0.0]),
    base[2],
  ]
  got = label_readings.read('x', rows, read_steps('s', base), 'x', TAU)
  assert got.estimand == 'value' and got.soft
  assert got.has.tolist() == [True, True, False, True, False, True, *[False] * 3]
  assert np.flatnonzero(got.dead).tolist() == [1, 5]
  assert got.first_error.tolist() == [1, UNKNOWN, UNKNOWN]
  assert (
    got.tokens[0] == 40 and got.rollouts[0] == 16 and np.isnan(got.tokens[1:]).all()
  )
  assert got.counters == {
    'solutions_not_labelled': 1,
    'steps_without_label': 5,
    'first_error_undecided': 2,
    'solutions_without_cost': 2,
  }


def test_a_stated_first_error_goes_before_a_derived_one():
  base = solution('a', [200, 200], last=1)
  rows = [labelled(base, 'x', [0.0, 1.0, 1.0], first=None)]
  got = label_readings.read('x', rows, read_steps('s', [base]), 'x', TAU)
  assert got.first_error.tolist() == [UNKNOWN]


def test_no_first_error_follows_from_an_outcome():
  base = [solution(n, [200], last=0) for n in 'ab']
  rows = [
    labelled(base[0], 'x', [0, 0], kind='outcome'),
    labelled(base[1], 'x', [0, 0], kind='outcome', first=1),
  ]
  got = label_readings.read('x', rows, read_steps('s', base), 'x', TAU)
  assert got.first_error.tolist() == [UNKNOWN, 1]


def test_kinds_have_their_own_threshold():
  base = solution('a', [200], last=1)
  just_below = estimates.entropic(np.array(TAU), 3.0) - 1e-6
  for kind, how, at, dead in (
    ('value', {}, TAU, False),
    ('value', {}, TAU - 1e-9, True),
    ('value', {'tau': 0.5}, 0.4, True),
    ('entropic', {'eta': 3.0}, just_below, True),
    ('entropic', {'eta': 3.0}, just_below + 2e-6, False),
    ('correctness', {}, 0.4, True),
    ('correctness', {}, 0.5, False),
    ('denoised', {}, 0.1, False),
    ('denoised', {}, 0.0, True),
    ('value', {'hard': True}, 0.2, True),
  ):
    rows = [labelled(base, 'x', [float(at), 1.0], kind=kind, **how)]
    got = label_readings.read('x', rows, read_steps('s', [base]), 'x', TAU)
    assert bool(got.dead[0]) is dead, (kind, how, at)


def test_mixed_meanings_are_refused():
  base = [solution(n, [200], last=1) for n in 'ab']
  rows = [labelled(base[0], 'x', [1, 1]), labelled(base[1], 'x', [1, 1], hard=True)]
  with pytest.raises(UserError, match='means different things in a and b'):
    label_readings.read('x', rows, read_steps('s', base), 'x', TAU)


def test_only_common_solutions_are_compared_and_the_rest_is_counted():
  base = [solution(n, [200], last=1, track=[1, 1]) for n in 'abc']
  x = [labelled(t, 'x', [1, 1], cost=(1, 1)) for t in base[:2]]
  y = [labelled(t, 'y', [1, 1], cost=(1, 1)) for t in base[1:]]
  found = run(base, {'x': x, 'y': y})
  assert found.counters['audit/solutions'] == 1
  assert found.counters['audit/reference/not_in_all_files'] == 2
  assert found.counters['audit/x/not_in_all_files'] == 1
  with pytest.raises(UserError, match='no solution id is in the reference'):
    run(base[:1], {'y': y})
  other = Trajectory(id='a', problem_id='a', question='q', steps=('other', 'steps'))
  with pytest.raises(UserError, match='solution a has other steps'):
    run(base, {'x': [other]})
  with pytest.raises(UserError, match="'b' occurs more than once"):
    run(base, {'y': [*y, y[0]]})


# --- Metrics by hand.


def test_metrics_by_hand():
  """Two solutions; the second's middle prefix is ambiguous."""
  a = solution('a', [192, 0], last=0, track=[1, 0, 0])
  b = solution('b', [64, 32], last=1, track=[1, 0, 0])
  rows = [
    labelled(a, 'x', [0.5, 0.0, None], cost=(30, 8)),
    labelled(b, 'x', [0.25, 0.5, 1.0], cost=(50, 16)),
  ]
  found = run([a, b], {'x': rows})
  gaps = np.array([-0.25, 0, 0, 0.375, 0])
  assert value(found, 'audit/x/mean_error[reference]') == pytest.approx(gaps.mean())
  raw = value(found, 'audit/x/mean_squared_error[reference]')
  assert raw == pytest.approx(np.mean(gaps**2))
  noise = np.array([0.75 * 0.25, 0, 0.25 * 0.75, 0.125 * 0.875, 0])
  net = value(found, 'audit/x/mean_squared_error_net[reference]')
  assert net == pytest.approx(raw - np.mean(noise / 255))
  most = value(found, 'audit/x/mean_absolute_error[reference]')
  least = value(found, 'audit/x/mean_absolute_error_net[reference]')
  assert most == pytest.approx(np.abs(gaps).mean())
  expected = np.mean(np.sqrt(noise / 256)) * math.sqrt(2 / math.pi)
  assert least == pytest.approx(most - expected)
  # Hard: four sure prefixes, all on their side. Off the track, x calls b's last two
  # alive and a's second dead; that is 3 wrong steps with labels.
  assert value(found, 'audit/x/hard_accuracy[reference]') == 1
  assert found.metrics['audit/x/hard_accuracy[reference]']['n'] == 4
  assert value(found, 'audit/x/hard_accuracy[on_track]') == pytest.approx(3 / 5)
  assert value(found, 'audit/x/false_alive[on_track]') == pytest.approx(2 / 3)
  assert value(found, 'audit/x/false_dead[on_track]') == 0
  assert found.counters['audit/x/prefixes_ambiguous'] == 1
  # First errors: a is sure (1); b apart, its point estimate has no dead prefix.
  assert value(found, 'audit/x/first_error_accuracy[reference]') == 1
  assert found.metrics['audit/x/first_error_accuracy[reference]']['n'] == 1
  assert value(found, 'audit/x/first_error_accuracy[reference_ambiguous]') == 1
  assert found.metrics['audit/x/first_error_accuracy[reference_ambiguous]']['n'] == 1
  assert value(found, 'audit/x/first_error_accuracy[on_track]') == 0.5
  assert value(found, 'audit/x/undecided') == 0
  assert value(found, 'audit/x/tokens') == 40
  assert value(found, 'audit/x/rollouts') == 12
  # Both gaps: of 4 off-track prefixes one is ambiguous, b's last is alive.
  assert value(found, 'audit/reference/off_track_alive[on_track]') == pytest.approx(
    1 / 3
  )
  assert value(found, 'audit/reference/first_wrong_alive[on_track]') == 0
  assert value(found, 'audit/reference/on_track_dead[on_track]') == 0
  assert found.counters['audit/reference/off_track_alive/ambiguous'] == 1
  assert value(found, 'audit/reference/ambiguous_prefixes') == pytest.approx(1 / 6)
  assert value(found, 'audit/reference/ambiguous_first_errors') == 0.5


def test_calibration_against_both_truths_by_hand():
  a = solution('a', [192, 0], last=0, track=[1, 0, 0])
  found = run([a], {'x': [labelled(a, 'x', [0.5, 0.1, None])]})
  assert value(found, 'audit/x/brier[reference]') == pytest.approx((0.0625 + 0.01) / 2)
  assert value(found, 'audit/x/ece[reference]') == pytest.approx((0.25 + 0.1) / 2)
  assert value(found, 'audit/x/brier[on_track]') == pytest.approx((0.25 + 0.01) / 2)
  titles = [c.title for c in found.curves['reliability']]
  assert titles == ['x, labels against reference', 'x, labels against on_track']


def test_hard_labels_are_held_against_the_side_of_tau():
  a = solution('a', [192, 32, 0], last=1, track=[1, 1, 0, 0])
  found = run([a], {'x': [labelled(a, 'x', [1, 0, 1, 1], hard=True)]})
  path = 'audit/x/mean_error[alive_reference]'
  assert value(found, path) == pytest.approx(1 / 3)  # the ambiguous prefix is apart
  assert found.metrics[path]['n'] == 3
  assert value(found, 'audit/x/false_alive[reference]') == 1
  assert 'audit/x/brier[reference]' not in found.metrics
  assert found.counters['audit/x/hard_labels_without_calibration'] == 1


def test_undecided_is_a_miss_and_counted():
  a, b = (solution(n, [200, 0], last=0, track=[1, 0, 0]) for n in 'ab')
  rows = [
    labelled(a, 'x', [0.9, 0.0, None]),
    labelled(b, 'x', [0.9, None, None], first=None),
  ]
  found = run([a, b], {'x': rows})
  assert value(found, 'audit/x/first_error_accuracy[reference]') == 0.5
  assert value(found, 'audit/x/undecided') == 0.5
  assert value(found, 'audit/x/false_claims[reference]') == 0
  assert found.metrics['audit/x/false_claims[on_track]']['n'] == 1
  assert found.counters['audit/x/first_error_undecided'] == 1
  assert found.samples[1]['algorithms']['x'] == {
    'values': [0.9, None, None],
    'first_error': None,
    'tokens': None,
    'rollouts': None,
  }


def test_missing_costs_make_cost_null_and_are_counted():
  a, b = (solution(n, [200], last=1, track=[1, 1]) for n in 'ab')
  x = [labelled(a, 'x', [1, 1], cost=(3, 3)), labelled(b, 'x', [1, 1])]
  y = [labelled(t, 'y', [1, 1], cost=(3, 3)) for t in (a, b)]
  found = run([a, b], {'x': x, 'y': y})
  assert value(found, 'audit/x/tokens') is None and value(found, 'audit/y/tokens') == 3
  assert value(found, 'audit/cost_ratio/x_over_y[tokens]') is None
  assert found.counters['audit/x/solutions_without_cost'] == 1
  assert found.counters['audit/undefined/cost_not_recorded'] == 2
  assert value(found, 'audit/first_error_accuracy/x-y[reference]') == 0


def test_without_truth_only_the_reference_judges():
  a = solution('a', [200], last=1)
  found = run([a], {'x': [labelled(a, 'x', [1, 1])]}, truth='')
  assert not any('on_track' in path for path in found.metrics)
  b = labelled(a, 'judge', [1, 1], kind='correctness')
  found = run([a], {'judge': [b]}, truth='')
  assert found.counters['audit/judge/without_estimand'] == 1


@pytest.mark.parametrize('name', ['reference', 'a-b', 'a[b]', 'a/b', 'a.b.c', ''])
def test_ambiguous_names_are_refused(name):
  a = solution('a', [200], last=1)
  with pytest.raises(UserError, match='algorithm name'):
    run([a], {name: [a]}, truth='')


def test_compare_must_name_a_family():
  a = labelled(solution('a', [200], last=1), 'x', [1, 1])
  with pytest.raises(UserError, match="no algorithm family is called 'z'; there are x"):
    run([a], {'x': [a]}, truth='', compare=['z'])
  with pytest.raises(UserError, match='nothing to audit'):
    run([a], {})


# --- Populations whose truth is planted.


def population(n, seed, tries=256):
  """(solutions with a reference, [n, 4] true V of their unfinished prefixes)."""
  rng = np.random.default_rng(seed)
  rows, values = [], []
  for i in range(n):
    first = int(rng.integers(-1, 4))
    v = np.where((first >= 0) & (np.arange(4) >= first), 0.0, rng.uniform(0.3, 0.9, 4))
    track = [int(first < 0 or t < first) for t in range(5)]
    counts = rng.binomial(tries, v).tolist()
    rows.append(
      solution(
        f's{i}', counts, tries, problem=f'p{i // 4}', track=track, last=int(first < 0)
      )
    )
    values.append(v)
  return rows, np.array(values)


def test_monte_carlo_labels_of_a_planted_population():
  """k rollouts estimate V without bias and with variance mean V (1 - V) / k."""
  k, rng = 8, np.random.default_rng(1)
  rows, v = population(800, 0)
  hits = rng.binomial(k, v)
  soft = [
    labelled(t, 'soft', [*(h / k), t.labels['reference'].values[-1]])
    for t, h in zip(rows, hits)
  ]
  found = run(rows, {'soft': soft}, n_resamples=200)
  bias = found.metrics['audit/soft/mean_error[reference]']
  assert bias['low'] < 0 < bias['high']
  net = found.metrics['audit/soft/mean_squared_error_net[reference]']
  variance = np.mean(v * (1 - v)) / k * 4 / 5  # the finished solution is exact
  assert net['low'] < variance < net['high']
  assert net['value'] == pytest.approx(variance, rel=0.1)
  most = value(found, 'audit/soft/mean_absolute_error[reference]')
  least = value(found, 'audit/soft/mean_absolute_error_net[reference]')
  true = np.abs(hits / k - v).mean() * 4 / 5
  assert least < true < most
  # In this population V < tau exactly off the track.
  assert value(found, 'audit/reference/off_track_alive[on_track]') == 0
  assert value(found, 'audit/reference/on_track_dead[on_track]') == 0
  assert value(found, 'audit/soft/false_alive[reference]') == 0
  chance = np.mean((1 - v[v > 0]) ** k)  # of no success from a living prefix
  near = found.metrics['audit/soft/false_dead[on_track]']
  assert near['low'] - 0.003 < chance < near['high'] + 0.003


def test_entropic_labels_are_held_against_the_transform():
  rows, v = population(400, 2, tries=4096)
  eta = 4.0
  exact = estimates.entropic(v, eta)
  labels = [
    labelled(t, 'er', [*e, t.labels['reference'].values[-1]], kind='entropic', eta=eta)
    for t, e in zip(rows, exact)
  ]
  found = run(rows, {'er': labels})
  path = 'audit/er/{}[entropic_reference]'
  assert value(found, path.format('mean_error')) == pytest.approx(0, abs=0.002)
  net = value(found, path.format('mean_squared_error_net'))
  assert abs(net) < value(found, path.format('mean_squared_error')) / 4
  assert value(found, 'audit/er/hard_accuracy[reference]') == 1


# --- Efficiency.


def test_reading_a_family_off_its_curve():
  cost = np.array([[4.0, 4.0], [1.0, 1.0], [16.0, 16.0]])
  accuracy = np.array([[0.6, 0.6], [0.2, 0.7], [0.5, 0.9]])
  at = label_efficiency.accuracy_at
  # In order of cost: .2 .6 .6 (a dearer, less accurate setting does not lower it).
  assert at(cost, accuracy, np.array([2.0, 2.0])) == pytest.approx([0.4, 0.7])
  assert at(cost, accuracy, np.array([8.0, 8.0])) == pytest.approx([0.6, 0.8])
  assert np.isnan(at(cost, accuracy, np.array([0.9, 16.1]))).all()
  least = label_efficiency.cost_at
  assert least(cost, accuracy, np.array([0.4, 0.8])) == pytest.approx([2.0, 8.0])
  assert least(cost, accuracy, np.array([0.6, 0.7])) == pytest.approx([4.0, 1.0])
  assert np.isnan(least(cost, accuracy, np.array([0.7, 0.95]))).all()
  assert np.isnan(least(cost, accuracy, np.array([0.1, 0.6]))).all()


def test_a_cheaper_algorithm_of_equal_accuracy_is_found_so():
  """`fast` errs as often as `slow.4` would, at half its tokens."""
  rng = np.random.default_rng(0)
  rows, _ = population(600, 5)
  luck = rng.random(600)

  def algorithm(name, accuracy, cost):
    out = []
    for t, u in zip(rows, luck):
      gold = t.first_error['on_track']
      said = gold if u < accuracy else (gold + 2) % 5 - 1
      out.append(labelled(t, name, [None] * 5, first=said, cost=(cost, cost / 10)))
    return out

  algorithms = {
    'fast': algorithm('fast', 0.8, 20),
    'slow.2': algorithm('slow.2', 0.7, 20),
    'slow.8': algorithm('slow.8', 0.9, 80),
    'other': algorithm('other', 0.7, 30),
  }
  found = run(rows, algorithms, n_resamples=300)
  difference = found.metrics['audit/first_error_accuracy/fast-slow.2[on_track]']
  assert difference['low'] > 0
  assert value(found, 'audit/cost_ratio/fast_over_slow.8[tokens]') == 0.25
  ratio = found.metrics['audit/tokens_at_equal_accuracy/fast_over_slow[on_track]']
  assert ratio['value'] == pytest.approx(0.5, rel=0.1)
  assert ratio['low'] < 0.5 < ratio['high'] < 0.8
  more = found.metrics['audit/at_equal_tokens/fast-slow[on_track]']
  assert more['value'] == pytest.approx(0.1, abs=0.03) and more['low'] > 0
  assert not any('slow-fast' in p or 'slow.2-' in p for p in found.metrics)
  assert 'audit/at_equal_tokens/fast-other[on_track]' not in found.metrics
  titles = [t.title for t in found.tables]
  assert 'Compared, on_track' in titles
  assert 'At equal cost or accuracy, reference' in titles
  chart = found.curves['best_of_n'][0]
  assert set(chart.series) == {'fast', 'slow', 'other'}
  assert len(chart.series['slow']) == 2 and chart.baselines == ['slow', 'other']


def test_two_chosen_families_are_compared_once():
  rows = [solution(n, [200], last=1, track=[1, 1]) for n in 'ab']
  held = {
    n: [labelled(t, n, [1, 1], cost=(2, 1)) for t in rows] for n in ('x', 'y', 'z')
  }
  found = run(rows, held, compare=['y', 'x'])
  pairs = {
    p.split('/')[2].partition('[')[0]
    for p in found.metrics
    if p.startswith('audit/first_error_accuracy/')
  }
  assert pairs == {'x-z', 'y-x', 'y-z'}
