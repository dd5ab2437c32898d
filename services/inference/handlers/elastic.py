"""Unloads served entities that nobody asks, and loads them again when somebody does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Final

from services.inference.domain.endpoint import Endpoint
from services.inference.errors import RuntimeUnavailable
from services.inference.gateway.metrics import GatewayMetrics
from services.inference.gateway.nap import Nap
from services.inference.gateway.routing import RouteTable, Served
from services.inference.handlers.deployment import Deployer
from services.inference.ports import RuntimeModels
from tessera_kit.errors import TesseraError, Unavailable

__all__ = ["Elastic", "EntityState"]

_log = logging.getLogger(__name__)
_RETRY_SECONDS: Final = 0.5
_LEAVING_SECONDS: Final = 0.05


class EntityState(StrEnum):
    """What an entity that scales to zero is doing."""

    LOADED = "LOADED"
    SCALED_TO_ZERO = "SCALED_TO_ZERO"
    LOADING = "LOADING"


class Elastic:
    """Owns the loading and unloading of entities with `scale_to_zero`; one per process.

    An entity is idle when the runtime has answered nothing of it for its time, whichever process
    asked, and no request of this process is on its way to it. That it lies down is noted in the
    same step as its idleness is found, so who comes in that moment waits and wakes it.

    Args:
        routes: The gateway's table.
        models: The runtime's models.
        deployer: Loads and unloads.
        metrics: Where wakes are counted.
        idle_seconds: After how long without a request, where the entity does not say.
        interval_seconds: How often it is looked.
    """

    def __init__(
        self,
        *,
        routes: RouteTable,
        models: RuntimeModels,
        deployer: Deployer,
        metrics: GatewayMetrics,
        idle_seconds: float,
        interval_seconds: float = 1.0,
    ) -> None:
        self._routes = routes
        self._models = models
        self._deployer = deployer
        self._metrics = metrics
        self._idle_seconds = idle_seconds
        self._interval_seconds = interval_seconds

    def states(self, endpoint: Endpoint) -> Mapping[str, EntityState]:
        """What the entities that answer for an endpoint and scale to zero do now, by name."""
        route = self._routes.routes.get(endpoint.name)
        if route is None:
            return {}
        return {
            served.name: _state(served.nap) for served in route.entities if served.nap is not None
        }

    async def run(self) -> None:
        """Watch and wake until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look_for_ever(), name="idle entities")
            while True:
                nap = await self._routes.naps.next()
                group.create_task(self._wake(nap), name=f"wake-{nap.entity.runtime_name}")

    async def _look_for_ever(self) -> None:
        while True:
            try:
                await self.look()
            except TesseraError as error:
                _log.warning("it is not known which entities are idle: %s", error)
            await asyncio.sleep(self._interval_seconds)

    async def look(self) -> None:
        """Unload what is idle, and note what was loaded or unloaded by others.

        Raises:
            Unavailable: The runtime does not answer.
        """
        if not any(True for _ in self._elastic()):
            return
        answered = await self._models.answered()
        for served, nap in list(self._elastic()):
            if nap.lock.locked() or nap.waking:
                continue
            asked = answered.get(served.runtime_name)
            if asked is None:
                nap.lie_down()
            elif nap.asleep:
                nap.wake()
            elif self._is_idle(served, nap, asked):
                nap.lie_down()
                await self._unload(nap)

    def _elastic(self) -> Iterator[tuple[Served, Nap]]:
        for route in self._routes.routes.values():
            for served in route.entities:
                if served.nap is not None:
                    yield served, served.nap

    def _is_idle(self, served: Served, nap: Nap, asked: int) -> bool:
        now = asyncio.get_running_loop().time()
        if asked != nap.asked or served.in_flight:
            nap.asked, nap.quiet_since = asked, now
            return False
        return now - nap.quiet_since >= (nap.entity.idle_seconds or self._idle_seconds)

    async def _unload(self, nap: Nap) -> None:
        async with nap.lock:
            # Somebody may have come while the lock was not free.
            if not nap.waking:
                _log.info("unloading %s: nobody asks for it", nap.entity.runtime_name)
                await self._deployer.unload(nap.entity.runtime_name)

    async def _wake(self, nap: Nap) -> None:
        began = asyncio.get_running_loop().time()
        name = nap.entity.runtime_name
        try:
            while nap.waking:
                try:
                    async with nap.lock:
                        await self._load(nap)
                    nap.wake()
                    self._metrics.observe_wake(asyncio.get_running_loop().time() - began)
                except Unavailable as error:
                    if not nap.waiting:
                        raise
                    _log.warning("%s is not loaded yet: %s", name, error)
                    await asyncio.sleep(_RETRY_SECONDS)
        except asyncio.CancelledError:
            nap.fail(RuntimeUnavailable("the service is stopping", retry_after=_RETRY_SECONDS))
            raise
        except Exception as error:
            _log.error("%s cannot be loaded", name, exc_info=error)
            reason = error.message if isinstance(error, TesseraError) else "an internal error"
            nap.fail(
                RuntimeUnavailable(
                    f"served entity {nap.entity.name!r} cannot be loaded: {reason}",
                    retry_after=_RETRY_SECONDS,
                )
            )

    async def _load(self, nap: Nap) -> None:
        if nap.entity.runtime_name in await self._models.loaded():
            # Another process may have loaded it, or be about to unload it.
            await asyncio.sleep(_LEAVING_SECONDS)
            return
        _log.info("loading %s: it is asked for", nap.entity.runtime_name)
        await self._deployer.load(nap.principal, nap.entity)


def _state(nap: Nap) -> EntityState:
    if nap.waking:
        return EntityState.LOADING
    return EntityState.SCALED_TO_ZERO if nap.asleep else EntityState.LOADED
