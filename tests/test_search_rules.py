"""Selection rules on cases worked out by hand."""

import math

import numpy as np
import pytest

from prm_jax.errors import UserError
from prm_jax.search import effort, exploration, resampling, rules, votes

ALL = np.ones(4, bool)


def test_top_k_draws_among_equals():
  scores = np.array([0.5, 0.9, 0.5, math.nan])
  assert rules.top_k(scores, ALL, 2, np.array([0.1, 0.9, 0.8, 0.0])) == [1, 0]
  assert rules.top_k(scores, ALL, 2, np.array([0.9, 0.9, 0.8, 0.0])) == [1, 2]
  assert rules.ranked(scores, ALL, np.zeros(4))[-1] == 3
  mask = np.array([True, False, True, True])
  assert rules.top_k(scores, mask, 9, np.array([0.1, 0, 0.8, 0])) == [0, 2, 3]
  assert rules.top_k(np.zeros(0), np.zeros(0, bool), 1, np.zeros(0)) == []
  rng = np.random.default_rng(0)
  first = [rules.top_k(np.zeros(4), ALL, 1, rng.random(4))[0] for _ in range(2000)]
  assert all(430 < first.count(i) < 570 for i in range(4))


def test_best_of_groups():
  scores = np.array([0.1, 0.2, 0.7, 0.7])
  groups = np.array([5, 5, 9, 9])
  best = rules.best_of_groups(scores, ALL, groups, np.array([0, 0, 0.9, 0.1]))
  assert best == {5: 1, 9: 3}
  mask = np.array([False, False, True, True])
  assert set(rules.best_of_groups(scores, mask, groups, np.zeros(4))) == {9}


def test_rebase_widths():
  """T = .2: exp(s / T) of .9, .7, .5 is 90.02, 33.12, 12.18, together 135.32.

  ceil(8 * 90.02 / 135.32) = ceil(5.32) = 6; of 2 left ceil(2 * 33.12 / 45.30) =
  ceil(1.46) = 2; of 0 left 0.
  """
  widths = lambda s, b, **k: rules.rebase_widths(
    np.array(s), np.ones(len(s), bool), b, np.arange(len(s)) / 10, **k
  ).tolist()
  assert widths([0.5, 0.9, 0.7], 8) == [0, 6, 2]
  # T = 1: 2.460, 2.014, 1.649: ceil(3.21) = 4, ceil(4 * .550) = 3, 1.
  assert widths([0.5, 0.9, 0.7], 8, temperature=1.0) == [1, 4, 3]
  assert widths([0.3] * 4, 4) == [1, 1, 1, 1]
  assert widths([0.3] * 3, 4) == [2, 1, 1]
  assert widths([math.nan, 0.2], 3) == [0, 3]
  assert widths([math.nan] * 2, 3) == [2, 1]
  assert widths([], 3) == [] and widths([0.5], 0) == [0]
  rng = np.random.default_rng(1)
  for _ in range(200):
    n, b = rng.integers(1, 9), int(rng.integers(0, 30))
    scores = np.round(rng.random(n), 1)
    got = rules.rebase_widths(scores, np.ones(n, bool), b, rng.random(n))
    assert got.sum() == b and (got >= 0).all()
    better = scores[:, None] > scores[None]
    assert (got[:, None] >= got[None])[better].all()


def test_log_weights():
  logs = resampling.log_weights(np.array([0.5, 0.75, 1.0, math.nan]), 'probability')
  assert logs[:2] == pytest.approx([0, math.log(3)])
  assert logs[2] == pytest.approx(math.log((1 - 1e-7) / 1e-7)) and logs[3] == -np.inf
  assert resampling.log_weights(np.array([-2.5]), 'logit').tolist() == [-2.5]
  # softmax of logits at T = 1: .5 and .75 weigh 1 and 3.
  assert rules.softmax(logs[:2]) == pytest.approx([0.25, 0.75])
  assert resampling.effective_size(np.full(4, 0.25)) == pytest.approx(4)
  assert resampling.effective_size(np.array([0.25, 0.75])) == pytest.approx(1.6)


