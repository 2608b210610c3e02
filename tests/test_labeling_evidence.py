"""What labels rest on: rollouts that count, and nothing that did not act."""

import dataclasses

import numpy as np
import pytest
from planted import Planted, solution
from step_completer import Completer, drive, good, wrong
from step_completer import solution as planted_solution

from prm_jax.errors import UserError
from prm_jax.labeling import driver, trees
from prm_jax.labeling.grounded import GroundedOptions, grounded_prm
from prm_jax.labeling.hrm import HrmOptions, hrm
from prm_jax.labeling.omega import OmegaOptions, omega_prm
from prm_jax.labeling.registry import ALGORITHMS
from prm_jax.labeling.unprm import UnOptions, un_prm
from prm_jax.records import Verdict

ROLLED_OUT = ('mc_hard', 'mc_soft', 'er_prm')


def run(name, group, completer, **options):
  entry = ALGORITHMS[name]
  algorithm = entry.make(entry.options(**options))
  return driver.run([group], algorithm, completer).groups[0].labelled


@pytest.mark.parametrize('name', ROLLED_OUT)
def test_labels_after_the_error_are_not_set_while_they_are_rolled_out(name):
  with pytest.raises(UserError, match=r"after_error='zero'.*stop_after_error=True"):
    ALGORITHMS[name].options(after_error='zero')
  assert ALGORITHMS[name].options(after_error='zero', stop_after_error=True)


@pytest.mark.parametrize('name', ROLLED_OUT)
def test_labels_tell_of_after_error_only_where_it_acts(name):
  t = solution('s', 5, False)
  v = np.array([1.0, 1.0, 0.0, 1.0, 1.0, 0.0])
  (kept,) = run(name, [t], Planted({'s': v}))
  held = kept.labels[name]
  assert held.values[1] < 0.1 < 0.9 < held.values[2]
  assert 'after_error' not in held.how
  (cut,) = run(name, [t], Planted({'s': v}), stop_after_error=True)
  held = cut.labels[name]
  assert held.values[2:] == (None, None, 0.0)
  assert held.how['after_error'] == 'unlabelled'


class Silent(Planted):
  """No answer from a prefix of one of the lengths `silent` can be judged."""

  def __init__(self, values, silent, **options):
    super().__init__(values, **options)
    self.silent = silent

  def _one(self, problem, ask, index):
    made = super()._one(problem, ask, index)
    if ask.n_steps in self.silent:
      made = dataclasses.replace(made, correct=None)
    return made


@pytest.mark.parametrize('right', [True, False])
@pytest.mark.parametrize('name', ROLLED_OUT)
def test_a_prefix_without_a_judged_rollout_is_no_error(name, right):
  t = solution('s', 5, right)
  v = np.array([1.0, 1.0, 1.0, 0.0, 1.0, float(right)])
  completer = Silent({'s': v}, {2})
  options = {'unjudged': 'drop', 'stop_after_error': True, 'after_error': 'zero'}
  (labelled,) = run(name, [t], completer, **options)
  held = labelled.labels[name]
  assert held.values[0] > 0.7 and held.values[1] is None and held.values[2] < 0.1
  assert held.values[3:] == (0.0, float(right))
  assert held.stop_reason[1:4:2] == ('no_judged_rollouts', 'after_error')
  assert held.n_rollouts[1] == 0 and held.n_rollouts[3] is None
  assert labelled.first_error.get(name) is None
  assert {ask.n_steps for ask in completer.asked} == {1, 2, 3}


def test_nothing_follows_from_prefixes_without_judged_rollouts():
  t = solution('s', 4, True)
  options = {'unjudged': 'drop', 'stop_after_error': True, 'after_error': 'zero'}
  completer = Silent({'s': np.ones(5)}, {1, 2, 3})
  (labelled,) = run('mc_hard', [t], completer, **options)
  assert labelled.labels['mc_hard'].values == (None, None, None, 1.0)


def test_scan_pays_no_more_for_a_solution_that_it_skips():
  t = solution('s', 5, False)
  completer = Silent({'s': np.ones(6)}, {2})
  options = {'unjudged': 'drop', 'samples': 4}
  (labelled,) = run('scan', [t], completer, **options)
  assert labelled.skipped == 'unparsed'
  assert [ask.n_steps for ask in completer.asked] == [0, 1, 2]


