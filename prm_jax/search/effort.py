"""How much to spend where: numbers of samples and widths from scores (pure).

Instance-adaptive scaling (arXiv 2506.09338): with a chance p of success a sample, N
samples hold a right one with confidence C where 1 - (1 - p)^N >= C. PATS (arXiv
2505.19250): the beam width of the next step follows the score of this one.
"""

from __future__ import annotations

import math

CONFIDENCE = 0.99
CLIP = 1e-4
WIDTHS = (2, 4, 8)
"""Of PATS: simple, medium, complex."""
COMPLEX = len(WIDTHS) - 1


def samples_needed(p: float, confidence: float = CONFIDENCE, clip: float = CLIP) -> int:
  """N = ceil(ln(1 - C) / ln(1 - p)), at least 1.

  Args:
    p: chance of success of one sample, better taken low (a lower quantile).
    confidence: C in (0, 1).
    clip: p is kept this far from 0 and 1.

  >>> samples_needed(0.5), samples_needed(0.99)
  (7, 1)
  """
  p = min(max(p, clip), 1 - clip)
  return max(1, math.ceil(math.log1p(-confidence) / math.log1p(-p) - 1e-9))


def next_mode(
  best: float,
  mode: int,
  rejected: bool,
  high: float = 0.85,
  low: float = 0.75,
  bad: float = 0.4,
) -> tuple[int, bool]:
  """PATS: what follows a step whose best candidate scored `best`.

  Args:
    best: a probability.
    mode: 0 simple, 1 medium, 2 complex.
    rejected: whether this step is the second attempt, which is accepted.
    high, low, bad: thresholds.

  Returns:
    (mode of the next attempt or step, whether this step is rejected).

  >>> next_mode(0.9, 2, False), next_mode(0.8, 1, False), next_mode(0.7, 0, False)
  ((1, False), (1, False), (2, False))
  >>> next_mode(0.3, 0, False), next_mode(0.3, 2, True)
  ((2, True), (2, False))
  """
  if best < bad and not rejected:
    return COMPLEX, True
  if best >= high:
    return max(mode - 1, 0), False
  return (COMPLEX if best < low else mode), False
