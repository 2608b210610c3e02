"""Label algorithms with a completer whose success rates are known."""

import dataclasses
import math

import numpy as np
import planted
import pytest
from planted import Planted, solution, steep

from prm_jax.errors import UserError
from prm_jax.labeling import adaptive, driver
from prm_jax.labeling.confidence import ALIVE, DEAD, UNDECIDED
from prm_jax.labeling.protocol import Continuation
from prm_jax.labeling.registry import ALGORITHMS
from prm_jax.labeling.scan import denoised
from prm_jax.labeling.solutions import Options
from prm_jax.records import LabelSet, Verdict, add, from_dict, to_dict

SEARCHES = ('sequential', 'binary_search', 'adaptive', 'mc_hard')
WITH_ENGINE = tuple(name for name, e in ALGORITHMS.items() if e.needs_engine)
OURS = (
  'mc_hard',
  'mc_soft',
  'er_prm',
  'sequential',
  'binary_search',
  'adaptive',
  'scan',
)


def run(name, groups, completer, **options):
  entry = ALGORITHMS[name]
  return driver.run(groups, entry.make(entry.options(**options)), completer)


def one(name, n_steps, first_error, alive=1.0, dead=0.0, **options):
  """Labels of one wrong (or, for -1, right) solution with a planted first error."""
  t = solution('s', n_steps, first_error < 0)
  completer = Planted({'s': steep(n_steps, first_error, alive, dead)})
  result = run(name, [[t]], completer, **options)
  return result.groups[0].labelled[0], completer, result


@pytest.mark.parametrize('name', SEARCHES)
@pytest.mark.parametrize('first_error', range(7))
def test_planted_first_error_is_found(name, first_error):
  labelled, _, _ = one(name, 7, first_error)
  assert labelled.first_error == {name: first_error}
  values = labelled.labels[name].values
  assert values[:first_error] == (1.0,) * first_error
  assert values[first_error] == 0.0


@pytest.mark.parametrize('name', SEARCHES)
def test_right_solution_has_no_error(name):
  labelled, completer, _ = one(name, 5, -1)
  assert labelled.first_error == {name: -1}
  assert labelled.labels[name].values == (1.0,) * 5
  if name != 'mc_hard':
    assert not completer.asked


@pytest.mark.parametrize('name', ['sequential', 'adaptive'])
def test_right_solutions_are_searched_if_told(name):
  options = {'alpha': 1e-4} if name == 'adaptive' else {}
  labelled, completer, _ = one(name, 5, -1, check_right=True, **options)
  assert labelled.first_error == {name: -1}
  assert completer.asked
  t = solution('s', 4, True)
  lucky = Planted({'s': np.array([0.9, 0.9, 0.0, 0.0, 1.0])})
  result = run(name, [[t]], lucky, check_right=True, **options)
  assert result.groups[0].labelled[0].first_error == {name: 1}


def test_a_confidence_rule_looks_at_every_prefix_of_a_right_solution():
  labelled, completer, _ = one('adaptive', 4, -1, check_right=True, rule='confidence')
  assert labelled.first_error == {'adaptive': -1}
  assert {ask.n_steps for ask in completer.asked} == {1, 2, 3}


@pytest.mark.parametrize('name', OURS)
@pytest.mark.parametrize('right', [True, False])
def test_single_step_needs_no_rollout(name, right):
  first = -1 if right else 0
  options = {'min_confidence': 0.0} if name == 'scan' else {}
  labelled, completer, _ = one(name, 1, first, **options)
  assert not completer.asked
  if name == 'scan' and not right:
    assert labelled.skipped == 'low_confidence'
  else:
    assert labelled.labels[name].values == (float(right),)


def test_hard_labels_stop_at_the_first_success():
  labelled, completer, _ = one('mc_hard', 4, 2, k=8)
  held = labelled.labels['mc_hard']
  assert held.kind == 'value'
  assert held.n_rollouts == (1, 1, 8, None)
  assert held.n_correct == (1, 1, 0, None)
  assert held.stop_reason == ('success', 'success', 'k_spent', 'outcome')
  assert held.how['hard'] is True
  assert held.how['completer'] == 'planted'
  assert completer.counters['rollouts'] == 10


