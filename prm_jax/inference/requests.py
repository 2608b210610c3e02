"""What an engine is asked and what it answers: one protocol, two engines.

A request names a prefix by the solution it is cut from, so that an engine can read
a solution once and continue every one of its prefixes. Text goes in and text comes
out; how it becomes tokens is the engine's business.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

from prm_jax.errors import UserError

# Why a completion ended. 'end': the end token; 'stop': a stop token or string;
# 'length': max_tokens, or the context is full.
FINISH_REASONS = ('end', 'stop', 'length')


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How tokens are drawn.

  Filters apply in the order temperature, top_k, top_p, min_p, each to what the one
  before left.

  Attributes:
    temperature: logits are divided by it; 0 takes the most likely token.
    top_k: keep the k most likely tokens; 0 keeps all.
    top_p: keep the smallest set of most likely tokens with this probability.
    min_p: keep tokens with at least this share of the most likely one's probability.
    max_tokens: new tokens of a completion at most; at least 1.
    stop: strings that end a completion where they first appear, across token
      boundaries too; a special token is named by its text.
    keep_stop: leave the stop string at the end of the text.
    seed: of the random keys.
    entropy: also return the entropy of the whole vocabulary at each token, in nats,
      at temperature 1 and before any filter.
    certainty: also return KL(uniform || p) over the whole vocabulary at each token,
      in nats, as the entropy is (self-certainty, arXiv 2502.18581).

  Raises:
    UserError: a value that means nothing.
  """

  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  min_p: float = 0.0
  max_tokens: int = 256
  stop: tuple[str, ...] = ()
  keep_stop: bool = False
  seed: int = 0
  entropy: bool = False
  certainty: bool = False

  def __post_init__(self) -> None:
    object.__setattr__(self, 'stop', tuple(self.stop))
    for name, good, want in (
      ('temperature', self.temperature >= 0, '0 or above'),
      ('top_k', self.top_k >= 0, '0 (all) or above'),
      ('top_p', 0 < self.top_p <= 1, 'above 0 and at most 1'),
      ('min_p', 0 <= self.min_p <= 1, 'from 0 to 1'),
      ('max_tokens', self.max_tokens >= 1, 'at least 1'),
      ('seed', self.seed >= 0, '0 or above'),
      ('stop', all(self.stop), 'texts that are not empty'),
    ):
      if not good:
        raise UserError(f'sampling.{name}={getattr(self, name)!r} must be {want}.')


@dataclasses.dataclass(frozen=True)
class Request:
  """n completions of one prefix of one solution.

  Attributes:
    id: names problem, solution and prefix length; with the seed and the sample's
      index it makes the random key, so no two prefixes share a stream.
    question: the problem's text.
    steps: of the whole solution; () for a solution from scratch.
    n_steps: how many of them are the prefix to continue.
    n: completions wanted, at least 1.
    first_sample: index of the first of them; the next ask of the same prefix goes
      on where this one ends.
    begun: text of one more step that is begun and goes on; needs all steps as the
      prefix.
  """

  id: str
  question: str
  steps: tuple[str, ...] = ()
  n_steps: int = 0
  n: int = 1
  first_sample: int = 0
  begun: str = ''

  def __post_init__(self) -> None:
    if self.n < 1:
      raise UserError(f'request {self.id}: n={self.n} completions; ask for 1 or more.')
    if self.begun and self.n_steps != len(self.steps):
      raise UserError(
        f'request {self.id}: a step can be begun only after all {len(self.steps)} '
        f'steps, not after {self.n_steps}.'
      )
    if not 0 <= self.n_steps <= len(self.steps):
      raise UserError(
        f'request {self.id}: a prefix of {self.n_steps} steps of a solution with '
        f'{len(self.steps)}.'
      )


@dataclasses.dataclass(frozen=True)
class Completion:
  """One sampled continuation.

  Attributes:
    text: what was generated, the end token left out.
    tokens: ids of the text and of the end or stop token; () where the engine does
      not say.
    logprobs: natural log-probability of each token in `tokens` at temperature 1 and
      before any filter; () where the engine does not say.
    entropies: one a token where asked for, else ().
    finish_reason: one of `FINISH_REASONS`.
    sample_index: number among the samples of its prefix.
    n_tokens: tokens generated.
    certainties: one a token where asked for, else ().
  """

  text: str
  tokens: tuple[int, ...]
  logprobs: tuple[float, ...]
  entropies: tuple[float, ...]
  finish_reason: str
  sample_index: int
  n_tokens: int
  certainties: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Refusal:
  """A request that cannot be served; `reason` is 'too_long' or 'stop_in_prompt'."""

  reason: str
  detail: str = ''


class Engine(Protocol):
  """Turns requests into completions.

  Attributes:
    name: recorded as generator and completer.
    separator: text that joins steps, as the policy writes them.
    deterministic: whether the same request gives the same bytes again.
    counters: running totals: prefill_tokens, decoded_tokens, completions,
      compilations, and what an engine counts itself.
  """

  name: str
  separator: str
  deterministic: bool
  counters: Mapping[str, int]

  def complete(
    self, requests: Sequence[Request], sampling: Sampling
  ) -> list[list[Completion] | Refusal]:
    """For each request, in order, its n completions by sample index, or a refusal.

    Raises:
      UserError: the engine as a whole cannot go on (a server that is down).
    """


def request_id(problem_id: str, solution_id: str, n_steps: int) -> str:
  """The id of the request that continues this prefix."""
  return f'{problem_id}/{solution_id}/{n_steps}'
