"""Label algorithms against the truth: errors, first errors, cost.

`audit` takes solutions that carry a reference value of every prefix and, if it is
known, the truth about their steps, with the same solutions as each algorithm
labelled them. It reads no files and knows no algorithm.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from prm_jax.errors import UserError
from prm_jax.evaluation import (
  label_efficiency,
  label_errors,
  label_gaps,
  label_readings,
  label_reference,
  label_tables,
)
from prm_jax.evaluation.intervals import N_RESAMPLES, resamples
from prm_jax.evaluation.label_readings import Reading
from prm_jax.evaluation.label_reference import Reference
from prm_jax.evaluation.result import Collector, EvaluationResult
from prm_jax.evaluation.splits import UNKNOWN, Split, read_split
from prm_jax.records import Trajectory

_NAME = re.compile(r'[A-Za-z]\w*(\.\w+)?')


def audit(
  reference: Sequence[Trajectory],
  algorithms: Mapping[str, tuple[Sequence[Trajectory], str]],
  *,
  label: str,
  tau: float,
  truth: str = '',
  compare: Sequence[str] = (),
  n_resamples: int = N_RESAMPLES,
  seed: int = 0,
) -> EvaluationResult:
  """Audits label algorithms on the solutions that all of them were given.

  Args:
    reference: solutions with the reference, and with the truth if `truth` is given.
    algorithms: name -> (the same solutions with its labels, name of its label set).
      A name 'FAMILY.SETTING' belongs to a family (`label_efficiency`).
    label: label set of the reference, of kind 'value' with counts.
    tau: a prefix is dead if V < tau.
    truth: label set that says which steps are wrong ('on_track'); '' for none.
    compare: families that are compared with all others; () means the first.
    n_resamples, seed: of the bootstrap by problem.

  Returns:
    Metrics 'audit/...', tables, curves and one sample a solution.

  Raises:
    UserError: see `read_reference`, `common`, `read`; a name would be ambiguous in
      metric names; or `compare` names no family.
  """
  if not algorithms:
    raise UserError('there is nothing to audit; name labelled files.')
  for name in algorithms:
    if not _NAME.fullmatch(name) or name == label_errors.REFERENCE:
      raise UserError(
        f'algorithm name {name!r}: give letters, digits, underscores and at most one '
        f'point (FAMILY.SETTING), and not {label_errors.REFERENCE!r}.'
      )
  families = dict.fromkeys(map(label_efficiency.family, algorithms))
  chosen = list(compare) or [next(iter(families))]
  for name in chosen:
    if name not in families:
      raise UserError(
        f'compare: no algorithm family is called {name!r}; there are '
        f'{", ".join(families)}.'
      )
  out = Collector()
  kept, rows, left_out = label_readings.common(
    reference, {name: held for name, (held, _) in algorithms.items()}
  )
  ref = label_reference.read_reference(kept, label, tau)
  known = read_split('audit', kept, truth) if truth else None
  sample = resamples(ref.steps.problem_ids, n_resamples, seed)
  out.count('audit', {**left_out, 'solutions': len(kept)})
  out.count('audit/reference', ref.counters)
  label_gaps.measure(out, ref, known, sample)
  readings = []
  for name, (_, label_set) in algorithms.items():
    reading = label_readings.read(name, rows[name], ref.steps, label_set, tau)
    readings.append(reading)
    out.count(f'audit/{name}', reading.counters)
    for measure in (
      label_errors.errors,
      label_errors.decisions,
      label_errors.first_errors,
      label_errors.soft,
    ):
      measure(out, ref, known, reading, sample)
    label_efficiency.costs(out, ref.steps, reading, sample)
  truths = [label_errors.REFERENCE, *([truth] if truth else [])]
  label_efficiency.compare(out, readings, chosen, truths, sample)
  label_tables.add(out, readings, truth, chosen, tau)
  _warn(out, ref)
  out.samples.extend(_samples(kept, ref, known, readings))
  return out.result()


def _warn(out: Collector, ref: Reference) -> None:
  name = f'prefixes_below_{label_reference.ROLLOUTS}_rollouts'
  if ref.counters[name]:
    out.warnings.append(
      f'{ref.counters[name]} prefixes of the reference have fewer than '
      f'{label_reference.ROLLOUTS} rollouts; its own error is larger than usual.'
    )


def _samples(
  kept: Sequence[Trajectory],
  ref: Reference,
  known: Split | None,
  readings: Sequence[Reading],
) -> list[dict[str, Any]]:
  """One dict a solution: what the reference, the truth and each algorithm say."""
  sure, best = ref.first_dead(), ref.first_dead(sure=False)

  def first(value: int) -> int | None:
    return None if value == UNKNOWN else int(value)

  def numbers(values: Any, there: Any, digits: int = 6) -> list[float | None]:
    return [round(float(v), digits) if k else None for v, k in zip(values, there)]

  out = []
  for r, t in enumerate(kept):
    at = slice(int(ref.steps.offsets[r]), int(ref.steps.offsets[r + 1]))
    row: dict[str, Any] = {
      'id': t.id,
      'problem_id': t.problem_id,
      'reference': {
        'values': numbers(ref.values[at], ref.known[at]),
        'standard_error': numbers(ref.standard_error[at], ref.known[at]),
        'ambiguous': [bool(v) for v in ref.ambiguous[at]],
        'first_error': first(sure[r]),
        'first_error_point_estimate': first(best[r]),
      },
      'algorithms': {
        a.name: {
          'values': numbers(a.values[at], a.has[at]),
          'first_error': first(a.first_error[r]),
          'tokens': None if a.tokens[r] != a.tokens[r] else a.tokens[r].item(),
          'rollouts': None if a.rollouts[r] != a.rollouts[r] else a.rollouts[r].item(),
        }
        for a in readings
      },
    }
    if known is not None:
      row['truth'] = {
        'values': numbers(known.labels[at], known.labelled[at]),
        'first_error': first(known.first_error[r]),
      }
    out.append(row)
  return out
