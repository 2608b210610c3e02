"""Figures of a world: how hard it is, and how far its truths differ.

python -c 'from prm_jax.worlds import report; print(report.text())'
"""

from __future__ import annotations

import numpy as np

from prm_jax.worlds import arithmetic
from prm_jax.worlds.problems import SPLITS, WorldConfig


def world_report(
  config: WorldConfig, n_problems: int | None = None
) -> dict[str, dict[str, float]]:
  """Figures of each split, from a pool of n_problems x config.pool_size solutions.

  Args:
    n_problems: config.pool_problems if None.

  Returns:
    split -> figures:
      pass@1, majority@N, oracle@N: share of right answers of one candidate, of the
        most frequent answer (ties in expectation), of any of the N candidates.
      clean: share of solutions without a wrong step; lucky: share of the right
        answers that come through one.
      valid_rate, on_track_rate, mean_value: base rates over all steps.
      valid_after_error: share of valid lines after the first error.
      alive_off_track: share of prefixes off the track with V >= 1/8; and
        alive_off_track_unfinished without those of whole solutions.
      dead_on_track: share of unfinished prefixes on the track with V < 1/8.
      first_error@t: share of the erroneous solutions whose first error is step t
        (0-based).
      steps, longest_text: mean number of steps; most characters of question, lines
        and one marker a line.
  """
  return {name: _figures(config, name, n_problems) for name in SPLITS}


def _figures(
  config: WorldConfig, name: str, n_problems: int | None
) -> dict[str, float]:
  rows = arithmetic.pool_arrays(config, name, n_problems)
  n = config.pool_size
  right = rows.outcome.reshape(-1, n)
  clean = rows.first_error < 0
  lengths = np.diff(rows.row_offsets)
  row = np.repeat(np.arange(rows.n_rows), lengths)
  step = np.arange(len(row)) - rows.row_offsets[row]
  unfinished = step < lengths[row] - 1
  after = ~rows.on_track & (step > rows.first_error[row])
  alive = rows.value >= 1 / 8
  first = rows.first_error[~clean]
  text = np.diff(rows.question_offsets) + lengths
  text += np.diff(rows.step_offsets[rows.row_offsets])
  out = {
    'pass@1': right.mean(),
    f'majority@{n}': majority(rows.answer.reshape(-1, n), rows.gold[::n]).mean(),
    f'oracle@{n}': right.any(1).mean(),
    'clean': clean.mean(),
    'lucky': _share(~clean, rows.outcome),
    'valid_rate': rows.valid.mean(),
    'on_track_rate': rows.on_track.mean(),
    'mean_value': rows.value.mean(),
    'valid_after_error': _share(rows.valid, after),
    'alive_off_track': _share(alive, ~rows.on_track),
    'alive_off_track_unfinished': _share(alive, ~rows.on_track & unfinished),
    'dead_on_track': _share(~alive, rows.on_track & unfinished),
    'steps': lengths.mean(),
    'longest_text': text.max(),
  }
  for t in range(config.ops_range(name)[1]):
    out[f'first_error@{t}'] = (first == t).mean() if len(first) else 0.0
  return {k: float(v) for k, v in out.items()}


def majority(answers: np.ndarray, gold: np.ndarray) -> np.ndarray:
  """Chance that a most frequent answer is right, ties broken uniformly.

  Args:
    answers: int [problems, candidates], all >= 0.
    gold: int [problems].

  Returns:
    float64 [problems].
  """
  among = np.arange(max(answers.max(), gold.max()) + 1)
  votes = (answers[:, :, None] == among).sum(1)
  top = votes == votes.max(1, keepdims=True)
  return top[np.arange(len(gold)), gold] / top.sum(1)


def _share(of: np.ndarray, among: np.ndarray) -> float:
  return float(of[among].mean()) if among.any() else 0.0


def text(config: WorldConfig | None = None, n_problems: int | None = None) -> str:
  """`world_report` as a table, one column a split."""
  found = world_report(config or WorldConfig(), n_problems)
  names = list(dict.fromkeys(k for figures in found.values() for k in figures))
  lines = [' ' * 28 + ''.join(f'{s[-16:]:>18s}' for s in found)]
  for name in names:
    cells = (f'{f[name]:18.3f}' if name in f else ' ' * 18 for f in found.values())
    lines.append(f'{name:28s}' + ''.join(cells))
  return '\n'.join(lines)
