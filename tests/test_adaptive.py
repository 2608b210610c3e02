"""Samples as a problem needs them, against a fixed number of the same cost."""

import dataclasses

import numpy as np
import pytest
from evaluation_cases import candidate

from prm_jax.errors import UserError
from prm_jax.evaluation import adaptive, adaptive_report
from prm_jax.evaluation.adaptive_report import Rule
from prm_jax.evaluation.intervals import resamples
from prm_jax.evaluation.pools import read_pool
from prm_jax.evaluation.result import Collector, Options
from prm_jax.search import effort


def pool_of(*problems):
  """Problems as lists of (answer, right, score)."""
  return read_pool(
    'pool',
    [
      candidate(f'p{a}', i, [score], right, answer)
      for a, held in enumerate(problems)
      for i, (answer, right, score) in enumerate(held)
    ],
    'exact',
  )


def make(n_problems=60, n=12, seed=0):
  """Problems of all difficulties, and a score that knows a right candidate."""
  rng = np.random.default_rng(seed)
  out = []
  for chance in rng.uniform(0.05, 0.95, n_problems):
    right = rng.random(n) < chance
    answers = np.where(right, 7, rng.integers(0, 4, n))
    score = np.clip(0.8 * right + 0.2 * rng.random(n), 0, 1)
    out.append(list(zip(map(str, answers), right.tolist(), score.tolist())))
  return pool_of(*out)


def bank_of(pool, weights=None, **options):
  ones = np.ones(pool.steps.n_rows)
  return adaptive.bank(pool, ones if weights is None else weights, ones, **options)


def chances_of(pool):
  out = np.zeros(pool.steps.n_rows)
  out[pool.index] = 0.02 + 0.96 * pool.correct
  return out


def test_equal_chances_in_sequence_are_the_closed_form():
  held = bank_of(make(5, 12), n_orders=3)
  for p in (0.3, 0.5, 0.9):
    for confidence in (0.5, 0.9, 0.99):
      stop = adaptive.in_sequence(held, np.full(60, p), confidence)
      needed = effort.samples_needed(p, confidence)
      assert (stop == min(needed, 12)).all()
  assert (adaptive.in_sequence(held, np.zeros(60), 0.5) == 12).all()


def test_a_majority_is_stable_by_hand():
  # Unanimous votes: 1 - 2^-(k + 1) >= .95 from k = 4 on, >= .9 from 3 on.
  same = [('7', True, 0.5)] * 6
  # Alternating votes are never sure; answerless candidates do not vote.
  split = [('1', False, 0.5), ('2', True, 0.5)] * 3
  silent = [('', False, 0.5)] * 6
  held = bank_of(pool_of(same, split, silent), n_orders=4)
  assert (adaptive.stable(held, 0.95)[:, 0] == 4).all()
  assert (adaptive.stable(held, 0.9)[:, 0] == 3).all()
  assert (adaptive.stable(held, 0.98)[:, 1:] == 6).all()


def test_the_first_candidate_drawn_decides():
  pool = make(20, 8)
  held = bank_of(pool, n_orders=2)
  needed = np.arange(pool.steps.n_rows) % 11
  stop = adaptive.by_first(held, needed)
  first = pool.index[np.arange(20), held.places[0, :, 0]]
  assert stop[0].tolist() == np.clip(needed[first], 1, 8).tolist()


def test_a_fixed_number_gains_nothing_over_itself():
  pool = make()
  held = bank_of(pool, n_orders=4)
  fixed, sample = adaptive.ladder(held), resamples(pool.steps.problem_ids, 100)
  gain, beside = adaptive.gain(fixed[4], fixed, sample)
  assert gain.value == pytest.approx(0) and np.allclose(gain.replicates, 0)
  assert beside.value == pytest.approx(fixed[4].right.mean())
  # Half the problems, chosen blindly, with one more: halfway between the two.
  stop = np.where(np.arange(len(fixed[0].right)) % 2 == 0, 3, 4)[None].repeat(4, 0)
  mixed = adaptive.outcome(held, stop)
  beside = adaptive.gain(mixed, fixed, sample)[1]
  halfway = (fixed[2].right.mean() + fixed[3].right.mean()) / 2
  assert mixed.candidates == 3.5 and beside.value == pytest.approx(halfway)
  dear = dataclasses.replace(fixed[-1], spent=fixed[-1].spent + 1)
  assert adaptive.gain(dear, fixed, sample)[0].reason == 'cost_out_of_range'


def test_chances_that_know_beat_a_fixed_number():
  pool = make()
  chances = chances_of(pool)
  held = bank_of(pool, chances, n_orders=8)
  sample = resamples(pool.steps.problem_ids, 200)
  found = adaptive.outcome(held, adaptive.in_sequence(held, chances, 0.9))
  gain = adaptive.gain(found, adaptive.ladder(held), sample)[0]
  assert gain.low > 0.05
  blind = adaptive.in_sequence(held, np.full(len(chances), 0.4), 0.9)
  nothing = adaptive.gain(adaptive.outcome(held, blind), adaptive.ladder(held), sample)[
    0
  ]
  assert nothing.value == pytest.approx(0)


def test_metrics_tables_and_curves():
  pool = make(30, 8)
  chances = chances_of(pool)
  out = Collector()
  needed = np.array([effort.samples_needed(p, 0.9) for p in chances])
  rules = [Rule('first', 0.9, needed=needed), Rule('sequence', 0.9, chances=chances)]
  adaptive_report.measure(
    out, pool, {'weighted': chances}, rules, [0.8, 0.9], 4, Options(n_resamples=50)
  )
  found = out.result().metrics
  for name in ('gain', 'gain_characters', 'accuracy', 'candidates', 'capped'):
    assert found[f'pool/adaptive/{name}@sequence:0.9[weighted]']['value'] is not None
  assert found['pool/adaptive/gain_over_stable@sequence:0.9[weighted]']['value'] > 0
  assert found['pool/adaptive/accuracy@fixed:8[weighted]']['value'] > 0.8
  assert out.tables[0].rows[0].name == 'first:0.9' and len(out.best_of_n) == 1
  assert {r.name for r in out.tables[0].rows if r.baseline} >= {'stable:0.8', 'fixed:1'}


def test_uneven_pools_and_bad_weights_are_refused():
  with pytest.raises(UserError, match='2 to 3 candidates'):
    bank_of(pool_of([('1', True, 0.5)] * 2, [('1', True, 0.5)] * 3))
  pool = make(3, 4)
  with pytest.raises(UserError, match='weights of 0 or more'):
    bank_of(pool, np.full(12, np.nan))
