"""Ports chosen free once and kept in the data directory.

They lie below the kernel's ephemeral range (32768 up on Linux), where no outgoing connection can
take a port while its owner restarts. `TESSERA_PORT_<NAME>` sets one, for instance
`TESSERA_PORT_KAFKA=9092`. Stacks that start side by side do not choose the same: each claims what
it chose, also while nothing listens there yet, or not now.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import IO

from devstack.errors import StackError
from devstack.files import read_json, write_json
from devstack.home import Home

LOOPBACK = "127.0.0.1"
_FIRST, _LAST = 20000, 32000


class PortClaims:
    """The ports that this process has for itself among the stacks of this user and machine.

    A claim is a lock on a file, which ends with the process, however that ends.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or Path(tempfile.gettempdir()) / f"tessera-ports-{os.getuid()}"
        self._files: dict[int, IO[bytes]] = {}

    def claim(self, port: int) -> bool:
        """Whether the port is this process's now; it was before, or nobody else had it."""
        if port in self._files:
            return True
        self._folder.mkdir(mode=0o700, exist_ok=True)
        file = (self._folder / str(port)).open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._files[port] = file
        return True

    def close(self) -> None:
        """Let go of every port."""
        for file in self._files.values():
            file.close()
        self._files.clear()


def allocate(
    home: Home, names: Iterable[str], environment: Mapping[str, str], claims: PortClaims
) -> dict[str, int]:
    """One port per name: from the environment, else the kept one if still free, else a free one."""
    kept = read_json(home.ports_file) or {}
    chosen: dict[str, int] = {}
    held: list[socket.socket] = []
    try:
        for name in names:
            variable = f"TESSERA_PORT_{name.upper().replace('-', '_')}"
            if variable in environment:
                chosen[name] = _required(variable, environment[variable], held)
                if list(chosen.values()).count(chosen[name]) > 1:
                    raise StackError(
                        f"{variable} names port {chosen[name]}, which another door has"
                    )
            else:
                others = {number for other, number in (kept | chosen).items() if other != name}
                chosen[name] = _kept_or_free(kept.get(name), others, held, claims)
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


def _kept_or_free(
    kept: int | None, others: Container[int], held: list[socket.socket], claims: PortClaims
) -> int:
    """`others` are the stack's ports of other names: neither claim nor hold would refuse them."""
    if kept is not None and kept not in others and claims.claim(kept) and _hold(kept, held):
        return kept
    for _ in range(1000):
        port = random.randrange(_FIRST, _LAST)  # noqa: S311 - a port is no secret
        if port not in others and claims.claim(port) and _hold(port, held):
            return port
    raise StackError(f"no free port between {_FIRST} and {_LAST} on {LOOPBACK}")


def _hold(port: int, held: list[socket.socket]) -> bool:
    """Whether nothing listens there; binds the port until the allocation is over."""
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
