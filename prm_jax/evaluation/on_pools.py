"""All best-of-N metrics of one pool of candidates."""

from __future__ import annotations

from typing import Any

import numpy as np

from prm_jax.evaluation import best_of_n, tables
from prm_jax.evaluation.baselines import POSITION_LENGTH
from prm_jax.evaluation.intervals import Estimate, difference, means
from prm_jax.evaluation.logistic import sigmoid
from prm_jax.evaluation.pools import ladder
from prm_jax.evaluation.report.data import LineChart, Row, Table
from prm_jax.evaluation.result import Collector, Options, ScoredPool, metric_path
from prm_jax.evaluation.splits import Scores
from prm_jax.evaluation.votes import vote

BASELINES = ('pass', 'majority', 'shortest', 'fewest_steps')

Key = tuple[str, str]
"""(selector, scorer): the scorer is '' for the one evaluated and for no scorer."""


def measure(out: Collector, held: ScoredPool, options: Options) -> None:
  """Measures every selector on a pool, at every N, and records it.

  Selectors: 'oracle'; the baselines 'pass' (one candidate picked blindly, the same
  for every N, recorded as pass@1), 'majority', 'shortest' (characters),
  'fewest_steps'; and for each scorer 'prm_REDUCTION', 'prm_REDUCTION_vote' (votes
  weighted by the reduced score; for logits and log-ratios by its sigmoid,
  'prm_REDUCTION_sigmoid_vote'). Every scorer's selector is compared with majority,
  and rankings also with the two length baselines, over the same problems.
  """
  pool = held.pool
  name = pool.steps.name
  sizes = ladder(pool, options.sizes or None)
  out.count(f'{name}/best_of_n', pool.counters)
  for who, scores in held.scorers.items():
    label = f'unscored[{who}]' if who else 'unscored'
    out.count(f'{name}/best_of_n', {label: int((~scores.scored).sum())})
  if pool.smallest < pool.sizes.max():
    least = pool.steps.problem_ids[int(pool.sizes.argmin())]
    out.warnings.append(
      f'{name}: problem {least} has {pool.smallest} candidates and others up to '
      f'{pool.sizes.max()}; no N above {pool.smallest} is reported.'
    )
  sample = options.resamples(pool.steps.problem_ids)
  for ties in options.ties:
    columns = _chances(held, sizes, ties, options)
    flat = means(np.concatenate(list(columns.values()), axis=1), sample)
    found = {
      key: flat[i * len(sizes) : (i + 1) * len(sizes)] for i, key in enumerate(columns)
    }
    places = [str(n) if ties == 'uniform' else f'{n}:{ties}' for n in sizes]
    _record(out, held, found, sizes, places)
    _show(out, held, found, sizes, places, ties, options)
    if ties == options.ties[0]:
      out.samples += _rows(held, columns, sizes[-1])


def _chances(
  held: ScoredPool, sizes: list[int], ties: str, options: Options
) -> dict[Key, np.ndarray]:
  """Chance of a correct pick by each selector: (selector, scorer) -> [A, K]."""
  pool = held.pool
  how = {'ties': ties, 'subsets': options.subsets}
  columns: dict[Key, np.ndarray] = {
    ('oracle', ''): best_of_n.oracle(pool, sizes, options.subsets),
    ('pass', ''): best_of_n.random_pick(pool, sizes),
    ('shortest', ''): best_of_n.select(pool, -pool.characters, sizes, **how),
    ('fewest_steps', ''): best_of_n.select(pool, -pool.steps.counts, sizes, **how),
  }
  voters: dict[Key, np.ndarray] = {('majority', ''): np.ones(pool.steps.n_rows)}
  for who, scores in held.scorers.items():
    for reduction in _reductions(scores, options):
      reduced = scores.reduced(pool.steps, reduction)
      picked = best_of_n.select(pool, reduced, sizes, **how)
      columns[f'prm_{reduction}', who] = picked
      if who != POSITION_LENGTH:
        rule, weight = vote_weight(reduction, reduced, scores.kind)
        voters[rule, who] = weight
  return columns | vote(
    pool,
    voters,
    sizes,
    ties=ties,
    subsets=options.subsets,
    n_draws=options.n_draws,
    seed=options.seed,
  )


def vote_weight(
  reduction: str, reduced: np.ndarray, kind: str
) -> tuple[str, np.ndarray]:
  """Name and [R] weights of a weighted vote: probabilities, or sigmoids of logits."""
  if kind == 'probability':
    return f'prm_{reduction}_vote', reduced
  return f'prm_{reduction}_sigmoid_vote', sigmoid(reduced)


