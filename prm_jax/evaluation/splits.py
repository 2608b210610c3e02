"""Scored trajectories as ragged arrays: what every metric reads.

R solutions of A problems with M steps in all lie one after another; step arrays
are [M], solution arrays [R], problem arrays [A]. Geometry, truth and scores are
kept apart, so that several scorers are judged against the same truth.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Sequence

import numpy as np

from prm_jax import records
from prm_jax.errors import UserError
from prm_jax.records import Trajectory
from prm_jax.step_values import REDUCTIONS, check_reduction

UNKNOWN = -2
"""First error of a solution about which the truth says nothing."""


@dataclasses.dataclass(frozen=True, eq=False)
class Steps:
  """Where the steps of R solutions lie.

  Attributes:
    name: of the split, for messages and metric names.
    ids: [R].
    problem_ids: [A] distinct, sorted.
    problem: [R] int, index into `problem_ids`.
    offsets: [R + 1] int; steps of solution r are offsets[r]:offsets[r + 1].
    chars: [M] int, length of each step in characters.
  """

  name: str
  ids: tuple[str, ...]
  problem_ids: tuple[str, ...]
  problem: np.ndarray
  offsets: np.ndarray
  chars: np.ndarray

  @property
  def n_rows(self) -> int:
    """R."""
    return len(self.ids)

  @property
  def n_problems(self) -> int:
    """A."""
    return len(self.problem_ids)

  @functools.cached_property
  def counts(self) -> np.ndarray:
    """[R] steps of each solution."""
    return np.diff(self.offsets)

  @functools.cached_property
  def row(self) -> np.ndarray:
    """[M] solution of each step."""
    return np.repeat(np.arange(self.n_rows), self.counts)

  @functools.cached_property
  def position(self) -> np.ndarray:
    """[M] 0-based index of each step in its solution."""
    return np.arange(len(self.row)) - self.offsets[self.row]

  @functools.cached_property
  def mask(self) -> np.ndarray:
    """[R, P] bool, which steps exist; P is that of the longest solution."""
    width = int(self.counts.max(initial=0))
    return np.arange(width) < self.counts[:, None]

  def padded(self, values: np.ndarray, fill: float = 0.0) -> np.ndarray:
    """[M] step values as [R, P], `fill` where no step exists."""
    out = np.full(self.mask.shape, fill, dtype=np.asarray(values).dtype)
    out[self.mask] = values
    return out

  def sum_rows(self, *columns: np.ndarray) -> np.ndarray:
    """Sums over problems of K solution columns [R]: [A, K]."""
    return self._sum(self.problem, columns)

  def sum_steps(self, *columns: np.ndarray) -> np.ndarray:
    """Sums over problems of K step columns [M]: [A, K]."""
    return self._sum(self.problem[self.row], columns)

  def _sum(self, index: np.ndarray, columns: Sequence[np.ndarray]) -> np.ndarray:
    sums = [np.bincount(index, weights=c, minlength=self.n_problems) for c in columns]
    return np.stack(sums, axis=1)


@dataclasses.dataclass(frozen=True, eq=False)
class Split(Steps):
  """Solutions with the truth they are judged against.

  Attributes:
    truth: name of the label set.
    truth_kind: its kind ('correctness', 'value', ...).
    labels: [M] float64, 0 where unlabelled.
    labelled: [M] bool: has a label with positive weight. A step whose label has
      weight 0 is context: it is judged in the row where it has weight.
    first_error: [R] int, -1 none, `UNKNOWN`.
    verdict: name of the checker, '' for none.
    outcome: [R] float64, its verdict on the answer as 0 or 1.
    judged: [R] bool, there is a verdict.
    counters: rows and steps that cannot be used, by reason.
  """

  truth: str
  truth_kind: str
  labels: np.ndarray
  labelled: np.ndarray
  first_error: np.ndarray
  verdict: str
  outcome: np.ndarray
  judged: np.ndarray
  counters: dict[str, int]

  @functools.cached_property
  def wrong(self) -> np.ndarray:
    """[M] bool: labelled below 0.5."""
    return self.labelled & (self.labels < 0.5)

  @functools.cached_property
  def up_to_first_error(self) -> np.ndarray:
    """[M] bool: labelled steps up to and including the first wrong one.

    What follows a first error has no agreed truth (most data sets stop there), so
    step metrics leave it out everywhere. Unlabelled steps are left out as well.
    """
    seen = np.cumsum(self.wrong)
    before = np.concatenate([[0], seen])[self.offsets[:-1]]
    earlier = seen - self.wrong - before[self.row]
    after_known = self.first_error[self.row]
    beyond = (after_known >= 0) & (self.position > after_known)
    return self.labelled & (earlier == 0) & ~beyond


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
  """What a scorer says of the steps of a `Steps`.

  Attributes:
    name: of the scorer.
    kind: 'logit', 'probability' or 'log_ratio'.
    values: [M] float64, finite; 0 in solutions that are not scored.
    scored: [R] bool: every step has a score.
  """

  name: str
  kind: str
  values: np.ndarray
  scored: np.ndarray

  def reduced(self, steps: Steps, reduction: str) -> np.ndarray:
    """[R] one score a solution; -inf where it is not scored or has no steps.

    Raises:
      UserError: the reduction has no meaning for scores of this kind.
    """
    check_reduction(reduction, self.kind)
    out = REDUCTIONS[reduction](steps.padded(self.values), steps.mask)
    return np.where(self.scored, out, -np.inf)


def _geometry(name: str, trajectories: Sequence[Trajectory]) -> Steps:
  if not trajectories:
    raise UserError(f'split {name!r} holds no solutions; check its path and filters.')
  ids = tuple(t.id for t in trajectories)
  if len(set(ids)) < len(ids):
    twice = Counter(ids).most_common(1)[0][0]
    raise UserError(
      f'split {name!r}: id {twice!r} occurs more than once; drop the repeated rows.'
    )
  problem_ids, problem = np.unique(
    np.array([t.problem_id for t in trajectories], dtype=object), return_inverse=True
  )
  counts = [t.n_steps for t in trajectories]
  return Steps(
    name=name,
    ids=ids,
    problem_ids=tuple(str(p) for p in problem_ids),
    problem=problem.reshape(-1),
    offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    chars=np.array([len(s) for t in trajectories for s in t.steps], dtype=np.int64),
  )


def read_steps(name: str, trajectories: Sequence[Trajectory]) -> Steps:
  """Geometry alone, for candidates that carry no step labels.

  Raises:
    UserError: nothing is there, or an id is repeated.
  """
  return _geometry(name, trajectories)


def read_split(
  name: str, trajectories: Sequence[Trajectory], truth: str, verdict: str = ''
) -> Split:
  """Solutions and the truth named `truth`.

  A solution that has a `first_error` of that name but no labels (ProcessBench) is
  labelled by it: right before it, wrong at it, unlabelled after it.

  Args:
    name: of the split.
    trajectories: R solutions.
    truth: key of `labels` and `first_error`.
    verdict: key of `verdicts`, or ''.

  Raises:
    UserError: no solution carries that truth, its kinds differ, an id is repeated.
  """
  steps = _geometry(name, trajectories)
  labels = np.zeros(len(steps.chars))
  labelled = np.zeros(len(steps.chars), dtype=bool)
  first_error = np.full(steps.n_rows, UNKNOWN)
  outcome, judged = np.zeros(steps.n_rows), np.zeros(steps.n_rows, dtype=bool)
  kinds, context, without = set(), 0, 0
  for r, t in enumerate(trajectories):
    word = t.verdicts.get(verdict)
    if word is not None and word.value is not None:
      outcome[r], judged[r] = word.value, True
    start, stop = steps.offsets[r], steps.offsets[r + 1]
    held = t.labels.get(truth)
    if held is not None:
      kinds.add(held.kind)
      for i, value in enumerate(held.values, start):
        if value is not None:
          labels[i], labelled[i] = value, True
      if held.weights:
        idle = np.array(held.weights) == 0
        context += int((labelled[start:stop] & idle).sum())
        labelled[start:stop] &= ~idle
    if truth in t.first_error:
      first = t.first_error[truth]
    elif held is not None and held.kind == 'correctness':
      first = records.first_error_of(held.values)
    else:
      without += held is None
      first = None
    if first is None:
      continue
    first_error[r] = first
    if held is None:
      labels[start : stop if first < 0 else start + first] = 1
      labelled[start : stop if first < 0 else start + first + 1] = True
  if without == steps.n_rows:
    found = {k for t in trajectories for k in (*t.labels, *t.first_error)}
    raise UserError(
      f'split {name!r}: no solution carries the truth {truth!r} (found: '
      f'{", ".join(sorted(found)) or "none"}); name in data.truth one that they carry.'
    )
  if len(kinds) > 1:
    raise UserError(
      f'split {name!r}: labels {truth!r} are of kinds {", ".join(sorted(kinds))}, '
      'which are different quantities; evaluate them apart.'
    )
  counters = {
    'without_truth': without,
    'first_error_unknown': int((first_error == UNKNOWN).sum()),
    'steps_unlabelled': int((~labelled).sum()) - context,
    'steps_context_only': context,
    'rows_without_steps': int((steps.counts == 0).sum()),
  }
  return Split(
    **{f.name: getattr(steps, f.name) for f in dataclasses.fields(Steps)},
    truth=truth,
    truth_kind=kinds.pop() if kinds else 'correctness',
    labels=labels,
    labelled=labelled,
    first_error=first_error,
    verdict=verdict,
    outcome=outcome,
    judged=judged,
    counters=counters,
  )


def read_scores(
  steps: Steps,
  trajectories: Sequence[Trajectory],
  scorer: str,
  unscored: str = 'error',
) -> Scores:
  """Scores of the solutions of `steps`, in the same order.

  Args:
    steps: from the same trajectories.
    trajectories: R solutions.
    scorer: key of `scores`.
    unscored: what to do with a solution that lacks scores (too long for the
      scorer, say): 'error', or 'wrong': it counts against the scorer (a miss in
      first-error metrics, last choice among candidates) and is counted.

  Raises:
    UserError: scores are missing and may not be, their number differs from that of
      the steps, one is not finite, or kinds are mixed.
  """
  if unscored not in ('error', 'wrong'):
    raise UserError(f"unscored is {unscored!r}; it must be 'error' or 'wrong'.")
  values, scored = np.zeros(len(steps.chars)), np.ones(steps.n_rows, dtype=bool)
  kinds: dict[str, str] = {}
  for r, t in enumerate(trajectories):
    held = t.scores.get(scorer)
    if held is None or None in held.values:
      if unscored == 'error':
        raise UserError(_missing(steps.name, t, scorer))
      scored[r] = False
      continue
    if len(held.values) != t.n_steps:
      raise UserError(
        f'split {steps.name!r}: {t.id} has {len(held.values)} scores of {scorer!r} for '
        f'{t.n_steps} steps; score the same file that is evaluated.'
      )
    kinds.setdefault(held.kind, t.id)
    values[steps.offsets[r] : steps.offsets[r + 1]] = held.values
  if len(kinds) > 1:
    (a, first), (b, second) = sorted(kinds.items())[:2]
    raise UserError(
      f'split {steps.name!r}: scores of {scorer!r} are of kind {a} in {first} and {b} '
      f'in {second}; give the two their own names.'
    )
  if not kinds:
    raise UserError(
      f'split {steps.name!r}: no solution carries scores of {scorer!r}; run the score '
      'job on it first.'
    )
  bad = np.flatnonzero(~np.isfinite(values))
  if len(bad):
    r = int(steps.row[bad[0]])
    raise UserError(
      f'split {steps.name!r}: step {bad[0] - steps.offsets[r]} of {steps.ids[r]} has '
      f'the score {values[bad[0]]} of {scorer!r}; scores must be finite numbers.'
    )
  return Scores(scorer, next(iter(kinds)), values, scored)


def _missing(name: str, t: Trajectory, scorer: str) -> str:
  if scorer in t.scores:
    what = f'has steps without a score of {scorer!r}'
  else:
    there = ', '.join(sorted(t.scores)) or 'none'
    what = f'has no scores of {scorer!r} (there: {there})'
  return (
    f'split {name!r}: {t.id} {what}; run the score job on this file, or set '
    "unscored to 'wrong' to count such solutions against the scorer."
  )


def check_disjoint(a: Steps, b: Steps) -> None:
  """Refuses two splits that share a problem.

  Raises:
    UserError: says how many are shared and names one.
  """
  shared = set(a.problem_ids) & set(b.problem_ids)
  if shared:
    raise UserError(
      f'splits {a.name!r} and {b.name!r} share {len(shared)} problems (for example '
      f'{min(shared)}); what is fitted on one must not be reported on the other: '
      'take another split to tune on.'
    )
