"""What can go wrong with a stack of local processes.

StackError
  AlreadyRunning   another supervisor owns the data directory
  NotRunning       no supervisor owns it
  StartFailed      a process did not become healthy
  EngineMissing    an engine's package is not installed
"""

from __future__ import annotations


class StackError(Exception):
    """A stack could not do what was asked; the message is one clear sentence for a person."""


class AlreadyRunning(StackError):
    """Another supervisor owns the data directory."""


class NotRunning(StackError):
    """No supervisor owns the data directory."""


class StartFailed(StackError):
    """A process ended or stayed unhealthy while the stack was starting."""


class EngineMissing(StackError):
    """The package that carries an engine is not installed (extra `embedded`)."""
