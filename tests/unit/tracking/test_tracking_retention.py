"""Retention through its use cases: who may purge what, what is due, and purges that are killed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from services.tracking.adapters.memory.store import InMemoryStore
from services.tracking.adapters.memory.traces import InMemorySpans
from services.tracking.adapters.objects import ObjectArtifacts
from services.tracking.config import Config
from services.tracking.convert import messages
from services.tracking.domain.artifacts import ArtifactRoot
from services.tracking.domain.retention import Kind
from services.tracking.errors import (
    DeletedTooRecently,
    ExperimentNotFound,
    InvalidValue,
    LoggedModelNotFound,
    NotDeleted,
    RunNotFound,
    TraceNotFound,
)
from services.tracking.handlers.access import Access
from services.tracking.handlers.cases import Outside, Places, build_use_cases
from services.tracking.handlers.purger import Purger
from services.tracking.ports.artifacts import ArtifactStore
from tessera.catalog.v1 import securable_pb2
from tessera.tracking.v1 import tracking_service_pb2 as api
from tessera_kit.clock import ManualClock
from tessera_kit.config import ConfigError
from tessera_kit.errors import PermissionDenied, Unavailable
from tessera_kit.rpc.authority import InMemoryAuthority
from tessera_kit.rpc.identity import Principal
from tessera_kit.store.memory_objects import InMemoryObjectStore
from tests.trace_world import AN_ID, a_span

ADA, BOB, ROOT = Principal("ada"), Principal("bob"), Principal("root")
DAY = timedelta(days=1)
METASTORE = (securable_pb2.SECURABLE_TYPE_METASTORE, "metastore")


class Killed(BaseException):
    """Ends a purger as kill -9 would: nothing of it runs any more."""


class Fuse:
    """Lets so many calls happen, and none after."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def burn(self) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1


class Fused:
    """Something outside whose methods may end the purger before, or after, their effect."""

    def __init__(self, inner: Any, fuse: Fuse, names: Collection[str]) -> None:
        self._inner = inner
        self._fuse = fuse
        self._names = names

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._names:
            return found

        async def call(*args: Any) -> Any:
            self._fuse.burn()
            answer = await found(*args)
            self._fuse.burn()
            return answer

        return call


@dataclass
class World:
    """All use cases over adapters in memory, and a clock that is moved by hand."""

    store: InMemoryStore = field(default_factory=InMemoryStore)
    objects: InMemoryObjectStore = field(default_factory=InMemoryObjectStore)
    spans: InMemorySpans = field(default_factory=InMemorySpans)
    clock: ManualClock = field(default_factory=ManualClock)
    authority: InMemoryAuthority = field(default_factory=InMemoryAuthority)

    def __post_init__(self) -> None:
        for who in (ADA, BOB):
            self.authority.grant(who.name, [securable_pb2.PRIVILEGE_CREATE_EXPERIMENT], *METASTORE)
        self.authority.grant(ROOT.name, [securable_pb2.PRIVILEGE_MANAGE], *METASTORE)
        self.files = ObjectArtifacts(self.objects)
        outside = Outside(self.store, self.files, self.spans, self.authority, clock=self.clock)
        self.cases = build_use_cases(outside, Places("s3://bucket/tracking"))

    def purger(
        self,
        *,
        age: timedelta | None = None,
        fuse: Fuse | None = None,
        files: ArtifactStore | None = None,
    ) -> Purger:
        fuse = fuse or Fuse(-1)
        outside = {"delete_all", "remove_all", "unregister", "forget_points"}
        return Purger(
            Fused(self.store, fuse, outside),
            Fused(self.spans, fuse, outside),
            Fused(files or self.files, fuse, outside),
            Fused(Access(self.authority, self.store), fuse, outside),
            self.cases.retention,
            self.clock,
            age=age,
        )

    async def drain(self, purger: Purger) -> None:
        while await purger.step():
            pass

    async def experiment(self, name: str, who: Principal = ADA) -> str:
        made = await self.cases.experiments.create(who, name=name, tags={}, request_id="")
        return made.experiment_id

    async def run(self, experiment_id: str, who: Principal = ADA) -> str:
        made = await self.cases.runs.create(who, experiment_id=experiment_id, tags={})
        run_id = made.info.run_id
        await self.cases.artifacts.upload(who, run_id=run_id, path="a/b.txt", chunks=_text())
        return run_id

    async def model(self, experiment_id: str) -> str:
        made = await self.cases.models.create(
            ADA, experiment_id=experiment_id, name="net", params={}, tags={}
        )
        await self.cases.artifacts.upload(
            ADA, model_id=made.model_id, path="model.bin", chunks=_text()
        )
        return made.model_id

    async def purge(
        self, who: Principal = ROOT, **named: Collection[str]
    ) -> list[tuple[Kind, str]]:
        kinds = {"experiments": Kind.EXPERIMENT, "runs": Kind.RUN, "models": Kind.MODEL}
        chosen = {kinds[name]: ids for name, ids in named.items()}
        purging = await self.cases.retention.purge(who, chosen)
        return [(one.kind, one.id) for one in purging.things]

    async def keys(self) -> list[str]:
        return [info.key async for info in self.objects.list("")]

    def purged(self) -> list[str]:
        """Ids that events told of."""
        told = [event for event in self.store.told if type(event.data).__name__.endswith("Purged")]
        return [str(event.key) for event in told]


