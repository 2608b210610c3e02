"""Find what training data share with evaluation sets, and what that does to a metric.

    export PRM_JAX_DATA=FOLDER
    python -m prm_jax.main --config=configs/contamination.py \
        --config.data.train=prm800k/phase1_train_plus.stepwise-critic.jsonl.gz:prm800k_steps

looks up every benchmark that is found; --config.data.evaluate=NAME=PATH:FORMAT,...
other sets. samples/SET.jsonl.gz names the rows that share anything, what, how much and
with which training row; table.md and results.json count them. With an evaluation's
workdir,

    --config.contamination.run=runs/evaluation --config.contamination.drop=by_problem

its metrics are measured again from the saved scores, with and without the shared rows.

How texts are compared: prm_jax/evaluation/contamination.py. By default a row is shared
if its question or solution is equal to one of training after normalisation, or half of
its word 13-grams occur there; contamination.share=0 is the rule of GPT-3, any one.

The command above: 31,499 training rows against 46,591 rows of 20 sets, 20 s of CPU:

    PRMBench            3,213 of 6,216 rows; 399 of 708 problems
      train_p1_first400 3,196 of 3,203 (the other 7 are written in another notation:
                        frac12 for frac{1}{2}, line ends that were escaped twice)
      the others        17 of 3,013, one problem that differs by a number
    MR-Ben math         9 of 918 rows: 3 problems, the same with choices added
    best_of_n math500   32 of 16,000 rows: the problem that differs by a number
    all others          none
"""

from configs import base


def get_config():
  c = base.get_config()
  c.job = 'contamination'
  c.data.train = c.data.validation = c.data.evaluate = c.data.pools = ''
  c.data.truth = 'human'
  return c
