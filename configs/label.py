"""Give every step of solutions a label, here by Monte Carlo; evidence is kept.

    python -m prm_jax.main --config=configs/label.py

needs the policy of configs/policy.py and the solutions of configs/rollout.py. Other
algorithms: --config.label.algorithm=adaptive (labeling/registry.py lists them, and
'judge'), other solutions: --config.input=PATH[:FORMAT].
Every rollout is kept as evidence, unless --config.label.evidence=false. configs/loop.py
trains on what comes out, and so does any other train config:

    python -m prm_jax.main --config=configs/pqm.py \
        --config.data.train=runs/label/labelled --config.data.label=mc_soft

2 CPU cores (x86-64), jax 0.10.2, JAX_NUM_CPU_DEVICES=2: 146 s for 586,608 rollouts,
four a prefix (label.k=4) of 29,644 solutions.
"""

from configs import base


def get_config():
  c = base.get_config()
  c.job = 'label'
  c.engine.policy = 'runs/policy'
  c.input = 'runs/rollout/solutions'
  c.sampling.max_tokens = 96
  c.chunk.size = 500
  return c
