"""Five public PRMs and two outcome reward models on two real best-of-N pools.

    PRM_JAX_DATA=FOLDER python -m prm_jax.main --config=configs/pools.py

FOLDER holds bon_pools/: 500 problems of GSM8K and of MATH-500 with 32 candidates
each, and the step scores of the models (one file a model and pool; only
Qwen2.5-Math-PRM has one for MATH-500). Verdicts are the regraded ones; a candidate
without a verdict counts as wrong. Every number is given twice: ties shared equally
(our rule), and `@32:lowest_index`, as in published numbers.

Two CPU cores: 15 s of CPU time. Share solved, best of 32, ties shared, with 95 %
intervals by problem:

    pool    model               min               last              mean
    gsm8k   qwen_prm            .918 [.893, .941] .925 [.903, .945] .925 [.898, .946]
            skywork_prm         .894 [.864, .919] .936 [.914, .956] .918 [.892, .940]
            skywork_prm_1_5b    .882 [.854, .907] .902 [.874, .926] .902 [.874, .926]
            math_shepherd       .880 [.850, .905] .873 [.844, .902] .880 [.852, .906]
            rlhflow_prm         .881 [.853, .908] .873 [.845, .901] .885 [.856, .912]
            internlm2_7b_reward .872 [.842, .900] .914 [.888, .938] .872 [.842, .900]
            internlm2_1_8b_...  .847 [.817, .877] .874 [.844, .902] .872 [.842, .900]
    math500 qwen_prm            .842 [.810, .872] .819 [.790, .847] .834 [.802, .864]

    pool    one picked  majority  shortest  fewest steps  oracle
    gsm8k   .871        .888      .870      .863          .974
    math500 .742        .809      .736      .737          .936

Chosen by min, only qwen_prm is shown to beat the majority vote: by .030 [.013, .048]
on gsm8k and .033 [.012, .058] on math500, paired over problems. With lowest_index
ties, min / last / mean of qwen_prm on gsm8k are .918 / .922 / .922.
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
