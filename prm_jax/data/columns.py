"""Rows as columns: what the token cache needs of them, from records or the world."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from itertools import accumulate, chain, pairwise

import numpy as np

from prm_jax.errors import UserError
from prm_jax.records import Trajectory, make_problem_id
from prm_jax.worlds import arithmetic, noise
from prm_jax.worlds.arithmetic import WorldArrays, WorldConfig

WORLD_LABELS = {'valid': 'correctness', 'on_track': 'correctness', 'value': 'value'}


@dataclasses.dataclass(frozen=True)
class Columns:
  """R rows with S steps in all.

  Attributes:
    ids, problem_ids, questions: R strings each.
    steps: R sequences of strings.
    values: [S] float32 labels, NaN where unlabelled.
    weights: [S] float32 loss weights.
    outcome: [R] float32 verdict (1 right, 0 wrong), NaN where not judged.
    source_index: [R] int32 into `sources`.
    sources: names.
    label_kinds: kinds of the label set met, sorted.
  """

  ids: list[str]
  problem_ids: list[str]
  questions: list[str]
  steps: list[Sequence[str]]
  values: np.ndarray
  weights: np.ndarray
  outcome: np.ndarray
  source_index: np.ndarray
  sources: tuple[str, ...]
  label_kinds: tuple[str, ...]

  @property
  def n_steps(self) -> np.ndarray:
    """[R] int64."""
    return np.fromiter(map(len, self.steps), np.int64, len(self.steps))

  def hash(self) -> str:
    """sha256 of everything here; texts are told apart by their lengths."""
    out = hashlib.sha256(repr((self.sources, self.label_kinds)).encode())
    for texts in (self.ids, self.problem_ids, self.questions, *_flat(self.steps)):
      out.update(np.fromiter(map(len, texts), np.int64, len(texts)).tobytes())
      out.update(''.join(texts).encode('utf-8', 'surrogatepass'))
    for array in (
      self.n_steps, self.values, self.weights, self.outcome, self.source_index
    ):  # fmt: skip
      out.update(array.tobytes())
    return out.hexdigest()


def _flat(steps: list[Sequence[str]]) -> tuple[list[str]]:
  return (list(chain.from_iterable(steps)),)


def of_trajectories(
  trajectories: Sequence[Trajectory],
  label: str,
  checker: str = '',
  source_index: np.ndarray | None = None,
  sources: Sequence[str] = ('data',),
) -> Columns:
  """Columns of records.

  Args:
    trajectories: R rows.
    label: label set to train on; a row without it is unlabelled. '' takes none.
    checker: verdict to take the outcome from; '' takes none.
    source_index, sources: of a `Mixture`; one source if absent.

  Raises:
    UserError: there are rows, and none has the label set, or none the verdict.
  """
  sets = [t.labels.get(label) for t in trajectories]
  if label and trajectories and not any(s is not None for s in sets):
    raise _missing(
      'label set', label, chain.from_iterable(t.labels for t in trajectories)
    )
  verdicts = [t.verdicts.get(checker) for t in trajectories]
  if checker and trajectories and not any(v is not None for v in verdicts):
    raise _missing(
      'verdict of', checker, chain.from_iterable(t.verdicts for t in trajectories)
    )
  values: list[float | None] = []
  weights: list[float] = []
  for t, held in zip(trajectories, sets):
    values.extend((None,) * t.n_steps if held is None else held.values)
    weights.extend((held and held.weights) or (1.0,) * t.n_steps)
  index = (
    np.zeros(len(trajectories), np.int32) if source_index is None else source_index
  )
  return Columns(
    ids=[t.id for t in trajectories],
    problem_ids=[t.problem_id for t in trajectories],
    questions=[t.question for t in trajectories],
    steps=[t.steps for t in trajectories],
    # None becomes NaN; a soft label stays what it is.
    values=np.array(values, np.float32),
    weights=np.array(weights, np.float32),
    outcome=np.array([None if v is None else v.value for v in verdicts], np.float32),
    source_index=index.astype(np.int32),
    sources=tuple(sources),
    label_kinds=tuple(sorted({s.kind for s in sets if s is not None})),
  )


def of_world(
  config: WorldConfig, rows: WorldArrays, label: str, checker: str = ''
) -> Columns:
  """Columns of the embedded world's arrays, equal to those of its records, faster.

  `label` may also be a noise on them (`worlds.noise`: flip@0.1, mc_soft@8, ...).

  Raises:
    UserError: the world has no such label set or checker.
  """
  if checker not in ('', 'exact'):
    raise _missing('verdict of', checker, ('exact',))
  questions = _texts(rows.question_text, rows.question_offsets)
  lines = _texts(rows.step_text, rows.step_offsets)
  bounds = rows.row_offsets.tolist()
  ids = arithmetic.row_ids(config, rows)
  held, kind = _world_labels(rows, label, ids)
  judged = rows.outcome.astype(np.float32)
  return Columns(
    ids=ids,
    problem_ids=[make_problem_id(q) for q in questions],
    questions=questions,
    steps=[lines[a:b] for a, b in pairwise(bounds)],
    values=np.round(held, 6).astype(np.float32),
    weights=np.ones(len(lines), np.float32),
    outcome=judged if checker else np.full_like(judged, np.nan),
    source_index=np.zeros(rows.n_rows, np.int32),
    sources=(arithmetic.source_name(rows).replace(':', '_'),),
    label_kinds=(kind,) if label else (),
  )


def _world_labels(
  rows: WorldArrays, label: str, ids: Sequence[str]
) -> tuple[np.ndarray, str]:
  """Labels [S] float64 of a world's label set or of a noise on one, and their kind."""
  n_steps = np.diff(rows.row_offsets)
  if not label:
    return np.full(int(n_steps.sum()), np.nan), ''
  if label in WORLD_LABELS:
    return getattr(rows, label).astype(np.float64), WORLD_LABELS[label]
  if '@' not in label:
    raise _missing('label set', label, WORLD_LABELS)
  base = 'on_track' if noise.parse(label).kind == 'flip' else 'value'
  keys = np.repeat(noise.row_keys(ids), n_steps)
  index = np.arange(len(keys)) - np.repeat(rows.row_offsets[:-1], n_steps)
  values, _ = noise.noisy(label, getattr(rows, base), keys, index)
  return values.astype(np.float64), WORLD_LABELS[base]


def problem_numbers(problem_ids: Sequence[str]) -> np.ndarray:
  """[R] int32: problems numbered in the order in which they first appear."""
  number: dict[str, int] = {}
  return np.fromiter(
    (number.setdefault(p, len(number)) for p in problem_ids), np.int32, len(problem_ids)
  )


def pack_texts(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
  """UTF-8 bytes end to end (uint8) and offsets [R + 1] int64."""
  pieces = [t.encode() for t in texts]
  offsets = np.array(list(accumulate(map(len, pieces), initial=0)), np.int64)
  return np.frombuffer(b''.join(pieces), np.uint8), offsets


def _texts(text: np.ndarray, offsets: np.ndarray) -> list[str]:
  whole = text.tobytes().decode('ascii')
  ends = offsets.tolist()
  return [whole[a:b] for a, b in pairwise(ends)]


def _missing(what: str, name: str, held: object) -> UserError:
  there = ', '.join(sorted(set(held))) or 'none'  # type: ignore[call-overload]
  return UserError(
    f'no row has the {what} {name!r}; the data holds: {there}. Name one of these, or '
    'add it with the label job.'
  )
