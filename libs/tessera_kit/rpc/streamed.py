"""Calls that stream requests and keep the status that the server sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from typing import Any, Final

import grpc

__all__ = ["StreamedCall", "told_at_once"]

_PATIENCE_SECONDS: Final = 1.0
_OVERWRITTEN: Final = "Internal error from Core"


class StreamedCall:
    """A call of `grpc.aio` with a stream of requests, whose errors are the server's.

    `grpc.aio` reports INTERNAL where one of its messages found the call ended, over the status with
    which the server ended it (grpc's issue 36066). That status is kept here when it comes.

    Args:
        call: The call; what is not here is asked of it.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._told: asyncio.Future[grpc.aio.AioRpcError] = (
            asyncio.get_running_loop().create_future()
        )
        call.add_done_callback(self._keep)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._response().__await__()

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            async for response in self._call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise await self._sent(error) from None

    async def _response(self) -> Any:
        try:
            return await self._call
        except grpc.aio.AioRpcError as error:
            raise await self._sent(error) from None

    def _keep(self, call: Any) -> None:
        details = told_at_once(call.details())
        if details == _OVERWRITTEN or self._told.done():
            return
        self._told.set_result(
            grpc.aio.AioRpcError(
                told_at_once(call.code()),
                told_at_once(call.initial_metadata()) or grpc.aio.Metadata(),
                told_at_once(call.trailing_metadata()) or grpc.aio.Metadata(),
                details,
                told_at_once(call.debug_error_string()),
            )
        )

    async def _sent(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """The error of the status that the server sent; the given one where none came."""
        if error.details() != _OVERWRITTEN:
            return error
        await asyncio.wait((self._told,), timeout=_PATIENCE_SECONDS)
        self._keep(self._call)
        return self._told.result() if self._told.done() else error


def told_at_once(coroutine: Any) -> Any:
    """What a coroutine of an ended call returns; None where it would wait.

    `grpc.aio` tells a call's end by coroutines only; once the call has ended they wait for nothing.
    """
    try:
        coroutine.send(None)
    except StopIteration as told:
        return told.value
    coroutine.close()
    return None
