"""Starts, watches, restarts and stops the engines and services of a stack on one machine.

`start_local` and `attach` are the whole surface; the command line and the tests use them alike.
"""

from __future__ import annotations

from devstack.errors import AlreadyRunning, EngineMissing, NotRunning, StackError, StartFailed
from devstack.home import Home
from devstack.stack import Stack, attach, start_local
from devstack.state import ProcessPhase, ProcessState, StackPhase, StackState

__all__ = [
    "AlreadyRunning",
    "EngineMissing",
    "Home",
    "NotRunning",
    "ProcessPhase",
    "ProcessState",
    "Stack",
    "StackError",
    "StackPhase",
    "StackState",
    "StartFailed",
    "attach",
    "start_local",
]
