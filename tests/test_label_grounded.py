"""GroundedPRM: verifiers, V, back-propagation, UCT, fidelity; and HRM's compression."""

import json
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from step_completer import Completer, drive, good, solution, wrong

from prm_jax import records
from prm_jax.errors import UserError
from prm_jax.labeling import grounded, hrm, trees, verifiers
from prm_jax.labeling.grounded import GroundedOptions, grounded_prm, simulation_value
from prm_jax.labeling.hrm import Branch, HrmOptions, compress, count, leaves
from prm_jax.labeling.protocol import Continuation
from prm_jax.labeling.verifiers import calculator, evaluate

RIGHT = [
  '3 * (4 + 1) = 15',
  'She sold 48/2 = <<48/2=24>>24 clips in May.',
  'She sold 48/2 = $24 clips in May.',
  '$1,000 + $2,500 = $3,500',
  '10 / 3 = 3.33',
  '2 / 3 = .67, or 2 / 3 = 0.66',
  'cost = 3 * 4 = 12',
  'f(3) = 3 + 4 = 7',
  '2^3 = 8 and 2**3 = 8',
  r'\(\frac{1}{2} + \frac{1}{2} = 1\)',
  r'$3 \times 4 = 12$',
  '3 + 4 = 7 = 14 / 2',
  '1. 4 + 5 = 9',
  '12 = 3 * 4',
  'Balance: -3 + 5 = 2.',
  '3 x 4 = 12 dollars (3 each)',
  '6 × 2 ÷ 3 − 1 = 3',
  '- 3 + 4 = 7',
  r'- \(2 \times 3^2 = 2 \times 9\)',
  '- 3 + 5 = 2',
  '20 / 4 = 5 times a week',
  'So 3 + 4 = 7 and 2 / 2 = 1',
]
WRONG = [
  '3+4=8',
  'so 3 + 4 = 8 apples',
  '3 + 4 = 7. Then 5 + 5 = 11.',
  '3 + 4 = 7 = 2 * 3',
  '10 / 3 = 3.4',
  '7 / 2 = 3',
  '2.5 * 2 = 5.1',
  '- 3 + 4 = 9',
  '5 = - 3 + 8 = 11',
  'which is equal to 3 + 4 = 8',
  'So 3 + 4 = 7 and 2 + 2 = 5',
]
UNKNOWN = [
  'Let us think.',
  'x + 3 = 7',
  '2x + 3 = 7',
  'so f(3) = 7',
  '20% of 50 = 10',
  'half of 10 + 2 = 7',
  '100 - 20% = 80',
  '3 apples + 4 = 8',
  '10 - 3 = 8x',
  '5 * 3 = 10 + y',
  '7 / 2 = 3 remainder 1',
  r'$9 \div 7 = 1$ with a remainder of $2$',
  '7 / 2 = 3 and 1/2',
  '7 / 2 = 3 and a half',
  '1/2 + 1/4 = 3 quarters',
  'So 1 / 4 = 25 percent of them',
  '1000 * 1000 = 1 million',
  '16 / 4 = 2 squared',
  '3 + 5 = 2 to the power of 3',
  '10 - 4 = 2 times 3',
  r'\[720 = \frac{6}{2} [2a + 5d]\]',
  'We get sin 30 * 2 = 1',
  'negative 3 + 5 = 2',
  'so 5 choose 2 * 3 = 30',
  'subtract 3 from 10 - 2 = 5',
  '3 added to 4 * 2 = 11',
  '7 3/4 = 31/5',
  '3 + 4 <= 8',
  '3 + 4 != 8',
  '1 / 0 = 3',
  '5 = 6',
  '+4=7',
  '3 = 4 = 5 apples =',
  '9^9^9^9 = 1',
  '',
  '=',
  '(' * 500 + '1' + ')' * 500 + ' + 1 = 3',
  '-' * 500 + '1 + 1 = 3',
]


@pytest.mark.parametrize(
  'step, verdict',
  [(s, True) for s in RIGHT]
  + [(s, False) for s in WRONG]
  + [(s, None) for s in UNKNOWN],
)
def test_calculator(step, verdict):
  assert calculator('', (), step) is verdict


@given(st.text(alphabet='0123456789+-*/^()=. ,$x%\n', max_size=60))
def test_calculator_answers_any_text(step):
  assert calculator('', (), step) in (True, False, None)


expressions = st.recursive(
  st.integers(0, 99).map(lambda n: (str(n), Fraction(n))),
  lambda inner: st.tuples(inner, st.sampled_from('+-*'), inner).map(
    lambda e: (
      f'({e[0][0]} {e[1]} {e[2][0]})',
      {'+': e[0][1] + e[2][1], '-': e[0][1] - e[2][1], '*': e[0][1] * e[2][1]}[e[1]],
    )
  ),
  max_leaves=8,
)


@given(expressions, st.integers(1, 5))
def test_calculator_is_exact(expression, off):
  text, value = expression
  assert evaluate(text) == value
  assert calculator('', (), f'Now {text} * 1 = {value}') is True
  assert calculator('', (), f'Now {text} * 1 = {value + off}') is False


