"""Training states on disk (orbax).

    checkpoints/
      00001200/        one training state
        state/         arrays, written by orbax; on an object store by `shards`
        extra.json     what the caller saves beside it
        commit.json    size and SHA-256 of every file above; written last
      best/00000900/   the same, for the best value of a metric

A folder without `commit.json` was never finished and does not count. A finished one
whose files no longer agree with it is damaged: restore takes the one before and
says so. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from etils import epath
from jax.sharding import SingleDeviceSharding

from prm_jax import jsonl, shards
from prm_jax.errors import UserError
from prm_jax.parallel import distributed

COMMIT = 'commit.json'
EXTRA = 'extra.json'
VERSION = 1
# Files above this size are checked by size alone, so that a commit of a large model
# does not read everything back.
DIGEST_BYTES = 64 << 20
# What the operating system says when a place cannot take a file; tensorstore hands
# these on as text.
PLACE_ERRORS = tuple(
  os.strerror(n)
  for n in (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.ENOTDIR
  )
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class CheckpointPolicy:
  """When a state is saved and which ones stay.

  Attributes:
    every_seconds: save when this much time has passed since the last save; 0 never.
    every_steps: save every so many steps and keep those for ever; 0 never.
    keep_last: of the others, how many of the newest stay; two at least leave one to
      fall back to.
    best_mode: 'max' or 'min', which end of the metric of `save_best` is best.
  """

  every_seconds: float = 60.0
  every_steps: int = 0
  keep_last: int = 2
  best_mode: str = 'max'


class Restored(NamedTuple):
  """Attributes:
  state: the tree that was saved, placed as the abstract state asks.
  step: its number.
  extra: the dict saved beside it.
  metric: of a best state, its value; else None.
  note: one sentence if newer states were damaged or unfinished, else ''.
  """

  state: Any
  step: int
  extra: dict[str, Any]
  metric: float | None
  note: str


class Checkpointer:
  """Saves and restores trees of arrays; saving is synchronous, so errors surface.

  Args:
    directory: the folder; made at the first save.
    policy: see there.
    clock: seconds, for `due`.

  Raises:
    UserError: the policy is impossible.
  """

  def __init__(
    self,
    directory: str | os.PathLike[str],
    policy: CheckpointPolicy = CheckpointPolicy(),
    clock: Callable[[], float] = time.monotonic,
  ):
    if policy.keep_last < 1:
      raise UserError(
        f'checkpoint.keep_last is {policy.keep_last}; it must be at least 1.'
      )
    if policy.best_mode not in ('max', 'min'):
      raise UserError(
        f'checkpoint.best_mode is {policy.best_mode!r}; it must be max or min.'
      )
    self.directory = jsonl.place(directory)
    self.policy = policy
    self._clock = clock
    self._saved_at = clock()
    self._damaged: set[int] = set()

  def late(self) -> bool:
    """Whether more time has passed since the last save than the policy allows, by
    this process's clock."""
    seconds = self.policy.every_seconds
    return bool(seconds) and self._clock() - self._saved_at >= seconds

  def due(self, step: int, late: bool | None = None) -> bool:
    """Whether the policy asks for a save after `step` steps.

    Args:
      step: steps taken.
      late: what processes agreed on about `late()`; None asks this one's clock.
    """
    every = self.policy.every_steps
    return bool(every and step % every == 0) or (self.late() if late is None else late)

  def steps(self) -> list[int]:
    """Steps of the finished states, ascending."""
    return _committed(self.directory)

  def save(self, step: int, state: Any, extra: dict[str, Any] | None = None) -> None:
    """Saves `state`, then removes what the policy no longer keeps.

    Does nothing if the state of this step is there already.

    Args:
      state: tree of jax arrays, sharded in any way.
      extra: JSON-ready, saved beside it.

    Raises:
      UserError: the place cannot take it (disk full); older states are intact.
    """
    there = distributed.share(self.steps())
    if step not in there or step in self._damaged:
      _write(self.directory, step, state, extra or {}, None)
      self._damaged.discard(step)
    self._prune()
    self._saved_at = self._clock()

  def restore(self, abstract_state: Any) -> Restored | None:
    """The newest undamaged state, or None if none was ever finished.

    Args:
      abstract_state: tree of `jax.ShapeDtypeStruct`, with shardings for wherever the
        arrays shall live now (any mesh); without, they go to the first device.

    Raises:
      UserError: all states are damaged, or the newest sound one does not fit.
    """
    with distributed.lead() as first:
      found = self._sound() if first else None
    step, damaged, note = distributed.share(found)
    self._damaged.update(damaged)
    return None if step is None else _read(self.directory, step, abstract_state, note)

  def _sound(self) -> tuple[int | None, list[int], str]:
    """(newest sound state, those found damaged, what to say about it)."""
    notes = [
      f'checkpoint {_folder(self.directory, step)} was not finished'
      for step in _unfinished(self.directory)
    ]
    finished = self.steps()
    damaged: list[int] = []
    for step in reversed(finished):
      damage = _damage(_folder(self.directory, step))
      if not damage:
        if notes:
          notes.append(f'the one of step {step} is used')
        return step, damaged, '; '.join(notes)
      damaged.append(step)
      notes.append(f'checkpoint {_folder(self.directory, step)} is damaged ({damage})')
    if finished:
      raise UserError(
        f'{"; ".join(notes)}; no sound checkpoint is left in {self.directory}: remove '
        'that folder to start over.'
      )
    return None, damaged, ''

  def best(self) -> tuple[int, float] | None:
    """(step, metric) of the best state so far, or None; a meeting of all processes."""
    found = distributed.share(self._best() if jax.process_index() == 0 else None)
    return None if found is None else (found[0], found[1])

  def _best(self) -> tuple[int, float] | None:
    sign = 1 if self.policy.best_mode == 'max' else -1
    found = []
    for step in _committed(self.directory / 'best'):
      folder = _folder(self.directory / 'best', step)
      if not _damage(folder):
        found.append((sign * _commit_of(folder)['metric'], -step))
    if not found:
      return None
    metric, step = max(found)
    return -step, sign * metric

  def save_best(
    self, step: int, state: Any, metric: float, extra: dict[str, Any] | None = None
  ) -> bool:
    """Saves `state` as the best one if `metric` beats the one before; on a tie the
    earlier stays. A metric that is not finite never wins.

    Returns:
      Whether it was saved.

    Raises:
      UserError: the place cannot take it.
    """
    before = self.best()
    sign = 1 if self.policy.best_mode == 'max' else -1
    if not math.isfinite(metric):
      return False
    if before is not None and (sign * metric, -step) <= (sign * before[1], -before[0]):
      return False
    place = self.directory / 'best'
    _write(place, step, state, extra or {}, float(metric))
    for other in _committed(place) + _unfinished(place):
      if other != step:
        _remove(place, other)
    return True

  def restore_best(self, abstract_state: Any) -> Restored | None:
    """The best state, or None if none was saved; arguments as for `restore`."""
    best = self.best()
    if best is None:
      return None
    return _read(self.directory / 'best', best[0], abstract_state, '')

  def _prune(self) -> None:
    steps = [s for s in self.steps() if s not in self._damaged]
    every = self.policy.every_steps
    rolling = [s for s in steps if not every or s % every]
    gone = rolling[: -self.policy.keep_last]
    for step in [*gone, *self._damaged, *_unfinished(self.directory)]:
      _remove(self.directory, step)
    self._damaged.clear()


