"""Bodies are read by who may read the table, and leave the object store with their rows."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import date, timedelta

import pytest

from services.inference.adapters.memory import InMemoryEndpoints, InMemoryPayloads
from services.inference.domain.bodies import Side, body_key, days_over
from services.inference.domain.endpoint import Endpoint
from services.inference.domain.settings import EndpointSettings
from services.inference.errors import BodyNotFound
from services.inference.handlers.body_sweep import BodySweep
from services.inference.handlers.payloads import Payloads
from tessera.catalog.v1 import securable_pb2
from tessera_kit.clock import ManualClock
from tessera_kit.errors import PermissionDenied
from tessera_kit.rpc.authority import InMemoryAuthority
from tessera_kit.rpc.identity import Principal
from tessera_kit.store.memory_objects import InMemoryObjectStore
from tessera_kit.store.objects import ObjectStoreUnavailable
from tessera_kit.telemetry.metrics import Metrics
from tests.contract.test_inference_endpoints import make_endpoint
from tests.helpers import eventually
from tests.integration.inference.test_inference_tables import NOON, make_row

ADA, BOB = Principal("ada"), Principal("bob")
DAY = NOON.date()


class Store(InMemoryObjectStore):
    """Breaks off its removals while it is away."""

    away = False

    async def delete_prefix(self, prefix: str) -> int:
        if self.away:
            raise ObjectStoreUnavailable("away")
        return await super().delete_prefix(prefix)


class World:
    """An endpoint's table and the bodies beside it."""

    def __init__(self, retention_days: int = 0) -> None:
        self.endpoints, self.rows = InMemoryEndpoints(), InMemoryPayloads()
        self.objects, self.authority = Store(), InMemoryAuthority()
        self.clock = ManualClock(NOON)
        self.metrics = Metrics()
        self.settings = EndpointSettings(retention_days=retention_days)
        self.payloads = Payloads(
            tables=self.endpoints,
            reader=self.rows,
            objects=self.objects,
            authority=self.authority,
        )
        self.sweeper = BodySweep(
            tables=self.endpoints,
            reader=self.rows,
            objects=self.objects,
            clock=self.clock,
            metrics=self.metrics,
            interval_seconds=0.001,
        )

    async def add(self, name: str = "flights") -> Endpoint:
        endpoint = replace(make_endpoint(name), settings=self.settings)
        self.authority.grant(
            "ada",
            [securable_pb2.PRIVILEGE_SELECT],
            securable_pb2.SECURABLE_TYPE_TABLE,
            endpoint.table.full_name,
        )
        return await self.endpoints.add(endpoint, "", [])

    async def put(self, endpoint: Endpoint, days_ago: int, *, key: str = "") -> str:
        """A row with a body of its response in the object store; returns its request's id."""
        at = NOON - timedelta(days=days_ago)
        row = make_row(at=at)
        own = body_key(endpoint.endpoint_id, at.date(), row.request_id, Side.RESPONSE)
        row.values["response_object"] = key or own
        await self.objects.put(own, b"body of " + row.request_id.encode())
        await self.rows.insert(endpoint.table, [row], row.request_id)
        return row.request_id

    async def read(self, endpoint: Endpoint, request_id: str, side: Side = Side.RESPONSE) -> bytes:
        body = await self.payloads.body(ADA, endpoint.table.full_name, request_id, side)
        data = b"".join([chunk async for chunk in body.chunks])
        assert len(data) == body.size
        return data

    def removed(self) -> float:
        value = self.metrics.registry.get_sample_value("tessera_inference_bodies_removed_total")
        return value or 0.0


async def test_a_body_is_read_where_it_lies() -> None:
    world = World()
    endpoint = await world.add()
    large = await world.put(endpoint, 0)
    assert await world.read(endpoint, large) == b"body of " + large.encode()
    text = '{"é": 1}' * 100_000
    small = make_row(request=text, logging_error_codes=["MAX_RESPONSE_SIZE_EXCEEDED"])
    await world.rows.insert(endpoint.table, [small], "small")
    found = await world.payloads.body(ADA, endpoint.table.full_name, small.request_id, Side.REQUEST)
    chunks = [chunk async for chunk in found.chunks]
    assert found.is_json
    assert max(map(len, chunks)) <= 256 << 10
    assert b"".join(chunks).decode() == text
    with pytest.raises(BodyNotFound, match="MAX_RESPONSE_SIZE_EXCEEDED"):
        await world.read(endpoint, small.request_id)
    with pytest.raises(BodyNotFound, match="no row"):
        await world.read(endpoint, "unknown")
    await world.endpoints.delete(endpoint, [])
    assert await world.read(endpoint, large), "the table of a deleted endpoint is read too"


