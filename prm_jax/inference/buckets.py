"""Sizes that arrays are padded to, so that few shapes are compiled."""

from __future__ import annotations


def bucket(n: int, smallest: int, per_octave: int = 2) -> int:
  """Smallest of 16, 24, 32, 48, 64, 96, ... (for smallest=16) that holds n.

  With `per_octave` 1 only the powers of two times `smallest`; with 4 or 8 as many
  sizes between each of them and its double, in multiples of `smallest`.

  >>> [bucket(n, 16) for n in (3, 17, 25)], bucket(17, 16, 1)
  ([16, 24, 32], 32)
  >>> [bucket(n, 16, 8) for n in (3, 17, 129, 257, 289)]
  [16, 32, 144, 288, 320]
  """
  size = smallest
  while size * 2 < n:
    size *= 2
  if n <= size:
    return size
  step = size // per_octave
  if per_octave > 2:
    step = max(step, smallest)
  return size + -(-(n - size) // step) * step


def one_of(n: int, sizes: tuple[int, ...]) -> int:
  """Smallest of `sizes` that holds n; beyond the last one its doubles.

  >>> [one_of(n, (8, 16, 64)) for n in (3, 9, 17, 65, 300)]
  [8, 16, 64, 128, 512]
  """
  for size in sizes:
    if n <= size:
      return size
  return bucket(n, sizes[-1], 1)
