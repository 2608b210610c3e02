"""Measure a trained scorer on the embedded world's splits, or on your own sets.

    python -m prm_jax.main --config=configs/evaluate.py --config.scorer=runs/pqm
    python -m prm_jax.main --config=configs/evaluate.py --config.scorer=runs/pqm \
        --config.data.evaluate=mine=labelled.jsonl --config.data.pools= \
        --config.data.truth=human --config.data.validation=

`data.evaluate` names sets whose first error is known, `data.pools` sets of candidates.
"""

from configs import embedded


def get_config():
  c = embedded.get_config()
  c.job = 'evaluate'
  c.world.n_train = 4000  # rows on which the position-and-length baseline is fitted
  return c
