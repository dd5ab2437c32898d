"""Requests that come while a model is busy leave for it together, as one request of all their rows.

What a request costs the runtime beside its rows (its door, the way to the model's process and
back) is paid once for all of them. Nothing waits for company: while no request of a form is on its
way the next one leaves at once, and with one more on its way than there are instances they would
wait in the runtime. Clipper's adaptive batching (Crankshaw et al., NSDI 2017) without its delay.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from time import perf_counter_ns
from typing import Final, Protocol

from services.inference.errors import InferenceTimeout, InvalidInference, ModelFailed
from services.inference.gateway.forms import Fit, Form
from services.inference.gateway.joining import join_requests, split_response
from services.inference.ports import Runtime
from tessera_kit.tasks import detached_task

__all__ = ["Asked", "Gathering"]

_LARGEST: Final = 32 << 10
"""Bytes of a request that is joined to others; the cost of a larger one is in its bytes."""
_MOST_LANES: Final = 64
_SHORTEST_SECONDS: Final = 0.001


class Asked(Protocol):
    """The part of `records.Exchange` that is used here."""

    request: bytes
    client_request_id: str
    fit: Fit | None
    """The known form of the request, where it has one."""
    model_began: int
    """When the model was asked, in nanoseconds of `perf_counter_ns`."""
    queue_us: int
    """Microseconds of waiting for a place."""


class _Waiting:
    """A request that waits to leave, or has left in company."""

    __slots__ = ("company", "exchange", "reply", "until")

    def __init__(self, exchange: Asked, reply: asyncio.Future[bytes], until: float) -> None:
        self.exchange = exchange
        self.reply = reply
        self.until = until
        """When its caller gives up, on the loop's clock."""
        self.company: _Company | None = None

    def expire(self) -> None:
        """Tell the caller that its time is over."""
        if not self.reply.done():
            self.reply.set_exception(
                InferenceTimeout("the deadline passed before the model answered")
            )


class _Company:
    """Requests that left together."""

    __slots__ = ("left", "members", "task")

    def __init__(self, members: list[_Waiting]) -> None:
        self.members = members
        self.left = len(members)
        """How many of them somebody still waits for."""
        self.task: asyncio.Task[None] | None = None

    def lose_one(self) -> None:
        """Give up the work once nobody waits for it."""
        self.left -= 1
        if not self.left and self.task is not None:
            self.task.cancel()


