"""Rollout: sample solutions of problems from a policy, and check their answers.

    WORKDIR/solutions/NNNNN.jsonl.gz   trajectories, n a problem, in problem order
    WORKDIR/results.json               pass@1, majority@N, oracle@N, lengths, counters

The same command again goes on where it was (`jobs/chunks.py`).
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from prm_jax import files, records, writer
from prm_jax.data import sources
from prm_jax.errors import UserError
from prm_jax.evaluation import intervals, suite
from prm_jax.evaluation.result import Options
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
from prm_jax.jobs import assemble, chunks, policies
from prm_jax.jobs.configuration import Command, flatten
from prm_jax.jobs.policies import Engines
from prm_jax.labeling.completer import CUT_OFF, plain
from prm_jax.records import Trajectory
from prm_jax.worlds import arithmetic, truths
from prm_jax.worlds.arithmetic import WorldConfig

SOLUTIONS = 'solutions'
# What joins steps that were not cut at a separator; token modes leave no gap.
JOINS = {
  'newlines': '\n',
  'paragraphs': '\n\n',
  'numbering': '\n',
  'low_confidence': '',
  'entropy': '',
}
_SPAN = re.compile(r'(\d+):(\d+)')


def run(command: Command) -> None:
  """Samples `rollout.n` solutions of each problem of `input`.

  Raises:
    UserError: config, problems, policy or workdir cannot be used, or no problem
      could be asked.
    Preempted: asked to stop; finished chunks stay.
  """
  config = command.config
  shard = chunks.parse_shard(config.shard)
  if config.rollout.n < 1:
    raise UserError(f'rollout.n={config.rollout.n}: sample at least 1 solution.')
  sampling = policies.sampling(config)
  if sampling.temperature == 0 and config.rollout.n > 1:
    writer.say(
      f'sampling.temperature=0: the {config.rollout.n} samples of a problem are '
      'identical; rollout.n=1 says as much'
    )
  asked, counters = problems(config)
  parts = chunks.cut(asked, config.chunk.size)
  engines = policies.engines(config)
  splitter = policies.splitter(config, engines.separator)
  with (
    files.open_workdir(command.workdir, flatten(config), shard) as work,
    policies.checker(config) as checker,
  ):
    sampler = Sampler(config, engines, sampling, splitter, checker)
    keys = [chunks.key(engines.about, [*map(records.to_dict, p)]) for p in parts]

    def conclude(done: chunks.Done) -> None:
      _conclude(command, work, done, counters, engines, sampling)

    chunks.run(
      work, parts, sampler.process,
      keys=keys, outputs=(SOLUTIONS,), shard=shard, workers=engines.n,
      what='chunks of problems', spent=engines.spent, conclude=conclude,
    )  # fmt: skip


def problems(config: ConfigDict) -> tuple[list[Trajectory], dict[str, int]]:
  """The problems to solve, without steps, and what was left out.

  A file may hold problems alone or solutions: each question is taken once.

  Raises:
    UserError: `input` is empty or cannot be read, or the span leaves nothing.
  """
  if not config.input:
    raise UserError(f'{config.job} needs --config.input=world:SPLIT or PATH[:FORMAT].')
  span = _span(config.rollout.problems)
  found: list[Trajectory] = []
  for source in sources.parse(config.input):
    if source.format in sources.WORLDS:
      if span is None:
        raise UserError(
          f'input={config.input}: the embedded world has no end of problems; say which '
          'as --config.rollout.problems=0:500.'
        )
      world = assemble.world(config)
      found += arithmetic.problem_records(world, source.path, span[1])
    else:
      policies.refuse_unfinished(source.path)
      held = sources.load([source], assemble.options(config), limit=config.data.limit)
      found += held.trajectories
  seen: set[str] = set()
  out = []
  for t in found:
    names = {t.problem_id, records.make_problem_id(t.question)}
    if not names & seen:
      meta = {} if t.steps else t.meta
      out.append(
        Trajectory(
          t.id, t.problem_id, t.question, (), t.source, t.gold_answer, meta=meta
        )
      )
    seen |= names
  counters = {'rows_with_a_problem_seen_before': len(found) - len(out)}
  start, stop = span or (0, len(out))
  if start >= min(stop, len(out)):
    raise UserError(
      f'rollout.problems={config.rollout.problems}: {config.input} has {len(out)} '
      'problems, none of them in this span.'
    )
  return out[start:stop], counters


def _span(text: str) -> tuple[int, int] | None:
  if not text:
    return None
  found = _SPAN.fullmatch(text)
  if found is None or int(found[1]) >= int(found[2]):
    raise UserError(
      f'rollout.problems={text!r}: give START:STOP, for example 0:500, or nothing.'
    )
  return int(found[1]), int(found[2])


@dataclasses.dataclass
class Sampler:
  """Makes the chunks of a rollout.

  Attributes:
    config: of the job.
    engines, sampling, splitter, checker: what solutions are made and judged with.
  """

  config: ConfigDict
  engines: Engines
  sampling: Sampling
  splitter: Splitter
  checker: Checker

  def process(self, problems: Sequence[Trajectory], worker: int) -> chunks.Produced:
    """n solutions of each problem; refused problems are counted."""
    engine = self.engines.get(worker)
    before = Counter(engine.counters)
    requests = [
      Request(request_id(p.problem_id, '', 0), p.question, n=self.config.rollout.n)
      for p in problems
    ]
    answers = engine.complete(requests, self.sampling)
    counters: Counter[str] = Counter(problems=len(problems))
    rows: list[Trajectory] = []
    for problem, answer in zip(problems, answers):
      if isinstance(answer, Refusal):
        counters[f'refused/{answer.reason}'] += 1
        continue
      for c in answer:
        rows.append(self._record(problem, c, engine))
        counters[f'finish/{c.finish_reason}'] += 1
    rows = [self._with_truth(t) for t in judged(self.config, self.checker, rows)]
    verdict = self.config.data.checker
    for t in rows:
      value = t.verdicts[verdict].value
      counters['unjudged' if value is None else 'right' if value else 'wrong'] += 1
      counters['without_steps'] += not t.steps
      counters['answerless'] += t.answer is None
    counters['solutions'] = len(rows)
    spent, timing = policies.counted(engine, before)
    return chunks.Produced(
      {SOLUTIONS: [records.to_dict(t) for t in rows]}, {**counters, **spent}, timing
    )

  def _record(self, problem: Trajectory, c: Completion, engine: Engine) -> Trajectory:
    offsets = None
    if self.engines.decode is not None and c.tokens:
      offsets = splitting.token_offsets(c.text, c.tokens, self.engines.decode)
    split = splitting.split(
      c.text,
      self.splitter,
      offsets=offsets,
      logprobs=c.logprobs or None,
      entropies=c.entropies or None,
    )
    given = plain(self.sampling)
    return dataclasses.replace(
      problem,
      id=records.make_id(
        problem.source or 'rollout',
        f'{engine.name}/{sorted(given.items())}/{problem.problem_id}',
        c.sample_index,
      ),
      steps=split.steps,
      separator=JOINS.get(self.splitter.how, self.splitter.separator),
      response=c.text,
      step_spans=split.spans,
      generator=engine.name,
      sampling=given,
      sample_index=c.sample_index,
      tokens=step_tokens(c, split, offsets) if self.config.rollout.tokens else (),
      meta={
        **problem.meta,
        'n_tokens': c.n_tokens,
        'finish_reason': c.finish_reason,
        **({'self_certainty': float(np.mean(c.certainties))} if c.certainties else {}),
      },
    )

  def _with_truth(self, t: Trajectory) -> Trajectory:
    """With the exact step labels, where the question is of the embedded world."""
    if not self.config.rollout.truth:
      return t
    return with_truth(assemble.world(self.config), t)


def judged(
  config: ConfigDict, checker: Checker, rows: Sequence[Trajectory]
) -> list[Trajectory]:
  """Rows with answer and verdict; one that was cut off has neither."""
  open_rows = {i: t for i, t in enumerate(rows) if t.meta['finish_reason'] != 'length'}
  pairs = [(t.response or '', t.gold_answer) for t in open_rows.values()]
  found = dict(zip(open_rows, checker.check_many(pairs)))
  out = []
  for i, t in enumerate(rows):
    answer, verdict = found.get(i, (None, CUT_OFF))
    text = None if answer is None else answer.text
    verdicts = {config.data.checker: verdict}
    out.append(dataclasses.replace(t, answer=text, verdicts=verdicts))
  return out


def step_tokens(
  c: Completion, split: Split, offsets: Sequence[int] | None
) -> tuple[dict[str, Any], ...]:
  """One dict a step: ids, log-probabilities and entropies of its tokens.

  A token belongs to the step that it starts in, or that it follows; what stands
  before the first step belongs to that. So all tokens are there, in order.
  """
  if offsets is None or not split.steps:
    return ()
  starts = [0, *(start for start, _ in split.spans[1:])]
  place = np.searchsorted(starts, offsets[: len(c.tokens)], side='right') - 1
  out = []
  for p in range(len(split.steps)):
    mine = np.flatnonzero(place == p)
    part: dict[str, Any] = {'ids': [c.tokens[i] for i in mine]}
    for name, values in (('logprobs', c.logprobs), ('entropies', c.entropies)):
      if values:
        part[name] = [round(float(values[i]), 6) for i in mine]
    out.append(part)
  return tuple(out)


def with_truth(world: WorldConfig, t: Trajectory) -> Trajectory:
  """Adds label sets 'valid' and 'on_track' to a row of the embedded world.

  The verdict on its answer stays the checker's, as for any other question.
  """
  found = truths.judge(world, t.question, t.steps)
  if found is None:
    return t
  for name, values in (('valid', found.valid), ('on_track', found.on_track)):
    t = records.add(t, 'labels', name, truths.correctness(values))
    t = records.add(t, 'first_error', name, found.first_error)
  return t


def _conclude(
  command: Command,
  work: files.Workdir,
  done: chunks.Done,
  counters: dict[str, int],
  engines: Engines,
  sampling: Sampling,
) -> None:
  """Writes results.json of what is covered.

  Raises:
    UserError: every problem was refused.
  """
  config = command.config
  rows = [t for file in done.main for t in records.read(file)]
  counted = {**counters, **done.counters}
  if done.whole and not rows:
    raise UserError(
      f'{config.input}: no problem could be asked ({_refusals(done.counters)}); ask '
      'shorter ones, or give the policy a longer context.'
    )
  known = [t for t in rows if t.gold_answer is not None]
  counted['solutions_without_gold_answer'] = len(rows) - len(known)
  metrics: dict[str, Any] = {}
  if known:
    section = config.evaluate
    found = suite.evaluate(
      {}, {SOLUTIONS: known},
      scorer='', truth='', verdict=config.data.checker,
      options=Options(
        n_resamples=section.resamples, n_draws=section.subsets, seed=section.seed
      ),
    )  # fmt: skip
    metrics |= found.metrics
    counted |= found.counters
  metrics |= _lengths(rows, config) if rows else {}
  for name in ('stop',) if sampling.stop else ():
    if rows and not done.counters[f'finish/{name}']:
      writer.say(f'no solution reached a stop string of {list(sampling.stop)}')
  about = files.provenance(
    command.line, config.seed, **engines.about, sampling=plain(sampling), **done.about()
  )
  work.write_results('rollout', metrics, counted, about)
  shown = {k: metrics[k] for k in metrics if k.endswith('pass@1')}
  for path, m in shown.items():
    writer.say(f'{path} = {m["value"]:.3f} over {m["n"]} problems')
  writer.say(f'{work.path}: {len(rows)} solutions in {work / SOLUTIONS}')


def _lengths(rows: Sequence[Trajectory], config: ConfigDict) -> dict[str, Any]:
  """Tokens and steps of a solution, and the share that was cut off."""
  ids = sorted({t.problem_id for t in rows})
  place = {name: i for i, name in enumerate(ids)}
  problem = np.array([place[t.problem_id] for t in rows])
  sample = intervals.resamples(ids, config.evaluate.resamples, config.evaluate.seed)
  count = np.bincount(problem, minlength=len(ids)).astype(float)
  values = {
    'tokens': [t.meta['n_tokens'] for t in rows],
    'steps': [t.n_steps for t in rows],
    'cut_off': [t.meta['finish_reason'] == 'length' for t in rows],
  }
  return {
    f'{SOLUTIONS}/length/{name}': intervals.ratio(
      np.bincount(problem, np.asarray(v, float), len(ids)), count, sample
    ).metric()
    for name, v in values.items()
  }


def _refusals(counters: Counter[str]) -> str:
  found = {k: n for k, n in sorted(counters.items()) if k.startswith('refused/')}
  return ', '.join(f'{n} {k.partition("/")[2]}' for k, n in found.items())
