"""Compare: whether runs of method A are better than runs of method B, and on what."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import glob
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from prm_jax import files, jsonl, writer
from prm_jax.errors import UserError
from prm_jax.evaluation import compare, compare_text, report, same_rows
from prm_jax.evaluation.report import ReportData, words
from prm_jax.jobs import view
from prm_jax.jobs.configuration import Command
from prm_jax.jobs.measure import VALIDATION
from prm_jax.jobs.saved_runs import Run, load, measure

EVALUATED = ('train', 'evaluate')
ENDINGS = ('.json', '.md', '.html', '.samples.jsonl.gz')


def run(command: Command) -> None:
  """Compares the runs `a` with the runs `b` and writes `output`, a .json file, and
  beside it the table (.md), as a page too (.html), and, where both said something about
  single solutions, what (.samples.jsonl.gz).

  Raises:
    UserError: nothing to compare, runs on different rows, an unreadable run, or
      files there that another command has written.
  """
  config = command.config
  if not (config.a and config.b and config.output):
    raise UserError(
      'compare needs --config.a=RUN[,RUN...], --config.b=RUN[,RUN...] and '
      '--config.output=FILE.json.'
    )
  files.check_ending(config.output, '.json')
  _check_place(command)
  a, b = (_runs(text, key) for text, key in ((config.a, 'a'), (config.b, 'b')))
  counters = {'runs_a': len(a), 'runs_b': len(b)}
  held = [*a, *b]
  _same_measure(held)
  held, more = _same_rows(config, held)
  counters.update(more)
  found = compare.compare(
    [r.estimates for r in held[: len(a)]],
    [r.estimates for r in held[len(a) :]],
    keep=_kept(config.compare.metrics, held),
    kinds=sorted({r.kind for r in held} - {''}),
    n_flips=config.compare.flips,
    seed=config.evaluate.seed,
  )
  names = [[r.name for r in side] for side in (a, b)]
  _write(command, found, names, counters, held)


def _check_place(command: Command) -> None:
  """Refuses to write over anything but what the very same command wrote before."""
  output = epath.Path(command.config.output)
  held = None
  if output.is_file():
    with contextlib.suppress(UserError):
      held = jsonl.parse_json(jsonl.read_bytes(output), str(output))
  about = held.get('provenance') if isinstance(held, dict) else None
  if isinstance(about, dict) and about.get('command') == command.line:
    return
  stem = str(output).removesuffix('.json')
  for ending in ENDINGS:
    files.check_new(f'{stem}{ending}')


def _kept(patterns: str, held: Sequence[Run]) -> Callable[[str], bool]:
  """Whether a metric is compared.

  Raises:
    UserError: a pattern matches none.
  """
  wanted = [p.strip() for p in patterns.split(',') if p.strip()]
  paths = dict.fromkeys(
    p for r in held for p in r.estimates if not words.meaning(p).difference
  )
  for pattern in wanted:
    if paths and not fnmatch.filter(paths, pattern):
      raise UserError(
        f'compare.metrics={pattern!r} matches none of {len(paths)} metrics, for '
        f'example {", ".join(list(paths)[:3])}.'
      )
  return lambda path: (
    path in paths and (not wanted or any(fnmatch.fnmatchcase(path, p) for p in wanted))
  )


def _runs(text: str, key: str) -> list[Run]:
  """Runs of 'RUN[@SCORER], ...'; a pattern stands for all that fit, sorted."""
  out = []
  for item in filter(None, (i.strip() for i in text.split(','))):
    path, _, scorer = item.partition('@')
    found = sorted(glob.glob(path)) if any(c in path for c in '*?') else [path]
    if not found:
      raise UserError(f'--config.{key}={item}: nothing fits the pattern; check it.')
    out += [load(p, scorer) for p in found]
  if not out:
    raise UserError(f'--config.{key}={text}: it names no run.')
  seen = set()
  for r in out:
    if (r.folder, r.scorer) in seen:
      raise UserError(
        f'--config.{key}={text}: run {r.name} is named twice; give each run once, a '
        'second time it is no further seed.'
      )
    seen.add((r.folder, r.scorer))
  return out


def _same_measure(held: Sequence[Run]) -> None:
  """Refuses runs judged by other truths, other definitions, or on other rows of a set
  that not all of them keep; what they keep is for `_same_rows`."""
  first = held[0]
  for r in held:
    if r.job not in EVALUATED:
      raise UserError(
        f'{r.name}: holds results of job={r.job}; compare takes runs that measured a '
        f'scorer (job={" or ".join(EVALUATED)}), and a search compares its own methods.'
      )
    if not r.digests:
      raise UserError(
        f'{r.name}: its results.json does not say which rows it was measured on; '
        'evaluate it again.'
      )
  kept = {name for name in first.rows if all(name in r.rows for r in held)}
  for other in held[1:]:
    for what, mine, theirs in (
      ('is judged by', first.judged_by, other.judged_by),
      ('has the version', first.versions, other.versions),
    ):
      for key in sorted(mine.keys() & theirs.keys()):
        if mine[key] != theirs[key]:
          raise UserError(
            f'{key} {what} {mine[key]!r} in {first.name} and {theirs[key]!r} in '
            f'{other.name}: these are different measurements; evaluate both alike.'
          )
    for name in sorted((first.digests.keys() & other.digests.keys()) - kept):
      if first.digests[name] != other.digests[name]:
        raise UserError(
          f'{name}: {first.name} and {other.name} were measured on different rows of '
          'it, which cannot be paired; evaluate both on the same files.'
        )


def _same_rows(
  config: ConfigDict, held: Sequence[Run]
) -> tuple[list[Run], dict[str, int]]:
  """The runs, measured on the same rows: as they are, or again on those in common."""
  splits = [
    s for s in held[0].rows if all(s in r.rows for r in held) if s != VALIDATION
  ]
  truth = held[0].truth
  rows = {
    f'run {i} ({r.name})': {s: r.rows[s] for s in splits} for i, r in enumerate(held, 1)
  }
  counters: dict[str, int] = {}
  unequal = [
    sentence
    for split in splits
    for sentence in same_rows.differences(
      split, {name: of[split] for name, of in rows.items()}, truth
    )
  ]
  if unequal and not config.compare.common:
    raise UserError(
      f'these runs were measured on different rows: {"; ".join(unequal)}; evaluate '
      'both on the same files, or compare the rows in common with '
      '--config.compare.common=true.'
    )
  if splits and config.compare.common:
    rows, counters = same_rows.common(rows, truth)
  if not unequal and all(r.estimates for r in held):
    return list(held), counters
  bare = [r.name for r in held if not r.estimates and not r.rows]
  if not splits or bare:
    raise UserError(
      f'{(bare or [held[0].name])[0]}: it holds neither replicates.npz nor per-sample '
      'rows that all runs have; evaluate it again with '
      '--config.evaluate.replicates=true.'
    )
  writer.say(f'measuring {", ".join(splits)} again from the per-sample files')
  out = [
    dataclasses.replace(r, estimates=measure(config, r, of))
    for r, of in zip(held, rows.values())
  ]
  return out, counters


def _write(
  command: Command,
  found: compare.Compared,
  names: Sequence[Sequence[str]],
  counters: dict[str, int],
  held: Sequence[Run],
) -> None:
  config = command.config
  text = compare_text.markdown(found, *names)
  stem = config.output.removesuffix('.json')
  counters |= {
    'metrics_compared': len(found.rows),
    'metrics_identical': sum(row.identical for row in found.rows),
    **{f'not_compared/{why}': len(paths) for why, paths in found.left_out.items()},
  }
  about = files.provenance(command.line, config.evaluate.seed)
  result = {
    'schema_version': files.SCHEMA_VERSION,
    'job': 'compare',
    'a': names[0],
    'b': names[1],
    'metrics': {
      row.metric: {'value': row.difference, **dataclasses.asdict(row)}
      for row in found.rows
    },
    'not_compared': found.left_out,
    'statements': [compare_text.statement(row) for row in found.rows],
    'counters': counters,
    'provenance': about,
  }
  content = json.dumps(result, ensure_ascii=False, indent=1, allow_nan=False) + '\n'
  jsonl.write_bytes(f'{stem}.md', text.encode())
  samples = list(_sample_lines(held, len(names[0])))
  _write_page(command, f'{stem}.html', found, names, counters, held, about)
  written = [config.output, f'{stem}.md', f'{stem}.html']
  if samples:
    jsonl.write_json_lines(f'{stem}.samples.jsonl.gz', samples)
    written.append(f'{stem}.samples.jsonl.gz ({len(samples)} rows)')
  jsonl.write_bytes(config.output, content.encode())
  print(text)
  writer.say(', '.join(written))


def _write_page(
  command: Command,
  path: str,
  found: compare.Compared,
  names: Sequence[Sequence[str]],
  counters: Mapping[str, int],
  held: Sequence[Run],
  about: Mapping[str, Any],
) -> None:
  """The table, and the first run of each side, solution by solution."""
  a, b = held[0], held[len(names[0])]
  shown, more = report.side_by_side(view.of_run(a), view.of_run(b))
  table = compare_text.table(found)
  page = ReportData(
    f'{a.name} and {b.name}',
    'compare',
    command.line,
    summary='' if table else compare_text.note(found),
    highlights={side: ', '.join(runs) for side, runs in zip('AB', names)},
    tables=[table] if table else [],
    counters={**counters, **more},
    warnings=compare_text.left_out(found),
    samples=shown,
    truth=a.truth,
    provenance=about,
  )
  report.write(path, page)


def _sample_lines(held: Sequence[Run], n_a: int) -> Iterator[dict[str, Any]]:
  """One object a row that all runs judged: gold and what each run predicted."""
  for split, name in held[0].said:
    each = [r.said.get((split, name)) for r in held]
    found = [e for e in each if e is not None and 'predicted_first_error' in e]
    if len(found) < len(each):
      continue
    predicted = [e['predicted_first_error'] for e in found]
    matched = [e['match'] for e in found]
    yield {
      'split': split,
      'id': name,
      'problem_id': found[0].get('problem_id'),
      'gold_first_error': found[0]['gold_first_error'],
      'a': predicted[:n_a],
      'b': predicted[n_a:],
      'a_match': matched[:n_a],
      'b_match': matched[n_a:],
    }
