"""Which cases of a parametrized test run by default; all of them run among the slow."""

import pytest


def often(cases, *kept):
  """The cases, those that are not `kept` marked slow.

  Raises:
    ValueError: a kept one is not among the cases.
  """
  cases = list(cases)
  if unknown := [k for k in kept if k not in cases]:
    raise ValueError(f'{unknown} are not among {cases}')
  slow = pytest.mark.slow
  return [
    c if c in kept else pytest.param(*(c if type(c) is tuple else (c,)), marks=slow)
    for c in cases
  ]
