"""Small hand-made trajectories for the tests of evaluation."""

import numpy as np

from prm_jax.records import LabelSet, ScoreSet, Trajectory, Verdict


def solution(
  name, scores, *, first=None, labels=None, problem='', kind='probability', **fields
):
  """One solution judged by 'human': by first error, by labels, or by both."""
  made = {}
  if labels is not None:
    made['labels'] = {'human': LabelSet('correctness', tuple(labels))}
  if first is not None:
    made['first_error'] = {'human': first}
  if scores is not None:
    made['scores'] = {'prm': ScoreSet(kind, tuple(scores))}
  n = len(scores) if scores is not None else len(labels)
  steps = fields.pop('steps', tuple('x' * (i + 1) for i in range(n)))
  return Trajectory(
    id=name, problem_id=problem or name, question='q', steps=steps, **made, **fields
  )


def candidate(problem, index, scores, right, answer, **fields):
  """One candidate of a pool; `right` is True, False or None for not judged."""
  return Trajectory(
    id=f'{problem}/{index}',
    problem_id=problem,
    question='q',
    steps=fields.pop('steps', ('step',) * len(scores)),
    sample_index=index,
    answer=answer,
    verdicts={'exact': Verdict(right)},
    scores={'prm': ScoreSet('probability', tuple(scores))},
    **fields,
  )


def world(name, n_problems, per_problem, seed, kind='logit'):
  """Solutions with a first error, a value and noisy scores that know about it."""
  rng = np.random.default_rng(seed)
  out = []
  for p in range(n_problems):
    for c in range(per_problem):
      n = int(rng.integers(3, 6))
      first = max(int(rng.integers(-n, n)), -1)
      labels = [1.0 if first < 0 or t < first else 0.0 for t in range(n)]
      scores = [float(2 * y - 1 + rng.normal()) for y in labels]
      if kind == 'probability':
        scores = [float(1 / (1 + np.exp(-s))) for s in scores]
      values = [0.7 * y + 0.1 for y in labels]
      right = first < 0 or bool(rng.random() < 0.1)
      out.append(
        Trajectory(
          id=f'{name}{p}_{c}',
          problem_id=f'{name}{p}',
          question='q',
          steps=tuple('x' * int(rng.integers(2, 7)) for _ in range(n)),
          sample_index=c,
          answer='7' if right else str(int(rng.integers(0, 5))),
          verdicts={'exact': Verdict(right)},
          labels={
            'on_track': LabelSet('correctness', tuple(labels)),
            'value': LabelSet('value', tuple(values)),
          },
          first_error={'on_track': first},
          scores={'prm': ScoreSet(kind, tuple(scores))},
        )
      )
  return out
