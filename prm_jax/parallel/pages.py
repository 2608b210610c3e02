"""Large memory pages for the C library's allocator.

XLA takes the memory of a step anew each time, and with pages of 4 KiB a CPU spends a
fifth of a train step on being handed them. glibc (2.35 or later, Linux) asks for pages
of 2 MiB if a variable says so when the program starts; where the system has none to
give, nothing changes. So a program that was started without it starts itself again.
"""

from __future__ import annotations

import os
import sys

VARIABLE, SETTING = 'GLIBC_TUNABLES', 'glibc.malloc.hugetlb'
BEFORE = 'PRM_JAX_TUNABLES_BEFORE'  # what the variable was when the user started us


def start_again() -> None:
  """Starts this program again with large pages, unless it has been told about them."""
  before = os.environ.get(VARIABLE, '')
  if not sys.platform.startswith('linux') or BEFORE in os.environ or SETTING in before:
    return
  os.environ[BEFORE] = before
  os.environ[VARIABLE] = ':'.join(filter(None, (before, f'{SETTING}=1')))
  os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def environment() -> dict[str, str]:
  """The environment as it was before `start_again`, for programs of others."""
  held = dict(os.environ)
  before = held.pop(BEFORE, None)
  if before is not None:
    held.pop(VARIABLE, None)
    held |= {VARIABLE: before} if before else {}
  return held
