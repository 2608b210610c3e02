"""Quantiles of V: how sure a scorer is of what a step is worth.

    python -m prm_jax.main --config=configs/quantile.py
    python -m prm_jax.main --config=configs/calibrate.py --config.scorer=runs/quantile \
        --config.data.truth=value

The head has three outputs, the .1, .5 and .9 quantiles of the success rate, trained
with the pinball loss; scores are the median, `scorer.reading('quantile_low')` reads
another. In the embedded world the success rate is V itself, exactly. On top of a PRM
that is there: --config.model.init_from=RUN --config.model.freeze=decoder, and rows that
it has not seen.

Two CPU cores shared with other work: 3 minutes. Share of steps whose true V lies
between the .1 and the .9 quantile, which ought to be .8, on the steps of 3,000 unseen
problems, before and after the margin (.0003 at both ends, fitted on 2,000 others: V of
a finished solution is 0 or 1, and a sigmoid stops just short of it):

    heldout                 .702 [.695, .709]  .795 [.787, .802]  18,178 steps
    heldout_longer          .722 [.715, .728]  .791 [.784, .798]  31,532 steps
    heldout_misconceptions  .610 [.601, .619]  .703 [.693, .712]  18,042 steps

Other solvers, with other misconceptions, have another V: there it falls short.
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
