"""Runs a label algorithm on many problems at once.

Every problem has its own generator. In each round the asks of all of them go to the
completer in one call. What a problem gets depends on its asks alone, so it does not
depend on its company.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from prm_jax.errors import UserError
from prm_jax.inference.requests import Refusal
from prm_jax.labeling.completer import Completes
from prm_jax.labeling.protocol import (
  Algorithm,
  Ask,
  Continuation,
  GroupResult,
  Labelled,
)
from prm_jax.labeling.solutions import Refused, count_skipped
from prm_jax.records import LabelSet, Trajectory

COST = 'label_cost'
"""Key of `Labelled.meta`: label set -> what was spent on the solution."""


@dataclasses.dataclass(frozen=True)
class Result:
  """What a run left.

  Attributes:
    groups: one for each problem, in order. `Labelled.meta` carries 'label_cost':
      label set -> {'tokens', 'rollouts', 'unjudged'} spent on the solution.
    rollouts: records of all continuations, problem by problem.
    counters: rounds, asks, rollouts, tokens, right, wrong, unjudged, cut_off,
      'refused/REASON' (asks), labelled, 'skipped/REASON' (solutions), and rollouts
      that belong to no solution ('shared_rollouts').
  """

  groups: list[GroupResult]
  rollouts: list[Trajectory]
  counters: dict[str, int]


def run(
  groups: Sequence[Sequence[Trajectory]],
  algorithm: Algorithm,
  completer: Completes | None,
  names: Sequence[str] = (),
) -> Result:
  """Labels the solutions of many problems.

  Args:
    groups: for each problem its solutions; at least one each, ids distinct.
    algorithm: see `registry.ALGORITHMS`.
    completer: answers the asks; None for an algorithm that asks nothing.
    names: label sets under which the cost of skipped solutions is recorded too.

  Raises:
    UserError: an empty problem, an id twice, asks without a completer, or an engine
      that cannot go on.
  """
  _check(groups)
  before = Counter(completer.counters) if completer else Counter()
  runs = [_Run(group, algorithm) for group in groups]
  rounds = 0
  while True:
    going = [(r, ask) for r in runs for ask in r.asks]
    if not going:
      break
    if completer is None:
      raise UserError('this label algorithm asks for continuations; give an engine.')
    rounds += 1
    answers = completer.ask([r.group[0] for r, _ in going], [ask for _, ask in going])
    at = 0
    for r in runs:
      size = len(r.asks)
      if size:
        r.go_on(answers[at : at + size])
      at += size
  counters: Counter[str] = Counter(rounds=rounds)
  rollouts: list[Trajectory] = []
  how: dict[str, Any] = {}
  if completer:
    counters.update({k: v - before[k] for k, v in completer.counters.items()})
    place = {group[0].problem_id: i for i, group in reversed(list(enumerate(groups)))}
    rollouts = sorted(completer.take_rollouts(), key=lambda t: place[t.problem_id])
    how = dict(completer.how)
  results = [r.result(how, names) for r in runs]
  for r, result in zip(runs, results):
    counters.update(count_skipped(result.labelled))
    counters['shared_rollouts'] += r.spent[_SHARED]['rollouts']
  return Result(results, rollouts, dict(sorted(counters.items())))


_SHARED = -1  # owner of rollouts that belong to no given solution


class _Run:
  """One problem under way."""

  def __init__(self, group: Sequence[Trajectory], algorithm: Algorithm):
    self.group = group
    self.asks: list[Ask] = []
    self.spent = {i: Counter[str]() for i in range(_SHARED, len(group))}
    self._owner = {solution.id: i for i, solution in enumerate(group)}
    self._end: GroupResult | None = None
    self._steps = algorithm(group)
    self._advance(lambda: next(self._steps))

  def go_on(self, answers: Sequence[list[Continuation] | Refusal]) -> None:
    """Hands over the answers to `asks` and runs on to the next ones, or the end."""
    lists = [[] if isinstance(a, Refusal) else a for a in answers]
    for ask, some in zip(self.asks, lists):
      owner = self._owner.get(ask.path_id, _SHARED)
      for c in some:
        self._owner[c.id] = owner
        self.spent[owner]['rollouts'] += 1
        self.spent[owner]['tokens'] += c.n_tokens
        self.spent[owner]['unjudged'] += c.correct is None
    if any(isinstance(a, Refusal) for a in answers):
      reasons = [a.reason if isinstance(a, Refusal) else '' for a in answers]
      self._advance(lambda: self._steps.throw(Refused(reasons, lists)))
    else:
      self._advance(lambda: self._steps.send(lists))

  def _advance(self, move: Any) -> None:
    try:
      self.asks = move()
      while not self.asks:
        self.asks = self._steps.send([])
    except StopIteration as end:
      self.asks, self._end = [], end.value
    except Refused as refused:
      self.asks = []
      self._end = GroupResult([Labelled(skipped=refused.reason) for _ in self.group])

  def result(self, how: dict[str, Any], names: Sequence[str]) -> GroupResult:
    """The algorithm's result with the completer and the cost written into it."""
    if self._end is None or len(self._end.labelled) != len(self.group):
      raise AssertionError(f'{self.group[0].problem_id}: not one result a solution')
    labelled = []
    for i, one in enumerate(self._end.labelled):
      cost = {k: self.spent[i][k] for k in ('rollouts', 'tokens', 'unjudged')}
      names_here = dict.fromkeys((*one.labels, *one.first_error, *names))
      meta = dict(one.meta)
      if how and names_here:
        meta[COST] = {name: cost for name in names_here}
      labels = {name: _with(held, how) for name, held in one.labels.items()}
      labelled.append(dataclasses.replace(one, labels=labels, meta=meta))
    extra = [
      dataclasses.replace(t, labels={k: _with(v, how) for k, v in t.labels.items()})
      for t in self._end.extra
    ]
    return dataclasses.replace(self._end, labelled=labelled, extra=extra)


def _with(held: LabelSet, how: dict[str, Any]) -> LabelSet:
  return dataclasses.replace(held, how={**how, **held.how})


def _check(groups: Sequence[Sequence[Trajectory]]) -> None:
  seen: set[str] = set()
  for group in groups:
    if not group:
      raise UserError('a problem without solutions cannot be labelled; leave it out.')
    if len({t.problem_id for t in group}) > 1:
      raise UserError(
        f'solution {group[0].id}: its group holds solutions of several problems; '
        'group them by problem_id.'
      )
    for t in group:
      if t.id in seen:
        raise UserError(f'solution {t.id} is there twice; drop repeated rows.')
      seen.add(t.id)
