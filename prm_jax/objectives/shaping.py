"""Rewards of single steps for temporal-difference learning.

A shaping function turns labels into rewards: `f(labels, mask, steps_mask, **options)
-> rewards [B, P]`, where the reward of step t enters the target of that step (and of
those before it, discounted). `td` takes a name of `SHAPINGS` or any such function.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from prm_jax import masking

Shaping = Callable[..., jax.Array]


def zero(labels: jax.Array, mask: jax.Array, steps_mask: jax.Array) -> jax.Array:
  """No reward on the way. With discount 1 the fixed point is a probability.

  Args:
    labels: [B, P] in [0, 1].
    mask: [B, P] bool, True where labelled.
    steps_mask: [B, P] bool, True where a step exists.

  >>> ones = jnp.ones((1, 2))
  >>> zero(ones, ones > 0, ones > 0).tolist()
  [[0.0, 0.0]]
  """
  del mask, steps_mask
  return jnp.zeros_like(labels)


def cosine(
  labels: jax.Array,
  mask: jax.Array,
  steps_mask: jax.Array,
  *,
  correct: tuple[float, float] = (0.2, 0.0),
  wrong: tuple[float, float] = (-0.2, 0.0),
  threshold: float = 0.5,
) -> jax.Array:
  """A reward that slides from one value at the first step to another after the last.

  reward_t = end + ½ (start − end) (1 + cos(π t / S)),  t = 0..S−1

  with one pair (start, end) for correct steps and one for wrong ones; an unlabelled
  step gets 0. TDRM (arXiv 2509.15110) shapes rewards with a cosine, but its formula
  is not published: this one, with its defaults, is our own. The default start for
  correct steps is 1 − γ at the customary γ = 0.8, so that a long correct solution
  has no value above 1; larger rewards drive the clipped target to 1 everywhere.

  Args:
    labels: [B, P] in [0, 1].
    mask: [B, P] bool, True where labelled.
    steps_mask: [B, P] bool, True where a step exists; S is their number.
    correct: (start, end) where the label is at least `threshold`.
    wrong: (start, end) elsewhere.
    threshold: on labels.

  >>> ones = jnp.ones((1, 2))
  >>> [round(v, 2) for v in cosine(ones, ones > 0, ones > 0)[0].tolist()]
  [0.2, 0.1]
  """
  n_steps = jnp.maximum(jnp.sum(steps_mask, axis=1, keepdims=True), 1)
  phase = jnp.cos(jnp.pi * jnp.arange(labels.shape[1])[None] / n_steps)
  start, end = (
    jnp.where(labels >= threshold, good, bad)
    for good, bad in zip(correct, wrong, strict=True)
  )
  return masking.guard(end + 0.5 * (start - end) * (1 + phase), mask)


SHAPINGS: dict[str, Shaping] = {'zero': zero, 'cosine': cosine}
"""Name in a config -> shaping function."""
