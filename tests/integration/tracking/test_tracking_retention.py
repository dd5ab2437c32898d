"""A purge on the stack: rows, points, spans and files go, through kill -9; versions keep theirs."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import aiohttp
import grpc
import pytest
from aiokafka import AIOKafkaConsumer

from devstack import Stack
from tessera.events.v1 import tracking_events_pb2
from tessera.tracking.v1 import tracking_service_pb2 as api
from tessera.tracking.v1 import tracking_service_pb2_grpc as rpc
from tessera_kit.bus.topics import topic_for
from tessera_kit.config import ClickHouseConfig, Env, S3Config, Secret
from tessera_kit.rpc.client import open_channel
from tessera_kit.store.clickhouse import ClickHouse
from tessera_kit.store.clickhouse_errors import ClickHouseUnavailable
from tessera_kit.store.s3 import S3ObjectStore
from tests.helpers import eventually, unique_name

from .test_tracking_trace_kills import an_export

RUNS = 220
FILES = "/api/2.0/mlflow-artifacts/artifacts"


class World:
    """The doors of a stack's tracking, and what is behind them."""

    def __init__(
        self,
        stack: Stack,
        door: aiohttp.ClientSession,
        tracking: rpc.TrackingServiceStub,
        clickhouse: ClickHouse,
        objects: S3ObjectStore,
    ) -> None:
        self.stack = stack
        self.tracking = tracking
        self.objects = objects
        self._door = door
        self._clickhouse = clickhouse

    async def ask(self, path: str, status: int = 200, method: str = "POST", **body: Any) -> Any:
        path = f"/api/2.0/mlflow/{path}"
        sent = {"params": body} if method == "GET" else {"json": body}
        async with self._door.request(method, path, **sent) as answer:  # type: ignore[arg-type]
            assert answer.status == status, await answer.text()
            return await answer.json()

    async def upload(self, path: str, content: bytes) -> None:
        async with self._door.put(f"{FILES}/{path}", data=content) as answer:
            assert answer.status == 200, await answer.text()

    async def download(self, path: str) -> bytes:
        async with self._door.get(f"{FILES}/{path}") as answer:
            assert answer.status == 200, await answer.text()
            return await answer.read()

    async def trace(self, experiment_id: str, number: int) -> None:
        headers = {
            "content-type": "application/x-protobuf",
            "x-mlflow-experiment-id": experiment_id,
        }
        body = an_export(number, 3)
        async with self._door.post("/v1/traces", data=body, headers=headers) as answer:
            assert answer.status == 200, await answer.text()

    async def run(self, experiment_id: str) -> str:
        made = await self.ask("runs/create", experiment_id=experiment_id)
        run_id: str = made["run"]["info"]["run_id"]
        metrics = [{"key": "m", "value": step, "timestamp": 1, "step": step} for step in range(20)]
        await self.ask("runs/log-batch", run_id=run_id, metrics=metrics)
        return run_id

    async def count(self, sql: str, **bound: object) -> int | None:
        """What ClickHouse counts; None while it cannot."""
        with contextlib.suppress(ClickHouseUnavailable):
            return int(
                (await self._clickhouse.query(f"SELECT count() FROM {sql}", bound)).rows[0][0]
            )
        return None

    async def keys(self, prefix: str) -> list[str]:
        return [info.key async for info in self.objects.list(f"tracking/{prefix}/")]

    def rows(self, experiment_id: str, runs: list[str]) -> dict[str, int]:
        """How many rows of SQL tell of an experiment or its runs, by table; none with 0."""
        file = self.stack.home.data("tracking") / "tracking.db"
        found: dict[str, int] = {}
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
            names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            for [name] in names.fetchall():
                columns = {row[1] for row in database.execute(f"PRAGMA table_info({name})")}
                for column, ids in (("experiment_id", [experiment_id]), ("run_id", runs)):
                    if column in columns and name != "purges":
                        marks = ", ".join("?" * len(ids))
                        sql = f"SELECT count(*) FROM {name} WHERE {column} IN ({marks})"
                        found[name] = found.get(name, 0) + database.execute(sql, ids).fetchone()[0]
        return {name: count for name, count in found.items() if count}


@pytest.fixture
async def world(local_stack: Stack) -> AsyncIterator[World]:
    await local_stack.start("catalog", "tracking")
    token = Env(local_stack.environment).secret_file("TESSERA_ADMIN_TOKEN_FILE")
    config = ClickHouseConfig.from_env(local_stack.environment, database="tessera_tracking")
    async with (
        aiohttp.ClientSession(
            local_stack.urls["tracking_http"],
            headers={"authorization": f"Bearer {token.reveal()}"},
            timeout=aiohttp.ClientTimeout(total=60),
        ) as door,
        open_channel(local_stack.urls["tracking"], token=Secret(token.reveal())) as channel,
        ClickHouse(config) as clickhouse,
        S3ObjectStore(S3Config.from_env(local_stack.environment)) as objects,
    ):
        yield World(local_stack, door, rpc.TrackingServiceStub(channel), clickhouse, objects)


