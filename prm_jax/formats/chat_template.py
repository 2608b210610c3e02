"""Chat templates: the text around question and steps, rendered once, in a sandbox.

A chat template is a program in Jinja's language that comes with a checkpoint. It runs
in a process of its own (chat_worker.py): no file can be included or imported, no
attribute of an object's insides read, nothing given to it changed, and the process has
bounds on CPU time, on memory and on the length of what it writes, and may open no
file. The date that a template asks for is one that the caller gives, so that the same
checkpoint gives the same text tomorrow.

The result is plain text with slots for a `StepFormat`: nothing of Jinja is left in a
saved model.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from prm_jax import jsonl
from prm_jax.errors import UserError
from prm_jax.records import Check

SCRIPT = Path(__file__).with_name('chat_worker.py')
CPU_SECONDS = 2
WALL_SECONDS = 120  # for a machine that gives the process no time
MAX_CHARACTERS = 1_000_000
# What Llama 3.1 writes where nobody tells it the date.
DATE = '2024-07-26'
# Stand for texts while a template runs; no template treats them in a special way.
_QUESTION = 'QUESTIONx7Jq'
_STEPS = ('STEPx7JqA', 'STEPx7JqB', 'STEPx7JqC')
_ANSWER = 'ANSWERx7Jq'

Message = Mapping[str, Any]


def load_template(folder: str | epath.Path, name: str = 'default') -> str | None:
  """The chat template of a checkpoint's folder, None where it has none.

  chat_template.jinja, else `chat_template` in tokenizer_config.json, else in
  chat_template.json; of a list of named templates the one called `name`.

  Raises:
    UserError: the files cannot be read, or there is no template of that name.
  """
  folder = epath.Path(folder)
  plain = folder / 'chat_template.jinja'
  if plain.exists():
    try:
      return jsonl.read_bytes(plain).decode('utf-8')
    except UnicodeDecodeError as e:
      raise UserError(f'{plain}: invalid UTF-8 at byte {e.start}.') from e
  for file in ('tokenizer_config.json', 'chat_template.json'):
    path = folder / file
    if not path.exists():
      continue
    held = jsonl.parse_object(jsonl.read_bytes(path), str(path)).get('chat_template')
    if isinstance(held, str):
      return held
    if isinstance(held, list):
      held = {
        str(t['name']): t['template']
        for t in held
        if isinstance(t, dict) and {'name', 'template'} <= set(t)
      }
    if held is None or held == {}:
      continue
    check = Check(str(path))
    if not isinstance(held, dict):
      raise check.fail('chat_template', held, 'a text or a list of named texts')
    if name not in held:
      raise UserError(
        f'{path}: no chat template {name!r}; it has {", ".join(sorted(held))}.'
      )
    return check.text(f'chat_template.{name}', held[name])
  return None


def render(
  template: str,
  messages: Sequence[Message],
  *,
  specials: Mapping[str, str] | None = None,
  add_generation_prompt: bool = False,
  date: str = DATE,
  **variables: Any,
) -> str:
  """The text of a chat.

  Args:
    template: in Jinja's language, as in a tokenizer_config.json.
    messages: {'role', 'content'} each.
    specials: `JsonTokenizer.names`: bos_token, eos_token, ...
    add_generation_prompt: end where the assistant's text begins.
    date: YYYY-MM-DD, what `strftime_now` tells the template.
    variables: further variables of the template.

  Raises:
    UserError: the template refuses the messages, reaches for what the sandbox keeps
      from it, or exceeds a bound.
  """
  call = {
    **variables,
    **(specials or {}),
    'messages': list(messages),
    'add_generation_prompt': add_generation_prompt,
  }
  return _run(template, [call], date)[0]


def question_template(
  template: str,
  *,
  system: str | None = None,
  specials: Mapping[str, str] | None = None,
  question: str = '{question}',
  date: str = DATE,
  **variables: Any,
) -> str:
  """`StepFormat.question_template` of a model whose steps are one assistant's text.

  It ends where the text of the assistant begins.

  Args:
    template, specials, date, variables: as in `render`.
    system: the system message; None leaves the template's own default, if it has one.
    question: the user's message, with '{question}' in it.

  Raises:
    UserError: as `render`, or the question does not come out exactly once.
  """
  user = question.replace('{question}', _QUESTION)
  chat = [*_system(system), {'role': 'user', 'content': user}]
  answered = [*chat, {'role': 'assistant', 'content': _ANSWER}]
  given = {**variables, **(specials or {})}
  asked, full = _run(
    template,
    [
      {**given, 'messages': chat, 'add_generation_prompt': True},
      {**given, 'messages': answered, 'add_generation_prompt': False},
    ],
    date,
  )
  # The generation prompt may hold more than a finished turn does (an opened thought).
  before, found, _ = full.partition(_ANSWER)
  return _with_slot(before if found else asked, _QUESTION, '{question}', 'question')


@dataclasses.dataclass(frozen=True)
class TurnTemplates:
  """Templates of a `StepFormat` for chats in which each step is a user's turn.

  Attributes:
    question_template, first_step_template, step_template: texts with their slots.
    strip: the template trims what it is given; `StepFormat.strip` then.
  """

  question_template: str
  first_step_template: str
  step_template: str
  strip: bool


def turn_templates(
  template: str,
  *,
  between: str = ' ',
  system: str | None = None,
  specials: Mapping[str, str] | None = None,
  date: str = DATE,
  **variables: Any,
) -> TurnTemplates:
  """Templates for chats in which a verdict ('+' or '-') answers every step.

  The first user's turn is question, `between`, first step. The verdict is the marker
  of the step format, which appends it; with `position` = 'before' a step is read
  where the verdict is predicted.

  Raises:
    UserError: as `render`, or turns do not come out one like the other.
  """
  texts = [f'{_QUESTION}{between}{_STEPS[0]}', *_STEPS[1:]]
  turns: list[Message] = list(_system(system))
  for text in texts:
    turns.append({'role': 'user', 'content': text})
    turns.append({'role': 'assistant', 'content': _ANSWER})
  given = {**variables, **(specials or {}), 'add_generation_prompt': False}
  [full] = _run(template, [{**given, 'messages': turns}], date)
  head, first, rest = full.partition(_STEPS[0])
  tails = [first and rest]
  for step in _STEPS[1:]:
    tails[-1:] = tails[-1].partition(step)[::2]
  closes = [tail.partition(_ANSWER)[0] for tail in tails]
  onward = [tail.partition(_ANSWER)[2] for tail in tails[:-1]]
  once = all(full.count(s) == 1 for s in (_QUESTION, *_STEPS))
  if not once or len({*closes}) > 1 or len({*onward}) > 1:
    raise UserError(
      'the chat template does not write each turn once, in order and like the others, '
      'so no step format can be made of it; write the templates by hand.'
    )
  return TurnTemplates(
    _with_slot(head, _QUESTION, '{question}', 'question'),
    '{step}' + closes[0],
    onward[0] + '{step}' + closes[0],
    trims(template, specials=specials, date=date, **variables),
  )


def trims(
  template: str,
  *,
  specials: Mapping[str, str] | None = None,
  date: str = DATE,
  **variables: Any,
) -> bool:
  """Whether the template removes white space around a message (`StepFormat.strip`).

  Raises:
    UserError: as `render`.
  """
  chat = [{'role': 'user', 'content': f' {_QUESTION} '}]
  return f' {_QUESTION} ' not in render(
    template, chat, specials=specials, date=date, **variables
  )


def _system(system: str | None) -> list[Message]:
  return [] if system is None else [{'role': 'system', 'content': system}]


def _with_slot(text: str, sentinel: str, slot: str, what: str) -> str:
  if text.count(sentinel) != 1:
    raise UserError(
      f'the chat template writes the {what} {text.count(sentinel)} times, so no step '
      'format can be made of it; write the templates by hand.'
    )
  return text.replace(sentinel, slot)


def _run(template: str, calls: Sequence[Mapping[str, Any]], date: str) -> list[str]:
  """Texts of several calls of one template, from one process."""
  try:
    datetime.date.fromisoformat(date)
  except ValueError as e:
    raise UserError(f'date={date!r}: give YYYY-MM-DD for the chat template.') from e
  request = {
    'template': template,
    'calls': list(calls),
    'date': date,
    'max_characters': MAX_CHARACTERS,
  }
  try:
    done = subprocess.run(
      [sys.executable, '-P', str(SCRIPT), str(CPU_SECONDS)],
      input=json.dumps(request).encode(),
      capture_output=True,
      timeout=WALL_SECONDS,
      check=False,
      start_new_session=True,
    )
  except subprocess.TimeoutExpired as e:
    raise _too_much(f'more than {WALL_SECONDS} s') from e
  if done.returncode == -signal.SIGXCPU:
    raise _too_much(f'more than {CPU_SECONDS} s of CPU time')
  if done.returncode:
    raise RuntimeError(f'{SCRIPT} failed: {done.stderr.decode(errors="replace")}')
  reply = json.loads(done.stdout)
  if 'texts' in reply:
    return reply['texts']
  if reply['kind'] == 'bound':
    raise _too_much(reply['why'])
  raise UserError(
    f'the chat template cannot be used: {reply["why"].rstrip(".")}; look at it, or '
    'write the templates of the step format by hand.'
  )


def _too_much(what: str) -> UserError:
  return UserError(
    f'the chat template takes {what}, which no sound one does; look at it before you '
    'use this checkpoint.'
  )
