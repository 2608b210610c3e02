"""Turn a public format into records, or records into a training format.

    python -m prm_jax.main --config=configs/convert.py \
        --config.input=PATH:FORMAT --config.output=OUT.jsonl.gz
    python -m prm_jax.main --config=configs/convert.py --config.input=OUT.jsonl.gz \
        --config.export=trl --config.data.label=human --config.output=OUT.trl.jsonl
"""

from configs import base


def get_config():
  c = base.get_config()
  c.job = 'convert'
  c.data.label = 'human'
  return c
