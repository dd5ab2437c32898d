"""One body over what inference keeps, in memory and in SQL."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from services.inference.adapters.memory import InMemoryEndpoints
from services.inference.adapters.sql import METADATA, SqlEndpoints
from services.inference.convert.events import Step, changed, deleted
from services.inference.domain.bodies import PayloadTable
from services.inference.domain.canary import Canary, CanaryGuards, CanaryPlan, CanaryStep
from services.inference.domain.endpoint import (
    Device,
    Endpoint,
    EndpointConfig,
    InferenceTable,
    InstanceGroup,
    ServedEntity,
    WorkloadSize,
)
from services.inference.domain.limits import RateLimit, RateScope
from services.inference.domain.settings import EndpointSettings, WhenSpoolFull
from services.inference.domain.signature import parse_manifest
from services.inference.domain.traffic import TrafficPolicy
from services.inference.errors import EndpointExists, EndpointNotFound, StaleEtag
from tessera_kit.bus.tables import OUTBOX
from tessera_kit.ids import new_id
from tessera_kit.store.sql import Database
from tests.databases import fresh_postgres, fresh_sqlite

NOW = datetime(2026, 11, 23, 7, 0, 0, 123456, tzinfo=UTC)
SIGNATURE = parse_manifest(
    json.dumps(
        {
            **{"flavor": "python", "entry": "m:M", "arguments": {"n": 1}, "timeout_seconds": 2},
            **{"streams": True, "stateful": True},
            "inputs": [
                {"name": "x", "datatype": "FP32", "shape": [-1, 4]},
                {"name": "c", "datatype": "BYTES", "shape": [-1, 1], "vocabulary": ["é", "b"]},
                {"name": "t", "datatype": "BYTES", "shape": [-1, 1], "role": "METADATA"},
            ],
            "outputs": [{"name": "p", "datatype": "FP32", "shape": [-1, 1]}],
        }
    ).encode()
)


PIPELINE = parse_manifest(
    json.dumps(
        {
            **{"flavor": "pipeline", "streams": True},
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
            "outputs": [{"name": "q", "datatype": "FP32", "shape": [-1, 1]}],
            "steps": [{"model": "a.b.s", "version": 3, "outputs": {"p": "q"}}],
        }
    ).encode()
)


def make_config(version: int = 1, share: int = 100) -> EndpointConfig:
    entity = ServedEntity(
        *("m-1", "a.b.m", 1, "champion", share, 2, f"tessera-x-{version}-0", PIPELINE),
        steps=(SIGNATURE,),
    )
    return EndpointConfig(version, (entity,), NOW)


def make_endpoint(name: str = "flights", creator: str = "alice") -> Endpoint:
    return Endpoint(
        endpoint_id=new_id(),
        name=name,
        comment="what it is for",
        table_prefix=name,
        table=InferenceTable(f"a.b.{name}_payload", "a_b", f"{name}_payload"),
        created_by=creator,
        created_at=NOW,
        updated_at=NOW,
        etag="e0",
    ).begin(make_config(), NOW, "e1")


class EndpointsContract:
    """What `ports.Endpoints` and `ports.Tables` promise."""

    async def test_an_endpoint_is_kept_whole(self, store: SqlEndpoints) -> None:
        endpoint = make_endpoint()
        assert await store.add(endpoint, "", []) == endpoint
        assert await store.get("flights") == endpoint
        later = NOW + timedelta(seconds=1)
        done = endpoint.finish(later, "e2")
        await store.save(done, "e1", [])
        assert await store.get("flights") == done
        second = done.begin(make_config(2), later, "e3")
        await store.save(second, "e2", [])
        assert await store.get("flights") == second
        failed = second.fail("no such layer", later, "e4")
        await store.save(failed, "e3", [])
        assert await store.get("flights") == failed

    async def test_shares_of_a_configuration_change(self, store: SqlEndpoints) -> None:
        endpoint = make_endpoint().finish(NOW, "e2")
        await store.add(endpoint, "", [])
        assert endpoint.config is not None
        (entity,) = endpoint.config.entities
        config = replace(endpoint.config, entities=(replace(entity, traffic_percent=40),))
        await store.save(replace(endpoint, config=config, etag="e3"), "e2", [])
        assert (await store.get("flights")).config == config

    async def test_history_is_kept_newest_first(self, store: SqlEndpoints) -> None:
        endpoint = make_endpoint()
        await store.add(endpoint, "", [])
        done = endpoint.finish(NOW, "e2")
        await store.save(done, "e1", [])
        second = done.begin(replace(make_config(2), rollback_of=1), NOW, "e3")
        await store.save(second, "e2", [])
        canceled = second.cancel(NOW, "e4")
        await store.save(canceled, "e3", [])
        assert await store.get("flights") == canceled
        identity = endpoint.endpoint_id
        found = await store.configs(identity, None, 10)
        assert [config.version for config in found] == [2, 1]
        assert found[0] == second.pending
        assert found[1] == done.config
        assert await store.configs(identity, 2, 10) == [done.config]
        assert await store.configs(identity, None, 1) == [second.pending]
        assert await store.configs("unknown", None, 10) == []
        await store.delete(canceled, [])
        assert await store.configs(identity, None, 10) == []

    async def test_settings_and_devices_are_kept(self, store: SqlEndpoints) -> None:
        limits = (RateLimit(RateScope.GROUP, "team", 60, 100),)
        settings = EndpointSettings(
            tags={"team": "flights", "é": ""},
            rate_limits=limits,
            sampling_fraction=0.25,
            retention_days=30,
            when_spool_full=WhenSpoolFull.COUNT,
        )
        endpoint = replace(make_endpoint(), settings=settings)
        assert endpoint.pending is not None
        (entity,) = endpoint.pending.entities
        groups = (InstanceGroup(Device.CPU, 2), InstanceGroup(Device.GPU, 1, (0, 1)))
        entity = replace(entity, instance_groups=groups, max_concurrency=8, max_queue=16)
        entity = replace(
            entity,
            workload_size=WorkloadSize.MEDIUM,
            min_concurrency=8,
            scale_to_zero=True,
            idle_seconds=2.5,
        )
        traffic = TrafficPolicy(True, frozenset({13, 14}), 3)
        pending = replace(endpoint.pending, entities=(entity,), traffic=traffic)
        endpoint = replace(endpoint, pending=pending)
        await store.add(endpoint, "", [])
        assert await store.get("flights") == endpoint

    async def test_a_canary_is_kept_with_its_endpoint(self, store: SqlEndpoints) -> None:
        endpoint = make_endpoint().finish(NOW, "e2")
        await store.add(endpoint, "", [])
        plan = CanaryPlan("m-1", (CanaryStep(100),), CanaryGuards(max_error_rate=0.1))
        canary = Canary(plan, {"m-1": 100}, NOW, NOW)
        await store.save(replace(endpoint, canary=canary, etag="e3"), "e2", [])
        assert (await store.get("flights")).canary == canary

    async def test_a_name_is_taken_once(self, store: SqlEndpoints) -> None:
        await store.add(make_endpoint(), "", [])
        with pytest.raises(EndpointExists):
            await store.add(make_endpoint(), "", [])
        await store.add(make_endpoint("other"), "", [])

    async def test_a_request_id_counts_once_per_creator(self, store: SqlEndpoints) -> None:
        first = make_endpoint()
        await store.add(first, "r1", [])
        assert await store.add(make_endpoint(), "r1", []) == first
        assert await store.find_request("alice", "r1") == first
        assert await store.find_request("bob", "r1") is None
        assert await store.find_request("alice", "") is None
        await store.add(make_endpoint("other", "bob"), "r1", [])

    async def test_what_is_missing_is_not_found(self, store: SqlEndpoints) -> None:
        with pytest.raises(EndpointNotFound):
            await store.get("flights")
        assert await store.table_of("flights") is None

    async def test_pages_go_by_name(self, store: SqlEndpoints) -> None:
        for name in ("c", "a", "b"):
            await store.add(make_endpoint(name), "", [])
        assert [one.name for one in await store.page("", 2)] == ["a", "b"]
        assert [one.name for one in await store.page("b", 2)] == ["c"]
        assert [one.name for one in await store.all()] == ["a", "b", "c"]

    async def test_a_stale_writer_changes_nothing(self, store: SqlEndpoints) -> None:
        endpoint = make_endpoint()
        await store.add(endpoint, "", [])
        done = endpoint.finish(NOW, "e2")
        await store.save(done, "e1", [])
        with pytest.raises(StaleEtag):
            await store.save(endpoint.fail("x", NOW, "e3"), "e1", [changed(endpoint, Step.CREATED)])
        with pytest.raises(StaleEtag):
            await store.delete(endpoint, [deleted(endpoint, "alice")])
        assert await store.get("flights") == done

    async def test_a_deleted_endpoint_leaves_its_tables_place(self, store: SqlEndpoints) -> None:
        endpoint = make_endpoint()
        await store.add(endpoint, "r1", [])
        await store.delete(endpoint, [])
        with pytest.raises(EndpointNotFound):
            await store.get("flights")
        assert await store.table_of("flights") == endpoint.table
        with pytest.raises(StaleEtag):
            await store.save(endpoint, "e1", [])
        table = InferenceTable("a.b.new_payload", "a_b", "new_payload")
        await store.add(replace(make_endpoint(), table=table), "", [])
        assert await store.table_of("flights") == table
        assert await store.table_of("flights", endpoint.endpoint_id) == endpoint.table
        assert await store.table_of("flights", "unknown") is None
        assert await store.table_of("other", endpoint.endpoint_id) is None

    async def test_tables_are_known_by_their_names_and_retention(self, store: SqlEndpoints) -> None:
        kept = EndpointSettings(retention_days=30)
        gone = replace(make_endpoint(), settings=kept)
        await store.add(gone, "", [])
        await store.delete(gone, [])
        again, other = make_endpoint(), make_endpoint("other")
        await store.add(again, "", [])
        await store.add(other, "", [])
        found = await store.table_named(again.table.full_name)
        assert found == PayloadTable(again.endpoint_id, again.table, 0, "flights")
        assert await store.table_named("a.b.unknown_payload") is None
        expiring = await store.expiring_tables()
        assert list(expiring) == [PayloadTable(gone.endpoint_id, gone.table, 30, "flights")]
        named = [one.endpoint_id for one in await store.payload_tables("flights")]
        assert named == [again.endpoint_id, gone.endpoint_id]
        every = [one.endpoint for one in await store.payload_tables()]
        assert every == ["other", "flights", "flights"]
        assert list(await store.payload_tables("unknown")) == []


class TestMemory(EndpointsContract):
    @pytest.fixture
    def store(self) -> InMemoryEndpoints:
        return InMemoryEndpoints()


class TestSql(EndpointsContract):
    @pytest.fixture(params=["sqlite", "postgresql"])
    async def database(
        self, request: pytest.FixtureRequest, tmp_path: Path
    ) -> AsyncIterator[Database]:
        if request.param == "sqlite":
            config = await fresh_sqlite(tmp_path, "inference")
        else:
            config = await fresh_postgres(request.getfixturevalue("postgres_url"), "inference")
        async with Database(config) as database:
            yield database

    @pytest.fixture
    def store(self, database: Database) -> SqlEndpoints:
        return SqlEndpoints(database)

    async def test_events_are_told_with_what_is_stored(
        self, store: SqlEndpoints, database: Database
    ) -> None:
        endpoint = make_endpoint()
        await store.add(endpoint, "", [changed(endpoint, Step.CREATED)])
        with pytest.raises(EndpointExists):
            await store.add(make_endpoint(), "", [changed(endpoint, Step.CREATED)])
        async with database.sessions() as session:
            count = await session.scalar(sa.select(sa.func.count()).select_from(OUTBOX))
        assert count == 1

    async def test_the_migrated_schema_is_the_one_that_the_code_uses(
        self, database: Database
    ) -> None:
        def columns(connection: sa.Connection) -> dict[str, dict[str, tuple[str, bool]]]:
            inspector = sa.inspect(connection)
            return {
                table: {
                    column["name"]: (str(column["type"]), column["nullable"])
                    for column in inspector.get_columns(table)
                }
                for table in inspector.get_table_names()
                if table != "alembic_version"
            }

        async with database.engine.connect() as connection:
            found = await connection.run_sync(columns)
            dialect = connection.dialect
        assert found == {
            table.name: {
                column.name: (column.type.compile(dialect), bool(column.nullable))
                for column in table.columns
            }
            for table in METADATA.sorted_tables
        }
