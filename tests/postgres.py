"""A PostgreSQL server for the tests that need one."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_VARIABLE = "TESSERA_TEST_POSTGRES_URL"


def _programs() -> Path | None:
    """The folder of the newest PostgreSQL server that is installed."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


def _account() -> str | None:
    """Whom the server runs as: it refuses to be root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """SQLAlchemy URL of a server: the one that the variable names, or one started for the run."""
    if url := os.environ.get(_VARIABLE):
        yield url
        return
    programs = _programs()
    if programs is None:
        pytest.skip(f"PostgreSQL is not installed and {_VARIABLE} is not set")
    account = _account()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="tessera-postgres-") as directory:
        if account is not None:
            shutil.chown(directory, account)
        data = f"{directory}/data"
        options = f"-c listen_addresses=127.0.0.1 -p {port} -k {directory} -c fsync=off"
        control = [str(programs / "pg_ctl"), "-D", data, "-w", "-t", "60"]

        def run(*command: str) -> None:
            subprocess.run(
                command, user=account, cwd=directory, check=True, stdout=subprocess.DEVNULL
            )

        run(str(programs / "initdb"), "-D", data, "-U", "tessera", "--auth=trust", "--no-sync")
        run(*control, "-l", f"{directory}/log", "-o", options, "start")
        try:
            yield f"postgresql+asyncpg://tessera@127.0.0.1:{port}/postgres"
        finally:
            run(*control, "-m", "immediate", "stop")
