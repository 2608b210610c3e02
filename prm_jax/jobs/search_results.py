"""From the chunks of a search to results.json and the report."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from prm_jax import files, jsonl, records, writer
from prm_jax.data import sources
from prm_jax.errors import UserError
from prm_jax.evaluation import compute, curves, intervals, pools, report
from prm_jax.evaluation.compute import Line, Method, Prices, Verdict
from prm_jax.evaluation.intervals import Estimate
from prm_jax.evaluation.report import LineChart, ReportData, Table
from prm_jax.jobs import chunks, searchers, view_trees
from prm_jax.jobs.configuration import Command
from prm_jax.jobs.searchers import Search
from prm_jax.search import finals

ALL, VALIDATION, TEST = 'problems', 'validation', 'test'
TREES_SHOWN = 25  # problems whose trees are in the report
RULES = {
  'chosen': 'the choice of the algorithm itself',
  'vote': 'a vote of its candidates, weighted by their scores',
  'majority': 'a vote of its candidates',
  'best': 'the best-scored of N samples',
  'oracle': 'a right one of N samples, if there is any',
}


@dataclasses.dataclass(frozen=True)
class Held:
  """What the chunks hold of the problems that every method has and that have a gold
  answer, A of them.

  Attributes:
    ids: [A] problems, sorted.
    first: [A] whether it is one of those that choose a method.
    methods: of live searches, one a final rule; none that is on a line of the bank.
    lines: of the bank; empty without one.
    counters: problems and methods left out.
  """

  ids: list[str]
  first: np.ndarray
  methods: list[Method]
  lines: dict[str, Line]
  counters: dict[str, int]


def write(
  command: Command,
  work: files.Workdir,
  done: chunks.Done,
  counters: Mapping[str, int],
  searches: Sequence[Search],
  asked: Sequence[str],
  prices: Prices,
  how: str,
  about: dict[str, Any],
) -> None:
  """Compares the searches and writes results.json and report.html.

  Args:
    asked: ids of all problems, in order.
    how: reduction of step scores to the weight of a vote; '' without a scorer.

  Raises:
    UserError: every problem was refused.
  """
  config = command.config
  rows = [
    row for file in done.main for _, row in jsonl.iter_json_lines(epath.Path(file))
  ]
  if done.whole and all(r['skipped'] for r in rows):
    why = sorted({r['skipped'] for r in rows})
    raise UserError(
      f'{config.input}: no problem could be asked ({", ".join(why)}); ask shorter '
      'ones, or give the policy a longer context.'
    )
  held = _read(config, done, rows, searches, asked, prices, how)
  counted = {**counters, **done.counters, **held.counters}
  metrics: dict[str, Any] = {}
  charts: list[LineChart] = []
  tables: list[Table] = []
  said: list[str] = []
  verdicts: list[Verdict] = []
  definitions: dict[str, str] = {}
  if held.ids and not held.first.all():
    verdicts, chart, charged, dear = _compare(config, held)
    metrics, definitions = _metrics(config, held, verdicts, charged)
    note = _note(held, prices, charged)
    tables.append(curves.table('Searches at equal compute', verdicts, note))
    charts += [chart] if chart else []
    said = curves.warnings(verdicts) if held.lines else []
    if dear:
      said.append(
        f'Not compared: {searchers.BANK} with N = {", ".join(map(str, dear))}, which '
        f'with the scorer cost more than all {held.lines[curves.MAJORITY].sizes[-1]} '
        'samples without it; give best_of_n a larger n.'
      )
    if not held.lines and len(searches):
      said.append(
        'No best_of_n is among search.methods, so nothing says what the majority vote '
        'makes of the same compute.'
      )
  elif not done.whole:
    said.append('No problem has been searched by every method in this shard.')
  if left_out := held.counters['problems_without_gold_answer']:
    said.append(
      f'Problems without a gold answer: {left_out}. They have solutions, and no part '
      'in what was solved.'
    )
  provenance = files.provenance(
    command.line, config.seed, **about, **done.about(),
    parameters_counted=dataclasses.asdict(prices),
  )  # fmt: skip
  if config.report:
    page = ReportData(
      title=f'{os.path.basename(command.workdir.rstrip("/"))}: search',
      job='search',
      command=command.line,
      summary=(
        f'{len(searches)} searches on the same problems, their answers judged by '
        f'{config.data.checker}, what they cost beside what they solve.'
      ),
      highlights={'problems': len(held.ids), 'seed': config.seed},
      headline=_headline(held, verdicts),
      metrics=metrics,
      judged_by={'': config.data.checker},
      definitions=definitions,
      tables=tables,
      best_of_n=charts,
      counters=counted,
      warnings=said,
      trees=(
        view_trees.of_run(command.workdir, TREES_SHOWN) if config.search.tree else ()
      ),
      provenance=provenance,
      embedded_world=any(f'{w}:' in config.input for w in sources.WORLDS),
    )
    report.write(work / 'report.html', page)
  work.write_results(
    'search', metrics, counted, provenance, warnings=said,
    methods=[v.row() for v in verdicts],
  )  # fmt: skip
  for v in sorted(verdicts, key=lambda v: -(v.right.value or 0.0))[:8]:
    writer.say(_line(v))
  for text in said:
    writer.say(f'warning: {text}')
  writer.say(f'{len(rows)} searches')
  writer.say(work.where())


def _line(v: Verdict) -> str:
  out = f'{v.method}: {_shown(v.right)}'
  if v.n is not None:
    out += f', majority at its compute (N = {v.n:.1f}) {v.majority.value:.3f}'
    out += f', difference {_shown(v.difference)}: {v.shown}'
  return out + (' (chosen on validation)' if v.chosen else '')


def _shown(found: Estimate) -> str:
  if found.value is None:
    return 'undefined'
  if found.low is None or found.high is None:
    return f'{found.value:.3f}'
  return f'{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]'


def _read(
  config: ConfigDict,
  done: chunks.Done,
  rows: Sequence[dict[str, Any]],
  searches: Sequence[Search],
  asked: Sequence[str],
  prices: Prices,
  how: str,
) -> Held:
  """Methods and lines over the problems that every method has a row for."""
  by: dict[str, dict[str, dict[str, Any]]] = {s.name: {} for s in searches}
  for row in rows:
    by[row['method']][row['problem_id']] = row
  common = set.intersection(*(set(held) for held in by.values()))
  bank = max((s for s in searches if s.n), key=lambda s: s.n, default=None)
  skipped = {p for p in common if bank and by[bank.name][p]['skipped']}
  # What no answer can be held against says nothing of what was solved.
  unjudged = {
    p for p in common if all(by[s.name][p]['gold_answer'] is None for s in searches)
  }
  ids = sorted(common - skipped - unjudged)
  counters = {
    'problems_compared': len(ids),
    'problems_without_bank': len(skipped),
    'problems_without_gold_answer': len(unjudged),
  }
  first = set(asked[: config.search.validation])
  held = np.array([p in first for p in ids], bool)
  if not ids:
    return Held([], held, [], {}, counters)
  methods = []
  for s in searches:
    if s is not bank:
      methods += _live(s, [by[s.name][p] for p in ids], bool(how))
  lines = {}
  if bank is not None:
    mine = [by[bank.name][p] for p in ids]
    lines = _lines(config, done, bank, ids, mine, prices, how)
    # A smaller best_of_n has the names of the bank's lines, which say the same of all
    # subsets of that size.
    taken = {m.name for line in lines.values() for m in line.methods}
    counters['methods_on_lines_of_the_bank'] = sum(m.name in taken for m in methods)
    methods = [m for m in methods if m.name not in taken]
  return Held(ids, held, methods, lines, counters)


def _live(search: Search, rows: Sequence[dict[str, Any]], scored: bool) -> list[Method]:
  """A method for each final rule; one where all candidates are single."""
  counts = [r['counts'] for r in rows]
  of = lambda name: np.array([c.get(name, 0) for c in counts], float)
  flops = np.array([np.nan if r['flops'] is None else r['flops'] for r in rows], float)
  single = max(r['candidates'] for r in rows) <= 1
  out = []
  for rule in finals.FINALS:
    if rule not in rows[0]['right'] or (single and rule != 'chosen'):
      continue
    if rule == 'majority' and scored:
      continue  # the scores say more, and every test more costs the others power
    right = np.array([r['right'][rule] for r in rows])
    out.append(
      Method(
        f'{label(search)}.{rule}', right, flops,
        of('policy_generated') + of('policy_read'), of('prm_read'), scored,
      )
    )  # fmt: skip
  return out


def label(search: Search) -> str:
  """'beam(n=16,width=4)'; a metric's path holds no blanks."""
  name, *options = search.name.split()
  return f'{name}({",".join(options)})'


