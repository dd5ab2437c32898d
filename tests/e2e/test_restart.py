"""A stack that is stopped and started again in its home has everything that it had."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from devstack import start_local
from tessera import AsyncClient
from tessera.client.answers import Prediction
from tessera.inference.v1 import endpoint_pb2
from tessera.monitoring.v1 import monitor_pb2
from tessera_kit.errors import Unavailable
from tests.e2e import models
from tests.e2e.world import READY_SECONDS, Served, serve_model, settings_of
from tests.helpers import eventually, unique_name

pytestmark = pytest.mark.timeout(900)

START_SECONDS = 300.0
ROWS = pa.table({"n": pa.array([3, 1, 2], pa.int64()), "text": ["c", "a", "ü"]})
X = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)


async def test_everything_is_there_after_a_restart(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    if pytestconfig.getoption("--stack") != "local":
        pytest.skip("the engines are not on this machine")
    name = unique_name("kept")
    async with (
        start_local(tmp_path, timeout=START_SECONDS) as first,
        AsyncClient(settings_of(first)) as client,
    ):
        served, run_id, request_id = await fill(client, name)
        assert first.restarts("inference") == 0
    async with (
        start_local(tmp_path, timeout=START_SECONDS) as second,
        AsyncClient(settings_of(second)) as client,
    ):
        await check(client, name, served, run_id, request_id)


async def fill(client: AsyncClient, name: str) -> tuple[Served, str, str]:
    """Something of everything; returns what names it."""
    served = await serve_model(client, 0.5)
    table = f"{served.schema}.rows"
    await client.catalog.create_table(table, ROWS.schema, order_by=["n"])
    await client.tables.append(table, ROWS)
    experiment = await client.tracking.create_experiment(name)
    run = await client.tracking.create_run(experiment.experiment_id, name=name)
    await client.tracking.log(run.run_id, metrics={"auc": 0.75}, params={"depth": 3})
    await client.monitoring.create(
        monitor_pb2.Monitor(
            name=name, table_full_name=table, snapshot=monitor_pb2.SnapshotProfile()
        )
    )
    await client.monitoring.refresh(name)
    answer = await client.inference.predict(
        served.endpoint, models.inputs(X, ["UA"], [1]), client_request_id=name
    )
    # The stack may stop before the row is written: it must be there in its next life.
    return served, run.run_id, answer.request_id


async def check(
    client: AsyncClient, name: str, served: Served, run_id: str, request_id: str
) -> None:
    """All of it is there, and the endpoint answers without anybody's help."""
    endpoint = await client.inference.wait_ready(served.endpoint, timeout=READY_SECONDS)
    assert endpoint.state == endpoint_pb2.ENDPOINT_STATE_READY
    answer = await eventually(
        partial(answered, client, served), timeout=READY_SECONDS, interval=0.25
    )
    assert np.allclose(answer.outputs["score"], models.expected(X, ["UA"], 0.5))

    async def rows_of_requests() -> bool:
        rows = await client.tables.read(
            served.table, columns=["tessera_request_id"], where=[("status_code", "=", 0)]
        )
        ids = rows["tessera_request_id"].to_pylist()
        assert sorted(ids) == sorted([request_id, answer.request_id])
        return True

    await eventually(rows_of_requests, timeout=120, interval=0.25)
    kept = await client.tables.read(f"{served.schema}.rows", order_by=["n"])
    assert kept.to_pylist() == ROWS.sort_by("n").to_pylist()
    run = await client.tracking.get_run(run_id)
    assert {metric.key: metric.value for metric in run.metrics} == {"auc": 0.75}
    assert {param.key: param.value for param in run.params} == {"depth": "3"}
    assert (await client.models.get_version(served.model, 1)).version == 1
    assert (await client.monitoring.get(name)).table_full_name == f"{served.schema}.rows"
    metrics = await client.monitoring.metrics(name, metrics=["row_count"])
    assert {metric.value for metric in metrics} == {3.0}


async def answered(client: AsyncClient, served: Served) -> Prediction:
    """An answer; until the runtime has the model again, callers are told to try later."""
    try:
        return await client.inference.predict(
            served.endpoint, models.inputs(X, ["UA"], [1]), timeout=60
        )
    except Unavailable as error:
        assert error.retry_after is not None
        raise AssertionError(str(error)) from None
