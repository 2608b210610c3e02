"""Export: a trained scorer or policy as a Hugging Face checkpoint."""

from __future__ import annotations

import json
import os
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from prm_jax import exports, files, jsonl, writer
from prm_jax.errors import UserError
from prm_jax.interop import public, saving
from prm_jax.jobs.configuration import Command


def run(command: Command) -> None:
  """Reads the model of `input`, writes the folder `output`.

  Raises:
    UserError: a key is missing, no model is there, the layout cannot hold it, or it
      would be written over itself or over another.
  """
  config = command.config
  if not config.input or not config.output:
    raise UserError('export needs --config.input=WORKDIR and --config.output=FOLDER.')
  if os.path.realpath(config.input) == os.path.realpath(config.output):
    raise UserError(
      f'{config.output}: is what would be exported; give another --config.output.'
    )
  spec, params, words = _load(config)
  digest = saving.save(
    config.output,
    spec,
    params,
    words,
    layout=config.export or saving.LAYOUTS[0],
    dtype=config.export_dtype,
    family=config.export_family,
    max_positions=config.export_positions,
    origin=_origin(config.input),
  )
  writer.say(f'{config.output}: written, model {digest[:12]}')


def _load(config: ConfigDict) -> Any:
  """(spec, parameters, tokenizer) of a policy's folder, or of any scorer."""
  folder = files.model_folder(config.input)
  held = epath.Path(folder) / exports.SPEC
  if held.exists():
    about = jsonl.parse_object(jsonl.read_bytes(held), str(held))
    if about.get('kind') == exports.KINDS[exports.PolicySpec]:
      return exports.load_policy(folder)
  found = public.load_scorer(
    config.input,
    adapter=config.scorer_adapter,
    dtype=config.scorer_dtype,
    separator=config.scorer_separator,
  )
  return found[:3]


def _origin(path: str) -> dict[str, Any]:
  """What the workdir of a train run knows for the model card."""
  out: dict[str, Any] = {}
  for name, key, ours in (
    ('config.json', 'model.init_from', 'base'),
    ('results.json', 'metrics', 'metrics'),
  ):
    file = epath.Path(os.path.join(path, name))
    if file.exists():
      found = json.loads(file.read_text())
      out[ours] = found.get(key) if isinstance(found, dict) else None
  return out
