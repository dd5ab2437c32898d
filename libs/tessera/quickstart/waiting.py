"""Waits for something to become true."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tessera_kit.errors import DeadlineExceeded

Found = TypeVar("Found")

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0


async def wait_until(
    probe: Callable[[], Awaitable[Found | None]], what: str, timeout: float = 120.0
) -> Found:
    """The first true answer of `probe`, asked again with growing pauses.

    Raises:
        DeadlineExceeded: There was none within `timeout` seconds; the text says what was awaited.
    """
    pause = _FIRST_PAUSE
    try:
        async with asyncio.timeout(timeout):
            while True:
                if found := await probe():
                    return found
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, _LONGEST_PAUSE)
    except TimeoutError:
        raise DeadlineExceeded(f"waited {timeout:.0f} s for {what}") from None
