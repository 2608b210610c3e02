"""Problems of the embedded world: chains of operations on small whole numbers.

After RandomCalculation ("Reasoning or Memorization?", 2025): problems nobody has
seen, whose length and range are the difficulty. A problem reads

    >3+4-2*1=?        '>': from left to right, no operator binds tighter

and its solution has one line an operation: the operation and the value it gives.

    +4=7   -2=5   *1=5

The operators are + - * / (whole-number division) and, where the config gives it a
weight, % (remainder), all modulo `max_value + 1`. `/`, `%` and `*0` forget part of
their input, so that a chain that went wrong can still end at the right answer.

Letters of this package: R rows, P steps (operations) of the longest row, O
operations, M = max_value + 1 values, W solvers.
"""

from __future__ import annotations

import dataclasses
import functools
import re

import numpy as np

from prm_jax.errors import UserError
from prm_jax.worlds import randomness

OPERATORS = '+-*/%'
SPLITS = (
  'train',
  'validation',
  'heldout',
  'heldout_longer',
  'heldout_misconceptions',
)

# A problem's hash modulo 8 says which split may hold it; the longer problems are
# apart by their length. The hash knows no seed: worlds of two seeds share no
# problem between train and held-out splits either.
_BUCKETS = {
  'train': (0, 1, 2, 3, 4),
  'validation': (5,),
  'heldout': (6,),
  'heldout_misconceptions': (7,),
  'heldout_longer': (0, 1, 2, 3, 4, 5, 6, 7),
}
_N_BUCKETS = 8
_MAX_ATTEMPTS = 2000
_QUESTION = re.compile(r'>(\d+)((?:[-+*/%]\d+)+)=\?')
_STEP = re.compile(r'([-+*/%])(\d+)=(\d+)')


@dataclasses.dataclass(frozen=True)
class WorldConfig:
  """A world is a function of these values alone.

  The defaults, on 500 problems x 16 candidates of split heldout: pass@1 .48, majority
  .52, oracle .93; 30 % of the prefixes off the track have V >= 1/8, 85 % of the lines
  after the first error are valid (`report.text()` prints all figures).

  Attributes:
    seed: seed of problems, solvers and solutions.
    min_ops, max_ops: operations of a problem (uniform), in every split but one.
    longer_min_ops, longer_max_ops: operations in split heldout_longer.
    max_value: values are 0 .. max_value; up to 9 a value is one byte.
    max_operand: operands are 1 .. max_operand (and 0 for `*`).
    operator_weights: how often + - * / % are asked, relative to each other, where a
      true chain allows them.
    wrap: true chains may leave the range and wrap around (harder); otherwise only
      wrong values ever do.
    n_solvers: W, solvers of a population; a solution is written by one of them.
    slip_rate: chance that a step's result is a random other value.
    shared_error_rate: chance that a step of a true chain meets a fact about which
      the population shares a wrong belief.
    shared_belief: (lowest, highest) share of the solvers who hold such a belief.
    own_error_rate: chance that a step meets a wrong belief of one solver's own.
    n_train: rows of `split(config, 'train')`; arrays can be had without end.
    solutions_per_problem: solutions of each training problem.
    n_validation, n_heldout: problems of split validation, and of each held-out
      split; one solution each.
    pool_problems, pool_size: problems and candidates per problem of a best-of-N
      pool.
  """

  seed: int = 0
  min_ops: int = 4
  max_ops: int = 8
  longer_min_ops: int = 9
  longer_max_ops: int = 12
  max_value: int = 9
  max_operand: int = 9
  operator_weights: tuple[float, ...] = (6, 6, 1, 1, 0)
  wrap: bool = False
  n_solvers: int = 16
  slip_rate: float = 0.03
  shared_error_rate: float = 0.2
  shared_belief: tuple[float, float] = (0.6, 0.75)
  own_error_rate: float = 0.01
  n_train: int = 20000
  solutions_per_problem: int = 1
  n_validation: int = 1000
  n_heldout: int = 1000
  pool_problems: int = 500
  pool_size: int = 16

  def __post_init__(self) -> None:
    for name in ('operator_weights', 'shared_belief'):
      object.__setattr__(self, name, tuple(getattr(self, name)))

    def need(good: bool, what: str) -> None:
      if not good:
        raise UserError(f'world: {what}; change the config.')

    need(
      1 <= self.min_ops <= self.max_ops < self.longer_min_ops <= self.longer_max_ops,
      'operations must satisfy 1 <= min_ops <= max_ops < longer_min_ops <= '
      f'longer_max_ops, found {self.min_ops}, {self.max_ops}, {self.longer_min_ops}, '
      f'{self.longer_max_ops}',
    )
    need(1 <= self.max_value <= 99, f'max_value {self.max_value} is not in 1 .. 99')
    need(
      1 <= self.max_operand <= 99, f'max_operand {self.max_operand} is not in 1 .. 99'
    )
    need(
      len(self.operator_weights) == len(OPERATORS)
      and min(self.operator_weights) >= 0
      and max(self.operator_weights) > 0,
      f'operator_weights needs {len(OPERATORS)} numbers >= 0, one at least above 0, '
      f'found {self.operator_weights}',
    )
    need(0 < self.slip_rate < 1, f'slip_rate {self.slip_rate} is not inside (0, 1)')
    for name in ('shared_error_rate', 'own_error_rate'):
      rate = getattr(self, name)
      need(0 <= rate <= 0.4, f'{name} {rate} is not in [0, 0.4]')
    need(
      len(self.shared_belief) == 2,
      f'shared_belief needs the lowest and highest share, found {self.shared_belief}',
    )
    low, high = self.shared_belief
    need(0 <= low <= high <= 1, f'shared_belief {low}, {high} is not a range in [0, 1]')
    for name in ('n_solvers', 'solutions_per_problem', 'pool_size'):
      need(getattr(self, name) >= 1, f'{name} {getattr(self, name)} is not at least 1')

  def ops_range(self, split: str) -> tuple[int, int]:
    """(fewest, most) operations of a split's problems."""
    if split == 'heldout_longer':
      return self.longer_min_ops, self.longer_max_ops
    return self.min_ops, self.max_ops


