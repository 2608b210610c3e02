"""How long a checkpoint takes onto its devices, and how much memory on the way."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from prm_jax.errors import UserError
from prm_jax.interop import architectures, checkpoints, loading
from prm_jax.models import lm, weights


def measured(config: ConfigDict) -> dict[str, Any]:
  """Loads `bench_model` in `model.param_dtype`, with `model.scan_layers`.

  Raises:
    UserError: no checkpoint is named, or none is there.
  """
  if not config.bench_model:
    raise UserError('bench=load needs --config.bench_model=CHECKPOINT.')
  free = {key: config.model[key] for key in ('param_dtype', 'scan_layers')}
  return measure_load(config.bench_model, **free)


def measure_load(directory: str, **free: Any) -> dict[str, Any]:
  """Loads a causal language model and looks at the clock and at its own memory.

  Call it first thing in a process: the peak is that of the whole process so far.

  Args:
    directory: a checkpoint folder.
    **free: what a checkpoint does not fix, such as param_dtype and scan_layers.

  Returns:
    seconds (from opening the folder to the last weight on its device) and those of
    the CPU, the number of parameters, and in bytes the process before (`start`) and
    at its peak (`peak`), the parameters (`placed`) and the two largest tensors of the
    checkpoint, in the larger of stored and placed size (`two_largest`).
  """
  # Starting the backend and its compiler is not loading.
  jax.jit(_put_one, donate_argnums=0)(jnp.zeros((9, 8, 8))).block_until_ready()
  start = memory('VmRSS')
  clock, cpu = time.perf_counter(), time.process_time()
  ckpt = checkpoints.open_checkpoint(directory)
  spec = architectures.model_spec(ckpt.config, directory, **free)
  params = jax.block_until_ready(loading.load(ckpt, spec, lm.HEAD))
  seconds, cpu = time.perf_counter() - clock, time.process_time() - cpu
  n_bytes = jnp.dtype(spec.param_dtype).itemsize
  sizes = sorted(
    max(n_bytes, ckpt.dtype(name).itemsize) * math.prod(ckpt.shape(name))
    for name in ckpt.names
  )
  return {
    'seconds': seconds,
    'cpu_seconds': cpu,
    'start': start,
    'peak': memory('VmHWM'),
    'placed': sum(leaf.nbytes for leaf in jax.tree.leaves(params)),
    'parameters': weights.count(weights.declare(spec, lm.HEAD)),
    'two_largest': sum(sizes[-2:]),
  }


def _put_one(stack: jax.Array) -> jax.Array:
  return jax.lax.dynamic_update_index_in_dim(stack, stack[0] + 1, 1, 0)


def memory(key: str) -> int:
  """Bytes of this process: 'VmRSS' resident now, 'VmHWM' at its peak (Linux)."""
  text = Path('/proc/self/status').read_text()
  found = re.search(rf'^{key}:\s+(\d+) kB', text, re.MULTILINE)
  return int(found[1]) * 1024 if found else 0
