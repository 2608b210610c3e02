"""Best-of-N pools among the benchmarks."""

from __future__ import annotations

import re
from collections.abc import Mapping

from prm_jax.evaluation import on_pools
from prm_jax.evaluation.benchmarks.first_error import minimum_on_last_step
from prm_jax.evaluation.benchmarks.sheet import OVERALL, Benchmark, Rows, Sheet
from prm_jax.evaluation.intervals import ratio
from prm_jax.evaluation.pools import read_pool
from prm_jax.evaluation.result import Collector, ScoredPool
from prm_jax.evaluation.splits import read_scores

_SHOWN = re.compile(r'(pass|majority|oracle|prm_[a-z]+(-majority)?)')


def _measure(sheet: Sheet, sets: Mapping[str, Rows]) -> None:
  for name, rows in sets.items():
    _pool(sheet, name, rows)


def _pool(sheet: Sheet, set_name: str, rows: Rows) -> None:
  title = set_name or OVERALL
  inner = Collector()
  pool = read_pool(title, rows, sheet.benchmark.verdict)
  scores = read_scores(pool.steps, rows, sheet.scorer, sheet.options.unscored)
  on_pools.measure(inner, ScoredPool(pool, {'': scores}), sheet.options)
  head = f'{title}/best_of_n/'
  largest = str(max(int(n) for n in re.findall(r'@(\d+)', ' '.join(inner.estimates))))
  for path, found in inner.estimates.items():
    name, _, at = path.removeprefix(head).partition('@')
    shown = bool(_SHOWN.fullmatch(name)) and at in (largest, '1' * (name == 'pass'))
    sheet.put(title, name, found, at, shown)
  for path, n in inner.counters.items():
    sheet.out.counters[f'{sheet.title}/{title}/{path.removeprefix(head)}'] += n
  sheet.out.tables += inner.tables
  sheet.out.best_of_n += inner.best_of_n
  sheet.out.warnings += inner.warnings
  split = f'{sheet.benchmark.name}.{set_name}' if set_name else sheet.benchmark.name
  sheet.out.samples += [{**s, 'split': split} for s in inner.samples]
  sums = minimum_on_last_step(pool.steps, scores)
  sample = sheet.options.resamples(pool.steps.problem_ids)
  reason = 'no_solutions_of_two_steps'
  found = ratio(sums[:, 0], sums[:, 1], sample, reason=reason)
  sheet.put(title, 'minimum_on_last_step', found)


BEST_OF_N = Benchmark(
  name='best_of_n',
  version=1,
  definition=(
    'Best of N candidates: chance that the one with the highest reduced step score is '
    'right, ties shared equally, exact over all subsets of N of the saved candidates; '
    'votes by drawn subsets. Right is what the regraded verdict says; a candidate '
    'without a verdict counts as wrong and is counted. pass: one picked blindly. '
    'oracle: at least one is right. minimum_on_last_step: share of the candidates with '
    'two steps or more whose lowest score stands on the last step, k equal lowest ones '
    'counting 1/k each (Zhang et al. 2025, arXiv 2501.07301).'
  ),
  sources=tuple(
    f'{pool}=bon_pools/{pool}_32x500.jsonl.gz:bon_pools'
    for pool in ('gsm8k', 'math500')
  ),
  rows=0,
  measure=_measure,
  truth='',
  verdict='regraded',
  pools=True,
)
