"""Implicit PRMs: the log-ratio of a policy and its reference, read as step values.

  q_t = beta * sum over the tokens of steps 1..t of log(pi(y) / pi_ref(y))

and r_t = q_t - q_{t-1} (Yuan et al. 2024, "Free Process Rewards without Process
Labels", arXiv 2412.01981). Sums run over the tokens after the question, up to the
last token of step t, in float64. The reference's log-probabilities are kept in files
where a cache is given, so that another policy is scored without the reference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from prm_jax import tensors
from prm_jax.errors import UserError
from prm_jax.formats.step_format import Encoded
from prm_jax.formats.tokenizers import Tokenizer
from prm_jax.inference.scorer import Scorer
from prm_jax.models import decoder, heads
from prm_jax.specs import ModelSpec, ScorerSpec
from prm_jax.step_values import VALUES

BLOCK = 64  # positions whose [B, BLOCK, V] logits are held at once
PROBES = 32  # rows on which two tokenizers are compared
ROWS = 1024  # rows of a cache file at most
STEP_VALUES = ('log_ratio', 'log_ratio_step')
Reference = tuple[ScorerSpec, Any, Tokenizer]


class TokenScorer(Scorer):
  """Log-probabilities of the tokens after the question; arguments as `Scorer`.

  The logits of all positions of a batch, float32 [B, T, V], are never held: the head
  is applied to blocks of `BLOCK` positions, each reduced to one number a position.
  """

  def log_probs(self, rows: Sequence[Encoded]) -> list[np.ndarray]:
    """float32 [R] of each row: log P(token | all before it) of its last R tokens,
    those after the question (without a question, after the first token)."""
    return self.values([_every_token(row) for row in rows])

  def _step_values(self, params: Any, tokens: jax.Array, positions: jax.Array):
    hidden = decoder.forward(self.spec.model, params['decoder'], tokens, positions)
    return self._of_next(params, tokens, positions, hidden)

  def _shared_step_values(self, params: Any, tokens, positions, *questions: Any):
    hidden = self._read_on(params, tokens, positions, *questions)
    return self._of_next(params, tokens, positions, hidden)

  def _of_next(
    self, params: Any, tokens: jax.Array, positions: jax.Array, hidden: jax.Array
  ) -> jax.Array:
    """float32 [B, R]: log-probability of the token after each position [B, R], from
    the hidden states [B, R, D] there."""
    spec = self.spec
    after = jnp.minimum(positions + 1, tokens.shape[1] - 1)
    targets = jnp.take_along_axis(tokens, after, axis=1)

    def of_block(block: tuple[jax.Array, jax.Array]) -> jax.Array:
      states, wanted = block
      logits = heads.read(spec.model, spec.head, params, states)
      picked = jnp.take_along_axis(logits, wanted[..., None], axis=-1)[..., 0]
      return picked - jax.nn.logsumexp(logits, axis=-1)

    n = positions.shape[1]
    if n <= BLOCK:
      return of_block((hidden, targets))
    fill = -n % BLOCK
    blocks = jax.tree.map(lambda x: _blocks(x, fill), (hidden, targets))
    found = jax.lax.map(of_block, blocks)  # [n / BLOCK, B, BLOCK]
    return jnp.moveaxis(found, 0, 1).reshape(len(tokens), -1)[:, :n]


def _blocks(x: jax.Array, fill: int) -> jax.Array:
  """[B, R, ...] -> [R / BLOCK, B, BLOCK, ...], R filled up."""
  x = jnp.pad(x, [(0, 0), (0, fill)] + [(0, 0)] * (x.ndim - 2))
  return jnp.moveaxis(x.reshape(x.shape[0], -1, BLOCK, *x.shape[2:]), 1, 0)


def _every_token(row: Encoded) -> Encoded:
  """The row with every position read that predicts a token after the question."""
  first = max(row.question_length, 1) - 1
  positions = np.arange(first, len(row.tokens) - 1, dtype=np.int32)
  # The question's last token predicts, so it counts as the first of what is read.
  return Encoded(row.tokens, positions, len(positions), first)


class ImplicitScorer(Scorer):
  """A policy and its reference as a scorer; scores and encodes like `Scorer`.

  Args:
    spec: of the policy, with `step_value` 'log_ratio' or 'log_ratio_step', head 'lm'
      and the coefficient.
    params: of the policy.
    tokenizer: of the policy.
    reference: loads (spec, params, tokenizer) of the reference, called when it is
      needed first, never where the cache has everything; None takes the policy's
      log-probabilities alone (the reference-free variant).
    reference_model: of that reference, for estimates of what scoring costs.
    cache: folder of the reference's log-probabilities; '' keeps none. Files are
      written once and named by their content's keys, so a run that was stopped goes
      on where it was.
    reference_hash: what the reference is in the keys of the cache.
    batch_tokens: as for `Scorer`.

  Raises:
    UserError: the spec is not that of an implicit scorer.
  """

  def __init__(
    self,
    spec: ScorerSpec,
    params: Any,
    tokenizer: Tokenizer,
    *,
    reference: Callable[[], Reference] | None = None,
    reference_model: ModelSpec | None = None,
    cache: str = '',
    reference_hash: str = '',
    **options: Any,
  ):
    if spec.head.kind != 'lm' or spec.step_value not in STEP_VALUES:
      raise UserError(
        f'an implicit scorer reads a language model by {" or ".join(STEP_VALUES)}, '
        f'not head {spec.head.kind!r} by {spec.step_value!r}; choose its adapter.'
      )
    super().__init__(spec, params, tokenizer, **options)
    self._options = options
    self._policy = TokenScorer(spec, self._params, tokenizer, **options)
    self._load, self.reference_model = reference, reference_model
    self._reference: TokenScorer | None = None
    self._cache = _Cache(cache, reference_hash) if cache and reference_hash else None

  def with_params(self, params: Any) -> ImplicitScorer:
    """The same scorer with another policy's parameters."""
    other = cast(ImplicitScorer, super().with_params(params))
    other._policy = cast(TokenScorer, self._policy.with_params(other._params))
    return other

  def encode(self, trajectories, *, allow_empty=False):
    """As `Scorer.encode`, with the token `spec.end` after the last step.

    Raises:
      UserError: the tokenizer has no such token.
    """
    rows = super().encode(trajectories, allow_empty=allow_empty)
    if not self.spec.end:
      return rows
    end = self.tokenizer.token_id(self.spec.end)
    if end is None:
      raise UserError(
        f'the end of a solution, {self.spec.end!r}, is no token of this tokenizer.'
      )
    return [
      _ended(row, end) if isinstance(row, Encoded) and row.n_steps == t.n_steps else row
      for row, t in zip(rows, trajectories)
    ]

  def values(self, rows: Sequence[Encoded]) -> list[np.ndarray]:
    """Step values of encoded rows, float32 [n_steps] each, in order."""
    out = []
    ratios = [r.astype(np.float64) for r in self._policy.log_probs(rows)]
    if self._load is not None:
      ratios = [r - x for r, x in zip(ratios, self._reference_log_probs(rows))]
    for row, ratio in zip(rows, ratios):
      total = np.concatenate([[0.0], np.cumsum(ratio)])
      # The log-probabilities are those of the last tokens of the row.
      at = row.step_positions - (len(row.tokens) - len(ratio)) + 1
      q = self.spec.coefficient * total[np.maximum(at, 0)]
      out.append(VALUES[self.spec.step_value](q).astype(np.float32))
    return out

  def stream(self, rows: Sequence[Encoded]) -> Iterator[tuple[int, np.ndarray]]:
    """(index, step values) of each row, all at the end."""
    yield from enumerate(self.values(rows))

  def _reference_log_probs(self, rows: Sequence[Encoded]) -> list[np.ndarray]:
    if self._cache is None:
      return self._loaded(rows).log_probs(rows)
    keys = [self._cache.key(row) for row in rows]
    missing = {k: row for k, row in zip(keys, rows) if k not in self._cache}
    names = list(missing)
    for start in range(0, len(names), ROWS):
      part = names[start : start + ROWS]
      held = [missing[k] for k in part]
      self._cache.add(part, self._loaded(held).log_probs(held))
    return [self._cache[k] for k in keys]

  def _loaded(self, rows: Sequence[Encoded]) -> TokenScorer:
    """The reference; where it is loaded now, ids of `rows` must mean the same to it.

    Raises:
      UserError: its vocabulary is another one.
    """
    if self._reference is None:
      assert self._load is not None
      spec, params, words = self._load()
      if self.tokenizer.vocab_size > spec.model.vocab_size:
        raise UserError(
          f'the reference has a vocabulary of {spec.model.vocab_size} and the '
          f"policy's tokenizer {self.tokenizer.vocab_size} ids; give the model that "
          'the policy was trained from.'
        )
      ids = [row.tokens.tolist() for row in rows[:PROBES]]
      least = max((max(row) for row in ids), default=0)
      if least >= words.vocab_size or any(
        words.decode(row) != self.tokenizer.decode(row) for row in ids
      ):
        raise UserError(
          "the policy's ids are other text to the reference's tokenizer; give the "
          'model that the policy was trained from.'
        )
      self._reference = TokenScorer(spec, params, words, **self._options)
    return self._reference


