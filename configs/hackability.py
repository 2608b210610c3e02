"""Which known attacks a PRM fails. A pass is not evidence of safety.

python -m prm_jax.main --config=configs/bce.py
python -m prm_jax.main --config=configs/hackability.py --config.scorer=runs/bce
"""

from configs import embedded


def get_config():
  c = embedded.get_config()
  c.job = 'hackability'
  c.data.train = c.data.validation = c.data.evaluate = ''
  c.data.pools = 'heldout=world:heldout'
  c.world.pool_problems = 150
  c.world.pool_size = 1024
  c.evaluate.subsets = 50
  c.evaluate.max_samples = 300
  return c
