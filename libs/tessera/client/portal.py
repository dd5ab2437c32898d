"""A thread with an event loop that synchronous code hands coroutines to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

Result = TypeVar("Result")
Item = TypeVar("Item")


class Portal:
    """Runs coroutines on a loop of its own, in a thread that ends with the program."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="tessera-client", daemon=True
        )
        self._thread.start()

    def run(self, awaitable: Awaitable[Result]) -> Result:
        """The coroutine's result, or its exception. An interrupt cancels it."""
        future = asyncio.run_coroutine_threadsafe(_as_coroutine(awaitable), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def make(self, factory: Callable[[], Result]) -> Result:
        """Calls `factory` on the loop, for objects that bind themselves to it."""

        async def build() -> Result:
            return factory()

        return self.run(build())

    def iterate(self, items: AsyncIterator[Item]) -> Iterator[Item]:
        """The items, fetched one at a time; the iterator is closed when the caller stops."""
        try:
            while True:
                try:
                    yield self.run(items.__anext__())
                except StopAsyncIteration:
                    return
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                self.run(close())

    def close(self) -> None:
        """Ends the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _as_coroutine(awaitable: Awaitable[Result]) -> Coroutine[Any, Any, Result]:
    async def wait() -> Result:
        return await awaitable

    return wait()
