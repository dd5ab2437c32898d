"""Training among the real services and engines: it is killed, and its jobs do not notice."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest
from aiokafka import AIOKafkaConsumer
from google.protobuf.message import Message

from devstack import Stack
from services.training.supervisor.control import AttemptFolder
from tessera import AsyncClient
from tessera.catalog.v1 import lineage_service_pb2 as lineage
from tessera.client.aio.training import FINAL_STATES
from tessera.events.v1 import training_events_pb2
from tessera.tracking.v1 import tracking_pb2
from tessera.training.v1 import job_pb2
from tessera_kit.bus.envelope import from_record
from tessera_kit.bus.membership import consumed
from tessera_kit.bus.topics import topic_for
from tests.helpers import eventually, unique_name

pytestmark = pytest.mark.timeout(240)

WAITS = """
import os, pathlib, sys, time
from tessera import jobs

job = jobs.current()
print("pid", os.getpid(), flush=True)
go = pathlib.Path(sys.argv[1])
step = 0
while not go.exists():
    step += 1
    job.progress(step)
    time.sleep(0.05)
job.log_metrics({"steps": step}, step=step)
"""


def waiting_job(go: Path, retries: int = 0) -> job_pb2.JobSpec:
    return job_pb2.JobSpec(
        name=unique_name("job"),
        file=job_pb2.FileSource(name="waits.py", content=WAITS),
        arguments=[str(go)],
        retry=job_pb2.RetryPolicy(max_retries=retries),
        resources=job_pb2.Resources(threads_per_process=1),
        experiment=unique_name("experiment"),
        tags={"team": "ops"},
    )


async def pid_of(client: AsyncClient, job: job_pb2.Job, attempt: int = 1) -> int:
    """The process of an attempt, from what it printed."""
    lines = client.training.logs(job.job_id, attempt=attempt, follow=True)
    async for line in lines:
        if line.text.startswith("pid "):
            return int(line.text.split()[1])
    raise AssertionError("the job ended before it printed its pid")


async def running(client: AsyncClient, job: job_pb2.Job, attempts: int = 1) -> job_pb2.Job:
    async for seen in client.training.watch(job.job_id):
        if seen.state == job_pb2.JOB_STATE_RUNNING and len(seen.attempts) == attempts:
            return seen
        assert seen.state not in FINAL_STATES, seen.message
    raise AssertionError("the watch ended")


async def events_of(stack: Stack, job_id: str) -> list[Message]:
    """What the bus carries of a job, each event once per time that it was written."""
    found: list[Message] = []
    consumer = AIOKafkaConsumer(
        topic_for(training_events_pb2.JobEnded).name,
        bootstrap_servers=stack.environment["TESSERA_KAFKA_BOOTSTRAP"],
        group_id=None,
        auto_offset_reset="earliest",
    )
    async with consumer:
        while not any(isinstance(data, training_events_pb2.JobEnded) for data in found):
            for records in (await consumer.getmany(timeout_ms=1_000)).values():
                for record in consumed(records):
                    if record.key == job_id.encode():
                        found.append(from_record(record).data)
    return found


async def test_a_killed_service_finds_its_jobs_running_and_ends_them_once(
    local_stack: Stack, platform_client: AsyncClient, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    job = await platform_client.training.submit(waiting_job(go))
    await running(platform_client, job)
    pid = await pid_of(platform_client, job)
    for _ in range(2):
        local_stack.kill("training")
        await local_stack.wait_healthy("training")
        assert psutil.Process(pid).is_running()
    go.touch()
    job = await platform_client.training.wait(job.job_id)
    assert [attempt.exit_code for attempt in job.attempts] == [0]
    run = await eventually(lambda: finished(platform_client, job.run_id), timeout=30)
    assert {metric.key for metric in run.metrics} == {"steps"}
    tags = {tag.key: tag.value for tag in run.tags}
    assert (tags["team"], tags["tessera.job_id"]) == ("ops", job.job_id)
    events = await events_of(local_stack, job.job_id)
    kinds = [type(event).__name__ for event in events]
    assert sorted(kinds) == ["JobAttemptStarted", "JobEnded", "JobSubmitted"]
    edges = await eventually(lambda: lineage_of(platform_client, job.run_id), timeout=30)
    assert (lineage.LINEAGE_NODE_TYPE_JOB, job.job_id) in edges


async def finished(client: AsyncClient, run_id: str) -> tracking_pb2.Run | None:
    run = await client.tracking.get_run(run_id)
    return run if run.status == tracking_pb2.RUN_STATUS_FINISHED else None


async def lineage_of(client: AsyncClient, run_id: str) -> set[tuple[int, str]]:
    found = await client.lineage.get(lineage.LINEAGE_NODE_TYPE_RUN, run_id)
    return {(edge.source.type, edge.source.name) for edge in found}


async def test_a_job_that_ended_while_the_service_was_away_is_recorded(
    local_stack: Stack, platform_client: AsyncClient, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    job = await platform_client.training.submit(waiting_job(go, retries=1))
    await running(platform_client, job)
    pid = await pid_of(platform_client, job)
    # Stopped, the service cannot act on what happens now; then it is killed.
    local_stack.kill("training", signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not psutil.pid_exists(pid))
    folder = next((local_stack.home.root).rglob(f"jobs/{job.job_id}/1"))
    await eventually(lambda: AttemptFolder(folder).result() is not None)
    local_stack.kill("training")
    await local_stack.wait_healthy("training")
    go.touch()
    job = await platform_client.training.wait(job.job_id)
    assert [attempt.exit_code for attempt in job.attempts] == [-9, 0]


async def test_a_stopped_service_resumes_its_jobs_when_it_comes_back(
    local_stack: Stack, platform_client: AsyncClient, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    job = await platform_client.training.submit(waiting_job(go))
    await running(platform_client, job)
    pid = await pid_of(platform_client, job)
    await local_stack.stop("training")
    assert not psutil.pid_exists(pid)
    await local_stack.start("training")
    await running(platform_client, job, attempts=2)
    go.touch()
    job = await platform_client.training.wait(job.job_id)
    assert len(job.attempts) == 2