def test_scan_knows_no_confidence_without_judged_samples():
  group = [solution('r', 3, True), solution('w', 3, False)]
  completer = Silent({t.id: np.ones(4) for t in group}, {0})
  labelled = run('scan', group, completer, unjudged='drop', samples=4)
  assert [one.skipped for one in labelled] == ['unparsed'] * 2
  assert labelled[0].meta['self_confidence'] == {'scan': [0, 0]}


@pytest.mark.parametrize('rule', ['posterior', 'confidence'])
def test_adaptive_labels_nothing_by_its_prior_alone(rule):
  t = solution('s', 12, False)
  completer = Silent({'s': np.ones(13)}, range(13))
  options = {'unjudged': 'drop', 'cap': 20, 'rule': rule}
  (labelled,) = run('adaptive', [t], completer, **options)
  assert labelled.skipped == 'unparsed' and not labelled.labels


class SilentSteps(Completer):
  """Only whole solutions are judged, no continuation of their steps."""

  def one(self, ask, prefix, number):
    made = super().one(ask, prefix, number)
    return dataclasses.replace(made, correct=None) if prefix else made


def wrong_one(n=6):
  tokens = ({'ids': [1, 2], 'logprobs': [-0.1, -0.2]},) * n
  return planted_solution(wrong(n, 2), False, tokens=tokens)


@pytest.mark.parametrize('search', ['uncertainty', 'sequential', 'binary'])
def test_un_prm_fails_no_step_without_a_judged_rollout(search):
  made = un_prm(UnOptions(search=search, unjudged='drop'))
  (labelled,) = drive(made, [wrong_one()], SilentSteps(rate=0.9)).labelled
  assert labelled.skipped == 'unparsed' and not labelled.labels


def test_un_prm_tells_how_many_rollouts_counted():
  made = un_prm(UnOptions(search='sequential', rollouts=16, unjudged='drop'))
  (labelled,) = drive(made, [wrong_one()], Completer(rate=0.9, unjudged=4)).labelled
  held = labelled.labels['un_prm']
  assert set(held.n_rollouts) == {12, None}


def test_un_prm_has_no_rate_of_a_question_that_it_did_not_ask():
  right = dataclasses.replace(wrong_one(), verdicts={'exact': Verdict(True)})
  (labelled,) = drive(un_prm(), [right], Completer()).labelled
  assert labelled.meta['un_prm']['question_rate'] is None


def test_omega_prm_gives_a_node_without_judged_rollouts_no_answer_of_its_own():
  options = OmegaOptions(unjudged='drop')
  result = drive(omega_prm(options), [wrong_one()], SilentSteps(rate=0.6))
  nodes = trees.from_dict(result.tree).nodes
  silent = [n for n in nodes[1:] if n.rollouts]
  assert silent and all((n.value, n.how) == (None, 'rollouts') for n in silent)
  assert {n.how for n in nodes if n.value == 0} == {'own_answer'}


def test_hrm_leaves_out_what_was_not_judged():
  drop, wrong_too = (HrmOptions(use_given=False, unjudged=u) for u in ('drop', 'wrong'))
  given = planted_solution(good(6)[:1] + wrong(6, 0)[1:], None)
  result = drive(hrm(drop), [given], Completer(unjudged=2))
  every = drive(hrm(wrong_too), [given], Completer(unjudged=2))
  root, full = (trees.from_dict(r.tree).nodes[0] for r in (result, every))
  facts = result.tree['facts']
  assert facts['unjudged_leaves'] == full.n_rollouts - root.n_rollouts > 0
  assert facts['leaves'] == full.n_rollouts == 64
  assert root.n_correct == full.n_correct
  for t in result.extra:
    assert any(v is not None for v in t.labels['hrm'].values)
    assert t.labels['hrm'].values[-1] in (0.0, 1.0)
  nothing = drive(hrm(drop), [given], Completer(unjudged=1))
  assert nothing.labelled[0].skipped == 'unparsed'
  assert nothing.tree is None and not nothing.extra


def test_grounded_prm_leaves_out_what_was_not_judged():
  group = [wrong_one()]
  made = grounded_prm(GroundedOptions(use_given=False, rounds=2, unjudged='drop'))
  result = drive(made, group, Completer(unjudged=1))
  (root,) = trees.from_dict(result.tree).nodes
  assert root.value is None and root.visits == 0 and len(root.rollouts) == 3
  assert result.tree['facts']['unjudged_answers'] == 3
  made = grounded_prm(GroundedOptions(use_given=False, rounds=2))
  result = drive(made, group, Completer(unjudged=1))
  assert trees.from_dict(result.tree).nodes[0].visits == 6
