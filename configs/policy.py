"""A policy for the embedded world, which errs by itself.

    python -m prm_jax.main --config=configs/policy.py --workdir=runs/policy

Trains a D64, 2-layer language model on exact solutions; no simulated solver has a part
in it. In its 4,000 problems * and / are rare, so that facts about them stay half
learned; among problems with the usual mix of operators it errs there, and by itself.
The policy goes to runs/policy/policy.

FIGURES

The policy's strength is what it has seen: world.n_train problems, * and / as often as
world.operator_weights say.

On a file of solutions of your own (question and steps; of those with a verdict of
data.checker, the right ones):

    python -m prm_jax.main --config=configs/policy.py --workdir=runs/mine \
      --config.data.train=solutions.jsonl --config.data.validation= \
      --config.data.validation_share=0.05 --config.text.max_length=1024
"""

from configs import base


def get_config():
  c = base.get_config()
  c.objective.name = 'next_token'
  c.head.kind = 'lm'
  c.data.train = 'world_exact:train'
  c.data.validation = 'world_exact:validation'
  c.world.n_train = 4000
  c.world.operator_weights = (150, 150, 1, 1, 0)
  c.text.max_length = 96
  # Short rows: slow rotations would never turn within one.
  c.model.rope_theta = 100.0
  c.optimizer.peak_lr = 1e-3
  c.train.steps = 1000
  c.train.batch_size = 32
  c.train.validate_every = 200
  c.logging.every_steps = 50
  return c
