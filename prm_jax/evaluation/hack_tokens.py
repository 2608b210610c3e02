"""Adversarial tokens: text found by gradient that lifts the reward of wrong solutions.

After tier 2 of "Reward Under Attack" (arXiv 2603.06621). At k places the model reads
mixtures of token embeddings, sum over v of softmax(theta_i)_v * embedding_v; theta
climbs

  mean over wrong solutions of reward - lambda * sum over i of entropy(softmax(theta_i))

by Adam, lambda rising by a cosine, so that the mixtures end near single tokens. The
best single tokens met on the way are then exchanged one by one for others to which the
gradient points, where that helps (HotFlip, Ebrahimi et al. 2018). They are written as
text, and that text is scored by the scorer itself, on the solutions it was found with
and on those of other problems. Random tokens of the same number stand beside it: what
they gain is no merit of the search.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from prm_jax.errors import UserError
from prm_jax.formats.step_format import Encoded
from prm_jax.inference.implicit import TokenScorer
from prm_jax.inference.scorer import Scorer
from prm_jax.models import scorer as scoring_model
from prm_jax.records import Trajectory
from prm_jax.specs import ScorerSpec
from prm_jax.step_values import REDUCTIONS, VALUES

PLACES = ('question', 'step')
_EVERY = 20  # iterations between looks at single tokens
_DRAWS = 20  # of placeholder texts
_CANDIDATES = 16  # tokens tried in an exchange


@dataclasses.dataclass(frozen=True)
class Search:
  """How tokens are looked for.

  Attributes:
    tokens: k.
    iterations: of Adam.
    learning_rate: of Adam.
    entropy: lambda at the beginning and at the end.
    exchanges: rounds in which every token is exchanged if that helps.
    seed: of the start and of random tokens.
  """

  tokens: int = 10
  iterations: int = 300
  learning_rate: float = 0.1
  entropy: tuple[float, float] = (1e-4, 0.1)
  exchanges: int = 1
  seed: int = 0


class Found(NamedTuple):
  """What a search found.

  Attributes:
    text: the tokens as text.
    curve: (iteration, mean reward read from mixtures, from their single tokens) on
      the solutions it was found with, before exchanges.
    used: how many solutions it was found with.
  """

  text: str
  curve: list[tuple[int, float, float]]
  used: int


def supports(scorer: Scorer) -> bool:
  """Whether the scorer is one model read at its steps; a log-ratio of two is not."""
  return not isinstance(scorer, TokenScorer) and scorer.spec.kind != 'log_ratio'


def attack(t: Trajectory, text: str, place: str) -> Trajectory:
  """The solution, which has steps, with `text` after its question or at the end of its
  last step.

  Raises:
    UserError: no such place.
  """
  if place not in PLACES:
    raise UserError(f'hack.places: {place!r} is none of {", ".join(PLACES)}.')
  if place == 'question':
    changed: dict[str, Any] = {'question': t.question + text}
  else:
    changed = {'steps': (*t.steps[:-1], t.steps[-1] + text)}
  return Trajectory(
    id=f'{t.id}~{place}',
    problem_id=t.problem_id,
    **{'question': t.question, 'steps': t.steps, **changed},
    source=t.source,
    separator=t.separator,
    generator=t.generator,
  )


def allowed_tokens(scorer: Scorer) -> np.ndarray:
  """Ids of the tokens that text can hold: printable, no marker, the same once written
  and read again, also where they stand twice.

  Raises:
    UserError: there are fewer than two.
  """
  words, fmt = scorer.tokenizer, scorer.spec.step_format
  out = []
  for i in range(min(words.n_text_ids, scorer.spec.model.vocab_size)):
    text = words.decode([i])
    held = text.isprintable() and text and '\ufffd' not in text
    if not held or (fmt.marker and fmt.marker in text):
      continue
    if words.encode(text) == [i] and words.encode(text * 2) == [i, i]:
      out.append(i)
  if len(out) < 2:
    raise UserError(
      'the tokenizer has no two tokens that text can hold, so none can be looked for; '
      'set hack.tokens=0.'
    )
  return np.array(out, np.int32)


def random_texts(
  scorer: Scorer, allowed: np.ndarray, k: int, n: int, seed: int
) -> list[str]:
  """n texts of k random tokens that are k tokens when read again, as far as a few
  draws give such."""
  rng = np.random.default_rng([seed, 0x746F6B])
  out = []
  for _ in range(n):
    for _ in range(_DRAWS):
      ids = allowed[rng.integers(len(allowed), size=k)].tolist()
      text = scorer.tokenizer.decode(ids)
      if scorer.tokenizer.encode(text) == ids:
        break
    out.append(text)
  return out


class Batch(NamedTuple):
  """Rows with k open places each: tokens [B, T], start [B] of the places, step
  positions [B, P] and mask [B, P]."""

  tokens: jax.Array
  start: jax.Array
  positions: jax.Array
  mask: jax.Array


def batch_of(
  scorer: Scorer, rows: Sequence[Trajectory], texts: tuple[str, str], place: str
) -> Batch | None:
  """Rows ready for the search; None if there is none.

  The open places of a row are those at which it differs between two texts of k tokens
  that agree in no token. Rows for which that is not k neighbouring places (tokens
  merge with what stands beside them), or that cannot be encoded, are left out.
  """
  k = len(scorer.tokenizer.encode(texts[0]))
  one, two = (scorer.encode([attack(t, x, place) for t in rows]) for x in texts)
  kept: list[tuple[Encoded, int]] = []
  for a, b in zip(one, two):
    if not isinstance(a, Encoded) or not isinstance(b, Encoded):
      continue
    if len(a.tokens) != len(b.tokens):
      continue
    at = np.flatnonzero(a.tokens != b.tokens)
    if len(at) == k and at[-1] - at[0] == k - 1:
      kept.append((a, int(at[0])))
  if not kept:
    return None
  t = max(len(a.tokens) for a, _ in kept)
  p = max(a.n_steps for a, _ in kept)
  tokens = np.zeros((len(kept), t), np.int32)
  positions = np.zeros((len(kept), p), np.int32)
  mask = np.zeros((len(kept), p), bool)
  for i, (a, _) in enumerate(kept):
    tokens[i, : len(a.tokens)] = a.tokens
    positions[i, : a.n_steps] = a.step_positions
    mask[i, : a.n_steps] = True
  start = np.array([s for _, s in kept], np.int32)
  return Batch(*map(jnp.asarray, (tokens, start, positions, mask)))


def search(
  scorer: Scorer,
  rows: Sequence[Trajectory],
  reduction: str,
  place: str,
  options: Search,
  allowed: np.ndarray | None = None,
) -> Found | None:
  """Tokens that lift the reward of `rows`; None where no row can hold them.

  Args:
    scorer: see `supports`.
    rows: wrong solutions, each with a step at least.
    reduction: of step scores to the reward that is climbed.
    place: 'question' (after it) or 'step' (at the end of the last one).
    options: of the search.
    allowed: ids of the tokens to choose from; None takes `allowed_tokens`.
  """
  ids = allowed_tokens(scorer) if allowed is None else allowed
  held = _held(scorer, rows, ids, options, place)
  if held is None:
    return None
  read = lambda f, p: f(
    scorer.spec, reduction, scorer.params, p, jnp.asarray(ids), held
  )
  one_hot = lambda chosen: jax.nn.one_hot(chosen, len(ids))
  optimizer = optax.adam(options.learning_rate)

  @jax.jit
  def climb(theta, state, slopes, weight):
    def entropy(theta):
      return -(jax.nn.softmax(theta) * jax.nn.log_softmax(theta)).sum()

    _, back = jax.vjp(jax.nn.softmax, theta)
    grads = weight * jax.grad(entropy)(theta) - back(slopes)[0]
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(theta, updates), state

  start = np.random.default_rng(options.seed).normal(
    0, 0.01, (options.tokens, len(ids))
  )
  theta = jnp.asarray(start, jnp.float32)
  state = optimizer.init(theta)
  best, kept, curve = -np.inf, np.zeros(options.tokens, np.int64), []
  for i in range(options.iterations + 1):
    share = i / max(options.iterations, 1)
    low, high = options.entropy
    weight = low + (high - low) * (1 - np.cos(np.pi * share)) / 2
    soft, slopes = read(slopes_of, jax.nn.softmax(theta))
    if i % _EVERY == 0 or i == options.iterations:
      chosen = np.asarray(theta.argmax(-1))
      hard = float(read(mixed_reward, one_hot(chosen)).mean())
      curve.append((i, float(soft), hard))
      if hard > best:
        best, kept = hard, chosen
    theta, state = climb(theta, state, slopes, weight)
  for _ in range(options.exchanges):
    for place_of in range(options.tokens):
      slopes = np.asarray(read(slopes_of, one_hot(kept))[1])
      for other in np.argsort(-slopes[place_of])[:_CANDIDATES]:
        tried = kept.copy()
        tried[place_of] = other
        hard = float(read(mixed_reward, one_hot(tried)).mean())
        if hard > best:
          best, kept = hard, tried
  text = scorer.tokenizer.decode(ids[kept].tolist())
  return Found(text, curve, len(held.start))


def _held(
  scorer: Scorer,
  rows: Sequence[Trajectory],
  allowed: np.ndarray,
  options: Search,
  place: str,
) -> Batch | None:
  """The rows that can hold the tokens, by the best of a few pairs of placeholders."""
  rng = np.random.default_rng([options.seed, 0x706C])
  best = None
  for _ in range(_DRAWS):
    a, b = (int(i) for i in rng.choice(allowed, 2, replace=False))
    texts = tuple(scorer.tokenizer.decode([i] * options.tokens) for i in (a, b))
    if any(len(scorer.tokenizer.encode(x)) != options.tokens for x in texts):
      continue
    found = batch_of(scorer, rows, (texts[0], texts[1]), place)
    if found is not None and (best is None or len(found.start) > len(best.start)):
      best = found
    if best is not None and len(best.start) == len(rows):
      break
  return best


@functools.partial(jax.jit, static_argnums=(0, 1))
def mixed_reward(
  spec: ScorerSpec,
  reduction: str,
  params: Any,
  p: jax.Array,
  choices: jax.Array,
  data: Batch,
) -> jax.Array:
  """Rewards [B] where the model reads mixtures of tokens at the open places.

  Args:
    spec, params: the scorer.
    reduction: of step scores.
    p: float32 [k, A], weights of the allowed tokens at each place.
    choices: int32 [A], their ids.
    data: the rows.

  Returns:
    float32 [B], on the scale of the scores before any calibration.
  """
  table = params['decoder']['embed_VD']
  mixture = p.astype(table.dtype) @ table[choices]
  place = jnp.arange(data.tokens.shape[1])[None] - data.start[:, None]
  inside = (place >= 0) & (place < len(p))
  rows = jnp.where(
    inside[..., None], mixture[jnp.clip(place, 0, len(p) - 1)], table[data.tokens]
  )
  outputs = scoring_model.apply(spec.model, spec.head, params, rows, data.positions)
  values = VALUES[spec.step_value](outputs.astype(jnp.float32))
  return REDUCTIONS[reduction](values, data.mask)


@functools.partial(jax.jit, static_argnums=(0, 1))
def slopes_of(
  spec: ScorerSpec,
  reduction: str,
  params: Any,
  p: jax.Array,
  choices: jax.Array,
  data: Batch,
) -> tuple[jax.Array, jax.Array]:
  """Mean of `mixed_reward` and its derivative by p, float32 [k, A]."""

  def mean(p: jax.Array) -> jax.Array:
    return mixed_reward(spec, reduction, params, p, choices, data).mean()

  return jax.value_and_grad(mean)(p)
