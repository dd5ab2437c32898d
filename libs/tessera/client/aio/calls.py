"""Calls on stubs: remote failures become the error tree, contents travel in pieces."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import grpc

from tessera_kit.rpc.status import error_from_rpc

Request = TypeVar("Request")
Response = TypeVar("Response")

CHUNK_BYTES = 1 << 20
"""The largest piece of a file that a message may carry."""


async def call(
    method: Callable[..., Awaitable[Response]], request: Any, timeout: float | None = None
) -> Response:
    """One unary (or upload) call; raises a TesseraError in place of a status."""
    try:
        return await method(request, timeout=timeout)
    except grpc.aio.AioRpcError as error:
        raise error_from_rpc(error) from None


async def stream(
    method: Callable[..., AsyncIterable[Response]], request: Any, timeout: float | None = None
) -> AsyncIterator[Response]:
    """The messages of a server's stream; the call is cancelled when the caller stops reading."""
    responses = method(request, timeout=timeout)
    try:
        async for response in responses:
            yield response
    except grpc.aio.AioRpcError as error:
        raise error_from_rpc(error) from None
    finally:
        cancel = getattr(responses, "cancel", None)
        if cancel is not None:
            cancel()


def pieces(source: bytes | memoryview | Path) -> Iterator[bytes]:
    """`source`'s content in pieces that fit a message."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            while piece := file.read(CHUNK_BYTES):
                yield piece
        return
    view = memoryview(source)
    for start in range(0, len(view), CHUNK_BYTES):
        yield bytes(view[start : start + CHUNK_BYTES])


def sha256_of(source: bytes | Path) -> str:
    """The SHA-256 of `source`'s content, lower-case hex."""
    digest = hashlib.sha256()
    for piece in pieces(source):
        digest.update(piece)
    return digest.hexdigest()
