"""UnPRM: which solutions, which steps, which rule; by hand and on planted errors."""

import math

import numpy as np
import pytest
from step_completer import Completer, drive, good, solution, wrong

from prm_jax.errors import UserError
from prm_jax.labeling import unprm
from prm_jax.labeling.protocol import Continuation
from prm_jax.labeling.unprm import UnOptions, un_prm


def tokens(*logprobs, ids=None):
  return tuple(
    {'ids': list(ids or range(1, len(p) + 1)), 'logprobs': list(p)} for p in logprobs
  )


def flat(n):
  return tokens(*[(-0.1, -0.2)] * n)


def sampled(*correct, logprob=-1.0):
  return [Continuation(f'c{i}', ('x',), c, 2, logprob) for i, c in enumerate(correct)]


def test_step_entropy_by_hand():
  q = np.exp([-1 / 5, -3 / 5])
  q /= q.sum()
  assert unprm.step_entropy([-1.0, -3.0]) == pytest.approx(-(q * np.log(q)).sum())
  assert unprm.step_entropy([-7.0] * 8) == pytest.approx(math.log(8))
  assert unprm.step_entropy([-0.3]) == unprm.step_entropy([]) == 0
  assert unprm.step_entropy([0.0, -1e9]) == pytest.approx(0)


def test_uncertainty_is_the_mean_absolute_change():
  assert unprm.uncertainty([1.0, 3.0, 2.0]) == 1.5
  assert unprm.uncertainty([4.0]) == 0


def test_cosine_cuts_to_the_shorter():
  assert unprm.cosine([3, 4, 99], [3, 4]) == pytest.approx(1)
  assert unprm.cosine([1, 0], [0, 1]) == unprm.cosine([0], [5]) == 0


def test_choice_weighs_uncertainty_and_diversity():
  u, ids = [0.0, 1.0, 0.9, 0.8], [[1, 0], [1, 0], [1, 0], [0, 1]]
  assert unprm.choose(u, ids, 2, alpha=1.0) == [1, 2]
  assert unprm.choose(u, ids, 2, alpha=0.5) == [1, 3]
  assert unprm.choose(u, ids, 9, alpha=0.8) == [0, 1, 2, 3]
  assert unprm.choose([1.0, 1.0, 1.0], ids[1:], 1, 0.8) == [0]
  assert unprm.choose(u, ids, 0, alpha=1.0) == []


def test_solve_rate_is_weighted_by_perplexity():
  found = [*sampled(True, logprob=-2.0), *sampled(False, logprob=-4.0)]
  w = math.exp(-1), math.exp(-2)
  assert unprm.solve_rate(found) == pytest.approx(w[0] / sum(w))
  unknown = [Continuation('a', (), True, 2), Continuation('b', (), None, 2)]
  assert unprm.solve_rate(unknown) == 0.5
  assert unprm.solve_rate(unknown, 'drop') == 1
  assert unprm.solve_rate([]) is None
  assert unprm.solve_rate(unknown[1:]) == 0
  assert unprm.solve_rate(unknown[1:], 'drop') is None


@pytest.mark.parametrize(
  'n_wrong, expected', [(0, 16), (7, 16), (8, 24), (15, 24), (16, 32), (60, 72)]
)
def test_dynamic_number_of_rollouts(n_wrong, expected):
  """The tenth right probe stands at n_wrong + 9."""
  found = sampled(*[False] * n_wrong, *[True] * 12)
  assert unprm.n_rollouts(found, UnOptions()) == expected


def test_too_few_right_probes_skip_the_question():
  assert unprm.n_rollouts(sampled(*[True] * 10), UnOptions()) == 0
  assert unprm.n_rollouts(sampled(*[True] * 11), UnOptions()) == 16


def label(search, first_error, n=6, rate=0.9, **options):
  completer = Completer(n_steps=n, rate=rate)
  group = [solution(wrong(n, first_error), False, tokens=flat(n))]
  made = un_prm(UnOptions(search=search, **options))
  (labelled,) = drive(made, group, completer).labelled
  return labelled, [len(p) - 1 for p, _ in completer.asked[1:]]


def planted_rates(monkeypatch, first_error):
  """Steps before the error keep the question's rate exactly, later ones lose it."""
  monkeypatch.setattr(
    unprm, 'solve_rate', lambda found, unjudged: float(not found[0].id.count('dead'))
  )
  one = Completer.one

  def marked(self, ask, prefix, number):
    made = one(self, ask, prefix, number)
    dead = 'dead' if len(prefix) > first_error else 'alive'
    return Continuation(f'{dead}/{made.id}', made.steps, True, 3)

  monkeypatch.setattr(Completer, 'one', marked)


