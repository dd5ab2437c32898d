"""One supervisor per data directory: a file lock that ends with its holder, however that ends."""

from __future__ import annotations

import fcntl
import os
from typing import IO

from devstack.errors import AlreadyRunning
from devstack.home import Home


def acquire(home: Home) -> IO[str]:
    """Locks the data directory for this process; the lock lasts while the returned file is open.

    Raises:
        AlreadyRunning: another process holds it; the message names it.
    """
    file = home.lock_file.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise already_running(home, holder(home)) from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def already_running(home: Home, pid: int | None) -> AlreadyRunning:
    """The refusal, which names the supervisor that is in the way."""
    return AlreadyRunning(
        f"a stack is already running in {home.root} (pid {pid}); "
        "see `tessera status`, stop it with `tessera down`, or choose another --home"
    )


def holder(home: Home) -> int | None:
    """The pid of the living supervisor of the data directory; None where there is none."""
    try:
        file = home.lock_file.open("r+")
    except FileNotFoundError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = file.read().strip()
            return int(text) if text.isdigit() else None
    return None
