"""`python -m devstack.clickhouse`: serves one chDB data directory over HTTP until SIGTERM."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import uvicorn

from devstack.clickhouse.app import ClickHouseApp
from devstack.clickhouse.configuration import base_settings, write_configuration
from devstack.clickhouse.session import Request, Session
from devstack.clickhouse.statement import read_statement
from devstack.clickhouse.workers import Workers
from devstack.secrets import Credentials

THREADS = 4
WAITING = 256
_KEEP_ALIVE_SECONDS = 600
_DEFAULT_MEMORY_BYTES = 3 * 2**29


def main() -> None:
    """Reads the flags, opens the engine and serves."""
    parser = argparse.ArgumentParser(prog="python -m devstack.clickhouse")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--scratch", type=Path, required=True, help="for configuration and spilled data"
    )
    parser.add_argument("--credentials", type=Path, required=True, help='JSON: {"user", "secret"}')
    flags = parser.parse_args()
    memory = int(os.environ.get("TESSERA_CLICKHOUSE_MEMORY_BYTES", _DEFAULT_MEMORY_BYTES))
    configuration = write_configuration(flags.scratch, memory)
    target = f"{flags.data}?config-file={configuration}"
    settings = base_settings(memory, os.cpu_count() or 1)
    workers = Workers(lambda: Session(target, settings), THREADS, WAITING)
    stored = json.loads(flags.credentials.read_text())
    app = ClickHouseApp(
        workers, Credentials(stored["user"], stored["secret"]), _timezone(target, settings)
    )
    uvicorn.run(
        app,
        host=flags.host,
        port=flags.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=5,
        server_header=False,
    )


def _timezone(target: str, settings: dict[str, str]) -> str:
    session = Session(target, settings)
    try:
        statement = read_statement(b"SELECT timezone()")
        request = Request(statement, "default", {}, {}, "TabSeparatedRaw", readonly=True)
        return session.query(request).data.decode().strip()
    finally:
        session.close()


if __name__ == "__main__":
    main()