@dataclasses.dataclass(frozen=True)
class Operations:
  """All operations (operator, operand) of a world, and true arithmetic.

  Attributes:
    symbols: uint8 [O], the operator's byte.
    operands: int64 [O].
    results: int64 [O, M], the true result of operation o on value a.
    edges: float64 [M * O], `a + P(operation <= o | value a)`: increasing, so that
      one sorted search draws the next operation of a true chain.
    chances: float64 [M, O], those probabilities, not summed up.
    index: (operator, operand) -> o.
  """

  symbols: np.ndarray
  operands: np.ndarray
  results: np.ndarray
  edges: np.ndarray
  chances: np.ndarray
  index: dict[tuple[str, int], int]


@functools.lru_cache(maxsize=8)
def operations(config: WorldConfig) -> Operations:
  """The operations of a world.

  Raises:
    UserError: some value allows no operation.
  """
  pairs = [
    (s, b)
    for s, weight in zip(OPERATORS, config.operator_weights, strict=True)
    for b in range(0 if s == '*' else 1, config.max_operand + 1)
    if weight
  ]
  n_values = config.max_value + 1
  a = np.arange(n_values)
  exact = np.stack([_apply(a, s, b) for s, b in pairs])
  allowed = np.full(exact.shape, True) if config.wrap else exact % n_values == exact

  if not allowed.any(0).all():
    raise UserError(
      f'world: no operation can follow the value {allowed.any(0).argmin()} without '
      'leaving the range; give another operator a weight, or set wrap.'
    )

  # An operator's weight is shared by those of its operands that are allowed.
  chances = np.zeros((n_values, len(pairs)))
  symbols = np.array([s for s, _ in pairs])
  for s, weight in zip(OPERATORS, config.operator_weights, strict=True):
    rows = np.flatnonzero(symbols == s)
    count = allowed[rows].sum(0)
    chances[:, rows] = np.where(allowed[rows], weight / np.maximum(count, 1), 0.0).T
  chances /= chances.sum(1, keepdims=True)
  edges = np.cumsum(chances, axis=1)
  edges[edges > 1 - 1e-9] = 1.0
  return Operations(
    symbols=np.array([ord(s) for s, _ in pairs], np.uint8),
    operands=np.array([b for _, b in pairs], np.int64),
    results=(exact % n_values).astype(np.int64),
    edges=(a[:, None] + edges).ravel(),
    chances=chances,
    index={pair: i for i, pair in enumerate(pairs)},
  )


