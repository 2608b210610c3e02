"""What is right, in three senses that this world keeps apart.

- `valid`: the line follows from the line before.
- `on_track`: no line so far is wrong (the reading of ProcessBench).
- `value`: V of a prefix, the chance that it still ends at the right answer when the
  population that wrote it goes on.

A line after an error can be valid; a prefix off the track can have a high V, because
some operations forget their input; a prefix on the track can have a low V, because a
fact that its likely writers misbelieve lies ahead.

V is exact. The writer is hidden, but the prefix tells about it (Bayes), and given
the solver w and the current value a the rest is a Markov chain (backward recursion):

  V(prefix) = sum over w of  P(w | prefix) * U_w(steps done, a)
  P(w | prefix) ~ product over its lines of (1 - slip if believed by w
                                             else slip / (M - 1))
  U_w(P, a) = [a = gold]
  U_w(t, a) = (1 - slip) U_w(t + 1, belief)
              + slip / (M - 1) * sum over the other values b of U_w(t + 1, b)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from prm_jax import records
from prm_jax.worlds.problems import (
  Problems,
  WorldConfig,
  operations,
  parse_question,
  parse_step,
)
from prm_jax.worlds.solvers import Population

_CHUNK = 1024


def valid_lines(config: WorldConfig, asked: Problems, values: np.ndarray) -> np.ndarray:
  """bool [R, P]: does line t follow from line t - 1; True beyond the end.

  Args:
    asked: R problems.
    values: int64 [R, P + 1], the start and what the lines claim.
  """
  results = operations(config).results
  right = results[asked.ops, values[:, :-1]] == values[:, 1:]
  return right | (asked.ops < 0)


def on_track(valid: np.ndarray) -> np.ndarray:
  """bool [R, P]: all lines up to and including t are valid."""
  return np.logical_and.accumulate(valid, axis=1)


def prefix_values(
  config: WorldConfig, who: Population, asked: Problems, values: np.ndarray
) -> np.ndarray:
  """V of every prefix, exactly (formula above).

  Args:
    who: the population that goes on from the prefix.
    asked: R problems.
    values: int64 [R, P + 1], the start and what the lines claim.

  Returns:
    float64 [R, P + 1], rounded to 6 digits so that it is the same everywhere. Entry
    t is V after t lines: entry 0 is the population's pass@1 on the problem, and from
    the row's last line on it is 1 where the answer is right, else 0.
  """
  out = [
    _chunk_values(config, who, asked[rows], values[rows])
    for rows in (slice(i, i + _CHUNK) for i in range(0, len(values), _CHUNK))
  ]
  return np.concatenate(out) if out else np.zeros(values.shape)


def _chunk_values(
  config: WorldConfig, who: Population, asked: Problems, values: np.ndarray
) -> np.ndarray:
  n_rows, n_steps = asked.ops.shape
  n_solvers, n_values = who.beliefs.shape[1:]
  slip = config.slip_rate / (n_values - 1)
  row = np.arange(n_rows)

  posterior = np.ones((n_steps + 1, n_rows, n_solvers))
  for t in range(n_steps):
    believed = who.beliefs[asked.ops[:, t], :, values[:, t]]
    agrees = believed == values[:, t + 1, None]
    likelihood = np.where(agrees, 1 - config.slip_rate, slip)
    likelihood[asked.ops[:, t] < 0] = 1.0
    posterior[t + 1] = posterior[t] * likelihood
  posterior /= posterior.sum(-1, keepdims=True)

  success = np.zeros((n_rows, n_solvers, n_values))
  success[row, :, asked.gold] = 1.0
  base = np.arange(n_rows * n_solvers).reshape(n_rows, n_solvers, 1) * n_values
  out = np.empty((n_rows, n_steps + 1))
  for t in range(n_steps, -1, -1):
    out[:, t] = (posterior[t] * success[row, :, values[:, t]]).sum(-1)
    if t:
      op = asked.ops[:, t - 1]
      after = success.ravel()[base + who.beliefs[op]]
      back = (1 - config.slip_rate - slip) * after
      back += slip * success.sum(-1, keepdims=True)
      success = np.where((op < 0)[:, None, None], success, back)
  return np.round(out, 6)


@dataclasses.dataclass(frozen=True)
class Judgement:
  """What the world says of a solution's text.

  Attributes:
    valid, on_track: one bool a line.
    first_error: 0-based index of the first line that is not valid, -1 none.
    gold: the right answer.
    answer: value of the last line where there is one line an operation, else None.
  """

  valid: tuple[bool, ...]
  on_track: tuple[bool, ...]
  first_error: int
  gold: int
  answer: int | None


def judge(config: WorldConfig, question: str, steps: Iterable[str]) -> Judgement | None:
  """Judges any text, a trained policy's included; None if the question is not ours.

  A line is valid if it performs the question's next operation on the value of the
  line before; a line that cannot be read is not, and neither is the one after it.
  """
  parsed = parse_question(question)
  index = operations(config).index
  if parsed is None or parsed[0] > config.max_value:
    return None
  value, pairs = parsed
  if any(pair not in index for pair in pairs):
    return None
  results = operations(config).results
  gold = value
  for pair in pairs:
    gold = int(results[index[pair], gold])

  steps = tuple(steps)
  valid = []
  before: int | None = value
  for t, step in enumerate(steps):
    line = parse_step(step)
    if line is None or line[1] > config.max_value:
      valid.append(False)
      before = None
      continue
    due = t < len(pairs) and line[0] == pairs[t] and before is not None
    valid.append(due and int(results[index[line[0]], before]) == line[1])
    before = line[1]
  track = tuple(np.logical_and.accumulate(valid).tolist()) if valid else ()
  first = valid.index(False) if False in valid else -1
  answer = before if len(steps) == len(pairs) else None
  return Judgement(tuple(valid), track, first, gold, answer)


def label(config: WorldConfig, trajectory: records.Trajectory) -> records.Trajectory:
  """Adds label sets 'valid' and 'on_track', first errors and verdict 'exact'.

  For solutions of a trained policy (the world's own carry them already). V under
  such a policy is not known exactly and not added. A question that is not of this
  world is returned unchanged.
  """
  found = judge(config, trajectory.question, trajectory.steps)
  if found is None:
    return trajectory
  out = trajectory
  for name, values in (('valid', found.valid), ('on_track', found.on_track)):
    out = records.add(out, 'labels', name, correctness(values))
    out = records.add(out, 'first_error', name, found.first_error)
  out = records.add(out, 'verdicts', 'exact', verdict(found.answer, found.gold))
  answer = None if found.answer is None else str(found.answer)
  return dataclasses.replace(out, answer=answer, gold_answer=str(found.gold))


def correctness(values: Iterable[bool]) -> records.LabelSet:
  """The label set of exact `valid` or `on_track` values."""
  return records.LabelSet(
    'correctness', tuple(float(v) for v in values), {'checker': 'exact'}
  )


def verdict(answer: int | None, gold: int) -> records.Verdict:
  """The world's word on an answer; none given is wrong."""
  reason = 'no answer' if answer is None else ''
  return records.Verdict(answer == gold, 'exact', reason)
