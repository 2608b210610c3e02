"""Inspect: print token | step | label for chosen rows of `input`."""

from __future__ import annotations

from prm_jax.errors import UserError
from prm_jax.formats import inspection
from prm_jax.jobs import assemble
from prm_jax.jobs.configuration import Command


def run(command: Command) -> None:
  """Prints the rows `rows=START:STOP` of `input` as the trainer would read them.

  Raises:
    UserError: no input, or no such rows.
  """
  config = command.config
  words = assemble.tokenizer(config)
  spec = assemble.spec(config, words)
  rows = assemble.load(config, config.input or config.data.train).trajectories
  start, stop = row_range(config.rows, len(rows))
  print(
    inspection.render(
      rows[start:stop], spec.step_format, words, config.data.label, allow_empty=True
    )
  )


def row_range(text: str, n: int) -> tuple[int, int]:
  """(start, stop) of 'START:STOP' or 'ROW' within n rows.

  Raises:
    UserError: not of that form, or outside.
  """
  first, colon, last = text.partition(':')
  try:
    start = int(first or 0)
    stop = (int(last) if last else n) if colon else start + 1
  except ValueError as e:
    raise UserError(f'rows={text!r}: give START:STOP, for example 0:3.') from e
  if not 0 <= start < min(stop, n):
    raise UserError(f'rows={text!r}: there are rows 0 to {n - 1}; choose among them.')
  return start, min(stop, n)