async def test_who_may_not_read_the_table_reads_no_body() -> None:
    world = World()
    endpoint = await world.add()
    large = await world.put(endpoint, 0)
    table = endpoint.table.full_name
    with pytest.raises(PermissionDenied):
        await world.payloads.body(BOB, table, large, Side.RESPONSE)
    world.authority.grant(
        "bob",
        [securable_pb2.PRIVILEGE_SELECT],
        securable_pb2.SECURABLE_TYPE_TABLE,
        "a.b.another",
    )
    with pytest.raises(BodyNotFound, match="no inference table"):
        await world.payloads.body(BOB, "a.b.another", large, Side.RESPONSE)


async def test_a_strangers_row_opens_no_other_body() -> None:
    """Whoever may tell payloads of one endpoint must not read those of another with them."""
    world = World()
    mine, others = await world.add(), await world.add("secret")
    secret = await world.put(others, 0)
    key = body_key(others.endpoint_id, DAY, secret, Side.RESPONSE)
    for wanted in (key, f"inference-payloads/{mine.endpoint_id}/../{key}", "models/weights"):
        with pytest.raises(BodyNotFound):
            await world.read(mine, await world.put(mine, 0, key=wanted))


async def test_bodies_go_after_their_rows_and_not_before() -> None:
    world = World(retention_days=2)
    endpoint = await world.add()
    old, last, fresh = [await world.put(endpoint, days) for days in (5, 2, 1)]
    assert await world.sweeper.sweep() == 0, "their rows can still be read"
    assert await world.read(endpoint, old)
    world.rows.expire(endpoint.table, DAY - timedelta(days=3))
    assert await world.sweeper.sweep() == 1
    assert await world.read(endpoint, last)
    world.rows.expire(endpoint.table, DAY - timedelta(days=1))
    assert await world.sweeper.sweep() == 1
    assert await world.sweeper.sweep() == 0
    assert await world.read(endpoint, fresh)
    assert [info.key async for info in world.objects.list("inference-payloads/")] == [
        body_key(endpoint.endpoint_id, DAY - timedelta(days=1), fresh, Side.RESPONSE)
    ]
    assert world.removed() == 2


async def test_a_row_that_lost_its_body_says_why() -> None:
    world = World(retention_days=2)
    endpoint = await world.add()
    late = await world.put(endpoint, 5)
    await world.objects.delete_prefix("inference-payloads/")
    with pytest.raises(BodyNotFound, match="kept for 2 days"):
        await world.read(endpoint, late)


async def test_tables_without_retention_keep_their_bodies() -> None:
    world = World()
    endpoint = await world.add()
    await world.put(endpoint, 5000)
    world.rows.expire(endpoint.table, DAY)
    assert await world.sweeper.sweep() == 0


async def test_a_sweep_that_was_broken_off_is_gone_on_with() -> None:
    world = World(retention_days=1)
    endpoint = await world.add()
    for _ in range(3):
        await world.put(endpoint, 3)
    await world.endpoints.delete(endpoint, [])
    world.rows.expire(endpoint.table, DAY)
    world.objects.away = True
    task = asyncio.create_task(world.sweeper.run())
    assert await world.sweeper.sweep() == 0
    world.objects.away = False
    await eventually(lambda: world.removed() == 3)
    task.cancel()


def test_only_days_that_are_over_are_looked_at() -> None:
    folders = [f"inference-payloads/id/{name}/" for name in ("2026-11-20", "2026-11-22", "x")]
    assert days_over(folders, 2, date(2026, 11, 22)) == {date(2026, 11, 20): folders[0]}
    assert days_over(folders, 2, date(2026, 11, 21)) == {}
