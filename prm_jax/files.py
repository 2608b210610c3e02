"""Every file of a workdir.

    WORKDIR/
      config.json      resolved config of the run
      metrics.jsonl    one object a logged step; wall-clock figures under time/
      results.json     metrics with intervals, counters, provenance
      report.html      the same for people (train and evaluate)
      samples/         per-sample JSON lines
      checkpoints/     training states, see `checkpoint.py`
      scorer/          the trained model: spec, weights, tokenizer
      policy/          the same of a train run with objective next_token
      cache/           token caches
      solutions/, labelled/, rollouts/, trees/, scored/, chunks/, timing.jsonl
                       what chunked jobs write, see `jobs/chunks.py`

Files are written whole or not at all; what a kill left half written under a temporary
name is removed when the workdir is opened again. A run holds a lock on its workdir, so
a second job in the same place is refused; shards of one job may share it. On an object
store (gs://, s3://: training only) a lease stands for the lock, see `lease.py`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from etils import epath

from prm_jax import jsonl, lease
from prm_jax.errors import UserError

SCHEMA_VERSION = 1
# Sections and keys that may differ when a run is taken up again in the same workdir.
CHANGEABLE = ('parallel', 'logging', 'profile', 'shard', 'plan_only')
# How a study's finished runs are shown, and how many run at once.
SHOWN = ('study.metrics', 'study.reference', 'study.processes')
# What a run leaves before it has done anything: such a workdir takes another config.
PREPARATIONS = frozenset(('config.json', 'cache', lease.FILE, '.processes'))
_READ = ('results.json', 'table.md', 'curves.jsonl', 'report.html')  # by people
_WORLD = re.compile(r'\bworld(_exact)?:train\b')
LOCK_SECONDS = 10.0  # a shard waits so long for another one's start
LIBRARIES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')


def check_new(path: str | os.PathLike[str], key: str = '--config.output') -> None:
  """Refuses a file to be written where one is: no job knows what it was to others.

  Args:
    path: of what would be written.
    key: what on the command line names it.

  Raises:
    UserError: something is there.
  """
  if epath.Path(path).exists():
    raise UserError(f'{path}: is there already; give another {key}, or remove it.')


def check_ending(path: str, ending: str, key: str = '--config.output') -> None:
  """Refuses a name that does not say what is written.

  Raises:
    UserError: it ends in something else.
  """
  if not path.endswith(ending):
    raise UserError(f'{key}={path}: give it a name that ends in {ending}.')


class Workdir:
  """The folder of one run; make it with `open_workdir`.

  Args:
    path: the folder.
    key: what on the command line gives another one.
  """

  def __init__(self, path: str | os.PathLike[str], key: str = '--workdir'):
    self.key = key
    self.path = jsonl.place(path) if jsonl.is_remote(path) else epath.Path(path)

  def __truediv__(self, name: str) -> epath.Path:
    return self.path / name

  def write_json(self, name: str, value: Any) -> None:
    """Writes `value` as indented JSON, atomically; NaN is refused (ValueError)."""
    text = json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False)
    jsonl.write_bytes(self.path / name, (text + '\n').encode())

  def read_json(self, name: str) -> Any:
    """Parsed JSON file, or None if it is not there."""
    file = self.path / name
    return jsonl.parse_json(file.read_bytes(), str(file)) if file.exists() else None

  def write_samples(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
    """Writes `samples/NAME.jsonl.gz`, atomically."""
    jsonl.write_json_lines(self.path / 'samples' / f'{name}.jsonl.gz', rows)

  def where(self) -> str:
    """'runs/x: results.json, report.html', the last line of a job: what to read."""
    return f'{self.path}: ' + ', '.join(n for n in _READ if (self / n).exists())

  def write_results(
    self,
    job: str,
    metrics: Mapping[str, Mapping[str, Any]],
    counters: Mapping[str, int],
    provenance: Mapping[str, Any],
    **more: Any,
  ) -> None:
    """Writes `results.json`.

    Args:
      job: name of the job.
      metrics: path -> {'value', 'low', 'high', 'n'}; a value that is undefined is
        null and has a counter that says why.
      counters: path -> count of everything dropped, refused or unjudged.
      provenance: see `provenance`.
      **more: further sections (for example judged_by).
    """
    self.write_json(
      'results.json',
      {
        'schema_version': SCHEMA_VERSION,
        'job': job,
        'metrics': dict(metrics),
        'counters': dict(counters),
        'provenance': dict(provenance),
        **more,
      },
    )


@contextlib.contextmanager
def open_workdir(
  path: str,
  config: Mapping[str, Any],
  shard: tuple[int, int] = (0, 1),
  key: str = '--workdir',
) -> Iterator[Workdir]:
  """Makes or takes up the workdir of a run and holds its lock.

  Args:
    path: the folder.
    config: flat, JSON-ready config (`configuration.flatten`).
    shard: (i, n) of a job whose n shards may run in this workdir at once, each in a
      process of its own.
    key: what on the command line gives another folder.

  Raises:
    UserError: the folder cannot be written, another job runs in it, or it holds a
      run of another config (the key that differs is named). A run that was refused
      before it began leaves nothing that binds the next one.
  """
  if jsonl.is_remote(path):
    with _on_store(path, config) as work:
      yield work
    return
  work = Workdir(path, key)
  with contextlib.ExitStack() as held:

    def opened(name: str) -> IO[str]:
      return held.enter_context(open(Path(path) / name, 'a+'))

    try:
      work.path.mkdir(parents=True, exist_ok=True)
      whole = opened('.lock')
      alone = _lock(whole, fcntl.LOCK_EX)
      if not alone and not (shard[1] > 1 and _wait_for(whole, fcntl.LOCK_SH)):
        raise _busy(work)
      if shard[1] > 1:
        if not _lock(opened(f'.lock.{shard[0]}-of-{shard[1]}'), fcntl.LOCK_EX):
          raise _busy(work)
        # Shards of another division would do the same chunks.
        for other in Path(path).glob('.lock.*-of-*'):
          same = other.name.endswith(f'-of-{shard[1]}')
          if not same and not _lock(opened(other.name), fcntl.LOCK_EX):
            raise _busy(work)
    except OSError as e:
      raise UserError(
        f'{path}: cannot be used as a workdir ({e.strerror or e}); give another {key}.'
      ) from e
    check_config(work, config, alone)
    if alone:
      _sweep(path)
    work.write_json('config.json', dict(config))
    if shard[1] > 1:
      _lock(whole, fcntl.LOCK_SH)
    yield work


@contextlib.contextmanager
def _on_store(path: str, config: Mapping[str, Any]) -> Iterator[Workdir]:
  """`open_workdir` on an object store: a lease instead of a lock."""
  try:
    work = Workdir(path)
    work.read_json('config.json')
  except (ImportError, OSError) as e:
    raise UserError(
      f'{path}: this object store cannot be used ({e}); install s3fs or gcsfs, check '
      'the credentials, or give a local --workdir.'
    ) from e
  with lease.hold(work.path):
    check_config(work, config, True)
    work.write_json('config.json', dict(config))
    yield work


def _lock(file: IO[str], how: int) -> bool:
  """Whether the lock was free."""
  try:
    fcntl.flock(file, how | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  return True


def _wait_for(file: IO[str], how: int) -> bool:
  """As `_lock`, with patience for a shard that holds it while it looks around."""
  until = time.monotonic() + LOCK_SECONDS
  while not _lock(file, how):
    if time.monotonic() > until:
      return False
    time.sleep(0.05)
  return True


def _busy(work: Workdir) -> UserError:
  return UserError(
    f'{work.path}: another job is running in this workdir; wait for it or give '
    f'another {work.key}.'
  )


def _sweep(path: str) -> None:
  """Removes what a kill left half written, except in workdirs that lie within: other
  jobs may run there."""
  for name, below, files in os.walk(path):
    folder = Path(name)
    below[:] = [b for b in below if not (folder / b / '.lock').exists()]
    for file in filter(jsonl.half_written, files):
      with contextlib.suppress(OSError):  # it is in nobody's way
        (folder / file).unlink()


def _is_preparation(name: str) -> bool:
  return (
    name in PREPARATIONS
    or name.startswith('.lock')
    or jsonl.half_written(name) is not None
  )


def check_config(work: Workdir, config: Mapping[str, Any], alone: bool = False) -> None:
  """Refuses a workdir that holds a run of another config.

  Args:
    work: the workdir.
    config: flat, JSON-ready config.
    alone: nothing else runs there, so that what a run left which has not done anything
      does not count.

  Raises:
    UserError: names the key that differs.
  """
  held = work.read_json('config.json')
  if held is None:
    return
  if alone and all(_is_preparation(p.name) for p in work.path.iterdir()):
    return
  new = json.loads(json.dumps(dict(config)))
  n_rows = _world_rows(held)
  same_rows = n_rows == _world_rows(new)
  for key in sorted({*held, *new}):
    if key.partition('.')[0] in CHANGEABLE or key in SHOWN:
      continue
    if held.get(key) == new.get(key):
      continue
    if key == 'world.n_train' and n_rows and same_rows:
      continue
    grows = (
      key == 'train.steps'
      and new.get('optimizer.horizon', 0) > 0
      and new[key] >= held[key]
    )
    if grows and same_rows:
      continue
    if grows:
      raise UserError(
        f'{work.path}: train.steps cannot grow from {held[key]} to {new[key]} with '
        f'world.n_train={new["world.n_train"]}, because all batches would change with '
        f'the number of training rows; give world.n_train={n_rows}, which is theirs.'
      )
    raise UserError(
      f'{work.path}: this workdir holds a run with {key}={held.get(key)!r}, now it is '
      f'{new.get(key)!r}; give another {work.key}, or the old value to resume.'
    )


def _world_rows(config: Mapping[str, Any]) -> int:
  """How many rows of the embedded world are trained on (`assemble.world`), 0 for none:
  which rows make a batch depends on it."""
  if not _WORLD.search(config.get('data.train', '')):
    return 0
  fresh = config['train.steps'] * config['train.batch_size']
  return config['world.n_train'] or fresh


def provenance(command: str, seed: int, **more: Any) -> dict[str, Any]:
  """Where a result comes from: versions, git revision, seed, device, command."""
  import jax

  device = jax.devices()[0]
  return {
    'command': command,
    'seed': seed,
    'prm_jax': _version('prm_jax'),
    'git_revision': git_revision(),
    'libraries': {name: _version(name) for name in LIBRARIES},
    'device': f'{jax.device_count()} x {device.device_kind} ({device.platform})',
    **more,
  }


def _version(name: str) -> str:
  try:
    return metadata.version(name)
  except metadata.PackageNotFoundError:
    return 'not installed'


def git_revision() -> str:
  """Revision of the source tree, with '+changes' if it differs; '' outside git."""
  here = Path(__file__).resolve().parent

  def git(*words: str) -> str:
    done = subprocess.run(
      ['git', '-C', str(here), *words],
      capture_output=True, text=True, timeout=10, check=False,
    )  # fmt: skip
    return done.stdout.strip() if done.returncode == 0 else ''

  try:
    if Path(git('rev-parse', '--show-toplevel') or '/nowhere') != here.parent:
      return ''
    revision = git('rev-parse', '--short=12', 'HEAD')
    return revision + ('+changes' if git('status', '--porcelain', '-uno') else '')
  except (OSError, subprocess.SubprocessError):
    return ''


def scorer_folder(path: str) -> str:
  """The exported scorer of a train run's workdir, or the folder itself if it is one."""
  inside = os.path.join(path, 'scorer')
  return inside if os.path.isdir(inside) else path


def policy_folder(path: str) -> str:
  """The exported policy of a train run's workdir, or the folder itself if it is one."""
  inside = os.path.join(path, 'policy')
  return inside if os.path.isdir(inside) else path


def model_folder(path: str) -> str:
  """The exported scorer or policy of a train run's workdir, or the folder itself."""
  inside = scorer_folder(path)
  return policy_folder(path) if inside == path else inside
