"""Quantiles of V: how sure a scorer is of what a step is worth.

    python -m prm_jax.main --config=configs/quantile.py
    python -m prm_jax.main --config=configs/calibrate.py --config.scorer=runs/quantile \
        --config.data.truth=value

The head has three outputs, the .1, .5 and .9 quantiles of the success rate, trained
with the pinball loss. In the embedded world the success rate is V itself, exactly.
"""

from configs import embedded


def get_config():
  c = embedded.get_config()
  c.objective.name = 'pinball'
  c.data.label = 'value'
  c.head.kind = 'linear'
  c.head.n_outputs = 3
  c.evaluate.reduction = 'last'
  return c