def test_resampling_schemes():
  w = np.array([0.5, 0.3, 0.0, 0.2])
  keys = np.array([0.1, 0.55, 0.79, 0.95])
  assert resampling.multinomial(w, keys).tolist() == [0, 1, 1, 3]
  # Strata at (i + u_i) / 4: .025, .3875, .6975, .9875.
  assert resampling.stratified(w, keys).tolist() == [0, 0, 1, 3]
  # (i + .1) / 4: .025, .275, .525, .775.
  assert resampling.systematic(w, keys).tolist() == [0, 0, 1, 1]
  # 4 w = 2, 1.2, 0, .8: copies 2, 1, 0, 0; the last from (.2, .8) at .95.
  assert resampling.residual(w, keys).tolist() == [0, 0, 1, 3]
  assert resampling.residual(np.full(4, 0.25), keys).tolist() == [0, 1, 2, 3]
  rng = np.random.default_rng(2)
  for name, scheme in resampling.SCHEMES.items():
    drawn = np.stack([scheme(w, rng.random(8)) for _ in range(4000)])
    counts = (drawn[..., None] == np.arange(4)).sum(axis=1)
    assert counts.mean(axis=0) == pytest.approx(8 * w, abs=0.08), name
    assert not counts[:, 2].any()
    if name != 'multinomial':
      assert counts.var(axis=0).sum() < 0.8 * 8 * (w * (1 - w)).sum()


def test_puct_and_uct():
  """N_p = 4: c = ln(19657 / 19652) + 1.25 = 1.25025; times sqrt 4 = 2.50051."""
  got = exploration.puct(
    np.array([0.6, 0.2, 0.0]), np.array([3, 1, 0]), np.array([0.5, 0.3, 0.2]), 4
  )
  c = 2 * (math.log(19657 / 19652) + 1.25)
  assert got == pytest.approx([0.6 + 0.5 * c / 4, 0.2 + 0.3 * c / 2, 0.2 * c])
  assert got == pytest.approx([0.91256, 0.57508, 0.50010], abs=1e-4)
  got = exploration.uct(np.array([0.5, 0.4, 0.0]), np.array([8, 2, 0]), 10, c=0.5)
  assert got[:2] == pytest.approx(
    [0.5 + 0.5 * math.sqrt(2 * math.log(10) / 8), 0.4 + 0.5 * math.sqrt(math.log(10))]
  )
  assert got[2] == np.inf


def test_samples_needed():
  """ln(.01) / ln(.5) = 6.64; p = .9: 2; p = .01: 458.2; clipped at 1e-4: 46049.4."""
  needed = effort.samples_needed
  assert [needed(p) for p in (0.5, 0.9, 0.01)] == [7, 2, 459]
  assert needed(0.0) == 46050 and needed(1.0) == 1
  assert needed(0.5, confidence=0.9) == 4


def test_pats_modes():
  assert effort.next_mode(0.85, 2, False) == (1, False)
  assert effort.next_mode(0.85, 0, False) == (0, False)
  assert effort.next_mode(0.75, 1, False) == (1, False)
  assert effort.next_mode(0.74, 0, False) == (2, False)
  assert effort.next_mode(0.39, 0, False) == (2, True)
  assert effort.next_mode(0.39, 2, True) == (2, False)
  assert effort.next_mode(0.4, 1, False) == (2, False)


# Six candidates, answers A A B B B and none.
ANSWERS = np.array([0, 0, 1, 1, 1, -1])
SCORES = np.array([0.9, 0.8, 0.5, 0.2, 0.2, 0.99])
SIX = np.ones(6, bool)


