"""Print token | step | label of chosen rows, as the trainer reads them.

    python -m prm_jax.main --config=configs/inspect.py
    python -m prm_jax.main --config=configs/inspect.py --config.input=F.jsonl:trl \
        --config.data.label=source --config.rows=0:2
"""

from configs import embedded


def get_config():
  c = embedded.get_config()
  c.job = 'inspect'
  c.world.n_train = 100
  c.format.max_length = 100000
  return c
