"""How fast the in-process engine samples.

    python -m prm_jax.main --config=configs/bench.py:decode
    python -m prm_jax.main --config=configs/bench.py:prefix_sharing

Both use a policy with random weights (2 layers of width 64, the bytes as vocabulary).
`decode` measures new tokens a second, end to end, beside the bare jitted loop of the
same shape, and says where the rest of the time goes; `prefix_sharing` measures
Monte-Carlo continuations of all prefixes with and without sharing the prefill.

Both take about a minute on two CPU cores. Measured there while the machine was busy
with other work (load 15 to 20), medians of 9 with 95 % intervals: 45,900 [34,100,
53,900] new tokens a second at 64 slots, 78,100 [77,000, 79,200] a CPU second; .66 [.51,
1.1] of the bare loop. 93 % of the time is the decode loop (in which 13 % of the slots
idle), 4 % text, 3 % prefill. Sharing: 1.8 % of the prefill tokens and .18 [.15, .22] of
the wall time at prefixes of up to 512 tokens, 32 new ones, with the same outputs.

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
