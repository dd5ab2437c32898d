"""The history and settings of an endpoint: rollback, cancel, tags, and who may change them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.inference.domain.endpoint import UpdateState
from services.inference.domain.settings import EndpointSettings
from services.inference.errors import (
    ConfigNotFound,
    EndpointNotFound,
    NoUpdateInProgress,
    StaleEtag,
)
from tessera.catalog.v1 import securable_pb2
from tessera_kit.errors import PermissionDenied
from tests.unit.inference.control import ADA, BOB, Control, entity


@pytest.fixture
async def control(manifest: dict[str, Any]) -> AsyncIterator[Control]:
    control = Control(manifest)
    yield control
    await control.deployer.idle()


async def test_an_earlier_configuration_comes_back_by_one_call(control: Control) -> None:
    await control.created()
    await control.handlers.update_config(ADA, "delays", [entity(2)], "")
    await control.deployer.idle()
    await control.handlers.rollback(ADA, "delays", 0, "")
    await control.deployer.idle()
    endpoint = await control.endpoints.get("delays")
    assert endpoint.config is not None
    assert [one.model_version for one in endpoint.config.entities] == [1]
    assert (endpoint.config.version, endpoint.config.rollback_of) == (3, 1)
    await control.handlers.rollback(ADA, "delays", 2, "")
    await control.deployer.idle()
    found, following = await control.handlers.configs(ADA, "delays", None, 3)
    assert [(one.version, one.rollback_of) for one in found] == [(4, 2), (3, 1), (2, 0)]
    assert all(one.ready_at is not None for one in found)
    rest, end = await control.handlers.configs(ADA, "delays", following, 3)
    assert [one.version for one in rest] == [1]
    assert end == 0
    with pytest.raises(ConfigNotFound):
        await control.handlers.rollback(ADA, "delays", 9, "")
    assert control.steps()[-2:] == ["ROLLBACK_STARTED", "UPDATE_READY"]


async def test_rollback_passes_over_what_never_answered(control: Control) -> None:
    await control.created()
    control.put_version(3)
    await control.handlers.update_config(ADA, "delays", [entity(3)], "")
    await control.handlers.cancel(ADA, "delays", "")
    await control.handlers.update_config(ADA, "delays", [entity(2)], "")
    await control.deployer.idle()
    endpoint = await control.handlers.rollback(ADA, "delays", 0, "")
    assert endpoint.pending is not None
    assert endpoint.pending.rollback_of == 1


async def test_a_pending_update_can_be_canceled(control: Control) -> None:
    before = await control.created()
    with pytest.raises(NoUpdateInProgress):
        await control.handlers.cancel(ADA, "delays", "")
    await control.handlers.update_config(ADA, "delays", [entity(2)], "")
    canceled = await control.handlers.cancel(ADA, "delays", "")
    await control.deployer.idle()
    assert canceled.update_state is UpdateState.CANCELED
    assert (await control.endpoints.get("delays")).config == before.config
    await control.deployer.reconcile()
    assert len(await control.runtime.loaded()) == 1
    assert control.steps()[-1] == "UPDATE_CANCELED"
    await control.handlers.update_config(ADA, "delays", [entity(2)], "")
    await control.deployer.idle()
    after = await control.endpoints.get("delays")
    assert after.config is not None
    assert after.config.version == 3


async def test_the_table_has_a_typed_column_for_each_tensor(control: Control) -> None:
    settings = EndpointSettings(retention_days=30)
    endpoint = await control.created(settings=settings)
    columns = control.tables.columns[endpoint.table.full_name]
    typed = ["input_x", "input_carrier", "input_flown_at", "output_probability"]
    assert [name for name in columns if name.startswith(("input_", "output_"))] == typed
    assert control.tables.retention[endpoint.table.full_name] == 30


async def test_comment_and_tags_change_by_name(control: Control) -> None:
    await control.created(comment="before", settings=EndpointSettings(tags={"a": "1"}))
    told = EndpointSettings(tags={"b": "2"})
    changed = await control.handlers.update(ADA, "delays", "after", told, {"comment"}, "")
    assert (changed.comment, changed.settings.tags) == ("after", {"a": "1"})
    changed = await control.handlers.update(ADA, "delays", "", told, {"tags"}, changed.etag)
    assert (changed.comment, changed.settings.tags) == ("after", {"b": "2"})
    with pytest.raises(StaleEtag):
        await control.handlers.update(ADA, "delays", "", told, {"tags"}, "old")


@pytest.mark.parametrize(
    ("privilege", "may_see", "may_change"),
    [
        (securable_pb2.PRIVILEGE_BROWSE, True, False),
        (securable_pb2.PRIVILEGE_EXECUTE, True, False),
        (securable_pb2.PRIVILEGE_MANAGE, True, True),
        (securable_pb2.PRIVILEGE_SELECT, False, False),
    ],
)
async def test_view_query_and_manage_are_catalog_privileges(
    control: Control, privilege: int, may_see: bool, may_change: bool
) -> None:
    await control.created()
    control.authority.grant("bob", [privilege], securable_pb2.SECURABLE_TYPE_ENDPOINT, "delays")
    if may_see:
        assert (await control.handlers.get(BOB, "delays")).name == "delays"
        assert (await control.handlers.configs(BOB, "delays", None, 5))[0]
    else:
        with pytest.raises(EndpointNotFound):
            await control.handlers.get(BOB, "delays")
        with pytest.raises(EndpointNotFound):
            await control.handlers.configs(BOB, "delays", None, 5)
    settings = EndpointSettings()
    if may_change:
        await control.handlers.update(BOB, "delays", "mine", settings, {"comment"}, "")
    elif may_see:
        for change in (
            control.handlers.update(BOB, "delays", "mine", settings, {"comment"}, ""),
            control.handlers.rollback(BOB, "delays", 1, ""),
            control.handlers.cancel(BOB, "delays", ""),
        ):
            with pytest.raises(PermissionDenied):
                await change
