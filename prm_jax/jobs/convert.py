"""Convert: read a public format into records, or export records to one."""

from __future__ import annotations

from prm_jax import files, records, writer
from prm_jax.data import sources
from prm_jax.errors import UserError
from prm_jax.formats import exporters, importers
from prm_jax.jobs import assemble
from prm_jax.jobs.configuration import Command


def run(command: Command) -> None:
  """Reads `input`, writes `output` as records or in the format `export`.

  Raises:
    UserError: no input or output, the output is there already, or a row that the
      export format cannot hold.
  """
  config = command.config
  if not config.input or not config.output:
    raise UserError(
      'convert needs --config.input=PATH:FORMAT and --config.output=FILE.jsonl.gz.'
    )
  files.check_new(config.output)
  mixture = assemble.load(config, config.input)
  for name, format in ((s.name, s.format) for s in mixture.sources):
    # What a public format is labelled with, not what is asked for of records.
    made = importers.FORMATS[format].label if format in importers.FORMATS else ''
    balance = sources.class_balance(mixture, made or config.data.label)[name]
    counters = {
      key.removeprefix(f'{name}/'): n
      for key, n in mixture.counters.items()
      if key.startswith(f'{name}/')
    }
    writer.say(f'{name}: {importers.describe({**balance, **counters})}')
  if config.export:
    written = exporters.write(
      config.output, mixture.trajectories, config.export, label=config.data.label
    )
  else:
    written = records.write(config.output, mixture.trajectories)
  writer.say(f'{config.output}: {written} rows written')
