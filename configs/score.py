"""Add a scorer's step scores to a file of trajectories.

    python -m prm_jax.main --config=configs/score.py --config.scorer=runs/pqm \
        --config.input=solutions.jsonl --config.output=scored.jsonl.gz

`scorer` is a train run's workdir, the folder of a public PRM, or hf:OWNER/NAME; `input`
any source (path[:format]). A public PRM is recognised by its folder or named:

    python -m prm_jax.main --config=configs/score.py \
        --config.scorer=hf:Qwen/Qwen2.5-Math-PRM-7B --config.scorer_dtype=bfloat16 \
        --config.input=solutions.jsonl --config.output=scored.jsonl.gz

The adapters are those of prm_jax.interop.adapters; an implicit PRM also needs
`scorer_reference`. Beside scored.jsonl.gz, scored.results.json tells which scorer it
was, where the reference scores of its family come from, and what was not scored.

Solutions are read, scored and kept in chunks of `chunk.size`, so memory does not grow
with a file of records, and the same command takes a stopped run up after its last
chunk, or says that it is complete. Several processes share the work as
--config.shard=0/4, 1/4, ...: their chunks lie in scored.jsonl.gz.unfinished, and the
one that ends last writes scored.jsonl.gz, the same bytes in any division. (Where they
do not see each other's folder, put the files of all into one and run the command there
once more.) Smaller chunks lose less and divide smaller files, but the last batch of
each shape in them is not full. What a pool of 16,000 solutions costs in tokens, beside
one chunk:

    chunk.size                                     500   1,000  2,000  4,000  8,000
    batches of 1,024 tokens (a CPU, d_ff 704)      1.03  1.02   1.01   1.01   1.00
    batches of 32,768 tokens (an accelerator)      4.5   3.3    2.3    1.6    1.2
"""

from configs import base


def get_config():
  c = base.get_config()
  c.job = 'score'
  c.chunk.size = 20000  # solutions
  return c
