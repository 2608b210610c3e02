"""Numbers, ticks and scales: how values become text and where bars begin and end."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence

from prm_jax.evaluation.report.data import Interval


def number(value: object, digits: int = 3) -> str:
  """A number for people: `digits` decimals below 100, thin groups of three above.

  None and NaN are an en dash, text and bool as they are.
  """
  if value is None or isinstance(value, (str, bool)):
    return '–' if value is None else str(value)
  if isinstance(value, numbers.Integral):
    return f'{int(value):,}'.replace('-', '−')
  if not isinstance(value, numbers.Real):
    return str(value)
  value = float(value)
  if not math.isfinite(value):
    return '–'
  if value and abs(value) < 10**-digits / 2:
    return f'{value:.1e}'.replace('-', '−')
  shown = f'{value:,.{digits if abs(value) < 100 else 1}f}'
  return shown.replace('-', '−')


def fixed(value: float) -> str:
  """Three decimals, however small: the ends of an interval."""
  return f'{round(value, 3) + 0.0:,.3f}'.replace('-', '−')


def tick_label(value: float) -> str:
  """A tick as short as it can be: 0.85, 3,000, 12k."""
  if abs(value) >= 10_000 and value % 100 == 0:
    return f'{value / 1000:g}k'
  if abs(value) >= 1000:
    return f'{value:,.0f}'
  return f'{value:.6g}'.replace('-', '−')


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
  """Round numbers that enclose [low, high], at most about `most` of them."""
  if not high - low > 1e-9:  # equal but for rounding
    pad = abs(low) * 0.1 if abs(low) > 1e-6 else 0.5
    low, high = low - pad, high + pad
  raw = (high - low) / max(most - 1, 1)
  power = 10.0 ** math.floor(math.log10(raw))
  size = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
  first, last = math.floor(low / size + 1e-9), math.ceil(high / size - 1e-9)
  return [round(k * size, 12) for k in range(first, last + 1)]


def bar_scale(values: Sequence[Interval]) -> tuple[float, float]:
  """Common scale of a column of bars: 0 to 1 if that fits and fills, else round."""
  ends = [
    e
    for v in values
    for k in ('low', 'value', 'high')
    if (e := finite(v.get(k))) is not None
  ]
  if not ends:
    return 0.0, 1.0
  low, high = min(ends), max(ends)
  if low < 0:
    ticks = nice_ticks(low, max(high, 0.0), 4)
    return min(ticks[0], 0.0), max(ticks[-1], 0.0)
  if high <= 1 and (high - low > 0.25 or len(values) == 1):
    return 0.0, 1.0
  ticks = nice_ticks(low, high, 4)
  return ticks[0], min(ticks[-1], 1.0) if high <= 1 else ticks[-1]


def finite(value: object) -> float | None:
  """`value` as a float, or None where there is no finite number."""
  if isinstance(value, numbers.Real) and math.isfinite(value):
    return float(value)
  return None
