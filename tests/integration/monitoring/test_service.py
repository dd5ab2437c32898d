"""The service as a process on real engines, through its doors: gRPC, the bus, metric tables."""

from __future__ import annotations

import contextlib
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from google.protobuf.timestamp_pb2 import Timestamp

from devstack import Stack
from services.monitoring.domain.monitor import PhysicalTable
from tessera.catalog.v1 import catalog_pb2, catalog_service_pb2, catalog_service_pb2_grpc
from tessera.events.v1 import inference_events_pb2, monitoring_events_pb2
from tessera.monitoring.v1 import monitor_pb2, monitoring_service_pb2_grpc
from tessera.monitoring.v1 import monitoring_service_pb2 as pb
from tessera_kit.bus.event import new_event
from tessera_kit.bus.producer import EventProducer
from tessera_kit.config import ClickHouseConfig, Env, KafkaConfig
from tessera_kit.ids import new_id
from tessera_kit.rpc.client import open_channel
from tessera_kit.store.clickhouse import ClickHouse, qualified_name
from tests.helpers import eventually, unique_name
from tests.monitoring_world import INFERENCE_COLUMNS, SPRING

pytestmark = pytest.mark.timeout(480)
WAIT = 120.0
WEEK = timedelta(days=7)


@pytest.fixture(scope="module")
async def running(stack: Stack) -> Stack:
    """The stack with the two services that this needs."""
    if stack.is_local:
        names = {process.name for process in stack.state().processes}
        missing = {"catalog", "monitoring"} - names
        if missing:
            await stack.start(*missing)
        await stack.wait_healthy("catalog", "monitoring")
    return stack


@dataclass(slots=True)
class Client:
    """What a user has in hand."""

    stack: Stack
    catalog: catalog_service_pb2_grpc.CatalogServiceStub
    monitoring: monitoring_service_pb2_grpc.MonitoringServiceStub
    clickhouse: ClickHouse
    producer: EventProducer
    schema: str = ""

    async def table(
        self, name: str, columns: dict[str, str], order: Sequence[str]
    ) -> PhysicalTable:
        request = catalog_service_pb2.CreateTableRequest(
            table=catalog_pb2.Table(
                full_name=f"{self.schema}.{name}",
                type=catalog_pb2.TABLE_TYPE_MANAGED,
                columns=[catalog_pb2.Column(name=n, data_type=t) for n, t in columns.items()],
                layout=catalog_pb2.TableLayout(order_by=order),
            )
        )
        physical = (await self.catalog.CreateTable(request)).table.physical
        return PhysicalTable(physical.database, physical.table)

    async def windows(self, name: str) -> list[monitor_pb2.Window]:
        return list((await self.monitoring.ListWindows(pb.ListWindowsRequest(name=name))).windows)


@pytest.fixture
async def client(running: Stack) -> AsyncIterator[Client]:
    environment = running.environment
    token = Env(environment).secret_file("TESSERA_ADMIN_TOKEN_FILE")
    async with contextlib.AsyncExitStack() as stack:
        catalog, monitoring = [
            await stack.enter_async_context(open_channel(environment[name], token=token))
            for name in ("TESSERA_CATALOG_TARGET", "TESSERA_MONITORING_TARGET")
        ]
        made = Client(
            running,
            catalog_service_pb2_grpc.CatalogServiceStub(catalog),
            monitoring_service_pb2_grpc.MonitoringServiceStub(monitoring),
            await stack.enter_async_context(ClickHouse(ClickHouseConfig.from_env(environment))),
            await stack.enter_async_context(EventProducer(KafkaConfig.from_env(environment))),
        )
        name = unique_name("cat")
        await made.catalog.CreateCatalog(
            catalog_service_pb2.CreateCatalogRequest(catalog=catalog_pb2.Catalog(name=name))
        )
        made.schema = f"{name}.flights"
        await made.catalog.CreateSchema(
            catalog_service_pb2.CreateSchemaRequest(
                schema=catalog_pb2.Schema(full_name=made.schema)
            )
        )
        yield made


