"""The model runtime's process, where it runs on this machine."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from typing import Final

import psutil

__all__ = ["LocalRuntimeProcess"]

_log = logging.getLogger(__name__)
_END_SECONDS: Final = 30.0


class LocalRuntimeProcess:
    """`ports.RuntimeProcess`: the process that listens where the runtime is asked.

    It is asked to end by SIGTERM, upon which Triton ends its requests first; whoever keeps it
    running (the development stack, systemd) starts it again. On another machine this is the
    orchestrator's work, which sees its container's memory.

    Args:
        target: `host:port` of the runtime's gRPC door.
        name: Part of the process's name.
    """

    def __init__(self, target: str, name: str = "tritonserver") -> None:
        host, _, port = target.rpartition(":")
        self._port = int(port)
        self._name = name
        self._is_local = _is_loopback(host.strip("[]"))
        self._process: psutil.Process | None = None

    async def memory(self) -> int | None:
        """Resident bytes of the process without its children; None where there is none here."""
        return await asyncio.to_thread(self._memory)

    async def end(self) -> None:
        """Ask the process to end, and return when it has."""
        await asyncio.to_thread(self._end)

    def _memory(self) -> int | None:
        process = self._found()
        try:
            return None if process is None else int(process.memory_info().rss)
        except psutil.NoSuchProcess:
            return None

    def _end(self) -> None:
        process = self._found()
        if process is None:
            return
        try:
            process.terminate()
            process.wait(_END_SECONDS)
        except psutil.NoSuchProcess:
            return
        except psutil.TimeoutExpired:
            _log.error("the runtime did not end in %.0f seconds and is killed", _END_SECONDS)
            process.kill()

    def _found(self) -> psutil.Process | None:
        if not self._is_local:
            return None
        if self._process is None or not self._process.is_running():
            self._process = self._listening()
        return self._process

    def _listening(self) -> psutil.Process | None:
        try:
            connections = psutil.net_connections("tcp")
        except psutil.AccessDenied:
            return None
        for one in connections:
            if one.status != psutil.CONN_LISTEN or not one.laddr or not one.pid:
                continue
            if one.laddr[1] == self._port:
                process = psutil.Process(one.pid)
                # What else listens there, as a container's proxy, is not ours to end.
                return process if self._name in process.name() else None
        return None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
