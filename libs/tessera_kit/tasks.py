"""Work that outlives the call in which it begins."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, TypeVarTuple

__all__ = ["detached_task", "in_next_turn"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def detached_task(work: Coroutine[Any, Any, T], *, name: str | None = None) -> asyncio.Task[T]:
    """Start work that belongs to nobody in particular.

    Unlike a plain task it does not inherit the deadline, the principal and the trace of the call
    that happens to start it. Keep the task: the event loop holds it weakly.
    """
    loop = asyncio.get_running_loop()
    return loop.create_task(work, name=name, context=contextvars.Context())


def in_next_turn(callback: Callable[[*Ts], object], *args: *Ts) -> None:
    """Call back in the loop's next turn: after whatever this turn has still to do and to send."""
    loop = asyncio.get_running_loop()
    loop.call_soon(loop.call_soon, callback, *args)
