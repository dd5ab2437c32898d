"""What may be deployed by whom: interfaces, code, names, grants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.inference.domain.endpoint import UpdateState
from services.inference.domain.runtime_options import RuntimeOptions, SequenceOptions
from services.inference.domain.signature import Flavor
from services.inference.errors import (
    CodeNotAllowed,
    EndpointExists,
    EndpointNotFound,
    InvalidConfig,
    ModelNotServable,
    RequestIdReused,
    TableUnavailable,
)
from tessera.catalog.v1 import securable_pb2
from tessera_kit.errors import NotFound, PermissionDenied
from tests.helpers import eventually
from tests.unit.inference.control import ADA, ADMIN, BOB, MODEL, Control, entity


@pytest.fixture
async def control(manifest: dict[str, Any]) -> AsyncIterator[Control]:
    control = Control(manifest)
    yield control
    await control.deployer.idle()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"caller": BOB}, PermissionDenied),
        ({"entities": [entity(3)]}, NotFound),
        ({"entities": [entity(0, model_alias="champion")]}, NotFound),
        ({"entities": [entity(1, model_name="main.flights.other")]}, PermissionDenied),
        ({"entities": [entity(1, 60)]}, InvalidConfig),
        ({"entities": [entity(1, 50), entity(1, 50)]}, InvalidConfig),
        ({"schema": "main.other"}, NotFound),
    ],
)
async def test_what_cannot_be_served_is_refused_and_changes_nothing(
    control: Control, changes: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await control.create(**changes)
    assert await control.endpoints.all() == []
    assert control.endpoints.told == []
    assert control.tables.owners == {}


async def test_a_version_that_is_not_ready_is_refused(control: Control) -> None:
    control.put_version(3, ready=False)
    with pytest.raises(ModelNotServable, match="not ready"):
        await control.create(entities=[entity(3)])


async def test_a_version_without_a_manifest_is_refused(control: Control) -> None:
    control.models.put(MODEL, 3, {"model.pt": b""})
    with pytest.raises(ModelNotServable, match=r"model\.json"):
        await control.create(entities=[entity(3)])


MLMODEL = b"""
flavors: {python_function: {loader_module: mlflow.sklearn}}
signature: {inputs: '[{"type": "long", "name": "n"}]', outputs: '[{"type": "long"}]'}
"""


async def test_a_model_that_brings_code_must_be_allowed(control: Control) -> None:
    control.models.put(MODEL, 3, {"MLmodel": MLMODEL, "model.pkl": b"x"})
    with pytest.raises(CodeNotAllowed, match=r"served_entities\[0\].allow_code must be true"):
        await control.create(entities=[entity(3)])
    endpoint = await control.created(entities=[entity(3, allow_code=True)])
    assert endpoint.config is not None
    assert endpoint.config.entities[0].signature.flavor is Flavor.MLFLOW
    told = control.endpoints.told[0].data
    assert told.endpoint.pending_config.served_entities[0].allow_code
    assert told.principal == "ada"


def a_class(**changes: Any) -> dict[str, bytes]:
    column = {"name": "x", "datatype": "FP32", "shape": [-1, 1]}
    manifest = {"flavor": "python", "entry": "m:M", "inputs": [column], "outputs": [column]}
    return {
        "model.json": json.dumps({**manifest, **changes}).encode(),
        "code/m.py": b"class M: ...",
    }


async def test_a_class_that_keeps_state_is_asked_by_sequence(control: Control) -> None:
    control.models.put(MODEL, 3, a_class(stateful=True))
    with pytest.raises(CodeNotAllowed, match="flavor python brings code"):
        await control.create(entities=[entity(3)])
    endpoint = await control.created(entities=[entity(3, allow_code=True)])
    assert endpoint.config is not None
    assert endpoint.config.has_sequences
    config = json.loads(control.runtime.config(endpoint.config.entities[0].runtime_name))
    assert "sequence_batching" in config
    control.models.put(MODEL, 4, a_class())
    stateful = RuntimeOptions(sequences=SequenceOptions())
    with pytest.raises(InvalidConfig, match="needs a class that keeps state"):
        await control.handlers.update_config(
            ADA, "delays", [entity(4, allow_code=True, runtime=stateful)], ""
        )


async def test_a_class_that_streams_is_decoupled(control: Control) -> None:
    control.models.put(MODEL, 3, a_class(streams=True))
    endpoint = await control.created(entities=[entity(3, allow_code=True)])
    assert endpoint.config is not None
    config = json.loads(control.runtime.config(endpoint.config.entities[0].runtime_name))
    assert config["model_transaction_policy"] == {"decoupled": True}
    assert "dynamic_batching" not in config


async def test_only_the_creator_allows_code(control: Control) -> None:
    control.models.put(MODEL, 3, {"MLmodel": MLMODEL})
    await control.created()
    control.authority.grant(
        "bob", [securable_pb2.PRIVILEGE_MANAGE], securable_pb2.SECURABLE_TYPE_ENDPOINT, "delays"
    )
    allowed = [entity(3, allow_code=True)]
    with pytest.raises(PermissionDenied, match="only ada"):
        await control.handlers.update_config(BOB, "delays", allowed, "")
    await control.handlers.update_config(ADA, "delays", allowed, "")
    await control.deployer.idle()
    await control.handlers.update_config(BOB, "delays", [entity(1)], "")


async def test_entities_must_share_an_interface(control: Control) -> None:
    control.manifest["inputs"][0]["shape"] = [-1, 5]
    control.put_version(2)
    with pytest.raises(InvalidConfig, match="other tensors"):
        await control.create(entities=[entity(1, 50), entity(2, 50)])


async def test_names_are_taken_once(control: Control) -> None:
    await control.created()
    with pytest.raises(EndpointExists):
        await control.create()
    with pytest.raises(TableUnavailable, match="table_name_prefix"):
        await control.create("others", table_prefix="delays")


async def test_a_request_id_makes_creation_idempotent(control: Control) -> None:
    first = await control.created(request_id="r1")
    again = await control.create(request_id="r1")
    assert again.endpoint_id == first.endpoint_id
    with pytest.raises(RequestIdReused):
        await control.create("others", request_id="r1")


async def test_strangers_see_and_change_nothing(control: Control) -> None:
    endpoint = await control.created()
    with pytest.raises(EndpointNotFound):
        await control.handlers.get(BOB, "delays")
    assert await control.handlers.page(BOB, "", 10) == ([], "")
    control.authority.grant(
        "bob",
        [securable_pb2.PRIVILEGE_EXECUTE],
        securable_pb2.SECURABLE_TYPE_ENDPOINT,
        "delays",
    )
    assert (await control.handlers.get(BOB, "delays")).etag == endpoint.etag
    for change in (
        control.handlers.delete(BOB, "delays", ""),
        control.handlers.update_traffic(BOB, "delays", {"delay-1": 100}, ""),
        control.handlers.update_config(BOB, "delays", [entity(2)], ""),
        control.handlers.statistics(BOB, "delays", None),
    ):
        with pytest.raises(PermissionDenied):
            await change


async def test_pages_hold_what_the_caller_sees(control: Control) -> None:
    for name in ("a", "b", "c", "d"):
        await control.created(name)
    found, after = await control.handlers.page(ADA, "", 3)
    assert ([one.name for one in found], after) == (["a", "b", "c"], "c")
    found, after = await control.handlers.page(ADA, after, 3)
    assert ([one.name for one in found], after) == (["d"], "")


async def test_followers_see_every_state_and_the_end(control: Control) -> None:
    control.runtime.up = False
    await control.create()
    states = []

    async def follow() -> None:
        async for endpoint in control.handlers.watch(ADA, "delays"):
            states.append(endpoint.update_state)

    following = asyncio.create_task(follow())
    await eventually(lambda: len(states) == 1)
    control.runtime.up = True
    await control.deployer.idle()
    await eventually(lambda: len(states) == 2)
    await control.handlers.delete(ADA, "delays", "")
    await asyncio.wait_for(following, 10)
    assert states == [UpdateState.IN_PROGRESS, UpdateState.NOT_UPDATING]


async def test_the_creators_rights_must_suffice_for_an_update(control: Control) -> None:
    await control.created()
    control.authority.revoke(
        "ada",
        [securable_pb2.PRIVILEGE_EXECUTE],
        securable_pb2.SECURABLE_TYPE_MODEL,
        MODEL,
    )
    with pytest.raises(PermissionDenied):
        await control.handlers.update_config(ADMIN, "delays", [entity(2)], "")
