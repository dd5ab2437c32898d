"""One user's story, through public doors only: from a table to a model that was retrained."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from google.protobuf import duration_pb2

from devstack import Stack
from tessera import AsyncClient, label
from tessera.catalog.v1 import lineage_service_pb2 as lineage
from tessera.catalog.v1 import model_pb2
from tessera.inference.v1 import explanation_pb2
from tessera.monitoring.v1 import monitor_pb2
from tessera.tracking.v1 import tracking_pb2
from tessera.training.v1 import job_pb2
from tessera_kit.errors import FailedPrecondition, NotFound, Unavailable
from tests.e2e.world import READY_SECONDS, entity, new_schema
from tests.helpers import eventually, unique_name

pytestmark = pytest.mark.timeout(900)

JOB = Path(__file__).with_name("life_cycle_job.py")
START = datetime(2026, 1, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)
ROWS = 100
"""Requests of a window."""
SHIFT = 4.0
"""How far the second window's x1 has moved."""
SLOW = 240.0


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Story:
    """The names of one story, and what it does with them."""

    def __init__(self, client: AsyncClient, schema: str) -> None:
        self.client = client
        self.name = unique_name("story")
        self.table = f"{schema}.observations"
        self.model = f"{schema}.regression"
        self.schema = schema
        self.generator = np.random.default_rng(7)

    def observations(self, count: int, start: datetime, shift: float = 0.0) -> pa.Table:
        """Rows of which x1 decides, within an hour from `start`."""
        x1 = self.generator.normal(shift, 1.0, count)
        x2 = self.generator.normal(0.0, 1.0, count)
        noise = self.generator.normal(0.0, 0.3, count)
        first = int(start.timestamp())
        return pa.table(
            {
                "happened_at": pa.array(np.linspace(first, first + 3599, count).astype(np.int64)),
                "x1": pa.array(x1.astype(np.float32)),
                "x2": pa.array(x2.astype(np.float32)),
                "label": pa.array((x1 - shift + noise > 0).astype(np.float32)),
            }
        )

    def job(self) -> job_pb2.JobSpec:
        return job_pb2.JobSpec(
            name=self.name,
            file=job_pb2.FileSource(name=JOB.name, content=JOB.read_text("utf-8")),
            arguments=[self.table],
            resources=job_pb2.Resources(threads_per_process=1),
            experiment=self.name,
            input_tables=[self.table],
            output_model=self.model,
            tags={"mlflow.source.git.commit": COMMIT},
        )

    def monitor(self, inference_table: str) -> monitor_pb2.Monitor:
        profile = monitor_pb2.InferenceProfile(
            timestamp_column="happened_at",
            problem_type=monitor_pb2.PROBLEM_TYPE_BINARY_CLASSIFICATION,
            prediction_column="probability",
        )
        profile.granularity.FromTimedelta(HOUR)
        drift = monitor_pb2.AlertRule(
            name="x1-moved",
            metric="population_stability_index",
            columns=["x1"],
            comparison=monitor_pb2.ALERT_COMPARISON_GREATER,
            threshold=0.5,
            minimum_rows=ROWS // 2,
        )
        return monitor_pb2.Monitor(
            name=self.name,
            table_full_name=inference_table,
            inference=profile,
            columns=["x1", "x2", "probability"],
            baseline=monitor_pb2.Baseline(table_full_name=self.table),
            slicing_columns=["model_version"],
            alert_rules=[drift],
        )

    async def predict(self, rows: pa.Table) -> dict[str, float]:
        """Asks for each row by itself, 16 at a time; the label of each request by its id."""
        room = asyncio.Semaphore(16)

        async def one(row: dict[str, float]) -> tuple[str, float]:
            inputs: dict[str, npt.NDArray[Any]] = {
                "x1": np.array([[row["x1"]]], np.float32),
                "x2": np.array([[row["x2"]]], np.float32),
                "happened_at": np.array([[row["happened_at"]]], np.int64),
            }
            async with room:
                answer = await self.client.inference.predict(self.name, inputs, timeout=60)
            assert 0.0 <= answer.outputs["probability"].item() <= 1.0
            return answer.request_id, row["label"]

        return dict(await asyncio.gather(*map(one, rows.to_pylist())))

    async def tell(self, outcomes: dict[str, float]) -> None:
        """Tells the true outcomes of requests."""
        await self.client.events.labels(
            label(self.name, value, request_id=request_id) for request_id, value in outcomes.items()
        )


