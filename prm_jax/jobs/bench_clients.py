"""Clients of a server, in a process of their own: threads that ask for solutions.

    python -m prm_jax.jobs.bench_clients PORT CLIENTS < BODIES.jsonl

Every client has one connection and asks for the next line as soon as it is answered.
The last line printed is {'seconds', 'scores': of each line, in order}.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any


def ask(port: int, bodies: Sequence[str], n: int) -> tuple[float, list[Any]]:
  """(seconds, scores of each body) of n clients that share the bodies of /score.

  Raises:
    RuntimeError: the server refused one.
  """
  found: list[Any] = [None] * len(bodies)
  places = iter(range(len(bodies)))
  lock = threading.Lock()
  problems: list[str] = []

  def client() -> None:
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=600)
    with contextlib.closing(connection):
      while not problems:
        with lock:
          i = next(places, None)
        if i is None:
          return
        connection.request('POST', '/score', bodies[i].encode())
        answer = connection.getresponse()
        told = answer.read()
        if answer.status != 200:
          problems.append(told.decode())
          return
        found[i] = json.loads(told)['scores']

  threads = [threading.Thread(target=client) for _ in range(n)]
  start = time.perf_counter()
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  seconds = time.perf_counter() - start
  if problems or None in found:
    raise RuntimeError(f'not answered: {problems[:1]}')
  return seconds, found


if __name__ == '__main__':
  lines = [line for line in sys.stdin.read().split('\n') if line]
  seconds, scores = ask(int(sys.argv[1]), lines, int(sys.argv[2]))
  print(json.dumps({'seconds': seconds, 'scores': scores}))
