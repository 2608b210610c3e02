"""Where "wrong" and "dead" are different things, and what the reference cannot tell."""

from __future__ import annotations

import numpy as np

from prm_jax.evaluation.intervals import Resamples, bootstrap, divide, ratio
from prm_jax.evaluation.label_errors import REFERENCE, path
from prm_jax.evaluation.label_reference import Reference
from prm_jax.evaluation.result import Collector
from prm_jax.evaluation.splits import UNKNOWN, Split


def measure(
  out: Collector, reference: Reference, truth: Split | None, sample: Resamples
) -> None:
  """Where "wrong" and "dead" differ, and how much of the reference is ambiguous.

  'off_track_alive': share of prefixes with a wrong step that are alive, because
  continuations silently repair it; 'first_wrong_alive': the same of the prefixes
  that end in the first wrong step; 'on_track_dead': share of prefixes without a
  wrong step that are dead. Ambiguous prefixes count in none of them.
  """
  steps = reference.steps
  apart = steps.sum_steps(reference.ambiguous, reference.known)
  found = ratio(apart[:, 0], apart[:, 1], sample, reason='no_known_prefixes')
  out.put(path(REFERENCE, 'ambiguous_prefixes'), found, REFERENCE)
  unsure = steps.sum_rows(reference.first_dead() == UNKNOWN, np.ones(steps.n_rows))
  found = ratio(unsure[:, 0], unsure[:, 1], sample)
  out.put(path(REFERENCE, 'ambiguous_first_errors'), found, REFERENCE)
  noise = steps.sum_steps(reference.noise, reference.known)
  found = bootstrap(
    noise,
    lambda t: np.sqrt(divide(t[:, 0], t[:, 1])),
    sample,
    int(reference.known.sum()),
  )
  out.put(path(REFERENCE, 'rms_standard_error'), found, REFERENCE)
  if truth is None:
    return
  sure = reference.sure & truth.labelled
  first = truth.position == truth.first_error[truth.row]
  for metric, base, hit in (
    ('off_track_alive', truth.wrong, ~reference.dead),
    ('first_wrong_alive', truth.wrong & first, ~reference.dead),
    ('on_track_dead', ~truth.wrong, reference.dead),
  ):
    sums = steps.sum_steps(sure & base & hit, sure & base)
    found = ratio(sums[:, 0], sums[:, 1], sample, reason='no_such_prefixes')
    out.put(path(REFERENCE, metric, truth.truth), found, truth.truth)
    left = int((base & truth.labelled & reference.ambiguous).sum())
    out.count('audit', {f'reference/{metric}/ambiguous': left})
