"""The analytics engine: chDB, ClickHouse in process, behind ClickHouse's HTTP interface.

The engine is the wheel `chdb-core`. This module describes the process to the supervisor;
`python -m devstack.clickhouse` runs it.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping

from devstack.environment import python_environment
from devstack.errors import EngineMissing
from devstack.home import Home
from devstack.ports import LOOPBACK
from devstack.probes import http
from devstack.secrets import Credentials
from devstack.spec import Kind, ProcessSpec

NAME = "clickhouse"
VERSION = "ClickHouse 26.9 (chDB)"
PORTS = ("clickhouse",)
_MEMORY_VARIABLE = "TESSERA_CLICKHOUSE_MEMORY_BYTES"


def spec(home: Home, ports: Mapping[str, int], _: Credentials) -> ProcessSpec:
    """The process, with its data under `data/clickhouse`; it reads its own credentials file.

    `TESSERA_CLICKHOUSE_MEMORY_BYTES` in the caller's environment limits the engine's memory
    (default 1.5 GiB).
    """
    if importlib.util.find_spec("chdb") is None:
        raise EngineMissing("ClickHouse is missing: install the extra `embedded` (chdb-core)")
    data = home.data(NAME)

    def prepare() -> None:
        data.mkdir(parents=True, exist_ok=True)
        home.scratch(NAME).mkdir(exist_ok=True)

    environment = python_environment(home)
    if _MEMORY_VARIABLE in os.environ:
        environment[_MEMORY_VARIABLE] = os.environ[_MEMORY_VARIABLE]
    flags = {
        "--host": LOOPBACK,
        "--port": ports["clickhouse"],
        "--data": data,
        "--scratch": home.scratch(NAME),
        "--credentials": home.credentials / f"{NAME}.json",
    }
    return ProcessSpec(
        name=NAME,
        kind=Kind.ENGINE,
        command=(
            *(sys.executable, "-m", "devstack.clickhouse"),
            *(str(part) for flag in flags.items() for part in flag),
        ),
        environment=environment,
        directory=home.root,
        stands_back=True,
        probe=http(LOOPBACK, ports["clickhouse"], "/ping", expect=b"Ok."),
        doors={"clickhouse": f"http://{LOOPBACK}:{ports['clickhouse']}"},
        prepare=prepare,
        stop_seconds=15.0,
    )
