"""Random numbers that are functions of their place: no state, no order, no version.

Every draw of the world is `uniform(key, row, ...)`: SplitMix64 (Steele, Lea and
Flood, "Fast splittable pseudorandom number generators", 2014) applied to a key and
the draw's indices in whole-number arithmetic. So row i is the same however many
rows are asked for, in whatever order, on every machine and numpy version.
"""

from __future__ import annotations

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def key_of(*parts: object) -> np.ndarray:
  """A 64-bit key, uint64 [], from any printable parts."""
  digest = hashlib.sha256('\x1f'.join(map(str, parts)).encode('utf-8')).digest()
  return np.array(int.from_bytes(digest[:8], 'little'), np.uint64)


def bits(key: np.ndarray, *indices: np.ndarray | int) -> np.ndarray:
  """64 random bits for every index tuple.

  Args:
    key: uint64 [] or an array of keys.
    *indices: whole numbers >= 0; all arguments broadcast against each other.

  Returns:
    uint64 array of the broadcast shape.
  """
  state = np.asarray(key, np.uint64)
  with np.errstate(over='ignore'):
    for index in indices:
      place = np.asarray(index).astype(np.uint64) + np.uint64(1)
      state = _mix(state + place * _GOLDEN)
  return state


def uniform(key: np.ndarray, *indices: np.ndarray | int) -> np.ndarray:
  """Uniform numbers in [0, 1), float64, multiples of 2^-44.

  So a sum with a whole number below 256 is exact and never rounds up to the next.
  """
  return (bits(key, *indices) >> np.uint64(20)).astype(np.float64) * 2.0**-44


def below(high: int, key: np.ndarray, *indices: np.ndarray | int) -> np.ndarray:
  """Whole numbers in [0, high), int64."""
  return (uniform(key, *indices) * high).astype(np.int64)


def _mix(state: np.ndarray) -> np.ndarray:
  state = (state ^ (state >> np.uint64(30))) * _MIX_1
  state = (state ^ (state >> np.uint64(27))) * _MIX_2
  return state ^ (state >> np.uint64(31))
