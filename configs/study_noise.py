"""Objectives under label noise: flipped labels, and Monte-Carlo labels of 8 rollouts.

    python -m prm_jax.main --config=configs/study_noise.py

Noise is on the training labels alone; every result is judged against the exact
`on_track`, thresholds are tuned on exact validation labels. `flip@P` flips a label with
probability P. `mc_hard@8` is 1 if any of 8 simulated rollouts from the prefix succeeds,
`mc_soft@8` their share: another quantity (V) with sampling noise. TD here ends at the
last noisy label, so that it sees the noise at all; half the usual steps.

2 CPU cores (x86-64), jax 0.10.2, other work beside: 107 min for 72 runs, two at a time.
To expect with a fifth of the labels flipped: ProcessBench F1 .77 (PQM), .86 (BCE), .33
(TD); README has the whole table.
"""

from configs import base


def get_config():
  c = base.get_config()
  c.job = 'study'
  c.study.methods = (
    'pqm=configs/pqm.py',
    'bce=configs/bce.py',
    'bce_soft=configs/bce.py objective.name=bce_soft',
    'td=configs/td.py objective.terminal=last_label',
  )
  c.study.settings = (
    'exact:',
    'flip0.1: data.label=flip@0.1',
    'flip0.2: data.label=flip@0.2',
    'flip0.3: data.label=flip@0.3',
    'mc_hard8: data.label=mc_hard@8',
    'mc_soft8: data.label=mc_soft@8',
  )
  c.study.common = 'train.steps=2500 train.validate_every=0'
  c.study.seeds = (0, 1, 2)
  c.study.reference = 'bce'
  c.study.metrics = (
    'heldout/process_bench/f1@tuned:validation',
    'heldout/best_of_n/prm_min@16',
  )
  c.study.processes = 2
  return c
