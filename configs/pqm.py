"""Q-value ranking (PQM, arXiv 2410.11287, Eq. 10) in the embedded world.

    python -m prm_jax.main --config=configs/pqm.py

Trained on the truth `on_track` (no wrong step so far), judged against it.
"""

from configs import embedded


def get_config():
  c = embedded.get_config()
  c.objective.name = 'q_ranking'
  c.objective.margin = 4.0
  return c