def _folder(place: epath.Path, step: int) -> epath.Path:
  return place / f'{step:08d}'


def _numbered(place: epath.Path) -> list[int]:
  if not place.is_dir():
    return []
  return sorted(int(p.name) for p in place.iterdir() if p.name.isdigit())


def _committed(place: epath.Path) -> list[int]:
  return [s for s in _numbered(place) if (_folder(place, s) / COMMIT).exists()]


def _unfinished(place: epath.Path) -> list[int]:
  return [s for s in _numbered(place) if not (_folder(place, s) / COMMIT).exists()]


def _remove(place: epath.Path, step: int) -> None:
  """Takes the commit away first: a kill half way leaves an unfinished folder."""
  folder = _folder(place, step)
  if jax.process_index() == 0 and folder.exists():
    (folder / COMMIT).unlink(missing_ok=True)
    folder.rmtree()


def _flat(tree: Any) -> dict[str, Any]:
  """{path: leaf}: what is on disk does not depend on the classes of the tree."""
  name = lambda path: jax.tree_util.keystr(path, simple=True, separator='.')
  return {name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def _describe(flat: dict[str, Any]) -> dict[str, str]:
  return {k: f'{v.dtype}{list(v.shape)}' for k, v in flat.items()}


def _files(folder: epath.Path) -> list[epath.Path]:
  out = []
  for item in sorted(folder.iterdir()):
    out += _files(item) if item.is_dir() else [item]
  return out


def _digest(file: epath.Path, size: int) -> str:
  return hashlib.sha256(file.read_bytes()).hexdigest() if size <= DIGEST_BYTES else ''


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Orbax logs the errors of its threads with tracebacks, and then raises them. After
  a failure the threads left behind report, for as long as they live, that nobody
  waits for them any more; what was raised is all that matters."""
  absl, level = logging.getLogger('absl'), logging.getLogger('absl').level
  asyncio, hook = logging.getLogger('asyncio'), sys.unraisablehook
  never = lambda record: 'exception was never retrieved' not in record.getMessage()

  def report(unraisable: Any) -> None:
    if 'Event loop is closed' not in str(unraisable.exc_value):
      hook(unraisable)

  absl.setLevel(logging.CRITICAL)
  asyncio.addFilter(never)
  sys.unraisablehook = report
  try:
    yield
    asyncio.removeFilter(never)
    sys.unraisablehook = hook
  finally:
    absl.setLevel(level)


def _write(
  place: epath.Path, step: int, state: Any, extra: dict, metric: float | None
) -> None:
  import orbax.checkpoint as ocp

  folder = _folder(place, step)
  flat = _flat(state)
  _remove(place, step)
  distributed.share(None)  # nobody writes before the old one is gone
  try:
    folder.mkdir(parents=True, exist_ok=True)
    if jsonl.is_remote(folder):
      shards.write(folder / 'state', flat)
      distributed.share(None)
    else:
      with _quiet(), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as orbax:
        orbax.save(folder / 'state', args=ocp.args.StandardSave(flat))
    if jax.process_index() == 0:
      text = json.dumps(extra, ensure_ascii=False, allow_nan=False)
      jsonl.write_bytes(folder / EXTRA, text.encode())
      sizes = {f: f.stat().length for f in _files(folder)}
      commit = {
        'version': VERSION,
        'step': step,
        'metric': metric,
        'arrays': _describe(flat),
        'files': {
          str(f.relative_to(folder)): [n, _digest(f, n)] for f, n in sizes.items()
        },
      }
      jsonl.write_bytes(folder / COMMIT, json.dumps(commit, indent=1).encode())
  except Exception as e:
    reason = _place_error(e)
    with contextlib.suppress(OSError):  # the failure to report is the first one
      _remove(place, step)
    if not reason:
      raise
    # Of writes that orbax had not begun; it would be said after the sentence.
    warnings.filterwarnings('ignore', 'coroutine .* was never awaited', RuntimeWarning)
    raise UserError(
      f'{folder}: the checkpoint of step {step} cannot be saved ({reason}); older ones '
      'are intact: make room there and run the same command again.'
    ) from e
  distributed.share(None)  # nobody goes on before it counts


def _place_error(error: Exception) -> str:
  """What is wrong with the place that was written to, '' if it is not the place."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  found = [text for text in PLACE_ERRORS if text in str(error)]
  return found[0] if found else ''


def _commit_of(folder: epath.Path) -> dict[str, Any]:
  return jsonl.parse_object((folder / COMMIT).read_bytes(), str(folder / COMMIT))


def _damage(folder: epath.Path) -> str:
  """What is wrong with a finished state, '' if nothing is."""
  try:
    files = _commit_of(folder)['files']
    for name, (size, digest) in files.items():
      file = folder / name
      if not file.exists():
        return f'{name} is missing'
      length = file.stat().length
      if length != size:
        return f'{name} has {length} bytes instead of {size}'
      if digest and _digest(file, length) != digest:
        return f'{name} has changed'
  except (UserError, OSError, KeyError, TypeError, ValueError) as e:
    return f'{COMMIT} cannot be read: {e}'.rstrip('.')
  return ''


def _read(place: epath.Path, step: int, abstract_state: Any, note: str) -> Restored:
  import orbax.checkpoint as ocp

  folder = _folder(place, step)
  commit = _commit_of(folder)
  flat = _flat(abstract_state)
  want = _describe(flat)
  for name in sorted({*want, *commit['arrays']}):
    held, asked = commit['arrays'].get(name, 'nothing'), want.get(name, 'nothing')
    if held != asked:
      raise UserError(
        f'{folder}: does not fit this config: {name} is {held} there and {asked} here; '
        'use the config it was saved with, or another --workdir.'
      )
  first = SingleDeviceSharding(jax.local_devices()[0])
  target = {
    name: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=getattr(x, 'sharding', None) or first
    )
    for name, x in flat.items()
  }
  if jsonl.is_remote(folder):
    arrays = shards.read(folder / 'state', target)
  else:
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as orbax:
      arrays = orbax.restore(folder / 'state', args=ocp.args.StandardRestore(target))
  state = jax.tree.unflatten(
    jax.tree.structure(abstract_state), [arrays[name] for name in flat]
  )
  extra = jsonl.parse_object((folder / EXTRA).read_bytes(), str(folder / EXTRA))
  return Restored(state, step, extra, commit['metric'], note)
