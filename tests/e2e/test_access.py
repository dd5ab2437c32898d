"""Who has no grant is refused and told what is missing; grants and revocations act at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pyarrow as pa
import pytest

from devstack import Stack
from tessera import AsyncClient
from tessera.catalog.v1 import securable_pb2 as securable
from tessera.cli import main as command
from tessera.monitoring.v1 import monitor_pb2
from tessera.training.v1 import job_pb2
from tessera_kit.errors import NotFound, PermissionDenied
from tests.e2e import models
from tests.e2e.world import CATALOG, Served, User, entity, new_user, settings_of
from tests.helpers import eventually, unique_name

pytestmark = pytest.mark.timeout(420)

ROWS = pa.table({"n": pa.array([1, 2, 3], pa.int64())})
CHANGE_SECONDS = 10.0
"""How long a test waits for a changed grant; on an idle machine it takes less than one second."""

Attempt = Callable[[], Awaitable[Any]]


@pytest.fixture(scope="module")
async def numbers(client: AsyncClient, served: Served) -> str:
    """A table beside the endpoint's own."""
    table = f"{served.schema}.{unique_name('numbers')}"
    await client.catalog.create_table(table, ROWS.schema, order_by=["n"])
    await client.tables.append(table, ROWS)
    return table


@pytest.fixture
async def user(client: AsyncClient) -> User:
    return await new_user(client)


@pytest.fixture
async def stranger(platform: Stack, user: User) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(settings_of(platform, user.token)) as stranger:
        yield stranger


def predict(who: AsyncClient, served: Served) -> Attempt:
    return lambda: who.inference.predict(served.endpoint, models.inputs([1, 2, 3, 4], ["AA"], [0]))


def job() -> job_pb2.JobSpec:
    return job_pb2.JobSpec(
        name="refused", file=job_pb2.FileSource(name="job.py", content="print()\n")
    )


def monitor(numbers: str) -> monitor_pb2.Monitor:
    return monitor_pb2.Monitor(
        name=unique_name("refused"),
        table_full_name=numbers,
        snapshot=monitor_pb2.SnapshotProfile(),
    )


async def test_a_stranger_may_create_nothing_and_is_told_what_is_missing(
    stranger: AsyncClient, served: Served, numbers: str
) -> None:
    attempts: list[tuple[str, Attempt]] = [
        ("CREATE CATALOG", lambda: stranger.catalog.create_catalog(unique_name())),
        ("CREATE EXPERIMENT", lambda: stranger.tracking.create_experiment(unique_name())),
        ("CREATE JOB", lambda: stranger.training.submit(job())),
        (
            "CREATE ENDPOINT",
            lambda: stranger.inference.create_endpoint(
                unique_name(), [entity(served.model, 1, 100)], table_schema=served.schema
            ),
        ),
        ("CREATE MONITOR", lambda: stranger.monitoring.create(monitor(numbers))),
        ("administrators", lambda: stranger.access.create_principal(unique_name())),
    ]
    for missing, attempt in attempts:
        with pytest.raises(PermissionDenied, match=missing):
            await attempt()


async def test_a_stranger_cannot_tell_what_is_there(
    stranger: AsyncClient, served: Served, numbers: str
) -> None:
    attempts: list[Attempt] = [
        lambda: stranger.catalog.get_table(numbers),
        lambda: stranger.tables.read(numbers),
        lambda: stranger.tables.read(served.table),
        lambda: stranger.models.get(served.model),
        lambda: stranger.models.download(served.model, 1, "model.pt2"),
        lambda: stranger.inference.get_endpoint(served.endpoint),
        predict(stranger, served),
    ]
    for attempt in attempts:
        with pytest.raises(NotFound):
            await attempt()
    assert CATALOG not in {one.name for one in await stranger.catalog.list_catalogs()}
    assert not await stranger.inference.list_endpoints()
    assert not await stranger.catalog.search("scorer")