def stamp(time: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(time)
    return made


class Flights:
    """Requests of an endpoint whose inputs drift through the year, and their true outcomes."""

    def __init__(self, client: Client, payload: PhysicalTable, endpoint: str) -> None:
        self.client, self.payload, self.endpoint = client, payload, endpoint
        self.chance = random.Random(3)  # noqa: S311 - a test's data
        self.sent: list[tuple[str, str]] = []
        self.began = datetime.now(UTC)

    async def send(self, count: int) -> None:
        rows = [self._row(len(self.sent) + i) for i in range(count)]
        names = list(INFERENCE_COLUMNS)
        await self.client.clickhouse.insert(
            self.payload.table, rows, names, database=self.payload.database
        )
        self.sent += [(row[1], row[2]) for row in rows]
        event = inference_events_pb2.InferenceRowsWritten(
            endpoint=self.endpoint,
            table_full_name=f"{self.client.schema}.delay_payload",
            row_count=count,
            first_request_time=stamp(rows[0][3]),
            last_request_time=stamp(rows[-1][3]),
            first_request_id=rows[0][1],
            last_request_id=rows[-1][1],
        )
        await self.client.producer.publish(new_event(event, source="test", key=self.endpoint))

    def _row(self, index: int) -> list[Any]:
        at = SPRING + index * timedelta(hours=2)
        inputs = {
            "distance": [self.chance.gauss(1000 + index, 200)],
            "carrier": [self.chance.choice(["AA", "B6", "UA"])],
            "at": [int(at.timestamp() * 1e6)],
        }
        return [
            *(self.endpoint, new_id(), f"{self.endpoint}-{index}"),
            *(self.began + timedelta(milliseconds=index), 0, "delay-1", "main.models.delay", 1),
            *(json.dumps(inputs), json.dumps({"p": [self.chance.random()]})),
        ]

    async def label(self) -> None:
        """The outcome of every request, half of them by our id and half by the caller's."""
        events = [
            monitoring_events_pb2.LabelObserved(
                endpoint=self.endpoint,
                tessera_request_id=own if index % 2 else "",
                client_request_id="" if index % 2 else their,
                value=float(index % 3 == 0),
                observed_at=stamp(self.began),
            )
            for index, (own, their) in enumerate(self.sent)
        ]
        await self.client.producer.publish_many(
            new_event(e, source="test", key=e.tessera_request_id or e.client_request_id)
            for e in events
        )


async def flights_and_monitor(client: Client) -> tuple[Flights, str]:
    endpoint = unique_name("delay")
    payload = await client.table("delay_payload", INFERENCE_COLUMNS, ["tessera_request_id"])
    train = await client.table("train", {"distance": "Float64", "carrier": "String"}, ["distance"])
    chance = random.Random(4)  # noqa: S311 - a test's data
    rows = [[chance.gauss(1000, 200), chance.choice(["AA", "B6", "UA"])] for _ in range(2000)]
    await client.clickhouse.insert(
        train.table, rows, ["distance", "carrier"], database=train.database
    )
    rule = monitor_pb2.AlertRule(
        name="drift",
        metric="population_stability_index",
        comparison=monitor_pb2.ALERT_COMPARISON_GREATER,
        threshold=0.5,
    )
    settings = monitor_pb2.Monitor(
        name=unique_name("monitor"),
        table_full_name=f"{client.schema}.delay_payload",
        inference=monitor_pb2.InferenceProfile(
            timestamp_column="at",
            problem_type=monitor_pb2.PROBLEM_TYPE_BINARY_CLASSIFICATION,
            prediction_column="p",
        ),
        baseline=monitor_pb2.Baseline(table_full_name=f"{client.schema}.train"),
        slicing_columns=["model_version"],
        alert_rules=[rule],
    )
    settings.inference.granularity.FromTimedelta(WEEK)
    request = pb.CreateMonitorRequest(monitor=settings)
    made = (await client.monitoring.CreateMonitor(request)).monitor
    return Flights(client, payload, endpoint), made.name


async def records(stack: Stack, topic: str) -> list[Any]:
    """Every record that a topic holds now."""
    found: list[Any] = []
    bootstrap = stack.environment["TESSERA_KAFKA_BOOTSTRAP"]
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False) as consumer:
        partitions = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        while batch := await consumer.getmany(timeout_ms=1500):
            found += [record for part in batch.values() for record in part]
    return found


async def told_windows(stack: Stack, monitor: str) -> Counter[tuple[int, int]]:
    """How often each start and revision was told of."""
    told: Counter[tuple[int, int]] = Counter()
    for record in await records(stack, "tessera.monitoring.window.v1"):
        event = monitoring_events_pb2.WindowClosed.FromString(record.value)
        if event.monitor == monitor:
            told[event.window.start.ToMicroseconds(), event.window.revision] += 1
    return told


