"""Best-of-N: closed forms against enumeration, votes, and published numbers."""

import collections
import gzip
import itertools
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from evaluation_cases import candidate
from hypothesis import given, settings
from hypothesis import strategies as st

from prm_jax.errors import UserError
from prm_jax.evaluation import best_of_n, pools, votes
from prm_jax.evaluation.splits import read_scores
from prm_jax.records import ScoreSet, Trajectory, Verdict

DATA = Path(os.environ.get('PRM_JAX_DATA', '')) / 'bon_pools'
needs_data = pytest.mark.skipif(
  not os.environ.get('PRM_JAX_DATA') or not DATA.is_dir(),
  reason='set PRM_JAX_DATA to the folder that holds bon_pools',
)


def enumerate_best(scores, correct, k, ties):
  """Mean over all subsets of size k of the chance that the pick is correct."""
  total = []
  for subset in itertools.combinations(range(len(scores)), k):
    top = max(scores[i] for i in subset)
    tied = [i for i in subset if scores[i] == top]
    tied = tied[:1] if ties == 'lowest_index' else tied
    total.append(np.mean([correct[i] for i in tied]))
  return np.mean(total)


@settings(max_examples=60, deadline=None)
@given(
  st.lists(
    st.tuples(st.sampled_from([-np.inf, 0.0, 0.5, 1.0, 2.0]), st.booleans()),
    min_size=1,
    max_size=7,
  )
)
def test_closed_form_equals_enumeration(rows):
  scores = np.array([[s for s, _ in rows]])
  correct = np.array([[float(c) for _, c in rows]])
  n = len(rows)
  for ties in best_of_n.TIES:
    got = best_of_n.expected_best(scores, correct, np.array([n]), range(1, n + 1), ties)
    want = [enumerate_best(scores[0], correct[0], k, ties) for k in range(1, n + 1)]
    np.testing.assert_allclose(got[0], want, atol=1e-12)


def test_closed_form_with_pools_of_different_sizes():
  rng = np.random.default_rng(0)
  scores = rng.integers(0, 3, (3, 6)).astype(float)
  correct = rng.integers(0, 2, (3, 6)).astype(float)
  sizes = np.array([6, 4, 3])
  got = best_of_n.expected_best(scores, correct, sizes, [1, 2, 3])
  for a, n in enumerate(sizes):
    for k in (1, 2, 3):
      want = enumerate_best(scores[a, :n], correct[a, :n], k, 'uniform')
      assert got[a, k - 1] == pytest.approx(want)


def test_closed_form_is_exact_for_pools_of_1024():
  n = 1024
  ratios = best_of_n.subset_ratios(n, [1, 16, 512, 1024])
  for j in (0, 15, 16, 511, 512, 900, 1023, 1024):
    want = [math.comb(j, k) / math.comb(n, k) for k in (1, 16, 512, 1024)]
    np.testing.assert_allclose(ratios[j], want, rtol=1e-11)
  scores = np.arange(n)[None, :].astype(float)
  right = (np.arange(n) % 2)[None, :].astype(float)
  got = best_of_n.expected_best(scores, right, np.array([n]), [1, n])
  np.testing.assert_allclose(got, [[0.5, 1.0]])


POOL = [
  candidate('p', 0, [0.9, 0.4], True, '7', response='a' * 30),
  candidate('p', 1, [0.5, 0.5], False, '8', response='a' * 10),
  candidate('p', 2, [0.6, 0.5], False, '8', response='a' * 20),
  candidate('p', 3, [0.1, 0.99], None, None, response='a' * 40),
  candidate('q', 0, [0.7], True, '1', response='a' * 9),
  candidate('q', 1, [0.7, 0.9], True, ' 1.0', response='a' * 8),
  candidate('q', 2, [0.2, 0.9], False, '2', response='a' * 7),
  candidate('q', 3, [0.3, 0.3], False, '$', response='a' * 6),
]


def test_every_reduction_changes_the_choice():
  pool = pools.read_pool('pool', POOL, 'exact')
  scores = read_scores(pool.steps, POOL, 'prm')
  top = {
    r: int(np.argmax(pool.place(scores.reduced(pool.steps, r))[0]))
    for r in ('min', 'product', 'last', 'mean', 'max')
  }
  assert top == {'min': 1, 'product': 0, 'last': 3, 'mean': 0, 'max': 3}


