"""Turns asks for continuations into requests, and completions into evidence.

Between an algorithm, which thinks in prefixes of steps, and an engine, which thinks
in text: a completion is cut into steps, the answer of the *whole* text is checked,
and every rollout is kept as a record with its parent.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from prm_jax.formats import splitting
from prm_jax.formats.answer_checker import Checker
from prm_jax.formats.splitting import Split, Splitter
from prm_jax.inference.requests import (
  Completion,
  Engine,
  Refusal,
  Request,
  Sampling,
  request_id,
)
from prm_jax.labeling.protocol import Ask, Continuation
from prm_jax.records import Trajectory, Verdict, make_id

CUT_OFF = Verdict(None, '', 'cut off at the limit of tokens')
NO_GOLD = Verdict(None, '', 'no gold answer')


class Completes(Protocol):
  """What a driver needs of a completer; a planted one in tests has it too.

  Attributes:
    how: completer, sampling and checker, as label sets record them.
    counters: running totals.
  """

  how: Mapping[str, Any]
  counters: Counter[str]

  def ask(
    self, problems: Sequence[Trajectory], asks: Sequence[Ask]
  ) -> Sequence[list[Continuation] | Refusal]:
    """Answers of all asks, in order; `problems` has any solution of each's problem."""

  def take_rollouts(self) -> list[Trajectory]:
    """The rollouts kept since the last call, in the order of asking."""


