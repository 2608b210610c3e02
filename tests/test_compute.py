"""FLOPs by hand, the majority vote at equal compute, final rules, bank rules."""

import itertools

import numpy as np
import pytest
from evaluation_cases import candidate

from prm_jax.evaluation import banks, compute, curves, intervals, pools
from prm_jax.evaluation.banks import Rule, Voter
from prm_jax.evaluation.compute import Line, Method, Prices
from prm_jax.jobs.bank import SCORED
from prm_jax.models import lm
from prm_jax.search import finals, votes
from prm_jax.specs import HeadSpec, ModelSpec

# Two problems, four candidates: (score, right, answer).
POOL = {
  'a': [(0.9, True, '1'), (0.8, False, '2'), (0.7, False, '2'), (0.2, True, '1')],
  'b': [(0.5, False, '3'), (0.5, True, '4'), (0.4, False, None), (0.1, True, '4')],
}


def held_pool(rows=POOL):
  made = [
    candidate(p, i, [s], right, answer)
    for p, some in rows.items()
    for i, (s, right, answer) in enumerate(some)
  ]
  scores = np.array([s for some in rows.values() for s, _, _ in some])
  return pools.read_pool('pool', made, 'exact'), scores


def method(name, right, flops, guided=True):
  right = np.asarray(right, float)
  flops = np.broadcast_to(np.asarray(flops, float), right.shape)
  return Method(name, right, flops, flops, flops, guided)


def majority(right, costs):
  some = [method(f'm{n}', r, c, False) for n, (r, c) in enumerate(zip(right, costs), 1)]
  return Line('majority', tuple(range(1, len(some) + 1)), tuple(some))


def test_parameters_and_flops_by_hand():
  spec = ModelSpec(10, n_layers=2, d_model=4, n_heads=2, n_kv_heads=1, head_dim=6,
                   d_ff=5)  # fmt: skip
  # A layer: q and o 4 x 12, k and v 4 x 6, three of 4 x 5.
  layers = 2 * (2 * 48 + 2 * 24 + 3 * 20)
  assert compute.parameters(spec, HeadSpec()) == layers
  assert compute.parameters(spec, lm.HEAD) == layers + 10 * 4
  counts = {'policy_generated': 7, 'policy_read': 3, 'prm_read': 11}
  assert Prices(100, 10).flops(counts) == 2 * 100 * 10 + 2 * 10 * 11
  assert Prices(None, 10).flops(counts) is None
  assert Prices(100, None).flops(counts) is None
  assert Prices(100, None).flops({'policy_generated': 7}) == 1400


def test_majority_is_mixed_to_exactly_the_same_cost():
  line = majority([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0]], [10, 20, 30])
  found = compute.at_equal_compute(method('s', [1, 1], [10, 15]), line)  # mean 12.5
  assert found.n == 1.25
  np.testing.assert_allclose(found.right, [0.25, 1.0])
  exact = compute.at_equal_compute(method('s', [1, 1], 30), line)
  assert exact.n == 3 and exact.right.tolist() == [1.0, 0.0]
  cheap = compute.at_equal_compute(method('s', [1, 1], 1), line)
  assert cheap.n == 1
  beyond = compute.at_equal_compute(method('s', [1, 1], 31), line)
  assert beyond.n is None and np.isnan(beyond.right).all()
  unknown = compute.at_equal_compute(method('s', [1, 1], np.nan), line)
  assert unknown.n is None


def test_chosen_alone_and_the_others_corrected():
  rng = np.random.default_rng(0)
  base = rng.random(200)
  line = majority([base, base], [10, 20])
  good = method('good', base + 0.1 + 0.1 * rng.random(200), 15)
  same = method('same', base, 15)
  bad = method('bad', base - 0.1 - 0.1 * rng.random(200), 15)
  dear = method('dear', base + 0.5, 25)
  blind = method('blind', base + 0.3, 15, guided=False)
  methods = [same, good, bad, dear, blind]
  lucky = method('lucky', base + 20.0 * (np.arange(200) % 40 == 0), 15)
  assert (lucky.right - base).mean() > (good.right - base).mean()
  assert compute.choose([lucky, *methods], line) == 'good'
  sample = intervals.resamples([f'p{i}' for i in range(200)], 100)
  found = compute.compare(methods, line, sample, chosen='good', n_flips=500)
  shown = {v.method: v.shown for v in found}
  assert shown == {
    'same': 'not shown', 'good': 'better', 'bad': 'worse', 'dear': 'beyond the bank',
    'blind': 'better',
  }  # fmt: skip
  by = {v.method: v for v in found}
  assert by['good'].p_holm is None and by['bad'].p_holm == pytest.approx(
    3 * by['bad'].p
  )
  assert by['good'].n == 1.5 and by['good'].flops.value == 15
  with pytest.raises(AssertionError, match='good'):
    compute.compare([good, good], line, sample)
  said = ' '.join(curves.warnings(found))
  assert 'Worse' in said and 'same' in said and 'dear' in said and 'good' not in said
  exact = method('exact', base, 15_137_000)
  dearer = majority([base, base], [10_000_000, 20_000_000])
  row = curves.table('', compute.compare([exact], dearer, sample), '').rows[0]
  assert row.cells[2] == pytest.approx(1.5137) and row.cells[6] == 15.137


