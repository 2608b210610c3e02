"""Label algorithms by the name a config gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from prm_jax.labeling import (
  adaptive,
  binary_search,
  consensus,
  entropic,
  grounded,
  hrm,
  monte_carlo,
  omega,
  pseudo,
  scan,
  solutions,
  unprm,
)
from prm_jax.labeling.protocol import Algorithm


@dataclasses.dataclass(frozen=True)
class Entry:
  """An algorithm and what it takes.

  Attributes:
    options: frozen dataclass of its options, each with a default.
    make: options -> algorithm.
    needs_gold: it judges continuations, so problems need a gold answer.
    needs_engine: it asks for continuations.
  """

  options: type[Any]
  make: Callable[[Any], Algorithm]
  needs_gold: bool = True
  needs_engine: bool = True


ALGORITHMS: dict[str, Entry] = {
  'mc_hard': Entry(monte_carlo.HardOptions, monte_carlo.mc_hard),
  'mc_soft': Entry(monte_carlo.SoftOptions, monte_carlo.mc_soft),
  'er_prm': Entry(entropic.EntropicOptions, entropic.er_prm),
  'sequential': Entry(binary_search.SequentialOptions, binary_search.sequential),
  'binary_search': Entry(binary_search.SearchOptions, binary_search.binary_search),
  'adaptive': Entry(adaptive.AdaptiveOptions, adaptive.adaptive),
  'scan': Entry(scan.ScanOptions, scan.scan),
  'omega_prm': Entry(omega.OmegaOptions, omega.omega_prm),
  'un_prm': Entry(unprm.UnOptions, unprm.un_prm),
  'grounded_prm': Entry(grounded.GroundedOptions, grounded.grounded_prm),
  'hrm': Entry(hrm.HrmOptions, hrm.hrm),
  'free_prm': Entry(solutions.Options, pseudo.free_prm, False, False),
  'consensus': Entry(consensus.ConsensusOptions, consensus.consensus, False, False),
}
