r"""Answer checking with a symbolic last resort, in processes that can be killed.

`answers.compare` decides what strings, rational numbers and single words decide. What
it leaves open goes to math-verify (extra `math`) in worker processes: started when the
first such pair appears, each with a limit of CPU time a comparison, a wall-clock limit
behind it, and an end when this process ends. A pair that ran into a limit, or whose
worker died, is not judged (None), with the reason in its verdict and a counter; such a
verdict depends on the machine, all others do not.

  with Checker(policies=('boxed',)) as checker:
    [(answer, verdict)] = checker.check_many([(response, r'\frac{\sqrt{2}}{2}')])
"""

from __future__ import annotations

import collections
import contextlib
import importlib.util
import json
import math
import os
import re
import selectors
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from prm_jax.errors import UserError
from prm_jax.formats import answer_units, answers
from prm_jax.formats.answers import Answer
from prm_jax.records import Trajectory, Verdict

SCRIPT = Path(__file__).with_name('answer_worker.py')
START_SECONDS = 120.0
# Reasons of verdicts that may depend on the machine, and their counters.
LIMITS = {
  'CPU time limit': 'cpu_limit',
  'wall-clock limit': 'wall_limit',
  'the worker died': 'worker_died',
  'the comparison failed': 'comparison_failed',
}

_COMMAND = re.compile(r'\\(?:begin|end)\{[a-z*]+\}|\\[A-Za-z]+')
_CONNECTIVE = re.compile(r'\\(?:text|mathrm|mbox)\{\s*(?:or|and|,)\s*\}')
# The parser drops \mathrm{i}.
_LETTER = re.compile(r'\\(?:text|mathrm|mbox)\{\s*([A-Za-z]{1,2})\s*\}')
_ORDINAL = re.compile(
  r'\d\s*\^?\s*\{?\s*(?:\\(?:text|mathrm|mbox)\s*\{\s*)?(?:st|nd|rd|th)(?![A-Za-z])'
)
_MARKED_COMMA = re.compile(r'(?<=\d)(?:\s*,\s*\\!\s*|\{,\})(?=\d{3})')
_GROUPED = re.compile(r'-?\d{1,3}(?:,\d{3})+')
_SPACED = re.compile(r'-?\d{1,3}(?:,\s+\d{3})+')
_DOLLARS = re.compile(r'\\[()\[\]%]|(?<!\\)[$%]|\\\$')
_TRIGONOMETRY = re.compile(r'(?:sin|cos|tan|cot|sec|csc)(?![a-z])')
_UNBRACKETED = re.compile(
  r'\\(?:sin|cos|tan|cot|sec|csc|log|ln|lg)(?:[_^](?:\{[^{}]*\}|\w))*\s*'
  r'(?!\s|\(|\{|\\left)[^-+=,(){}&]*(?:\\cdot|\\times|\\left\(|\()'
)


def formula(answer: str) -> str:
  """An answer as the symbolic checker reads it: no dollar signs, no unit at the end."""
  s = answer_units.strike_text(_without_signs(answer))[0]
  s = _LETTER.sub(r' \1 ', _CONNECTIVE.sub(r' , ', s))
  return answer_units.PI.sub(r'\\pi ', _MARKED_COMMA.sub('', s))


def _without_signs(answer: str) -> str:
  return _DOLLARS.sub(' ', answer).strip().rstrip('.')


def obstacle(answer: str) -> str:
  """Why a formula must not go to the symbolic checker, which misreads it, or ''."""
  if re.search(r'\d\s*_', answer):
    return 'a number in another base'  # 52_8 would be 52
  if re.search(r'\d\s*:\s*\d', answer):
    return 'a time or a ratio'  # 6:45 would be 2/15
  if '\\circ' in answer and _TRIGONOMETRY.search(answer):
    return 'degrees inside a function'  # radians
  if _UNBRACKETED.search(answer):
    return 'a function whose argument has no clear end'  # log_2 8 * x: log_2(8x)
  if re.search(r'(?<![\w^])\d+ \d', answers.normalise(answer)):
    return 'numbers with only a blank between them'
  if re.search(r'[A-Za-z]{3,}', _COMMAND.sub(' ', formula(answer))):
    return 'words beside a formula'  # products of letters
  if _ORDINAL.search(answer):
    return 'an ordinal number'  # 12^{th} would be a power
  if re.search(r'\d\s*x\s*\d', answer):
    return 'an unknown that may be a times sign'
  if re.search(r',\s', answer) and _has_groups(answer):
    return 'commas that group digits in a list'  # 1,000, 20 would be 1, 0, 20
  return ''