def _lines(
  config: ConfigDict,
  done: chunks.Done,
  bank: Search,
  ids: Sequence[str],
  rows: Sequence[dict[str, Any]],
  prices: Prices,
  how: str,
) -> dict[str, Line]:
  """Selectors on the candidates of the bank, at every N."""
  wanted, taken = set(ids), []
  for file in done.main:
    if next(jsonl.iter_json_lines(epath.Path(file)))[1]['method'] != bank.name:
      continue
    work, name = os.path.dirname(os.path.dirname(file)), os.path.basename(file)
    held = os.path.join(work, 'candidates', name)
    taken += [t for t in records.read(held) if t.problem_id in wanted]
  pool = pools.read_pool('bank', taken, config.data.checker)
  scores = weights = None
  own = np.zeros(len(taken))
  if how:
    name = config.scorer_name
    # The best of N is the method's own choice, by the reduction that it was given.
    picks = bank.options.get('reduction', how)
    scores = np.array([searchers.reduced(t, name, picks) for t in taken])
    scores = np.where(np.isnan(scores), -np.inf, scores)
    weights = np.array([searchers.reduced(t, name, how) for t in taken])
    weights = finals.vote_weights(weights, taken[0].scores[name].kind)
    own = np.array([t.meta['search']['prm_tokens'] for t in taken], float)
  return curves.bank_lines(
    pool, scores, weights, [r['counts'] for r in rows], own, prices,
    n_draws=config.evaluate.subsets, seed=config.evaluate.seed,
  )  # fmt: skip


