"""Which weights of a model are trained, which stay as they are, which get an update.

A model's parameters are held in two trees: `trained`, which has gradients, moments and
a place in every checkpoint, and `frozen`, which has none of these: it is read again
from where it came. `Parts.whole` puts the two together for a forward pass,
`Parts.merged` for export.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import re
from collections.abc import Mapping
from typing import Any

import jax

from prm_jax import tensors
from prm_jax.errors import UserError
from prm_jax.models import layers, lora, weights
from prm_jax.models.lora import LoraSpec
from prm_jax.models.weights import Params, Weight
from prm_jax.specs import DTYPES

# What model.freeze may name, beside layers:A-B and patterns of paths.
GROUPS = {
  'decoder': ('decoder/*',),
  'embeddings': ('decoder/embed_VD',),
  'layers': ('decoder/layer_*', 'decoder/layers/*'),
  'lm_head': ('head/lm_head_VD',),
}
# With LoRA, all that the language model consists of.
LANGUAGE_MODEL = 'decoder,lm_head'
_RANGE = re.compile(r'layers:(\d+)(?:-(\d+))?')


@dataclasses.dataclass(frozen=True)
class Parts:
  """The two trees of a model's weights, declared.

  Attributes:
    trained: nested dict of `Weight`; the factors of a frozen weight's update stand
      under that weight's path.
    frozen: nested dict of `Weight`, {} if all are trained.
    lora: rank 0 if no weight has an update.
    dtype: in which merged weights are stored.
  """

  trained: dict[str, Any]
  frozen: dict[str, Any]
  lora: LoraSpec
  dtype: str

  def whole(
    self, trained: Params, frozen: Params | None, key: jax.Array | None = None
  ) -> Params:
    """The model's parameters, with `layers.Adapted` where a weight has an update.

    Args:
      trained, frozen: arrays of the two trees.
      key: random key of the updates' dropout; None while not training.
    """
    if not frozen:
      return trained
    kept = dict(weights.flatten(frozen))
    factors: dict[str, dict[str, Any]] = {}
    for path, array in weights.flatten(trained):
      base, _, name = path.rpartition('/')
      if base in kept:
        factors.setdefault(base, {})[name] = array
      else:
        kept[path] = array
    for path, pair in factors.items():
      kept[path] = lora.adapt(self.lora, path, kept[path], pair, key)
    return tensors.unflatten(kept)

  def merged(self, trained: Params, frozen: Params | None) -> Params:
    """The parameters as plain arrays of the declared shapes, each on its devices."""
    adapted = lambda w: isinstance(w, layers.Adapted)

    def one(w: Any) -> jax.Array:
      return _merge_to(w.base.sharding)(w, self.dtype) if adapted(w) else w

    return jax.tree.map(one, self.whole(trained, frozen), is_leaf=adapted)


@functools.lru_cache
def _merge_to(place: jax.sharding.Sharding) -> Any:
  """`lora.merge` compiled once a shape, whatever the number of layers."""
  return jax.jit(lora.merge, static_argnums=1, out_shardings=place)


def split(
  declared: dict[str, Any],
  *,
  freeze: str = '',
  frozen_dtype: str = '',
  update: LoraSpec = lora.OFF,
  dtype: str = 'float32',
) -> Parts:
  """Divides a model's weights.

  Args:
    declared: tree of `Weight` (`weights.declare`).
    freeze: what is not trained, with commas: 'decoder', 'embeddings', 'layers',
      'layers:A-B' (both ends count, from 0), 'lm_head', or a pattern of paths such as
      '*norm*'. '' is nothing; with LoRA, all of the language model.
    frozen_dtype: in which frozen weights are stored; '' as they are declared.
    update: LoRA.
    dtype: of adapters and of merged weights.

  Raises:
    UserError: an item matches nothing, or only some of the layers that are stacked as
      one; a LoRA target matches nothing or is trained itself; nothing is left to train.
  """
  flat = dict(weights.flatten(declared))
  if frozen_dtype and frozen_dtype not in DTYPES:
    raise UserError(
      f'model.frozen_dtype={frozen_dtype!r}: it must be one of {", ".join(DTYPES)}.'
    )
  if update.rank and not freeze.strip():
    present = LANGUAGE_MODEL.split(',')
    freeze = ','.join(i for i in present if _matched(i, flat))
  frozen = set()
  for item in filter(None, (i.strip() for i in freeze.split(','))):
    hits = _matched(item, flat)
    if not hits:
      raise UserError(
        f'model.freeze={item!r} matches no weight; give {", ".join(GROUPS)}, '
        f'layers:A-B or a pattern of paths, such as {next(iter(flat))!r}.'
      )
    frozen |= hits
  trained = {path: w for path, w in flat.items() if path not in frozen}
  for path in lora.targets(update, flat) if update.rank else ():
    if path not in frozen:
      raise UserError(
        f'lora.targets: {path} is trained itself and needs no update; name it in '
        'model.freeze, or leave it out of lora.targets.'
      )
    for name, factor in lora.adapters(flat[path], update.rank, dtype).items():
      trained[f'{path}/{name}'] = factor
  if not trained:
    raise UserError(
      f'model.freeze={freeze!r} leaves nothing to train; freeze less, or set lora.rank.'
    )
  kept = {
    path: dataclasses.replace(w, dtype=frozen_dtype or w.dtype)
    for path, w in flat.items()
    if path in frozen
  }
  return Parts(tensors.unflatten(trained), tensors.unflatten(kept), update, dtype)


def _matched(item: str, flat: Mapping[str, Weight]) -> set[str]:
  """Paths that one item of model.freeze names."""
  found = _RANGE.fullmatch(item)
  if found is None:
    return {
      path
      for path in flat
      for pattern in GROUPS.get(item, (item,))
      if fnmatch.fnmatchcase(path, pattern)
    }
  first = int(found[1])
  last = int(found[2] or first)
  layers_of = {path: _layers_of(path, w) for path, w in flat.items()}
  n = max(held.stop for held in layers_of.values())
  if not first <= last < n:
    raise UserError(
      f'model.freeze={item!r}: the model has layers 0 to {n - 1}; name some of them.'
    )
  wanted = range(first, last + 1)
  hits = set()
  for path, held in layers_of.items():
    inside = [i in wanted for i in held]
    if any(inside) and not all(inside):
      raise UserError(
        f'model.freeze={item!r}: layers {held.start} to {held.stop - 1} are stacked as '
        'one; name them all, or set model.scan_layers=False.'
      )
    if any(inside):
      hits.add(path)
  return hits


def _layers_of(path: str, weight: Weight) -> range:
  """Numbers of the layers that a weight belongs to."""
  if not path.startswith(('decoder/layer_', 'decoder/layers/')):
    return range(0)
  n = weight.shape[0] if weight.axes.startswith('L') else 1
  return range(weight.layer, weight.layer + n)


def table(parts: Parts) -> str:
  """One line for people: how much is trained, frozen, in updates."""
  trained, frozen = weights.count(parts.trained), weights.count(parts.frozen)
  adapters = sum(
    w.size for path, w in weights.flatten(parts.trained) if '/lora_' in path
  )
  of_them = f', {adapters:,} of them in low-rank updates' if adapters else ''
  return f'{trained:,} parameters are trained{of_them}; {frozen:,} are frozen'
