"""One body over the store port: dictionaries, and SQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from services.monitoring.adapters.memory.store import InMemoryStore
from services.monitoring.adapters.sql.store import SqlStore
from services.monitoring.convert.events import window_closed
from services.monitoring.domain.alerts import Alert, AlertState, Verdict
from services.monitoring.domain.columns import (
    Column,
    ColumnKind,
    ColumnPlace,
    RowSchema,
    TimeKind,
)
from services.monitoring.domain.monitor import (
    AlertRule,
    Baseline,
    Comparison,
    Monitor,
    PhysicalTable,
    ProblemType,
    SnapshotProfile,
    TimeSeriesProfile,
)
from services.monitoring.domain.windows import RequestRange, WindowRecord, WindowState
from services.monitoring.errors import MonitorExists, StaleMonitor, WindowRaced
from services.monitoring.ports import Store
from tessera_kit.bus.tables import OUTBOX
from tessera_kit.config import DatabaseConfig
from tessera_kit.store.migrate import migrate
from tessera_kit.store.sql import Database
from tests.databases import fresh_postgres, fresh_sqlite
from tests.monitoring_world import DAY, NOW, a_monitor, inference


def alert(monitor: Monitor, ident: str, minutes: int = 0, **changes: Any) -> Alert:
    made = Alert(
        ident,
        monitor.name,
        "drift",
        AlertState.FIRING,
        0,
        10,
        "js_distance",
        "x",
        0.5,
        0.25,
        "words",
        NOW + timedelta(minutes=minutes),
    )
    return replace(made, **changes)


async def stored(store: Store, *monitors: Monitor) -> None:
    async with store.transaction() as work:
        for monitor in monitors:
            await work.insert_monitor(monitor, "")
        await work.commit()


async def save(
    store: Store, monitor: Monitor, records: Sequence[WindowRecord], *, computed: bool
) -> None:
    async with store.transaction() as work:
        await work.save_windows(monitor.id, records, computed=computed)
        await work.commit()


class StoreContract:
    @pytest.mark.parametrize(
        "monitor",
        [
            a_monitor(SnapshotProfile()),
            a_monitor(TimeSeriesProfile("at", DAY), columns=("a", "b")),
            a_monitor(
                inference(ProblemType.REGRESSION),
                baseline=Baseline("a.b.c", 7, PhysicalTable("d", "t")),
                slicing_columns=("s",),
                alert_rules=(
                    AlertRule("r", "avg", Comparison.LESS, -0.5, ("x",), 3, 10),
                    AlertRule("q", "roc_auc", Comparison.GREATER, 1e-9),
                ),
                allowed_lateness=timedelta(microseconds=1),
                output_schema="a.metrics",
                source=PhysicalTable("d", "s"),
                profile_table=PhysicalTable("d", "p"),
                drift_table=PhysicalTable("d", "q"),
                version=4,
            ),
        ],
    )
    async def test_a_monitor_comes_back_whole(self, store: Store, monitor: Monitor) -> None:
        await stored(store, monitor)
        assert await store.get_monitor(monitor.name) == monitor
        async with store.transaction() as work:
            assert await work.get_monitor(monitor.name) == monitor
            assert await work.get_monitor("nobody") is None

    async def test_nothing_is_stored_without_commit(self, store: Store) -> None:
        monitor = a_monitor()
        async with store.transaction() as work:
            await work.insert_monitor(monitor, "")
        assert await store.get_monitor(monitor.name) is None

    async def test_names_are_taken_once(self, store: Store) -> None:
        monitor = a_monitor()
        await stored(store, monitor)
        with pytest.raises(MonitorExists):
            await stored(store, replace(a_monitor(), name=monitor.name))

    async def test_an_idempotent_call_is_remembered(self, store: Store) -> None:
        monitor = a_monitor()
        async with store.transaction() as work:
            await work.insert_monitor(monitor, "ann/1")
            await work.commit()
        assert await store.monitor_of_request("ann/1") == monitor.name
        assert await store.monitor_of_request("ann/2") is None

    async def test_monitors_are_listed_by_name_and_found_by_table(self, store: Store) -> None:
        monitors = [
            replace(a_monitor(), name=name, table_full_name=table)
            for name, table in (("b", "x.y.z"), ("a-1", "x.y.z"), ("a_1", "x.y.w"), ("c", "x.y.z"))
        ]
        monitors[3] = replace(monitors[3], profile=SnapshotProfile())
        await stored(store, *monitors)
        assert [m.name for m in await store.list_monitors("", "", 10)] == ["a-1", "a_1", "b", "c"]
        assert [m.name for m in await store.list_monitors("", "a-1", 2)] == ["a_1", "b"]
        assert [m.name for m in await store.list_monitors("x.y.z", "", 10)] == ["a-1", "b", "c"]
        assert [m.name for m in await store.monitors_of_table("x.y.z")] == ["a-1", "b", "c"]
        assert [m.name for m in await store.monitors_of_endpoints()] == ["a-1", "a_1", "b"]

    async def test_an_update_needs_the_etag_that_was_read(self, store: Store) -> None:
        monitor = a_monitor()
        await stored(store, monitor)
        changed = replace(monitor, etag="second", columns=("x",))
        async with store.transaction() as work:
            await work.update_monitor(changed, "first")
            await work.commit()
        assert await store.get_monitor(monitor.name) == changed
        async with store.transaction() as work:
            with pytest.raises(StaleMonitor):
                await work.update_monitor(replace(changed, etag="third"), "first")

    async def test_deleting_takes_everything_along(self, store: Store) -> None:
        monitor, other = a_monitor(), a_monitor()
        await stored(store, monitor, other)
        for one in (monitor, other):
            await save(store, one, [WindowRecord(0, 10)], computed=False)
            async with store.transaction() as work:
                await work.save_alert(one.id, alert(one, f"alert-{one.name}"))
                await work.save_schema(one, RowSchema(()), None)
                await work.commit()
        async with store.transaction() as work:
            await work.delete_monitor(monitor)
            await work.commit()
        assert await store.get_monitor(monitor.name) is None
        assert await store.list_windows(monitor.id, None, 10) == []
        assert await store.list_alerts([monitor.name], (), None, 10) == []
        assert await store.get_schema(monitor) == (None, None)
        assert len(await store.list_windows(other.id, None, 10)) == 1
        assert len(await store.list_alerts(None, (), None, 10)) == 1

    async def test_a_schema_is_kept_by_version(self, store: Store) -> None:
        monitor = a_monitor()
        await stored(store, monitor)
        x = Column("x", ColumnKind.NUMERIC, ColumnPlace.INPUT)
        schema = RowSchema(
            (x, Column("p", ColumnKind.NUMERIC, ColumnPlace.OUTPUT)),
            (Column("model_version", ColumnKind.CATEGORICAL, ColumnPlace.TABLE),),
            Column("at", ColumnKind.NUMERIC, ColumnPlace.INPUT),
            TimeKind.TEXT,
            Column("p", ColumnKind.NUMERIC, ColumnPlace.OUTPUT),
        )
        assert await store.get_schema(monitor) == (None, None)
        for saved, slices in ((RowSchema((x,)), None), (schema, ("s",))):
            async with store.transaction() as work:
                await work.save_schema(monitor, saved, slices)
                await work.commit()
            assert await store.get_schema(monitor) == (saved, slices)
        assert await store.get_schema(replace(monitor, version=2)) == (None, None)

    async def test_windows_are_listed_by_start(self, store: Store) -> None:
        monitor = a_monitor()
        await stored(store, monitor)
        records = [
            WindowRecord(start, start + 10, requests=RequestRange(start, start + 1))
            for start in (20, -10, 0, 10)
        ]
        await save(store, monitor, records, computed=False)
        listed = await store.list_windows(monitor.id, None, 10)
        assert listed == sorted(records, key=lambda record: record.start_us)
        assert [w.start_us for w in await store.list_windows(monitor.id, -10, 2)] == [0, 10]
        found = await store.get_windows(monitor.id, [10, 999])
        assert found == {10: records[3]}

    async def test_of_two_workers_that_computed_a_window_one_wins(self, store: Store) -> None:
        monitor = a_monitor()
        await stored(store, monitor)
        first = WindowRecord(0, 10, WindowState.CLOSED, 5, 2, 1, NOW, RequestRange(1, 2))
        await save(store, monitor, [first], computed=True)
        with pytest.raises(WindowRaced):
            await save(store, monitor, [replace(first, row_count=6)], computed=True)
        assert await store.get_windows(monitor.id, [0]) == {0: first}
        second = replace(first, revision=2, row_count=7)
        await save(store, monitor, [second], computed=True)
        with pytest.raises(WindowRaced):
            await save(store, monitor, [first], computed=False)
        with pytest.raises(WindowRaced):
            await save(store, monitor, [replace(first, start_us=10, revision=3)], computed=True)
        assert await store.get_windows(monitor.id, [0, 10]) == {0: second}

    async def test_label_marks_only_grow(self, store: Store) -> None:
        monitor = a_monitor()
        await stored(store, monitor)
        record = WindowRecord(0, 10, WindowState.CLOSED, 5, 0, 1, NOW)
        await save(store, monitor, [record], computed=True)
        async with store.transaction() as work:
            assert await work.mark_labels(monitor.id, [0, 10]) == 1
            assert await work.mark_labels(monitor.id, []) == 0
            await work.commit()
        dirty = await store.dirty_windows()
        assert dirty == {monitor.name: [replace(record, label_marks=1)]}
        # Marked again while the computation that had read the first mark was at work.
        async with store.transaction() as work:
            await work.mark_labels(monitor.id, [0])
            await work.commit()
        seen = replace(record, revision=2, label_marks=1, label_marks_computed=1)
        await save(store, monitor, [seen], computed=True)
        (left,) = (await store.dirty_windows())[monitor.name]
        assert (left.label_marks, left.label_marks_computed) == (2, 1)
        await save(
            store, monitor, [replace(left, revision=3, label_marks_computed=2)], computed=True
        )
        assert await store.dirty_windows() == {}

    async def test_open_windows_are_not_dirty(self, store: Store) -> None:
        monitor = a_monitor()
        await stored(store, monitor)
        await save(store, monitor, [WindowRecord(0, 10)], computed=False)
        async with store.transaction() as work:
            await work.mark_labels(monitor.id, [0])
            await work.commit()
        assert await store.dirty_windows() == {}

    async def test_the_closed_window_before(self, store: Store) -> None:
        monitor = a_monitor()
        await stored(store, monitor)
        closed = WindowRecord(0, 10, WindowState.CLOSED, 5, 0, 1, NOW)
        records = [
            closed,
            replace(closed, start_us=10, end_us=20),
            replace(closed, start_us=20, end_us=30, row_count=0),
            replace(closed, start_us=30, end_us=40, state=WindowState.OPEN),
        ]
        await save(store, monitor, records, computed=True)
        assert await store.closed_before(monitor.id, 40) == records[1]
        assert await store.closed_before(monitor.id, 10) == closed
        assert await store.closed_before(monitor.id, 0) is None

    async def test_the_closed_window_after(self, store: Store) -> None:
        monitor = a_monitor()
        await stored(store, monitor)
        closed = WindowRecord(0, 10, WindowState.CLOSED, 5, 0, 1, NOW)
        records = [
            closed,
            replace(closed, start_us=10, end_us=20, state=WindowState.OPEN),
            replace(closed, start_us=20, end_us=30, row_count=0),
            replace(closed, start_us=30, end_us=40),
            replace(closed, start_us=40, end_us=50),
        ]
        await save(store, monitor, records, computed=True)
        assert await store.closed_after(monitor.id, -1) == closed
        assert await store.closed_after(monitor.id, 0) == records[3]
        assert await store.closed_after(monitor.id, 40) is None

    async def test_verdicts(self, store: Store) -> None:
        monitor = a_monitor()
        await stored(store, monitor)
        async with store.transaction() as work:
            for start in (20, 0, 10):
                verdict = Verdict(start, start + 10, start == 10, "x", start / 3)
                await work.save_verdict(monitor.id, "drift", verdict)
            await work.save_verdict(monitor.id, "other", Verdict(99, 100, True, "y", 1.0))
            await work.save_verdict(monitor.id, "drift", Verdict(20, 30, True, "z", 9.0))
            await work.commit()
        async with store.transaction() as work:
            found = await work.last_verdicts(monitor.id, "drift", 2)
            assert found == [Verdict(10, 20, True, "x", 10 / 3), Verdict(20, 30, True, "z", 9.0)]
            await work.drop_verdicts(monitor.id, "drift", 20)
            assert [v.start_us for v in await work.last_verdicts(monitor.id, "drift", 9)] == [0, 10]
            await work.drop_verdicts(monitor.id, "drift")
            assert await work.last_verdicts(monitor.id, "drift", 9) == []
            assert len(await work.last_verdicts(monitor.id, "other", 9)) == 1

    async def test_alerts_are_listed_the_newest_first(self, store: Store) -> None:
        one, two = a_monitor(), a_monitor()
        await stored(store, one, two)
        alerts = [
            alert(one, "a", 0),
            alert(two, "b", 1),
            alert(one, "c", 1, state=AlertState.RESOLVED, resolved_at=NOW + DAY),
        ]
        async with store.transaction() as work:
            for made in alerts:
                await work.save_alert(one.id if made.monitor == one.name else two.id, made)
            await work.commit()
        newest = list(reversed(alerts))
        assert await store.list_alerts(None, (), None, 10) == newest
        assert await store.list_alerts([one.name], (), None, 10) == [alerts[2], alerts[0]]
        assert await store.list_alerts(None, {AlertState.FIRING}, None, 10) == newest[1:]
        last = newest[0]
        assert await store.list_alerts(None, (), (last.fired_at, last.id), 1) == [alerts[1]]
        assert await store.list_alerts([], (), None, 10) == []

    async def test_watchers_see_every_change_in_order(self, store: Store) -> None:
        monitor, other = a_monitor(), a_monitor()
        await stored(store, monitor, other)
        fired = alert(monitor, "a")
        resolved = replace(fired, state=AlertState.RESOLVED, resolved_at=NOW)
        for made, ident in ((fired, monitor.id), (alert(other, "b"), other.id)):
            async with store.transaction() as work:
                await work.save_alert(ident, made)
                assert (await work.active_alert(ident, "drift")) == made
                assert await work.active_alert(ident, "other") is None
                await work.commit()
        begun = await store.last_alert_position()
        async with store.transaction() as work:
            await work.save_alert(monitor.id, resolved)
            assert await work.active_alert(monitor.id, "drift") is None
            await work.commit()
        changes = await store.alert_changes(monitor.id, 0, 10)
        assert [change.alert for change in changes] == [fired, resolved]
        assert changes[0].position < begun < changes[1].position
        assert await store.alert_changes(monitor.id, begun, 10) == changes[1:]

    async def test_events_are_told_with_the_commit(self, store: Store) -> None:
        monitor = a_monitor()
        await stored(store, monitor)
        event = window_closed(monitor, WindowRecord(0, 10, WindowState.CLOSED, 1, 0, 1, NOW))
        async with store.transaction() as work:
            work.publish(event)
        assert await self.told(store) == 0
        async with store.transaction() as work:
            work.publish(event)
            await work.commit()
        assert await self.told(store) == 1

    async def told(self, store: Store) -> int:
        raise NotImplementedError


class TestMemory(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return InMemoryStore()

    async def told(self, store: Store) -> int:
        assert isinstance(store, InMemoryStore)
        return len(store.events)


class TestSql(StoreContract):
    @pytest.fixture(params=["sqlite", "postgresql"])
    async def database(
        self, request: pytest.FixtureRequest, tmp_path: Path
    ) -> AsyncIterator[Database]:
        if request.param == "sqlite":
            config = await fresh_sqlite(tmp_path, "monitoring")
        else:
            config = await fresh_postgres(request.getfixturevalue("postgres_url"), "monitoring")
        async with Database(config) as database:
            self.database = database
            yield database

    @pytest.fixture
    def store(self, database: Database) -> Store:
        return SqlStore(database)

    async def told(self, store: Store) -> int:
        async with self.database.sessions() as session:
            count = await session.execute(sa.select(sa.func.count()).select_from(OUTBOX))
            return int(count.scalar_one())


async def test_migrations_make_the_tables_that_the_code_expects(tmp_path: Path) -> None:
    from services.monitoring.adapters.sql.tables import METADATA

    config = DatabaseConfig(f"sqlite+aiosqlite:///{tmp_path / 'monitoring.db'}")
    await migrate(config.url, "monitoring")
    async with Database(config) as database, database.engine.connect() as connection:
        made = await connection.run_sync(_columns)
    expected = {
        table.name: {column.name: column.nullable for column in table.columns}
        for table in METADATA.tables.values()
    }
    made.pop("alembic_version")
    assert made == expected


def _columns(connection: sa.Connection) -> dict[str, dict[str, bool]]:
    inspector = sa.inspect(connection)
    return {
        table: {column["name"]: column["nullable"] for column in inspector.get_columns(table)}
        for table in inspector.get_table_names()
    }
