"""From a config to what samples solutions: engines, sampling, splitter, checker."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from ml_collections import ConfigDict

from prm_jax import files, specs, tensors, writer
from prm_jax.errors import UserError
from prm_jax.formats.answer_checker import Checker
from prm_jax.formats.splitting import Splitter
from prm_jax.inference.requests import Engine, Sampling
from prm_jax.jobs.configuration import build
from prm_jax.specs import TextFormat

KINDS = ('jax', 'remote')
REMOTE = (
  'url', 'model', 'concurrency', 'timeout', 'connect_timeout', 'retries', 'choices',
  'extensions', 'key_variable', 'name',
)  # fmt: skip


@dataclasses.dataclass
class Engines:
  """The engines of a job, one a local device, or one client of a server.

  Attributes:
    make: builds the engine of a worker.
    n: how many there may be.
    about: what their answers depend on, beside sampling; part of a chunk's key.
    separator: what joins steps.
    decode: token ids to text, None where the engine gives no ids.
  """

  make: Callable[[int], Engine]
  n: int
  about: dict[str, Any]
  separator: str
  decode: Callable[[Sequence[int]], str] | None

  def __post_init__(self) -> None:
    self._held: dict[int, Engine] = {}
    self._lock = threading.Lock()

  def get(self, worker: int) -> Engine:
    """The engine of a worker, made when it is first asked for."""
    with self._lock:
      if worker not in self._held:
        self._held[worker] = self.make(worker)
      return self._held[worker]

  def spent(self) -> int:
    """Tokens that all of them generated."""
    return sum(e.counters['decoded_tokens'] for e in list(self._held.values()))


def engines(config: ConfigDict) -> Engines:
  """The engines that `config.engine` describes.

  Raises:
    UserError: none is named, or it cannot be loaded.
  """
  section = config.engine
  if section.kind not in KINDS:
    raise UserError(
      f'engine.kind={section.kind!r}: it must be one of {", ".join(KINDS)}.'
    )
  return _remote(config) if section.kind == 'remote' else _local(config)


def _local(config: ConfigDict) -> Engines:
  import jax

  from prm_jax import exports
  from prm_jax.inference.engine import JaxEngine

  section = config.engine
  if not section.policy:
    raise UserError(
      'engine.policy names no policy; give the workdir of a train run with objective '
      'next_token (configs/policy.py), or engine.kind=remote and engine.url.'
    )
  spec, params, words = exports.load_policy(files.policy_folder(section.policy))
  digest = tensors.model_hash(params)
  devices = jax.local_devices()
  if not 0 <= config.parallel.data <= len(devices):
    raise UserError(
      f'parallel.data={config.parallel.data}: there are {len(devices)} devices; give '
      'at most as many, or 0 for all.'
    )
  options = {'slots': section.slots, 'group': section.group}
  name = section.name or f'policy@{digest[:12]}'

  def make(worker: int) -> Engine:
    engine = JaxEngine(
      spec, params, words, device=devices[worker], name=name, **options
    )
    return cast(Engine, engine)

  about = {'model_hash': digest, 'spec': specs.to_dict(spec), 'name': name, **options}
  return Engines(
    make,
    config.parallel.data or len(devices),
    about,
    spec.text_format.separator,
    words.decode,
  )


def _remote(config: ConfigDict) -> Engines:
  from prm_jax.inference.remote import RemoteEngine

  section, fmt = config.engine, build(TextFormat, 'text', config.text)
  options = {key: section[key] for key in REMOTE}
  engine = cast(
    Engine, RemoteEngine(options.pop('url'), options.pop('model'), fmt, **options)
  )
  writer.say(
    f'{section.url}: a server promises no bytes; what it gives again may differ'
  )
  about = {'model': section.model, 'text': specs.to_dict(fmt), 'name': engine.name}
  return Engines(lambda worker: engine, 1, about, fmt.separator, None)


def sampling(config: ConfigDict) -> Sampling:
  """How tokens are drawn; entropies are asked for where steps are split by them.

  Raises:
    UserError: a value that means nothing.
  """
  return build(
    Sampling,
    'sampling',
    config.sampling,
    seed=config.seed,
    entropy=config.splitting.how == 'entropy',
  )


def splitter(config: ConfigDict, separator: str) -> Splitter:
  """How responses become steps; `separator` is the policy's own.

  Raises:
    UserError: a way that does not exist, or options that do not fit it.
  """
  held = build(Splitter, 'splitting', config.splitting, separator=separator)
  own = config.splitting.separator
  return dataclasses.replace(held, separator=own) if own else held


def checker(config: ConfigDict) -> Checker:
  """The answer checker of the config, a context manager.

  Raises:
    UserError: an unknown policy or a limit that means nothing.
  """
  return Checker(**checks(config))


def checks(config: ConfigDict) -> dict[str, Any]:
  """How answers are checked, JSON-ready."""
  return {k: [*v] if isinstance(v, tuple) else v for k, v in config.answers.items()}


def counted(
  engine: Engine, before: Mapping[str, int]
) -> tuple[dict[str, int], dict[str, int]]:
  """What an engine counted since `before`: (of the chunk, of this process alone)."""
  grown = {k: n - before.get(k, 0) for k, n in engine.counters.items()}
  timing = {k: grown.pop(k) for k in ('compilations',) if k in grown}
  return {f'engine/{k}': n for k, n in grown.items()}, timing


def refuse_unfinished(path: str) -> None:
  """Refuses the output folder of a chunked job that has not finished.

  Raises:
    UserError: chunks are there and no results.
  """
  work = os.path.dirname(os.path.abspath(path.rstrip('/')))
  if os.path.isdir(os.path.join(work, 'chunks')) and not os.path.exists(
    os.path.join(work, 'results.json')
  ):
    raise UserError(
      f'{path}: the job that writes it has not finished; run its command to the end '
      'first.'
    )
