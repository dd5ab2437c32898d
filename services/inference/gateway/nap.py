"""Served entities that are unloaded while nobody asks: who asks waits until they are loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Final

from services.inference.domain.endpoint import ServedEntity
from services.inference.errors import EntityBusy, InferenceTimeout, ModelNotLoaded
from tessera_kit.errors import TesseraError

__all__ = ["Nap", "Naps"]

_MOST_WAITING: Final = 256
_RETRY_SECONDS: Final = 1.0
_SHORTEST_SECONDS: Final = 0.001


class Naps:
    """The naps that somebody wants to end; each is in it once at most."""

    def __init__(self) -> None:
        self._called: asyncio.Queue[Nap] = asyncio.Queue()

    def call(self, nap: Nap) -> None:
        """Ask for a nap's end."""
        self._called.put_nowait(nap)

    async def next(self) -> Nap:
        """The next one that is to end."""
        return await self._called.get()


class Nap:
    """Whether one served entity is loaded, as far as the gateway knows, and who waits for it.

    The runtime alone knows for certain: another process may have unloaded the entity, so a request
    that finds it gone waits for it like one that comes later.

    Args:
        entity: What sleeps.
        principal: With whose rights its files are read.
        naps: Told when it must wake.
        most_waiting: Most requests that wait for it; further ones are refused.
    """

    __slots__ = (
        "_awake",
        "_most_waiting",
        "_naps",
        "asked",
        "asleep",
        "entity",
        "lock",
        "principal",
        "quiet_since",
        "waiting",
    )

    def __init__(
        self,
        entity: ServedEntity,
        principal: str,
        naps: Naps,
        most_waiting: int = _MOST_WAITING,
    ) -> None:
        self.entity = entity
        self.principal = principal
        self.asleep = False
        """Whether requests have to wait."""
        self.waiting = 0
        """Requests that wait."""
        self.lock = asyncio.Lock()
        """Held by who loads or unloads it."""
        self.asked = -1
        """Requests that the runtime had answered when it was last looked at."""
        self.quiet_since = 0.0
        """When that number last changed, by the event loop's clock."""
        self._naps = naps
        self._most_waiting = most_waiting
        self._awake: asyncio.Future[None] | None = None

    @property
    def waking(self) -> bool:
        """Whether it is being loaded because somebody asked."""
        return self._awake is not None

    def lie_down(self) -> None:
        """Let requests wait from now on; the first of them wakes it."""
        self.asleep = True

    def wake(self) -> None:
        """Let requests go on: it is loaded."""
        self.asleep = False
        self.asked = -1
        awake, self._awake = self._awake, None
        if awake is not None:
            awake.set_result(None)

    def fail(self, error: TesseraError) -> None:
        """Tell those who wait why it cannot be loaded; the next request tries again."""
        awake, self._awake = self._awake, None
        if awake is not None:
            awake.set_exception(error)
            # Nobody may wait any more.
            awake.exception()

    async def ask(self, ask: Callable[[float], Awaitable[bytes]], timeout: float) -> bytes:
        """What `ask` answers once the entity is loaded.

        Args:
            ask: Asks the runtime, within seconds that it is told.
            timeout: Seconds for all of it.

        Raises:
            EntityBusy: As many wait for it as may.
            InferenceTimeout: It was not loaded in time.
            TesseraError: It cannot be loaded, or what `ask` raises.
        """
        deadline = perf_counter() + timeout
        while True:
            await self.ready(deadline - perf_counter())
            try:
                return await ask(max(deadline - perf_counter(), _SHORTEST_SECONDS))
            except ModelNotLoaded:
                if perf_counter() >= deadline:
                    raise
                self.lie_down()

    async def ready(self, timeout: float) -> None:
        """Return when the entity is loaded, as far as is known; errors are those of `ask`."""
        if not self.asleep:
            return
        if self.waiting >= self._most_waiting:
            raise EntityBusy(
                f"served entity {self.entity.name!r} is being loaded and {self.waiting} requests "
                "wait for it, as many as may",
                retry_after=_RETRY_SECONDS,
            )
        if self._awake is None:
            self._awake = asyncio.get_running_loop().create_future()
            self._naps.call(self)
        self.waiting += 1
        try:
            async with asyncio.timeout(max(timeout, _SHORTEST_SECONDS)):
                # One that gives up must not end the others' wait.
                await asyncio.shield(self._awake)
        except TimeoutError:
            raise InferenceTimeout(
                "the deadline passed before the model was loaded; it is loaded when it is asked "
                "for after a while, which takes longer than a request usually does"
            ) from None
        finally:
            self.waiting -= 1