async def test_a_year_of_flights(client: Client) -> None:
    flights, name = await flights_and_monitor(client)
    for _ in range(6):
        await flights.send(100)
    weeks = 8  # 600 flights, one every two hours, from a Monday's fifth day of a window on.

    async def closed() -> bool:
        states = [window.state for window in await client.windows(name)]
        return states == [monitor_pb2.WINDOW_STATE_CLOSED] * (weeks - 1) + [
            monitor_pb2.WINDOW_STATE_OPEN
        ]

    await eventually(closed, timeout=WAIT, interval=0.5)

    await flights.label()

    async def labelled() -> bool:
        windows = (await client.windows(name))[:-1]
        return all(window.label_count == window.row_count > 0 for window in windows)

    await eventually(labelled, timeout=WAIT, interval=0.5)
    last = (await client.monitoring.CloseWindows(pb.CloseWindowsRequest(name=name))).windows
    assert [window.state for window in last] == [monitor_pb2.WINDOW_STATE_CLOSED]
    windows = await client.windows(name)
    assert sum(window.row_count for window in windows) == 600
    assert sum(window.label_count for window in windows) == 600

    # One event per window and revision.
    expected = {
        (window.start.ToMicroseconds(), revision)
        for window in windows
        for revision in range(1, window.revision + 1)
    }

    async def told() -> bool:
        return set(await told_windows(client.stack, name)) == expected

    await eventually(told, timeout=30, interval=0.5)
    assert set((await told_windows(client.stack, name)).values()) == {1}

    metrics = pb.ListMetricsRequest(
        name=name, metrics=["population_stability_index"], columns=["distance"]
    )
    drift = [
        m.value
        for m in (await client.monitoring.ListMetrics(metrics)).metrics
        if m.drift_type == "BASELINE"
    ]
    assert len(drift) == weeks
    assert drift[0] < 0.5 < drift[-1]
    (alert,) = (await client.monitoring.ListAlerts(pb.ListAlertsRequest(monitor=name))).alerts
    assert (alert.column, alert.state) == ("distance", monitor_pb2.ALERT_STATE_FIRING)
    assert "population stability index of column 'distance'" in alert.message

    # What a dashboard reads.
    table = qualified_name(flights.payload.database, "delay_payload_profile_metrics")
    result = await client.clickhouse.query(
        f"SELECT sum(row_count), min(roc_auc) FROM {table} FINAL "
        "WHERE monitor_name = {name:String} AND column_name = ':table' AND slice_key = ''",
        {"name": name},
    )
    rows, worst = result.rows[0]
    assert rows == 600
    assert 0 <= worst <= 1


async def test_nothing_is_lost_or_told_twice_over_kills(client: Client) -> None:
    if not client.stack.is_local:
        pytest.skip("the stack's processes are not on this machine")
    flights, name = await flights_and_monitor(client)
    for _ in range(2):
        await flights.send(100)
        await flights.send(100)
        client.stack.kill("monitoring")
        await client.stack.wait_healthy("monitoring", timeout=WAIT)
    await flights.send(100)

    async def closed() -> bool:
        with contextlib.suppress(grpc.aio.AioRpcError):
            windows = await client.windows(name)
            states = [window.state for window in windows]
            return len(states) == 7 and set(states[:-1]) == {monitor_pb2.WINDOW_STATE_CLOSED}
        return False

    await eventually(closed, timeout=WAIT, interval=0.5)
    await client.monitoring.CloseWindows(pb.CloseWindowsRequest(name=name))
    windows = await client.windows(name)
    assert sum(window.row_count for window in windows) == 500

    async def told() -> bool:
        return set(await told_windows(client.stack, name)) == {
            (window.start.ToMicroseconds(), revision)
            for window in windows
            for revision in range(1, window.revision + 1)
        }

    await eventually(told, timeout=30, interval=0.5)


async def test_a_malformed_label_is_set_aside_with_its_field(client: Client) -> None:
    mark = unique_name("label")
    broken = monitoring_events_pb2.LabelObserved(endpoint=mark, value=1.0)
    broken.observed_at.FromDatetime(SPRING)
    await client.producer.publish(new_event(broken, source="test", key=mark))

    async def set_aside() -> str | None:
        for record in await records(client.stack, "tessera.monitoring.label.v1.dead-letter"):
            if record.key == mark.encode():
                return dict(record.headers)["dead_letter_message"].decode()
        return None

    message = await eventually(set_aside, timeout=WAIT, interval=0.5)
    assert message is not None
    assert message.startswith("tessera_request_id")


async def test_the_door_refuses_with_the_right_status(client: Client) -> None:
    async def code(call: Any) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        return caught.value.code(), caught.value.details() or ""

    door = client.monitoring
    status, text = await code(door.GetMonitor(pb.GetMonitorRequest(name="no-such-monitor")))
    assert (status, "no-such-monitor" in text) == (grpc.StatusCode.NOT_FOUND, True)
    empty = monitor_pb2.Monitor(name="m", table_full_name=f"{client.schema}.nowhere")
    status, text = await code(door.CreateMonitor(pb.CreateMonitorRequest(monitor=empty)))
    assert (status, "profile" in text) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    empty.snapshot.SetInParent()
    status, _ = await code(door.CreateMonitor(pb.CreateMonitorRequest(monitor=empty)))
    assert status is grpc.StatusCode.NOT_FOUND
    page = pb.ListMonitorsRequest(page_token="bm8gdG9rZW4")
    status, text = await code(door.ListMonitors(page))
    assert (status, "page_token" in text) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    target = client.stack.environment["TESSERA_MONITORING_TARGET"]
    async with open_channel(target) as anonymous:
        stub = monitoring_service_pb2_grpc.MonitoringServiceStub(anonymous)
        status, _ = await code(stub.ListMonitors(pb.ListMonitorsRequest()))
    assert status is grpc.StatusCode.UNAUTHENTICATED