def test_waves_are_paid_for_whole():
  labelled, _, _ = one('mc_hard', 4, 2, k=8, wave=3)
  assert labelled.labels['mc_hard'].n_rollouts == (3, 3, 8, None)


def test_samples_go_on_where_the_last_wave_ended():
  _, completer, _ = one('mc_hard', 2, 0, k=5, wave=2)
  assert [(a.first_sample, a.k) for a in completer.asked] == [(0, 2), (2, 2), (4, 1)]


@pytest.mark.parametrize('after, rest', [('unlabelled', None), ('zero', 0.0)])
def test_stop_after_error(after, rest):
  labelled, completer, _ = one(
    'mc_hard', 6, 2, stop_after_error=True, after_error=after, k=4
  )
  held = labelled.labels['mc_hard']
  assert held.values == (1.0, 1.0, 0.0, rest, rest, 0.0)
  assert held.stop_reason[3:] == ('after_error', 'after_error', 'outcome')
  assert held.n_rollouts == (1, 1, 4, None, None, None)
  assert max(a.n_steps for a in completer.asked) == 3


def test_soft_labels_are_posterior_means_or_shares():
  labelled, _, _ = one('mc_soft', 3, 1, k=8)
  held = labelled.labels['mc_soft']
  assert held.values == (8.5 / 9, 0.5 / 9, 0.0)
  assert held.how['prior'] == [0.5, 0.5]
  assert held.stop_reason == ('fixed_k', 'fixed_k', 'outcome')
  low, high = labelled.meta['wilson']['mc_soft'][1]
  assert (low, round(high, 4)) == (0.0, 0.3244)
  labelled, _, _ = one('mc_soft', 3, 1, k=8, prior=(0, 0))
  assert labelled.labels['mc_soft'].values == (1.0, 0.0, 0.0)


def test_no_interval_where_k_is_not_fixed():
  labelled, _, _ = one('mc_soft', 3, 1, k=8, early_stop=True)
  assert 'wilson' not in labelled.meta
  assert labelled.labels['mc_soft'].values[0] == 1.5 / 2
  with pytest.raises(UserError, match='prior'):
    ALGORITHMS['mc_soft'].options(early_stop=True, prior=(0, 0))


def test_soft_labels_estimate_v():
  t = solution('s', 2, False)
  completer = Planted({'s': np.array([0.5, 0.37, 0.0])})
  result = run('mc_soft', [[t]], completer, k=4000, prior=(0, 0))
  value = result.groups[0].labelled[0].labels['mc_soft'].values[0]
  assert abs(value - 0.37) < 4 * math.sqrt(0.37 * 0.63 / 4000)


def test_entropic_labels():
  t = solution('s', 2, True)
  completer = Planted({'s': np.array([0.5, 0.5, 1.0])})
  result = run('er_prm', [[t]], completer)
  held = result.groups[0].labelled[0].labels['er_prm']
  p = held.n_correct[0] / 16
  assert held.kind == 'entropic'
  assert held.values[0] == pytest.approx(math.log(1 - p + p * math.e))
  assert held.values[1] == 1.0
  assert held.how['eta'] == 1.0
  result = run('er_prm', [[t]], completer, eta=800.0)
  assert result.groups[0].labelled[0].labels['er_prm'].values[0] > 0.99


@pytest.mark.parametrize('n_steps', [1, 2, 3, 5, 8, 13])
def test_binary_search_halves(n_steps):
  for first in range(n_steps):
    labelled, completer, _ = one('binary_search', n_steps, first, k=8)
    assert labelled.first_error['binary_search'] == first
    assert len({a.n_steps for a in completer.asked}) <= math.ceil(math.log2(n_steps))
  reasons = labelled.labels['binary_search'].stop_reason
  assert set(reasons) <= {'success', 'k_spent', 'implied', 'outcome'}


