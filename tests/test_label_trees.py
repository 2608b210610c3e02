"""OmegaPRM, tree JSON and rows, HRM: on a completer with planted errors."""

import contextlib
import dataclasses
import itertools
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from step_completer import Completer, drive, good, solution, wrong

from prm_jax import records
from prm_jax.errors import UserError
from prm_jax.inference.requests import Refusal
from prm_jax.labeling import driver, omega, tree_rows, trees
from prm_jax.labeling.omega import Candidate, OmegaOptions, omega_prm, priority
from prm_jax.labeling.protocol import Ask, Continuation
from prm_jax.labeling.registry import ALGORITHMS
from prm_jax.labeling.tree_rows import RowOptions, rows
from prm_jax.labeling.trees import Node, Rollout, Tree


def search(first_error, n=6, **options):
  """OmegaPRM on one given wrong solution that no other candidate stands beside."""
  completer = Completer(n_steps=n)
  group = [solution(wrong(n, first_error), False)]
  result = drive(omega_prm(OmegaOptions(**options)), group, completer)
  return result, completer


@pytest.mark.parametrize('first_error', range(6))
def test_planted_first_error_at_every_index(first_error):
  result, _ = search(first_error)
  (labelled,) = result.labelled
  assert labelled.first_error == {'omega_prm': first_error}
  held = labelled.labels['omega_prm']
  assert held.kind == 'value' and held.values[-1] == 0
  for t, value in enumerate(held.values):
    assert value is None or (value > 0) == (t < first_error)


@pytest.mark.parametrize('n', range(1, 9))
def test_every_first_error_of_every_length(n):
  for first_error in range(n):
    (labelled,) = search(first_error, n)[0].labelled
    assert labelled.first_error == {'omega_prm': first_error}


def test_last_step_is_labelled_by_its_own_answer():
  result, completer = search(5)
  nodes = {n.steps[-1:]: n for n in trees.from_dict(result.tree).nodes[1:]}
  last = nodes[('b5',)]
  assert (last.how, last.value, last.n_rollouts) == ('own_answer', 0.0, 0)
  assert all(len(prefix) < 6 for prefix, _ in completer.asked)


def test_asks_of_a_search_are_logarithmic():
  """One search of 16 steps asks 4 prefixes, each once, k rollouts each."""
  _, completer = search(11, n=16, search_limit=1, n_filter=0, c_puct=0.0, length=1e9)
  assert completer.asked[0] == ((), 8)
  assert len(completer.asked) <= 5 and {k for _, k in completer.asked} == {8}
  one = omega._Search(OmegaOptions())
  one.add((), Completer(n_steps=16)(Ask('s', (), 0, 8)))
  steps = one.locate(Candidate((), 's', wrong(16, 11), 48))
  completer.asked.clear()
  asks = next(steps)
  with contextlib.suppress(StopIteration):
    while True:
      asks = steps.send([completer(a) for a in asks])
  assert [len(p) for p, _ in completer.asked] == [8, 12, 10, 11]


def test_priority_by_hand():
  options = OmegaOptions()
  q = 0.5**0.75 * 0.9 ** (100 / 500)
  assert priority(0.25, 100, 2, 9, options) == pytest.approx(q + 0.125 * 3 / 3)
  assert priority(0.25, 100, 0, 0, options) == pytest.approx(q)


def rollouts(name, n_right, n):
  return [
    Continuation(f'{name}{i}', ('x', f'{name}{i}'), i < n_right, 10) for i in range(n)
  ]


def test_tokens_of_a_given_solution():
  found = rollouts('a', 1, 3)  # 10 tokens for 2 steps each
  known = records.Trajectory('t', 'p', 'q', ('x', 'y', 'z'))
  assert omega.solution_tokens(known, found) == 15
  held = dataclasses.replace(known, tokens=({'ids': [1, 2]}, {'ids': [3]}, {'ids': []}))
  assert omega.solution_tokens(held, found) == 3


