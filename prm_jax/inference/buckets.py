"""Sizes that arrays are padded to, so that few shapes are compiled."""

from __future__ import annotations


def bucket(n: int, smallest: int, per_octave: int = 2) -> int:
  """Smallest of 16, 24, 32, 48, 64, 96, ... (for smallest=16) that holds n.

  With `per_octave` 1 only the powers of two times `smallest`.

  >>> [bucket(n, 16) for n in (3, 17, 25)], bucket(17, 16, 1)
  ([16, 24, 32], 32)
  """
  size = smallest
  while size < n:
    if per_octave == 2 and size * 3 // 2 >= n:
      return size * 3 // 2
    size *= 2
  return size
