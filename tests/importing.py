"""Hand-written rows of public formats, written to a file and imported."""

import json

import pytest

from prm_jax.errors import UserError
from prm_jax.formats import importers
from prm_jax.formats.label_policy import ImportOptions


def read(tmp_path, format, rows, name='rows.jsonl', **options):
  """(trajectories, counters) of rows written as JSON lines, or as one .json value."""
  path = tmp_path / name
  lines = isinstance(rows, list) and not name.endswith('.json')
  path.write_text('\n'.join(map(json.dumps, rows)) if lines else json.dumps(rows))
  return importers.read(str(path), format, ImportOptions(**options))


def refusal(tmp_path, format, row, **options):
  """The sentence that refuses a row, without the place; it names line 1."""
  with pytest.raises(UserError) as e:
    read(tmp_path, format, [row], **options)
  message = str(e.value)
  place = f'{tmp_path}/rows.jsonl:1: '
  assert message.startswith(place) and '\n' not in message
  return message.removeprefix(place)
