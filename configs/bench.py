"""How fast the in-process engine samples.

    python -m prm_jax.main --config=configs/bench.py:decode
    python -m prm_jax.main --config=configs/bench.py:prefix_sharing

Both use a policy with random weights (2 layers of width 64, the bytes as vocabulary).
`decode` measures new tokens a second, end to end, beside the bare jitted loop of the
same shape, and says where the rest of the time goes; `prefix_sharing` measures
Monte-Carlo continuations of all prefixes with and without sharing the prefill.

Both take half a minute on two CPU cores. Measured there, otherwise idle, medians of 9
with 95 % intervals: 111,800 [109,200, 114,200] new tokens a second at 64 slots, .78
[.77, .80] of the bare loop (144,000). 96 % of the time is the decode loop (in which 13
% of the slots idle), 3 % text, 1 % prefill. Sharing: 1.8 % of the prefill tokens and
.19 [.18, .19] of the wall time at prefixes of up to 512 tokens, 32 new ones, with the
same outputs.

    python -m prm_jax.main --config=configs/bench.py:imports

measures how much longer `import prm_jax` and `import prm_jax.objectives` take than jax
and flax.linen alone, in new processes: .0002 and .012 s.

On an accelerator add --config.model.compute_dtype=bfloat16.
"""

from configs import base


def get_config(mode: str = 'decode'):
  c = base.get_config()
  c.job = 'bench'
  c.bench = mode
  c.text.max_length = 1024
  c.sampling.max_tokens = 32 if mode == 'prefix_sharing' else 64
  return c
