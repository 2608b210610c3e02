"""The error that the stopping rules of audited label sets really make.

Each rule, as the label set's `how` describes it, is put before simulated streams of
rollouts of one prefix whose V is known: at tau, where it is hardest, at tau - 0.05 and
tau + 0.05, and at 0 and 1. A claim is false if it says dead where V >= tau, or alive
where V <= tau; at tau itself both are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from prm_jax.estimates import wilson
from prm_jax.evaluation.report import Row, Table
from prm_jax.labeling.change_point import ChangePoint, Prior
from prm_jax.labeling.confidence import (
  ALIVE,
  DEAD,
  UNDECIDED,
  ConfidenceSequence,
  FixedInterval,
  Realised,
  realised_error,
)

LOOKED_AT = 'wilson_after_each'
"""The rule that must not be used, for comparison."""
FALSE_CLAIMS = 'Stopping rules: false claims'
STEP = 0.05


@dataclasses.dataclass(frozen=True)
class AnySuccess:
  """Alive at the first success, dead after k failures.

  Attributes:
    tau: not used; what the claims are about.
    k: rollouts.
  """

  tau: float
  k: int

  def decide(self, correct: np.ndarray, n: np.ndarray) -> np.ndarray:
    """int8: ALIVE, DEAD or UNDECIDED after `correct` successes in `n` rollouts."""
    spent = np.where(np.asarray(n) >= self.k, DEAD, UNDECIDED)
    return np.where(np.asarray(correct) > 0, ALIVE, spent).astype(np.int8)


@dataclasses.dataclass(frozen=True)
class Posterior:
  """The posterior rule of `labeling.adaptive`, on a wrong solution of two steps.

  Its first step ends the prefix that is rolled out: dead, if that is the first dead
  one with posterior probability 1 - alpha; alive, if the second is.

  Attributes:
    tau: the limit.
    alpha: error that the rule allows.
    prior: of the chain of prefixes.
  """

  tau: float
  alpha: float
  prior: Prior

  def decide(self, correct: np.ndarray, n: np.ndarray) -> np.ndarray:
    """int8: ALIVE, DEAD or UNDECIDED after `correct` successes in `n` rollouts."""
    pairs = np.stack(np.broadcast_arrays(correct, n), axis=-1).astype(np.int64)
    known, place = np.unique(pairs.reshape(-1, 2), axis=0, return_inverse=True)
    claims = np.array([self._claim(int(s), int(k)) for s, k in known], np.int8)
    return claims[place].reshape(pairs.shape[:-1])

  def _claim(self, correct: int, n: int) -> int:
    chain = ChangePoint(self.prior, 2, False)
    chain.update(0, correct, n)
    dead, alive = chain.posterior[0], chain.posterior[1]
    if dead >= 1 - self.alpha:
      return DEAD
    return ALIVE if alive >= 1 - self.alpha else UNDECIDED


StoppingRule = AnySuccess | ConfidenceSequence | FixedInterval | Posterior


def rule_of(how: Mapping[str, Any], tau: float) -> tuple[StoppingRule, int] | None:
  """(rule, rollouts of a prefix at most) of a label set; None if it has none."""
  stopping = how.get('stopping')
  own = float(how.get('tau', tau))
  if stopping == 'confidence':
    return ConfidenceSequence(own, how['alpha']), how['prefix_cap']
  if stopping == 'posterior':
    held = how['prior']
    prior = Prior(
      own, held['hazard'], held['repair'], held['redraw'],
      tuple(held['alive']), tuple(held['dead']),
    )  # fmt: skip
    return Posterior(own, how['alpha'], prior), how['prefix_cap']
  if how.get('hard') and stopping in ('first_success', 'fixed_k'):
    return AnySuccess(own, how['k']), how['k']
  return None


def measure(
  hows: Mapping[str, Mapping[str, Any]], tau: float, streams: int, seed: int
) -> tuple[dict[str, dict[str, Any]], list[Table]]:
  """Metrics and tables of the rules of several label sets.

  Args:
    hows: algorithm -> `how` of its label set.
    tau: the limit that claims are judged by.
    streams: simulated prefixes for each rule and V.
    seed: of the simulation.

  Returns:
    ('audit/stopping/error@V=0.125[NAME]', 'undecided@...', 'rollouts@...', tables);
    the Wilson interval for given V, over the streams. Nothing if no set has a rule.
  """
  asked = {name: rule_of(how, tau) for name, how in hows.items()}
  rules: dict[str, tuple[Any, int]] = {n: rule for n, rule in asked.items() if rule}
  if not rules:
    return {}, []
  longest = max(n_max for _, n_max in rules.values())
  rules[LOOKED_AT] = FixedInterval(tau), longest
  values = [0.0, tau - STEP, tau, tau + STEP, 1.0]
  values = [round(v, 6) for v in values if 0 <= v <= 1]
  metrics: dict[str, dict[str, Any]] = {}
  rows, costs = [], []
  for name, (rule, n_max) in rules.items():
    found = [realised_error(rule, v, tau, n_max, streams, seed) for v in values]
    for v, one in zip(values, found):
      at = f'@V={v:g}[{name}]'
      metrics[f'audit/stopping/error{at}'] = _share(one.error, streams)
      metrics[f'audit/stopping/undecided{at}'] = _share(one.undecided, streams)
      metrics[f'audit/stopping/rollouts{at}'] = _plain(one, streams)
    baseline = name == LOOKED_AT
    shown = name.replace('_', ' ')
    rows.append(Row(shown, [_share(o.error, streams) for o in found], baseline))
    costs.append(
      Row(
        shown,
        [f'{o.mean_rollouts:.1f}, {o.undecided:.1%} undecided' for o in found],
        baseline,
      )
    )
  header = ['rule of', *(f'V = {v:g}' for v in values)]
  note = (
    f'Share of {streams:,} simulated prefixes about which the rule claims what is '
    f'false; dead means V below {tau:g}. At V = {tau:g} either claim is false.'
  )
  cost_note = 'Mean rollouts of a prefix, and how many prefixes end without a claim.'
  return metrics, [
    Table(FALSE_CLAIMS, header, rows, note),
    Table('Stopping rules: cost', header, costs, cost_note),
  ]


def _share(value: float, n: int) -> dict[str, Any]:
  low, high = wilson(round(value * n), n)
  return {'value': value, 'low': float(low), 'high': float(high), 'n': n}


def _plain(found: Realised, n: int) -> dict[str, Any]:
  return {'value': found.mean_rollouts, 'low': None, 'high': None, 'n': n}


def definitions(paths: Mapping[str, Any]) -> dict[str, str]:
  """Metric path -> sentence, of the metrics of `measure`."""
  words = {
    'error': 'Share of simulated prefixes of this value about which the stopping rule '
    'makes a false claim.',
    'undecided': 'Share of simulated prefixes of this value that end without a claim.',
    'rollouts': 'Mean rollouts of a simulated prefix of this value.',
  }
  start = 'audit/stopping/'
  return {
    path: words[path.removeprefix(start).partition('@')[0]]
    for path in paths
    if path.startswith(start)
  }
