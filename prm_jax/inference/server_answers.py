"""What a completions server answered, checked and taken apart.

An answer that is not sound is not repaired by guessing: it is asked for again. What
may differ between servers (how an ending is named, whether log-probabilities come)
is settled here.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from prm_jax.inference.http_client import Unusable
from prm_jax.inference.requests import Completion, Sampling


@dataclasses.dataclass(frozen=True)
class Answer:
  """A sound answer.

  Attributes:
    choices: index -> completion, its sample_index that index; there may be fewer than
      were asked for.
    prompt_tokens: of the usage, 0 if it does not say.
    unclear_stops: completions ended by a stop string or the end token, unknown which.
    repaired_texts: texts with lone surrogates, which are '?' now.
    estimated_token_counts: completions whose share of the exact total is a guess.
  """

  choices: dict[int, Completion]
  prompt_tokens: int
  unclear_stops: int
  repaired_texts: int
  estimated_token_counts: int


def read(said: Any, asked: int, sampling: Sampling) -> Answer:
  """Takes apart the parsed answer to a request for `asked` choices.

  Choices are told apart by their index, never by their place.

  Raises:
    Unusable: it is not sound.
  """
  listed = said.get('choices') if isinstance(said, dict) else None
  if not isinstance(listed, list) or not listed:
    error = (said.get('error') or said.get('message')) if isinstance(said, dict) else ''
    raise _malformed(f'no choices, but {error!r}'[:200] if error else 'no choices')
  usage = said.get('usage')
  usage = usage if isinstance(usage, dict) else {}
  spent = _whole(usage.get('completion_tokens'))
  choices: dict[int, Completion] = {}
  unclear = repaired = estimated = 0
  for place, choice in enumerate(listed):
    index, text = _named(choice, asked)
    if index in choices:
      raise _malformed(f'choice {index} twice')
    sound = text.encode('utf-8', 'replace').decode('utf-8')
    repaired += sound != text
    finish_reason, sound, clear = _ending(choice, sound, sampling)
    unclear += not clear
    logprobs = _log_probabilities(choice)
    n_tokens = len(logprobs or ())
    if logprobs is None:
      if spent is None:
        raise _malformed('neither log-probabilities nor a usage to count tokens by')
      n_tokens = spent // len(listed) + (place < spent % len(listed))
      estimated += len(listed) > 1
    choices[index] = Completion(
      text=sound,
      tokens=(),
      logprobs=logprobs or (),
      entropies=(),
      finish_reason=finish_reason,
      sample_index=index,
      n_tokens=n_tokens,
    )
  prompt_tokens = _whole(usage.get('prompt_tokens')) or 0
  return Answer(choices, prompt_tokens, unclear, repaired, estimated)


def _malformed(reason: str) -> Unusable:
  return Unusable(f'an answer with {reason}', 'malformed_answers')


def _whole(value: Any) -> int | None:
  good = isinstance(value, int) and not isinstance(value, bool) and value >= 0
  return value if good else None


def _named(choice: Any, asked: int) -> tuple[int, str]:
  if not isinstance(choice, dict):
    raise _malformed('a choice that is not an object')
  index, text = _whole(choice.get('index')), choice.get('text')
  if index is None or index >= asked:
    shown = repr(choice.get('index'))[:40]
    raise _malformed(f'a choice of index {shown} where {asked} were asked for')
  if not isinstance(text, str):
    raise _malformed(f'choice {index} without text')
  return index, text


def _log_probabilities(choice: dict[str, Any]) -> tuple[float, ...] | None:
  held = choice.get('logprobs')
  if held is None:
    return None
  values = held.get('token_logprobs') if isinstance(held, dict) else None
  if not isinstance(values, list) or not all(
    isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)
    for v in values
  ):
    raise _malformed('log-probabilities that are not finite numbers')
  tokens = held.get('tokens')
  if isinstance(tokens, list) and len(tokens) != len(values):
    raise _malformed(f'{len(values)} log-probabilities for {len(tokens)} tokens')
  return tuple(float(v) for v in values)


def _ending(
  choice: dict[str, Any], text: str, sampling: Sampling
) -> tuple[str, str, bool]:
  """Finish reason, the text with or without its stop string, and whether it is sure.

  vLLM names the stop string in `stop_reason`, SGLang in `matched_stop`; both leave
  None or a token's id there for the end token. OpenAI says neither.
  """
  reason = choice.get('finish_reason')
  if reason == 'length':
    return 'length', text, True
  if reason != 'stop':
    raise _malformed(f'finish_reason {reason!r}'[:80])
  if not sampling.stop:
    return 'end', text, True
  name = 'stop_reason' if 'stop_reason' in choice else 'matched_stop'
  if name in choice:
    stop = choice[name]
    if not isinstance(stop, str) or stop not in sampling.stop:
      return 'end', text, True
  else:
    found = [s for s in sampling.stop if text.endswith(s)]
    if not found:
      return 'stop', text, False
    stop = max(found, key=len)
  if not sampling.keep_stop:
    return 'stop', text.removesuffix(stop), True
  return 'stop', text if text.endswith(stop) else text + stop, True
