"""Every selection rule on saved candidates with saved scores, for every N.

    PRM_JAX_DATA=FOLDER python -m prm_jax.main --config=configs/bank.py
    python -m prm_jax.main --config=configs/bank.py:world

The first recomputes, from saved scores with our regrading, best of N, weighted, reward-
frequency and hybrid votes and adaptive N on the pools of configs/pools.py: GSM8K with
five public PRMs and two outcome models, MATH-500 with one, 32 candidates a problem. The
second takes rollouts of the embedded world that the score job has scored:

    python -m prm_jax.main --config=configs/rollout.py:heldout
    python -m prm_jax.main --config=configs/score.py --config.scorer=runs/loop \
        --config.input=runs/rollout_heldout/solutions --config.output=runs/bank.jsonl.gz
"""

from configs import pools


def get_config(which='pools'):
  c = pools.get_config()
  c.job = 'bank'
  c.evaluate.ties = 'uniform'
  c.evaluate.subsets = 100
  if which == 'world':
    c.data.pools = 'heldout=runs/bank.jsonl.gz'
    c.data.checker = 'exact'
    c.score_files = ''
    c.evaluate.reduction = 'last'
  return c
