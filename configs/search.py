"""Solve problems by a search with any policy and any PRM, and say what it cost.

    python -m prm_jax.main --config=configs/search.py \
        --config.search.methods='beam n=16 width=4'

needs the policy of configs/policy.py and the PRM of configs/loop.py; others:
--config.engine.policy=WORKDIR or --config.engine.kind=remote --config.engine.url=...,
--config.scorer=WORKDIR or a public PRM, --config.input=PATH[:FORMAT]
--config.rollout.problems=''. Methods are those of prm_jax/search/registry.py with their
options; several, with ';', run on the same problems and are compared at equal compute,
against the majority vote of the largest best_of_n among them:

    --config.search.methods='best_of_n n=64; beam n=16 width=4; rebase n=16'

configs/search_comparison.py compares all of them. WORKDIR/searches holds a row a
problem and method (choice, verdict, tokens, FLOPs), WORKDIR/candidates the solutions.
"""

from configs import base


def get_config():
  c = base.get_config()
  c.job = 'search'
  c.engine.policy = 'runs/policy'
  c.scorer = 'runs/loop'
  c.input = 'world:heldout'
  c.rollout.problems = '0:100'
  c.sampling.max_tokens = 96
  c.evaluate.reduction = 'last'
  c.search.methods = 'best_of_n n=64; beam n=16 width=4'
  return c
