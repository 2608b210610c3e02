"""How fast the parts are, alone or in turns with another tool.

    python -m prm_jax.main --config=configs/bench.py:decode
    python -m prm_jax.main --config=configs/bench.py:prefix_sharing
    python -m prm_jax.main --config=configs/bench.py:imports

The first two use a policy with random weights (2 layers of width 64, the bytes as
vocabulary). `decode` measures new tokens a second, end to end, beside the bare jitted
loop of the same shape, and says where the rest of the time goes; `prefix_sharing`
measures Monte-Carlo continuations of all prefixes with and without sharing the prefill.

Both take half a minute on two CPU cores. Measured there, medians of 9 with 95 %
intervals: 123,900 [89,400, 127,100] new tokens a second at 64 slots, .80 [.76, .95] of
the bare loop (150,600). 96 % of the time is the decode loop (in which 8 % of the slots
idle), 3 % text, 1 % prefill. Sharing: 1.8 % of the prefill tokens and
.19 [.18, .19] of the wall time at prefixes of up to 512 tokens, 32 new ones, with the
same outputs. `imports` measures how much longer `import prm_jax` and `import
prm_jax.objectives` take than jax and flax.linen alone, in new processes: .0002, .012 s.

    python -m prm_jax.main --config=configs/bench.py:score --config.bench_model=CKPT \\
        --config.input=POOL.jsonl.gz:bon_pools --config.peer_command='COMMAND'

and so with `train`, `sample` and `mc`: real work on a Hugging Face checkpoint, in turns
with a command that does the same and prints its rate as JSON. Both sides' rates, the
ratio of their medians, the ratio of each pair, and the same a CPU second (the steadier
figure on a busy machine).

    python -m prm_jax.main --config=configs/bench.py:serve

asks a server for solutions, with 1, 8 and 64 clients, in turns with the score job on
the same rows: solutions of 256 to 512 bytes, 4 of a question, and random weights of
2 layers of width 512, unless `bench_model` and `input` name others. On two CPU cores
64 clients together get .82 [.81, .82] of the score job's 102 solutions a second, 8 get
.52 [.52, .55], one .15 [.15, .15] (medians of 3).

    python -m prm_jax.main --config=configs/bench.py:search_cache

scores a beam search of 20 steps and 16 beams (a byte is a token, random weights of 4
layers of width 128) with caches and by reading the prefixes again, in turns. On two CPU
cores, medians of 9: .16 [.15, .16] of the wall time, .15 [.15, .15] of the CPU time,
.095 of the tokens, the same scores within 2e-7. Half a minute there.

On an accelerator, random weights of a known shape and solutions that are made up:

    python -m prm_jax.main --config=configs/bench.py:train,qwen2.5-1.5b \\
        --config.bench_length=2048 --config.train.batch_size=16

measures tokens a second and the share of the device's peak that the model's FLOPs are
(prm_jax/jobs/bench_flops.py says what is counted); `score` and `sample` likewise, the
latter also the share of the memory bandwidth. Shapes: qwen2.5-0.5b, -1.5b, -7b.
"""

from configs import base

# layers, width, heads, key heads, head width, feed-forward, vocabulary, tied
SHAPES = {
  'qwen2.5-0.5b': (24, 896, 14, 2, 64, 4864, 151936, True),
  'qwen2.5-1.5b': (28, 1536, 12, 2, 128, 8960, 151936, True),
  'qwen2.5-7b': (28, 3584, 28, 4, 128, 18944, 152064, False),
}
SYSTEM = 'Please reason step by step, and put your final answer within \\boxed{}.'


def get_config(argument: str = 'decode'):
  mode, _, shape = argument.partition(',')
  c = base.get_config()
  c.job = 'bench'
  c.bench = mode
  c.text.max_length = 1024
  if mode == 'search_cache':
    c.bench_repeats = 9
    c.model.d_model, c.model.d_ff, c.model.n_layers = 128, 512, 4
    c.model.head_dim = 32
  c.sampling.max_tokens = 32 if mode == 'prefix_sharing' else 64
  if mode in ('sample', 'mc'):
    c.text.max_length = 4096
    c.text.end = ''  # every continuation has max_tokens tokens
    c.text.separator = '\n\n'
    c.text.question_template = (
      f'<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n'
      '{question}<|im_end|>\n<|im_start|>assistant\n'
    )
  c.head.kind, c.head.n_outputs = 'linear', 2
  c.train.batch_size = 8
  c.optimizer.peak_lr = 1e-4
  c.optimizer.schedule = 'constant'
  c.optimizer.warmup_steps = 0
  c.optimizer.b2 = 0.999
  c.optimizer.weight_decay = 0.0
  if mode == 'serve':
    m = c.model
    m.n_layers, m.d_model, m.n_heads, m.n_kv_heads = 2, 512, 8, 8
    m.head_dim, m.d_ff = 64, 2048
    c.bench_pairs = 3
  if shape:
    _random_weights(c, SHAPES[shape])
  return c


def _random_weights(c, shape):
  m = c.model
  (m.n_layers, m.d_model, m.n_heads, m.n_kv_heads, m.head_dim, m.d_ff) = shape[:6]
  c.bench_vocab, m.tied_embeddings = shape[6:]
  m.attention_bias = True
  m.rope_theta = 1e6
  m.compute_dtype = 'bfloat16'
  m.query_block = 512
  m.scan_layers = True
  m.remat = 'dots'
  if c.bench != 'train':
    m.param_dtype = 'bfloat16'
  c.bench_length = 2048 if c.bench == 'train' else 512
  c.bench_pairs = 1