def _apply(a: np.ndarray, symbol: str, b: int) -> np.ndarray:
  if symbol == '+':
    return a + b
  if symbol == '-':
    return a - b
  if symbol == '*':
    return a * b
  return a // b if symbol == '/' else a % b


@dataclasses.dataclass(frozen=True)
class Problems:
  """R problems.

  Attributes:
    n_ops: int64 [R], operations of each.
    ops: int64 [R, P], index of each operation; -1 beyond the end.
    values: int64 [R, P + 1], the true chain: the start, then the value after each
      operation; the last value is repeated beyond the end.
  """

  n_ops: np.ndarray
  ops: np.ndarray
  values: np.ndarray

  @property
  def gold(self) -> np.ndarray:
    """int64 [R], the right answers."""
    return self.values[:, -1]

  def __getitem__(self, rows: np.ndarray | slice) -> Problems:
    return Problems(self.n_ops[rows], self.ops[rows], self.values[rows])


def problems(config: WorldConfig, split: str, start: int, n: int) -> Problems:
  """Problems `start .. start + n - 1` of a split.

  Problem i does not depend on `start` or `n`, and no problem is in two splits.
  Training problems are a stream without end in which a short problem may come
  again; those of the other splits are all different.

  Raises:
    UserError: no such split, or the world has too few different problems.
  """
  if split not in SPLITS:
    raise UserError(
      f'world: no split named {split!r}; the splits are {", ".join(SPLITS)}.'
    )
  if split == 'train':
    return _stream(config, split, np.arange(start, start + n))
  total = start + n
  length = total + total // 4 + 16
  while True:
    stream = _stream(config, split, np.arange(length))
    _, first = np.unique(_hash(config, stream), return_index=True)
    if len(first) >= total:
      return stream[np.sort(first)[start:total]]
    if length > 64 * total + 1024:
      raise UserError(
        f'world: split {split} has only {len(first)} different problems where '
        f'{total} are asked for; raise max_ops or max_value, or ask for fewer.'
      )
    length *= 2


def _stream(config: WorldConfig, split: str, rows: np.ndarray) -> Problems:
  """Problem `rows[i]` of a split's stream: the first attempt that falls into it."""
  most = config.ops_range(split)[1]
  n_ops = np.zeros(len(rows), np.int64)
  ops = np.full((len(rows), most), -1, np.int64)
  values = np.zeros((len(rows), most + 1), np.int64)
  pending = np.arange(len(rows))
  for attempt in range(_MAX_ATTEMPTS):
    drawn = _draw(config, split, rows[pending], attempt)
    bucket = _hash(config, drawn) % np.uint64(_N_BUCKETS)
    good = np.isin(bucket, np.array(_BUCKETS[split], np.uint64))
    taken = pending[good]
    n_ops[taken], ops[taken] = drawn.n_ops[good], drawn.ops[good]
    values[taken] = drawn.values[good]
    pending = pending[~good]
    if not len(pending):
      return Problems(n_ops, ops, values)
  raise UserError(
    f'world: hardly any problem falls into split {split}; raise max_ops or max_value.'
  )


