"""From a checked request to a served entity's answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing
from time import perf_counter, perf_counter_ns
from typing import Any, Final, TypeAlias

from services.inference.errors import ModelNotLoaded, RuntimeUnavailable
from services.inference.gateway.admission import Gate
from services.inference.gateway.asking import ask_once
from services.inference.gateway.hold import RuntimeHold
from services.inference.gateway.metrics import GatewayMetrics
from services.inference.gateway.nap import Nap
from services.inference.gateway.records import FALLBACK, Exchange
from services.inference.gateway.routing import Route, RouteTable, Served
from services.inference.gateway.shadows import Shadows
from services.inference.ports import Runtime
from tessera_kit.errors import TesseraError
from tessera_kit.rpc.status import code_of

__all__ = ["STICKY_KEY", "Dispatcher"]

Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]

STICKY_KEY: Final = "tessera-sticky-key"
"""Metadata of a request: those with the same value go to the same entity."""


class Dispatcher:
    """Chooses who answers a request and asks it.

    What an endpoint does not use costs its requests nothing.

    Args:
        routes: Where requests go.
        runtime: Asks the models.
        shadows: Asks shadow entities.
        hold: Keeps requests waiting while the runtime is replaced.
        metrics: Where fallbacks are counted.
        lost: Told the runtime name of a model that the runtime should have and does not.
        follow: Brings the routes to what other processes made of them.
    """

    def __init__(
        self,
        routes: RouteTable,
        runtime: Runtime,
        shadows: Shadows,
        hold: RuntimeHold,
        metrics: GatewayMetrics,
        lost: Callable[[str], None],
        follow: Callable[[], Awaitable[object]],
    ) -> None:
        self._routes = routes
        self._runtime = runtime
        self._shadows = shadows
        self._hold = hold
        self._metrics = metrics
        self._lost = lost
        self._follow = follow
        self._moving = asyncio.Lock()
        self._looks = 0

    async def ask(
        self, exchange: Exchange, route: Route, request: Any, metadata: Metadata, timeout: float
    ) -> bytes:
        """The answer to an exchange's request, as its caller gets it.

        Args:
            exchange: Told which entity was asked and how long that took.
            route: The endpoint's.
            request: The parsed `inference.ModelInferRequest`, checked.
            metadata: The call's.
            timeout: Seconds that the caller has.

        Raises:
            EntityBusy: The entity has as many requests as it may.
            TimeoutError: The time was over before its turn came.
        """
        if self._hold.is_closed:
            timeout = await self._hold.wait(timeout)
            route = exchange.route = self._routes.find(request.model_name)
        while True:
            began = perf_counter()
            try:
                return await self._ask_route(exchange, route, request, metadata, timeout)
            except ModelNotLoaded:
                moved = await self._moved(exchange, route)
                if moved is None:
                    raise
                route = moved
                timeout -= perf_counter() - began

    async def _moved(self, exchange: Exchange, route: Route) -> Route | None:
        """The route that another process has led the endpoint's requests to; None for no other."""
        looks = self._looks
        async with self._moving:
            # Whoever waited for its turn may find it done: one look serves all who came before it.
            found = self._routes.find(exchange.endpoint)
            if found.config_version == route.config_version and self._looks == looks:
                self._looks += 1
                await self._follow()
                found = self._routes.find(exchange.endpoint)
        if found.config_version == route.config_version:
            return None
        exchange.route = found
        return found

    async def _ask_route(
        self, exchange: Exchange, route: Route, request: Any, metadata: Metadata, timeout: float
    ) -> bytes:
        served = self._choose(exchange, route, request, metadata, timeout)
        # Who asks for a version, or goes on with a sequence, wants that one's answer or none.
        if route.fallback_codes and not request.model_version and not exchange.sequence:
            return await self._ask_until_answered(exchange, route, served, timeout)
        return await self._ask(exchange, served, timeout)

    async def stream(
        self,
        exchange: Exchange,
        route: Route,
        request: Any,
        metadata: Metadata,
        timeout: float,
        asking: Callable[[], None],
    ) -> AsyncGenerator[bytes]:
        """The runtime's responses to a request, of a model that gives any number of them.

        Others are asked instead of a failed entity only before its first response. `asking` is
        called before each is asked; other arguments, and errors, are those of `ask`.
        """
        deadline = perf_counter() + timeout
        if self._hold.is_closed:
            timeout = await self._hold.wait(timeout)
            route = exchange.route = self._routes.find(request.model_name)
        served = self._choose(exchange, route, request, metadata, timeout)
        alone = bool(request.model_version or exchange.sequence)
        others = iter(() if alone else route.others(served))
        while True:
            try:
                async with aclosing(self._stream(exchange, served, deadline, asking)) as responses:
                    async for response in responses:
                        yield response
                return
            except TesseraError as error:
                if exchange.model_answered:
                    raise
                if isinstance(error, ModelNotLoaded) and perf_counter() < deadline:
                    moved = await self._moved(exchange, route)
                    if moved is not None:
                        route, left = moved, deadline - perf_counter()
                        served = self._choose(exchange, route, request, metadata, left)
                        others = iter(() if alone else route.others(served))
                        continue
                served = self._other(exchange, route, others, error, deadline)

    def _choose(
        self, exchange: Exchange, route: Route, request: Any, metadata: Metadata, timeout: float
    ) -> Served:
        version = request.model_version
        key = _sticky_key(metadata) if route.is_sticky and not version else None
        if exchange.sequence and not version:
            # Its state is with the entity that had the request before.
            key = exchange.sequence.encode()
        served = route.choose(version) if key is None else route.choose_by_key(key)
        exchange.served = served
        if route.shadows:
            self._shadows.mirror(exchange, route, timeout)
        return served

    async def _ask_until_answered(
        self, exchange: Exchange, route: Route, first: Served, timeout: float
    ) -> bytes:
        deadline = perf_counter() + timeout
        others = iter(route.others(first))
        served = first
        while True:
            try:
                return await self._ask(exchange, served, deadline - perf_counter())
            except TesseraError as error:
                served = self._other(exchange, route, others, error, deadline)

    def _other(
        self,
        exchange: Exchange,
        route: Route,
        others: Iterator[Served],
        error: TesseraError,
        deadline: float,
    ) -> Served:
        """Who is asked after an entity failed; raises its error when nobody is."""
        code = code_of(type(error))
        other = next(others, None)
        if (
            other is None
            or exchange.served is None
            or code.value[0] not in route.fallback_codes
            or perf_counter() >= deadline
        ):
            raise error
        exchange.failed += (exchange.served.name,)
        exchange.served = other
        exchange.leg = FALLBACK
        self._metrics.count_fallback(exchange.endpoint, other.name, code.name)
        return other

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
        began = perf_counter()
        deadline = began + timeout
        try:
            entered = await gate.enter(timeout)
        finally:
            exchange.queue_us += int((perf_counter() - began) * 1e6)
        try:
            return await self._run(exchange, served, max(deadline - entered, 0.001))
        finally:
            gate.leave(entered)

    async def _run_awake(
        self, exchange: Exchange, served: Served, nap: Nap, timeout: float
    ) -> bytes:
        began = perf_counter_ns()
        try:
            return await nap.ask(lambda left: self._run_now(exchange, served, left), timeout)
        finally:
            asked = exchange.model_began
            # Whoever was asked before it was asked earlier.
            exchange.queue_us += ((asked if asked > began else perf_counter_ns()) - began) // 1000

    async def _run(self, exchange: Exchange, served: Served, timeout: float) -> bytes:
        if served.nap is None:
            return await self._run_now(exchange, served, timeout)
        return await self._run_awake(exchange, served, served.nap, timeout)

    async def _run_now(self, exchange: Exchange, served: Served, timeout: float) -> bytes:
        exchange.model_began = perf_counter_ns()
        try:
            reply = await ask_once(self._runtime, served, exchange, timeout)
            exchange.model_answered = True
            return reply
        except RuntimeUnavailable:
            if served.nap is None:
                self._lost(served.runtime_name)
            raise
        finally:
            exchange.model_ended = ended = perf_counter_ns()
            served.count(exchange.model_answered, ended - exchange.model_began)

    async def _stream(
        self, exchange: Exchange, served: Served, deadline: float, asking: Callable[[], None]
    ) -> AsyncGenerator[bytes]:
        gate, entered, ended = served.gate, 0.0, False
        served.enter()
        try:
            if gate is not None:
                began = perf_counter()
                try:
                    entered = await gate.enter(deadline - began)
                finally:
                    exchange.queue_us += int((perf_counter() - began) * 1e6)
            async with aclosing(self._responses(exchange, served, deadline, asking)) as responses:
                async for response in responses:
                    exchange.model_answered = True
                    exchange.note_chunk()
                    yield response
            exchange.model_answered = ended = True
        finally:
            if gate is not None and entered:
                gate.leave(entered)
            served.leave()
            if exchange.model_began:
                exchange.model_ended = perf_counter_ns()
                served.count(ended, exchange.model_ended - exchange.model_began)

    async def _responses(
        self, exchange: Exchange, served: Served, deadline: float, asking: Callable[[], None]
    ) -> AsyncGenerator[bytes]:
        nap, told = served.nap, exchange.request + served.suffix(exchange.sequence)
        while True:
            began = perf_counter_ns()
            if nap is not None:
                try:
                    await nap.ready(deadline - perf_counter())
                finally:
                    exchange.queue_us += (perf_counter_ns() - began) // 1000
            exchange.model_began = perf_counter_ns()
            asking()
            left = max(deadline - perf_counter(), 0.001)
            try:
                async with aclosing(self._runtime.stream(told, left)) as responses:
                    async for response in responses:
                        yield response
                return
            except RuntimeUnavailable as error:
                if nap is None:
                    self._lost(served.runtime_name)
                    raise
                # Nothing of it has run, so it may be asked again.
                if not isinstance(error, ModelNotLoaded) or perf_counter() >= deadline:
                    raise
                nap.lie_down()


def _sticky_key(metadata: Metadata) -> bytes | None:
    for name, value in metadata:
        if name == STICKY_KEY:
            return value.encode() if isinstance(value, str) else value
    return None
