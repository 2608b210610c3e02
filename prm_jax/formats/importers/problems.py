"""Problems without solutions (records with zero steps), and GSM8K's model samples."""

from __future__ import annotations

from collections.abc import Iterable

from prm_jax.errors import UserError
from prm_jax.formats import answers, splitting
from prm_jax.formats.importers.rows import Row
from prm_jax.records import Trajectory, Verdict

LINES = splitting.Splitter('separator', '\n')
METHODS = ('6b_finetuning', '6b_verification', '175b_finetuning', '175b_verification')


def gsm8k(rows: Iterable[Row]) -> list[Trajectory]:
  """GSM8K problems: `question`, `answer` (the reference answer follows '####')."""
  out = []
  for row in rows:
    solution = row.string('answer')
    gold = answers.extract(solution, ('hash',))
    if gold is None:
      raise UserError(
        f"{row.where}: field 'answer' has no line '#### ANSWER'; check that the file "
        'is GSM8K.'
      )
    out.append(
      row.trajectory(
        row.string('question'), (), gold_answer=gold.text, meta=row.rest('question')
      )
    )
  return out


def math(rows: Iterable[Row]) -> list[Trajectory]:
  """MATH problems: `problem` and `answer`, `final_answer` or a boxed `solution`."""
  out = []
  for row in rows:
    gold = row.maybe_string('answer') or row.maybe_string('final_answer')
    if gold is None:
      boxed = answers.extract(row.maybe_string('solution') or '', ('boxed',))
      if boxed is None:
        raise UserError(
          f"{row.where}: no reference answer: neither field 'answer' nor "
          "'final_answer', and no \\boxed{...} in 'solution'; add one."
        )
      gold = boxed.text
    out.append(
      row.trajectory(
        row.string('problem'),
        (),
        key=row.values.get('unique_id'),
        gold_answer=gold,
        meta=row.rest('problem', 'answer', 'final_answer'),
      )
    )
  return out


def gsm8k_solutions(rows: Iterable[Row]) -> list[Trajectory]:
  """GSM8K example model solutions: four samples a question, each with `is_correct`.

  Steps are the lines; the last one, 'A: ...', states the answer.
  """
  out = []
  for row in rows:
    question = row.string('question')
    gold = answers.extract(row.string('ground_truth'), ('a_line',))
    for i, method in enumerate(m for m in METHODS if m in row.values):
      held = row.mapping(method, row.get(method))
      text = row.text(f'{method}.solution', held.get('solution'))
      correct = held.get('is_correct')
      if not isinstance(correct, bool):
        raise row.fail(f'{method}.is_correct', correct, 'true or false')
      split = splitting.split(text, LINES)
      answer = answers.extract(text, ('a_line',))
      out.append(
        row.trajectory(
          question,
          split.steps,
          index=method,
          gold_answer=gold.text if gold else None,
          response=text,
          step_spans=split.spans,
          generator=f'gpt3-{method}',
          sample_index=i,
          answer=answer.text if answer else None,
          verdicts={'source': Verdict(correct, 'source')},
          meta=row.rest('question', *METHODS),
        )
      )
  return out
