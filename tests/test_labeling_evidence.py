"""What labels rest on: rollouts that count, and nothing that did not act."""

import numpy as np
import pytest
from planted import Planted, solution

from prm_jax.errors import UserError
from prm_jax.labeling import driver
from prm_jax.labeling.registry import ALGORITHMS

ROLLED_OUT = ('mc_hard', 'mc_soft', 'er_prm')


def run(name, group, completer, **options):
  entry = ALGORITHMS[name]
  algorithm = entry.make(entry.options(**options))
  return driver.run([group], algorithm, completer).groups[0].labelled


@pytest.mark.parametrize('name', ROLLED_OUT)
def test_labels_after_the_error_are_not_set_while_they_are_rolled_out(name):
  with pytest.raises(UserError, match=r"after_error='zero'.*stop_after_error=True"):
    ALGORITHMS[name].options(after_error='zero')
  assert ALGORITHMS[name].options(after_error='zero', stop_after_error=True)


@pytest.mark.parametrize('name', ROLLED_OUT)
def test_labels_tell_of_after_error_only_where_it_acts(name):
  t = solution('s', 5, False)
  v = np.array([1.0, 1.0, 0.0, 1.0, 1.0, 0.0])
  (kept,) = run(name, [t], Planted({'s': v}))
  held = kept.labels[name]
  assert held.values[1] < 0.1 < 0.9 < held.values[2]
  assert 'after_error' not in held.how
  (cut,) = run(name, [t], Planted({'s': v}), stop_after_error=True)
  held = cut.labels[name]
  assert held.values[2:] == (None, None, 0.0)
  assert held.how['after_error'] == 'unlabelled'
