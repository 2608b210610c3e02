"""From a config to typed parts: tokenizer, spec, objective, data."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from ml_collections import ConfigDict

from prm_jax import exports, files, objectives
from prm_jax.data import sources
from prm_jax.data.sources import Mixture
from prm_jax.errors import UserError
from prm_jax.formats import step_format, text_format, tokenizers
from prm_jax.formats.label_policy import ImportOptions
from prm_jax.formats.tokenizers import Tokenizer
from prm_jax.interop import hub
from prm_jax.jobs.configuration import build
from prm_jax.models.lora import LoraSpec
from prm_jax.objectives import Objective
from prm_jax.objectives.pinball import check_levels
from prm_jax.records import Trajectory
from prm_jax.specs import (
  HeadSpec,
  ModelSpec,
  PolicySpec,
  ScorerSpec,
  StepFormat,
  TextFormat,
)
from prm_jax.training import parts
from prm_jax.training import start as starts
from prm_jax.training.optimizer import OptimizerConfig
from prm_jax.training.parts import Parts
from prm_jax.training.start import Start
from prm_jax.worlds import arithmetic
from prm_jax.worlds.arithmetic import WorldConfig

# Keys of config.model that are not the network's.
STARTING = ('init_from', 'freeze', 'frozen_dtype')

Sets = dict[str, list[Trajectory]]
"""Name -> rows that are judged together."""


def world(config: ConfigDict) -> WorldConfig:
  """The embedded world of the config, with as many training rows as a run takes
  where the config leaves their number open."""
  held = build(WorldConfig, 'world', config.world)
  fresh = config.train.steps * config.train.batch_size
  return dataclasses.replace(held, n_train=held.n_train or fresh)


def options(config: ConfigDict) -> ImportOptions:
  """How public formats become records."""
  return build(ImportOptions, 'imports', config.imports)


@functools.lru_cache
def _fetched(name: str) -> str:
  """The folder of a model of the Hub, which is asked for once a process."""
  return hub.resolve(name)


def start(config: ConfigDict) -> Start | None:
  """The model that training starts from (`model.init_from`), None for a new one.

  Only headers are read; weights when they are asked for.

  Raises:
    UserError: no model is there, or it is not supported.
  """
  name = config.model.init_from
  if not name:
    return None
  free = {key: config.model[key] for key in exports.FREE}
  folder = _fetched(name) if hub.is_name(name) else files.model_folder(name)
  return starts.find(folder, free)


def base_tokenizer(config: ConfigDict) -> Tokenizer:
  """The tokenizer before tokens are added: the config's, or that of the model which
  training starts from.

  Raises:
    UserError: the config names another one than that model's, or there is none.
  """
  found = start(config)
  if found is None:
    return tokenizers.load(config.tokenizer)
  theirs = found.tokenizer()
  if config.tokenizer == 'bytes' and theirs is not None:
    return theirs
  if config.tokenizer == 'bytes':
    raise UserError(
      f'{found.folder}: no tokenizer there; name it in config key tokenizer.'
    )
  named = tokenizers.load(config.tokenizer)
  if theirs is not None:
    ours, added = (_with_special(config, t).fingerprint for t in (named, theirs))
    if ours != added:
      raise UserError(
        f'{found.folder}: its tokenizer is not the one of the config '
        f'({config.tokenizer}); leave config key tokenizer as it is.'
      )
  return named


def tokenizer(config: ConfigDict) -> Tokenizer:
  """The tokenizer of the config, with the token that it is used with added if it lacks
  it: the marker of a scorer, the end of a policy's response."""
  return _with_special(config, base_tokenizer(config))


def _with_special(config: ConfigDict, found: Tokenizer) -> Tokenizer:
  trains_policy = objectives.get(config.objective.name).trains_policy
  special = config.text.end if trains_policy else config.format.marker
  if not trains_policy and config.format.marker_in_text == 'allow':
    special = ''  # ordinary text, of one token or several
  if special and found.token_id(special) is None and hasattr(found, 'with_specials'):
    return found.with_specials([special])
  return found


def objective(config: ConfigDict) -> tuple[Objective, dict[str, Any]]:
  """The objective and its hyperparameters that the config sets.

  Raises:
    UserError: unknown objective, or a hyperparameter that it does not have.
  """
  section = config.objective
  chosen = objectives.get(section.name)
  held = {
    key: value
    for key, value in section.items()
    if key not in ('name', 'unit') and value is not None
  }
  objectives.check_hyperparameters(chosen, held)
  return chosen, held


def network(config: ConfigDict, words: Tokenizer) -> ModelSpec:
  """The decoder of the config over the ids of its tokenizer; or that of the model which
  training starts from, with rows for added tokens.

  Raises:
    UserError: a key differs from that model's and is not free (`exports.FREE`).
  """
  held = {k: v for k, v in config.model.items() if k not in STARTING}
  found = start(config)
  if found is None:
    return build(ModelSpec, 'model', held, vocab_size=words.vocab_size)
  defaults = {f.name: f.default for f in dataclasses.fields(ModelSpec)}
  for key, value in held.items():
    value = tuple(value) if isinstance(value, (list, tuple)) else value
    theirs = getattr(found.model, key)
    if key not in exports.FREE and value not in (defaults[key], theirs):
      raise UserError(
        f'{found.folder}: its model has {key}={theirs!r}, the config model.{key}='
        f'{value!r}; leave the key as it is in configs/base.py.'
      )
  rows = starts.vocabulary(found, base_tokenizer(config), words.vocab_size)
  return dataclasses.replace(found.model, vocab_size=rows)


