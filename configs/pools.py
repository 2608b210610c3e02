"""Five public PRMs and two outcome reward models on two real best-of-N pools.

    PRM_JAX_DATA=FOLDER python -m prm_jax.main --config=configs/pools.py

FOLDER holds bon_pools/: 500 problems of GSM8K and of MATH-500 with 32 candidates
each, and the step scores of the models (one file a model and pool; only
Qwen2.5-Math-PRM has one for MATH-500). Verdicts are the regraded ones; a candidate
without a verdict counts as wrong. Every number is given twice: ties shared equally
(our rule), and `@32:lowest_index`, as in published numbers.
"""

from configs import base

GSM8K = (
  'qwen_prm',
  'skywork_prm',
  'skywork_prm_1_5b',
  'math_shepherd',
  'rlhflow_prm',
  'internlm2_7b_reward',
  'internlm2_1_8b_reward',
)
MATH500 = ('qwen_prm',)


def get_config():
  c = base.get_config()
  c.job = 'evaluate'
  c.data.train = ''
  c.data.validation = ''
  c.data.pools = ', '.join(
    f'{pool}=bon_pools/{pool}_32x500.jsonl.gz:bon_pools'
    for pool in ('gsm8k', 'math500')
  )
  c.data.checker = 'regraded'
  c.score_files = ', '.join(
    f'{pool}:{name}=bon_pools/prm_step_scores/{name}_{pool}.jsonl.gz'
    for pool, names in (('gsm8k', GSM8K), ('math500', MATH500))
    for name in names
  )
  c.evaluate.ties = 'uniform,lowest_index'
  return c
