"""Tracking beside `mlflow server`: the same calls to both, in turns; and the native door."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np

from devstack import Stack
from devstack.child import memory_of
from tessera import AsyncClient
from tessera.tracking.v1 import tracking_pb2 as pb
from tessera.tracking.v1 import tracking_service_pb2 as api
from tessera.tracking.v1 import tracking_service_pb2_grpc as rpc
from tessera_kit.config import Env
from tessera_kit.rpc.client import open_channel
from tests.benchmarks.mlflow_client import ClientProcess, client_process, instant_server
from tests.benchmarks.mlflow_server import MlflowServer, mlflow_server, settled
from tests.benchmarks.rest import Connection, Window, connections, window
from tests.benchmarks.results import Figure, Report, median, quantile
from tests.benchmarks.tracking_again import BATCHES, sent_twice
from tests.benchmarks.tracking_rows import fill_mlflow, fill_mlflow_history, fill_tessera
from tests.e2e.world import settings_of
from tests.helpers import unique_name

ROUNDS: Final = 3
WINDOW_SECONDS: Final = 1.0
CONNECTIONS: Final = 16
BATCH: Final = 1000
_SENDERS: Final = 4
RUNS: Final = 100_000
SEARCHES: Final = {"tessera": 30, "mlflow": 1}
PATIENCE_SECONDS: Final = 30.0
HISTORY: Final = 1_000_000
BUCKETS: Final = 2500
STREAMED: Final = 5_000_000
_MESSAGE: Final = 10_000
_ONE_CLIENT: Final = "log_metric, one unmodified client"
_API: Final = "/api/2.0/mlflow"
_NOW: Final = 1_700_000_000_000
_MIB: Final = 1 << 20

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two servers, as MLflow's clients see it."""

    name: str
    url: str
    callers: Sequence[Connection]

    async def new_run(self, experiment_id: str = "0") -> str:
        """Create a run; return its id."""
        made = await self.callers[0].call(f"{_API}/runs/create", experiment_id=experiment_id)
        return str(made["run"]["info"]["run_id"])

    async def new_experiment(self) -> str:
        """Create an experiment; return its id."""
        made = await self.callers[0].call(f"{_API}/experiments/create", name=unique_name("bench"))
        return str(made["experiment_id"])


async def measure(
    stack: Stack, report: Report, tell: Progress, parts: Collection[str] = ()
) -> None:
    """Both servers in turns, then what the native door alone can do.

    Args:
        stack: What is measured.
        report: Takes the figures.
        tell: Is told what goes on.
        parts: Those of PARTS that are measured; all when empty.
    """
    details: dict[str, Any] = {}
    report.details["tracking"] = details
    token = Env(stack.environment).secret_file("TESSERA_ADMIN_TOKEN_FILE").reveal()
    # The unmodified client's own way of signing in; MLflow's server does not look at it.
    os.environ["MLFLOW_TRACKING_TOKEN"] = token
    tell("tracking: starting mlflow server ...")
    async with AsyncExitStack() as opened:
        peer = await opened.enter_async_context(mlflow_server())
        urls = {"tessera": stack.urls["tracking_http"], "mlflow": peer.url}
        sides = [
            Side(
                name,
                url,
                opened.enter_context(connections(url, token, CONNECTIONS)),
            )
            for name, url in urls.items()
        ]
        tell("tracking: waiting until mlflow server has started in full ...")
        await settled(peer)
        chosen = parts or PARTS
        if "client" in chosen:
            tell(f"tracking: {_ONE_CLIENT} ...")
            await _unmodified(sides, report, details)
        for part, (name, load) in _LOADS.items():
            if part in chosen:
                tell(f"tracking: {name} ...")
                await _in_turns(name, load, sides, report, details)
        if "again" in chosen:
            await _again(stack, sides[0], report, details, tell)
        if "history" in chosen:
            await _native(stack, peer, sides[1], report, details, tell)
        if stack.is_local and "search" in chosen:
            # Last: a search that is given up goes on in MLflow's server.
            await _searches(stack, peer, sides, report, details, tell)


