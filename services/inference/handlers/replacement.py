"""While one process replaces the runtime, the requests of every process wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

from services.inference.gateway.hold import RuntimeHold
from services.inference.gateway.routing import RouteTable
from services.inference.ports import Replacements
from tessera_kit.clock import Clock
from tessera_kit.errors import TesseraError
from tessera_kit.ids import new_id

__all__ = ["Replacement"]

_log = logging.getLogger(__name__)
_DRAIN_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.1
_BEAT_SECONDS: Final = 2.0
_LEASE: Final = timedelta(seconds=10)
"""How long the others wait for a process that said last that it replaces the runtime."""


class Replacement:
    """One process's part in a replacement, as the one that leads it or as one that follows.

    Who leads says so, and gives the others the time in which each looks twice. Then all let their
    requests wait, those in the runtime end, and only then the runtime does. A leader that is
    killed is waited for only until its lease has ended; a follower that is, for a minute.

    Args:
        store: What all processes see.
        hold: Keeps this process's requests waiting.
        routes: Tells which of them are in the runtime.
        clock: The time of leases, which is to be about the same on all machines.
        look_seconds: How often each process calls `follow`.
    """

    def __init__(
        self,
        *,
        store: Replacements,
        hold: RuntimeHold,
        routes: RouteTable,
        clock: Clock,
        look_seconds: float,
    ) -> None:
        self._store = store
        self._hold = hold
        self._routes = routes
        self._clock = clock
        self._notice_seconds = 2 * look_seconds + 0.5
        self._process = new_id()

    @asynccontextmanager
    async def lead(self) -> AsyncIterator[bool]:
        """Within the block no process asks the runtime anything, if it yields True.

        It yields False when another process replaces the runtime now: then do nothing.

        Raises:
            Unavailable: The store does not answer; nothing was begun.
        """
        if not await self._extend():
            yield False
            return
        beating = asyncio.create_task(self._beat())
        try:
            await asyncio.sleep(self._notice_seconds)
            self._hold.close()
            try:
                async with asyncio.timeout(_DRAIN_SECONDS):
                    await self._drained()
                    await self._others_drained()
            except TimeoutError:
                _log.warning("requests are still in the runtime; its end ends them")
            yield True
        finally:
            beating.cancel()
            await asyncio.wait([beating])
            self._hold.open()
            try:
                await self._store.finish(self._process)
            except TesseraError as error:
                _log.warning("the others wait until the lease has ended: %s", error)

    async def follow(self) -> bool:
        """Let requests wait while another process replaces the runtime; returns whether one did.

        Raises:
            Unavailable: The store does not answer.
        """
        until = await self._store.under_way(self._clock.now(), but=self._process)
        if until is None:
            return False
        self._hold.close()
        drained = asyncio.create_task(self._drained())
        told: bool | None = None
        try:
            while until is not None and until > self._clock.now():
                try:
                    if told is not drained.done():
                        told = drained.done()
                        await self._store.join(self._process, is_drained=told)
                    until = await self._store.under_way(self._clock.now(), but=self._process)
                except TesseraError as error:
                    _log.warning("whether the runtime is still replaced is not known: %s", error)
                await asyncio.sleep(_POLL_SECONDS)
        finally:
            drained.cancel()
            self._hold.open()
        return True

    async def _extend(self) -> bool:
        now = self._clock.now()
        return await self._store.lead(self._process, now=now, until=now + _LEASE)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_BEAT_SECONDS)
            try:
                await self._extend()
            except TesseraError as error:
                _log.warning("the others may go on before the runtime is back: %s", error)

    async def _others_drained(self) -> None:
        while True:
            if await self._store.drained():
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def _drained(self) -> None:
        """Return when none of this process's requests is in the runtime."""
        for route in list(self._routes.routes.values()):
            for served in route.entities:
                await served.drained()
