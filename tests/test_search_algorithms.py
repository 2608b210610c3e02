"""Every search algorithm on trees that are written down."""

import dataclasses
import math

import pytest
import scripted_search as scripted

from prm_jax.errors import UserError
from prm_jax.inference.requests import Sampling
from prm_jax.search import driver, registry
from prm_jax.search.protocol import ROOT, Ask, Candidate, Expand, Outcome

SAMPLING = Sampling(max_tokens=200, seed=3)
EASY = {
  'best_of_n': {'n': 16, 'reduction': 'min'},
  'adaptive_n': {'most': 40},
  'greedy': {'width': 8},
  'beam': {'n': 8},
  'dvts': {'n': 16},
  # Greedy steps are bad ones: the last score tells nothing, the mean does.
  'lookahead': {'n': 8, 'reduction': 'mean'},
  'rebase': {'n': 12},
  'particle': {'n': 12},
  'mcts': {'simulations': 12},
  'early_rejection': {'n': 8, 'tau': 2},
  'pats': {},
  'adaptive_step': {'threshold': 0.8, 'width': 8},
}


def search(name, options=None, tree=None, value=scripted.all_good, n=1, **kinds):
  """Results and the two sessions."""
  policy = scripted.Policy(tree or scripted.good_and_bad())
  scorer = scripted.Scorer(value, kinds.pop('kind', 'probability'))
  algorithm, _ = registry.build(name, options or {}, kind=scorer.kind)
  results = driver.run(
    scripted.problems(n), algorithm, policy, scorer,
    kinds.pop('sampling', SAMPLING), name=name, keep_tree=True, **kinds,
  )  # fmt: skip
  return results, policy, scorer


def steps_of(result):
  return [t.steps for t in result.candidates]


@pytest.mark.parametrize('name', registry.ALGORITHMS)
def test_finds_the_good_path(name):
  """A right solution is 1 in 123; the scorer knows good steps."""
  results, _, scorer = search(name, EASY[name], n=6)
  right = [
    all(s.startswith('good') for s in r.candidates[r.chosen].steps) for r in results
  ]
  # Whole solutions are right too rarely for the first two.
  assert sum(right) >= (0 if name in ('best_of_n', 'adaptive_n') else 4), right
  for r in results:
    for t in r.candidates:
      assert len(t.steps) == 4 and t.meta['finish_reason'] == 'end'
      assert t.response == '\n'.join(t.steps)
      assert [t.response[a:b] for a, b in t.step_spans] == list(t.steps)
      values = t.scores['scripted_prm'].values
      expected = [scripted.all_good(t.steps[: i + 1]) for i in range(4)]
      assert values == pytest.approx(expected)
    assert r.counts['policy_read'] == len('question 0')
    assert r.counts['depth'] == 4 and r.counts['unscored'] == 0
    made = {e['id'] for e in r.tree}
    assert len(made) == r.counts['beams'] and {e['parent'] for e in r.tree} <= {
      ROOT, *made
    }  # fmt: skip
  assert {s for steps in scorer.seen for s in steps}


@pytest.mark.parametrize('name', registry.ALGORITHMS)
def test_company_changes_nothing(name):
  """A problem's result is the same alone and among others, counts and tree too."""
  together, _, _ = search(name, EASY[name], n=3)
  for i, problem in enumerate(scripted.problems(3)):
    policy = scripted.Policy(scripted.good_and_bad())
    scorer = scripted.Scorer(scripted.all_good)
    algorithm, _ = registry.build(name, EASY[name], kind='probability')
    alone = driver.run(
      [problem], algorithm, policy, scorer, SAMPLING, name=name, keep_tree=True
    )
    assert alone[0] == together[i]


def test_a_score_is_read_once_where_steps_are_kept():
  """Tokens read by the scorer are those of question and distinct new steps."""
  (r,), _, _ = search('beam', {'n': 4, 'width': 2})
  new = [s for e in r.tree for s in e['steps']]
  assert r.counts['prm_read'] == len('question 0') + sum(map(len, new))


def traps(steps):
  """The first step that scores best leads nowhere."""
  if not steps:
    return {'trap': 0.5, 'true': 0.5}
  return {'next': 1.0} if len(steps) < 3 else {'end$': 1.0}


def trap_value(steps):
  if steps[0] == 'trap':
    return 0.9 if len(steps) == 1 else 0.2
  return 0.6 if len(steps) == 1 else 0.8


