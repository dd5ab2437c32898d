"""Jobs from queue to end, through retries, cancellations and crashes of the service."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import timedelta
from functools import partial

import pytest

from services.training.domain.job import (
    FileSource,
    GitSource,
    InputTable,
    JobState,
    Resources,
    RetryPolicy,
)
from services.training.domain.life import AttemptResult, EndCause
from services.training.errors import AttemptSuperseded, SourceRefused
from services.training.ports import AttemptKey
from tessera.catalog.v1 import lineage_service_pb2 as lineage
from tessera.catalog.v1 import securable_pb2 as securable
from tessera.events.v1 import catalog_events_pb2, training_events_pb2
from tessera_kit.bus.envelope import from_record, to_record
from tessera_kit.errors import PermissionDenied, Unavailable
from tests.helpers import eventually
from tests.unit.training.conftest import ANN, BOB, World, spec

GOOD = AttemptResult(EndCause.EXITED, 0)
BAD = AttemptResult(EndCause.EXITED, 1, "process 0 ended with exit code 1")
TABLE = lineage.LINEAGE_NODE_TYPE_TABLE
RETRIES = RetryPolicy(2, timedelta(seconds=10), timedelta(seconds=60))


async def test_a_job_runs_and_everything_is_told_once(world: World) -> None:
    world.authority.grant(
        "ann", [securable.PRIVILEGE_SELECT], securable.SECURABLE_TYPE_TABLE, "main.a.flights"
    )
    world.catalog.tables["main.a.flights"] = "v1"
    job = await world.service.jobs.submit(ANN, spec(input_tables=("main.a.flights",)))
    key = await world.runs(job)
    plan = world.processes.plans[key]
    assert plan.environment["TESSERA_RUN_ID"] == world.job(job.job_id).run_id
    assert plan.environment["TESSERA_CATALOG_TARGET"] == "127.0.0.1:1"
    world.processes.end(key, GOOD)
    job = await world.reaches(job, JobState.SUCCEEDED)
    await eventually(lambda: world.catalog.tokens == {} and not world.memory.chores)
    assert world.tracking.runs == {job.run_id: JobState.SUCCEEDED}
    assert len(world.told(training_events_pb2.JobSubmitted)) == 1
    assert len(world.told(training_events_pb2.JobAttemptStarted)) == 1
    assert len(world.told(training_events_pb2.JobEnded)) == 1
    assert edges_into(world, job.run_id) == [
        (lineage.LINEAGE_NODE_TYPE_JOB, job.job_id, ""),
        (lineage.LINEAGE_NODE_TYPE_TABLE, "main.a.flights", "v1"),
    ]
    assert job.attempts[0].input_tables == (InputTable("main.a.flights", "v1"),)
    assert world.tracking.inputs[job.run_id] == [InputTable("main.a.flights", "v1")]


def edges_into(world: World, run_id: str) -> list[tuple[int, str, str]]:
    """Kind, name and version of what a run was told to be made from, in order."""
    return [
        (edge.source.type, edge.source.name, edge.source_version)
        for seen in world.told(catalog_events_pb2.LineageObserved)
        for edge in seen.edges  # type: ignore[attr-defined]
        if edge.target.name == run_id
    ]


async def test_each_attempt_records_its_tables_as_it_found_them(world: World) -> None:
    name = "main.a.flights"
    world.authority.grant("ann", [securable.PRIVILEGE_SELECT], securable.SECURABLE_TYPE_TABLE, name)
    job = await world.service.jobs.submit(ANN, spec(input_tables=(name,), retry=RETRIES))
    for number, version in ((1, ""), (2, "v1"), (3, "v1")):
        if version:
            world.catalog.tables[name] = version
        world.processes.end(await world.runs(job, number), BAD)
        job = await world.reaches(
            job, JobState.FAILED if number == 3 else JobState.WAITING_FOR_RETRY
        )
        world.pass_time(20)
    found = [one.input_tables for one in job.attempts]
    assert found == [(InputTable(name, version),) for version in ("", "v1", "v1")]
    told = [version for kind, _, version in edges_into(world, job.run_id) if kind == TABLE]
    assert told == ["", "v1"]


async def test_what_a_job_reads_is_an_input_without_being_declared(world: World) -> None:
    declared, read, hidden = "main.a.flights", "main.a.weather", "main.a.hidden"
    for name in (declared, read):
        world.authority.grant(
            "ann", [securable.PRIVILEGE_SELECT], securable.SECURABLE_TYPE_TABLE, name
        )
        world.catalog.tables[name] = "v1"
    job = await world.service.jobs.submit(ANN, spec(input_tables=(declared,)))
    key = await world.runs(job)
    report = partial(world.service.runtime.input_table, ANN, job.job_id, 1)
    assert await report(read) == "v1"
    assert await report(read) == "v1"
    # Written to between the attempt's preparation and its reading: what was read counts.
    world.catalog.tables[declared] = "v2"
    assert await report(declared) == "v2"
    with pytest.raises(PermissionDenied):
        await report(hidden)
    with pytest.raises(AttemptSuperseded):
        await world.service.runtime.input_table(ANN, job.job_id, 2, read)
    world.authority.grant(
        "ann", [securable.PRIVILEGE_SELECT], securable.SECURABLE_TYPE_TABLE, hidden
    )
    assert await report(hidden) == ""
    world.processes.end(key, GOOD)
    job = await world.reaches(job, JobState.SUCCEEDED)
    assert job.attempts[0].input_tables == (InputTable(declared, "v2"), InputTable(read, "v1"))
    told = [one for one in edges_into(world, job.run_id) if one[0] == TABLE]
    assert told == [(TABLE, declared, "v1"), (TABLE, read, "v1"), (TABLE, declared, "v2")]


async def test_events_pass_the_door_of_the_bus_and_hold_no_secrets_or_code(world: World) -> None:
    source = FileSource("train.py", "password = 'hunter2'\n")
    job = await world.service.jobs.submit(
        ANN, spec(source=source, environment={"API_KEY": "hunter2"})
    )
    world.processes.end(await world.runs(job), BAD)
    await world.reaches(job, JobState.FAILED)
    records = [to_record(event) for event in world.memory.told]
    assert len(records) == 4
    for record in records:
        assert b"hunter2" not in (record.value or b"")
        from_record(record)
    digest = hashlib.sha256(source.content.encode()).hexdigest()
    (submitted,) = world.told(training_events_pb2.JobSubmitted)
    assert digest in str(submitted)


async def test_failures_are_tried_again_after_growing_pauses_within_the_budget(
    world: World,
) -> None:
    job = await world.service.jobs.submit(ANN, spec(retry=RETRIES))
    for number, most in ((1, 10.0), (2, 20.0)):
        world.processes.end(await world.runs(job, number), BAD)
        waiting = await world.reaches(job, JobState.WAITING_FOR_RETRY)
        assert waiting.retry_at is not None
        pause = (waiting.retry_at - world.clock.now()).total_seconds()
        assert most / 2 <= pause <= most
        world.pass_time(pause)
    world.processes.end(await world.runs(job, 3), BAD)
    job = await world.reaches(job, JobState.FAILED)
    assert [attempt.state for attempt in job.attempts] == [JobState.FAILED] * 3
    assert len(world.catalog.issued) >= 3
    await eventually(lambda: world.catalog.tokens == {})
    assert len(world.told(training_events_pb2.JobEnded)) == 1


async def test_a_queued_job_is_cancelled_at_once(world: World) -> None:
    first = await world.service.jobs.submit(ANN, spec(resources=Resources(2)))
    await world.runs(first)
    second = await world.service.jobs.submit(ANN, spec())
    second = await world.service.jobs.cancel(ANN, second.job_id)
    assert (second.state, second.attempts) == (JobState.CANCELLED, ())


async def test_a_running_job_is_stopped_and_then_cancelled(world: World) -> None:
    job = await world.service.jobs.submit(ANN, spec(retry=RETRIES))
    await world.runs(job)
    assert (await world.service.jobs.cancel(ANN, job.job_id)).state is JobState.CANCELLING
    job = await world.reaches(job, JobState.CANCELLED)
    assert job.attempts[0].state is JobState.CANCELLED
    assert (await world.service.jobs.cancel(ANN, job.job_id)).revision == job.revision
    await eventually(lambda: world.tracking.runs == {job.run_id: JobState.CANCELLED})


async def test_a_job_that_is_being_prepared_is_cancelled(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetching = asyncio.Event()

    async def slow(self: object, key: AttemptKey, source: object) -> None:
        fetching.set()
        await asyncio.Event().wait()

    monkeypatch.setattr("services.training.adapters.memory.InMemorySources.fetch", slow)
    job = await world.service.jobs.submit(ANN, spec())
    await fetching.wait()
    await world.service.jobs.cancel(ANN, job.job_id)
    await world.reaches(job, JobState.CANCELLED)
    assert world.processes.started == []


async def test_code_that_cannot_be_had_fails_the_job_for_good(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(self: object, key: AttemptKey, source: object) -> None:
        raise SourceRefused("git fetch failed: couldn't find remote ref nope")

    monkeypatch.setattr("services.training.adapters.memory.InMemorySources.fetch", refuse)
    source = GitSource("https://example.org/code.git", "nope", "train.py")
    job = await world.service.jobs.submit(ANN, spec(source=source, retry=RETRIES))
    job = await world.reaches(job, JobState.FAILED)
    assert "couldn't find remote ref" in job.message
    assert len(job.attempts) == 1


async def test_a_run_tells_the_commit_of_its_code(world: World) -> None:
    source = GitSource("https://example.org/code.git", "0f3c", "train.py")
    job = await world.service.jobs.submit(ANN, spec(source=source))
    world.processes.end(await world.runs(job), GOOD)
    job = await world.reaches(job, JobState.SUCCEEDED)
    assert world.tracking.commits == {job.run_id: "0f3c"}


async def test_a_platform_that_is_away_costs_no_retries(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(self: object, token: object, job: object) -> str:
        raise Unavailable("tracking does not answer")

    with monkeypatch.context() as patch:
        patch.setattr("services.training.adapters.memory.InMemoryTracking.create_run", away)
        job = await world.service.jobs.submit(ANN, spec())
        waiting = await world.reaches(job, JobState.WAITING_FOR_RETRY)
        assert (waiting.failures, waiting.losses) == (0, 1)
        assert "tracking does not answer" in waiting.message
    world.pass_time(10)
    world.processes.end(await world.runs(job, 2), GOOD)
    await world.reaches(job, JobState.SUCCEEDED)


async def test_a_crashed_service_takes_up_what_runs(world: World) -> None:
    job = await world.service.jobs.submit(ANN, spec())
    key = await world.runs(job)
    await world.crash()
    world.start()
    world.processes.end(key, GOOD)
    job = await world.reaches(job, JobState.SUCCEEDED)
    assert world.processes.started == [key]
    assert len(job.attempts) == 1


async def test_a_crash_before_the_start_loses_the_attempt_and_not_the_job(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetching = asyncio.Event()

    async def slow(self: object, key: AttemptKey, source: object) -> None:
        fetching.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr("services.training.adapters.memory.InMemorySources.fetch", slow)
        job = await world.service.jobs.submit(ANN, spec())
        await fetching.wait()
        await world.crash()
    world.start()
    await world.reaches(job, JobState.WAITING_FOR_RETRY)
    world.pass_time(60)
    world.processes.end(await world.runs(job, 2), GOOD)
    job = await world.reaches(job, JobState.SUCCEEDED)
    assert world.processes.started == [AttemptKey(job.job_id, 2)]
    assert (job.failures, job.losses) == (0, 1)
    await eventually(lambda: world.catalog.tokens == {})


async def test_a_cancellation_survives_a_crash(world: World) -> None:
    job = await world.service.jobs.submit(ANN, spec())
    await world.runs(job)
    await world.crash()
    await world.service.jobs.cancel(ANN, job.job_id)
    world.start()
    await world.reaches(job, JobState.CANCELLED)


async def test_an_end_that_came_while_the_service_was_away_is_recorded_once(
    world: World,
) -> None:
    job = await world.service.jobs.submit(ANN, spec())
    key = await world.runs(job)
    await world.crash()
    world.processes.end(key, BAD)
    world.start()
    await world.reaches(job, JobState.FAILED)
    await world.crash()
    world.start()
    assert len(world.told(training_events_pb2.JobEnded)) == 1


async def test_stopping_politely_resumes_later_without_a_retry(world: World) -> None:
    job = await world.service.jobs.submit(ANN, spec())
    await world.runs(job)
    await world.service.stop()
    waiting = await world.reaches(job, JobState.WAITING_FOR_RETRY)
    assert (waiting.failures, waiting.losses) == (0, 0)
    await world.crash()
    world.start()
    world.processes.end(await world.runs(job, 2), GOOD)
    await world.reaches(job, JobState.SUCCEEDED)


async def test_time_that_is_up_while_waiting_fails_the_job(world: World) -> None:
    policy = RetryPolicy(9, timedelta(seconds=100), timedelta(seconds=100))
    job = await world.service.jobs.submit(ANN, spec(retry=policy, timeout=timedelta(seconds=110)))
    world.processes.end(await world.runs(job), BAD)
    await world.reaches(job, JobState.WAITING_FOR_RETRY)
    world.pass_time(200)
    job = await world.reaches(job, JobState.FAILED)
    assert "time of 0:01:50 was up" in job.message


async def test_room_is_shared_between_submitters_and_never_exceeded(world: World) -> None:
    world.authority.grant(
        "bob",
        [securable.PRIVILEGE_CREATE_JOB],
        securable.SECURABLE_TYPE_METASTORE,
        "metastore",
    )
    mine = [await world.service.jobs.submit(ANN, spec()) for _ in range(4)]
    keys = [await world.runs(mine[0]), await world.runs(mine[1])]
    his = await world.service.jobs.submit(BOB, spec())
    assert world.job(his.job_id).state is JobState.QUEUED
    world.processes.end(keys[0], GOOD)
    await world.runs(his)
    assert [world.job(job.job_id).state for job in mine[1:]] == [
        JobState.RUNNING,
        JobState.QUEUED,
        JobState.QUEUED,
    ]
    assert len(world.processes.started) == 3


async def test_gpus_are_given_to_one_job_at_a_time(world: World) -> None:
    await world.crash()
    world.gpus = (0, 1, 2)
    world.slots = 8
    service = world.start()
    first = await service.jobs.submit(ANN, spec(resources=Resources(1, gpus_per_process=2)))
    second = await service.jobs.submit(ANN, spec(resources=Resources(1, gpus_per_process=2)))
    key = await world.runs(first)
    assert world.processes.plans[key].gpus == (0, 1)
    assert world.job(second.job_id).state is JobState.QUEUED
    world.processes.end(key, GOOD)
    assert world.processes.plans[await world.runs(second)].gpus == (0, 1)