def _rows(
  held: ScoredPool, columns: dict[Key, np.ndarray], largest: int
) -> list[dict[str, Any]]:
  pool = held.pool
  return [
    {
      'kind': 'problem',
      'split': pool.steps.name,
      'problem_id': problem,
      'n': int(pool.sizes[a]),
      'n_correct': int(pool.correct[a].sum()),
      'best_of': largest,
      'chance_correct': {
        selector + (f'[{who}]' if who else ''): float(c[a, -1])
        for (selector, who), c in columns.items()
      },
    }
    for a, problem in enumerate(pool.steps.problem_ids)
  ]


def _reductions(scores: Scores, options: Options) -> list[str]:
  usable = scores.kind == 'probability'
  return [r for r in options.reductions if usable or r != 'product']


def _record(
  out: Collector,
  held: ScoredPool,
  found: dict[Key, list[Estimate]],
  sizes: list[int],
  places: list[str],
) -> None:
  name, verdict = held.pool.steps.name, held.pool.verdict
  for (selector, who), estimates in found.items():
    for n, at, value in zip(sizes, places, estimates):
      if selector == 'pass' and n != 1:
        continue
      out.put(metric_path(name, 'best_of_n', selector, at, who), value, verdict)
  for (selector, who), estimates in found.items():
    if not selector.startswith('prm_') or who == POSITION_LENGTH:
      continue
    rivals = ['majority']
    if not selector.endswith('_vote'):
      rivals += ['shortest', 'fewest_steps']
    pairs = [(rival, (rival, '')) for rival in rivals]
    if not who:
      pairs += [(w, (selector, w)) for w in held.scorers if w]
    for label, key in pairs:
      for n, at, a, b in zip(sizes, places, estimates, found.get(key, [])):
        if n > 1:
          path = metric_path(name, 'best_of_n', f'{selector}-{label}', at, who)
          out.put(path, difference(a, b), verdict)


def _show(
  out: Collector,
  held: ScoredPool,
  found: dict[Key, list[Estimate]],
  sizes: list[int],
  places: list[str],
  ties: str,
  options: Options,
) -> None:
  """Adds the table and the curves of a pool, and a warning where they call for one."""
  pool, name = held.pool, held.pool.steps.name
  label = {key: key[0] + (f' [{key[1]}]' if key[1] else '') for key in found}
  label['pass', ''] = 'one picked blindly'
  rows = [
    Row(
      label[key],
      [e.metric() for e in estimates],
      key[0] in BASELINES or key[1] == POSITION_LENGTH,
    )
    for key, estimates in found.items()
  ]
  note = (
    f'{pool.steps.n_problems} problems, {pool.steps.n_rows} candidates, judged by '
    f'{pool.verdict}; {pool.counters["unjudged"]} without a verdict count as wrong. '
  )
  if ties == 'uniform':
    note += 'Ties share the chance equally.'
  else:
    note += 'Ties go to the candidate sampled first, as in published numbers.'
  title = f'{name}: best of N' + ('' if ties == 'uniform' else f', ties {ties}')
  header = ['selector', *(f'N = {n}' for n in sizes)]
  rows.sort(key=lambda row: row.baseline)
  if '' not in held.scorers:
    last = {key: estimates[-1] for key, estimates in found.items()}
    heading = title.replace('best of N', f'best of {sizes[-1]}')
    out.tables.append(tables.scorers_by_reduction(heading, last, BASELINES, note))
  out.tables.append(Table(title, header, rows, note))
  chosen = f'prm_{options.reduction}'
  series = {
    label[key]: [(n, e.value, e.low, e.high) for n, e in zip(sizes, estimates)]
    for key, estimates in found.items()
    if key[0] in ('oracle', *BASELINES)
    or (key[0].startswith(chosen) and not key[1])
    or (key[0] == chosen and '' not in held.scorers)
  }
  out.best_of_n.append(
    LineChart(
      title,
      series,
      x_label='candidates N',
      y_label='share solved',
      baselines=[label[b, ''] for b in ('oracle', *BASELINES) if (b, '') in label],
      log2=True,
      note=note,
    )
  )
  if ties != options.ties[0]:
    return
  not_shown = []
  for who in [''] if '' in held.scorers else held.scorers:
    path = metric_path(name, 'best_of_n', f'{chosen}-majority', places[-1], who)
    against = out.get(path)
    if against is not None and not (against.low is not None and against.low > 0):
      not_shown.append(who)
  if not_shown:
    whose = ' of ' + ', '.join(not_shown) if any(not_shown) else ''
    out.warnings.append(
      f'{name}: choosing by {chosen}{whose} is not shown to be better than the '
      f'majority vote at N = {places[-1]} (paired interval not above 0).'
    )
