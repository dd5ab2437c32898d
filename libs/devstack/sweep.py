"""Ends what a killed supervisor left running: processes marked with its data directory."""

from __future__ import annotations

import contextlib
import os

import psutil

from devstack.environment import HOME_MARK
from devstack.home import Home


def end_orphans(home: Home) -> list[int]:
    """Kills every process that carries this data directory's mark; returns their pids.

    Only the holder of the directory's lock may call it, with no child of its own. The caller's
    ancestors are spared: a process of the stack may itself have asked for a new one.
    """
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    killed = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid not in spared and process.environ().get(HOME_MARK) == str(home.root):
                process.kill()
                killed.append(process.pid)
    return killed
