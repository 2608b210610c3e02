"""Where rows come from: files of any format, the embedded world, and mixtures.

A source is written `[name=]path[:format][@weight]`:

    runs/label/labelled.jsonl                    our own records
    shepherd=math_shepherd.jsonl:math_shepherd@0.5
    world:train                                  a split of the embedded world
    world_exact:train                            its problems, solved exactly

A source with weight w and n usable rows gives floor(w n + 1/2) rows to each epoch:
every row floor(w) times, and the rest by a draw without replacement that differs
from epoch to epoch (`prm_jax.data.epoch_plan`).
"""

from __future__ import annotations

import dataclasses
import glob
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from prm_jax import records
from prm_jax.errors import UserError
from prm_jax.formats import importers, label_policy
from prm_jax.formats.label_policy import ImportOptions
from prm_jax.records import Trajectory
from prm_jax.worlds import arithmetic
from prm_jax.worlds import noise as noises
from prm_jax.worlds.arithmetic import WorldConfig

RECORDS = 'records'
WORLD = 'world'
WORLD_EXACT = 'world_exact'
WORLDS = (WORLD, WORLD_EXACT)
DATA_VARIABLE = 'PRM_JAX_DATA'
_ROWS = ('solutions', 'labelled', 'candidates')  # folders of rows in a workdir
DEDUPES = ('none', 'across', 'all', 'refuse')
LEAKS = ('count', 'drop', 'error')
_NAME = re.compile(r'([A-Za-z][\w.-]*)=(.*)', re.DOTALL)
_TAIL = re.compile(r'\w+')


