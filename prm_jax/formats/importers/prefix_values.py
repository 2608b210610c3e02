"""MATH-APS (OmegaPRM, flat): values of solution prefixes, as trajectories.

A row lists prefixes of several solutions of one question, each with its Monte-Carlo
value. A prefix that no other one continues is a solution; it is cut into steps where
a shorter listed prefix ends, and each step carries the value of the prefix it
completes. A prefix shared by several solutions carries its weight once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from prm_jax.formats import label_policy
from prm_jax.formats.importers.rows import Row
from prm_jax.records import LabelSet, Trajectory


def math_aps(rows: Iterable[Row]) -> list[Trajectory]:
  """`question`, `final_answer`, `reasoning_steps[].{solution_prefix, mc_value}`."""
  out: list[Trajectory] = []
  counters: Counter[str] = Counter()
  for row in rows:
    counters = row.counters
    question = row.string('question')
    values: dict[str, float] = {}
    for i, held in enumerate(row.items('reasoning_steps', row.get('reasoning_steps'))):
      field = f'reasoning_steps[{i}]'
      one = row.mapping(field, held)
      prefix = row.text(f'{field}.solution_prefix', one.get('solution_prefix'))
      if not prefix.startswith(question):
        shown = prefix[:40]
        raise row.fail(f'{field}.solution_prefix', shown, 'the question, continued')
      value = row.number(f'{field}.mc_value', one.get('mc_value'), 0, 1)
      counters['repeated_prefixes'] += prefix in values
      values.setdefault(prefix, value)
    for chain in _chains(question, values):
      cuts = [len(question), *(len(p) for p in chain)]
      steps = tuple(chain[-1][a:b].strip() for a, b in pairwise(cuts))
      trajectory = row.trajectory(
        question,
        steps,
        index=chain[-1],
        separator='\n\n',
        gold_answer=row.maybe_string('final_answer'),
        meta={
          **row.rest('question', 'final_answer', 'reasoning_steps'),
          'question_value': values.get(question),
        },
      )
      labels = LabelSet('value', tuple(values[p] for p in chain), {'by': 'monte_carlo'})
      out.append(label_policy.label(trajectory, 'source', labels, row.options))
  weighed, counts = label_policy.weigh_once(out, 'source')
  counters.update(counts)
  return weighed


def _chains(question: str, values: dict[str, float]) -> Iterable[list[str]]:
  """Listed prefixes in nested order, one list for each that none continues.

  In sorted order the prefixes of a text stand before it, so a stack of those that
  still apply finds every chain in one pass.
  """
  chain: list[str] = []
  for prefix in sorted(p for p in values if p != question):
    if chain and not prefix.startswith(chain[-1]):
      yield list(chain)
      while chain and not prefix.startswith(chain[-1]):
        chain.pop()
    chain.append(prefix)
  if chain:
    yield chain
