"""When the lean client's requests leave."""

from __future__ import annotations

import asyncio

from services.inference.adapters.wire.connection import WireConnection
from tests.unit.inference.door_peer import INFER, Wire, turns


async def connected() -> tuple[WireConnection, Wire]:
    connection, wire = WireConnection("runtime:8001", INFER, 1 << 20), Wire()
    connection.connection_made(wire)
    await turns()
    wire.writes = 0
    return connection, wire


async def test_the_only_request_does_not_wait_for_the_end_of_the_turn() -> None:
    connection, wire = await connected()
    call = asyncio.create_task(connection.call(b"one", None))
    await turns(1)
    assert wire.writes == 1
    assert wire.sent.endswith(b"one")
    call.cancel()


async def test_requests_of_one_turn_leave_together_behind_the_first() -> None:
    connection, wire = await connected()
    calls = [asyncio.create_task(connection.call(b"one", None)) for _ in range(3)]
    await turns(1)
    assert wire.writes == 1
    await turns(1)
    assert wire.writes == 2
    assert wire.sent.count(b"one") == 3
    for call in calls:
        call.cancel()
