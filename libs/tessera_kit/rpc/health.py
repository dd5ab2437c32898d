"""The health service of every server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from grpc_health.v1 import health, health_pb2

__all__ = ["HealthServicer"]

_LAST_WORD_SECONDS = 0.1


class HealthServicer(health.aio.HealthServicer):
    """The stock health service, whose endless watches do not hold up a stop.

    Args:
        service_names: Full proto names of the services that it tells of, beside the server itself.
    """

    def __init__(self, service_names: Sequence[str]) -> None:
        super().__init__()
        self._names = ("", *service_names)
        self._server_status: dict[str, Any] = {"": health_pb2.HealthCheckResponse.NOT_SERVING}
        self._ended = asyncio.Event()

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802
        """Tell the status of a service, and each change of it until the server stops."""
        watching = asyncio.ensure_future(super().Watch(request, context))
        ending = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait({watching, ending}, return_when=asyncio.FIRST_COMPLETED)
            # The watch has its turn to tell NOT_SERVING; then its stream ends.
            done, _ = await asyncio.wait({watching}, timeout=_LAST_WORD_SECONDS)
            for watch in done:
                watch.result()
        finally:
            watching.cancel()
            ending.cancel()

    async def begin(self) -> None:
        """Tell that the server and its services can be used."""
        for name in self._names:
            await self.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def end(self) -> None:
        """Tell for good that they cannot; every watch tells it and ends."""
        await self.enter_graceful_shutdown()
        self._ended.set()
