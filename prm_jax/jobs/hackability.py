"""Hackability: known attacks on a scorer, and which of them it fails."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from prm_jax import files, records, writer
from prm_jax.errors import UserError
from prm_jax.evaluation import hack, hack_tables, hack_tokens, report
from prm_jax.evaluation.hack_effects import Rules, right_or_wrong
from prm_jax.evaluation.hack_probes import Texts
from prm_jax.evaluation.pools import Pool, read_pool
from prm_jax.evaluation.report import LineChart, ReportData, sample
from prm_jax.jobs import assemble, score
from prm_jax.jobs.configuration import Command, build, flatten
from prm_jax.records import Trajectory
from prm_jax.step_values import check_reduction


def run(command: Command) -> None:
  """Attacks `scorer` on the solutions of `data.evaluate` and `data.pools`.

  Writes results.json (with `summary` and `verdicts`), report.html and
  `samples/attacks.jsonl.gz`, one line a solution and attack.

  Raises:
    UserError: no scorer or no set is named, one cannot be read, or nothing says which
      of its solutions are right.
  """
  config = command.config
  started = time.monotonic()
  if not config.scorer:
    raise UserError(
      'hackability attacks a scorer: give --config.scorer=WORKDIR (or a public PRM).'
    )
  with files.open_workdir(command.workdir, flatten(config)) as work:
    if work.read_json('results.json'):
      writer.say(f'{work.path}: this report is complete; see report.html')
      return
    sets, pools, counters = _sets(config)
    chosen = {n: _first(rows, config.hack.solutions) for n, rows in sets.items()}
    one_sided = _one_sided(config, chosen)
    for warning in one_sided:
      writer.say(f'warning: {warning}')
    scorer, about = score.load(config, config.data.cache_dir or str(work / 'cache'))
    plan = _plan(config, scorer.spec.step_format.marker, scorer.spec.reduction)
    check_reduction(plan.reduction, scorer.kind)
    attacks = hack.Report(scorer, plan)
    attacks.out.counters.update(counters)
    attacks.out.warnings += one_sided
    for name, rows in sets.items():
      writer.say(f'{name}: {len(chosen[name])} solutions under every probe')
      attacks.probes(name, chosen[name])
      attacks.tokens(name, chosen[name])
      if name in pools:
        writer.say(f'{name}: best of N among {len(rows)} candidates')
        attacks.best_of_n(name, pools[name], rows)
    told = files.provenance(
      command.line,
      config.seed,
      model_hash=about['digest'],
      scorer={'name': config.scorer_name, **about},
      rules=dataclasses.asdict(plan.rules),
      wall_seconds=round(time.monotonic() - started, 1),
    )
    _write(command, work, attacks, told)


def _sets(
  config: ConfigDict,
) -> tuple[dict[str, list[Trajectory]], dict[str, Pool], dict[str, int]]:
  """All sets by name, those of them in which best-of-N is asked for, and what was met
  in reading them."""
  splits, counters = assemble.named_sets(config, config.data.evaluate)
  held, more = assemble.pools(config)
  if not splits and not held:
    raise UserError('nothing to attack; name sets in data.evaluate or data.pools.')
  for name in set(splits) & set(held):
    raise UserError(
      f'{name}: named in data.evaluate and in data.pools; once is enough, pools are '
      'probed too.'
    )
  pools = {
    name: read_pool(name, rows, config.data.checker) for name, rows in held.items()
  }
  return {**splits, **held}, pools, {**counters, **more}


def _one_sided(
  config: ConfigDict, chosen: Mapping[str, Sequence[Trajectory]]
) -> list[str]:
  """Warnings of sets that lack right or wrong solutions.

  Raises:
    UserError: of a set nothing says which solutions are right.
  """
  truth, checker = config.data.truth, config.data.checker
  out = []
  for name, rows in chosen.items():
    label = right_or_wrong(rows, truth, checker)
    if (label < 0).all():
      judged = {k for t in rows for k, v in t.verdicts.items() if v.value is not None}
      there = ', '.join(sorted(judged)) or 'none'
      errors = ', '.join(sorted({k for t in rows for k in t.first_error})) or 'none'
      raise UserError(
        f'{name}: no solution has a verdict {checker!r} (data.checker) or a first '
        f'error {truth!r} (data.truth), so none is right or wrong (there: verdicts '
        f'{there}; first errors {errors}); name one of those, or check the answers '
        'first.'
      )
    for value, word, lost in (
      (0, 'wrong', 'must not lift wrong ones'),
      (1, 'right', 'must lower right ones'),
    ):
      if not (label == value).any():
        out.append(
          f'{name}: none of its {len(rows)} solutions is known to be {word}, so probes '
          f'that {lost} are undefined.'
        )
  return out


def _plan(config: ConfigDict, marker: str, own: str) -> hack.Plan:
  section = config.hack
  reduction = config.evaluate.reduction or own
  words = {name: section[name] for name in ('filler', 'copies', 'claim')}
  limits = {f.name: section[f.name] for f in dataclasses.fields(Rules)}
  search = {
    'tokens': section.tokens,
    'iterations': section.iterations,
    'learning_rate': section.learning_rate,
    'entropy': section.entropy,
    'exchanges': section.exchanges,
    'seed': config.evaluate.seed,
  }
  return hack.Plan(
    reduction=reduction,
    reductions=tuple(dict.fromkeys((reduction, 'min', 'last', 'mean'))),
    texts=dataclasses.replace(build(Texts, 'hack', words), marker=marker),
    rules=build(Rules, 'hack', limits),
    solutions=section.solutions,
    search=build(hack_tokens.Search, 'hack', search),
    places=tuple(section.places),
    train_rows=section.train_rows,
    transfer_rows=section.transfer_rows,
    random=section.random,
    n_resamples=config.evaluate.resamples,
    seed=config.evaluate.seed,
    n_draws=config.evaluate.subsets,
    truth=config.data.truth,
    checker=config.data.checker,
    max_samples=config.evaluate.max_samples,
  )


def _first(rows: Sequence[Trajectory], most: int) -> list[Trajectory]:
  """The first `most` candidates of every problem, in the order of the rows."""
  seen: dict[str, int] = {}
  out = []
  for t in rows:
    seen[t.problem_id] = seen.get(t.problem_id, 0) + 1
    if seen[t.problem_id] <= most:
      out.append(t)
  return out


def _write(
  command: Command,
  work: files.Workdir,
  attacks: hack.Report,
  about: Mapping[str, object],
) -> None:
  """Samples, the report, and last of all results.json."""
  config = command.config
  found = attacks.out.result()
  summary = attacks.summary()
  name = config.scorer_name
  work.write_samples('attacks', found.samples)
  if config.report:
    shown = [
      sample(
        records.add(t, 'scores', name, scores),
        split=attack,
        scorer=name,
        label=config.data.truth,
        threshold=None,
      )
      for attack, t, scores in attacks.shown
    ]
    page = ReportData(
      title=f'{command.workdir.rstrip("/").rsplit("/", 1)[-1]}: hackability',
      job='hackability',
      command=command.line,
      summary=summary,
      highlights={
        'scorer': config.scorer,
        'reduction': attacks.plan.reduction,
        'truth': config.data.truth,
        'seed': config.evaluate.seed,
      },
      headline=[(path, '') for path in _headline(attacks, found.metrics)],
      metrics=found.metrics,
      judged_by=found.judged_by,
      definitions={p: hack_tables.definition(p) for p in found.metrics},
      tables=[_overview(attacks), *found.tables],
      best_of_n=[c for c in found.curves['best_of_n'] if isinstance(c, LineChart)],
      counters=found.counters,
      warnings=[hack_tables.NOT_SAFE, *found.warnings],
      samples=shown,
      truth='none: edited solutions carry no labels',
      provenance=about,
      embedded_world='world:' in f'{config.data.evaluate},{config.data.pools}',
    )
    report.write(work / 'report.html', page)
  work.write_results(
    'hackability',
    found.metrics,
    found.counters,
    about,
    judged_by=found.judged_by,
    warnings=[hack_tables.NOT_SAFE, *found.warnings],
    summary=summary,
    verdicts=attacks.verdicts,
  )
  for line in [*_lines(attacks), summary, *found.warnings, work.where()]:
    writer.say(line)


def _overview(attacks: hack.Report) -> report.Table:
  """One row an attack, one column a set."""
  named = list(dict.fromkeys(a for held in attacks.verdicts.values() for a in held))
  rows = [
    report.Row(
      attack.replace('_', ' '),
      [held.get(attack, {}).get('verdict') for held in attacks.verdicts.values()],
    )
    for attack in named
  ]
  return report.Table(
    'All attacks',
    ['attack', *attacks.verdicts],
    rows,
    f'Read with {attacks.plan.reduction}; adversarial tokens by their worst place. '
    f'{hack_tables.NOT_SAFE}',
  )


def _headline(attacks: hack.Report, metrics: Mapping[str, object]) -> list[str]:
  """Metric paths of the attacks that failed, and of best-of-N."""
  out = []
  for name, held in attacks.verdicts.items():
    for attack, found in held.items():
      if found['verdict'] == 'fail':
        out.append(f'{name}/probes/{attack}/change@{attacks.plan.reduction}')
    out += [
      f'{name}/{hack_tables.TOKENS}/rise_transfer@{place}'
      for place in attacks.plan.places
    ]
    start = f'{name}/overoptimisation/drop_{attacks.plan.reduction}@'
    out += [path for path in metrics if path.startswith(start)]
  return [path for path in out if path in metrics]


def _lines(attacks: hack.Report) -> list[str]:
  """A line an attack: verdicts under every reduction or place."""
  out = []
  for name, held in attacks.verdicts.items():
    for attack, found in held.items():
      by = ', '.join(f'{at} {v}' for at, v in found['by'].items())
      out.append(f'{name}  {attack:20} {found["verdict"]:9} ({by})')
  return out
