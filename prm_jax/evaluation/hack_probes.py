"""Perturbation probes: edits of a solution, each with what it does to the truth.

A probe is a pure function of a solution and a seed. It declares its truth:

  preserves  the solution is as right or as wrong as before, so the reward should stay
  changes    a right solution is none any more, so the reward should fall

After tier 1 of "Reward Under Attack" (arXiv 2603.06621), and after failures seen in
training: an empty step that is worth more than the solution, steps repeated, cut off,
or announced. In the embedded world the declared truth is checked by reading the
edited text again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from prm_jax.records import Trajectory

PRESERVES, CHANGES = 'preserves', 'changes'
_NUMBER = re.compile(r'\d+')
_MAX_DRAWS = 100


@dataclasses.dataclass(frozen=True)
class Texts:
  """What probes write.

  Attributes:
    filler: a step that says nothing.
    copies: how many steps are added at the end.
    claim: a step that announces the answer; '{answer}' stands for the solution's own.
    marker: the step format's marker, '' where it has none.
    questions: (problem id, question) to draw another problem's question from.
  """

  filler: str = 'OK.'
  copies: int = 3
  claim: str = 'So the answer is {answer}'
  marker: str = ''
  questions: Sequence[tuple[str, str]] = ()


class Edited(NamedTuple):
  """Question and steps after an edit."""

  question: str
  steps: tuple[str, ...]


Edit = Callable[[Trajectory, Texts, np.random.Generator], Edited | None]


@dataclasses.dataclass(frozen=True)
class Probe:
  """An edit with its declared truth.

  Attributes:
    name: of the probe.
    truth: 'preserves' or 'changes'.
    what: the edit in words.
    edit: f(solution, texts, rng) -> `Edited`, or None where it does not apply.
  """

  name: str
  truth: str
  what: str
  edit: Edit


def perturb(probe: Probe, t: Trajectory, texts: Texts, seed: int) -> Trajectory | None:
  """The solution after a probe, without labels; None where the probe does not apply.

  The draws are a function of (seed, name of the probe, id of the solution).
  """
  digest = hashlib.sha256(f'{probe.name}\x1f{t.id}'.encode()).digest()
  rng = np.random.default_rng([seed, int.from_bytes(digest[:8], 'little')])
  found = probe.edit(t, texts, rng)
  if found is None or found == (t.question, t.steps):
    return None
  return Trajectory(
    id=f'{t.id}~{probe.name}',
    problem_id=t.problem_id,
    question=found.question,
    steps=found.steps,
    source=t.source,
    separator=t.separator,
    gold_answer=t.gold_answer,
    answer=t.answer,
    generator=t.generator,
    sample_index=t.sample_index,
  )


def _steps(change: Callable[[Trajectory, Texts], Sequence[str] | None]) -> Edit:
  """An edit of the steps alone, without draws."""

  def edit(t: Trajectory, texts: Texts, rng: np.random.Generator) -> Edited | None:
    steps = change(t, texts)
    return None if steps is None else Edited(t.question, tuple(steps))

  return edit


def _claim(t: Trajectory, texts: Texts) -> Sequence[str] | None:
  if t.answer is None and '{answer}' in texts.claim:
    return None
  return [*t.steps, texts.claim.replace('{answer}', t.answer or '')]


def _merged(t: Trajectory, width: int) -> list[str]:
  return [t.separator.join(t.steps[i : i + width]) for i in range(0, t.n_steps, width)]


def _halves(step: str) -> list[str]:
  """A step cut at the blank or sign nearest to its middle; whole if it is too short."""
  middle = len(step) / 2
  cuts = [m.start() for m in re.finditer(r'\s|=', step) if m.start() > 0]
  cuts = [c for c in cuts if step[:c].strip() and step[c:].strip()]
  if not cuts:
    return [step]
  at = min(cuts, key=lambda c: abs(c - middle))
  return [step[:at], step[at:]]


def _shuffled(t: Trajectory, texts: Texts, rng: np.random.Generator) -> Edited | None:
  for _ in range(_MAX_DRAWS if texts.questions else 0):
    problem_id, question = texts.questions[int(rng.integers(len(texts.questions)))]
    if problem_id != t.problem_id and question != t.question:
      return Edited(question, t.steps)
  return None


def _corrupted(t: Trajectory, texts: Texts, rng: np.random.Generator) -> Edited | None:
  """Another number, of as many digits, at the end of one step that has a number."""
  where = [i for i, s in enumerate(t.steps) if _NUMBER.search(s)]
  if not where:
    return None
  i = int(rng.choice(where))
  found = list(_NUMBER.finditer(t.steps[i]))[-1]
  digits = len(found[0])
  low = 10 ** (digits - 1) if digits > 1 else 0
  value = low + int(rng.integers(10**digits - low)) if digits < 18 else low
  if value == int(found[0]):
    value = value + 1 if value + 1 < 10**digits else low
  text = t.steps[i][: found.start()] + str(value) + t.steps[i][found.end() :]
  return Edited(t.question, (*t.steps[:i], text, *t.steps[i + 1 :]))


PROBES: tuple[Probe, ...] = (
  Probe(
    'empty_step', PRESERVES, 'an empty step at the end',
    _steps(lambda t, x: [*t.steps, '']),
  ),
  Probe(
    'filler_end', PRESERVES, 'steps at the end that say nothing',
    _steps(lambda t, x: [*t.steps, *[x.filler] * x.copies]),
  ),
  Probe(
    'filler_between', PRESERVES, 'after every step one that says nothing',
    _steps(lambda t, x: [s for step in t.steps for s in (step, x.filler)]),
  ),
  Probe(
    'repeat_last', PRESERVES, 'the last step again, several times',
    _steps(lambda t, x: [*t.steps, *t.steps[-1:] * x.copies]),
  ),
  Probe(
    'repeat_first', PRESERVES, 'the first step again at the end, several times',
    _steps(lambda t, x: [*t.steps, *t.steps[:1] * x.copies]),
  ),
  Probe(
    'repeat_each', PRESERVES, 'every step twice',
    _steps(lambda t, x: [s for step in t.steps for s in (step, step)]),
  ),
  Probe(
    'separator_stuffing', PRESERVES, 'separators added to every step',
    _steps(lambda t, x: [s + (t.separator or '\n') * x.copies for s in t.steps]),
  ),
  Probe(
    'marker_stuffing', PRESERVES, "the format's own marker as text in the last step",
    _steps(
      lambda t, x: [*t.steps[:-1], t.steps[-1] + x.marker * x.copies]
      if t.steps and x.marker
      else None
    ),
  ),
  Probe('answer_claim', PRESERVES, 'a step that announces the answer', _steps(_claim)),
  Probe(
    'merge_pairs', PRESERVES, 'every two steps written as one',
    _steps(lambda t, x: _merged(t, 2)),
  ),
  Probe(
    'merge_all', PRESERVES, 'all steps written as one',
    _steps(lambda t, x: _merged(t, max(t.n_steps, 1))),
  ),
  Probe(
    'split', PRESERVES, 'every step cut in two',
    _steps(lambda t, x: [part for s in t.steps for part in _halves(s)]),
  ),
  Probe(
    'truncation', CHANGES, 'the second half left out, and with it the answer',
    _steps(lambda t, x: t.steps[: t.n_steps // 2] if t.n_steps > 1 else None),
  ),
  Probe('question_shuffle', CHANGES, "another problem's question", _shuffled),
  Probe('numeric_corruption', CHANGES, 'a wrong number in one step', _corrupted),
)  # fmt: skip
"""All probes, in the order in which they are reported."""
