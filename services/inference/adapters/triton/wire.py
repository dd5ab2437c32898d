"""The hot path to Triton: raw bytes over a lean gRPC connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Final

import grpc

from services.inference.adapters.triton.errors import runtime_error
from services.inference.adapters.triton.streams import TritonStreams
from services.inference.adapters.wire.connection import CallFailed, CallRefused, WireConnection
from services.inference.errors import InferenceTimeout
from tessera_kit.tasks import detached_task

__all__ = ["TritonWire"]

_METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"
_CONNECT_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 0.1
_EARLY_SECONDS: Final = 0.05
_MOST_ATTEMPTS: Final = 100
_REFUSED_SECONDS: Final = 0.002


class TritonWire:
    """Asks Triton; see `ports.Runtime`. It connects when it is first used and again after a loss.

    Args:
        target: `host:port` of its gRPC door.
        max_message_bytes: Largest response.
    """

    def __init__(self, target: str, *, max_message_bytes: int) -> None:
        self._target = target
        self._max_message_bytes = max_message_bytes
        self._connection: WireConnection | None = None
        self._connecting: asyncio.Task[WireConnection] | None = None
        self._old: set[WireConnection] = set()
        self._pause_until = 0.0
        self._streams = TritonStreams(target, max_message_bytes=max_message_bytes)

    async def infer(self, request: bytes, timeout: float | None) -> bytes:
        """Send a serialised request and return the serialised response."""
        began = time.monotonic()
        try:
            for _ in range(_MOST_ATTEMPTS):
                connection = self._connection
                if connection is None or not connection.usable:
                    async with asyncio.timeout(timeout):
                        connection = await self._connect()
                try:
                    return await connection.call(request, timeout)
                except CallRefused:
                    await asyncio.sleep(_REFUSED_SECONDS)
            raise CallFailed(grpc.StatusCode.RESOURCE_EXHAUSTED, "the server is full")
        except CallFailed as error:
            code = error.code
            waited = time.monotonic() - began
            # The server keeps the deadline too, and may be a little ahead of this side's clock.
            late = timeout is not None and waited >= timeout - _EARLY_SECONDS
            if code is grpc.StatusCode.CANCELLED and late:
                code = grpc.StatusCode.DEADLINE_EXCEEDED
            raise runtime_error(code, error.details) from None
        except TimeoutError:
            raise InferenceTimeout("the deadline passed before the model answered") from None

    def stream(self, request: bytes, timeout: float) -> AsyncGenerator[bytes]:
        """Send a serialised request and return its serialised responses."""
        return self._streams.stream(request, timeout)

    async def close(self) -> None:
        """Close the connections; running calls fail."""
        await self._streams.close()
        if self._connecting is not None:
            self._connecting.cancel()
        for connection in (self._connection, *self._old):
            if connection is not None:
                connection.close()

    async def _connect(self) -> WireConnection:
        """The connection that new calls use; callers that come together share one attempt."""
        task = self._connecting
        if task is None:
            task = self._connecting = detached_task(self._open(), name="triton-connect")
            task.add_done_callback(self._opened)
        return await asyncio.shield(task)

    async def _open(self) -> WireConnection:
        loop = asyncio.get_running_loop()
        if loop.time() < self._pause_until:
            raise CallFailed(grpc.StatusCode.UNAVAILABLE, "the server does not answer")
        host, _, port = self._target.rpartition(":")
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                _, connection = await loop.create_connection(
                    lambda: WireConnection(self._target, _METHOD, self._max_message_bytes),
                    host.strip("[]"),
                    int(port),
                )
        except (OSError, TimeoutError):
            # Not every request of a busy second needs to find that out.
            self._pause_until = loop.time() + _PAUSE_SECONDS
            raise CallFailed(grpc.StatusCode.UNAVAILABLE, "the server does not answer") from None
        return connection

    def _opened(self, task: asyncio.Task[WireConnection]) -> None:
        self._connecting = None
        if task.cancelled() or task.exception() is not None:
            return
        # The one before ends its running calls first.
        self._old = {one for one in self._old if one.running}
        if self._connection is not None and self._connection.running:
            self._old.add(self._connection)
        self._connection = task.result()
