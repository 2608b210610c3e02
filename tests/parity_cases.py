"""How far our numbers are from those of transformers, on the reference checkpoints.

Left padding is no input of ours: rows always begin at their first token. The rows of
the left-padded reference are moved to the left edge first, so that what is compared is
that padding before the text changes nothing.
"""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from prm_jax import step_values
from prm_jax.interop import architectures, checkpoints, loading
from prm_jax.models import decoder, decoding, heads
from prm_jax.specs import HeadSpec, ModelSpec

FOLDER = pathlib.Path(__file__).parent / 'fixtures' / 'parity'
HEADS = {
  'qwen2_token_cls': (HeadSpec('linear', 2), 'softmax2'),
  'qwen2_math_prm': (HeadSpec('mlp'), 'softmax2'),
  'qwen2_skywork': (HeadSpec('scalar'), 'sigmoid'),
  'mistral_plus_minus': (HeadSpec('label_tokens', label_tokens=(7, 6)), 'softmax2'),
}
CASES = tuple(sorted(p.name for p in FOLDER.iterdir() if p.is_dir()))
EXTEND = jax.jit(decoding.extend, static_argnums=0)
CACHED = 7  # tokens that the cache path reads at once, before single ones


def load(case: str, head: HeadSpec | None = None, **free) -> tuple[ModelSpec, dict]:
  """Spec and parameters of a case, as anybody would load them."""
  ckpt = checkpoints.open_checkpoint(FOLDER / case)
  spec = architectures.model_spec(ckpt.config, case, **free)
  own = HEADS.get(case, (HeadSpec('lm'), ''))[0]
  return spec, loading.load(ckpt, spec, head or own)


def to_the_left(rows: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """Rows [B, T, ...] with their padding, wherever it is, moved to the end."""
  order = np.argsort(mask == 0, axis=1, kind='stable')
  return np.stack([row[i] for row, i in zip(rows, order)])


def differences(case: str, **free) -> dict[str, float]:
  """Largest absolute difference of the full forward pass by name: hidden and logits
  for each padding, and step probabilities."""
  spec, params = load(case, **free)
  held = np.load(FOLDER / case / 'expected.npz')
  ids = {pad: held[f'{pad}_input_ids'] for pad in ('nopad', 'right', 'left')}
  masks = {
    pad: held.get(f'{pad}_attention_mask', np.ones_like(ids[pad])) for pad in ids
  }
  # One call for all rows: text first, then anything.
  longest = max(rows.shape[1] for rows in ids.values())
  wide = {
    pad: np.pad(to_the_left(rows, masks[pad]), ((0, 0), (0, longest - rows.shape[1])))
    for pad, rows in ids.items()
  }
  tokens = np.concatenate([*wide.values()]).astype(np.int32)
  hidden = decoder.forward(spec, params['decoder'], tokens)
  head, value = HEADS.get(case, (HeadSpec('lm'), ''))
  logits = heads.read(spec, head, params, hidden)
  out: dict[str, float] = {}
  start = 0
  for pad, rows in ids.items():
    part = slice(start, start + len(rows))
    start += len(rows)
    ours = {'hidden': np.asarray(hidden[part]), 'logits': np.asarray(logits[part])}
    out |= _compare(held, pad, masks[pad], ours, value)
  return out


def _compare(held, pad, mask, ours, value):
  n = mask.shape[1]
  real = np.sort(mask, axis=1)[:, ::-1] == 1
  want = to_the_left(held[f'{pad}_last_hidden'], mask)
  out = {f'{pad}/hidden': np.abs(ours['hidden'][:, :n] - want)[real].max()}
  logits = ours['logits'].reshape(*ours['hidden'].shape[:2], -1)[:, :n]
  for key in (f'{pad}_logits', f'{pad}_head_logits'):
    if key in held:
      away = np.abs(logits - to_the_left(held[key], mask))
      out[f'{pad}/logits'] = away[real].max()
  if f'{pad}_last_logits' in held:
    last = logits[np.arange(len(logits)), mask.sum(1) - 1]
    out[f'{pad}/logits'] = np.abs(last - held[f'{pad}_last_logits']).max()
  if f'{pad}_step_probs' in held:
    at, there = held[f'{pad}_step_positions'], held[f'{pad}_step_positions'] >= 0
    if pad == 'left':
      at = at - (n - mask.sum(1))[:, None]
    at = np.where(there, at, 0)
    steps = np.take_along_axis(ours['logits'][:, :n], at.reshape(
      *at.shape, *(1,) * (ours['logits'].ndim - 2)), 1)  # fmt: skip
    good = np.asarray(step_values.VALUES[value](jnp.asarray(steps)))
    away = np.abs(good - held[f'{pad}_step_probs'])
    out[f'{pad}/probabilities'] = away[there].max()
  return {name: float(worst) for name, worst in out.items()}


def cached_difference(case: str, **free) -> float:
  """The same of hidden states read over the cache: some tokens at once, the others
  one by one."""
  spec, params = load(case, **free)
  held = np.load(FOLDER / case / 'expected.npz')
  tokens, want = held['nopad_input_ids'], held['nopad_last_hidden']
  rows, n = tokens.shape
  shared = decoding.prefill(spec, params, tokens[:, :CACHED])
  length = jnp.full((rows, 1), CACHED, jnp.int32)
  own = decoding.own_caches(spec, rows, 1, n - CACHED, None)
  worst = 0.0
  for i in range(CACHED, n):
    at = jnp.full((rows, 1), i, jnp.int32)
    hidden, own = EXTEND(
      spec, params, tokens[:, None, i : i + 1], at, shared, length, own
    )
    worst = max(worst, float(np.abs(hidden[:, 0, 0] - want[:, i]).max()))
  return worst
