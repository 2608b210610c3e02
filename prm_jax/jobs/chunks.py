"""Chunked work: each chunk once, whole, wherever and whenever it runs.

A chunk is a fixed list of items (problems with all that belongs to them). What it
writes depends on it alone, so chunks may be spread over devices, shards and
restarts, and the files are those of one uninterrupted run:

    WORKDIR/EVIDENCE/NNNNN.jsonl.gz    further outputs, none where there are no rows
    WORKDIR/chunks/NNNNN.json          what it was made from, counters, file hashes
    WORKDIR/MAIN/NNNNN.jsonl.gz        the first output, written last: it is done
    WORKDIR/timing.jsonl               seconds and rates; nothing is promised of it

A finished chunk is skipped. One whose files are damaged is made again, one that was
made from other input is an error.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import queue
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from prm_jax import jsonl, writer
from prm_jax.errors import Preempted, UserError
from prm_jax.files import Workdir
from prm_jax.training.preemption import StopSignal

T = TypeVar('T')
_SHARD = re.compile(r'(\d{1,9})/(\d{1,9})')
_POLL_SECONDS = 0.05


@dataclasses.dataclass(frozen=True)
class Produced:
  """What a chunk gives.

  Attributes:
    rows: output folder -> JSON-ready rows, the main output among them.
    counters: what happened in it; part of the promise, so no wall times.
    timing: figures beside the seconds, exempt from it.
  """

  rows: Mapping[str, Sequence[Mapping[str, Any]]]
  counters: Mapping[str, int] = dataclasses.field(default_factory=dict)
  timing: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Done:
  """What is there after a run.

  Attributes:
    chunks: numbers of the chunks that are covered: all of the work if they are
      there, else those of this shard.
    whole: whether that is all of them.
    counters: summed over them.
    n_made: how many were made just now.
    main: their main files, in order.
    shard: (i, n).
  """

  chunks: tuple[int, ...]
  whole: bool
  counters: Counter[str]
  n_made: int
  main: tuple[str, ...]
  shard: tuple[int, int]

  def about(self) -> dict[str, Any]:
    """For the provenance of results: which part of the work they are over."""
    covers = 'all chunks' if self.whole else f'shard {self.shard[0]}/{self.shard[1]}'
    return {'covers': covers, 'n_chunks': len(self.chunks)}


def parse_shard(text: str) -> tuple[int, int]:
  """(i, n) of 'i/n'.

  Raises:
    UserError: not of this form, or i is not below n.
  """
  found = _SHARD.fullmatch(text.strip())
  if found is None or int(found[1]) >= int(found[2]):
    raise UserError(
      f'shard={text!r}: give i/n with i from 0 to n-1, for example 0/4, 1/4, 2/4, 3/4 '
      'on four machines.'
    )
  return int(found[1]), int(found[2])


def cut(items: Iterable[T], size: int) -> list[list[T]]:
  """Chunks of `size` items, the last one perhaps shorter.

  Raises:
    UserError: the size is not at least 1.
  """
  return list(batches(items, size))


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
  """As `cut`, one chunk after the other."""
  if size < 1:
    raise UserError(f'chunk.size={size}: a chunk holds at least 1 problem or solution.')
  held = iter(items)
  while part := list(itertools.islice(held, size)):
    yield part


def run(
  work: Workdir,
  chunks: Sequence[Sequence[T]],
  process: Callable[[Sequence[T], int], Produced],
  *,
  keys: Sequence[str],
  outputs: Sequence[str],
  shard: tuple[int, int] = (0, 1),
  workers: int = 1,
  what: str = 'chunks',
  spent: Callable[[], int] = lambda: 0,
  conclude: Callable[[Done], None] = lambda done: None,
) -> Done:
  """Makes the chunks i, i + n, ... of shard i of n that are not there yet.

  Args:
    work: the workdir, locked.
    chunks: all of the work, the same in every shard.
    process: makes one chunk; called with it and the number of the worker, by one
      thread a worker.
    keys: one a chunk, a hash of all that its files depend on (`key`).
    outputs: folders of the files; the first is the main one.
    shard: (i, n).
    workers: chunks under way at the same time (devices).
    what: for progress.
    spent: tokens so far, of all workers, for progress.
    conclude: writes the results of what is covered. Called again if meanwhile the
      other shards in this workdir have made the rest, so that the last word is over
      all chunks.

  Raises:
    UserError: a chunk on disk was made from other input, or what `process` raises;
      finished chunks stay.
    Preempted: SIGTERM or SIGINT; the chunks under way were finished first. A second
      signal ends the program at once, which loses nothing that is whole.
  """
  books = _Books(work, tuple(outputs), keys)
  mine = range(shard[0], len(chunks), shard[1])
  books.sweep(mine)
  missing = books.missing(mine)
  if len(missing) < len(mine):
    writer.say(f'{len(mine) - len(missing)} of {len(mine)} {what} are there already')
  pending: queue.SimpleQueue[int] = queue.SimpleQueue()
  for number in missing:
    pending.put(number)
  halt = threading.Event()
  errors: list[BaseException] = []

  def loop(worker: int) -> None:
    while not halt.is_set():
      try:
        number = pending.get_nowait()
      except queue.Empty:
        return
      try:
        began = time.monotonic()
        made = process(chunks[number], worker)
        books.write(number, made)
        books.note_time(
          number,
          {
            'shard': f'{shard[0]}/{shard[1]}',
            'worker': worker,
            'seconds': round(time.monotonic() - began, 3),
            **made.timing,
          },
        )
      except BaseException as e:  # handed on to the caller's thread
        errors.append(e)
        halt.set()

  threads = [
    threading.Thread(target=loop, args=(w,), name=f'worker-{w}', daemon=True)
    for w in range(min(max(workers, 1), len(missing)))
  ]
  meter = _Meter(spent)
  bar = writer.Progress(len(mine), what, len(mine) - len(missing))
  with StopSignal() as stop, bar as progress:
    for thread in threads:
      thread.start()
    told = False
    while any(t.is_alive() for t in threads):
      time.sleep(_POLL_SECONDS)
      if stop.requested and not told:
        halt.set()
        told = True
        writer.say(
          f'{stop.name}: the {what} under way are finished first; a second signal '
          'ends at once'
        )
      if books.n_written < len(missing):
        progress.to(len(mine) - len(missing) + books.n_written, meter.note())
    stopped = stop.name if stop.requested else ''
    progress.to(len(mine) - len(missing) + books.n_written, meter.note())
  if errors:
    raise errors[0]
  left = len(missing) - books.n_written
  if stopped and left:
    raise Preempted(
      f'stopped by {stopped}, {left} of {len(mine)} {what} are left; run the same '
      'command to go on.'
    )
  done = books.done(mine, shard)
  if not done.n_made and _is_concluded(work, done):
    writer.say(f'{work.path}: {done.about()["covers"]} complete; see results.json')
    return done
  while True:
    conclude(done)
    now = books.done(mine, shard)
    if now.whole == done.whole:
      return done
    done = now


def _is_concluded(work: Workdir, done: Done) -> bool:
  """Whether results.json is there and over just these chunks."""
  held = work.read_json('results.json')
  return bool(held) and done.about().items() <= held['provenance'].items()


def key(about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
  """Hash of what a chunk is made from: facts of the whole job, and its own rows."""
  text = json.dumps([dict(about), list(rows)], ensure_ascii=False, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:32]


class _Meter:
  """'900 tokens/s, 12,345 tokens': rate of this process, cost so far."""

  def __init__(self, spent: Callable[[], int]):
    self._spent = spent
    self._began = time.monotonic()

  def note(self) -> str:
    tokens = self._spent()
    if not tokens:
      return ''
    rate = tokens / max(time.monotonic() - self._began, 1e-9)
    return f'{rate:,.0f} tokens/s, {tokens:,} tokens so far'


class _Books:
  """Which chunks are there, and the writing of new ones."""

  def __init__(self, work: Workdir, outputs: tuple[str, ...], keys: Sequence[str]):
    self._work, self._outputs, self._keys = work, outputs, keys
    self._width = max(5, len(str(max(len(keys) - 1, 0))))
    self._lock = threading.Lock()
    self._known: dict[int, dict[str, int]] = {}
    self.n_written = 0

  def _name(self, output: str, number: int) -> str:
    return f'{output}/{number:0{self._width}d}.jsonl.gz'

  def _sheet(self, number: int) -> str:
    return f'chunks/{number:0{self._width}d}.json'

  def sweep(self, numbers: Sequence[int]) -> None:
    """Removes what a kill left half written of these chunks: other shards may run, so
    that opening the workdir left it."""
    mine = {f'{number:0{self._width}d}' for number in numbers}
    for folder in ('chunks', *self._outputs):
      place = self._work / folder
      for file in place.iterdir() if place.is_dir() else ():
        if (jsonl.half_written(file.name) or '').partition('.')[0] in mine:
          file.unlink(missing_ok=True)

  def missing(self, numbers: Sequence[int]) -> list[int]:
    """Those of these chunks that have to be made; damage is said.

    Raises:
      UserError: one was made from other input.
    """
    out = []
    for number in numbers:
      wrong = self._wrong(number)
      if wrong is None:
        continue
      out.append(number)
      if wrong:
        writer.say(f'{self._work / wrong}: missing or damaged; its chunk is made again')
    return out

  def _wrong(self, number: int) -> str | None:
    """None of a finished chunk, '' of one not made, else the file that is damaged."""
    if number in self._known:
      return None
    main = self._work / self._name(self._outputs[0], number)
    if not main.exists():
      return ''
    sheet = self._read_sheet(number)
    if sheet is None:
      return self._sheet(number)
    if sheet['key'] != self._keys[number]:
      raise UserError(
        f'{main}: made from other input (its problems, model or options changed '
        f'since); give another {self._work.key}, or delete the files of the old work.'
      )
    for name, digest in sheet['files'].items():
      if self._hash(name) != digest:
        return name
    self._known[number] = sheet['counters']
    return None

  def _read_sheet(self, number: int) -> dict[str, Any] | None:
    try:
      sheet = self._work.read_json(self._sheet(number))
    except UserError:
      return None
    sound = isinstance(sheet, dict) and set(sheet) == {'key', 'files', 'counters'}
    return sheet if sound else None

  def _hash(self, name: str) -> str:
    try:
      return hashlib.sha256((self._work / name).read_bytes()).hexdigest()
    except OSError:
      return ''

  def write(self, number: int, made: Produced) -> None:
    """Evidence first, then the sheet, the main file last."""
    main = self._outputs[0]
    unknown = set(made.rows) - set(self._outputs)
    if unknown or main not in made.rows:
      raise ValueError(f'a chunk gave {sorted(made.rows)}, not {self._outputs}')
    data = {
      self._name(output, number): jsonl.encode_lines(map(dict, rows), zipped=True)
      for output, rows in made.rows.items()
      if rows or output == main
    }
    sheet: dict[str, Any] = {
      'key': self._keys[number],
      'files': {n: hashlib.sha256(b).hexdigest() for n, b in sorted(data.items())},
      'counters': dict(sorted(made.counters.items())),
    }
    last = self._name(main, number)
    for name, content in data.items():
      if name != last:
        jsonl.write_bytes(self._work / name, content)
    self._work.write_json(self._sheet(number), sheet)
    jsonl.write_bytes(self._work / last, data[last])
    with self._lock:
      self._known[number] = sheet['counters']
      self.n_written += 1

  def note_time(self, number: int, figures: Mapping[str, Any]) -> None:
    """Appends a line to timing.jsonl; a line is one write, so shards do not mix."""
    line = jsonl.dump_line({'chunk': number, **figures}) + '\n'
    try:
      with open(os.fspath(self._work / 'timing.jsonl'), 'ab', buffering=0) as file:
        file.write(line.encode())
    except OSError as e:
      raise UserError(
        f'{self._work / "timing.jsonl"}: cannot be written ({e.strerror or e}); free '
        'some space and run the same command again.'
      ) from e

  def done(self, mine: Sequence[int], shard: tuple[int, int]) -> Done:
    """All chunks if they are there, else those of `mine`."""
    numbers = range(len(self._keys))
    whole = all(self._wrong(number) is None for number in numbers)
    covered = tuple(numbers if whole else mine)
    counters: Counter[str] = Counter()
    for number in covered:
      counters.update(self._known[number])
    names = (self._name(self._outputs[0], number) for number in covered)
    main = tuple(str(self._work / name) for name in names)
    return Done(covered, whole, counters, self.n_written, main, shard)
