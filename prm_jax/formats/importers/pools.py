"""Best-of-N pools with the step scores of public reward models.

A pool row is a problem with its candidates; each candidate becomes a trajectory. Two
verdicts come along: 'source' (as published; wrong where the source's extraction
failed) and 'regraded'. The source's extracted answer is `meta['extracted_answer']`;
`answer` is read from the response: the last box, else the last number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from prm_jax import jsonl, records
from prm_jax.errors import UserError
from prm_jax.formats import answers
from prm_jax.formats.importers.rows import Row
from prm_jax.records import Check, ScoreSet, Trajectory, Verdict

ANSWERS = ('boxed', 'last_number')
VERDICTS = {'source': 'is_correct_source', 'regraded': 'is_correct_regraded'}
CANDIDATE = ('response', 'steps', *VERDICTS.values())


def bon_pools(rows: Iterable[Row]) -> list[Trajectory]:
  """Pools: `problem_id`, `question`, `gold_answer`, `candidates`."""
  out = []
  for row in rows:
    problem = row.string('problem_id')
    used = ('problem_id', 'question', 'gold_answer', 'candidates', 'temperature')
    shared = row.rest(*used)
    sampling = {k: row.values[k] for k in ('temperature',) if k in row.values}
    for i, held in enumerate(row.items('candidates', row.get('candidates'))):
      field = f'candidates[{i}]'
      candidate = row.mapping(field, held)
      response = row.text(f'{field}.response', candidate.get('response'))
      steps = row.texts(f'{field}.steps', candidate.get('steps'))
      answer = answers.extract(response, ANSWERS)
      out.append(
        row.trajectory(
          row.string('question'),
          steps,
          key=problem,
          index=i,
          problem_id=problem,
          gold_answer=row.maybe_string('gold_answer'),
          response=response,
          step_spans=_spans(response, steps),
          generator=row.maybe_string('model_name') or '',
          sampling=sampling,
          sample_index=i,
          answer=answer.text if answer else None,
          verdicts=_verdicts(row, field, candidate),
          meta={**shared, **{k: v for k, v in candidate.items() if k not in CANDIDATE}},
        )
      )
  return out


def _verdicts(row: Row, field: str, candidate: dict[str, Any]) -> dict[str, Verdict]:
  out = {}
  for name, key in VERDICTS.items():
    value = candidate.get(key)
    if not isinstance(value, bool | None):
      raise row.fail(f'{field}.{key}', value, 'true, false or null')
    if key in candidate:
      out[name] = Verdict(value, name)
  return out


def _spans(response: str, steps: Sequence[str]) -> tuple[tuple[int, int], ...]:
  """Places of the steps in the response; () unless all are there, in order."""
  spans, at = [], 0
  for step in steps:
    start = response.find(step, at)
    if start < 0:
      return ()
    at = start + len(step)
    spans.append((start, at))
  return tuple(spans)


def attach_scores(
  trajectories: Sequence[Trajectory],
  score_file: str,
  name: str = '',
  kind: str = '',
  *,
  part: bool = False,
) -> list[Trajectory]:
  """Adds the step scores of a score file to the trajectories of its pool.

  Rows hold `problem_id`, `candidate_index`, `step_scores` and optionally `prm_name`,
  `n_steps`. They are matched by (problem_id, sample_index), in any order.

  Args:
    trajectories: one pool as `bon_pools` reads it.
    score_file: JSON lines, plain or gzipped; a directory or pattern of shards too.
    name: the scorer's name in `scores`; '' means the file's `prm_name`.
    kind: one of `records.SCORE_KINDS`; '' means probability if every score of the
      file lies in [0, 1], else logit.
    part: these are a part of the pool; scores of other candidates are left alone.

  Raises:
    UserError: the file and the pool do not match one to one, a count of scores
      differs from the number of steps, or a score is not a finite number.
  """
  held = {}
  for file in jsonl.expand(score_file, ('.jsonl', '.jsonl.gz')):
    for number, row in jsonl.iter_json_lines(file):
      key, entry = _scores(row, f'{file}:{number}', name)
      if key in held:
        raise UserError(
          f'{file}:{number}: problem {key[0]!r}, candidate {key[1]} has scores '
          'already; there must be one row a candidate.'
        )
      held[key] = entry
  if not kind:
    inside = all(0 <= v <= 1 for _, _, values in held.values() for v in values)
    kind = 'probability' if inside else 'logit'
  out = []
  for t in trajectories:
    place = (t.problem_id, t.sample_index)
    if place not in held:
      raise UserError(
        f'{score_file}: no scores for problem {t.problem_id!r}, candidate '
        f'{t.sample_index}; score file and pool do not belong together.'
      )
    where, scorer, values = held.pop(place)
    if len(values) != t.n_steps:
      raise UserError(
        f"{where}: field 'step_scores' has {len(values)} scores for {t.n_steps} steps; "
        'score file and pool do not belong together.'
      )
    out.append(records.add(t, 'scores', scorer, ScoreSet(kind, values)))
  if held and not part:
    key, (where, _, _) = next(iter(held.items()))
    raise UserError(
      f'{where}: problem {key[0]!r}, candidate {key[1]} is not in the pool; score file '
      'and pool do not belong together.'
    )
  return out


def _scores(
  row: dict[str, Any], where: str, name: str
) -> tuple[tuple[str, int], tuple[str, str, tuple[float, ...]]]:
  c = Check(where)
  values = c.items('step_scores', row.get('step_scores'))
  scores = tuple(
    c.number(f'step_scores[{i}]', v, -float('inf'), float('inf'))
    for i, v in enumerate(values)
  )
  n_steps = row.get('n_steps', len(scores))
  if n_steps != len(scores):
    raise c.fail('n_steps', n_steps, f'the number of step_scores, {len(scores)}')
  key = (
    c.text('problem_id', row.get('problem_id')),
    c.integer('candidate_index', row.get('candidate_index'), 0),
  )
  scorer = name or c.text('prm_name', row.get('prm_name'))
  return key, (where, scorer, scores)
