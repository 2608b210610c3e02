"""From ratings to labels: explicit policies, each a pure function.

Data sets differ in what they do with a neutral rating and with the steps after the
first error, and training results differ with them, so both are named in the config
(`ImportOptions`) and stored in `LabelSet.how`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal

from prm_jax.errors import UserError
from prm_jax.records import LABEL_KINDS, LabelSet, Trajectory, first_error_of

NEUTRAL = ('positive', 'negative', 'unlabeled', 'class')
AFTER_FIRST_ERROR = ('keep', 'mask', 'zero')
COUNTS = (
  'labelled_trajectories',
  'both_classes',
  'labels',
  'positive_labels',
  'negative_labels',
  'middle_labels',
  'weighted_labels',
  'context_labels',
)
NEUTRAL_VALUES = {'positive': 1.0, 'negative': 0.0, 'unlabeled': None, 'class': 0.5}


Derive = Literal['derive']


@dataclasses.dataclass(frozen=True)
class ImportOptions:
  """What an importer may decide, each value by name.

  Attributes:
    neutral: label of a rating 0: 'positive' (1), 'negative' (0), 'unlabeled'
      (none) or 'class' (0.5, a class of its own for three-class heads).
    after_first_error: labels of the steps after the first wrong one: 'keep' what
      the source says, 'mask' (unlabelled) or 'zero' (wrong).
    source: name of the source in the records; '' means FORMAT/FILE.
    separator: how steps are joined for models; '' means the format's own.
    label_kind: what the labels of trl, math_shepherd, rlhflow and openrlhf rows
      estimate, one of `records.LABEL_KINDS`; '' means the format's default.
    placeholder: marker after each step in openrlhf input.
    ambiguous: a row whose question and first step cannot be told apart by the
      stated rule: 'drop' it and count it, or 'error'.
    bad_index: a step index beyond the solution: 'error', or 'unknown' (the row
      keeps no labels and is counted); '' means the format's default, which is
      'unknown' for prmbench and mr_ben, whose published files hold such rows.
  """

  neutral: str = 'positive'
  after_first_error: str = 'keep'
  source: str = ''
  separator: str = ''
  label_kind: str = ''
  placeholder: str = 'ки'
  ambiguous: str = 'drop'
  bad_index: str = ''

  def __post_init__(self) -> None:
    allowed = {
      'neutral': NEUTRAL,
      'after_first_error': AFTER_FIRST_ERROR,
      'label_kind': ('', *LABEL_KINDS),
      'ambiguous': ('drop', 'error'),
      'bad_index': ('', 'error', 'unknown'),
    }
    for name, names in allowed.items():
      value = getattr(self, name)
      if value not in names:
        known = ', '.join(repr(n) for n in names)
        raise UserError(f'import option {name} is {value!r}; choose one of {known}.')
    if not self.placeholder:
      raise UserError(
        'import option placeholder is empty; name the marker that ends a step, e.g. '
        "'ки'."
      )


def rating_values(
  ratings: Iterable[int | None], neutral: str = 'positive'
) -> tuple[float | None, ...]:
  """Labels [P] of ratings [P]: 1 -> 1.0, -1 -> 0.0, None -> None, 0 by policy.

  Args:
    ratings: -1, 0, 1 or None (not rated).
    neutral: one of `NEUTRAL`.

  >>> rating_values([1, 0, -1, None], 'class')
  (1.0, 0.5, 0.0, None)
  """
  table = {1: 1.0, 0: NEUTRAL_VALUES[neutral], -1: 0.0, None: None}
  return tuple(table[r] for r in ratings)


def first_error_values(
  n_steps: int, first_error: int | None
) -> tuple[float | None, ...]:
  """Labels [P] that a first-error annotation states, and no more.

  Steps before the error are right, the step itself is wrong, those after it are not
  judged; -1 makes all right; None (unknown) labels nothing.

  >>> first_error_values(4, 1)
  (1.0, 0.0, None, None)
  """
  if first_error is None:
    return (None,) * n_steps
  if first_error < 0:
    return (1.0,) * n_steps
  return (1.0,) * first_error + (0.0,) + (None,) * (n_steps - first_error - 1)


def after_first_error(labels: LabelSet, policy: str) -> LabelSet:
  """Applies `ImportOptions.after_first_error` to a label set.

  The first step known to be wrong (label below 0.5) stays as it is. 'mask' leaves the
  steps after it unlabelled, 'zero' labels every one of them 0, judged before or
  not. Weights stay: a context step remains context.
  """
  if policy == 'keep':
    return labels
  for t, value in enumerate(labels.values):
    if value is not None and value < 0.5:
      rest = None if policy == 'mask' else 0.0
      n_after = len(labels.values) - t - 1
      values = labels.values[: t + 1] + (rest,) * n_after
      return dataclasses.replace(labels, values=values)
  return labels


def label(
  trajectory: Trajectory,
  name: str,
  labels: LabelSet,
  options: ImportOptions,
  first_error: int | Derive | None = 'derive',
) -> Trajectory:
  """Adds a label set under `name`, with its first error and the policies applied.

  Args:
    trajectory: gets `labels[name]` and `first_error[name]`.
    name: 'human' or 'source'.
    labels: as the source gives them.
    options: `after_first_error` is applied and, unless 'keep', noted in `how`.
    first_error: what the source says, or 'derive' from the labels before the
      policy: `records.first_error_of`.
  """
  found = first_error_of(labels.values) if first_error == 'derive' else first_error
  if options.after_first_error != 'keep':
    how = {**labels.how, 'after_first_error': options.after_first_error}
    labels = dataclasses.replace(labels, how=how)
  return dataclasses.replace(
    trajectory,
    labels={
      **trajectory.labels,
      name: after_first_error(labels, options.after_first_error),
    },
    first_error={**trajectory.first_error, name: found},
  )


def weigh_once(
  trajectories: Sequence[Trajectory], name: str
) -> tuple[list[Trajectory], dict[str, int]]:
  """Gives every labelled (problem, prefix, step) its loss weight once over the set.

  The first trajectory that holds a labelled step after a given prefix keeps weight 1
  for it; in every later one the step keeps its label and gets weight 0, so that it
  is context for objectives that compare steps. Weights that were 0 stay 0.

  Args:
    trajectories: in order of precedence.
    name: the label set to weigh; trajectories without it pass unchanged.

  Returns:
    The trajectories in the same order, and counters: distinct_labels (their weights
    sum to this where all were 1 before), context_labels (weight 0),
    conflicting_labels (label differs from the one that carries the weight).
  """
  nodes: dict[tuple[object, str], int] = {}
  carried: dict[int, float] = {}
  counters = {'distinct_labels': 0, 'context_labels': 0, 'conflicting_labels': 0}
  out = []
  for t in trajectories:
    held = t.labels.get(name)
    if held is None:
      out.append(t)
      continue
    before = held.weights or (1.0,) * t.n_steps
    weights = []
    node: object = t.problem_id
    for step, value, weight in zip(t.steps, held.values, before):
      node = nodes.setdefault((node, step), len(nodes))
      if value is None or weight == 0:
        weights.append(0.0)
      elif node in carried:
        counters['context_labels'] += 1
        counters['conflicting_labels'] += value != carried[node]
        weights.append(0.0)
      else:
        counters['distinct_labels'] += 1
        carried[node] = value
        weights.append(weight)
    plain = all(w == 1 for w, v in zip(weights, held.values) if v is not None)
    weighed = dataclasses.replace(held, weights=() if plain else tuple(weights))
    out.append(dataclasses.replace(t, labels={**t.labels, name: weighed}))
  return out, counters


def class_counts(trajectories: Iterable[Trajectory], name: str) -> dict[str, int]:
  """How a label set's classes are balanced, over a set of trajectories.

  Returns:
    labelled_trajectories, both_classes (of these, with a label above and one below
    0.5), labels, positive_labels, negative_labels, middle_labels (0.5),
    weighted_labels (weight above 0), context_labels (weight 0).
  """
  counts = dict.fromkeys(COUNTS, 0)
  for t in trajectories:
    held = t.labels.get(name)
    if held is None:
      continue
    weights = held.weights or (1.0,) * t.n_steps
    pairs = [(v, w) for v, w in zip(held.values, weights) if v is not None]
    high = sum(v > 0.5 for v, _ in pairs)
    low = sum(v < 0.5 for v, _ in pairs)
    counts['labelled_trajectories'] += bool(pairs)
    counts['both_classes'] += bool(high and low)
    counts['labels'] += len(pairs)
    counts['positive_labels'] += high
    counts['negative_labels'] += low
    counts['middle_labels'] += len(pairs) - high - low
    counts['weighted_labels'] += sum(w > 0 for _, w in pairs)
    counts['context_labels'] += sum(w == 0 for _, w in pairs)
  return counts
