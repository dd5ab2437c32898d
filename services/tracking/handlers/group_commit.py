"""Group commit: what arrives while a transaction runs shares the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from tessera_kit.errors import TesseraError
from tessera_kit.tasks import detached_task

__all__ = ["GroupCommit"]

T = TypeVar("T")


class GroupCommit(Generic[T]):
    """Gathers items of concurrent callers into groups, applied one after the other, in order.

    Nothing is held back to make a group larger: an item that arrives alone is applied at once.

    Args:
        apply: Applies a group in one transaction; returns for each item None, or why it alone was
            refused. Raises when the whole group failed and nothing of it was stored.
        weight: How much an item counts.
        limit: Weight above which a group takes no further item.
    """

    def __init__(
        self,
        apply: Callable[[Sequence[T]], Awaitable[Sequence[TesseraError | None]]],
        *,
        weight: Callable[[T], int],
        limit: int,
    ) -> None:
        self._apply = apply
        self._weight = weight
        self._limit = limit
        self._waiting: deque[tuple[T, asyncio.Future[None]]] = deque()
        self._worker: asyncio.Task[None] | None = None

    def submit(self, item: T) -> asyncio.Future[None]:
        """Return what is done when the item is stored, or raises why it is not.

        An item is applied even when its caller goes away.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        if self._worker is None or self._worker.done():
            self._worker = detached_task(self._work(), name="group-commit")
        return done

    async def close(self) -> None:
        """Wait until everything that was submitted is applied."""
        while self._worker is not None and not self._worker.done():
            await asyncio.wait([self._worker])

    async def _work(self) -> None:
        while self._waiting:
            group = self._next_group()
            try:
                outcomes = await self._apply([item for item, _ in group])
            except Exception as error:
                await self._failed(group, error)
            else:
                for (_, done), outcome in zip(group, outcomes, strict=True):
                    _settle(done, outcome)

    def _next_group(self) -> list[tuple[T, asyncio.Future[None]]]:
        group = [self._waiting.popleft()]
        weight = self._weight(group[0][0])
        while self._waiting:
            weight += self._weight(self._waiting[0][0])
            if weight > self._limit:
                break
            group.append(self._waiting.popleft())
        return group

    async def _failed(
        self, group: Sequence[tuple[T, asyncio.Future[None]]], error: Exception
    ) -> None:
        if len(group) == 1:
            _settle(group[0][1], error)
            return
        # One item may be at fault: the others must not suffer for it.
        for item, done in group:
            try:
                [outcome] = await self._apply([item])
            except Exception as own:
                _settle(done, own)
            else:
                _settle(done, outcome)


def _settle(done: asyncio.Future[None], outcome: Exception | None) -> None:
    if done.done():
        return
    if outcome is None:
        done.set_result(None)
    else:
        done.set_exception(outcome)
        # A caller that went away does not ask; asyncio would log its exception as forgotten.
        done.exception()
