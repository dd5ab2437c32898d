"""Events submit jobs: once each, with the creator's rights, and not too often."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from services.training import consumers
from services.training.adapters.sql import FiringUnitOfWork, SqlFirings
from services.training.adapters.sql.tables import FIRING
from services.training.domain.job import JobSpec, PackageSource
from services.training.domain.trigger import FiringOutcome, Trigger, TriggerEvent, cools_down
from tessera.catalog.v1 import model_pb2
from tessera.catalog.v1 import securable_pb2 as securable
from tessera.client.aio.training import AsyncTraining
from tessera.events.v1 import catalog_events_pb2, monitoring_events_pb2
from tessera.monitoring.v1 import monitor_pb2
from tessera.training.v1 import job_pb2
from tessera.training.v1 import training_service_pb2 as pb
from tessera.training.v1.training_service_pb2_grpc import TrainingServiceStub
from tessera_kit.bus.envelope import Record
from tessera_kit.bus.event import Event, new_event
from tessera_kit.bus.memory import InMemoryBus, InMemoryConsumer
from tessera_kit.errors import AlreadyExists, InvalidArgument, NotFound, PermissionDenied
from tests.helpers import eventually
from tests.integration.training.conftest import Running

ALERT, READY = job_pb2.TRIGGER_EVENT_ALERT_FIRED, job_pb2.TRIGGER_EVENT_MODEL_VERSION_READY


def trigger(name: str = "retrain", **changes: Any) -> job_pb2.Trigger:
    message = job_pb2.Trigger(
        name=name,
        event=ALERT,
        subject="flights",
        job=job_pb2.JobSpec(
            name="retrain", file=job_pb2.FileSource(name="train.py", content="print('trained')")
        ),
    )
    message.MergeFrom(job_pb2.Trigger(**changes))
    return message


def alert(monitor: str = "flights", event_id: str | None = None, firing: bool = True) -> Event:
    state = monitor_pb2.ALERT_STATE_FIRING if firing else monitor_pb2.ALERT_STATE_RESOLVED
    data = monitoring_events_pb2.AlertChanged(
        alert=monitor_pb2.Alert(alert_id="a", monitor=monitor, rule="r", state=state)
    )
    return new_event(data, source="tessera/monitoring", key=monitor, event_id=event_id)


def version(status: model_pb2.ModelVersionStatus.ValueType) -> Event:
    data = catalog_events_pb2.ModelVersionStatusChanged(
        model_version=model_pb2.ModelVersion(model_name="a.b.m", version=1, status=status)
    )
    return new_event(data, source="tessera/catalog", key="a.b.m")


class Heard:
    """The bus, and training's ear on it."""

    def __init__(self, training: Running) -> None:
        self.bus = InMemoryBus()
        self._training = training

    def consumer(self) -> InMemoryConsumer:
        """A life of the consumer, which starts where the one before committed."""
        database, owed = self._training.database, self._training.service.feed.owed
        return self.bus.consumer(
            group=consumers.GROUP,
            handlers=consumers.handlers(lambda uow: SqlFirings(uow.session)),
            unit_of_work=lambda: FiringUnitOfWork(database, owed),
        )

    async def tell(self, *events: Event) -> None:
        await self.bus.publish_many(events)
        await self.consumer().drain()

    async def outcomes(self) -> list[str | None]:
        """What became of each event, in order of its id."""
        async with self._training.database.sessions() as session:
            query = FIRING.select().order_by(FIRING.c.event_id)
            return [row.outcome for row in (await session.execute(query)).all()]

    async def settled(self, *outcomes: FiringOutcome) -> None:
        async def done() -> bool:
            return await self.outcomes() == [outcome.value for outcome in outcomes]

        await eventually(done)


@pytest.fixture
async def client(training: Running) -> AsyncIterator[AsyncTraining]:
    async with training.client() as client:
        yield client


@pytest.fixture
def heard(training: Running) -> Heard:
    return Heard(training)


async def test_an_alert_submits_the_job_once_with_its_creators_rights(
    heard: Heard, client: AsyncTraining
) -> None:
    made = await client.create_trigger(trigger())
    assert (made.created_by, made.last_job_id) == ("ann", "")
    event = alert()
    await heard.tell(event, event)
    await heard.settled(FiringOutcome.SUBMITTED)
    (job,) = await client.list_jobs(trigger_name="retrain")
    job = await client.wait(job.job_id)
    assert (job.submitted_by, job.trigger_name) == ("ann", "retrain")
    assert (await client.get_trigger("retrain")).last_job_id == job.job_id
    # The same event again, as after a crash between its effect and the commit of its offset.
    await heard.tell(event)
    await heard.settled(FiringOutcome.SUBMITTED)
    assert len(await client.list_jobs()) == 1


async def test_only_events_of_its_kind_and_subject_from_after_its_making_fire_it(
    heard: Heard, client: AsyncTraining
) -> None:
    before = alert()
    await client.create_trigger(trigger())
    await client.create_trigger(trigger("on-model", event=READY, subject="a.b.m"))
    await heard.tell(
        before,
        alert("another-monitor"),
        alert(firing=False),
        version(model_pb2.MODEL_VERSION_STATUS_PENDING_REGISTRATION),
        version(model_pb2.MODEL_VERSION_STATUS_FAILED_REGISTRATION),
    )
    assert await heard.outcomes() == []
    await heard.tell(version(model_pb2.MODEL_VERSION_STATUS_READY))
    await heard.settled(FiringOutcome.SUBMITTED)
    (job,) = await client.list_jobs()
    assert job.trigger_name == "on-model"


