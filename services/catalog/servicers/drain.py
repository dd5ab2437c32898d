"""Reads what a client still sends after its call is decided."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

__all__ = ["drained"]

_SECONDS = 10.0


@asynccontextmanager
async def drained(messages: AsyncIterator[Any]) -> AsyncIterator[None]:
    """Read the rest of a request stream when the block is left, with a result or an error.

    A client that is still sending when the answer comes may see its own broken write instead of
    the answer (grpc.aio reports it as INTERNAL). Late senders are waited for some seconds only.
    """
    try:
        yield
    except asyncio.CancelledError:
        raise
    except BaseException:
        await _drain(messages)
        raise
    else:
        await _drain(messages)


async def _drain(messages: AsyncIterator[Any]) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(_SECONDS):
            async for _ in messages:
                pass
