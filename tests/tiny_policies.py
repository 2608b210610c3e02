"""A policy that was never trained, small enough for tests, exported as a run does."""

import functools

import jax
import numpy as np

from prm_jax import exports
from prm_jax.formats import tokenizers
from prm_jax.models import lm
from prm_jax.specs import ModelSpec, PolicySpec, TextFormat

WRITES = '0123456789+-*/=>?\n'
OFTEN = '2'


@functools.cache
def tiny(seed=0, end='<eos>', max_length=64):
  """(spec, params, tokenizer) of a D16 policy with one layer that writes digits,
  operators, new lines and ends, and `OFTEN` most of all."""
  words = tokenizers.load('bytes')
  spec = PolicySpec(
    ModelSpec(
      words.vocab_size, n_layers=1, d_model=16, n_heads=2, n_kv_heads=1, head_dim=8,
      d_ff=32,
    ),
    TextFormat(end=end, max_length=max_length),
  )  # fmt: skip
  params = jax.tree.map(np.array, lm.init(spec.model, jax.random.key(seed)))
  # Embeddings that share a direction lift each other's logits: they are tied.
  table = params['decoder']['embed_VD']
  written = [words.encode(c)[0] for c in WRITES]
  table[:, 0] = -3.0
  table[written, 0] = 3.0
  table[words.encode('\n')[0], 0] = 3.5
  table[words.encode(OFTEN)[0], 0] = 3.8
  if end:
    table[words.token_id(end), 0] = 3.4
  return spec, params, words


def export(folder, **options):
  """Writes the policy where a train run would; returns the workdir."""
  exports.save_policy(folder / 'policy', *tiny(**options))
  return folder