@pytest.mark.parametrize('base', ['beam', 'dvts'])
def test_lookahead_decides(base):
  plain = {'n': 8, 'width': 8}
  (r,), _, _ = search(base, plain, traps, trap_value)
  assert {s[0] for s in steps_of(r)} == {'trap'}
  for k in (1, 3):
    options = {**plain, 'lookahead': k, 'base': base}
    (r,), policy, _ = search('lookahead', options, traps, trap_value)
    assert {s[0] for s in steps_of(r)} == {'true'}
    assert any(s.temperature == 0 for _, s in policy.calls)


def test_lookahead_steps_are_not_the_solution():
  """They are dropped: the kept step is continued by sampling, not by them."""

  def options(steps):
    if len(steps) < 2:
      return {'a': 0.4, 'b': 0.35, 'c': 0.25}
    return {'end$': 1.0}

  (r,), _, _ = search('lookahead', {'n': 12, 'width': 4}, options, lambda s: 0.5)
  assert len({s[1] for s in steps_of(r)}) > 1


def test_partial_steps_are_scored_as_text_and_completed():
  """Two letters tell good from bad; the others of a bad step are never written."""
  tree = scripted.good_and_bad(good=0.6)
  (r,), _, scorer = search('early_rejection', {'n': 8, 'tau': 2}, tree)
  partial = {s[-1] for s in scorer.seen if len(s[-1]) == 2}
  assert partial == {'go', 'ba'}
  assert all(s[0] == 'good0' for s in steps_of(r))
  whole = {s[-1] for s in scorer.seen if len(s) < 4 and len(s[-1]) > 2}
  assert whole == {'good0', 'good1', 'good2'}
  # The scorer reads a step anew when it is whole; the policy goes on with it.
  assert r.counts['policy_read'] == len('question 0')


def test_finished_particles_are_never_continued():
  """A solution of one step ends at once; the driver refuses to expand it."""

  def options(steps):
    if not steps:
      return {'done$': 0.5, 'on': 0.5}
    return {'on': 1.0} if len(steps) < 4 else {'end$': 1.0}

  for finished in ('pool', 'fixed'):
    chosen = {'n': 16, 'finished': finished}
    (r,), _, _ = search('particle', chosen, options, lambda s: 0.5)
    lengths = {len(s) for s in steps_of(r)}
    assert lengths == {1, 5}
    copies = [t.meta['search']['copies'] for t in r.candidates]
    assert sum(copies) == 16
    short = [c for c, s in zip(copies, steps_of(r)) if len(s) == 1]
    if finished == 'fixed':
      assert set(short) == {1}
    else:  # drawn again and again, some of them multiply
      assert max(short) > 1


def test_an_ended_beam_cannot_be_expanded():
  def wrong(problem):
    (beams,) = yield Ask((Expand(ROOT, whole=True),))
    yield Ask((Expand(beams[0].id),))
    return Outcome([Candidate(beams[0].id)])

  policy = scripted.Policy(scripted.good_and_bad())
  with pytest.raises(AssertionError, match='ended'):
    driver.run(scripted.problems(), wrong, policy, None, SAMPLING)


def test_particle_argmax_and_sample_differ():
  """Argmax takes the best final weight; sample follows the weights."""

  def options(steps):
    return {'low$': 0.5, 'high$': 0.5}

  value = lambda s: 0.7 if s[0] == 'high' else 0.5
  picks = {}
  for select in ('argmax', 'sample'):
    results, _, _ = search('particle', {'n': 8, 'select': select}, options, value, 40)
    picks[select] = [r.candidates[r.chosen].steps[0] for r in results]
  assert set(picks['argmax']) == {'high'}
  assert 20 < picks['sample'].count('high') < 40
  (r,), _, _ = search('particle', {'n': 8}, options, value)
  assert sum(t.meta['search']['weight'] for t in r.candidates) == pytest.approx(1)


def test_particle_thresholds_and_schemes():
  for scheme in ('systematic', 'stratified', 'residual'):
    for threshold in (0.0, 0.5, 1.0):
      for weights in ('current', 'incremental'):
        options = {'n': 6, 'scheme': scheme, 'threshold': threshold}
        (r,), _, _ = search('particle', {**options, 'weights': weights})
        assert sum(t.meta['search']['copies'] for t in r.candidates) == 6
        if threshold == 0:  # never resampled: six paths of their own
          assert len({e['parent'] for e in r.tree if len(e['steps']) == 1}) == 19


def test_particle_gibbs_keeps_its_reference():
  """The second sweep's first particle is one of the first sweep's, unchanged."""
  (r,), _, _ = search('particle', {'n': 4, 'gibbs': 3}, n=1)
  assert sum(t.meta['search']['copies'] for t in r.candidates) == 12
  # Sweeps 2 and 3 sample three particles, beside the reference.
  first = [e for e in r.tree if e['parent'] == ROOT]
  assert len(first) == 4 + 3 + 3