# The same calls to both


async def _in_turns(
    name: str,
    load: Callable[[Side], Awaitable[Window]],
    sides: Sequence[Side],
    report: Report,
    details: dict[str, Any],
) -> None:
    rates: dict[str, list[float]] = {side.name: [] for side in sides}
    scale = BATCH if name.startswith("log_batch") else 1
    for _ in range(ROUNDS):
        for side in sides:
            rates[side.name].append(scale * (await load(side)).per_second)
    details[name] = rates
    ours, theirs = median(rates["tessera"]), median(rates["mlflow"])
    unit = "metrics/s" if scale > 1 else "runs/s" if name.startswith("new run") else "calls/s"
    report.figures.append(
        Figure("tracking", name, ours, unit, peer=theirs, peer_name="mlflow server")
    )


async def _unmodified(sides: Sequence[Side], report: Report, details: dict[str, Any]) -> None:
    """The same for one client of MLflow in its own process, and what bounds it: its own work."""
    rates: dict[str, list[float]] = {}
    async with AsyncExitStack() as opened:
        bound = await opened.enter_async_context(instant_server())
        places = [(side.name, side.url, await side.new_run()) for side in sides]
        clients: dict[str, tuple[ClientProcess, str]] = {
            name: (await opened.enter_async_context(client_process(url)), run_id)
            for name, url, run_id in [*places, ("bound", bound, "0" * 32)]
        }
        for _ in range(ROUNDS):
            for name, (client, run_id) in clients.items():
                done = await client.log(run_id, 2 * WINDOW_SECONDS)
                rates.setdefault(name, []).append(done.per_second)
    details[_ONE_CLIENT] = rates
    ours, theirs, most = (median(rates[name]) for name in ("tessera", "mlflow", "bound"))
    report.figures.append(
        Figure(
            "tracking",
            _ONE_CLIENT,
            ours,
            "calls/s",
            peer=theirs,
            peer_name="mlflow server",
            note=f"{most:.0f} where every answer comes at once: {most / theirs:.1f} times at most",
        )
    )


async def _singles(side: Side) -> Window:
    run_id = await side.new_run()

    def writer(place: int, caller: Connection) -> Callable[[int], Awaitable[object]]:
        return lambda number: caller.call(
            f"{_API}/runs/log-metric",
            run_id=run_id,
            key=f"loss{place}",
            value=0.5,
            timestamp=_NOW,
            step=number,
        )

    callers = [writer(place, caller) for place, caller in enumerate(side.callers)]
    return await window(callers, WINDOW_SECONDS)


