"""A policy for the embedded world, which errs by itself.

    python -m prm_jax.main --config=configs/policy.py

Trains a D64, 2-layer language model on exact solutions; no simulated solver has a part
in it. In its 4,000 problems * and / are rare, so that facts about them stay half
learned; among problems with the usual mix of operators it errs there, and by itself.
The policy goes to runs/policy/policy.

Half a minute on two CPU cores. 500 held-out problems with the usual mix of operators,
16 solutions each at temperature 1 (configs/rollout.py:heldout; 95 % intervals,
bootstrap by problem):

    pass@1        .671 [.639, .705]
    majority@16   .738 [.700, .778]
    pass@16       .922 [.896, .946]

Of the first wrong lines, 49 % have a wrong result of * or /, 8 % of + or -, 39 % take
another operation than is due, 5 % cannot be read. 30 % of the right answers come with a
wrong line that later lines repair.

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
