"""Requests that are mirrored to other entities, beside the answers that callers wait for."""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter_ns
from typing import Final

from services.inference.errors import SpoolFull
from services.inference.gateway.asking import ask_once
from services.inference.gateway.metrics import GatewayMetrics
from services.inference.gateway.recorder import Recorder
from services.inference.gateway.records import Exchange
from services.inference.gateway.routing import Route, Served, Shadow
from services.inference.gateway.status import public_status
from services.inference.ports import Runtime
from tessera_kit.tasks import detached_task

__all__ = ["Shadows"]

_log = logging.getLogger(__name__)
_CANCELLED: Final = 1


class Shadows:
    """Asks shadow entities and keeps their answers; owns the requests that are on their way.

    A mirror beyond the entity's bound is left out and counted: it must never slow its original.

    Args:
        runtime: Asks the models.
        recorder: Keeps what they answered.
        metrics: Where mirrors are counted.
    """

    def __init__(self, runtime: Runtime, recorder: Recorder, metrics: GatewayMetrics) -> None:
        self._runtime = runtime
        self._recorder = recorder
        self._metrics = metrics
        self._tasks: set[asyncio.Task[None]] = set()

    def mirror(self, exchange: Exchange, route: Route, timeout: float) -> None:
        """Begin to ask the shadows whose turn it is."""
        for number, shadow in enumerate(route.shadows):
            if not shadow.takes_this():
                continue
            if shadow.served.in_flight >= shadow.most:
                self._metrics.count_shadow(exchange.endpoint, shadow.served.name, "dropped")
                continue
            # Entered here, so that the bound holds before the task's first step.
            shadow.served.enter()
            task = detached_task(self._ask(exchange.mirror(number, shadow.served), shadow, timeout))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def run(self) -> None:
        """Wait until cancelled, then give up what is on its way."""
        try:
            await asyncio.Event().wait()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def idle(self) -> None:
        """Return when no mirror is on its way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _run(self, exchange: Exchange, served: Served, timeout: float) -> bytes:
        exchange.model_began = perf_counter_ns()
        return await ask_once(self._runtime, served, exchange, timeout)

    async def _ask(self, exchange: Exchange, shadow: Shadow, timeout: float) -> None:
        served, outcome = shadow.served, "failed"
        exchange.model_began = exchange.began
        try:
            if served.nap is None:
                reply = await self._run(exchange, served, timeout)
            else:
                reply = await served.nap.ask(
                    lambda left: self._run(exchange, served, left), timeout
                )
            exchange.model_answered = True
            exchange.end_model()
            self._recorder.keep(exchange, reply, 0, "")
            outcome = "answered"
        except asyncio.CancelledError:
            exchange.end_model()
            self._recorder.keep_failure(exchange, _CANCELLED, "the gateway stopped")
            raise
        except SpoolFull:
            self._metrics.unlogged.inc()
        except Exception as error:
            exchange.end_model()
            status = public_status(error)
            self._recorder.keep_failure(exchange, status.code, status.message)
        finally:
            served.leave()
            self._metrics.count_kept(exchange)
            self._metrics.count_shadow(exchange.endpoint, served.name, outcome)
