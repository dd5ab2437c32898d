"""A little of everything on a platform, so that every page has something to show."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan

from devstack import Stack
from tessera import AsyncClient, TesseraError, label
from tessera.monitoring.v1 import monitor_pb2
from tessera_kit.telemetry.propagation import new_span_context
from tests.e2e.models import inputs
from tests.e2e.world import Served, entity, serve_model, settings_of
from tests.helpers import eventually, unique_name

FIRST = datetime(2013, 4, 1, tzinfo=UTC)
WINDOW = timedelta(days=1)
WINDOWS = 3
ROWS = 8
"""Requests per window."""


@dataclass(frozen=True)
class Life:
    """What was done."""

    served: Served
    monitor: str
    trace_id: str
    """The trace of one of the requests, which was recorded."""
    begin: datetime
    """Before anything of it."""


@contextlib.contextmanager
def recorded_trace() -> Iterator[str]:
    """Calls inside belong to one trace that the services record; gives its id."""
    context = new_span_context(sampled=True)
    with trace.use_span(NonRecordingSpan(context)):
        yield f"{context.trace_id:032x}"


async def live(stack: Stack) -> Life:
    """Serves two versions, asks them, labels what they said, and monitors it."""
    begin = datetime.now(UTC) - timedelta(seconds=5)
    async with AsyncClient(settings_of(stack)) as client:
        served = await serve_model(client, 0.0, 1.0, prefix="board")
        versions = [entity(served.model, version, 50) for version in (1, 2)]
        await client.inference.update_config(served.endpoint, versions)
        await client.inference.wait_ready(served.endpoint, timeout=90)
        monitor = await watch(client, served)
        answered = [
            await ask(client, served.endpoint, FIRST + window * WINDOW + minute * 10 * _MINUTE)
            for window in range(WINDOWS)
            for minute in range(ROWS)
        ]
        with contextlib.suppress(TesseraError):
            await client.inference.predict(served.endpoint, {"x": np.zeros((1, 4), np.float32)})
        with recorded_trace() as trace_id:
            answered.append(await ask(client, served.endpoint, FIRST + (WINDOWS - 1) * WINDOW))
        await observe(client, served, monitor, answered)
    return Life(served, monitor, trace_id, begin)


_MINUTE = timedelta(minutes=1)


async def ask(client: AsyncClient, endpoint: str, flown_at: datetime) -> str:
    """One request; returns its id."""
    seconds = int(flown_at.timestamp())
    x = np.random.default_rng(seconds).normal(-3.5, 1.0, (1, 4))
    carrier = ("AA", "UA", "DL")[seconds % 7 % 3]
    answer = await client.inference.predict(endpoint, inputs(x, [carrier], [seconds]))
    return answer.request_id


async def watch(client: AsyncClient, served: Served) -> str:
    """A monitor that alerts at every window."""
    profile = monitor_pb2.InferenceProfile(
        timestamp_column="flown_at",
        problem_type=monitor_pb2.PROBLEM_TYPE_BINARY_CLASSIFICATION,
        prediction_column="score",
    )
    profile.granularity.FromTimedelta(WINDOW)
    name = unique_name("board").replace("_", "-")
    await client.monitoring.create(
        monitor_pb2.Monitor(
            name=name,
            table_full_name=served.table,
            inference=profile,
            columns=["carrier", "score"],
            slicing_columns=["model_version"],
            alert_rules=[
                monitor_pb2.AlertRule(
                    name="any-rows",
                    metric="row_count",
                    comparison=monitor_pb2.ALERT_COMPARISON_GREATER,
                    threshold=0,
                )
            ],
        )
    )
    return name


async def observe(
    client: AsyncClient, served: Served, monitor: str, request_ids: Sequence[str]
) -> None:
    """Waits for the rows, tells their labels and waits for closed and labelled windows."""

    async def written() -> bool:
        statistics = await client.inference.table_statistics(served.endpoint)
        return statistics.row_count > len(request_ids)

    await eventually(written, timeout=60)

    async def closed() -> bool:
        await client.monitoring.close_windows(monitor)
        windows = await client.monitoring.windows(monitor)
        return sum(window.row_count for window in windows) >= len(request_ids)

    await eventually(closed, timeout=60, interval=0.5)
    await client.events.labels(
        label(served.endpoint, index % 2, request_id=request_id)
        for index, request_id in enumerate(request_ids)
    )

    async def labelled() -> bool:
        windows = await client.monitoring.windows(monitor)
        return sum(window.label_count for window in windows) == len(request_ids)

    await eventually(labelled, timeout=60, interval=0.2)
