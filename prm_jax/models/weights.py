"""Every weight of every model, declared once: shape, axis letters, init.

Parameters, abstract shapes, shardings, counts and tables all derive from the
tree of `Weight` that `declare` returns. A name ends in its letters (`wq_DNH`);
weights of scanned layers carry a leading `L`. A parameter tree is a plain nested
dict of the same structure:

  {'decoder': {'embed_VD', 'layer_0': {'attn_norm_D', 'wq_DNH', ...}, ...,
               'final_norm_D'},
   'head': {...}}

With `spec.scan_layers` all layers but the last are stacked under 'layers'; the
last stands alone because scoring evaluates it at the step positions only.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from prm_jax.errors import UserError
from prm_jax.specs import HeadSpec, ModelSpec

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Weight:
  """One weight.

  Attributes:
    shape: its shape.
    axes: one letter an axis (design letters: D model, N heads, ...).
    std: standard deviation of its normal init; 0 makes it constant.
    constant: value where `std` is 0.
    dtype: name of the dtype it is stored in.
    key_name: what its random key is derived from, the same for a layer's weight
      whether the layers are stacked or not.
    layer: number of the (first) layer it belongs to, 0 elsewhere.
  """

  shape: tuple[int, ...]
  axes: str
  std: float = 0.0
  constant: float = 0.0
  dtype: str = 'float32'
  key_name: str = ''
  layer: int = 0

  def __post_init__(self):
    if len(self.shape) != len(self.axes):
      raise ValueError(f'{self.key_name}: axes {self.axes} for shape {self.shape}')

  @property
  def size(self) -> int:
    """Number of elements."""
    return math.prod(self.shape)

  @property
  def n_bytes(self) -> int:
    """Size in memory, in bytes."""
    return self.size * jnp.dtype(self.dtype).itemsize

  def initialize(self, key: jax.Array) -> jax.Array:
    """A new array. `key` is the key of the whole model."""
    if self.std == 0:
      return jnp.full(self.shape, self.constant, self.dtype)
    key = jax.random.fold_in(key, zlib.crc32(self.key_name.encode()))
    stacked = self.axes.startswith('L')
    shape = self.shape[1:] if stacked else self.shape

    def one(layer):
      values = jax.random.normal(jax.random.fold_in(key, layer), shape, jnp.float32)
      return (self.std * values).astype(self.dtype)

    if stacked:
      return jax.vmap(one)(self.layer + jnp.arange(self.shape[0]))
    return one(self.layer)


def _letters(spec: ModelSpec) -> dict[str, int]:
  return {
    'D': spec.d_model, 'N': spec.n_heads, 'K': spec.n_kv_heads, 'H': spec.head_dim,
    'F': spec.d_ff, 'V': spec.vocab_size,
  }  # fmt: skip


def layer(spec: ModelSpec, index: int, n_stacked: int = 0) -> dict[str, Weight]:
  """The weights of layer `index`, or of `n_stacked` layers from it on, stacked.

  Matrices start at std fan_in ** -0.5; the two that write to the residual stream
  are divided by sqrt(2 L) besides (GPT-2), so that its variance stays near one.
  """
  sizes = _letters(spec)
  to_residual = (2 * spec.n_layers) ** -0.5
  heads = spec.n_heads * spec.head_dim
  std = {
    'wq_DNH': spec.d_model**-0.5, 'wk_DKH': spec.d_model**-0.5,
    'wv_DKH': spec.d_model**-0.5, 'wo_NHD': heads**-0.5 * to_residual,
    'wgate_DF': spec.d_model**-0.5, 'wup_DF': spec.d_model**-0.5,
    'wdown_FD': spec.d_ff**-0.5 * to_residual,
  }  # fmt: skip
  names = ['attn_norm_D', 'wq_DNH', 'wk_DKH', 'wv_DKH']
  if spec.attention_bias:
    names += ['bq_NH', 'bk_KH', 'bv_KH']
  if spec.qk_norm:
    names += ['q_norm_H', 'k_norm_H']
  names += ['wo_NHD']
  if spec.post_norms:
    names += ['attn_post_norm_D']
  names += ['mlp_norm_D', 'wgate_DF', 'wup_DF', 'wdown_FD']
  if spec.post_norms:
    names += ['mlp_post_norm_D']
  weights = {}
  for name in names:
    axes = name.rsplit('_', 1)[1]
    shape = tuple(sizes[a] for a in axes)
    constant = 1.0 - spec.norm_offset if '_norm_' in name else 0.0
    if n_stacked:
      axes, shape = 'L' + axes, (n_stacked, *shape)
    weights[name] = Weight(
      shape, axes, std.get(name, 0.0), constant, spec.param_dtype, f'layer/{name}',
      index,
    )  # fmt: skip
  return weights


def decoder(spec: ModelSpec) -> dict[str, Any]:
  """The weights of the decoder without any head."""
  d = spec.d_model
  tree: dict[str, Any] = {
    'embed_VD': Weight(
      (spec.vocab_size, d), 'VD', d**-0.5, 0.0, spec.param_dtype, 'embed_VD'
    )
  }
  last = spec.n_layers - 1
  if spec.scan_layers and last > 0:
    tree['layers'] = layer(spec, 0, n_stacked=last)
  else:
    tree.update({f'layer_{i}': layer(spec, i) for i in range(last)})
  tree[f'layer_{last}'] = layer(spec, last)
  tree['final_norm_D'] = Weight(
    (d,), 'D', 0.0, 1.0 - spec.norm_offset, spec.param_dtype, 'final_norm_D'
  )
  return tree


def n_outputs(spec: ModelSpec, head: HeadSpec) -> int:
  """Q, the number of outputs of a head (1 for a scalar head, V for 'lm')."""
  fixed = {'scalar': 1, 'mlp': 2, 'lm': spec.vocab_size}
  if head.kind == 'label_tokens':
    return len(head.label_tokens)
  return fixed.get(head.kind, head.n_outputs)


def head_weights(spec: ModelSpec, head: HeadSpec) -> dict[str, Weight]:
  """The weights of a head; {} where it reads the embedding table."""
  d, q, dtype = spec.d_model, n_outputs(spec, head), spec.param_dtype
  if head.kind in ('lm', 'label_tokens'):
    if spec.tied_embeddings:
      return {}
    shape = (spec.vocab_size, d)
    return {'lm_head_VD': Weight(shape, 'VD', d**-0.5, 0.0, dtype, 'lm_head_VD')}
  weights = {}
  if head.kind == 'mlp':
    weights['win_DD'] = Weight((d, d), 'DD', d**-0.5, 0.0, dtype, 'head/win_DD')
    weights['bin_D'] = Weight((d,), 'D', 0.0, 0.0, dtype, 'head/bin_D')
  weights['wout_DQ'] = Weight((d, q), 'DQ', head.init_scale, 0.0, dtype, 'head/wout')
  if head.bias or head.kind == 'mlp':
    weights['bout_Q'] = Weight((q,), 'Q', 0.0, 0.0, dtype, 'head/bout_Q')
  return weights


def declare(spec: ModelSpec, head: HeadSpec) -> dict[str, Any]:
  """The tree of all weights of a model: 'decoder' and, where it has any, 'head'."""
  tree = {'decoder': decoder(spec)}
  of_head = head_weights(spec, head)
  return {**tree, 'head': of_head} if of_head else tree


def flatten(declared: dict[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
  """(path 'decoder/layer_0/wq_DNH', leaf) of a nested dict, in its own order."""
  for name, value in declared.items():
    path = f'{prefix}/{name}' if prefix else name
    if isinstance(value, dict):
      yield from flatten(value, path)
    else:
      yield path, value


def initialize(declared: dict[str, Any], key: jax.Array) -> Params:
  """New parameters. The numbers of a weight depend on `key` and its name alone."""
  return jax.tree.map(lambda w: w.initialize(key), declared)


def abstract(declared: dict[str, Any]) -> Params:
  """Shapes and dtypes of the parameters, as `jax.ShapeDtypeStruct`."""
  return jax.tree.map(lambda w: jax.ShapeDtypeStruct(w.shape, w.dtype), declared)


def count(declared: dict[str, Any]) -> int:
  """Total number of parameters."""
  return sum(weight.size for _, weight in flatten(declared))


def table(declared: dict[str, Any]) -> str:
  """Printable table: path, axes, shape, dtype, number of elements, and the total."""
  rows: list[tuple[str, ...]] = [('weight', 'axes', 'shape', 'dtype', 'elements')]
  for path, w in flatten(declared):
    shape = 'x'.join(map(str, w.shape))
    rows.append((path, w.axes, shape, w.dtype, f'{w.size:,}'))
  rows.append(('total', '', '', '', f'{count(declared):,}'))
  return format_rows(rows)


def format_rows(rows: list[tuple[str, ...]]) -> str:
  """Aligns columns: the first to the left, the others to the right."""
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  lines = []
  for row in rows:
    cells = [row[0].ljust(widths[0])]
    cells += [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
    lines.append('  '.join(cells).rstrip())
  return '\n'.join(lines)


def check(params: Params, declared: dict[str, Any], where: str) -> None:
  """Refuses parameters that are not those of `declared`.

  Raises:
    UserError: a weight is missing, unknown or of another shape; named, with
      `where` (for example the checkpoint's directory).
  """
  expected, found = dict(flatten(declared)), dict(flatten(params))
  for path, weight in expected.items():
    if path not in found:
      raise UserError(f'{where}: weight {path} of shape {weight.shape} is missing.')
    if tuple(found[path].shape) != weight.shape:
      raise UserError(
        f'{where}: weight {path} has shape {tuple(found[path].shape)}; the model '
        f'needs {weight.shape}.'
      )
  for path in found:
    if path not in expected:
      raise UserError(f'{where}: weight {path} is not one of this model.')


def stack_layers(params: Params) -> Params:
  """Parameters of unrolled layers -> of the same model with `scan_layers`."""
  tree = dict(params['decoder'])
  last = sum(name.startswith('layer_') for name in tree) - 1
  if last == 0 or 'layers' in tree:
    return params
  layers = [tree.pop(f'layer_{i}') for i in range(last)]
  tree['layers'] = jax.tree.map(lambda *w: jnp.stack(w), *layers)
  return {**params, 'decoder': tree}


def unstack_layers(params: Params) -> Params:
  """The inverse of `stack_layers`."""
  tree = dict(params['decoder'])
  if 'layers' not in tree:
    return params
  layers = tree.pop('layers')
  for i in range(jax.tree.leaves(layers)[0].shape[0]):
    tree[f'layer_{i}'] = jax.tree.map(lambda w, i=i: w[i], layers)
  return {**params, 'decoder': tree}


def materialize(module: nn.Module, declared: dict[str, Any]) -> Params:
  """The parameters of a Linen module, created from (or checked by) a declaration.

  Call it inside a compact method; nested dicts become submodules of those names.
  """
  return {
    name: module.param(name, value.initialize)
    if isinstance(value, Weight)
    else _Declared(value, name=name)()
    for name, value in declared.items()
  }


class _Declared(nn.Module):
  declared: Any

  @nn.compact
  def __call__(self) -> Params:
    return materialize(self, self.declared)