def _compare(
  config: ConfigDict, held: Held
) -> tuple[list[Verdict], LineChart | None, bool, list[int]]:
  """Verdicts and curves over the problems that report; whether FLOPs are known; the N
  of the bank at which a scorer's reading costs more than the bank reaches."""
  guided = [
    (n, m)
    for name in (curves.VOTE, curves.BEST)
    if name in held.lines
    for n, m in zip(held.lines[name].sizes, held.lines[name].methods)
    if n > 1
  ]
  dear: list[int] = []
  majority = held.lines.get(curves.MAJORITY)
  if majority is not None:  # the others are on the curves
    reached = lambda m: compute.at_equal_compute(m, majority).n is not None
    fits = lambda m: reached(m) or not np.isfinite(m.flops).all()
    dear = sorted({n for n, m in guided if not fits(m)})
    guided = [(n, m) for n, m in guided if fits(m)]
  methods = [*held.methods, *(m for _, m in guided)]
  chosen = None
  report_on = np.flatnonzero(~held.first)
  if held.first.any() and majority is not None:
    tuning = np.flatnonzero(held.first)
    chosen = compute.choose([m.take(tuning) for m in methods], majority.take(tuning))
  section = config.evaluate
  sample = intervals.resamples(
    [held.ids[i] for i in report_on], section.resamples, section.seed
  )
  methods = [m.take(report_on) for m in methods]
  lines = {k: v.take(report_on) for k, v in held.lines.items()}
  verdicts = compute.compare(
    methods, lines.get(curves.MAJORITY), sample, chosen=chosen, seed=section.seed
  )
  live = [m.take(report_on) for m in held.methods]
  names = {m.name for m in live}
  series: dict[str, list[Method]] = {}
  for m in live:
    search, rule = m.name.rsplit('.', 1)
    if rule == 'chosen' and f'{search}.vote' in names:
      continue
    series.setdefault(f'{search.split("(")[0]}, {rule}', []).append(m)
  note = (
    'Intervals by problem. Each point of a search is one budget of it, each point of '
    'the bank an N, averaged over subsets of the samples.'
  )
  chart = curves.chart('Share solved against compute', lines, series, sample, note)
  charged = all(np.isfinite(m.flops).all() for m in methods)
  return verdicts, chart, charged, dear


