"""JSON over HTTP to a server that may be slow, busy or gone.

One connection an attempt, a deadline for the whole answer, retries with exponential
backoff and full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS
Architecture Blog, 2015), Retry-After honoured. Chance decides when something is
sent again, never what.

The API key is read from the environment at each attempt and held by no object: it
is in no attribute, no message and no file, and it goes over plain http to a loopback
address only.
"""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import http.client
import ipaddress
import json
import math
import os
import random
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from prm_jax.errors import UserError

T = TypeVar('T')

# Statuses below 500 that ask for another attempt: time-out, too early, too many.
RETRIED = (408, 425, 429)
LONGEST_RETRY_AFTER = 600.0
MESSAGE_LENGTH = 300


class Refused(Exception):
  """The server will not serve this, however often it is asked.

  Attributes:
    status: of HTTP.
    message: the server's own words, shortened, without the key.
  """

  def __init__(self, status: int, message: str):
    super().__init__(f'HTTP {status}: {message}')
    self.status = status
    self.message = message


class Unusable(Exception):
  """An attempt that is worth another one; says why."""

  def __init__(self, reason: str, counter: str, after: float = 0.0):
    super().__init__(reason)
    self.counter = counter
    self.after = after


class Cancelled(Exception):
  """Another part of the same call has failed; nobody waits for this one."""


class Cancel:
  """Ends the waits and open connections of one call, so that a failure is quick."""

  def __init__(self) -> None:
    self._event = threading.Event()
    self._lock = threading.Lock()
    self._open: set[socket.socket] = set()

  def is_set(self) -> bool:
    return self._event.is_set()

  def set(self) -> None:
    self._event.set()
    with self._lock:
      for sock in self._open:
        with contextlib.suppress(OSError):
          # Of the plain socket: TLS would tear down state that a reader uses.
          socket.socket.shutdown(sock, socket.SHUT_RDWR)

  def sleep(self, seconds: float) -> None:
    """Waits, or raises `Cancelled` as soon as it is set."""
    if self._event.wait(seconds):
      raise Cancelled

  @contextlib.contextmanager
  def watching(self, sock: socket.socket) -> Iterator[None]:
    """Closes `sock` when set."""
    with self._lock:
      self._open.add(sock)
    try:
      if self.is_set():
        raise Cancelled
      yield
    finally:
      with self._lock:
        self._open.discard(sock)


