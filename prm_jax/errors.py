"""Errors that end a run with a known exit code and one sentence.

Exit codes of every command: 0 done; 1 our own fault, with a traceback; 2 a
user's mistake (`UserError`); 3 a non-finite loss (`NonFiniteLoss`); 75 preempted
and saved, or left alone by another process (`PeerLost`): run the same command again
(`Preempted`).
"""


class UserError(Exception):
  """What is wrong, where, and what to do: one sentence, shown without traceback."""

  exit_code = 2


class NonFiniteLoss(Exception):
  """Training met a loss or gradient that is not finite; names step and batch."""

  exit_code = 3


class Preempted(Exception):
  """The run was asked to stop (SIGTERM), saved its state and can be resumed."""

  exit_code = 75


class PeerLost(Preempted):
  """Another process of the run is missing, died or fell silent; says what to do."""
