"""Write a trained model as a Hugging Face checkpoint.

    python -m prm_jax.main --config=configs/export.py \
        --config.input=WORKDIR --config.output=FOLDER

WORKDIR is a train run's, its folder `scorer` or `policy`, or (scorers) anything that
configs/score.py scores with. FOLDER gets config.json, safetensors, tokenizer files,
prm_jax.json (the step format; our own tools read FOLDER like a workdir) and a model
card. The default layout is what transformers loads: token classification for scalar
and linear heads, a causal language model for policies and heads that read the
vocabulary. `--config.export=vllm` writes what vLLM serves (Qwen2ForProcessRewardModel):
a Qwen2 model with `head.kind='mlp'`. A scorer's calibration.json goes along, unless
another dtype changes the scores.

`--config.export_dtype=bfloat16` halves a float32 model. With the dtype left alone the
weights come back bit for bit. A model that no public family has is refused with what
is in the way. Seconds at 0.1B parameters; one tensor is held at a time.
"""

from configs import base


def get_config():
  c = base.get_config()
  c.job = 'export'
  c.export = 'transformers'
  return c
