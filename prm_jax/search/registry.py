"""Search algorithms by the name a config gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from prm_jax import field_types
from prm_jax.errors import UserError
from prm_jax.search import (
  beam,
  best_of_n,
  confidence,
  early,
  mcts,
  particle,
  pats,
  rebase,
)
from prm_jax.search.protocol import Algorithm
from prm_jax.step_values import check_reduction


@dataclasses.dataclass(frozen=True)
class Entry:
  """An algorithm and what it takes.

  Attributes:
    options: frozen dataclass of its options, each with its published default.
    make: options -> algorithm.
    needs_scorer: it chooses by scores while it searches.
    needs_probability: it compares scores with probabilities.
    needs_tokens: it cuts at tokens, so the engine must say which it drew.
  """

  options: type[Any]
  make: Callable[[Any], Algorithm]
  needs_scorer: bool = True
  needs_probability: bool = False
  needs_tokens: bool = False


ALGORITHMS: dict[str, Entry] = {
  'best_of_n': Entry(best_of_n.BestOfNOptions, best_of_n.best_of_n, False),
  'adaptive_n': Entry(
    best_of_n.AdaptiveOptions, best_of_n.adaptive_n, needs_probability=True
  ),
  'greedy': Entry(best_of_n.GreedyOptions, best_of_n.greedy),
  'beam': Entry(beam.BeamOptions, beam.beam),
  'dvts': Entry(beam.BeamOptions, beam.dvts),
  'lookahead': Entry(beam.LookaheadOptions, beam.lookahead),
  'rebase': Entry(rebase.RebaseOptions, rebase.rebase),
  'particle': Entry(particle.ParticleOptions, particle.particle),
  'mcts': Entry(mcts.MctsOptions, mcts.mcts, needs_probability=True),
  'early_rejection': Entry(early.EarlyOptions, early.early_rejection),
  'pats': Entry(pats.PatsOptions, pats.pats, needs_probability=True),
  'adaptive_step': Entry(
    confidence.ConfidenceOptions, confidence.adaptive_step, needs_tokens=True
  ),
}


def build(
  name: str, options: Mapping[str, Any], *, kind: str | None, tokens: bool = True
) -> tuple[Algorithm, Any]:
  """An algorithm with its options.

  Args:
    name: key of `ALGORITHMS`.
    options: what differs from the defaults.
    kind: of the scorer's values; None without a scorer.
    tokens: whether the engine says which tokens it drew, as the in-process one does.

  Returns:
    (algorithm, its options dataclass).

  Raises:
    UserError: the name or an option is unknown, a value means nothing, or scorer or
      engine do not fit the algorithm.
  """
  if name not in ALGORITHMS:
    known = ', '.join(ALGORITHMS)
    raise UserError(f'search algorithm {name!r} is unknown; choose one of {known}.')
  entry = ALGORITHMS[name]
  fields = [f.name for f in dataclasses.fields(entry.options)]
  for key in options:
    if key not in fields:
      raise UserError(
        f'search algorithm {name} has no option {key!r}; it takes {", ".join(fields)}.'
      )
  field_types.check('search option ', entry.options, options)
  if kind is None and entry.needs_scorer:
    raise UserError(
      f'search algorithm {name} chooses by step scores; name a scorer, or take '
      'best_of_n.'
    )
  if kind not in (None, 'probability') and entry.needs_probability:
    raise UserError(
      f'search algorithm {name} compares scores with probabilities and this scorer '
      f'gives {kind}; calibrate it, or choose another algorithm.'
    )
  if entry.needs_tokens and not tokens:
    raise UserError(
      f'search algorithm {name} cuts solutions at single tokens, and this engine does '
      'not say which it drew; use the in-process engine (engine.kind=jax), or choose '
      'another algorithm.'
    )
  made = entry.options(**options)
  if kind is not None:  # here, not after hours of the methods before it
    check_reduction(made.reduction, kind)
  return entry.make(made), made
