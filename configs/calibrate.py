"""Turn a scorer's scores into probabilities, store the map, and say how good it is.

python -m prm_jax.main --config=configs/calibrate.py --config.scorer=runs/bce
"""

from configs import embedded


def get_config():
  c = embedded.get_config()
  c.job = 'evaluate'
  c.evaluate.calibrate = 'platt'
  c.data.train = ''
  c.data.pools = 'heldout=world:heldout'
  c.world.n_validation = 2000
  c.world.n_heldout = 3000
  c.world.pool_problems = 2500
  c.world.pool_size = 32
  return c
