"""Runs the attempt whose folder is named on the command line."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from services.training.supervisor.control import (
    AttemptFolder,
    Claim,
    Result,
    boot_id,
    start_ticks,
)
from services.training.supervisor.ranks import become_reaper
from services.training.supervisor.watch import Watch


def main(path: str) -> int:
    """Take the attempt, run it and write its result; returns the exit status."""
    os.umask(0o077)
    folder = AttemptFolder(Path(path))
    watch = Watch(folder, folder.plan())
    watch.take_signals()
    pid = os.getpid()
    if not folder.claim(Claim(pid, start_ticks(pid) or 0, boot_id())):
        return 0
    _say_claimed()
    become_reaper()
    try:
        result = watch.run()
    except Exception as error:
        watch.end_all()
        folder.write_result(Result("unprepared", 0, f"the processes could not be run: {error}"))
        raise
    folder.write_result(result)
    return 0


def _say_claimed() -> None:
    """Tell the service, which reads standard output, and leave it alone from then on."""
    # Without its service the attempt is claimed all the same, and goes on.
    with contextlib.suppress(OSError):
        os.write(1, b"claimed\n")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
