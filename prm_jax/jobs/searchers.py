"""From a config to what searches: methods, sessions of policy and scorer, prices."""

from __future__ import annotations

import ast
import dataclasses
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from prm_jax import step_values
from prm_jax.errors import UserError
from prm_jax.evaluation.compute import Prices, parameters
from prm_jax.formats import text_format
from prm_jax.inference.implicit import ImplicitScorer
from prm_jax.inference.scorer import Scorer
from prm_jax.jobs.policies import Engines
from prm_jax.models import lm
from prm_jax.records import Trajectory
from prm_jax.search import registry
from prm_jax.search.protocol import Algorithm

BANK = 'best_of_n'
_WORD = re.compile(r'(\w+)=(\S+)')


@dataclasses.dataclass(frozen=True)
class Search:
  """One method of a run.

  Attributes:
    name: as the config writes it, white space made one blank.
    algorithm: key of `registry.ALGORITHMS`.
    options: what differs from its defaults.
    run: the algorithm.
    n: candidates of a bank, 0 of other algorithms.
  """

  name: str
  algorithm: str
  options: dict[str, Any]
  run: Algorithm
  n: int

  def about(self) -> dict[str, Any]:
    """Part of a chunk's key."""
    return {'algorithm': self.algorithm, 'options': self.options}


def methods(text: str, kind: str | None, tokens: bool = True) -> list[Search]:
  """The searches of `search.methods`.

  Args:
    text: 'ALGORITHM OPTION=VALUE ...; ...'.
    kind: of the scorer's values, None without a scorer.
    tokens: whether the engine says which tokens it drew.

  Raises:
    UserError: there is none, one twice, or one that `registry.build` refuses.
  """
  out: list[Search] = []
  for item in filter(None, (i.strip() for i in text.split(';'))):
    name, *words = item.split()
    options: dict[str, Any] = {}
    for word in words:
      found = _WORD.fullmatch(word)
      if found is None or found[1] in options:
        raise UserError(
          f'search.methods: {word!r} in {item!r} must be OPTION=VALUE, each once, '
          'without blanks.'
        )
      options[found[1]] = _value(found[2])
    run, made = registry.build(name, options, kind=kind, tokens=tokens)
    n = made.n if name == BANK else 0
    out.append(Search(' '.join((name, *words)), name, options, run, n))
  names = [m.name for m in out]
  if not out or len(set(names)) < len(names):
    raise UserError(
      f'search.methods={text!r}: give at least one method, each once, for example '
      "'best_of_n n=64; beam n=16 width=4'."
    )
  return out


def _value(text: str) -> Any:
  """A number, a tuple of numbers, a truth value, or else the text itself."""
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


class Parts:
  """Sessions of each worker, made when they are first asked for.

  Args:
    config: of the job.
    engines: of the policy.
    load: loads the scorer of a worker; None without one.
  """

  def __init__(
    self,
    config: ConfigDict,
    engines: Engines,
    load: Callable[[int], Scorer] | None,
  ):
    self._config, self._engines, self._load = config, engines, load
    self._held: dict[tuple[int, bool], tuple[Any, Any, Scorer | None]] = {}
    self._lock = threading.Lock()

  def get(self, worker: int, whole: bool) -> tuple[Any, Any, Scorer | None]:
    """(policy sessions, scorer sessions or None, the scorer itself or None).

    Args:
      worker: number of the device.
      whole: solutions are written in one go, so nothing of them needs to be kept.
    """
    caches = self._config.search.caches and not whole
    with self._lock:
      if (worker, caches) not in self._held:
        others = [held for (w, _), held in self._held.items() if w == worker]
        scorer = others[0][2] if others else self._load and self._load(worker)
        self._held[worker, caches] = (
          self._policy(worker, caches),
          self._scorer(scorer, caches) if scorer else None,
          scorer,
        )
      return self._held[worker, caches]

  def _policy(self, worker: int, caches: bool) -> Any:
    from prm_jax.inference.engine import JaxEngine
    from prm_jax.inference.sessions import Sessions
    from prm_jax.search.uncached import EngineSessions

    engine = self._engines.get(worker)
    if not isinstance(engine, JaxEngine):
      return EngineSessions(engine, self._engines.decode)
    if caches:
      return Sessions(engine)
    fmt, words = engine.text_format, engine.tokenizer

    def count(question: str, steps: Sequence[str], begun: str) -> int:
      return len(text_format.encode_prefixes(fmt, words, question, steps, begun)[0])

    held: Any = engine
    return EngineSessions(held, self._engines.decode, count)

  def _scorer(self, scorer: Scorer, caches: bool) -> Any:
    from prm_jax.inference.incremental import IncrementalScorer
    from prm_jax.search.uncached import RescoringSessions

    name = self._config.scorer_name
    if caches:
      return IncrementalScorer.of(scorer, name=name)
    return RescoringSessions(scorer, name)


def prices(config: ConfigDict, engines: Engines, scorer: Scorer | None) -> Prices:
  """What a token costs, where it is known."""
  policy = config.search.policy_parameters or None
  if config.engine.kind == 'jax':
    model: Any = engines.get(0)
    policy = parameters(model.model, lm.HEAD)
  if scorer is None:
    return Prices(policy, None)
  prm = parameters(scorer.spec.model, scorer.spec.head)
  if isinstance(scorer, ImplicitScorer) and scorer.reference_model is not None:
    prm += parameters(scorer.reference_model, scorer.spec.head)  # it reads all too
  return Prices(policy, prm)


def reduced(t: Trajectory, name: str, how: str) -> float:
  """One score of a candidate; NaN where a step has none, -inf without steps.

  Args:
    t: with `scores[name]`.
    how: key of `step_values.REDUCTIONS`.
  """
  values = [np.nan if v is None else v for v in t.scores[name].values]
  if not values:
    return step_values.EMPTY_SCORE
  return float(step_values.REDUCTIONS[how](np.array(values, np.float64), None))
