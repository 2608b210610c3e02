"""Step scores of solutions: one forward pass each, in batches of few fixed shapes.

Solutions of one question share its keys: the question is read once, and each solution
is a row that attends to the question's keys and to its own. What a row shares is told
by the row alone (its own `question_length`), and so is its shape (the buckets of its
lengths and of its number of steps); all batches of a shape have the same number of
rows, filler included. So a score depends neither on the order of the solutions nor on
a row's company, bit by bit.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from prm_jax.calibration_maps import CalibrationMap
from prm_jax.errors import UserError
from prm_jax.formats import step_format
from prm_jax.formats.step_format import Encoded, Unusable
from prm_jax.formats.tokenizers import Tokenizer
from prm_jax.inference.buckets import bucket, one_of
from prm_jax.models import decoding, heads
from prm_jax.models import scorer as scoring_model
from prm_jax.parallel.mesh import batch_shards, make_mesh
from prm_jax.parallel.sharding import batch_sharding, replicated
from prm_jax.records import ScoreSet, Trajectory
from prm_jax.specs import ModelSpec, ScorerSpec
from prm_jax.step_values import VALUES

MAX_BATCH_TOKENS = {'cpu': 4096, 'gpu': 32768, 'tpu': 32768}
CACHE_NUMBERS = 1 << 20  # feed-forward activations of a batch that a CPU's caches hold
ROW_MULTIPLE = 8
MIN_TOKENS = 16
PER_OCTAVE = 4  # 8 pads by 4 % less, and doubles the shapes to compile
MIN_STEPS = 8
MIN_SHARED = 32  # a shorter question is read with each of its solutions
MIN_KEYS = 64
# Questions of a batch of rows, and read at once: each is an argument or a result of its
# own, and a program with thousands of those takes minutes to compile.
QUESTIONS = (1, 4, 16, 64)
AT_ONCE = 64


class Shape(NamedTuple):
  """Of a batch: B rows, T tokens, P steps, S places for keys read before (or 0)."""

  B: int
  T: int
  P: int
  S: int = 0


class Job(NamedTuple):
  """A batch to run: its shape, which rows, the keys of their questions, if those were
  read before, and which of them each row goes on from."""

  shape: Shape
  members: list[int]
  caches: list[jax.Array]
  which: list[int]


class Scorer:
  """A scoring model with its step format and tokenizer.

  Args:
    spec: describes model, step format and how a score is read.
    params: tree of arrays. Arrays that lie on a mesh stay there and its rows are
      spread over that mesh; others are copied to every local device.
    tokenizer: the one the model was trained with.
    batch_tokens: B * T of a batch on one device is at most this (one row may be
      longer); 0 chooses by device and model (on CPU few, so that a batch's activations
      stay in its caches). Another budget means other batch shapes; they move scores
      by 1e-5.
    share_questions: read a question of at least 32 tokens once for all its solutions
      of a call. Scores with and without differ by rounding, 1e-5 at most.
    calibration: map from the values to probabilities, which `score` then gives;
      `values` stays as the spec reads it.
  """

  def __init__(
    self,
    spec: ScorerSpec,
    params: Any,
    tokenizer: Tokenizer,
    *,
    batch_tokens: int = 0,
    share_questions: bool = True,
    calibration: CalibrationMap | None = None,
  ):
    self.spec = spec
    self.tokenizer = tokenizer
    self.batch_tokens = batch_tokens or _batch_tokens(spec.model)
    self.share_questions = share_questions
    self.calibration = calibration
    mesh = _mesh_of(params)
    if mesh is None:
      mesh = make_mesh(devices=jax.local_devices())
      params = jax.device_put(params, replicated(mesh))
    self._params = params
    self._rows = batch_sharding(mesh)
    self._n_shards = batch_shards(mesh)
    self._forward = jax.jit(self._step_values)
    self._forward_shared = jax.jit(self._shared_step_values)
    # Every device holds the questions' keys: any row may be placed on it.
    self._read_questions = jax.jit(
      self._question_keys, static_argnums=2, out_shardings=replicated(mesh)
    )

  @property
  def params(self) -> Any:
    """The parameters, where they were placed."""
    return self._params

  def with_params(self, params: Any) -> Scorer:
    """The same scorer with other parameters, placed alike; nothing compiles anew."""
    other = copy.copy(self)
    places = jax.tree.map(lambda x: x.sharding, self._params)
    other._params = jax.device_put(params, places)
    return other

  def reading(self, step_value: str) -> Scorer:
    """The same scorer, uncalibrated, with another reading of `step_values.VALUES`."""
    spec = dataclasses.replace(self.spec, step_value=step_value)
    return Scorer(
      spec,
      self._params,
      self.tokenizer,
      batch_tokens=self.batch_tokens,
      share_questions=self.share_questions,
    )

  def score(
    self, trajectories: Sequence[Trajectory], *, allow_empty: bool = False
  ) -> list[ScoreSet | Unusable]:
    """Scores of every step.

    Args:
      trajectories: any number, in any order.
      allow_empty: score empty steps too, for probes.

    Returns:
      For each trajectory, in order, a `ScoreSet` with one value a step (None for
      the steps that truncation dropped), or the reason why it cannot be scored.

    Raises:
      UserError: a score is not finite, so the parameters must be broken; or a row is
        too long and the step format's policy is 'error'.
    """
    out: list[Any] = self.encode(trajectories, allow_empty=allow_empty)
    usable = [i for i, row in enumerate(out) if not isinstance(row, Unusable)]
    for i, values in zip(usable, self.values([out[i] for i in usable]), strict=True):
      if not np.isfinite(values).all():
        raise UserError(
          f'trajectory {trajectories[i].id}: its scores are not finite; the parameters '
          'of this model are broken, train or export it again.'
        )
      dropped = (None,) * (trajectories[i].n_steps - len(values))
      out[i] = ScoreSet(self.kind, (*self.calibrated(values).tolist(), *dropped))
    return out

  @property
  def kind(self) -> str:
    """Of the scores that are given: the spec's, probabilities once calibrated."""
    return self.spec.kind if self.calibration is None else 'probability'

  def calibrated(self, values: np.ndarray) -> np.ndarray:
    """Step values as they are given, through the calibration if there is one."""
    return values if self.calibration is None else self.calibration.apply(values)

  def encode(
    self, trajectories: Sequence[Trajectory], *, allow_empty: bool = False
  ) -> list[Encoded | Unusable]:
    """Tokens and step positions of each, or the reason why there are none."""
    rows = step_format.encode_rows(
      self.spec.step_format,
      self.tokenizer,
      [t.question for t in trajectories],
      [t.steps for t in trajectories],
      allow_empty=allow_empty,
      names=[f'trajectory {t.id}' for t in trajectories],
    )
    out: list[Encoded | Unusable] = []
    for i in range(len(trajectories)):
      try:
        out.append(rows.row(i))
      except Unusable as reason:
        out.append(reason)
    return out

  def values(self, rows: Sequence[Encoded]) -> list[np.ndarray]:
    """Step values of encoded rows, float32 [n_steps] each, in order."""
    out: list[Any] = [None] * len(rows)
    for i, values in self.stream(rows):
      out[i] = values
    return out

  def stream(self, rows: Sequence[Encoded]) -> Iterator[tuple[int, np.ndarray]]:
    """(index, step values) of each row as soon as its batch is done."""
    waiting: deque[tuple[list[int], jax.Array]] = deque()

    def collect() -> Iterator[tuple[int, np.ndarray]]:
      members, result = waiting.popleft()
      for i, values in zip(members, np.asarray(result), strict=False):
        yield i, values[: rows[i].n_steps]

    for job in self._jobs(rows):
      waiting.append((job.members, self._dispatch(job, rows)))
      if len(waiting) > 1:  # one runs while the next is put together
        yield from collect()
    while waiting:
      yield from collect()

  def shared_length(self, row: Encoded) -> int:
    """Tokens of a row that are read once for its question; 0 if it shares nothing.

    Never a token at which a step is read.
    """
    start = min(row.question_length, int(row.step_positions[0]))
    return start if self.share_questions and start >= MIN_SHARED else 0

  def shape_of(self, row: Encoded) -> Shape:
    """The batch shape of a row; depends on nothing but the row."""
    start = self.shared_length(row)
    own = len(row.tokens) - start
    t = bucket(own, MIN_TOKENS, PER_OCTAVE)
    if not start:
      t = min(t, max(self.spec.step_format.max_length, own))
    keys = bucket(start, MIN_KEYS, 1) if start else 0
    steps = bucket(row.n_steps, MIN_STEPS, 1)
    return Shape(self._n_rows(t), t, steps, keys)

  def _n_rows(self, t: int) -> int:
    per_shard = max(1, self.batch_tokens // t)
    if per_shard > ROW_MULTIPLE:
      per_shard -= per_shard % ROW_MULTIPLE
    return per_shard * self._n_shards

  def _jobs(self, rows: Sequence[Encoded]) -> Iterator[Job]:
    """Full batches as soon as their rows' questions are read, then the others.

    So at most a batch of each shape and of questions keeps keys alive.
    """
    alone = defaultdict(list)
    questions: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
      start = self.shared_length(row)
      if start:
        questions[start, row.tokens[:start].tobytes()].append(i)
      else:
        alone[self.shape_of(row)].append(i)
    for shape, members in sorted(alone.items()):
      for at in range(0, len(members), shape.B):
        yield Job(shape, members[at : at + shape.B], [], [])

    jobs: dict[Shape, Job] = {}
    for members, keys in self._questions(rows, list(questions.values())):
      for i in members:
        shape = self.shape_of(rows[i])
        job = jobs.setdefault(shape, Job(shape, [], [], []))
        if not job.caches or job.caches[-1] is not keys:
          job.caches.append(keys)
        job.members.append(i)
        job.which.append(len(job.caches) - 1)
        if len(job.members) == shape.B:
          yield jobs.pop(shape)
    yield from (jobs[shape] for shape in sorted(jobs))

  def _questions(
    self, rows: Sequence[Encoded], groups: list[list[int]]
  ) -> Iterator[tuple[list[int], jax.Array]]:
    """The rows of each question, with its keys; read in batches of one length."""
    by_length = defaultdict(list)
    for members in groups:
      start = self.shared_length(rows[members[0]])
      by_length[bucket(start, MIN_TOKENS, PER_OCTAVE)].append((start, members))
    for t, found in sorted(by_length.items()):
      b = min(self._n_rows(t), max(AT_ONCE // self._n_shards, 1) * self._n_shards)
      for at in range(0, len(found), b):
        part = found[at : at + b]
        tokens = np.zeros((b, t), np.int32)
        for place, (start, members) in enumerate(part):
          tokens[place, :start] = rows[members[0]].tokens[:start]
        read = self._read_questions(
          self._params, jax.device_put(tokens, self._rows), bucket(t, MIN_KEYS, 1)
        )
        for (_, members), keys in zip(part, read, strict=False):
          yield members, keys

  def _dispatch(self, job: Job, rows: Sequence[Encoded]) -> jax.Array:
    shape = job.shape
    tokens = np.zeros((shape.B, shape.T), np.int32)
    positions = np.zeros((shape.B, shape.P), np.int32)
    lengths = np.zeros(shape.B, np.int32)
    for b, i in enumerate(job.members):
      row, start = rows[i], self.shared_length(rows[i])
      tokens[b, : len(row.tokens) - start] = row.tokens[start:]
      positions[b, : row.n_steps] = row.step_positions - start
      lengths[b] = start
    which = np.zeros(shape.B, np.int32)
    which[: len(job.which)] = job.which
    tokens, positions, lengths, which = jax.device_put(
      (tokens, positions, lengths, which), self._rows
    )
    if not job.caches:
      return self._forward(self._params, tokens, positions)
    n_questions = one_of(len(job.caches), QUESTIONS)
    caches = (*job.caches, *job.caches[:1] * (n_questions - len(job.caches)))
    return self._forward_shared(self._params, tokens, positions, caches, which, lengths)

  def _step_values(self, params: Any, tokens: jax.Array, positions: jax.Array):
    spec = self.spec
    outputs = scoring_model.apply(spec.model, spec.head, params, tokens, positions)
    return VALUES[spec.step_value](outputs.astype(np.float32))

  def _question_keys(self, params: Any, tokens: jax.Array, places: int):
    """Keys and values of each row of tokens [B, T]: a tuple of B [L, 2, K, S, H]."""
    return decoding.prefill_apart(self.spec.model, params, tokens, places)

  def _shared_step_values(self, params: Any, tokens, positions, *questions: Any):
    spec = self.spec
    hidden = self._read_on(params, tokens, positions, *questions)
    outputs = heads.read(spec.model, spec.head, params, hidden)
    return VALUES[spec.step_value](outputs.astype(np.float32))

  def _read_on(
    self,
    params: Any,
    tokens: jax.Array,
    positions: jax.Array,
    caches: tuple[jax.Array, ...],
    which: jax.Array,
    lengths: jax.Array,
  ) -> jax.Array:
    """Hidden states [B, P, D] of rows that go on from questions: each from `caches` at
    `which` [B], of which it reads the first `lengths` [B]."""
    keys = jnp.take(jnp.stack(caches, axis=2), which, axis=2)  # [L, 2, B, K, S, H]
    shared = [(layer[0], layer[1]) for layer in keys]
    return decoding.read_on(self.spec.model, params, tokens, positions, shared, lengths)


def _batch_tokens(spec: ModelSpec) -> int:
  """The default budget of a device: a power of two.

  Measured on a CPU with 1 MiB of second-level cache a core; a fixed, larger one on
  accelerators.
  """
  platform = jax.default_backend()
  most = MAX_BATCH_TOKENS.get(platform, MAX_BATCH_TOKENS['gpu'])
  if platform != 'cpu':
    return most
  return min(max(1 << (CACHE_NUMBERS // spec.d_ff).bit_length() - 1, 256), most)


def _mesh_of(params: Any) -> Mesh | None:
  """The mesh that sharded parameters lie on, None for arrays of one place."""
  for leaf in jax.tree.leaves(params):
    placed = getattr(leaf, 'sharding', None)
    if isinstance(placed, NamedSharding) and isinstance(placed.mesh, Mesh):
      return placed.mesh
  return None
