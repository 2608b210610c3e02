"""Drawing the next token: filters, keys, and the draw itself, row by row.

A draw is an exponential race (equivalent to Gumbel-max): token i with probability p_i
arrives at time e_i / p_i, with e_i exponential, and the first to arrive is taken. A
filtered token has p_i = 0 and never arrives. Two races give the same distribution for
a fraction of the random numbers: the first among blocks of tokens, whose probability
is their sum, the second within the block that won. Unlike the inversion of one sum
over the vocabulary, races seldom notice that the logits are a rounding error off.

The e_i depend on the row's key, the number of the token in its completion and i alone,
so a row's draws depend on nothing else: not on its place in the batch, nor on the other
rows.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from prm_jax.inference.requests import Sampling

BLOCK = 64  # tokens of a block
_ONE_BITS = 0x3F800000  # 1.0 as a float32's bits; those of [0, 1] order like integers


class Filters(NamedTuple):
  """What is compiled into a draw; the values of the filters are not.

  Attributes:
    greedy: take the most likely token (temperature 0), the first of equals.
    top_k, top_p, min_p: whether the filter does anything.
    entropy, certainty: whether they are wanted.
  """

  greedy: bool
  top_k: bool
  top_p: bool
  min_p: bool
  entropy: bool
  certainty: bool

  @classmethod
  def of(cls, sampling: Sampling) -> Filters:
    """The filters that these parameters need."""
    greedy = sampling.temperature == 0
    return cls(
      greedy,
      not greedy and sampling.top_k > 0,
      not greedy and sampling.top_p < 1,
      not greedy and sampling.min_p > 0,
      sampling.entropy,
      sampling.certainty,
    )

  @property
  def any(self) -> bool:
    """Whether a token may be dropped."""
    return self.top_k or self.top_p or self.min_p


class Values(NamedTuple):
  """Values of the filters, scalars that may change without compiling anew."""

  temperature: np.float32
  top_k: np.float32
  top_p: np.float32
  min_p: np.float32

  @classmethod
  def of(cls, sampling: Sampling) -> Values:
    """The values of these parameters."""
    return cls(
      np.float32(sampling.temperature),
      np.float32(sampling.top_k),
      np.float32(sampling.top_p),
      np.float32(sampling.min_p),
    )


class Drawn(NamedTuple):
  """Next tokens.

  Attributes:
    token: int32 [R].
    logprob: float32 [R], natural, at temperature 1 and before any filter.
    entropy: float32 [R], of the whole vocabulary in nats, at temperature 1 and before
      any filter; None where not asked for.
    certainty: float32 [R], KL(uniform || p) of the same; None where not asked for.
  """

  token: jax.Array
  logprob: jax.Array
  entropy: jax.Array | None
  certainty: jax.Array | None


def row_key(seed: int, request_id: str, sample_index: int) -> np.ndarray:
  """The random key of one completion, uint32 [2]: 64 bits of a hash of the three."""
  text = f'{seed}\x1f{sample_index}\x1f{request_id}'
  digest = hashlib.blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=8)
  return np.frombuffer(digest.digest(), '<u4')


def threefry(
  key: tuple[jax.Array, jax.Array], counter: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
  """Threefry-2x32 with 20 rounds (Salmon et al. 2011), uint32 arrays of one shape.

  The same function as JAX's generator, with its rounds unrolled: they fuse into one
  kernel, where the library's loop over rounds costs several times a decode step on CPU.
  """
  keys = (*key, key[0] ^ key[1] ^ np.uint32(0x1BD11BDA))
  x, y = counter[0] + keys[0], counter[1] + keys[1]
  for group in range(5):
    for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
      x = x + y
      y = x ^ ((y << np.uint32(turn)) | (y >> np.uint32(32 - turn)))
    x = x + keys[(group + 1) % 3]
    y = y + keys[(group + 2) % 3] + np.uint32(group + 1)
  return x, y


def exponentials(keys: jax.Array, numbers: jax.Array, n: int) -> jax.Array:
  """Standard exponential variables, float32 [R, n], all above 0 and finite.

  Args:
    keys: uint32 [R, 2].
    numbers: int32 [R], number of the token in its completion.
    n: how many a row.
  """
  half = (n + 1) // 2
  shape = (keys.shape[0], half)
  wide = lambda x: jnp.broadcast_to(x[:, None], shape)
  places = jnp.broadcast_to(jnp.arange(half, dtype=jnp.uint32)[None], shape)
  bits = threefry(
    (wide(keys[:, 0]), wide(keys[:, 1])), (places, wide(numbers.astype(jnp.uint32)))
  )
  both = jnp.concatenate(bits, axis=1)[:, :n]
  uniform = ((both >> np.uint32(8)).astype(jnp.float32) + 0.5) * np.float32(2**-24)
  # The largest of them rounds to 1, whose exponential of 0 would make a token that was
  # dropped arrive: 0 / 0.
  return -jnp.log(jnp.minimum(uniform, np.float32(1 - 2**-24)))


def _threshold(p: jax.Array, weights: jax.Array, enough: jax.Array) -> jax.Array:
  """Largest t with sum(weights where p >= t) >= enough; 0 where there is none.

  By bisection over the bits of a float: a tenth of the time of sorting on CPU.

  Args:
    p: float32 [R, V] in [0, 1].
    weights: float32 [R, V].
    enough: float32 [R].

  Returns:
    float32 [R].
  """
  bits = jax.lax.bitcast_convert_type(p, jnp.int32)

  def halve(_, bounds):
    low, high = bounds
    middle = (low + high) // 2
    held = jnp.where(bits >= middle[:, None], weights, 0.0)
    reached = jnp.sum(held, axis=-1) >= enough
    return jnp.where(reached, middle, low), jnp.where(reached, high, middle)

  low = jnp.zeros(p.shape[0], jnp.int32)
  high = jnp.full(p.shape[0], _ONE_BITS + 1, jnp.int32)
  low, _ = jax.lax.fori_loop(0, 31, halve, (low, high))
  return jax.lax.bitcast_convert_type(low, jnp.float32)


def keep(filters: Filters, values: Values, p: jax.Array) -> jax.Array:
  """Applies top_k, top_p and min_p in this order, each to what the one before left.

  Tokens as likely as the last one kept are kept with it.

  Args:
    filters, values: which filters, and their values.
    p: float32 [R, V], proportional to the probabilities, the largest of a row 1.

  Returns:
    p with zeros where a token was dropped. The most likely one always stays.
  """
  kept = lambda limit: jnp.where(p >= limit[:, None], p, 0.0)
  rows = p.shape[0]
  if filters.top_k:
    p = kept(_threshold(p, jnp.ones_like(p), jnp.full(rows, values.top_k)))
  if filters.top_p:
    p = kept(_threshold(p, p, values.top_p * jnp.sum(p, axis=-1)))
  if filters.min_p:
    p = kept(jnp.full(rows, values.min_p))
  return p


def _first_largest(x: jax.Array) -> jax.Array:
  """argmax of each row [R, V] -> int32 [R], in two passes that a CPU can vectorise.

  The library's reduction of pairs takes four times as long there.
  """
  places = jnp.arange(x.shape[-1], dtype=jnp.int32)[None]
  largest = x == jnp.max(x, axis=-1, keepdims=True)
  first = jnp.min(jnp.where(largest, places, x.shape[-1]), axis=-1)
  return jnp.minimum(first, x.shape[-1] - 1)  # NaN equals nothing


def blocks(x: jax.Array, fill: float) -> jax.Array:
  """[R, V] -> [R, blocks, BLOCK], the end of the last filled with `fill`."""
  rows, n = x.shape
  if n % BLOCK:
    # Not `jnp.pad`: fused into every reader it takes longer than they do on CPU.
    wide = jnp.full((rows, n + -n % BLOCK), fill, x.dtype)
    x = jax.lax.dynamic_update_slice(wide, x, (0, 0))
  return x.reshape(rows, -1, BLOCK)


def _of(x: jax.Array, index: jax.Array) -> jax.Array:
  """Item `index` [R] of each row: [R, N, ...] -> [R, ...]."""
  index = jnp.expand_dims(index, tuple(range(1, x.ndim)))
  return jnp.take_along_axis(x, index, axis=1)[:, 0]


def _race(
  filters: Filters,
  values: Values,
  held: jax.Array,
  top: jax.Array,
  keys: jax.Array,
  numbers: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Block and place in it of the token drawn, int32 [R]; see `draw`.

  Args:
    held: float32 [R, blocks, BLOCK], logits.
    top: float32 [R, 1, 1], the largest of each row.
  """
  rows, n, _ = held.shape
  e = exponentials(keys, numbers, n + BLOCK)
  p = jnp.exp((held - top) / values.temperature)
  if filters.any:
    kept = keep(filters, values, p.reshape(rows, -1)).reshape(p.shape)
    # The barrier: computed once for each race, a token at a limit might be kept in one
    # and dropped in the other.
    p = jax.lax.optimization_barrier(kept)
  block = _first_largest(jnp.sum(p, axis=-1) / e[:, :n])
  if filters.any:
    within = _of(p, block)
  else:  # computed again for one block, so that nobody writes all of p down
    within = jnp.exp((_of(held, block) - top[:, 0]) / values.temperature)
  return block, _first_largest(within / e[:, n:])


