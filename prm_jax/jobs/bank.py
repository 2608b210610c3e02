"""Bank: every selection rule on the same saved candidates, for every N.

    WORKDIR/curves.jsonl   a row a pool, rule, scorer, reduction and N
    WORKDIR/results.json   at powers of two and the largest N; differences to majority
    WORKDIR/report.html    all curves

Nothing is sampled or scored: a rollout's solutions that the score job has scored are a
bank, and so are public pools with their saved step scores.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from prm_jax import files, jsonl, writer
from prm_jax.data import sources
from prm_jax.errors import UserError
from prm_jax.evaluation import adaptive, banks, intervals, pools, report
from prm_jax.evaluation.banks import Rule, Voter
from prm_jax.evaluation.intervals import Estimate, Resamples
from prm_jax.evaluation.pools import Pool
from prm_jax.evaluation.report import LineChart, ReportData, Row, Table
from prm_jax.evaluation.splits import Scores, read_scores
from prm_jax.jobs import assemble, evaluate
from prm_jax.jobs.configuration import Command, flatten
from prm_jax.records import Trajectory
from prm_jax.search import effort, finals, votes

SCORED = {
  'vote': lambda counts, sums, scored: sums,
  'wrf': lambda counts, sums, scored: votes.wrf(counts, sums),
  'hmr': lambda counts, sums, scored: votes.hmr(counts, votes.means(sums, scored)),
}
"""Votes by scores, from counts, sums of weights and numbers of scored voters."""
RULES = ('best', *SCORED, 'ias')
NAMES = {
  'pass': 'one picked blindly',
  'best': 'best of N',
  'vote': 'weighted vote',
  'wrf': 'reward-frequency vote (WRF)',
  'hmr': 'hybrid majority vote (HMR)',
  'borda': 'Borda votes by self-certainty',
  'ias': 'weighted vote of as many as the first score calls for',
}
CERTAINTY = 'self_certainty'  # in `meta` of rollouts with sampling.certainty
BASELINES = ('oracle', 'majority', 'pass')


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
  """What was measured of one pool.

  Attributes:
    pool: its candidates.
    unscored: scorer -> candidates that it gave no scores; they rank last.
    sizes: the N.
    curves: rule -> [K] estimates.
    adaptive: (scorer, reduction, confidence, mean N, share solved).
    gains: rule -> paired difference to the majority vote at the largest N.
    left_out: what was asked for and is not defined here, and why.
  """

  pool: Pool
  unscored: dict[str, int]
  sizes: Sequence[int]
  curves: dict[Rule, list[Estimate]]
  adaptive: list[tuple[str, str, float, float, Estimate]]
  gains: dict[Rule, Estimate]
  left_out: list[str]


def run(command: Command) -> None:
  """Evaluates every rule on every pool of `data.pools`.

  Raises:
    UserError: no pool, no scores, or an N larger than a bank.
  """
  config = command.config
  started = time.monotonic()
  for rule in config.bank.rules:
    if rule not in RULES:
      raise UserError(f'bank.rules: {rule!r} is unknown; use {", ".join(RULES)}.')
  with files.open_workdir(command.workdir, flatten(config)) as work:
    if work.read_json('results.json'):
      writer.say(f'{work.path}: this bank is evaluated; see report.html')
      return
    sets, counters = assemble.pools(config)
    if not sets:
      raise UserError('bank needs --config.data.pools=NAME=PATH[:FORMAT].')
    sets, _ = evaluate.attach(sets, config.score_files, bool(config.data.limit))
    found = {name: _measure(config, name, rows) for name, rows in sets.items()}
    _write(command, work, found, counters, time.monotonic() - started)


def _measure(config: ConfigDict, name: str, rows: list[Trajectory]) -> Found:
  pool = pools.read_pool(name, rows, config.data.checker)
  sizes = range(1, (config.bank.most or pool.smallest) + 1)
  pools.ladder(pool, [sizes[-1]])  # refuses an N larger than the bank
  scorers = {
    s: read_scores(pool.steps, rows, s, 'wrong')
    for s in sorted({s for t in rows for s in t.scores})
  }
  if not scorers:
    raise UserError(
      f'pool {name!r}: no candidate carries scores; score it first (configs/score.py), '
      'or name saved ones in score_files.'
    )
  ranked: dict[Rule, np.ndarray] = {}
  ones = np.ones(pool.steps.n_rows)
  voters = {Rule('majority'): Voter(lambda counts, *_: counts, ones)}
  certainty = [t.meta.get(CERTAINTY) for t in rows]
  certain = [isinstance(c, (int, float)) for c in certainty]
  if all(certain):
    voters[Rule('borda')] = Voter(None, np.array(certainty), votes.borda)
  for who, scores in scorers.items():
    for how in config.bank.reductions:
      if how == 'product' and scores.kind != 'probability':
        continue
      reduced = scores.reduced(pool.steps, how)
      if 'best' in config.bank.rules:
        ranked[Rule('best', who, how)] = reduced
      weights = finals.vote_weights(reduced, scores.kind)
      weights = np.where(np.isfinite(reduced), weights, np.nan)
      for rule, values in SCORED.items():
        if rule in config.bank.rules:
          voters[Rule(rule, who, how)] = Voter(values, weights)
  section = config.evaluate
  columns = banks.rankings(pool, ranked, sizes) | banks.votes(
    pool, voters, sizes, n_draws=section.subsets, seed=section.seed
  )
  sample = intervals.resamples(pool.steps.problem_ids, section.resamples, section.seed)
  flat = intervals.means(np.concatenate(list(columns.values()), axis=1), sample)
  k = len(sizes)
  curves = {rule: flat[i * k : (i + 1) * k] for i, rule in enumerate(columns)}
  majority = curves[Rule('majority')][-1]
  gains = {
    rule: intervals.difference(line[-1], majority)
    for rule, line in curves.items()
    if rule.scorer or rule.name == 'borda'
  }
  unscored = {s: int((~scores.scored).sum()) for s, scores in scorers.items()}
  needed = _adaptive(config, pool, scorers, sample)
  left_out = _left_out(config, pool, scorers)
  if any(certain) and not all(certain):
    left_out.append(
      f'no Borda votes: {certain.count(False)} candidates carry no {CERTAINTY}.'
    )
  return Found(pool, unscored, sizes, curves, needed, gains, left_out)


def _left_out(config: ConfigDict, pool: Pool, scorers: dict[str, Scores]) -> list[str]:
  """Sentences on rules and reductions that are asked for and not defined."""
  out = []
  adaptive_n = 'ias' in config.bank.rules
  most = pool.index.shape[1]
  if adaptive_n and pool.smallest < most:
    out.append(
      f'no adaptive N: its problems have {pool.smallest} to {most} candidates, and it '
      'needs as many for each.'
    )
  others = [f'{s} ({x.kind})' for s, x in scorers.items() if x.kind != 'probability']
  whats = ['adaptive N'] * (adaptive_n and pool.smallest == most)
  whats += ['product of step scores'] * ('product' in config.bank.reductions)
  if others:
    out += [
      f'no {what} of {", ".join(others)}: it is defined for probabilities.'
      for what in whats
    ]
  return out


def _adaptive(
  config: ConfigDict, pool: Pool, scorers: dict[str, Scores], sample: Resamples
) -> list[tuple[str, str, float, float, Estimate]]:
  """Instance-adaptive N by the first candidate's score, where it is a probability."""
  if 'ias' not in config.bank.rules or pool.smallest < pool.index.shape[1]:
    return []
  out = []
  for who, scores in scorers.items():
    if scores.kind != 'probability':
      continue
    for how in config.bank.reductions:
      reduced = scores.reduced(pool.steps, how)
      weights = finals.vote_weights(reduced, scores.kind)
      held = adaptive.bank(
        pool, weights, np.ones(len(weights)), seed=config.evaluate.seed
      )
      for confidence in config.adaptive.confidence:
        needed = np.array([effort.samples_needed(p, confidence) for p in weights])
        found = adaptive.outcome(held, adaptive.by_first(held, needed))
        share = adaptive.accuracy(found, sample)
        out.append((who, how, confidence, found.candidates, share))
  return out


