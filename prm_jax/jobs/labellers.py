"""From a config to a label algorithm that runs on chunks of problems.

`label.algorithm` is one of `labeling.registry.ALGORITHMS`, run by the driver with a
completer, or 'judge'. Options stand in `config.label`; one that the algorithm does
not have is an error.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from prm_jax.errors import UserError
from prm_jax.formats.answer_checker import Checker
from prm_jax.inference.requests import Completion, Refusal
from prm_jax.jobs import policies
from prm_jax.jobs.configuration import build
from prm_jax.jobs.policies import Engines
from prm_jax.labeling import driver, judge, judge_text, registry
from prm_jax.labeling.completer import Completer, plain
from prm_jax.labeling.protocol import GroupResult
from prm_jax.records import Trajectory, make_id

JUDGE = 'judge'
SET_ELSEWHERE = ('label', 'verdict', 'seed')
OWN_KEYS = ('algorithm', 'name', 'evidence')


@dataclasses.dataclass(frozen=True)
class Made:
  """What a labeller makes of some problems.

  Attributes:
    groups: one result a problem, in order.
    rollouts: evidence.
    counters: of the work; the same whenever it is done.
    timing: counters that are not.
  """

  groups: list[GroupResult]
  rollouts: list[Trajectory]
  counters: dict[str, int]
  timing: dict[str, int]


Labeller = Callable[[Sequence[Sequence[Trajectory]], int], Made]
"""(groups of solutions by problem, number of the worker) -> what is made of them."""


@dataclasses.dataclass(frozen=True)
class Choice:
  """A label algorithm with its options.

  Attributes:
    names: label sets that it writes.
    needs_gold: whether problems without a gold answer are skipped.
    needs_engine: whether it asks a policy or a judge.
    make: builds the labeller from config, engines and answer checker.
  """

  names: tuple[str, ...]
  needs_gold: bool
  needs_engine: bool
  make: Callable[[ConfigDict, Engines | None, Checker], Labeller]


def choose(config: ConfigDict) -> Choice:
  """The algorithm of `config.label`.

  Raises:
    UserError: there is none of that name, or it refuses an option.
  """
  section = config.label
  given = {k: v for k, v in section.items() if k not in OWN_KEYS and v is not None}
  name = section.algorithm
  if name == JUDGE:
    _check_options(name, given, ())
    return _judge(config)
  if name not in registry.ALGORITHMS:
    known = (*registry.ALGORITHMS, JUDGE)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f'did you mean {near[0]!r}?' if near else f'choose from {", ".join(known)}.'
    raise UserError(f'label.algorithm={name!r}: there is no such algorithm; {hint}')
  entry = registry.ALGORITHMS[name]
  fields = [f.name for f in dataclasses.fields(entry.options)]
  _check_options(name, given, [f for f in fields if f not in SET_ELSEWHERE])
  names = (section.name or name,)
  more = {'label': names[0], 'verdict': config.data.checker, 'seed': config.seed}
  own = {k: v for k, v in more.items() if k in fields}
  options = build(entry.options, 'label', given, **own)
  algorithm = entry.make(options)

  def make(config: ConfigDict, engines: Engines | None, checker: Checker) -> Labeller:
    return _asking(config, engines, checker, algorithm, names)

  return Choice(names, entry.needs_gold, entry.needs_engine, make)


def _check_options(name: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
  for key in given:
    if key not in known:
      raise UserError(
        f'label.{key}={given[key]!r}: algorithm {name!r} has no such option; its '
        f'options are {", ".join(known) or "those of config.judge"}.'
      )


def _asking(
  config: ConfigDict,
  engines: Engines | None,
  checker: Checker,
  algorithm: Any,
  names: Sequence[str],
) -> Labeller:
  """Runs an algorithm of the registry; each chunk has a completer of its own."""
  sampling = policies.sampling(config)
  splitter = policies.splitter(config, engines.separator) if engines else None

  def labeller(groups: Sequence[Sequence[Trajectory]], worker: int) -> Made:
    if engines is None or splitter is None:
      result = driver.run(groups, algorithm, None, names)
      return Made(result.groups, [], result.counters, {})
    engine = engines.get(worker)
    before = dict(engine.counters)
    completer = Completer(
      engine,
      sampling,
      splitter,
      checker,
      verdict=config.data.checker,
      checks=policies.checks(config),
      decode=engines.decode,
    )
    result = driver.run(groups, algorithm, completer, names)
    spent, timing = policies.counted(engine, before)
    return Made(result.groups, result.rollouts, {**result.counters, **spent}, timing)

  return labeller


def _judge(config: ConfigDict) -> Choice:
  """The judge: one prompt a solution, `judge.votes` answers."""
  name = config.label.name or JUDGE
  options = build(judge_text.Options, 'judge', config.judge, label=name)
  sampling = policies.sampling(config)
  judge.check(options, sampling)

  def make(config: ConfigDict, engines: Engines | None, checker: Checker) -> Labeller:
    assert engines is not None

    def labeller(groups: Sequence[Sequence[Trajectory]], worker: int) -> Made:
      engine = engines.get(worker)
      before = dict(engine.counters)
      rows = [t for group in groups for t in group]
      answers = engine.complete(judge.prompts(rows, options), sampling)
      labelled = judge.labels(
        rows, answers, options, judge=engine.name, sampling=sampling
      )
      parts = iter(labelled)
      results = [GroupResult([next(parts) for _ in group]) for group in groups]
      spent, timing = policies.counted(engine, before)
      asked = [t for t in rows if not judge_text.skip_reason(t, options)]
      said = [
        _answer(t, c, engine.name, plain(sampling), options.template_hash)
        for t, some in zip(asked, answers)
        if not isinstance(some, Refusal)
        for c in some
      ]
      counters = {**judge.tally(labelled, options), **spent}
      return Made(results, said, counters, timing)

    return labeller

  return Choice((name,), False, True, make)


def _answer(
  t: Trajectory, c: Completion, judge: str, sampling: dict[str, Any], template: str
) -> Trajectory:
  """A judge's answer as evidence: a text without steps, about a whole solution."""
  return Trajectory(
    id=make_id(f'judge/{judge}/{sampling["seed"]}/{template}', t.id, c.sample_index),
    problem_id=t.problem_id,
    question=t.question,
    steps=(),
    source=t.source,
    response=c.text,
    generator=judge,
    sampling=sampling,
    sample_index=c.sample_index,
    parent={'id': t.id, 'n_steps': t.n_steps},
    meta={'n_tokens': c.n_tokens, 'finish_reason': c.finish_reason},
  )