def test_better_among_many_needs_the_corrected_p():
  rng = np.random.default_rng(1)
  base, gain = rng.random(200), rng.normal(0, 1, 200)
  gain += 2.4 * gain.std() / np.sqrt(200) - gain.mean()
  line = majority([base, base], [10, 20])
  methods = [method('edge', base + gain, 15)]
  methods += [method(f'same{i}', base, 15) for i in range(9)]
  sample = intervals.resamples([f'p{i}' for i in range(200)], 200)
  among = compute.compare(methods, line, sample, n_flips=1000)[0]
  assert among.difference.low > 0 and among.p < 0.05 < among.p_holm
  assert among.shown == 'not shown'
  alone = compute.compare(methods, line, sample, chosen='edge', n_flips=1000)[0]
  assert alone.shown == 'better'


def test_a_bank_costs_what_its_samples_cost():
  pool, scores = held_pool()
  counts = [
    {'policy_generated': 40, 'policy_read': 5, 'prm_read': 70},
    {'policy_generated': 80, 'policy_read': 6, 'prm_read': 100},
  ]
  own = np.array([15.0] * 4 + [20.0] * 4)  # 60 and 80 of the PRM's; 10 and 20 once
  lines = curves.bank_lines(
    pool, scores, scores, counts, own, Prices(100, 10), n_draws=50, seed=0
  )
  second = lines['majority'].methods[1]
  assert second.policy_tokens.tolist() == [5 + 2 * 10, 6 + 2 * 20]
  assert second.flops.tolist() == [200 * 25, 200 * 46] and not second.guided
  vote = lines['vote'].methods[1]
  assert vote.prm_tokens.tolist() == [10 + 2 * 15, 20 + 2 * 20]
  assert vote.flops.tolist() == [200 * 25 + 20 * 40, 200 * 46 + 20 * 60]
  assert lines['vote'].sizes == (1, 2, 4)
  assert lines['best'].methods[-1].right.tolist() == [1.0, 0.5]
  assert lines['oracle'].methods[-1].right.tolist() == [1.0, 1.0]


@pytest.mark.parametrize('rule', ['majority', 'borda', *SCORED])
def test_votes_of_a_bank_are_those_of_all_subsets(rule):
  """Against the pure rules, over every subset, and exactly where N is the bank."""
  pool, scores = held_pool()
  by_hand = {
    'majority': lambda a, m, s: votes.majority(a, m),
    'borda': votes.borda,
    'vote': votes.weighted,
    'wrf': votes.reward_frequency,
    'hmr': votes.hybrid_majority,
  }[rule]
  sizes = [1, 2, 3, 4]
  voter = Voter(SCORED.get(rule, lambda counts, *_: counts), scores)
  if rule == 'borda':
    voter = Voter(None, scores, votes.borda)
  found = banks.votes(pool, {Rule(rule): voter}, sizes, n_draws=20_000, seed=0)
  expected = np.zeros((2, 4))
  placed = pool.place(scores)
  for a, k in itertools.product(range(2), sizes):
    subsets = list(itertools.combinations(range(4), k))
    for subset in map(list, subsets):
      answers, right = pool.answers[a, subset], pool.correct[a, subset]
      values = by_hand(answers, np.ones(k, bool), placed[a, subset])
      for answer, chance in enumerate(votes.chances(values)):
        if chance:
          share = right[answers == answer].mean()
          expected[a, k - 1] += chance * share / len(subsets)
  np.testing.assert_allclose(found[Rule(rule)], expected, atol=0.015)
  np.testing.assert_allclose(found[Rule(rule)][:, -1], expected[:, -1], atol=1e-12)


