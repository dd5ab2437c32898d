"""Replaces the runtime's process when it keeps memory of models that are long unloaded."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from services.inference.gateway.hold import RuntimeHold
from services.inference.gateway.routing import RouteTable
from services.inference.handlers.deployment import Deployer
from services.inference.ports import RuntimeModels, RuntimeProcess
from tessera_kit.errors import TesseraError, Unavailable

__all__ = ["MemoryWatch"]

_log = logging.getLogger(__name__)
_DRAIN_SECONDS: Final = 60.0
_BACK_SECONDS: Final = 120.0
_POLL_SECONDS: Final = 0.1


class MemoryWatch:
    """Looks at the runtime's own memory after models were unloaded.

    When it has grown by more than the bound over the least that was seen, new requests wait, those
    in the runtime end, the process is asked to end, and requests go on when whoever keeps the
    process running has started it again and every model is loaded. So no request fails whose
    deadline is longer than that takes.

    Args:
        process: The runtime's process; where it is on another machine, nothing is done.
        models: Tells what is loaded.
        routes: Tells what should be.
        hold: Keeps requests waiting.
        deployer: Loads models again.
        bound: Bytes of growth; 0 never to replace it.
        interval_seconds: How often it is looked whether models were unloaded.
    """

    def __init__(
        self,
        *,
        process: RuntimeProcess,
        models: RuntimeModels,
        routes: RouteTable,
        hold: RuntimeHold,
        deployer: Deployer,
        bound: int,
        interval_seconds: float = 5.0,
    ) -> None:
        self._process = process
        self._models = models
        self._routes = routes
        self._hold = hold
        self._deployer = deployer
        self._bound = bound
        self._interval_seconds = interval_seconds
        self._unloads = 0
        self._least: int | None = None

    async def run(self) -> None:
        """Watch until cancelled."""
        while self._bound:
            try:
                await self.look()
            except TesseraError as error:
                _log.warning("the runtime's memory is not known now: %s", error)
            await asyncio.sleep(self._interval_seconds)

    async def look(self) -> bool:
        """Replace the runtime if it has kept too much; returns whether it was replaced."""
        if self._least is not None and self._deployer.unloads == self._unloads:
            return False
        self._unloads = self._deployer.unloads
        size = await self._process.memory()
        if size is None:
            return False
        if self._least is None or size < self._least:
            self._least = size
        if size - self._least <= self._bound:
            return False
        _log.warning("the runtime has grown from %d to %d bytes: replaced", self._least, size)
        await self.replace()
        return True

    async def replace(self) -> None:
        """End the runtime's process with no request in it, and go on when it is back."""
        self._hold.close()
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                for route in list(self._routes.routes.values()):
                    for served in route.entities:
                        await served.drained()
        except TimeoutError:
            _log.warning("requests are still in the runtime; its end ends them")
        try:
            await self._process.end()
            self._least = None
            async with asyncio.timeout(_BACK_SECONDS):
                await self._back()
        except TimeoutError:
            _log.error("the runtime did not come back in %.0f seconds", _BACK_SECONDS)
        finally:
            self._hold.open()

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
