"""Public families: hidden states, logits, step probabilities against transformers.

`tests/fixtures/parity` holds a folder a case, loaded here as anybody would load it.
"""

import jax
import numpy as np
import parity_cases
import pytest
from parity_cases import CASES, FOLDER

from prm_jax.models import decoder, weights

TOLERANCE = {'hidden': 1e-4, 'logits': 1e-4, 'probabilities': 1e-5}


def test_both_forms_of_config_are_there():
  forms = {'rope_parameters' in (FOLDER / c / 'config.json').read_text() for c in CASES}
  assert len(CASES) == 12 and forms == {True, False}


@pytest.mark.parametrize('case', CASES)
def test_matches_reference(case):
  """Every option of the public families, in both directions it can be wrong."""
  found = parity_cases.differences(case)
  assert {'nopad/hidden', 'right/hidden', 'left/hidden'} <= found.keys()
  read_out = 'probabilities' if case in parity_cases.HEADS else 'logits'
  assert f'right/{read_out}' in found
  for name, worst in found.items():
    assert worst < TOLERANCE[name.partition('/')[2]], name


@pytest.mark.slow
@pytest.mark.parametrize('case', CASES)
def test_matches_reference_over_the_cache(case):
  assert parity_cases.cached_difference(case) < TOLERANCE['hidden']


@pytest.mark.slow
@pytest.mark.parametrize('case', CASES)
def test_scanned_layers_at_chosen_positions(case):
  """The scanned model, in blocks, at chosen positions only, is the same model."""
  spec, params = parity_cases.load(case, scan_layers=True, query_block=5)
  held = np.load(FOLDER / case / 'expected.npz')
  at = np.array([[8, 3, 0], [7, 7, 1], [2, 4, 8]], np.int32)
  states = decoder.forward(spec, params['decoder'], held['right_input_ids'], at)
  full = np.take_along_axis(held['right_last_hidden'], at[:, :, None], 1)
  assert np.abs(states - full).max() < TOLERANCE['hidden']


@pytest.mark.parametrize('case', ['gemma2', 'qwen2_token_cls'])
def test_scanned_and_unrolled_layers_are_the_same_weights(case):
  _, plain = parity_cases.load(case)
  spec, scanned = parity_cases.load(case, scan_layers=True)
  jax.tree.map(np.testing.assert_array_equal, weights.stack_layers(plain), scanned)
  assert 'layers' in scanned['decoder'] and spec.scan_layers
