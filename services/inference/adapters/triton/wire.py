"""The hot path to Triton: raw bytes over a lean gRPC connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Final

import grpc

from services.inference.adapters.triton.dead import DeadModels
from services.inference.adapters.triton.errors import runtime_error
from services.inference.adapters.triton.sharing import LEAST_SHARED, Loan, TensorSharing
from services.inference.adapters.triton.streams import TritonStreams
from services.inference.adapters.wire.connection import (
    CallBroken,
    CallFailed,
    CallRefused,
    WireConnection,
)
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
        sharing: Shares large tensors' memory with it; None to send them all.
        dead: Told of models that died.
    """

    def __init__(
        self,
        target: str,
        *,
        max_message_bytes: int,
        sharing: TensorSharing | None = None,
        dead: DeadModels | None = None,
    ) -> None:
        self._target = target
        self._max_message_bytes = max_message_bytes
        self._connection: WireConnection | None = None
        self._connecting: asyncio.Task[WireConnection] | None = None
        self._old: set[WireConnection] = set()
        self._pause_until = 0.0
        self._sharing = sharing
        self._asking: set[asyncio.Task[bytes]] = set()
        self._dead = dead or DeadModels()
        self._streams = TritonStreams(target, self._dead, max_message_bytes=max_message_bytes)

    async def infer(
        self, request: bytes, timeout: float | None, suffix: bytes = b"", ending: bytes = b""
    ) -> bytes:
        """Send a serialised request and what follows it; return the response, and what follows."""
        began = time.monotonic()
        try:
            if self._sharing is not None and len(request) >= LEAST_SHARED:
                loan = self._sharing.lend(request, suffix)
                if loan is not None:
                    return await self._infer_shared(loan, request, timeout, suffix, ending)
            return await self._call(request, timeout, suffix, ending)
        except CallFailed as error:
            code = error.code
            self._dead.note(error.details)
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

    async def _infer_shared(
        self, loan: Loan, request: bytes, timeout: float | None, suffix: bytes, ending: bytes
    ) -> bytes:
        """Ask by shared memory, which the runtime may use until it has answered.

        So a call whose caller gives up is not given up here: the runtime would write to memory that
        is lent to the next.
        """
        task = detached_task(self._ask(loan, ending), name="triton-shared")
        self._asking.add(task)
        task.add_done_callback(self._asked)
        async with asyncio.timeout(timeout):
            try:
                return await asyncio.shield(task)
            except CallFailed as error:
                if not loan.refused(error.details):
                    raise
            return await self._call(request, None, suffix, ending)

    async def _ask(self, loan: Loan, ending: bytes) -> bytes:
        try:
            response = loan.take(await self._call(loan.message, None), ending)
        except CallBroken:
            loan.lose()
            raise
        except BaseException:
            loan.end()
            raise
        loan.end()
        return response

    def _asked(self, task: asyncio.Task[bytes]) -> None:
        self._asking.discard(task)
        if not task.cancelled():
            # Its caller may have given up, so that nobody asks for it.
            task.exception()

    async def _call(
        self, message: bytes, timeout: float | None, suffix: bytes = b"", ending: bytes = b""
    ) -> bytes:
        for _ in range(_MOST_ATTEMPTS):
            connection = self._connection
            if connection is None or not connection.usable:
                async with asyncio.timeout(timeout):
                    connection = await self._connect()
            try:
                return await connection.call(message, timeout, suffix, ending)
            except CallRefused:
                await asyncio.sleep(_REFUSED_SECONDS)
        raise CallFailed(grpc.StatusCode.RESOURCE_EXHAUSTED, "the server is full")

    async def close(self) -> None:
        """Close the connections; running calls fail."""
        await self._streams.close()
        if self._connecting is not None:
            self._connecting.cancel()
        for connection in (self._connection, *self._old):
            if connection is not None:
                connection.close()
        if self._asking:
            await asyncio.wait(self._asking)
        if self._sharing is not None:
            await self._sharing.close()

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
