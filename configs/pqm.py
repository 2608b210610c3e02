"""Q-value ranking (PQM, arXiv 2410.11287, Eq. 10) in the embedded world.

    python -m prm_jax.main --config=configs/pqm.py

Trained on the truth `on_track` (no wrong step so far), judged against it.

2 CPU cores (x86-64), jax 0.10.2, otherwise idle: 56 s. To expect on unseen problems:
ProcessBench F1 .960 [.948, .970] with the default seed, .948 [.926, .969] over five
(configs/study_objectives.py); best of 16 .844 against a majority vote's .518.
"""

from configs import embedded


def get_config():
  c = embedded.get_config()
  c.objective.name = 'q_ranking'
  c.objective.margin = 4.0
  return c
