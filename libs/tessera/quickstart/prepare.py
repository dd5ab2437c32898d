"""Lays the ground of one run: clears what an earlier one left at work, makes the tables."""

from __future__ import annotations

import pyarrow as pa
from google.protobuf import duration_pb2

from tessera.client.aio.client import AsyncClient
from tessera.client.aio.training import FINAL_STATES
from tessera.inference.v1 import endpoint_pb2
from tessera.monitoring.v1 import monitor_pb2
from tessera.quickstart.flights import FEATURES, KEY, TIME, between
from tessera.quickstart.plan import (
    CATALOG,
    DRIFT_METRIC,
    DRIFT_THRESHOLD,
    DRIFT_WINDOWS,
    HISTORY_START,
    PREFIX,
    REPLAY_START,
    WATCHED,
    WINDOW,
    Plan,
)
from tessera.training.v1 import job_pb2
from tessera_kit.errors import NotFound

TRAIN_JOB = f"{PREFIX}-train"


async def next_plan(client: AsyncClient) -> Plan:
    """The plan of the next run: the first number that no earlier run's schema has."""
    await client.catalog.create_catalog(CATALOG, exist_ok=True)
    taken = {
        int(number)
        for schema in await client.catalog.list_schemas(CATALOG)
        if (number := schema.full_name.removeprefix(f"{CATALOG}.flights_")).isdigit()
    }
    return Plan(max(taken, default=0) + 1)


async def clear_earlier(client: AsyncClient) -> None:
    """Stops what earlier runs left at work; their tables, models and metrics stay."""
    for endpoint in await client.inference.list_endpoints():
        if endpoint.name.startswith(PREFIX):
            await client.inference.delete_endpoint(endpoint.name)
            await _delete_trigger(client, f"{endpoint.name}-retrain")
    for monitor in await client.monitoring.list_monitors():
        if monitor.name.startswith(PREFIX):
            await client.monitoring.delete(monitor.name)
    for job in await client.training.list_jobs(name=TRAIN_JOB):
        if job.state not in FINAL_STATES:
            await client.training.cancel(job.job_id)


async def _delete_trigger(client: AsyncClient, name: str) -> None:
    try:
        await client.training.delete_trigger(name)
    except NotFound:
        return


async def create_tables(client: AsyncClient, plan: Plan, flights: pa.Table) -> int:
    """Creates the run's schema, tables and model; returns how many rows of history there are."""
    history = between(flights, HISTORY_START, REPLAY_START)
    await client.catalog.create_schema(plan.schema, comment="Flights from New York in 2013")
    comments = {
        plan.departures: "Flown flights with weather and outcome; grows as the year goes on",
        plan.baseline: "The first quarter of 2013, which later windows are compared with",
    }
    for name, comment in comments.items():
        await client.catalog.create_table(
            name, flights.schema, comment=comment, order_by=[TIME, KEY]
        )
        await client.tables.append(name, history, request_id=f"{name}-first-quarter")
    await client.models.create(plan.model, comment="Departs 15 minutes late, or more")
    return int(history.num_rows)


def training_job(plan: Plan) -> job_pb2.JobSpec:
    """The job that trains on all departures known so far, and registers the next version."""
    return job_pb2.JobSpec(
        name=TRAIN_JOB,
        package=job_pb2.PackageSource(module="tessera.quickstart.train"),
        arguments=["--table", plan.departures],
        retry=job_pb2.RetryPolicy(max_retries=1),
        timeout=duration_pb2.Duration(seconds=900),
        experiment=plan.experiment,
        input_tables=[plan.departures],
        output_model=plan.model,
    )


def retrain_trigger(plan: Plan) -> job_pb2.Trigger:
    """Submits the training job again when the monitor's alert fires."""
    return job_pb2.Trigger(
        name=plan.trigger,
        event=job_pb2.TRIGGER_EVENT_ALERT_FIRED,
        subject=plan.monitor,
        job=training_job(plan),
        cool_down=duration_pb2.Duration(seconds=3600),
    )


def served(plan: Plan, version: int, percent: int) -> endpoint_pb2.ServedEntity:
    """A version of the model behind the endpoint, with its share of the traffic."""
    return endpoint_pb2.ServedEntity(
        name=f"v{version}",
        model_name=plan.model,
        model_version=version,
        traffic_percent=percent,
    )


def monitor_of(plan: Plan, inference_table: str) -> monitor_pb2.Monitor:
    """Watches the inference table in windows of the flights' own time."""
    inference = monitor_pb2.InferenceProfile(
        timestamp_column=TIME,
        problem_type=monitor_pb2.PROBLEM_TYPE_BINARY_CLASSIFICATION,
        prediction_column="delay_probability",
    )
    inference.granularity.FromTimedelta(WINDOW)
    return monitor_pb2.Monitor(
        name=plan.monitor,
        table_full_name=inference_table,
        inference=inference,
        columns=[*FEATURES, "delay_probability"],
        baseline=monitor_pb2.Baseline(table_full_name=plan.baseline),
        slicing_columns=["model_version"],
        alert_rules=[
            monitor_pb2.AlertRule(
                name="weather-drift",
                metric=DRIFT_METRIC,
                columns=WATCHED,
                comparison=monitor_pb2.ALERT_COMPARISON_GREATER,
                threshold=DRIFT_THRESHOLD,
                consecutive_windows=DRIFT_WINDOWS,
                minimum_rows=100,
            )
        ],
    )
