"""Ends calls that run too long, with one timer for all of them.

A timer per call costs more than the rest of the pipeline; the bound is a safety net and may be late
by a quarter of itself, at most a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Final, TypeVar

__all__ = ["Overdue"]

T = TypeVar("T")
_COARSEST_SECONDS: Final = 1.0


class Overdue:
    """Bounds the run time of tasks of one event loop."""

    def __init__(self) -> None:
        self._ends: dict[asyncio.Task[Any], float] = {}
        self._ended: set[asyncio.Task[Any]] = set()
        self._finest = _COARSEST_SECONDS
        self._timer: asyncio.TimerHandle | None = None

    async def bounded(self, work: Awaitable[T], seconds: float) -> T:
        """Await `work` in the current task.

        Raises:
            TimeoutError: It took longer than `seconds`; it was cancelled.
        """
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only a task can be bounded")
        loop = task.get_loop()
        self._ends[task] = loop.time() + seconds
        if self._timer is None or seconds < 4 * self._finest:
            self._finest = min(_COARSEST_SECONDS, seconds / 4)
            self._schedule(loop)
        try:
            return await work
        except asyncio.CancelledError:
            # Somebody else may have cancelled the task as well: then it stays cancelled.
            if task in self._ended and task.uncancel() <= 0:
                raise TimeoutError from None
            raise
        finally:
            self._ends.pop(task, None)
            self._ended.discard(task)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(self._finest, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for task in [task for task, end in self._ends.items() if end <= now]:
            del self._ends[task]
            self._ended.add(task)
            task.cancel()
        if self._ends:
            self._schedule(loop)
        else:
            self._finest = _COARSEST_SECONDS
