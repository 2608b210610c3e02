"""Trees of a label run or of a search, as the report shows them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prm_jax import jsonl, records
from prm_jax.errors import UserError
from prm_jax.evaluation.report import Tree, TreeNode
from prm_jax.labeling import trees
from prm_jax.records import Check, Trajectory

TREES, SEARCHES, CANDIDATES = 'trees', 'searches', 'candidates'
_ENDS = {'length': 'cut off', 'empty': 'empty step', 'partial': 'goes on', 'cut': 'cut'}


def are_there(path: str) -> bool:
  """Whether a folder is the workdir of a run that kept trees."""
  return any(True for _ in (Path(path) / TREES).glob('*.jsonl*'))


def of_run(workdir: str, limit: int = 0) -> list[Tree]:
  """Trees of the workdir of a label run or of a search, of its first `limit` problems
  (0: of all); a search has one for each method. [] if none was kept.

  Raises:
    UserError: a damaged row, or a search whose candidates are not there.
  """
  folder = Path(workdir)
  rows, seen = [], dict[str, None]()
  for where, row in _lines(folder / TREES):
    problem = str(row.get('problem_id'))
    if not limit or problem in seen or len(seen) < limit:
      seen[problem] = None
      rows.append((where, row))
  if not rows:
    return []
  if 'nodes' in rows[0][1]:
    return [of_labels(trees.from_dict(row, where)) for where, row in rows]
  return list(_of_search(folder, rows))


def of_labels(tree: trees.Tree) -> Tree:
  """The tree of a label algorithm: values of prefixes, with what they rest on."""
  return Tree(
    id=tree.problem_id,
    question=tree.question,
    nodes=[
      TreeNode(n.parent, n.steps, n.value, _evidence(n), _own_answer(n))
      for n in tree.nodes
    ],
    algorithm=tree.algorithm,
    split=tree.source,
    gold_answer=tree.gold_answer,
    facts={k: v for k, v in tree.facts.items() if isinstance(v, (str, int, float))},
  )


def _evidence(node: trees.Node) -> str:
  parts = []
  if node.n_rollouts:
    parts.append(f'{node.n_correct} of {node.n_rollouts} rollouts right')
  elif node.how != 'rollouts' and node.value is not None:
    parts.append(f'by {node.how.replace("_", " ")}')
  if node.visits:
    parts.append(f'visited {node.visits} times' if node.visits > 1 else 'visited once')
  return ', '.join(parts)


def _own_answer(node: trees.Node) -> bool | None:
  if node.how != 'own_answer' or node.value is None:
    return None
  return node.value > 0.5


def of_search(
  beams: Sequence[Mapping[str, Any]],
  *,
  id: str,
  question: str,
  where: str = 'tree',
  kind: str = 'probability',
  ends: Mapping[int, Trajectory] | None = None,
  chosen: int | None = None,
  checker: str = 'exact',
  algorithm: str = '',
) -> Tree:
  """The tree of a search: a node a step, so that each has its score.

  Args:
    beams: of the driver: 'id', 'parent' (0: the question), 'steps', 'scores',
      'reason', 'n_tokens'; parents stand before their children.
    id, question: of the problem.
    where: file and line, for errors.
    kind: of the scores.
    ends: beam -> the candidate that ends there.
    chosen: beam of the chosen candidate, None without one.
    checker: key of the verdicts on answers.
    algorithm: that searched.

  Raises:
    UserError: a beam lacks a field, or its parent does not stand before it.
  """
  c, ends = Check(where), ends or {}
  nodes = [TreeNode(-1)]
  last = {0: 0}  # beam -> the node of its last step
  for i, value in enumerate(beams):
    field = f'beams[{i}]'
    beam = c.mapping(field, value)
    steps = c.texts(f'{field}.steps', beam.get('steps'))
    scores = c.items(f'{field}.scores', beam.get('scores'), len(steps))
    number, parent = beam.get('id'), beam.get('parent')
    if parent not in last or not isinstance(number, int):
      raise c.fail(f'{field}.parent', parent, 'a beam that stands before it')
    at = last[parent]
    reason = str(beam.get('reason', ''))
    for k, text in enumerate(steps or [''] if reason != 'step' else steps):
      final = k + 1 >= len(steps)
      score = scores[k] if k < len(scores) else None
      if score is not None:
        score = c.number(f'{field}.scores[{k}]', score, -float('inf'), float('inf'))
      candidate = ends.get(number) if final else None
      verdict = candidate.verdicts.get(checker) if candidate else None
      node = TreeNode(
        at,
        (text,),
        score,
        _told(candidate, _ENDS.get(reason, '') if final else ''),
        verdict.value if verdict else None,
      )
      nodes.append(node)
      at = len(nodes) - 1
    last[number] = at
  best = ends.get(chosen) if chosen is not None else None
  verdict = best.verdicts.get(checker) if best else None
  some = next(iter(ends.values()), None)
  return Tree(
    id=id,
    question=question,
    nodes=nodes,
    chosen=last.get(chosen) if chosen is not None else None,
    algorithm=algorithm,
    split=some.source if some else '',
    kind=kind,
    answer=best.answer if best else None,
    gold_answer=some.gold_answer if some else None,
    verdict=verdict.value if verdict else None,
  )


def _told(candidate: Trajectory | None, end: str) -> str:
  answer = '' if candidate is None or candidate.answer is None else candidate.answer
  return ', '.join(filter(None, (answer and f'answers {answer}', end)))


def _of_search(
  folder: Path, rows: Sequence[tuple[str, dict[str, Any]]]
) -> Iterator[Tree]:
  found: dict[tuple[str, str], dict[str, Any]] = {}
  for _, row in _lines(folder / SEARCHES):
    found[row['method'], row['problem_id']] = row
  held: dict[tuple[str, str], list[Trajectory]] = {}
  for where, row in _lines(folder / CANDIDATES):
    t = records.from_dict(row, where)
    held.setdefault((t.meta['search']['algorithm'], t.problem_id), []).append(t)
  if not found or not held:
    raise UserError(
      f'{folder}: its folders {SEARCHES} and {CANDIDATES} are missing or empty; name '
      'the whole workdir of a search.'
    )
  for where, row in rows:
    key = row.get('method', ''), row.get('problem_id', '')
    mine = held.get(key, [])
    ends = {t.meta['search']['beam']: t for t in mine}
    picked = found.get(key, {}).get('chosen')
    scores = [s for t in mine for s in t.scores.values()]
    one = of_search(
      Check(where).items('beams', row.get('beams')),
      id=f'{key[0]}/{key[1]}',
      question=mine[0].question if mine else '(no solution was finished)',
      where=where,
      kind=scores[0].kind if scores else 'probability',
      ends=ends,
      chosen=next((b for b, t in ends.items() if t.id == picked), None),
      checker=next((n for t in mine for n in t.verdicts), 'exact'),
      algorithm=key[0],
    )
    counts = found.get(key, {}).get('counts', {})
    told = {k: counts[k] for k in ('policy_generated', 'prm_read') if k in counts}
    yield dataclasses.replace(one, facts=told)


def _lines(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
  if not folder.is_dir():
    return
  for file in jsonl.expand(str(folder), ('.jsonl', '.jsonl.gz')):
    for number, row in jsonl.iter_json_lines(file):
      yield f'{file}:{number}', row
