"""What each metric means, in a sentence or two, found by its path.

A metric path is `SPLIT/FAMILY/NAME@AT[SCORER]`, for example `heldout/steps/auroc`.
AT is a threshold policy (`tuned:validation`), a calibration (`platt:validation`), or
the number of candidates with its tie rule (`16`, `16:lowest_index`). SCORER is left
out for the one evaluated. NAME is `a-b` for a paired difference.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping

_VALUE = 'the chance that the solver still reaches the right answer from there'

FAMILIES = {
  'process_bench': 'First wrong step',
  'steps': 'Single steps',
  'calibration': 'Scores as probabilities',
  'trajectory': 'Scores along a solution',
  'value': 'Distance to the value',
  'best_of_n': 'Choosing among N candidates',
  'next_token': 'Predicting solutions',
  'search': 'Searches',
  'search_flops': 'Estimated FLOPs of searches',
  'search_policy_tokens': 'Tokens of the policy in searches',
  'search_prm_tokens': 'Tokens of the PRM in searches',
  'bank': 'Selection rules on saved candidates',
}
"""Family of a metric path -> heading."""

SCORERS = {
  'baseline_position_length': 'baseline: position and length alone',
  'all_correct': 'baseline: every step called correct',
}
"""Scorers with a meaning of their own -> how they are called."""

TRUTHS = {
  'on_track': 'on_track: no wrong step so far',
  'valid': 'valid: the step follows from the one before',
  'value': f'value: {_VALUE}',
  'exact': 'the final answer, compared exactly',
  'human': 'human labels of the steps',
  'text': 'the solutions as they were written',
}
"""Label sets and checkers -> what they say."""

_PATH = re.compile(r'(?P<name>[^@\[]+)(?:@(?P<at>[^\[]+))?(?:\[(?P<scorer>.+)\])?')

# Pattern of the AT of a path -> (words for the label, sentence for the definition).
_AT = {
  r'tuned:(.+)': (
    'tuned on {0}',
    'The threshold was tuned on {0}, which shares no problem with this set.',
  ),
  r'fixed:(.+)': ('threshold {0}', 'The threshold was fixed beforehand.'),
  r'argmax': ('argmax', 'A step counts as correct if that is its more probable class.'),
  r'platt:(.+)': (
    'calibrated on {0}',
    'Raw scores were first mapped to probabilities by a logistic curve fitted on {0}.',
  ),
  r'(\d+)': ('N\u00a0=\u00a0{0}', ''),
  r'(\d+):lowest_index': (
    'N\u00a0=\u00a0{0}, ties to the first',
    'Ties go to the candidate sampled first, as in published numbers.',
  ),
}

# Pattern of a name -> (label, definition, which end is better).
_NAMES = {
  r'f1': (
    'F1 of the first wrong step',
    'Harmonic mean of two accuracies: the share of wrong solutions whose first wrong '
    'step is named exactly, and the share of correct solutions accepted whole. '
    'It is not the F1 of precision and recall.',
    'higher',
  ),
  r'accuracy_error': (
    'Accuracy on wrong solutions',
    'Share of the solutions with a wrong step whose first one is named exactly.',
    'higher',
  ),
  r'accuracy_correct': (
    'Accuracy on correct solutions',
    'Share of the solutions without a wrong step that are accepted whole.',
    'higher',
  ),
  r'first_error_accuracy': (
    'First-error accuracy',
    'Share of all solutions whose first wrong step, or its absence, is named exactly.',
    'higher',
  ),
  r'auroc': (
    'Step AUROC',
    'Chance that a correct step scores above a wrong one, both drawn at random from '
    'the steps up to the first error; a tie counts one half, 0.5 is guessing.',
    'higher',
  ),
  r'loss': (
    'Loss a token',
    'Mean negative log-probability of the tokens of held-out solutions, each given all '
    'before it, in nats.',
    'lower',
  ),
  r'token_accuracy': (
    'Token accuracy',
    'Share of the tokens of held-out solutions that are the most probable next ones.',
    'higher',
  ),
  r'average_precision': (
    'Average precision',
    'Mean precision of the search for wrong steps from the lowest score up, over the '
    'steps up to the first error; guessing gets the share of wrong steps.',
    'higher',
  ),
  r'accuracy': (
    'Step accuracy',
    'Share of steps on the right side of the threshold, up to the first error; to be '
    'read beside the base rate.',
    'higher',
  ),
  r'f1_wrong': (
    'F1 of wrong steps',
    'Harmonic mean of precision and recall in calling single steps wrong, up to the '
    'first error.',
    'higher',
  ),
  r'base_rate': (
    'Base rate',
    'Share of steps that are correct: the accuracy of calling every step correct.',
    '',
  ),
  r'brier': (
    'Brier score',
    'Mean squared distance between score and truth; 0 is perfect.',
    'lower',
  ),
  r'ece': (
    'Expected calibration error',
    'Distance between mean score and mean truth in ten bins of the score, weighted by '
    'the steps in a bin. A finite sample keeps even a perfect model above 0, and '
    'resampling moves the interval upward.',
    'lower',
  ),
  r'smoothness': (
    'Smoothness',
    'Mean absolute change of the score from one step to the next, in its own units.',
    '',
  ),
  r'td_error(_mean)?': (
    'TD error',
    'Mean absolute difference between a score and the next one, the last compared '
    'with whether the answer is right.',
    'lower',
  ),
  r'td_error_std': (
    'Spread of the TD error',
    'Standard deviation of the absolute difference between a score and the next one, '
    'the last compared with whether the answer is right.',
    '',
  ),
  r'mae': (
    'Distance to the value',
    f'Mean absolute difference between a score and {_VALUE}.',
    'lower',
  ),
  r'rmse': (
    'Root mean square distance to the value',
    f'Root mean squared difference between a score and {_VALUE}.',
    'lower',
  ),
  r'correlation': (
    'Correlation with the value',
    f'Pearson correlation of the scores with {_VALUE}.',
    'higher',
  ),
  r'oracle': (
    'Oracle',
    'Chance that at least one of the N candidates is right: the best that any choice '
    'among them could do.',
    'higher',
  ),
  r'pass': (
    'One picked blindly',
    'Chance that a candidate picked at random is right.',
    'higher',
  ),
  r'majority': (
    'Majority vote',
    'Chance that the most frequent answer among the N is right.',
    'higher',
  ),
  r'shortest': (
    'Shortest solution',
    'Chance that the shortest of the N candidates is right; no model is involved.',
    'higher',
  ),
  r'fewest_steps': (
    'Fewest steps',
    'Chance that the candidate with the fewest steps is right; no model is involved.',
    'higher',
  ),
  r'prmscore': (
    'PRMScore',
    'Mean of the F1 of correct steps and the F1 of wrong steps, over single steps.',
    'higher',
  ),
  r'f1_(correct|wrong)_steps': (
    'F1 of {0} steps',
    'Harmonic mean of precision and recall in calling steps {0}, over all steps.',
    'higher',
  ),
  r'(correct|wrong|total)_step_accuracy': (
    'Accuracy, {0} steps',
    'Share of these steps on the right side of the threshold.',
    'higher',
  ),
  r'first_error_step_accuracy': (
    'First wrong step called wrong',
    'Share of the solutions with a wrong step whose first one is called wrong, '
    'whatever is said of the steps before it.',
    'higher',
  ),
  r'similarity': (
    'Distance to the original solution',
    'Mean absolute difference between the shares of steps called correct in a modified '
    'solution and in the original one.',
    '',
  ),
  r'step_auroc': (
    'Step AUROC',
    'Chance that a correct step scores above a wrong one; a tie counts one half, 0.5 '
    'is guessing.',
    'higher',
  ),
  r'accuracy_all': (
    'Accuracy on all solutions',
    'Share of all solutions whose first wrong step, or its absence, is named exactly.',
    'higher',
  ),
  r'accuracy_step': (
    'Accuracy on wrong solutions',
    'Share of the wrong solutions whose first wrong step is named exactly.',
    'higher',
  ),
  r'mcc': (
    'Correlation with correctness',
    'Matthews correlation between calling a solution correct and its being so.',
    'higher',
  ),
  r'mr_score': (
    'MR-Score without reasons',
    '0.2 times the correlation with correctness (none below 0) and 0.3 times the '
    'accuracy on wrong solutions; step scores give no reasons, so 0.5 is the most.',
    'higher',
  ),
  r'right_answer_wrong_step_(found|noticed)': (
    'Wrong process behind a right answer, {0}',
    'Share of the solutions with a right answer and a wrong step whose first wrong '
    'step is named exactly (found) or in which any step is called wrong (noticed).',
    'higher',
  ),
  r'minimum_on_last_step': (
    'Lowest score on the last step',
    'Share of the solutions with two steps or more whose lowest score stands on the '
    'last step.',
    '',
  ),
  r'prm_(.+)_sigmoid_vote': (
    'PRM vote, {0}',
    'Chance that the answer with the largest sum of weights is right; the weight of a '
    'candidate is the sigmoid of the {0} of its step scores.',
    'higher',
  ),
  r'prm_(.+)_vote': (
    'PRM vote, {0}',
    'Chance that the answer with the largest sum of weights is right; the weight of a '
    'candidate is the {0} of its step scores.',
    'higher',
  ),
  r'prm_(.+)': (
    'PRM {0}',
    'Chance that the candidate with the highest {0} of its step scores is right.',
    'higher',
  ),
}

# Names above whose values do not lie between 0 and 1 -> between what they lie.
_BETWEEN = {
  'loss': (0.0, math.inf),
  'smoothness': (0.0, math.inf),
  'correlation': (-1.0, 1.0),
  'mcc': (-1.0, 1.0),
}


@dataclasses.dataclass(frozen=True)
class Meaning:
  """How a metric is named and read.

  Attributes:
    split: first part of the path as words, '' if it has one part only.
    family: second part, '' if there is none.
    label: the metric in words, without split and scorer.
    definition: one or more sentences, '' if the metric is not known here.
    better: 'higher', 'lower', or '' where neither end is the good one.
    scorer: whose metric it is, in words; '' for the one evaluated.
    baseline: the scorer is a baseline.
    group: metrics that differ in split, scorer or N alone have the same.
    difference: a paired difference.
  """

  split: str
  family: str
  label: str
  definition: str
  better: str
  scorer: str
  baseline: bool
  group: str
  difference: bool


def meaning(path: str, definitions: Mapping[str, str] | None = None) -> Meaning:
  """The words for a metric path; `definitions` (path -> sentence) go first.

  >>> meaning('heldout/process_bench/f1@tuned:validation').label
  'F1 of the first wrong step, tuned on validation'
  """
  split, family, rest = _parts(path)
  found = _PATH.fullmatch(rest)
  name, at, scorer = found.group('name', 'at', 'scorer') if found else (rest, '', '')
  at, scorer = at or '', scorer or ''
  difference = '-' in name
  if difference:
    first, second = name.split('-', 1)
    label = f'{_known(first)[0]} minus {_lower(_known(second)[0])}'
    definition = (
      'Paired difference over the same problems; the first is shown to be better if '
      'the whole interval is above 0.'
    )
    better = 'higher'
  else:
    label, definition, better = _known(name)
  for pattern, (words, sentence) in _AT.items():
    matched = re.fullmatch(pattern, at)
    if matched:
      values = [plain(g) for g in matched.groups()]
      label = f'{label}, {words.format(*values)}'
      definition = f'{definition} {sentence.format(*values)}'.strip()
      break
  else:
    label = f'{label}, {plain(at)}' if at else label
  if at.isdigit() and name not in ('oracle', 'pass') and not difference:
    definition = f'{definition} Ties share the chance equally.'.strip()
  return Meaning(
    split='mean of the sets' if split == 'mean' else plain(split),
    family=family,
    label=label,
    definition=(definitions or {}).get(path, definition),
    better=better,
    scorer=SCORERS.get(scorer, plain(scorer)),
    baseline=scorer in SCORERS,
    group=f'{family}/{name}@{re.sub("^[0-9]+", "N", at)}',
    difference=difference,
  )


def between(path: str) -> tuple[float, float]:
  """Least and greatest value that a metric can take, infinite where not known.

  >>> between('heldout/steps/auroc'), between('heldout/best_of_n/prm_min-majority@16')
  ((0.0, 1.0), (-1.0, 1.0))
  """
  found = _PATH.fullmatch(_parts(path)[2])
  first, minus, second = (found['name'] if found else '').partition('-')
  low, high = _ends(first) or (-math.inf, math.inf)
  if not minus:
    return low, high
  # What is taken away is another metric, or the same one of another scorer.
  least, greatest = _ends(second) or (low, high)
  return low - greatest, high - least


def _ends(name: str) -> tuple[float, float] | None:
  known = any(re.fullmatch(pattern, name) for pattern in _NAMES)
  return _BETWEEN.get(name, (0.0, 1.0)) if known else None


def judged_by(path: str, truths: Mapping[str, str]) -> str:
  """Value of the longest key of `truths` that `path` begins with, '' if none."""
  keys = [k for k in truths if path.startswith(k)]
  found = truths[max(keys, key=len)] if keys else ''
  return '' if found == 'none' else found


def truth(name: str) -> str:
  """A truth in words; a name that is not known here stays as it is."""
  return TRUTHS.get(name, name)


def plain(name: str) -> str:
  """A name of code as words: `heldout_longer` -> 'heldout longer'."""
  return name.replace('_', ' ').strip()


def _parts(path: str) -> tuple[str, str, str]:
  parts = path.split('/', 2)
  if len(parts) == 3:
    return parts[0], parts[1], parts[2]
  return (parts[0], '', parts[1]) if len(parts) == 2 else ('', '', path)


def _known(name: str) -> tuple[str, str, str]:
  for pattern, (label, definition, better) in _NAMES.items():
    found = re.fullmatch(pattern, name)
    if found:
      values = [plain(g or '') for g in found.groups()]
      return label.format(*values), definition.format(*values), better
  return SCORERS.get(name, plain(name.replace('/', ', '))), '', ''


def _lower(label: str) -> str:
  """The label as it stands inside a sentence: acronyms keep their capitals."""
  first = label.split(' ', 1)[0]
  return label if first.isupper() else label[:1].lower() + label[1:]
