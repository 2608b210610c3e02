"""Label: give every step of solutions a label, by any algorithm, evidence kept.

    WORKDIR/labelled/NNNNN.jsonl.gz   the solutions with their label set, problem by
                                      problem, then the rows that a search found
    WORKDIR/rollouts/NNNNN.jsonl.gz   every continuation or judge's answer, with parent
    WORKDIR/trees/NNNNN.jsonl.gz      search trees, one a problem
    WORKDIR/results.json              cost, outcomes, class balance, skipped by reason

The same command again goes on where it was (`jobs/chunks.py`).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from prm_jax import files, records, writer
from prm_jax.data import sources
from prm_jax.errors import UserError
from prm_jax.evaluation import intervals
from prm_jax.formats import label_policy
from prm_jax.jobs import assemble, chunks, labellers, policies
from prm_jax.jobs.configuration import Command, flatten
from prm_jax.jobs.labellers import Labeller
from prm_jax.labeling.driver import COST
from prm_jax.labeling.protocol import Labelled
from prm_jax.records import Trajectory

LABELLED, ROLLOUTS, TREES = 'labelled', 'rollouts', 'trees'


def run(command: Command) -> None:
  """Labels the solutions of `input` by `label.algorithm`.

  Raises:
    UserError: config, solutions, policy or workdir cannot be used, or no solution
      could be labelled.
    Preempted: asked to stop; finished chunks stay.
  """
  config = command.config
  shard = chunks.parse_shard(config.shard)
  choice = labellers.choose(config)
  groups, counters = solutions(config, choice.names, choice.needs_gold)
  parts = chunks.cut(groups, config.chunk.size)
  rolls_out = choice.needs_engine and config.label.algorithm != labellers.JUDGE
  if rolls_out and config.sampling.temperature == 0:
    writer.say(
      'sampling.temperature=0: all continuations of a prefix are identical, and count '
      'as if they were not; set a temperature above 0'
    )
  engines = policies.engines(config) if choice.needs_engine else None
  with (
    files.open_workdir(command.workdir, flatten(config), shard) as work,
    policies.checker(config) as checker,
  ):
    labeller = choice.make(config, engines, checker)
    about = engines.about if engines else {}
    keys = [
      chunks.key(about, [records.to_dict(t) for group in part for t in group])
      for part in parts
    ]

    def process(part: Sequence[list[Trajectory]], worker: int) -> chunks.Produced:
      return _chunk(config, labeller, part, worker, choice.needs_gold)

    def conclude(done: chunks.Done) -> None:
      _conclude(command, work, done, counters, about, choice.names)

    chunks.run(
      work, parts, process,
      keys=keys, outputs=(LABELLED, ROLLOUTS, TREES), shard=shard,
      workers=engines.n if engines else 1, what='chunks of problems',
      spent=engines.spent if engines else lambda: 0, conclude=conclude,
    )  # fmt: skip


def solutions(
  config: ConfigDict, names: Sequence[str], needs_gold: bool
) -> tuple[list[list[Trajectory]], dict[str, int]]:
  """Solutions by problem, in the order of their first rows, and what was counted.

  Rows of one problem_id with another question (files that number their problems alike,
  an edited question) are a group of their own: a group is asked by the question, and
  judged by the gold answer, of its first solution.

  Raises:
    UserError: `input` is empty or cannot be read, a label set of that name is there
      already, a solution is there twice, or gold answers are needed and none is.
  """
  if not config.input:
    raise UserError(
      'label needs --config.input=PATH[:FORMAT], for example runs/rollout/solutions.'
    )
  for source in sources.parse(config.input):
    policies.refuse_unfinished(source.path)
  found = assemble.load(config, config.input)
  groups: dict[tuple[str, str], list[Trajectory]] = {}
  normal: dict[str, str] = {}
  seen: set[str] = set()
  for t in found.trajectories:
    if t.id in seen:
      raise UserError(
        f'{config.input}: solution {t.id} is there twice; leave one of the files out.'
      )
    seen.add(t.id)
    for name in names:
      if name in t.labels or name in t.first_error:
        raise UserError(
          f'{config.input}: label set {name!r} is there already (solution {t.id}); '
          'give the new one another name with --config.label.name.'
        )
    if t.question not in normal:
      normal[t.question] = records.make_problem_id(t.question)
    groups.setdefault((t.problem_id, normal[t.question]), []).append(t)
  if needs_gold and all(t.gold_answer is None for t in found.trajectories):
    raise UserError(
      f'{config.input}: no problem has a gold answer, which algorithm '
      f'{config.label.algorithm!r} needs; add gold_answer, or use algorithm judge.'
    )
  return list(groups.values()), dict(found.counters)


def _chunk(
  config: ConfigDict,
  labeller: Labeller,
  part: Sequence[list[Trajectory]],
  worker: int,
  needs_gold: bool,
) -> chunks.Produced:
  """Labels the solutions that can be; the others are kept without labels."""
  unusable = {t.id: _unusable(t, needs_gold) for group in part for t in group}
  asked = [[t for t in group if not unusable[t.id]] for group in part]
  made = labeller([group for group in asked if group], worker)
  labelled = iter(one for result in made.groups for one in result.labelled)
  counters = Counter(made.counters)
  rows = []
  for group in part:
    for t in group:
      reason = unusable[t.id]
      if reason:
        counters[f'skipped/{reason}'] += 1
      rows.append(_with(t, Labelled(skipped=reason) if reason else next(labelled)))
  counters['problems'] += len(part)
  counters['solutions'] += len(rows)
  extra = [t for result in made.groups for t in result.extra]
  counters['rows_found_by_search'] += len(extra)
  for t in made.rollouts:
    for verdict in t.verdicts.values():
      counters[f'checker/{verdict.method or verdict.reason}'] += 1
  return chunks.Produced(
    {
      LABELLED: [records.to_dict(t) for t in (*rows, *extra)],
      ROLLOUTS: [records.to_dict(t) for t in made.rollouts if config.label.evidence],
      TREES: [result.tree for result in made.groups if result.tree is not None],
    },
    counters,
    made.timing,
  )


def _unusable(t: Trajectory, needs_gold: bool) -> str:
  if not t.steps:
    return 'no_steps'
  if not all(step.strip() for step in t.steps):
    return 'empty_step'
  return 'no_gold_answer' if needs_gold and t.gold_answer is None else ''


def _with(t: Trajectory, found: Labelled) -> Trajectory:
  for name, labels in found.labels.items():
    t = records.add(t, 'labels', name, labels)
  for name, first in found.first_error.items():
    t = records.add(t, 'first_error', name, first)
  meta = dict(t.meta)
  more: dict[str, Any] = {**found.meta}
  if found.skipped:
    more['label_skipped'] = found.skipped
  for key, value in more.items():
    both = isinstance(value, dict) and isinstance(meta.get(key), dict)
    meta[key] = {**meta[key], **value} if both else value
  return dataclasses.replace(t, meta=meta)


def _conclude(
  command: Command,
  work: files.Workdir,
  done: chunks.Done,
  counters: dict[str, int],
  about: dict[str, Any],
  names: Sequence[str],
) -> None:
  """Writes results.json of what is covered.

  Raises:
    UserError: no solution could be labelled.
  """
  config = command.config
  rows = [t for file in done.main for t in records.read(file)]
  counted = {**counters, **done.counters}
  found = sorted({n for t in rows for n in t.labels if n in names})
  if done.whole and not found:
    skipped = {k: n for k, n in sorted(counted.items()) if k.startswith('skipped/')}
    why = ', '.join(f'{n} {k.partition("/")[2]}' for k, n in skipped.items() if n)
    raise UserError(
      f'{config.input}: no solution could be labelled ({why}); the rows in '
      f'{work / LABELLED} say why.'
    )
  metrics: dict[str, Any] = {}
  for name in found:
    balance = label_policy.class_counts(rows, name)
    counted |= {f'{name}/{k}': n for k, n in balance.items()}
    metrics |= _metrics(rows, name, config)
  about = files.provenance(command.line, config.seed, **about, **done.about())
  work.write_results('label', metrics, counted, about)
  for name in found:
    used = counted.get(f'{name}/labels', 0)
    writer.say(f'{work.path}: label set {name!r}, {used} labels of {len(rows)} rows')


def _metrics(
  rows: Sequence[Trajectory], name: str, config: ConfigDict
) -> dict[str, Any]:
  """Cost a solution, and what the labels say, with intervals over problems."""
  ids = sorted({t.problem_id for t in rows})
  place = {problem: i for i, problem in enumerate(ids)}
  problem = np.array([place[t.problem_id] for t in rows])
  sample = intervals.resamples(ids, config.evaluate.resamples, config.evaluate.seed)

  def mean(path: str, values: Sequence[float | None]) -> dict[str, Any]:
    held = np.array([v is not None for v in values])
    if not held.any():
      return {}
    numbers = np.array([v or 0.0 for v in values], float)
    sums = [np.bincount(problem, x, len(ids)) for x in (numbers, held.astype(float))]
    return {f'{name}/{path}': intervals.ratio(sums[0], sums[1], sample).metric()}

  cost = [t.meta.get(COST, {}).get(name) for t in rows]
  first = [t.first_error.get(name) for t in rows]
  labels = [
    [v for v in t.labels[name].values if v is not None] if name in t.labels else []
    for t in rows
  ]
  return {
    **mean('cost/tokens', [c and c['tokens'] for c in cost]),
    **mean('cost/rollouts', [c and c['rollouts'] for c in cost]),
    **mean('first_error/known', [float(f is not None) for f in first]),
    **mean('first_error/none', [None if f is None else float(f < 0) for f in first]),
    **mean('labels/mean', [sum(v) / len(v) if v else None for v in labels]),
  }
