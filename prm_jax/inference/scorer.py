"""Step scores of solutions: one forward pass each, in batches of few fixed shapes.

A row's shape depends on that row alone (the buckets of its length and of its number
of steps), and all batches of a shape have the same number of rows, filler included.
So a score depends neither on the order of the solutions nor on a row's company.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from prm_jax.errors import UserError
from prm_jax.formats import step_format
from prm_jax.formats.step_format import Encoded, Unusable
from prm_jax.formats.tokenizers import Tokenizer
from prm_jax.inference.buckets import bucket
from prm_jax.models import scorer as scoring_model
from prm_jax.parallel.mesh import batch_shards, make_mesh
from prm_jax.parallel.sharding import batch_sharding, replicated
from prm_jax.records import ScoreSet, Trajectory
from prm_jax.specs import ScorerSpec
from prm_jax.step_values import VALUES

BATCH_TOKENS = 4096
ROW_MULTIPLE = 8
MIN_TOKENS = 16
MIN_STEPS = 8


class Shape(NamedTuple):
  """Of a batch: B rows, T tokens, P steps."""

  B: int
  T: int
  P: int


class Scorer:
  """A scoring model with its step format and tokenizer.

  Args:
    spec: describes model, step format and how a score is read.
    params: tree of arrays. Arrays that lie on a mesh stay there and its rows are
      spread over that mesh; others are copied to every local device.
    tokenizer: the one the model was trained with.
    batch_tokens: B * T of a batch on one device is at most this (one row may be
      longer). Another budget means other batch shapes; they move scores by 1e-5.
  """

  def __init__(
    self,
    spec: ScorerSpec,
    params: Any,
    tokenizer: Tokenizer,
    *,
    batch_tokens: int = BATCH_TOKENS,
  ):
    self.spec = spec
    self.tokenizer = tokenizer
    self.batch_tokens = batch_tokens
    mesh = _mesh_of(params)
    if mesh is None:
      mesh = make_mesh(devices=jax.local_devices())
      params = jax.device_put(params, replicated(mesh))
    self._params = params
    self._rows = batch_sharding(mesh)
    self._n_shards = batch_shards(mesh)
    self._forward = jax.jit(self._step_values)

  def with_params(self, params: Any) -> Scorer:
    """The same scorer with other parameters, placed alike; nothing compiles anew."""
    other = copy.copy(self)
    places = jax.tree.map(lambda x: x.sharding, self._params)
    other._params = jax.device_put(params, places)
    return other

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
      out[i] = ScoreSet(self.spec.kind, (*values.tolist(), *dropped))
    return out

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
    waiting: list[tuple[list[int], jax.Array]] = []

    def collect() -> None:
      members, result = waiting.pop(0)
      for i, values in zip(members, np.asarray(result), strict=False):
        out[i] = values[: rows[i].n_steps]

    for shape, members in self._batches(rows):
      waiting.append((members, self._dispatch(shape, [rows[i] for i in members])))
      if len(waiting) > 1:  # one runs while the next is put together
        collect()
    while waiting:
      collect()
    return out

  def shape_of(self, row: Encoded) -> Shape:
    """The batch shape of a row; depends on nothing but its own size."""
    longest = max(self.spec.step_format.max_length, len(row.tokens))
    t = min(bucket(len(row.tokens), MIN_TOKENS), longest)
    per_shard = max(1, self.batch_tokens // t)
    if per_shard > ROW_MULTIPLE:
      per_shard -= per_shard % ROW_MULTIPLE
    return Shape(per_shard * self._n_shards, t, bucket(row.n_steps, MIN_STEPS, 1))

  def _batches(self, rows: Sequence[Encoded]) -> Iterator[tuple[Shape, list[int]]]:
    groups = defaultdict(list)
    for i, row in enumerate(rows):
      groups[self.shape_of(row)].append(i)
    for shape, members in sorted(groups.items()):
      for start in range(0, len(members), shape.B):
        yield shape, members[start : start + shape.B]

  def _dispatch(self, shape: Shape, rows: Sequence[Encoded]) -> jax.Array:
    tokens = np.zeros((shape.B, shape.T), np.int32)
    positions = np.zeros((shape.B, shape.P), np.int32)
    for b, row in enumerate(rows):
      tokens[b, : len(row.tokens)] = row.tokens
      positions[b, : row.n_steps] = row.step_positions
    tokens, positions = jax.device_put((tokens, positions), self._rows)
    return self._forward(self._params, tokens, positions)

  def _step_values(self, params: Any, tokens: jax.Array, positions: jax.Array):
    spec = self.spec
    outputs = scoring_model.apply(spec.model, spec.head, params, tokens, positions)
    return VALUES[spec.step_value](outputs.astype(np.float32))


def _mesh_of(params: Any) -> Mesh | None:
  """The mesh that sharded parameters lie on, None for arrays of one place."""
  for leaf in jax.tree.leaves(params):
    placed = getattr(leaf, 'sharding', None)
    if isinstance(placed, NamedSharding) and isinstance(placed.mesh, Mesh):
      return placed.mesh
  return None
