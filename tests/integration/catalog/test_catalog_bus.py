"""The catalog on the bus: lineage comes in, changes of rights go out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from devstack import Stack
from tessera.catalog.v1 import authorization_service_pb2 as auth
from tessera.catalog.v1 import catalog_pb2, securable_pb2
from tessera.catalog.v1 import catalog_service_pb2 as tree
from tessera.catalog.v1 import lineage_service_pb2 as lineage
from tessera.events.v1 import catalog_events_pb2
from tessera_kit.bus.event import new_event
from tessera_kit.bus.producer import EventProducer
from tessera_kit.bus.topics import dead_letter_topic, topic_for
from tessera_kit.config import KafkaConfig
from tessera_kit.errors import PermissionDenied
from tessera_kit.rpc.authority import Authority
from tessera_kit.rpc.catalog_authority import CatalogAuthority
from tessera_kit.rpc.identity import Principal
from tessera_kit.rpc.watcher import GrantWatcher
from tests.helpers import eventually, unique_name
from tests.integration.catalog.conftest import Client

pytestmark = pytest.mark.timeout(180)

TOPIC = topic_for(catalog_events_pb2.LineageObserved).name


@pytest.fixture
async def producer(running: Stack) -> AsyncIterator[EventProducer]:
    async with EventProducer(KafkaConfig.from_env(running.environment)) as producer:
        yield producer


def run_to(name: str, model: str) -> catalog_events_pb2.LineageObserved:
    return catalog_events_pb2.LineageObserved(
        edges=[
            lineage.LineageEdge(
                source=lineage.LineageNode(type=lineage.LINEAGE_NODE_TYPE_RUN, name=name),
                target=lineage.LineageNode(
                    type=lineage.LINEAGE_NODE_TYPE_MODEL_VERSION, name=model
                ),
                principal="tester",
            )
        ]
    )


async def edges_of(client: Client, run: str) -> list[lineage.LineageEdge]:
    found = await client.lineage.GetLineage(
        lineage.GetLineageRequest(
            node=lineage.LineageNode(type=lineage.LINEAGE_NODE_TYPE_RUN, name=run),
            direction=lineage.LINEAGE_DIRECTION_BOTH,
        )
    )
    return list(found.edges)


async def some_edges_of(client: Client, run: str) -> list[lineage.LineageEdge]:
    found = await edges_of(client, run)
    assert found
    return found


class TestLineage:
    async def test_edges_told_by_services_are_found(
        self, admin: Client, producer: EventProducer
    ) -> None:
        run = unique_name("run")
        event = new_event(run_to(run, "main.default.m/1"), source="test", key="k")
        for _ in range(2):  # told twice, counted once
            await producer.publish(event)
        found = await eventually(lambda: some_edges_of(admin, run), timeout=60)
        assert len(found) == 1
        assert (found[0].target.name, found[0].principal) == ("main.default.m/1", "tester")

    async def test_outsiders_tell_json(self, admin: Client, running: Stack) -> None:
        run = unique_name("run")
        value = {
            "edges": [
                {
                    "source": {"type": "LINEAGE_NODE_TYPE_TABLE", "name": "main.default.t"},
                    "target": {"type": "LINEAGE_NODE_TYPE_RUN", "name": run},
                }
            ]
        }
        await send_raw(running, value, run)
        found = await eventually(lambda: some_edges_of(admin, run), timeout=60)
        assert found[0].source.name == "main.default.t"
        assert found[0].observed_at.seconds > 0

    async def test_what_is_not_valid_is_set_aside_with_the_field(
        self, admin: Client, running: Stack
    ) -> None:
        run = unique_name("run")
        value = {
            "edges": [
                {
                    "source": {"type": "LINEAGE_NODE_TYPE_RUN", "name": run},
                    "target": {"type": "LINEAGE_NODE_TYPE_MODEL_VERSION", "name": "no version"},
                }
            ]
        }
        await send_raw(running, value, run)

        async def set_aside() -> str | None:
            return await dead_letter_of(running, run)

        reason = await eventually(set_aside, timeout=60)
        assert "edges[0].target.name" in str(reason)
        assert await edges_of(admin, run) == []


async def send_raw(stack: Stack, value: object, event_id: str) -> None:
    """Send as an outsider would, with nothing of ours but the documented headers."""
    servers = stack.environment["TESSERA_KAFKA_BOOTSTRAP"]
    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
        headers = {
            "ce_specversion": "1.0",
            "ce_id": event_id,
            "ce_type": "tessera.events.v1.LineageObserved",
            "ce_source": "outside",
            "content-type": "application/json",
        }
        await producer.send_and_wait(
            TOPIC,
            json.dumps(value).encode(),
            key=b"k",
            headers=[(name, text.encode()) for name, text in headers.items()],
        )


async def dead_letter_of(stack: Stack, event_id: str) -> str | None:
    """All headers of the dead letter of an event, as text."""
    async with AIOKafkaConsumer(
        dead_letter_topic(TOPIC),
        bootstrap_servers=stack.environment["TESSERA_KAFKA_BOOTSTRAP"],
        group_id=None,
        auto_offset_reset="earliest",
    ) as consumer:
        batches = await consumer.getmany(timeout_ms=2000)
    for records in batches.values():
        for record in records:
            headers = {name: value.decode() for name, value in record.headers}
            if headers.get("ce_id") == event_id:
                return str(headers)
    return None


@pytest.mark.parametrize("way", ["told by the bus", "asked"])
async def test_other_services_hear_of_a_revoked_right(
    running: Stack, admin: Client, service: Client, user: Client, schema: str, way: str
) -> None:
    authority = CatalogAuthority(service.channel)
    watcher = GrantWatcher(authority, KafkaConfig.from_env(running.environment))
    watch = authority.follow if way == "asked" else watcher.run
    catalog, table = securable_pb2.SECURABLE_TYPE_CATALOG, securable_pb2.SECURABLE_TYPE_SCHEMA
    principal = await authority.authenticate(user.secret.reveal())
    assert principal.name == user.name
    main = securable_pb2.SecurableReference(type=catalog, full_name="main")
    use = auth.Grant(principal=user.name, privilege=securable_pb2.PRIVILEGE_USE_CATALOG)
    see = auth.Grant(principal=user.name, privilege=securable_pb2.PRIVILEGE_USE_SCHEMA)
    reference = securable_pb2.SecurableReference(type=table, full_name=schema)
    watching = asyncio.create_task(watch())
    try:
        await admin.auth.UpdateGrants(auth.UpdateGrantsRequest(securable=main, add=[use]))
        await admin.auth.UpdateGrants(auth.UpdateGrantsRequest(securable=reference, add=[see]))
        await eventually(lambda: may(authority, principal, schema), timeout=30)
        await admin.auth.UpdateGrants(auth.UpdateGrantsRequest(securable=main, remove=[use]))

        async def denied() -> bool:
            return not await may(authority, principal, schema)

        # An answer is kept for 30 s where nothing drops it.
        await eventually(denied, timeout=20)
    finally:
        watching.cancel()


async def may(authority: Authority, principal: Principal, schema: str) -> bool:
    try:
        await authority.require(
            principal,
            securable_pb2.PRIVILEGE_USE_SCHEMA,
            securable_pb2.SECURABLE_TYPE_SCHEMA,
            schema,
        )
    except PermissionDenied:
        return False
    return True


async def test_the_life_of_an_object_is_told_in_order(
    running: Stack, admin: Client, schema: str
) -> None:
    name = f"{schema}.raw"
    await admin.tree.CreateVolume(
        tree.CreateVolumeRequest(volume=catalog_pb2.Volume(full_name=name))
    )
    reference = securable_pb2.SecurableReference(
        type=securable_pb2.SECURABLE_TYPE_VOLUME, full_name=name
    )
    await admin.tree.UpdateTags(tree.UpdateTagsRequest(securable=reference, set={"a": "1"}))
    await admin.tree.DeleteVolume(tree.DeleteVolumeRequest(full_name=name))

    async def told() -> list[str]:
        async with AIOKafkaConsumer(
            topic_for(catalog_events_pb2.SecurableCreated).name,
            bootstrap_servers=running.environment["TESSERA_KAFKA_BOOTSTRAP"],
            group_id=None,
            auto_offset_reset="earliest",
        ) as consumer:
            found: list[str] = []
            while records := await consumer.getmany(timeout_ms=1500):
                for record in (one for batch in records.values() for one in batch):
                    if record.key == name.encode():
                        found.append(dict(record.headers)["ce_type"].decode())
            return found

    async def complete() -> list[str] | None:
        found = await told()
        return found if len(found) >= 3 else None

    kinds = await eventually(complete, timeout=60)
    assert [kind.rpartition(".")[2] for kind in kinds or []] == [
        "SecurableCreated",
        "SecurableUpdated",
        "SecurableDeleted",
    ]
