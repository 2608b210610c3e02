"""What a report shows, as plain values.

A job fills a `ReportData` from its results; nothing here computes a metric. An
*interval* everywhere is the dict of results.json: `{'value', 'low', 'high', 'n'}`
with None where there is no number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prm_jax import step_values
from prm_jax.records import Trajectory

Interval = Mapping[str, Any]

FAILURE_KINDS = {
  'found': 'found exactly',
  'early': 'too early',
  'late': 'too late',
  'missed': 'missed',
  'false_alarm': 'false alarm',
  'accepted': 'correctly accepted',
  'unknown': 'not judged',
}
"""Kind of a prediction -> its name on the page (`failure_kind`)."""

DISAGREEMENTS = {
  'only_a': 'only A right',
  'only_b': 'only B right',
  'both_right': 'both right',
  'same_wrong': 'both wrong, same step',
  'both_wrong': 'both wrong, not the same',
  'differ': 'they differ, no truth',
  'same': 'they agree, no truth',
  'undecided': 'undecided',
}
"""How two predictions of one solution relate -> its name (`disagreement_kind`)."""


@dataclasses.dataclass(frozen=True)
class Row:
  """One row of a table.

  Attributes:
    name: what was measured: a method, a split, an objective.
    cells: one a column: an interval, text, a number, or None (an empty cell).
    baseline: True for what a result has to beat; set apart on the page.
  """

  name: str
  cells: Sequence[Interval | str | float | int | None]
  baseline: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
  """Results and baselines side by side.

  Attributes:
    title: heading.
    header: names of the columns, the name column first: 1 + cells of a row.
    rows: see `Row`.
    note: a sentence or two below the heading: what the columns mean, which truth.
  """

  title: str
  header: Sequence[str]
  rows: Sequence[Row]
  note: str = ''


@dataclasses.dataclass(frozen=True)
class LineChart:
  """Named lines on common axes.

  Attributes:
    title: heading.
    series: name -> points (x, y) or (x, y, low, high); None as y leaves a gap.
    x_label, y_label: axes.
    baselines: the names in `series` that are drawn as baselines, grey and dashed.
    log2: x axis in powers of two.
    y_range: (lowest, highest) of the y axis; () fits the points.
    note: a sentence below the heading.
  """

  title: str
  series: Mapping[str, Sequence[Sequence[float | None]]]
  x_label: str = 'step'
  y_label: str = ''
  baselines: Sequence[str] = ()
  log2: bool = False
  y_range: Sequence[float] = ()
  note: str = ''


@dataclasses.dataclass(frozen=True)
class Reliability:
  """Mean truth against mean score in bins of the score.

  Attributes:
    title: heading.
    bins: (count, mean score, mean truth) or (count, mean score, mean truth, low,
      high) a bin; bins of count 0 are not drawn.
    note: a sentence below the heading.
  """

  title: str
  bins: Sequence[Sequence[float]]
  note: str = ''


@dataclasses.dataclass(frozen=True)
class Reading:
  """What one scorer says of a solution; the attributes are those of `Sample`."""

  scorer: str
  scores: Sequence[float | None]
  predicted_first_error: int | None = None
  threshold: float | None = None
  kind: str = 'probability'


@dataclasses.dataclass(frozen=True)
class Sample:
  """One solution with its scores and the truth about it. P is its steps.

  Attributes:
    id: unique; the address of the solution in the page (`#solution=id`).
    split: the set it belongs to.
    question, steps: text.
    scores: [P] higher is better, None where not scored.
    truth: [P] labels in [0, 1] judged against, None where unlabelled, or ().
    gold_first_error: 0-based, -1 none, None unknown.
    predicted_first_error: 0-based, -1 none, None undecided.
    threshold: a score above it counts as correct; None if there is none.
    answer, gold_answer: final answers, or None.
    verdict: whether the answer is right; None not judged.
    kind: of the scores: 'probability', 'logit', 'log_ratio'; sets the colours.
    generator: who wrote the solution.
    benchmark: that the set belongs to, '' if none.
    scorer: whose scores they are; needed beside a rival.
    rival: the same steps read by another scorer, to compare with; on the page the
      first is A and the rival B.
  """

  id: str
  split: str
  question: str
  steps: Sequence[str]
  scores: Sequence[float | None]
  truth: Sequence[float | None] = ()
  gold_first_error: int | None = None
  predicted_first_error: int | None = None
  threshold: float | None = None
  answer: str | None = None
  gold_answer: str | None = None
  verdict: bool | None = None
  kind: str = 'probability'
  generator: str = ''
  benchmark: str = ''
  scorer: str = ''
  rival: Reading | None = None

  @property
  def failure(self) -> str:
    """Key of `FAILURE_KINDS`."""
    return failure_kind(self.gold_first_error, self.predicted_first_error)

  @property
  def disagreement(self) -> str:
    """Key of `DISAGREEMENTS`, '' without a rival."""
    if self.rival is None:
      return ''
    a, b = self.predicted_first_error, self.rival.predicted_first_error
    return disagreement_kind(self.gold_first_error, a, b)


@dataclasses.dataclass(frozen=True)
class TreeNode:
  """A node of a search tree.

  Attributes:
    parent: index of its parent, which stands before it; -1 for the root, node 0.
    steps: that it adds to its parent's; () for the root.
    value: at the end of its steps, None if unknown.
    note: what is known of it, in a few words.
    right: whether the solution that ends here is right; None not judged, or no end.
  """

  parent: int
  steps: Sequence[str] = ()
  value: float | None = None
  note: str = ''
  right: bool | None = None


@dataclasses.dataclass(frozen=True)
class Tree:
  """The tree of one problem: of a search, or of a label algorithm.

  Attributes:
    id: unique; the address of the tree in the page (`#tree=id`).
    question: text.
    nodes: at least the root; parents stand before their children.
    chosen: index of the node that ends the chosen solution, None if none was.
    algorithm: that grew it.
    split: the set it belongs to.
    kind: of the values, as in `Sample`.
    answer, gold_answer, verdict: of the chosen solution, as in `Sample`.
    facts: name -> value of what else is known.
  """

  id: str
  question: str
  nodes: Sequence[TreeNode]
  chosen: int | None = None
  algorithm: str = ''
  split: str = ''
  kind: str = 'probability'
  answer: str | None = None
  gold_answer: str | None = None
  verdict: bool | None = None
  facts: Mapping[str, object] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ReportData:
  """Everything on the page, top to bottom.

  Attributes:
    title: of the page.
    job: 'train', 'evaluate', ...
    command: the exact command that made the run.
    summary: what was run, in a sentence.
    highlights: name -> value of the few config values that matter: objective, label
      trained on, truth judged against, seed, data, model size.
    headline: (metric name, one sentence that reads it) of the results that matter.
    metrics: metric path -> interval.
    judged_by: metric path, or the beginning of one, -> truth it is judged against;
      '' names the default. The longest match decides.
    definitions: metric path -> sentence; instead of the built-in definition.
    tables, learning_curves, reliability, best_of_n: see their classes.
    counters: name -> how many rows were skipped, truncated, unjudged, ...
    warnings: sentences a reader must not miss.
    samples: solutions to look at; those with a rival all have the same two scorers.
    trees: search trees to look at.
    truth: what the labels of `samples` are, in a few words.
    provenance: git revision, versions, device, wall time.
    embedded_world: the data come from the embedded world; the page then says what
      its gaps do not show.
  """

  title: str
  job: str
  command: str = ''
  summary: str = ''
  highlights: Mapping[str, object] = dataclasses.field(default_factory=dict)
  headline: Sequence[tuple[str, str]] = ()
  metrics: Mapping[str, Interval] = dataclasses.field(default_factory=dict)
  judged_by: Mapping[str, str] = dataclasses.field(default_factory=dict)
  definitions: Mapping[str, str] = dataclasses.field(default_factory=dict)
  tables: Sequence[Table] = ()
  learning_curves: Sequence[LineChart] = ()
  reliability: Sequence[Reliability] = ()
  best_of_n: Sequence[LineChart] = ()
  counters: Mapping[str, int] = dataclasses.field(default_factory=dict)
  warnings: Sequence[str] = ()
  samples: Sequence[Sample] = ()
  trees: Sequence[Tree] = ()
  truth: str = ''
  provenance: Mapping[str, object] = dataclasses.field(default_factory=dict)
  embedded_world: bool = False


def failure_kind(gold: int | None, predicted: int | None) -> str:
  """How a predicted first error relates to the true one.

  Args:
    gold: 0-based index of the first wrong step, -1 none, None unknown.
    predicted: the same of the model, None undecided.

  Returns:
    A key of `FAILURE_KINDS`; 'unknown' if either is None.

  >>> failure_kind(2, 2), failure_kind(2, 0), failure_kind(2, -1)
  ('found', 'early', 'missed')
  """
  if gold is None or predicted is None:
    return 'unknown'
  if gold < 0:
    return 'accepted' if predicted < 0 else 'false_alarm'
  if predicted < 0:
    return 'missed'
  if predicted == gold:
    return 'found'
  return 'early' if predicted < gold else 'late'


def disagreement_kind(gold: int | None, a: int | None, b: int | None) -> str:
  """How two predicted first errors relate, and which of them is right.

  Args:
    gold: 0-based index of the first wrong step, -1 none, None unknown.
    a, b: the same of two models, None undecided.

  Returns:
    A key of `DISAGREEMENTS`.

  >>> disagreement_kind(2, 2, -1), disagreement_kind(-1, 0, 3)
  ('only_a', 'both_wrong')
  """
  if a is None or b is None:
    return 'undecided'
  if gold is None:
    return 'same' if a == b else 'differ'
  if a == b:
    return 'both_right' if a == gold else 'same_wrong'
  return 'only_a' if a == gold else 'only_b' if b == gold else 'both_wrong'


def predicted_first_error(
  scores: Sequence[float | None], threshold: float
) -> int | None:
  """First step whose score is not above `threshold`, 0-based; -1 none.

  None if a step without a score stands before any such step: undecided.
  """
  known = next((t for t, s in enumerate(scores) if s is None), len(scores))
  values = np.asarray(scores[:known], np.float64)
  first = int(step_values.predict_first_error(values, None, threshold))
  return None if first < 0 and known < len(scores) else first


def sample(
  trajectory: Trajectory,
  *,
  split: str,
  scorer: str,
  label: str,
  threshold: float | None,
  checker: str = 'exact',
  rival: str = '',
  rival_threshold: float | None = None,
  benchmark: str = '',
) -> Sample:
  """A `Sample` from a record that carries scores.

  Args:
    trajectory: with `scores[scorer]`; label set `label` and verdict `checker` are
      shown if they are there.
    split: name of the set it belongs to.
    scorer: key of `trajectory.scores`.
    label: key of `labels` and `first_error`: the truth judged against.
    threshold: a score above it counts as correct; None predicts nothing.
    checker: key of `trajectory.verdicts`.
    rival: key of `trajectory.scores` to compare with, '' for none.
    rival_threshold: of the rival.
    benchmark: that `split` belongs to.

  Raises:
    KeyError: there are no scores of that name.
  """
  one = reading(trajectory, scorer, threshold)
  labels = trajectory.labels.get(label)
  verdict = trajectory.verdicts.get(checker)
  return Sample(
    id=trajectory.id,
    split=split,
    question=trajectory.question,
    steps=trajectory.steps,
    scores=one.scores,
    truth=labels.values if labels else (),
    gold_first_error=trajectory.first_error.get(label),
    predicted_first_error=one.predicted_first_error,
    threshold=threshold,
    answer=trajectory.answer,
    gold_answer=trajectory.gold_answer,
    verdict=verdict.value if verdict else None,
    kind=one.kind,
    generator=trajectory.generator,
    benchmark=benchmark,
    scorer=scorer,
    rival=reading(trajectory, rival, rival_threshold) if rival else None,
  )


def reading(trajectory: Trajectory, scorer: str, threshold: float | None) -> Reading:
  """What `scorer` says of a solution, with a threshold (None predicts nothing).

  Raises:
    KeyError: there are no scores of that name.
  """
  scored = trajectory.scores[scorer]
  first = None if threshold is None else predicted_first_error(scored.values, threshold)
  return Reading(scorer, scored.values, first, threshold, scored.kind)