def draw(
  filters: Filters,
  values: Values,
  logits: jax.Array,
  keys: jax.Array,
  numbers: jax.Array,
) -> Drawn:
  """Draws one token a row.

  Args:
    filters, values: how.
    logits: float32 [R, V].
    keys: uint32 [R, 2] (`row_key`).
    numbers: int32 [R], number of the token in its completion.
  """
  held = blocks(logits, float(jnp.finfo(jnp.float32).min))
  tops = jnp.max(held, axis=-1)
  top = jnp.max(tops, axis=-1)[:, None, None]
  shifted = held - top
  powers = jnp.exp(shifted)
  total = jnp.sum(powers, axis=(1, 2))
  if filters.greedy:
    block = _first_largest(tops)
    place = _first_largest(_of(held, block))
  else:
    block, place = _race(filters, values, held, top, keys, numbers)
  chosen = _of(_of(held, block), place) - top[:, 0, 0]
  entropy = certainty = None
  if filters.entropy:
    entropy = jnp.log(total) - jnp.sum(powers * shifted, axis=(1, 2)) / total
  if filters.certainty:
    mean = jnp.mean(logits - top[:, :, 0], axis=-1)
    certainty = jnp.log(total) - mean - np.log(logits.shape[-1])
  token = jnp.minimum(block * BLOCK + place, logits.shape[-1] - 1)  # where all is NaN
  return Drawn(token, chosen - jnp.log(total), entropy, certainty)