def _has_groups(answer: str) -> bool:
  """Whether a comma stands between digits as in 1,000, and not as in (1,000)."""
  return any(
    answer[m.start() - 1 : m.start()] not in ('(', '[')
    or answer[m.end() : m.end() + 1] not in (')', ']')
    for m in re.finditer(r'(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d.])', answer)
  )


def obstacle_of_pair(answer: str, gold: str) -> str:
  """Why two formulas must not be compared, though each can be read, or ''."""
  unit, other = (answer_units.strike_text(_without_signs(s))[1] for s in (answer, gold))
  if unit and other and unit != other:
    return 'units differ'
  a, g = formula(answer), formula(gold)
  if answer_units.may_be_units(a, g):
    return 'letters that may be a unit'
  for one, two in ((a, g), (g, a)):
    number = answers.rational(two)
    if _GROUPED.fullmatch(one) and number is None and ',' in two:
      return 'commas that may group digits'
    if _SPACED.fullmatch(one) and number == int(re.sub(r',\s+', '', one)):
      return 'commas that may group digits'
  return ''


class Checker:
  """Judges answers; a context manager that owns worker processes.

  Attributes:
    counters: of checks: checks, right, wrong, not_judged, no_answer, no_gold, symbolic
      (math-verify's turn) and the values of `LIMITS`; of processes: workers_started.

  May be used from any thread; symbolic comparisons of several threads take turns.
  """

  def __init__(
    self,
    policies: Sequence[str] = ('boxed',),
    symbolic: bool = True,
    workers: int = 2,
    cpu_seconds: float = 2.0,
    wall_seconds: float = 60.0,
  ):
    """Makes a checker; starts nothing yet.

    Args:
      policies: names in `answers.EXTRACTORS`, in order.
      symbolic: whether math-verify judges what exact comparison leaves open.
      workers: processes at most.
      cpu_seconds: CPU time of one symbolic comparison.
      wall_seconds: wall-clock time of one, for a machine that gives a process none.

    Raises:
      UserError: no or an unknown policy, a limit that is not positive, or no
        math-verify.
    """
    if not policies:
      raise UserError('answers.policies is empty; name at least one, such as boxed.')
    answers.extract('', policies)
    for name, value in (
      ('workers', workers),
      ('cpu_seconds', cpu_seconds),
      ('wall_seconds', wall_seconds),
    ):
      if not value > 0:
        raise UserError(f'answers.{name}={value!r} must be above 0.')
    if symbolic and importlib.util.find_spec('math_verify') is None:
      raise UserError(
        'symbolic answer checking needs math-verify: pip install '
        '"math-verify>=0.9,<0.10", or set symbolic=False.'
      )
    self.policies = tuple(policies)
    self.symbolic = symbolic
    self.cpu_seconds = cpu_seconds
    self.wall_seconds = wall_seconds
    self.counters: collections.Counter[str] = collections.Counter()
    self._n_workers = workers
    self._known: dict[tuple[str, str], Verdict] = {}
    self._lock = threading.RLock()
    self._workers: list[_Worker] = []
    # Also at interpreter exit, for a checker that nobody closed.
    self._finalizer = weakref.finalize(self, _stop, self._workers)

  def __enter__(self) -> Checker:
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()

  def close(self) -> None:
    """Ends the workers; the checker may be used again, which starts new ones."""
    with self._lock:
      _stop(self._workers)

  def check_many(
    self, pairs: Iterable[tuple[str, str | None]]
  ) -> list[tuple[Answer | None, Verdict]]:
    """Extracts the answers of many responses and judges them.

    Args:
      pairs: (response, reference answer or None), in any number.

    Returns:
      (answer or None, verdict), one a pair in order. The verdict's method names the
      policy that found the answer and what judged it ('boxed/rational').
    """
    found = [(answers.extract(text, self.policies), gold) for text, gold in pairs]
    asked = [(a.text, gold) for a, gold in found if a is not None and gold is not None]
    verdicts = iter(self.compare_many(asked))
    out: list[tuple[Answer | None, Verdict]] = []
    for answer, gold in found:
      if gold is None:
        verdict = Verdict(None, 'exact', 'no reference answer')
      elif answer is None:
        verdict = Verdict(None, 'exact', 'no answer found')
      else:
        v = next(verdicts)
        verdict = Verdict(v.value, f'{answer.method}/{v.method}', v.reason)
      out.append((answer, verdict))
    with self._lock:
      for answer, verdict in out:
        self._count(answer, verdict)
    return out

  def compare_many(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
    """Judges extracted answers: (answer, reference answer) -> verdict, in order."""
    with self._lock:
      undecided: dict[tuple[str, str], None] = {}
      for pair in pairs:
        if pair not in self._known:
          verdict = answers.compare(*pair)
          if self.symbolic and verdict.reason == answers.UNDECIDED:
            reason = obstacle(pair[0]) or obstacle(pair[1]) or obstacle_of_pair(*pair)
            if not reason:
              undecided[pair] = None
              continue
            verdict = Verdict(None, 'symbolic', reason)
          self._known[pair] = verdict
      if undecided:
        try:
          self._ask(collections.deque(undecided))
        except BaseException:
          _stop(self._workers)  # their replies would be taken for later ones
          raise
      return [self._known[pair] for pair in pairs]

  def _count(self, answer: Answer | None, verdict: Verdict) -> None:
    names = {True: 'right', False: 'wrong', None: 'not_judged'}
    self.counters['checks'] += 1
    self.counters[names[verdict.value]] += 1
    self.counters['symbolic'] += verdict.method.endswith('/symbolic')
    if verdict.reason == 'no reference answer':
      self.counters['no_gold'] += 1
    elif answer is None:
      self.counters['no_answer'] += 1
    elif verdict.reason in LIMITS:
      self.counters[LIMITS[verdict.reason]] += 1

  def _ask(self, waiting: collections.deque[tuple[str, str]]) -> None:
    """Has the workers judge the pairs that wait."""
    with selectors.DefaultSelector() as ready:
      for worker in self._workers:
        ready.register(worker.replies, selectors.EVENT_READ, worker)
      while waiting or any(w.pair for w in self._workers):
        n_busy = sum(w.pair is not None for w in self._workers)
        while len(self._workers) < min(self._n_workers, n_busy + len(waiting)):
          worker = _Worker(self.cpu_seconds)
          self._workers.append(worker)
          self.counters['workers_started'] += 1
          ready.register(worker.replies, selectors.EVENT_READ, worker)
        for worker in self._workers:
          if waiting and worker.is_free:
            worker.ask(waiting.popleft(), self.wall_seconds)
        deadline = min(w.deadline for w in self._workers)
        events = ready.select(max(0.0, deadline - time.monotonic()))
        answered = {id(key.data) for key, _ in events}
        for worker in list(self._workers):
          if id(worker) in answered:
            reason = self._receive(worker)
          elif worker.deadline <= time.monotonic():
            reason = 'wall-clock limit'
          else:
            continue
          if reason:
            ready.unregister(worker.replies)
            self._workers.remove(worker)
            self._lose(worker, reason)

  def _receive(self, worker: _Worker) -> str:
    """Takes a worker's reply; returns why it died if it did, else ''."""
    reply = worker.receive()
    if reply is None:
      return worker.cause_of_death()
    if worker.pair is not None:
      verdict = Verdict(reply['value'], 'symbolic', reply['reason'])
      self._known[worker.pair] = verdict
      worker.pair = None
    worker.is_ready, worker.deadline = True, math.inf
    return ''

  def _lose(self, worker: _Worker, reason: str) -> None:
    worker.kill()
    if not worker.is_ready:
      raise RuntimeError(
        f'{SCRIPT} did not start ({reason}); run it by hand to see why'
      )
    if worker.pair is not None:
      self._known[worker.pair] = Verdict(None, 'symbolic', reason)


class _Worker:
  """One process, asked one pair at a time.

  Attributes:
    pair: what it is judging, or None.
    is_ready: it has started and said so.
    deadline: when it is to be killed, on the clock of `time.monotonic`.
    replies: what it writes.
  """

  def __init__(self, cpu_seconds: float):
    # A session of its own: a signal to this process group is not meant for it.
    self._process = subprocess.Popen(
      [sys.executable, '-P', str(SCRIPT), str(cpu_seconds)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      bufsize=0,
      start_new_session=True,
    )
    assert self._process.stdin and self._process.stdout
    self._requests = self._process.stdin
    self.replies = self._process.stdout
    self.pair: tuple[str, str] | None = None
    self.is_ready = False
    self.deadline = time.monotonic() + START_SECONDS

  @property
  def is_free(self) -> bool:
    return self.is_ready and self.pair is None

  def ask(self, pair: tuple[str, str], wall_seconds: float) -> None:
    """Sends a pair; a worker that is dead already is noticed when its reply is read."""
    self.pair = pair
    self.deadline = time.monotonic() + wall_seconds
    request = {'answer': formula(pair[0]), 'gold': formula(pair[1])}
    with contextlib.suppress(BrokenPipeError):
      self._requests.write(json.dumps(request).encode() + b'\n')

  def receive(self) -> dict[str, Any] | None:
    """The reply that is there to be read; None if the process is gone."""
    line = os.read(self.replies.fileno(), 1 << 16)  # short, so written at once
    return json.loads(line) if line else None

  def cause_of_death(self) -> str:
    cpu = self._process.wait() == -signal.SIGPROF
    return 'CPU time limit' if cpu else 'the worker died'

  def kill(self) -> None:
    self._process.kill()
    self._process.wait()
    for pipe in (self._requests, self.replies):
      with contextlib.suppress(OSError):
        pipe.close()


def _stop(workers: list[_Worker]) -> None:
  for worker in workers:
    worker.kill()
  workers.clear()


def text_of(trajectory: Trajectory) -> str:
  """Where the answer of a record is read from: its response, else its joined steps."""
  t = trajectory
  return t.separator.join(t.steps) if t.response is None else t.response


def agreement(
  trajectories: Iterable[Trajectory], checker: Checker, against: str = 'regraded'
) -> dict[str, Any]:
  """Compares our verdicts with those that the records carry.

  Args:
    trajectories: solutions with a verdict named `against`.
    checker: ours.
    against: key of `Trajectory.verdicts`.

  Returns:
    n (records with that verdict, judged or not), both (judged by both), agree,
    agreement (agree / both), coverage (ours judged / n), theirs_coverage, and
    disagreements: a list of (trajectory, answer, our verdict).

  Raises:
    UserError: no record has that verdict.
  """
  rows = [t for t in trajectories if against in t.verdicts]
  if not rows:
    raise UserError(f'no solution has a verdict {against!r} to compare with.')
  found = checker.check_many([(text_of(t), t.gold_answer) for t in rows])
  both = agree = ours = theirs = 0
  disagreements = []
  for t, (answer, verdict) in zip(rows, found):
    value = t.verdicts[against].value
    ours += verdict.value is not None
    theirs += value is not None
    if verdict.value is None or value is None:
      continue
    both += 1
    agree += verdict.value == value
    if verdict.value != value:
      disagreements.append((t, answer, verdict))
  return {
    'n': len(rows),
    'both': both,
    'agree': agree,
    'agreement': agree / both if both else None,
    'coverage': ours / len(rows),
    'theirs_coverage': theirs / len(rows),
    'disagreements': disagreements,
  }
