"""All searches of the embedded world's policy and PRM, compared at equal compute.

    export JAX_NUM_CPU_DEVICES=2   # two chunks at a time; leave it out on accelerators
    python -m prm_jax.main --config=configs/search_comparison.py

needs the policy of configs/policy.py and the PRM of configs/loop.py. 128 samples a
problem are the bank that gives the majority vote at any compute, oracle, best of N and
weighted votes; every other search runs on the same 600 held-out problems, which nothing
else has used. The first 250 choose the method that is most surely above the majority
vote at equal estimated FLOPs of policy and PRM together; the other 350 test it, and all
others with Holm's correction.

21 November 2026, two CPU cores, otherwise idle: 300 s. The method chosen on validation,
MCTS with a vote of its solutions, solves .777; the vote at its compute .726, paired
difference .051 [.021, .082]. Of 34 others these 9 are above it after Holm:

    method, vote of its candidates   solved  MFLOPs  majority there  above it
    rebase n=16                      .797    300     .730            .067 [.032, .101]
    dvts n=16 width=4                .789    302     .730            .058 [.027, .090]
    particle n=16                    .789    302     .730            .058 [.024, .092]
    rebase n=4                       .766     82     .719            .047 [.014, .075]
    best_of_n n=32                   .783    729     .736            .047 [.025, .072]
    best_of_n n=16                   .778    367     .732            .046 [.027, .068]
    best_of_n n=8                    .770    186     .727            .043 [.026, .062]
    adaptive_n first=2 most=32       .769    147     .725            .043 [.020, .068]
    best_of_n n=4                    .750     96     .721            .029 [.016, .043]

25 are not shown to be: all that trust one solution, and the votes of beam search, look-
ahead, early rejection, particle n=4 and two samples. The majority vote grows from .725
at 16 samples to .740 at 128; an oracle of 128 has .986. Picking the best-scored of N
falls from .754 at 8 to .727 at 32. On other problems and an earlier PRM (150 chose by
the mean difference, 300 tested) the choice fell on MCTS's single solution, which was
not shown to win.
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
  c.rollout.problems = '500:1100'
  c.search.methods = '; '.join(METHODS)
  c.search.validation = 250
  c.chunk.size = 150
  return c
