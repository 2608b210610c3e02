"""Search: solve problems by one or several searches, and say what each of them cost.

    WORKDIR/searches/NNNNN.jsonl.gz    a row a problem and method: choice, verdict,
                                       tokens, estimated FLOPs, chance of each final
                                       rule to be right
    WORKDIR/candidates/NNNNN.jsonl.gz  their candidates, trajectories with step scores
    WORKDIR/trees/NNNNN.jsonl.gz       every beam, with search.tree
    WORKDIR/timing.jsonl               a line a chunk: seconds, and until each problem
                                       was done
    WORKDIR/results.json, report.html  methods at equal compute (`search_results`)

The same command again goes on where it was (`jobs/chunks.py`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from prm_jax import files, records, step_values, writer
from prm_jax.errors import UserError
from prm_jax.evaluation.compute import Prices
from prm_jax.evaluation.pools import vote_key
from prm_jax.formats.answer_checker import Checker
from prm_jax.formats.step_format import Encoded
from prm_jax.inference.scorer import Scorer
from prm_jax.jobs import (
  chunks,
  policies,
  rollout,
  score,
  search_results,
  searchers,
)
from prm_jax.jobs.configuration import Command, flatten
from prm_jax.jobs.searchers import Parts, Search
from prm_jax.labeling.completer import plain
from prm_jax.records import Trajectory
from prm_jax.search import driver, finals

SEARCHES, CANDIDATES, TREES = 'searches', 'candidates', 'trees'

Item = tuple[Search, Trajectory]


def run(command: Command) -> None:
  """Runs every search of `search.methods` on the problems of `input`.

  Raises:
    UserError: config, problems, policy, scorer or workdir cannot be used, or no problem
      could be searched.
    Preempted: asked to stop; finished chunks stay.
  """
  config = command.config
  shard = chunks.parse_shard(config.shard)
  asked, counters = rollout.problems(config)
  if not 0 <= config.search.validation < len(asked):
    raise UserError(
      f'search.validation={config.search.validation}: there are {len(asked)} problems, '
      'and some must be left to report on.'
    )
  sampling = policies.sampling(config)
  engines = policies.engines(config)
  first, about = _scorer(config, 0)
  searches = searchers.methods(
    config.search.methods, _kind(config, first), engines.decode is not None
  )
  prices = searchers.prices(config, engines, first)
  parts = [
    [(method, p) for p in part]
    for method in searches
    for part in chunks.cut(asked, config.chunk.size)
  ]

  def load(worker: int) -> Scorer:
    found = first if worker == 0 else _scorer(config, worker)[0]
    assert found is not None
    return found

  made = Parts(config, engines, load if first else None)
  with (
    files.open_workdir(command.workdir, flatten(config), shard) as work,
    policies.checker(config) as checker,
  ):
    how = reduction(config, first) if first else ''
    told = {**engines.about, **({'scorer': about} if first else {})}
    keys = [
      chunks.key(
        {**told, 'method': part[0][0].about()}, [records.to_dict(p) for _, p in part]
      )
      for part in parts
    ]
    maker = Maker(config, made, sampling, checker, prices)

    def conclude(done: chunks.Done) -> None:
      search_results.write(
        command, work, done, counters, searches, [p.problem_id for p in asked], prices,
        how, {**told, 'sampling': plain(sampling)},
      )  # fmt: skip

    chunks.run(
      work, parts, maker.process,
      keys=keys, outputs=(SEARCHES, CANDIDATES, TREES), shard=shard,
      workers=1 if _spread(config) else engines.n, what='chunks of problems',
      conclude=conclude,
    )  # fmt: skip


def _spread(config: ConfigDict) -> bool:
  """Whether the scorer lies on several devices, and so serves one worker."""
  return config.parallel.fsdp * config.parallel.tensor > 1


def _scorer(config: ConfigDict, worker: int) -> tuple[Scorer | None, dict[str, Any]]:
  """The scorer of a worker, on its device, and where it comes from."""
  if not config.scorer:
    writer.say('no scorer: solutions are sampled and vote; nothing guides a search')
    return None, {}
  devices = None if _spread(config) else [jax.local_devices()[worker]]
  return score.load(config, config.data.cache_dir, devices)


def _kind(config: ConfigDict, scorer: Scorer | None) -> str | None:
  if scorer is None:
    return None
  step_values.check_reduction(reduction(config, scorer), scorer.kind)
  return scorer.kind


def reduction(config: ConfigDict, scorer: Scorer) -> str:
  """Of step scores to the weight of a vote."""
  return config.evaluate.reduction or scorer.spec.reduction


class Maker:
  """Makes the chunks of a search.

  Args:
    config: of the job.
    parts: sessions of each worker.
    sampling, checker, prices: what solutions are made, judged and charged with.
  """

  def __init__(
    self, config: ConfigDict, parts: Parts, sampling: Any, checker: Checker,
    prices: Prices,
  ):  # fmt: skip
    self._config, self._parts, self._sampling = config, parts, sampling
    self._checker, self._prices = checker, prices

  def process(self, items: Sequence[Item], worker: int) -> chunks.Produced:
    """Searches a method's problems; those that cannot be asked are counted."""
    began = time.monotonic()
    method, problems = items[0][0], [p for _, p in items]
    policy, scores, scorer = self._parts.get(worker, bool(method.n))
    found = driver.run(
      problems, method.run, policy, scores, self._sampling,
      step_tokens=self._config.search.step_tokens, name=method.name,
      keep_tree=self._config.search.tree,
    )  # fmt: skip
    counters: Counter[str] = Counter(searches=len(problems))
    flat = [t for r in found for t in r.candidates]
    flat = rollout.judged(self._config, self._checker, flat)
    if scorer is not None and method.n:
      flat = _with_own_tokens(scorer, flat)
    rows: list[dict[str, Any]] = []
    start = 0
    for problem, result in zip(problems, found):
      mine = flat[start : start + len(result.candidates)]
      start += len(mine)
      rows.append(self._row(method, problem, result, mine, scorer))
      counters.update({_counter(k): n for k, n in result.counts.items()})
      counters[f'skipped/{result.skipped}'] += bool(result.skipped)
    verdict = self._config.data.checker
    for t in flat:
      counters['candidates'] += 1
      counters['unjudged'] += t.verdicts[verdict].value is None
      counters['answerless'] += t.answer is None
      counters['cut_off'] += t.meta['finish_reason'] == 'length'
    trees = [
      {'method': method.name, 'problem_id': p.problem_id, 'beams': r.tree}
      for p, r in zip(problems, found)
      if r.tree
    ]
    seconds = round((time.monotonic() - began) / len(problems), 6)
    return chunks.Produced(
      {
        SEARCHES: rows,
        CANDIDATES: [records.to_dict(t) for t in flat],
        TREES: trees,
      },
      {k: n for k, n in counters.items() if n},
      {
        'problems': len(problems),
        'seconds_a_problem': seconds,
        'method': method.name,
        'seconds_until_done': {
          p.problem_id: round(r.seconds, 6) for p, r in zip(problems, found)
        },
      },
    )

  def _row(
    self,
    method: Search,
    problem: Trajectory,
    result: driver.Result,
    candidates: Sequence[Trajectory],
    scorer: Scorer | None,
  ) -> dict[str, Any]:
    """What is kept of a problem and method, beside the candidates."""
    chosen = None if result.chosen is None else candidates[result.chosen]
    verdict = self._config.data.checker
    weights = None
    if scorer is not None:
      how = reduction(self._config, scorer)
      name = self._config.scorer_name
      held = [searchers.reduced(t, name, how) for t in candidates]
      weights = finals.vote_weights(np.array(held), scorer.kind).tolist()
    numbers: dict[str, int] = {}
    answers = []
    for t in candidates:
      key = '' if t.answer is None else vote_key(t.answer)
      answers.append(numbers.setdefault(key, len(numbers)) if key else -1)
    return {
      'method': method.name,
      'problem_id': problem.problem_id,
      'gold_answer': problem.gold_answer,
      'chosen': None if chosen is None else chosen.id,
      'answer': None if chosen is None else chosen.answer,
      'verdict': None if chosen is None else chosen.verdicts[verdict].value,
      'right': finals.chances_right(
        answers,
        [bool(t.verdicts[verdict].value) for t in candidates],
        weights,
        [t.meta['search']['copies'] for t in candidates],
        result.chosen,
      ),
      'candidates': len(candidates),
      'skipped': result.skipped,
      'counts': result.counts,
      'flops': self._prices.flops(result.counts),
      'meta': result.meta,
    }


def _counter(count: str) -> str:
  """Name among the counters of a count that `driver.Result` describes."""
  if count.startswith(('policy_', 'prm_')):
    return f'tokens/{count}'
  return 'search/depths_summed' if count == 'depth' else f'search/{count}'


def _with_own_tokens(scorer: Scorer, rows: list[Trajectory]) -> list[Trajectory]:
  """With meta.search.prm_tokens: what the scorer reads of each for it alone."""
  for t, row in zip(rows, scorer.encode(rows)):
    n = 0
    if isinstance(row, Encoded):
      n = len(row.tokens) - scorer.shared_length(row)
    t.meta['search']['prm_tokens'] = n
  return rows