@pytest.mark.parametrize('search', ['sequential', 'binary', 'adaptive'])
@pytest.mark.parametrize('first_error', range(9))
def test_planted_first_error(monkeypatch, search, first_error):
  planted_rates(monkeypatch, first_error)
  labelled, asked = label(search, first_error, n=9)
  assert labelled.first_error == {'un_prm': first_error}
  held = labelled.labels['un_prm']
  assert held.values == tuple(float(t < first_error) for t in range(9))
  assert 8 not in asked and len(asked) == len(set(asked))
  assert len(asked) <= (8 if search == 'sequential' else 4)
  assert [r == 'verified' for r in held.stop_reason] == [t in asked for t in range(9)]
  assert all((n is None) == (t not in asked) for t, n in enumerate(held.n_rollouts))


@pytest.mark.parametrize(
  'rate, first', [(0.2, 2), (0.29, 2), (0.5, 3), (0.89, 3), (0.95, 4)]
)
def test_adaptive_first_middle(rate, first):
  """Seven verifiable steps: the middle, 3, moves by 6 // 4."""
  one = solution(wrong(8, 7), False)
  order = unprm._Order(one, rate, UnOptions(search='adaptive'))
  assert order.next() == first
  order.saw(first, False)
  assert order.next() == (first + 1 + 6) // 2


def test_uncertain_steps_first():
  probabilities = [(-1.0,), (-1.0,) * 4, (-1.0,) * 2, (-1.0,) * 8, (-1.0,)]
  one = solution(wrong(5, 4), False, tokens=tokens(*probabilities))
  for search, expected in (
    ('uncertainty', [3, 1, 2, 0]),
    ('uncertainty_change', [1, 3, 2]),
  ):
    order = unprm._Order(one, 0.5, UnOptions(search=search))
    seen = []
    while (at := order.next()) is not None:
      seen.append(at)
      order.saw(at, False)
    # H rises by log 4 into step 1 and into step 3: of equal ones the earlier first.
    assert seen == expected
    assert order.error == 4
    failing = unprm._Order(one, 0.5, UnOptions(search=search))
    at = failing.next()
    failing.saw(at, True)
    assert failing.error == at and failing.next() is None


def test_right_solutions_need_no_rollouts():
  completer = Completer()
  group = [solution(good(6), True, tokens=flat(6))]
  (labelled,) = drive(un_prm(), group, completer).labelled
  assert completer.asked == []
  assert labelled.labels['un_prm'].values == (1.0,) * 6
  assert labelled.first_error == {'un_prm': -1}


def test_single_step_is_its_own_error():
  labelled, asked = label('uncertainty', 0, n=1)
  assert labelled.labels['un_prm'].values == (0.0,) and asked == []
  assert labelled.first_error == {'un_prm': 0}


def test_reasons_to_skip():
  group = [
    solution(good(6), None, 0, tokens=flat(6)),
    solution(good(6), True, 1),
    solution((), False, 2),
    *(solution(wrong(6, 2), False, 3 + i, tokens=flat(6)) for i in range(9)),
  ]
  result = drive(un_prm(), group, Completer(rate=0.9))
  assert [x.skipped for x in result.labelled[:3]] == [
    'unparsed', 'no_logprobs', 'no_steps',
  ]  # fmt: skip
  assert [x.skipped for x in result.labelled[3:]].count('not_chosen') == 1
  result = drive(un_prm(), group, Completer(rate=0.0))
  assert {x.skipped for x in result.labelled[3:]} == {'all_wrong', 'not_chosen'}
  result = drive(un_prm(), group, Completer(rate=0.05))
  assert 'few_right' in {x.skipped for x in result.labelled[3:]}
  fixed = UnOptions(rollouts=48, choose=False, search='sequential')
  completer = Completer(rate=0.9)
  result = drive(un_prm(fixed), group, completer)
  assert {x.skipped for x in result.labelled[3:]} == {''}
  assert {k for _, k in completer.asked} == {48}
  facts = result.labelled[3].meta['un_prm']
  assert facts['k'] == 48 and 0 < facts['question_rate'] <= 1


def test_all_solutions_of_a_round_are_asked_together():
  group = [solution(wrong(6, 2), False, i, tokens=flat(6)) for i in range(4)]
  steps = un_prm()(group)
  completer = Completer(rate=0.9)
  asks = steps.send([completer(a) for a in next(steps)])
  assert [a.path_id for a in asks] == [t.id for t in group]


@pytest.mark.parametrize('bad', [{'search': 'x'}, {'n_chosen': 0}, {'temperature': 0}])
def test_bad_options(bad):
  with pytest.raises(UserError, match='label option'):
    UnOptions(**bad)