def test_equal_scores_are_drawn_among():
  """No algorithm takes the first of equals: choices vary over problems."""

  def options(steps):
    return {'end$': 1.0}

  for name in ('best_of_n', 'beam', 'rebase'):
    results, _, _ = search(name, {'n': 4}, options, lambda s: 0.5, n=40)
    chosen = [r.chosen for r in results]
    assert set(chosen) == {0, 1, 2, 3}
    assert max(map(chosen.count, range(4))) < 22


def test_rebase_widths_follow_scores():
  def options(steps):
    return {'good': 0.5, 'poor': 0.5} if not steps else {'end$': 1.0}

  value = lambda s: 0.9 if s[0] == 'good' else 0.1
  (r,), _, _ = search('rebase', {'n': 16}, options, value)
  assert len(r.candidates) == 16
  good = sum(s[0] == 'good' for s in steps_of(r))
  assert good >= 14  # exp(0.8 / 0.2) = 55 to 1


def test_mcts_backs_up_and_finishes():
  (r,), _, _ = search('mcts', {'simulations': 6, 'width': 3})
  assert r.candidates
  assert sum(t.meta['search']['weight'] for t in r.candidates) == 6
  (r,), _, _ = search('mcts', {'simulations': 2, 'value': 'node'})
  assert len(r.candidates) == 1  # never came to an end by itself
  (r,), _, _ = search('mcts', {'simulations': 30, 'value': 'node', 'rule': 'uct'})
  assert r.counts['depth'] == 4


def test_pats_modes_and_rejection():
  def options(steps):
    return {'s': 0.5, 't': 0.5} if len(steps) < 3 else {'end$': 1.0}

  (r,), _, _ = search('pats', {}, options, lambda s: 0.9)
  assert r.meta == {'modes': [2, 1, 0, 0], 'rejected': 0}
  (r,), _, _ = search('pats', {}, options, lambda s: 0.3)
  # Every step is written twice, then accepted.
  assert r.meta == {'modes': [2] * 8, 'rejected': 4}
  assert r.counts['policy_generated'] == 3 * 16 * 2 + 16 * 4
  (r,), _, _ = search('pats', {}, options, lambda s: 0.8)
  assert r.meta == {'modes': [2] * 4, 'rejected': 0}


def test_adaptive_step_chooses_only_unsure_tokens():
  """'same' is sure; whether 'xa' or 'xb' follows is decided at its second letter."""

  def options(steps):
    if len(steps) == 0:
      return {'same': 1.0}
    return {'xaaa': 0.6, 'xbbb': 0.4} if len(steps) == 1 else {'end$': 1.0}

  value = lambda s: 0.9 if any('b' in x for x in s) else 0.5
  (r,), _, scorer = search(
    'adaptive_step', {'threshold': 0.7, 'width': 8}, options, value
  )
  assert steps_of(r) == [('same', 'xbbb', 'end')]
  assert r.meta == {'choices': 1}
  assert {s[-1] for s in scorer.seen if s[-1].startswith('x')} == {'xa', 'xb', 'xbbb'}
  assert r.counts['policy_overrun'] == len('aaa\n')
  # 'same\n', 'xaaa\n', 8 letters, 'bb\n', 'end$'
  assert r.counts['policy_generated'] == 5 + 5 + 8 + 3 + 4
  assert r.candidates[0].meta['n_tokens'] == len('same\nxbbb\nend$')


def test_adaptive_n_follows_the_first_scores():
  for score, n in ((0.999, 4), (0.5, 7), (0.2, 21), (0.001, 64)):
    (r,), _, _ = search('adaptive_n', {}, value=lambda s, v=score: v)
    assert r.meta['n'] == n == len(r.candidates)


def test_limits_end_solutions():
  """Long steps and long solutions are cut off, kept, and not chosen if avoidable."""

  def options(steps):
    if not steps:
      return {'long' * 8: 0.5, 'short': 0.5}
    return {'more': 1.0} if steps[0] != 'short' else {'end$': 1.0}

  (r,), _, _ = search('beam', {'n': 8}, options, lambda s: 0.5, step_tokens=20)
  reasons = {t.steps[0][:5]: t.meta['finish_reason'] for t in r.candidates}
  assert reasons == {'longl': 'length', 'short': 'end'}
  assert r.candidates[r.chosen].steps[0] == 'short'
  sampling = dataclasses.replace(SAMPLING, max_tokens=50)
  endless = lambda steps: {'more': 1.0}
  (r,), _, _ = search('beam', {'n': 2, 'width': 2}, endless, sampling=sampling)
  assert {t.meta['n_tokens'] for t in r.candidates} == {50}
  (r,), policy, _ = search('beam', {'n': 2, 'width': 2, 'iterations': 3}, endless)
  assert policy.calls[-1][1].stop == () and r.counts['rounds'] == 3


