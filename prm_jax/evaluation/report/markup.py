"""HTML that is escaped by construction: text is data until `tag` says otherwise.

`tag` builds one element from children; a child that is a plain `str` is escaped,
only an `Html` passes as it is. So no caller ever concatenates markup with text.
"""

from __future__ import annotations

import html
import re

_VOID = frozenset(('meta', 'link', 'br', 'hr', 'input', 'wbr'))
_NOT_TEXT = re.compile('[\0\ud800-\udfff]')


class Html(str):
  """A string that is markup already and must not be escaped again."""

  __slots__ = ()


def text(value: object) -> Html:
  """`value` as text: escaped; NUL and lone surrogates become U+FFFD."""
  if isinstance(value, Html):
    return value
  return Html(html.escape(_NOT_TEXT.sub('\ufffd', str(value)), quote=True))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
  """One element.

  Args:
    name: element name, of HTML or of SVG.
    *children: `Html` as it is, None left out, lists flattened, all else as text.
    **attributes: `class_` and `for_` lose the underscore, others turn `_` into
      `-`; None and False leave the attribute out, True writes it bare.
  """
  parts = [f'<{name}']
  for key, value in attributes.items():
    if value is None or value is False:
      continue
    key = key.rstrip('_').replace('_', '-')
    parts.append(f' {key}' if value is True else f' {key}="{text(value)}"')
  parts.append('>')
  if name in _VOID:
    return Html(''.join(parts))
  parts.append(join(children))
  parts.append(f'</{name}>')
  return Html(''.join(parts))


def join(children: object, between: str = '') -> Html:
  """Children one after another (see `tag`), `between` escaped as text."""
  out: list[str] = []
  for child in children if isinstance(children, (list, tuple)) else (children,):
    if child is None:
      continue
    out.append(join(child) if isinstance(child, (list, tuple)) else text(child))
  return Html(text(between).join(out))