def test_who_is_not_scored_has_no_part_in_a_mean():
  """Answers A A B B C, the first not scored: by .6, .5, .1 A wins, by .3 it did not."""
  answers, scores = np.array([0, 0, 1, 1, 2]), np.array([np.nan, 0.6, 0.5, 0.5, 0.1])
  pure = votes.hybrid_majority(answers, np.ones(5, bool), scores)
  assert pure == pytest.approx([0.6, 0.5, 0.1])
  pool, _ = held_pool({'a': [(0.5, a == 0, str(a)) for a in answers]})
  seen = []

  def hmr(*held):
    seen.append(SCORED['hmr'](*held))
    return seen[-1]

  found = banks.votes(pool, {Rule('hmr'): Voter(hmr, scores)}, [5], n_draws=2, seed=0)
  assert seen[0][0, 0] == pytest.approx(pure) and found[Rule('hmr')] == [[1.0]]
  # Where nobody is scored, all are alike.
  none = Voter(SCORED['hmr'], np.full(5, np.nan))
  found = banks.votes(pool, {Rule('hmr'): none}, [5], n_draws=2, seed=0)
  assert found[Rule('hmr')] == pytest.approx(1 / 3)


def test_ballots_keep_to_the_bound_of_memory(monkeypatch):
  """They compare N candidates with each other and with all answers."""
  pool, scores = held_pool()
  held = []

  def ballots(answers, mask, weights):
    held.append(answers.size * max(answers.shape[-1], int(answers.max()) + 1))
    return votes.borda(answers, mask, weights)

  voters = {Rule('borda'): Voter(None, scores, ballots)}
  whole = banks.votes(pool, voters, [2, 4], n_draws=40, seed=0)
  assert max(held) > 100
  held.clear()
  monkeypatch.setattr(banks, '_CELLS', 100)
  parts = banks.votes(pool, voters, [2, 4], n_draws=40, seed=0)
  assert max(held) <= 100
  np.testing.assert_allclose(parts[Rule('borda')], whole[Rule('borda')])


def test_rankings_of_a_bank_are_those_of_all_subsets():
  pool, scores = held_pool()
  found = banks.rankings(pool, {Rule('best', 's', 'last'): scores}, [1, 2, 3, 4])
  expected = {'best': np.zeros((2, 4)), 'oracle': np.zeros((2, 4))}
  placed = pool.place(scores)
  for a, k in itertools.product(range(2), range(1, 5)):
    subsets = list(itertools.combinations(range(4), k))
    for subset in map(list, subsets):
      held, right = placed[a, subset], pool.correct[a, subset]
      expected['best'][a, k - 1] += right[held == held.max()].mean() / len(subsets)
      expected['oracle'][a, k - 1] += right.max() / len(subsets)
  np.testing.assert_allclose(found[Rule('best', 's', 'last')], expected['best'])
  np.testing.assert_allclose(found[Rule('oracle')], expected['oracle'])
  np.testing.assert_allclose(found[Rule('pass')], 0.5)


def test_all_scores_equal():
  """Every pick is as good as any: best of N is a blind pick, a vote the majority."""
  pool, scores = held_pool()
  level = np.full_like(scores, 0.3)
  ranked = banks.rankings(pool, {Rule('best'): level}, [1, 2, 4])
  np.testing.assert_allclose(ranked[Rule('best')], ranked[Rule('pass')])
  for weights in (level, np.zeros_like(level)):
    voters = {
      Rule('majority'): Voter(lambda counts, *_: counts, weights),
      **{Rule(r): Voter(f, weights) for r, f in SCORED.items()},
    }
    found = banks.votes(pool, voters, [1, 2, 4], n_draws=50, seed=0)
    if weights.any():
      np.testing.assert_allclose(found[Rule('vote')], found[Rule('majority')])
    assert all(np.isfinite(v).all() for v in found.values())


def test_final_rules_by_hand():
  found = finals.chances_right(
    [0, 1, 1, -1], [True, False, False, True], [0.9, 0.4, 0.4, 1.0], [1, 1, 1, 1], 3
  )
  assert found == {'chosen': 1.0, 'vote': 1.0, 'majority': 0.0}
  copied = finals.chances_right([0, 1], [True, False], [0.5, 0.4], [1, 2], 0)
  assert copied == {'chosen': 1.0, 'vote': 0.0, 'majority': 0.0}
  tied = finals.chances_right([0, 1], [True, False], None, [1, 1], 1)
  assert tied == {'chosen': 0.0, 'majority': 0.5}
  none = finals.chances_right([], [], [], [], None)
  assert none == {'chosen': 0.0, 'vote': 0.0, 'majority': 0.0}
  unread = finals.chances_right([-1, -1], [False, False], [0.1, 0.2], [1, 1], 1)
  assert unread == {'chosen': 0.0, 'vote': 0.0, 'majority': 0.0}
  weights = finals.vote_weights(np.array([0.0, np.nan, -np.inf]), 'logit')
  assert weights.tolist() == [0.5, 0.0, 0.0]
