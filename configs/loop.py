"""A PRM for a policy's own mistakes, from labels by the policy's own rollouts.

    python -m prm_jax.main --config=configs/policy.py
    export JAX_NUM_CPU_DEVICES=2   # two chunks at a time; leave it out on accelerators
    python -m prm_jax.main --config=configs/rollout.py
    python -m prm_jax.main --config=configs/rollout.py:heldout
    python -m prm_jax.main --config=configs/label.py --config.label.k=4 \
        --config.label.evidence=false
    unset JAX_NUM_CPU_DEVICES
    python -m prm_jax.main --config=configs/loop.py
    python -m prm_jax.main --config=configs/loop.py:exact   # beside it: exact labels

No simulated solver has a part in it: the policy learned from exact solutions, errs by
itself, and says by how its rollouts end what its steps are worth. The PRM starts from
the policy's decoder and is judged on held-out problems, 16 solutions of the policy
each. Labels of rollouts estimate V, so a solution is worth the value of its last step
(`last`); exact labels say which lines are right, so it is worth its worst one (`min`).

2 CPU cores: 348 s up to the first PRM, 105 s for the second. Share solved by a vote of
16 that is weighted so: .794 [.758, .830] and .760 [.724, .798], majority .726: paired
.068 [.045, .090] and .034 [.008, .060] above it. Picking one solution: .786 and .728,
.060 [.022, .097] and .002 [-.033, .039] above it.
"""

from configs import base


def get_config(labels: str = 'rollouts'):
  c = base.get_config()
  c.data.train = 'runs/label/labelled'
  c.data.validation = ''
  c.data.validation_share = 0.05
  c.data.pools = 'heldout=runs/rollout_heldout/solutions'
  c.data.label = 'on_track' if labels == 'exact' else 'mc_soft'
  c.objective.name = 'bce' if labels == 'exact' else 'bce_soft'
  c.evaluate.reduction = 'min' if labels == 'exact' else 'last'
  # The text as the policy wrote it, with the marker after each line.
  c.format.question_template = '{question}\n'
  c.format.step_template = '{step}\n'
  c.format.max_length = 128
  c.model.rope_theta = 100.0
  c.model.init_from = 'runs/policy'
  c.optimizer.peak_lr = 1e-3
  c.train.steps = 8000
  c.train.validate_every = 1000
  c.logging.every_steps = 100
  return c