def _write(
  command: Command,
  work: files.Workdir,
  found: dict[str, Found],
  counters: dict[str, int],
  seconds: float,
) -> None:
  config = command.config
  metrics: dict[str, Any] = {}
  lines: list[dict[str, Any]] = []
  for name, held in found.items():
    counters |= {f'{name}/{k}': n for k, n in held.pool.counters.items()}
    counters |= {f'{name}/unscored[{s}]': n for s, n in held.unscored.items()}
    for rule, line in held.curves.items():
      for n, e in zip(held.sizes, line):
        lines.append(
          {'pool': name, **dataclasses.asdict(rule), 'best_of': n, **e.metric()}
        )
        if n & (n - 1) == 0 or n == held.sizes[-1]:
          metrics[f'{name}/bank/{_path(rule)}@{n}{_of(rule)}'] = e.metric()
    n = held.sizes[-1]
    for rule, e in held.gains.items():
      metrics[f'{name}/bank/{_path(rule)}-majority@{n}{_of(rule)}'] = e.metric()
    for who, how, confidence, mean, share in held.adaptive:
      row = {'pool': name, 'name': 'ias', 'scorer': who, 'reduction': how}
      lines.append({**row, 'confidence': confidence, 'mean_n': mean, **share.metric()})
  jsonl.write_json_lines(work / 'curves.jsonl', lines)
  about = files.provenance(
    command.line, config.seed, how='recomputed from saved scores with our regrading',
    wall_seconds=round(seconds, 1),
  )  # fmt: skip
  warnings = [w for name, held in found.items() for w in _warnings(name, held)]
  charts = [c for name, held in found.items() for c in _charts(config, name, held)]
  if config.report:
    page = ReportData(
      title='Selection rules on saved candidates',
      job='bank',
      command=command.line,
      summary=(
        'Every rule on the same candidates, for every N. Recomputed from saved scores '
        f'with our regrading (verdict {config.data.checker}); nothing was sampled or '
        'scored here.'
      ),
      metrics=metrics,
      judged_by={'': config.data.checker},
      definitions={p: 'Share solved, over all or drawn subsets of N.' for p in metrics},
      tables=[_table(name, held) for name, held in found.items()],
      best_of_n=charts,
      counters=counters,
      warnings=warnings,
      provenance=about,
      embedded_world=any(f'{w}:' in config.data.pools for w in sources.WORLDS),
    )
    report.write(work / 'report.html', page)
  work.write_results(
    'bank', metrics, counters, about, judged_by={'': config.data.checker},
    warnings=warnings,
  )  # fmt: skip
  for text in warnings:
    writer.say(f'warning: {text}')
  writer.say(work.where())