async def _text() -> Any:
    yield b"text"


@pytest.fixture
def world() -> World:
    return World()


class TestWhoMayPurge:
    async def test_everything_needs_the_metastore(self, world: World) -> None:
        experiment_id = await world.experiment("one")
        run_id = await world.run(experiment_id)
        await world.cases.runs.delete(ADA, run_id)
        with pytest.raises(PermissionDenied):
            await world.purge(ADA)
        assert await world.purge(ROOT) == [(Kind.RUN, run_id)]

    async def test_what_is_named_needs_what_deleting_it_needs(self, world: World) -> None:
        experiment_id = await world.experiment("one")
        run_id, model_id = await world.run(experiment_id), await world.model(experiment_id)
        await world.cases.runs.delete(ADA, run_id)
        await world.cases.models.delete(ADA, model_id)
        for named in ({"runs": [run_id]}, {"models": [model_id]}):
            with pytest.raises(PermissionDenied):
                await world.purge(BOB, **named)
        await world.cases.experiments.delete(ADA, experiment_id)
        with pytest.raises(PermissionDenied):
            await world.purge(BOB, experiments=[experiment_id])
        assert await world.purge(ADA, runs=[run_id]) == [(Kind.RUN, run_id)]
        named = {"experiments": [experiment_id], "models": [model_id]}
        assert await world.purge(ADA, **named) == [(Kind.EXPERIMENT, experiment_id)]

    async def test_what_is_in_use_or_unknown_keeps_all(self, world: World) -> None:
        experiment_id = await world.experiment("one")
        gone, used = await world.run(experiment_id), await world.run(experiment_id)
        model_id = await world.model(experiment_id)
        await world.cases.runs.delete(ADA, gone)
        with pytest.raises(NotDeleted, match=f"run {used} is in use"):
            await world.purge(runs=[gone, used])
        with pytest.raises(NotDeleted):
            await world.purge(runs=[gone], models=[model_id])
        with pytest.raises(NotDeleted):
            await world.purge(runs=[gone], experiments=[experiment_id])
        with pytest.raises(RunNotFound):
            await world.purge(runs=[gone, "nobody"])
        with pytest.raises(LoggedModelNotFound):
            await world.purge(models=["m-nobody"])
        with pytest.raises(ExperimentNotFound):
            await world.purge(experiments=["nobody"])
        await world.cases.runs.restore(ADA, gone)

    async def test_older_than_and_dry_run(self, world: World) -> None:
        experiment_id = await world.experiment("one")
        early, late = await world.run(experiment_id), await world.run(experiment_id)
        await world.cases.runs.delete(ADA, early)
        world.clock.advance(3 * 86_400)
        await world.cases.runs.delete(ADA, late)
        retention = world.cases.retention
        with pytest.raises(DeletedTooRecently, match=f"run {late} was deleted less than 1 day"):
            await retention.purge(ADA, {Kind.RUN: [early, late]}, older_than=DAY)
        told = await retention.purge(ROOT, {}, older_than=3 * DAY, dry_run=True)
        assert [(one.id, told.under_way) for one in told.things] == [(early, 0)]
        done = await retention.purge(ROOT, {}, older_than=3 * DAY)
        assert [(one.id, done.under_way) for one in done.things] == [(early, 1)]
        assert (await retention.purge(ROOT, {}, older_than=3 * DAY)).things == []


