"""How well a policy predicts solutions it was not trained on, teacher-forced."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from prm_jax.data import assembly, epoch_plan
from prm_jax.data.token_cache import TokenCache
from prm_jax.models import lm
from prm_jax.objectives import token_losses
from prm_jax.specs import ModelSpec

BATCH_TOKENS = 8192


@dataclasses.dataclass(frozen=True)
class Predicted:
  """Sums over the response of each of R rows.

  Attributes:
    loss: float64 [R], sum of the tokens' cross-entropies, in nats.
    hits: float64 [R], tokens that were the most likely one.
    tokens: float64 [R], tokens of the response, end token included.
  """

  loss: np.ndarray
  hits: np.ndarray
  tokens: np.ndarray


class HeldOut:
  """Measures parameters on fixed rows; one shape, so one compiled program.

  Args:
    spec: the policy's network.
    cache: rows encoded with its text format.
  """

  def __init__(self, spec: ModelSpec, cache: TokenCache):
    self.cache = cache
    self._length = max(epoch_plan.default_buckets(cache.lengths))
    self._batch = max(1, min(BATCH_TOKENS // self._length, cache.n_rows))

    @jax.jit
    def sums(params: Any, tokens: jax.Array, token_mask: jax.Array):
      logits = lm.apply(spec, params, tokens)
      losses, mask = token_losses(logits, tokens, token_mask)
      hits = (logits[:, :-1].argmax(-1) == tokens[:, 1:]) & mask
      return jnp.stack([losses.sum(1), hits.sum(1), mask.sum(1)])

    self._sums = sums

  def measure(self, params: Any) -> Predicted:
    """Sums of every row under these parameters."""
    parts = []
    for start in range(0, self.cache.n_rows, self._batch):
      rows = np.arange(start, start + self._batch)
      rows[rows >= self.cache.n_rows] = epoch_plan.FILLER
      batch = assembly.tokens(self.cache, rows, self._length)
      found = self._sums(params, batch['tokens'], batch['token_mask'])
      parts.append(np.asarray(found, np.float64)[:, rows != epoch_plan.FILLER])
    return Predicted(*np.concatenate(parts, axis=1))
