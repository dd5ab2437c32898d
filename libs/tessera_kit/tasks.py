"""Tasks that outlive the call in which they begin."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["detached_task"]

T = TypeVar("T")


def detached_task(work: Coroutine[Any, Any, T], *, name: str | None = None) -> asyncio.Task[T]:
    """Start work that belongs to nobody in particular.

    Unlike a plain task it does not inherit the deadline, the principal and the trace of the call
    that happens to start it. Keep the task: the event loop holds it weakly.
    """
    loop = asyncio.get_running_loop()
    return loop.create_task(work, name=name, context=contextvars.Context())
