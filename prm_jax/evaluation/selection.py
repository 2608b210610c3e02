"""Numbers on validation by which steps and tuning trials are chosen, not reported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prm_jax.evaluation import process_bench, steps
from prm_jax.evaluation.intervals import resamples
from prm_jax.evaluation.splits import read_scores, read_split
from prm_jax.records import Trajectory

F1 = 'process_bench/f1@tuned:self'
AUROC = 'steps/auroc'


def on_validation(
  name: str,
  rows: Sequence[Trajectory],
  *,
  scorer: str,
  truth: str,
  verdict: str,
  n_resamples: int = 0,
) -> dict[str, dict[str, Any]]:
  """F1 at the threshold that is best on these very rows, and step AUROC.

  The first is optimistic as an estimate and fair as a comparison between models
  that are all measured so.

  Args:
    name: of the set; metric paths begin with it.
    rows: with step truth and scores.
    scorer, truth, verdict: as for `suite.evaluate`.
    n_resamples: 0 gives no intervals.
  """
  split = read_split(name, rows, truth, verdict)
  scores = read_scores(split, rows, scorer, 'wrong')
  sample = resamples(split.problem_ids, n_resamples)
  out = {f'{name}/{AUROC}': steps.ranking(split, scores, sample)['auroc'].metric()}
  threshold = process_bench.tune_threshold(split, scores, 'tuned:self')
  if threshold.value is not None:
    predictions = process_bench.predict(split, scores, threshold.value)
    found = process_bench.process_bench(split, predictions, sample)['f1']
    out[f'{name}/{F1}'] = found.metric()
  return out
