"""View: any scored file, evaluated run, label tree or search, as a page to look at."""

from __future__ import annotations

import os
from collections import Counter

from ml_collections import ConfigDict

from prm_jax import files, writer
from prm_jax.errors import UserError
from prm_jax.evaluation import report
from prm_jax.evaluation.report import ReportData, Sample, Tree
from prm_jax.jobs import assemble, pages, saved_runs, view_trees
from prm_jax.jobs.configuration import Command
from prm_jax.jobs.measure import VALIDATION
from prm_jax.jobs.saved_runs import Run


def run(command: Command) -> None:
  """Writes `output`, a page with the solutions or trees of `input`, or of the runs `a`
  and `b`.

  Raises:
    UserError: nothing to show, a file that is not of a known kind, or the output is
      there already.
  """
  config = command.config
  if bool(config.input) == bool(config.a) or not config.output:
    raise UserError(
      'view needs --config.input=FILE[:FORMAT] (or a workdir of label or search), or '
      '--config.a=RUN and perhaps --config.b=RUN, and --config.output=FILE.html.'
    )
  files.check_ending(config.output, '.html')
  files.check_new(config.output)
  counters: Counter[str] = Counter()
  samples: list[Sample] = []
  grown: list[Tree] = []
  if config.a:
    samples = _of_runs(config, counters)
  elif view_trees.are_there(config.input):
    grown = view_trees.of_run(config.input, config.data.limit)
    if not grown:
      raise UserError(
        f'{config.input}: no tree was kept; label with an algorithm that grows trees, '
        'or search with search.tree=true.'
      )
    counters['trees'] = len(grown)
  else:
    samples = _of_files(config, counters)
  if not samples and not grown:
    raise UserError(
      f'{config.input or config.a}: there is no solution to show; {dict(counters)}.'
    )
  counters['solutions'] = len(samples)
  data = ReportData(
    title=config.input or ' and '.join(filter(None, (config.a, config.b))),
    job='view',
    command=command.line,
    samples=samples,
    trees=grown,
    truth=config.data.truth,
    counters=counters,
  )
  report.write(config.output, data)
  size = os.path.getsize(config.output) / 1e6
  told = ', '.join(f'{n} {k.replace("_", " ")}' for k, n in counters.items() if n)
  writer.say(f'{config.output}: {told}, {size:.1f} MB')


def _of_files(config: ConfigDict, counters: Counter[str]) -> list[Sample]:
  named = [n for n in map(str.strip, config.view_scores.split(',')) if n]
  mixture = assemble.load(config, config.input, dedupe='none')
  several = len(mixture.names) > 1
  out = []
  for i, name in enumerate(mixture.names):
    rows = mixture.of(i)
    made, dropped = report.of_records(
      rows,
      scorers=named,
      truth=config.data.truth,
      split=name if several else '',
      checker=config.data.checker,
    )
    out += made
    counters['rows_without_these_scores'] += dropped
  return out


def _of_runs(config: ConfigDict, counters: Counter[str]) -> list[Sample]:
  a, *b = [saved_runs.load(n) for n in (config.a, config.b) if n]
  if not b:
    return of_run(a, config.data.limit)
  out, counted = report.side_by_side(*(of_run(r, config.data.limit) for r in (a, *b)))
  counters.update(counted)
  return out


def of_run(r: Run, limit: int = 0) -> list[Sample]:
  """Solutions that a run judged, with the thresholds that it used; validation is left
  out. Of further scorers of a run ('RUN@SCORER') nothing is kept: [].

  Args:
    r: the run.
    limit: of solutions of each set, 0 takes all.
  """
  out: list[Sample] = []
  for split, rows in r.rows.items():
    if split == VALIDATION or r.scorer:
      continue
    benchmark, part = pages.set_of(split)
    for t in rows[: limit or None]:
      judged = r.said.get((split, t.id))
      if judged is not None and 'predicted_first_error' in judged:
        one = report.of_evaluation(
          t, judged, split=part, benchmark=benchmark, scorer=r.name,
          key=str(r.config.get('scorer_name', '')),
          checker=str(r.config.get('data.checker', '')),
        )  # fmt: skip
        out.append(one)
  return out
