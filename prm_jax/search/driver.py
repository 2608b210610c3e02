"""Runs a search algorithm on many problems at once.

Every problem has its own generator. In each round the expansions of all of them go to
the policy, and the new steps to the scorer, in as few calls as their sampling allows.
What a problem gets depends on its asks alone, so not on its company: random numbers
are named by seed, problem and path in the tree.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from prm_jax.errors import UserError
from prm_jax.inference.requests import Completion, Refusal, Sampling
from prm_jax.records import ScoreSet, Trajectory, make_id
from prm_jax.search import nodes
from prm_jax.search.nodes import Kept, Node, Place
from prm_jax.search.protocol import (
  ROOT,
  Algorithm,
  Ask,
  Beam,
  Expand,
  Outcome,
  PolicySessions,
  Problem,
  ScorerSessions,
)

STEP_TOKENS = 256


@dataclasses.dataclass(frozen=True)
class Result:
  """What a search left of one problem.

  Attributes:
    candidates: solutions with steps, `scores[scorer]` and `response`; answers are read
      by the caller. `meta.search` has beam, copies and weight; `meta.finish_reason` is
      'length' for one that was cut off. `sample_index` is the place in this list.
    chosen: place of the one that the algorithm picks, None without candidates.
    skipped: why there are none ('too_long', ...), '' if there are.
    counts: policy_generated, policy_read (tokens), policy_overrun (of those generated:
      cut away), prm_read (tokens), expansions, beams, rounds, depth (steps of the
      deepest beam), unscored (steps), refused, empty_steps.
    tree: edges as `nodes.tree` gives them, [] unless asked for.
    meta: of the algorithm's outcome.
    seconds: from the start of the call until this problem was done; problems of a call
      share its steps, so these do not add up.
  """

  candidates: list[Trajectory]
  chosen: int | None
  skipped: str
  counts: dict[str, int]
  tree: list[dict[str, Any]]
  meta: dict[str, Any]
  seconds: float = dataclasses.field(default=0.0, compare=False)


def run(
  problems: Sequence[Trajectory],
  algorithm: Algorithm,
  policy: PolicySessions,
  scorer: ScorerSessions | None,
  sampling: Sampling,
  *,
  step_tokens: int = STEP_TOKENS,
  name: str = 'search',
  keep_tree: bool = False,
) -> list[Result]:
  """Searches for solutions of problems.

  Args:
    problems: records whose question is to be solved; problem_ids distinct.
    algorithm: see `registry.build`.
    policy: sessions that write steps.
    scorer: sessions that score them; None leaves every step unscored.
    sampling: of the policy; `max_tokens` are those of a solution: one that has as many
      ends there (one that is finished in one go may write as many from where it is).
      `seed` is also that of the algorithm's choices.
    step_tokens: of one step; a longer one ends its solution, cut off (where steps are
      cut at low confidence, it may first become twice as long).
    name: part of the candidates' ids.
    keep_tree: return the tree too.

  Raises:
    UserError: a problem twice, stop strings in `sampling`, or an engine or scorer that
      cannot go on.
  """
  if sampling.stop:
    raise UserError(
      f'sampling.stop={list(sampling.stop)}: a search stops at the separator of steps, '
      'and nowhere else; leave it empty.'
    )
  if step_tokens < 1:
    raise UserError(f'search.step_tokens={step_tokens} must be at least 1.')
  if len({p.problem_id for p in problems}) < len(problems):
    raise UserError('a problem is there twice; give each problem_id once.')
  if not problems:
    return []
  began = time.monotonic()
  kind = scorer.kind if scorer else 'probability'
  runs = [_Run(p, algorithm, Problem(p.problem_id, p.question, kind, sampling.seed))
          for p in problems]  # fmt: skip
  rounds = _Rounds(policy, scorer, sampling, step_tokens)
  rounds.start(runs)
  going = runs
  while going := [r for r in going if r.ask is not None]:
    rounds.one(going)
    for r in going:
      if r.ask is None:
        r.seconds = time.monotonic() - began
  return [r.result(policy, scorer, sampling, name, keep_tree) for r in runs]


class _Run:
  """One problem under way."""

  def __init__(self, problem: Trajectory, algorithm: Algorithm, known: Problem):
    self.problem = problem
    self.nodes = [Node(Beam(ROOT, -1))]
    self.counts: Counter[str] = Counter()
    self.ask: Ask | None = None
    self.question: Place | None = None  # as the scorer has read it
    self.skipped = ''
    self.seconds = 0.0
    self._outcome = Outcome([])
    self._steps = algorithm(known)
    self._advance(None)

  def go_on(self, beams: list[list[Beam]]) -> None:
    """Hands over the answers to `ask`, and runs on to the next one or the end."""
    self._advance(beams)

  def refuse(self, reason: str) -> None:
    """Ends the problem without candidates."""
    self.skipped, self.ask = reason, None
    self._steps.close()

  def _advance(self, beams: list[list[Beam]] | None) -> None:
    try:
      self.ask = next(self._steps) if beams is None else self._steps.send(beams)
    except StopIteration as end:
      self.ask, self._outcome = None, end.value
      return
    asked = [e.beam for e in self.ask.expand]
    bad = [i for i in (*asked, *self.ask.keep) if self.nodes[i].beam.ended]
    if bad or not asked or len(set(asked)) < len(asked):
      raise AssertionError(f'{self.problem.problem_id}: asked {asked}, ended {bad}')
    living = {*asked, *self.ask.keep}
    for node in self.nodes:
      if node.beam.id not in living:
        node.policy = node.scorer = None

  def result(
    self,
    policy: PolicySessions,
    scorer: ScorerSessions | None,
    sampling: Sampling,
    name: str,
    keep_tree: bool,
  ) -> Result:
    """Candidates as records, and the bookkeeping."""
    given = {**dataclasses.asdict(sampling), 'stop': []}
    out = []
    for place, candidate in enumerate(self._outcome.candidates):
      node = self.nodes[candidate.beam]
      beam = node.beam
      cut_off = beam.reason not in ('end', 'empty')
      values = tuple(None if math.isnan(s) else float(s) for s in beam.scores)
      about = {'algorithm': name, **dataclasses.asdict(candidate)}
      out.append(
        dataclasses.replace(
          self.problem,
          id=make_id(
            f'{name}/{policy.name}/{sampling.seed}',
            self.problem.problem_id + node.path,
            place,
          ),
          steps=beam.steps,
          separator=policy.separator,
          response=node.text,
          step_spans=node.spans,
          generator=policy.name,
          sampling=given,
          sample_index=place,
          scores={scorer.name: ScoreSet(scorer.kind, values)} if scorer else {},
          meta={
            **self.problem.meta,
            'n_tokens': node.n_tokens,
            'finish_reason': 'length' if cut_off else 'end',
            'search': about,
          },
        )
      )
    self.counts['beams'] = len(self.nodes) - 1
    self.counts['depth'] = max(n.beam.depth for n in self.nodes)
    tree = nodes.tree(self.nodes) if keep_tree else []
    return Result(
      out, self._outcome.chosen, self.skipped, dict(sorted(self.counts.items())),
      tree, self._outcome.meta, self.seconds,
    )  # fmt: skip


Work = tuple[_Run, Node, Expand]


class _Rounds:
  """Asks of all problems, answered together."""

  def __init__(
    self,
    policy: PolicySessions,
    scorer: ScorerSessions | None,
    sampling: Sampling,
    step_tokens: int,
  ):
    self._policy, self._scorer = policy, scorer
    self._sampling, self._step_tokens = sampling, step_tokens

  def start(self, runs: Sequence[_Run]) -> None:
    """Places of the questions."""
    questions = [r.problem.question for r in runs]
    state = self._policy.start(questions)
    for i, r in enumerate(runs):
      r.nodes[ROOT].policy = Place(state, i)
      r.counts['policy_read'] += int(state.tokens_read[i])

  def one(self, runs: Sequence[_Run]) -> None:
    """One round of every problem that is going on."""
    _compact(self._policy, runs, 'policy')
    if self._scorer is not None:
      _compact(self._scorer, runs, 'scorer')
    groups: dict[Sampling, list[Work]] = defaultdict(list)
    for r in runs:
      assert r.ask is not None
      r.counts['rounds'] += 1
      for e in r.ask.expand:
        node = r.nodes[e.beam]
        groups[self._sampling_of(e, node)].append((r, node, e))
    made: dict[tuple[int, int], list[Node]] = {}
    for sampling, work in groups.items():
      for (r, node, _), children in zip(work, self._expand(sampling, work)):
        made[id(r), node.beam.id] = children
    fresh = []
    for r in runs:
      if r.ask is None:  # refused
        continue
      for e in r.ask.expand:
        # Numbered in the order of asking, however the calls were grouped.
        for node in made[id(r), e.beam]:
          node.beam = dataclasses.replace(node.beam, id=len(r.nodes))
          r.nodes.append(node)
          fresh.append((r, node, e))
    self._score(fresh)
    for r in runs:
      if r.ask is not None:
        r.go_on([[n.beam for n in made[id(r), e.beam]] for e in r.ask.expand])

  def _sampling_of(self, e: Expand, node: Node) -> Sampling:
    most = self._sampling.max_tokens
    if not e.whole:
      room = self._step_tokens
      if not e.cut_below:  # beams that were cut differ in it: a call for each
        room -= node.n_open
      most = min(most, room, e.max_tokens or room)
    given = self._sampling.temperature if e.temperature is None else e.temperature
    return dataclasses.replace(
      self._sampling,
      temperature=given,
      max_tokens=most,
      stop=() if e.whole else (self._policy.separator,),
      keep_stop=False,
    )

  def _expand(self, sampling: Sampling, work: Sequence[Work]) -> list[list[Node]]:
    """The children of each, by one call of the policy."""
    state = _gather(self._policy, [node.policy for _, node, _ in work])
    keys = [(f'{r.problem.problem_id}/{n.path}', n.n_children) for r, n, _ in work]
    state, answers = self._policy.step(state, [e.n for _, _, e in work], sampling, keys)
    cuts = self._cut(state, work, answers)
    out, at = [], 0
    for (r, node, e), answer in zip(work, answers):
      r.counts['expansions'] += 1
      if isinstance(answer, Refusal):
        r.counts['refused'] += 1
        if node.beam.id == ROOT:
          r.refuse(answer.reason)
        out.append([_refused(node)])
        continue
      node.n_children += e.n
      children = []
      for completion in answer:
        place, kept = cuts.get(at, (Place(state, at), None))
        new = nodes.child(
          node, e, completion, self._policy.separator, self._sampling.max_tokens,
          self._step_tokens, kept,
        )  # fmt: skip
        new.policy = None if new.beam.ended else place
        r.counts['policy_generated'] += completion.n_tokens
        r.counts['policy_read'] += int(state.tokens_read[at])
        if kept is not None:
          r.counts['policy_overrun'] += completion.n_tokens - kept.n_tokens
        r.counts['empty_steps'] += new.beam.reason == 'empty'
        children.append(new)
        at += 1
      out.append(children)
    return out

  def _cut(
    self,
    state: Any,
    work: Sequence[Work],
    answers: Sequence[list[Completion] | Refusal],
  ) -> dict[int, tuple[Place, Kept]]:
    """Row -> where the completion is that was cut at low confidence, and its text."""
    asked = [
      (e, c)
      for (_, _, e), answer in zip(work, answers)
      if not isinstance(answer, Refusal)
      for c in answer
    ]
    found = {i: n for i, (e, c) in enumerate(asked) if (n := _confident(e, c)) >= 0}
    if not found:
      return {}
    rows, texts = self._policy.cut(
      self._policy.take(state, list(found)), list(found.values())
    )
    return {
      row: (Place(rows, i), Kept(texts[i], n))
      for i, (row, n) in enumerate(found.items())
    }

  def _score(self, work: Sequence[Work]) -> None:
    """Scores the new steps of new beams, step by step from where reading ended."""
    unread = []
    for r, node, e in work:
      beam = node.beam
      missing = len(beam.steps) - len(beam.scores)
      scores = (*beam.scores, *(math.nan,) * missing)
      node.beam = dataclasses.replace(beam, scores=scores)
      wanted = e.score and beam.reason != 'cut' and beam.depth > node.n_read
      # A refused beam may hold an open step whose score it has already.
      if self._scorer is not None and wanted and missing:
        unread.append((r, node, e))
    if self._scorer is None:
      return
    whole = [w for w in unread if w[2].whole and w[1].n_read == 0]
    if whole:
      values, read = self._scorer.score(
        [r.problem.question for r, _, _ in whole], [n.beam.steps for _, n, _ in whole]
      )
      for (r, node, _), found, n in zip(whole, values, read):
        r.counts['prm_read'] += int(n)
        node.beam = dataclasses.replace(node.beam, scores=tuple(found.tolist()))
    self._extend([w for w in unread if not (w[2].whole and w[1].n_read == 0)])
    for r, node, e in work:
      first = r.nodes[node.beam.parent].n_whole
      unscored = sum(math.isnan(s) for s in node.beam.scores[first:])
      r.counts['unscored'] += unscored * (e.score and node.beam.reason != 'cut')

  def _read_questions(self, scorer: ScorerSessions, runs: Sequence[_Run]) -> None:
    """Starts the scorer on the questions that it has not seen, each once."""
    new = [r for r in dict.fromkeys(runs) if r.question is None]
    if not new:
      return
    state = scorer.start([r.problem.question for r in new])
    for i, r in enumerate(new):
      r.question = Place(state, i)
      r.counts['prm_read'] += int(state.tokens_read[i])

  def _extend(self, work: Sequence[Work]) -> None:
    """Reads the unread steps of each; an open step is read and not kept."""
    assert self._scorer is not None
    self._read_questions(self._scorer, [r for r, _, _ in work])
    read = [node.n_read for _, node, _ in work]
    places = [node.scorer or r.question for r, node, _ in work]
    while rows := [i for i, w in enumerate(work) if read[i] < w[1].beam.depth]:
      state = _gather(self._scorer, [places[i] for i in rows])
      steps = [work[i][1].beam.steps[read[i]] for i in rows]
      state, values = self._scorer.extend(state, steps)
      for place, i in enumerate(rows):
        r, node, _ = work[i]
        scores = list(node.beam.scores)
        scores[read[i]] = float(values[place])
        node.beam = dataclasses.replace(node.beam, scores=tuple(scores))
        r.counts['prm_read'] += int(state.tokens_read[place])
        read[i] += 1
        places[i] = Place(state, place)
        if read[i] <= node.n_whole:
          node.scorer, node.n_read = places[i], read[i]


def _confident(e: Expand, c: Completion) -> int:
  """Tokens before the first of low confidence; -1: there is none."""
  if not e.cut_below:
    return -1
  if len(c.logprobs) < c.n_tokens:
    raise UserError(
      'this search cuts steps at tokens of low confidence and needs their '
      'log-probabilities; use an engine that gives them.'
    )
  low = np.flatnonzero(np.array(c.logprobs) < math.log(e.cut_below))
  return int(low[0]) if len(low) else -1


def _refused(node: Node) -> Node:
  """What comes of a beam that fills the context: the same, ended."""
  scores = node.beam.scores
  if node.beam.reason == 'cut':  # what is left of its last step was never scored
    scores = scores[: node.n_whole]
  beam = dataclasses.replace(
    node.beam, parent=node.beam.id, scores=scores, reason='length', n_tokens=0,
    logprobs=(),
  )  # fmt: skip
  return dataclasses.replace(node, beam=beam, path=f'{node.path}.x', policy=None)


def _gather(sessions: Any, places: Sequence[Place | None]) -> Any:
  """One state of rows from several, in order."""
  held: dict[int, tuple[Any, list[int]]] = {}
  order: dict[int, list[int]] = {}
  for i, place in enumerate(places):
    assert place is not None, 'a beam that was let go'
    held.setdefault(id(place.state), (place.state, []))[1].append(place.row)
    order.setdefault(id(place.state), []).append(i)
  parts = [sessions.take(state, rows) for state, rows in held.values()]
  if len(parts) == 1:
    return parts[0]
  joined = sessions.join(parts)
  back = np.argsort([i for some in order.values() for i in some])
  return sessions.take(joined, back.tolist())


def _compact(sessions: Any, runs: Sequence[_Run], field: str) -> None:
  """Lets go of states of which less than half the rows are still used."""
  users: dict[int, list[Node]] = defaultdict(list)
  for r in runs:
    for node in r.nodes:
      if place := getattr(node, field):
        users[id(place.state)].append(node)
  for some in users.values():
    state = getattr(some[0], field).state
    rows = sorted({getattr(node, field).row for node in some})
    if 2 * len(rows) < len(state):
      smaller = sessions.take(state, rows)
      new = {row: i for i, row in enumerate(rows)}
      for node in some:
        setattr(node, field, Place(smaller, new[getattr(node, field).row]))
