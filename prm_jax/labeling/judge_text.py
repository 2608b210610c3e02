r"""What a judge reads and how its answer is read: templates and a strict parser.

Two forms of verdict. 'first_error' asks for the number of the first wrong step in the
last \boxed{...}, -1 if there is none, as in ProcessBench (Zheng et al. 2024, arXiv
2412.06559). 'per_step' asks for a word on every step. What does not have the form that
was asked for is no vote, and never guessed at.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping

from prm_jax.errors import UserError
from prm_jax.records import Trajectory

# What one answer says of each step: right, wrong, or nothing.
Vote = tuple[bool | None, ...]

_TASK = """\
Below are a problem and a solution to it in numbered steps, from {first} to {last}.
Check the solution step by step: is each step correct, given the problem and the steps
before it? A step is wrong if it states something false, miscalculates, or concludes
what does not follow. A correct final answer does not make a wrong step right.

[Problem]
{question}
{reference}
[Solution]
{steps}

Say briefly what you find in each step."""

TEMPLATES = {
  'first_error': _TASK
  + """ Then give the number of the first wrong step, or -1 if every
step is correct. End with this number alone in \\boxed{}, for example \\boxed{{first}}
or \\boxed{-1}.
""",
  'per_step': _TASK
  + """ Then end with one line for each step, in order, between
