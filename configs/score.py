"""Add a scorer's step scores to a file of trajectories.

    python -m prm_jax.main --config=configs/score.py --config.scorer=runs/pqm \
        --config.input=solutions.jsonl --config.output=scored.jsonl.gz

`scorer` is a train run's workdir; `input` any source (path[:format]).
"""

from configs import base


def get_config():
  c = base.get_config()
  c.job = 'score'
  return c