def test_repairs_mislead_binary_search_but_not_sequential():
  t = solution('s', 8, False)
  v = np.array([0.9, 0.9, 0.0, 0.0, 0.9, 0.9, 0.9, 0.9, 0.0])
  found = {
    name: run(name, [[t]], Planted({'s': v}), k=16).groups[0].labelled[0]
    for name in ('sequential', 'binary_search')
  }
  assert found['sequential'].first_error == {'sequential': 1}
  assert found['binary_search'].first_error == {'binary_search': 7}


def test_adaptive_undecided_keeps_its_posterior():
  v = np.array([0.9, 0.9, 0.125, 0.125, 0.0])
  t = solution('s', 4, False)
  options = {'alpha': 0.001, 'cap': 20}
  result = run('adaptive', [[t]], Planted({'s': v}), **options)
  labelled = result.groups[0].labelled[0]
  assert labelled.first_error == {'adaptive': None}
  held = labelled.labels['adaptive']
  assert set(held.stop_reason) == {'undecided'}
  assert held.values[-1] is None
  assert sum(labelled.meta['posterior']['adaptive']) == pytest.approx(1, abs=1e-4)
  assert result.counters['rollouts'] == 20


def test_adaptive_labels_what_is_surely_alive_of_an_undecided_solution():
  t = solution('s', 4, False)
  v = np.array([0.9, 0.9, 0.125, 0.125, 0.0])
  result = run('adaptive', [[t]], Planted({'s': v}), alpha=0.05, cap=12)
  labelled = result.groups[0].labelled[0]
  died = np.cumsum(labelled.meta['posterior']['adaptive'])[:4]
  sure = int((died <= 0.05).sum())
  assert labelled.first_error == {'adaptive': None}
  assert 0 < sure < (died <= 0.95).sum()
  want = (1.0,) * sure + (None,) * (4 - sure)
  assert labelled.labels['adaptive'].values == want


def test_a_claim_of_the_confidence_rule_stands():
  options = adaptive.AdaptiveOptions(rule='confidence')
  search = adaptive._Search(solution('s', 4, False), False, options)
  search.add(0, [Continuation('r', ('other',), True, 1)] * 20)
  assert search.claims == [ALIVE, UNDECIDED, UNDECIDED, DEAD]
  # Looked at anew it would be dead by now, and the bound counts first claims.
  search.add(0, [Continuation('w', ('other',), False, 1)] * 500)
  tally = search.tallies[0]
  assert search.rule.decide(np.array(tally.correct), np.array(tally.n)) == DEAD
  assert search.claims[0] == ALIVE


def test_adaptive_reuses_what_a_rollout_reproduces():
  t = solution('s', 8, False)
  values = {'s': steep(8, 5, alive=0.9)}
  spent = {}
  for reuse in (True, False):
    spent[reuse] = 0
    for seed in range(20):
      completer = Planted(values, follow=0.8, seed=seed)
      result = run('adaptive', [[t]], completer, reuse=reuse, alpha=0.02)
      spent[reuse] += result.counters['rollouts']
      held = result.groups[0].labelled[0].labels['adaptive']
      asked = sum(a.k for a in completer.asked)
      assert (sum(held.n_rollouts) > asked) == reuse or not reuse
  assert spent[True] < 0.9 * spent[False]


def test_adaptive_beats_the_searches_where_its_prior_fits():
  drawn = planted.draw('steep', 150)
  fits = {'alive': (1.0, 1.0), 'dead': (0.25, 1.0), 'repair': 0.02, 'alpha': 0.2}
  accuracy, _, tokens, rollouts = planted.measure('adaptive', fits, drawn)
  for name in ('sequential', 'binary_search'):
    for k in (4, 8):
      theirs = planted.measure(name, {'k': k}, drawn)
      assert accuracy >= theirs[0]
    assert tokens < theirs[2]
    assert rollouts < theirs[3]


