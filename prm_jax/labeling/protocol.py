"""What a label algorithm may ask, and what it hands back.

An algorithm is a generator over the solutions of one problem: it yields lists of
`Ask` and is sent one list of `Continuation` for each. It sees no engine, no files and
no clock, so every algorithm runs on either engine, many problems at a time, and is
tested with a completer whose success rates are known.

  def algorithm(group: Sequence[Trajectory]) -> Steps:
    answers = yield [Ask.of(group[0], n_steps=2, k=8)]
    ...
    return [Labelled(...) for each solution of group]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Sequence
from typing import Any

from prm_jax.records import LabelSet, Trajectory


@dataclasses.dataclass(frozen=True)
class Ask:
  """k continuations of a prefix.

  Attributes:
    path_id: id of the trajectory whose prefix it is: a given solution, or a
      continuation that was itself sampled.
    path: its steps (for a sampled one, prefix and continuation together).
    n_steps: how many of them are the prefix; 0 asks for whole solutions.
    k: continuations wanted.
    first_sample: index of the first of them: how many were had of this prefix so
      far, else the same ones come back.
  """

  path_id: str
  path: tuple[str, ...]
  n_steps: int
  k: int
  first_sample: int = 0

  @classmethod
  def of(cls, solution: Trajectory, n_steps: int, k: int, first_sample: int = 0) -> Ask:
    """Continuations of the first `n_steps` steps of a solution."""
    return cls(solution.id, solution.steps, n_steps, k, first_sample)


@dataclasses.dataclass(frozen=True)
class Continuation:
  """One sampled way on from a prefix.

  Attributes:
    id: of the continued solution, prefix and new steps together; may be asked about
      in turn (`Ask.path_id`).
    steps: the new steps only.
    correct: verdict on the final answer; None if it could not be judged (no answer
      found, or cut off at max_tokens).
    n_tokens: tokens generated.
    logprob: natural log-probability of the new tokens together, None if unknown.
    step_tokens: tokens of each new step, () if unknown.
    answer: the extracted answer, None if there is none.
  """

  id: str
  steps: tuple[str, ...]
  correct: bool | None
  n_tokens: int
  logprob: float | None = None
  step_tokens: tuple[int, ...] = ()
  answer: str | None = None


@dataclasses.dataclass(frozen=True)
class Labelled:
  """What an algorithm says of one solution.

  Attributes:
    labels: name -> label set, one value a step; {} where it was skipped.
    first_error: name -> 0-based index, -1 none, None unknown.
    skipped: why there are no labels ('all_right', 'all_wrong', 'unparsed',
      'no_gold_answer', ...), '' if there are.
    meta: JSON-ready facts for the record (for example the estimates of a filter).
  """

  labels: dict[str, LabelSet] = dataclasses.field(default_factory=dict)
  first_error: dict[str, int | None] = dataclasses.field(default_factory=dict)
  skipped: str = ''
  meta: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class GroupResult:
  """What an algorithm returns for one problem.

  Attributes:
    labelled: one for each solution of the group, in order.
    tree: JSON-ready search tree, for `trees.jsonl`, or None.
    extra: new training rows that the search itself found (tree paths), labelled.
  """

  labelled: list[Labelled]
  tree: dict[str, Any] | None = None
  extra: list[Trajectory] = dataclasses.field(default_factory=list)


Steps = Generator[list[Ask], list[list[Continuation]], GroupResult]
Algorithm = Callable[[Sequence[Trajectory]], Steps]
