"""Command line of prm_jax: one config file, one job.

  python -m prm_jax.main --config=configs/pqm.py [--workdir=DIR] [--config.key=value]

Everything else lives in libraries that tests and notebooks can import.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence

from prm_jax.errors import NonFiniteLoss, Preempted, UserError


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the job that the config names; returns the exit code."""
  from prm_jax import jobs
  from prm_jax.jobs import configuration
  from prm_jax.parallel import supervisor

  argv = list(sys.argv if argv is None else argv)
  if {'-h', '--help'} & set(argv[1:]):
    print(f'{configuration.USAGE}\n\njobs: {", ".join(jobs.JOBS)}\n\n{jobs.HELP}')
    return 0
  try:
    command = configuration.parse(argv)
    among = jobs.processes(command)
    if among.several and not supervisor.is_child():
      return supervisor.run(argv[1:], among)
    print(f'prm_jax: {command.line}', file=sys.stderr, flush=True)
    jobs.run(command)
  except (UserError, NonFiniteLoss, Preempted) as e:
    print(f'prm_jax: {e}', file=sys.stderr, flush=True)
    return e.exit_code
  except KeyboardInterrupt:
    print('prm_jax: interrupted; run the same command to go on.', file=sys.stderr)
    return 130
  except Exception:
    # Among several processes Python's own way out waits for the peers, who wait for
    # this one: the child says what happened and leaves at once.
    if not supervisor.is_child():
      raise
    traceback.print_exc()
    return 1
  return 0


def stop(number: int, frame: object) -> None:
  """Handler of SIGTERM outside the training steps, which notice it themselves.

  Whatever is half done at this moment is done again by the same command: files are
  written whole or not at all. So it ends here and now, where an exception could be
  lost in a library that handles them.
  """
  name = signal.Signals(number).name
  os.write(2, f'prm_jax: stopped by {name}; run the same command to go on.\n'.encode())
  os._exit(Preempted.exit_code)


if __name__ == '__main__':
  from prm_jax.parallel import pages, supervisor

  pages.start_again()
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  signal.signal(signal.SIGTERM, stop)
  supervisor.end_with_parent()
  supervisor.leave(main())
