"""What describes a scorer or a policy, as data: model, head, format, reading.

A `ScorerSpec` is stored in every checkpoint and is all that train, score,
search, serve and export need to treat a model alike. Everything here is a frozen
dataclass of plain values, so a spec is hashable, comparable and round-trips
through JSON (`to_dict` / `from_dict`).
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from prm_jax import field_types
from prm_jax.errors import UserError

T = TypeVar('T')

DTYPES = ('float32', 'bfloat16', 'float16')
_ROPE_SCALING_SIZES = {'linear': 2, 'llama3': 5, 'yarn': 6}


def _one_of(where: str, value: str, known: tuple[str, ...]) -> None:
  if value not in known:
    raise UserError(f'{where} is {value!r}; use one of {", ".join(known)}.')


def _check_rope(theta: float, local: float, scaling: tuple) -> None:
  if not theta > 0 or not local >= 0:
    raise UserError(
      f'model.rope_theta is {theta:g} and model.rope_theta_local is {local:g}; give '
      'positive ones (a local one of 0 is none).'
    )
  if not scaling:
    return
  kind, *numbers = scaling
  _one_of('model.rope_scaling[0]', kind, tuple(_ROPE_SCALING_SIZES))
  expected = _ROPE_SCALING_SIZES[kind]
  if len(scaling) != expected:
    raise UserError(
      f'model.rope_scaling {kind!r} takes {expected - 1} numbers, got {len(numbers)}.'
    )
  if not all(isinstance(x, (int, float)) for x in numbers):
    raise UserError(f'model.rope_scaling is {scaling}; give numbers after its name.')
  # YaRN's last one may be 0, for the usual factor.
  if not all(x > 0 for x in numbers[:4]) or not all(x >= 0 for x in numbers[4:]):
    raise UserError(f'model.rope_scaling is {scaling}; give positive numbers.')
  if kind == 'llama3' and numbers[1] >= numbers[2]:
    raise UserError(
      f'model.rope_scaling is {scaling}; give a high_freq_factor (the fourth) above '
      'the low_freq_factor (the third).'
    )
  if kind == 'yarn' and theta == 1:
    # All pairs of a head then turn alike: none is long or short.
    raise UserError(
      "model.rope_theta is 1, with which model.rope_scaling 'yarn' is not defined; "
      'give another rope_theta, or no scaling.'
    )


@dataclasses.dataclass(frozen=True)
class ModelSpec:
  """A decoder-only transformer. Letters: L layers, D model, N query heads, K
  key/value heads, H head dim, F feed-forward, V vocabulary.

  Attributes:
    vocab_size: V, rows of the embedding table.
    n_layers: L.
    d_model: D.
    n_heads: N.
    n_kv_heads: K; N must be a multiple of it.
    head_dim: H; independent of D / N.
    d_ff: F, width of the gated feed-forward.
    activation: 'silu' or 'gelu_tanh'.
    norm_eps: epsilon of RMSNorm.
    norm_offset: the norm multiplies by `norm_offset + weight` (Gemma: 1.0).
    post_norms: also normalise the output of attention and feed-forward (Gemma 2).
    embed_scale: embeddings are multiplied by this (Gemma: sqrt(D)); 0 means 1.
    tied_embeddings: the LM head is the embedding table.
    attention_bias: bias on the q, k, v projections (Qwen2).
    qk_norm: RMSNorm on every q and k head before the rotation (Qwen3).
    query_scale: scores are multiplied by this; 0 means H ** -0.5.
    attn_softcap: tanh soft cap of attention scores; 0 means none (Gemma 2: 50).
    final_softcap: tanh soft cap of LM logits; 0 means none (Gemma 2: 30).
    rope_theta: base of the rotation of full-attention layers.
    rope_theta_local: base for windowed layers, which then have no `rope_scaling`
      (Gemma 3); 0 means that they rotate like the others.
    rope_scaling: ('linear', factor) or ('llama3', factor, low, high, original) or
      ('yarn', factor, original, beta_fast, beta_slow, attention_factor); () none.
      An attention_factor of 0 means 0.1 log(factor) + 1.
    window: a windowed layer attends to itself and the `window - 1` keys before.
    windowed_layers: one bool a layer; () means all layers windowed if window > 0.
    scan_layers: lax.scan over stacked layers instead of unrolled ones.
    remat: 'none', 'full' or 'dots' (keep matmul results).
    param_dtype: dtype in which parameters are stored.
    compute_dtype: dtype of activations and matmuls; norms, softmax, losses are
      float32.
    query_block: queries per causal block where T is longer; 0 never blocks.
    attention: what computes self-attention of whole sequences: 'einsum' (anywhere),
      'xla' or 'cudnn' (`jax.nn.dot_product_attention`; cuDNN on GPU in half precision
      only). The numbers are the same within rounding.

  Raises:
    UserError: sizes or names that do not fit together.
  """

  vocab_size: int
  n_layers: int = 2
  d_model: int = 64
  n_heads: int = 4
  n_kv_heads: int = 4
  head_dim: int = 16
  d_ff: int = 256
  activation: str = 'silu'
  norm_eps: float = 1e-6
  norm_offset: float = 0.0
  post_norms: bool = False
  embed_scale: float = 0.0
  tied_embeddings: bool = True
  attention_bias: bool = False
  qk_norm: bool = False
  query_scale: float = 0.0
  attn_softcap: float = 0.0
  final_softcap: float = 0.0
  rope_theta: float = 10000.0
  rope_theta_local: float = 0.0
  rope_scaling: tuple = ()
  window: int = 0
  windowed_layers: tuple[bool, ...] = ()
  scan_layers: bool = False
  remat: str = 'none'
  param_dtype: str = 'float32'
  compute_dtype: str = 'float32'
  query_block: int = 128
  attention: str = 'einsum'

  def __post_init__(self):
    sizes = ('vocab_size', 'n_layers', 'd_model', 'n_heads', 'n_kv_heads', 'head_dim')
    for name in (*sizes, 'd_ff'):
      if getattr(self, name) < 1:
        raise UserError(f'model.{name} is {getattr(self, name)}; give at least 1.')
    if self.n_heads % self.n_kv_heads:
      raise UserError(
        f'model.n_heads is {self.n_heads}, which is not a multiple of '
        f'model.n_kv_heads = {self.n_kv_heads}; change one of them.'
      )
    if self.head_dim % 2:
      raise UserError(f'model.head_dim is {self.head_dim}; rotations need it even.')
    if len(self.windowed_layers) not in (0, self.n_layers):
      raise UserError(
        f'model.windowed_layers has {len(self.windowed_layers)} entries for '
        f'{self.n_layers} layers; give one each, or none.'
      )
    if self.window < 0 or self.query_block < 0:
      raise UserError('model.window and model.query_block must not be negative.')
    if self.norm_eps < 0:
      raise UserError(f'model.norm_eps is {self.norm_eps}; give at least 0.')
    _one_of('model.activation', self.activation, ('silu', 'gelu_tanh'))
    _one_of('model.remat', self.remat, ('none', 'full', 'dots'))
    for name in ('param_dtype', 'compute_dtype'):
      _one_of(f'model.{name}', getattr(self, name), DTYPES)
    _check_rope(self.rope_theta, self.rope_theta_local, self.rope_scaling)
    _one_of('model.attention', self.attention, ('einsum', 'xla', 'cudnn'))
    if self.attention != 'einsum' and self.attn_softcap:
      raise UserError(
        f'model.attention={self.attention!r} has no soft cap of scores, and '
        f"model.attn_softcap is {self.attn_softcap}; set model.attention='einsum'."
      )
    if self.attention == 'cudnn' and (
      self.compute_dtype == 'float32' or self.head_dim % 8
    ):
      raise UserError(
        "model.attention='cudnn' computes in bfloat16 or float16 with a head_dim that "
        f'8 divides, not in {self.compute_dtype} with {self.head_dim}; set '
        "model.compute_dtype='bfloat16' or model.attention='einsum'."
      )

  def is_windowed(self, layer: int) -> bool:
    """Whether layer number `layer` (from 0) sees only the last `window` keys."""
    if self.window == 0:
      return False
    return self.windowed_layers[layer] if self.windowed_layers else True


@dataclasses.dataclass(frozen=True)
class HeadSpec:
  """What is read at a step position.

  Attributes:
    kind: 'scalar' (one value), 'linear' (`n_outputs` logits), 'mlp' (Linear(D, D),
      ReLU, Linear(D, 2)), 'label_tokens' (LM logits of `label_tokens`), or 'lm'
      (all V logits, for policies).
    n_outputs: Q, outputs of a 'linear' head (2: wrong / correct; 3: negative /
      neutral / positive). Class order is always worst to best.
    label_tokens: ids (wrong, correct) for 'label_tokens'.
    bias: whether scalar and linear heads have a bias.
    dropout: rate on the head's input while training.
    init_scale: standard deviation of the head's last weights at init; 0 starts
      at 0.

  Raises:
    UserError: an unknown kind, or outputs or tokens that do not fit it.
  """

  kind: str = 'scalar'
  n_outputs: int = 1
  label_tokens: tuple[int, ...] = ()
  bias: bool = True
  dropout: float = 0.0
  init_scale: float = 0.02

  def __post_init__(self):
    kinds = ('scalar', 'linear', 'mlp', 'label_tokens', 'lm')
    _one_of('head.kind', self.kind, kinds)
    if self.n_outputs < 1:
      raise UserError(f'head.n_outputs is {self.n_outputs}; give at least 1.')
    if self.kind == 'label_tokens' and len(self.label_tokens) < 2:
      raise UserError(
        'head.label_tokens must hold the token ids (wrong, correct) for '
        "head.kind = 'label_tokens'."
      )
    if not 0 <= self.dropout < 1:
      raise UserError(f'head.dropout is {self.dropout}; give a rate in [0, 1).')


@dataclasses.dataclass(frozen=True)
class StepFormat:
  """How a question and its steps become tokens, and where each step is read.

  The text is `question_template` filled in, then for each step
  `step_template` filled in, then the marker. `encoding` says which of it is
  encoded together; the ids of a prefix are a prefix of the ids where `extends`.

  Attributes:
    question_template: must contain '{question}'.
    step_template: must contain '{step}'; '{number}' stands for the step's number,
      counted from 1.
    first_step_template: for the first step where it differs; '' means the same.
    marker: token after each step; '' reads the last token of the step. Where it is
      several tokens (only with `marker_in_text` = 'allow'), the last one counts.
    position: 'marker' (read at the marker / last token) or 'before' (at the
      token before it, which predicts it).
    add_bos: start with the tokenizer's beginning-of-sequence token.
    max_length: T, longest sequence in tokens; longer rows meet `truncation`.
    truncation: 'error', 'drop_example' or 'drop_steps' (whole steps, from the end).
    encoding: 'pieces' (question and steps each alone, the marker appended as ids),
      'joined' (question and first step as one text, the other steps each alone, the
      marker appended as ids: what encoding everything at once gives where the marker
      is a special token), or 'whole' (everything at once, the marker as text).
    marker_in_text: 'refuse' (a question or step that holds the marker is unusable),
      'allow' (it may, if the marker is an ordinary token; steps are read where they
      end), or 'split' (a step is cut at it and every part gets a marker; the step is
      read at its last one).
    strip: white space around question and steps is removed first, as the chat
      templates do that trim each message; behind the question only if its message
      ends there, that is, if `question_template` goes on with more than blanks.
  """

  question_template: str = '{question}\n'
  step_template: str = '{step}'
  first_step_template: str = ''
  marker: str = '<prm>'
  position: str = 'marker'
  add_bos: bool = False
  max_length: int = 512
  truncation: str = 'drop_example'
  encoding: str = 'pieces'
  marker_in_text: str = 'refuse'
  strip: bool = False

  @property
  def extends(self) -> bool:
    """Whether the ids of a prefix are a prefix of the ids; if not, score anew."""
    return self.encoding != 'whole'


@dataclasses.dataclass(frozen=True)
class ScorerSpec:
  """Everything needed to turn text into step scores with given parameters.

  Attributes:
    model, head, step_format: see there.
    step_value: name of the function from head output to the value of a step in
      `step_values.VALUES` ('logit', 'sigmoid', 'softmax2', 'softmax3'; of quantile
      heads 'quantile', 'quantile_low', 'quantile_high'; of implicit scorers
      'log_ratio', 'log_ratio_step').
    kind: what the saved score is: 'logit', 'probability' or 'log_ratio'.
    reduction: default reduction of P step values to one score.
    coefficient: implicit scorers: log-ratios are multiplied by it (beta).
    end: implicit scorers: token that ends a solution and counts with its last step;
      '' for none.
    tokenizer: 'bytes', or the name of the tokenizer file beside the checkpoint.
    levels: quantile heads: what each output is the quantile for, rising; () of other
      heads, and where it is unknown.
    objective: what the scorer was trained with, '' if unknown (documentation).
    label: the label set it was trained on, '' if unknown (documentation).
  """

  model: ModelSpec
  head: HeadSpec
  step_format: StepFormat
  step_value: str = 'logit'
  kind: str = 'logit'
  reduction: str = 'min'
  coefficient: float = 1.0
  end: str = ''
  tokenizer: str = 'bytes'
  levels: tuple[float, ...] = ()
  objective: str = ''
  label: str = ''


@dataclasses.dataclass(frozen=True)
class TextFormat:
  """How a question and a solution are written for a policy.

  The text is `question_template` filled in, then the steps with `separator` after
  each but the last, then the token `end`. Question and steps (each with its
  separator) are encoded one by one, so the ids of a prefix are a prefix of the ids.

  Attributes:
    question_template: must contain '{question}'.
    separator: text after each step but the last; what a splitter cuts at.
    end: special token that ends a response; '' if the model has none.
    add_bos: start with the tokenizer's beginning-of-sequence token.
    max_length: T, the context: prompt and response together, in tokens.
  """

  question_template: str = '{question}\n'
  separator: str = '\n'
  end: str = '<eos>'
  add_bos: bool = False
  max_length: int = 512


@dataclasses.dataclass(frozen=True)
class PolicySpec:
  """Everything needed to sample text from given parameters.

  Attributes:
    model, text_format: see there; the head is the language model's.
    tokenizer: 'bytes', or the name of the tokenizer file beside the checkpoint.
  """

  model: ModelSpec
  text_format: TextFormat
  tokenizer: str = 'bytes'


def to_dict(spec: Any) -> dict[str, Any]:
  """Plain dict of a spec, ready for JSON (tuples become lists)."""
  return dataclasses.asdict(spec)


def from_dict(cls: type[T], values: Any, where: str = 'spec') -> T:
  """Rebuilds a spec of class `cls` from `to_dict`'s result or parsed JSON.

  Raises:
    UserError: a key is unknown or missing, or its value is not of the field's type or
      is refused by the class; the sentence names it and `where`.
  """
  if not isinstance(values, dict):
    raise UserError(f'{where} is {values!r}; it must be an object with keys.')
  nested = {
    'model': ModelSpec,
    'head': HeadSpec,
    'step_format': StepFormat,
    'text_format': TextFormat,
  }
  fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
  unknown = sorted(set(values) - set(fields))
  if unknown:
    raise UserError(
      f'{where}: unknown key {unknown[0]!r} for {cls.__name__}; '
      f'known keys are {", ".join(fields)}.'
    )
  inner = {k: v for k, v in values.items() if k in nested and k in fields}
  plain = {k: v for k, v in values.items() if k not in inner}
  field_types.check(f'{where}.', cls, plain)
  built = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
  for name, value in inner.items():
    built[name] = from_dict(nested[name], value, f'{where}.{name}')
  try:
    return cls(**built)
  except UserError as e:
    raise UserError(f'{where}: {e}') from e
  except TypeError as e:
    raise UserError(f'{where}: {cls.__name__} {str(e).split(") ", 1)[-1]}.') from e