def _metrics(
  config: ConfigDict, held: Held, verdicts: Sequence[Verdict], charged: bool
) -> tuple[dict[str, Any], dict[str, str]]:
  """Metrics under their paths, and what each of them means."""
  where = TEST if held.first.any() else ALL
  on = np.flatnonzero(~held.first)
  out: dict[str, Estimate] = {}
  means: dict[str, str] = {}

  def put(path: str, found: Estimate, sentence: str) -> None:
    out[path], means[path] = found, sentence

  section = config.evaluate
  sample = intervals.resamples(
    [held.ids[i] for i in on], section.resamples, section.seed
  )
  for key in (curves.MAJORITY, curves.ORACLE):
    line = held.lines.get(key, compute.Line(key, (), ()))
    for n, m in zip(line.sizes, line.methods):
      if n & (n - 1) == 0 or n == line.sizes[-1]:
        found = intervals.means(np.stack([m.right[on], m.flops[on]], axis=1), sample)
        sentence = f'Share solved by {RULES[key]}.'
        if key == curves.MAJORITY:
          sentence = 'Share solved by the majority vote of N samples.'
        put(f'{where}/search/{key}@{n}', found[0], sentence)
        if charged:
          put(f'{where}/search_flops/{key}@{n}', found[1], 'Estimated FLOPs a problem.')
  for v in verdicts:
    rule = RULES[v.method.rsplit('.', 1)[1]]
    put(f'{where}/search/{v.method}', v.right, f'Share solved; the answer is {rule}.')
    if v.n is not None:
      put(
        f'{where}/search/{v.method}-majority@equal_flops',
        v.difference,
        'Paired difference to the majority vote of as many samples as cost the same.',
      )
    if charged:
      path = f'{where}/search_flops/{v.method}'
      put(path, v.flops, 'Estimated FLOPs a problem, policy and PRM.')
    path = f'{where}/search_policy_tokens/{v.method}'
    put(path, v.policy_tokens, 'Tokens a problem that the policy wrote or read.')
    path = f'{where}/search_prm_tokens/{v.method}'
    put(path, v.prm_tokens, 'Tokens a problem that the PRM read.')
  return {path: e.metric() for path, e in out.items()}, means


def _note(held: Held, prices: Prices, charged: bool) -> str:
  n = int((~held.first).sum())
  out = f'{n} problems'
  if held.first.any():
    out += f' ({int(held.first.sum())} others chose one method)'
  if not charged:
    return out + '. The size of the policy is not known, so there are no FLOPs.'
  out += (
    f'. FLOPs are 2 x parameters x tokens of both models, with {prices.policy:,} '
    'parameters of the policy'
  )
  if prices.prm is not None:
    out += f' and {prices.prm:,} of the PRM'
  return out + (
    ' in matrices that every token meets. The majority vote beside a method is of as '
    'many samples as cost the same on average; P values are of sign-flip tests by '
    'problem, corrected for all methods but the one chosen on validation.'
  )


def _headline(held: Held, verdicts: Sequence[Verdict]) -> list[tuple[str, str]]:
  where = TEST if held.first.any() else ALL
  known = [v for v in verdicts if v.difference.value is not None and v.guided]
  best = next((v for v in known if v.chosen), None)
  if best is None:
    best = max(known, key=lambda v: v.difference.value or 0.0, default=None)
  if best is None:
    return []
  how = 'chosen on validation' if best.chosen else 'the largest gain of those compared'
  path = f'{where}/search/{best.method}-majority@equal_flops'
  return [(path, f'{best.method}, {how}: {best.shown} against the majority vote.')]
