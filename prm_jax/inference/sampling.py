"""Drawing the next token: filters, keys, and the draw itself, row by row.

A draw is an exponential race (equivalent to Gumbel-max): token i with probability p_i
arrives at time e_i / p_i, with e_i exponential, and the first to arrive is taken. A
filtered token has p_i = 0 and never arrives. The e_i depend on the row's key, the
number of the token in its completion and i alone, so a row's draws depend on nothing
else: not on its place in the batch, nor on the other rows.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from prm_jax.inference.requests import Sampling

_ONE_BITS = 0x3F800000  # 1.0 as a float32's bits; those of [0, 1] order like integers


class Filters(NamedTuple):
  """What is compiled into a draw; the values of the filters are not.

  Attributes:
    greedy: take the most likely token (temperature 0), the first of equals.
    top_k, top_p, min_p: whether the filter does anything.
    entropy: whether the entropy is wanted.
  """

  greedy: bool
  top_k: bool
  top_p: bool
  min_p: bool
  entropy: bool

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
    )


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
  """

  token: jax.Array
  logprob: jax.Array
  entropy: jax.Array | None


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
  return -jnp.log(uniform)


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
  top = jnp.max(logits, axis=-1, keepdims=True)
  shifted = logits - top
  powers = jnp.exp(shifted)
  total = jnp.sum(powers, axis=-1)
  if filters.greedy:
    token = _first_largest(logits)
  else:
    p = keep(filters, values, jnp.exp(shifted / values.temperature))
    # Two passes read the race: without a barrier each would draw it anew.
    race = p / exponentials(keys, numbers, p.shape[-1])
    token = _first_largest(jax.lax.optimization_barrier(race))
  chosen = jnp.take_along_axis(shifted, token[:, None], axis=-1)[:, 0]
  entropy = None
  if filters.entropy:
    entropy = jnp.log(total) - jnp.sum(powers * shifted, axis=-1) / total
  return Drawn(token, chosen - jnp.log(total), entropy)
