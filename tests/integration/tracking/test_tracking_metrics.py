"""Metrics through the native door: columns in, buckets, tails and Arrow out, and the client."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

import grpc
import pyarrow as pa
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from services.tracking.servicers import bindings
from tessera.client.aio.tracking import AsyncTracking
from tessera.tracking.v1 import tracking_pb2 as pb
from tessera.tracking.v1 import tracking_service_pb2 as api
from tessera_kit.config import RpcConfig
from tessera_kit.errors import FailedPrecondition, InvalidArgument, PermissionDenied
from tessera_kit.rpc.server import build_server

from .conftest import Service, channel_of


@pytest.fixture
async def ada(service: Service) -> AsyncIterator[AsyncTracking]:
    async with channel_of(service.address, "ada") as channel:
        yield AsyncTracking(channel)


@pytest.fixture
async def bob(service: Service) -> AsyncIterator[AsyncTracking]:
    async with channel_of(service.address, "bob") as channel:
        yield AsyncTracking(channel)


async def new_run(client: AsyncTracking, name: str = "mine") -> str:
    experiment = await client.create_experiment(name, exist_ok=True)
    return (await client.create_run(experiment.experiment_id)).run_id


def series(key: str, steps: range, *, first_us: int = 1_700_000_000_000_000) -> pb.MetricSeries:
    return pb.MetricSeries(
        key=key,
        steps=steps,
        times_us=[first_us + step for step in steps],
        values=[float(step % 10) for step in steps],
    )


async def test_columns_are_stored_as_points_are(service: Service, ada: AsyncTracking) -> None:
    run_id = await new_run(ada)
    call = service.ada.StreamMetrics()
    first = [series("loss", range(3000)), series("acc", range(-5, 5))]
    one = pb.Metric(key="loss", value=math.nan, step=3000)
    one.timestamp.FromMicroseconds(1_700_000_000_003_000)
    await call.write(api.StreamMetricsRequest(run_id=run_id, series=first, sequence=1))
    await call.write(
        api.StreamMetricsRequest(run_id=run_id, series=first[:1], metrics=[one], sequence=2)
    )
    await call.done_writing()
    assert [answer.durable_sequence async for answer in call][-1] == 2
    history = await ada.metric_history(run_id, "loss")
    assert [point.step for point in history] == list(range(3001))
    assert history[7].timestamp.ToMicroseconds() == 1_700_000_000_000_007
    run = await ada.get_run(run_id)
    assert [(one.key, one.min, one.max) for one in run.metric_extremes] == [
        ("acc", 0.0, 9.0),
        ("loss", 0.0, 9.0),
    ]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (pb.MetricSeries(key="m", steps=[1, 2], times_us=[1], values=[1.0, 2.0]), "series[1]"),
        (pb.MetricSeries(key="m", steps=[1], times_us=[-1], values=[1.0]), "series[1].times_us"),
        (pb.MetricSeries(key="../m", steps=[1], times_us=[1], values=[1.0]), "series[1].key"),
    ],
)
async def test_wrong_columns_are_refused_where_they_are_wrong(
    service: Service, ada: AsyncTracking, wrong: pb.MetricSeries, field: str
) -> None:
    run_id = await new_run(ada)
    call = service.ada.StreamMetrics()
    good = series("m", range(3))
    await call.write(api.StreamMetricsRequest(run_id=run_id, series=[good, wrong], sequence=1))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in str(dict(caught.value.trailing_metadata() or ()))
    assert await ada.metric_history(run_id, "m") == []


async def test_a_metric_in_buckets(ada: AsyncTracking, bob: AsyncTracking) -> None:
    run_id = await new_run(ada)
    async with await ada.stream_metrics(run_id) as stream:
        for step in range(1000):
            stream.log({"m": float(step)}, step=step, time_us=step)
    found = await ada.downsample(run_id, "m", buckets=4)
    assert [(one.first_step, one.last_step, one.count, one.min, one.max) for one in found] == [
        (0, 249, 250, 0.0, 249.0),
        (250, 499, 250, 250.0, 499.0),
        (500, 749, 250, 500.0, 749.0),
        (750, 999, 250, 750.0, 999.0),
    ]
    assert found[1].mean == pytest.approx(374.5)
    [one] = await ada.downsample(run_id, "m", buckets=1, first_step=10, last_step=10)
    assert (one.count, one.first_at.ToMicroseconds()) == (1, 10)
    assert await ada.downsample(run_id, "none") == []
    with pytest.raises(InvalidArgument, match="buckets"):
        await ada.downsample(run_id, "m", buckets=10_001)
    with pytest.raises(PermissionDenied):
        await bob.downsample(run_id, "m")


async def test_many_metrics_in_buckets(
    service: Service, ada: AsyncTracking, bob: AsyncTracking
) -> None:
    run_id = await new_run(ada)
    keys = [f"m{number}" for number in range(60)]
    async with await ada.stream_metrics(run_id) as stream:
        for step in range(20):
            stream.log({key: float(step) for key in keys}, step=step)
    found = await ada.downsample_many(run_id, [*keys, "none", "m1"], buckets=4)
    assert list(found) == keys
    assert all([one.count for one in curve] == [5, 5, 5, 5] for curve in found.values())
    assert found["m7"] == await ada.downsample(run_id, "m7", buckets=4)
    assert await ada.downsample_many(run_id, []) == {}
    too_many = api.DownsampleMetricsRequest(run_id=run_id, keys=keys[:3], buckets=10_000)
    with pytest.raises(grpc.aio.AioRpcError, match="20,000") as caught:
        await service.ada.DownsampleMetrics(too_many)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(PermissionDenied):
        await bob.downsample_many(run_id, ["m1"])


async def test_a_tail_tells_what_is_new_until_the_run_ends(
    ada: AsyncTracking, bob: AsyncTracking
) -> None:
    run_id = await new_run(ada)
    await ada.log(run_id, metrics={"a": 1.0, "b": math.nan}, params={"p": 1})
    tail = ada.tail_run(run_id)
    first = await anext(tail)
    assert [point.key for point in first.metrics] == ["a", "b"]
    assert first.run.params == [pb.Param(key="p", value="1")]
    await ada.log(run_id, metrics={"a": 2.0}, step=1)
    second = await anext(tail)
    assert not second.HasField("run")
    assert [(point.key, point.value) for point in second.metrics] == [("a", 2.0)]
    await ada.end_run(run_id)
    rest = [news async for news in tail]
    assert [news.run.status for news in rest] == [pb.RUN_STATUS_FINISHED]
    with pytest.raises(PermissionDenied):
        await anext(bob.tail_run(run_id))


async def test_a_selection_as_arrow(ada: AsyncTracking, bob: AsyncTracking) -> None:
    first, second = await new_run(ada, "one"), await new_run(ada, "two")
    for run_id in (first, second):
        await ada.log(run_id, metrics={"a": 1.0, "b": 2.0}, step=3, params={"p": run_id})
    table = await ada.export_metrics(run_ids=[second, first], keys=["b"])
    assert sorted(table["run_id"].to_pylist()) == sorted([first, second])
    assert (
        table.drop_columns(["run_id", "timestamp"]).to_pylist()
        == [{"key": "b", "step": 3, "value": 2.0}] * 2
    )
    assert table.schema.field("timestamp").type == pa.timestamp("us", "UTC")
    experiments = [one.experiment_id for one in await ada.search_experiments()]
    chosen = {"experiment_ids": experiments, "filter": f"params.p = '{first}'"}
    assert set((await ada.export_metrics(**chosen))["run_id"].to_pylist()) == {first}
    assert (await bob.export_metrics(**chosen)).num_rows == 0
    with pytest.raises(PermissionDenied):
        await bob.export_metrics(run_ids=[first])
    with pytest.raises(InvalidArgument, match="either"):
        await ada.export_metrics()
    with pytest.raises(InvalidArgument, match="filter"):
        await ada.export_metrics(experiment_ids=experiments, filter="oops")


async def test_the_client_never_waits_and_counts_what_it_drops(ada: AsyncTracking) -> None:
    run_id = await new_run(ada)
    async with await ada.stream_metrics(run_id, most_waiting=30_000) as stream:
        # Nothing is sent meanwhile: the loop that would do so runs this.
        for step in range(40_000):
            stream.log({"m": 1.0}, step=step)
        assert stream.dropped == 10_000
    assert [one.step for one in await ada.metric_history(run_id, "m")] == list(range(30_000))
    with pytest.raises(RuntimeError, match="closed"):
        stream.log({"m": 1.0})


async def test_the_client_tells_what_was_refused(ada: AsyncTracking, service: Service) -> None:
    run_id = await new_run(ada)
    await service.ada.DeleteRun(api.DeleteRunRequest(run_id=run_id))
    stream = await ada.stream_metrics(run_id)
    stream.log({"m": 1.0})
    with pytest.raises(FailedPrecondition):
        await stream.aclose()


async def test_points_logged_over_an_outage_arrive_once(
    ada: AsyncTracking, service: Service
) -> None:
    run_id = await new_run(ada)
    stream = await ada.stream_metrics(run_id)

    async def write(steps: range) -> None:
        for step in steps:
            stream.log({"m": float(step)}, step=step, time_us=step)
        await asyncio.sleep(0.1)

    await write(range(100))
    await service.server.stop()
    await write(range(100, 200))
    config = RpcConfig(listen=service.address, drain_seconds=1.0)
    again = build_server(config, bindings(service.cases), authenticator=service.authority)
    await again.start()
    try:
        await write(range(200, 300))
        await stream.aclose()
        assert [one.step for one in await ada.metric_history(run_id, "m")] == list(range(300))
    finally:
        await again.stop()


async def test_a_run_that_is_over_has_a_short_tail(ada: AsyncTracking, service: Service) -> None:
    run_id = await new_run(ada)
    await service.ada.UpdateRun(
        api.UpdateRunRequest(
            run=pb.Run(run_id=run_id, status=pb.RUN_STATUS_KILLED),
            update_mask=FieldMask(paths=["status"]),
        )
    )
    assert [news.run.status async for news in ada.tail_run(run_id)] == [pb.RUN_STATUS_KILLED]
