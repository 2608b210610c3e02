"""Records as they are shown: scored files, per-sample rows of a run, two of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from prm_jax import records
from prm_jax.errors import UserError
from prm_jax.evaluation.report.data import Reading, Sample, sample
from prm_jax.records import ScoreSet, Trajectory


def of_records(
  rows: Sequence[Trajectory],
  *,
  scorers: Sequence[str] = (),
  truth: str = '',
  split: str = '',
  checker: str = 'exact',
) -> tuple[list[Sample], int]:
  """Samples of records, by the scores of one scorer or of two, side by side.

  Args:
    rows: records.
    scorers: one or two of 'NAME[@THRESHOLD]'; NAME is a key of `scores`, or of `labels`
      where no score has it. () takes the scores that the rows have. The threshold is
      0.5 for probabilities and 0 for logits unless it is given.
    truth: label set judged against; '' takes the only one that first errors are known
      of, if there is one.
    split: the set that they belong to.
    checker: key of the verdicts on answers.

  Returns:
    The samples, and how many rows were left out because not all of `scorers` are in
    them. Rows of a file without any scores are all shown, without colours.

  Raises:
    UserError: three scorers or more, a threshold that is no number, or a name that no
      row has.
  """
  wanted = [_parsed(text) for text in scorers]
  if not wanted:
    wanted = [(n, None) for n in dict.fromkeys(n for t in rows for n in t.scores)]
  if len(wanted) > 2:
    raise UserError(
      f'{split or "rows"}: one or two scorers are shown side by side, not '
      f'{", ".join(n for n, _ in wanted)}; choose with --config.view_scores=A,B.'
    )
  known = {n: None for t in rows for n in (*t.scores, *t.labels)}
  for name, _ in wanted:
    if name not in known:
      raise UserError(
        f'{split or "rows"}: no row has scores or labels {name!r}; there are '
        f'{", ".join(known) or "none"}.'
      )
  names = [name for name, _ in wanted]
  truths = dict.fromkeys(n for t in rows for n in t.first_error if n not in names)
  if not truth and len(truths) == 1:
    truth = next(iter(truths))
  out = []
  for t in rows:
    readable = _readable(t, names)
    if readable is None:
      continue
    if not names:
      blank = ScoreSet('probability', (None,) * t.n_steps)
      readable = dataclasses.replace(t, scores={'': blank})
    bounds = [_threshold(readable.scores[n], at) for n, at in wanted]
    out.append(
      sample(
        readable, split=split, scorer=names[0] if names else '', label=truth,
        threshold=bounds[0] if bounds else None, checker=checker,
        rival=names[1] if len(names) > 1 else '',
        rival_threshold=bounds[1] if len(names) > 1 else None,
      )
    )  # fmt: skip
  return out, len(rows) - len(out)


def saved(
  row: Mapping[str, Any], split: str = '', checker: str = 'exact', benchmark: str = ''
) -> Sample:
  """The sample of a line of a run's per-sample file (samples/SPLIT.jsonl.gz), with the
  threshold and truth that the run used.

  Raises:
    UserError: the line is no record, or nothing was said about it.
  """
  held = dict(row)
  judged = held.pop('evaluation', None)
  t = records.from_dict(held, f'{split or "samples"}, {row.get("id", "row")}')
  if not judged:
    raise UserError(
      f'{split or "samples"}, {t.id}: nothing was said about this row; it was not '
      'evaluated for a first wrong step.'
    )
  return of_evaluation(t, judged, split=split, checker=checker, benchmark=benchmark)


def of_evaluation(
  t: Trajectory,
  judged: Mapping[str, Any],
  *,
  split: str,
  scorer: str = '',
  key: str = '',
  checker: str = 'exact',
  benchmark: str = '',
) -> Sample:
  """The sample of a record and of what an evaluation said about it.

  Args:
    t: the record.
    judged: 'threshold', 'predicted_first_error', 'gold_first_error', 'truth', and
      'scores' or None where it could not be scored.
    split, benchmark: that it belongs to.
    scorer: what to call the one evaluated.
    key: of its scores in the record, which say of what kind they are; where it is not
      known or they are missing, those with the same values do.
    checker: key of the verdicts on answers.
  """
  scores = judged.get('scores') or (None,) * t.n_steps
  same = [s for s in t.scores.values() if tuple(s.values) == tuple(scores)]
  if key in t.scores:
    same = [t.scores[key]]
  known = ScoreSet(same[0].kind if same else 'probability', tuple(scores))
  made = sample(
    dataclasses.replace(t, scores={scorer: known}),
    split=split, scorer=scorer, label=judged.get('truth') or '', checker=checker,
    threshold=judged.get('threshold'), benchmark=benchmark,
  )  # fmt: skip
  return dataclasses.replace(
    made,
    gold_first_error=judged.get('gold_first_error'),
    predicted_first_error=judged.get('predicted_first_error'),
  )


def side_by_side(
  a: Sequence[Sample], b: Sequence[Sample]
) -> tuple[list[Sample], dict[str, int]]:
  """The solutions of both, `b` as rival of `a`.

  Returns:
    Those with the same set, id and steps, in the order of `a`; and counters
    'rows_compared', 'rows_only_in_a', 'rows_only_in_b', 'rows_with_other_steps'.
  """
  theirs = {(s.benchmark, s.split, s.id): s for s in b}
  out, other = [], 0
  for one in a:
    found = theirs.pop((one.benchmark, one.split, one.id), None)
    if found is None:
      continue
    if tuple(found.steps) != tuple(one.steps):
      other += 1
      continue
    rival = Reading(
      found.scorer, found.scores, found.predicted_first_error, found.threshold,
      found.kind,
    )  # fmt: skip
    out.append(dataclasses.replace(one, rival=rival))
  return out, {
    'rows_compared': len(out),
    'rows_only_in_a': len(a) - len(out) - other,
    'rows_only_in_b': len(theirs),
    'rows_with_other_steps': other,
  }


def _parsed(text: str) -> tuple[str, float | None]:
  name, at, threshold = text.strip().rpartition('@')
  if not at:
    return threshold, None
  try:
    return name, float(threshold)
  except ValueError as e:
    raise UserError(
      f'{text!r}: {threshold!r} is no number; give NAME or NAME@THRESHOLD.'
    ) from e


def _readable(t: Trajectory, names: Sequence[str]) -> Trajectory | None:
  """With label sets as scores where they are named; None if one is missing."""
  scores = dict(t.scores)
  for name in names:
    if name not in scores:
      if name not in t.labels:
        return None
      scores[name] = ScoreSet('probability', t.labels[name].values)
  return dataclasses.replace(t, scores=scores)


def _threshold(scores: ScoreSet, given: float | None) -> float:
  if given is not None:
    return given
  return 0.5 if scores.kind == 'probability' else 0.0
