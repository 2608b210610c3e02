"""Scores in a few lines of Python, without a workdir."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Sequence
from typing import Any

from prm_jax import exports, files, records
from prm_jax.errors import UserError
from prm_jax.inference.implicit import STEP_VALUES, ImplicitScorer
from prm_jax.inference.scorer import Scorer
from prm_jax.interop import checkpoints, hub, public
from prm_jax.interop.public import Shardings
from prm_jax.records import ScoreSet, Trajectory, make_id

NO_REFERENCE = 'none'


def score(
  checkpoint: str,
  questions: Sequence[str],
  steps: Sequence[Sequence[str]],
  *,
  adapter: str = '',
  dtype: str = '',
  separator: str = '',
  reference: str = '',
  cache: str = '',
  calibrated: bool = False,
) -> list[list[float]]:
  """Scores of the steps of solutions, one list a solution.

      scores = prm_jax.score('runs/pqm', ['2 + 2 = ?'], [['2 + 2 = 4']])

  Args:
    checkpoint: a train run's workdir or its folder `scorer`, a Hugging Face folder, or
      hf:OWNER/NAME@REVISION; loaded once and kept.
    questions: one a solution.
    steps: the steps of each solution.
    adapter: family of a public PRM (`prm_jax.interop.adapters.ADAPTERS`); ''
      recognises it.
    dtype: of parameters and computation, for example 'bfloat16'; '' see
      `public.load_scorer`.
    separator: what ends a step, for families that do not save it.
    reference: of an implicit PRM: the model that it was trained from, or 'none'.
    cache: folder in which the reference's log-probabilities are kept; '' keeps none.
    calibrated: probabilities by the calibration stored with the scorer.

  Returns:
    scores[i][p] of step p of solution i, higher is better; logits, probabilities or
    log-ratios, as the scorer's spec says.

  Raises:
    UserError: no scorer is there, the counts differ, or a solution cannot be scored
      (too long, no steps, a marker inside the text): which one and why.
  """
  rows = [_row(i, q, s) for i, (q, s) in enumerate(_pairs(questions, steps))]
  path, written = _locate(checkpoint)
  scorer = _scorer(
    path, written, adapter, dtype, separator, reference, cache, calibrated
  )
  out = []
  for i, result in enumerate(scorer.score(rows)):
    if not isinstance(result, ScoreSet) or None in result.values:
      reason = 'its last steps were cut off' if isinstance(result, ScoreSet) else result
      raise UserError(
        f'score: solution {i} cannot be scored ({reason}); change or leave out that '
        'solution.'
      )
    out.append([float(v) for v in result.values if v is not None])
  return out


def open_scorer(
  path: str | os.PathLike[str],
  *,
  adapter: str = '',
  dtype: str = '',
  separator: str = '',
  reference: str = '',
  cache: str = '',
  calibrated: bool = False,
  shardings: Shardings | None = None,
  batch_tokens: int = 0,
) -> tuple[Scorer, dict[str, Any]]:
  """A scorer of any kind, ready to score, and where it comes from.

  Args:
    path, adapter, dtype, separator, shardings: as for `public.load_scorer`.
    reference, cache, calibrated: as for `score`.
    batch_tokens: as for `Scorer`.

  Returns:
    (scorer, JSON-ready description: `public.About`, how values are read, and of an
    implicit PRM its reference).

  Raises:
    UserError: as `public.load_scorer`; a reference is missing, or of no use; or there
      is no calibration of these weights.
  """
  scorer, told = _open(
    path, adapter, dtype, separator, reference, cache, shardings, batch_tokens
  )
  if calibrated:
    fitted = exports.load_calibration(told['folder'], told['digest'])
    if fitted.source != scorer.spec.kind:
      raise UserError(
        f'{told["folder"]}: its calibration reads scores of kind {fitted.source}, and '
        f'this scorer gives {scorer.spec.kind}; fit it again.'
      )
    scorer.calibration = fitted
    told |= {
      'kind': 'probability',
      'calibration': {
        'kind': fitted.kind,
        'truth': fitted.truth,
        'fitted_on': fitted.fitted_on,
        'data_hash': fitted.data_hash,
      },
    }
  return scorer, told


def _open(
  path: str | os.PathLike[str],
  adapter: str,
  dtype: str,
  separator: str,
  reference: str,
  cache: str,
  shardings: Shardings | None,
  batch_tokens: int,
) -> tuple[Scorer, dict[str, Any]]:
  spec, params, words, about = public.load_scorer(
    path, adapter=adapter, shardings=shardings, dtype=dtype, separator=separator
  )
  told = {
    **about.to_dict(),
    'kind': spec.kind,
    'step_value': spec.step_value,
    'reduction': spec.reduction,
    'param_dtype': spec.model.param_dtype,
    'compute_dtype': spec.model.compute_dtype,
  }
  if spec.step_value not in STEP_VALUES:
    if reference:
      raise UserError(
        f'scorer_reference={reference!r}: {os.fspath(path)} is no implicit PRM and '
        'needs no reference; leave it out.'
      )
    return Scorer(spec, params, words, batch_tokens=batch_tokens), told
  if not reference:
    raise UserError(
      f'{os.fspath(path)}: an implicit PRM is read against the model that it was '
      "trained from; name it with scorer_reference=DIR (or 'none' to read the policy "
      'alone).'
    )
  told['coefficient'] = spec.coefficient
  if reference == NO_REFERENCE:
    scorer = ImplicitScorer(spec, params, words, batch_tokens=batch_tokens)
    return scorer, told | {'reference_model': None}
  load, other = public.language_model(reference, shardings=shardings, dtype=dtype)
  told['reference_model'] = other.to_dict()
  digest = hashlib.sha256(f'{other.digest} {dtype}'.encode()).hexdigest()
  scorer = ImplicitScorer(
    spec,
    params,
    words,
    reference=load,
    reference_model=public.model_of(reference, dtype),
    cache=cache,
    reference_hash=digest,
    batch_tokens=batch_tokens,
  )
  return scorer, told


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


def _locate(checkpoint: str) -> tuple[str, int]:
  """What to load, and its age, so that a new export is loaded anew."""
  if not isinstance(checkpoint, (str, os.PathLike)):
    raise UserError(
      'score: checkpoint must be the path of a train run, its scorer, or a public PRM.'
    )
  name = os.fspath(checkpoint)
  if hub.is_name(name):
    return name, 0
  path = os.path.abspath(os.path.expanduser(name))
  folder = files.scorer_folder(path)
  for file in (exports.SPEC, checkpoints.CONFIG):
    held = os.path.join(folder, file)
    if os.path.exists(held):
      fitted = os.path.join(folder, exports.CALIBRATION)
      ages = [os.stat(f).st_mtime_ns for f in (held, fitted) if os.path.exists(f)]
      return path, max(ages)
  return path, 0


@functools.lru_cache(maxsize=2)
def _scorer(
  path: str,
  written: int,
  adapter: str,
  dtype: str,
  separator: str,
  reference: str,
  cache: str,
  calibrated: bool,
) -> Scorer:
  del written
  return open_scorer(
    path,
    adapter=adapter,
    dtype=dtype,
    separator=separator,
    reference=reference,
    cache=cache,
    calibrated=calibrated,
  )[0]
