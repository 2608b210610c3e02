r"""A process reward model behind HTTP.

    pip install "starlette>=1.10.0" "uvicorn>=0.54.0"
    python -m prm_jax.main --config=configs/serve.py --config.scorer=runs/pqm

It listens on 127.0.0.1:8000 (`serve.host`, `serve.port`; port 0 takes a free one and
says which) and answers

    POST /score       {"question": "...", "steps": ["...", ...]}, or a list of such:
                      the numbers that the score job gives, and their reduction
    POST /pooling     vLLM's form for process reward models (task token_classify):
                      [P(wrong), P(right)] at every step tag of a text, of ids, or of
                      a conversation
    POST /get_reward  OpenRLHF's form, {"query", "prompts", "labels"}: one reward a
                      sample, and the step scores beside it
    GET /health, /v1/models

    curl -s localhost:8000/score -H 'content-type: application/json' \
        -d '{"question": ">3+4-2=?", "steps": ["+4=7", "-2=5"]}'

/get_reward must know how the policy writes: `text.question_template` (how its prompts
are made of a question), `text.end` and `splitting`. For a Qwen policy:

    --config.text.question_template=$'<|im_start|>user\n{question}<|im_end|>\n'\
        $'<|im_start|>assistant\n' --config.text.end='<|im_end|>' \
        --config.text.separator=$'\n\n'

A sample without steps, or too long, is refused, unless `serve.unusable_reward` says
what it is worth. Token rewards: prm_jax/rewards.py. For a public PRM give the keys
scorer_* as in configs/score.py.

Requests share batches and the answers do not depend on it. The first requests of a
length wait for its compilation. A batch has a fixed number of rows, so on an
accelerator with few clients `scorer_batch_tokens` (4096, say) shortens the wait; the
score job takes the same key, and with the same value gives the same numbers.

SIGTERM: what was accepted is answered, new connections are refused, exit code 0; 75 if
requests were left after `serve.drain_seconds`.
"""

from configs import base


def get_config():
  c = base.get_config()
  c.job = 'serve'
  return c
