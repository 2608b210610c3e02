"""Whether runs were measured on the same rows, and the rows that they share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from prm_jax.errors import UserError
from prm_jax.records import Trajectory


def content(t: Trajectory, truth: str) -> tuple[object, ...]:
  """What must be equal for two rows of one id to be the same row: problem, steps and
  what is known about them; not scores."""
  labels = t.labels.get(truth)
  return (
    t.problem_id,
    t.steps,
    None if labels is None else (labels.values, labels.weights),
    t.first_error.get(truth),
    truth in t.first_error,
  )


def digest(rows: Sequence[Trajectory], truth: str, verdict: str) -> str:
  """SHA-256 of what a set's metrics read beside the scores, in the order of the rows:
  ids, `content`, answers and verdicts.

  Args:
    rows: of a set or a pool.
    truth: label set that they are judged against.
    verdict: checker whose word on answers counts.
  """
  out = hashlib.sha256()
  for t in rows:
    word = t.verdicts.get(verdict)
    held = (t.id, content(t, truth), t.answer, None if word is None else word.value)
    out.update(json.dumps(held).encode())
  return out.hexdigest()


def differences(
  split: str, runs: Mapping[str, Sequence[Trajectory]], truth: str
) -> list[str]:
  """Sentences' parts that say how the rows of a split differ between runs; [] if not.

  Args:
    split: its name.
    runs: name of a run -> its rows.
    truth: label set that they are judged against.
  """
  names = list(runs)
  first = {t.id: t for t in runs[names[0]]}
  out = []
  for name in names[1:]:
    held = {t.id: t for t in runs[name]}
    here, there = (
      sorted(x.keys() - y.keys()) for x, y in ((first, held), (held, first))
    )
    other = sorted(
      i for i in first.keys() & held.keys()
      if content(first[i], truth) != content(held[i], truth)
    )  # fmt: skip
    parts = [
      f'{len(ids)} rows {what} (for example {ids[0]})'
      for ids, what in (
        (here, f'only in {names[0]}'),
        (there, f'only in {name}'),
        (other, f'with other steps or another truth in {name}'),
      )
      if ids
    ]
    if parts:
      out.append(f'split {split!r}: {"; ".join(parts)}')
  return out


def common(
  runs: Mapping[str, Mapping[str, Sequence[Trajectory]]], truth: str
) -> tuple[dict[str, dict[str, list[Trajectory]]], dict[str, int]]:
  """The rows that all runs have, and how many were dropped.

  Args:
    runs: name of a run -> split -> rows; the same splits in all.
    truth: label set that they are judged against.

  Returns:
    The runs with those rows alone, in the order of the first run, and counters
    'SPLIT/rows_compared' and 'SPLIT/rows_not_in_every_run' (rows of any run).

  Raises:
    UserError: a split is left without rows.
  """
  splits = list(next(iter(runs.values())))
  out: dict[str, dict[str, list[Trajectory]]] = {name: {} for name in runs}
  counters = {}
  for split in splits:
    held = [
      {t.id: (content(t, truth), t) for t in splits_of[split]}
      for splits_of in runs.values()
    ]
    first = held[0]
    same = [
      i
      for i, (what, _) in first.items()
      if all(i in h and h[i][0] == what for h in held)
    ]
    if not same:
      raise UserError(
        f'split {split!r}: no row is in every run; these runs were measured on '
        'different data and cannot be compared.'
      )
    every = {i for h in held for i in h}
    counters[f'{split}/rows_compared'] = len(same)
    counters[f'{split}/rows_not_in_every_run'] = len(every) - len(same)
    for name, rows in zip(runs, held):
      out[name][split] = [rows[i][1] for i in same]
  return out, counters
