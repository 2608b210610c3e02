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
Records are read, scored and written in chunks, so memory does not grow with the file.
"""

from configs import base


def get_config():
  c = base.get_config()
  c.job = 'score'
  return c
