"""The three objectives on the same batches, with equal tuning, over five seeds.

    python -m prm_jax.main --config=configs/study_objectives.py

Each method gets the same tuning trials, judged on validation problems; the chosen
one is trained with five seeds and judged on problems of the three held-out splits.

2 CPU cores (x86-64), jax 0.10.2, other work beside: 33 min for 9 tuning runs and 15
others, two at a time. To expect on unseen problems: ProcessBench F1 .948 [.926, .969]
(PQM), .968 [.957, .978] (BCE), .705 [.666, .745] (TD); README has the whole table.
"""

from configs import base

SPLITS = ('heldout', 'heldout_longer', 'heldout_misconceptions')


def get_config():
  c = base.get_config()
  c.job = 'study'
  c.study.methods = ('pqm=configs/pqm.py', 'bce=configs/bce.py', 'td=configs/td.py')
  c.study.trials = tuple(
    f'optimizer.peak_lr={lr}' for lr in ('0.001', '0.002', '0.004')
  )
  c.study.select = 'validation/process_bench/f1@tuned:self'
  c.study.reference = 'bce'
  c.study.metrics = (
    *(f'{s}/process_bench/f1@tuned:validation' for s in SPLITS),
    *(f'{s}/steps/auroc' for s in SPLITS),
    *(f'{s}/best_of_n/prm_min@16' for s in SPLITS),
    *(f'{s}/best_of_n/prm_min-majority@16' for s in SPLITS),
    'heldout/best_of_n/majority@16',
    'heldout/best_of_n/oracle@16',
    # Distance to V: scores that are probabilities as they are, raw logits of PQM
    # only after a map fitted on validation.
    'heldout/value/mae',
    'heldout/value/correlation',
    'heldout/value/mae@platt:validation',
  )
  c.study.processes = 2
  return c
