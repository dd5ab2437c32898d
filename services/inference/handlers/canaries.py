"""Canaries: begun and ended by callers, driven by a look at the inference table and by alerts."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime
from typing import Final

from services.inference.convert import events
from services.inference.convert.events import Step
from services.inference.domain.canary import Canary, CanaryPlan, CanaryState
from services.inference.domain.endpoint import Endpoint
from services.inference.errors import EndpointNotFound, NoCanary, StaleEtag
from services.inference.handlers.deployment import Deployer
from services.inference.handlers.endpoints import EndpointHandlers
from services.inference.ports import Endpoints, TableReader
from tessera_kit.clock import Clock
from tessera_kit.errors import TesseraError
from tessera_kit.ids import new_etag
from tessera_kit.rpc.identity import Principal

__all__ = ["Canaries"]

_log = logging.getLogger(__name__)
_STEPS: Final = {
    CanaryState.RUNNING: Step.CANARY_ADVANCED,
    CanaryState.SUCCEEDED: Step.CANARY_SUCCEEDED,
    CanaryState.ROLLED_BACK: Step.CANARY_ROLLED_BACK,
}


class Canaries:
    """The use cases of canaries.

    A canary's state is stored with its endpoint, so it goes on after a restart; of several
    processes that look at it, the endpoint's etag lets one change it.

    Args:
        handlers: Tells who may change an endpoint.
        endpoints: Where endpoints are kept.
        reader: Tells what the inference table says of a canary.
        deployer: Applies the shares.
        clock: Where time comes from.
        interval_seconds: How often canaries are looked at.
    """

    def __init__(
        self,
        *,
        handlers: EndpointHandlers,
        endpoints: Endpoints,
        reader: TableReader,
        deployer: Deployer,
        clock: Clock,
        interval_seconds: float = 1.0,
    ) -> None:
        self._handlers = handlers
        self._endpoints = endpoints
        self._reader = reader
        self._deployer = deployer
        self._clock = clock
        self._interval_seconds = interval_seconds

    async def start(self, caller: Principal, name: str, plan: CanaryPlan, etag: str) -> Endpoint:
        """Begin a canary with its first step."""
        stored = await self._handlers.managed(caller, name, etag)
        endpoint = stored.start_canary(plan, self._clock.now(), new_etag())
        await self._save(stored, endpoint, Step.CANARY_STARTED, caller.name)
        return endpoint

    async def end(self, caller: Principal, name: str, promote: bool, etag: str) -> Endpoint:
        """End a canary before its time.

        Raises:
            NoCanary: None runs.
        """
        stored = await self._handlers.managed(caller, name, etag)
        if stored.canary is None or stored.canary.state is not CanaryState.RUNNING:
            raise NoCanary(f"endpoint {name!r} has no canary that runs")
        state = CanaryState.SUCCEEDED if promote else CanaryState.ROLLED_BACK
        now = self._clock.now()
        canary = stored.canary.end(state, f"{caller.name} ended it", now)
        endpoint = stored.move_canary(canary, now, new_etag())
        await self._save(stored, endpoint, _STEPS[state], caller.name)
        return endpoint

    async def run(self) -> None:
        """Drive every canary until cancelled."""
        while True:
            try:
                await self.look()
            except TesseraError as error:
                _log.warning("canaries wait: %s", error)
            await asyncio.sleep(self._interval_seconds)

    async def look(self) -> None:
        """Look once at every canary that runs.

        Raises:
            Unavailable: The endpoints' store does not answer.
        """
        for endpoint in await self._endpoints.all():
            canary = endpoint.canary
            if canary is None or canary.state is not CanaryState.RUNNING:
                continue
            try:
                await self._look_at(endpoint, canary)
            except StaleEtag:
                _log.info("endpoint %s changed while its canary was looked at", endpoint.name)
            except TesseraError as error:
                # A canary of which nothing can be seen stays where it is.
                _log.warning("the canary of endpoint %s waits: %s", endpoint.name, error)

    async def note_alert(self, table: str, monitor: str, rule: str, fired_at: datetime) -> None:
        """Take back the canaries that mind an alert on an inference table."""
        for endpoint in await self._endpoints.all():
            if endpoint.table.full_name != table:
                continue
            stored = endpoint
            while stored.canary is not None and stored.canary.minds(monitor, fired_at):
                reason = f"alert {rule!r} of monitor {monitor!r} fired"
                now = self._clock.now()
                canary = stored.canary.end(CanaryState.ROLLED_BACK, reason, now)
                try:
                    await self._move(stored, canary, now)
                    break
                except StaleEtag:
                    try:
                        stored = await self._endpoints.get(endpoint.name)
                    except EndpointNotFound:
                        break

    async def _look_at(self, endpoint: Endpoint, canary: Canary) -> None:
        version = 0 if endpoint.config is None else endpoint.config.version
        seen = await self._reader.sight(
            endpoint.table, version, canary.plan.entity, canary.step_started_at
        )
        now = self._clock.now()
        after = canary.advance(seen, now)
        if (after.step, after.state) != (canary.step, canary.state):
            await self._move(endpoint, after, now)

    async def _move(self, stored: Endpoint, canary: Canary, now: datetime) -> None:
        endpoint = stored.move_canary(canary, now, new_etag())
        await self._save(stored, endpoint, _STEPS[canary.state], "")
        _log.info(
            "endpoint %s: canary %s is %s at step %d %s",
            *(stored.name, canary.plan.entity, canary.state.value, canary.step, canary.reason),
        )

    async def _save(self, stored: Endpoint, endpoint: Endpoint, step: Step, who: str) -> None:
        await self._endpoints.save(endpoint, stored.etag, [events.changed(endpoint, step, who)])
        self._deployer.apply(endpoint)
