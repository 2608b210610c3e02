"""Planning: which completions run together, in which fixed shapes. NumPy only.

A wave is what one run of the decode loop works off: some texts, each read once, and
for each text the completions of its prefixes. What a prompt's results could notice
depends on that prompt alone, never on its company: the size its text is read in, the
members of a group, the room for own keys. The room for texts is that of the longest in
the wave; attention reads it in blocks, and those behind a prefix change no bit.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from prm_jax.inference.buckets import bucket

MIN_READ = 16
MIN_TEXT = 64  # a block of `attention.forked`
OWN_MULTIPLE = 32
SHARES_PER_GROUP = 4


class Shape(NamedTuple):
  """Of a wave on the device.

  Attributes:
    groups: U, texts that are worked on at the same time.
    members: C, slots of each; U * C are all slots.
    text: positions of a text's keys.
    own: positions of a completion's own keys.
  """

  groups: int
  members: int
  text: int
  own: int


class Prompt(NamedTuple):
  """A request that can be served, encoded.

  Attributes:
    request: its index.
    text: index of the text whose prefix it is.
    length: tokens of that prefix, at least 1.
    limit: new tokens at most, at least 1.
    n, first_sample: as in `requests.Request`.
  """

  request: int
  text: int
  length: int
  limit: int
  n: int
  first_sample: int


@dataclasses.dataclass(frozen=True)
class Wave:
  """Texts and, row by row, the completions of their prefixes.

  The rows of a text are neighbours, and are cut into shares, so that several groups
  can work on a text with many. R rows, I shares, int32 arrays.

  Attributes:
    shape: on the device.
    texts: int32 arrays, each cut behind the longest prefix asked for.
    sizes: tokens that each text is padded to when it is read.
    share_text: [I], index of the text that a share's rows belong to.
    offsets: [I + 1]; rows offsets[i] to offsets[i + 1] are share i.
    request: [R], index of the request.
    sample: [R], number of the sample.
    first_token: [R], last token of the prefix, which is fed first.
    shared_length: [R], tokens of the prefix before it.
    limit: [R], new tokens at most.
  """

  shape: Shape
  texts: list[np.ndarray]
  sizes: list[int]
  share_text: np.ndarray
  offsets: np.ndarray
  request: np.ndarray
  sample: np.ndarray
  first_token: np.ndarray
  shared_length: np.ndarray
  limit: np.ndarray

  @property
  def n_rows(self) -> int:
    """R."""
    return len(self.request)

  @property
  def shared_tokens(self) -> int:
    """Tokens whose keys are computed by prefilling each text once."""
    return sum(len(text) - 1 for text in self.texts)

  @property
  def unshared_tokens(self) -> int:
    """The same if every completion prefilled its own prefix."""
    return int(self.shared_length.sum())


def shape_of(
  prompt: Prompt, text_length: int, *, slots: int, group: int, own: int
) -> Shape:
  """The shape that a prompt runs in, if its text is the longest of its wave.

  Many completions of one prefix share a group. Of a prompt that asks for a few only,
  the other members of a group would idle: it runs in groups of one.

  Args:
    prompt: what is asked.
    text_length: tokens of its whole text.
    slots: of the device.
    group: members of a group, a divisor of `slots`.
    own: new tokens that any prompt of this call may want.
  """
  members = group if 2 * prompt.n >= group else 1
  own = -(-own // OWN_MULTIPLE) * OWN_MULTIPLE
  return Shape(slots // members, members, bucket(text_length, MIN_TEXT, 1), own)


def plan(
  prompts: Sequence[Prompt],
  texts: Sequence[np.ndarray],
  *,
  slots: int,
  group: int,
  own: int,
  max_rows: int,
  max_texts: Callable[[Shape], int],
) -> Iterator[Wave]:
  """Waves that serve all prompts.

  Args:
    prompts: in any order; those of one text and shape are brought together.
    texts: int32 arrays of whole texts.
    slots, group, own: see `shape_of`.
    max_rows: completions of a wave at most.
    max_texts: texts of a wave at most, for a shape.

  Yields:
    Waves, groups of one first, shorter texts before longer ones.
  """
  shape = functools.partial(shape_of, slots=slots, group=group, own=own)

  def wave(held):
    longest, rows = held[-1]
    return _wave(shape(rows[0][0], len(texts[longest])), texts, held)

  classes: dict[int, dict[int, list[Prompt]]] = {}
  for p in prompts:
    members = shape(p, 1).members
    classes.setdefault(members, {}).setdefault(p.text, []).append(p)
  for _, by_text in sorted(classes.items()):
    held: list[tuple[int, list[tuple[Prompt, int]]]] = []
    room = max_rows
    for text in sorted(by_text, key=lambda text: len(texts[text])):
      rows = [(p, p.first_sample + i) for p in by_text[text] for i in range(p.n)]
      largest = shape(rows[0][0], len(texts[text]))
      while rows:
        if held and (not room or len(held) >= max_texts(largest)):
          yield wave(held)
          held, room = [], max_rows
        held.append((text, rows[:room]))
        room, rows = room - len(held[-1][1]), rows[room:]
    yield wave(held)


def _wave(
  shape: Shape,
  texts: Sequence[np.ndarray],
  held: Sequence[tuple[int, list[tuple[Prompt, int]]]],
) -> Wave:
  rows = [(p, sample) for _, members in held for p, sample in members]
  ints = lambda values: np.array(values, np.int32)
  # Which group works on what changes no result: shares are cut for even loads.
  most = max(shape.members, len(rows) // (SHARES_PER_GROUP * shape.groups))
  share_text, sizes = [], []
  for i, (_, members) in enumerate(held):
    for start in range(0, len(members), most):
      share_text.append(i)
      sizes.append(min(most, len(members) - start))
  return Wave(
    shape,
    [texts[text][: max(p.length for p, _ in members)] for text, members in held],
    [bucket(len(texts[text]), MIN_READ) for text, _ in held],
    ints(share_text),
    ints(np.cumsum([0, *sizes])),
    ints([p.request for p, _ in rows]),
    ints([sample for _, sample in rows]),
    ints([texts[p.text][p.length - 1] for p, _ in rows]),
    ints([p.length - 1 for p, _ in rows]),
    ints([p.limit for p, _ in rows]),
  )
