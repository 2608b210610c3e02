"""All searches of the embedded world's policy and PRM, compared at equal compute.

    python -m prm_jax.main --config=configs/search_comparison.py

needs the policy of configs/policy.py and the PRM of configs/loop.py. 128 samples a
problem are the bank that gives the majority vote at any compute, oracle, best of N and
weighted votes; every other search runs on the same 450 held-out problems. The first
150 choose one method by its difference to the majority vote at equal estimated FLOPs
of policy and PRM together, the other 300 test it; all others with Holm's correction.
"""

from configs import search

METHODS = (
  'best_of_n n=128',
  'adaptive_n first=2 most=32',
  'greedy width=4',
  'pats',
  'adaptive_step threshold=0.9 width=4',
  'beam n=4 width=4',
  'beam n=16 width=4',
  'dvts n=16 width=4',
  'lookahead n=8 width=4',
  'early_rejection n=16 width=4 tau=4',
  'rebase n=4',
  'rebase n=16',
  'particle n=4',
  'particle n=16',
  'mcts simulations=8 width=4',
)


def get_config():
  c = search.get_config()
  c.rollout.problems = '0:450'
  c.search.methods = '; '.join(METHODS)
  c.search.validation = 150
  c.chunk.size = 150
  return c
