"""What a label algorithm says of the solutions of a reference, as ragged arrays.

Label sets of different algorithms estimate different quantities, so each is held
against its own: V for kind 'value', the entropic transform of V for 'entropic', and
the truth about the steps for kinds that speak of correctness. A hard label of a
value (`how` says hard) answers a yes-or-no question: is V >= tau?
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prm_jax import records
from prm_jax.errors import UserError
from prm_jax.estimates import entropic
from prm_jax.evaluation.splits import UNKNOWN, Steps
from prm_jax.records import LabelSet, Trajectory

COST = 'label_cost'
"""Key of `meta`: label set -> {'tokens', 'rollouts'} spent on the solution."""
ESTIMANDS = {
  'value': 'value',
  'entropic': 'entropic',
  'correctness': 'truth',
  'denoised': 'truth',
  'outcome': 'truth',
  'progress': '',
}
"""Kind of a label set -> what it is held against; '' nothing."""
NO_FIRST_ERROR = ('outcome', 'progress')
"""Kinds from whose values no first error follows; one may be stated beside them."""


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
  """One algorithm on R solutions with M steps.

  Attributes:
    name: of the algorithm, as metrics call it.
    label: name of its label set.
    kind: of the label set.
    estimand: 'value', 'entropic', 'alive' (hard labels of a value), 'truth', or ''.
    eta: of the entropic transform, 0 without.
    values: [M] float64, 0 where there is no label.
    has: [M] bool, there is a label.
    dead: [M] bool, the label says that the prefix is dead (the step wrong).
    first_error: [R] int, -1 none, `UNKNOWN` undecided or not labelled.
    labelled: [R] bool, the solution carries the label set.
    tokens, rollouts: [R] float64 spent on it, NaN where that is not recorded.
    counters: what is missing.
  """

  name: str
  label: str
  kind: str
  estimand: str
  eta: float
  values: np.ndarray
  has: np.ndarray
  dead: np.ndarray
  first_error: np.ndarray
  labelled: np.ndarray
  tokens: np.ndarray
  rollouts: np.ndarray
  counters: dict[str, int]

  @property
  def soft(self) -> bool:
    """Some labels are neither 0 nor 1."""
    return bool(((self.values > 0) & (self.values < 1))[self.has].any())


def common(
  reference: Sequence[Trajectory], others: Mapping[str, Sequence[Trajectory]]
) -> tuple[list[Trajectory], dict[str, list[Trajectory]], dict[str, int]]:
  """The solutions that all files hold, in the reference's order.

  Args:
    reference: solutions with the reference.
    others: algorithm -> solutions with its labels.

  Returns:
    (reference's rows, algorithm -> rows in the same order, how many solutions of
    each were left out because another file lacks them).

  Raises:
    UserError: an id is repeated, two files disagree on the steps of a solution, or
      nothing is common.
  """
  held = {name: _by_id(name, rows) for name, rows in others.items()}
  kept = []
  for t in reference:
    twins = [(name, rows.get(t.id)) for name, rows in held.items()]
    for name, twin in twins:
      if twin is not None and twin.steps != t.steps:
        raise UserError(
          f'{name}: solution {t.id} has other steps than in the reference; label and '
          'reference must come from the same file of solutions.'
        )
    if all(twin is not None for _, twin in twins):
      kept.append(t)
  if not kept:
    raise UserError(
      'no solution id is in the reference and in every labelled file; label the same '
      'file of solutions with all of them.'
    )
  counters = {'reference/not_in_all_files': len(reference) - len(kept)}
  for name, rows in held.items():
    counters[f'{name}/not_in_all_files'] = len(rows) - len(kept)
  return (
    kept,
    {name: [rows[t.id] for t in kept] for name, rows in held.items()},
    counters,
  )


def _by_id(name: str, rows: Sequence[Trajectory]) -> dict[str, Trajectory]:
  out = {t.id: t for t in rows}
  if len(out) < len(rows):
    twice = Counter(t.id for t in rows).most_common(1)[0][0]
    raise UserError(f'{name}: id {twice!r} occurs more than once; drop repeated rows.')
  return out


def read(
  name: str, trajectories: Sequence[Trajectory], steps: Steps, label: str, tau: float
) -> Reading:
  """Reads one algorithm's label set.

  Args:
    name: of the algorithm.
    trajectories: R solutions in the order of `steps`.
    steps: geometry of the reference.
    label: name of the label set.
    tau: below it a value is dead, unless the set names its own in `how`.

  Raises:
    UserError: no solution carries the set, or its rows are of several kinds, tau or
      eta.
  """
  m = len(steps.chars)
  values, has, dead = np.zeros(m), np.zeros(m, bool), np.zeros(m, bool)
  first = np.full(steps.n_rows, UNKNOWN)
  labelled = np.zeros(steps.n_rows, bool)
  tokens, rollouts = np.full(steps.n_rows, np.nan), np.full(steps.n_rows, np.nan)
  meant: dict[tuple[str, str, float, float], str] = {}
  for r, t in enumerate(trajectories):
    cost = _cost(t, label)
    tokens[r], rollouts[r] = cost
    held = t.labels.get(label)
    if held is None:
      first[r] = _known(t.first_error.get(label))
      continue
    labelled[r] = True
    meaning = _meaning(held, tau)
    meant.setdefault(meaning, t.id)
    threshold = _threshold(*meaning)
    for i, value in enumerate(held.values, int(steps.offsets[r])):
      if value is not None:
        values[i], has[i], dead[i] = value, True, value < threshold
    if label in t.first_error:
      first[r] = _known(t.first_error[label])
    elif held.kind not in NO_FIRST_ERROR:
      first[r] = _known(records.first_error_of(held.values, threshold))
  if not meant:
    raise UserError(_nothing(name, label, trajectories))
  if len(meant) > 1:
    (a, one), (b, two) = list(meant.items())[:2]
    raise UserError(
      f'{name}: label set {label!r} means different things in {one} and {two} '
      f'(kind, hard or soft, tau, eta: {a} and {b}); audit them apart.'
    )
  kind, estimand, _, eta = next(iter(meant))
  return Reading(
    name=name,
    label=label,
    kind=kind,
    estimand=estimand,
    eta=eta,
    values=values,
    has=has,
    dead=dead,
    first_error=first,
    labelled=labelled,
    tokens=tokens,
    rollouts=rollouts,
    counters={
      'solutions_not_labelled': int((~labelled).sum()),
      'steps_without_label': int((~has).sum()),
      'first_error_undecided': int((first == UNKNOWN).sum()),
      'solutions_without_cost': int((np.isnan(tokens) | np.isnan(rollouts)).sum()),
    },
  )


def _known(first: int | None) -> int:
  return UNKNOWN if first is None else first


def _cost(t: Trajectory, label: str) -> tuple[float, float]:
  held = t.meta.get(COST)
  spent: Any = held.get(label) if isinstance(held, dict) else None
  if not isinstance(spent, dict):
    return np.nan, np.nan
  tokens, rollouts = (
    float(v) if isinstance(v := spent.get(k), (int, float)) else np.nan
    for k in ('tokens', 'rollouts')
  )
  return tokens, rollouts


def _meaning(held: LabelSet, tau: float) -> tuple[str, str, float, float]:
  """(kind, estimand, tau, eta) of a label set."""
  estimand = ESTIMANDS[held.kind]
  if estimand == 'value' and held.how.get('hard'):
    estimand = 'alive'
  own = held.how.get('tau')
  eta = held.how.get('eta', 1.0) if estimand == 'entropic' else 0.0
  return held.kind, estimand, float(tau if own is None else own), float(eta)


def _threshold(kind: str, estimand: str, tau: float, eta: float) -> float:
  """A label below it says dead, or wrong."""
  if estimand == 'value':
    return tau
  if estimand == 'entropic':
    return float(entropic(np.array(tau), eta))
  # Self-denoised labels soften what stands before an error; the error itself is 0.
  return 1e-9 if kind == 'denoised' else 0.5


def _nothing(name: str, label: str, trajectories: Sequence[Trajectory]) -> str:
  there = sorted({k for t in trajectories for k in t.labels})
  return (
    f'{name}: no solution carries a label set {label!r} (there: '
    f'{", ".join(there) or "none"}); name one of those as NAME=PATH@LABELSET.'
  )
