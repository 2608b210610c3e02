"""POST /pooling in the form of vLLM's process reward models.

The input is a text, or its ids, as the model reads it: question, steps, and after each
step the step tag (the marker of the step format). The answer holds one pair
[P(wrong), P(right)] for every tag, in order. In the chat form the user's message is the
question and the assistant's the steps with their tags; that is encoded with the step
format, so it is what `score` reads.
"""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np

from prm_jax.formats.step_format import Encoded, marker_ids
from prm_jax.formats.step_rows import bos_ids, common_length
from prm_jax.inference.serving import WHERE, Query, Refusal, Service, known_fields
from prm_jax.records import Check, Trajectory
from prm_jax.step_values import sigmoid

TASK = 'token_classify'
# Fields that change nothing here: who asks, and what follows the last tag.
WITHOUT_EFFECT = (
  'user', 'request_id', 'priority', 'add_generation_prompt', 'continue_final_message',
)  # fmt: skip
# Field -> values that mean what this server does.
ONLY: dict[str, tuple[Any, ...]] = {
  'task': (None, TASK),
  'encoding_format': (None, 'float', 'base64'),
  'embed_dtype': (None, 'float32'),
  'endianness': (None, 'native', 'little'),
  'truncate_prompt_tokens': (None,),
  'truncation_side': (None,),
}
FIELDS = ('model', 'add_special_tokens', 'use_activation', *ONLY, *WITHOUT_EFFECT)


def pooling(service: Service, body: Any) -> Query:
  """The query of a request.

  Args:
    service: whose scorer has a step tag and gives probabilities or logits.
    body: {'input': text, [text], ids or [ids]} or {'messages': [...]}, and the
      options of vLLM: `use_activation` false asks for [0, logit] instead of
      probabilities, `encoding_format` 'base64' for little-endian float32.

  Raises:
    Refusal: what this scorer or this server cannot answer.
    UserError: values of the wrong type.
  """
  check = Check(WHERE)
  body = check.mapping('body', body)
  service.check_model(body)
  known_fields(body, ('input', 'messages', *FIELDS))
  for name, fine in ONLY.items():
    if body.get(name) not in fine:
      shown = ', '.join('null' if v is None else repr(v) for v in fine)
      raise Refusal(f'request: {name}={body[name]!r} is not served; use {shown}.')
  for name in ('add_special_tokens', 'use_activation'):
    if not isinstance(body.get(name), bool | None):
      raise check.fail(name, body[name], 'true, false or null')
  logits = body.get('use_activation') is False
  _check_scorer(service, logits)
  if ('input' in body) == ('messages' in body):
    raise Refusal("request: give either 'input' or 'messages'.")
  if 'messages' in body:
    rows = service.encode([_conversation(service, check, body['messages'])])
  else:
    special = body.get('add_special_tokens') is not False
    asked = _inputs(check, body['input'])
    service.check_count(len(asked))
    rows = [_row(service, i, x, special) for i, x in enumerate(asked)]
  n_tokens = sum(len(row.tokens) for row in rows)

  def answer(values: list[np.ndarray]) -> dict[str, Any]:
    pairs = [_pairs(service.kind, v, logits) for v in values]
    held: list[Any] = [p.tolist() for p in pairs]
    if body.get('encoding_format') == 'base64':
      held = [base64.b64encode(p.astype('<f4').tobytes()).decode() for p in pairs]
    return {
      'id': f'pool-{body.get("request_id") or uuid.uuid4().hex}',
      'object': 'list',
      'created': int(time.time()),
      'model': service.name,
      'data': [
        {'index': i, 'object': 'pooling', 'data': data} for i, data in enumerate(held)
      ],
      'usage': {
        'prompt_tokens': n_tokens,
        'total_tokens': n_tokens,
        'completion_tokens': 0,
      },
    }

  return service.query(rows, answer)


def _check_scorer(service: Service, logits: bool) -> None:
  if service.kind == 'log_ratio':
    raise Refusal(
      'request: this scorer gives log-ratios, which are no probabilities of two '
      'classes; use /score.'
    )
  if not service.scorer.spec.step_format.marker:
    raise Refusal(
      'request: this scorer reads the last token of each step and has no step tag; use '
      '/score.'
    )
  if logits and service.kind != 'logit':
    raise Refusal(
      'request: use_activation=false asks for logits, and this scorer gives '
      'probabilities; leave it out.'
    )


def _inputs(check: Check, value: Any) -> list[str | list[int]]:
  if isinstance(value, str):
    return [check.text('input', value)]
  items = check.items('input', value)
  if items and isinstance(items[0], int):
    return [_ids(check, 'input', items)]
  return [
    check.text(f'input[{i}]', x)
    if isinstance(x, str)
    else _ids(check, f'input[{i}]', check.items(f'input[{i}]', x))
    for i, x in enumerate(items)
  ]


