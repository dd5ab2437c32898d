"""The process of a Triton that runs in this one."""

from __future__ import annotations

import asyncio

import psutil

from services.inference.adapters.triton_inside.calls import TritonCalls
from services.inference.adapters.triton_inside.interface import TritonFailure
from services.inference.adapters.triton_inside.server import TritonServer
from services.inference.errors import RuntimeUnavailable

__all__ = ["InsideProcess"]


class InsideProcess:
    """`ports.RuntimeProcess`: to end it is to end Triton and to start another, here.

    Args:
        server: Runs it.
        calls: Asks it.
    """

    def __init__(self, server: TritonServer, calls: TritonCalls) -> None:
        self._server = server
        self._calls = calls

    async def memory(self) -> int | None:
        """Resident bytes of this process: Triton's own, and the service's."""
        return await asyncio.to_thread(lambda: int(psutil.Process().memory_info().rss))

    async def end(self) -> None:
        """End Triton, with every model in it, and start it again.

        Raises:
            RuntimeUnavailable: It does not end, or does not start.
        """
        await self._calls.drain()
        try:
            await self._server.stop()
            await self._server.start()
        except TritonFailure as failure:
            raise RuntimeUnavailable(f"Triton cannot be replaced: {failure}") from None
