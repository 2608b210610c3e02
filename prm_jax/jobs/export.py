"""Export: a trained scorer or policy as a Hugging Face checkpoint."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from prm_jax import exports, files, jsonl, writer
from prm_jax.calibration_maps import CalibrationMap
from prm_jax.errors import UserError
from prm_jax.formats.tokenizers import Tokenizer
from prm_jax.interop import checkpoints, public, saving
from prm_jax.interop.public import About
from prm_jax.jobs.configuration import Command


def run(command: Command) -> None:
  """Reads the model of `input`, writes the folder `output`, with the calibration stored
  beside a scorer if that is of the weights as they are exported.

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
  spec, params, words, about = _load(config)
  fitted = _calibration(config, params, about)
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
  if fitted is not None:
    # The export is known by another digest than what was exported.
    held = public.sampled_digest(checkpoints.open_checkpoint(config.output))
    exports.save_calibration(
      config.output, dataclasses.replace(fitted, model_hash=held)
    )
  note = f', with its {exports.CALIBRATION}' if fitted is not None else ''
  writer.say(f'{config.output}: written, model {digest[:12]}{note}')


def _load(config: ConfigDict) -> tuple[Any, Any, Tokenizer, About | None]:
  """Spec, parameters, tokenizer of a policy's folder, or of any scorer, of which it
  also says where it comes from."""
  folder = files.model_folder(config.input)
  held = epath.Path(folder) / exports.SPEC
  if held.exists():
    about = jsonl.parse_object(jsonl.read_bytes(held), str(held))
    if about.get('kind') == exports.KINDS[exports.PolicySpec]:
      return *exports.load_policy(folder), None
  return public.load_scorer(
    config.input,
    adapter=config.scorer_adapter,
    dtype=config.scorer_dtype,
    separator=config.scorer_separator,
  )


def _calibration(
  config: ConfigDict, params: Any, about: About | None
) -> CalibrationMap | None:
  """The map stored beside a scorer, None if there is none or it may not hold for the
  export, which is said.

  Raises:
    UserError: it is damaged.
  """
  if about is None or not (epath.Path(about.folder) / exports.CALIBRATION).exists():
    return None
  fitted = exports.load_calibration(about.folder)
  stored = {str(w.dtype) for w in jax.tree.leaves(params)}
  as_is = not config.export_dtype or stored == {config.export_dtype}
  if as_is and not config.scorer_dtype and fitted.model_hash == about.digest:
    return fitted
  writer.say(
    f'{about.folder}/{exports.CALIBRATION}: is left out, it was fitted to the scores '
    'of other weights, or in another dtype; fit one to the export with '
    '--config=configs/calibrate.py'
  )
  return None


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
