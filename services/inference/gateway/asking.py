"""One answer of a served entity, whatever number of responses its model gives."""

from __future__ import annotations

from contextlib import aclosing
from typing import Final

from services.inference.domain.request_id import ID_FIELD
from services.inference.errors import ModelFailed
from services.inference.gateway.assembly import Assembly
from services.inference.gateway.records import SHADOW, Exchange
from services.inference.gateway.routing import Served
from services.inference.ports import Runtime

__all__ = ["LARGEST_ANSWER", "ask_once", "ending_of"]

LARGEST_ANSWER: Final = 64 << 20
"""Most bytes of a streamed answer that are put together for a caller who wants it whole."""


async def ask_once(runtime: Runtime, served: Served, exchange: Exchange, timeout: float) -> bytes:
    """The one response of an entity as its caller gets it; those of a stream are put together.

    Args:
        runtime: Asks the models.
        served: The entity.
        exchange: The request; told when it left, if it waited for company.
        timeout: Seconds that the caller has.

    Raises:
        TesseraError: As `Runtime.infer`; ModelFailed too when the responses are too many bytes.
    """
    ending = ending_of(exchange)
    if served.gathering is not None and served.gathering.takes(exchange):
        return await served.gathering.ask(runtime, exchange, timeout) + ending
    suffix = served.suffix(exchange.sequence)
    if not served.streams:
        return await runtime.infer(exchange.request, timeout, suffix, ending)
    whole = Assembly(LARGEST_ANSWER)
    async with aclosing(runtime.stream(exchange.request + suffix, timeout)) as responses:
        async for response in responses:
            whole.add(response)
            if whole.is_cut:
                raise ModelFailed(
                    f"the model failed: its responses have more than {LARGEST_ANSWER} bytes "
                    "together; ask for them as a stream"
                )
    return whole.response() + ending


def ending_of(exchange: Exchange) -> bytes:
    """What turns the runtime's response into the caller's, behind its bytes."""
    suffix = exchange.served.reply_suffix if exchange.served is not None else b""
    if exchange.leg == SHADOW:
        # Nobody is told its id, which is longer.
        return suffix
    return b"".join((suffix, ID_FIELD, exchange.request_id.encode()))
