"""Turn a scorer's scores into probabilities, store the map, and say how good it is.

    python -m prm_jax.main --config=configs/bce.py
    python -m prm_jax.main --config=configs/calibrate.py --config.scorer=runs/bce
    python -m prm_jax.main --config=configs/score.py --config.scorer=runs/bce \
        --config.scorer_calibrated=true --config.input=... --config.output=...

Maps are fitted on `data.validation` and judged on `data.evaluate`, which must not share
a problem with it. The one named by `evaluate.calibrate` (platt, temperature, isotonic)
is written to calibration.json, in the workdir and beside the scorer; scores stay as
they were unless `scorer_calibrated` asks for it. Of quantile heads
(configs/quantile.py) the margin that makes them cover what they promise is stored too.

Two CPU cores, jax 0.10.2, cores shared with other work: 46 s of CPU time, 2 minutes.
The scorer of configs/bce.py, fitted on 2,000 problems of the embedded world, on the
steps of 3,000 others each, judged by on_track, intervals by problem:

    heldout, 12,004 steps  ECE    perfect  Brier skill          AUROC - raw
    as it is               .0105  .0019    .957 [.949, .965]
    platt                  .0024  .0014    .960 [.951, .968]    .000 [.000, .000]
    temperature            .0040  .0015    .959 [.950, .967]    .000 [.000, .000]
    isotonic               .0031  .0013    .959 [.950, .967]    .000 [.000, .000]

(10 bins of equal width; `perfect` is the ECE of a predictor that is right about the
same scores.) What was fitted does not carry over to other kinds of problems: on
heldout_longer platt's ECE is .072 (raw .085) and isotonic ties cost .006 [.005, .008]
of AUROC; on heldout_misconceptions platt makes it worse, .025 after .016.

With `data.pools`, calibrated scores say how many samples a problem needs: 2,500 other
problems x 32 candidates, a vote weighted by the PRM, against a fixed N of the same mean
number of candidates (paired; at the same number of characters .01 less at most):

    C = .9          what p is                       mean N  solved  over fixed N
    first_step      the first candidate's step 1    4.9     .741    -.005 [-.008, -.003]
    first_solution  the first candidate's score     9.3     .879    .039 [.037, .042]
    sequence        each candidate's score, in turn 4.7     .871    .134 [.126, .141]
    stable:0.9      a majority that is stable       12.0    .805    -.064 [-.070, -.058]

first_solution is above 0 at all five C, sequence too, by up to .135. first_step, the
published rule read off the first step, does not win (-.005 to -.003): a low score there
says that this candidate went wrong, not that the problem is hard. Stopping at a stable
majority loses wherever a weighted vote decides, because many here share their mistakes
and the majority is soon stable and wrong. (A fixed N gets .469, .711, .821, .895, .934
at 1, 4, 8, 16, 32.)
"""

from configs import embedded


def get_config():
  c = embedded.get_config()
  c.job = 'evaluate'
  c.evaluate.calibrate = 'platt'
  c.data.train = ''
  c.data.pools = 'heldout=world:heldout'
  c.world.n_validation = 2000
  c.world.n_heldout = 3000
  c.world.pool_problems = 2500
  c.world.pool_size = 32
  return c
