"""What the modes of bench share: a clock, medians with intervals, and the table."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np


def clock(function: Callable[[], Any]) -> tuple[Any, float, float]:
  """Result, wall seconds, and CPU seconds of all threads; waits for the device."""
  wall, cpu = time.perf_counter(), time.process_time()
  out = jax.block_until_ready(function())
  return out, time.perf_counter() - wall, time.process_time() - cpu


def median(values: Sequence[float]) -> dict[str, float]:
  """Median and its 95 % interval, by bootstrap over the repeats."""
  rng = np.random.default_rng(0)
  drawn = rng.choice(np.asarray(values), (2000, len(values)))
  low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
  return {'value': float(np.median(values)), 'low': float(low), 'high': float(high)}


def spread(values: Sequence[float]) -> dict[str, float]:
  """Median, least and most."""
  return {
    'value': float(np.median(values)), 'low': min(values), 'high': max(values)
  }  # fmt: skip


def load() -> float:
  """Processes that wanted to run, on average over the last minute."""
  return round(os.getloadavg()[0], 2)


def words(value: Any) -> str:
  """A figure for the table; one with an interval as `value [low, high]`."""
  if isinstance(value, dict):
    short = {k: words(v) for k, v in value.items()}
    return f'{short["value"]} [{short["low"]}, {short["high"]}]'
  if isinstance(value, float):
    return f'{value:,.0f}' if abs(value) >= 1000 else f'{value:.3g}'
  return f'{value:,}' if isinstance(value, int) else str(value)