def _draw(config: WorldConfig, split: str, rows: np.ndarray, attempt: int) -> Problems:
  world = operations(config)
  fewest, most = config.ops_range(split)
  key = randomness.key_of('problems', config.seed, split)
  key = randomness.bits(key, attempt, rows)
  n_ops = fewest + randomness.below(most - fewest + 1, key, 0)
  ops = np.full((len(rows), most), -1, np.int64)
  values = np.zeros((len(rows), most + 1), np.int64)
  values[:, 0] = randomness.below(config.max_value + 1, key, 1)
  for t in range(most):
    a = values[:, t]
    where = np.searchsorted(world.edges, a + randomness.uniform(key, 2 + t), 'right')
    op = where - a * len(world.symbols)
    inside = t < n_ops
    ops[:, t] = np.where(inside, op, -1)
    values[:, t + 1] = np.where(inside, world.results[op, a], a)
  return Problems(n_ops, ops, values)


def _hash(config: WorldConfig, drawn: Problems) -> np.ndarray:
  """uint64 [R], a function of the problem's content, whatever the config."""
  world = operations(config)
  state = randomness.bits(randomness.key_of('problem'), drawn.values[:, 0])
  for t in range(drawn.ops.shape[1]):
    op = drawn.ops[:, t]
    content = world.symbols[op].astype(np.int64) * 128 + world.operands[op]
    state = np.where(op >= 0, randomness.bits(state, content), state)
  return state


def parse_question(question: str) -> tuple[int, list[tuple[str, int]]] | None:
  """(start, [(operator, operand), ...]) of a question, or None if it is none."""
  match = _QUESTION.fullmatch(question.strip())
  if match is None:
    return None
  pairs = re.findall(r'([-+*/%])(\d+)', match.group(2))
  return int(match.group(1)), [(s, int(b)) for s, b in pairs]


def parse_step(step: str) -> tuple[tuple[str, int], int] | None:
  """((operator, operand), value) of a solution's line, or None if it is none."""
  match = _STEP.fullmatch(step.strip())
  if match is None:
    return None
  return (match.group(1), int(match.group(2))), int(match.group(3))


def question_bytes(
  config: WorldConfig, asked: Problems
) -> tuple[np.ndarray, np.ndarray]:
  """The questions' texts: (uint8 [bytes], int64 [R + 1] offsets)."""
  world = operations(config)
  parts = [_constant('>', len(asked.n_ops)), *_number(asked.values[:, 0])]
  for t in range(asked.ops.shape[1]):
    op = asked.ops[:, t]
    for byte, there in ((world.symbols[op], True), *_number(world.operands[op])):
      parts.append((byte, there & (op >= 0)))
  parts += [_constant(c, len(asked.n_ops)) for c in '=?']
  return _join(parts)


def step_bytes(
  config: WorldConfig, ops: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Texts of solution lines.

  Args:
    ops: int64 [S], operation of each line.
    values: int64 [S], the value that the line claims.

  Returns:
    uint8 [bytes] and int64 [S + 1] offsets into it.
  """
  world = operations(config)
  symbol = (world.symbols[ops], np.full(len(ops), True))
  equals = _constant('=', len(ops))
  return _join([symbol, *_number(world.operands[ops]), equals, *_number(values)])


Column = tuple[np.ndarray, np.ndarray]


def _constant(character: str, n: int) -> Column:
  return np.full(n, ord(character), np.uint8), np.full(n, True)


def _number(values: np.ndarray) -> tuple[Column, Column]:
  """Two columns of digits; the tens are absent below 10."""
  tens, ones = np.divmod(values, 10)
  zero = ord('0')
  return (
    ((tens + zero).astype(np.uint8), tens > 0),
    ((ones + zero).astype(np.uint8), np.full(len(values), True)),
  )


def _join(columns: list[Column]) -> tuple[np.ndarray, np.ndarray]:
  """Columns of bytes, each with the rows that have it, to ragged texts."""
  text = np.stack([byte for byte, _ in columns], axis=1)
  there = np.stack([mask for _, mask in columns], axis=1)
  offsets = np.concatenate([[0], np.cumsum(there.sum(1))]).astype(np.int64)
  return text[there], offsets