@dataclasses.dataclass(frozen=True)
class Source:
  """One source of rows.

  Attributes:
    name: what per-source counters and metrics call it.
    path: file, directory or glob; for the embedded world, the name of a split.
    format: 'records', one of `WORLDS` or an importer's name.
    weight: > 0, see the module's docstring.
  """

  name: str
  path: str
  format: str = RECORDS
  weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Rows of several sources.

  Attributes:
    trajectories: R rows, sources one after the other.
    source_index: [R] int32 into `sources`.
    sources: in the order given.
    counters: 'SOURCE/what' -> count, of everything dropped, repeated or in conflict.
  """

  trajectories: list[Trajectory]
  source_index: np.ndarray
  sources: tuple[Source, ...]
  counters: dict[str, int]

  @property
  def names(self) -> tuple[str, ...]:
    """Names of the sources."""
    return tuple(s.name for s in self.sources)

  @property
  def weights(self) -> tuple[float, ...]:
    """Weights of the sources."""
    return tuple(s.weight for s in self.sources)

  def of(self, source: int) -> list[Trajectory]:
    """The rows of one source."""
    return [self.trajectories[r] for r in np.flatnonzero(self.source_index == source)]

  def take(
    self, rows: np.ndarray, counters: Mapping[str, int] | None = None
  ) -> Mixture:
    """The rows with these indices, counters added."""
    return dataclasses.replace(
      self,
      trajectories=[self.trajectories[r] for r in rows],
      source_index=self.source_index[rows],
      counters=dict(Counter(self.counters) + Counter(counters or {})),
    )


def parse(text: str | Iterable[str], key: str = '') -> list[Source]:
  """Sources from 'a, b, ...' or a list of such texts; `key` names it in messages.

  Raises:
    UserError: nothing is named, a format or world split is unknown, a weight is not
      a positive number, or two sources bear one name.
  """
  parts = [text] if isinstance(text, str) else list(text)
  items = [s.strip() for part in parts for s in part.split(',') if s.strip()]
  if not items:
    raise UserError(
      f'{key}{": " if key else ""}no data source is named; give '
      'path[:format][@weight] or world:SPLIT.'
    )
  out = [_parse_one(item) for item in items]
  for name, n in Counter(s.name for s in out).items():
    if n > 1:
      raise UserError(
        f'{n} data sources are called {name!r}; tell them apart as NAME=path.'
      )
  return out


def _parse_one(item: str) -> Source:
  name, rest = '', item
  if found := _NAME.fullmatch(item):
    name, rest = found[1], found[2]
  weight = 1.0
  head, at, tail = rest.rpartition('@')
  if at and (number := _number(tail)) is not None:
    rest, weight = head, number
  if not math.isfinite(weight) or weight <= 0:
    raise UserError(f'data source {item!r}: the weight must be a number above 0.')
  path, format = rest, RECORDS
  head, colon, tail = rest.rpartition(':')
  if colon and head in WORLDS:
    if tail not in arithmetic.SPLITS:
      raise UserError(
        f'data source {item!r}: the world has no split {tail!r}; its splits are '
        f'{", ".join(arithmetic.SPLITS)}.'
      )
    return Source(name or f'{head}_{tail}', tail, head, weight)
  if colon and head and _TAIL.fullmatch(tail):
    path, format = head, tail
    if format not in importers.FORMATS:
      raise UserError(
        f'data source {item!r}: no format named {format!r}; the formats are '
        f'{", ".join(importers.FORMATS)}.'
      )
  if not path:
    raise UserError(f'data source {item!r} names no path.')
  stem = Path(path).name.split('.')[0].strip('*?') or Path(path).parent.name
  return Source(name or re.sub(r'[^\w.-]+', '_', stem) or 'data', path, format, weight)


def _number(text: str) -> float | None:
  try:
    return float(text)
  except ValueError:
    return None


def resolve(path: str) -> str:
  """A relative path that is not here is looked for under $PRM_JAX_DATA."""
  if os.path.isabs(path) or '://' in path or _there(Path(path)):
    return path
  root = os.environ.get(DATA_VARIABLE, '')
  if root and _there(Path(root) / path):
    return str(Path(root) / path)
  looked = f'; {DATA_VARIABLE} is not set'
  if root:
    looked = f' nor under {DATA_VARIABLE}={root}'
  raise UserError(f'{path}: no such file here{looked}; check the path.')


def rows_of(path: str) -> str:
  """As `resolve`, and no workdir: what lies beside the rows there is none of them."""
  found = resolve(path)
  folder = Path(found)
  for name in _ROWS if os.path.isfile(folder / 'config.json') else ():
    if os.path.isdir(folder / name):
      raise UserError(
        f'{path}: the workdir of a job; give the folder of its rows, {folder / name}.'
      )
  return found


def is_there(path: str) -> bool:
  """Whether `resolve` finds something."""
  root = os.environ.get(DATA_VARIABLE, '')
  return _there(Path(path)) or bool(root and _there(Path(root) / path))


def _there(path: Path) -> bool:
  # Unlike Path.exists, what may not be looked at or is too long a name is not there.
  pattern = any(c in str(path) for c in '*?[')
  return os.path.exists(path) or (pattern and any(glob.iglob(str(path))))


def load(
  sources: Sequence[Source],
  options: ImportOptions | None = None,
  world: WorldConfig | None = None,
  *,
  dedupe: str = 'across',
  weigh_once: str = '',
  noise: str = '',
  limit: int = 0,
) -> Mixture:
  """Reads all sources.

  Args:
    sources: of `parse`.
    options: for importers.
    world: the embedded world's config.
    dedupe: rows with the problem and steps of an earlier one are dropped and
      counted: 'across' sources only (samples of one source may repeat: that is
      how often a policy says them), 'all', or 'none'. That is for training;
      'refuse' is for sets that are judged: every row is kept, and a source in which
      one stands twice is refused.
    weigh_once: name of a label set whose (prefix, step) pairs carry loss weight once
      over the whole mixture and are context elsewhere; '' leaves weights alone.
    noise: label set that rows of the embedded world get besides (`worlds.noise`).
    limit: rows kept of each source, its first ones; 0 keeps all.

  Raises:
    UserError: as the readers do; or a source has no rows, or twice the same.
  """
  if dedupe not in DEDUPES:
    raise UserError(f'dedupe={dedupe!r} must be one of {", ".join(DEDUPES)}.')
  rows: list[Trajectory] = []
  index: list[int] = []
  counters: dict[str, int] = {}
  for i, source in enumerate(sources):
    held, counted = _read(
      source, options or ImportOptions(), world or WorldConfig(), dedupe == 'refuse',
      limit,
    )  # fmt: skip
    if noise and source.format in WORLDS:
      held = noises.add(held, noise)
    if not held:
      raise UserError(
        f'data source {source.name!r} ({source.path}) holds no rows; name another file.'
      )
    counters |= {f'{source.name}/{k}': int(v) for k, v in counted.items() if v}
    counters[f'{source.name}/trajectories'] = len(held)
    rows += held
    index += [i] * len(held)
  mixture = Mixture(rows, np.array(index, np.int32), tuple(sources), counters)
  mixture = _dedupe(mixture, dedupe)
  if weigh_once:
    weighed, counted = label_policy.weigh_once(mixture.trajectories, weigh_once)
    total = dict(Counter(mixture.counters) + Counter(counted))
    mixture = dataclasses.replace(mixture, trajectories=weighed, counters=total)
  return mixture


def _read(
  source: Source,
  options: ImportOptions,
  world: WorldConfig,
  distinct: bool,
  limit: int,
) -> tuple[list[Trajectory], Mapping[str, int]]:
  if source.format in WORLDS:
    exact = source.format == WORLD_EXACT
    return arithmetic.split(world, source.path, exact=exact)[: limit or None], {}
  path = rows_of(source.path)
  return importers.read(path, source.format, options, distinct=distinct, limit=limit)


def _dedupe(mixture: Mixture, how: str) -> Mixture:
  if how in ('none', 'refuse') or (how == 'across' and len(mixture.sources) == 1):
    return mixture
  first: dict[tuple[str, tuple[str, ...]], int] = {}
  keep = []
  counters: Counter[str] = Counter()
  for r, t in enumerate(mixture.trajectories):
    before = first.setdefault((t.problem_id, t.steps), r)
    same = mixture.source_index[before] == mixture.source_index[r]
    if before == r or (how == 'across' and same):
      keep.append(r)
      continue
    name = mixture.sources[mixture.source_index[r]].name
    conflicts, lost = _compare(mixture.trajectories[before], t)
    counters[f'{name}/duplicates'] += 1
    counters[f'{name}/duplicate_label_conflicts'] += conflicts
    counters[f'{name}/duplicate_labels_dropped'] += lost
  return mixture.take(np.array(keep, np.int64), counters)


def _compare(kept: Trajectory, dropped: Trajectory) -> tuple[int, int]:
  """Labels of `dropped` that differ from those of `kept`, and that only it has."""
  conflicts = lost = 0
  for name, labels in dropped.labels.items():
    held = kept.labels.get(name)
    for i, value in enumerate(labels.values):
      other = None if held is None else held.values[i]
      lost += value is not None and other is None
      conflicts += value is not None and other is not None and value != other
  return conflicts, lost


def class_balance(mixture: Mixture, label: str) -> dict[str, dict[str, int]]:
  """Source name -> counts of `label_policy.class_counts`, with trajectories and
  unlabelled steps."""
  out = {}
  for i, name in enumerate(mixture.names):
    rows = mixture.of(i)
    counts = label_policy.class_counts(rows, label)
    steps = sum(t.n_steps for t in rows)
    unlabelled = steps - counts['labels']
    sizes = {'trajectories': len(rows), 'steps': steps, 'unlabelled_steps': unlabelled}
    out[name] = {**sizes, **counts}
  return out


def exclude_problems(
  train: Mixture, judged: Mapping[str, Iterable[Trajectory]], policy: str = 'drop'
) -> Mixture:
  """Deals with training rows whose problem is also one of the judging sets.

  A problem is the same if its id or its normalised question is.

  Args:
    train: training rows.
    judged: name of a validation or evaluation set -> its rows.
    policy: 'drop' the training rows, 'count' them only, or 'error'.

  Raises:
    UserError: policy 'error' and a problem is in both, or no row is left.
  """
  if policy not in LEAKS:
    raise UserError(f'data.leak={policy!r} must be one of {", ".join(LEAKS)}.')
  normal: dict[str, str] = {}
  sets = {name: _problems(rows, normal) for name, rows in judged.items()}
  leaked = np.zeros(len(train.trajectories), bool)
  counters: Counter[str] = Counter()
  for r, t in enumerate(train.trajectories):
    mine = _problems((t,), normal)
    for name, theirs in sets.items():
      if mine & theirs:
        leaked[r] = True
        counters[f'leak/{name}'] += 1
  if leaked.any() and policy == 'error':
    which = train.trajectories[int(leaked.argmax())]
    where = ', '.join(name.removeprefix('leak/') for name in counters)
    raise UserError(
      f'{leaked.sum()} training rows share their problem with {where}, the first is '
      f'{which.id}; drop them (data.leak=drop) or judge on other problems.'
    )
  rows = np.flatnonzero(~leaked) if policy == 'drop' else np.arange(len(leaked))
  if not len(rows):
    raise UserError(
      'every training row shares its problem with a validation or evaluation set; '
      'judge on other problems.'
    )
  return train.take(rows, counters)


def problems(sets: Mapping[str, Iterable[Trajectory]]) -> set[str]:
  """What `exclude_problems` knows the problems of these sets by."""
  normal: dict[str, str] = {}
  return set().union(*(_problems(rows, normal) for rows in sets.values()))


def _problems(rows: Iterable[Trajectory], normal: dict[str, str]) -> set[str]:
  """Ids and question hashes; `normal` remembers hashes of questions."""
  out = set()
  for t in rows:
    if t.question not in normal:
      normal[t.question] = records.make_problem_id(t.question)
    out |= {t.problem_id, normal[t.question]}
  return out


def hold_out(mixture: Mixture, share: float, seed: int) -> tuple[Mixture, Mixture]:
  """(rest, held out): about `share` of the problems, each with all its rows.

  Whether a problem is held out depends on its id and the seed alone.

  Raises:
    UserError: the share is not inside (0, 1), or leaves one side empty.
  """
  if not 0 < share < 1:
    raise UserError(f'the share of held-out problems, {share}, must be inside (0, 1).')
  chosen: dict[str, bool] = {}
  for t in mixture.trajectories:
    if t.problem_id not in chosen:
      digest = records.make_id('hold_out', t.problem_id, seed)
      chosen[t.problem_id] = int(digest, 16) < share * 16 ** len(digest)
  out = np.array([chosen[t.problem_id] for t in mixture.trajectories], bool)
  if out.all() or not out.any():
    raise UserError(
      f'holding out {share:g} of {len(chosen)} problems leaves one side empty; give '
      'more problems or another share.'
    )
  return mixture.take(np.flatnonzero(~out)), mixture.take(np.flatnonzero(out))
