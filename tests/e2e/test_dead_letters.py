"""Events that outsiders get wrong: set aside whole, with a reason that names what is wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Set
from datetime import UTC, datetime
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import ConsumerRecord

from devstack import Stack
from tessera import AsyncClient
from tessera_kit.ids import new_id
from tests.e2e.world import Served
from tests.helpers import eventually, unique_name

pytestmark = pytest.mark.timeout(420)

LABELS = "tessera.monitoring.label.v1"
PAYLOADS = "tessera.inference.payload.v1"
LABEL = "tessera.events.v1.LabelObserved"
PAYLOAD = "tessera.events.v1.PayloadRecord"
SECONDS = 90


@pytest.fixture
async def producer(platform: Stack) -> AsyncIterator[AIOKafkaProducer]:
    """An outsider's producer, which knows nothing of the kit."""
    bootstrap = platform.environment["TESSERA_KAFKA_BOOTSTRAP"]
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        yield producer


def headers(event_type: str, event_id: str, **changes: str) -> list[tuple[str, bytes]]:
    found = {
        "ce_specversion": "1.0",
        "ce_id": event_id,
        "ce_type": event_type,
        "ce_source": "outsider",
        "content-type": "application/json",
        **changes,
    }
    return [(name, text.encode()) for name, text in found.items() if text]


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def label(**changes: Any) -> bytes:
    whole = {"endpoint": "e", "tessera_request_id": "r", "value": 1, "observed_at": now()}
    return json.dumps({**whole, **changes}).encode()


def payload(endpoint: str, **changes: Any) -> bytes:
    whole = {"tessera_request_id": new_id(), "endpoint": endpoint, "request_time": now()}
    return json.dumps({**whole, **changes}).encode()


async def test_events_from_outside_that_are_wrong(
    platform: Stack, client: AsyncClient, producer: AIOKafkaProducer, served: Served
) -> None:
    wrong: dict[str, tuple[str, list[tuple[str, bytes]], bytes, str]] = {}

    def add(topic: str, event_type: str, value: bytes, reason: str, **changes: str) -> None:
        key = unique_name("wrong")
        wrong[key] = (topic, headers(event_type, key, **changes), value, reason)

    endpoint = served.endpoint
    add(LABELS, LABEL, label(tessera_request_id=""), "tessera_request_id")
    add(LABELS, LABEL, label(endpoint=""), "endpoint")
    add(LABELS, LABEL, label(value="much"), "value")
    add(LABELS, LABEL, label(valu=1), "valu")
    add(LABELS, LABEL, b"{", LABEL)
    add(LABELS, LABEL, label(), "ce_type", ce_type="")
    add(LABELS, PAYLOAD, label(), f"ce_type '{PAYLOAD}'")
    add(LABELS, LABEL, label(), "ce_specversion", ce_specversion="0.3")
    add(LABELS, LABEL, label(), "content-type", **{"content-type": "text/csv"})
    add(PAYLOADS, PAYLOAD, b'{"tessera_request_id": ', PAYLOAD)
    add(PAYLOADS, PAYLOAD, payload(endpoint, tessera_request_id=""), "tessera_request_id")
    add(PAYLOADS, PAYLOAD, payload("no-such-endpoint"), "endpoint")
    add(PAYLOADS, PAYLOAD, payload(endpoint, request="bm8gbWVzc2FnZQ=="), "request")
    add(PAYLOADS, LABEL, payload(endpoint), f"ce_type '{LABEL}'")

    for key, (topic, heads, value, _) in wrong.items():
        await producer.send_and_wait(topic, value, key.encode(), headers=heads)
    letters = await dead_letters(platform, wrong.keys())
    for key, (topic, heads, value, reason) in wrong.items():
        letter = letters[key]
        assert letter.topic == f"{topic}.dead-letter"
        assert letter.value == value
        told = {name: text.decode() for name, text in letter.headers}
        assert heads == [head for head in letter.headers if head in heads]
        assert reason in told["dead_letter_message"], told
        assert told["dead_letter_reason"] and told["dead_letter_topic"] == topic
    values = [value for _, _, value, _ in wrong.values()]
    ids = [one["tessera_request_id"] for one in payloads(values)]
    assert not await client.tables.count(
        served.table, where=[("tessera_request_id", "in", [*ids, ""])]
    )


def payloads(values: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Those of the values that are whole JSON objects with a request id."""
    for value in values:
        try:
            found = json.loads(value)
        except ValueError:
            continue
        if found.get("tessera_request_id"):
            yield found


async def test_right_events_from_outside_become_rows(
    client: AsyncClient, producer: AIOKafkaProducer, served: Served
) -> None:
    """The same producer, doing it right: what stands between the two is only the events."""
    request_id = new_id()
    value = payload(
        served.endpoint,
        tessera_request_id=request_id,
        encoding="PAYLOAD_ENCODING_JSON",
        request="eyJpbnB1dHMiOiB7IngiOiBbMS41XX19",
        response="eyJvdXRwdXRzIjogeyJzY29yZSI6IFsyXX19",
    )
    await producer.send_and_wait(
        PAYLOADS, value, request_id.encode(), headers=headers(PAYLOAD, request_id)
    )
    await rows_of(client, served, request_id)


async def rows_of(client: AsyncClient, served: Served, request_id: str) -> None:
    async def row() -> bool:
        rows = await client.tables.read(
            served.table,
            columns=["inputs", "outputs"],
            where=[("tessera_request_id", "=", request_id)],
        )
        assert rows.num_rows == 1
        found = rows.to_pylist()[0]
        assert json.loads(found["inputs"]) == {"x": [1.5]}
        assert json.loads(found["outputs"]) == {"score": [2]}
        return True

    await eventually(row, timeout=SECONDS, interval=0.25)


async def dead_letters(platform: Stack, keys: Set[str]) -> Mapping[str, ConsumerRecord]:
    """The dead letters of the records with these keys; waits until all are there."""
    found: dict[str, ConsumerRecord] = {}
    consumer = AIOKafkaConsumer(
        f"{LABELS}.dead-letter",
        f"{PAYLOADS}.dead-letter",
        bootstrap_servers=platform.environment["TESSERA_KAFKA_BOOTSTRAP"],
        group_id=None,
        auto_offset_reset="earliest",
    )
    async with consumer:
        try:
            async with asyncio.timeout(SECONDS):
                while keys - found.keys():
                    record = await consumer.getone()
                    found[record.key.decode()] = record
        except TimeoutError:
            missing = sorted(keys - found.keys())
            raise AssertionError(f"{missing} did not become dead letters") from None
    return found