def test_selection_counts_the_visit_of_its_state():
  """A state that was selected often gives way to one that was not (U shrinks)."""
  search = omega._Search(OmegaOptions(c_puct=1.0))
  search.add(('a',), rollouts('a', 5, 8))
  search.add(('b',), rollouts('b', 4, 8))
  order = [search.select().prefix[0] for _ in range(4)]
  assert order[0] == 'a' and order.count('b') == 2
  assert [search.states[(x,)].visits for x in 'ab'] == [2, 2]
  by_q_alone = omega._Search(OmegaOptions(c_puct=0.0))
  by_q_alone.add(('a',), rollouts('a', 5, 8))
  by_q_alone.add(('b',), rollouts('b', 4, 8))
  assert [by_q_alone.select().prefix[0] for _ in range(4)] == ['a', 'a', 'a', 'b']


def test_a_searched_rollout_never_comes_back(monkeypatch):
  picked = []
  select = omega._Search.select

  def record(self):
    picked.append(select(self))
    return picked[-1]

  monkeypatch.setattr(omega._Search, 'select', record)
  search(3)
  paths = [one.path for one in picked]
  assert len(paths) >= 5 and len(paths) == len(set(paths))


def test_no_prefix_is_asked_twice_and_the_limit_holds():
  result, completer = search(2, n=8)
  asked = [prefix for prefix, _ in completer.asked]
  assert len(asked) == len(set(asked))
  tree = trees.from_dict(result.tree)
  assert tree.facts['left_in_pool'] == 0
  assert sum(n.visits for n in tree.nodes) == tree.facts['searches']
  limited, few = search(2, n=8, search_limit=1)
  assert limited.tree['facts']['searches'] == 1
  assert len(few.asked) <= 4 < len(completer.asked)


@pytest.mark.parametrize(
  'rate, reason', [(1.0, 'all_right'), (0.0, 'all_wrong')], ids=['right', 'wrong']
)
def test_question_filter(rate, reason):
  completer = Completer(rate=rate)
  group = [solution(good(6), True), solution(wrong(6, 1), False, 1)]
  result = drive(omega_prm(), group, completer)
  assert [x.skipped for x in result.labelled] == [reason] * 2
  assert result.tree is None and result.extra == []
  assert completer.asked == [((), 32)]


def test_unjudged_rollouts():
  result = drive(omega_prm(), [solution((), None)], Completer(rate=0.0, unjudged=1))
  assert result.labelled[0].skipped == 'unparsed'
  result = drive(omega_prm(), [solution((), None)], Completer(unjudged=2))
  tree = trees.from_dict(result.tree)
  root = tree.nodes[0]
  judged = [r for r in root.rollouts if r.correct is not None]
  assert root.n_rollouts == 32 and len(judged) == 16
  assert root.value == sum(map(bool, (r.correct for r in judged))) / 32
  assert result.labelled[0].skipped == 'no_steps'


def test_right_and_unknown_solutions():
  group = [solution(good(6), True), solution(('z',) * 6, None, 1)]
  result = drive(omega_prm(), group, Completer())
  right, unknown = result.labelled
  assert right.first_error == {'omega_prm': -1}
  assert right.labels['omega_prm'].values[-1] == 1
  assert unknown.skipped == 'not_on_tree'
  hard = drive(omega_prm(OmegaOptions(hard=True)), group, Completer()).labelled[0]
  assert set(hard.labels['omega_prm'].values) <= {None, 0.0, 1.0}


def test_given_solutions_are_searched_only_if_asked():
  group = [solution(('z', *wrong(6, 1)[1:]), False)]
  assert 'omega_prm' in drive(omega_prm(), group, Completer()).labelled[0].labels
  options = OmegaOptions(search_given=False)
  (labelled,) = drive(omega_prm(options), group, Completer()).labelled
  assert labelled.labels['omega_prm'].values == (None,) * 5 + (0.0,)


def test_same_result_again_and_as_json():
  one, two = search(3)[0], search(3)[0]
  text = json.dumps(one.tree)
  assert text == json.dumps(two.tree)
  assert trees.to_dict(trees.from_dict(json.loads(text))) == one.tree
  assert [records.to_dict(t) for t in one.extra] == [
    records.to_dict(t) for t in two.extra
  ]
  for t in one.extra:
    assert records.from_dict(json.loads(json.dumps(records.to_dict(t)))) == t
  assert len({t.id for t in one.extra}) == len(one.extra)


