"""Search algorithms a round at a time: what is asked next, worked out by hand."""

import numpy as np
import pytest

from prm_jax.search import options, particle, registry, resampling
from prm_jax.search.protocol import ROOT, Beam, Problem

PROBLEM = Problem('p', 'q')


def begun(name, **chosen):
  """The generator of an algorithm, and what it asks first."""
  steps = registry.build(name, chosen, kind='probability')[0](PROBLEM)
  return steps, next(steps)


def grown(number, *scores, parent=ROOT, ended=False, logprob=None):
  reason = 'end' if ended else 'step'
  logprobs = () if logprob is None else (logprob,)
  return Beam(number, parent, ('s',) * len(scores), scores, reason, 1, logprobs)


def asked(ask):
  return {e.beam: e.n for e in ask.expand}


def end(steps, answers):
  with pytest.raises(StopIteration) as stopped:
    steps.send(answers)
  return stopped.value.value


def test_a_place_without_weight_is_never_drawn():
  for scheme in resampling.SCHEMES.values():
    assert scheme(np.array([0.0, 1.0, 0.0]), np.zeros(2)).tolist() == [1, 1]


def test_incremental_weights_are_held_against_the_particle_s_own_past():
  steps, ask = begun(
    'particle', n=2, iterations=3, weights='incremental', reduction='last'
  )
  assert asked(ask) == {ROOT: 2}
  ask = steps.send([[grown(1, 1e-7), grown(2, 1 - 1e-7)]])
  assert asked(ask) == {2: 2}
  # Both come from beam 2, so the better of the two wins: log odds 0 against 13.8. Held
  # against beam 1's score the first would gain 32.
  both = [grown(3, 0.9, 0.5, parent=2), grown(4, 0.9, 1 - 1e-6, parent=2)]
  assert asked(steps.send([both])) == {4: 2}


def test_ended_particles_in_their_places_are_not_counted_among_those_to_draw():
  chosen = particle.ParticleOptions(n=4, finished='fixed', threshold=0.6)
  going = [True, True, False, False]
  args = (PROBLEM, (0, 0), np.zeros(4), going, False)
  assert particle._resample(chosen, *args) is None  # 2 of 2 are effective


def test_copies_of_a_particle_have_its_weight_each():
  steps, _ = begun('particle', n=4, iterations=1)
  answer = [grown(i, 0.5, ended=True) for i in (1, 2, 3, 4)]
  found = end(steps, [answer])
  assert [c.weight for c in found.candidates] == [0.25] * 4
  pool = [answer[0]] * 3 + answer[1:2]
  found = particle._outcome(particle.ParticleOptions(n=4), PROBLEM, pool)
  assert [(c.copies, c.weight) for c in found.candidates] == [(3, 0.75), (1, 0.25)]


def test_what_ended_by_itself_is_chosen_before_what_was_cut_off():
  cut = Beam(1, ROOT, ('s',), (0.9,), 'length')
  beams = [cut, grown(2, 0.1, ended=True)]
  found = options.outcome(PROBLEM, beams, options.scores_of(beams, 'last'))
  assert found.chosen == 1
  found = options.outcome(PROBLEM, beams[:1], np.array([0.9]))
  assert found.chosen == 0


def test_rebase_spends_what_ended_solutions_leave():
  steps, ask = begun('rebase', n=4)
  assert asked(ask) == {ROOT: 4}
  ended = [grown(1, 0.9, ended=True), grown(2, 0.1, ended=True)]
  ask = steps.send([[*ended, grown(3, 0.5), grown(4, 0.5)]])
  assert asked(ask) == {3: 1, 4: 1}


@pytest.mark.parametrize('prior, visits', [('policy', [2, 0]), ('uniform', [1, 1])])
def test_mcts_descends_by_its_prior(prior, visits):
  steps, ask = begun('mcts', simulations=2, width=2, depth=1, prior=prior)
  assert asked(ask) == {ROOT: 2} and ask.expand[0].whole  # the only step is the last
  likely = grown(1, 0.3, ended=True, logprob=-0.01)
  found = end(steps, [[likely, grown(2, 0.2, ended=True, logprob=-9.0)]])
  # Urgency after the first visit, c = 1.25: likely 0.3 + c P / 2, the other c P.
  assert [c.weight for c in found.candidates] == visits


def test_every_survivor_of_early_rejection_goes_on():
  steps, ask = begun('early_rejection', n=4, width=2, tau=3)
  assert asked(ask) == {ROOT: 4} and ask.expand[0].max_tokens == 3
  ask = steps.send([[grown(i, s) for i, s in ((1, 0.9), (2, 0.1), (3, 0.8), (4, 0.2))]])
  assert asked(ask) == {1: 2, 3: 2}  # whole within 3 tokens, so none is completed


def test_mcts_finishes_at_its_depth():
  steps, ask = begun('mcts', simulations=1, width=1, depth=2)
  assert not ask.expand[0].whole
  assert steps.send([[grown(1, 0.5)]]).expand[0].whole


def test_a_tree_of_dvts_ends_with_its_own_beams_alone():
  steps, ask = begun('dvts', n=4, width=2)
  assert asked(ask) == {ROOT: 4}
  ended = [grown(1, 0.9, ended=True), grown(4, 0.1, ended=True)]
  ask = steps.send([[ended[0], grown(2, 0.2), grown(3, 0.8), ended[1]]])
  assert asked(ask) == {3: 2}  # the first tree kept beam 1, the second beam 3
  last = [grown(5, 0.8, 0.7, parent=3, ended=True), grown(6, 0.8, 0.1, parent=3)]
  found = end(steps, [last])
  assert [c.beam for c in found.candidates] == [1, 5]
