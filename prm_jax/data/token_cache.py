"""The token cache: rows encoded and filtered once, as ragged arrays.

The cache of a run lies in `cache_dir/<key>`, where the key is made of everything
that its content depends on: the data, the step format with its truncation, the
tokenizer, the label set, the checker and the policies. The second run reads it
back; a damaged one is built again, with a note.

With a text format instead of a step format the rows are solutions as a policy reads
and learns them; labels play no part then, and steps are read at their last tokens.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from prm_jax import specs
from prm_jax.data import array_files, columns
from prm_jax.data.columns import Columns
from prm_jax.data.sources import Mixture
from prm_jax.errors import UserError
from prm_jax.formats import step_format, text_format
from prm_jax.formats.tokenizers import Tokenizer
from prm_jax.records import Trajectory
from prm_jax.specs import StepFormat, TextFormat

VERSION = 1
REQUIREMENTS = ('labels', 'outcome', 'right')
Format = StepFormat | TextFormat


@dataclasses.dataclass(frozen=True)
class TokenCache:
  """R usable rows; row r is tokens[offsets[r]:offsets[r + 1]], its steps are
  [step_offsets[r]:step_offsets[r + 1]] of every array of length S.

  Attributes:
    tokens: int32 [sum of T].
    offsets: int64 [R + 1].
    step_positions: int32 [S], within the row.
    step_offsets: int64 [R + 1].
    labels: float32 [S], 0 where unlabelled.
    mask: bool [S], labelled.
    weights: float32 [S], loss weight of the step; 0 is context only.
    outcome: float32 [R], verdict on the answer, 0 where not judged.
    outcome_mask: bool [R], judged.
    problem_index: int32 [R].
    problem_weight: float32 [R], 1 / rows of the problem here.
    source_index: int32 [R] into `sources`.
    question_length: int32 [R], tokens before the first step.
    row_index: int64 [R], which of the rows given this is.
    id_text, id_offsets: uint8 and int64 [R + 1], names of the rows (`row_id`).
    sources: names.
    label: name of the label set.
    label_kinds: kinds of it met in the data.
    pad_id: the tokenizer's.
    counters: what was used and what was not: rows_ with a reason of
      `step_format.REASONS`, or unlabelled, weightless (labels are all context),
      labels_cut (truncation took every label with a weight), unjudged, wrong. Each
      also as 'SOURCE/...' where there are several sources.
    key: names the cache; equal keys hold equal arrays.
    notes: what a person should know, e.g. that a damaged cache was built again.
  """

  tokens: np.ndarray
  offsets: np.ndarray
  step_positions: np.ndarray
  step_offsets: np.ndarray
  labels: np.ndarray
  mask: np.ndarray
  weights: np.ndarray
  outcome: np.ndarray
  outcome_mask: np.ndarray
  problem_index: np.ndarray
  problem_weight: np.ndarray
  source_index: np.ndarray
  question_length: np.ndarray
  row_index: np.ndarray
  id_text: np.ndarray
  id_offsets: np.ndarray
  sources: tuple[str, ...]
  label: str
  label_kinds: tuple[str, ...]
  pad_id: int
  counters: dict[str, int]
  key: str
  notes: tuple[str, ...] = ()

  @property
  def n_rows(self) -> int:
    """R."""
    return len(self.offsets) - 1

  @property
  def lengths(self) -> np.ndarray:
    """[R] int64, tokens of each row."""
    return np.diff(self.offsets)

  @property
  def n_steps(self) -> np.ndarray:
    """[R] int64, steps of each row."""
    return np.diff(self.step_offsets)

  def row_id(self, row: int) -> str:
    """Id of the trajectory that became row `row`."""
    text = self.id_text[self.id_offsets[row] : self.id_offsets[row + 1]]
    return text.tobytes().decode()


_ARRAYS = tuple(
  f.name for f in dataclasses.fields(TokenCache) if f.type == 'np.ndarray'
)
_META = ('sources', 'label', 'label_kinds', 'pad_id', 'counters', 'key')


def build(
  trajectories: Mixture | Sequence[Trajectory],
  fmt: Format,
  tokenizer: Tokenizer,
  label: str,
  checker: str = '',
  cache_dir: str | os.PathLike[str] | None = None,
  *,
  require: Sequence[str] = ('labels',),
  allow_empty: bool = False,
) -> TokenCache:
  """Encodes and filters records, or reads the cache of an earlier run.

  Args:
    trajectories: rows, alone or as a mixture of sources.
    fmt, tokenizer: checked together first (`step_format.check`, `text_format.check`).
    label: label set to train on; '' takes none.
    checker: verdict to take outcomes from; '' takes none.
    cache_dir: where caches lie; None keeps nothing.
    require: what a row must have to be used: 'labels' (a labelled step with a
      weight above 0, after truncation), 'outcome' (a judged answer), 'right' (an
      answer that is not judged wrong).
    allow_empty: use rows with empty steps.

  Raises:
    UserError: the format cannot work, no row is usable, no step is labelled
      although labels are required, or markers and steps do not match.
  """
  if isinstance(trajectories, Mixture):
    rows = columns.of_trajectories(
      trajectories.trajectories, label, checker,
      trajectories.source_index, trajectories.names,
    )  # fmt: skip
  else:
    rows = columns.of_trajectories(trajectories, label, checker)
  return build_columns(
    rows, fmt, tokenizer, label, checker, cache_dir,
    require=require, allow_empty=allow_empty,
  )  # fmt: skip


def build_columns(
  rows: Columns,
  fmt: Format,
  tokenizer: Tokenizer,
  label: str,
  checker: str = '',
  cache_dir: str | os.PathLike[str] | None = None,
  *,
  require: Sequence[str] = ('labels',),
  allow_empty: bool = False,
) -> TokenCache:
  """`build` from columns (`columns.of_world` makes them without records)."""
  if bad := sorted(set(require) - set(REQUIREMENTS)):
    raise UserError(f'a row cannot be required to have {bad[0]!r}; {REQUIREMENTS} can.')
  if isinstance(fmt, TextFormat):
    text_format.check(fmt, tokenizer)
  else:
    step_format.check(fmt, tokenizer)
  key = _key(rows, fmt, tokenizer, label, checker, require, allow_empty)
  notes: tuple[str, ...] = ()
  folder = None if cache_dir is None else epath.Path(cache_dir) / key
  if folder is not None and folder.exists():
    try:
      return _read(folder)
    except array_files.Damaged as e:
      notes = (f'the token cache {folder} was damaged ({e}) and is built again',)
      array_files.discard(folder)
  cache = _encode(rows, fmt, tokenizer, label, key, tuple(require), allow_empty)
  if folder is not None:
    arrays = {name: getattr(cache, name) for name in _ARRAYS}
    array_files.save(folder, arrays, {name: getattr(cache, name) for name in _META})
  return dataclasses.replace(cache, notes=notes)


def _key(
  rows: Columns,
  fmt: Format,
  tokenizer: Tokenizer,
  label: str,
  checker: str,
  require: Sequence[str],
  allow_empty: bool,
) -> str:
  parts = {
    'version': VERSION,
    'data': rows.hash(),
    'step_format': specs.to_dict(fmt),
    'tokenizer': tokenizer.fingerprint,
    'label': label,
    'checker': checker,
    'require': sorted(require),
    'allow_empty': allow_empty,
  }
  text = json.dumps(parts, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:24]


def _read(folder: epath.Path) -> TokenCache:
  arrays, meta = array_files.load(folder)
  if set(arrays) != set(_ARRAYS) or set(meta) != set(_META):
    raise array_files.Damaged('its arrays are not those of a token cache')
  held: dict[str, Any] = {**arrays, **meta}
  lists = {k: tuple(v) for k, v in meta.items() if isinstance(v, list)}
  return TokenCache(**{**held, **lists})


def _encode(
  rows: Columns,
  fmt: Format,
  tokenizer: Tokenizer,
  label: str,
  key: str,
  require: tuple[str, ...],
  allow_empty: bool,
) -> TokenCache:
  if isinstance(fmt, TextFormat):
    encoded = text_format.encode_rows(fmt, tokenizer, rows.questions, rows.steps)
  else:
    encoded = step_format.encode_rows(
      fmt, tokenizer, rows.questions, rows.steps,
      allow_empty=allow_empty, names=rows.ids,
    )  # fmt: skip
  given, kept = rows.n_steps, np.diff(encoded.step_offsets)
  # Labels follow the steps: what truncation cut loses its label as well.
  row_of = np.repeat(np.arange(len(given)), given)
  counts = ~np.isnan(rows.values) & (rows.weights > 0)
  n_counting_given = np.bincount(row_of[counts], minlength=len(given))
  within = np.arange(len(row_of)) - np.repeat(np.cumsum(given) - given, given)
  here = within < kept[row_of]
  values, weights = rows.values[here], rows.weights[here]
  mask = ~np.isnan(values)
  row_of = row_of[here]
  n_labels = np.bincount(row_of[mask], minlength=len(given))
  n_counting = np.bincount(row_of[counts[here]], minlength=len(given))
  reasons = np.array(encoded.reasons, dtype='U16')
  usable = reasons == ''
  if 'labels' in require:
    mute = usable & (n_counting == 0)
    reasons[mute] = np.where(n_labels[mute] > 0, 'weightless', 'unlabelled')
    reasons[mute & (n_counting_given > 0)] = 'labels_cut'
  if 'outcome' in require:
    reasons[(reasons == '') & np.isnan(rows.outcome)] = 'unjudged'
  if 'right' in require:
    reasons[(reasons == '') & (rows.outcome == 0)] = 'wrong'
  used = reasons == ''

  facts = {
    'rows': np.ones(len(used), int),
    'rows_used': used,
    **{f'rows_{r}': reasons == r for r in np.unique(reasons[~used])},
    'rows_truncated': used & (kept < given),
    'steps_used': np.where(used, kept, 0),
    'steps_truncated': np.where(used, given - kept, 0),
    'steps_labelled': np.where(used, n_labels, 0),
    'steps_context_only': np.where(used, n_labels - n_counting, 0),
  }
  if 'right' in require:
    facts['rows_used_without_verdict'] = used & np.isnan(rows.outcome)
  counters = _count(facts, rows)
  if not used.any():
    raise UserError(_nothing_left(counters, label, fmt))

  tokens_used = np.repeat(used, np.diff(encoded.offsets))
  steps_used = np.repeat(used, kept)
  chosen = step_format.EncodedRows(
    tokens=encoded.tokens[tokens_used],
    offsets=_offsets(np.diff(encoded.offsets)[used]),
    step_positions=encoded.step_positions[steps_used],
    step_offsets=_offsets(kept[used]),
    question_length=encoded.question_length[used],
    full_length=encoded.full_length[used],
    reasons=[''] * int(used.sum()),
  )
  mask = mask[steps_used]
  demanded = mask if 'labels' in require else np.ones_like(mask)
  if isinstance(fmt, StepFormat):
    step_format.check_dataset(fmt, tokenizer, chosen, demanded)
  outcome = rows.outcome[used]
  row_index = np.flatnonzero(used)
  problem = columns.problem_numbers([rows.problem_ids[r] for r in row_index])
  id_text, id_offsets = columns.pack_texts([rows.ids[r] for r in row_index])
  return TokenCache(
    tokens=chosen.tokens,
    offsets=chosen.offsets,
    step_positions=chosen.step_positions,
    step_offsets=chosen.step_offsets,
    labels=np.where(mask, values[steps_used], 0).astype(np.float32),
    mask=mask,
    weights=weights[steps_used],
    outcome=np.nan_to_num(outcome, nan=0.0),
    outcome_mask=~np.isnan(outcome),
    problem_index=problem,
    problem_weight=(1 / np.bincount(problem)[problem]).astype(np.float32),
    source_index=rows.source_index[used],
    question_length=chosen.question_length,
    row_index=row_index,
    id_text=id_text,
    id_offsets=id_offsets,
    sources=rows.sources,
    label=label,
    label_kinds=rows.label_kinds,
    pad_id=tokenizer.pad_id,
    counters=counters,
    key=key,
  )


def _offsets(lengths: np.ndarray) -> np.ndarray:
  return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _count(facts: dict[str, np.ndarray], rows: Columns) -> dict[str, int]:
  counters = {name: int(per_row.sum()) for name, per_row in facts.items()}
  if len(rows.sources) > 1:
    for i, source in enumerate(rows.sources):
      here = rows.source_index == i
      counters |= {f'{source}/{n}': int(v[here].sum()) for n, v in facts.items()}
  return counters


def _nothing_left(counters: dict[str, int], label: str, fmt: Format) -> str:
  words = {
    k.removeprefix('rows_'): n
    for k, n in counters.items()
    if k.startswith('rows_') and not k.startswith(('rows_used', 'rows_truncated'))
  }
  why = ', '.join(f'{n} {k}' for k, n in words.items()) or 'there are none'
  todo = 'check the data'
  if set(words) == {'unlabelled'}:
    todo = f'check that label set {label!r} holds labels, and the label policy'
  elif {'too_long', 'labels_cut'} & set(words):
    which = 'text' if isinstance(fmt, TextFormat) else 'format'
    todo = f'raise {which}.max_length (now {fmt.max_length})'
  elif set(words) == {'wrong'}:
    todo = 'give solutions that reach the right answer, or set policy.train_on=all'
  return f'no row of {counters["rows"]} can be used ({why}); {todo}.'
