"""The service as a process on the stack: durable over kill -9, events on the bus, files in S3."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from google.protobuf.field_mask_pb2 import FieldMask

from devstack import Stack
from tessera.catalog.v1 import authorization_service_pb2 as authorization
from tessera.catalog.v1 import authorization_service_pb2_grpc, securable_pb2
from tessera.events.v1 import catalog_events_pb2, tracking_events_pb2
from tessera.tracking.v1 import tracking_pb2 as pb
from tessera.tracking.v1 import tracking_service_pb2 as api
from tessera.tracking.v1 import tracking_service_pb2_grpc as rpc
from tessera_kit.bus.topics import dead_letter_topic, topic_for
from tessera_kit.config import ClickHouseConfig, Env, S3Config, Secret
from tessera_kit.rpc.client import open_channel
from tessera_kit.store.clickhouse import ClickHouse
from tessera_kit.store.clickhouse_errors import ClickHouseUnavailable, TableNotFound
from tessera_kit.store.s3 import S3ObjectStore
from tests.helpers import eventually, unique_name

from .calls import metric
from .test_tracking_artifacts import parts

Stub = rpc.TrackingServiceStub


@pytest.fixture
async def admin_token(stack: Stack) -> Secret:
    if stack.is_local:
        await stack.start("catalog", "tracking")
    return Env(stack.environment).secret_file("TESSERA_ADMIN_TOKEN_FILE")


@pytest.fixture
async def tracking(stack: Stack, admin_token: Secret) -> AsyncIterator[Stub]:
    async with open_channel(stack.urls["tracking"], token=admin_token) as channel:
        yield rpc.TrackingServiceStub(channel)


async def new_run(tracking: Stub, experiment_id: str = "0") -> str:
    request = api.CreateRunRequest(experiment_id=experiment_id)
    return (await tracking.CreateRun(request)).run.run_id


async def test_acknowledged_metrics_survive_a_kill(local_stack: Stack, tracking: Stub) -> None:
    run_id = await new_run(tracking)
    acknowledged: dict[int, int] = {}

    async def write(writer: int) -> None:
        for step in range(100_000):
            points = [metric(f"m{writer}", step, step)]
            await tracking.LogBatch(api.LogBatchRequest(run_id=run_id, metrics=points), timeout=5)
            acknowledged[writer] = step

    writers = [asyncio.create_task(write(number)) for number in range(8)]
    await eventually(lambda: len(acknowledged) == 8 and min(acknowledged.values()) > 20, 30)
    local_stack.kill("tracking")
    await asyncio.wait(writers, timeout=30)
    for writer in writers:
        writer.cancel()
    await asyncio.gather(*writers, return_exceptions=True)
    kept = dict(acknowledged)
    await local_stack.wait_healthy("tracking")
    for writer, step in kept.items():
        request = api.GetMetricHistoryRequest(run_id=run_id, key=f"m{writer}", page_size=25_000)
        # The channel may be waiting before it connects again.
        history = await tracking.GetMetricHistory(request, wait_for_ready=True)
        steps = [point.step for point in history.metrics]
        # What was under way when the process died may be there too, but nothing twice.
        assert steps[: step + 1] == list(range(step + 1))
        assert len(steps) == len(set(steps))
    run = (await tracking.GetRun(api.GetRunRequest(run_id=run_id))).run
    assert {one.key for one in run.metrics} == {f"m{writer}" for writer in range(8)}


async def test_points_on_their_way_to_clickhouse_survive_kills(
    local_stack: Stack, tracking: Stub
) -> None:
    """The service dies while points leave its log, ClickHouse while they arrive."""
    run_id = await new_run(tracking)
    acknowledged: set[int] = set()

    async def write() -> None:
        for part in itertools.count():
            points = [metric("m", n, part * 1000 + n) for n in range(1000)]
            request = api.LogBatchRequest(run_id=run_id, metrics=points)
            while part not in acknowledged:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await tracking.LogBatch(request, timeout=10, wait_for_ready=True)
                    acknowledged.add(part)

    writer = asyncio.create_task(write())
    config = ClickHouseConfig.from_env(local_stack.environment, database="tessera_tracking")
    async with ClickHouse(config) as clickhouse:

        async def carried() -> int:
            sql = "SELECT count() FROM metric_points WHERE run_id = {run_id:String}"
            with contextlib.suppress(TableNotFound, ClickHouseUnavailable):
                return int((await clickhouse.query(sql, {"run_id": run_id})).rows[0][0])
            return 0

        try:
            for name in ("tracking", "clickhouse", "tracking"):
                before = await carried()
                await eventually(lambda before=before: _greater(carried, before), 60)
                local_stack.kill(name)
                await local_stack.wait_healthy(name)
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
        expected = {part * 1000 + n for part in acknowledged for n in range(1000)}
        seen: list[int] = []
        asked = api.GetMetricHistoryRequest(run_id=run_id, key="m", page_size=25_000)
        while True:
            page = await tracking.GetMetricHistory(asked, wait_for_ready=True)
            seen += [point.step for point in page.metrics]
            if not page.next_page_token:
                break
            asked.page_token = page.next_page_token
        assert len(seen) == len(set(seen))
        assert expected <= set(seen)


async def _greater(count: Callable[[], Awaitable[int]], before: int) -> bool:
    return await count() > before


async def test_the_life_of_a_run_is_told_in_order(stack: Stack, tracking: Stub) -> None:
    run_id = await new_run(tracking)
    await tracking.LogBatch(
        api.LogBatchRequest(
            run_id=run_id,
            metrics=[metric("auc", 0.75, 1)],
            inputs=[pb.DatasetInput(name="main.flights.departures", context="training")],
        )
    )
    await tracking.UpdateRun(
        api.UpdateRunRequest(
            run=pb.Run(run_id=run_id, status=pb.RUN_STATUS_FINISHED),
            update_mask=FieldMask(paths=["status"]),
        )
    )
    topics = [
        topic_for(tracking_events_pb2.RunStarted),
        topic_for(catalog_events_pb2.LineageObserved),
    ]
    consumer = AIOKafkaConsumer(
        *(topic.name for topic in topics),
        bootstrap_servers=stack.environment["TESSERA_KAFKA_BOOTSTRAP"],
        auto_offset_reset="earliest",
    )
    lives: list[object] = []
    edges: list[tuple[str, str]] = []
    await consumer.start()
    try:
        async with asyncio.timeout(60):
            while len(lives) < 2 or not edges:
                record = await consumer.getone()
                # The topics are everybody's, and others tell JSON and nonsense there too.
                if not (record.key or b"").endswith(run_id.encode()):
                    continue
                kind = dict(record.headers)["ce_type"].decode()
                if kind.endswith("LineageObserved"):
                    told = catalog_events_pb2.LineageObserved.FromString(record.value)
                    edges += [(edge.source.name, edge.target.name) for edge in told.edges]
                else:
                    lives.append(
                        getattr(tracking_events_pb2, kind.rpartition(".")[2]).FromString(
                            record.value
                        )
                    )
    finally:
        await consumer.stop()
    started, ended = lives
    assert isinstance(started, tracking_events_pb2.RunStarted)
    assert isinstance(ended, tracking_events_pb2.RunEnded)
    assert ended.run.metrics == [metric("auc", 0.75, 1)]
    assert edges == [("main.flights.departures", run_id)]


async def test_outsiders_tell_metrics_over_the_bus(stack: Stack, tracking: Stub) -> None:
    run_id = await new_run(tracking)
    topic = topic_for(tracking_events_pb2.MetricsObserved).name
    bootstrap = stack.environment["TESSERA_KAFKA_BOOTSTRAP"]
    series = {"key": "loss", "steps": [1, 2], "timesUs": [5, 6], "values": [0.5, "NaN"]}
    told = [
        {"runId": run_id, "series": [series]},
        {"runId": run_id, "series": [{**series, "steps": [1]}]},
        {"runId": f"no-{run_id}", "series": [series]},
        {"runId": run_id, "series": [series, {**series, "key": "acc"}]},
    ]
    letters = AIOKafkaConsumer(
        dead_letter_topic(topic), bootstrap_servers=bootstrap, auto_offset_reset="earliest"
    )
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for number, one in enumerate(told):
            headers = {
                "ce_specversion": "1.0",
                "ce_id": f"{run_id}-{number}",
                "ce_type": tracking_events_pb2.MetricsObserved.DESCRIPTOR.full_name,
                "ce_source": "outsider",
                "content-type": "application/json",
            }
            await producer.send_and_wait(
                topic,
                json.dumps(one).encode(),
                key=run_id.encode(),
                headers=[(name, text.encode()) for name, text in headers.items()],
            )

    async def has_arrived() -> bool:
        run = (await tracking.GetRun(api.GetRunRequest(run_id=run_id))).run
        return [metric.key for metric in run.metrics] == ["acc", "loss"]

    await eventually(has_arrived, 60)
    history = api.GetMetricHistoryRequest(run_id=run_id, key="loss")
    points = (await tracking.GetMetricHistory(history)).metrics
    assert [(point.step, str(point.value)) for point in points] == [(1, "0.5"), (2, "nan")]
    reasons: dict[str, str] = {}
    await letters.start()
    try:
        async with asyncio.timeout(60):
            while len(reasons) < 2:
                found = dict((await letters.getone()).headers)
                if found["ce_id"].decode().startswith(run_id):
                    reasons[found["ce_id"].decode()[-1]] = found["dead_letter_message"].decode()
    finally:
        await letters.stop()
    assert "series[0] has 1 steps" in reasons["1"]
    assert f"no-{run_id}" in reasons["2"]


async def test_files_lie_below_their_run_in_the_bucket(stack: Stack, tracking: Stub) -> None:
    run_id = await new_run(tracking)
    content = os.urandom(9 << 20)  # more than one part
    digest = hashlib.sha256(content).hexdigest()
    chunks = [content[at : at + (1 << 20)] for at in range(0, len(content), 1 << 20)]
    stored = await tracking.UploadArtifact(parts(run_id, "model/weights.bin", chunks, digest))
    assert (stored.sha256, stored.artifact.size_bytes) == (digest, len(content))
    with pytest.raises(grpc.aio.AioRpcError, match="SHA-256") as caught:
        await tracking.UploadArtifact(parts(run_id, "model/other.bin", chunks, "0" * 64))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    request = api.DownloadArtifactRequest(run_id=run_id, path="model/weights.bin")
    read = b"".join([answer.chunk async for answer in tracking.DownloadArtifact(request)])
    assert read == content
    root = await tracking.ListArtifacts(api.ListArtifactsRequest(run_id=run_id))
    assert [(one.path, one.is_directory) for one in root.artifacts] == [("model", True)]
    run = (await tracking.GetRun(api.GetRunRequest(run_id=run_id))).run
    config = S3Config.from_env(stack.environment)
    prefix = run.artifact_location.removeprefix(f"s3://{config.bucket}/")
    async with S3ObjectStore(config) as objects:
        keys = [info.key async for info in objects.list(f"{prefix}/")]
    assert keys == [f"{prefix}/model/weights.bin"]


async def test_grants_of_the_catalog_decide(
    stack: Stack, tracking: Stub, admin_token: Secret
) -> None:
    name = unique_name("user")
    async with open_channel(stack.urls["catalog"], token=admin_token) as channel:
        catalog = authorization_service_pb2_grpc.AuthorizationServiceStub(channel)
        principal = authorization.Principal(name=name, kind=authorization.PRINCIPAL_KIND_USER)
        await catalog.CreatePrincipal(authorization.CreatePrincipalRequest(principal=principal))
        token = await catalog.CreateToken(authorization.CreateTokenRequest(principal=name))
        made = await tracking.CreateExperiment(
            api.CreateExperimentRequest(experiment=pb.Experiment(name=unique_name("e")))
        )
        experiment_id = made.experiment.experiment_id
        async with open_channel(stack.urls["tracking"], token=Secret(token.secret)) as own:
            user = rpc.TrackingServiceStub(own)
            await new_run(user)
            request = api.GetExperimentRequest(experiment_id=experiment_id)
            with pytest.raises(grpc.aio.AioRpcError, match="SELECT") as caught:
                await user.GetExperiment(request)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
            grant = authorization.Grant(principal=name, privilege=securable_pb2.PRIVILEGE_SELECT)
            await catalog.UpdateGrants(
                authorization.UpdateGrantsRequest(
                    securable=securable_pb2.SecurableReference(
                        type=securable_pb2.SECURABLE_TYPE_EXPERIMENT, full_name=experiment_id
                    ),
                    add=[grant],
                )
            )

            async def readable() -> bool:
                try:
                    found = await user.GetExperiment(request)
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
                    return False
                return bool(found.experiment == made.experiment)

            await eventually(readable, 20)
            with pytest.raises(grpc.aio.AioRpcError, match="MODIFY"):
                await new_run(user, experiment_id)
