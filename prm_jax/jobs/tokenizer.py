"""Tokenizer: train a small byte-level BPE on the text of `input`."""

from __future__ import annotations

from prm_jax import files, writer
from prm_jax.errors import UserError
from prm_jax.formats import tokenizers
from prm_jax.jobs import assemble
from prm_jax.jobs.configuration import Command


def run(command: Command) -> None:
  """Trains on questions and steps of `input` and writes `output` (tokenizer.json).

  Raises:
    UserError: no input or output, the output is there already, no text, or a
      vocabulary below the 256 bytes.
  """
  config = command.config
  if not config.input or not config.output:
    raise UserError(
      'tokenizer needs --config.input=PATH:FORMAT and --config.output=FOLDER/'
      f'{tokenizers.FILE}.'
    )
  files.check_new(config.output)
  rows = assemble.load(config, config.input).trajectories
  # A question is asked of many solutions and a prefix shared by many: each text
  # counts once, in order of first appearance.
  texts = dict.fromkeys(text for t in rows for text in (t.question, *t.steps))
  trained = tokenizers.train_bpe(texts, config.vocab_size, config.output)
  some = list(texts)[:1000]
  tokens = sum(len(trained.encode(text)) for text in some)
  size = sum(len(text.encode()) for text in some)
  writer.say(
    f'{config.output}: {trained.vocab_size} tokens, '
    f'{size / max(tokens, 1):.2f} bytes a token on the first {len(some)} texts'
  )
