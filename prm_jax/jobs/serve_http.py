"""The HTTP side of the server: bodies within bounds, waiting, status codes.

Every refusal is JSON with one sentence, {'error': {'message', 'type', 'code'}}:

400  not JSON, a wrong type, no steps, too many, too long, what this scorer cannot do
404  another model        408  the body did not come in time
413  a body over the limit
429  the queue is full    503  the server is shutting down
504  not scored in time   500  our own fault
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from prm_jax import jsonl, writer
from prm_jax.errors import UserError
from prm_jax.inference.batching import Batcher, Closed, Full
from prm_jax.inference.pooling import pooling
from prm_jax.inference.serving import Query, Refusal, Service

# A client that sends too much reads no answer before all of it is sent: up to so much
# is read and thrown away.
THROWN_AWAY = 1 << 28  # bytes
GRACE = 2  # seconds
TICK = 0.1  # seconds after which a signal is noticed
BACKLOG = 1024  # connections that wait to be taken
KINDS = {400: 'invalid_request_error', 404: 'not_found_error'}


class Server:
  """The application, and what it counts.

  Args:
    service, batcher: see there.
    about: of the scorer, for /v1/models.
    max_bytes: of a body.
    body_seconds: for a body to arrive.
    timeout: seconds for a request to be scored.

  Attributes:
    app: an ASGI application.
    draining: set to refuse what comes from now on.
    active: requests under way.
    answered, refused: requests so far, by what became of them.
    lost: requests that the end of the server cut off.
  """

  def __init__(
    self,
    service: Service,
    batcher: Batcher,
    about: dict[str, Any],
    *,
    max_bytes: int,
    body_seconds: float,
    timeout: float,
  ):
    self.draining = False
    self.active = self.answered = self.refused = self.lost = 0
    self._service = service
    self._batcher = batcher
    self._about = about
    self._max_bytes = max_bytes
    self._body_seconds = body_seconds
    self._timeout = timeout
    self._created = int(time.time())
    self._waited_for: set[asyncio.Future[Any]] = set()
    endpoints: dict[str, Callable[[Any], Query]] = {
      '/score': service.score,
      '/pooling': lambda body: pooling(service, body),
      '/get_reward': service.get_reward,
    }
    routes = [
      Route(path, self._endpoint(query), methods=['POST'])
      for path, query in endpoints.items()
    ]
    routes += [Route('/health', self._health), Route('/v1/models', self._models)]
    self.app = Starlette(
      routes=routes,
      exception_handlers={404: self._no_such, 405: self._no_such},
    )

  def give_up(self) -> None:
    """Refuses everything that is still waited for."""
    for answer in self._waited_for:
      answer.cancel()

  async def _health(self, request: Request) -> Response:
    counts = vars(self._batcher.counts)
    told = {
      'status': 'draining' if self.draining else 'ok',
      'model': self._service.name,
      'load': self._batcher.load,
      'capacity': self._batcher.capacity,
      'answered': self.answered,
      'refused': self.refused,
      'batcher': counts,
    }
    return JSONResponse(told, 503 if self.draining else 200)

  async def _models(self, request: Request) -> Response:
    return JSONResponse(self._service.models(self._created, self._about))

  async def _no_such(self, request: Request, error: Exception) -> Response:
    status = getattr(error, 'status_code', 404)
    message = (
      f'{request.method} {request.url.path}: there is no such endpoint; there are POST '
      '/score, /pooling, /get_reward and GET /health, /v1/models.'
    )
    return self._refused(message, status)

  def _endpoint(self, query: Callable[[Any], Query]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
      self.active += 1
      try:
        return await self._answer(request, query)
      except Refusal as e:
        return self._refused(str(e), e.status)
      except UserError as e:
        return self._refused(str(e), 400)
      except Full:
        return self._refused(
          f'the queue is full ({self._batcher.capacity} solutions); try again in a '
          'moment, or with fewer at once.',
          429,
        )
      except Closed:
        return self._refused('the server is shutting down; ask another one.', 503)
      except ClientDisconnect:
        return Response(status_code=499)  # nobody reads it
      # A fault of ours ends this request, with its traceback in the log.
      except Exception:
        traceback.print_exc(file=sys.stderr)
        return self._refused('internal error; the log of the server says more.', 500)
      finally:
        self.active -= 1

    return endpoint

  async def _answer(self, request: Request, query: Callable[[Any], Query]) -> Response:
    if self.draining:
      raise Closed
    raw = await self._body(request)
    # Tokenizing takes a while, and others want to be heard meanwhile.
    asked = await asyncio.to_thread(lambda: query(jsonl.parse_json(raw, 'request')))
    values = await self._values(request, asked) if asked.rows else []
    if not all(np.isfinite(v).all() for v in values):
      raise Refusal(
        'the scores are not finite; the parameters of this model are broken.', 500
      )
    body = json.dumps(asked.answer(values), allow_nan=False, ensure_ascii=False)
    self.answered += 1
    return Response(body, media_type='application/json')

  async def _values(self, request: Request, asked: Query) -> list[np.ndarray]:
    """Waits for the scores, as long as the client does."""
    answer = asyncio.wrap_future(self._batcher.submit(asked.rows))
    gone = asyncio.ensure_future(_disconnected(request))
    self._waited_for.add(answer)
    try:
      waited: set[asyncio.Future[Any]] = {answer, gone}
      await asyncio.wait(
        waited, timeout=self._timeout, return_when=asyncio.FIRST_COMPLETED
      )
      if answer.cancelled():
        self.lost += 1
        raise Closed
      if answer.done():
        return answer.result()
      if gone.done():
        raise ClientDisconnect
      raise Refusal(
        f'not scored within {self._timeout:g} seconds; the server is too busy, or '
        'still compiling: try again.',
        504,
      )
    finally:
      self._waited_for.discard(answer)
      gone.cancel()
      answer.cancel()  # takes its rows out of the queue, unless it is done

  async def _body(self, request: Request) -> bytes:
    """The body.

    Raises:
      Refusal: it is too long, or does not arrive in time.
      ClientDisconnect: it was cut off.
    """
    declared = request.headers.get('content-length', '')
    size = int(declared) if declared.isdecimal() else 0
    parts: list[bytes] = []
    read = 0
    try:
      async with asyncio.timeout(self._body_seconds):
        # Who asks first whether to send has sent nothing yet.
        if size <= self._max_bytes or 'expect' not in request.headers:
          async for part in request.stream():
            read += len(part)
            if read <= self._max_bytes:
              parts.append(part)
            elif read > THROWN_AWAY:
              break
    except TimeoutError:
      if read <= self._max_bytes:
        raise Refusal(
          f'the body did not arrive within {self._body_seconds:g} seconds '
          f'({read:,} bytes did); send it again.',
          408,
        ) from None
    if max(size, read) > self._max_bytes:
      raise Refusal(
        f'the body has {max(size, read):,} bytes, and {self._max_bytes:,} are allowed; '
        'send fewer solutions at once.',
        413,
      )
    return b''.join(parts)

  def _refused(self, message: str, status: int) -> Response:
    self.refused += 1
    error = {'message': message, 'type': KINDS.get(status, 'error'), 'code': status}
    # What is left of a body that was not read must not pass for the next request.
    close = {'connection': 'close'} if status in (408, 413, 503) else {}
    again = {'retry-after': '1'} if status == 429 else {}
    return JSONResponse({'error': error}, status, headers=close | again)


async def _disconnected(request: Request) -> None:
  """Returns when the client is gone; its body has been read."""
  while (await request.receive())['type'] != 'http.disconnect':
    pass


class _Uvicorn(uvicorn.Server):
  """Leaves the signals to `Running`; its own way is to pass them on at the end."""

  @contextlib.contextmanager
  def capture_signals(self) -> Iterator[None]:
    yield


class Running:
  """A server with its batcher.

  Args:
    http, batcher: see there.
    name: of the model.
    drain_seconds: for what was accepted, once it is asked to stop.
  """

  def __init__(self, http: Server, batcher: Batcher, name: str, drain_seconds: float):
    self.http = http
    self.name = name
    self._batcher = batcher
    self._drain_seconds = drain_seconds
    self._hurry = False
    self._uvicorn = _Uvicorn(
      uvicorn.Config(
        http.app,
        log_level='warning',
        access_log=False,
        backlog=BACKLOG,
        lifespan='off',
        # Bodies that do not come to an end are not waited for longer than this.
        timeout_graceful_shutdown=math.ceil(drain_seconds) + GRACE,
      )
    )

  def run(self, listening: socket.socket) -> None:
    """Serves until it is asked to stop, by signal or by `stop`; says where."""
    with _on_signals(self.stop):
      listening.listen(BACKLOG)
      host, port = listening.getsockname()[:2]
      shown = f'[{host}]' if ':' in host else host
      writer.say(f'serving {self.name} at http://{shown}:{port}')
      asyncio.run(self._serve(listening))
    self._batcher.close(timeout=GRACE)

  async def _serve(self, listening: socket.socket) -> None:
    serving = asyncio.ensure_future(self._uvicorn.serve([listening]))
    while not (serving.done() or self.http.draining):
      await asyncio.wait({serving}, timeout=TICK)
    end = time.monotonic() + self._drain_seconds
    while not (serving.done() or self._hurry) and time.monotonic() < end:
      await asyncio.wait({serving}, timeout=TICK)
    self.http.give_up()
    await serving

  def stop(self) -> None:
    """Refuses what comes from now on, and ends `run` when all else is answered.

    A second call does not wait for that.
    """
    self._hurry = self.http.draining
    self.http.draining = True
    self._uvicorn.should_exit = True


@contextlib.contextmanager
def _on_signals(stop: Callable[[], None]) -> Iterator[None]:
  """Calls `stop` on SIGTERM and SIGINT, where this is the main thread."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return

  def handler(number: int, frame: FrameType | None) -> None:
    stop()

  held = {n: signal.signal(n, handler) for n in (signal.SIGTERM, signal.SIGINT)}
  try:
    yield
  finally:
    for number, before in held.items():
      signal.signal(number, before)