class TestWhatIsDue:
    async def test_what_was_deleted_for_long_enough_goes(self, world: World) -> None:
        experiment_id = await world.experiment("one")
        early, late, kept = [await world.run(experiment_id) for _ in range(3)]
        model_id = await world.model(experiment_id)
        await world.cases.runs.delete(ADA, early)
        await world.cases.models.delete(ADA, model_id)
        world.clock.advance(20 * 86_400)
        await world.cases.runs.delete(ADA, late)
        world.clock.advance(10 * 86_400)
        await world.drain(world.purger(age=30 * DAY))
        assert await world.keys() == [
            f"tracking/{experiment_id}/{run_id}/artifacts/a/b.txt"
            for run_id in sorted([late, kept])
        ]
        assert sorted(world.purged()) == sorted([early, model_id])
        with pytest.raises(RunNotFound):
            await world.cases.runs.restore(ADA, early)
        await world.cases.runs.restore(ADA, late)

    async def test_nothing_goes_by_itself_when_retention_is_off(self, world: World) -> None:
        experiment_id = await world.experiment("one")
        run_id = await world.run(experiment_id)
        await world.cases.runs.delete(ADA, run_id)
        world.clock.advance(9_999 * 86_400)
        await world.drain(world.purger())
        await world.cases.runs.restore(ADA, run_id)
        assert len(await world.keys()) == 1

    async def test_a_restored_run_begins_anew(self, world: World) -> None:
        run_id = await world.run(await world.experiment("one"))
        await world.cases.runs.delete(ADA, run_id)
        world.clock.advance(20 * 86_400)
        await world.cases.runs.restore(ADA, run_id)
        await world.cases.runs.delete(ADA, run_id)
        world.clock.advance(20 * 86_400)
        await world.drain(world.purger(age=30 * DAY))
        await world.cases.runs.restore(ADA, run_id)
        assert (await world.cases.runs.info(ADA, run_id)).deleted_at is None

    async def test_runs_deleted_with_their_experiment_go_and_come_back_with_it(
        self, world: World
    ) -> None:
        experiment_id = await world.experiment("one")
        before, along = await world.run(experiment_id), await world.run(experiment_id)
        await world.cases.runs.delete(ADA, before)
        world.clock.advance(20 * 86_400)
        await world.cases.experiments.delete(ADA, experiment_id)
        world.clock.advance(15 * 86_400)
        purger = world.purger(age=30 * DAY)
        await world.drain(purger)
        assert world.purged() == [before]
        await world.cases.experiments.restore(ADA, experiment_id)
        await world.cases.experiments.delete(ADA, experiment_id)
        world.clock.advance(30 * 86_400)
        await world.drain(purger)
        assert world.purged() == [before, along, experiment_id]
        with pytest.raises(ExperimentNotFound):
            await world.cases.experiments.restore(ADA, experiment_id)
        assert await world.keys() == []

    async def test_what_comes_late_goes_too(self, world: World) -> None:
        experiment_id = await world.experiment("one")
        run_id = await world.run(experiment_id)
        await world.cases.runs.delete(ADA, run_id)
        await world.purge(runs=[run_id])
        purger = world.purger()
        await world.drain(purger)
        # By a URL that was signed before.
        await world.objects.put(f"tracking/{experiment_id}/{run_id}/artifacts/late", b"late")
        world.clock.advance(7 * 86_400)
        await world.drain(purger)
        assert len(await world.keys()) == 1
        world.clock.advance(86_400)
        await world.drain(purger)
        assert await world.keys() == []
        assert world.purged() == [run_id]
        async with world.store.read() as view:
            assert await view.purges.waiting(2**62, limit=9) == []