these two tags; a line is the step's number, a colon, and the word correct or wrong:
<verdicts>
{first}: correct
...
{last}: wrong
</verdicts>
""",
}

_PLACES = re.compile(r'\{(question|steps|reference|first|last)\}')
_STEP_PLACES = re.compile(r'\{(number|step)\}')
_REFERENCE_PLACE = re.compile(r'\{(reference)\}')
_BOXED_NUMBER = re.compile(r'\\boxed\{ *(-1|0|[1-9][0-9]{0,8}) *\}')
_VERDICT = re.compile(r'(0|[1-9][0-9]{0,8}): (correct|wrong)')


@dataclasses.dataclass(frozen=True)
class Options:
  """What a judge is asked and how its votes become labels.

  Attributes:
    form: 'first_error' or 'per_step'.
    template: of the prompt, with {question} and {steps}, {reference} if one is shown,
      and, where wanted, {first} and {last}, the numbers of the first and last step;
      '' takes `TEMPLATES[form]`. Other braces stay as they are.
    step_template: of one step, with {number} and {step}.
    first_number: the number that prompts give to the first step, 0 or 1; results
      count from 0 all the same.
    reference: what the judge may see: 'none', 'answer' (the gold answer) or
      'solution' (`meta[solution_key]`).
    reference_template: with {reference}; stands for {reference} in `template`.
    solution_key: of the reference solution in `meta`.
    votes: verdicts asked for of each solution.
    label: name of the label set.

  Raises:
    UserError: a value or a template that cannot work.
  """

  form: str = 'first_error'
  template: str = ''
  step_template: str = '<step_{number}>\n{step}\n</step_{number}>'
  first_number: int = 0
  reference: str = 'none'
  reference_template: str = '\n[Reference]\n{reference}\n'
  solution_key: str = 'solution'
  votes: int = 1
  label: str = 'judge'

  def __post_init__(self) -> None:
    for name, good, want in (
      ('form', self.form in TEMPLATES, ' or '.join(TEMPLATES)),
      ('first_number', self.first_number in (0, 1), '0 or 1'),
      (
        'reference',
        self.reference in ('none', 'answer', 'solution'),
        'none, answer or solution',
      ),
      ('votes', self.votes >= 1, '1 or more'),
      ('label', bool(self.label), 'a name'),
    ):
      if not good:
        raise UserError(f'judge.{name}={getattr(self, name)!r} must be {want}.')
    shown = set() if self.reference == 'none' else {'reference'}
    for name, text, places, wanted in (
      ('template', self.text, _PLACES, {'question', 'steps'} | shown),
      ('step_template', self.step_template, _STEP_PLACES, {'number', 'step'}),
      ('reference_template', self.reference_template, _REFERENCE_PLACE, shown),
    ):
      for place in sorted(wanted - set(places.findall(text))):
        raise UserError(f'judge.{name} must contain {{{place}}}; add it.')

  @property
  def text(self) -> str:
    """The template of the prompt."""
    return self.template or TEMPLATES[self.form]

  @property
  def template_hash(self) -> str:
    """Names all that decides what a judge reads of a solution and how it is read."""
    parts = [self.form, self.text, self.step_template, str(self.first_number)]
    if self.reference != 'none':
      parts += [self.reference, self.reference_template]
    return hashlib.sha256(json.dumps(parts).encode('ascii')).hexdigest()[:12]


def skip_reason(row: Trajectory, options: Options) -> str:
  """Why a solution cannot be judged, '' if it can.

  'no_steps', 'empty_step', 'no_gold_answer' and 'no_reference_solution' (where one is
  to be shown), 'tag_in_text' (a step or the question contains a tag that encloses
  steps).
  """
  if not row.steps:
    return 'no_steps'
  if not all(map(str.strip, row.steps)):
    return 'empty_step'
  if options.reference == 'answer' and not row.gold_answer:
    return 'no_gold_answer'
  if options.reference == 'solution' and not _reference(row, options):
    return 'no_reference_solution'
  before, _, after = options.step_template.partition('{step}')
  if before.strip() and after.strip():
    tags = [
      part.replace('{number}', str(options.first_number + t)).strip()
      for t in range(row.n_steps)
      for part in (before, after)
    ]
    if any(tag in text for text in (row.question, *row.steps) for tag in tags):
      return 'tag_in_text'
  return ''


def _reference(row: Trajectory, options: Options) -> str:
  if options.reference == 'answer':
    return row.gold_answer or ''
  held = row.meta.get(options.solution_key)
  return held if isinstance(held, str) else ''


def prompt(row: Trajectory, options: Options) -> str:
  """What a judge is asked about a solution.

  Templates are filled in one pass, so that places named in a question or a step
  stay what they are: text.
  """
  steps = (
    _fill(_STEP_PLACES, options.step_template, {'number': str(number), 'step': step})
    for number, step in enumerate(row.steps, options.first_number)
  )
  reference = ''
  if options.reference != 'none':
    held = {'reference': _reference(row, options)}
    reference = _fill(_REFERENCE_PLACE, options.reference_template, held)
  values = {
    'question': row.question,
    'steps': '\n'.join(steps),
    'reference': reference,
    'first': str(options.first_number),
    'last': str(options.first_number + row.n_steps - 1),
  }
  return _fill(_PLACES, options.text, values)


def _fill(places: re.Pattern[str], template: str, values: Mapping[str, str]) -> str:
  return places.sub(lambda found: values[found.group(1)], template)


def parse(text: str, n_steps: int, options: Options) -> Vote | None:
  r"""The vote that an answer casts, None if it does not have the form asked for.

  >>> parse(r'Step 1 adds wrongly: \boxed{1}', 3, Options())
  (True, False, None)
  >>> parse('Step 1 is wrong.', 3, Options()) is None
  True

  Args:
    text: of the completion.
    n_steps: P of the solution.
    options: form and first number.

  Returns:
    [P]: True correct, False wrong, None nothing said (behind the first error).
  """
  if options.form == 'per_step':
    return _verdicts(text, n_steps, options.first_number)
  found = _BOXED_NUMBER.match(text, max(text.rfind('\\boxed'), 0))
  if not found:
    return None
  number = int(found.group(1))
  if number == -1:
    return (True,) * n_steps
  at = number - options.first_number
  if not 0 <= at < n_steps:
    return None
  return (*(True,) * at, False, *(None,) * (n_steps - at - 1))


def _verdicts(text: str, n_steps: int, first_number: int) -> Vote | None:
  _, opened, rest = text.rpartition('<verdicts>')
  body, closed, _ = rest.partition('</verdicts>')
  found = [_VERDICT.fullmatch(line.strip()) for line in body.strip().split('\n')]
  if not (opened and closed) or len(found) != n_steps:
    return None
  votes = []
  for number, verdict in enumerate(found, first_number):
    if verdict is None or int(verdict.group(1)) != number:
      return None
    votes.append(verdict.group(2) == 'correct')
  return tuple(votes)