def test_pool_counts_the_unjudged_and_the_answerless():
  pool = pools.read_pool('pool', POOL, 'exact')
  assert pool.counters == {
    'problems': 2,
    'candidates': 8,
    'unjudged': 1,
    'answerless': 2,  # none given, and nothing left after normalisation
    'problems_without_right_candidate': 0,
  }
  assert pool.correct.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0]]
  assert pool.answers.tolist() == [[0, 1, 1, -1], [0, 0, 1, -1]]
  assert pools.ladder(pool) == [1, 2, 4]
  assert best_of_n.random_pick(pool, [1, 4])[:, 0].tolist() == [0.25, 0.5]
  np.testing.assert_allclose(best_of_n.random_pick(pool, [4]), [[0.25], [0.5]])
  np.testing.assert_allclose(
    best_of_n.oracle(pool, [1, 2]), [[1 / 4, 1 / 2], [1 / 2, 5 / 6]]
  )
  shortest = best_of_n.select(pool, -pool.characters, [4])
  assert shortest.ravel().tolist() == [0, 0]
  fewest = best_of_n.select(pool, -pool.steps.counts, [4])
  np.testing.assert_allclose(fewest.ravel(), [0.25, 1.0])


def test_order_is_that_of_sampling_not_of_the_file():
  pool = pools.read_pool('pool', POOL[::-1], 'exact')
  assert pool.correct.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0]]


def test_prefix_subsets_look_at_the_first_n_only():
  pool = pools.read_pool('pool', POOL, 'exact')
  got = best_of_n.select(pool, -pool.characters, [1, 2, 3], subsets='prefix')
  assert got.tolist() == [[1, 0, 0], [1, 1, 0]]
  assert best_of_n.oracle(pool, [1], 'prefix').ravel().tolist() == [1, 1]


def enumerate_vote(answers, weights, correct, k):
  """Mean over subsets of size k; tied answers and their voters share the chance."""
  total = []
  for subset in itertools.combinations(range(len(answers)), k):
    sums, right = collections.defaultdict(float), collections.defaultdict(list)
    for i in subset:
      if answers[i] >= 0:
        sums[answers[i]] += weights[i]
        right[answers[i]].append(correct[i])
    top = max(sums.values(), default=0)
    tied = [a for a in sums if abs(sums[a] - top) < 1e-9]
    total.append(np.mean([np.mean(right[a]) for a in tied]) if tied else 0.0)
  return np.mean(total)


def test_votes_equal_enumeration_up_to_the_noise_of_drawing():
  rng = np.random.default_rng(1)
  rows, n = [], 6
  for p in range(40):
    for i in range(n):
      answer = str(rng.integers(0, 3)) if rng.random() < 0.8 else None
      rows.append(candidate(f'{p:02}', i, [float(rng.random())], answer == '0', answer))
  pool = pools.read_pool('pool', rows, 'exact')
  weights = {
    'majority': np.ones(len(rows)),
    'weighted': np.array([t.scores['prm'].values[0] for t in rows]),
  }
  sizes = [1, 2, 3, 6]
  got = votes.vote(pool, weights, sizes, n_draws=2000)
  for rule, w in weights.items():
    want = [
      [
        enumerate_vote(pool.answers[a], pool.place(w)[a], pool.correct[a], k)
        for k in sizes
      ]
      for a in range(40)
    ]
    np.testing.assert_allclose(got[rule][:, [0, 3]], np.array(want)[:, [0, 3]])
    np.testing.assert_allclose(got[rule], want, atol=0.06)
    np.testing.assert_allclose(got[rule].mean(0), np.mean(want, axis=0), atol=0.005)
  again = votes.vote(pool, weights, sizes, n_draws=2000)
  assert all(np.array_equal(again[r], got[r]) for r in weights)


def test_vote_ties_share_or_go_to_the_first_seen():
  rows = [
    candidate('p', 0, [0.5], False, '1'),
    candidate('p', 1, [0.5], True, '2'),
    candidate('p', 2, [0.5], True, '2'),
    candidate('p', 3, [0.5], False, '1'),
  ]
  pool = pools.read_pool('pool', rows, 'exact')
  ones = {'m': np.ones(4)}
  assert votes.vote(pool, ones, [4])['m'].item() == 0.5
  assert votes.vote(pool, ones, [4], ties='lowest_index')['m'].item() == 0
  assert votes.vote(pool, ones, [3], ties='lowest_index')['m'].item() == 1
  silent = pools.read_pool('pool', [candidate('p', 0, [0.5], True, None)], 'exact')
  assert votes.vote(silent, {'m': np.ones(1)}, [1])['m'].item() == 0
  first = votes.vote(silent, {'m': np.ones(1)}, [1], ties='lowest_index')
  assert first['m'].item() == 0
  # Of one candidate the vote is what it says, and without an answer that is nothing.
  half = [candidate('p', 0, [0.5], True, None), candidate('p', 1, [0.5], True, '1')]
  half = pools.read_pool('pool', half, 'exact')
  assert votes.vote(half, {'m': np.ones(2)}, [1, 2])['m'].tolist() == [[0.5, 1.0]]


