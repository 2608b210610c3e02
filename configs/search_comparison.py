"""All searches of the embedded world's policy and PRM, compared at equal compute.

    python -m prm_jax.main --config=configs/search_comparison.py

needs the policy of configs/policy.py and the PRM of configs/loop.py. 128 samples a
problem are the bank that gives the majority vote at any compute, oracle, best of N and
weighted votes; every other search runs on the same 450 held-out problems. The first
150 choose one method by its difference to the majority vote at equal estimated FLOPs
of policy and PRM together, the other 300 test it; all others with Holm's correction.

21 November 2026, two CPU cores that others kept busy (1,232 s; idle not measured). The
method chosen on validation, the own choice of MCTS, is not shown to beat the majority
vote: .770, .025 [-.011, .064] above it. Of 45 others these 10 are, after Holm:

    method, vote of its candidates   solved  MFLOPs  majority there  above it
    rebase n=16                      .803    306     .744            .059 [.027, .094]
    rebase n=4 (and its choice)      .797     84     .739            .058 [.029, .092]
    dvts n=16 width=4                .800    306     .744            .056 [.027, .089]
    particle n=16                    .797    306     .744            .052 [.022, .084]
    adaptive_n first=2 most=32       .790    157     .745            .045 [.020, .073]
    best_of_n n=32                   .790    739     .742            .049 [.029, .073]
    best_of_n n=16                   .788    372     .744            .044 [.025, .065]
    best_of_n n=8                    .781    188     .745            .036 [.020, .053]
    best_of_n n=4                    .764     97     .740            .024 [.012, .037]

The majority vote stays at .744 from 16 samples on; an oracle of 128 has .973. Picking
the best-scored of N falls from .769 at 8 to .670 at 128.
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
