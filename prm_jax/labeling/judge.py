"""A judge: a language model that reads a solution and says where it goes wrong.

Pure functions around one engine call: `prompts` writes what the judge is asked,
`engine.complete` answers, `labels` reads the answers and counts the votes. A prompt is
the question of a `Request`, so the judge's engine has a text format whose
question_template is '{question}', or a chat template around it.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from prm_jax import records
from prm_jax.errors import UserError
from prm_jax.inference.requests import Completion, Refusal, Request, Sampling
from prm_jax.labeling.judge_text import Options, parse, prompt, skip_reason
from prm_jax.labeling.protocol import Labelled
from prm_jax.records import LabelSet, Trajectory


def check(options: Options, sampling: Sampling) -> None:
  """Refuses votes that cannot differ.

  Raises:
    UserError: several votes at temperature 0.
  """
  if options.votes > 1 and sampling.temperature == 0:
    raise UserError(
      f'judge.votes={options.votes} at temperature 0 are {options.votes} times the '
      'same vote; ask for 1, or set a temperature above 0.'
    )


def prompts(rows: Iterable[Trajectory], options: Options) -> list[Request]:
  """One request for each solution that can be judged (`skip_reason` is ''), in order.

  The id names problem, solution and template, so that another template or solution
  draws from another stream.
  """
  return [
    Request(
      id=f'{row.problem_id}/{row.id}/judge-{options.template_hash}',
      question=prompt(row, options),
      n=options.votes,
    )
    for row in rows
    if not skip_reason(row, options)
  ]


def labels(
  rows: Sequence[Trajectory],
  completions: Sequence[Sequence[Completion] | Refusal],
  options: Options,
  *,
  judge: str,
  sampling: Sampling,
) -> list[Labelled]:
  """What the votes say of each solution.

  The most frequent verdict wins: for 'first_error' among whole votes, for 'per_step'
  at each step by itself. A tie is undecided: label None, stop reason 'undecided'. An
  answer cut off at max_tokens casts no vote, even if it holds a verdict: it may have
  been about to take it back. The counts of the votes are kept in
  `meta[label + '_votes']`.

  Args:
    rows: as given to `prompts`.
    completions: of its requests, in order.
    options: as given to `prompts`.
    judge: name of the engine that answered.
    sampling: how it did.

  Returns:
    One for each row. Skipped are those of `skip_reason`, refused prompts by the
    refusal's reason ('too_long'), and 'unparsed': no vote at all.

  Raises:
    ValueError: not one answer for each solution that can be judged.
  """
  reasons = [skip_reason(row, options) for row in rows]
  if len(completions) != reasons.count(''):
    raise ValueError(
      f'{len(completions)} answers for {reasons.count("")} solutions that can be judged'
    )
  how = {
    'judge': judge,
    'form': options.form,
    'template': options.template_hash,
    'reference': options.reference,
    'votes': options.votes,
    'sampling': {**dataclasses.asdict(sampling), 'stop': list(sampling.stop)},
  }
  answers = iter(completions)
  return [
    Labelled(skipped=reason) if reason else _labelled(row, next(answers), options, how)
    for row, reason in zip(rows, reasons)
  ]


def _labelled(
  row: Trajectory,
  answer: Sequence[Completion] | Refusal,
  options: Options,
  how: dict[str, Any],
) -> Labelled:
  if isinstance(answer, Refusal):
    return Labelled(skipped=answer.reason)
  whole = [c for c in answer if c.finish_reason != 'length']
  parsed = [parse(c.text, row.n_steps, options) for c in whole]
  votes = [vote for vote in parsed if vote is not None]
  evidence: dict[str, Any] = {
    'parsed': len(votes),
    'unparsed': len(whole) - len(votes),
    'truncated': len(answer) - len(whole),
  }
  meta = {f'{options.label}_votes': evidence}
  if not votes:
    return Labelled(skipped='unparsed', meta=meta)
  undecided: list[bool]
  if options.form == 'first_error':
    by_place = collections.Counter(str(records.first_error_of(v)) for v in votes)
    evidence['first_error'] = {k: by_place[k] for k in sorted(by_place, key=int)}
    won = _most_frequent(votes)
    undecided = [won is None] * row.n_steps
    verdict = won or (None,) * row.n_steps
  else:
    at_step = list(zip(*votes))
    evidence['correct'] = [sum(said) for said in at_step]
    verdict = tuple(map(_most_frequent, at_step))
    undecided = [v is None for v in verdict]
  values = tuple(None if v is None else float(v) for v in verdict)
  label = LabelSet(
    'correctness',
    values,
    how,
    stop_reason=tuple('undecided' if u else None for u in undecided)
    if any(undecided)
    else (),
  )
  first_error = records.first_error_of(values)
  return Labelled({options.label: label}, {options.label: first_error}, meta=meta)


def _most_frequent(votes: Sequence[Any]) -> Any:
  """The vote that was cast most often, None if several were."""
  ranked = collections.Counter(votes).most_common(2)
  tied = len(ranked) > 1 and ranked[0][1] == ranked[1][1]
  return None if tied else ranked[0][0]


def tally(labelled: Iterable[Labelled], options: Options) -> dict[str, int]:
  """Counters of a judge's work, for the report.

  Returns:
    'judge_votes' (parsed), 'judge_votes_unparsed', 'judge_votes_truncated',
    'judge_undecided' (solutions with a tie), and 'judge_skipped_REASON' for each.
  """
  counters = dict.fromkeys(
    ('judge_votes', 'judge_votes_unparsed', 'judge_votes_truncated', 'judge_undecided'),
    0,
  )
  for one in labelled:
    evidence = one.meta.get(f'{options.label}_votes', {})
    counters['judge_votes'] += evidence.get('parsed', 0)
    counters['judge_votes_unparsed'] += evidence.get('unparsed', 0)
    counters['judge_votes_truncated'] += evidence.get('truncated', 0)
    if options.label in one.labels:
      counters['judge_undecided'] += bool(one.labels[options.label].stop_reason)
    if one.skipped:
      name = f'judge_skipped_{one.skipped}'
      counters[name] = counters.get(name, 0) + 1
  return counters