class TestPurgesThatEndInTheMiddle:
    async def populated(self) -> tuple[World, str, list[str]]:
        """An experiment that is purged with all that can be in it, and a run of another."""
        world = World()
        experiment_id = await world.experiment("one")
        run_ids = [await world.run(experiment_id) for _ in range(2)]
        model_id = await world.model(experiment_id)
        await world.cases.traces.add_spans(ADA, experiment_id, [a_span()])
        await world.cases.experiments.delete(ADA, experiment_id)
        other = await world.run(await world.experiment("two"))
        await world.cases.runs.delete(ADA, other)
        await world.purge(experiments=[experiment_id], runs=[other])
        return world, experiment_id, [*run_ids, model_id, other]

    async def test_another_goes_on_from_wherever_one_was_killed(self) -> None:
        kills = 0
        while True:
            world, experiment_id, inside = await self.populated()
            try:
                await world.drain(world.purger(fuse=Fuse(kills)))
            except BaseExceptionGroup as error:
                assert error.subgroup(Killed)
                ended = False
            except Killed:
                ended = False
            else:
                ended = True
            # However far it came, nobody sees anything of it.
            with pytest.raises(ExperimentNotFound):
                await world.cases.experiments.get(ADA, experiment_id=experiment_id)
            for run_id in (inside[0], inside[-1]):
                with pytest.raises(RunNotFound):
                    await world.cases.runs.restore(ADA, run_id)
            with pytest.raises(TraceNotFound):
                await world.cases.traces.get(ROOT, AN_ID)
            await world.drain(world.purger())
            assert await world.keys() == []
            assert not await world.spans.candidates([experiment_id], (), limit=9)
            assert sorted(world.purged()) == sorted([experiment_id, *inside])
            async with world.store.read() as view:
                assert await view.purges.under_way() == 0
            if ended:
                break
            kills += 1
        assert kills >= 8

    async def test_an_outage_is_waited_out_and_others_go_on(self) -> None:
        world, experiment_id, inside = await self.populated()
        away = True

        class Away(ObjectArtifacts):
            async def remove_all(self, root: ArtifactRoot) -> int:
                if away and root.prefix == experiment_id:
                    raise Unavailable("the store is away")
                return await super().remove_all(root)

        purger = world.purger(files=Away(world.objects))
        await world.drain(purger)
        assert inside[-1] in world.purged()
        assert experiment_id not in world.purged()
        away = False
        world.clock.advance(300)
        await world.drain(purger)
        assert experiment_id in world.purged()
        assert await world.keys() == []


def test_the_setting(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    given = {
        "TESSERA_SERVICE_TOKEN_FILE": str(token),
        "TESSERA_TRACKING_LISTEN": "127.0.0.1:0",
        "TESSERA_TRACKING_HTTP_LISTEN": "127.0.0.1:0",
        "TESSERA_TRACKING_DATABASE_URL": "sqlite+aiosqlite:///tracking.db",
        "TESSERA_TRACKING_METRICS_LISTEN": "127.0.0.1:0",
        "TESSERA_CATALOG_TARGET": "127.0.0.1:1",
        "TESSERA_CLICKHOUSE_URL": "http://127.0.0.1:1",
        "TESSERA_KAFKA_BOOTSTRAP": "127.0.0.1:1",
        "TESSERA_S3_ENDPOINT": "http://127.0.0.1:1",
        "TESSERA_S3_BUCKET": "b",
        "TESSERA_S3_ACCESS_KEY": "a",
        "TESSERA_S3_SECRET_KEY": "s",
    }

    def retention(text: str) -> timedelta | None:
        return Config.from_env({**given, "TESSERA_TRACKING_RETENTION": text}).retention

    assert Config.from_env(given).retention == 30 * DAY
    assert retention("36h") == timedelta(hours=36)
    assert retention("0") is None
    for wrong in ("soon", "40000d"):
        with pytest.raises(ConfigError, match="TESSERA_TRACKING_RETENTION"):
            retention(wrong)


def test_an_age_is_no_less_than_nothing_and_no_more_than_a_century() -> None:
    request = api.PurgeDeletedRequest()
    assert messages.age_of(request) == timedelta()
    request.older_than.FromTimedelta(timedelta(days=7, seconds=0.5))
    assert messages.age_of(request) == timedelta(days=7, seconds=0.5)
    for wrong in (timedelta(seconds=-1), timedelta(seconds=-0.5), timedelta(days=36_501)):
        request.older_than.FromTimedelta(wrong)
        with pytest.raises(InvalidValue, match="older_than"):
            messages.age_of(request)