async def test_a_purge_that_is_killed_is_gone_on_with_until_nothing_is_left(world: World) -> None:
    name = unique_name("purged")
    made = await world.ask("experiments/create", name=name)
    experiment_id: str = made["experiment_id"]
    runs = [await world.run(experiment_id) for _ in range(RUNS)]
    kept = await world.run("0")
    trace = 11 << 100
    await world.trace(experiment_id, trace)
    model = await world.ask("logged-models", experiment_id=experiment_id, name="net")
    model_id = model["model"]["info"]["model_id"]
    await world.upload(f"{experiment_id}/{runs[0]}/artifacts/model/MLmodel", b"flavors: {}")
    await world.upload(f"{experiment_id}/{runs[1]}/artifacts/a/b.txt", b"text")
    await world.upload(f"{experiment_id}/models/{model_id}/artifacts/model.bin", b"model")
    registered = unique_name("kept").replace("-", "_")
    await world.ask("registered-models/create", name=registered)
    source = f"mlflow-artifacts:/{experiment_id}/{runs[0]}/artifacts/model"
    await world.ask("model-versions/create", name=registered, source=source, run_id=runs[0])

    # The last points are on their way to ClickHouse while the purge begins, or still in the log.
    points = "metric_points WHERE run_id IN {runs:Array(String)}"
    asked = {"runs": runs[:100]}
    await eventually(lambda: _some(world.count(points, **asked)), 60)
    refused = api.PurgeDeletedRequest(experiment_ids=[experiment_id])
    with pytest.raises(grpc.aio.AioRpcError, match="is in use"):
        await world.tracking.PurgeDeleted(refused)
    await world.ask("experiments/delete", experiment_id=experiment_id)
    before = await world.count(points, **asked)
    answer = await world.tracking.PurgeDeleted(refused)
    assert [one.id for one in answer.things] == [experiment_id]

    async def is_under_way() -> bool:
        return await world.count(points, **asked) != before

    await eventually(is_under_way, 60, 0.005)
    world.stack.kill("tracking")
    await world.stack.wait_healthy("tracking")

    gone = await world.ask("experiments/restore", 404, experiment_id=experiment_id)
    assert gone["error_code"] == "RESOURCE_DOES_NOT_EXIST"
    for path in ("runs/restore", "runs/delete"):
        assert (await world.ask(path, 404, run_id=runs[-1]))["error_code"] == gone["error_code"]
    assert (await world.ask("experiments/create", name=name))["experiment_id"] != experiment_id
    await eventually(lambda: not world.rows(experiment_id, runs), 60)
    assert await world.count(points, **asked) == 0
    assert await world.count("metric_points WHERE run_id = {run:String}", run=runs[-1]) == 0
    spans = "otel_traces WHERE ExperimentId = {experiment:String}"
    assert await world.count(spans, experiment=experiment_id) == 0
    assert await world.keys(experiment_id) == []

    version = await world.ask("model-versions/get", method="GET", name=registered, version="1")
    assert version["model_version"]["status"] == "READY"
    uri = await world.ask(
        "model-versions/get-download-uri", method="GET", name=registered, version="1"
    )
    place = uri["artifact_uri"].removeprefix("mlflow-artifacts:/")
    assert await world.download(f"{place}/MLmodel") == b"flavors: {}"
    history = await world.ask("metrics/get-history", method="GET", run_id=kept, metric_key="m")
    assert len(history["metrics"]) == 20
    told = await purged_runs(world.stack, experiment_id)
    assert sorted(told) == sorted(runs)


async def _some(count: Awaitable[int | None]) -> bool:
    return bool(await count)


async def purged_runs(stack: Stack, experiment_id: str) -> list[str]:
    """The runs that events told of until they told of their experiment, one for each event.

    An event may come again after a kill, with the same id: whoever listens counts it once.
    """
    topic = topic_for(tracking_events_pb2.RunPurged)
    consumer = AIOKafkaConsumer(
        topic.name, bootstrap_servers=stack.urls["kafka"], auto_offset_reset="earliest"
    )
    told: dict[bytes, str] = {}
    ended = False
    await consumer.start()
    try:
        async with asyncio.timeout(60):
            while not ended or len(told) < RUNS:
                record = await consumer.getone()
                headers = dict(record.headers)
                kind = headers["ce_type"].decode()
                if kind == tracking_events_pb2.RunPurged.DESCRIPTOR.full_name:
                    event = tracking_events_pb2.RunPurged.FromString(record.value)
                    if event.experiment_id == experiment_id:
                        told[headers["ce_id"]] = event.run_id
                elif kind == tracking_events_pb2.ExperimentPurged.DESCRIPTOR.full_name:
                    done = tracking_events_pb2.ExperimentPurged.FromString(record.value)
                    ended = ended or done.experiment_id == experiment_id
    finally:
        await consumer.stop()
    return list(told.values())
