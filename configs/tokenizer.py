"""Train a small byte-level BPE on the questions and steps of a file.

    python -m prm_jax.main --config=configs/tokenizer.py --config.vocab_size=2048 \
        --config.input=PATH:FORMAT --config.output=runs/tokenizer/tokenizer.json
"""

from configs import base


def get_config():
  c = base.get_config()
  c.job = 'tokenizer'
  return c
