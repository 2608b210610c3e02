"""Score: add a scorer's step scores to a file of trajectories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from prm_jax import exports, records, writer
from prm_jax.errors import UserError
from prm_jax.files import scorer_folder
from prm_jax.formats.step_format import Unusable
from prm_jax.inference.scorer import Scorer
from prm_jax.jobs import assemble
from prm_jax.jobs.configuration import Command
from prm_jax.records import Trajectory

CHUNK = 20000


def run(command: Command) -> None:
  """Reads `input`, scores it with `scorer`, writes `output`.

  Rows that cannot be scored are written without scores, and counted.

  Raises:
    UserError: a key is missing, the scorer cannot be loaded, or nothing could be
      scored.
  """
  config = command.config
  if not (config.input and config.output and config.scorer):
    raise UserError(
      'score needs --config.scorer=WORKDIR, --config.input=PATH[:FORMAT] and '
      '--config.output=FILE.jsonl.gz.'
    )
  scorer = load(config.scorer)
  rows = assemble.load(config, config.input).trajectories
  scored, unusable = add_scores(scorer, rows, config.scorer_name)
  if len(rows) == sum(unusable.values()):
    raise UserError(f'{config.input}: no row could be scored ({_words(unusable)}).')
  records.write(config.output, scored)
  note = f', not scored: {_words(unusable)}' if unusable else ''
  writer.say(f'{config.output}: {len(scored)} rows written{note}')


def load(path: str) -> Scorer:
  """The scorer of a train run's workdir, or of an exported folder."""
  return Scorer(*exports.load_scorer(scorer_folder(path)))


def add_scores(
  scorer: Scorer, rows: Sequence[Trajectory], name: str, *, quiet: bool = False
) -> tuple[list[Trajectory], Counter[str]]:
  """The rows with `scores[name]` where possible, and the reasons where not."""
  out = []
  unusable: Counter[str] = Counter()
  progress = None if quiet else writer.Progress(len(rows), 'scored')
  for start in range(0, len(rows), CHUNK):
    part = rows[start : start + CHUNK]
    for t, result in zip(part, scorer.score(part)):
      if isinstance(result, Unusable):
        unusable[result.reason] += 1
        out.append(t)
      else:
        out.append(records.add(t, 'scores', name, result))
    if progress is not None:
      progress.to(len(out))
  if progress is not None:
    progress.close()
  return out, unusable


def _words(counts: Counter[str]) -> str:
  return ', '.join(f'{n} {reason}' for reason, n in sorted(counts.items()))
