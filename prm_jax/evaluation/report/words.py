"""What each metric means, in one sentence, found by its path.

A metric path is `split/family/name`, for example `heldout/steps/auroc`; further
parts belong to the name. `f1@tuned:validation` carries its threshold policy,
`prm_min@16` the number of candidates, `a-b@16` is a paired difference.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

FAMILIES = {
  'process_bench': 'First wrong step',
  'steps': 'Single steps',
  'calibration': 'Scores as probabilities',
  'trajectory': 'Scores along a solution',
  'value': 'Distance to the true value',
  'best_of_n': 'Choosing among N candidates',
}
"""Family of a metric path -> heading."""

_POLICIES = (
  (r'tuned:(.+)', 'The threshold was tuned on {0}, which shares no problem with it.'),
  (r'fixed:?(.*)', 'The threshold was fixed beforehand{0}.'),
  (r'argmax', 'A step counts as correct if that is its most probable class.'),
)

_NAMES: tuple[tuple[str, str, str, str], ...] = (
  # (pattern of the name, label, definition, better)
  (
    r'f1',
    'F1 of the first wrong step',
    'Harmonic mean of two accuracies: the share of wrong solutions whose first wrong '
    'step is named exactly, and the share of correct solutions accepted whole. '
    'It is not the F1 of precision and recall.',
    'higher',
  ),
  (
    r'(accuracy|acc)_?(on_)?(error|erroneous|wrong)(_rows)?',
    'Accuracy on wrong solutions',
    'Share of the solutions with a wrong step whose first one is named exactly.',
    'higher',
  ),
  (
    r'(accuracy|acc)_?(on_)?correct(_rows)?',
    'Accuracy on correct solutions',
    'Share of the solutions without a wrong step that are accepted whole.',
    'higher',
  ),
  (
    r'first_error_accuracy',
    'First-error accuracy',
    'Share of all solutions whose first wrong step, or its absence, is named exactly.',
    'higher',
  ),
  (
    r'auroc',
    'Step AUROC',
    'Chance that a correct step scores above a wrong one, both drawn at random from '
    'the steps up to the first error; a tie counts one half, 0.5 is guessing.',
    'higher',
  ),
  (
    r'average_precision|ap',
    'Average precision',
    'Mean precision over the ranking of steps, steps up to the first error; '
    'guessing gives the base rate.',
    'higher',
  ),
  (
    r'accuracy',
    'Step accuracy',
    'Share of steps on the right side of the threshold, steps up to the first error; '
    'to be read beside the base rate.',
    'higher',
  ),
  (
    r'base_rate',
    'Base rate',
    'Share of steps that are correct: what calling every step correct would get.',
    '',
  ),
  (
    r'brier',
    'Brier score',
    'Mean squared distance between score and truth; 0 is perfect.',
    'lower',
  ),
  (
    r'ece',
    'Expected calibration error',
    'Distance between mean score and mean truth in bins of the score, weighted by the '
    'steps in a bin; 0 is perfect, and a finite sample keeps even a perfect model '
    'above it.',
    'lower',
  ),
  (
    r'smoothness',
    'Smoothness',
    'Mean absolute change of the score from one step to the next.',
    '',
  ),
  (
    r'td_error',
    'TD error',
    'Mean squared difference between a score and the next one, the last step compared '
    'with the outcome.',
    'lower',
  ),
  (
    r'(mae|mean_absolute_error|distance).*',
    'Distance to the value',
    'Mean absolute difference between a score and the true chance that the solver '
    'still reaches the right answer.',
    'lower',
  ),
  (
    r'(mse|rmse|mean_squared_error).*',
    'Squared distance to the value',
    'Mean squared difference between a score and the true chance that the solver '
    'still reaches the right answer.',
    'lower',
  ),
  (
    r'oracle|pass',
    'Oracle',
    'Chance that at least one of the N candidates is right: the best any selection '
    'could do.',
    'higher',
  ),
  (
    r'majority',
    'Majority vote',
    'Chance that the most frequent answer among the N is right; ties share the chance.',
    'higher',
  ),
  (
    r'shortest.*',
    'Shortest solution',
    'Chance that the shortest of the N candidates is right; no model involved.',
    'higher',
  ),
  (
    r'fewest_steps',
    'Fewest steps',
    'Chance that the candidate with the fewest steps is right; no model involved.',
    'higher',
  ),
  (
    r'(prm_)?weighted.*|.*vote.*',
    'PRM vote, {0}',
    'Chance that the answer with the largest sum of scores among the N is right.',
    'higher',
  ),
  (
    r'prm_(.+)',
    'PRM {1}',
    'Chance that the candidate with the highest {1} of its step scores is right; ties '
    'share the chance.',
    'higher',
  ),
)


@dataclasses.dataclass(frozen=True)
class Meaning:
  """How a metric is named and read.

  Attributes:
    split: first part of the path, '' if it has one part only.
    family: second part, '' if there is none.
    label: the metric in words, without its split.
    definition: one or two sentences, '' if the metric is not known here.
    better: 'higher', 'lower', or '' where neither end is the good one.
    difference: a paired difference of two methods.
  """

  split: str
  family: str
  label: str
  definition: str
  better: str
  difference: bool = False


def meaning(path: str, definitions: Mapping[str, str] | None = None) -> Meaning:
  """The words for a metric path; `definitions` (path -> sentence) go first.

  >>> meaning('heldout/steps/auroc').label
  'Step AUROC'
  """
  split, family, name = _parts(path)
  base, _, policy = name.partition('@')
  difference = '-' in base
  if difference:
    first, second = base.split('-', 1)
    a, b = _known(first), _known(second)
    label = f'{a[0]} minus {_lower(b[0])}'
    definition = (
      'Paired difference over the same problems; the claim that the first is better '
      'holds if the whole interval is above 0.'
    )
    better = 'higher'
  else:
    label, definition, better = _known(base)
  if re.fullmatch(r'\d+', policy):
    label += f', N\u00a0=\u00a0{policy}'
  elif policy:
    label += f', {policy.replace(":", " on ", 1)}'
    for pattern, sentence in _POLICIES:
      found = re.fullmatch(pattern, policy)
      if found:
        rest = found.group(1) if found.groups() else ''
        rest = f' at {rest}' if pattern.startswith('fixed') and rest else rest
        definition = f'{definition} {sentence.format(rest)}'.strip()
        break
  if definitions and path in definitions:
    definition = definitions[path]
  return Meaning(split, family, label, definition, better, difference)


def judged_by(path: str, truths: Mapping[str, str]) -> str:
  """Value of the longest key of `truths` that `path` begins with, '' if none."""
  keys = [k for k in truths if path.startswith(k)]
  return truths[max(keys, key=len)] if keys else ''


def plain(name: str) -> str:
  """A name of code as words: `heldout_longer` -> 'heldout longer'."""
  return name.replace('_', ' ').strip()


def _parts(path: str) -> tuple[str, str, str]:
  parts = path.split('/', 2)
  if len(parts) == 3:
    return parts[0], parts[1], parts[2]
  return (parts[0], '', parts[1]) if len(parts) == 2 else ('', '', path)


def _known(base: str) -> tuple[str, str, str]:
  last = base.rsplit('/', 1)[-1]
  where = base[: len(base) - len(last)].strip('/')
  for pattern, label, definition, better in _NAMES:
    found = re.fullmatch(pattern, last)
    if found:
      words = [plain(last.removeprefix('prm_'))]
      words += [plain(g) if g else '' for g in found.groups()]
      label, definition = label.format(*words), definition.format(*words)
      return (f'{label} ({plain(where)})' if where else label), definition, better
  return plain(base.replace('/', ', ')), '', ''


def _lower(label: str) -> str:
  first = label.split(' ', 1)[0]
  return label if first.isupper() else label[:1].lower() + label[1:]
