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

Rollouts made with --config.sampling.certainty=true also get Borda votes by the
policy's self-certainty, which need no PRM: .736 at N = 16 on these problems, .010
[-.007, .025] above the majority vote; the vote weighted by the PRM's last value .794,
.068 [.045, .090] above it (20 s).

The pools: 60 s of CPU time on two cores (21 November 2026). At N = 32, qwen_prm, with
the paired difference to the majority vote (.888 and .809):

    rule, min of step scores  gsm8k                    math500
    best of N                 .918  .030 [.013, .048]  .842  .033 [.012, .058]
    weighted vote             .902  .014 [.004, .024]  .823  .014 [.000, .030]
    reward-frequency (WRF)    .900  .012 [.004, .022]  .825  .016 [.002, .031]
    hybrid majority (HMR)     .892  .004 [-.004, .012] .799 -.010 [-.028, .008]

Of 96 rules and scorers 17 are above the majority vote there, uncorrected.
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