class Completer:
  """A completer made of an engine, its sampling, a splitter and an answer checker.

  A completion that ran into a limit of tokens is not judged (`correct` None), nor is
  one of a problem without a gold answer. The same sample of the same prefix is kept
  once, however often it is asked for.

  Args:
    engine: the policy that goes on from prefixes.
    sampling: how it draws.
    splitter: cuts the new text into steps.
    checker: judges answers, and is the caller's to close.
    verdict: key of `verdicts` in the records of rollouts.
    checks: how the checker was made, for the labels' `how`.
    decode: the tokenizer's, for splitters that cut at tokens; their steps then have
      token counts.
    keep: keep rollouts as records; False counts them only.
  """

  def __init__(
    self,
    engine: Engine,
    sampling: Sampling,
    splitter: Splitter,
    checker: Checker,
    *,
    verdict: str = 'exact',
    checks: Mapping[str, Any] | None = None,
    decode: Callable[[Sequence[int]], str] | None = None,
    keep: bool = True,
  ):
    self._engine = engine
    self._sampling = sampling
    self._splitter = splitter
    self._checker = checker
    self._verdict = verdict
    self._decode = decode
    self._keep = keep
    self._rollouts: dict[str, Trajectory] = {}
    self._given = plain(sampling)
    self.how: Mapping[str, Any] = {
      'completer': engine.name,
      'sampling': self._given,
      'splitter': plain(splitter),
      'checker': {'name': verdict, **(checks or {})},
    }
    self.counters: Counter[str] = Counter()

  def ask(
    self, problems: Sequence[Trajectory], asks: Sequence[Ask]
  ) -> list[list[Continuation] | Refusal]:
    """Answers of all asks by one call of the engine.

    Args:
      problems: [A] any solution of the problem that the ask belongs to.
      asks: [A].

    Returns:
      For each ask its k continuations by sample index, or why it is refused.

    Raises:
      UserError: the engine cannot go on.
    """
    if not asks:
      return []
    requests = [
      Request(
        id=request_id(problem.problem_id, ask.path_id, ask.n_steps),
        question=problem.question,
        steps=ask.path,
        n_steps=ask.n_steps,
        n=ask.k,
        first_sample=ask.first_sample,
      )
      for problem, ask in zip(problems, asks)
    ]
    answers = self._engine.complete(requests, self._sampling)
    drafts = [
      []
      if isinstance(answer, Refusal)
      else [self._draft(problem, ask, request.id, c) for c in answer]
      for problem, ask, request, answer in zip(problems, asks, requests, answers)
    ]
    judged = self._judge([draft for some in drafts for draft in some])
    self.counters['asks'] += len(asks)
    out: list[list[Continuation] | Refusal] = []
    for answer, some in zip(answers, drafts):
      if isinstance(answer, Refusal):
        self.counters[f'refused/{answer.reason}'] += 1
        out.append(answer)
      else:
        out.append([self._finish(draft, judged[draft.record.id]) for draft in some])
    return out

  def take_rollouts(self) -> list[Trajectory]:
    """The rollouts kept since the last call, in the order of asking."""
    taken = list(self._rollouts.values())
    self._rollouts.clear()
    return taken

  def _draft(
    self, problem: Trajectory, ask: Ask, name: str, completion: Completion
  ) -> _Draft:
    """The record of a rollout, not judged yet."""
    separator = self._engine.separator
    prefix = ask.path[: ask.n_steps]
    spans, at = [], 0
    for step in prefix:
      spans.append((at, at + len(step)))
      at += len(step) + len(separator)
    text = ''.join(step + separator for step in prefix) + completion.text
    split, step_tokens = self._split(completion)
    spans += [(at + start, at + end) for start, end in split.spans]
    record = Trajectory(
      id=make_id(
        f'{self._engine.name}/{self._sampling.seed}', name, completion.sample_index
      ),
      problem_id=problem.problem_id,
      question=problem.question,
      steps=prefix + split.steps,
      source=problem.source,
      gold_answer=problem.gold_answer,
      separator=separator,
      response=text,
      step_spans=tuple(spans),
      generator=self._engine.name,
      sampling=self._given,
      sample_index=completion.sample_index,
      parent={'id': ask.path_id, 'n_steps': ask.n_steps},
      meta={'n_tokens': completion.n_tokens, 'finish_reason': completion.finish_reason},
    )
    return _Draft(record, split.steps, step_tokens, completion)

  def _split(self, completion: Completion) -> tuple[Split, tuple[int, ...]]:
    """New steps and their token counts, () where the splitter cuts at characters."""
    text = completion.text
    if self._splitter.how not in splitting.TOKEN_HOWS or self._decode is None:
      return splitting.split(text, self._splitter), ()
    n = len(completion.tokens)
    offsets = splitting.token_offsets(text, completion.tokens, self._decode)
    split = splitting.split(
      text,
      self._splitter,
      offsets=offsets if n or not text else None,
      logprobs=completion.logprobs if len(completion.logprobs) == n else None,
      entropies=completion.entropies if len(completion.entropies) == n else None,
    )
    starts = [start for start, _ in split.spans]
    owner = [bisect.bisect_right(starts, at) - 1 for at in offsets[:-1]]
    return split, tuple(owner.count(i) for i in range(len(starts)))

  def _judge(self, drafts: Sequence[_Draft]) -> dict[str, tuple[str | None, Verdict]]:
    """Record id -> (answer, verdict)."""
    out: dict[str, tuple[str | None, Verdict]] = {}
    texts: list[tuple[str, str]] = []
    ids: list[str] = []
    for draft in drafts:
      record = draft.record
      if draft.completion.finish_reason == 'length':
        out[record.id] = None, CUT_OFF
      elif record.gold_answer is None:
        out[record.id] = None, NO_GOLD
      else:
        ids.append(record.id)
        texts.append((record.response or '', record.gold_answer))
    for name, (answer, verdict) in zip(ids, self._checker.check_many(texts)):
      out[name] = (None if answer is None else answer.text), verdict
    return out

  def _finish(self, draft: _Draft, judged: tuple[str | None, Verdict]) -> Continuation:
    answer, verdict = judged
    record, completion = draft.record, draft.completion
    cut_off = completion.finish_reason == 'length'
    self.counters['rollouts'] += 1
    self.counters['tokens'] += completion.n_tokens
    self.counters['cut_off'] += cut_off
    self.counters['unjudged'] += verdict.value is None and not cut_off
    self.counters['right'] += verdict.value is True
    self.counters['wrong'] += verdict.value is False
    if self._keep:
      self._rollouts[record.id] = dataclasses.replace(
        record, answer=answer, verdicts={self._verdict: verdict}
      )
    known = len(completion.logprobs) == completion.n_tokens
    return Continuation(
      id=record.id,
      steps=draft.new_steps,
      correct=verdict.value,
      n_tokens=completion.n_tokens,
      logprob=sum(completion.logprobs) if known else None,
      step_tokens=draft.step_tokens,
      answer=answer,
    )


@dataclasses.dataclass(frozen=True)
class _Draft:
  record: Trajectory
  new_steps: tuple[str, ...]
  step_tokens: tuple[int, ...]
  completion: Completion


def plain(options: Any) -> dict[str, Any]:
  """A dataclass as JSON has it: tuples become lists."""
  return {
    name: list(value) if isinstance(value, tuple) else value
    for name, value in dataclasses.asdict(options).items()
  }
