"""Hold step labels against a reference value, the truth about steps, and each other.

    python -m prm_jax.main --config=configs/audit.py \
        --config.audit.reference=runs/reference \
        --config.audit.labelled=adaptive=runs/adaptive,sequential.8=runs/sequential_8

A reference, and one algorithm at one setting, on the same solutions:

    python -m prm_jax.main --config=configs/label.py --workdir=runs/reference \
        --config.label.name=reference --config.label.k=256 \
        --config.label.prior='(0.0, 0.0)' --config.label.evidence=false --config.seed=1
    python -m prm_jax.main --config=configs/label.py --workdir=runs/sequential_8 \
        --config.label.algorithm=sequential --config.label.k=8

Every entry is NAME=PATH[@LABELSET]: a file, a folder of shards, or the workdir of a
label run; all of them label the same file of solutions. The reference is a label set
of kind 'value' with counts of rollouts, 256 or more a prefix, sampled with a seed of
its own: labels that share its rollouts look better than they are.

NAME is FAMILY or FAMILY.SETTING. Settings of one family (sequential.2, sequential.4,
sequential.8) make a curve, off which cost at equal accuracy is read.

What comes out, in results.json and report.html (`on_track` where the truth is known):

    audit/NAME/mean_error[reference]             labels against their own estimand, the
    audit/NAME/mean_squared_error_net[...]       noise of the reference taken off
    audit/NAME/brier[...], ece[...]              soft labels as probabilities
    audit/NAME/hard_accuracy[...], false_dead[...], false_alive[...]
    audit/NAME/first_error_accuracy[reference]   solutions that the reference is sure of
    audit/NAME/first_error_accuracy[on_track]    all solutions
    audit/NAME/false_claims[...], undecided      of the decided solutions; of all
    audit/NAME/tokens, rollouts                  a solution
    audit/first_error_accuracy/A-B[...]          paired difference
    audit/cost_ratio/A_over_B[tokens]            paired ratio
    audit/at_equal_tokens/A-F[...]               accuracy, F read off its curve
    audit/tokens_at_equal_accuracy/A_over_F[...] cost, F read off its curve
    audit/reference/off_track_alive[on_track]    wrong steps that continuations repair
    audit/reference/on_track_dead[on_track]      right steps from which few succeed
    audit/stopping/...                           realised error of the stopping rule

Prefixes whose reference interval holds tau are ambiguous: they are in no hard
comparison, and solutions whose first dead step they could move are apart, in
`first_error_accuracy[reference_ambiguous]`. 500 solutions take seconds.
"""

from configs import base


def get_config():
  c = base.get_config()
  c.job = 'audit'
  return c
