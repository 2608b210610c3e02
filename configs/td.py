"""Temporal differences towards the verdict on the answer (TDRM, arXiv 2509.15110).

    python -m prm_jax.main --config=configs/td.py

Trained on verdicts, judged against `on_track` and V.

It learns the value V, the chance that the solver still ends at the right answer, not
whether a step is correct; labels serve only as the record of which steps exist.
"""

from configs import embedded


def get_config():
  c = embedded.get_config()
  c.objective.name = 'td'
  c.objective.discount = 1.0  # with no reward on the way the fixed point is V
  c.objective.lambda_ = 0.9
  c.objective.terminal = 'verdict'
  return c