def _path(rule: Rule) -> str:
  return f'{rule.name}_{rule.reduction}' if rule.reduction else rule.name


def _of(rule: Rule) -> str:
  return f'[{rule.scorer}]' if rule.scorer else ''


def _named(rule: Rule) -> str:
  name = NAMES.get(rule.name, rule.name)
  return f'{name}, {rule.reduction} of {rule.scorer}' if rule.scorer else name


def _warnings(name: str, held: Found) -> list[str]:
  behind = [
    _named(rule) for rule, e in held.gains.items() if e.low is not None and e.low <= 0
  ]
  n = held.sizes[-1]
  out = [f'{name}: {text}' for text in held.left_out]
  if behind:
    out.append(
      f'{name}: {len(behind)} of {len(held.gains)} rules are not shown to be better '
      f'than the majority vote at N = {n} (paired intervals, no correction for many).'
    )
  return out


def _table(name: str, held: Found) -> Table:
  at = sorted({n for n in (1, 4, 16) if n in held.sizes} | {held.sizes[-1]})
  rows = [
    Row(
      _named(rule),
      [
        *(line[list(held.sizes).index(n)].metric() for n in at),
        held.gains[rule].metric() if rule in held.gains else None,
      ],
      rule.name in BASELINES,
    )
    for rule, line in held.curves.items()
  ]
  for who, how, confidence, mean, share in held.adaptive:
    cells = [None] * len(at) + [f'{share.value:.3f} at {mean:.1f} on average']
    rows.append(Row(f'adaptive N, {how} of {who}, confidence {confidence:g}', cells))
  rows.sort(key=lambda row: row.baseline)
  note = (
    f'{held.pool.steps.n_problems} problems, {held.pool.steps.n_rows} candidates; '
    f'{held.pool.counters["unjudged"]} without a verdict count as wrong. The last '
    'column is the paired difference to the majority vote at the largest N.'
  )
  header = ['rule', *(f'N = {n}' for n in at), f'above majority at {held.sizes[-1]}']
  return Table(f'{name}: selection rules', header, rows, note)


def _charts(config: ConfigDict, name: str, held: Found) -> list[LineChart]:
  """One a rule, a line a scorer, at one reduction; baselines on all of them."""
  how = config.evaluate.reduction or config.bank.reductions[0]
  out = []
  points = lambda line: [(n, e.value, e.low, e.high) for n, e in zip(held.sizes, line)]
  base = {NAMES.get(b, b): points(held.curves[Rule(b)]) for b in BASELINES}
  for kind in config.bank.rules:
    own = {
      rule.scorer: points(line)
      for rule, line in held.curves.items()
      if rule.name == kind and rule.reduction == how
    }
    if own:
      title = f'{name}: {NAMES[kind]}, {how} of step scores'
      out.append(
        LineChart(
          title, {**own, **base}, x_label='candidates N', y_label='share solved',
          baselines=list(base), log2=True,
        )
      )  # fmt: skip
  return out
