"""Trained models as plain folders: what scoring or sampling needs, no optimizer.

    spec.json           kind, model hash, tokenizer fingerprint, spec; written last
    model.safetensors   weights
    tokenizer.json      unless the tokenizer is built in
    calibration.json    scorers, once one was fitted: from scores to probabilities

A folder is a scorer or a policy and says which; one that is incomplete, damaged or
of the other kind is refused.
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any, TypeVar

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from prm_jax import calibration_maps, jsonl, specs, tensors
from prm_jax.calibration_maps import CalibrationMap
from prm_jax.errors import UserError
from prm_jax.formats import step_format, tokenizers
from prm_jax.formats.tokenizers import Tokenizer
from prm_jax.models import lm, weights
from prm_jax.records import SCORE_KINDS
from prm_jax.specs import PolicySpec, ScorerSpec
from prm_jax.step_values import REDUCTIONS, VALUES

SPEC = 'spec.json'
WEIGHTS = 'model.safetensors'
CALIBRATION = 'calibration.json'
VERSION = 1
S = TypeVar('S', ScorerSpec, PolicySpec)
# What of a model may differ from the one that it starts from.
FREE = (
  'scan_layers', 'remat', 'param_dtype', 'compute_dtype', 'query_block', 'attention',
)  # fmt: skip
KINDS: dict[type, str] = {ScorerSpec: 'scorer', PolicySpec: 'policy'}


def save_scorer(
  directory: str | os.PathLike[str], spec: ScorerSpec, params: Any, tokenizer: Tokenizer
) -> str:
  """Writes the folder of a scorer.

  Args:
    params: tree of arrays, sharded in any way; only process 0 writes.

  Returns:
    The model hash.

  Raises:
    UserError: the place cannot be written.
  """
  return _save(directory, spec, params, tokenizer)


def save_policy(
  directory: str | os.PathLike[str], spec: PolicySpec, params: Any, tokenizer: Tokenizer
) -> str:
  """Writes the folder of a policy; as `save_scorer`."""
  return _save(directory, spec, params, tokenizer)


def load_scorer(
  directory: str | os.PathLike[str], shardings: Any = None
) -> tuple[ScorerSpec, dict[str, Any], Tokenizer]:
  """(spec, params, tokenizer) of a scorer's folder.

  Args:
    directory: the folder.
    shardings: tree of shardings like the parameters, or a function that makes it of
      the declared weights; each weight goes onto it as soon as it is read. None
      leaves numpy arrays on the host.

  Raises:
    UserError: no scorer is there, or it is damaged, incomplete or inconsistent.
  """
  return _load(directory, ScorerSpec, shardings)


def load_policy(
  directory: str | os.PathLike[str], shardings: Any = None
) -> tuple[PolicySpec, dict[str, Any], Tokenizer]:
  """(spec, params, tokenizer) of a policy's folder; otherwise as `load_scorer`.

  Raises:
    UserError: no policy is there, or it is damaged, incomplete or inconsistent.
  """
  return _load(directory, PolicySpec, shardings)


def save_calibration(directory: str | os.PathLike[str], fitted: CalibrationMap) -> None:
  """Writes `calibration.json` into a scorer's folder, over an earlier one.

  Raises:
    UserError: the place cannot be written.
  """
  text = json.dumps({'version': VERSION, **fitted.to_dict()}, indent=1)
  jsonl.write_bytes(jsonl.place(directory) / CALIBRATION, (text + '\n').encode())


def load_calibration(
  directory: str | os.PathLike[str], model_hash: str = ''
) -> CalibrationMap:
  """The map stored in a scorer's folder.

  Args:
    directory: the folder.
    model_hash: of the scorer; '' does not check.

  Raises:
    UserError: there is none, it is damaged, or it belongs to other weights.
  """
  file = jsonl.place(directory) / CALIBRATION
  if not file.exists():
    raise UserError(
      f'{directory}: no {CALIBRATION} there; fit one with '
      '--config=configs/calibrate.py.'
    )
  about = jsonl.parse_object(jsonl.read_bytes(file), str(file))
  about.pop('version', None)
  fitted = calibration_maps.from_dict(about, str(file))
  if model_hash and fitted.model_hash != model_hash:
    raise UserError(
      f'{file}: fitted to the scores of other weights (another hash); fit it again '
      'with --config=configs/calibrate.py.'
    )
  return fitted


def _save(
  directory: str | os.PathLike[str],
  spec: ScorerSpec | PolicySpec,
  params: Any,
  tokenizer: Tokenizer,
) -> str:
  folder = jsonl.place(directory)
  digest = tensors.model_hash(params)
  tensors.write(folder / WEIGHTS, params)
  if jax.process_index() == 0:
    spec = dataclasses.replace(spec, tokenizer=tokenizer.save(folder))
    about = {
      'version': VERSION,
      'kind': KINDS[type(spec)],
      'model_hash': digest,
      'tokenizer_fingerprint': tokenizer.fingerprint,
      'spec': specs.to_dict(spec),
    }
    jsonl.write_bytes(folder / SPEC, (json.dumps(about, indent=1) + '\n').encode())
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('model exported')
  return digest


def _load(
  directory: str | os.PathLike[str], cls: type[S], shardings: Any
) -> tuple[S, dict[str, Any], Tokenizer]:
  kind = KINDS[cls]
  folder = jsonl.place(directory)
  file = folder / SPEC
  if not file.exists():
    raise UserError(
      f'{folder}: no {SPEC} there, so it is no exported {kind}; give the folder '
      f'"{kind}" of a finished train run.'
    )
  about = jsonl.parse_object(jsonl.read_bytes(file), str(file))
  for key in ('spec', 'model_hash', 'tokenizer_fingerprint'):
    if key not in about:
      raise UserError(f'{file}: {key!r} is missing; export the {kind} again.')
  # Scorers exported before there were policies do not name their kind.
  held = about.get('kind', 'scorer')
  if held != kind:
    raise UserError(
      f'{folder}: holds a {held}, where a {kind} is needed; give the folder "{kind}" '
      'of a train run that made one.'
    )
  spec = specs.from_dict(cls, about['spec'], f'{file}: spec')
  head = spec.head if isinstance(spec, ScorerSpec) else lm.HEAD
  declared = weights.declare(spec.model, head)
  places = shardings(declared) if callable(shardings) else shardings
  params, digest = _read(folder / WEIGHTS, declared, places)
  if digest != about['model_hash']:
    raise UserError(
      f'{folder / WEIGHTS}: not the weights that {SPEC} describes (another hash); '
      f'export or copy the {kind} again.'
    )
  own = spec.tokenizer == 'bytes'
  tokenizer = tokenizers.load('bytes' if own else str(folder / spec.tokenizer))
  if tokenizer.fingerprint != about['tokenizer_fingerprint']:
    raise UserError(
      f'{folder}: not the tokenizer that the model was trained with (another '
      f'fingerprint); export or copy the {kind} again.'
    )
  if isinstance(spec, ScorerSpec):
    check_reading(spec, tokenizer, f'{file}: spec')
  return spec, params, tokenizer


def check_reading(spec: ScorerSpec, tokenizer: Tokenizer, where: str) -> None:
  """Refuses a stored spec that says of no step where and how it is read.

  Args:
    spec, tokenizer: of a scorer's folder.
    where: names the file and the place in it.

  Raises:
    UserError: a name is unknown, the head has other outputs than its step value
      takes, or the format cannot work.
  """
  for key, known in (
    ('step_value', VALUES), ('kind', SCORE_KINDS), ('reduction', REDUCTIONS)
  ):  # fmt: skip
    if (value := getattr(spec, key)) not in known:
      raise UserError(f'{where}.{key}={value!r} must be one of {", ".join(known)}.')
  head = spec.head
  more = {'scalar': (), 'mlp': (2,), 'label_tokens': (len(head.label_tokens),)}
  outputs = np.zeros((1, 1, *more.get(head.kind, (head.n_outputs,))))
  try:
    VALUES[spec.step_value](outputs)
    step_format.check(spec.step_format, tokenizer, head=head)
  except ValueError as e:
    raise UserError(f'{where}.step_value={spec.step_value!r}: {e}') from e
  except UserError as e:
    raise UserError(f'{where}: {e}') from e


def _read(
  path: epath.Path, declared: dict[str, Any], shardings: Any
) -> tuple[dict[str, Any], str]:
  """(parameters, model hash) of a file; the hash is taken on the way."""
  file = tensors.TensorFile(path)
  shapes = {n: jax.ShapeDtypeStruct(file.shape(n), file.dtype(n)) for n in file.names}
  weights.check(tensors.unflatten(shapes), declared, str(path))
  places = None if shardings is None else tensors.flatten(shardings)
  digest, flat = tensors.Hash(), {}
  for name in sorted(file.names):
    array = file.read(name)
    digest.add(name, array)
    flat[name] = array if places is None else tensors.place(array, places[name])
  return tensors.unflatten(flat), digest.hexdigest()
