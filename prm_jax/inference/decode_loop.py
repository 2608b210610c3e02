"""The decode loop on the device: slots, their queue, and the log of what was drawn.

U groups of C slots. A group works on a share of the rows of one text, whose keys it
holds, and its slots on the completions that these rows are. A slot that finishes takes
the next row of its group's share; a group without rows takes the next share. Both
happen inside one compiled loop. What is drawn goes into a log, one line a step, which
the host sorts by row afterwards: writing lines costs less than writing to rows.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from prm_jax.inference import sampling
from prm_jax.inference.sampling import Filters, Values
from prm_jax.inference.waves import Shape
from prm_jax.models import decoding
from prm_jax.models.decoding import Caches
from prm_jax.models.weights import Params
from prm_jax.specs import ModelSpec


class Queue(NamedTuple):
  """The rows of a wave and their shares, both padded to R.

  Attributes:
    first_token, shared_length, limit: int32 [R], as in `waves.Wave`.
    keys: uint32 [R, 2], random keys.
    share_text: int32 [R], text of each share.
    offsets: int32 [R + 1], rows of each share.
    n_shares: int32 [], shares that are there.
    keep: bool [], a slot whose row ends keeps that row's own keys. For slots that are
      filled before the loop and never again.
  """

  first_token: jax.Array | np.ndarray
  shared_length: jax.Array | np.ndarray
  limit: jax.Array | np.ndarray
  keys: jax.Array | np.ndarray
  share_text: jax.Array | np.ndarray
  offsets: jax.Array | np.ndarray
  n_shares: jax.Array | np.ndarray
  keep: jax.Array | np.ndarray


class Slots(NamedTuple):
  """The state that the loop carries.

  Attributes:
    shared: for each layer keys and values [U, K, S, H] of the groups' texts.
    own: for each layer keys and values [U * C, K, S, H] of the slots, by group.
    row: int32 [U, C], row of the queue that a slot works on, -1 none.
    start: int32 [U, C], own keys from before; what is fed next is token start + n_new
      of its slot's own.
    token: int32 [U, C], to be fed next.
    n_new: int32 [U, C], tokens drawn so far.
    next_row, row_stop: int32 [U], the rows of the group's share that are left.
    next_share: int32 [].
  """

  shared: Caches
  own: Caches
  row: jax.Array
  start: jax.Array
  token: jax.Array
  n_new: jax.Array
  next_row: jax.Array
  row_stop: jax.Array
  next_share: jax.Array


class Log(NamedTuple):
  """What was drawn, [steps, U, C]; row -1 where a slot was idle.

  Attributes:
    row, token: int32.
    logprob, entropy, certainty: float32; the last two None where not asked for.
  """

  row: jax.Array
  token: jax.Array
  logprob: jax.Array
  entropy: jax.Array | None
  certainty: jax.Array | None


def text_caches(
  spec: ModelSpec, n: int, length: int, device: jax.Device | None
) -> Caches:
  """Empty keys and values [n, K, length, H] for each layer."""
  shape = (n, spec.n_kv_heads, length, spec.head_dim)
  zeros = lambda: jnp.zeros(shape, spec.compute_dtype, device=device)
  return [(zeros(), zeros()) for _ in range(spec.n_layers)]


def empty(spec: ModelSpec, shape: Shape, device: jax.Device | None) -> Slots:
  """Slots without work."""
  u, c = shape.groups, shape.members
  ints = lambda *s: jnp.zeros(s, jnp.int32, device=device)
  return Slots(
    text_caches(spec, u, shape.text, device),
    decoding.by_row(decoding.own_caches(spec, u, c, shape.own, device)),
    ints(u, c) - 1, ints(u, c), ints(u, c), ints(u, c), ints(u), ints(u), ints(),
  )  # fmt: skip


def rewound(slots: Slots) -> Slots:
  """Idle slots before the first share of a queue."""
  return slots._replace(next_share=jnp.zeros_like(slots.next_share))


@functools.partial(jax.jit, static_argnames='spec')
def read_texts(spec: ModelSpec, params: Params, tokens: jax.Array) -> Caches:
  """Prefills texts int32 [W', T]; keys and values [W', K, T, H] for each layer."""
  return decoding.prefill(spec, params, tokens)


@functools.partial(jax.jit, donate_argnames='held')
def put_texts(new: Caches, places: jax.Array, n: jax.Array, held: Caches) -> Caches:
  """The first `n` of texts that were read, in `places` (int32 [W']) of `held`
  [W, K, S, H], S at least T."""

  def put(i, held):
    return jax.tree.map(
      lambda cache, part: jax.lax.dynamic_update_slice(
        cache, jax.lax.dynamic_slice_in_dim(part, i, 1, 0), (places[i], 0, 0, 0)
      ),
      held,
      new,
    )

  return jax.lax.fori_loop(0, n, put, held)


def _take_rows(queue: Queue, slots: Slots) -> Slots:
  """Idle slots take the next rows of their group's share."""
  idle = slots.row < 0
  candidate = slots.next_row[:, None] + jnp.cumsum(idle, axis=1, dtype=jnp.int32) - 1
  takes = idle & (candidate < slots.row_stop[:, None])
  first = queue.first_token[jnp.where(takes, candidate, 0)]
  return slots._replace(
    row=jnp.where(takes, candidate, slots.row),
    token=jnp.where(takes, first, slots.token),
    n_new=jnp.where(idle, 0, slots.n_new),
    next_row=slots.next_row + jnp.sum(takes, axis=1, dtype=jnp.int32),
  )


def _free(queue: Queue, slots: Slots, ended: jax.Array) -> Slots:
  """Slots whose row has `ended`, bool [U, C], are idle. An idle slot goes on writing
  at its start, which moves behind keys that are to be kept."""
  behind = jnp.where(queue.keep, slots.start + slots.n_new, slots.start)
  return slots._replace(
    row=jnp.where(ended, -1, slots.row), start=jnp.where(ended, behind, slots.start)
  )


def _out_of_rows(slots: Slots) -> jax.Array:
  """bool [U]: groups that have no work left."""
  return jnp.all(slots.row < 0, axis=1) & (slots.next_row >= slots.row_stop)


def _take_shares(queue: Queue, texts: Caches, slots: Slots) -> Slots:
  """Groups without rows take the next shares; only the keys of these are copied."""
  free = _out_of_rows(slots)
  candidate = slots.next_share + jnp.cumsum(free, dtype=jnp.int32) - 1
  takes = free & (candidate < queue.n_shares)
  candidate = jnp.where(takes, candidate, 0)
  text = queue.share_text[candidate]
  order = jnp.argsort(~takes, stable=True)
  count = jnp.sum(takes, dtype=jnp.int32)

  def copy(i, shared):
    u = order[i]
    return jax.tree.map(
      lambda held, all_: jax.lax.dynamic_update_slice_in_dim(
        held, jax.lax.dynamic_slice_in_dim(all_, text[u], 1, 0), u, 0
      ),
      shared,
      texts,
    )

  slots = slots._replace(
    shared=jax.lax.fori_loop(0, count, copy, slots.shared),
    next_row=jnp.where(takes, queue.offsets[candidate], slots.next_row),
    row_stop=jnp.where(takes, queue.offsets[candidate + 1], slots.row_stop),
    next_share=slots.next_share + count,
  )
  return _take_rows(queue, slots)


def _step(
  spec: ModelSpec,
  filters: Filters,
  params: Params,
  values: Values,
  stops: jax.Array,
  queue: Queue,
  slots: Slots,
) -> tuple[Slots, Log]:
  """One token for every slot, and what the step adds to the log, [U, C]."""
  idle = slots.row < 0
  row = jnp.where(idle, 0, slots.row)
  shared_length = jnp.where(idle, 0, queue.shared_length[row])
  logits, own = decoding.decode_step(
    spec, params, slots.token, shared_length + slots.start + slots.n_new,
    slots.shared, shared_length, decoding.side_by_side(slots.own, *idle.shape),
  )  # fmt: skip
  flat = lambda x: x.reshape(-1, *x.shape[2:])
  drawn = sampling.draw(
    filters,
    values,
    flat(logits[..., : stops.shape[0]]),
    flat(queue.keys[row]),
    flat(slots.n_new),
  )
  drawn = jax.tree.map(lambda x: x.reshape(idle.shape), drawn)
  log = Log(slots.row, *drawn)
  n_new = slots.n_new + 1
  done = stops[drawn.token] | (n_new >= queue.limit[row])
  slots = slots._replace(own=decoding.by_row(own), token=drawn.token, n_new=n_new)
  return _take_rows(queue, _free(queue, slots, done & ~idle)), log


@functools.partial(
  jax.jit, static_argnames=('spec', 'filters', 'steps'), donate_argnames='slots'
)
def run(
  spec: ModelSpec,
  filters: Filters,
  steps: int,
  params: Params,
  values: Values,
  stops: jax.Array,
  queue: Queue,
  texts: Caches,
  slots: Slots,
  cancelled: jax.Array,
) -> tuple[Slots, Log, jax.Array]:
  """Decodes until the queue is worked off, but for `steps` steps at most.

  Args:
    spec, params: the policy.
    filters, values: how tokens are drawn.
    steps: lines of the log.
    stops: bool [ids], tokens that end a completion; ids behind it are never drawn.
    queue: rows and texts.
    texts: for each layer keys and values [W, K, S, H] of the texts.
    slots: where the last call ended; donated.
    cancelled: bool [U, C], slots whose completion the host has seen end.

  Returns:
    The slots, the log, and how many of its lines were written.
  """
  slots = _free(queue, slots, cancelled)
  slots = _take_rows(queue, slots)
  lines = lambda dtype: jnp.zeros((steps, *slots.row.shape), dtype)
  log = Log(
    lines(jnp.int32), lines(jnp.int32), lines(jnp.float32),
    lines(jnp.float32) if filters.entropy else None,
    lines(jnp.float32) if filters.certainty else None,
  )  # fmt: skip

  def shares_left(slots):
    return slots.next_share < queue.n_shares

  def working(state):
    slots, _, line = state
    return (line < steps) & (jnp.any(slots.row >= 0) | shares_left(slots))

  def fed(state):
    slots, _, line = state
    starved = jnp.any(_out_of_rows(slots)) & shares_left(slots)
    return (line < steps) & jnp.any(slots.row >= 0) & ~starved

  def step(state):
    slots, log, line = state
    slots, new = _step(spec, filters, params, values, stops, queue, slots)
    log = jax.tree.map(
      lambda x, y: jax.lax.dynamic_update_index_in_dim(x, y, line, 0), log, new
    )
    return slots, log, line + 1

  def feed(state):
    slots, log, line = state
    slots = _take_shares(queue, texts, slots)
    return jax.lax.while_loop(fed, step, (slots, log, line))

  state = (slots, log, jnp.zeros((), jnp.int32))
  return jax.lax.while_loop(working, feed, state)
