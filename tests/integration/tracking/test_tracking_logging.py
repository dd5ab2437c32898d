"""What is logged to runs through the gRPC door: batches, history, streams."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import grpc
import pytest

from tessera.events.v1 import catalog_events_pb2
from tessera.tracking.v1 import tracking_pb2 as pb
from tessera.tracking.v1 import tracking_service_pb2 as api
from tests.integration.tracking.calls import metric, new_run, refused, run_of, told

from .conftest import Service

# Batches


async def test_a_batch_is_all_or_nothing(service: Service) -> None:
    run = await new_run(service)
    first = api.LogBatchRequest(run_id=run.run_id, params=[pb.Param(key="k", value="a")])
    await service.ada.LogBatch(first)
    before = await run_of(service, run.run_id)
    batch = api.LogBatchRequest(
        run_id=run.run_id,
        metrics=[metric("m", 1)],
        params=[pb.Param(key="k", value="b"), pb.Param(key="new", value="1")],
        tags=[pb.Tag(key="t", value="1")],
        inputs=[pb.DatasetInput(name="main.flights.jan")],
    )
    info = await refused(
        service.ada.LogBatch(batch),
        grpc.StatusCode.FAILED_PRECONDITION,
        "Changing param values is not allowed. Params were already logged='[{'key': 'k', "
        f"'old_value': 'a', 'new_value': 'b'}}]' for run ID='{run.run_id}'.",
    )
    assert info.reason == "PARAM_CHANGED"
    assert info.metadata["old_value"] == "a"
    assert await run_of(service, run.run_id) == before


async def test_the_same_batch_again_changes_nothing(service: Service) -> None:
    run = await new_run(service)
    batch = api.LogBatchRequest(
        run_id=run.run_id,
        metrics=[metric("m", math.nan, 1), metric("m", 2, 1), metric("m", math.inf, 0)],
        params=[pb.Param(key="k", value="a")],
        tags=[pb.Tag(key="t", value="1"), pb.Tag(key="t", value="2")],
        inputs=[pb.DatasetInput(name="main.flights.jan", context="training")],
    )
    await service.ada.LogBatch(batch)
    after_first, events = await run_of(service, run.run_id), await told(service)
    await asyncio.gather(*(service.ada.LogBatch(batch) for _ in range(5)))
    assert await run_of(service, run.run_id) == after_first
    assert after_first.etag != run.etag
    assert [(tag.key, tag.value) for tag in after_first.tags] == [("t", "2")]
    assert await told(service) == events
    history = await service.ada.GetMetricHistory(
        api.GetMetricHistoryRequest(run_id=run.run_id, key="m")
    )
    assert [repr(point.value) for point in history.metrics] == ["inf", "2.0", "nan"]


async def test_metrics_leave_the_etag_alone(service: Service) -> None:
    run = await new_run(service)
    await service.ada.LogBatch(api.LogBatchRequest(run_id=run.run_id, metrics=[metric("m", 1)]))
    assert (await run_of(service, run.run_id)).etag == run.etag


async def test_tables_among_the_inputs_are_told_as_lineage(service: Service) -> None:
    run = await new_run(service)
    inputs = [
        pb.DatasetInput(name="main.flights.jan"),
        pb.DatasetInput(name="main.flights.jan", context="evaluation"),
        pb.DatasetInput(name="main.flights.feb"),
        pb.DatasetInput(name="my file.csv"),
        pb.DatasetInput(name="Not.A.Table"),
    ]
    await service.ada.LogBatch(api.LogBatchRequest(run_id=run.run_id, inputs=inputs))
    event = (await told(service))[-1]
    assert isinstance(event, catalog_events_pb2.LineageObserved)
    assert [edge.source.name for edge in event.edges] == ["main.flights.feb", "main.flights.jan"]
    assert {edge.target.name for edge in event.edges} == {run.run_id}
    assert {edge.principal for edge in event.edges} == {"ada"}
    assert len((await run_of(service, run.run_id)).inputs) == 5


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"metrics": [metric("a" * 251, 1)]}, "metrics[0].key"),
        ({"metrics": [metric("a", 1), metric("../a", 1)]}, "'../a'"),
        ({"metrics": [metric("a\x00", 1)]}, "NUL"),
        ({"metrics": [metric("a//b", 1)]}, "resolve to 'a/b'"),
        ({"metrics": [metric("", 1)]}, "metrics[0].key"),
        ({"metrics": [pb.Metric(key="a", value=1)]}, "metrics[0].timestamp"),
        ({"metrics": [metric("a", 1, seconds=-1)]}, "nonnegative"),
        ({"metrics": [metric("a", 1, seconds=2**62)]}, "timestamp"),
        ({"params": [pb.Param(key="a", value="x" * 6001)]}, "6000"),
        ({"params": [pb.Param(key="a", value="x\x00")]}, "NUL"),
        ({"params": [pb.Param(key="a", value="1")] * 2}, "Duplicate parameter keys"),
        ({"tags": [pb.Tag(key="a", value="x" * 8001)]}, "8000"),
        ({"tags": [pb.Tag(key="a?", value="x")]}, "may only contain"),
        ({"inputs": [pb.DatasetInput(name="a\x00")]}, "NUL"),
        ({"metrics": [metric("a", 1)] * 1000, "tags": [pb.Tag(key="t")]},
         "at most 1000 metrics, params, and tags. Got 1001 metrics, params, and tags."),
        ({"tags": [pb.Tag(key=f"t{n}", value="x" * 8000) for n in range(100)],
          "params": [pb.Param(key=f"p{n}", value="x" * 6000) for n in range(100)]},
         "must be at most 1000000 bytes"),
    ],
)  # fmt: skip
async def test_bad_batches_are_refused_and_change_nothing(
    service: Service, fields: dict[str, Any], words: str
) -> None:
    run = await new_run(service)
    batch = api.LogBatchRequest(run_id=run.run_id, **fields)
    await refused(service.ada.LogBatch(batch), grpc.StatusCode.INVALID_ARGUMENT, words)
    assert await run_of(service, run.run_id) == run


async def test_sixteen_writers_on_one_run_lose_nothing(service: Service) -> None:
    run = await new_run(service)

    async def write(writer: int) -> None:
        for step in range(25):
            await service.ada.LogBatch(
                api.LogBatchRequest(
                    run_id=run.run_id,
                    metrics=[metric("shared", writer, step), metric(f"m{writer}", step, step)],
                    params=[pb.Param(key=f"p{writer}", value="x"), pb.Param(key="p", value="y")],
                    tags=[pb.Tag(key="who", value=str(writer))],
                )
            )

    await asyncio.gather(*(write(writer) for writer in range(16)))
    found = await run_of(service, run.run_id)
    latest = {one.key: one for one in found.metrics}
    assert latest["shared"] == metric("shared", 15, 24)
    assert {latest[f"m{writer}"].value for writer in range(16)} == {24.0}
    assert len(found.params) == 17
    history = await service.ada.GetMetricHistory(
        api.GetMetricHistoryRequest(run_id=run.run_id, key="shared")
    )
    assert len(history.metrics) == 16 * 25


async def test_one_refused_batch_does_not_harm_those_beside_it(service: Service) -> None:
    runs = [await new_run(service) for _ in range(3)]
    await service.ada.DeleteRun(api.DeleteRunRequest(run_id=runs[1].run_id))
    outcomes = await asyncio.gather(
        *(
            service.ada.LogBatch(
                api.LogBatchRequest(
                    run_id=run.run_id, params=[pb.Param(key="k", value=str(attempt))]
                )
            )
            for attempt in range(2)
            for run in runs
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(one, api.LogBatchResponse) for one in outcomes) == 2
    for run in (runs[0], runs[2]):
        assert len((await run_of(service, run.run_id)).params) == 1


async def test_history_comes_in_pages(service: Service) -> None:
    run = await new_run(service)
    points = [metric("m", float(step), step) for step in range(25)]
    await service.ada.LogBatch(api.LogBatchRequest(run_id=run.run_id, metrics=points))
    seen: list[pb.Metric] = []
    request = api.GetMetricHistoryRequest(run_id=run.run_id, key="m", page_size=10)
    while True:
        page = await service.ada.GetMetricHistory(request)
        seen += page.metrics
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == points
    request.key = "other"
    await refused(
        service.ada.GetMetricHistory(request), grpc.StatusCode.INVALID_ARGUMENT, "page_token"
    )


# Streams


async def test_a_stream_is_acknowledged_when_durable_and_read_back(service: Service) -> None:
    runs = [await new_run(service) for _ in range(2)]
    call = service.ada.StreamMetrics()
    for sequence in range(1, 101):
        await call.write(
            api.StreamMetricsRequest(
                run_id=runs[sequence % 2].run_id,
                metrics=[metric("m", sequence, sequence)],
                sequence=sequence,
            )
        )
    await call.done_writing()
    acknowledged = [answer.durable_sequence async for answer in call]
    assert acknowledged == sorted(set(acknowledged))
    assert acknowledged[-1] == 100
    for at, run in enumerate(runs):
        [latest] = (await run_of(service, run.run_id)).metrics
        assert latest.step == 100 - at


async def test_each_message_is_acknowledged_without_waiting_for_the_next(service: Service) -> None:
    run = await new_run(service)
    call = service.ada.StreamMetrics()
    for sequence in range(1, 6):
        await call.write(
            api.StreamMetricsRequest(
                run_id=run.run_id, metrics=[metric("m", 1, sequence)], sequence=sequence
            )
        )
        answer = await call.read()
        assert answer.durable_sequence == sequence
        [latest] = (await run_of(service, run.run_id)).metrics
        assert latest.step == sequence
    await call.done_writing()
    assert await call.read() == grpc.aio.EOF


@pytest.mark.parametrize(
    ("message", "code", "words"),
    [
        ({"sequence": 3}, grpc.StatusCode.INVALID_ARGUMENT, "expected sequence 2, got 3"),
        ({"sequence": 2, "run_id": "nope"}, grpc.StatusCode.NOT_FOUND, "nope"),
        ({"sequence": 2, "metrics": [metric("../x", 1)]}, grpc.StatusCode.INVALID_ARGUMENT, "../x"),
    ],
)
async def test_a_bad_message_ends_the_stream_after_what_came_before(
    service: Service, message: dict[str, Any], code: grpc.StatusCode, words: str
) -> None:
    run = await new_run(service)
    call = service.ada.StreamMetrics()
    good = {"run_id": run.run_id, "metrics": [metric("m", 1)]}
    await call.write(api.StreamMetricsRequest(sequence=1, **good))
    await call.write(api.StreamMetricsRequest(**{**good, **message}))
    answer = await call.read()
    assert answer.durable_sequence == 1
    with pytest.raises(grpc.aio.AioRpcError, match=words) as caught:
        await call.read()
    assert caught.value.code() is code
    assert len((await run_of(service, run.run_id)).metrics) == 1
