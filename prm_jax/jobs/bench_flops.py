"""What a model must compute and read, and what share of a device's peak that is.

Model FLOPs, as in the PaLM paper (Chowdhery et al. 2022, appendix B): what the
mathematics needs, rematerialization not counted. Forward, for a token with t keys in
sight:

    2 W + 4 L N H t

with W the elements of the matrices that it passes (the table of the embedding is looked
up, not multiplied) and L layers of N heads of width H. A causal row of T tokens sees
(T + 1) / 2 keys on average, and only these are counted. The last layer of a scoring
model computes keys and values at every token but the rest only at the steps, so only
its two matrices of keys and values are counted. Backward is twice forward.

A decode step must read every matrix once and the keys and values that its rows attend
to, those of a shared prompt once for the members of a group.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from prm_jax.models import weights
from prm_jax.specs import HeadSpec, ModelSpec

# Start of a device's kind -> (dense bfloat16 FLOP/s, bytes/s of its memory), by the
# makers' data sheets; the first that fits.
DEVICES = (
  ('NVIDIA H200', 989e12, 4.8e12),
  ('NVIDIA H100 PCIe', 756e12, 2.0e12),
  ('NVIDIA H100', 989e12, 3.35e12),
  ('NVIDIA A100-SXM4-80GB', 312e12, 2.039e12),
  ('NVIDIA A100 80GB', 312e12, 1.935e12),
  ('NVIDIA A100', 312e12, 1.555e12),
  ('TPU v4', 275e12, 1.228e12),
  ('TPU v5 lite', 197e12, 0.819e12),
  ('TPU v5e', 197e12, 0.819e12),
  ('TPU v5', 459e12, 2.765e12),
  ('TPU v6', 918e12, 1.64e12),
)
SIDE, REPEATS = 2048, 5


@dataclasses.dataclass(frozen=True)
class Cost:
  """Of a unit of work.

  Attributes:
    flops: model FLOPs.
    n_bytes: bytes that must be read; 0 where memory is not what bounds it.
  """

  flops: float
  n_bytes: float = 0.0


def matrix_elements(spec: ModelSpec, head: HeadSpec) -> int:
  """W: elements of the matrices that every token passes."""
  layer = weights.layer(spec, 0)
  sizes = {name: w.size for name, w in layer.items() if name.startswith('w')}
  if head.kind == 'lm':
    return spec.n_layers * sum(sizes.values()) + spec.vocab_size * spec.d_model
  last = sizes['wk_DKH'] + sizes['wv_DKH']
  return (spec.n_layers - 1) * sum(sizes.values()) + last


def forward(spec: ModelSpec, head: HeadSpec, keys: float) -> float:
  """Model FLOPs of a token that sees `keys` keys."""
  layers = spec.n_layers - (head.kind != 'lm')
  attention = 4 * layers * spec.n_heads * spec.head_dim * keys
  return 2 * matrix_elements(spec, head) + attention


def keys_seen(lengths: np.ndarray) -> float:
  """Keys that a token sees on average in causal rows of these lengths."""
  lengths = np.asarray(lengths, np.float64)
  return float((lengths * (lengths + 1) / 2).sum() / lengths.sum())


def cache_bytes(spec: ModelSpec) -> int:
  """Bytes of the keys and values of one position."""
  size = jnp.dtype(spec.compute_dtype).itemsize
  return 2 * spec.n_layers * spec.n_kv_heads * spec.head_dim * size


def figures(
  config: ConfigDict, cost: Cost, rate: float, devices: int
) -> dict[str, Any]:
  """Shares of the peak that `rate` units a second on so many devices are.

  The peaks are `bench_peak_flops` and `bench_bandwidth`, else those of a known device,
  else, for FLOPs, what a large matrix product reaches here.
  """
  device = jax.local_devices()[0]
  known = next((d for d in DEVICES if device.device_kind.startswith(d[0])), None)
  flops = config.bench_peak_flops or (known and known[1] * devices)
  how = 'given' if config.bench_peak_flops else 'data sheet, dense bfloat16'
  if not flops:
    flops, how = measured_peak(config.model.compute_dtype), 'matrix product, measured'
  bandwidth = config.bench_bandwidth or (known and known[2] * devices)
  out = {
    'model FLOP/s': rate * cost.flops,
    f'peak FLOP/s ({how})': float(flops),
    'model FLOPs / peak': rate * cost.flops / flops,
  }
  if cost.n_bytes and bandwidth:
    out['bytes that must be read a second'] = rate * cost.n_bytes
    out['memory bandwidth / peak'] = rate * cost.n_bytes / bandwidth
  return out


def measured_peak(dtype: str) -> float:
  """FLOP/s of a product of two large matrices on the first device."""
  x = jnp.ones((SIDE, SIDE), dtype)
  product = jax.jit(jnp.matmul)
  jax.block_until_ready(product(x, x))
  seconds = []
  for _ in range(REPEATS):
    start = time.perf_counter()
    jax.block_until_ready(product(x, x))
    seconds.append(time.perf_counter() - start)
  return 2 * SIDE**3 / min(seconds)