def _ids(check: Check, field: str, values: Sequence[Any]) -> list[int]:
  return [check.integer(f'{field}[{i}]', v, 0) for i, v in enumerate(values)]


def _row(service: Service, i: int, asked: str | list[int], special: bool) -> Encoded:
  """An input as the scorer reads it, with the places of its step tags."""
  scorer = service.scorer
  fmt, words = scorer.spec.step_format, scorer.tokenizer
  where = f'input[{i}]'
  question_length = 0
  if isinstance(asked, str):
    bos = bos_ids(fmt, words) if special else []
    ids = _encode(service, asked)
    start = [] if ids[: len(bos)] == bos else bos
    tokens = np.array(start + ids, np.int32)
    head = np.array(start + words.encode(_question(service, asked)), np.int32)
    question_length = common_length(tokens, head)
  else:
    vocabulary = scorer.spec.model.vocab_size
    if max(asked, default=0) >= vocabulary:
      raise Refusal(
        f'{where}: the id {max(asked)} is not in the vocabulary of {vocabulary}; '
        "send ids of this model's own tokenizer."
      )
    tokens = np.array(asked, np.int32)
  if len(tokens) > fmt.max_length:
    raise Refusal(
      f'{where}: {len(tokens)} tokens are more than the {fmt.max_length} that this '
      'scorer reads; shorten it.'
    )
  positions = _tags(tokens, marker_ids(fmt, words), fmt.position == 'before')
  if not 0 < len(positions) <= service.limits.steps:
    raise Refusal(
      f'{where}: it holds the step tag {fmt.marker!r} {len(positions)} times; put it '
      f'after each step, {service.limits.steps} times at most.'
    )
  return Encoded(tokens, positions, len(positions), question_length)


def _encode(service: Service, text: str) -> list[int]:
  """Ids of a text; its step tags are tokens even where the tokenizer sees letters."""
  words, fmt = service.scorer.tokenizer, service.scorer.spec.step_format
  marker = list(marker_ids(fmt, words))
  if fmt.encoding == 'whole' or words.encode(fmt.marker) == marker:
    return words.encode(text)
  ids = words.encode(text.partition(fmt.marker)[0])
  for piece in text.split(fmt.marker)[1:]:
    ids += marker + words.encode(piece)
  return ids


def _question(service: Service, text: str) -> str:
  """The text up to the first step where the format's template shows where that is;
  '' elsewhere. What a scorer reads once for all solutions of a question."""
  fmt = service.scorer.spec.step_format
  after = fmt.question_template.partition('{question}')[2]
  head = text.partition(fmt.marker)[0]
  at = head.rfind(after) if after.strip() else -1
  return head[: at + len(after)] if at >= 0 else ''


def _tags(tokens: np.ndarray, marker: tuple[int, ...], before: bool) -> np.ndarray:
  """int32 [P]: where the steps that end with these ids are read."""
  n = len(marker)
  if len(tokens) < n:
    return np.zeros(0, np.int32)
  windows = np.lib.stride_tricks.sliding_window_view(tokens, n)
  start = np.flatnonzero((windows == np.array(marker)).all(axis=-1))
  at = start - 1 if before else start + n - 1
  return at[at >= 0].astype(np.int32)


def _pairs(kind: str, values: np.ndarray, logits: bool) -> np.ndarray:
  """float32 [P, 2] of (wrong, right)."""
  if logits:
    return np.stack([np.zeros_like(values), values], axis=-1)
  if kind == 'probability':
    return np.stack([1 - values, values], axis=-1)
  return np.stack([sigmoid(-values), sigmoid(values)], axis=-1)


def _conversation(service: Service, check: Check, value: Any) -> Trajectory:
  """The solution in a conversation of a question and its answer."""
  messages = [
    check.mapping(f'messages[{i}]', m)
    for i, m in enumerate(check.items('messages', value))
  ]
  texts = [
    (m.get('role'), check.text(f'messages[{i}].content', m.get('content')))
    for i, m in enumerate(messages)
  ]
  fmt = service.scorer.spec.step_format
  roles = [role for role, _ in texts]
  if roles not in (['user', 'assistant'], ['system', 'user', 'assistant']):
    raise Refusal(
      f'request: messages have the roles {roles}; send the question as user and then '
      'all steps, each with its step tag, as assistant, or use /score.'
    )
  if len(texts) == 3 and texts[0][1].strip() not in fmt.question_template:
    raise Refusal(
      'request: the system message is not the one that this scorer was trained with; '
      'leave it out, and it is put there.'
    )
  (_, question), (_, content) = texts[-2:]
  *steps, _ = content.split(fmt.marker)
  return service.solution(question, steps, 'messages')