def test_world_reads_lines_of_the_embedded_world():
  verify = verifiers.make('world', 9)
  assert verify('>3+4-2=?', (), '+4=7') is True
  assert verify('>3+4-2=?', ('+4=7',), '-2=6') is False
  assert verify('>3+4-2=?', ('+4=8',), '-2=6') is True
  assert verify('What is 3+4?', (), '+4=7') is None


def test_simulation_value_by_hand():
  assert simulation_value([], -1) == -1
  assert simulation_value([1], 1) == 2
  assert simulation_value([1, -1, 0, 1], -1) == pytest.approx(
    (1 * 1 - 1 * 0.75 + 0 * 0.5 + 1 * 0.25) / 4 - 1 / 4
  )


def verdict_of(question, before, step):
  return step[0] != 'b'


def search(**options):
  made = GroundedOptions(**options)
  return grounded._Search(solution((), None), made, verdict_of)


def test_returns_go_up_discounted():
  one = search()
  one.add((), Continuation('a', ('g0', 'g1', 'g2'), True, 3))
  v = 1 / 1 + 1 / 1  # one step between the child and the last: N = 1
  assert one.nodes[('g0',)].value == v
  one.add(('g0',), Continuation('b', ('b1', 'b2'), False, 2))
  assert one.nodes[('g0', 'b1')].value == -1
  assert one.nodes[('g0',)].value == pytest.approx(v - 0.9)
  assert one.nodes[()].value == pytest.approx(0.9 * v - 0.81)
  assert [one.nodes[p].visits for p in ((), ('g0',), ('g0', 'b1'))] == [2, 2, 1]


def test_selection_is_uct_not_chance():
  one = search(exploration=0.5)
  for name, right in (('g0', True), ('g1', False), ('g2', True)):
    one.add((), Continuation(name, (name, 'x'), right, 2))
  one.nodes[()].expanded = True
  assert one.select() == ('g0',)
  one.nodes[('g0',)].visits = 50
  one.nodes[('g0',)].value = 50.0
  by_hand = {
    c: one.nodes[c].value / one.nodes[c].visits
    + 0.5 * math.sqrt(math.log(3) / one.nodes[c].visits)
    for c in one.nodes[()].children
  }
  assert one.select() == max(by_hand, key=by_hand.get) == ('g2',)
  for child in one.nodes[()].children:
    one.nodes[child].ended = True
  assert one.select() is None


def test_fidelity_filter():
  one = search()
  one.add((), Continuation('a', ('g0', 'b1', 'b2'), False, 3))
  assert one.nodes[('g0',)].value == -2
  assert one.fused(('g0', 'b1', 'b2')) == ([None, 0.0, 0.0], [True, False, False])
  free = search(fidelity='none')
  free.add((), Continuation('a', ('g0', 'b1', 'b2'), False, 3))
  assert free.fused(('g0', 'b1', 'b2'))[0] == [1.0, 0.0, 0.0]


@pytest.fixture
def planted(monkeypatch):
  monkeypatch.setattr(verifiers, 'make', lambda name, max_value: verdict_of)


def test_rows_and_labels(planted):
  group = [solution(wrong(6, 2), False), solution(good(6), True, 1)]
  result = drive(grounded_prm(GroundedOptions(fidelity='step')), group, Completer())
  held = result.labelled[0].labels['grounded_prm']
  assert held.kind == 'correctness' and held.values[2:] == (0.0,) * 4
  assert result.labelled[1].first_error == {'grounded_prm': -1}
  assert result.extra
  for t in result.extra:
    values = t.labels['grounded_prm'].values
    for step, value in zip(t.steps, values):
      assert value in (None, float(step[0] != 'b'))
    assert records.from_dict(json.loads(json.dumps(records.to_dict(t)))) == t
  tree = trees.from_dict(json.loads(json.dumps(result.tree)))
  assert 1 <= tree.facts['rounds'] <= 8
  assert max(len(p) for p in trees.prefixes(tree.nodes)) <= 8
  strict = drive(grounded_prm(), group, Completer())
  assert len(strict.extra) + strict.tree['facts']['unfaithful_paths'] >= 1
  again = drive(grounded_prm(), group, Completer())
  assert json.dumps(strict.tree) == json.dumps(again.tree)


def test_wrong_rows_end_where_they_recover(planted):
  assert grounded._recovery([1.0, 0.0, None, 1.0, 0.0]) == 3
  assert grounded._recovery([1.0, 1.0]) == 2


def test_verdicts_alone_need_no_rollouts(planted):
  completer = Completer()
  options = GroundedOptions(rounds=0, use_given=False)
  group = [solution(wrong(4, 1), False), solution((), None, 1)]
  one, none = drive(grounded_prm(options), group, completer).labelled
  assert completer.asked == [] and none.skipped == 'no_steps'
  assert one.labels['grounded_prm'].values == (1.0, 0.0, 0.0, 0.0)
  assert one.first_error == {'grounded_prm': 1}


def test_nothing_to_verify():
  group = [solution(good(3), True)]
  (one,) = drive(grounded_prm(), group, Completer(n_steps=3)).labelled
  assert one.skipped == 'not_verified'


