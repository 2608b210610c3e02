"""A PRM from a pretrained language model, with LoRA.

    python -m prm_jax.main --config=configs/finetune.py --workdir=runs/qwen_prm \
        --config.model.init_from=/models/Qwen2.5-0.5B \
        --config.data.train=math_shepherd.jsonl:math_shepherd

`model.init_from` is the folder of a Qwen2, Qwen2.5, Qwen3, Llama, Mistral or Gemma
checkpoint (config.json, safetensors, tokenizer files), `hf:Qwen/Qwen2.5-0.5B@main`
(with huggingface_hub installed; fetched because it is written here), or the workdir of
a train run. Network and tokenizer are the checkpoint's: of `model` nothing else is set.

What happens to it:
- The marker `<prm>` is added to the tokenizer if it is not there. Its row of the
  embedding table is the mean of the rows in use (Hewitt 2021); the table grows, to a
  multiple of 128 rows, only where it has no unused row left. A model that has a fit
  token can be read there, Qwen2.5-Math at format.marker='<extra_0>'.
- Low-rank updates of all matrices are trained, and a new head that starts at zero; the
  checkpoint itself is frozen, in bfloat16. Gradients and moments exist for the updates
  and the head alone, and checkpoints of the run hold only these: the rest is read again
  from `model.init_from`, whose hash must be the same when a run goes on.
- The export (WORKDIR/scorer) has the updates merged, and scores like any other:
  prm_jax.score('runs/qwen_prm', questions, steps).

Other ways:
    --config.lora.rank=0 --config.model.freeze=decoder       # the head alone
    --config.lora.rank=0 --config.model.freeze=embeddings,layers:0-11 \
        --config.model.scan_layers=False  # stacked layers can be frozen only together
    --config.lora.rank=0 --config.model.frozen_dtype= --config.optimizer.peak_lr=1e-5
                                                             # everything
With LoRA the marker's embedding stays where it starts, and the layers learn to read it;
to train all embeddings beside the updates, freeze `layers` alone.

Memory: --config.plan_only=true prints it for your devices and stops. A parameter that
is trained takes 16 bytes (float32 weight, gradient, two moments), a frozen one 2.
parallel.fsdp splits all of them; train.accumulation and model.remat lower what
activations take.
"""

from configs import base


def get_config():
  c = base.get_config()
  c.data.train = ''
  c.data.validation = ''
  c.data.validation_share = 0.02
  c.data.label = 'source'
  c.data.truth = 'source'
  c.format.question_template = '{question}\n'
  c.format.step_template = '{step}\n'
  c.format.max_length = 2048
  c.model.scan_layers = True
  c.model.remat = 'full'
  c.model.compute_dtype = 'bfloat16'
  c.model.frozen_dtype = 'bfloat16'
  c.head.init_scale = 0.0
  c.lora.rank = 16
  c.lora.alpha = 32.0
  c.lora.dropout = 0.05
  c.lora.targets = ('w*',)
  c.objective.name = 'bce'
  c.optimizer.peak_lr = 2e-4
  c.optimizer.weight_decay = 0.0
  c.optimizer.b2 = 0.999
  c.train.steps = 2000
  c.train.batch_size = 32
  c.train.accumulation = 4
  c.train.validate_every = 500
  c.logging.every_steps = 10
  return c
