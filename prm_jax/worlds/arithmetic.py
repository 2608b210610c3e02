"""The embedded world's rows: fast ragged arrays, and the same as records.

  config = WorldConfig(seed=0)
  arrays = train_arrays(config, start=0, n=100_000)   # no Python objects
  rows = split(config, 'heldout')                     # list[Trajectory]
  candidates = pool(config, 'heldout')                # problems x pool_size

Every row is a function of (config, split, problem index, sample index). Row i of a
split is candidate 0 of problem i of that split's pool.

Label sets of the records (all exact): 'valid' and 'on_track' (kind correctness) and
'value' (kind value, for the population named in `how`).

With `exact=True` the same problems come with their exact solutions, which no solver
wrote: what a policy is trained on, whose errors are then its own.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from prm_jax.errors import UserError
from prm_jax.records import LabelSet, Trajectory, make_id, make_problem_id
from prm_jax.worlds import problems as problems_lib
from prm_jax.worlds import solvers, truths
from prm_jax.worlds.problems import SPLITS, WorldConfig

EXACT = 'exact'

__all__ = [
  'EXACT',
  'SPLITS',
  'WorldArrays',
  'WorldConfig',
  'arrays',
  'pool',
  'pool_arrays',
  'problem_records',
  'row_ids',
  'row_texts',
  'source_name',
  'split',
  'to_trajectories',
  'train_arrays',
  'train_problem_ids',
]


@dataclasses.dataclass(frozen=True)
class WorldArrays:
  """R solutions with S lines in all, as ragged arrays.

  Attributes:
    split: name of the split.
    population: name of the solvers who wrote them, and under whom `value` is V;
      'exact' for exact solutions, whose V is 1.
    question_text: uint8 [bytes]; row r is question_text[question_offsets[r]:
      question_offsets[r + 1]] (ASCII, so bytes are characters and tokens).
    question_offsets: int64 [R + 1].
    row_offsets: int64 [R + 1]; the lines of row r are row_offsets[r]:row_offsets[r+1]
      of every array of length S.
    step_text: uint8 [bytes].
    step_offsets: int64 [S + 1] into step_text, one entry a line.
    valid: bool [S], the line follows from the line before.
    on_track: bool [S], no line so far is wrong.
    value: float32 [S], V after the line.
    first_error: int32 [R], 0-based first line off the track, -1 none.
    outcome: bool [R], the answer is right.
    pass_rate: float32 [R], V of the empty prefix: the population's pass@1.
    problem_index, sample_index: int64 [R].
    solver: int32 [R], number of the solver in its population.
    gold, answer: int32 [R].
  """

  split: str
  population: str
  question_text: np.ndarray
  question_offsets: np.ndarray
  row_offsets: np.ndarray
  step_text: np.ndarray
  step_offsets: np.ndarray
  valid: np.ndarray
  on_track: np.ndarray
  value: np.ndarray
  first_error: np.ndarray
  outcome: np.ndarray
  pass_rate: np.ndarray
  problem_index: np.ndarray
  sample_index: np.ndarray
  solver: np.ndarray
  gold: np.ndarray
  answer: np.ndarray

  @property
  def n_rows(self) -> int:
    """R."""
    return len(self.outcome)


def train_arrays(
  config: WorldConfig, start: int, n: int, *, exact: bool = False
) -> WorldArrays:
  """Rows start .. start + n - 1 of the endless training stream.

  Row i is solution i % solutions_per_problem of problem i // solutions_per_problem.
  """
  row = np.arange(start, start + n)
  problem, sample = np.divmod(row, config.solutions_per_problem)
  return arrays(config, 'train', problem, sample, exact=exact)


def arrays(
  config: WorldConfig,
  split: str,
  problem_index: np.ndarray,
  sample_index: np.ndarray,
  *,
  exact: bool = False,
) -> WorldArrays:
  """Solution `sample_index` [R] of problem `problem_index` [R] of a split.

  The memory and time grow with the spread of `problem_index`.

  Args:
    exact: the exact solutions instead, the same for every sample.

  Raises:
    UserError: no such split; too few different problems in the world.
  """
  low = int(problem_index.min()) if len(problem_index) else 0
  high = int(problem_index.max()) + 1 if len(problem_index) else 0
  asked = problems_lib.problems(config, split, low, high - low)[problem_index - low]
  if exact:
    name = EXACT
    solved = solvers.Solutions(np.zeros_like(problem_index), asked.values)
    value = np.ones(asked.values.shape)
  else:
    name = solvers.population_of(split)
    solved = solvers.solve(config, split, asked, problem_index, sample_index)
    who = solvers.population(config, name)
    value = truths.prefix_values(config, who, asked, solved.values)

  there = asked.ops >= 0
  valid = truths.valid_lines(config, asked, solved.values)
  track = truths.on_track(valid)
  question_text, question_offsets = problems_lib.question_bytes(config, asked)
  step_text, step_offsets = problems_lib.step_bytes(
    config, asked.ops[there], solved.values[:, 1:][there]
  )
  return WorldArrays(
    split=split,
    population=name,
    question_text=question_text,
    question_offsets=question_offsets,
    row_offsets=np.concatenate([[0], np.cumsum(asked.n_ops)]).astype(np.int64),
    step_text=step_text,
    step_offsets=step_offsets,
    valid=valid[there],
    on_track=track[there],
    value=value[:, 1:][there].astype(np.float32),
    first_error=np.where(track[:, -1], -1, track.argmin(1)).astype(np.int32),
    outcome=solved.values[:, -1] == asked.gold,
    pass_rate=value[:, 0].astype(np.float32),
    problem_index=problem_index,
    sample_index=sample_index,
    solver=solved.solver.astype(np.int32),
    gold=asked.gold.astype(np.int32),
    answer=solved.values[:, -1].astype(np.int32),
  )


def split(
  config: WorldConfig, name: str, n: int | None = None, *, exact: bool = False
) -> list[Trajectory]:
  """The rows of a split: one solution a problem (train: solutions_per_problem).

  Args:
    name: one of `SPLITS`.
    n: how many rows; the config's number if None. Row i does not depend on it.
    exact: with exact solutions.
  """
  if name == 'train':
    n = config.n_train if n is None else n
    return to_trajectories(config, train_arrays(config, 0, n, exact=exact))
  sizes = {'validation': config.n_validation}
  n = sizes.get(name, config.n_heldout) if n is None else n
  row = np.arange(n)
  return to_trajectories(
    config, arrays(config, name, row, np.zeros_like(row), exact=exact)
  )


def pool_arrays(
  config: WorldConfig,
  name: str,
  n_problems: int | None = None,
  n_candidates: int | None = None,
) -> WorldArrays:
  """`pool` as arrays: candidates of one problem are neighbours."""
  n_problems = config.pool_problems if n_problems is None else n_problems
  n_candidates = config.pool_size if n_candidates is None else n_candidates
  row = np.arange(n_problems * n_candidates)
  problem, sample = np.divmod(row, max(n_candidates, 1))
  return arrays(config, name, problem, sample)


def pool(
  config: WorldConfig,
  name: str,
  n_problems: int | None = None,
  n_candidates: int | None = None,
) -> list[Trajectory]:
  """A best-of-N pool: candidates of the first problems of a split, in order.

  Args:
    name: one of `SPLITS`.
    n_problems: config.pool_problems if None.
    n_candidates: config.pool_size if None; candidate k does not depend on it.
  """
  return to_trajectories(config, pool_arrays(config, name, n_problems, n_candidates))


def problem_records(config: WorldConfig, name: str, n: int) -> list[Trajectory]:
  """The first n problems of a split as records without steps, for rollouts.

  `problem_id` agrees with the records of `split` and `pool`.
  """
  asked = problems_lib.problems(config, name, 0, n)
  text, offsets = problems_lib.question_bytes(config, asked)
  questions, golds = _texts(text, offsets), asked.gold.tolist()
  source = _source(name)
  return [
    Trajectory(
      id=make_id(source, f'{config.seed}/{i}/{question}', 'problem'),
      problem_id=make_problem_id(question),
      question=question,
      steps=(),
      source=source,
      gold_answer=str(gold),
      meta={'problem_index': i},
    )
    for i, (question, gold) in enumerate(zip(questions, golds, strict=True))
  ]


def train_problem_ids(config: WorldConfig, n: int) -> set[str]:
  """`problem_id` of the first n rows of split train, without making the rows."""
  count = -(-n // config.solutions_per_problem)
  asked = problems_lib.problems(config, 'train', 0, count)
  questions = _texts(*problems_lib.question_bytes(config, asked))
  return {make_problem_id(question) for question in questions}


def row_texts(rows: WorldArrays) -> tuple[list[str], list[list[str]]]:
  """Questions and lines of each row: what a step format encodes."""
  lines = _texts(rows.step_text, rows.step_offsets)
  ends = rows.row_offsets.tolist()
  steps = [lines[a:b] for a, b in itertools.pairwise(ends)]
  return _texts(rows.question_text, rows.question_offsets), steps


def row_ids(config: WorldConfig, rows: WorldArrays) -> list[str]:
  """[R] the `id` of each row's record."""
  questions = _texts(rows.question_text, rows.question_offsets)
  indices = zip(rows.problem_index.tolist(), rows.sample_index.tolist(), strict=True)
  return [
    make_id(source_name(rows), f'{config.seed}/{i}/{question}', k)
    for question, (i, k) in zip(questions, indices, strict=True)
  ]


