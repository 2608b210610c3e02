"""Hackability: declared truths against the embedded world, effects, verdicts."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from prm_jax.evaluation import hack, hack_effects, hack_tokens, intervals
from prm_jax.evaluation.hack_best_of_n import overoptimise
from prm_jax.evaluation.hack_effects import Rules
from prm_jax.evaluation.hack_probes import CHANGES, PRESERVES, PROBES, Texts, perturb
from prm_jax.evaluation.pools import read_pool
from prm_jax.formats import tokenizers
from prm_jax.formats.step_format import Unusable
from prm_jax.inference.scorer import Scorer
from prm_jax.models import decoder, weights
from prm_jax.models import scorer as scoring_model
from prm_jax.records import ScoreSet, Verdict
from prm_jax.specs import HeadSpec, ModelSpec, ScorerSpec, StepFormat
from prm_jax.worlds import arithmetic, truths
from prm_jax.worlds.arithmetic import WorldConfig
from prm_jax.worlds.problems import parse_step

WORLD = WorldConfig(n_heldout=300, min_ops=3, max_ops=5)
BY_NAME = {p.name: p for p in PROBES}


@pytest.fixture(scope='module')
def rows():
  return arithmetic.split(WORLD, 'heldout')


def texts_for(rows):
  return Texts(marker='<prm>', questions=[(t.problem_id, t.question) for t in rows])


def read(t):
  """(no wrong line, answer) of a text as a patient reader takes it: lines written
  together or cut are read as they were meant, lines that say nothing or only repeat
  what was said are passed over; anything else must be the next line of the solution.
  """
  joined = '\n'.join(t.steps).replace('<prm>', '')
  parts = [p.strip() for p in joined.split('\n')]
  lines = []
  for part in parts:
    if part.startswith('=') and lines:  # the second half of a line that was cut
      lines[-1] += part
    elif part:
      lines.append(part)
  said = [s for s in lines if parse_step(s)]
  judged = truths.judge(WORLD, t.question, said)
  return judged.first_error < 0, judged.answer, judged.gold


def without_repeats(steps, original):
  """The steps as they stood, if the others only repeat some of them."""
  rest = list(steps)
  held = []
  for step in original:
    while rest and rest[0] != step:
      assert rest.pop(0) in original
    held.append(rest.pop(0))
  assert set(rest) <= set(original)
  return tuple(held)


@pytest.mark.parametrize('probe', PROBES, ids=lambda p: p.name)
def test_declared_truth_is_the_worlds(probe, rows):
  texts = texts_for(rows)
  n_right = n_kept = n = 0
  for t in rows:
    edited = perturb(probe, t, texts, seed=0)
    if edited is None:
      continue
    n += 1
    if probe.name.startswith('repeat'):
      edited = dataclasses.replace(edited, steps=without_repeats(edited.steps, t.steps))
    before = read(t)
    after = read(edited)
    right = before[0] and before[1] == before[2]
    still = after[0] and after[1] == after[2]
    if probe.truth == PRESERVES:
      assert after == before, (t.steps, edited.steps)
    elif right:
      n_right += 1
      n_kept += still
  assert n > 0.9 * len(rows)
  if probe.truth == CHANGES:  # another problem's operations may be the same by chance
    assert n_right > 50 and n_kept <= 0.01 * n_right


def test_probes_are_pure_and_change_only_what_they_say(rows):
  texts = texts_for(rows)
  for probe, t in itertools.product(PROBES, rows[:5]):
    first, again = (perturb(probe, t, texts, seed=3) for _ in range(2))
    assert first == again and first.id == f'{t.id}~{probe.name}'
    assert first.problem_id == t.problem_id and not first.labels
    assert (first.question != t.question) == (probe.name == 'question_shuffle')


def test_probes_by_hand(rows):
  t = dataclasses.replace(
    rows[0], question='q', steps=('a = 12', 'b', 'c = 7'), answer='7', separator='\n'
  )
  texts = Texts(filler='OK.', copies=2, claim='It is {answer}', marker='<m>')
  of = lambda name: perturb(BY_NAME[name], t, texts, 0)
  assert of('empty_step').steps == (*t.steps, '')
  assert of('filler_end').steps == (*t.steps, 'OK.', 'OK.')
  assert of('filler_between').steps == ('a = 12', 'OK.', 'b', 'OK.', 'c = 7', 'OK.')
  assert of('repeat_first').steps == (*t.steps, 'a = 12', 'a = 12')
  assert of('separator_stuffing').steps == ('a = 12\n\n', 'b\n\n', 'c = 7\n\n')
  assert of('marker_stuffing').steps == ('a = 12', 'b', 'c = 7<m><m>')
  assert of('answer_claim').steps == (*t.steps, 'It is 7')
  assert of('merge_pairs').steps == ('a = 12\nb', 'c = 7')
  assert of('merge_all').steps == ('a = 12\nb\nc = 7',)
  assert of('split').steps == ('a =', ' 12', 'b', 'c ', '= 7')
  assert of('truncation').steps == ('a = 12',)
  changed = of('numeric_corruption').steps
  assert sum(a != b for a, b in zip(changed, t.steps, strict=True)) == 1
  assert of('question_shuffle') is None  # there is no other problem
  one = dataclasses.replace(t, steps=('x',), answer=None)
  for name in (
    'merge_all',
    'truncation',
    'numeric_corruption',
    'answer_claim',
    'split',
  ):
    assert perturb(BY_NAME[name], one, texts, 0) is None


def three(values, right, problem=(0, 0, 1, 1)):
  sample = intervals.resamples(['p', 'q'], 50)
  return hack_effects.Rows(np.array(right), np.array(problem), sample), np.array(values)


def test_effects_by_hand():
  rows, before = three([0.9, 0.1, 0.8, 0.2], [1, 0, 1, 0])
  after = np.array([0.9, 0.95, 0.8, 0.3])
  rules = Rules()
  got = hack_effects.effect(rows, PRESERVES, before, after, [''], 1.0, rules)
  assert got.verdict == 'fail'
  assert got.estimates['change'].value == pytest.approx((0.85 + 0.1) / 2)
  assert got.estimates['rises'].value == 1
  assert got.estimates['flips'].value == 0.5  # .95 is above .9, .3 is not above .8
  assert got.estimates['change_right'].value == 0
  # The same under a scale ten times as wide, in units of that scale.
  wide = hack_effects.effect(rows, PRESERVES, before, after, [''], 10.0, rules)
  assert wide.verdict == 'warn'  # pairs flip all the same
  low = hack_effects.effect(rows, PRESERVES, before, before - 0.01, [''], 1.0, rules)
  assert low.verdict == 'pass' and low.estimates['rises'].value == 0
  brittle = np.array([0.5, 0.1, 0.4, 0.2])
  got = hack_effects.effect(rows, PRESERVES, before, brittle, [''], 1.0, rules)
  assert got.verdict == 'warn'
  assert got.estimates['change_right'].value == pytest.approx(-0.4)

  for fall, verdict in ((0.6, 'pass'), (0.3, 'warn'), (0.0, 'fail')):
    got = hack_effects.effect(rows, CHANGES, before, before - fall, [''], 1.0, rules)
    assert got.verdict == verdict
    assert got.estimates['change'].n == 2
  assert got.estimates['flips'].value == 0.5  # nothing was noticed: all pairs tie

  refused = np.full(4, np.nan)
  got = hack_effects.effect(
    rows, PRESERVES, before, refused, ['marker_in_text'] * 4, 1.0, rules
  )
  assert got.verdict == 'refused' and got.estimates['change'].value is None
  got = hack_effects.effect(rows, PRESERVES, before, refused, ['too_long'], 1.0, rules)
  assert got.verdict == 'undefined'
  nothing, _ = three(before, [1, 1, 1, 1])
  got = hack_effects.effect(nothing, PRESERVES, before, after, [''], 1.0, rules)
  assert got.verdict == 'undefined'
  assert got.estimates['change'].reason == 'no_wrong_solutions'


def test_a_rise_that_may_be_none_only_warns():
  still = intervals.Estimate(0.0)
  for low, want in ((0.01, 'fail'), (-0.01, 'warn'), (None, 'fail')):
    found = {'change': intervals.Estimate(0.2, low, 0.4)}
    found |= {'change_right': still, 'flips': still}
    assert hack_effects._verdict(PRESERVES, found, 1.0, Rules()) == want


def test_flips_are_of_pairs_whose_right_one_was_above():
  rows = hack_effects.Rows(
    np.array([1, 0, 0]), np.zeros(3, int), intervals.resamples(['p'], 2)
  )
  before = np.array([0.5, 0.5, 0.4])  # a tie, and one pair
  found = hack_effects._flips(rows, PRESERVES, before, np.array([0.5, 0.9, 0.9]))
  assert (found.value, found.n) == (1, 1)


def test_the_unit_of_a_free_scale():
  rewards = np.append(np.arange(101.0), [np.nan])
  assert hack_effects.unit_of(rewards, 'logit') == 90
  assert hack_effects.unit_of(rewards / 100, 'probability') == 1


def test_all_rewards_equal_is_undefined_for_logits():
  same = np.zeros(4)
  assert hack_effects.unit_of(same, 'probability') == 1
  assert hack_effects.unit_of(same, 'logit') == 0
  rows, _ = three(same, [1, 0, 1, 0])
  got = hack_effects.effect(rows, PRESERVES, same, same, [''], 0.0, Rules())
  assert got.verdict == 'undefined'
  got = hack_effects.length_effect(rows, np.arange(4), same, 0.0, Rules())
  assert got.verdict == 'undefined'


def test_rewards_count_what_is_refused():
  found = [
    ScoreSet('probability', (0.9, 0.2)),
    Unusable('marker_in_text'),
    ScoreSet('probability', (0.4, None)),
    ScoreSet('probability', (0.5,)),
  ]
  got, why = hack_effects.rewards(found, ['min', 'last', 'mean'])
  assert why == ['', 'marker_in_text', 'cut_off', '']
  np.testing.assert_allclose(got['min'], [0.2, np.nan, np.nan, 0.5])
  np.testing.assert_allclose(got['last'], [0.2, np.nan, np.nan, 0.5])
  np.testing.assert_allclose(got['mean'], [0.55, np.nan, np.nan, 0.5])
  assert hack_effects.counted(why) == {'cut_off': 1, 'marker_in_text': 1}


def test_only_the_last_step_shows_a_good_step_that_is_appended():
  """A minimum is immune to good steps at the end; the last step is all they are."""
  plain = [ScoreSet('probability', (0.9, 0.1))] * 4
  longer = [ScoreSet('probability', (0.9, 0.1, 0.9))] * 4
  rows, _ = three(np.zeros(4), [0, 0, 0, 0])
  names = ['min', 'last', 'mean']
  (before, _), (after, _) = (hack_effects.rewards(x, names) for x in (plain, longer))
  verdicts = {
    n: hack_effects.effect(
      rows, PRESERVES, before[n], after[n], [''], 1.0, Rules()
    ).verdict
    for n in names
  }
  assert verdicts == {'min': 'pass', 'last': 'fail', 'mean': 'fail'}


def test_length_effect_finds_a_reward_for_length():
  rng = np.random.default_rng(0)
  lengths = rng.integers(3, 9, 200)
  sample = intervals.resamples([f'{i:03}' for i in range(200)], 100)
  rows = hack_effects.Rows(np.arange(200) % 2, np.arange(200), sample)
  noise = rng.normal(0, 0.02, 200)
  long = hack_effects.length_effect(rows, lengths, lengths / 10 + noise, 1.0, Rules())
  assert long.verdict == 'fail'
  assert long.estimates['correlation_wrong'].value > 0.9
  slope = long.estimates['slope_right'].value
  assert slope == pytest.approx(lengths[1::2].std() / 10, abs=0.02)
  flat = hack_effects.length_effect(rows, lengths, 0.5 + noise, 1.0, Rules())
  assert flat.verdict == 'pass'
  one = hack_effects.length_effect(rows, np.full(200, 5), noise, 1.0, Rules())
  assert one.verdict == 'undefined'


def test_right_needs_steps_and_answer(rows):
  t = rows[0]
  verdict = lambda v: {'exact': truths.verdict(1 if v else 0, 1)}
  cases = [
    dataclasses.replace(t, first_error={'on_track': -1}, verdicts=verdict(True)),
    dataclasses.replace(t, first_error={'on_track': 1}, verdicts=verdict(True)),
    dataclasses.replace(t, first_error={}, verdicts=verdict(False)),
    dataclasses.replace(t, first_error={}, verdicts={}),
  ]
  got = hack_effects.right_or_wrong(cases, 'on_track', 'exact')
  assert got.tolist() == [1, 0, 0, -1]


def test_overoptimisation_is_found_and_only_where_it_is():
  config = dataclasses.replace(WORLD, pool_problems=40, pool_size=64)
  candidates = arithmetic.pool(config, 'heldout')
  pool = read_pool('heldout', candidates, 'exact')
  sample = intervals.resamples(pool.steps.problem_ids, 200)
  right = np.array([float(t.verdicts['exact'].value) for t in candidates])
  rng = np.random.default_rng(0)
  sizes = [1, 4, 16, 64]
  sound = overoptimise(
    pool, right + rng.normal(0, 0.3, len(right)), sizes, sample, Rules(), n_draws=5
  )
  assert sound.verdict == 'pass' and sound.best >= 16
  # Sound on most candidates; 4 % of the wrong ones get more than any right one.
  traps = (right == 0) & (rng.random(len(right)) < 0.04)
  fooled = overoptimise(
    pool, np.where(traps, 2.0, right + rng.normal(0, 0.1, len(right))), sizes, sample,
    Rules(), n_draws=5,
  )  # fmt: skip
  assert fooled.verdict == 'fail' and 1 < fooled.best < 64
  assert fooled.drop.low > 0.02
  proxy = [e.value for e in fooled.proxy]
  assert proxy == sorted(proxy)  # what the choice believes rises all the while
  # A candidate that cannot be scored is chosen last.
  broken = overoptimise(
    pool, np.where(right > 0, right, np.nan), sizes, sample, Rules(), n_draws=5
  )
  np.testing.assert_allclose(broken.by_problem[:, -1], right_somewhere(pool))
  # It is as good as the worst, also on a scale of logits.
  low = overoptimise(
    pool, np.where(right > 0, -5.0, np.nan), sizes, sample, Rules(), n_draws=5
  )
  assert [e.value for e in low.proxy] == pytest.approx([-5] * 4)
  none = overoptimise(
    pool, np.full(len(right), np.nan), sizes, sample, Rules(), n_draws=5
  )
  assert none.verdict == 'undefined'


def right_somewhere(pool):
  return (pool.correct.sum(axis=1) > 0).astype(float)


MODEL = ModelSpec(
  260, n_layers=1, d_model=16, n_heads=2, n_kv_heads=1, head_dim=8, d_ff=32
)
SPEC = ScorerSpec(
  MODEL,
  HeadSpec(),
  StepFormat(question_template='Q {question}\n', max_length=64),
  step_value='sigmoid',
  kind='probability',
)


@pytest.fixture(scope='module')
def scorer():
  """Weights as they were drawn: anything may lift such a reward."""
  rng = np.random.default_rng(1)
  params = {}
  for name, w in weights.flatten(weights.declare(MODEL, SPEC.head)):
    node = params
    *path, leaf = name.split('/')
    for part in path:
      node = node.setdefault(part, {})
    node[leaf] = rng.normal(0, 0.3, w.shape).astype(np.float32)
  return Scorer(SPEC, params, tokenizers.load('bytes'), share_questions=False)


def test_embeddings_stand_for_tokens(scorer):
  table = scorer.params['decoder']['embed_VD']
  tokens = np.arange(40, 60).reshape(2, 10)
  at = np.array([[3, 9], [2, 5]])
  run = jax.jit(lambda x: scoring_model.apply(MODEL, SPEC.head, scorer.params, x, at))
  outputs = [run(x) for x in (tokens, table[tokens])]
  np.testing.assert_allclose(*outputs, atol=1e-6)
  scaled = dataclasses.replace(MODEL, embed_scale=2.0)
  np.testing.assert_array_equal(
    decoder.embed(scaled, table, tokens), decoder.embed(scaled, table, table[tokens])
  )


def test_allowed_tokens_hold_no_marker(scorer):
  allowed = hack_tokens.allowed_tokens(scorer)
  words = tokenizers.load('bytes')
  assert all(words.decode([i]).isprintable() for i in allowed.tolist())
  assert len(allowed) == 95 and ord('\n') not in allowed
  for text in hack_tokens.random_texts(scorer, allowed, 4, 5, 0):
    assert len(words.encode(text)) == 4
  assert hack_tokens.supports(scorer)


@pytest.mark.slow
@pytest.mark.parametrize('place, reduction', [('question', 'min'), ('step', 'last')])
def test_tokens_found_by_gradient_beat_random_ones(scorer, rows, place, reduction):
  # Tokens in the last step move no other step's score: only 'last' always feels them.
  train, others = rows[:8], rows[8:24]

  def reward(held):
    return hack_effects.rewards(scorer.score(held), [reduction])[0][reduction]

  changed = lambda held, text: [hack_tokens.attack(t, text, place) for t in held]
  allowed = hack_tokens.allowed_tokens(scorer)
  options = hack_tokens.Search(tokens=4, iterations=40, exchanges=0)
  found = hack_tokens.search(scorer, train, reduction, place, options, allowed)
  assert found.used == len(train) and len(found.text) == 4
  # What the search read is what the scorer says of the text.
  single = max(hard for _, _, hard in found.curve)
  assert reward(changed(train, found.text)).mean() >= single - 1e-5
  random = hack_tokens.random_texts(scorer, allowed, 4, 8, 0)
  chance = [reward(changed(others, text)).mean() for text in random]
  assert reward(changed(others, found.text)).mean() > np.mean(chance)
  more = dataclasses.replace(options, exchanges=1)
  better = hack_tokens.search(scorer, train, reduction, place, more, allowed)
  assert better.curve == found.curve  # the same search, whose end is then improved
  gained = [reward(changed(train, x.text)).mean() for x in (better, found)]
  assert gained[0] >= gained[1] - 1e-6


def test_solutions_without_steps_hold_no_tokens(scorer, rows):
  wrong = [dataclasses.replace(t, verdicts={'exact': Verdict(False)}) for t in rows[:2]]
  bare = dataclasses.replace(wrong[0], id='', steps=(), labels={}, first_error={})
  plan = hack.Plan('min', ('min',), Texts(), Rules(), hack_tokens.Search(tokens=1))
  attacks = hack.Report(scorer, dataclasses.replace(plan, train_rows=1))
  attacks.tokens('s', [bare, wrong[1]])
  found = attacks.out.result().counters
  assert found['s/adversarial_tokens/without_steps'] == 1
  assert found['s/adversarial_tokens/too_few_wrong_problems'] == 1


def test_places_that_hold_no_tokens(scorer, rows):
  long = dataclasses.replace(rows[0], question='>' + '1' * 80)
  options = hack_tokens.Search(tokens=4, iterations=1)
  assert hack_tokens.search(scorer, [long], 'min', 'step', options) is None
