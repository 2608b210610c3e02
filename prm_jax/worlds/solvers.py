"""Simulated solvers: who writes the solutions, and the two ways in which they err.

A *fact* is the result of one operation on one value. A solver holds a belief about
every fact and applies it each time the fact comes up. *Misconceptions* are wrong
beliefs: some are shared by most solvers of a population, with the same wrong result,
the others are a solver's own. On top, any step may *slip* to a random other value.
Shared misconceptions are what makes majority voting plateau far below the oracle,
as it does with real policies; slips alone would be voted away.

Two populations exist: 'train' writes all splits but one; 'shifted', whose
misconceptions concern facts that no 'train' solver misbelieves, writes
heldout_misconceptions. As a policy, a population is: draw a solver, then solve.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from prm_jax.worlds import randomness
from prm_jax.worlds.problems import Operations, Problems, WorldConfig, operations

POPULATIONS = ('train', 'shifted')


def population_of(split: str) -> str:
  """Name of the population that writes a split's solutions."""
  return 'shifted' if split == 'heldout_misconceptions' else 'train'


@dataclasses.dataclass(frozen=True)
class Population:
  """W solvers.

  Attributes:
    name: 'train' or 'shifted'.
    beliefs: int64 [O, W, M], what solver w takes operation o on value a to be.
    shared: bool [O, M], facts about which most solvers share a wrong belief.
  """

  name: str
  beliefs: np.ndarray
  shared: np.ndarray

  def misconceptions(self, world: Operations) -> np.ndarray:
    """bool [O, M]: facts that some solver of the population misbelieves."""
    return (self.beliefs != world.results[:, None, :]).any(axis=1)


@functools.lru_cache(maxsize=8)
def population(config: WorldConfig, name: str) -> Population:
  """The solvers of a population, from the config's seed."""
  world = operations(config)
  n_ops, n_values = world.results.shape
  n_solvers = config.n_solvers
  fact = np.arange(n_ops * n_values).reshape(n_ops, n_values)

  def draw(what: str, *indices: np.ndarray) -> np.ndarray:
    return randomness.uniform(randomness.key_of('solvers', config.seed, what), *indices)

  def wrong(what: str, *indices: np.ndarray) -> np.ndarray:
    step = 1 + (draw(what, *indices) * (n_values - 1)).astype(np.int64)
    return step % n_values

  # Each fact may be misbelieved in one population only.
  own_half = (draw('half', fact) < 0.5) == (name == 'train')

  # Shared misconceptions: facts in random order until steps of true chains meet
  # them at the rate asked for, so that every seed gives a world of like difficulty.
  met = fact_rates(config)
  order = np.argsort(np.where(own_half, draw('order', fact), 2.0).ravel())
  order = order[: own_half.sum()]
  before = np.cumsum(met.ravel()[order]) - met.ravel()[order] / 2
  shared = np.zeros(n_ops * n_values, bool)
  shared[order[before < config.shared_error_rate]] = True
  shared = shared.reshape(n_ops, n_values)

  solver = np.arange(n_solvers)[:, None, None]
  low, high = config.shared_belief
  share = low + (high - low) * draw('share', fact)
  rank = np.argsort(np.argsort(draw('holds', fact, solver), axis=0), axis=0)
  holds = shared & (rank < np.round(share * n_solvers))
  own = own_half & ~shared & (draw('own', fact, solver) < 2 * config.own_error_rate)
  beliefs = np.broadcast_to(world.results, holds.shape)
  beliefs = beliefs + np.where(holds, wrong('shared wrong', fact), 0)
  beliefs = beliefs + np.where(own, wrong('own wrong', fact, solver), 0)
  beliefs = np.ascontiguousarray((beliefs % n_values).transpose(1, 0, 2))
  return Population(name, beliefs, shared)


def fact_rates(config: WorldConfig) -> np.ndarray:
  """float64 [O, M]: the share of all steps of true chains that meet each fact."""
  world = operations(config)
  n_ops, n_values = world.results.shape
  at = np.full(n_values, 1 / n_values)
  met = np.zeros((n_ops, n_values))
  lengths = np.arange(config.min_ops, config.max_ops + 1)
  for t in range(config.max_ops):
    chance = at[None, :] * world.chances.T
    met += chance * np.mean(lengths > t)
    at = np.bincount(world.results.ravel(), chance.ravel(), minlength=n_values)
  return met / lengths.mean()


@dataclasses.dataclass(frozen=True)
class Solutions:
  """Solutions of R problems, one each.

  Attributes:
    solver: int64 [R].
    values: int64 [R, P + 1], the start, then the value that each line claims; the
      last value is repeated beyond the end.
  """

  solver: np.ndarray
  values: np.ndarray


def solve(
  config: WorldConfig,
  split: str,
  asked: Problems,
  problem_index: np.ndarray,
  sample_index: np.ndarray,
) -> Solutions:
  """Solution number `sample_index` [R] of problem `problem_index` [R] of a split.

  `asked` holds those problems, row by row. A solution is a function of the two
  indices, whatever else is asked for.
  """
  who = population(config, population_of(split))
  n_values = config.max_value + 1
  key = randomness.bits(
    randomness.key_of('solutions', config.seed, split), problem_index, sample_index
  )
  solver = randomness.below(config.n_solvers, key, 0)
  values = np.empty_like(asked.values)
  values[:, 0] = asked.values[:, 0]
  for t in range(asked.ops.shape[1]):
    op, a = asked.ops[:, t], values[:, t]
    believed = who.beliefs[op, solver, a]
    slips = randomness.uniform(key, 1 + 2 * t) < config.slip_rate
    step = 1 + randomness.below(n_values - 1, key, 2 + 2 * t)
    result = np.where(slips, (believed + step) % n_values, believed)
    values[:, t + 1] = np.where(op >= 0, result, a)
  return Solutions(solver, values)