def test_simple_votes():
  assert votes.majority(ANSWERS, SIX).tolist() == [2, 3]
  assert votes.weighted(ANSWERS, SIX, SCORES) == pytest.approx([1.7, 0.9])
  assert votes.mean_score(ANSWERS, SIX, SCORES) == pytest.approx([0.85, 0.3])
  mask = np.array([1, 1, 1, 1, 0, 1], bool)
  tied = votes.majority(ANSWERS, mask)
  assert votes.chances(tied).tolist() == [0.5, 0.5]
  assert votes.elect(tied, np.array([0.7, 0.3])) == 1
  assert votes.elect(tied, np.array([0.2, 0.3])) == 0
  nobody = votes.majority(np.array([-1, -1]), np.ones(2, bool))
  assert votes.elect(nobody, np.zeros(nobody.shape[-1])) == -1
  assert votes.chances(nobody).sum() == 0
  with pytest.raises(UserError, match='below 0'):
    votes.weighted(ANSWERS, SIX, -SCORES)


def test_votes_over_subsets():
  """Leading axes: every subset at once gives what each gives alone."""
  rng = np.random.default_rng(3)
  answers = rng.integers(-1, 3, (50, 6))
  scores, mask = np.round(rng.random((50, 6)), 1), rng.random((50, 6)) < 0.8
  for rule in (
    lambda a, m, _: votes.majority(a, m),
    votes.weighted,
    votes.mean_score,
    votes.reward_frequency,
    votes.hybrid_majority,
    votes.borda,
  ):
    together = rule(answers, mask, scores)
    for i in range(50):
      alone = rule(answers[i], mask[i], scores[i])
      n = alone.shape[-1]
      assert together[i, :n] == pytest.approx(alone)
      assert (together[i, n:] == -np.inf).all()


def test_reward_frequency():
  """R = .85 and .3 of 1.15; f = .4 and .6: w = .5 gives .5696 and .4304."""
  wrf = votes.reward_frequency
  assert wrf(ANSWERS, SIX, SCORES) == pytest.approx([0.56957, 0.43043], abs=1e-5)
  assert wrf(ANSWERS, SIX, SCORES, 0.0) == pytest.approx([0.4, 0.6])
  assert wrf(ANSWERS, SIX, SCORES, 1.0) == pytest.approx([0.73913, 0.26087], abs=1e-5)
  with pytest.raises(UserError, match='between 0 and 1'):
    wrf(ANSWERS, SIX, SCORES, 1.5)


def test_hybrid_majority():
  """B has 3 of 5 votes: a consensus at .5 and .6, not at .7."""
  for tau, first in ((0.5, 1), (0.6, 1), (0.7, 0)):
    values = votes.hybrid_majority(ANSWERS, SIX, SCORES, tau)
    assert votes.chances(values).argmax() == first


def test_self_certainty():
  """V = 4: a uniform policy has 0; p = (.7, .1, .1, .1) has mean ln p -1.8161."""
  sure = np.log([0.7, 0.1, 0.1, 0.1]).mean()
  mean = np.array([[math.log(0.25), sure], [sure, sure], [0.0, 0.0]])
  mask = np.array([[True, True], [True, False], [False, False]])
  got = votes.self_certainty(mean, mask, 4)
  kl = -sure - math.log(4)
  assert kl == pytest.approx(0.42981, abs=1e-5)
  assert got[:2] == pytest.approx([kl / 2, kl]) and math.isnan(got[2])


def test_borda():
  """Ranks of the certainty .9 .8 .5 .2 .2 .99 are 2 3 4 5.5 5.5 1.

  p = 1: votes 5 4 3 1.5 1.5 (6): A 9, B 6. p = 0: 2 and 3, the majority. p = .5:
  sqrt 5 + sqrt 4 = 4.2361; sqrt 3 + 2 * (sqrt 2 + 1) / 2 = 4.1463.
  """
  borda = votes.borda
  assert borda(ANSWERS, SIX, SCORES, 1.0) == pytest.approx([9, 6])
  assert borda(ANSWERS, SIX, SCORES, 0.0) == pytest.approx([2, 3])
  assert borda(ANSWERS, SIX, SCORES) == pytest.approx([4.23607, 4.14626], abs=1e-5)
  mask = np.array([0, 1, 1, 1, 1, 0], bool)
  # Ranks 1 2 3.5 3.5 of four: 4, and 3 + 1.5 + 1.5.
  assert borda(ANSWERS, mask, SCORES, 1.0) == pytest.approx([4, 6])