@pytest.mark.parametrize(
  'name, options, over',
  [
    ('early_rejection', {'n': 4, 'width': 2, 'tau': 4}, 0),
    ('early_rejection', {'n': 4, 'width': 2, 'tau': 9}, 0),
    ('adaptive_step', {'threshold': 0.7, 'width': 2}, 1),
  ],
)
def test_an_open_step_is_no_longer_than_other_steps_may_be(name, options, over):
  """The limit is of the step, in however many pieces it is written."""
  tree = lambda steps: {f'123{c}567': p for c, p in (('a', 0.6), ('b', 0.4))}
  for limit, whole in ((6, False), (8, True)):  # 7 tokens and the separator
    (r,), _, _ = search(
      name, options, tree, lambda s: 0.5, step_tokens=limit,
      sampling=dataclasses.replace(SAMPLING, max_tokens=30),
    )  # fmt: skip
    for t in r.candidates:
      assert t.meta['finish_reason'] == 'length'
      assert (t.n_steps > 1) == whole and (whole or len(t.steps[0]) <= limit + over)


def test_an_empty_step_ends_a_solution():
  def options(steps):
    return {'one': 1.0} if not steps else {' ': 1.0}

  (r,), _, _ = search('greedy', {'width': 2}, options)
  assert steps_of(r) == [('one',)] and r.counts['empty_steps'] == 2
  assert r.candidates[0].scores['scripted_prm'].values == pytest.approx((0.1,))
  assert r.candidates[0].meta['finish_reason'] == 'end'


class Reading(scripted.Policy):
  """Reads one token for each beam that it writes, and notes the keys."""

  def step(self, state, n, sampling, keys):
    self.keys = [*getattr(self, 'keys', []), *keys]
    state, answers = super().step(state, n, sampling, keys)
    return scripted.Rows(state.rows, [1] * len(state)), answers


def test_a_beam_expanded_again_draws_other_samples_and_all_that_is_read_counts():
  policy, scorer = Reading(scripted.good_and_bad()), scripted.Scorer(lambda s: 0.001)
  algorithm, _ = registry.build('adaptive_n', {'most': 5}, kind='probability')
  (r,) = driver.run(scripted.problems(1), algorithm, policy, scorer, SAMPLING)
  root = policy.keys[0][0]
  assert [first for name, first in policy.keys if name == root] == [0, 4]
  # The question, four first steps, their ends, and a fifth solution.
  assert r.counts['policy_read'] == len(r.candidates[0].question) + 4 + 4 + 1


def test_a_step_without_a_score_is_counted_once():
  value = lambda s: math.nan if len(s) == 1 else 0.5
  (r,), _, _ = search('greedy', {'width': 1}, value=value)
  assert r.counts['beams'] == 4 and r.counts['unscored'] == 1


def test_refusals():
  """A full context ends a beam; a question that fills it, the problem."""
  policy = scripted.Policy(scripted.good_and_bad(), longest=8)
  algorithm, _ = registry.build('beam', {'n': 4}, kind='probability')
  scorer = scripted.Scorer(scripted.all_good)
  (r,) = driver.run(scripted.problems(), algorithm, policy, scorer, SAMPLING)
  assert r.counts['refused'] and {t.n_steps for t in r.candidates} == {2}
  assert {t.meta['finish_reason'] for t in r.candidates} == {'length'}
  policy.longest = 0
  (r,) = driver.run(scripted.problems(), algorithm, policy, scorer, SAMPLING)
  assert r.skipped == 'too_long' and not r.candidates and r.chosen is None


@pytest.mark.parametrize(
  'name, options',
  [
    ('early_rejection', {'n': 4, 'width': 2, 'tau': 3}),
    ('adaptive_step', {'threshold': 0.8, 'width': 2}),
  ],
)
def test_an_open_step_that_fills_the_context_keeps_its_score(name, options):
  """It was read after the steps before it, not after the question."""
  value = lambda steps: len(steps) / 10
  refused = 0
  for longest in range(8, 20):
    policy = scripted.Policy(scripted.good_and_bad(), longest)
    algorithm, _ = registry.build(name, options, kind='probability')
    scorer = scripted.Scorer(value)
    (r,) = driver.run(scripted.problems(), algorithm, policy, scorer, SAMPLING)
    refused += r.counts.get('refused', 0)
    for t in r.candidates:
      right = [value(t.steps[: i + 1]) for i in range(t.n_steps)]
      assert t.scores['scripted_prm'].values == pytest.approx(right)
  assert refused


