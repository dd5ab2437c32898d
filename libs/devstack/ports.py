"""Ports chosen free once and kept in the data directory.

They lie below the kernel's ephemeral range (32768 up on Linux), where no outgoing connection can
take a port while its owner restarts. `TESSERA_PORT_<NAME>` sets one, for instance
`TESSERA_PORT_KAFKA=9092`.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterable, Mapping

from devstack.errors import StackError
from devstack.files import read_json, write_json
from devstack.home import Home

LOOPBACK = "127.0.0.1"
_FIRST, _LAST = 20000, 32000


def allocate(home: Home, names: Iterable[str], environment: Mapping[str, str]) -> dict[str, int]:
    """One port per name: from the environment, else the kept one if still free, else a free one."""
    kept = read_json(home.ports_file) or {}
    chosen: dict[str, int] = {}
    held: list[socket.socket] = []
    try:
        for name in names:
            variable = f"TESSERA_PORT_{name.upper().replace('-', '_')}"
            if variable in environment:
                chosen[name] = _required(variable, environment[variable], held)
            else:
                chosen[name] = _kept_or_free(kept.get(name), held)
    finally:
        for listener in held:
            listener.close()
    write_json(home.ports_file, {**kept, **chosen})
    return chosen


def _required(variable: str, text: str, held: list[socket.socket]) -> int:
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise StackError(f"{variable}={text!r} is not a port number")
    if not _hold(int(text), held):
        raise StackError(f"port {text} ({variable}) is already in use on {LOOPBACK}")
    return int(text)


def _kept_or_free(kept: int | None, held: list[socket.socket]) -> int:
    if kept is not None and _hold(kept, held):
        return kept
    for _ in range(1000):
        port = random.randrange(_FIRST, _LAST)  # noqa: S311 - a port is no secret
        if _hold(port, held):
            return port
    raise StackError(f"no free port between {_FIRST} and {_LAST} on {LOOPBACK}")


def _hold(port: int, held: list[socket.socket]) -> bool:
    """Binds the port until the allocation is over, so that two names never get the same one."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # As the engines do, so that connections of an earlier run in TIME_WAIT do not count as taken.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
    except OSError:
        listener.close()
        return False
    held.append(listener)
    return True
