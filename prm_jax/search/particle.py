"""Particle filtering and particle Gibbs (Puri et al., arXiv 2502.01618).

Particles grow by one step, are weighted by the score of the prefix as it stands, and
are drawn anew in proportion to it. A particle that has ended keeps its weight and
stays in the pool: drawn, it takes a place and is never continued.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Generator

import numpy as np

from prm_jax.search import resampling, rules
from prm_jax.search.options import (
  Options,
  at_least,
  at_most,
  check_kind,
  one_of,
  outcome,
  scores_of,
)
from prm_jax.search.protocol import (
  ROOT,
  Algorithm,
  Ask,
  Beam,
  Expand,
  Outcome,
  Problem,
  Steps,
)

FINISHED = ('pool', 'fixed')
WEIGHTS = ('current', 'incremental')
SELECT = ('argmax', 'sample')


@dataclasses.dataclass(frozen=True)
class ParticleOptions(Options):
  """The published algorithm by default.

  Attributes:
    n: particles.
    iterations: steps at most (the paper: 40); the last runs to the end.
    temperature: T of the softmax over log-weights.
    scheme: of resampling, see `resampling.SCHEMES`.
    threshold: resample where the effective number of particles is below this share of
      them; 1 at every step, as published.
    weights: 'current' (published): the score of the prefix, whatever was resampled
      by it before; 'incremental': its ratio to the score at the last resampling.
    finished: 'pool' (published): an ended particle competes in resampling, and may be
      lost or copied; 'fixed': it keeps its place, and the others share theirs.
    select: 'argmax' of the final weights, or 'sample' by them.
    gibbs: sweeps; 2 or more are particle Gibbs, where a particle of the sweep before,
      drawn by final weight, is the first of the next at every step.
  """

  n: int = 16
  iterations: int = 40
  temperature: float = 1.0
  scheme: str = 'multinomial'
  threshold: float = 1.0
  weights: str = 'current'
  finished: str = 'pool'
  select: str = 'argmax'
  gibbs: int = 1

  def __post_init__(self) -> None:
    super().__post_init__()
    at_least('n', self.n, 1)
    at_least('iterations', self.iterations, 1)
    at_least('temperature', self.temperature, 1e-6)
    at_least('threshold', self.threshold, 0)
    at_most('threshold', self.threshold, 1)
    at_least('gibbs', self.gibbs, 1)
    one_of('scheme', self.scheme, tuple(resampling.SCHEMES))
    one_of('weights', self.weights, WEIGHTS)
    one_of('finished', self.finished, FINISHED)
    one_of('select', self.select, SELECT)
    if self.gibbs > 1:
      at_least('n (with gibbs)', self.n, 2)


Sweep = Generator[Ask, list[list[Beam]], list[Beam]]


def particle(options: ParticleOptions) -> Algorithm:
  """Particle filtering; with `gibbs` of 2 or more, particle Gibbs."""

  def algorithm(problem: Problem) -> Steps:
    check_kind(options, problem)
    everything: dict[int, Beam] = {}
    pool: list[Beam] = []
    reference: list[Beam] = []
    for sweep in range(options.gibbs):
      pool += yield from _sweep(options, problem, sweep, reference, everything)
      latest = pool[-options.n :]
      weights = _weights(options, problem, latest)
      if sweep < options.gibbs - 1:
        key = problem.keys(1, 'reference', sweep)
        chosen = latest[resampling.multinomial(weights, key)[0]]
        reference = _path(chosen, everything)
    return _outcome(options, problem, pool)

  return algorithm


def _sweep(
  options: ParticleOptions,
  problem: Problem,
  sweep: int,
  reference: list[Beam],
  everything: dict[int, Beam],
) -> Sweep:
  """One pass from the question to the end; the particles it leaves."""
  root = Beam(ROOT, -1)
  everything[ROOT] = root
  particles = [root] * options.n
  base = np.zeros(options.n)
  for i in range(options.iterations):
    last = i == options.iterations - 1
    if reference:
      particles[0] = reference[min(i, len(reference) - 1)]
    particles = yield from _grow(options, particles, reference, everything, last)
    if reference:
      particles[0] = reference[min(i + 1, len(reference) - 1)]
    going = [not b.ended for b in particles]
    if not any(going):
      break
    logs = _logs(options, problem, particles)
    # What was drawn without a score has none to be compared with.
    gained = logs - np.where(np.isneginf(base), 0.0, base)
    kept = _resample(options, problem, (sweep, i), gained, going, bool(reference))
    if kept is not None:
      particles = [particles[k] for k in kept]
      base = logs[kept] if options.weights == 'incremental' else base
  return particles


def _grow(
  options: ParticleOptions,
  particles: list[Beam],
  reference: list[Beam],
  everything: dict[int, Beam],
  whole: bool,
) -> Sweep:
  """Every particle one step on; the ended ones and the reference stay as they are."""
  held = 1 if reference else 0
  counts = Counter(b.id for b in particles[held:] if not b.ended)
  if not counts:
    return particles
  keep: tuple[int, ...] = ()
  if options.gibbs > 1:  # any prefix may become the next reference's
    keep = tuple(i for i, b in everything.items() if not b.ended and i not in counts)
  asked = tuple(Expand(b, n, whole=whole) for b, n in counts.items())
  answers = yield Ask(asked, keep)
  children = {e.beam: list(some) for e, some in zip(asked, answers)}
  for some in children.values():
    everything.update((b.id, b) for b in some)
  grown = list(particles[:held])
  for b in particles[held:]:
    mine = children.get(b.id)
    # A refused beam comes back once, for all its copies.
    grown.append(b if not mine else mine.pop(0) if len(mine) > 1 else mine[0])
  return grown


def _logs(options: ParticleOptions, problem: Problem, beams: list[Beam]) -> np.ndarray:
  scores = scores_of(beams, options.reduction)
  return resampling.log_weights(scores, problem.kind)


def _weights(
  options: ParticleOptions, problem: Problem, beams: list[Beam]
) -> np.ndarray:
  return rules.softmax(_logs(options, problem, beams) / options.temperature)


def _resample(
  options: ParticleOptions,
  problem: Problem,
  names: tuple[int, int],
  logs: np.ndarray,
  going: list[bool],
  reference: bool,
) -> list[int] | None:
  """Places of the next particles; None where there is no need."""
  n = len(logs)
  free = [k for k in range(n) if going[k] or options.finished == 'pool']
  weights = rules.softmax(logs[free] / options.temperature)
  few = resampling.effective_size(weights) < options.threshold * len(free)
  if not few and options.threshold < 1:
    return None
  places = [k for k in free if not (reference and k == 0)]
  keys = problem.keys(len(places), 'resample', *names)
  drawn = resampling.SCHEMES[options.scheme](weights, keys)
  kept = list(range(n))
  for place, k in zip(places, drawn):
    kept[place] = free[int(k)]
  return kept


def _path(beam: Beam, everything: dict[int, Beam]) -> list[Beam]:
  """From the root to a beam."""
  path = [beam]
  while path[-1].id != ROOT:
    path.append(everything[path[-1].parent])
  return path[::-1]


def _outcome(options: ParticleOptions, problem: Problem, pool: list[Beam]) -> Outcome:
  """Distinct particles with their copies and final weights."""
  copies = Counter(b.id for b in pool)
  beams = list({b.id: b for b in pool}.values())
  logs = _logs(options, problem, beams)
  counts = [copies[b.id] for b in beams]
  each = rules.softmax(logs / options.temperature) * counts
  found = outcome(
    problem, beams, logs, weights=(each / each.sum()).tolist(), copies=counts
  )
  if options.select == 'sample' and beams:
    drawn = resampling.multinomial(each / each.sum(), problem.keys(1, 'select'))
    return dataclasses.replace(found, chosen=int(drawn[0]))
  return found