async def test_from_a_table_to_a_retrained_model(platform: Stack, client: AsyncClient) -> None:
    story = Story(client, await new_schema(client, "story"))
    first = await train(story)
    await serve(story)
    await quality_of_a_window(story)
    retrained = await alert_retrains(story)
    assert retrained.run_id != first.run_id
    await split_traffic(story)
    await lineage_both_ways(story, retrained)
    await an_answer_is_explained(story, retrained)
    await a_served_model_keeps_its_name(story)


async def train(story: Story) -> job_pb2.Job:
    """Table and job: a version, and a run that says how it was made."""
    client, history = story.client, story.observations(400, START - HOUR)
    await client.catalog.create_table(story.table, history.schema, order_by=["happened_at"])
    assert await client.tables.append(story.table, history) == 400
    await client.models.create(story.model)
    job = await client.training.submit(story.job())
    seen = [update.state async for update in client.training.watch(job.job_id, timeout=SLOW)]
    job = await client.training.wait(job.job_id)
    assert seen[-1] == job_pb2.JOB_STATE_SUCCEEDED
    assert job.output_model_version == 1
    version = await client.models.get_version(story.model, 1)
    assert version.status == model_pb2.MODEL_VERSION_STATUS_READY
    assert version.run_id == job.run_id

    async def finished() -> tracking_pb2.Run:
        run = await client.tracking.get_run(job.run_id)
        assert run.status == tracking_pb2.RUN_STATUS_FINISHED
        return run

    run = await eventually(finished, timeout=60)
    assert {param.key: param.value for param in run.params} == {"rows": "400"}
    losses = [point.value for point in await client.tracking.metric_history(run.run_id, "loss")]
    assert len(losses) == 60
    assert losses[-1] < losses[0]
    return job


async def serve(story: Story) -> None:
    """An endpoint, its monitor, and the trigger that retrains."""
    client = story.client
    endpoint = await client.inference.create_endpoint(
        story.name, [entity(story.model, 1, 100)], table_schema=story.schema
    )
    await client.inference.wait_ready(story.name, timeout=READY_SECONDS)
    await client.monitoring.create(story.monitor(endpoint.inference_table_full_name))
    await client.training.create_trigger(
        job_pb2.Trigger(
            name=story.name,
            event=job_pb2.TRIGGER_EVENT_ALERT_FIRED,
            subject=story.name,
            job=story.job(),
            cool_down=duration_pb2.Duration(seconds=3600),
        )
    )


async def quality_of_a_window(story: Story) -> None:
    """Two hours of requests with outcomes: the first hour's window closes, with its quality."""
    for hour, shift in ((0, 0.0), (1, SHIFT)):
        rows = story.observations(ROWS, START + hour * HOUR, shift)
        await story.tell(await story.predict(rows))
    # A request of the third hour says that the second one is over.
    await story.predict(story.observations(1, START + 2 * HOUR))

    async def closed() -> list[monitor_pb2.Window]:
        windows = await story.client.monitoring.windows(story.name)
        done = [one for one in windows if one.state == monitor_pb2.WINDOW_STATE_CLOSED]
        counts = [(one.row_count, one.label_count) for one in done]
        assert counts == [(ROWS, ROWS)] * 2, counts
        return done

    windows = await eventually(closed, timeout=SLOW, interval=0.25)
    assert [window.start.ToDatetime(UTC) for window in windows] == [START, START + HOUR]

    async def quality() -> dict[datetime, float]:
        values = await story.client.monitoring.metrics(story.name, metrics=["roc_auc"])
        found = {value.window_start.ToDatetime(UTC): value.value for value in values}
        assert set(found) == {START, START + HOUR}, found
        return found

    found = await eventually(quality, timeout=60, interval=0.25)
    assert found[START] > 0.8


async def alert_retrains(story: Story) -> job_pb2.Job:
    """Drift of the second hour fires the alert, whose trigger submits the job again."""
    client = story.client

    async def fired() -> monitor_pb2.Alert:
        alerts = await client.monitoring.alerts(story.name)
        assert alerts
        return alerts[-1]

    alert = await eventually(fired, timeout=SLOW, interval=0.25)
    assert (alert.rule, alert.column) == ("x1-moved", "x1")
    assert alert.window_start.ToDatetime(UTC) == START + HOUR
    assert alert.value > alert.threshold == 0.5
    assert "x1" in alert.message

    async def submitted() -> job_pb2.Job:
        jobs = await client.training.list_jobs(trigger_name=story.name)
        assert len(jobs) == 1
        return jobs[0]

    job = await eventually(submitted, timeout=60, interval=0.25)
    job = await client.training.wait(job.job_id, timeout=SLOW)
    assert job.output_model_version == 2
    return job


