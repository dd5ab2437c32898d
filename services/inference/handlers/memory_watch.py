"""Replaces the runtime's process when it keeps memory of models that are long unloaded."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from services.inference.gateway.routing import RouteTable
from services.inference.handlers.deployment import Deployer
from services.inference.handlers.replacement import Replacement
from services.inference.ports import RuntimeModels, RuntimeProcess
from tessera_kit.errors import TesseraError, Unavailable

__all__ = ["MemoryWatch"]

_log = logging.getLogger(__name__)
_BACK_SECONDS: Final = 120.0
_POLL_SECONDS: Final = 0.1


class MemoryWatch:
    """Looks at the runtime's own memory after models were unloaded.

    When it has grown by more than the bound over the least that was seen, new requests of all
    processes wait, those in the runtime end, the process is asked to end, and requests go on when
    whoever keeps the process running has started it again and every model is loaded. So no request
    fails whose deadline is longer than that takes.

    Args:
        process: The runtime's process; where it is on another machine, nothing is done.
        models: Tells what is loaded.
        routes: Tells what should be.
        replacement: Makes requests wait, and follows other processes that replace the runtime.
        deployer: Loads models again.
        bound: Bytes of growth; 0 never to replace it.
        interval_seconds: How often it is looked whether models were unloaded, or another process
            replaces the runtime.
    """

    def __init__(
        self,
        *,
        process: RuntimeProcess,
        models: RuntimeModels,
        routes: RouteTable,
        replacement: Replacement,
        deployer: Deployer,
        bound: int,
        interval_seconds: float,
    ) -> None:
        self._process = process
        self._models = models
        self._routes = routes
        self._replacement = replacement
        self._deployer = deployer
        self._bound = bound
        self._interval_seconds = interval_seconds
        self._unloads = 0
        self._least: int | None = None

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            try:
                await self.look()
            except TesseraError as error:
                _log.warning("the runtime's memory is not known now: %s", error)
            await asyncio.sleep(self._interval_seconds)

    async def look(self) -> bool:
        """Replace the runtime if it has kept too much; returns whether that was done here."""
        if await self._replacement.follow():
            self._least = None
            return False
        unloads = self._deployer.unloads
        if not self._bound or (self._least is not None and unloads == self._unloads):
            return False
        size = await self._process.memory()
        if size is None:
            return False
        if self._least is None or size < self._least:
            self._least = size
        if size - self._least <= self._bound:
            self._unloads = unloads
            return False
        _log.warning("the runtime has grown from %d to %d bytes", self._least, size)
        return await self.replace()

    async def replace(self) -> bool:
        """End the runtime's process with no request in it, and go on when it is back.

        Returns False when another process does that now.

        Raises:
            Unavailable: The others cannot be told; nothing was done.
        """
        async with self._replacement.lead() as leads:
            if not leads:
                return False
            try:
                await self._process.end()
                self._least = None
                async with asyncio.timeout(_BACK_SECONDS):
                    await self._back()
            except TimeoutError:
                _log.error("the runtime did not come back in %.0f seconds", _BACK_SECONDS)
        return True

    async def _back(self) -> None:
        """Return when the runtime has every model that requests are routed to."""
        while True:
            if await self._is_back():
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def _is_back(self) -> bool:
        try:
            loaded = await self._models.loaded()
        except Unavailable:
            return False
        wanted = {
            served.runtime_name
            for route in self._routes.routes.values()
            for served in route.entities
            if served.nap is None
        }
        return wanted <= loaded