async def test_grants_open_and_revocations_close(
    client: AsyncClient, stranger: AsyncClient, user: User, served: Served, numbers: str
) -> None:
    await client.access.grant(
        user.name,
        [
            securable.PRIVILEGE_BROWSE,
            securable.PRIVILEGE_USE_CATALOG,
            securable.PRIVILEGE_USE_SCHEMA,
        ],
        securable.SECURABLE_TYPE_CATALOG,
        CATALOG,
    )
    await client.access.grant(
        user.name,
        [securable.PRIVILEGE_BROWSE],
        securable.SECURABLE_TYPE_ENDPOINT,
        served.endpoint,
    )
    # Who sees an object and may not use it is told the privilege by name.
    doors: list[tuple[securable.Privilege.ValueType, securable.SecurableType.ValueType, str, Any]]
    doors = [
        (
            securable.PRIVILEGE_SELECT,
            securable.SECURABLE_TYPE_TABLE,
            numbers,
            lambda: stranger.tables.read(numbers),
        ),
        (
            securable.PRIVILEGE_MODIFY,
            securable.SECURABLE_TYPE_TABLE,
            numbers,
            lambda: stranger.tables.append(numbers, ROWS),
        ),
        (
            securable.PRIVILEGE_CREATE_TABLE,
            securable.SECURABLE_TYPE_SCHEMA,
            served.schema,
            lambda: stranger.catalog.create_table(
                f"{served.schema}.{unique_name()}", ROWS.schema, order_by=["n"]
            ),
        ),
        (
            securable.PRIVILEGE_EXECUTE,
            securable.SECURABLE_TYPE_MODEL,
            served.model,
            lambda: stranger.models.download(served.model, 1, "model.json"),
        ),
        (
            securable.PRIVILEGE_EXECUTE,
            securable.SECURABLE_TYPE_ENDPOINT,
            served.endpoint,
            predict(stranger, served),
        ),
        (
            securable.PRIVILEGE_CREATE_EXPERIMENT,
            securable.SECURABLE_TYPE_METASTORE,
            "metastore",
            lambda: stranger.tracking.create_experiment(unique_name()),
        ),
    ]
    for privilege, kind, name, attempt in doors:
        label = securable.Privilege.Name(privilege).removeprefix("PRIVILEGE_").replace("_", " ")
        with pytest.raises(PermissionDenied, match=f"{label} on [a-z]+ {name}"):
            await attempt()
        await client.access.grant(user.name, [privilege], kind, name)
        await eventually(partial(allowed, attempt), timeout=CHANGE_SECONDS)
        await client.access.revoke(user.name, [privilege], kind, name)
        await eventually(partial(refused, attempt), timeout=CHANGE_SECONDS)


async def allowed(attempt: Attempt) -> bool:
    try:
        await attempt()
    except PermissionDenied as error:
        raise AssertionError(f"still refused: {error}") from None
    return True


async def refused(attempt: Attempt) -> bool:
    try:
        await attempt()
    except PermissionDenied:
        return True
    raise AssertionError("still allowed")


async def test_principals_are_made_at_the_command_line(
    platform: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user that the administrator makes comes in by the token that it is given."""
    for name, value in platform.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TESSERA_TOKEN_FILE", platform.environment["TESSERA_ADMIN_TOKEN_FILE"])

    async def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            await asyncio.to_thread(command.main, words)
        told = capsys.readouterr()
        return int(end.value.code or 0), told.out, told.err

    name, group = unique_name("ada"), unique_name("group")
    for words in ((name,), (group, "--kind", "group")):
        code, _, err = await run("principals", "create", *words)
        assert code == 0, err
    assert await run("principals", "members", group, "--add", name) == (0, f"{name}\n", "")
    code, out, _ = await run("principals", "list", "--json")
    listed = {one["name"]: one for one in json.loads(out)}
    assert (listed[name]["kind"], listed[name]["groups"]) == ("PRINCIPAL_KIND_USER", [group])
    code, secret, _ = await run("principals", "token", name, "--comment", "for a test")
    code, out, _ = await run("principals", "tokens", name, "--json")
    (token,) = json.loads(out)
    assert (token["comment"], token["revoked"]) == ("for a test", False)
    assert secret.strip() not in out
    settings = settings_of(platform, secret.strip())
    async with AsyncClient(settings) as ada:
        assert (await ada.access.who_am_i()).name == name
    assert (await run("principals", "revoke-token", token["token_id"]))[0] == 0
    assert (await run("principals", "delete", name))[0] == 0
    code, _, err = await run("principals", "token", name)
    assert (code, f"there is no principal {name}" in err) == (1, True)