class Client:
  """Posts JSON to one address until it has a usable answer.

  Args:
    url: of the resource, http or https, without user, query or fragment.
    concurrency: attempts under way at once, whatever the number of threads.
    key_variable: environment variable of the API key; '' sends none.
    connect_timeout: seconds for connection and TLS handshake.
    timeout: seconds for the whole answer, from the request on.
    retries: attempts after the first.
    first_wait: seconds; the wait before retry number i (from 0) is drawn evenly from
      0 to min(longest_wait, first_wait * 2 ** i).
    longest_wait: seconds.
    count: called with the name of each event: 'http_requests', and for what was
      tried again 'server_errors', 'rate_limits', 'time_outs', 'broken_connections',
      'malformed_answers'.

  Raises:
    UserError: the URL cannot be used, or the key must not go there.
  """

  def __init__(
    self,
    url: str,
    *,
    concurrency: int,
    key_variable: str,
    connect_timeout: float,
    timeout: float,
    retries: int,
    first_wait: float,
    longest_wait: float,
    count: Callable[[str], None],
  ):
    self.url = url
    parts = split_url(url)
    self._host = parts.hostname or ''
    self._port = parts.port
    self._path = parts.path or '/'
    self._tls = parts.scheme == 'https'
    self._places = threading.BoundedSemaphore(concurrency)
    self._key_variable = key_variable
    self._connect_timeout = connect_timeout
    self._timeout = timeout
    self._retries = retries
    self._first_wait = first_wait
    self._longest_wait = longest_wait
    self._count = count
    self._random = random.Random()
    self._context = ssl.create_default_context() if self._tls else None
    self._key()

  def post(
    self, values: dict[str, Any], who: str, read: Callable[[Any], T], cancel: Cancel
  ) -> T:
    """What `read` makes of the answer to `values`.

    Args:
      values: JSON-ready.
      who: names the request in messages.
      read: takes the parsed answer; raises `Unusable` to have it asked again.
      cancel: ends waiting.

    Raises:
      Refused: the server's answer is a refusal that another attempt cannot change.
      UserError: no usable answer after all retries; or the key cannot be used.
      Cancelled: `cancel` was set.
    """
    body = json.dumps(values).encode('ascii')
    for attempt in range(self._retries + 1):
      try:
        return read(self._attempt(body, cancel))
      except Unusable as e:
        failure = e
        self._count(e.counter)
      if attempt < self._retries:
        cancel.sleep(self._wait(attempt, failure.after))
    times = f'{self._retries + 1} times' if self._retries else 'once'
    raise UserError(
      f'{self.url}: request {who} failed {times} (the last time: {failure}); check '
      'that the server is up and can take the load, or allow more retries or time.'
    )

  def _wait(self, attempt: int, after: float) -> float:
    most = min(self._longest_wait, self._first_wait * 2.0 ** min(attempt, 60))
    return min(after, LONGEST_RETRY_AFTER) + self._random.uniform(0, most)

  def _attempt(self, body: bytes, cancel: Cancel) -> Any:
    try:
      with self._places:
        self._count('http_requests')
        status, headers, raw = self._exchange(body, cancel)
    except Cancelled:
      raise
    except ssl.SSLCertVerificationError as e:
      raise UserError(
        f'{self.url}: the certificate cannot be trusted ({e.verify_message}); name '
        'the right host, or the authority in SSL_CERT_FILE.'
      ) from None
    except (OSError, http.client.HTTPException, ValueError) as e:
      if cancel.is_set():
        raise Cancelled from None
      late = isinstance(e, TimeoutError)
      counter = 'time_outs' if late else 'broken_connections'
      raise Unusable(self._clean(_said(e, self._timeout)), counter) from None
    if status == 200:
      return _parsed(raw)
    message = self._clean(_message(raw, headers))
    if status in RETRIED or status >= 500:
      counter = 'rate_limits' if status == 429 else 'server_errors'
      after = _seconds(headers.get('Retry-After', ''))
      raise Unusable(f'HTTP {status}: {message}', counter, after)
    raise Refused(status, message)

  def _exchange(
    self, body: bytes, cancel: Cancel
  ) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection: http.client.HTTPConnection
    if self._context is not None:
      connection = http.client.HTTPSConnection(
        self._host, self._port, timeout=self._connect_timeout, context=self._context
      )
    else:
      connection = http.client.HTTPConnection(
        self._host, self._port, timeout=self._connect_timeout
      )
    headers = {'Content-Type': 'application/json', 'Connection': 'close'}
    key = self._key()
    if key:
      headers['Authorization'] = f'Bearer {key}'
    with contextlib.closing(connection):
      connection.connect()
      sock = connection.sock
      deadline = time.monotonic() + self._timeout
      with cancel.watching(sock):
        sock.settimeout(self._timeout)
        connection.request('POST', self._path, body, headers)
        with connection.getresponse() as response:
          raw = _read(response, sock, deadline)
          return response.status, response.headers, raw

  def _key(self) -> str:
    """The key, '' if there is none; refuses to bring it into the open."""
    key = os.environ.get(self._key_variable, '').strip() if self._key_variable else ''
    # http.client would show a header that it refuses.
    if not all('!' <= c <= '~' for c in key):
      raise UserError(
        f'the key in {self._key_variable} has characters that no HTTP header can '
        'carry; set it to the key alone.'
      )
    if key and not self._tls and not _is_loopback(self._host):
      raise UserError(
        f'{self.url} is plain http to another machine, where the key in '
        f'{self._key_variable} could be read on the way; use https, or unset the '
        'variable if the server needs no key.'
      )
    return key

  def _clean(self, text: str) -> str:
    """Printable, on one line, short, and without the key should a server echo it."""
    key = self._key()
    text = text.replace(key, '***') if key else text
    text = ' '.join(''.join(c if c.isprintable() else ' ' for c in text).split())
    return text if len(text) <= MESSAGE_LENGTH else text[: MESSAGE_LENGTH - 3] + '...'


