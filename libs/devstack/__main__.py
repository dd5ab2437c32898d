"""`python -m devstack HOME NAME...`: the supervisor of one data directory.

It keeps the named engines and services running; `run/desired.json` holds the names, and may be
changed (then SIGHUP). Its first line on the descriptor given by `--ready` is `ok`, or the reason
why it will not run.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import time

from devstack import child, lock
from devstack.errors import StackError
from devstack.files import write_json
from devstack.home import Home
from devstack.supervisor import Supervisor


def main() -> int:
    """Runs the supervisor until it is stopped; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="devstack", description=__doc__.split("\n")[0] if __doc__ else ""
    )
    parser.add_argument("home")
    parser.add_argument("names", nargs="*", help="engines and services")
    parser.add_argument("--ready", type=int, help="descriptor that gets the first line")
    parser.add_argument("--die-with-parent", action="store_true")
    arguments = parser.parse_args()
    if arguments.die_with_parent:
        child.die_with_parent()
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(level=logging.INFO, format="%(asctime)sZ %(levelname)s %(message)s")
    home = Home.at(arguments.home)
    try:
        with lock.acquire(home):
            home.state_file.unlink(missing_ok=True)
            write_json(home.desired_file, arguments.names)
            asyncio.run(_supervise(home, arguments.names, arguments.ready))
    except StackError as error:
        _tell(arguments.ready, str(error))
        logging.getLogger("devstack").error("%s", error)
        return 1
    return 0


async def _supervise(home: Home, names: list[str], ready: int | None) -> None:
    supervisor = Supervisor(home, os.environ)
    supervisor.plan(names)
    _tell(ready, "ok")
    await supervisor.run()


def _tell(descriptor: int | None, line: str) -> None:
    if descriptor is not None:
        try:
            os.write(descriptor, (line + "\n").encode())
            os.close(descriptor)
        except OSError:  # the asker is gone; the stack goes on without it
            return


if __name__ == "__main__":
    sys.exit(main())
