"""Tracking: points and batches per second through its gRPC door, and how long searches take."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from time import perf_counter
from typing import Final

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from devstack import Stack
from tessera.tracking.v1 import tracking_pb2 as pb
from tessera.tracking.v1 import tracking_service_pb2 as api
from tessera.tracking.v1 import tracking_service_pb2_grpc as rpc
from tessera_kit.config import Env
from tessera_kit.rpc.client import open_channel
from tests.benchmarks.results import Figure, Report, quantile
from tests.helpers import unique_name

CALLS: Final = 500
CONNECTIONS: Final = 16
BATCH: Final = 1000
BATCHES: Final = 60
RUNS: Final = 10_000
SEARCHES: Final = 30
_AT_ONCE: Final = 64
_SEARCHES: Final[dict[str, tuple[str, list[str]]]] = {
    "newest first": ("", []),
    "by metric": ("metrics.m1 > 0.99", []),
    "by metric, parameter, status": (
        "metrics.m1 > 0.5 AND params.p1 = '3' AND attributes.status = 'RUNNING'",
        [],
    ),
    "ordered by metric": ("", ["metrics.m2 DESC"]),
    "by metric and tag, ordered": ("metrics.m1 > 0.5 AND tags.team = 'a'", ["metrics.m2 DESC"]),
}
Progress = Callable[[str], None]
Stub = rpc.TrackingServiceStub


async def measure(stack: Stack, report: Report, tell: Progress) -> None:
    """Acknowledged writes by one caller and by several, then searches over many runs."""
    details: dict[str, object] = {}
    report.details["tracking"] = details
    async with AsyncExitStack() as opened:
        channels = [await opened.enter_async_context(_channel(stack)) for _ in range(CONNECTIONS)]
        callers = [rpc.TrackingServiceStub(channel) for channel in channels]
        tell("tracking: single points ...")
        await _singles(callers, report, details)
        tell("tracking: batches ...")
        await _batches(callers[0], report, details)
        tell(f"tracking: {RUNS:,} runs to search in ...")
        await _searches(callers[0], report, details)


def _channel(stack: Stack) -> grpc.aio.Channel:
    token = Env(stack.environment).secret_file("TESSERA_ADMIN_TOKEN_FILE")
    return open_channel(stack.urls["tracking"], token=token)


async def _singles(callers: Sequence[Stub], report: Report, details: dict[str, object]) -> None:
    run_id = await _new_run(callers[0], "0")
    for step in range(50):
        await _log(callers[0], run_id, [_metric("warm", step, 0.0)])
    times: list[float] = []
    began = perf_counter()
    for step in range(CALLS):
        sent = perf_counter()
        await _log(callers[0], run_id, [_metric("loss", step, 0.5)])
        times.append(perf_counter() - sent)
    alone = CALLS / (perf_counter() - began)

    async def write(number: int) -> None:
        for step in range(CALLS // 5):
            await _log(callers[number], run_id, [_metric(f"loss{number}", step, 0.5)])

    began = perf_counter()
    await asyncio.gather(*(write(number) for number in range(CONNECTIONS)))
    together = CONNECTIONS * (CALLS // 5) / (perf_counter() - began)
    details["single_seconds"] = times
    note = f"p50 {1e3 * quantile(times, 0.5):.2f} ms, p99 {1e3 * quantile(times, 0.99):.2f} ms"
    one = f"1 point, {CONNECTIONS} connections, one run"
    report.figures += [
        Figure("tracking", "LogBatch of 1 point, one after another", alone, "calls/s", note=note),
        Figure("tracking", f"LogBatch of {one}", together, "calls/s"),
    ]


async def _batches(caller: Stub, report: Report, details: dict[str, object]) -> None:
    for name, at_once in (("one after another", 1), (f"{_AT_ONCE} in flight", _AT_ONCE)):
        run_id = await _new_run(caller, "0")
        batches = [
            [_metric(f"m{n % 10}", part * 100 + n // 10, 0.1 * n) for n in range(BATCH)]
            for part in range(BATCHES)
        ]
        began = perf_counter()
        await _bounded(at_once, [partial(_log, caller, run_id, one) for one in batches])
        seconds = perf_counter() - began
        details[f"batches_{at_once}_seconds"] = seconds
        rate = BATCHES * BATCH / seconds
        what = f"LogBatch of {BATCH:,} points, {name}"
        report.figures.append(Figure("tracking", what, rate, "points/s"))


async def _searches(caller: Stub, report: Report, details: dict[str, object]) -> None:
    chance = random.Random(1)  # noqa: S311 - the same runs every time
    request = api.CreateExperimentRequest(experiment=pb.Experiment(name=unique_name("bench")))
    experiment_id = (await caller.CreateExperiment(request)).experiment.experiment_id

    async def fill(number: int) -> None:
        tags = [pb.Tag(key="team", value="ab"[number % 2])]
        run_id = await _new_run(caller, experiment_id, tags)
        await caller.LogBatch(
            api.LogBatchRequest(
                run_id=run_id,
                metrics=[_metric(f"m{n}", 1, chance.random()) for n in range(10)],
                params=[pb.Param(key=f"p{n}", value=str(chance.randrange(8))) for n in range(5)],
            )
        )

    began = perf_counter()
    await _bounded(_AT_ONCE, [partial(fill, number) for number in range(RUNS)])
    rate = RUNS / (perf_counter() - began)
    report.figures.append(
        Figure("tracking", "runs created and logged to", rate, "runs/s", note="2 calls each")
    )
    for name, (text, order) in _SEARCHES.items():
        search = api.SearchRunsRequest(experiment_ids=[experiment_id], filter=text, order_by=order)
        times = []
        for _ in range(SEARCHES):
            sent = perf_counter()
            await caller.SearchRuns(search)
            times.append(perf_counter() - sent)
        details[f"search_seconds_{name}"] = times
        report.figures.append(
            Figure(
                "tracking",
                f"search {RUNS:,} runs, {name}, p95",
                1e3 * quantile(times, 0.95),
                "ms",
                higher_is_better=False,
                note=f"p50 {1e3 * quantile(times, 0.5):.1f} ms, pages of 100 whole runs",
            )
        )


async def _bounded(at_once: int, work: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Does all of it, so many at a time."""
    left = iter(work)

    async def take() -> None:
        for one in left:
            await one()

    await asyncio.gather(*(take() for _ in range(at_once)))


async def _new_run(caller: Stub, experiment_id: str, tags: Sequence[pb.Tag] = ()) -> str:
    request = api.CreateRunRequest(experiment_id=experiment_id, tags=tags)
    return (await caller.CreateRun(request)).run.run_id


async def _log(caller: Stub, run_id: str, metrics: Sequence[pb.Metric]) -> None:
    await caller.LogBatch(api.LogBatchRequest(run_id=run_id, metrics=metrics))


def _metric(key: str, step: int, value: float) -> pb.Metric:
    return pb.Metric(key=key, step=step, value=value, timestamp=Timestamp(seconds=1_700_000_000))
