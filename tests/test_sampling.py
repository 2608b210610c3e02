"""Filters, draws and keys against NumPy."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from prm_jax.inference import sampling as module
from prm_jax.inference.requests import Sampling
from prm_jax.inference.sampling import (
  BLOCK,
  Filters,
  Values,
  draw,
  keep,
  row_key,
  threefry,
)
from prm_jax.search import votes

# Operation by operation, their rounds would take seconds to compile.
exponentials = jax.jit(module.exponentials, static_argnums=2)


def oracle(p, top_k=0, top_p=1.0, min_p=0.0):
  """One row, by sorting; tokens as likely as the last one kept stay with it."""
  p = p.astype(np.float64)
  if top_k:
    p = np.where(p >= np.sort(p)[::-1][min(top_k, len(p)) - 1], p, 0)
  if top_p < 1:
    order = np.sort(p)[::-1]
    reached = np.cumsum(order) >= top_p * p.sum() * (1 - 1e-9)
    p = np.where(p >= order[np.argmax(reached)], p, 0)
  if min_p:
    p = np.where(p >= np.float32(min_p) * p.max(), p, 0)
  return p > 0


def kept(rows, **asked):
  sampling = Sampling(**asked)
  return np.asarray(
    keep(Filters.of(sampling), Values.of(sampling), jnp.asarray(rows, jnp.float32)) > 0
  )


@pytest.mark.parametrize(
  'asked',
  [
    {'top_k': 1}, {'top_k': 3}, {'top_k': 1000}, {'top_p': 0.5}, {'top_p': 1e-6},
    {'top_p': 0.999}, {'min_p': 0.2}, {'min_p': 1.0}, {'top_k': 7, 'top_p': 0.6},
    {'top_k': 9, 'top_p': 0.9, 'min_p': 0.3},
  ],
  ids=str,
)  # fmt: skip
def test_filters_equal_sorting(asked):
  logits = np.random.default_rng(0).normal(size=(50, 40)) * 2
  p = np.exp(logits - logits.max(1, keepdims=True)).astype(np.float32)
  got = kept(p, **asked)
  assert (got == np.stack([oracle(row, **asked) for row in p])).all()
  assert got[np.arange(50), p.argmax(1)].all()


def test_ties_stay_together():
  p = np.array([[1, 0.5, 0.5, 0.5, 0.25, 0.25]], np.float32)
  assert kept(p, top_k=2).tolist() == [[True] * 4 + [False] * 2]
  assert kept(p, top_p=0.5).tolist() == [[True] * 4 + [False] * 2]
  assert kept(p, min_p=0.5).tolist() == [[True] * 4 + [False] * 2]
  even = np.ones((1, 6), np.float32)
  assert kept(even, top_k=1, top_p=0.1, min_p=1.0).all()


def test_each_filter_reads_what_the_one_before_left():
  # Of all, .5 + .25 + .125 reach .8; of the two that top_k leaves, .5 alone reach .6.
  p = np.array([[0.5, 0.25, 0.125, 0.125]], np.float32) / 0.5
  assert kept(p, top_p=0.6).sum() == 2
  assert kept(p, top_p=0.6, top_k=2).tolist() == [[True, False, False, False]]


def test_threefry_is_the_librarys():
  rng = np.random.default_rng(0)
  key = rng.integers(0, 2**32, 2, np.uint32)
  count = rng.integers(0, 2**32, 10, np.uint32)
  want = jax.extend.random.threefry_2x32(jnp.asarray(key), jnp.asarray(count))
  k0, k1 = (np.full(5, k) for k in key)
  got = threefry((k0, k1), (count[:5], count[5:]))
  assert np.concatenate([np.asarray(x) for x in got]).tolist() == want.tolist()


def test_keys_and_numbers_make_the_stream():
  assert row_key(0, 'p/s/1', 0).dtype == np.uint32
  keys = {
    tuple(row_key(seed, id_, sample).tolist())
    for seed in (0, 1)
    for id_ in ('p/s/1', 'p/s/11', 'p/s/2')
    for sample in (0, 1, 11)
  }
  assert len(keys) == 18
  key = np.stack([row_key(0, 'a', 0), row_key(0, 'b', 0), row_key(0, 'a', 0)])
  e = np.asarray(exponentials(jnp.asarray(key), jnp.array([0, 0, 1]), 31))
  again = np.asarray(exponentials(jnp.asarray(key[1:2]), jnp.array([0]), 31))
  assert (again[0] == e[1]).all()
  assert len(np.unique(e)) == e.size


def test_exponentials_are_exponential():
  n = 200
  keys = np.stack([row_key(0, str(i), 0) for i in range(n)])
  e = np.asarray(exponentials(jnp.asarray(keys), jnp.zeros(n, jnp.int32), 301))
  assert np.isfinite(e).all() and (e > 0).all()
  assert abs(e.mean() - 1) < 0.02 and abs(e.var() - 1) < 0.05
  # Kolmogorov-Smirnov at .1 %: 1.95 / sqrt(n).
  x = np.sort(e.ravel())
  distance = np.abs(1 - np.exp(-x) - (np.arange(x.size) + 0.5) / x.size).max()
  assert distance < 1.95 / np.sqrt(x.size)
  # Neighbours, in the vocabulary and in time, are not related.
  assert abs(np.corrcoef(e[:, :-1].ravel(), e[:, 1:].ravel())[0, 1]) < 0.02


def test_the_largest_number_drawn_lets_no_dropped_token_arrive():
  """2^24 - 1 of 2^24, which rounds to 1: this key draws it for the sixth block."""
  key = jnp.array([[1793492565, 3472846029]], jnp.uint32)
  number, n_blocks = jnp.zeros(1, jnp.int32), 8
  e = np.asarray(exponentials(key, number, n_blocks + BLOCK))[0]
  assert e.argmin() == 5 and e[5] == np.float32(2**-24)
  asked = Sampling(top_k=2)
  logits = jnp.zeros((1, n_blocks * BLOCK)).at[0, :2].set(20.0)
  drawing = jax.jit(lambda *args: draw(Filters.of(asked), *args))
  drawn = drawing(Values.of(asked), logits, key, number)
  assert int(drawn.token[0]) in (0, 1)


@pytest.mark.parametrize(
  'asked',
  [{}, {'temperature': 0.6}, {'temperature': 2.0, 'top_k': 4}, {'top_p': 0.8}],
  ids=str,
)
def test_distribution_of_draws(asked):
  sampling = Sampling(**asked)
  rng = np.random.default_rng(1)
  logits = rng.normal(size=12).astype(np.float32) * 1.5
  n = 20000
  keys = rng.integers(0, 2**32, (n, 2), np.uint32)
  drawn = jax.jit(draw, static_argnums=0)(
    Filters.of(sampling), Values.of(sampling),
    jnp.broadcast_to(logits, (n, 12)), jnp.asarray(keys), jnp.zeros(n, jnp.int32),
  )  # fmt: skip
  p = np.exp((logits - logits.max()) / sampling.temperature)
  p = np.where(oracle(p, sampling.top_k, sampling.top_p, sampling.min_p), p, 0)
  p /= p.sum()
  counts = np.bincount(np.asarray(drawn.token), minlength=12)
  assert (counts[p == 0] == 0).all()
  used = p > 0
  chi2 = ((counts[used] - n * p[used]) ** 2 / (n * p[used])).sum()
  freedom = used.sum() - 1
  assert chi2 < freedom + 4 * np.sqrt(2 * freedom) + 5
  whole = logits - np.log(np.exp(logits).sum())
  np.testing.assert_allclose(drawn.logprob, whole[drawn.token], atol=1e-5)


def test_greedy_entropy_and_certainty():
  logits = jnp.array([[0.0, 3.0, 3.0, -1.0], [5.0, 0.0, 0.0, 0.0]])
  sampling = Sampling(temperature=0.0, top_k=3, entropy=True, certainty=True)
  filters = Filters.of(sampling)
  assert filters == Filters(True, False, False, False, True, True)
  drawn = draw(filters, Values.of(sampling), logits, jnp.zeros((2, 2)), jnp.zeros(2))
  assert drawn.token.tolist() == [1, 0]
  p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  np.testing.assert_allclose(drawn.entropy, -(p * np.log(p)).sum(1), rtol=1e-5)
  kl = (0.25 * np.log(0.25 / p)).sum(1)
  np.testing.assert_allclose(drawn.certainty, kl, rtol=1e-5)
  by_rule = votes.self_certainty(np.log(p).mean(1)[:, None], np.ones((2, 1), bool), 4)
  np.testing.assert_allclose(drawn.certainty, by_rule, rtol=1e-5)


def test_tiny_temperatures_are_nearly_greedy():
  sampling = Sampling(temperature=1e-6)
  logits = jnp.array([[0.0, 0.5, 0.4]])
  drawn = draw(
    Filters.of(sampling), Values.of(sampling), logits,
    jnp.asarray(row_key(0, 'a', 0)[None]), jnp.array([0]),
  )  # fmt: skip
  assert drawn.token.tolist() == [1]
