"""Differences that only few problems make, and P values by way of a file."""

import numpy as np

from prm_jax.evaluation import replicates
from prm_jax.evaluation.compare import compare
from prm_jax.evaluation.intervals import (
  bootstrap,
  divide,
  means,
  plain_mean,
  ratio,
  resamples,
)

IDS = [f'p{i:03}' for i in range(100)]
SAMPLE = resamples(IDS, 300, contributions=True)


def accuracies(start, right, wrong=4):
  """F1 and its accuracies over 100 problems, of which the first `wrong` have an error:
  `right` of these are named, and all correct ones accepted but the last."""
  which = np.arange(100)
  hits = np.where(which < wrong, which < right, which < 99).astype(float)
  of = [(which < wrong).astype(float), (which >= wrong).astype(float)]
  sums = np.stack([of[0] * hits, of[0], of[1] * hits, of[1]], axis=1)

  def f1(t):
    e, c = divide(t[:, 0], t[:, 1]), divide(t[:, 2], t[:, 3])
    return divide(2 * e * c, e + c)

  return {
    f'{start}/f1@argmax': bootstrap(sums, f1, SAMPLE, 100),
    f'{start}/accuracy_error@argmax': ratio(sums[:, 0], of[0], SAMPLE),
    f'{start}/accuracy_correct@argmax': ratio(sums[:, 2], of[1], SAMPLE),
  }


def test_a_difference_on_few_rows_is_as_uncertain_as_few_rows_are():
  a, b = accuracies('x/process_bench', 4), accuracies('x/process_bench', 1)
  rows = {row.metric.split('/')[-1]: row for row in compare([a], [b]).rows}
  # A has 3 of the 4 wrong solutions more: 2 of the 2^3 signs are as extreme.
  assert rows['accuracy_error@argmax'].difference == 0.75
  assert rows['accuracy_error@argmax'].p == 2 / 2**3
  # So for F1, which differs by these 3 problems alone, and for its mean over sets.
  assert rows['f1@argmax'].difference > 0.5 and rows['f1@argmax'].p == 2 / 2**3
  assert not any(row.winner for row in rows.values())
  sides = []
  for right in (4, 1):
    sets = {**accuracies('b/one', right), **accuracies('b/two', right)}
    f1 = [sets[f'b/{name}/f1@argmax'] for name in ('one', 'two')]
    sides.append({**sets, 'b/mean/f1@argmax': plain_mean(f1)})
  (row,) = compare([sides[0]], [sides[1]], keep=lambda p: '/mean/' in p).rows
  assert row.p == 2 / 2**6


def test_p_values_of_saved_replicates_are_those_of_the_estimates(tmp_path):
  # Sevenths: of rounded ones, sums that are equal would differ.
  parts = np.array([[3, 0], [0, 2], [0, 1], [0, 2], [3, 0], [1, 1], [0, 0]]) / 7
  sample = resamples(IDS[:7], 10, contributions=True)
  a, b = ({'m': e} for e in means(parts, sample))
  saved = []
  for i, run_ in enumerate((a, b)):
    replicates.save(tmp_path / f'{i}.npz', run_)
    saved.append(replicates.load(tmp_path / f'{i}.npz'))
  want = compare([a], [b]).rows[0].p
  assert compare([saved[0]], [saved[1]]).rows[0].p == want
  assert want == 1  # the sum is 1 of sevenths, and odd for all signs
