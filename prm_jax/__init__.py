"""Process reward models in JAX and Flax.

    import prm_jax
    scores = prm_jax.score('runs/pqm', ['>3+4-2=?'], [['+4=7', '-2=5']])

The rest is imported from its rooms: `prm_jax.objectives`, `prm_jax.records`,
`prm_jax.inference.scorer`, ...
"""

from __future__ import annotations

from typing import Any

__all__ = ['score']


def __getattr__(name: str) -> Any:
  # Late, so that `import prm_jax` costs nothing.
  if name == 'score':
    from prm_jax.inference.api import score

    return score
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