@pytest.mark.parametrize('options', [{'k': 0}, {'length': 0}, {'rows': 'x'}])
def test_bad_options(options):
  with pytest.raises(UserError, match='label option'):
    OmegaOptions(**options)


class Shared:
  """What the driver needs of a completer; prefixes of `limit` steps are refused."""

  def __init__(self, limit=99):
    self.how, self.counters = {'completer': 'planted'}, Counter()
    self.limit, self.one = limit, Completer()

  def ask(self, problems, asks):
    refusal = Refusal('too_long')
    return [refusal if a.n_steps >= self.limit else self.one(a) for a in asks]

  def take_rollouts(self):
    return []


def groups(n):
  def one(i):
    steps = ((wrong(6, 2), False), (good(6), True))
    made = [solution(s, right, f'{i}/{j}') for j, (s, right) in enumerate(steps)]
    tokens = tuple({'ids': [1, 2], 'logprobs': [-0.1, -0.3]} for _ in range(6))
    return [dataclasses.replace(t, problem_id=f'p{i}', tokens=tokens) for t in made]

  return [one(i) for i in range(n)]


@pytest.mark.parametrize('name', ['omega_prm', 'un_prm', 'hrm', 'grounded_prm'])
def test_a_problem_does_not_depend_on_its_company(name):
  entry = ALGORITHMS[name]
  algorithm = entry.make(entry.options(label='mine'))
  alone = [driver.run([g], algorithm, Shared()).groups[0] for g in groups(4)]
  together = driver.run(groups(4), algorithm, Shared())
  assert together.groups == alone
  if name != 'grounded_prm':  # these texts hold nothing that a calculator can check
    held = together.groups[0].labelled[0].labels
    assert set(held) == {'mine'} and held['mine'].how['completer'] == 'planted'


@pytest.mark.parametrize('name', ['omega_prm', 'hrm', 'grounded_prm'])
def test_refused_prefixes_end_a_search_and_are_counted(name):
  entry = ALGORITHMS[name]
  algorithm = entry.make(entry.options())
  (result,) = driver.run(groups(1), algorithm, Shared(limit=1)).groups
  assert result.tree['facts']['refused'] > 0
  if name == 'omega_prm':
    assert result.labelled[0].first_error == {name: None}
  empty = [[solution((), None)]]
  (result,) = driver.run(empty, algorithm, Shared(limit=0)).groups
  assert result.labelled[0].skipped in ('too_long', 'no_steps')


# A tree by hand: root -> a (.5) -> b (0), a -> c d (.25), c d -> e (1, right rollout).


def hand(**changed):
  nodes = {
    (): Node(-1, (), 0.5, n_correct=4, n_rollouts=8),
    ('a',): Node(-1, (), 0.5, n_correct=4, n_rollouts=8),
    ('a', 'b'): Node(-1, (), 0.0, n_rollouts=8),
    ('a', 'b', 'x'): Node(-1, (), 0.0, n_rollouts=8),
    ('a', 'c', 'd'): Node(
      -1, (), 0.25, n_correct=2, n_rollouts=8,
      rollouts=(Rollout('r', ('e',), True, 3), Rollout('w', ('f',), False, 3)),
    ),
  }  # fmt: skip
  made = Tree('omega_prm', 'p', 'Q?', trees.link(nodes), separator=' ')
  return dataclasses.replace(made, **changed)


def shown(made):
  return [(t.steps, t.labels['omega_prm'].values) for t in made]


def test_nodes_hang_on_their_longest_prefix():
  nodes = hand().nodes
  assert [n.parent for n in nodes] == [-1, 0, 1, 2, 1]
  assert [n.steps for n in nodes] == [(), ('a',), ('b',), ('x',), ('c', 'd')]
  assert trees.prefixes(nodes)[3] == ('a', 'b', 'x')


def test_rows_by_paths():
  made, counters = rows(hand(), RowOptions())
  assert shown(made) == [
    (('a', 'b'), (0.5, 0.0)),
    (('a', 'c', 'd', 'e'), (0.5, None, 0.25, 1.0)),
  ]
  assert [t.first_error['omega_prm'] for t in made] == [1, -1]
  assert made[1].labels['omega_prm'].weights == (0.0, 0.0, 1.0, 1.0)
  assert set(counters.values()) == {0}