def divided(config: ConfigDict, declared: dict[str, Any]) -> Parts:
  """Which of the declared weights are trained, frozen, adapted.

  Raises:
    UserError: `model.freeze` or `lora` do not fit the model, or there is none to start
      from.
  """
  section = config.model
  update = build(LoraSpec, 'lora', config.lora)
  if not section.init_from and (section.freeze or update.rank):
    key = 'model.freeze' if section.freeze else 'lora.rank'
    raise UserError(
      f'{key} is set, but model.init_from is empty: new weights that are not trained '
      'are noise; name the model to start from.'
    )
  return parts.split(
    declared,
    freeze=section.freeze,
    frozen_dtype=section.frozen_dtype,
    update=update,
    dtype=section.param_dtype,
  )


def spec(config: ConfigDict, words: Tokenizer) -> ScorerSpec:
  """What the trained scorer will be.

  Raises:
    UserError: parts of the config do not fit each other.
  """
  chosen, held = objective(config)
  head = build(HeadSpec, 'head', config.head)
  objectives.check_head(chosen, head)
  levels = {**chosen.hyperparameters, **held}.get('levels')
  fmt = build(StepFormat, 'format', config.format)
  model = network(config, words)
  step_format.check(fmt, words, head=head, vocab_size=model.vocab_size)
  return ScorerSpec(
    model=model,
    head=head,
    step_format=fmt,
    step_value=chosen.step_value,
    kind=chosen.kind,
    reduction=config.evaluate.reduction or chosen.reduction,
    tokenizer=_name(words),
    levels=() if levels is None else check_levels(levels, head.n_outputs),
    objective=chosen.name,
    label=config.data.label,
  )


def policy_spec(config: ConfigDict, words: Tokenizer) -> PolicySpec:
  """What the trained policy will be.

  Raises:
    UserError: parts of the config do not fit each other.
  """
  chosen, _ = objective(config)
  head = build(HeadSpec, 'head', config.head)
  objectives.check_head(chosen, head)
  if head.dropout:
    raise UserError(
      f'head.dropout={head.dropout:g}: a policy is trained without dropout; set it '
      'to 0.'
    )
  fmt = build(TextFormat, 'text', config.text)
  text_format.check(fmt, words)
  return PolicySpec(
    model=network(config, words),
    text_format=fmt,
    tokenizer=_name(words),
  )


def _name(words: Tokenizer) -> str:
  built_in = isinstance(words, tokenizers.ByteTokenizer)
  return 'bytes' if built_in else tokenizers.FILE


def optimizer(config: ConfigDict) -> OptimizerConfig:
  """The optimizer; its schedule ends with the run unless it has its own horizon, and
  warm-up takes a tenth of it at most, so that a shortened run still trains."""
  held = build(OptimizerConfig, 'optimizer', config.optimizer)
  horizon = held.horizon or config.train.steps
  warmup = min(held.warmup_steps, horizon // 10)
  return dataclasses.replace(held, horizon=horizon, warmup_steps=warmup)


def load(
  config: ConfigDict,
  text: str,
  *,
  dedupe: str = 'across',
  weigh_once: str = '',
  noise: str = '',
  key: str = '',
) -> Mixture:
  """Rows of the sources that `text`, the value of `key`, names, at most `data.limit`
  of each; see `sources.load`."""
  return sources.load(
    sources.parse(text, key),
    options(config),
    world(config),
    dedupe=dedupe,
    weigh_once=weigh_once,
    noise=noise,
    limit=config.data.limit,
  )


def training(config: ConfigDict) -> tuple[Mixture, Mixture | None]:
  """(training rows, rows held out of them by problem for validation, if any).

  Raises:
    UserError: validation is both held out and named, or a source cannot be read.
  """
  share = config.data.validation_share
  if share and config.data.validation.strip():
    raise UserError(
      f'data.validation_share={share:g} and data.validation='
      f'{config.data.validation!r} both say what validation is; leave one out.'
    )
  label = config.data.label
  mixture = load(
    config,
    config.data.train,
    weigh_once=label if config.data.weigh_once else '',
    noise=label if '@' in label else '',
    key='data.train',
  )
  return sources.hold_out(mixture, share, seed=0) if share else (mixture, None)


def named_sets(config: ConfigDict, text: str) -> tuple[Sets, dict[str, int]]:
  """Sets to judge by, each whole, by the names of their sources; {} for ''.

  Returns:
    The sets, and 'NAME/read/what' -> count of what was met in reading them.

  Raises:
    UserError: a source cannot be read, or holds a row twice.
  """
  if not text.strip():
    return {}, {}
  mixture = load(config, text, dedupe='refuse')
  return {n: mixture.of(i) for i, n in enumerate(mixture.names)}, _read(mixture)


def pools(config: ConfigDict) -> tuple[Sets, dict[str, int]]:
  """Candidate pools by name, as `named_sets`; the embedded world draws its own for a
  split."""
  out: Sets = {}
  counters: dict[str, int] = {}
  for source in sources.parse(config.data.pools) if config.data.pools.strip() else []:
    if source.format == sources.WORLD:
      out[source.name] = arithmetic.pool(world(config), source.path)
      continue
    mixture = sources.load(
      [source], options(config), dedupe='refuse', limit=config.data.limit
    )
    out[source.name] = mixture.trajectories
    counters |= _read(mixture)
  return out, counters


def _read(mixture: Mixture) -> dict[str, int]:
  """Counters of sets as paths for results.json."""
  return {k.replace('/', '/read/', 1): n for k, n in mixture.counters.items()}
