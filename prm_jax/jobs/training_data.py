"""The training rows of a config, encoded and cached, and what was met on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from etils import epath
from ml_collections import ConfigDict

from prm_jax.data import columns, sources, token_cache
from prm_jax.data.batches import Usage
from prm_jax.data.sources import Mixture
from prm_jax.data.token_cache import TokenCache
from prm_jax.errors import UserError
from prm_jax.formats.tokenizers import Tokenizer
from prm_jax.jobs import assemble
from prm_jax.objectives import Objective
from prm_jax.records import Trajectory
from prm_jax.specs import StepFormat, TextFormat
from prm_jax.worlds import arithmetic, noise


@dataclasses.dataclass(frozen=True)
class TrainingData:
  """Attributes:
  cache: encoded rows.
  source_weights: one a source of the cache.
  examples: some rows as records, for baselines that are fitted on training data.
  counters: everything dropped, truncated or in conflict.
  balance: source -> class counts of the labels.
  """

  cache: TokenCache
  source_weights: tuple[float, ...]
  examples: Sequence[Trajectory]
  counters: dict[str, int]
  balance: dict[str, dict[str, int]]

  def with_usage(self, usage: Usage) -> TrainingData:
    """The same, with what an epoch computes among the counters."""
    more = {
      'epoch_tokens': usage.tokens,
      'epoch_padding': usage.places - usage.tokens,
      'epoch_batches': usage.batches,
    }
    return dataclasses.replace(self, counters={**self.counters, **more})

  def counted(self) -> dict[str, int]:
    """All counters as paths for results.json."""
    out = {f'train/{name}': n for name, n in self.counters.items()}
    for source, counts in self.balance.items():
      out |= {f'train/{source}/labels/{name}': n for name, n in counts.items()}
    return out


@dataclasses.dataclass(frozen=True)
class Wanted:
  """What training reads of a row, and what a row must have (`token_cache.build`).

  Attributes:
    label, checker: label set and verdict, '' for none.
    require: of every row.
    optional: rows without the label set do; it plays no part in the loss.
  """

  label: str
  checker: str
  require: tuple[str, ...]
  optional: bool = False


def wanted(config: ConfigDict, objective: Objective) -> Wanted:
  """What the objective needs of the data.

  Raises:
    UserError: `policy.train_on` is unknown.
  """
  if objective.trains_policy:
    if config.policy.train_on not in TRAIN_ON:
      raise UserError(
        f'policy.train_on={config.policy.train_on!r}: it must be one of '
        f'{", ".join(TRAIN_ON)}.'
      )
    right = config.policy.train_on == 'right'
    return Wanted('', config.data.checker if right else '', ('right',) * right)
  # TD that ends at the last label learns from labels alone.
  if 'outcome' in objective.arrays and config.objective.terminal != 'last_label':
    section = config.objective
    unread = section.train_unlabeled and section.shaping in (None, 'zero')
    return Wanted(
      config.data.label,
      config.data.checker,
      ('outcome',),
      optional=objective.name == 'orm' or bool(unread),
    )
  return Wanted(config.data.label, '', ('labels',))


TRAIN_ON = ('right', 'all')
N_EXAMPLES = 4000
N_ROWS_OF_FILES = 50_000


def load(
  config: ConfigDict,
  objective: Objective,
  fmt: StepFormat | TextFormat,
  tokenizer: Tokenizer,
  cache_dir: epath.Path,
  judged: Mapping[str, Sequence[Trajectory]],
  mixture: Mixture | None = None,
) -> TrainingData:
  """Reads, filters and encodes `data.train`.

  Args:
    config: the run's.
    objective: decides what a row must carry to be of use.
    fmt, tokenizer: of the scorer or the policy.
    cache_dir: where the token cache lies.
    judged: validation and evaluation sets, whose problems must not be trained on.
    mixture: the rows, where they are read already (`measure.Sets.train`).

  Raises:
    UserError: nothing usable is left.
  """
  want = wanted(config, objective)
  if mixture is None and _is_plain_world(config, judged):
    world, n = assemble.world(config), _n_of_world(config)
    arrays = arithmetic.train_arrays(world, 0, n, exact=_is_exact(config))
    rows = columns.of_world(world, arrays, want.label, want.checker)
    cache = token_cache.build_columns(
      rows, fmt, tokenizer, want.label, want.checker, cache_dir, require=want.require
    )
    examples = _of_world(config) if want.label else ()
    balance = _balance(cache) if want.label else {}
    return TrainingData(cache, (), examples, cache.counters, balance)
  if mixture is None:
    mixture, _ = assemble.training(config)
  mixture = sources.exclude_problems(mixture, judged, config.data.leak)
  label, checker = want.label, want.checker
  if want.optional and not any(label in t.labels for t in mixture.trajectories):
    label = ''
  if objective.trains_policy and not has_verdicts(mixture.trajectories, checker):
    checker = ''
  cache = token_cache.build(
    mixture, fmt, tokenizer, label, checker, cache_dir, require=want.require
  )
  return TrainingData(
    cache,
    mixture.weights,
    _some(mixture) if label else (),
    {**mixture.counters, **cache.counters},
    sources.class_balance(mixture, label) if label else {},
  )


def has_verdicts(rows: Sequence[Trajectory], checker: str) -> bool:
  """Whether any row was judged: files of solutions to learn from often are not."""
  return any(checker in t.verdicts for t in rows)


def examples(
  config: ConfigDict,
  judged: Mapping[str, Sequence[Trajectory]],
  mixture: Mixture | None = None,
) -> Sequence[Trajectory]:
  """`TrainingData.examples` of a config alone; arguments as for `load`."""
  if mixture is None and _is_plain_world(config, judged):
    return _of_world(config)
  if mixture is None:
    mixture, _ = assemble.training(config)
  return _some(sources.exclude_problems(mixture, judged, config.data.leak))


def _is_plain_world(
  config: ConfigDict, judged: Mapping[str, Sequence[Trajectory]]
) -> bool:
  """Whether the embedded world's split train is trained on alone and as it is: every
  row and label counts once, and nothing is judged on its problems.

  Then its arrays do, without a record for each of several 100,000 rows.
  """
  first, *others = sources.parse(config.data.train, 'data.train')
  whole = first.weight == 1 and not others and not config.data.weigh_once
  if not whole or first.format not in sources.WORLDS or first.path != 'train':
    return False
  mine = arithmetic.train_problem_ids(assemble.world(config), _n_of_world(config))
  return mine.isdisjoint(sources.problems(judged))


def _n_of_world(config: ConfigDict, *most: int) -> int:
  """Rows of the embedded world that are read, no more than any of `most`."""
  n_train = assemble.world(config).n_train
  return min(filter(None, (n_train, config.data.limit, *most)))


def _is_exact(config: ConfigDict) -> bool:
  return sources.parse(config.data.train, 'data.train')[0].format == sources.WORLD_EXACT


def _of_world(config: ConfigDict) -> Sequence[Trajectory]:
  world, n = assemble.world(config), _n_of_world(config, N_EXAMPLES)
  rows = arithmetic.split(world, 'train', n, exact=_is_exact(config))
  return noise.add(rows, config.data.label) if '@' in config.data.label else rows


def _some(mixture: Mixture) -> Sequence[Trajectory]:
  return mixture.trajectories[:: -(-len(mixture.trajectories) // N_ROWS_OF_FILES)]


def _balance(cache: TokenCache) -> dict[str, dict[str, int]]:
  labels = cache.labels[cache.mask]
  return {
    cache.sources[0]: {
      'trajectories': cache.n_rows,
      'steps': len(cache.mask),
      'labels': len(labels),
      'positive_labels': int((labels >= 0.5).sum()),
      'negative_labels': int((labels < 0.5).sum()),
    }
  }
