"""Sample solutions from a policy: n of each problem, answers checked.

    python -m prm_jax.main --config=configs/rollout.py

needs the policy of `--config=configs/policy.py` (or --config.engine.policy=WORKDIR, or
a server: --config.engine.kind=remote --config.engine.url=... --config.engine.model=...)
and leaves WORKDIR/solutions/*.jsonl.gz and results.json. Other problems: any file,
--config.input=PATH[:FORMAT] --config.rollout.problems=''. On several machines give each
--config.shard=i/n.

Problems are training problems of the embedded world that the policy did not learn from
(it saw the first 600); held-out ones are apart from them by construction.

2 CPU cores (x86-64), jax 0.10.2, JAX_NUM_CPU_DEVICES=2: 58 s, the held-out ones of
configs/rollout.py:heldout among them. configs/loop.py says what comes of it.
"""

from configs import base


def get_config(split: str = 'train'):
  c = base.get_config()
  c.job = 'rollout'
  c.engine.policy = 'runs/policy'
  c.input = f'world:{split}'
  c.rollout.problems, c.rollout.n = {
    'train': ('0:30000', 1),
    'heldout': ('0:500', 16),
  }.get(split, ('0:500', 16))
  c.sampling.max_tokens = 96
  c.chunk.size = 500 if split == 'train' else 50
  return c