def test_confidence_rule_is_seldom_wrong():
  drawn = planted.draw('steep', 100)
  options = {'rule': 'confidence', 'alpha': 0.1, 'cap': 400, 'prefix_cap': 200}
  accuracy, undecided, _, _ = planted.measure('adaptive', options, drawn)
  assert accuracy + undecided > 0.97


def group_of(n_right, n_wrong, first_error=3):
  group = [solution(f'r{i}', 5, True) for i in range(n_right)]
  group += [solution(f'w{i}', 5, False) for i in range(n_wrong)]
  values = {t.id: steep(5, -1 if t.id[0] == 'r' else first_error) for t in group}
  return group, values


def test_scan_denoises_and_truncates():
  group, values = group_of(3, 1)
  values['w0'] = np.array([0.75, 1.0, 1.0, 0.5, 0.0, 0.0])
  result = run('scan', [group], Planted(values), k=16)
  *right, wrong = result.groups[0].labelled
  assert all(r.labels['scan'].values == (1.0,) * 5 for r in right)
  assert all(r.first_error == {'scan': -1} for r in right)
  held = wrong.labels['scan']
  assert held.kind == 'denoised'
  share = held.n_correct[2] / 16
  assert held.values == (1.0, 1.0, min(1.0, share / 0.75), 0.0, None)
  assert wrong.first_error == {'scan': 3}
  assert wrong.meta['self_confidence'] == {'scan': [3, 4]}


def test_scan_skips():
  group, values = group_of(2, 2)
  result = run('scan', [group], Planted(values))
  assert result.counters['skipped/low_confidence'] == 4
  assert not result.rollouts
  group, values = group_of(3, 1, first_error=4)
  result = run('scan', [group], Planted(values))
  assert result.groups[0].labelled[-1].skipped == 'no_zero_step'
  assert denoised([0.9, 0.1, 0.0], 2, 0.5, 1) == [1.0, 0.2, 0.0]


def test_scan_estimates_its_confidence():
  group, values = group_of(1, 3)
  for v in values.values():
    v[0] = 0.9
  result = run('scan', [group], Planted(values), samples=64)
  correct, n = result.groups[0].labelled[0].meta['self_confidence']['scan']
  assert n == 64 and correct / n > 0.75
  assert result.counters['labelled'] == 4


def test_free_prm():
  group = [solution('a', 3, True), solution('b', 2, False), solution('c', 2, None)]
  result = run('free_prm', [group], None)
  a, b, c = result.groups[0].labelled
  assert a.labels['free_prm'].values == (1.0, 1.0, 1.0)
  assert b.labels['free_prm'].values == (0.0, 0.0)
  assert a.labels['free_prm'].kind == 'outcome'
  assert 'completer' not in a.labels['free_prm'].how
  assert c.skipped == 'unparsed'
  assert result.counters['rounds'] == 0


def test_consensus():
  def with_sets(name, first, second, n=3):
    t = solution(name, n, False)
    t = add(t, 'first_error', 'mc', first)
    values = tuple(float(i != second) for i in range(n))
    return add(t, 'labels', 'judge', LabelSet('correctness', values))

  group = [
    with_sets('same', 1, 1),
    with_sets('none', -1, -1),
    with_sets('first', 0, 0),
    with_sets('other', 1, 2),
    with_sets('open', None, 1),
    solution('bare', 3, False),
  ]
  result = run('consensus', [group], None, first='mc', second='judge')
  same, none, at_once, *others = result.groups[0].labelled
  assert same.labels['consensus'].values == (1.0, 0.0, None)
  assert same.first_error == {'consensus': 1}
  assert none.labels['consensus'].values == (1.0, 1.0, 1.0)
  assert at_once.labels['consensus'].values == (0.0, None, None)
  assert [o.skipped for o in others] == ['disagree', 'undecided', 'missing']
  assert result.counters['labelled'] == 3
  with pytest.raises(UserError, match='two different'):
    ALGORITHMS['consensus'].options(first='mc', second='mc')