@pytest.mark.parametrize('bad', [{'verifier': 'x'}, {'children': 0}, {'fidelity': 'x'}])
def test_bad_options(bad):
  with pytest.raises(UserError, match='label option'):
    GroundedOptions(**bad)
  with pytest.raises(UserError, match='label option'):
    HrmOptions(depth=0)


# HRM: root -> a, b; a -> 4 leaves, the first right; b -> 1 right leaf.


def branch(steps, *children, correct=None):
  return Branch(tuple(steps), correct, '', (), children=list(children))


def hand():
  four = [branch(f'{i}', correct=i == 0) for i in range(4)]
  return branch('', branch('a', *four), branch('b', branch('yz', correct=True)))


def test_labels_are_the_share_of_right_leaves():
  counts = count(leaves(hand()))
  assert counts[()] == (2, 5)
  assert counts[('a',)] == (1, 4) and counts[('b',)] == (1, 1)
  assert counts[('b', 'y', 'z')] == (1, 1) and ('b', 'y') not in counts


def test_compression_merges_one_child_into_its_parents_step():
  packed = compress(hand(), HrmOptions(p=1.0), 'p', ' ')
  found = leaves(packed)
  assert [leaf.steps for leaf in found if leaf.merged is not None] == [('a 0',)]
  counts = count(found)
  assert counts[('a',)] == (0, 3) and counts[('a 0',)] == (1, 1)
  assert count(leaves(hand()))[('a',)] == (1, 4), 'the tree itself stays'
  for options in (HrmOptions(p=0), HrmOptions(p=1, min_children=5)):
    assert leaves(compress(hand(), options, 'p', ' ')) == leaves(hand())


def test_compression_is_drawn_by_seed_and_problem():
  def moved(seed, problem):
    found = leaves(compress(hand(), HrmOptions(seed=seed), problem, ' '))
    return [leaf.steps for leaf in found if leaf.merged is not None]

  many = [moved(seed, 'p') for seed in range(200)]
  assert many == [moved(seed, 'p') for seed in range(200)]
  share = sum(m == [('a 0',)] for m in many) / 200
  assert 0.35 < share < 0.65 and [] in many
  assert [moved(seed, 'q') for seed in range(200)] != many
  assert all(len(m) <= 1 for m in many)


def test_hrm_tree():
  completer = Completer(n_steps=6)
  group = [solution(wrong(6, 2), False), solution(('z',) * 6, None, 1)]
  options = HrmOptions(use_given=False)
  result = drive(hrm.hrm(options), group, completer)
  assert sum(k for _, k in completer.asked) == 4 + 4 * 3 + 16 * 3 == 64
  assert result.tree['facts']['leaves'] == 64
  root = trees.from_dict(result.tree).nodes[0]
  assert root.n_rollouts == 64 and root.value == root.n_correct / 64
  assert result.labelled[1].skipped == 'not_on_tree'
  assert len({t.id for t in result.extra}) == len(result.extra)
  merged = [t for t in result.extra if 'merged_step' in t.meta['tree']]
  assert merged
  for t in merged:
    assert '\n' in t.steps[t.meta['tree']['merged_step']]
    assert t.labels['hrm'].values[t.meta['tree']['merged_step']] is not None
    assert records.from_dict(json.loads(json.dumps(records.to_dict(t)))) == t
  again = drive(hrm.hrm(options), group, Completer(n_steps=6))
  assert json.dumps(again.tree) == json.dumps(result.tree)
  weights = [
    w
    for t in result.extra
    for w, v in zip(
      t.labels['hrm'].weights or (1.0,) * t.n_steps, t.labels['hrm'].values
    )
    if v is not None
  ]
  assert 0 < sum(weights) < len(weights)


def test_hrm_labels_given_solutions_on_the_tree():
  group = [solution(wrong(6, 1), False), solution(good(6), True, 1)]
  result = drive(hrm.hrm(), group, Completer(rate=0.9))
  bad, fine = (x.labels['hrm'].values for x in result.labelled)
  assert bad[0] > 0 and bad[1] == 0 and bad[-1] == 0
  assert fine[0] > 0 and fine[1] > 0 and fine[-1] == 1
  assert [x.first_error['hrm'] for x in result.labelled] == [1, -1]
  assert not {t.steps for t in result.extra} & {t.steps for t in group}


def test_hrm_counts_judged_leaves_and_a_solution_s_own_answer():
  some = [
    hrm.Leaf((s,), (1,), judged, None) for s, judged in (('a', True), ('b', None))
  ]
  assert hrm.counted(some, 'wrong') == some and hrm.counted(some, 'drop') == some[:1]
  counts = {('x',): (1, 2), ('x', 'y'): (0, 1)}
  for right, last, first in ((True, 1.0, -1), (False, 0.0, 1)):
    verdicts = {'exact': records.Verdict(right)}
    t = records.Trajectory('t', 'p', 'q', ('x', 'y'), verdicts=verdicts)
    held = hrm._label(t, counts, HrmOptions())
    assert held.labels['hrm'].values == (0.5, last)
    assert held.first_error == {'hrm': first}