def to_trajectories(config: WorldConfig, rows: WorldArrays) -> list[Trajectory]:
  """Arrays as records (fields as in the module's docstring)."""
  questions, steps = row_texts(rows)
  value = [round(v, 6) for v in rows.value.tolist()]
  valid, track = rows.valid.tolist(), rows.on_track.tolist()
  how = {'completer': f'world/{rows.population}', 'estimate': 'exact'}
  out = []
  for r, trajectory_id in enumerate(row_ids(config, rows)):
    here = slice(int(rows.row_offsets[r]), int(rows.row_offsets[r + 1]))
    first = int(rows.first_error[r])
    answer, gold = int(rows.answer[r]), int(rows.gold[r])
    writer = f'world/{rows.population}'
    if rows.population != EXACT:
      writer += f'/{int(rows.solver[r])}'
    out.append(
      Trajectory(
        id=trajectory_id,
        problem_id=make_problem_id(questions[r]),
        question=questions[r],
        steps=tuple(steps[r]),
        source=source_name(rows),
        gold_answer=str(gold),
        generator=writer,
        sample_index=int(rows.sample_index[r]),
        answer=str(answer),
        verdicts={'exact': truths.verdict(answer, gold)},
        meta={
          'problem_index': int(rows.problem_index[r]),
          'pass_rate': round(float(rows.pass_rate[r]), 6),
        },
        labels={
          'valid': truths.correctness(valid[here]),
          'on_track': truths.correctness(track[here]),
          'value': LabelSet('value', tuple(value[here]), how),
        },
        first_error={'valid': first, 'on_track': first},
      )
    )
  return out


def source_name(rows: WorldArrays) -> str:
  """What the rows' records name as their source: 'world:train'."""
  source = _source(rows.split)
  return (
    source.replace('world', f'world_{EXACT}') if rows.population == EXACT else source
  )


def _source(split_name: str) -> str:
  if split_name not in SPLITS:
    raise UserError(
      f'world: no split named {split_name!r}; the splits are {", ".join(SPLITS)}.'
    )
  return f'world:{split_name}'


def _texts(text: np.ndarray, offsets: np.ndarray) -> list[str]:
  whole = text.tobytes().decode('ascii')
  ends = offsets.tolist()
  return [whole[a:b] for a, b in itertools.pairwise(ends)]