async def _batches(side: Side) -> Window:
    run_id = await side.new_run()

    def writer(place: int, caller: Connection) -> Callable[[int], Awaitable[object]]:
        metrics = [
            {"key": f"m{n % 10}", "value": 0.1 * n, "timestamp": _NOW + n, "step": n // 10}
            for n in range(BATCH)
        ]
        text = json.dumps({"run_id": run_id, "metrics": metrics})

        def write(number: int) -> Awaitable[object]:
            # Other names each time: other points.
            body = text.replace('"key": "m', f'"key": "c{place}.{number}.')
            return caller.post(f"{_API}/runs/log-batch", body.encode())

        return write

    callers = [writer(place, caller) for place, caller in enumerate(side.callers[:_SENDERS])]
    return await window(callers, WINDOW_SECONDS)


async def _new_runs(side: Side) -> Window:
    caller = side.callers[0]

    async def write(_number: int) -> None:
        run_id = await side.new_run()
        await caller.call(f"{_API}/runs/log-parameter", run_id=run_id, key="p", value="1")
        await caller.call(
            f"{_API}/runs/log-metric", run_id=run_id, key="m", value=1.0, timestamp=_NOW, step=0
        )

    return await window([write], WINDOW_SECONDS)


_LOADS: Final[dict[str, tuple[str, Callable[[Side], Awaitable[Window]]]]] = {
    "connections": (f"log_metric, {CONNECTIONS} connections, one run", _singles),
    "batch": (f"log_batch of {BATCH:,}, {_SENDERS} connections", _batches),
    "new": ("new run with a parameter and a metric", _new_runs),
}
PARTS: Final = ("client", *_LOADS, "again", "history", "search")
"""What can be measured by itself."""


async def _again(
    stack: Stack, side: Side, report: Report, details: dict[str, Any], tell: Progress
) -> None:
    name = f"the same {BATCHES * _SENDERS} batches of {BATCH:,} again, {_SENDERS} connections"
    tell(f"tracking: {name} ...")
    async with AsyncClient(settings_of(stack)) as client:

        async def settle(run_id: str) -> None:
            # Which waits until ClickHouse has all points of the run.
            await client.tracking.downsample(run_id, "m0.0", buckets=10)

        callers = side.callers[:_SENDERS]
        rounds = [await sent_twice(callers, settle, BATCH) for _ in range(3 * ROUNDS)]
    points = BATCHES * _SENDERS * BATCH
    rates = {
        "first": [points / first for first, _ in rounds],
        "again": [points / again for _, again in rounds],
    }
    details[name] = rates
    report.figures.append(
        Figure(
            "tracking",
            name,
            median(rates["again"]),
            "metrics/s",
            peer=median(rates["first"]),
            peer_name="the first time",
            note="reads the same before and after; median of the rounds' ratios "
            f"{median([first / again for first, again in rounds]):.2f}",
        )
    )


# Searches over many runs


async def _searches(
    stack: Stack,
    peer: MlflowServer,
    sides: Sequence[Side],
    report: Report,
    details: dict[str, Any],
    tell: Progress,
) -> None:
    tell(f"tracking: {RUNS:,} runs to search in ...")
    experiments = {side.name: await side.new_experiment() for side in sides}
    url = Path(stack.home.data("tracking")) / "tracking.db"
    await asyncio.to_thread(fill_tessera, url, experiments["tessera"], RUNS)
    await asyncio.to_thread(fill_mlflow, peer.database, experiments["mlflow"], RUNS)
    name = f"search {RUNS:,} runs by a metric, ordered by another, p95"
    tell(f"tracking: {name} ...")
    times: dict[str, list[float]] = {}
    for side in sides:
        times[side.name] = []
        for _ in range(SEARCHES[side.name]):
            sent = perf_counter()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await _search(side, experiments[side.name])
            times[side.name].append(perf_counter() - sent)
    given_up = max(times["mlflow"]) >= PATIENCE_SECONDS
    details[name] = times
    report.figures.append(
        Figure(
            "tracking",
            name,
            1e3 * quantile(times["tessera"], 0.95),
            "ms",
            peer=1e3 * quantile(times["mlflow"], 0.95),
            peer_name="mlflow server",
            higher_is_better=False,
            note=f"p50 {1e3 * median(times['tessera']):.0f} ms"
            + ("; the peer's was given up then" if given_up else ""),
        )
    )


async def _search(side: Side, experiment_id: str) -> None:
    found = await side.callers[0].call(
        f"{_API}/runs/search",
        experiment_ids=[experiment_id],
        filter="metrics.m1 > 0.5",
        order_by=["metrics.m2 DESC"],
        max_results=100,
    )
    assert len(found["runs"]) == 100


# The native door


async def _native(
    stack: Stack,
    peer: MlflowServer,
    theirs: Side,
    report: Report,
    details: dict[str, Any],
    tell: Progress,
) -> None:
    token = Env(stack.environment).secret_file("TESSERA_ADMIN_TOKEN_FILE")
    async with (
        AsyncClient(settings_of(stack)) as client,
        open_channel(stack.urls["tracking"], token=token) as channel,
    ):
        stub = rpc.TrackingServiceStub(channel)
        tell(f"tracking: {STREAMED:,} points through the native stream ...")
        run_id = (await client.tracking.create_run("0")).run_id
        messages = [_message(run_id, number) for number in range(HISTORY // _MESSAGE)]
        before = _memory(stack)
        seconds = [await _streamed(stub, messages)]
        runs = [run_id]
        for part in range(1, STREAMED // HISTORY):
            other = (await client.tracking.create_run("0")).run_id
            runs.append(other)
            for message in messages:
                message.run_id = other
            seconds.append(await _streamed(stub, messages))
            details[f"memory_after_{part + 1}_million"] = _memory(stack)
        after = _memory(stack)
        rates = [HISTORY / one for one in seconds]
        details["stream_points_per_second"] = rates
        for one in runs:
            # Which waits until ClickHouse has all points of the run.
            await client.tracking.downsample(one, "loss", buckets=BUCKETS)
        times = []
        for _ in range(10):
            sent = perf_counter()
            assert len(await client.tracking.downsample(run_id, "loss", buckets=BUCKETS)) == BUCKETS
            times.append(perf_counter() - sent)
    peer_time = await _bulk_interval(peer, theirs, tell)
    details["downsample_seconds"] = times
    report.figures += [
        Figure("tracking", "native stream, points as columns", median(rates), "points/s"),
        Figure(
            "tracking",
            f"history of {HISTORY:,} points in {BUCKETS:,}, p50",
            1e3 * median(times),
            "ms",
            peer=1e3 * peer_time,
            peer_name="get-history-bulk-interval",
            higher_is_better=False,
            note=f"p95 {1e3 * quantile(times, 0.95):.0f} ms; peer: every n-th point",
        ),
    ]
    if stack.is_local:
        note = f"{before / _MIB:.0f} MiB before"
        report.figures.append(
            Figure(
                "tracking",
                f"memory of the service after {STREAMED:,} points, RSS",
                after / _MIB,
                "MiB",
                peer=memory_of(peer.pid).rss / _MIB,
                peer_name="mlflow server",
                higher_is_better=False,
                note=note,
            )
        )


def _message(run_id: str, number: int) -> api.StreamMetricsRequest:
    steps = np.arange(number * _MESSAGE, (number + 1) * _MESSAGE)
    series = pb.MetricSeries(
        key="loss",
        steps=steps.tolist(),
        times_us=(steps + _NOW * 1000).tolist(),
        values=np.exp(-steps / 1e5).tolist(),
    )
    return api.StreamMetricsRequest(run_id=run_id, series=[series], sequence=number + 1)


async def _streamed(
    stub: rpc.TrackingServiceStub, messages: Sequence[api.StreamMetricsRequest]
) -> float:
    began = perf_counter()
    call = stub.StreamMetrics(iter(messages))
    durable = 0
    async for answer in call:
        durable = answer.durable_sequence
    assert durable == len(messages)
    return perf_counter() - began


def _memory(stack: Stack) -> int:
    if not stack.is_local:
        return 0
    [process] = [one for one in stack.state().processes if one.name == "tracking"]
    return memory_of(process.pid).rss if process.pid else 0


async def _bulk_interval(peer: MlflowServer, theirs: Side, tell: Progress) -> float:
    tell(f"tracking: {HISTORY:,} points in MLflow's database ...")
    run_id = await theirs.new_run()
    await asyncio.to_thread(fill_mlflow_history, peer.database, run_id, "loss", HISTORY)
    path = "/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval"
    query = f"?run_ids={run_id}&metric_key=loss&max_results={BUCKETS}"
    times = []
    for _ in range(3):
        sent = perf_counter()
        await theirs.callers[0].get(path + query)
        times.append(perf_counter() - sent)
    return median(times)