async def test_events_while_it_cools_down_are_recorded_as_skipped(
    heard: Heard, client: AsyncTraining
) -> None:
    await client.create_trigger(trigger(cool_down=Duration(seconds=3600)))
    await client.create_trigger(trigger("eager"))
    await heard.tell(alert(event_id="e-1"), alert(event_id="e-2"))

    async def outcomes() -> bool:
        found = await heard.outcomes()
        return sorted(map(str, found)) == ["skipped", "submitted", "submitted", "submitted"]

    await eventually(outcomes)
    assert len(await client.list_jobs(trigger_name="retrain")) == 1
    assert len(await client.list_jobs(trigger_name="eager")) == 2


async def test_rights_that_the_creator_lost_refuse_it(
    training: Running, heard: Heard, client: AsyncTraining
) -> None:
    await client.create_trigger(trigger())
    training.authority.revoke(
        "ann",
        [securable.PRIVILEGE_CREATE_JOB],
        securable.SECURABLE_TYPE_METASTORE,
        "metastore",
    )
    await heard.tell(alert())
    await heard.settled(FiringOutcome.REFUSED)
    assert await client.list_jobs() == []


async def test_a_crash_between_submission_and_its_record_submits_no_second_job(
    training: Running, heard: Heard, client: AsyncTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.create_trigger(trigger(cool_down=Duration(seconds=3600)))
    handlers = training.service.triggers
    settle = type(handlers._triggers).settle
    failures = [OSError("the disk is full"), OSError("still")]

    async def failing(self: Any, *arguments: Any) -> None:
        if failures:
            raise failures.pop()
        await settle(self, *arguments)

    monkeypatch.setattr(type(handlers._triggers), "settle", failing)
    await heard.tell(alert())
    await heard.settled(FiringOutcome.SUBMITTED)
    assert len(await client.list_jobs()) == 1


async def test_a_deleted_trigger_fires_no_more_and_its_jobs_go_on(
    heard: Heard, client: AsyncTraining
) -> None:
    await client.create_trigger(trigger())
    await heard.tell(alert())
    await heard.settled(FiringOutcome.SUBMITTED)
    await client.delete_trigger("retrain")
    await heard.tell(alert())
    assert len(await client.list_jobs()) == 1
    for call in (client.get_trigger, client.delete_trigger):
        with pytest.raises(NotFound, match="retrain"):
            await call("retrain")


async def test_triggers_are_their_creators_own(training: Running, client: AsyncTraining) -> None:
    for name in ("b", "a", "c"):
        await client.create_trigger(trigger(name))
    with pytest.raises(AlreadyExists, match="'a'"):
        await client.create_trigger(trigger("a"))
    async with training.channel("ann-token") as channel:
        stub = TrainingServiceStub(channel)
        page = await stub.ListTriggers(pb.ListTriggersRequest(page_size=2))
        assert [one.name for one in page.triggers] == ["a", "b"]
        request = pb.ListTriggersRequest(page_size=2, page_token=page.next_page_token)
        page = await stub.ListTriggers(request)
        assert [one.name for one in page.triggers] == ["c"] and not page.next_page_token
    async with training.client("bob-token") as bob, training.channel("bob-token") as channel:
        for call in (bob.get_trigger, bob.delete_trigger):
            with pytest.raises(NotFound):
                await call("a")
        assert not (
            await TrainingServiceStub(channel).ListTriggers(pb.ListTriggersRequest())
        ).triggers
        with pytest.raises(PermissionDenied):
            await bob.create_trigger(trigger("mine"))


async def test_a_trigger_needs_what_its_job_will_need(
    training: Running, client: AsyncTraining
) -> None:
    training.authority.grant(
        "bob",
        [securable.PRIVILEGE_CREATE_JOB],
        securable.SECURABLE_TYPE_METASTORE,
        "metastore",
    )
    async with training.client("bob-token") as bob:
        with pytest.raises(PermissionDenied, match="SELECT on monitor flights"):
            await bob.create_trigger(trigger())
    bad = trigger()
    bad.job.environment["TESSERA_TOKEN"] = "x"
    with pytest.raises(InvalidArgument, match="set by the service"):
        await client.create_trigger(bad)
    with pytest.raises(InvalidArgument, match="event"):
        await client.create_trigger(job_pb2.Trigger(name="a", subject="m", job=trigger().job))


async def test_malformed_events_become_dead_letters_and_stop_nobody(
    heard: Heard, client: AsyncTraining
) -> None:
    await client.create_trigger(trigger())
    good = alert()
    await heard.bus.publish(good)
    (record,) = heard.bus.records("tessera.monitoring.alert.v1")
    await heard.bus.publish_records([Record(record.topic, record.key, b"\xff", record.headers)])
    await heard.tell(alert())
    await heard.settled(FiringOutcome.SUBMITTED, FiringOutcome.SUBMITTED)
    assert len(heard.bus.dead_letters("tessera.monitoring.alert.v1")) == 1


def test_a_cool_down_is_measured_from_the_last_submission() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    spec = JobSpec("job", PackageSource("module"))
    fresh = Trigger("t", TriggerEvent.ALERT_FIRED, "m", spec, "ann", now, timedelta(minutes=1))
    assert not cools_down(fresh, now)
    used = Trigger(
        "t", TriggerEvent.ALERT_FIRED, "m", spec, "ann", now, timedelta(minutes=1), "job", now
    )
    assert cools_down(used, now + timedelta(seconds=59))
    assert not cools_down(used, now + timedelta(seconds=60))
