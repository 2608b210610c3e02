"""Scores in a few lines of Python, without a workdir."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any

from prm_jax import records
from prm_jax.errors import UserError
from prm_jax.exports import SPEC, load_scorer
from prm_jax.inference.scorer import Scorer
from prm_jax.records import ScoreSet, Trajectory, make_id


def score(
  checkpoint: str, questions: Sequence[str], steps: Sequence[Sequence[str]]
) -> list[list[float]]:
  """Scores of the steps of solutions, one list a solution.

      scores = prm_jax.score('runs/pqm', ['2 + 2 = ?'], [['2 + 2 = 4']])

  Args:
    checkpoint: a train run's workdir or its folder `scorer`; loaded once and kept.
    questions: one a solution.
    steps: the steps of each solution.

  Returns:
    scores[i][p] of step p of solution i, higher is better; logits or
    probabilities, as the scorer's spec says.

  Raises:
    UserError: no scorer is there, the counts differ, or a solution cannot be scored
      (too long, no steps, a marker inside the text): which one and why.
  """
  rows = [_row(i, q, s) for i, (q, s) in enumerate(_pairs(questions, steps))]
  out = []
  for i, result in enumerate(_scorer(*_locate(checkpoint)).score(rows)):
    if not isinstance(result, ScoreSet) or None in result.values:
      reason = 'its last steps were cut off' if isinstance(result, ScoreSet) else result
      raise UserError(
        f'score: solution {i} cannot be scored ({reason}); change or leave out that '
        'solution.'
      )
    out.append([float(v) for v in result.values if v is not None])
  return out


def _pairs(questions: Any, steps: Any) -> list[tuple[Any, Any]]:
  lists = all(
    isinstance(x, Sequence) and not isinstance(x, str) for x in (questions, steps)
  )
  if not lists or len(questions) != len(steps):
    raise UserError(
      'score: questions and steps must be lists of one length; give one question and '
      'one list of steps for each solution.'
    )
  return list(zip(questions, steps))


def _row(i: int, question: Any, steps: Any) -> Trajectory:
  """A record of one solution, validated like one from a file."""
  steps = (
    list(steps) if isinstance(steps, Sequence) and not isinstance(steps, str) else steps
  )
  values = {'id': make_id('api', i), 'question': question, 'steps': steps}
  return records.from_dict(values, f'score: solution {i}')


def _is_list(value: Any) -> bool:
  return isinstance(value, Sequence) and not isinstance(value, str)


def _locate(checkpoint: str) -> tuple[str, int]:
  """The folder of the export, and its age, so that a new export is loaded anew."""
  if not isinstance(checkpoint, (str, os.PathLike)):
    raise UserError('score: checkpoint must be the path of a train run or its scorer.')
  path = os.path.abspath(os.path.expanduser(checkpoint))
  inside = os.path.join(path, 'scorer')
  folder = inside if os.path.exists(os.path.join(inside, SPEC)) else path
  spec = os.path.join(folder, SPEC)
  return folder, os.stat(spec).st_mtime_ns if os.path.exists(spec) else 0


@functools.lru_cache(maxsize=2)
def _scorer(folder: str, written: int) -> Scorer:
  del written
  return Scorer(*load_scorer(folder))
