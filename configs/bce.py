"""BCE on the truth `on_track`: each step's logit against its label.

    python -m prm_jax.main --config=configs/bce.py

Trained on `on_track` (no wrong step so far), judged against it.
"""

from configs import embedded


def get_config():
  c = embedded.get_config()
  c.objective.name = 'bce'
  return c