class _Lane:
    """Requests of one form."""

    __slots__ = ("on_the_way", "sends", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[_Waiting] = deque()
        self.on_the_way = 0
        self.sends = False
        """Whether what waits is sent at the end of this turn of the loop."""


class Gathering:
    """Asks one served entity. Not for several threads.

    Args:
        instances: How many requests the runtime answers at once.
        most_rows: Most rows of one request.
        suffix: What ends a request to the entity.
    """

    __slots__ = ("_lanes", "_most_rows", "_suffix", "_tasks", "_turns")

    def __init__(self, instances: int, most_rows: int, suffix: bytes) -> None:
        # One that the runtime has ready when an instance has answered.
        self._turns = instances + 1
        self._most_rows = most_rows
        self._suffix = suffix
        self._lanes: dict[Form, _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def takes(self, exchange: Asked) -> bool:
        """Whether a request may leave together with others."""
        fit = exchange.fit
        return fit is not None and len(exchange.request) <= _LARGEST and fit.form.joins

    async def ask(self, runtime: Runtime, exchange: Asked, timeout: float) -> bytes:
        """The serialised response to a request that `takes` took; see `Runtime.infer`.

        Args:
            runtime: Asks the models.
            exchange: The request; its waiting here is counted as that for a place.
            timeout: Seconds that the caller has.
        """
        lane = self._lane(_fit_of(exchange).form)
        if not lane.on_the_way and not lane.waiting:
            lane.on_the_way += 1
            try:
                return await runtime.infer(exchange.request, timeout, self._suffix)
            finally:
                lane.on_the_way -= 1
                self._send(runtime, lane)
        loop = asyncio.get_running_loop()
        member = _Waiting(exchange, loop.create_future(), loop.time() + timeout)
        lane.waiting.append(member)
        if not lane.sends:
            # What comes in the same turn of the loop goes along.
            lane.sends = True
            loop.call_soon(self._send, runtime, lane)
        timer = loop.call_later(timeout, member.expire)
        try:
            return await member.reply
        finally:
            timer.cancel()
            # Neither keeps the other: what many requests leave to the cyclic collector stops all.
            company, member.company = member.company, None
            if company is not None:
                company.lose_one()

    def _lane(self, form: Form) -> _Lane:
        lane = self._lanes.get(form)
        if lane is None:
            if len(self._lanes) >= _MOST_LANES:
                self._lanes = {
                    known: kept
                    for known, kept in self._lanes.items()
                    if kept.on_the_way or kept.waiting
                }
            lane = self._lanes[form] = _Lane()
        return lane

    def _send(self, runtime: Runtime, lane: _Lane) -> None:
        lane.sends = False
        while lane.on_the_way < self._turns:
            members = self._next(lane)
            if not members:
                return
            company = _Company(members)
            for member in members:
                member.company = company
            self._start(runtime, lane, company)

    def _next(self, lane: _Lane) -> list[_Waiting]:
        """Those who leave now: all that wait, as far as they fit one request."""
        found: list[_Waiting] = []
        rows = 0
        while lane.waiting:
            first = lane.waiting[0]
            if not first.reply.done():
                rows += _fit_of(first.exchange).form.rows
                if found and rows > self._most_rows:
                    break
                found.append(first)
            lane.waiting.popleft()
        return found

    def _start(self, runtime: Runtime, lane: _Lane, company: _Company) -> None:
        lane.on_the_way += 1
        now = perf_counter_ns()
        for member in company.members:
            exchange = member.exchange
            exchange.queue_us += (now - exchange.model_began) // 1000
            exchange.model_began = now
        work = self._ask_together if len(company.members) > 1 else self._ask_alone
        task = company.task = detached_task(work(runtime, company.members))
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            lane.on_the_way -= 1
            if not task.cancelled() and (error := task.exception()) is not None:
                _fail(company.members, error)
            self._send(runtime, lane)

        task.add_done_callback(ended)

    async def _ask_alone(self, runtime: Runtime, members: Sequence[_Waiting]) -> None:
        (member,) = members
        reply = await runtime.infer(member.exchange.request, _left(members), self._suffix)
        if not member.reply.done():
            member.reply.set_result(reply)

    async def _ask_together(self, runtime: Runtime, members: Sequence[_Waiting]) -> None:
        fits = [_fit_of(member.exchange) for member in members]
        form = fits[0].form
        joined = join_requests(form, fits)
        replies = None
        try:
            reply = await runtime.infer(joined, _left(members), self._suffix)
            ids = [member.exchange.client_request_id for member in members]
            replies = split_response(reply, form.rows, ids)
        except (InvalidInference, ModelFailed):
            # One request that is at fault must not fail the others.
            pass
        if replies is None:
            await self._ask_each(runtime, members)
            return
        for member, own in zip(members, replies, strict=True):
            if not member.reply.done():
                member.reply.set_result(own)

    async def _ask_each(self, runtime: Runtime, members: Sequence[_Waiting]) -> None:
        async def ask(member: _Waiting) -> None:
            try:
                await self._ask_alone(runtime, [member])
            except Exception as error:
                _fail([member], error)

        async with asyncio.TaskGroup() as group:
            for member in members:
                if not member.reply.done():
                    group.create_task(ask(member))


def _fit_of(exchange: Asked) -> Fit:
    if exchange.fit is None:
        raise ValueError("only requests of a known form leave together")
    return exchange.fit


def _left(members: Sequence[_Waiting]) -> float:
    """Seconds until the last of the callers gives up."""
    latest = max(member.until for member in members)
    return max(latest - asyncio.get_running_loop().time(), _SHORTEST_SECONDS)


def _fail(members: Sequence[_Waiting], error: BaseException) -> None:
    for member in members:
        if not member.reply.done():
            member.reply.set_exception(error)
