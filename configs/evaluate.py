"""Measure a trained scorer on the embedded world's splits, or on your own sets.

    python -m prm_jax.main --config=configs/evaluate.py --config.scorer=runs/pqm
    python -m prm_jax.main --config=configs/evaluate.py --config.scorer=runs/pqm \
        --config.data.evaluate=mine=labelled.jsonl --config.data.pools= \
        --config.data.truth=human --config.data.validation=

`data.evaluate` names sets whose first error is known, `data.pools` sets of candidates.

The suite measures a scorer, or saved scores, on every public benchmark whose files
are found, and prints one table with intervals (also table.md; results.json quotes the
definition of each metric with its version):

    PRM_JAX_DATA=FOLDER python -m prm_jax.main --config=configs/evaluate.py:suite \
        --config.scorer=hf:Qwen/Qwen2.5-Math-PRM-7B@REVISION
    PRM_JAX_DATA=FOLDER python -m prm_jax.main --config=configs/evaluate.py:suite \
        --config.score_files=scored.jsonl.gz --config.scorer_name=prm

ProcessBench, PRMBench, Socratic-PRMBench, MR-GSM8K, MR-Ben, BIG-Bench Mistake and
best-of-N; `--config.evaluate.suite=process_bench,prmbench` takes some of them. Saved
scores are rows with `id` and `scores`, as the score job writes them; those of a scorer
stay in the workdir as scored/*.jsonl.gz, and the same command goes on with them. The
threshold is part of a metric's name: 0.5 for probabilities, 0 for logits; the way that
ProcessBench is published is --config.evaluate.threshold=tuned:process_bench.gsm8k.

Saved scores of the 1,694 ProcessBench and 6,216 PRMBench rows, 1,000 resamples, report
and all: 8 s on two CPU cores, 5 s of CPU time, half of it reading and writing.
"""

from configs import base, embedded
from prm_jax.errors import UserError


def get_config(which=''):
  if which not in ('', 'suite'):
    raise UserError(
      f'configs/evaluate.py:{which}: give configs/evaluate.py or '
      'configs/evaluate.py:suite.'
    )
  c = base.get_config() if which else embedded.get_config()
  c.job = 'evaluate'
  if which:
    c.data.train = c.data.validation = c.data.evaluate = c.data.pools = ''
    c.data.truth = 'human'
    c.data.checker = 'source'
    c.evaluate.suite = 'all'
    c.chunk.size = 20000  # solutions: each set at once, as fast as the score job
  else:
    c.world.n_train = 4000  # rows on which the position-and-length baseline is fitted
  return c
