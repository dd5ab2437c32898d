"""What the tests of monitoring share: monitors, requests, and both kinds of analytics to fill."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from google.protobuf.message import Message

from services.monitoring.adapters.clickhouse.analytics import ClickHouseAnalytics
from services.monitoring.adapters.memory.analytics import InMemoryAnalytics
from services.monitoring.adapters.memory.catalog import InMemoryTableCatalog
from services.monitoring.adapters.memory.rows import Request
from services.monitoring.adapters.memory.store import InMemoryStore, InMemoryStreamStates
from services.monitoring.domain.metric_tables import DRIFT_TABLE, PROFILE_TABLE, TableShape
from services.monitoring.domain.monitor import (
    InferenceProfile,
    Monitor,
    PhysicalTable,
    ProblemType,
    Profile,
)
from services.monitoring.domain.windows import RequestRange, WindowRecord, microseconds
from services.monitoring.handlers.cases import UseCases, build_use_cases
from services.monitoring.handlers.monitors import Caller
from services.monitoring.handlers.stream import RowObserver, RowsWritten
from services.monitoring.ports import Analytics, RowBatch
from tessera.catalog.v1 import securable_pb2
from tessera_kit.clock import ManualClock
from tessera_kit.config import ClickHouseConfig
from tessera_kit.ids import new_id
from tessera_kit.rpc.authority import InMemoryAuthority
from tessera_kit.rpc.identity import Principal
from tessera_kit.store.clickhouse import ClickHouse, qualified_name, quote_identifier
from tessera_kit.store.clickhouse_migrate import migrate_clickhouse
from tests.helpers import unique_name

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
DAY = timedelta(days=1)
DAY_US = microseconds(DAY)
PAYLOAD = "main.flights.delay_payload"
SPRING = datetime(2013, 4, 1, tzinfo=UTC)
INFERENCE_COLUMNS = {
    "endpoint": "String",
    "tessera_request_id": "String",
    "client_request_id": "String",
    "request_time": "DateTime64(6, 'UTC')",
    "status_code": "Int32",
    "served_entity_id": "String",
    "model_name": "String",
    "model_version": "Int64",
    "inputs": "String",
    "outputs": "String",
}


def inference(
    problem: ProblemType = ProblemType.BINARY_CLASSIFICATION,
    timestamp: str = "at",
    granularity: timedelta = DAY,
) -> InferenceProfile:
    return InferenceProfile(timestamp, granularity, problem, "p")


def a_monitor(profile: Profile | None = None, **changes: Any) -> Monitor:
    """A stored monitor; its tables are where `changes` says."""
    monitor = Monitor(
        name=unique_name("monitor"),
        table_full_name="main.flights.delay_payload",
        profile=profile or inference(),
        id=new_id(),
        created_by="ann",
        created_at=NOW,
        updated_at=NOW,
        etag="first",
    )
    return replace(monitor, **changes)


def a_request(
    index: int,
    at: datetime | None,
    prediction: float | None = 0.5,
    *,
    inputs: Mapping[str, Sequence[Any]] | None = None,
    **changes: Any,
) -> Request:
    """The index-th request; `at` is its subject's time, in microseconds in the input "at"."""
    body: dict[str, Sequence[Any]] = dict(inputs or {"x": [float(index)]})
    if at is not None:
        body["at"] = [microseconds(at)]
    request = Request(
        tessera_request_id=f"{index:032x}",
        request_time=NOW + timedelta(milliseconds=index),
        inputs=body,
        outputs={"p": [prediction]},
    )
    return replace(request, **changes)


class AnalyticsWorld(Protocol):
    """Analytics with tables that a test fills."""

    analytics: Analytics

    async def inference_table(self, requests: Sequence[Request]) -> PhysicalTable:
        """A new inference table with rows."""

    async def add_requests(self, table: PhysicalTable, requests: Sequence[Request]) -> None:
        """More rows."""

    async def table(
        self, types: Mapping[str, str], rows: Sequence[Mapping[str, Any]]
    ) -> PhysicalTable:
        """A new table with rows."""

    async def metric_tables(self, monitor: Monitor) -> Monitor:
        """The monitor with new tables for its metrics."""


class MemoryWorld:
    """Tables in dictionaries."""

    def __init__(self) -> None:
        self.memory = InMemoryAnalytics()
        self.analytics: Analytics = self.memory

    async def inference_table(self, requests: Sequence[Request]) -> PhysicalTable:
        table = PhysicalTable("memory", unique_name("payload"))
        self.memory.types[table] = INFERENCE_COLUMNS
        await self.add_requests(table, requests)
        return table

    async def add_requests(self, table: PhysicalTable, requests: Sequence[Request]) -> None:
        self.memory.requests[table].extend(requests)

    async def table(
        self, types: Mapping[str, str], rows: Sequence[Mapping[str, Any]]
    ) -> PhysicalTable:
        table = PhysicalTable("memory", unique_name("table"))
        self.memory.types[table] = dict(types)
        self.memory.rows[table].extend(dict(row) for row in rows)
        return table

    async def metric_tables(self, monitor: Monitor) -> Monitor:
        return monitor


