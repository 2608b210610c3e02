"""What the train job can train: a scorer of steps, or a policy that writes them.

The two differ in the data they read, in what they are validated by and in what is
left behind; the run itself (`train.Run`) is the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from prm_jax import exports, files, objectives
from prm_jax.data import token_cache
from prm_jax.data.token_cache import TokenCache
from prm_jax.errors import UserError
from prm_jax.evaluation import intervals
from prm_jax.evaluation.result import Collector
from prm_jax.formats.tokenizers import Tokenizer
from prm_jax.inference.scorer import Scorer
from prm_jax.jobs import assemble, measure, training_data
from prm_jax.jobs.configuration import Command
from prm_jax.jobs.training_data import TrainingData
from prm_jax.models import lm
from prm_jax.objectives import Objective
from prm_jax.records import Trajectory
from prm_jax.specs import HeadSpec, ModelSpec
from prm_jax.training import step
from prm_jax.training.held_out import HeldOut

Curve = Sequence[Mapping[str, Any]]


class Kind(Protocol):
  """What `train.Run` asks of the thing it trains.

  Attributes:
    folder: where in the workdir the trained model goes.
    learns: what a batch holds (`Batches`): 'steps' or 'tokens'.
    model, head: the network.
    words: its tokenizer.
    has_validation: whether there are rows to validate on.
  """

  folder: str
  learns: str
  model: ModelSpec
  head: HeadSpec
  words: Tokenizer
  has_validation: bool

  def load(self, cache_dir: epath.Path) -> TrainingData:
    """Training rows, encoded."""

  def apply(self, **options: Any) -> step.ApplyFn:
    """The forward pass of the train step; `options` are those of the model."""

  def validation(self, params: Any) -> tuple[dict[str, float], float | None]:
    """Metrics while training, and the one that chooses the best, higher is better."""

  def export(self, folder: epath.Path, params: Any) -> str:
    """Writes the trained model; returns its hash."""

  def conclude(
    self,
    command: Command,
    work: files.Workdir,
    params: Any,
    data: TrainingData,
    curve: Curve,
    about: dict[str, Any],
    started: float,
  ) -> None:
    """Measures the trained model, writes results and report."""


def choose(config: ConfigDict) -> Kind:
  """What the config's objective trains.

  Raises:
    UserError: config or evaluation data cannot be used.
  """
  words = assemble.tokenizer(config)
  chosen, hyperparameters = assemble.objective(config)
  objectives.check_values(chosen, hyperparameters, config.objective.unit or None)
  return (PolicyKind if chosen.trains_policy else ScorerKind)(config, words, chosen)


class ScorerKind:
  """A scorer: learns labels of steps, is judged by first errors and best-of-N."""

  folder = 'scorer'
  learns = 'steps'

  def __init__(self, config: ConfigDict, words: Tokenizer, chosen: Objective):
    self.config, self.words, self.chosen = config, words, chosen
    self.spec = assemble.spec(config, words)
    self.model, self.head = self.spec.model, self.spec.head
    self.sets = measure.load_sets(config)
    measure.check_sets(config, self.sets, self.spec.kind)
    self.has_validation = bool(self.sets.validation)
    self._held: Scorer | None = None

  def load(self, cache_dir: epath.Path) -> TrainingData:
    data = training_data.load(
      self.config, self.chosen, self.spec.step_format, self.words, cache_dir,
      self.sets.judged(), self.sets.train,
    )  # fmt: skip
    self.spec = dataclasses.replace(self.spec, label=data.cache.label)
    return data

  def apply(self, **options: Any) -> step.ApplyFn:
    return step.apply_scoring_model(self.model, self.head, **options)

  def validation(self, params: Any) -> tuple[dict[str, float], float | None]:
    values = measure.validation(self.config, self._scorer(params), self.sets)
    return values, values.get('validation/f1')

  def export(self, folder: epath.Path, params: Any) -> str:
    return exports.save_scorer(folder, self.spec, params, self.words)

  def conclude(
    self,
    command: Command,
    work: files.Workdir,
    params: Any,
    data: TrainingData,
    curve: Curve,
    about: dict[str, Any],
    started: float,
  ) -> None:
    measure.conclude(
      command, work, 'train', self._scorer(params), self.sets,
      examples=data.examples,
      counters=data.counted(),
      curve=curve,
      about=about,
      started=started,
    )  # fmt: skip

  def _scorer(self, params: Any) -> Scorer:
    """A scorer of these parameters; all of a run share their compiled programs."""
    if self._held is None:
      self._held = Scorer(self.spec, params, self.words)
    return self._held.with_params(params)


class PolicyKind:
  """A policy: learns the text of solutions, is judged by how well it predicts others.

  How often it is right is for rollouts to say.
  """

  folder = 'policy'
  learns = 'tokens'
  head = lm.HEAD

  def __init__(self, config: ConfigDict, words: Tokenizer, chosen: Objective):
    if config.data.pools.strip():
      raise UserError(
        f'data.pools={config.data.pools!r}: a policy does not choose among candidates; '
        "set data.pools=''."
      )
    self.config, self.words, self.chosen = config, words, chosen
    self.spec = assemble.policy_spec(config, words)
    self.model = self.spec.model
    self.sets = measure.load_sets(config)
    self.has_validation = bool(self.sets.validation)
    self._held = {
      name: HeldOut(self.model, self._encode(rows))
      for name, rows in self.sets.judged().items()
    }

  def _encode(self, rows: Sequence[Trajectory]) -> TokenCache:
    """Rows of an evaluation set, chosen as the training rows are."""
    want = training_data.wanted(self.config, self.chosen)
    checker = want.checker if training_data.has_verdicts(rows, want.checker) else ''
    return token_cache.build(
      rows, self.spec.text_format, self.words, want.label, checker,
      require=want.require,
    )  # fmt: skip

  def load(self, cache_dir: epath.Path) -> TrainingData:
    return training_data.load(
      self.config, self.chosen, self.spec.text_format, self.words, cache_dir,
      self.sets.judged(), self.sets.train,
    )  # fmt: skip

  def apply(self, **options: Any) -> step.ApplyFn:
    return step.apply_policy(self.model, **options)

  def validation(self, params: Any) -> tuple[dict[str, float], float | None]:
    found = self._held[measure.VALIDATION].measure(params)
    loss = found.loss.sum() / found.tokens.sum()
    values = {
      'validation/loss': float(loss),
      'validation/token_accuracy': float(found.hits.sum() / found.tokens.sum()),
    }
    return values, -values['validation/loss']

  def export(self, folder: epath.Path, params: Any) -> str:
    return exports.save_policy(folder, self.spec, params, self.words)

  def conclude(
    self,
    command: Command,
    work: files.Workdir,
    params: Any,
    data: TrainingData,
    curve: Curve,
    about: dict[str, Any],
    started: float,
  ) -> None:
    section = self.config.evaluate
    out = Collector()
    for name, rows in self.sets.judged().items():
      held = self._held[name]
      found = held.measure(params)
      ids, problem = np.unique(
        [rows[r].problem_id for r in held.cache.row_index], return_inverse=True
      )
      sums = [np.bincount(problem, x) for x in (found.loss, found.hits, found.tokens)]
      sample = intervals.resamples(ids.tolist(), section.resamples, section.seed)
      for what, total in (('loss', sums[0]), ('token_accuracy', sums[1])):
        estimate = intervals.ratio(total, sums[2], sample)
        out.put(f'{name}/next_token/{what}', estimate, 'text')
      out.count(name, held.cache.counters)
    measure.write(
      command, work, 'train', self.spec, out.result(), {},
      rows=measure.digests(self.config, self.sets),
      counters={**data.counted(), **self.sets.counters}, curve=curve, about=about,
      started=started,
    )  # fmt: skip
