"""Registered models: versions, their states and files, aliases."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from services.catalog.domain.lineage import Direction, LineageEdge, LineageNode, NodeType
from services.catalog.domain.models import VersionStatus
from services.catalog.domain.privileges import Privilege
from services.catalog.domain.securables import SecurableKey, SecurableType
from services.catalog.errors import (
    AliasNotFound,
    Busy,
    DigestMismatch,
    FileNotFound,
    InvalidPath,
    InvalidSecurable,
    ModelServed,
    NotEmpty,
    PrivilegeMissing,
    SecurableExists,
    SecurableNotFound,
    StaleEtag,
    UploadRunning,
    VersionEmpty,
    VersionNotFound,
    VersionNotPending,
)
from services.catalog.handlers.files import FileTarget
from services.catalog.handlers.requests import NO_REQUEST, RequestKey
from services.catalog.handlers.versions import VersionDraft, VersionView
from tests.catalog_world import World, bytes_of, let_pass, model

DELAY = model("main.default.delay")
LATE = model("main.default.late")
NOW = datetime(2013, 5, 1, tzinfo=UTC)
CONTENT = b"weights" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
async def registered(world: World) -> World:
    await world.make(DELAY)
    return world


async def version(world: World, run_id: str = "", key: SecurableKey = DELAY) -> VersionView:
    draft = VersionDraft(run_id, "one more", {"k": "v"})
    return await world.cases.versions.create(await world.admin(), key, draft, NO_REQUEST)


async def upload(world: World, number: int, path: str = "model.pt2", sha256: str = "") -> None:
    target = FileTarget(DELAY, number, path, sha256)
    half = len(CONTENT) // 2
    chunks = bytes_of(CONTENT[:half], CONTENT[half:])
    await world.cases.files.upload(await world.admin(), target, chunks)


async def ready(world: World, run_id: str = "") -> VersionView:
    number = (await version(world, run_id)).version.version
    await upload(world, number)
    return await world.cases.versions.finalize(await world.admin(), DELAY, number, "")


async def files(world: World, number: int) -> dict[str, tuple[int, str]]:
    page = await world.cases.files.page(await world.admin(), DELAY, number, "", 100)
    return {file.path: (file.size_bytes, file.sha256) for file in page.items}


class TestVersions:
    async def test_are_pending_then_ready(self, registered: World) -> None:
        first = (await version(registered, "run-7")).version
        assert (first.version, first.status) == (1, VersionStatus.PENDING_REGISTRATION)
        assert first.storage_location.startswith("models/main/default/delay/1-")
        await upload(registered, 1, sha256=DIGEST)
        done = await registered.cases.versions.finalize(await registered.admin(), DELAY, 1, "")
        assert done.version.status is VersionStatus.READY
        assert done.version.size_bytes == len(CONTENT)
        assert await files(registered, 1) == {"model.pt2": (len(CONTENT), DIGEST)}
        assert registered.told()[-2:] == ["ModelVersionStatusChanged", "LineageObserved"]
        edge = registered.store.events[-1].data.edges[0]  # type: ignore[attr-defined]
        assert (edge.source.name, edge.target.name) == ("run-7", "main.default.delay/1")

    async def test_numbers_count_up_and_are_never_used_again(self, registered: World) -> None:
        admin = await registered.admin()
        assert [(await version(registered)).version.version for _ in range(3)] == [1, 2, 3]
        await registered.cases.versions.delete(admin, DELAY, 3)
        assert (await version(registered)).version.version == 4
        page = await registered.cases.versions.page(admin, DELAY, None, 2)
        assert [view.version.version for view in page.items] == [4, 2]
        assert page.last is not None
        page = await registered.cases.versions.page(admin, DELAY, page.last.version.version, 2)
        assert ([view.version.version for view in page.items], page.last) == ([1], None)

    async def test_a_repeated_request_makes_one_version(self, registered: World) -> None:
        admin, request = await registered.admin(), RequestKey("CreateModelVersion", "r", b"x")
        made = [
            await registered.cases.versions.create(admin, DELAY, VersionDraft(), request)
            for _ in range(2)
        ]
        assert made[0] == made[1]

    async def test_without_a_file_do_not_become_ready(self, registered: World) -> None:
        await version(registered)
        with pytest.raises(VersionEmpty):
            await registered.cases.versions.finalize(await registered.admin(), DELAY, 1, "")

    async def test_may_fail_for_a_reason(self, registered: World) -> None:
        admin, versions = await registered.admin(), registered.cases.versions
        await version(registered)
        failed = (await versions.finalize(admin, DELAY, 1, "the disk was full")).version
        assert failed.status is VersionStatus.FAILED_REGISTRATION
        assert failed.status_message == "the disk was full"
        assert (await versions.finalize(admin, DELAY, 1, "again")).version == failed
        with pytest.raises(VersionNotPending):
            await versions.finalize(admin, DELAY, 1, "")

    async def test_once_ready_never_change_again(self, registered: World) -> None:
        admin, versions = await registered.admin(), registered.cases.versions
        done = await ready(registered)
        assert await versions.finalize(admin, DELAY, 1, "") == done
        with pytest.raises(VersionNotPending):
            await versions.finalize(admin, DELAY, 1, "too late")
        with pytest.raises(VersionNotPending):
            await upload(registered, 1)
        assert await files(registered, 1) == {"model.pt2": (len(CONTENT), DIGEST)}

    async def test_files_written_past_this_service_count(self, registered: World) -> None:
        made = (await version(registered)).version
        await registered.objects.put(made.storage_location + "a/b.bin", b"12345")
        assert set(await files(registered, 1)) == {"a/b.bin"}
        await upload(registered, 1)
        done = await registered.cases.versions.finalize(await registered.admin(), DELAY, 1, "")
        assert done.version.size_bytes == len(CONTENT) + 5
        assert set(await files(registered, 1)) == {"a/b.bin", "model.pt2"}

    async def test_have_tags_of_their_own(self, registered: World) -> None:
        await version(registered)
        view = await registered.cases.versions.update_tags(
            await registered.admin(), DELAY, 1, {"auc": "0.7"}, ["k"]
        )
        assert view.version.tags == {"auc": "0.7"}

    async def test_unknown_ones_are_not_found(self, registered: World) -> None:
        admin, versions = await registered.admin(), registered.cases.versions
        for call in (
            versions.get(admin, DELAY, 9),
            versions.finalize(admin, DELAY, 9, ""),
            versions.delete(admin, DELAY, 9),
            registered.cases.aliases.set(admin, DELAY, "a", 9),
        ):
            with pytest.raises(VersionNotFound):
                await call
        with pytest.raises(SecurableNotFound):
            await versions.get(admin, model("main.default.other"), 1)


class TestFiles:
    @pytest.mark.parametrize("path", ["../x", "/x", "a\\b", "%2e%2e/x", "a\0"])
    async def test_cannot_leave_their_version(self, registered: World, path: str) -> None:
        await version(registered)
        with pytest.raises(InvalidPath):
            await upload(registered, 1, path)
        with pytest.raises(InvalidPath):
            await registered.cases.files.download(await registered.admin(), DELAY, 1, path)
        assert [info async for info in registered.objects.list("")] == []

    async def test_that_are_not_those_announced_are_not_kept(self, registered: World) -> None:
        await version(registered)
        await upload(registered, 1)
        with pytest.raises(DigestMismatch):
            await upload(registered, 1, sha256="0" * 64)
        assert await files(registered, 1) == {}
        await upload(registered, 1, sha256=DIGEST.upper())
        assert await files(registered, 1) == {"model.pt2": (len(CONTENT), DIGEST)}

    async def test_come_back_as_they_were_sent(self, registered: World) -> None:
        await ready(registered)
        admin = await registered.admin()
        pieces = await registered.cases.files.download(admin, DELAY, 1, "model.pt2")
        assert b"".join([piece async for piece in pieces]) == CONTENT
        with pytest.raises(FileNotFound):
            await registered.cases.files.download(admin, DELAY, 1, "other")

    async def test_being_written_keep_their_version_pending(self, registered: World) -> None:
        admin = await registered.admin()
        await version(registered)
        await upload(registered, 1, "first")
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield b"1"
            begun.set()
            await go_on.wait()
            yield b"2"

        target = FileTarget(DELAY, 1, "slow")
        writing = asyncio.create_task(registered.cases.files.upload(admin, target, slow()))
        await begun.wait()
        with pytest.raises(UploadRunning):
            await registered.cases.versions.finalize(admin, DELAY, 1, "")
        with pytest.raises(UploadRunning):
            await registered.cases.files.upload(admin, target, bytes_of(b"3"))
        go_on.set()
        assert (await writing).size_bytes == 2
        done = await registered.cases.versions.finalize(admin, DELAY, 1, "")
        assert done.version.status is VersionStatus.READY

    async def test_whose_upload_breaks_are_forgotten(self, registered: World) -> None:
        admin = await registered.admin()
        await version(registered)

        async def broken() -> AsyncIterator[bytes]:
            yield b"1"
            raise ConnectionResetError

        with pytest.raises(ConnectionResetError):
            await registered.cases.files.upload(admin, FileTarget(DELAY, 1, "x"), broken())
        assert registered.store.state.uploads == {}
        await upload(registered, 1, "x")

    async def test_written_while_their_version_is_deleted_do_not_stay(
        self, registered: World
    ) -> None:
        admin = await registered.admin()
        await version(registered)

        async def late() -> AsyncIterator[bytes]:
            yield b"1"
            await registered.cases.versions.delete(admin, DELAY, 1)

        with pytest.raises(Busy):
            await registered.cases.files.upload(admin, FileTarget(DELAY, 1, "x"), late())
        assert [info async for info in registered.objects.list("")] == []

    async def test_of_a_process_that_died_do_not_block_for_long(self, registered: World) -> None:
        admin = await registered.admin()
        await version(registered)
        await upload(registered, 1, "first")
        files_case = registered.cases.files
        await files_case._begin(admin, FileTarget(DELAY, 1, "lost"))
        registered.restart()
        with pytest.raises(UploadRunning):
            await registered.cases.versions.finalize(admin, DELAY, 1, "")
        registered.clock.advance(1)
        await registered.cases.reconciler.at_start()
        await registered.cases.versions.finalize(admin, DELAY, 1, "")

    async def test_are_listed_page_by_page(self, registered: World) -> None:
        admin = await registered.admin()
        await version(registered)
        for name in ("c", "a", "b"):
            await upload(registered, 1, name)
        page = await registered.cases.files.page(admin, DELAY, 1, "", 2)
        assert [file.path for file in page.items] == ["a", "b"]
        assert page.last is not None
        page = await registered.cases.files.page(admin, DELAY, 1, page.last.path, 2)
        assert ([file.path for file in page.items], page.last) == (["c"], None)


class TestAliases:
    async def test_point_at_versions_and_move(self, registered: World) -> None:
        admin, aliases = await registered.admin(), registered.cases.aliases
        await version(registered)
        await version(registered)
        await aliases.set(admin, DELAY, "champion", 1)
        _, found = await aliases.set(admin, DELAY, "champion", 2)
        assert found == {"champion": 2}
        view = await registered.cases.versions.by_alias(admin, DELAY, "champion")
        assert (view.version.version, view.aliases) == (2, ("champion",))
        await aliases.delete(admin, DELAY, "champion")
        for call in (
            registered.cases.versions.by_alias(admin, DELAY, "champion"),
            aliases.delete(admin, DELAY, "champion"),
        ):
            with pytest.raises(AliasNotFound):
                await call
        assert registered.told().count("ModelAliasChanged") == 3

    async def test_go_with_their_version(self, registered: World) -> None:
        admin = await registered.admin()
        await ready(registered)
        await registered.cases.aliases.set(admin, DELAY, "champion", 1)
        await registered.cases.versions.delete(admin, DELAY, 1)
        with pytest.raises(AliasNotFound):
            await registered.cases.versions.by_alias(admin, DELAY, "champion")
        assert [info async for info in registered.objects.list("")] == []
        assert registered.store.events[-1].data.version == 0  # type: ignore[attr-defined]


async def lineage_of(world: World, at: datetime, version: str, endpoint: str) -> None:
    """Tell that an endpoint answers with a version."""
    source = LineageNode(NodeType.MODEL_VERSION, version)
    edge = LineageEdge(source, LineageNode(NodeType.ENDPOINT, endpoint), at)
    async with world.store.write() as tx:
        await tx.lineage.put([edge])
        await tx.commit()


class TestRenaming:
    async def test_moves_all_that_is_known_of_a_model(self, registered: World) -> None:
        admin, cases = await registered.admin(), registered.cases
        await registered.user("ada")
        await let_pass(registered, "ada")
        await registered.grant("ada", DELAY, Privilege.EXECUTE)
        await ready(registered, "run-1")
        await cases.aliases.set(admin, DELAY, "champion", 1)
        await lineage_of(registered, NOW, "main.default.delay/1", "front")
        renamed = await cases.renaming.rename(admin, DELAY, LATE, "")
        assert renamed.key == LATE
        with pytest.raises(SecurableNotFound):
            await cases.tree.get(admin, DELAY)
        ada = await registered.caller("ada")
        view = await cases.versions.by_alias(ada, LATE, "champion")
        assert (view.version.model_name, view.version.version) == (LATE.full_name, 1)
        pieces = await cases.files.download(ada, LATE, 1, "model.pt2")
        assert b"".join([piece async for piece in pieces]) == CONTENT
        node = LineageNode(NodeType.MODEL_VERSION, "main.default.late/1")
        graph = await cases.lineage.walk(admin, node, Direction.DOWNSTREAM, 0)
        assert [edge.target.name for edge in graph.edges] == ["front"]
        assert registered.told()[-3:] == ["SecurableRenamed", "AccessChanged", "AccessChanged"]
        # The old name is free, and a model that takes it has nothing of the other.
        await registered.make(DELAY)
        assert (await version(registered)).version.version == 1
        assert await files(registered, 1) == {}
        assert (await cases.versions.get(admin, LATE, 1)).version.size_bytes == len(CONTENT)

    async def test_waits_for_endpoints_that_serve_it(self, registered: World) -> None:
        admin, cases = await registered.admin(), registered.cases
        await registered.make(model("main.default.other"))
        await lineage_of(registered, NOW, "main.default.delay/1", "front")
        await lineage_of(registered, NOW, "main.default.delay/1", "deleted")
        front = SecurableKey(SecurableType.ENDPOINT, "front")
        await cases.decisions.register(await registered.service(), front, "admin", "")
        with pytest.raises(ModelServed, match="endpoint front serves"):
            await cases.renaming.rename(admin, DELAY, LATE, "")
        assert (await cases.tree.get(admin, DELAY)).key == DELAY
        later = NOW + timedelta(hours=1)
        await lineage_of(registered, later, "main.default.other/1", "front")
        await cases.renaming.rename(admin, DELAY, LATE, "")

    async def test_is_refused_to_who_may_not_and_to_names_that_cannot_be(
        self, registered: World
    ) -> None:
        ada, cases = await registered.user("ada"), registered.cases
        await let_pass(registered, "ada", [Privilege.BROWSE])
        await registered.make(LATE)
        with pytest.raises(PrivilegeMissing, match="MANAGE"):
            await cases.renaming.rename(ada, DELAY, model("main.default.new"), "")
        await registered.grant("ada", DELAY, Privilege.MANAGE)
        with pytest.raises(PrivilegeMissing, match="CREATE MODEL"):
            await cases.renaming.rename(ada, DELAY, model("main.default.new"), "")
        admin = await registered.admin()
        for new, etag, error in (
            (LATE, "", SecurableExists),
            (DELAY, "", InvalidSecurable),
            (model("main.none.delay"), "", SecurableNotFound),
            (model("main.default.new"), "stale", StaleEtag),
        ):
            with pytest.raises(error):
                await cases.renaming.rename(admin, DELAY, new, etag)
        assert (await cases.tree.get(admin, DELAY)).key == DELAY
        assert "SecurableRenamed" not in registered.told()


class TestRights:
    async def test_each_use_has_its_privilege(self, registered: World) -> None:
        ada = await registered.user("ada")
        await ready(registered)
        await let_pass(registered, "ada", [Privilege.BROWSE])
        cases = registered.cases
        assert (await cases.versions.get(ada, DELAY, 1)).version.version == 1
        with pytest.raises(PrivilegeMissing, match="EXECUTE on model main"):
            await cases.files.download(ada, DELAY, 1, "model.pt2")
        with pytest.raises(PrivilegeMissing, match="CREATE MODEL VERSION"):
            await cases.versions.create(ada, DELAY, VersionDraft(), NO_REQUEST)
        with pytest.raises(PrivilegeMissing, match="MANAGE"):
            await cases.aliases.set(ada, DELAY, "a", 1)
        await registered.grant("ada", DELAY, Privilege.EXECUTE, Privilege.CREATE_MODEL_VERSION)
        await cases.files.download(ada, DELAY, 1, "model.pt2")
        await cases.versions.create(ada, DELAY, VersionDraft(), NO_REQUEST)

    async def test_a_model_with_versions_is_deleted_by_force_only(self, registered: World) -> None:
        admin = await registered.admin()
        await ready(registered)
        with pytest.raises(NotEmpty):
            await registered.cases.removal.delete(admin, DELAY)
        await registered.cases.removal.delete(admin, DELAY, force=True)
        assert [info async for info in registered.objects.list("")] == []
        assert registered.store.state.versions == {}
        await registered.make(DELAY)
        fresh = (await version(registered)).version
        assert fresh.version == 1
        assert await files(registered, 1) == {}
