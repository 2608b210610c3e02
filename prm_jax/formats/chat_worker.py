"""The process that runs chat templates: one request on standard input, one reply.

Run by chat_template.py; imports nothing of the project. A template is a program by
somebody else, so this process has little: CPU time, memory and open files are bounded
by the system, the language by Jinja's immutable sandbox, without a loader.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import json
import resource
import sys
from typing import Any

MEMORY = 256 << 20
MAX_REASON = 300  # characters
# Uses what Jinja and Python load when they first need it.
WARM = (
  '{{ strftime_now("%d %b %Y") | upper | tojson }}'
  '{{ "\\N{DIGIT ONE} <b>" | striptags | wordwrap(9) | pprint }}'
)


def environment(date: str) -> Any:
  """The language of chat templates as transformers defines it.

  Blocks take no room of their own (trim_blocks, lstrip_blocks); `break` and
  `continue` exist; `tojson` escapes nothing for HTML; `raise_exception(message)`;
  `strftime_now(format)` of the given date; `generation` blocks are plain text.
  """
  import jinja2
  from jinja2 import ext, nodes
  from jinja2.sandbox import ImmutableSandboxedEnvironment

  class Generation(ext.Extension):
    """{% generation %} marks the assistant's text for training; its body stays."""

    def __init__(self, environment: Any):
      super().__init__(environment)
      self.tags = {'generation'}

    def parse(self, parser: Any) -> Any:
      line = next(parser.stream).lineno
      body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
      return nodes.Scope(body).set_lineno(line)

  def raise_exception(message: str) -> None:
    raise jinja2.TemplateError(str(message))

  def to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)

  def strftime_now(form: str) -> str:
    return datetime.datetime.fromisoformat(date).strftime(form)

  env = ImmutableSandboxedEnvironment(
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=[Generation, ext.loopcontrols],
  )
  env.filters['tojson'] = to_json
  # Of Jinja's own: a model's text must not be drawn at random.
  del env.filters['random'], env.globals['lipsum']
  env.globals |= {'raise_exception': raise_exception, 'strftime_now': strftime_now}
  return env


def serve(request: dict[str, Any]) -> dict[str, Any]:
  """{'texts'} of a request, or {'kind', 'why'} of what is wrong with its template."""
  try:
    return _answer(request)
  except MemoryError:  # of the template, or of an error's own words
    return {'kind': 'bound', 'why': f'more than {MEMORY >> 20} MiB of memory'}


def _answer(request: dict[str, Any]) -> dict[str, Any]:
  import jinja2

  env = environment(request['date'])
  texts: list[str] = []
  try:
    template = env.from_string(request['template'])
    for call in request['calls']:
      parts, length = [], 0
      for part in template.generate(**call):
        length += len(part)
        if length > request['max_characters']:
          why = f'more than {request["max_characters"]} characters'
          return {'kind': 'bound', 'why': why}
        parts.append(part)
      texts.append(''.join(parts))
  except MemoryError:
    raise
  except OverflowError as e:
    return {'kind': 'bound', 'why': f'too much ({e})'}
  except RecursionError:
    return {'kind': 'bound', 'why': 'a recursion without end'}
  except jinja2.exceptions.SecurityError as e:
    return _refusal(f'it reaches out of its sandbox ({e})')
  except jinja2.TemplateSyntaxError as e:
    return _refusal(f'line {e.lineno}: {e.message}')
  except jinja2.TemplateError as e:
    return _refusal(f'it says: {e.message or e}')
  except SyntaxError as e:
    # Of the Python that Jinja makes of it, so the line would mislead.
    return _refusal(e.msg)
  except OSError:
    return _refusal('it needs a file, and may not open any')
  except Exception as e:
    # Whatever Python's operators and methods raise is the template's doing. Jinja has
    # no loader here: include, import and extends raise a TypeError.
    why = str(e) or type(e).__name__
    if 'no loader' in why:
      why = 'it includes, imports or extends a file, and may not reach any'
    return _refusal(why)
  return {'texts': texts}


def _refusal(why: str) -> dict[str, Any]:
  """In one line of bounded length: templates write messages of their own."""
  return {'kind': 'refused', 'why': ' '.join(why[:MAX_REASON].split())}


def main(cpu_seconds: int) -> None:
  """Answers the one request on standard input."""
  # All that Jinja may load is loaded before the limits, which let no file be opened.
  importlib.import_module('jinja2.debug')
  request = json.loads(sys.stdin.buffer.read())
  environment(request['date']).from_string(WARM).render()
  # Some systems lack one limit or the other; the sandbox holds there all the same.
  for kind, most, room in (
    (resource.RLIMIT_CPU, cpu_seconds, 1),  # a second between signal and kill
    (resource.RLIMIT_AS, MEMORY, 0),
    (resource.RLIMIT_FSIZE, 0, 0),
    (resource.RLIMIT_NOFILE, 3, 0),
  ):
    with contextlib.suppress(ValueError, OSError):
      resource.setrlimit(kind, (most, most + room))
  reply = serve(request)
  sys.stdout.write(json.dumps(reply))


if __name__ == '__main__':
  main(int(sys.argv[1]))