class ClickHouseWorld:
    """Tables of a database of its own in ClickHouse, which the service's migrations were run in."""

    def __init__(self, client: ClickHouse) -> None:
        self.client = client
        self.analytics: Analytics = ClickHouseAnalytics(client, client.database)

    async def inference_table(self, requests: Sequence[Request]) -> PhysicalTable:
        place = await self._create(INFERENCE_COLUMNS, "tessera_request_id")
        await self.add_requests(place, requests)
        return place

    async def add_requests(self, table: PhysicalTable, requests: Sequence[Request]) -> None:
        rows = [
            [
                *(r.endpoint, r.tessera_request_id, r.client_request_id, r.request_time),
                *(r.status_code, r.served_entity_id, r.model_name, r.model_version),
                *(_json(r.inputs), _json(r.outputs)),
            ]
            for r in requests
        ]
        await self.client.insert(table.table, rows, list(INFERENCE_COLUMNS), table.database)

    async def table(
        self, types: Mapping[str, str], rows: Sequence[Mapping[str, Any]]
    ) -> PhysicalTable:
        place = await self._create(types, "tuple()")
        values = [[row.get(name) for name in types] for row in rows]
        await self.client.insert(place.table, values, list(types), place.database)
        return place

    async def metric_tables(self, monitor: Monitor) -> Monitor:
        return replace(
            monitor,
            profile_table=await self._metric_table(PROFILE_TABLE),
            drift_table=await self._metric_table(DRIFT_TABLE),
        )

    async def _metric_table(self, shape: TableShape) -> PhysicalTable:
        types = {column.name: column.data_type for column in shape.columns}
        return await self._create(
            types, ", ".join(shape.order_by), f"ReplacingMergeTree({shape.version_column})"
        )

    async def _create(
        self, types: Mapping[str, str], order: str, engine: str = "MergeTree"
    ) -> PhysicalTable:
        place = PhysicalTable(self.client.database, unique_name("table"))
        columns = ", ".join(f"`{name}` {data_type}" for name, data_type in types.items())
        await self.client.command(
            f"CREATE TABLE {qualified_name(place.database, place.table)} ({columns}) "
            f"ENGINE = {engine} ORDER BY ({order})"
        )
        return place


@asynccontextmanager
async def open_clickhouse(environment: Mapping[str, str]) -> AsyncIterator[ClickHouseWorld]:
    """A world in a database of its own."""
    config = ClickHouseConfig.from_env(environment, database=unique_name("monitoring"))
    async with ClickHouse(config) as client:
        await migrate_clickhouse(
            client, config.database, "services.monitoring.migrations.clickhouse"
        )
        yield ClickHouseWorld(client)
        await client.command(f"DROP DATABASE {quote_identifier(config.database)}")


def _json(body: Mapping[str, Sequence[Any]]) -> str:
    """As the inference table has it: numbers that JSON cannot say are texts."""
    return json.dumps({name: [_plain(value) for value in values] for name, values in body.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


@dataclass(slots=True)
class ServiceWorld:
    """The use cases over twins in memory, and one endpoint's inference table."""

    memory: InMemoryAnalytics = field(default_factory=InMemoryAnalytics)
    store: InMemoryStore = field(default_factory=InMemoryStore)
    states: InMemoryStreamStates = field(default_factory=InMemoryStreamStates)
    authority: InMemoryAuthority = field(default_factory=InMemoryAuthority)
    clock: ManualClock = field(default_factory=lambda: ManualClock(NOW))
    catalog: InMemoryTableCatalog = field(init=False)
    cases: UseCases = field(init=False)
    observer: RowObserver = field(init=False)
    payload: PhysicalTable = field(init=False)
    ann: Caller = field(init=False)
    bob: Caller = field(init=False)

    def __post_init__(self) -> None:
        self.catalog = InMemoryTableCatalog(self.authority)
        self.cases = build_use_cases(
            self.store, self.memory, self.catalog, self.authority, self.clock
        )
        self.restart()
        self.payload = self.add_table(PAYLOAD, INFERENCE_COLUMNS)
        self.ann, self.bob = (self.add_principal(name) for name in ("ann", "bob"))
        self.authority.grant(
            "ann",
            [
                securable_pb2.PRIVILEGE_CREATE_MONITOR,
                securable_pb2.PRIVILEGE_CREATE_TABLE,
                securable_pb2.PRIVILEGE_SELECT,
            ],
            securable_pb2.SECURABLE_TYPE_METASTORE,
            "metastore",
        )

    def restart(self) -> None:
        """As a new process, with what the stream's table still holds."""
        self.observer = RowObserver(self.store, self.memory, self.states, self.cases.computer)

    def add_principal(self, name: str) -> Caller:
        principal = Principal(name)
        self.authority.add_principal(principal, f"token-{name}")
        return Caller(principal, f"token-{name}")

    def add_table(self, full_name: str, types: Mapping[str, str]) -> PhysicalTable:
        table = self.catalog.add(full_name, list(types))
        self.memory.types[table] = dict(types)
        return table

    async def create(self, profile: Profile | None = None, **changes: Any) -> Monitor:
        """A monitor of ann's on the inference table."""
        settings = replace(
            Monitor(unique_name("monitor"), PAYLOAD, profile or inference()), **changes
        )
        return await self.cases.monitors.create(self.ann, settings, "")

    def written(self, requests: Sequence[Request], table: str = PAYLOAD) -> RowsWritten:
        """What the sink tells of requests."""
        times = [microseconds(request.request_time) for request in requests]
        ids = [request.tessera_request_id for request in requests]
        batch = RowBatch(RequestRange(min(times), max(times)), (min(ids), max(ids)))
        return RowsWritten(table, batch)

    async def write(self, *requests: Request) -> None:
        """Rows become readable, and monitoring hears of it."""
        self.memory.requests[self.payload].extend(requests)
        await self.observer.observe([self.written(requests)])

    async def windows(self, monitor: Monitor) -> list[WindowRecord]:
        return await self.store.list_windows(monitor.id, None, 1000)

    def told(self, kind: type[Message]) -> list[Any]:
        """What events of a type say, in order."""
        return [event.data for event in self.store.events if isinstance(event.data, kind)]
