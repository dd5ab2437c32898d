"""One body over what training keeps, in memory and in SQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from services.training.adapters.memory import (
    InMemoryCheckpointFiles,
    InMemoryChores,
    InMemoryFirings,
    InMemoryJobs,
    InMemoryTriggers,
    Memory,
)
from services.training.adapters.sql import (
    METADATA,
    SqlCheckpointFiles,
    SqlChores,
    SqlFirings,
    SqlJobs,
    SqlTriggers,
)
from services.training.convert.events import submitted
from services.training.domain.chore import Chore, ChoreKind
from services.training.domain.job import (
    Attempt,
    Checkpoint,
    FileSource,
    GitSource,
    InputTable,
    Job,
    JobSpec,
    JobState,
    PackageSource,
    Progress,
    Resources,
    RetryPolicy,
)
from services.training.domain.trigger import FiringOutcome, Trigger, TriggerEvent
from services.training.errors import JobNotFound, StaleJob, TriggerExists, TriggerNotFound
from services.training.ports import (
    CheckpointFile,
    CheckpointFiles,
    Chores,
    Firings,
    JobQuery,
    Jobs,
    Triggers,
)
from tessera_kit.bus.tables import OUTBOX
from tessera_kit.config import DatabaseConfig
from tessera_kit.ids import new_id
from tessera_kit.store.migrate import migrate
from tessera_kit.store.sql import Database, UnitOfWork
from tests.databases import fresh_postgres, fresh_sqlite

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


@dataclass
class Kept:
    jobs: Jobs
    files: CheckpointFiles
    triggers: Triggers
    chores: Chores
    firings: Callable[[], AbstractAsyncContextManager[Firings]]
    told: Callable[[], Awaitable[Sequence[str]]]


async def in_memory() -> AsyncIterator[Kept]:
    memory = Memory()

    @asynccontextmanager
    async def firings() -> AsyncIterator[Firings]:
        yield InMemoryFirings(memory)

    async def told() -> Sequence[str]:
        return [event.id for event in memory.told]

    yield Kept(
        InMemoryJobs(memory),
        InMemoryCheckpointFiles(memory),
        InMemoryTriggers(memory),
        InMemoryChores(memory),
        firings,
        told,
    )


async def in_sql(config: DatabaseConfig) -> AsyncIterator[Kept]:
    async with Database(config) as database:

        @asynccontextmanager
        async def firings() -> AsyncIterator[Firings]:
            async with UnitOfWork(database) as uow:
                yield SqlFirings(uow.session)
                await uow.commit()

        async def told() -> Sequence[str]:
            async with database.sessions() as session:
                rows = await session.scalars(sa.select(OUTBOX.c.headers))
                return [text.split('"ce_id", "')[1].split('"')[0] for text in rows]

        yield Kept(
            SqlJobs(database),
            SqlCheckpointFiles(database),
            SqlTriggers(database),
            SqlChores(database),
            firings,
            told,
        )


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def kept(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Kept]:
    if request.param == "memory":
        kept = in_memory()
    elif request.param == "sqlite":
        kept = in_sql(await fresh_sqlite(tmp_path, "training"))
    else:
        url = request.getfixturevalue("postgres_url")
        kept = in_sql(await fresh_postgres(url, "training"))
    async for one in kept:
        yield one


def new_job(name: str = "job", principal: str = "ann", **changes: object) -> Job:
    job = Job(new_id(), JobSpec(name, PackageSource("module")), principal, NOW, revision=1)
    return replace(job, **changes)  # type: ignore[arg-type]


def full_job() -> Job:
    spec = JobSpec(
        "full",
        GitSource("https://example.org/a.git", "main", "train.py"),
        ("--lr", "0.1", "ü\n"),
        {"A": "b"},
        Resources(2, 3, 512, 1),
        RetryPolicy(3, timedelta(milliseconds=250), timedelta(seconds=7)),
        timedelta(hours=2),
        "experiment",
        ("a.b.c", "a.b.d"),
        "a.b.m",
        {"team": "ops"},
    )
    read = InputTable("a.b.c", "0123")
    attempts = (
        Attempt(1, JobState.FAILED, NOW, NOW, -9, "gone", 0, "f" * 40, "token-1", (0, 1)),
        Attempt(2, JobState.RUNNING, NOW, token_id="token-2", input_tables=(read,)),
    )
    return Job(
        new_id(),
        spec,
        "ann",
        NOW,
        JobState.RUNNING,
        "message",
        "run-1",
        Progress(3, 10, {"loss": float("inf"), "auc": 0.5}, "epoch 1", NOW),
        Checkpoint(2, 1, "training/x", 12, NOW),
        attempts,
        4,
        None,
        "trigger",
        NOW + timedelta(hours=2),
        None,
        1,
        2,
        1,
    )


async def test_a_job_comes_back_as_it_was_stored(kept: Kept) -> None:
    for job in (new_job(), full_job(), new_job(spec=JobSpec("f", FileSource("a.py", "x = 1\n")))):
        assert await kept.jobs.add(job, "", [submitted(job)]) == job
        assert await kept.jobs.get(job.job_id) == job
        assert f"{job.job_id}.submitted" in await kept.told()


async def test_an_unknown_job_is_not_found(kept: Kept) -> None:
    with pytest.raises(JobNotFound, match="nope"):
        await kept.jobs.get("nope")


async def test_a_request_makes_one_job_per_submitter(kept: Kept) -> None:
    first, again, other = new_job(), new_job(), new_job(principal="bob")
    assert await kept.jobs.find_request("ann", "r-1") is None
    await kept.jobs.add(first, "r-1", [submitted(first)])
    assert await kept.jobs.add(again, "r-1", [submitted(again)]) == first
    assert await kept.jobs.add(other, "r-1", [submitted(other)]) == other
    assert await kept.jobs.find_request("ann", "r-1") == first
    assert len(await kept.told()) == 2
    for _ in range(2):
        await kept.jobs.add(new_job(), "", [])
    assert len(await kept.jobs.page(JobQuery(), "", 10)) == 4


async def test_one_of_two_changes_of_one_revision_is_refused_whole(kept: Kept) -> None:
    job = new_job()
    await kept.jobs.add(job, "", [])
    changed = replace(job, state=JobState.STARTING, message="first")
    stored = await kept.jobs.save(changed, [submitted(job)], [chore("c-1")])
    assert stored == replace(changed, revision=2)
    assert await kept.jobs.get(job.job_id) == stored
    with pytest.raises(StaleJob):
        late = replace(job, message="second")
        await kept.jobs.save(late, [submitted(new_job())], [chore("c-2")])
    assert await kept.jobs.get(job.job_id) == stored
    assert len(await kept.told()) == 1
    assert [one.chore_id for one in await kept.chores.due(NOW, 10)] == ["c-1"]
    with pytest.raises(StaleJob):
        await kept.jobs.save(new_job())


async def test_many_changes_at_once_all_happen(kept: Kept) -> None:
    job = new_job()
    await kept.jobs.add(job, "", [])

    async def count() -> None:
        while True:
            now = await kept.jobs.get(job.job_id)
            try:
                await kept.jobs.save(replace(now, failures=now.failures + 1))
            except StaleJob:
                continue
            return

    await asyncio.gather(*(count() for _ in range(20)))
    now = await kept.jobs.get(job.job_id)
    assert (now.failures, now.revision) == (20, 21)


async def test_listings_are_filtered_and_go_from_new_to_old(kept: Kept) -> None:
    jobs = [new_job("a"), new_job("b"), new_job("a", trigger_name="t")]
    ended = new_job("a", state=JobState.FAILED, ended_at=NOW)
    for job in (*jobs, ended):
        await kept.jobs.add(job, "", [])
    ids = [job.job_id for job in jobs]

    async def listed(query: JobQuery, before: str = "", limit: int = 10) -> list[str]:
        return [job.job_id for job in await kept.jobs.page(query, before, limit)]

    assert await listed(JobQuery()) == [ended.job_id, *reversed(ids)]
    assert await listed(JobQuery(), limit=2) == [ended.job_id, ids[2]]
    assert await listed(JobQuery(), before=ids[2]) == [ids[1], ids[0]]
    assert await listed(JobQuery(name="a")) == [ended.job_id, ids[2], ids[0]]
    assert await listed(JobQuery(trigger_name="t")) == [ids[2]]
    states = frozenset({JobState.FAILED, JobState.SUCCEEDED})
    assert await listed(JobQuery(states=states)) == [ended.job_id]
    assert [job.job_id for job in await kept.jobs.unfinished()] == ids


async def test_checkpoint_files_are_kept_by_attempt_and_step(kept: Kept) -> None:
    one, two = CheckpointFile("a/b", 3, "0" * 64), CheckpointFile("a/a", 4, "1" * 64)
    await kept.files.put("job", 1, 5, one)
    await kept.files.put("job", 1, 5, two)
    await kept.files.put("job", 1, 5, replace(one, size_bytes=9))
    await kept.files.put("job", 2, 5, one)
    await kept.files.put("job", 1, 3, one)
    await kept.files.put("other", 1, 1, one)
    assert list(await kept.files.list("job", 1, 5)) == [two, replace(one, size_bytes=9)]
    assert list(await kept.files.steps("job")) == [(1, 3), (1, 5), (2, 5)]
    await kept.files.drop("job", 1, 5)
    assert list(await kept.files.list("job", 1, 5)) == []
    assert list(await kept.files.steps("job")) == [(1, 3), (2, 5)]


def trigger(name: str = "t", **changes: object) -> Trigger:
    made = Trigger(
        name, TriggerEvent.ALERT_FIRED, "monitor", JobSpec("j", PackageSource("m")), "ann", NOW
    )
    return replace(made, **changes)  # type: ignore[arg-type]


async def test_triggers_have_unique_names_and_idempotent_requests(kept: Kept) -> None:
    first = trigger(cool_down=timedelta(minutes=1))
    assert await kept.triggers.add(first, "r") == first
    assert await kept.triggers.get("t") == first
    assert await kept.triggers.add(trigger("u"), "r") == first
    with pytest.raises(TriggerExists):
        await kept.triggers.add(trigger(), "")
    with pytest.raises(TriggerExists):
        await kept.triggers.add(trigger(created_by="bob"), "r")
    await kept.triggers.add(trigger("s"), "")
    assert [one.name for one in await kept.triggers.page("", 10)] == ["s", "t"]
    assert [one.name for one in await kept.triggers.page("s", 10)] == ["t"]
    assert [one.name for one in await kept.triggers.page("", 1)] == ["s"]
    await kept.triggers.delete("t")
    for gone in (kept.triggers.get, kept.triggers.delete):
        with pytest.raises(TriggerNotFound):
            await gone("t")
    assert (await kept.triggers.add(trigger(), "r")).name == "t"


async def test_an_event_is_owed_once_per_trigger_and_settled(kept: Kept) -> None:
    for name, changes in {
        "a": {},
        "b": {},
        "late": {"created_at": NOW + timedelta(hours=1)},
        "other": {"subject": "else"},
        "kind": {"event": TriggerEvent.MODEL_VERSION_READY},
    }.items():
        await kept.triggers.add(trigger(name, **changes), "")
    for _ in range(2):
        async with kept.firings() as firings:
            found = await firings.matching(TriggerEvent.ALERT_FIRED, "monitor", NOW)
            for one in found:
                await firings.owe(one, "e-1", NOW)
    assert [one.name for one in found] == ["a", "b"]
    owed = await kept.chores.due(NOW, 10)
    assert [(one.kind, one.subject, dict(one.detail)) for one in owed] == [
        (ChoreKind.FIRE_TRIGGER, "a", {"event_id": "e-1"}),
        (ChoreKind.FIRE_TRIGGER, "b", {"event_id": "e-1"}),
    ]
    assert await kept.triggers.outcome("a", "e-1") is None
    await kept.triggers.settle("a", "e-1", FiringOutcome.SUBMITTED, NOW, "job-1", "")
    await kept.triggers.settle("b", "e-1", FiringOutcome.SKIPPED, NOW, "", "cools down")
    assert await kept.triggers.outcome("a", "e-1") is FiringOutcome.SUBMITTED
    assert await kept.triggers.outcome("b", "e-1") is FiringOutcome.SKIPPED
    first, second = await kept.triggers.get("a"), await kept.triggers.get("b")
    assert (first.last_job_id, first.last_submitted_at) == ("job-1", NOW)
    assert (second.last_job_id, second.last_submitted_at) == ("", None)


def chore(chore_id: str, after: float = 0.0) -> Chore:
    due = NOW + timedelta(seconds=after)
    return Chore(chore_id, ChoreKind.REVOKE_TOKEN, "job", due, {"token_id": "t"})


async def test_chores_come_due_are_postponed_and_forgotten(kept: Kept) -> None:
    job = new_job()
    await kept.jobs.add(job, "", [])
    assert await kept.chores.next_due() is None
    owed = [chore("late", 10), chore("b", -1), chore("a", -1), chore("first", -2)]
    await kept.jobs.save(job, chores=[*owed, chore("a", 99)])
    assert [one.chore_id for one in await kept.chores.due(NOW, 10)] == ["first", "a", "b"]
    assert [one.chore_id for one in await kept.chores.due(NOW, 1)] == ["first"]
    await kept.chores.done("first")
    await kept.chores.postpone("a", NOW + timedelta(seconds=5))
    assert [one.chore_id for one in await kept.chores.due(NOW, 10)] == ["b"]
    await kept.chores.done("b")
    assert await kept.chores.next_due() == NOW + timedelta(seconds=5)
    again = await kept.chores.due(NOW + timedelta(seconds=5), 10)
    assert again == [replace(chore("a", 5), tries=1)]


async def test_migrations_make_the_tables_that_the_code_expects(tmp_path: Path) -> None:
    def described(connection: sa.Connection) -> dict[str, object]:
        inspector = sa.inspect(connection)
        return {
            table: (
                sorted(
                    (one["name"], str(one["type"]), one["nullable"])
                    for one in inspector.get_columns(table)
                ),
                sorted(str(one["name"]) for one in inspector.get_indexes(table)),
                sorted(str(one["name"]) for one in inspector.get_unique_constraints(table)),
                inspector.get_pk_constraint(table)["constrained_columns"],
            )
            for table in inspector.get_table_names()
            if table != "alembic_version"
        }

    migrated = f"sqlite+aiosqlite:///{tmp_path / 'migrated.db'}"
    await migrate(migrated, "training")
    declared = f"sqlite+aiosqlite:///{tmp_path / 'declared.db'}"
    found = []
    for url in (migrated, declared):
        async with Database(DatabaseConfig(url)) as database, database.engine.begin() as connection:
            if url == declared:
                await connection.run_sync(METADATA.create_all)
            found.append(await connection.run_sync(described))
    assert found[0] == found[1]