async def split_traffic(story: Story) -> None:
    """Two versions share the requests as configured, to the request."""
    client = story.client
    await client.inference.update_config(
        story.name, [entity(story.model, 1, 75), entity(story.model, 2, 25)]
    )
    await client.inference.wait_ready(story.name, timeout=READY_SECONDS)
    assert await shares(story, 2) == {1: 75, 2: 25}
    await client.inference.update_traffic(story.name, {"v1": 10, "v2": 90})
    assert await shares(story, 3) == {1: 10, 2: 90}


async def shares(story: Story, hour: int) -> dict[int, int]:
    """How many of 100 requests each version answered, by the inference table."""
    since = datetime.now(UTC)
    await story.predict(story.observations(100, START + hour * HOUR))

    async def counted() -> dict[int, int]:
        found = await story.client.inference.table_statistics(story.name, since=since)
        assert found.row_count == 100, found.row_count
        return {entry.model_version: entry.row_count for entry in found.by_served_entity}

    return await eventually(counted, timeout=60, interval=0.25)


async def lineage_both_ways(story: Story, job: job_pb2.Job) -> None:
    """Table, run, version and endpoint: each is found from either end."""
    kinds = lineage.LineageNodeType
    chain = {
        (kinds.LINEAGE_NODE_TYPE_TABLE, story.table),
        (kinds.LINEAGE_NODE_TYPE_RUN, job.run_id),
        (kinds.LINEAGE_NODE_TYPE_MODEL_VERSION, f"{story.model}/2"),
        (kinds.LINEAGE_NODE_TYPE_ENDPOINT, story.name),
    }
    ends = (
        (
            (lineage.LINEAGE_NODE_TYPE_ENDPOINT, story.name),
            lineage.LINEAGE_DIRECTION_UPSTREAM,
        ),
        ((lineage.LINEAGE_NODE_TYPE_TABLE, story.table), lineage.LINEAGE_DIRECTION_DOWNSTREAM),
    )
    for (kind, name), direction in ends:

        async def whole(
            kind: lineage.LineageNodeType.ValueType = kind,
            name: str = name,
            direction: lineage.LineageDirection.ValueType = direction,
        ) -> bool:
            edges = await story.client.lineage.get(kind, name, direction=direction)
            nodes = {(node.type, node.name) for e in edges for node in (e.source, e.target)}
            assert chain <= nodes, chain - nodes
            return True

        await eventually(whole, timeout=60, interval=0.25)


async def an_answer_is_explained(story: Story, job: job_pb2.Job) -> None:
    """From a prediction of plain rows back to the run, the commit and the table behind it."""
    rows = [{"x1": 1, "x2": 0.5, "happened_at": 7}, {"x1": -1, "x2": 0, "happened_at": 8}]
    answer = await story.client.inference.predict_rows(
        story.name, rows, model_version=2, client_request_id="explained"
    )
    assert answer.columns["probability"].shape == (2,)
    assert (answer.model_name, answer.model_version) == (story.model, 2)

    async def told() -> explanation_pb2.RequestExplanation:
        try:
            return await story.client.inference.explain_request(answer.request_id)
        except Unavailable as error:
            raise AssertionError("the row is on its way") from error

    found = await eventually(told, timeout=60, interval=0.25)
    assert (found.endpoint, found.served_entity) == (story.name, answer.served_entity)
    assert (found.config_version, list(found.gaps)) == (answer.config_version, [])
    model = found.model
    assert (model.model_name, model.model_version, model.job_id) == (story.model, 2, job.job_id)
    assert (model.run.run_id, model.run.git_commit) == (job.run_id, COMMIT)
    version = await story.client.tables.version(story.table)
    assert job.attempts[0].input_tables[0].version == version
    tables = [(table.full_name, table.version, table.context) for table in model.tables]
    assert tables == [(story.table, version, "training")]
    own = await story.client.inference.explain_request(
        client_request_id="explained", endpoint=story.name
    )
    assert own == found
    with pytest.raises(NotFound):
        await story.client.inference.explain_request("01890000-0000-7000-8000-000000000000")


async def a_served_model_keeps_its_name(story: Story) -> None:
    """The endpoint refers to it by its name."""
    with pytest.raises(FailedPrecondition, match=f"endpoint {story.name} serves"):
        await story.client.models.rename(story.model, f"{story.model}_renamed")
    assert (await story.client.models.get(story.model)).full_name == story.model
