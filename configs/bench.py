"""How fast the in-process engine samples.

    python -m prm_jax.main --config=configs/bench.py:decode
    python -m prm_jax.main --config=configs/bench.py:prefix_sharing

Both use a policy with random weights (2 layers of width 64, the bytes as vocabulary).
`decode` measures new tokens a second, end to end, beside the bare jitted loop of the
same shape, and says where the rest of the time goes; `prefix_sharing` measures
Monte-Carlo continuations of all prefixes with and without sharing the prefill.

Any hardware; minutes. On an accelerator add --config.model.compute_dtype=bfloat16.
"""

from configs import base


def get_config(mode: str = 'decode'):
  c = base.get_config()
  c.job = 'bench'
  c.bench = mode
  c.text.max_length = 1024
  c.sampling.max_tokens = 32 if mode == 'prefix_sharing' else 64
  return c
