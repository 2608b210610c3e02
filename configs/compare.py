"""Say whether method A is better than method B, and on what.

    python -m prm_jax.main --config=configs/compare.py --config.a=runs/pqm \
        --config.b=runs/bce --config.output=runs/pqm_bce.json

Several runs (training seeds) of each, paired in order; a pattern stands for them all:

    --config.a='runs/study/runs/pqm/default/seed-*' \
    --config.b='runs/study/runs/bce/default/seed-*'

Two scorers of one run over saved scores (configs/pools.py):

    --config.a=runs/pools@qwen_prm --config.b=runs/pools@math_shepherd

A run is a workdir of train or evaluate. With evaluate.replicates=true all its metrics
can be compared; without, those of sets with a known first error and of benchmarks,
which are measured again from the per-sample rows. Best-of-N needs replicates.

What comes out: FILE.html, the table above the solutions with both colours (the first
run of each side), FILE.samples.jsonl.gz, and in FILE.json and FILE.md, for every metric
(smoothness only between scores of one kind): the difference with its paired bootstrap
interval by problem; a sign-flip permutation test by problem (all signs where up to 14
problems differ, else 20,000 drawn, P never 0); McNemar's exact test where every problem
has one row that is right or wrong; P values after Holm over all metrics compared
(compare.metrics narrows them down beforehand); the difference that would have been
found with 80 % power. The sign-flip test is exact for means over problems and for
shares of rows; an F1 of two accuracies goes by what problems add to these; other
metrics (AUROC, ECE, MR-Score) go by the jackknife's pseudo-values, exact to first
order: where few problems decide such a metric, read its P value with care. With several
runs of each the interval and the P value (t) hold both sources of variance, seeds and
problems, each named; the interval is cut where the metric ends. Files of another
command are not written over.

Runs on different rows are refused; compare.common=true compares the rows in common of
sets with a known first error and counts the others. Pools must be the same.

The two scorers above, best of 32 of 500 GSM8K problems by the lowest step score, after
--config=configs/pools.py --config.evaluate.replicates=true (10 s of CPU; this, 2 s):
.918 against .880, difference .038 [.016, .062], p .0012, detectable .032; with ties to
the lowest index .036 [.014, .060], 27 problems against 9, McNemar p .0039.
"""

from configs import base


def get_config():
  c = base.get_config()
  c.job = 'compare'
  return c
