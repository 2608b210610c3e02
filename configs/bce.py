"""BCE on the truth `on_track`: each step's logit against its label.

    python -m prm_jax.main --config=configs/bce.py

Trained on `on_track` (no wrong step so far), judged against it.

2 CPU cores (x86-64), jax 0.10.2, otherwise idle: 55 s. To expect on unseen
problems, mean of five seeds (configs/study_objectives.py): ProcessBench F1 .968
[.957, .978], best of 16 .852 [.821, .883] against a majority vote's .518.
"""

from configs import embedded


def get_config():
  c = embedded.get_config()
  c.objective.name = 'bce'
  return c
