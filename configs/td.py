"""Temporal differences towards the verdict on the answer (TDRM, arXiv 2509.15110).

    python -m prm_jax.main --config=configs/td.py

Trained on verdicts, judged against `on_track` and V.

It learns the value V, the chance that the solver still ends at the right answer, not
whether a step is correct; labels serve only as the record of which steps exist.

2 CPU cores (x86-64), jax 0.10.2, otherwise idle: about a minute. To expect on unseen
problems, mean of five seeds (configs/study_objectives.py): ProcessBench F1 .705
[.666, .745], best of 16 .846 [.817, .875] against a majority vote's .518, mean
distance to V .219 [.206, .233].
"""

from configs import embedded


def get_config():
  c = embedded.get_config()
  c.objective.name = 'td'
  c.objective.discount = 1.0  # with no reward on the way the fixed point is V
  c.objective.lambda_ = 0.9
  c.objective.terminal = 'verdict'
  return c
