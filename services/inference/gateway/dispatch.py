"""From a checked request to a served entity's answer."""

from __future__ import annotations

from time import perf_counter, perf_counter_ns
from typing import Any

from services.inference.gateway.admission import Gate
from services.inference.gateway.records import Exchange
from services.inference.gateway.routing import Route, Served
from services.inference.ports import Runtime

__all__ = ["Dispatcher"]


class Dispatcher:
    """Chooses who answers a request and asks it.

    What an endpoint does not use costs its requests nothing.

    Args:
        runtime: Asks the models.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def ask(self, exchange: Exchange, route: Route, request: Any, timeout: float) -> bytes:
        """The runtime's answer to an exchange's request.

        Args:
            exchange: Told which entity was asked and how long that took.
            route: The endpoint's.
            request: The parsed `inference.ModelInferRequest`, checked.
            timeout: Seconds that the caller has.

        Raises:
            EntityBusy: The entity has as many requests as it may.
            TimeoutError: The time was over before its turn came.
        """
        exchange.served = served = route.choose(request.model_version)
        return await self._ask(exchange, served, timeout)

    async def _ask(self, exchange: Exchange, served: Served, timeout: float) -> bytes:
        served.enter()
        try:
            if served.gate is None:
                return await self._run(exchange, served, timeout)
            return await self._run_in_turn(exchange, served, served.gate, timeout)
        finally:
            served.leave()

    async def _run_in_turn(
        self, exchange: Exchange, served: Served, gate: Gate, timeout: float
    ) -> bytes:
        deadline = perf_counter() + timeout
        entered = await gate.enter(timeout)
        try:
            return await self._run(exchange, served, max(deadline - entered, 0.001))
        finally:
            gate.leave(entered)

    async def _run(self, exchange: Exchange, served: Served, timeout: float) -> bytes:
        exchange.model_began = perf_counter_ns()
        try:
            reply = await self._runtime.infer(exchange.request + served.request_suffix, timeout)
            exchange.model_answered = True
            return reply
        finally:
            exchange.model_ended = perf_counter_ns()