@pytest.mark.filterwarnings('error')
def test_particles_that_are_not_scored_are_all_alike():
  """Also where weights are ratios to a score that there was none of."""
  (r,), _, _ = search(
    'particle', {'n': 4, 'weights': 'incremental'}, value=lambda s: math.nan
  )
  assert sum(t.meta['search']['copies'] for t in r.candidates) == 4
  for t in r.candidates:
    assert t.meta['search']['weight'] == t.meta['search']['copies'] / 4


def test_unscored_steps_rank_last_and_are_counted():
  value = lambda s: math.nan if s[0] == 'bad0' else 0.2
  (r,), _, _ = search('beam', {'n': 8}, value=value)
  assert {s[0] for s in steps_of(r)} == {'good0'}
  assert r.counts['unscored'] > 0
  (r,), _, _ = search('best_of_n', {'n': 3}, value=lambda s: math.nan)
  assert r.candidates[0].scores['scripted_prm'].values == (None,) * 4


def test_best_of_n_without_a_scorer():
  algorithm, _ = registry.build('best_of_n', {'n': 3}, kind=None)
  policy = scripted.Policy(scripted.good_and_bad())
  (r,) = driver.run(scripted.problems(), algorithm, policy, None, SAMPLING)
  assert len(r.candidates) == 3 and r.candidates[0].scores == {}


def test_mistakes_are_named():
  for name, options, kind, words in (
    ('beams', {}, 'probability', 'unknown; choose one of'),
    ('beam', {'breadth': 3}, 'probability', "no option 'breadth'"),
    ('beam', {'n': 10}, 'probability', 'no multiple of width=4'),
    ('beam', {}, None, 'name a scorer'),
    ('pats', {}, 'logit', 'calibrate'),
    ('particle', {'scheme': 'best'}, 'logit', "scheme='best'"),
    ('particle', {'gibbs': 2, 'n': 1}, 'logit', 'must be 2 or more'),
    ('pats', {'low': 0.9}, 'probability', 'high=0.85'),
    ('adaptive_n', {'confidence': 1.0}, 'probability', 'between 0 and 1'),
    ('beam', {'reduction': 'sum'}, 'probability', "reduction='sum'"),
    ('beam', {'reduction': 2}, 'probability', 'reduction=2 must be a text'),
    ('beam', {'reduction': 'product'}, 'logit', "'product' needs probabilities"),
    ('beam', {'n': 8.0}, 'probability', 'n=8.0 must be a whole number'),
    ('best_of_n', {'n': True}, None, 'n=True must be a whole number'),
    ('particle', {'n': 2.5}, 'logit', 'n=2.5 must be a whole number'),
    ('particle', {'threshold': 2}, 'logit', 'threshold=2 must be 1 or less'),
    ('particle', {'temperature': True}, 'logit', 'True must be a number'),
    ('rebase', {'temperature': float('inf')}, 'logit', 'inf must be a number'),
    ('mcts', {'simulations': 1.5}, 'probability', 'simulations=1.5 must be a whole'),
    ('early_rejection', {'tau': 1.5}, 'logit', 'tau=1.5 must be a whole number'),
    ('adaptive_n', {'quantile': 1.5}, 'probability', 'quantile=1.5 must be 1 or'),
    ('pats', {'widths': (2.5, 4, 8)}, 'probability', 'a whole number at each place'),
    ('pats', {'widths': 2}, 'probability', 'widths=2 must be a tuple'),
    ('pats', {'widths': (1, 2, 4, 8)}, 'probability', 'a tuple of 3'),
    ('pats', {'widths': ()}, 'probability', 'a tuple of 3'),
  ):
    with pytest.raises(UserError, match=words):
      registry.build(name, options, kind=kind)
  policy = scripted.Policy(scripted.good_and_bad())
  algorithm, _ = registry.build('best_of_n', {}, kind=None)
  with pytest.raises(UserError, match='stops at the separator'):
    driver.run(
      scripted.problems(), algorithm, policy, None, Sampling(stop=('Question',))
    )
  with pytest.raises(UserError, match='twice'):
    driver.run(scripted.problems() * 2, algorithm, policy, None, SAMPLING)