@pytest.mark.parametrize('name', OURS)
def test_unjudged_answers(name):
  groups, values = [], {}
  for i in range(12):
    t = solution(f's{i}', 5, i % 4 > 0, problem=f'p{i // 4}')
    values[t.id] = steep(5, -1 if i % 4 else 2, alive=0.9)
    groups.append([t]) if i % 4 == 0 else groups[-1].append(t)
  for how in ('wrong', 'drop'):
    completer = Planted(values, unjudged=0.5)
    result = run(name, groups, completer, unjudged=how)
    assert result.counters['labelled'] + sum(
      n for k, n in result.counters.items() if k.startswith('skipped/')
    ) == len(values)
    for group in result.groups:
      for labelled in group.labelled:
        for held in labelled.labels.values():
          assert held.how['unjudged'] == how
          cost = labelled.meta['label_cost'][name]
          counted = sum(n or 0 for n in held.n_rollouts)
          assert counted <= cost['rollouts'] or name == 'adaptive'
          if how == 'wrong' and held.n_rollouts:
            assert counted == cost['rollouts']


@pytest.mark.parametrize('name', OURS)
def test_nothing_judged_at_all(name):
  t = solution('s', 4, False)
  for how in ('wrong', 'drop'):
    options = {'min_confidence': 0.0} if name == 'scan' else {}
    completer = Planted({'s': steep(4, 2)}, unjudged=1.0)
    result = run(name, [[t]], completer, unjudged=how, **options)
    labelled = result.groups[0].labelled[0]
    if how == 'drop' and not labelled.skipped:
      assert labelled.first_error.get(name) is None
      assert labelled.labels[name].values == (None, None, None, 0.0)


@pytest.mark.parametrize('name', OURS)
def test_what_cannot_be_labelled_is_skipped(name):
  bad = {
    'no_steps': solution('a', 0, True),
    'empty_step': dataclasses.replace(solution('b', 2, True), steps=('x', ' ')),
    'no_gold_answer': dataclasses.replace(solution('c', 2, True), gold_answer=None),
    'no_verdict': solution('d', 2, True, verdict='other'),
    'unparsed': solution('e', 2, None),
  }
  result = run(name, [list(bad.values())], Planted({}), unjudged='drop')
  assert [one.skipped for one in result.groups[0].labelled] == list(bad)
  assert result.counters['skipped/no_verdict'] == 1


def many(n):
  rng = np.random.default_rng(3)
  groups, values = [], {}
  for p in range(n):
    group = []
    for i in range(4):
      right = bool(rng.random() < 0.75) if p % 2 else i > 0
      t = solution(f'{p}.{i}', int(rng.integers(1, 8)), right, problem=f'p{p}')
      first = -1 if right else int(rng.integers(t.n_steps))
      values[t.id] = steep(t.n_steps, first, alive=0.8, dead=0.05)
      group.append(t)
    groups.append(group)
  return groups, values


@pytest.mark.parametrize('name', OURS)
def test_company_changes_nothing(name):
  groups, values = many(50)
  together = run(name, groups, Planted(values, follow=0.5))
  again = run(name, groups, Planted(values, follow=0.5))
  assert together == again
  for i in (0, 7, 49):
    alone = run(name, [groups[i]], Planted(values, follow=0.5))
    assert alone.groups == [together.groups[i]]
    mine = [t for t in together.rollouts if t.problem_id == f'p{i}']
    assert alone.rollouts == mine
  order = [t.problem_id for t in together.rollouts]
  assert order == sorted(order, key=lambda p: int(p[1:]))


