"""What tests share: waiting for a condition, and names that no other test uses."""

from __future__ import annotations

import asyncio
import inspect
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

Value = TypeVar("Value")


@overload
async def eventually(
    check: Callable[[], Awaitable[Value]], timeout: float = 10.0, interval: float = 0.05
) -> Value: ...


@overload
async def eventually(
    check: Callable[[], Value], timeout: float = 10.0, interval: float = 0.05
) -> Value: ...


async def eventually(
    check: Callable[[], Any], timeout: float = 10.0, interval: float = 0.05
) -> Any:
    """Calls `check` until it neither raises AssertionError nor returns False or None.

    Returns what it returned. After `timeout` seconds the last assertion is raised, or one that says
    what was returned.
    """
    deadline = time.monotonic() + timeout
    while True:
        failure: AssertionError
        try:
            value = check()
            if inspect.isawaitable(value):
                value = await value
            if value is not None and value is not False:
                return value
            failure = AssertionError(f"still {value!r} after {timeout} s")
        except AssertionError as error:
            failure = error
        if time.monotonic() >= deadline:
            raise failure
        await asyncio.sleep(interval)


def unique_name(prefix: str = "t") -> str:
    """A name of lower-case letters, digits and underscores that no other test has.

    For topics, tables, catalogs.
    """
    return f"{prefix}_{uuid.uuid4().hex[:12]}"