def _ended(row: Encoded, end: int) -> Encoded:
  """The row with `end` after it, read as part of its last step."""
  positions = row.step_positions.copy()
  positions[-1] = len(row.tokens)
  tokens = np.append(row.tokens, np.int32(end))
  return Encoded(tokens, positions, row.n_steps, row.question_length)


class _Cache:
  """Log-probabilities of rows in files FOLDER/HASH/NAME.safetensors.

  A file holds `keys` [R, 32] uint8, `offsets` [R + 1] int64 and `values` float32; its
  name is the hash of its keys.
  """

  def __init__(self, folder: str, model: str):
    self._folder = epath.Path(folder) / f'reference-{model[:16]}'
    self._place: dict[bytes, tuple[epath.Path, int, int]] = {}
    self._open: tuple[epath.Path, np.ndarray] | None = None
    if self._folder.exists():
      for file in sorted(self._folder.glob('*.safetensors')):
        held = tensors.read(file)
        self._index(file, [bytes(k) for k in held['keys']], held['offsets'])

  @staticmethod
  def key(row: Encoded) -> bytes:
    """Of the ids and of where the response begins."""
    content = row.tokens.astype('<i4').tobytes() + b'%d' % row.question_length
    return hashlib.sha256(content).digest()

  def __contains__(self, key: bytes) -> bool:
    return key in self._place

  def __getitem__(self, key: bytes) -> np.ndarray:
    file, start, stop = self._place[key]
    if self._open is None or self._open[0] != file:
      self._open = (file, tensors.read(file)['values'])
    return self._open[1][start:stop]

  def add(self, keys: Sequence[bytes], values: Sequence[np.ndarray]) -> None:
    name = hashlib.sha256(b''.join(keys)).hexdigest()[:32]
    file = self._folder / f'{name}.safetensors'
    offsets = np.concatenate([[0], np.cumsum([len(v) for v in values])])
    held = {
      'keys': np.frombuffer(b''.join(keys), np.uint8).reshape(len(keys), -1),
      'offsets': offsets.astype(np.int64),
      'values': np.concatenate(values).astype(np.float32),
    }
    tensors.write(file, held)
    self._index(file, keys, offsets)

  def _index(
    self, file: epath.Path, keys: Sequence[bytes], offsets: np.ndarray
  ) -> None:
    for key, start, stop in zip(keys, offsets[:-1], offsets[1:]):
      self._place[key] = (file, int(start), int(stop))