def test_refusals():
  pool = pools.read_pool('pool', POOL, 'exact')
  with pytest.raises(UserError, match='best of 8 is not defined, problem p has 4'):
    pools.ladder(pool, [1, 8])
  with pytest.raises(UserError, match=r"verdict 'symbolic' \(found: exact\)"):
    pools.read_pool('pool', POOL, 'symbolic')
  with pytest.raises(UserError, match='negative weights'):
    votes.vote(pool, {'w': -np.ones(8)}, [2])
  with pytest.raises(UserError, match='ties is'):
    best_of_n.select(pool, np.ones(8), [1], ties='random')
  with pytest.raises(UserError, match='ties is'):
    votes.vote(pool, {'w': np.ones(8)}, [1], ties='random')
  with pytest.raises(UserError, match='subsets is'):
    best_of_n.select(pool, np.ones(8), [1], subsets='some')
  raw = [
    Trajectory(
      **{**vars(t), 'scores': {'prm': ScoreSet('logit', t.scores['prm'].values)}}
    )
    for t in POOL
  ]
  scores = read_scores(pool.steps, raw, 'prm')
  with pytest.raises(UserError, match="'product' needs probabilities"):
    scores.reduced(pool.steps, 'product')


# Best of 32, ties to the lowest index, judged by the regraded verdicts:
# min, last, mean.
REFERENCE = {
  ('gsm8k', 'qwen_prm'): (0.918, 0.922, 0.922),
  ('gsm8k', 'skywork_prm'): (0.898, 0.936, 0.918),
  ('gsm8k', 'skywork_prm_1_5b'): (0.882, 0.902, 0.902),
  ('gsm8k', 'math_shepherd'): (0.882, 0.872, 0.880),
  ('gsm8k', 'rlhflow_prm'): (0.878, 0.872, 0.886),
  ('gsm8k', 'internlm2_7b_reward'): (0.872, 0.914, 0.872),
  ('gsm8k', 'internlm2_1_8b_reward'): (0.848, 0.874, 0.872),
  ('math500', 'qwen_prm'): (0.842, 0.814, 0.834),
}


def read_lines(path):
  with gzip.open(path, 'rt') as lines:
    return [json.loads(line) for line in lines]


def read_public(name):
  """Candidates of a pool with the scores of all scorers that have a file for it."""
  scores = collections.defaultdict(dict)
  for dataset, scorer in REFERENCE:
    if dataset == name:
      for row in read_lines(DATA / 'prm_step_scores' / f'{scorer}_{name}.jsonl.gz'):
        found = ScoreSet('probability', tuple(row['step_scores']))
        scores[row['problem_id'], row['candidate_index']][scorer] = found
  return [
    Trajectory(
      id=f'{row["problem_id"]}/{i}',
      problem_id=row['problem_id'],
      question=row['question'],
      steps=tuple(c['steps']),
      response=c['response'],
      sample_index=i,
      answer=c['extracted_answer'],
      verdicts={'regraded': Verdict(c['is_correct_regraded'])},
      scores=scores[row['problem_id'], i],
    )
    for row in read_lines(DATA / f'{name}_32x500.jsonl.gz')
    for i, c in enumerate(row['candidates'])
  ]


@needs_data
@pytest.mark.parametrize(
  'name, majority, pass_1, unjudged',
  [('gsm8k', 444, 0.871, 0), ('math500', 401, 0.742, 407)],
)
def test_published_pools_are_recomputed_to_the_digit(name, majority, pass_1, unjudged):
  rows = read_public(name)
  pool = pools.read_pool(name, rows, 'regraded', answer_key=str.strip)
  assert pool.counters['unjudged'] == unjudged
  for (dataset, scorer), want in REFERENCE.items():
    if dataset == name:
      scores = read_scores(pool.steps, rows, scorer)
      got = [
        best_of_n.select(
          pool, scores.reduced(pool.steps, reduction), [32], ties='lowest_index'
        ).mean()
        for reduction in ('min', 'last', 'mean')
      ]
      assert got == pytest.approx(want, abs=1e-9), scorer
  ones = {'majority': np.ones(len(rows))}
  found = votes.vote(pool, ones, [32], ties='lowest_index')['majority']
  assert found.sum() == majority
  assert best_of_n.random_pick(pool, [1]).mean() == pytest.approx(pass_1, abs=5e-4)
  if name == 'gsm8k':
    shortest = best_of_n.select(pool, -pool.characters, [32])
    assert shortest.mean() == pytest.approx(0.870, abs=1e-9)