def split_url(url: str) -> urllib.parse.SplitResult:
  """The parts of a URL that may stand in files and messages.

  Raises:
    UserError: it is no http or https address, or has a place for secrets; what stands
      there is not shown.
  """
  if any(c in url for c in '@?#'):
    raise UserError(
      'the engine url has a user, query or fragment, which would end up in files and '
      'messages; give scheme, host, port and path, and the key in the environment.'
    )
  try:
    parts = urllib.parse.urlsplit(url)
    good = parts.scheme in ('http', 'https') and bool(parts.hostname)
    good = good and parts.port != 0 and all('!' <= c <= '~' for c in url)
  except ValueError:
    good = False
  if not good:
    raise UserError(
      f'engine url {url!r} is not an address; give one such as http://localhost:8000/v1.'
    )
  return parts


def _is_loopback(host: str) -> bool:
  if host == 'localhost':
    return True
  try:
    return ipaddress.ip_address(host).is_loopback
  except ValueError:
    return False


def _read(
  response: http.client.HTTPResponse, sock: socket.socket, deadline: float
) -> bytes:
  """The body; a socket's own time-out starts anew at every byte that trickles in."""
  parts = []
  while True:
    left = deadline - time.monotonic()
    if left <= 0:
      raise TimeoutError
    if not response.isclosed():
      sock.settimeout(left)
    part = response.read1(1 << 16)
    if not part:
      break
    parts.append(part)
  body = b''.join(parts)
  if response.length:
    raise http.client.IncompleteRead(body, response.length)
  return body


def _parsed(raw: bytes) -> Any:
  try:
    return json.loads(raw)
  except (ValueError, RecursionError):
    raise Unusable(
      f'an answer of {len(raw)} bytes that is not JSON', 'malformed_answers'
    ) from None


def _said(e: Exception, timeout: float) -> str:
  if isinstance(e, TimeoutError):
    return f'no answer in time ({timeout:g} s)'
  if isinstance(e, http.client.IncompleteRead):
    return f'the answer broke off, {e.expected or "some"} bytes before its end'
  if isinstance(e, http.client.RemoteDisconnected):
    return 'the connection was closed without an answer'
  if isinstance(e, OSError) and e.strerror:
    return e.strerror.lower()
  return f'{type(e).__name__}: {e}'


def _message(raw: bytes, headers: http.client.HTTPMessage) -> str:
  """What an error's body says, in the forms that vLLM, SGLang and proxies use."""
  if 'Location' in headers:
    return f'a redirection to {headers["Location"]}'
  text = raw.decode('utf-8', 'replace')
  try:
    said = json.loads(text)
  except (ValueError, RecursionError):
    return text or 'no message'
  for name in ('error', 'message', 'detail'):
    if isinstance(said, dict) and said.get(name):
      said = said[name]
  return said if isinstance(said, str) else text


def _seconds(retry_after: str) -> float:
  """Seconds of a Retry-After header: a number or a date; 0 where it is neither."""
  try:
    seconds = float(retry_after)
  except ValueError:
    try:
      until = email.utils.parsedate_to_datetime(retry_after)
      until = until if until.tzinfo else until.replace(tzinfo=datetime.UTC)
      seconds = until.timestamp() - time.time()
    except (TypeError, ValueError, OverflowError):
      return 0.0
  return max(seconds, 0.0) if math.isfinite(seconds) else 0.0