@pytest.mark.parametrize('name', OURS)
def test_labels_are_records(name):
  groups, values = many(6)
  result = run(name, groups, Planted(values))
  for group, found in zip(groups, result.groups):
    for t, labelled in zip(group, found.labelled):
      for label, held in labelled.labels.items():
        t = add(t, 'labels', label, held)
      for label, first in labelled.first_error.items():
        t = add(t, 'first_error', label, first)
      t = dataclasses.replace(t, meta=labelled.meta)
      assert from_dict(to_dict(t)) == t
      if labelled.labels:
        cost = labelled.meta['label_cost'][name]
        assert set(cost) == {'rollouts', 'tokens', 'unjudged'}


def test_cost_adds_up():
  groups, values = many(10)
  result = run('adaptive', groups, Planted(values))
  costs = [
    one.meta['label_cost']['adaptive'] for g in result.groups for one in g.labelled
  ]
  for key in ('rollouts', 'tokens'):
    assert sum(c[key] for c in costs) == result.counters[key]
  assert len(result.rollouts) == result.counters['rollouts']


@pytest.mark.parametrize('name', OURS)
def test_a_refusal_skips_its_solution_alone(name):
  group, values = group_of(4, 2, first_error=1)
  completer = Planted(values, refuse=('w0',))
  options = {'min_confidence': 0.6} if name == 'scan' else {}
  labelled = run(name, [group], completer, **options).groups[0].labelled
  assert labelled[4].skipped == 'too_long'
  assert not labelled[5].skipped


def test_algorithms_that_do_not_catch_a_refusal_skip_the_problem():
  from prm_jax.labeling.protocol import Ask, GroupResult

  def algorithm(group):
    yield [Ask.of(t, 1, 1) for t in group]
    return GroupResult([])

  group, values = group_of(1, 1)
  result = driver.run([group], algorithm, Planted(values, refuse=('w0',)))
  assert [one.skipped for one in result.groups[0].labelled] == ['too_long'] * 2


def test_driver_refuses():
  algorithm = ALGORITHMS['mc_hard'].make(ALGORITHMS['mc_hard'].options())
  wrong = solution('w', 3, False)
  with pytest.raises(UserError, match='without solutions'):
    driver.run([[]], algorithm, Planted({}))
  with pytest.raises(UserError, match='twice'):
    driver.run([[wrong, wrong]], algorithm, Planted({}))
  with pytest.raises(UserError, match='several problems'):
    driver.run([[wrong, solution('x', 2, True, 'q')]], algorithm, Planted({}))
  with pytest.raises(UserError, match='give an engine'):
    driver.run([[wrong]], algorithm, None)


@pytest.mark.parametrize(
  'name, options',
  [
    ('mc_hard', {'k': 0}),
    ('mc_hard', {'wave': 0}),
    ('mc_hard', {'after_error': 'one'}),
    ('mc_soft', {'prior': (-1, 1)}),
    ('er_prm', {'eta': 0}),
    ('sequential', {'unjudged': 'right'}),
    ('adaptive', {'tau': 1.0}),
    ('adaptive', {'rule': 'guess'}),
    ('adaptive', {'cap': 0}),
    ('adaptive', {'alpha': float('nan')}),
    ('scan', {'min_confidence': 2}),
  ],
)
def test_options_are_checked(name, options):
  with pytest.raises(UserError, match='label option'):
    ALGORITHMS[name].options(**options)


@pytest.mark.parametrize('name', ALGORITHMS)
def test_entries_are_frozen_dataclasses_with_defaults(name):
  options = ALGORITHMS[name].options
  assert dataclasses.is_dataclass(options)
  assert options.__dataclass_params__.frozen
  for f in dataclasses.fields(options):
    assert f.default is not dataclasses.MISSING


def test_another_label_name_and_verdict():
  t = solution('s', 3, False, verdict='boxed')
  t = dataclasses.replace(t, verdicts={**t.verdicts, 'exact': Verdict(True)})
  options = {'label': 'mine', 'verdict': 'boxed'}
  result = run('mc_hard', [[t]], Planted({'s': steep(3, 1)}), **options)
  assert result.groups[0].labelled[0].first_error == {'mine': 1}
  assert Options().verdict == 'exact'
