"""Serve: a scorer behind HTTP, for searches and trainers that call one."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from prm_jax import writer
from prm_jax.errors import Preempted, UserError
from prm_jax.formats.splitting import Splitter
from prm_jax.inference.batching import Batcher
from prm_jax.inference.scorer import Scorer
from prm_jax.inference.serving import Limits, Service
from prm_jax.jobs import score
from prm_jax.jobs.configuration import Command, build
from prm_jax.specs import TextFormat

if TYPE_CHECKING:
  from prm_jax.jobs.serve_http import Running

LOOPBACK = ('127.0.0.1', '::1', 'localhost')


def run(command: Command) -> None:
  """Answers requests until SIGTERM or SIGINT, then those that were accepted before.

  Raises:
    UserError: no scorer is named, it cannot be loaded, or the port is taken.
    Preempted: requests were left unanswered after `serve.drain_seconds`.
  """
  config = command.config
  if not config.scorer:
    raise UserError('serve needs --config.scorer=WORKDIR (or a public PRM).')
  listening = bind(config.serve.host, config.serve.port)
  with contextlib.closing(listening):
    scorer, about = score.load(config, config.data.cache_dir)
    server = make(config, scorer, about)
    if config.serve.host not in LOOPBACK:
      writer.say(
        f'serve.host={config.serve.host!r} is no loopback address, and nothing asks '
        'for a password'
      )
    server.run(listening)
  writer.say(
    f'served {server.http.answered} requests, refused {server.http.refused}, left '
    f'{server.http.lost} unanswered'
  )
  if server.http.lost:
    raise Preempted(
      f'{server.http.lost} requests were not answered within serve.drain_seconds='
      f'{config.serve.drain_seconds:g}; run the same command again.'
    )


def bind(host: str, port: int) -> socket.socket:
  """A socket at the address; port 0 takes a free one.

  Raises:
    UserError: it cannot be had.
  """
  try:
    info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    held = socket.socket(info[0], socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(info[4])
  except (OSError, OverflowError) as e:
    raise UserError(
      f'serve.host={host!r}, serve.port={port}: {e}; give an address of this machine '
      'and a free port (0 finds one).'
    ) from e
  return held


def make(config: ConfigDict, scorer: Scorer, about: dict[str, Any]) -> Running:
  """The server of a config, not yet listening.

  Args:
    config: with the sections `serve`, `text` and `splitting`.
    scorer, about: as from `score.load`.

  Raises:
    UserError: a key that does not fit, or the framework is not installed.
  """
  try:
    from prm_jax.jobs.serve_http import Running, Server
  except ImportError as e:
    raise UserError(
      f'serve needs starlette and uvicorn ({e.name} is missing): pip install '
      '"starlette>=1.10.0" "uvicorn>=0.54.0".'
    ) from e
  keys = config.serve
  for name in ('queue', 'max_bytes', 'max_steps', 'timeout', 'body_seconds'):
    if keys[name] <= 0:
      raise UserError(f'serve.{name}={keys[name]}: give a number above 0.')
  text = build(TextFormat, 'text', config.text)
  splitting = dict(config.splitting)
  splitting['separator'] = splitting['separator'] or text.separator
  service = Service(
    scorer,
    name=keys.name or os.fspath(config.scorer),
    reduction=keys.reduction or scorer.spec.reduction,
    text=text,
    splitter=build(Splitter, 'splitting', splitting),
    unusable_reward=keys.unusable_reward,
    limits=Limits(rows=keys.queue, steps=keys.max_steps),
  )
  batcher = Batcher(scorer, keys.queue)
  http = Server(
    service,
    batcher,
    about,
    max_bytes=keys.max_bytes,
    body_seconds=keys.body_seconds,
    timeout=keys.timeout,
  )
  return Running(http, batcher, service.name, keys.drain_seconds)
