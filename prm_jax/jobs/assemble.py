"""From a config to typed parts: tokenizer, spec, objective, data."""

from __future__ import annotations

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from prm_jax import exports, files, objectives
from prm_jax.data import sources
from prm_jax.data.sources import Mixture
from prm_jax.errors import UserError
from prm_jax.formats import step_format, text_format, tokenizers
from prm_jax.formats.label_policy import ImportOptions
from prm_jax.formats.tokenizers import Tokenizer
from prm_jax.jobs.configuration import build
from prm_jax.objectives import Objective
from prm_jax.records import Trajectory
from prm_jax.specs import (
  HeadSpec,
  ModelSpec,
  PolicySpec,
  ScorerSpec,
  StepFormat,
  TextFormat,
)
from prm_jax.training.optimizer import OptimizerConfig
from prm_jax.worlds import arithmetic
from prm_jax.worlds.arithmetic import WorldConfig


def world(config: ConfigDict) -> WorldConfig:
  """The embedded world of the config, with as many training rows as a run takes
  where the config leaves their number open."""
  held = build(WorldConfig, config.world)
  fresh = config.train.steps * config.train.batch_size
  return dataclasses.replace(held, n_train=held.n_train or fresh)


def options(config: ConfigDict) -> ImportOptions:
  """How public formats become records."""
  return build(ImportOptions, config.imports)


def tokenizer(config: ConfigDict) -> Tokenizer:
  """The tokenizer of the config, with the token that it is used with added if it lacks
  it: the marker of a scorer, the end of a policy's response."""
  found = tokenizers.load(config.tokenizer)
  trains_policy = objectives.get(config.objective.name).trains_policy
  special = config.text.end if trains_policy else config.format.marker
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
  """The decoder of the config, over the ids of its tokenizer."""
  held = {k: v for k, v in config.model.items() if k != 'init_from'}
  return build(ModelSpec, held, vocab_size=words.vocab_size)


def decoder(
  config: ConfigDict, model: ModelSpec, words: Tokenizer
) -> tuple[dict[str, Any], str] | None:
  """Weights that training starts from and the hash of their model; None for new ones.

  Raises:
    UserError: `model.init_from` holds no sound model, or another one than the config's.
  """
  path = config.model.init_from
  if not path:
    return None
  return exports.load_decoder(files.model_folder(path), model, words)


def spec(config: ConfigDict, words: Tokenizer) -> ScorerSpec:
  """What the trained scorer will be.

  Raises:
    UserError: parts of the config do not fit each other.
  """
  chosen, _ = objective(config)
  head = build(HeadSpec, config.head)
  objectives.check_head(chosen, head)
  fmt = build(StepFormat, config.format)
  model = network(config, words)
  step_format.check(fmt, words, head=head, vocab_size=model.vocab_size)
  return ScorerSpec(
    model=model,
    head=head,
    step_format=fmt,
    step_value=chosen.step_value,
    kind=chosen.kind,
    reduction=config.evaluate.reduction or chosen.reduction,
    tokenizer='bytes' if config.tokenizer == 'bytes' else tokenizers.FILE,
    objective=chosen.name,
    label=config.data.label,
  )


def policy_spec(config: ConfigDict, words: Tokenizer) -> PolicySpec:
  """What the trained policy will be.

  Raises:
    UserError: parts of the config do not fit each other.
  """
  chosen, _ = objective(config)
  head = build(HeadSpec, config.head)
  objectives.check_head(chosen, head)
  if head.dropout:
    raise UserError(
      f'head.dropout={head.dropout:g}: a policy is trained without dropout; set it '
      'to 0.'
    )
  fmt = build(TextFormat, config.text)
  text_format.check(fmt, words)
  return PolicySpec(
    model=network(config, words),
    text_format=fmt,
    tokenizer='bytes' if config.tokenizer == 'bytes' else tokenizers.FILE,
  )


def optimizer(config: ConfigDict) -> OptimizerConfig:
  """The optimizer; its schedule ends with the run unless it has its own horizon, and
  warm-up takes a tenth of it at most, so that a shortened run still trains."""
  held = build(OptimizerConfig, config.optimizer)
  horizon = held.horizon or config.train.steps
  warmup = min(held.warmup_steps, horizon // 10)
  return dataclasses.replace(held, horizon=horizon, warmup_steps=warmup)


def load(config: ConfigDict, text: str, weigh_once: str = '') -> Mixture:
  """Rows of the sources that `text` names, at most `data.limit` of each."""
  return sources.load(
    sources.parse(text),
    options(config),
    world(config),
    weigh_once=weigh_once,
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
  mixture = load(
    config,
    config.data.train,
    weigh_once=config.data.label if config.data.weigh_once else '',
  )
  return sources.hold_out(mixture, share, seed=0) if share else (mixture, None)


def named_sets(config: ConfigDict, text: str) -> dict[str, list[Trajectory]]:
  """Evaluation sets by the names their sources bear; {} for ''."""
  if not text.strip():
    return {}
  mixture = load(config, text)
  return {name: mixture.of(i) for i, name in enumerate(mixture.names)}


def pools(config: ConfigDict) -> dict[str, list[Trajectory]]:
  """Candidate pools by name; the embedded world draws its own for a split."""
  out = {}
  for source in sources.parse(config.data.pools) if config.data.pools.strip() else []:
    if source.format == sources.WORLD:
      out[source.name] = arithmetic.pool(world(config), source.path)
    else:
      out[source.name] = sources.load(
        [source], options(config), dedupe='none', limit=config.data.limit
      ).trajectories
  return out