def test_rows_without_rollouts_end_at_leaves():
  made, _ = rows(hand(), RowOptions(row_rollouts=False))
  assert shown(made)[1] == (('a', 'c', 'd'), (0.5, None, 0.25))


def test_rows_merged_and_hard():
  made, _ = rows(hand(), RowOptions(row_steps='merged', row_label='hard'))
  assert shown(made) == [
    (('a', 'b'), (1.0, 0.0)),
    (('a', 'c d', 'e'), (1.0, 1.0, 1.0)),
  ]


def test_rows_by_edges():
  made, _ = rows(hand(), RowOptions(rows='edges'))
  assert shown(made) == [
    (('a',), (0.5,)),
    (('a', 'b'), (None, 0.0)),
    (('a', 'c', 'd'), (None, None, 0.25)),
    (('a', 'c', 'd', 'e'), (None, None, None, 1.0)),
  ]


def test_rows_by_pairs():
  made, _ = rows(hand(), RowOptions(rows='pairs'))
  assert shown(made) == [
    (('a', 'c', 'd'), (None, None, 1.0)),
    (('a', 'b'), (None, 0.0)),
  ]
  assert made[0].meta['pair'] == made[1].meta['pair']
  assert [t.meta['value'] for t in made] == [0.25, 0.0]


def test_rows_left_out_are_counted():
  made, counters = rows(hand(), RowOptions(row_min_words=3))
  assert shown(made) == [] and counters['short_rows'] == 1
  assert counters['balanced_away'] == 1
  made, _ = rows(hand(), RowOptions(row_min_words=3, row_balance=False))
  assert len(made) == 1
  assert rows(hand(), RowOptions(rows='none'))[0] == []


def test_balance_keeps_as_many_as_end_badly():
  nodes = {(): Node(-1, (), 0.5), ('z',): Node(-1, (), 0.0)}
  nodes |= {(f'a{i}',): Node(-1, (), 0.5) for i in range(9)}
  tree = Tree('omega_prm', 'p', 'Q?', trees.link(nodes))
  kept = {seed: shown(rows(tree, RowOptions(seed=seed))[0]) for seed in range(20)}
  assert all(len(made) == 2 and made[1][0] == ('z',) for made in kept.values())
  assert len({made[0][0] for made in kept.values()}) > 3
  assert kept[0] == shown(rows(tree, RowOptions(seed=0))[0])


steps_of = st.lists(st.sampled_from('abc'), max_size=4).map(tuple)
values_of = st.none() | st.integers(0, 8).map(lambda n: n / 8)


@given(st.dictionaries(steps_of, values_of, max_size=8), st.text(max_size=3))
def test_json_loses_nothing(values, text):
  states = {p: Node(-1, (), v) for p, v in {**values, (): 0.5}.items()}
  tree = Tree('omega_prm', 'p', text, trees.link(states), options={'k': 8})
  assert sorted(trees.prefixes(tree.nodes)) == sorted(states)
  assert trees.from_dict(json.loads(json.dumps(trees.to_dict(tree)))) == tree
  for kind, steps in itertools.product(tree_rows.ROWS, ('steps', 'merged')):
    made, _ = rows(tree, RowOptions(rows=kind, row_steps=steps, row_balance=False))
    assert len({t.id for t in made}) == len(made)
    for t in made:
      assert records.from_dict(records.to_dict(t)) == t
      held = t.labels['omega_prm'].values
      assert held[-1] is not None and all(v is None or v > 0 for v in held[:-1])


@pytest.mark.parametrize(
  'change, match',
  [
    ({'nodes': []}, 'starts with the root'),
    ({'nodes': [{'parent': 0, 'steps': [], 'value': 1}]}, 'parent'),
    ({'nodes': [{'parent': -1, 'steps': 'x', 'value': 1}]}, 'steps'),
    ({'nodes': [{'parent': -1, 'steps': [], 'value': float('nan')}]}, 'value'),
    ({'nodes': [{'parent': -1, 'steps': []}]}, "'value' of a tree is missing"),
    ({'question': None}, 'question'),
  ],
)
def test_malformed_trees(change, match):
  with pytest.raises(UserError, match=match):
    trees.from_dict({**trees.to_dict(hand()), **change}, 'trees.jsonl:1')
