"""Reads what a refused caller still sends, so that it hears why it was refused.

A client of `grpc.aio` whose message finds the call already ended reports INTERNAL "Internal error
from Core" over the status that the server sent (grpc's issue 36066). A status that waits until the
requests have come is not overtaken by them.
"""

from __future__ import annotations

import asyncio
from typing import Final

import grpc

from tessera_kit.rpc.behaviours import Context

__all__ = ["UnreadRequests"]

_SECONDS: Final = 0.2
_MOST_BYTES: Final = 4 << 20
_MOST_AT_ONCE: Final = 64


class UnreadRequests:
    """Takes and drops the rest of request streams; one per server, which bounds it."""

    def __init__(self) -> None:
        self._running = 0

    async def drop(self, context: Context) -> None:
        """Read a call's requests to their end, for a fifth of a second or 4 MiB at most.

        Returns at once while 64 others do so.
        """
        if self._running >= _MOST_AT_ONCE:
            return
        self._running += 1
        try:
            await asyncio.wait_for(_read(context), _SECONDS)
        except (TimeoutError, grpc.RpcError, grpc.aio.UsageError, grpc.aio.InternalError):
            pass
        finally:
            self._running -= 1


async def _read(context: Context) -> None:
    left = _MOST_BYTES
    while left > 0:
        message = await context.read()
        if message is grpc.aio.EOF:
            return
        left -= len(message)
