"""Benchmarks on the public files themselves: published counts, and time."""

import os
import time
from collections import Counter

import numpy as np
import pytest

from prm_jax import records
from prm_jax.evaluation import benchmarks
from prm_jax.evaluation.benchmarks.prmbench import read_truth
from prm_jax.evaluation.benchmarks.sheet import hold
from prm_jax.evaluation.result import Options
from prm_jax.formats import importers
from prm_jax.records import ScoreSet

DATA = os.environ.get('PRM_JAX_DATA', '')
pytestmark = pytest.mark.skipif(
  not DATA, reason='set PRM_JAX_DATA to a folder of public data sets to run these'
)
CLASSES = {
  'circular': 758,
  'redundency': 758,
  'step_contradiction': 758,
  'counterfactual': 757,
  'confidence': 757,
  'domain_inconsistency': 757,
  'missing_condition': 756,
  'deception': 750,
  'multi_solutions': 165,
}
SPLITS = ('gsm8k', 'math', 'olympiadbench', 'omnimath')


def scored(path, format, make):
  rows, _ = importers.read(f'{DATA}/{path}', format)
  return [
    records.add(t, 'scores', 'prm', ScoreSet('probability', make(t.n_steps)))
    for t in rows
  ]


def constant(value):
  return lambda n: (value,) * n


def coin():
  rng = np.random.default_rng(0)
  return lambda n: tuple(rng.random(n).tolist())


def test_prmbench_has_its_published_counts():
  rows = scored('prmbench', 'prmbench', constant(1.0))
  assert len(rows) == 6216 and sum(t.n_steps for t in rows) == 83_456
  assert Counter(t.meta['classification'] for t in rows) == CLASSES
  assert len({t.problem_id for t in rows}) == 708  # one an original question
  options = Options(unscored='wrong', n_resamples=2)
  truth = read_truth(hold(benchmarks.BENCHMARKS['prmbench'], '', rows, 'prm', options))
  assert truth.labelled.all() and truth.repeated.sum() == 5
  assert truth.beyond.sum() == 100
  named = sum(len(t.meta['error_steps']) for t in rows)
  lost = sum(n > t.n_steps for t in rows for n in t.meta['error_steps'])
  assert truth.wrong.sum() == named - lost


@pytest.mark.parametrize('value', [1.0, 0.0])
def test_prmbench_of_constant_scores_follows_from_its_counts(value):
  rows = scored('prmbench', 'prmbench', constant(value))
  seen = {}
  for t in rows:  # the first row of a key counts
    seen.setdefault((t.meta['classification'], t.meta['idx']), t)
  n = sum(t.n_steps for t in seen.values())
  wrong = sum(sum(e <= t.n_steps for e in t.meta['error_steps']) for t in seen.values())
  found = benchmarks.evaluate(
    {'prmbench': rows}, scorer='prm', options=Options(n_resamples=2)
  ).found.metrics
  correct = n - wrong
  score = correct / (correct + n) if value else wrong / (wrong + n)
  held = found['prmbench/overall/prmscore@fixed:0.5']
  assert held['n'] == n and held['value'] == pytest.approx(score)


def test_the_suite_on_7910_rows_takes_seconds():
  """ProcessBench's and PRMBench's rows with 1,000 resamples, reading included."""
  started = time.process_time()
  make = coin()
  sets = {
    f'process_bench.{s}': scored(f'processbench/{s}.json', 'processbench', make)
    for s in SPLITS
  }
  sets['prmbench'] = scored('prmbench', 'prmbench', make)
  result = benchmarks.evaluate(sets, scorer='prm')
  assert time.process_time() - started < 30
  metrics = result.found.metrics
  head = 'process_bench[1694 of 3400]'
  assert metrics[f'{head}/mean/f1@fixed:0.5']['n'] == 1694
  assert metrics['prmbench/overall/step_auroc']['value'] == pytest.approx(0.5, abs=0.01)
  assert all(m['low'] <= m['value'] <= m['high'] for m in metrics.values() if m['low'])


def test_rows_behind_right_answers_with_a_wrong_step():
  rows = scored('processbench/omnimath.json', 'processbench', constant(0.0))
  found = benchmarks.evaluate(
    {'process_bench.omnimath': rows}, scorer='prm', options=Options(n_resamples=2)
  ).found.metrics
  path = 'process_bench[473 of 3400]/omnimath[473 of 1000]/right_answer_wrong_step'
  expected = sum(
    t.first_error['human'] >= 0 and bool(t.verdicts['source'].value) for t in rows
  )
  assert found[f'{path}_noticed@fixed:0.5'] == {
    'value': 1.0, 'low': 1.0, 'high': 1.0, 'n': expected,
  }  # fmt: skip
