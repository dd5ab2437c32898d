"""The health service of every server."""

from __future__ import annotations

import asyncio
from typing import Any

from grpc_health.v1 import health, health_pb2

__all__ = ["HealthServicer"]

_LAST_WORD_SECONDS = 0.1


class HealthServicer(health.aio.HealthServicer):
    """The stock health service, whose endless watches do not hold up a stop."""

    def __init__(self) -> None:
        super().__init__()
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

    def end_watches(self) -> None:
        """Let every watch tell its last status and end."""
        self._ended.set()
