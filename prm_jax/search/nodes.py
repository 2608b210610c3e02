"""The tree of one problem as the driver keeps it: beams, texts, places in sessions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from prm_jax.formats import splitting
from prm_jax.formats.splitting import Splitter
from prm_jax.inference.requests import Completion
from prm_jax.search.protocol import Beam, Expand


class Place(NamedTuple):
  """A row of a session's state."""

  state: Any
  row: int


class Kept(NamedTuple):
  """What is left of a completion that was cut."""

  text: str
  n_tokens: int


@dataclasses.dataclass
class Node:
  """A beam with what only the driver knows.

  Attributes:
    beam: what the algorithm sees.
    path: numbers of the children that lead here; names its random numbers.
    text: everything generated so far, separators included.
    spans: [P] places of the steps in it.
    n_tokens: generated on the way here.
    n_open: of those, tokens of the last step where that is unfinished.
    policy, scorer: places in the sessions, None once let go.
    n_read: steps that the scorer's place has read.
    n_children: how many were drawn so far.
    n_whole: steps that are finished.
    start: where the step after them starts in the text.
  """

  beam: Beam
  path: str = ''
  text: str = ''
  spans: tuple[tuple[int, int], ...] = ()
  n_tokens: int = 0
  n_open: int = 0
  policy: Place | None = None
  scorer: Place | None = None
  n_read: int = 0
  n_children: int = 0
  n_whole: int = 0
  start: int = 0


def child(
  node: Node,
  expand: Expand,
  completion: Completion,
  separator: str,
  most_tokens: int,
  step_tokens: int,
  kept: Kept | None = None,
) -> Node:
  """The node of a completion, not scored yet.

  Args:
    node: its parent.
    expand: what was asked.
    completion: what came.
    separator: that ends steps.
    most_tokens: a solution that reaches so many has ended.
    step_tokens: a step that is longer ends its solution.
    kept: what is left of it, where it was cut.

  Returns:
    With beam id -1: beams are numbered in the order of asking.
  """
  new = kept or Kept(completion.text, completion.n_tokens)
  text = node.text + new.text
  spans = list(node.spans[: node.n_whole])
  reason = _reason(expand, completion, kept)
  n_tokens = node.n_tokens + new.n_tokens
  if expand.whole:
    found = splitting.split(text[node.start :], Splitter('separator', separator))
    spans += [(node.start + a, node.start + b) for a, b in found.spans]
  elif text[node.start :].strip():
    spans.append((node.start, len(text)))
  elif reason == 'step':
    reason = 'empty'
  start, n_whole = node.start, node.n_whole
  if reason not in ('partial', 'cut'):
    text += separator * (reason == 'step')
    start, n_whole = len(text), len(spans)
  n_open = node.n_open + new.n_tokens
  long = n_open > step_tokens if reason == 'step' else n_open >= step_tokens
  if (n_tokens >= most_tokens or long) and reason in ('step', 'partial', 'cut'):
    reason = 'length'
  beam = Beam(
    -1,
    node.beam.id,
    tuple(text[a:b] for a, b in spans),
    node.beam.scores[: node.n_whole],
    reason,
    completion.n_tokens,
    completion.logprobs[: new.n_tokens],
  )
  return Node(
    beam,
    f'{node.path}.{completion.sample_index}',
    text,
    tuple(spans),
    n_tokens,
    n_open if reason in ('partial', 'cut') else 0,
    scorer=node.scorer,
    n_read=node.n_read,
    n_whole=n_whole,
    start=start,
  )


def _reason(expand: Expand, completion: Completion, kept: Kept | None) -> str:
  if kept is not None:
    return 'cut'
  if completion.finish_reason != 'length':
    return 'end' if expand.whole or completion.finish_reason == 'end' else 'step'
  reached = 0 < expand.max_tokens <= completion.n_tokens
  return 'partial' if reached else 'length'


def tree(nodes: Sequence[Node]) -> list[dict[str, Any]]:
  """JSON-ready edges, for a viewer: one object a beam but the root.

  'steps' and 'scores' are those that the beam has and its parent had not finished.
  """
  out = []
  for n in nodes[1:]:
    first = nodes[n.beam.parent].n_whole
    scores = [None if math.isnan(s) else s for s in n.beam.scores[first:]]
    out.append(
      {
        'id': n.beam.id,
        'parent': n.beam.parent,
        'steps': list(n.beam.steps[first:]),
        'scores': scores,
        'reason': n.beam.reason,
        'n_tokens': n.beam.n_tokens,
      }
    )
  return out
